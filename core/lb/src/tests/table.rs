//! Numbers, mistakes, bounds, health checks.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use abi::lb;

use super::{Maps, addr, backend, key, spec};
use crate::maglev::{Seed, TableSize};
use crate::{
    Algorithm, Attributes, Backend, Change, Config, Forwarding, ForwardingMode, Node, Purge, Refusal, ServiceId,
    ServiceSpec, ServiceType, Services, TrafficPolicy, Transport,
};

#[test]
fn numbers_and_slots_survive_a_restart() {
    let mut before = Services::new(Config::default());
    before.put(spec(1, &[1])).expect("valid");
    let doomed = before.put(spec(2, &[2, 3])).expect("valid").id;
    before.put(spec(3, &[4, 5, 6])).expect("valid");
    before.delete(doomed).expect("it is there");
    // The slots of those who stay stay: 6 goes to the place that became free.
    before.put(spec(3, &[5, 6])).expect("valid");
    let slots = |services: &Services, n| {
        let service = services.by_frontend(&spec(n, &[]).frontend).expect("it is there").clone();
        service.backends.into_iter().map(|(_, backend)| backend.addr).collect::<Vec<_>>()
    };
    assert_eq!(slots(&before, 3), [backend(6).addr, backend(5).addr]);
    let maps: Vec<_> = before.entries().collect();
    let mut after = Services::new(Config::default());
    after.remember(&maps);
    after.put(spec(9, &[9])).expect("valid");
    after.put(spec(3, &[5, 6])).expect("valid");
    after.put(spec(1, &[1])).expect("valid");
    after.forget_remembered();
    let same = |services: &Services, n| services.by_frontend(&spec(n, &[]).frontend).expect("it is there").clone();
    assert_eq!(same(&before, 1), same(&after, 1));
    assert_eq!(same(&before, 3), same(&after, 3));
    assert!(![1, 3].contains(&same(&after, 9).id.as_u16()));
}

#[test]
fn mistakes_are_named_with_service_and_field() {
    let mut services = Services::new(Config { backends_per_service_max: 3, ..Config::default() });
    services.put(spec(1, &[1])).expect("valid");
    let node_port = |mut spec: ServiceSpec| {
        spec.attributes.kind = ServiceType::NodePort;
        spec
    };
    let ranges = |ranges: &[&str]| {
        let source_ranges = ranges.iter().map(|text| text.parse().expect("a literal")).collect();
        ServiceSpec { attributes: Attributes { source_ranges, ..Attributes::default() }, ..spec(2, &[]) }
    };
    let affinity = Attributes { affinity_seconds: 90_000, ..Attributes::default() };
    let cases: Vec<(ServiceSpec, &str)> = vec![
        (ServiceSpec { frontend: addr("1.2.3.4", 0), ..spec(2, &[]) }, "frontend-address.port"),
        (ServiceSpec { frontend: addr("0.0.0.0", 1), ..spec(2, &[]) }, "frontend-address.ip"),
        (node_port(ServiceSpec { frontend: addr("224.0.0.1", 1), ..spec(2, &[]) }), "frontend-address.ip"),
        (
            ServiceSpec { backends: vec![Backend::new(addr("10.0.0.1", 0))], ..spec(2, &[]) },
            "backend-addresses[0].port",
        ),
        (ServiceSpec { backends: vec![Backend::new(addr("0.0.0.0", 1))], ..spec(2, &[]) }, "backend-addresses[0].ip"),
        (
            ServiceSpec { backends: vec![backend(1), Backend::new(addr("fd00::1", 1))], ..spec(2, &[]) },
            "backend-addresses[1].ip",
        ),
        (spec(2, &[1, 1]), "backend-addresses[1] is listed twice"),
        (spec(2, &[1, 2, 3, 4]), "limit of 3"),
        (ranges(&["10.0.0.0/8", "10.1.0.0/16"]), "flags.sourceRanges[1]: 10.1.0.0/16 lies in another range"),
        (ranges(&["10.0.0.0/8", "10.0.0.0/8"]), "flags.sourceRanges[1]: 10.0.0.0/8"),
        (
            ServiceSpec { attributes: affinity, ..spec(2, &[]) },
            "flags.sessionAffinityTimeoutSeconds must be at most 86400 seconds",
        ),
        (ServiceSpec { id: ServiceId::new(77), ..spec(1, &[]) }, "belongs to service 1"),
        (
            ServiceSpec { id: ServiceId::new(1), ..spec(2, &[]) },
            "id 1 belongs to the service with frontend 172.16.0.1:80/TCP",
        ),
    ];
    for (spec, part) in cases {
        let text = services.put(spec).expect_err("a mistake").to_string();
        assert!(text.contains(part) && text.contains("default/web"), "{text}");
    }
    let mut udp = backend(1);
    udp.addr.protocol = Transport::Udp;
    let text = services.put(ServiceSpec { backends: vec![udp], ..spec(2, &[]) }).expect_err("a mistake").to_string();
    assert!(text.contains("[0].protocol"), "{text}");
    let nine = ServiceId::new(9).expect("not 0");
    assert_eq!(services.delete(nine), Err(Refusal::NotFound(nine)));
    assert_eq!(services.len(), 1);
}

#[test]
fn full_tables_are_named_and_nothing_is_left_half_made() {
    let config = Config {
        services_max: 2,
        backends_max: 3,
        slots_max: 6,
        source_ranges_max: 1,
        affinity_max: 2,
        ..Config::default()
    };
    let mut services = Services::new(config);
    services.put(spec(1, &[1, 2])).expect("room");
    let before: Vec<_> = services.entries().collect();
    let table = |result: Result<_, Refusal>| match result {
        Err(Refusal::Full { table, .. }) => table,
        other => panic!("{other:?}"),
    };
    assert_eq!(table(services.put(spec(2, &[3, 4]))), "backend");
    assert_eq!(table(services.put(spec(2, &[1, 2, 3]))), "slot");
    let with = |attributes| ServiceSpec { attributes, ..spec(2, &[1, 2]) };
    let source_ranges = vec!["10.0.0.0/8".parse().expect("a literal"), "11.0.0.0/8".parse().expect("a literal")];
    assert_eq!(table(services.put(with(Attributes { source_ranges, ..Attributes::default() }))), "source range");
    assert_eq!(services.entries().collect::<Vec<_>>(), before);
    services.put(with(Attributes { affinity_seconds: 1, ..Attributes::default() })).expect("room");
    let mut affine = spec(1, &[1, 2]);
    affine.attributes.affinity_seconds = 1;
    assert_eq!(table(services.put(affine)), "affinity");
    services.put(spec(2, &[])).expect("room");
    assert_eq!(table(services.put(spec(3, &[]))), "service");
}

#[test]
fn a_change_touches_what_it_changes() {
    let mut services = Services::new(Config::default());
    let mut maps = Maps::default();
    maps.carry_out(&services.put(spec(1, &[1, 2, 3])).expect("valid"));
    let same = services.put(spec(1, &[3, 2, 1])).expect("valid");
    assert_eq!((same.change, same.writes.len(), same.purge.len()), (Change::Updated, 0, 0), "the order says nothing");
    let planned = services.put(spec(1, &[1, 3, 4])).expect("valid");
    let new: Vec<_> =
        planned.writes.iter().filter(|write| maps.get(write.deletion()).as_ref() != Some(write)).collect();
    // The new backend, its slot in place of the old one, and the old backend's deletion.
    assert_eq!(new.len(), 3, "{new:?}");
    let gone = backend(2).addr;
    assert!(matches!(planned.purge[..], [Purge::Backend { addr, .. }] if addr == gone), "{:?}", planned.purge);
    let deleted = services.delete(planned.id).expect("it is there");
    assert_eq!(deleted.purge.len(), 4, "the service and its backends");
}

#[test]
fn flags_say_what_the_reference_s_say() {
    let head = |attributes: Attributes, config: Config, ip: &str| {
        let mut services = Services::new(config);
        let mut maps = Maps::default();
        let spec = ServiceSpec { frontend: addr(ip, 80), attributes, ..spec(1, &[1]) };
        maps.carry_out(&services.put(spec.clone()).expect("valid"));
        let head = maps.service(&key(&spec.frontend), 0).expect("it is there");
        (head.flags, head.flags2, head.backend_id)
    };
    let at = |kind| Attributes { kind, ..Attributes::default() };
    let plain = Config::default;
    assert_eq!(head(at(ServiceType::ClusterIp), plain(), "10.96.0.1"), (0, 0, 0));
    let open = Config { external_cluster_ip: true, ..plain() };
    assert_eq!(head(at(ServiceType::ClusterIp), open, "10.96.0.1"), (lb::SERVICE_ROUTABLE, 0, 0));
    assert_eq!(
        head(at(ServiceType::NodePort), plain(), "10.96.0.1"),
        (lb::SERVICE_NODE_PORT | lb::SERVICE_ROUTABLE, 0, 0)
    );
    assert_eq!(head(at(ServiceType::NodePort), plain(), "0.0.0.0"), (lb::SERVICE_NODE_PORT, 0, 0));
    let local = Attributes {
        external_policy: TrafficPolicy::Local,
        affinity_seconds: 77,
        source_ranges: vec!["10.0.0.0/8".parse().expect("a literal")],
        ..at(ServiceType::LoadBalancer)
    };
    let want = lb::SERVICE_LOAD_BALANCER
        | lb::SERVICE_ROUTABLE
        | lb::SERVICE_EXTERNAL_LOCAL
        | lb::SERVICE_AFFINITY
        | lb::SERVICE_SOURCE_RANGE;
    assert_eq!(head(local, plain(), "10.96.0.1"), (want, lb::SERVICE_TWO_SCOPES, 77));
    let hybrid = Config { forwarding: ForwardingMode::Hybrid, forwarding_by_service: true, ..plain() };
    assert_eq!(head(at(ServiceType::ExternalIps), hybrid.clone(), "9.9.9.9").1, lb::SERVICE_FORWARD_DSR);
    let snat = Attributes { forwarding: Some(Forwarding::Snat), ..at(ServiceType::ExternalIps) };
    assert_eq!(head(snat, hybrid, "9.9.9.9").1, 0);
}

#[test]
fn tables_are_made_for_traffic_from_outside_and_shared() {
    let size = TableSize::new(251).expect("allowed");
    let mut services =
        Services::new(Config { algorithm: Algorithm::Maglev { size, seed: Seed::default() }, ..Config::default() });
    let mut outside = spec(1, &[1, 2]);
    outside.attributes.kind = ServiceType::NodePort;
    let first = services.put(outside.clone()).expect("valid");
    let other = ServiceSpec { frontend: addr("172.16.0.2", 30_000), ..outside.clone() };
    let second = services.put(other).expect("valid");
    assert_eq!(first.tables, second.tables, "the same backends make the same table");
    assert_eq!(services.put(spec(3, &[1, 2])).expect("valid").tables, []);
    let again = services.put(outside).expect("valid");
    assert_eq!((again.writes.len(), again.tables), (0, first.tables));
    assert_eq!(services.tables().len(), 1);
}

#[test]
fn a_health_check_port_counts_the_backends_that_are_here() {
    let node = Node { name: "here".into(), ..Node::default() };
    let mut services = Services::new(Config { node, ..Config::default() });
    let on = |node: &str, n| Backend { node_name: node.into(), ..backend(n) };
    let attributes = Attributes {
        kind: ServiceType::LoadBalancer,
        external_policy: TrafficPolicy::Local,
        health_check_port: 32_000,
        ..Attributes::default()
    };
    let backends = vec![on("here", 1), on("there", 2), on("here", 3)];
    let id = services.put(ServiceSpec { backends, attributes, ..spec(1, &[]) }).expect("valid").id;
    let ports = services.health_ports();
    assert_eq!(ports.len(), 1);
    assert_eq!((ports[&32_000].local, &*ports[&32_000].name.name), (2, "web"));
    services.delete(id).expect("it is there");
    assert!(services.health_ports().is_empty());
}
