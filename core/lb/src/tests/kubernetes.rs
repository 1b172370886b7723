//! From Kubernetes' objects to frontends.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use serde_json::{Value, json};

use super::Maps;
use crate::{
    Balancer, Config, Node, Object, ObjectKey, ObjectKind, Scope, ServiceName, ServiceSpec, ServiceType,
    objects::ObjectError,
};

pub(super) fn config() -> Config {
    let node = Node {
        name: "here".into(),
        zone: "a".into(),
        addresses: vec!["192.0.2.1".parse().expect("a literal"), "2001:db8::1".parse().expect("a literal")],
        ..Node::default()
    };
    Config { node, topology: true, ..Config::default() }
}

pub(super) fn service(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec })
}

pub(super) fn slice(name: &str, service: &str, ports: Value, endpoints: Value) -> Value {
    json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": service } },
        "ports": ports, "endpoints": endpoints,
    })
}

pub(super) fn objects(values: Vec<Value>) -> Vec<Object> {
    let read = |value| {
        let (objects, errors) = Object::read(value);
        assert_eq!(errors, []);
        objects
    };
    values.into_iter().flat_map(read).collect()
}

fn balanced(values: Vec<Value>) -> Balancer {
    let mut balancer = Balancer::new(config());
    balancer.change(objects(values), Vec::new());
    balancer
}

/// `type frontend -> backends`, sorted.
pub(super) fn lines(balancer: &Balancer) -> Vec<String> {
    let mut lines: Vec<String> = balancer
        .services()
        .iter()
        .map(|service| {
            let backends: Vec<String> = service
                .backends
                .iter()
                .map(|(_, backend)| format!("{}={}", backend.addr, backend.state.name()))
                .collect();
            format!("{} {} -> {}", service.attributes.kind, service.key(), backends.join(" "))
        })
        .collect();
    lines.sort();
    lines
}

pub(super) fn problems(balancer: &Balancer) -> Vec<String> {
    balancer.problems().map(ToString::to_string).collect()
}

#[test]
fn slices_are_merged_and_ports_found_by_name() {
    let ready = |ip: &str, node: &str| json!({ "addresses": [ip], "nodeName": node });
    let balancer = balanced(vec![
        service(
            "web",
            json!({ "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": [
                { "name": "http", "port": 80, "targetPort": "web" },
                { "name": "dns", "port": 53, "protocol": "UDP" },
            ] }),
        ),
        slice(
            "web-1",
            "web",
            json!([{ "name": "http", "port": 8080 }, { "name": "dns", "port": 5353, "protocol": "UDP" }]),
            json!([ready("10.0.0.1", "here"), { "addresses": ["10.0.0.2"], "conditions": { "ready": false } }]),
        ),
        slice(
            "web-2",
            "web",
            json!([{ "name": "http", "port": 9090 }]),
            json!([
                ready("10.0.0.3", "there"),
                { "addresses": ["10.0.0.4"], "conditions": { "ready": false, "serving": true, "terminating": true } },
            ]),
        ),
        slice("other", "other", json!([{ "name": "http", "port": 1 }]), json!([ready("10.0.0.9", "here")])),
    ]);
    assert_eq!(
        lines(&balancer),
        [
            "ClusterIP 10.96.0.1:53/UDP -> 10.0.0.1:5353/UDP=active",
            "ClusterIP 10.96.0.1:80/TCP -> 10.0.0.1:8080/TCP=active 10.0.0.3:9090/TCP=active 10.0.0.4:9090/TCP=terminating",
            "ClusterIP [fd00::1]:53/UDP -> ",
            "ClusterIP [fd00::1]:80/TCP -> ",
        ]
    );
    assert_eq!(problems(&balancer), [""; 0]);
}

#[test]
fn a_service_is_reached_at_every_place_it_asks_for() {
    let mut value = service(
        "web",
        json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "externalIPs": ["198.51.100.7"],
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000, "sessionAffinity": "ClientIP",
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "ports": [{ "port": 80, "nodePort": 30080 }],
        }),
    );
    value["status"] = json!({ "loadBalancer": { "ingress": [
        { "ip": "203.0.113.5" }, { "ip": "203.0.113.6", "ipMode": "Proxy" }, { "hostname": "x" },
    ] } });
    let endpoints = json!([
        { "addresses": ["10.0.0.1"], "nodeName": "here" }, { "addresses": ["10.0.0.2"], "nodeName": "there" },
    ]);
    let balancer = balanced(vec![value, slice("s", "web", json!([{ "port": 8080 }]), endpoints)]);
    let (here, both) = ("10.0.0.1:8080/TCP=active", "10.0.0.1:8080/TCP=active 10.0.0.2:8080/TCP=active");
    assert_eq!(
        lines(&balancer),
        [
            format!("ClusterIP 10.96.0.1:80/TCP -> {both}"),
            format!("ExternalIPs 198.51.100.7:80/TCP -> {here}"),
            format!("ExternalIPs 198.51.100.7:80/TCP/i -> {both}"),
            format!("LoadBalancer 203.0.113.5:80/TCP -> {here}"),
            format!("LoadBalancer 203.0.113.5:80/TCP/i -> {both}"),
            format!("NodePort 0.0.0.0:30080/TCP -> {here}"),
            format!("NodePort 0.0.0.0:30080/TCP/i -> {both}"),
            format!("NodePort 192.0.2.1:30080/TCP -> {here}"),
            format!("NodePort 192.0.2.1:30080/TCP/i -> {both}"),
        ]
    );
    let of = |kind, scope| {
        let service = balancer.services().iter().find(|s| s.attributes.kind == kind && s.scope == scope);
        service.expect("it is there").attributes.clone()
    };
    let outside = of(ServiceType::LoadBalancer, Scope::External);
    assert_eq!((outside.affinity_seconds, outside.source_ranges.len(), outside.health_check_port), (10_800, 1, 32_000));
    assert_eq!(of(ServiceType::NodePort, Scope::External).source_ranges, []);
    assert_eq!(balancer.services().health_ports()[&32_000].local, 1);
}

#[test]
fn services_without_an_address_of_their_own_are_left_out() {
    let balancer = balanced(vec![
        service("headless", json!({ "clusterIP": "None", "ports": [{ "port": 80 }] })),
        service("elsewhere", json!({ "type": "ExternalName", "externalName": "example.org" })),
    ]);
    assert_eq!(lines(&balancer), [""; 0]);
    assert_eq!(problems(&balancer), [""; 0]);
}

#[test]
fn hints_keep_traffic_in_the_zone() {
    let web = |annotation: &str| {
        let mut web = service("web", json!({ "clusterIP": "10.96.0.1", "ports": [{ "port": 80 }] }));
        web["metadata"]["annotations"] = json!({ "service.kubernetes.io/topology-mode": annotation });
        web
    };
    let endpoint = |ip: &str, zone: &str| json!({ "addresses": [ip], "hints": { "forZones": [{ "name": zone }] } });
    let endpoints = |zone: &str| {
        slice("s", "web", json!([{ "port": 80 }]), json!([endpoint("10.0.0.1", zone), endpoint("10.0.0.2", "b")]))
    };
    let count = |values| balanced(values).services().iter().map(|service| service.backends.len()).sum::<usize>();
    assert_eq!(count(vec![web("Auto"), endpoints("a")]), 1);
    assert_eq!(count(vec![web("Auto"), endpoints("c")]), 2, "nobody is for this zone: everybody is");
    assert_eq!(count(vec![web("off"), endpoints("a")]), 2);
}

#[test]
fn host_ports_lead_to_the_pods_of_this_node() {
    let pod = |name: &str, node: &str, host_ip: &str| {
        json!({
            "kind": "Pod", "metadata": { "name": name, "namespace": "ns" },
            "spec": { "nodeName": node, "containers": [{ "ports": [
                { "containerPort": 80, "hostPort": 8080, "hostIP": host_ip }, { "containerPort": 81 },
            ] }] },
            "status": { "podIPs": [{ "ip": "10.0.0.5" }] },
        })
    };
    assert_eq!(
        lines(&balanced(vec![pod("web", "here", ""), pod("far", "there", "")])),
        [
            "HostPort 0.0.0.0:8080/TCP -> 10.0.0.5:80/TCP=active",
            "HostPort 192.0.2.1:8080/TCP -> 10.0.0.5:80/TCP=active",
        ]
    );
    let loopback = balanced(vec![pod("web", "here", "127.0.0.1")]);
    assert_eq!(lines(&loopback), ["HostPort 0.0.0.0:8080/TCP -> 10.0.0.5:80/TCP=active"]);
    assert!(loopback.services().iter().all(|service| service.attributes.loopback));
}

#[test]
fn the_good_part_counts_and_the_rest_is_named() {
    let balancer = balanced(vec![
        service(
            "web",
            json!({
                "type": "NodePort", "clusterIPs": ["10.96.0.1", "nonsense"], "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 100000 } },
                "loadBalancerSourceRanges": ["10.0.0.0/8", "10.1.0.0/16", "x"],
                "ports": [
                    { "name": "a", "port": 0 }, { "name": "b", "port": 80, "nodePort": 99 },
                    { "name": "b", "port": 80 }, { "name": "c", "port": 70000 }, { "name": "d", "port": 1, "protocol": "ICMP" },
                ],
            }),
        ),
        slice(
            "s",
            "web",
            json!([{ "name": "b", "port": 0 }, { "name": "b", "port": 8080 }]),
            json!([{ "addresses": ["fd00::1"] }, { "addresses": ["10.0.0.1"] }]),
        ),
    ]);
    assert_eq!(lines(&balancer), ["ClusterIP 10.96.0.1:80/TCP -> 10.0.0.1:8080/TCP=active"]);
    let found = problems(&balancer);
    for (object, field) in [
        ("Service default/web", "spec.clusterIPs[1]"),
        ("Service default/web", "spec.sessionAffinityConfig.clientIP.timeoutSeconds"),
        ("Service default/web", "spec.loadBalancerSourceRanges[1]"),
        ("Service default/web", "spec.loadBalancerSourceRanges[2]"),
        ("Service default/web", "spec.ports[0].port"),
        ("Service default/web", "spec.ports[1].nodePort"),
        ("Service default/web", "spec.ports[2].port"),
        ("Service default/web", "spec.ports[3].port"),
        ("Service default/web", "spec.ports[4].protocol"),
        ("EndpointSlice default/s", "ports[0].port"),
        ("EndpointSlice default/s", "endpoints[0].addresses[0]"),
    ] {
        let one = found.iter().filter(|text| text.starts_with(&format!("{object}: {field}: "))).count();
        assert_eq!(one, 1, "{object} {field}: {found:#?}");
    }
    assert_eq!(found.len(), 11, "{found:#?}");
}

/// A frontend that one object asks for twice is one frontend, and which field asked again is said once.
#[test]
fn a_frontend_that_comes_twice_is_told() {
    let mut web = service(
        "web",
        json!({
            "type": "LoadBalancer", "clusterIPs": ["10.96.0.1", "10.96.0.1"], "externalIPs": ["203.0.113.5", "10.96.0.1"],
            "ports": [{ "name": "a", "port": 80, "nodePort": 30080 }, { "name": "b", "port": 81, "nodePort": 30080 }],
        }),
    );
    web["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "203.0.113.5" }] } });
    let port = |host: u16| json!({ "containerPort": 80, "hostPort": host });
    let pod = json!({
        "kind": "Pod", "metadata": { "name": "p" }, "status": { "podIP": "10.0.0.5" },
        "spec": { "nodeName": "here", "containers": [{ "ports": [port(8080)] }, { "ports": [port(8080), port(8081)] }] },
    });
    let balancer = balanced(vec![web, pod]);
    let all = lines(&balancer);
    let kinds = |kind: &str| all.iter().filter(|line| line.starts_with(kind)).count();
    assert_eq!(
        ["ClusterIP", "LoadBalancer", "ExternalIPs", "NodePort", "HostPort"].map(kinds),
        [2, 2, 0, 2, 4],
        "{all:#?}"
    );
    let found = problems(&balancer);
    for (field, what) in [
        ("Service default/web: spec.clusterIPs[1]", "10.96.0.1:80/TCP"),
        ("Service default/web: spec.externalIPs[0]", "203.0.113.5:80/TCP"),
        ("Service default/web: spec.externalIPs[1]", "10.96.0.1:80/TCP"),
        ("Service default/web: spec.ports[1].nodePort", "192.0.2.1:30080/TCP"),
        ("Pod default/p: spec.containers[1].ports[0].hostPort", "192.0.2.1:8080/TCP"),
    ] {
        let told = format!("{field}: {what} is a frontend of this object already; the first counts");
        assert_eq!(found.iter().filter(|text| **text == told).count(), 1, "{told}: {found:#?}");
    }
    assert_eq!(found.len(), 5, "{found:#?}");
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    let text = |value| {
        let (objects, errors) = Object::read(value);
        assert_eq!((objects.len(), errors.len()), (0, 1), "{errors:?}");
        errors[0].to_string()
    };
    assert_eq!(
        text(json!({ "kind": "Secret", "metadata": { "name": "x" } })),
        "kind \"Secret\" is not one of Service, EndpointSlice, Pod, CiliumLocalRedirectPolicy and List"
    );
    let why = text(service("web", json!({ "ports": [{ "port": "http" }] })));
    assert!(why.starts_with("Service default/web: spec.ports[0].port: "), "{why}");
    let why = text(json!({ "kind": "List", "items": [{ "kind": "Service", "metadata": {} }] }));
    assert!(why.contains("metadata.name"), "{why}");
    assert!(matches!(&*Object::read(json!(7)).1, [ObjectError::Kind { .. }]));
    // Of a list the rest counts.
    let good = || service("web", json!({ "clusterIP": "10.96.0.1", "ports": [{ "port": 80 }] }));
    let (read, errors) = Object::read(json!({ "kind": "List", "items": [good(), { "kind": "Secret" }, good()] }));
    assert_eq!((read.len(), errors.len()), (2, 1));
}

/// Who asked first has the address; the other gets it when it is free.
#[test]
fn two_services_do_not_share_an_address() {
    let mut balancer = Balancer::new(config());
    let mut maps = Maps::default();
    let spec = json!({ "clusterIP": "10.96.0.1", "ports": [{ "port": 80 }] });
    let mut carry_out = |planned: Vec<crate::Planned>| planned.iter().for_each(|one| maps.carry_out(one));
    carry_out(balancer.change(objects(vec![service("first", spec.clone())]), Vec::new()));
    carry_out(balancer.change(objects(vec![service("second", spec)]), Vec::new()));
    assert_eq!(lines(&balancer).len(), 1);
    let found = problems(&balancer);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("Service default/second: spec: ") && found[0].contains("belongs to default/first"),
        "{found:?}"
    );
    let api = ServiceSpec::new(balancer.services().iter().next().expect("one").frontend, Vec::new());
    let why = balancer.put(api.clone()).expect_err("taken").to_string();
    assert!(why.contains("Service default/first"), "{why}");
    let first = ObjectKey {
        kind: ObjectKind::Service,
        name: ServiceName { namespace: "default".into(), name: "first".into() },
    };
    carry_out(balancer.change(Vec::new(), vec![first]));
    assert_eq!(&*balancer.services().iter().next().expect("one").name.name, "second");
    assert_eq!(problems(&balancer), [""; 0]);
    assert_eq!(maps.entries.len(), balancer.services().entries().collect::<BTreeSet<_>>().len());
}

#[test]
fn what_goes_takes_its_frontends_along() {
    let mut balancer = Balancer::new(config());
    let spec = json!({ "type": "NodePort", "clusterIP": "10.96.0.1", "ports": [{ "port": 80, "nodePort": 30000 }] });
    let endpoints = json!([{ "addresses": ["10.0.0.1"] }]);
    let mut maps = Maps::default();
    let values = vec![service("web", spec.clone()), slice("s", "web", json!([{ "port": 8080 }]), endpoints)];
    for planned in balancer.change(objects(values), Vec::new()) {
        maps.carry_out(&planned);
    }
    assert_eq!(balancer.services().len(), 3);
    assert!(balancer.change(objects(vec![service("web", spec)]), Vec::new()).is_empty(), "nothing changed");
    let key =
        |kind, name: &str| ObjectKey { kind, name: ServiceName { namespace: "default".into(), name: name.into() } };
    for planned in balancer.change(Vec::new(), vec![key(ObjectKind::EndpointSlice, "s")]) {
        maps.carry_out(&planned);
    }
    assert!(balancer.services().iter().all(|service| service.backends.is_empty()));
    for planned in balancer.change(Vec::new(), vec![key(ObjectKind::Service, "web")]) {
        maps.carry_out(&planned);
    }
    assert!(maps.entries.is_empty(), "{:?}", maps.entries);
}
