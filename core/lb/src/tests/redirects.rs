//! Policies that keep traffic on the node: from documents to frontends, writes, and everything that is wrong.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use serde_json::{Value, json};
use types::{EndpointId, Labels};

use super::Maps;
use super::kubernetes::{config, lines, objects, problems, service, slice};
use crate::{Balancer, Config, LocalPod, Object, ObjectKey, ObjectKind, Planned, ServiceName};

fn policy(name: &str, frontend: Value, to_ports: Value) -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumLocalRedirectPolicy",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "redirectFrontend": frontend,
            "redirectBackend": { "localEndpointSelector": { "matchLabels": { "app": "cache" } }, "toPorts": to_ports },
        },
    })
}

fn dns_service() -> Vec<Value> {
    let ports = json!([
        { "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
    ]);
    let targets = json!([
        { "name": "dns", "port": 5353, "protocol": "UDP" }, { "name": "dns-tcp", "port": 5353, "protocol": "TCP" },
    ]);
    vec![
        service("dns", json!({ "clusterIP": "10.96.0.10", "sessionAffinity": "ClientIP", "ports": ports })),
        slice("dns-1", "dns", targets, json!([{ "addresses": ["10.1.0.9"], "nodeName": "there" }])),
    ]
}

fn of_service() -> Value {
    json!({ "serviceMatcher": { "serviceName": "dns", "namespace": "default" } })
}

fn both_ports() -> Value {
    json!([{ "name": "dns", "port": "53", "protocol": "UDP" }, { "name": "dns-tcp", "port": "54", "protocol": "TCP" }])
}

fn of_address() -> Value {
    json!({ "addressMatcher": { "ip": "169.254.169.254", "toPorts": [{ "port": "80", "protocol": "TCP" }] } })
}

fn one_port() -> Value {
    json!([{ "port": "8080", "protocol": "TCP" }])
}

fn endpoint(number: u16) -> EndpointId {
    EndpointId::try_from(number).expect("not 0")
}

fn pod(namespace: &str, labels: &str, addresses: &[&str]) -> Option<LocalPod> {
    Some(LocalPod {
        name: ServiceName { namespace: namespace.into(), name: "p".into() },
        labels: Labels::parse(labels.split(',')),
        addresses: addresses.iter().map(|ip| ip.parse::<IpAddr>().expect("a literal")).collect(),
    })
}

fn key(kind: ObjectKind, name: &str) -> ObjectKey {
    ObjectKey { kind, name: ServiceName { namespace: "default".into(), name: name.into() } }
}

/// A balancer, and the maps as its writes leave them.
struct World {
    balancer: Balancer,
    maps: Maps,
}

impl World {
    fn new(config: Config, values: Vec<Value>) -> Self {
        let mut world = Self { balancer: Balancer::new(config), maps: Maps::default() };
        world.take_up(values);
        world
    }
    fn carry_out(&mut self, planned: &[Planned]) {
        planned.iter().for_each(|one| self.maps.carry_out(one));
        assert_eq!(self.maps.entries.len(), self.balancer.services().entries().count(), "nothing is left over");
    }
    fn take_up(&mut self, values: Vec<Value>) {
        let planned = self.balancer.change(objects(values), Vec::new());
        self.carry_out(&planned);
    }
    fn let_go(&mut self, kind: ObjectKind, name: &str) {
        let planned = self.balancer.change(Vec::new(), vec![key(kind, name)]);
        self.carry_out(&planned);
    }
    fn local(&mut self, number: u16, pod: Option<LocalPod>) {
        let planned = self.balancer.set_local(endpoint(number), pod);
        self.carry_out(&planned);
    }
    fn lines(&self) -> Vec<String> {
        lines(&self.balancer)
    }
}

#[test]
fn traffic_to_a_service_stays_on_the_node_while_a_pod_is_there() {
    let own = [
        "ClusterIP 10.96.0.10:53/TCP -> 10.1.0.9:5353/TCP=active",
        "ClusterIP 10.96.0.10:53/UDP -> 10.1.0.9:5353/UDP=active",
    ];
    let mut world = World::new(config(), dns_service());
    world.local(7, pod("default", "k8s:app=cache", &["10.0.0.7", "fd00::7"]));
    assert_eq!(world.lines(), own, "nobody asked for it");
    let id = world.balancer.services().iter().next().expect("one").id;
    world.take_up(vec![policy("cache", of_service(), both_ports())]);
    let here = [
        "LocalRedirect 10.96.0.10:53/TCP -> 10.0.0.7:54/TCP=active",
        "LocalRedirect 10.96.0.10:53/UDP -> 10.0.0.7:53/UDP=active",
    ];
    assert_eq!(world.lines(), here);
    assert_eq!(problems(&world.balancer), [""; 0]);
    let redirected = world.balancer.services().by_id(id).expect("the number stays");
    assert_eq!((&*redirected.name.name, redirected.attributes.affinity_seconds), ("dns", 0));
    // Pods of other namespaces and with other labels are not meant.
    world.local(8, pod("other", "k8s:app=cache", &["10.0.0.8"]));
    world.local(9, pod("default", "k8s:app=web", &["10.0.0.9"]));
    assert_eq!(world.lines(), here);
    // One more comes by its labels, and both go.
    world.local(9, pod("default", "k8s:app=cache", &["10.0.0.9"]));
    assert_eq!(world.lines()[0], "LocalRedirect 10.96.0.10:53/TCP -> 10.0.0.7:54/TCP=active 10.0.0.9:54/TCP=active");
    world.local(7, None);
    world.local(9, pod("default", "k8s:app=web", &["10.0.0.9"]));
    assert_eq!(world.lines(), own, "as without the policy");
    world.local(7, pod("default", "k8s:app=cache", &["10.0.0.7"]));
    world.let_go(ObjectKind::LocalRedirect, "cache");
    assert_eq!(world.lines(), own);
    world.take_up(vec![policy("cache", of_service(), both_ports())]);
    world.let_go(ObjectKind::Service, "dns");
    assert_eq!(world.lines(), [""; 0]);
    let found = problems(&world.balancer);
    let missing = "CiliumLocalRedirectPolicy default/cache: spec.redirectFrontend.serviceMatcher.serviceName: there is no \
                   service default/dns; nothing is redirected until there is";
    assert_eq!(found, [missing]);
}

#[test]
fn some_ports_of_a_service_are_redirected_and_the_others_are_not() {
    let ports = json!([{ "port": "53", "protocol": "UDP" }]);
    let frontend = json!({ "serviceMatcher": { "serviceName": "dns", "namespace": "default", "toPorts": ports } });
    let mut world = World::new(config(), dns_service());
    world.take_up(vec![policy("cache", frontend, json!([{ "port": "5300", "protocol": "UDP" }]))]);
    world.local(7, pod("default", "k8s:app=cache", &["10.0.0.7"]));
    assert_eq!(
        world.lines(),
        [
            "ClusterIP 10.96.0.10:53/TCP -> 10.1.0.9:5353/TCP=active",
            "LocalRedirect 10.96.0.10:53/UDP -> 10.0.0.7:5300/UDP=active",
        ]
    );
    assert_eq!(problems(&world.balancer), [""; 0]);
}

#[test]
fn traffic_to_an_address_stays_on_the_node_while_a_pod_is_there() {
    let mut world = World::new(config(), vec![policy("metadata", of_address(), one_port())]);
    assert_eq!(world.lines(), [""; 0], "the address is reached as without the policy");
    world.local(7, pod("default", "k8s:app=cache", &["10.0.0.7", "fd00::7"]));
    assert_eq!(world.lines(), ["LocalRedirect 169.254.169.254:80/TCP -> 10.0.0.7:8080/TCP=active"]);
    world.local(7, None);
    assert!(world.maps.entries.is_empty(), "{:?}", world.maps.entries);
    assert_eq!(problems(&world.balancer), [""; 0]);
}

/// Of two policies for one service the older has its way, and of two for one address who came first; the other waits.
#[test]
fn two_policies_do_not_share_traffic() {
    let aged = |name: &str, made: &str, frontend, ports| {
        let mut value = policy(name, frontend, ports);
        value["metadata"]["creationTimestamp"] = made.into();
        value
    };
    let to = |port: &str| json!([{ "name": "dns", "port": port, "protocol": "UDP" }, { "name": "dns-tcp", "port": port, "protocol": "TCP" }]);
    let mut world = World::new(config(), dns_service());
    world.local(7, pod("default", "k8s:app=cache", &["10.0.0.7"]));
    world.take_up(vec![
        aged("a", "2026-01-02T00:00:00Z", of_service(), to("1")),
        aged("b", "2026-01-01T00:00:00Z", of_service(), to("2")),
        policy("c", of_address(), one_port()),
        policy("d", of_address(), one_port()),
    ]);
    let count = |world: &World, part: &str| world.lines().iter().filter(|line| line.contains(part)).count();
    assert_eq!((count(&world, "10.0.0.7:2/"), count(&world, "169.254.169.254")), (2, 1));
    let found = problems(&world.balancer);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains("default/a: ") && found[0].contains("is redirected by default/b already"), "{found:#?}");
    assert!(
        found[1].starts_with("CiliumLocalRedirectPolicy default/d: spec.redirectFrontend.addressMatcher: "),
        "{found:#?}"
    );
    world.let_go(ObjectKind::LocalRedirect, "b");
    world.let_go(ObjectKind::LocalRedirect, "c");
    assert_eq!((count(&world, "10.0.0.7:1/"), count(&world, "169.254.169.254")), (2, 1));
    assert_eq!(problems(&world.balancer), [""; 0]);
}

#[test]
fn what_cannot_be_redirected_is_named_and_the_rest_counts() {
    let matcher =
        |ports: Value| json!({ "serviceMatcher": { "serviceName": "dns", "namespace": "default", "toPorts": ports } });
    let port = |name: &str, port: &str, protocol: &str| json!({ "name": name, "port": port, "protocol": protocol });
    let told = |values: Vec<Value>| {
        let mut world = World::new(config(), values);
        world.local(7, pod("default", "k8s:app=cache", &["10.0.0.7"]));
        (world.lines().iter().filter(|line| line.starts_with("LocalRedirect")).count(), problems(&world.balancer))
    };
    let at = "CiliumLocalRedirectPolicy default/x: spec.";
    let with_dns = |one: Value| dns_service().into_iter().chain([one]).collect::<Vec<_>>();
    // A port the service does not have, and one it calls otherwise.
    let ports = json!([port("dns", "53", "UDP"), port("web", "80", "TCP"), port("other", "53", "TCP")]);
    let to = json!([port("dns", "1", "UDP"), port("web", "2", "TCP"), port("other", "3", "TCP")]);
    let (count, found) = told(with_dns(policy("x", matcher(ports), to)));
    assert_eq!(count, 1, "the port that is right");
    assert_eq!(
        found,
        [
            format!("{at}redirectFrontend.serviceMatcher.toPorts[1]: service default/dns has no port 80/TCP"),
            format!(
                "{at}redirectFrontend.serviceMatcher.toPorts[2].name: service default/dns calls port 53 \"dns-tcp\", not \"other\""
            ),
        ]
    );
    // A whole service of which one port leads nowhere.
    let (count, found) =
        told(with_dns(policy("x", of_service(), json!([port("dns", "1", "UDP"), port("no", "2", "TCP")]))));
    assert_eq!(count, 1);
    assert!(found.len() == 1 && found[0].starts_with(&format!("{at}redirectFrontend.serviceMatcher.toPorts: port 53 of service default/dns: no port of spec.redirectBackend.toPorts is called \"dns-tcp\"")), "{found:#?}");
    // A port of the pods to which nothing leads.
    let more = json!([port("dns", "1", "UDP"), port("dns-tcp", "2", "TCP"), port("no", "3", "TCP")]);
    let (count, found) = told(with_dns(policy("x", of_service(), more)));
    assert_eq!(
        (count, found),
        (
            2,
            vec![format!(
                "{at}redirectBackend.toPorts[2].name: no port that is redirected is called \"no\"; leave it out"
            )]
        )
    );
    // Services that are not for clients in the cluster alone.
    for (spec, what) in [
        (json!({ "type": "NodePort", "clusterIP": "10.96.0.10", "ports": [{ "port": 53 }] }), "is NodePort"),
        (json!({ "clusterIP": "None", "ports": [{ "port": 53 }] }), "is headless"),
    ] {
        let (count, found) = told(vec![service("dns", spec), policy("x", of_service(), one_port())]);
        assert!(count == 0 && found.len() == 1 && found[0].contains(what), "{found:#?}");
    }
    // A node that redirects nothing, and a family that is off.
    let mut off = Balancer::new(Config { local_redirects: false, ..config() });
    off.change(objects(with_dns(policy("x", of_service(), both_ports()))), Vec::new());
    off.set_local(endpoint(7), pod("default", "k8s:app=cache", &["10.0.0.7"]));
    assert!(lines(&off).iter().all(|line| line.starts_with("ClusterIP")));
    assert_eq!(
        problems(&off),
        [format!("{}: this node redirects nothing; set --enable-local-redirect-policy", at.trim_end_matches('.'))]
    );
    let mut config = config();
    config.node.ipv4 = false;
    let mut six = Balancer::new(config);
    six.change(objects(vec![policy("x", of_address(), one_port())]), Vec::new());
    assert!(problems(&six)[0].starts_with(&format!(
        "{at}redirectFrontend.addressMatcher.ip: 169.254.169.254 is IPv4, which is not enabled"
    )));
}

/// Every mistake of a document at once, each with its place; nothing of it is taken up.
#[test]
fn a_document_with_mistakes_is_refused_with_all_of_them() {
    let bad = json!({
        "apiVersion": "cilium.io/v3", "kind": "CiliumLocalRedirectPolicy",
        "metadata": { "name": "x", "namespace": "ns" },
        "spec": {
            "skipRedirectFromBackend": true, "skipRedirect": 1,
            "redirectFrontend": { "serviceMatcher": { "namespace": "other", "serviceName": 7, "toPorts": [
                { "port": "0", "protocol": "TCP" }, { "port": "53", "protocol": "tcp", "name": "-" }, { "port": 53, "protocol": "UDP", "name": "a" },
            ] } },
            "redirectBackend": {
                "localEndpointSelector": { "matchLabels": { "app": 1 }, "matchExpressions": [
                    { "key": "a", "operator": "In" }, { "key": "b", "operator": "is", "values": ["c"] }, { "operator": "Exists", "values": ["c"] },
                ] },
                "toPorts": [
                    { "port": "80", "protocol": "TCP", "name": "b" }, { "port": "80", "protocol": "TCP", "name": "B" }, { "port": "65536", "protocol": "TCP", "name": "c" },
                ],
            },
        },
    });
    let (read, errors) = Object::read(bad);
    assert!(read.is_empty());
    let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
    for place in [
        "apiVersion: ",
        "spec.skipRedirectFromBackend: true is not in this version",
        "spec.skipRedirect: there is no such field; there are description, redirectBackend,",
        "spec.redirectFrontend.serviceMatcher.namespace: it must be the policy's own, \"ns\"",
        "spec.redirectFrontend.serviceMatcher.serviceName: it is no text",
        "spec.redirectFrontend.serviceMatcher.toPorts[0].port: \"0\" is no port; it must be from 1 to 65535",
        "spec.redirectFrontend.serviceMatcher.toPorts[1].protocol: \"tcp\" is neither TCP nor UDP",
        "spec.redirectFrontend.serviceMatcher.toPorts[1].name: \"-\": ",
        "spec.redirectFrontend.serviceMatcher.toPorts[2].port: it is no text; write a text such as \"53\"",
        "spec.redirectBackend.localEndpointSelector.matchLabels.app: it is no text",
        "spec.redirectBackend.localEndpointSelector.matchExpressions[0].values: ",
        "spec.redirectBackend.localEndpointSelector.matchExpressions[1].operator: \"is\" is none of In,",
        "spec.redirectBackend.localEndpointSelector.matchExpressions[2].key: it is missing",
        "spec.redirectBackend.localEndpointSelector.matchExpressions[2].values: ",
        "spec.redirectBackend.toPorts[1].name: \"b\" is there twice",
        "spec.redirectBackend.toPorts[1].port: 80/TCP is there twice",
        "spec.redirectBackend.toPorts[2].port: \"65536\" is no port",
    ] {
        let start = format!("CiliumLocalRedirectPolicy ns/x: {place}");
        assert_eq!(found.iter().filter(|text| text.starts_with(&start)).count(), 1, "{place}: {found:#?}");
    }
    assert_eq!(found.len(), 17, "{found:#?}");
}

#[test]
fn the_parts_of_a_document_must_fit() {
    let only = |value: Value| {
        let (read, errors) = Object::read(value);
        assert_eq!((read.len(), errors.len()), (0, 1), "{errors:?}");
        errors[0].to_string()
    };
    let at = "CiliumLocalRedirectPolicy default/x: spec.redirectFrontend";
    let mut both = of_address();
    both["serviceMatcher"] = of_service()["serviceMatcher"].clone();
    let address = |ip: &str, ports: Value| json!({ "addressMatcher": { "ip": ip, "toPorts": ports } });
    let unnamed = json!([{ "port": "80", "protocol": "TCP" }, { "port": "81", "protocol": "TCP", "name": "b" }]);
    let named =
        json!([{ "port": "80", "protocol": "TCP", "name": "a" }, { "port": "81", "protocol": "TCP", "name": "b" }]);
    for (frontend, to, told) in [
        (both, one_port(), format!("{at}: it has both addressMatcher and serviceMatcher; leave one of them out")),
        (json!({}), one_port(), format!("{at}: it needs either addressMatcher or serviceMatcher")),
        (
            address("0.0.0.0", one_port()),
            one_port(),
            format!("{at}.addressMatcher.ip: \"0.0.0.0\" is no unicast IP address"),
        ),
        (
            address("10.0.0.1", json!([])),
            one_port(),
            format!("{at}.addressMatcher.toPorts: at least one port is needed"),
        ),
        (
            address("10.0.0.1", unnamed),
            named.clone(),
            format!("{at}.addressMatcher.toPorts[0].name: it is missing; of several"),
        ),
        (
            of_address(),
            json!([{ "port": "53", "protocol": "UDP" }]),
            format!("{at}.addressMatcher.toPorts[0]: it is TCP, and port 53 of spec.redirectBackend.toPorts is UDP"),
        ),
        (
            of_address(),
            named,
            format!("{at}.addressMatcher.toPorts[0]: no port of spec.redirectBackend.toPorts is called \"\""),
        ),
    ] {
        let why = only(policy("x", frontend, to));
        assert!(why.starts_with(&told), "{why}");
    }
    let why = only(json!({ "kind": "CiliumLocalRedirectPolicy", "metadata": { "name": "x" } }));
    assert_eq!(why, "CiliumLocalRedirectPolicy default/x: spec: it is missing");
    let why = only(json!({ "kind": "CiliumLocalRedirectPolicy", "metadata": {}, "spec": {} }));
    assert!(why.ends_with("metadata.name: it is missing"), "{why}");
}
