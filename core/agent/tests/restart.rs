//! An agent that is killed and comes back.

mod world;

use std::collections::BTreeMap;

use abi::write::MapWrite;
use agent_core::{AgentEvent, Phase, PolicyRequest, Replace, Request, Response, ServiceRequest, StateFile};
use endpoint::{EndpointName, State};
use world::{Mood, World, config};

const POLICY: &str = r#"{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy",
    "metadata":{"name":"p","namespace":"default"},
    "spec":{"endpointSelector":{"matchLabels":{"app":"web"}},
    "ingress":[{"fromEndpoints":[{"matchLabels":{"app":"db"}}]}],
    "egress":[{"toCIDRSet":[{"cidr":"192.0.2.0/24","except":["192.0.2.0/28"]}]}]}}"#;

fn put(text: &str) -> Request {
    Request::Policy(PolicyRequest::Put { text: text.into(), replace: Replace::SameObject })
}

fn service() -> Request {
    let addr = |ip: &str, port| lb::L4Addr { ip: ip.parse().expect("a literal"), port, protocol: lb::Transport::Tcp };
    let backend = |ip: &str| lb::Backend::new(addr(ip, 8080));
    Request::Service(ServiceRequest::Put(Box::new(lb::ServiceSpec {
        name: lb::ServiceName { namespace: "default".into(), name: "web".into() },
        ..lb::ServiceSpec::new(addr("172.16.0.1", 80), vec![backend("10.0.0.2"), backend("10.0.0.3")])
    })))
}

/// Two pods, a policy with prefixes, a service.
fn busy() -> World {
    let mut world = World::new(config());
    world.add(1, &["k8s:app=web"]);
    world.add(2, &["k8s:app=db"]);
    world.answer(put(POLICY)).expect("well-formed");
    assert!(matches!(world.answer(service()), Ok(Response::Service { created: true, .. })));
    world
}

/// The maps without revisions and without what rules are called.
fn essence(world: &World) -> BTreeMap<MapWrite, MapWrite> {
    let all = world.maps.iter().filter(|(key, _)| !matches!(key, MapWrite::Runtime(..)));
    all.map(|(key, write)| {
        let write = match *write {
            MapWrite::Policy(key, Some(entry)) => {
                MapWrite::Policy(key, Some(abi::policy::PolicyEntry { cookie: 0, ..entry }))
            }
            write => write,
        };
        (*key, write)
    })
    .collect()
}

#[test]
fn what_is_right_is_not_touched() {
    let mut world = busy();
    let before = essence(&world);
    for _ in 0..3 {
        world.restart(|_| {});
        assert_eq!(world.live().status().phase, Phase::Live);
        assert_eq!(essence(&world), before);
        let touched = world.deciding_writes().into_iter().filter(|write| match write {
            // A rule may be called otherwise; what it decides is the same, as compared above.
            MapWrite::Policy(_, Some(_)) => false,
            _ => true,
        });
        assert_eq!(touched.collect::<Vec<_>>(), []);
        let states: Vec<_> = world.live().endpoints().map(endpoint::Endpoint::state).collect();
        assert_eq!(states, [State::Ready, State::Ready]);
        assert_eq!(world.live().loans().count(), 3);
    }
    // And it goes on as before.
    world.add(3, &["k8s:app=web"]);
}

#[test]
fn before_the_store_is_read_nothing_is_written() {
    let mut world = busy();
    world.kv = Mood::Holds;
    world.restart(|_| {});
    assert_eq!((world.live().status().phase, world.writes.len()), (Phase::Restoring, 0));
    world.release();
    assert_eq!(world.live().status().phase, Phase::Live);
}

#[test]
fn after_a_reboot_everything_is_written_again() {
    let mut world = busy();
    let before = essence(&world);
    let count =
        |maps: &BTreeMap<MapWrite, MapWrite>, name: &str| maps.keys().filter(|key| key.map().name == name).count();
    world.restart(|world| world.maps.clear());
    let after = essence(&world);
    for map in MapWrite::MAPS {
        assert_eq!(count(&after, map.name), count(&before, map.name), "{}", map.name);
    }
    assert!(world.device(1).is_some_and(|device| device.flags == 3));
}

#[test]
fn a_policy_changed_while_no_agent_was_there_replaces_the_old_one_and_leaves_nothing_of_it() {
    let mut world = busy();
    let from = r#""fromEndpoints":[{"matchLabels":{"app":"db"}}]"#;
    let ports = format!(r#"{from},"toPorts":[{{"ports":[{{"port":"80","protocol":"TCP"}}]}}]"#);
    let changed = POLICY.replace(from, &ports);
    world.restart(|world| {
        let value: serde_json::Value = serde_json::from_str(&changed).expect("a literal");
        let file = serde_json::to_vec(&vec![value]).expect("JSON");
        world.files.insert(StateFile::Policies, file);
    });
    let mut fresh = World::new(config());
    fresh.add(1, &["k8s:app=web"]);
    fresh.add(2, &["k8s:app=db"]);
    fresh.answer(put(&changed)).expect("well-formed");
    fresh.answer(service()).expect("well-formed");
    for map in MapWrite::MAPS {
        let count = |world: &World| essence(world).keys().filter(|key| key.map().name == map.name).count();
        assert_eq!(count(&world), count(&fresh), "{}", map.name);
    }
    // No endpoint moved before the entries it moves to were there.
    let flip = world.writes.iter().position(|write| matches!(write, MapWrite::Device(11, Some(_)))).expect("it moves");
    let MapWrite::Device(_, Some(device)) = world.writes[flip] else { panic!("found above") };
    let late = world.writes[flip..]
        .iter()
        .any(|write| matches!(write, MapWrite::Policy(key, Some(_)) if key.policy == device.policy));
    assert!(!late, "its entries come first");
}

#[test]
fn an_unreadable_endpoint_is_closed_and_the_others_are_undisturbed() {
    let mut world = busy();
    let other = world.device(2);
    let id = world.live().endpoint(&"cep-name:default/p1".parse::<EndpointName>().expect("a name")).expect("there").id;
    for garbage in ["", "{", "[]", r#"{"id":77}"#, "\u{0}\u{1}"] {
        let mut world = busy();
        world.restart(|world| {
            world.files.insert(StateFile::Endpoint(id), garbage.as_bytes().to_vec());
        });
        assert_eq!(world.device(1), None, "nothing passes any more");
        assert_eq!(world.device(2).map(|device| device.policy), other.map(|device| device.policy));
        let told = world.events.iter().any(
            |event| matches!(event, AgentEvent::StateFileUnusable { file: StateFile::Endpoint(at), .. } if *at == id),
        );
        assert!(told, "{garbage:?}: {:?}", world.events);
    }
    world.restart(|_| {});
}

#[test]
fn lost_policies_close_until_somebody_says_what_holds() {
    let mut world = busy();
    world.restart(|world| {
        world.files.insert(StateFile::Policies, b"not JSON".to_vec());
    });
    assert!(world.live().status().policies_lost);
    assert_eq!(world.device(1).map(|device| device.flags), Some(3));
    assert_eq!(world.device(2).map(|device| device.flags), Some(3), "closed, although no policy selects it");
    world.answer(put(POLICY)).expect("well-formed");
    assert!(!world.live().status().policies_lost);
    assert_eq!(world.device(1).map(|device| device.flags), Some(3));
    assert_eq!(world.device(2).map(|device| device.flags), Some(0));
}

#[test]
fn lost_services_stay_in_the_kernel() {
    let mut world = busy();
    let services = |world: &World| -> Vec<MapWrite> {
        let lb = |write: &&MapWrite| write.map().name.starts_with("cilium_lb");
        world.maps.values().filter(lb).copied().collect()
    };
    let before = services(&world);
    world.restart(|world| {
        world.files.insert(StateFile::Services, b"[{}]".to_vec());
    });
    assert_eq!(services(&world), before);
    assert!(
        world
            .events
            .iter()
            .any(|event| matches!(event, AgentEvent::StateFileUnusable { file: StateFile::Services, .. }))
    );
    // Given again, it has the same number.
    assert_eq!(
        world.answer(service()).map(|response| matches!(response, Response::Service { id, .. } if id.as_u16() == 1)),
        Ok(true)
    );
    assert_eq!(services(&world), before);
}

#[test]
fn an_endpoint_whose_interface_went_is_gone() {
    let mut world = busy();
    world.restart(|world| {
        world.links.remove(&11);
    });
    assert_eq!(world.device(1), None);
    assert_eq!(world.live().endpoints().count(), 1);
    assert_eq!(world.files.keys().filter(|file| matches!(file, StateFile::Endpoint(_))).count(), 1);
    let of_it = |key: &&MapWrite| matches!(key, MapWrite::Lxc(key, _) if key.ip() == Some(world::ip("10.0.0.2")));
    assert_eq!(world.maps.keys().filter(of_it).count(), 0);
}

#[test]
fn a_crash_between_any_two_writes_is_survived() {
    let mut reference = busy();
    reference.restart(|_| {});
    let wanted = essence(&reference);
    let total = busy().writes.len();
    for kept in 0..total {
        let mut world = World::new(config());
        world.add(1, &["k8s:app=web"]);
        world.add(2, &["k8s:app=db"]);
        world.answer(put(POLICY)).expect("well-formed");
        world.answer(service()).expect("well-formed");
        // The kernel holds only the first of the writes; the state files are as they were left.
        let writes = world.writes.clone();
        world.restart(|world| {
            world.maps.clear();
            for write in &writes[..kept] {
                match write.value() {
                    Some(_) => world.maps.insert(write.deletion(), *write),
                    None => world.maps.remove(write),
                };
            }
        });
        let count = |maps: &BTreeMap<MapWrite, MapWrite>| {
            maps.keys().fold(BTreeMap::<&str, usize>::new(), |mut counts, key| {
                *counts.entry(key.map().name).or_default() += 1;
                counts
            })
        };
        assert_eq!(count(&essence(&world)), count(&wanted), "after {kept} writes");
    }
}
