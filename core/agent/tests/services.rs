//! Services of Kubernetes' objects in a watched directory, beside those of the API.

mod world;

use std::collections::BTreeMap;

use abi::config::Runtime;
use abi::write::MapWrite;
use agent_core::{AgentEvent, Config, Failure, Input, PolicyFile, PolicyFiles, Request, ServiceRequest};
use lb::maglev::{Seed, TableSize};
use world::{Mood, World};

fn config() -> Config {
    let mut config = world::config();
    config.lb.node.addresses = vec![world::ip("192.168.0.1")];
    config.lb.algorithm = lb::Algorithm::Maglev { size: TableSize::new(251).expect("allowed"), seed: Seed::default() };
    config
}

fn file(path: &str, text: &str) -> PolicyFile {
    PolicyFile { path: path.into(), content: Ok(Some(text.to_owned())) }
}

fn files(changes: Vec<PolicyFile>) -> PolicyFiles {
    PolicyFiles { changes }
}

const WEB: &str = "
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.1
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  ports: [{port: 80, nodePort: 30080}]
---
kind: EndpointSlice
addressType: IPv4
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
ports: [{port: 8080}]
endpoints:
- {addresses: [10.0.0.2], nodeName: node-1}
- {addresses: [10.1.0.2], nodeName: node-2}
";

fn frontends(world: &World) -> Vec<String> {
    world.live().services().map(|service| format!("{} {}", service.attributes.kind, service.key())).collect()
}

/// What the maps hold is what the table says, Maglev tables aside (which differ by their numbers).
fn assert_written(world: &World) {
    let of_services = |write: &&MapWrite| {
        let names = ["lb4", "lb6", "lb_"];
        names.iter().any(|name| write.map().name.starts_with(&format!("cilium_{name}")))
    };
    let have: BTreeMap<_, _> = world.maps.iter().filter(|(_, write)| of_services(write)).collect();
    let want: Vec<MapWrite> = world.live().balancer().services().entries().collect();
    let want: BTreeMap<MapWrite, MapWrite> = want.into_iter().map(|write| (write.deletion(), write)).collect();
    assert_eq!(have, want.iter().collect());
}

#[test]
fn a_directory_of_objects_becomes_services() {
    let mut world = World::new(config());
    world.tell(Input::ServiceFiles(files(vec![file("web.yaml", WEB)])));
    assert_eq!(
        frontends(&world),
        [
            "ClusterIP 10.96.0.1:80/TCP",
            "NodePort 192.168.0.1:30080/TCP/i",
            "NodePort 192.168.0.1:30080/TCP",
            "NodePort 0.0.0.0:30080/TCP/i",
            "NodePort 0.0.0.0:30080/TCP",
        ]
    );
    assert_written(&world);
    assert_eq!(world.health[&32_000].local, 1);
    // The endpoint of this node goes: the port says so, and its connections are forgotten once the writes are made.
    world.write = Mood::Holds;
    let gone = WEB.replace("- {addresses: [10.0.0.2], nodeName: node-1}\n", "");
    world.tell(Input::ServiceFiles(files(vec![file("web.yaml", &gone)])));
    assert_eq!(world.health[&32_000].local, 0);
    assert!(world.purged.is_empty(), "there is something in the maps that leads there");
    world.release();
    assert_eq!(world.purged.len(), 5, "{:?}", world.purged);
    assert_written(&world);
    world.tell(Input::ServiceFiles(files(vec![PolicyFile { path: "web.yaml".into(), content: Ok(None) }])));
    assert_eq!(frontends(&world), [""; 0]);
    assert!(world.health.is_empty());
    assert_written(&world);
}

#[test]
fn a_restart_writes_again_what_nobody_could_compare_and_nothing_else() {
    let mut world = World::new(config());
    let mut api = lb::ServiceSpec::new(
        lb::L4Addr { ip: world::ip("10.96.0.9"), port: 53, protocol: lb::Transport::Udp },
        Vec::new(),
    );
    api.attributes.affinity_seconds = 7;
    world.answer(Request::Service(ServiceRequest::Put(Box::new(api.clone())))).expect("valid");
    let found = files(vec![file("web.yaml", WEB)]);
    world.tell(Input::ServiceFiles(found.clone()));
    let before = world.maps.clone();
    world.service_files = Some(found);
    world.restart(|_| {});
    let only_tables = world
        .writes
        .iter()
        .all(|write| matches!(write, MapWrite::Maglev4(..) | MapWrite::Maglev6(..) | MapWrite::Runtime(..)));
    assert!(only_tables, "{:?}", world.writes);
    assert_eq!(world.maps.len(), before.len());
    assert_written(&world);
    let kept = world.live().service_at(&api.frontend).expect("it was kept");
    assert_eq!(kept.attributes.affinity_seconds, 7);
    assert_eq!(world.live().services().count(), 6);
}

/// The programs look for services of any protocol only once they are told that there are some.
#[test]
fn services_of_any_protocol_are_announced_before_they_are_written() {
    let announced = |world: &World| {
        let flag = MapWrite::Runtime(Runtime::AnyProtocol as u32, Some(1));
        world.writes.iter().position(|write| *write == flag)
    };
    let put = |world: &mut World, ip: &str, protocol| {
        let frontend = lb::L4Addr { ip: world::ip(ip), port: 53, protocol };
        let spec = lb::ServiceSpec::new(frontend, Vec::new());
        world.answer(Request::Service(ServiceRequest::Put(Box::new(spec)))).expect("valid");
    };
    let mut world = World::new(config());
    put(&mut world, "10.96.0.8", lb::Transport::Udp);
    assert_eq!(announced(&world), None);
    put(&mut world, "10.96.0.9", lb::Transport::Any);
    let of_any = |write: &MapWrite| matches!(write, MapWrite::Service4(key, Some(_)) if key.proto == 0);
    let written = world.writes.iter().position(of_any).expect("it is written");
    assert!(announced(&world).is_some_and(|at| at < written), "{:?}", world.writes);
    // What an earlier life announced holds for what it wrote.
    world.restart(|_| {});
    let flag = MapWrite::Runtime(Runtime::AnyProtocol as u32, Some(1));
    assert_eq!(world.maps.get(&flag.deletion()), Some(&flag));
}

#[test]
fn a_mistake_in_a_file_takes_nothing_away() {
    let mut world = World::new(config());
    world.tell(Input::ServiceFiles(files(vec![file("web.yaml", WEB)])));
    let before = world.maps.clone();
    let other = "kind: Service\nmetadata: {name: other}\nspec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}\n---\n";
    world.tell(Input::ServiceFiles(files(vec![
        file("web.yaml", "{ what"),
        file("two.yaml", &format!("{other}kind: Service\nmetadata: {{name: bad}}\nspec: {{ports: [{{port: http}}]}}")),
        file("third.yaml", other),
        PolicyFile { path: "gone.yaml".into(), content: Err(Failure { message: "no permission".into() }) },
    ])));
    assert_eq!(frontends(&world).len(), 6, "the service that can be read is there");
    let kept = before.iter().filter(|(key, _)| !matches!(key, MapWrite::Runtime(..)));
    assert!(kept.into_iter().all(|(key, write)| world.maps.get(key) == Some(write)), "what was there stays");
    let problems = world.live().service_problems();
    for part in [
        "web.yaml: ",
        "two.yaml: Service default/bad: spec.ports[0].port: ",
        "third.yaml: Service default/other: two.yaml says already what it is",
        "gone.yaml: no permission",
    ] {
        assert_eq!(problems.iter().filter(|text| text.starts_with(part)).count(), 1, "{part}: {problems:#?}");
    }
    let told = |event: &&AgentEvent| matches!(event, AgentEvent::ServiceFileRefused { .. });
    assert_eq!(world.events.iter().filter(told).count(), 4);
    world.tell(Input::ServiceFiles(files(vec![file("web.yaml", WEB)])));
    assert!(world.live().service_problems().iter().all(|text| !text.starts_with("web.yaml")));
}

#[test]
fn the_api_does_not_change_what_a_file_says() {
    let mut world = World::new(config());
    world.tell(Input::ServiceFiles(files(vec![file("web.yaml", WEB)])));
    let id = world.live().services().next().expect("one").id;
    let why = world.answer(Request::Service(ServiceRequest::Delete(id))).expect_err("a file says so").to_string();
    assert!(why.contains("belongs to Service default/web"), "{why}");
}

/// The kernel has no memory for a while: every write is made in the end, with its table.
#[test]
fn writes_that_fail_are_made_later() {
    let mut world = World::new(config());
    world.write = Mood::Fails;
    world.tell(Input::ServiceFiles(files(vec![file("web.yaml", WEB)])));
    world.pass(std::time::Duration::from_secs(5));
    world.write = Mood::Obeys;
    world.pass(std::time::Duration::from_secs(60));
    assert_written(&world);
}

/// What an agent of the first form kept: no types, and weights that meant nothing.
#[test]
fn services_that_an_earlier_version_kept_are_taken_up() {
    let mut world = World::new(config());
    let kept = r#"[{"id":4,"frontend":{"ip":"10.96.0.9","port":53,"protocol":"UDP"},"name":{"namespace":"a","name":"b"},
        "backends":[{"addr":{"ip":"10.0.0.2","port":53,"protocol":"UDP"},"state":"active","weight":0,"node_name":""}]}]"#;
    world.files.insert(agent_core::StateFile::Services, kept.as_bytes().to_vec());
    world.restart(|_| {});
    let service = world.live().services().next().expect("it was kept").clone();
    assert_eq!((service.id.as_u16(), service.active, service.backends[0].1.weight), (4, 1, lb::WEIGHT_DEFAULT));
    assert_written(&world);
}
