extern crate std;

use core::mem::size_of;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::vec;

use zerocopy::IntoBytes;

use crate::be::{Addr4, Addr6, Port};
use crate::endpoint::{EndpointInfo, EndpointKey};
use crate::event::{DropNotify, PolicyVerdictNotify, TraceNotify, TraceSockNotify, xlate};
use crate::ipcache::IpcacheKey;
use crate::lb::{
    LbAffinity, LbAffinityKey4, LbAffinityKey6, LbAffinityMatch, LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevSk4,
    LbRevSk6, LbRevSkKey4, LbRevSkKey6, LbService, LbSourceRange4, LbSourceRange6,
};
use crate::maps;
use crate::metrics::{MetricsKey, MetricsValue};
use crate::nat::{SnatEntry4, SnatEntry6, SnatKey4, SnatKey6};
use crate::policy::PolicyKey;

#[test]
fn sizes_that_the_reference_fixes() {
    for (what, is, should) in [
        ("endpoint_key", size_of::<EndpointKey>(), 20),
        ("endpoint_info", size_of::<EndpointInfo>(), 48),
        ("ipcache key", size_of::<IpcacheKey>(), 24),
        ("lb4_key", size_of::<LbKey4>(), 12),
        ("lb6_key", size_of::<LbKey6>(), 24),
        ("lb_service", size_of::<LbService>(), 12),
        ("lb4_backend", size_of::<LbBackend4>(), 12),
        ("lb6_backend", size_of::<LbBackend6>(), 24),
        ("snat v4 key", size_of::<SnatKey4>(), 16),
        ("snat v4 entry", size_of::<SnatEntry4>(), 40),
        ("snat v6 key", size_of::<SnatKey6>(), 40),
        ("snat v6 entry", size_of::<SnatEntry6>(), 56),
        ("lb4_affinity_key", size_of::<LbAffinityKey4>(), 16),
        ("lb6_affinity_key", size_of::<LbAffinityKey6>(), 24),
        ("lb_affinity_val", size_of::<LbAffinity>(), 16),
        ("lb_affinity_match", size_of::<LbAffinityMatch>(), 8),
        ("lb4_src_range_key", size_of::<LbSourceRange4>(), 12),
        ("lb6_src_range_key", size_of::<LbSourceRange6>(), 24),
        ("ipv4_revnat_tuple", size_of::<LbRevSkKey4>(), 16),
        ("ipv4_revnat_entry", size_of::<LbRevSk4>(), 8),
        ("ipv6_revnat_tuple", size_of::<LbRevSkKey6>(), 32),
        ("ipv6_revnat_entry", size_of::<LbRevSk6>(), 20),
        ("metrics_key", size_of::<MetricsKey>(), 8),
        ("metrics_value", size_of::<MetricsValue>(), 16),
        ("drop", size_of::<DropNotify>(), 36),
        ("trace v1", size_of::<TraceNotify>(), 48),
        ("policy verdict", size_of::<PolicyVerdictNotify>(), 32),
    ] {
        assert_eq!(is, should, "{what}");
    }
}

#[test]
fn a_socket_record_lies_as_the_reference_says() {
    let ip: Ipv6Addr = "fd00:1:2:3:4:5:6:7".parse().expect("a literal");
    let Addr6 { words } = ip.into();
    let (cookie, cgroup) = (0x0102_0304_0506_0708, 0x1112_1314_1516_1718);
    let record = TraceSockNotify::new(xlate::POST_FORWARD, words, 8080, cookie, cgroup, 2, true);
    let mut bytes = vec![7, 2];
    bytes.extend(ip.octets());
    bytes.extend(8080_u16.to_ne_bytes());
    bytes.extend(cookie.to_ne_bytes());
    bytes.extend(cgroup.to_ne_bytes());
    bytes.extend([2, 1]);
    assert_eq!(bytes.len(), 38);
    assert_eq!(record.as_bytes(), [bytes, vec![0; 2]].concat());
    assert_eq!((record.cookie(), record.cgroup(), record.dst_ip), (cookie, cgroup, ip.octets()));
}

#[test]
fn network_order_is_what_lies_in_memory() {
    assert_eq!(Port::new(0x1234).as_bytes(), [0x12, 0x34]);
    assert_eq!(Port::new(80).host(), 80);
    let ip = Ipv4Addr::new(10, 1, 2, 3);
    assert_eq!(Addr4::from(ip).as_bytes(), ip.octets());
    assert_eq!(Ipv4Addr::from(Addr4::from(ip)), ip);
    let ip6: Ipv6Addr = "fd00::1:2".parse().expect("a literal");
    assert_eq!(Addr6::from(ip6).as_bytes(), ip6.octets());
    assert_eq!(Ipv6Addr::from(Addr6::from(ip6)), ip6);
}

#[test]
fn keys_tell_what_they_were_made_from() {
    let ip: IpAddr = "10.0.0.7".parse().expect("a literal");
    assert_eq!(EndpointKey::new(ip).ip(), Some(ip));
    assert_eq!(IpcacheKey::v4(Ipv4Addr::new(10, 0, 0, 0).into(), 24).prefixlen, 56);
    assert_eq!(
        IpcacheKey::v4(Ipv4Addr::new(10, 0, 0, 0).into(), 24).prefix(),
        Some(("10.0.0.0".parse().expect("a literal"), 24))
    );
    assert_eq!(IpcacheKey { prefixlen: 8, ..IpcacheKey::v6(Addr6::default(), 0) }.prefix(), None);
    assert_eq!(PolicyKey::lookup(1, 2, 0, 6, Port::new(80)).prefixlen, 96);
}

#[test]
fn map_names_fit_the_reference_and_are_distinct() {
    for (i, map) in maps::ALL.iter().enumerate() {
        assert!(map.name.starts_with("cilium_"), "{}", map.name);
        assert!(maps::ALL[i + 1..].iter().all(|other| other.name != map.name), "{} twice", map.name);
    }
}

#[test]
fn a_write_reads_back_from_its_bytes() {
    use crate::write::MapWrite;
    let key = PolicyKey::lookup(1, 2, 0, 6, Port::new(80));
    for write in [
        MapWrite::Policy(key, Some(Default::default())),
        MapWrite::Device(7, Some(Default::default())),
        MapWrite::RevNat4(Port::new(9), Some(Default::default())),
        MapWrite::Runtime(2, Some(77)),
    ] {
        let value = write.value().expect("set above");
        assert_eq!(value.len(), write.map().value_size);
        assert_eq!(write.key().len(), write.map().key_size);
        assert_eq!(MapWrite::from_dump(write.map().name, write.key(), value), Some(write));
        assert_eq!(MapWrite::from_dump(write.map().name, write.key(), &value[1..]), None);
        assert_eq!(write.deletion().value(), None);
    }
    assert_eq!(MapWrite::from_dump("cilium_ct4_global", &[], &[]), None);
}
