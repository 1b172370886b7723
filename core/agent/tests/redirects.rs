//! Policies of local redirection, from a file of the watched directory to the writes, as this node's endpoints come and go.

mod world;

use abi::write::MapWrite;
use agent_core::{AgentEvent, EndpointRequest, Input, PolicyFile, PolicyFiles, Request};
use endpoint::EndpointName;
use types::Labels;
use world::{Mood, World, ip};

const DNS: &str = "
kind: Service
metadata: {name: dns}
spec: {clusterIP: 10.96.0.10, ports: [{port: 53, protocol: UDP}]}
---
kind: EndpointSlice
addressType: IPv4
metadata: {name: dns-1, labels: {kubernetes.io/service-name: dns}}
ports: [{port: 5353, protocol: UDP}]
endpoints: [{addresses: [10.1.0.9], nodeName: node-2}]
---
apiVersion: cilium.io/v2
kind: CiliumLocalRedirectPolicy
metadata: {name: cache}
spec:
  redirectFrontend: {serviceMatcher: {serviceName: dns, namespace: default}}
  redirectBackend:
    localEndpointSelector: {matchLabels: {app: cache}}
    toPorts: [{port: \"1053\", protocol: UDP}]
";

fn tell(world: &mut World, text: &str) {
    let content = Ok(Some(text.to_owned()));
    world.tell(Input::ServiceFiles(PolicyFiles { changes: vec![PolicyFile { path: "dns.yaml".into(), content }] }));
}

/// Where traffic to the service goes, as the maps say: through the head's count, its slots, and the backends they name.
fn goes_to(world: &World) -> Vec<String> {
    let count = world.maps.values().find_map(|write| match write {
        MapWrite::Service4(key, Some(head)) if key.backend_slot == 0 => Some(head.count),
        _ => None,
    });
    let slot = |at: u16| {
        world.maps.values().find_map(|write| match write {
            MapWrite::Service4(key, Some(slot)) if key.backend_slot == at => Some(slot.backend_id),
            _ => None,
        })
    };
    let backend = |id: u32| match world.maps.get(&MapWrite::Backend4(id, None)) {
        Some(MapWrite::Backend4(_, Some(backend))) => {
            format!("{}:{}", std::net::Ipv4Addr::from(backend.address), backend.port.host())
        }
        _ => panic!("slot names backend {id}, which is not there"),
    };
    (1..=count.unwrap_or_default()).map(|at| backend(slot(at).expect("it is counted"))).collect()
}

fn create(world: &mut World, number: u8, labels: &[&str]) {
    let request = world.pod(number, labels);
    world.answer(request).expect("created");
}

fn named(number: u8) -> EndpointName {
    EndpointName::Attachment(format!("c{number}:eth0").into())
}

#[test]
fn traffic_follows_the_pods_of_the_node() {
    let mut world = World::new(world::config());
    tell(&mut world, DNS);
    assert_eq!(goes_to(&world), ["10.1.0.9:5353"]);
    create(&mut world, 1, &["k8s:app=web"]);
    create(&mut world, 2, &["k8s:app=cache"]);
    let addr = {
        let mut endpoints = world.live().endpoints();
        endpoints.find(|one| one.spec.ifindex == 12).and_then(|one| one.spec.ipv4).expect("it has one")
    };
    let here = [format!("{addr}:1053")];
    assert_eq!(goes_to(&world), here);
    // A pod is written before traffic is led to it.
    let written = |world: &World, wanted: &dyn Fn(&MapWrite) -> bool| world.writes.iter().position(wanted);
    let lxc = written(
        &world,
        &|write| matches!(write, MapWrite::Lxc(key, Some(_)) if *key == abi::endpoint::EndpointKey::new(addr.into())),
    );
    let led = written(
        &world,
        &|write| matches!(write, MapWrite::Backend4(_, Some(one)) if std::net::Ipv4Addr::from(one.address) == addr),
    );
    assert!(lxc.is_some() && lxc < led, "{lxc:?} {led:?}");
    // A restart finds it as it was.
    let content = Ok(Some(DNS.to_owned()));
    world.service_files = Some(PolicyFiles { changes: vec![PolicyFile { path: "dns.yaml".into(), content }] });
    world.restart(|_| {});
    assert_eq!(goes_to(&world), here);
    let touched = |write: &&MapWrite| matches!(write, MapWrite::Service4(..) | MapWrite::Backend4(..));
    assert_eq!(world.writes.iter().filter(touched).count(), 0, "what is right is not written again");
    // Its labels change, and change back.
    let labels = |text: &str| Labels::parse([text]);
    world.answer(Request::Endpoint(EndpointRequest::SetLabels(named(2), labels("k8s:app=web")))).expect("taken");
    world.pass(world.config.identity_change_grace * 2);
    assert_eq!(goes_to(&world), ["10.1.0.9:5353"]);
    world.answer(Request::Endpoint(EndpointRequest::SetLabels(named(2), labels("k8s:app=cache")))).expect("taken");
    world.pass(world.config.identity_change_grace * 2);
    assert_eq!(goes_to(&world), here);
    // It goes: traffic is led elsewhere before its device is closed.
    world.writes.clear();
    world.answer(Request::Endpoint(EndpointRequest::Delete(named(2)))).expect("deleted");
    assert_eq!(goes_to(&world), ["10.1.0.9:5353"]);
    let closed = written(&world, &|write| matches!(write, MapWrite::Device(_, None)));
    let away = written(&world, &|write| matches!(write, MapWrite::Service4(key, Some(_)) if key.backend_slot == 1));
    assert!(away.is_some() && away < closed, "{away:?} {closed:?}");
}

#[test]
fn an_address_is_redirected_and_given_back() {
    let mut world = World::new(world::config());
    let text = "
kind: CiliumLocalRedirectPolicy
metadata: {name: metadata}
spec:
  redirectFrontend: {addressMatcher: {ip: 169.254.169.254, toPorts: [{port: '80', protocol: TCP}]}}
  redirectBackend: {localEndpointSelector: {matchLabels: {app: metadata}}, toPorts: [{port: '8181', protocol: TCP}]}
";
    tell(&mut world, text);
    assert_eq!(goes_to(&world), [""; 0]);
    create(&mut world, 1, &["k8s:app=metadata"]);
    let frontend = lb::L4Addr { ip: ip("169.254.169.254"), port: 80, protocol: lb::Transport::Tcp };
    assert_eq!(goes_to(&world).len(), 1);
    assert_eq!(
        world.live().service_at(&frontend).expect("it is there").attributes.kind,
        lb::ServiceType::LocalRedirect
    );
    // Its interface is gone: so is everything of it, once its writes are made.
    world.write = Mood::Obeys;
    world.tell(Input::LinkVanished(11));
    assert_eq!(world.live().services().count(), 0);
    let left = world
        .maps
        .keys()
        .filter(|key| matches!(key, MapWrite::Service4(..) | MapWrite::Backend4(..) | MapWrite::RevNat4(..)));
    assert_eq!(left.count(), 0);
}

#[test]
fn mistakes_are_told_with_file_document_and_field_and_take_nothing_away() {
    let mut world = World::new(world::config());
    tell(&mut world, DNS);
    create(&mut world, 2, &["k8s:app=cache"]);
    let before = goes_to(&world);
    let bad = DNS.replace("toPorts: [{port: \"1053\", protocol: UDP}]", "toPorts: [{port: \"x\", protocol: udp}]");
    assert_ne!(bad, DNS);
    tell(&mut world, &bad);
    assert_eq!(goes_to(&world), before, "what it last said stays in force");
    let problems = world.live().service_problems();
    let at = "dns.yaml: CiliumLocalRedirectPolicy default/cache: spec.redirectBackend.toPorts[0].";
    for field in ["port: \"x\" is no port; it must be from 1 to 65535", "protocol: \"udp\" is neither TCP nor UDP"] {
        assert!(problems.contains(&format!("{at}{field}")), "{problems:#?}");
    }
    assert!(world.events.iter().any(|event| matches!(event, AgentEvent::ServiceFileRefused { .. })));
    tell(&mut world, DNS);
    assert_eq!(world.live().service_problems(), [""; 0]);
}
