//! The same for traffic from outside: XDP, the stages of the network devices, and pods that answer clients; in every
//! forwarding mode, over both families. Beside equality, what must hold of each packet is worked out from the services.

mod check;
mod generate;
mod geneve;
mod view;
mod world;

use std::collections::BTreeMap;

use abi::{
    config::{LB_DSR, LB_DSR_GENEVE, LB_DSR_IPIP, LB_DSR_XLATE_BACKEND, LB_HYBRID, LB_MAGLEV, LB_MODE_BY_SERVICE},
    lb::{RATE_ICMPV6, RateKey},
    write::MapWrite,
};
use datapath_sim::Ways;
use loader::{Datapath, LoaderConfig, Maps, Table};

use crate::{
    arms::{Kernel, Native},
    assert_found, found,
    generate::{Hook, Kind, Stimulus},
    number, packets,
    rng::Rng,
    run::{BETWEEN_MAPS, Difference, Report, contents, first_differences},
    support,
};
use check::Checker;
use generate::{Generator, HOOKS};
use view::Tuple;
use world::{MAGLEV_SIZE, World};

/// Size of the maps that remember connections: more than ever there are.
const CONNECTIONS: u32 = 1 << 17;

struct Bench {
    world: World,
    kernel: Kernel,
    native: Native,
    generator: Generator,
    rng: Rng,
    report: Report,
    checker: Checker,
    /// Of the host, as long as the bench lives.
    sockets: Vec<std::net::UdpSocket>,
}

/// A node in `mode`; `None`, said aloud, where that is impossible.
fn bench(seed: u64, mode: u32) -> Option<(support::Bpffs, Bench)> {
    let (object, fs) = (support::object()?, support::Bpffs::mount()?);
    let (devices, ways, sockets) = world::network();
    let world = World::new(devices);
    let config = world.config(mode);
    let mut loader = LoaderConfig::new(object, config);
    fs.path().clone_into(&mut loader.bpffs);
    for map in ["ct4_global", "ct_any4_global", "ct6_global", "ct_any6_global", "snat_v4_external", "snat_v6_external"]
    {
        loader.map_sizes.insert(format!("cilium_{map}"), CONNECTIONS);
    }
    let datapath = Datapath::open(&loader).unwrap_or_else(|e| panic!("{e}"));
    assert!(datapath.xdp_id().is_some(), "the XDP program loads");
    let mut bench = Bench::new(seed, world, datapath, config, ways);
    bench.sockets = sockets;
    bench.checker.mode = mode;
    bench.generator.geneve = mode & LB_DSR_GENEVE != 0;
    Some((fs, bench))
}

impl Bench {
    fn new(seed: u64, world: World, datapath: Datapath, config: abi::config::NodeConfig, ways: Ways) -> Self {
        let cpu = support::stay_on_one_cpu();
        let mut native = Native::new(config, cpu);
        native.ways = ways;
        let mut bench = Self {
            kernel: Kernel::new(datapath),
            native,
            generator: Generator::new(seed),
            rng: Rng::new(seed ^ 0x5eed),
            report: Report::default(),
            checker: Checker::default(),
            sockets: Vec::new(),
            world,
        };
        let writes = bench.world.writes();
        bench.write(&writes);
        bench
    }

    fn write(&mut self, writes: &[MapWrite]) {
        for (index, table) in self.world.tables() {
            let maps = self.kernel.maps();
            maps.lb4_maglev.insert(index, &table).expect("writing");
            maps.lb6_maglev.insert(index, &table).expect("writing");
            self.native.maps.lb4_maglev.update(index, table.clone(), Default::default()).expect("room");
            self.native.maps.lb6_maglev.update(index, table, Default::default()).expect("room");
        }
        for write in writes {
            self.kernel.write(write);
            self.native.write(write);
        }
    }

    fn compared(&self, hook: Hook) -> u64 {
        self.report.programs.get(&hook).map_or(0, |figures| figures.compared)
    }

    fn run(&mut self, packets: u64) {
        let mut since_maps = 0;
        while HOOKS.iter().any(|hook| self.compared(*hook) < packets) {
            for hook in HOOKS {
                self.one(hook);
                since_maps += 1;
            }
            if self.rng.below(150) == 0 {
                self.change();
            }
            if since_maps >= BETWEEN_MAPS {
                self.compare_maps();
                since_maps = 0;
            }
        }
        self.compare_maps();
    }

    fn one(&mut self, hook: Hook) {
        let stimulus = self.generator.next(hook, &self.world);
        let now = support::coarse_clock_away_from_the_next_second();
        let kernel = self.kernel.run(&stimulus);
        let (turned, ticked) = (support::a_second_may_have_turned(now), now != support::coarse_clock());
        let figures = self.report.programs.entry(hook).or_default();
        let Some(kernel) = kernel else {
            figures.refused += 1;
            figures.refused_short += u64::from(packets::is_short(&stimulus.packet));
            return;
        };
        if turned {
            self.report.between_seconds += 1;
            self.copy();
            // The kernel has run it, and what it opened there is not known.
            self.checker.see_damaged(&stimulus);
            return;
        }
        let native = self.native.run(&stimulus, now);
        self.bucket(&stimulus, ticked);
        if ticked && kernel != native {
            // The arms may have seen the bucket a tick apart: one was allowed to complain, the other was not.
            self.report.between_seconds += 1;
            self.copy();
            self.checker.see_damaged(&stimulus);
            return;
        }
        self.report.programs.entry(hook).or_default().saw(&stimulus, &kernel);
        if stimulus.whole {
            self.checker.see(&self.world, &stimulus, &kernel);
        } else {
            self.checker.see_damaged(&stimulus);
        }
        self.generator.ran(&stimulus, &kernel);
        self.report.compare(stimulus, kernel, native);
    }

    /// The bucket of the node's own errors holds the time to the nanosecond, of which the arms see different ticks: tokens are
    /// compared, unless a tick passed, and the time is the kernel's for both.
    fn bucket(&mut self, stimulus: &Stimulus, ticked: bool) {
        let key = RateKey { usage: RATE_ICMPV6, ifindex: stimulus.ifindex };
        let theirs = self.kernel.maps().ratelimit.get(&key).expect("reading");
        let ours = self.native.maps.ratelimit.lookup_mut(&key).copied();
        if theirs.map(|b| b.tokens) != ours.map(|b| b.tokens) && !ticked {
            let (kernel, native) = (format!("{theirs:?}"), format!("{ours:?}"));
            self.report.differ(Difference::Maps { map: "ratelimit", kernel, native });
        }
        if let Some(bucket) = theirs {
            self.native.maps.ratelimit.update(key, bucket, Default::default()).expect("room");
        }
    }

    /// Backends change, or some connections are taken out of the maps, as if they had been evicted.
    fn change(&mut self) {
        self.report.changes += 1;
        if self.rng.chance(60) {
            let writes = self.world.change(&mut self.rng);
            return self.write(&writes);
        }
        macro_rules! evict {
            ($($map:ident),*) => { $(
                let keys: Vec<_> = self.native.maps.$map.iter().map(|(key, _)| *key).collect();
                for key in keys.iter().filter(|_| self.rng.chance(2)) {
                    self.kernel.maps().$map.remove(key).expect("writing");
                    self.native.maps.$map.delete(key).expect("it is there");
                    let (src, dst) = ((key.a.ip(), key.a_port.host()), (key.b.ip(), key.b_port.host()));
                    self.checker.forget(Tuple { src, dst, protocol: key.protocol });
                }
            )* };
        }
        evict!(ct4, ct_any4, ct6, ct_any6);
    }

    fn compare_maps(&mut self) {
        self.report.map_comparisons += 1;
        let (kernel, native) = (self.kernel.maps(), &self.native.maps);
        let mut found = Vec::new();
        macro_rules! compare {
            ($($map:ident),*) => { $(
                let theirs = contents(&kernel.$map);
                let ours: BTreeMap<_, _> = native.$map.iter().map(|(k, v)| (*k, *v)).collect();
                if stringify!($map).starts_with("ct") {
                    self.report.connections += theirs.len();
                }
                found.extend(first_differences(stringify!($map), &theirs, &ours));
            )* };
        }
        self.report.connections = 0;
        compare!(
            lb4_services,
            lb6_services,
            lb4_backends,
            lb6_backends,
            lb4_reverse_nat,
            lb6_reverse_nat,
            frag4,
            frag6
        );
        compare!(ct4, ct_any4, ct6, ct_any6, snat4, snat6, lb4_affinity, lb6_affinity);
        let counters: BTreeMap<_, _> = kernel.metrics.sums().expect("reading").into_iter().collect();
        let ours: BTreeMap<_, _> = native.metrics[0].iter().map(|(k, v)| (*k, *v)).collect();
        found.extend(first_differences("metrics", &counters, &ours));
        found.into_iter().for_each(|difference| self.report.differ(difference));
    }

    /// Makes the native arm's maps those of the kernel, after a packet whose time is not known.
    fn copy(&mut self) {
        let (kernel, native): (&Maps, _) = (self.kernel.maps(), &mut self.native.maps);
        macro_rules! copy {
            ($($map:ident),*) => { $( copy_table(&kernel.$map, &mut native.$map); )* };
        }
        copy!(frag4, frag6, ct4, ct_any4, ct6, ct_any6, snat4, snat6, lb4_affinity, lb6_affinity, ratelimit);
        for (key, value) in kernel.metrics.sums().expect("reading") {
            native.metrics[0].update(key, value, Default::default()).expect("it is as large");
        }
    }
}

/// An address of a key.
trait ToIp {
    fn ip(self) -> std::net::IpAddr;
}
impl ToIp for abi::be::Addr4 {
    fn ip(self) -> std::net::IpAddr {
        std::net::Ipv4Addr::from(self).into()
    }
}
impl ToIp for abi::be::Wide6 {
    fn ip(self) -> std::net::IpAddr {
        std::net::Ipv6Addr::from(abi::be::Addr6::from(self)).into()
    }
}

fn copy_table<K: abi::Plain + Ord, V: abi::Plain>(kernel: &Table<K, V>, native: &mut datapath_sim::map::Lru<K, V>) {
    for (key, value) in kernel.entries().expect("reading") {
        native.update(key, value, Default::default()).expect("it is as large");
    }
}

/// Runs a mode, prints what was found, and wants nothing. How often each statement was tried.
fn agree(seed: u64, name: &str, mode: u32, packets: u64) -> Option<BTreeMap<&'static str, u64>> {
    let (_fs, mut bench) = bench(number("EQUIVALENCE_SEED", seed), mode)?;
    bench.run(packets);
    println!("{name}:");
    for (what, times) in &bench.checker.tried {
        println!("  {what}: {times} times");
    }
    let broken = &bench.checker.broken;
    assert!(broken.is_empty(), "{}", broken.iter().take(3).cloned().collect::<Vec<_>>().join("\n"));
    crate::show(&bench.report);
    let figures = |hook| &bench.report.programs[&hook];
    assert!(figures(Hook::Xdp).not_dropped > 0 && figures(Hook::Xdp).made(Kind::Reply) > 0);
    for what in ["checksums are right", "the backend lives", "no connection moves while its backend lives"] {
        assert!(bench.checker.tried.get(what).is_some_and(|times| *times > packets / 50), "hardly tried: {what}");
    }
    Some(bench.checker.tried)
}

#[test]
fn they_agree_on_services_with_modes_of_their_own_by_option() {
    let packets = number("EQUIVALENCE_PACKETS", 100_000);
    let _ = agree(0xc111_0101, "by service, option", LB_MODE_BY_SERVICE | LB_MAGLEV, packets);
}

#[test]
fn they_agree_on_services_with_modes_of_their_own_by_ipip() {
    let packets = number("EQUIVALENCE_PACKETS", 100_000) / 4;
    let _ = agree(0xc111_0102, "by service, IPIP", LB_MODE_BY_SERVICE | LB_DSR_IPIP, packets);
}

#[test]
fn they_agree_where_all_is_snat() {
    let _ = agree(0xc111_0103, "SNAT", LB_MAGLEV, number("EQUIVALENCE_PACKETS", 100_000) / 4);
}

#[test]
fn they_agree_where_all_is_dsr() {
    let packets = number("EQUIVALENCE_PACKETS", 100_000) / 4;
    let _ = agree(0xc111_0104, "DSR, option", LB_DSR, packets);
    let _ = agree(0xc111_0105, "DSR, IPIP", LB_DSR | LB_DSR_IPIP | LB_MAGLEV, packets);
}

#[test]
fn they_agree_on_services_with_modes_of_their_own_by_geneve() {
    let packets = number("EQUIVALENCE_PACKETS", 100_000) / 4;
    let _ = agree(0xc111_0109, "by service, Geneve", LB_MODE_BY_SERVICE | LB_DSR_GENEVE | LB_MAGLEV, packets);
}

#[test]
fn they_agree_where_all_is_dsr_by_geneve() {
    let packets = number("EQUIVALENCE_PACKETS", 100_000) / 2;
    let Some(tried) = agree(0xc111_010a, "DSR, Geneve", LB_DSR | LB_DSR_GENEVE, packets) else { return };
    for what in [
        "it goes to its backend's node",
        "what was carried reaches its backend",
        "nobody takes the name of a pod or node",
        "who is not meant takes nothing apart",
    ] {
        assert!(tried.get(what).is_some_and(|times| *times > packets / 2_000), "hardly tried: {what}");
    }
}

#[test]
fn they_agree_where_the_backends_port_is_in_packets_in_packets() {
    let packets = number("EQUIVALENCE_PACKETS", 100_000) / 8;
    let _ = agree(0xc111_010b, "DSR, IPIP, backend's port", LB_DSR | LB_DSR_IPIP | LB_DSR_XLATE_BACKEND, packets);
}

#[test]
fn another_port_of_geneve_is_found_by_the_bytes() {
    let Some((_fs, mut bench)) = bench(0xc111_010c, LB_DSR | LB_DSR_GENEVE) else { return };
    bench.native.config.geneve_port = abi::be::Port::new(6082);
    bench.run(2_000);
    assert_found(Some(found(&bench.report)), "bytes");
}

#[test]
fn a_packet_carried_to_a_stranger_breaks_a_statement() {
    // Both arms alike: they are told of a node that has nothing of it.
    let Some((_fs, mut bench)) = bench(0xc111_010d, LB_DSR | LB_DSR_GENEVE) else { return };
    let stranger = world::stranger();
    bench.write(&stranger);
    for _ in 0..2_000 {
        HOOKS.into_iter().for_each(|hook| bench.one(hook));
    }
    let broken = bench.checker.broken.iter().any(|text| text.starts_with("it goes to its backend's node"));
    assert!(broken, "it was carried to a stranger, and nobody noticed");
    assert_eq!(bench.report.found, 0);
}

#[test]
fn they_agree_where_tcp_is_dsr() {
    let _ = agree(0xc111_0106, "hybrid", LB_HYBRID | LB_MAGLEV, number("EQUIVALENCE_PACKETS", 100_000) / 4);
}

/// Changes one arm only, runs, and says which kinds of difference were found.
fn planted(plant: impl FnOnce(&mut Bench)) -> Option<Vec<&'static str>> {
    let (_fs, mut bench) = bench(0xc111_0107, LB_MODE_BY_SERVICE | LB_MAGLEV)?;
    plant(&mut bench);
    bench.run(2_000);
    Some(found(&bench.report))
}

#[test]
fn another_table_is_found_by_the_bytes() {
    let found = planted(|bench| {
        for (index, mut table) in bench.world.tables() {
            table.rotate_left(1);
            bench.native.maps.lb4_maglev.update(index, table, Default::default()).expect("room");
        }
    });
    assert_found(found, "bytes");
}

#[test]
fn another_range_of_ports_is_found_by_the_maps() {
    assert_found(planted(|bench| bench.native.config.nat_port_min += 1), "maps");
}

#[test]
fn a_client_that_one_arm_lets_in_is_found_by_the_verdict() {
    let found = planted(|bench| bench.native.config.lb_flags &= !abi::config::LB_SOURCE_RANGES);
    assert_found(found, "verdict");
}

#[test]
fn another_length_of_captures_is_found_by_the_events_here_too() {
    assert_found(planted(|bench| bench.native.config.capture_len -= 1), "events");
}

#[test]
fn a_backend_that_takes_what_is_not_its_own_breaks_a_statement() {
    // Both arms alike: only who knows the services can see it.
    let Some((_fs, mut bench)) = bench(0xc111_0108, LB_MAGLEV) else { return };
    let strangers = vec![2; MAGLEV_SIZE as usize];
    let index = abi::be::Port::new(3);
    bench.kernel.maps().lb4_maglev.insert(index, &strangers).expect("writing");
    bench.native.maps.lb4_maglev.update(index, strangers, Default::default()).expect("room");
    for _ in 0..2_000 {
        HOOKS.into_iter().for_each(|hook| bench.one(hook));
    }
    let broken = bench.checker.broken.iter().any(|text| text.starts_with("what goes to a frontend"));
    assert!(broken, "a stranger served, and nobody noticed");
    assert_eq!(bench.report.found, 0);
}
