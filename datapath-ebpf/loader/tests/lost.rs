//! Records the ring has no room for are counted by the programs, each of them.

mod support;

use abi::config::NODE_CONFIG_ZERO;
use loader::{Datapath, LoaderConfig, Program, SkBuff};

/// Room for a few hundred records.
const RING_BYTES: u32 = 1 << 16;
const PACKETS: u32 = 2_000;

#[test]
fn what_the_ring_has_no_room_for_is_counted() {
    let Some(object) = support::object() else { return };
    let Some(fs) = support::Bpffs::mount() else { return };
    let mut config = LoaderConfig::new(object, NODE_CONFIG_ZERO);
    fs.path().clone_into(&mut config.bpffs);
    config.map_sizes.insert("cilium_events".into(), RING_BYTES);
    let datapath = Datapath::open(&config).unwrap_or_else(|e| panic!("{e}"));
    let mut events = datapath.events().expect("the ring was just made");
    let maps = datapath.maps();
    // IPv4 that ends in its header, from a device nobody knows: dropped and reported.
    let mut packet = [0; 64];
    packet[12..15].copy_from_slice(&[8, 0, 0x45]);
    let run = |events: &mut loader::Events| {
        datapath.test_run(Program::FromContainer, &packet, &SkBuff::default(), PACKETS).expect("a packet");
        let mut read = 0;
        while events.drain(256, |_| read += 1) > 0 {}
        read
    };
    let read = run(&mut events);
    assert!(read > 0, "drops are reported");
    assert!(read < u64::from(PACKETS), "{read} records fit {RING_BYTES} bytes");
    assert_eq!(maps.events_lost().expect("readable") + read, u64::from(PACKETS), "each is read or counted");
}
