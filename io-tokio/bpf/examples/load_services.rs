//! Prints how long it takes to load services into the kernel, and to change one: `load_services [--json] [SERVICES] [BACKENDS]`.
//!
//! Services go the way they go in the agent: into core's tables, through the ordered sequence of writes, in batches of its
//! size, into kernel maps. Needs root.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    missing_docs,
    reason = "a program that measures and prints"
)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::write::MapWrite;
use lb::maglev::{Recipe, Seed, TableId, TableSize};
use lb::{
    Algorithm, Attributes, Backend, Config, L4Addr, Planned, ServiceSpec, ServiceType, Services, Transport, together,
};
use loader::Maps;
use machine::OpIds;
use table::Sequence;

/// Writes of one operation, as in the agent.
const BATCH_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Element(MapWrite);

impl table::Write for Element {
    fn deletion(&self) -> Self {
        Self(self.0.deletion())
    }
    fn is_deletion(&self) -> bool {
        self.0.value().is_none()
    }
}

/// A BPF file system of its own.
struct Bpffs(PathBuf);

impl Drop for Bpffs {
    fn drop(&mut self) {
        let path = CString::new(self.0.to_str().unwrap()).unwrap();
        // SAFETY: the path is a terminated string.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        let _ = std::fs::remove_dir(&self.0);
    }
}

struct Agent<'a> {
    maps: &'a Maps,
    services: Services,
    sequence: Sequence<Element, ()>,
}

impl<'a> Agent<'a> {
    fn new(maps: &'a Maps, algorithm: Algorithm) -> Self {
        let pace = table::Config {
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(1),
            batch_max: BATCH_MAX,
        };
        Self {
            maps,
            services: Services::new(Config { algorithm, backends_max: 65_536, ..Config::default() }),
            sequence: Sequence::new(pace, OpIds::default(), []),
        }
    }

    /// Returns how long core took, how long the kernel took, and how many writes it were.
    fn change(&mut self, change: impl FnOnce(&mut Services) -> Vec<Planned>) -> (Duration, Duration, usize) {
        let began = Instant::now();
        let planned = change(&mut self.services);
        let tables: BTreeMap<TableId, Arc<Recipe>> = planned.iter().flat_map(|one| one.tables.clone()).collect();
        for write in together(planned.into_iter().map(|one| one.writes)) {
            self.sequence.put(Element(write));
        }
        let decided = began.elapsed();
        let (mut count, now) = (0, machine::Instant::ZERO);
        let began = Instant::now();
        while let (Some((op, writes)), _) = self.sequence.advance(now) {
            let writes: Vec<MapWrite> = writes.into_iter().map(|element| element.0).collect();
            bpf::apply(self.maps, &writes, &tables).unwrap();
            self.sequence.settle(now, op, None).unwrap();
            count += writes.len();
        }
        (decided, began.elapsed(), count)
    }
}

fn addr(base: u32, n: u32, port: u16) -> L4Addr {
    L4Addr { ip: Ipv4Addr::from_bits(base + n).into(), port, protocol: Transport::Tcp }
}

fn spec(service: u32, backends: u32, kind: ServiceType) -> ServiceSpec {
    let members = (0..backends).map(|n| Backend::new(addr(0x0a80_0000, service * backends + n, 8080)));
    ServiceSpec {
        attributes: Attributes { kind, ..Attributes::default() },
        ..ServiceSpec::new(addr(0xac10_0000, service, 80), members.collect())
    }
}

fn run(maps: &Maps, json: bool, title: &str, algorithm: Algorithm, kind: ServiceType, [count, backends]: [u32; 2]) {
    let mut agent = Agent::new(maps, algorithm);
    let specs: Vec<ServiceSpec> = (0..count).map(|service| spec(service, backends, kind)).collect();
    let report = |what: &str, (core, kernel, writes): (Duration, Duration, usize)| {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        if json {
            let (total, core, kernel) = (ms(core + kernel), ms(core), ms(kernel));
            println!(
                "{{\"row\":\"{title}: {what}\",\"value\":{total:.3},\"unit\":\"ms\",\"core\":{core:.3},\"kernel\":{kernel:.3},\
                 \"writes\":{writes}}}"
            );
            return;
        }
        println!(
            "{title}: {what}: {:.3} ms ({:.3} core, {:.3} kernel, {writes} writes)",
            ms(core + kernel),
            ms(core),
            ms(kernel)
        );
    };
    report(
        &format!("{count} services x {backends} backends loaded"),
        agent.change(|services| specs.iter().map(|spec| services.put(spec.clone()).unwrap()).collect()),
    );
    let mut other = specs[count as usize / 2].clone();
    other.backends[0] = Backend::new(addr(0x0b00_0000, 1, 8080));
    let mut changes: Vec<_> = (0..40)
        .map(|round| {
            let next = if round % 2 == 0 { other.clone() } else { specs[count as usize / 2].clone() };
            agent.change(|services| vec![services.put(next).unwrap()])
        })
        .collect();
    changes.sort_by_key(|(core, kernel, _)| *core + *kernel);
    report("one backend of one service replaced (median of 40)", changes[changes.len() / 2]);
    let one = spec(count, backends, kind);
    let mut pairs: Vec<_> = (0..10)
        .flat_map(|_| {
            let mut id = None;
            let come = agent.change(|services| {
                let planned = services.put(one.clone()).unwrap();
                id = Some(planned.id);
                vec![planned]
            });
            [come, agent.change(|services| vec![services.delete(id.unwrap()).unwrap()])]
        })
        .collect();
    pairs.sort_by_key(|(core, kernel, _)| *core + *kernel);
    report("one service added or deleted (median of 20)", pairs[pairs.len() / 2]);
    let ids: Vec<_> = agent.services.iter().map(|service| service.id).collect();
    report("all deleted", agent.change(|services| ids.iter().map(|id| services.delete(*id).unwrap()).collect()));
}

fn main() {
    let json = std::env::args().skip(1).any(|text| text == "--json");
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let services = numbers.first().copied().unwrap_or(10_000);
    let backends = numbers.get(1).copied().unwrap_or(3);
    let path = std::env::temp_dir().join(format!("cilium-load-services-{}", std::process::id()));
    if let Err(why) = loader::check_kernel()
        .map_err(|why| why.to_string())
        .and_then(|()| loader::ensure_bpffs(&path).map_err(|why| why.to_string()))
    {
        eprintln!("load_services: {why}");
        std::process::exit(1);
    }
    let fs = Bpffs(path);
    let maps = Maps::prepare(&fs.0, &BTreeMap::new()).unwrap();
    run(&maps, json, "ClusterIP", Algorithm::Random, ServiceType::ClusterIp, [services, backends]);
    let maglev = Algorithm::Maglev { size: TableSize::default(), seed: Seed::default() };
    run(
        &maps,
        json,
        "LoadBalancer with Maglev tables",
        maglev,
        ServiceType::LoadBalancer,
        [services.min(1_000), backends],
    );
    run(&maps, json, "LoadBalancer with Maglev tables", maglev, ServiceType::LoadBalancer, [services.min(100), 100]);
}
