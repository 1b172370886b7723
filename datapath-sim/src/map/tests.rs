use std::net::{IpAddr, Ipv4Addr};

use abi::be::Port;
use abi::ipcache::IpcacheKey;
use abi::policy::PolicyKey;

use super::*;

#[test]
fn a_full_hash_refuses_new_keys_and_takes_known_ones() {
    let mut map = Hash::new(2);
    assert_eq!([1, 2].map(|k| map.update(k, k, Update::Any)), [Ok(()), Ok(())]);
    assert_eq!(map.update(3, 3, Update::Any), Err(MapError::Full));
    assert_eq!(map.update(2, 9, Update::Any), Ok(()));
    assert_eq!(map.update(2, 9, Update::NoExist), Err(MapError::Exists));
    assert_eq!(map.update(7, 9, Update::Exist), Err(MapError::NoEntry));
    assert_eq!(map.delete(&7), Err(MapError::NoEntry));
    assert_eq!((map.lookup(&2), map.lookup(&3), map.len()), (Some(&9), None, 2));
}

#[test]
fn a_full_lru_drops_what_was_used_least_recently() {
    let mut map = Lru::new(2);
    map.update('a', 1, Update::Any).expect("room");
    map.update('b', 2, Update::Any).expect("room");
    assert_eq!(map.lookup_mut(&'a'), Some(&mut 1), "now b is older");
    map.update('c', 3, Update::Any).expect("an LRU makes room");
    assert_eq!((map.peek(&'a'), map.peek(&'b'), map.peek(&'c'), map.evicted()), (Some(&1), None, Some(&3), 1));
    assert_eq!(map.delete(&'a'), Ok(()));
    assert_eq!(map.len(), 1);
}

#[test]
fn the_longest_prefix_wins() {
    let prefix = |ip: [u8; 4], bits| IpcacheKey::v4(Ipv4Addr::from(ip).into(), bits);
    let mut map = Lpm::new(3);
    for (ip, bits, value) in [([0, 0, 0, 0], 0, "all"), ([10, 0, 0, 0], 8, "ten"), ([10, 1, 0, 0], 17, "low half")] {
        map.update(prefix(ip, bits), value, Update::Any).expect("room");
    }
    for (ip, want) in
        [([9, 9, 9, 9], "all"), ([10, 9, 9, 9], "ten"), ([10, 1, 127, 255], "low half"), ([10, 1, 128, 0], "ten")]
    {
        assert_eq!(map.lookup(&prefix(ip, 32)), Some(&want), "{ip:?}");
    }
    assert_eq!(map.lookup(&prefix([10, 1, 0, 0], 16)), Some(&"ten"), "no entry longer than the key asked for");
    assert_eq!(map.lookup(&IpcacheKey::v6(Default::default(), 128)), None, "the family is part of the prefix");
    assert_eq!(map.update(prefix([11, 0, 0, 0], 8), "eleven", Update::Any), Err(MapError::Full));
    assert_eq!(map.update(prefix([10, 0, 0, 0], 8), "TEN", Update::Any), Ok(()));
    assert_eq!(map.update(IpcacheKey { prefixlen: 161, ..prefix([0; 4], 0) }, "", Update::Any), Err(MapError::Invalid));
    assert_eq!(map.delete(&prefix([10, 1, 0, 0], 17)), Ok(()));
    assert_eq!(map.lookup(&prefix([10, 1, 0, 1], 32)), Some(&"TEN"));
    assert_eq!(
        map.iter().filter_map(|(key, _)| key.prefix()).collect::<Vec<_>>(),
        [(IpAddr::from([0, 0, 0, 0]), 0), (IpAddr::from([10, 0, 0, 0]), 8),]
    );
}

#[test]
fn policy_keys_match_by_protocol_and_port_prefix() {
    let mut map = Lpm::new(8);
    let put = |map: &mut Lpm<_, _>, proto, port, bits, value| {
        map.update(PolicyKey::entry(1, 2, 0, proto, Port::new(port), bits), value, Update::Any).expect("room");
    };
    put(&mut map, 0, 0, 0, "any");
    put(&mut map, 6, 0, 8, "tcp");
    put(&mut map, 6, 80, 24, "http");
    put(&mut map, 6, 8080, 20, "8080-8095");
    for (class, proto, port, want) in [
        (2, 17, 53, Some("any")),
        (2, 6, 81, Some("tcp")),
        (2, 6, 80, Some("http")),
        (2, 6, 8095, Some("8080-8095")),
        (2, 6, 8096, Some("tcp")),
        (3, 6, 80, None),
    ] {
        let found = map.lookup(&PolicyKey::lookup(1, class, 0, proto, Port::new(port)));
        assert_eq!(found.copied(), want, "class {class} protocol {proto} port {port}");
    }
}
