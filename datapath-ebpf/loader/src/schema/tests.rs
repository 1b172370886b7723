use abi::maps;

use super::{Mismatch, Property, shape};
use crate::sys::{MapInfo, map_type};

#[test]
fn a_map_fits_whatever_its_size_and_each_other_difference_is_named() {
    let spec = &maps::IPCACHE;
    let right = MapInfo {
        kind: map_type(spec.kind),
        id: 7,
        key_size: u32::try_from(spec.key_size).expect("small"),
        value_size: u32::try_from(spec.value_size).expect("small"),
        max_entries: 3,
        flags: 1,
    };
    assert_eq!(shape(spec, &right), Ok(()));
    let of = |info: MapInfo| shape(spec, &info).map_err(|mismatch| mismatch.to_string());
    assert_eq!(of(MapInfo { kind: 1, ..right }), Err("its map type is 1, expected 11".to_owned()));
    assert_eq!(of(MapInfo { key_size: 20, ..right }), Err("its key size is 20, expected 24".to_owned()));
    assert_eq!(of(MapInfo { value_size: 12, ..right }), Err("its value size is 12, expected 16".to_owned()));
    let both = shape(spec, &MapInfo { key_size: 20, value_size: 12, ..right });
    assert_eq!(both, Err(Mismatch { property: Property::KeySize, found: 20, expected: 24 }));
}
