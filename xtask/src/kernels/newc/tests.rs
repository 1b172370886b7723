use super::Archive;

#[test]
fn an_entry_is_a_header_of_110_bytes_then_name_and_contents_each_padded_to_four() {
    let mut archive = Archive::default();
    archive.file("/init", b"#!/x");
    let bytes = archive.finish();
    assert_eq!(&bytes[..6], b"070701");
    assert_eq!(&bytes[6 + 6 * 8..6 + 7 * 8], b"00000004", "size");
    assert_eq!(&bytes[6 + 11 * 8..6 + 12 * 8], b"00000005", "length of the name with its zero");
    assert_eq!(&bytes[110..115], b"init\0");
    assert_eq!(&bytes[116..120], b"#!/x");
    assert_eq!(&bytes[120..126], b"070701", "the trailer follows");
    assert_eq!(bytes.len() % 4, 0);
}
