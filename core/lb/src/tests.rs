use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use abi::be::Port;
use abi::write::MapWrite;
use machine::Rng;

use crate::{Backend, BackendState, Config, L4Addr, Refusal, ServiceId, ServiceName, ServiceSpec, Services, Transport};

fn addr(text: &str, port: u16) -> L4Addr {
    L4Addr { ip: text.parse().expect("a literal"), port, protocol: Transport::Tcp }
}

fn backend(n: u8) -> Backend {
    let addr = addr(&alloc::format!("10.0.1.{n}"), 8080);
    Backend { addr, state: BackendState::Active, weight: 0, node_name: "".into() }
}

fn spec(frontend: u8, backends: &[u8]) -> ServiceSpec {
    ServiceSpec {
        id: None,
        frontend: addr(&alloc::format!("172.16.0.{frontend}"), 80),
        backends: backends.iter().map(|n| backend(*n)).collect(),
        name: ServiceName { namespace: "default".into(), name: "web".into() },
    }
}

type Maps = BTreeMap<MapWrite, MapWrite>;

fn apply(maps: &mut Maps, write: MapWrite) {
    match write.value() {
        Some(_) => maps.insert(write.deletion(), write),
        None => maps.remove(&write),
    };
}

/// What a packet to the frontend can be translated to: a naive reader of the maps. `None`: no service.
fn reachable(maps: &Maps, frontend: &L4Addr) -> Option<BTreeSet<(IpAddr, u16)>> {
    let key = |slot| crate::entries::slot(frontend, slot, None);
    let Some(MapWrite::Service4(_, Some(head))) = maps.get(&key(0)).copied() else { return None };
    assert!(
        maps.contains_key(&MapWrite::RevNat4(head.rev_nat_index, None)),
        "a packet could go out whose reply finds no way back"
    );
    let backends = (1..=head.count).map(|slot| {
        let Some(MapWrite::Service4(_, Some(member))) = maps.get(&key(slot)).copied() else {
            panic!("slot {slot} of {} is counted and not there", head.count)
        };
        let Some(MapWrite::Backend4(_, Some(backend))) =
            maps.get(&MapWrite::Backend4(member.backend_id, None)).copied()
        else {
            panic!("slot {slot} names a backend that is not there")
        };
        (IpAddr::V4(backend.address.into()), Port::host(backend.port))
    });
    Some(backends.collect())
}

fn wanted(spec: &ServiceSpec) -> BTreeSet<(IpAddr, u16)> {
    let active = spec.backends.iter().filter(|backend| backend.state == BackendState::Active);
    active.map(|backend| (backend.addr.ip, backend.addr.port)).collect()
}

/// After every single write of random histories a reader finds only backends of the old or the new service, and in the
/// end exactly the new one; and what the maps hold in the end is what a fresh table would write.
#[test]
fn at_every_prefix_of_the_writes_a_reader_sees_the_old_or_the_new_service() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut services = Services::new(Config::default());
        let mut maps = Maps::new();
        let mut now: BTreeMap<L4Addr, (ServiceId, BTreeSet<(IpAddr, u16)>)> = BTreeMap::new();
        for _ in 0..60 {
            let frontend = rng.below(3) as u8 + 1;
            let mut members: Vec<u8> = (1..8).filter(|_| rng.chance(1, 2)).collect();
            rng.shuffle(&mut members);
            let mut spec = spec(frontend, &members);
            for backend in &mut spec.backends {
                backend.state = *rng
                    .pick(&[
                        BackendState::Active,
                        BackendState::Active,
                        BackendState::Quarantined,
                        BackendState::Terminating,
                    ])
                    .expect("not empty");
            }
            let front = spec.frontend;
            let old = now.get(&front).cloned();
            let planned = match &old {
                Some((id, _)) if rng.chance(1, 5) => {
                    now.remove(&front);
                    services.delete(*id).expect("it is there")
                }
                _ => {
                    let planned = services.put(spec.clone()).expect("valid");
                    assert_eq!(planned.created, old.is_none());
                    now.insert(front, (planned.id, wanted(&spec)));
                    planned
                }
            };
            let new = now.get(&front).map(|(_, backends)| backends.clone());
            let old = old.map(|(_, backends)| backends);
            let either: BTreeSet<_> = old.iter().chain(&new).flatten().copied().collect();
            for write in planned.writes {
                apply(&mut maps, write);
                match reachable(&maps, &front) {
                    None => assert!(old.is_none() || new.is_none(), "seed {seed}: the service was away"),
                    Some(found) => assert!(found.is_subset(&either), "seed {seed}: {found:?} of {either:?}"),
                }
                for (other, (_, backends)) in now.iter().filter(|(other, _)| **other != front) {
                    assert_eq!(reachable(&maps, other).as_ref(), Some(backends), "seed {seed}: another service");
                }
            }
            assert_eq!(reachable(&maps, &front), new, "seed {seed}");
            let all: Maps = services.entries().map(|write| (write.deletion(), write)).collect();
            assert_eq!(maps, all, "seed {seed}: maps and table differ");
        }
    }
}

#[test]
fn numbers_survive_a_restart() {
    let mut before = Services::new(Config::default());
    before.put(spec(1, &[1])).expect("valid");
    let doomed = before.put(spec(2, &[2, 3])).expect("valid").id;
    before.put(spec(3, &[3, 4])).expect("valid");
    before.delete(doomed).expect("it is there");
    let maps: Vec<_> = before.entries().collect();
    let mut after = Services::new(Config::default());
    after.remember(&maps);
    after.put(spec(9, &[9])).expect("valid");
    after.put(spec(3, &[4, 3])).expect("valid");
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
    let text = |spec: ServiceSpec, services: &mut Services| services.put(spec).expect_err("a mistake").to_string();
    let cases: Vec<(ServiceSpec, &str)> = vec![
        (ServiceSpec { frontend: addr("1.2.3.4", 0), ..spec(2, &[]) }, "frontend-address.port"),
        (ServiceSpec { frontend: addr("0.0.0.0", 1), ..spec(2, &[]) }, "frontend-address.ip"),
        (
            ServiceSpec { backends: vec![Backend { addr: addr("10.0.0.1", 0), ..backend(1) }], ..spec(2, &[]) },
            "backend-addresses[0].port",
        ),
        (
            ServiceSpec {
                backends: vec![backend(1), Backend { addr: addr("fd00::1", 1), ..backend(1) }],
                ..spec(2, &[])
            },
            "backend-addresses[1].ip",
        ),
        (spec(2, &[1, 1]), "backend-addresses[1] is listed twice"),
        (spec(2, &[1, 2, 3, 4]), "limit of 3"),
        (ServiceSpec { id: ServiceId::new(77), ..spec(1, &[]) }, "belongs to service 1"),
        (
            ServiceSpec { id: ServiceId::new(1), ..spec(2, &[]) },
            "id 1 belongs to the service with frontend 172.16.0.1:80/TCP",
        ),
    ];
    for (spec, part) in cases {
        let text = text(spec, &mut services);
        assert!(text.contains(part) && text.contains("default/web"), "{text}");
    }
    let mut udp = backend(1);
    udp.addr.protocol = Transport::Udp;
    assert!(text(ServiceSpec { backends: vec![udp], ..spec(2, &[]) }, &mut services).contains("[0].protocol"));
    assert_eq!(
        services.delete(ServiceId::new(9).expect("not 0")),
        Err(Refusal::NotFound(ServiceId::new(9).expect("not 0")))
    );
}

#[test]
fn full_tables_are_named_and_nothing_is_left_half_made() {
    let config = Config { services_max: 2, backends_max: 3, slots_max: 6, ..Config::default() };
    let mut services = Services::new(config);
    services.put(spec(1, &[1, 2])).expect("room");
    let before: Vec<_> = services.entries().collect();
    let table = |result: Result<_, Refusal>| match result {
        Err(Refusal::Full { table, .. }) => table,
        other => panic!("{other:?}"),
    };
    assert_eq!(table(services.put(spec(2, &[3, 4]))), "backend");
    assert_eq!(table(services.put(spec(2, &[1, 2, 3]))), "slot");
    assert_eq!(services.entries().collect::<Vec<_>>(), before);
    services.put(spec(2, &[])).expect("room");
    assert_eq!(table(services.put(spec(3, &[]))), "service");
}
