//! Runs packets through both arms and compares.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fmt::Debug,
};

use abi::{
    Plain,
    config::{NODE_NO_SHORT_WAY, NodeConfig},
    ct::Connection,
    lb::{RATE_ICMPV6, RateKey},
    write::MapWrite,
};
use loader::{Datapath, Interface, Program, Table};

use crate::{
    arms::{Answer, Kernel, Native, hex},
    generate::{Generator, Hook, Kind, Stimulus},
    packets,
    rng::Rng,
    support,
    world::World,
};

/// Programs that have a native twin.
pub const PROGRAMS: [Program; 4] =
    [Program::FromContainer, Program::ToContainer, Program::FromNetdev, Program::FromHost];
/// Packets between comparisons of all maps.
pub const BETWEEN_MAPS: u64 = 20_000;
/// Differences kept.
const KEPT: usize = 20;

/// Where the arms differ.
#[derive(Clone)]
pub enum Difference {
    Verdict {
        stimulus: Stimulus,
        kernel: Answer,
        native: Answer,
    },
    Bytes {
        stimulus: Stimulus,
        kernel: Answer,
        native: Answer,
    },
    Mark {
        stimulus: Stimulus,
        kernel: Answer,
        native: Answer,
    },
    Events {
        stimulus: Stimulus,
        kernel: Answer,
        native: Answer,
    },
    /// The short way made something else of the packet than the long one.
    Way {
        stimulus: Stimulus,
        long: Answer,
        short: Answer,
    },
    Maps {
        map: &'static str,
        kernel: String,
        native: String,
    },
}

impl Difference {
    fn kind(&self) -> &'static str {
        match self {
            Self::Verdict { .. } => "verdict",
            Self::Bytes { .. } => "bytes",
            Self::Mark { .. } => "mark",
            Self::Events { .. } => "events",
            Self::Way { .. } => "way",
            Self::Maps { .. } => "maps",
        }
    }
}

impl Debug for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict { stimulus, kernel, native }
            | Self::Bytes { stimulus, kernel, native }
            | Self::Mark { stimulus, kernel, native }
            | Self::Events { stimulus, kernel, native } => {
                let Stimulus { hook, ifindex, packet, kind, .. } = stimulus;
                writeln!(f, "{} of {hook} at {ifindex}, {kind:?}", self.kind())?;
                writeln!(f, "  in     {}", hex(packet))?;
                write!(f, "kernel: {kernel:?}native: {native:?}")
            }
            Self::Way { stimulus, long, short } => {
                writeln!(f, "the short way of {} at {}", stimulus.hook, stimulus.ifindex)?;
                writeln!(f, "  in     {}", hex(&stimulus.packet))?;
                write!(f, "long: {long:?}short: {short:?}")
            }
            Self::Maps { map, kernel, native } => write!(f, "{map}\n  kernel {kernel}\n  native {native}"),
        }
    }
}

/// Figures of one program.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Packets that both arms ran.
    pub compared: u64,
    /// Packets the kernel does not take: these were not run at all.
    pub refused: u64,
    /// Of those refused: without a whole Ethernet header, or IP without a whole IP header.
    pub refused_short: u64,
    /// Of those compared.
    pub not_dropped: u64,
    /// Packets that came out other than they went in.
    pub rewritten: u64,
    pub events: u64,
    /// By action and argument (drop reasons), or action alone.
    verdicts: BTreeMap<(u32, u32), u64>,
    kinds: BTreeMap<Kind, u64>,
}

impl Figures {
    /// Both arms ran a packet.
    pub fn saw(&mut self, stimulus: &Stimulus, kernel: &Answer) {
        self.compared += 1;
        *self.kinds.entry(stimulus.kind).or_default() += 1;
        let argument = if kernel.is_drop() { kernel.argument } else { 0 };
        *self.verdicts.entry((kernel.action, argument)).or_default() += 1;
        self.not_dropped += u64::from(!kernel.is_drop());
        self.rewritten += u64::from(kernel.packet != stimulus.packet);
        self.events += kernel.events.len() as u64;
    }

    /// How many were made this way.
    pub fn made(&self, kind: Kind) -> u64 {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub programs: BTreeMap<Hook, Figures>,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// All of them.
    pub found: u64,
    pub bad_checksums: u64,
    /// Connections in the maps at the last comparison.
    pub connections: usize,
    pub map_comparisons: u64,
    pub changes: u64,
    /// Packets during which a second passed: what each arm saw of the clock is unknown, so the maps were copied anew.
    pub between_seconds: u64,
    kinds: BTreeSet<&'static str>,
    /// Packets from pods that took the short way.
    pub short: u64,
}

impl Report {
    pub fn differ(&mut self, difference: Difference) {
        self.found += 1;
        self.kinds.insert(difference.kind());
        if self.differences.len() < KEPT {
            self.differences.push(difference);
        }
    }

    /// Compares what the arms made of a packet.
    pub fn compare(&mut self, stimulus: Stimulus, kernel: Answer, native: Answer) {
        if kernel == native {
            return;
        }
        let difference = if (kernel.action, kernel.argument) != (native.action, native.argument) {
            Difference::Verdict { stimulus, kernel, native }
        } else if kernel.packet != native.packet {
            Difference::Bytes { stimulus, kernel, native }
        } else if kernel.mark != native.mark {
            Difference::Mark { stimulus, kernel, native }
        } else {
            Difference::Events { stimulus, kernel, native }
        };
        self.differ(difference);
    }

    pub fn kinds(&self) -> Vec<&'static str> {
        self.kinds.iter().copied().collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (program, figures) in &self.programs {
            let share = figures.not_dropped as f64 * 100.0 / figures.compared.max(1) as f64;
            writeln!(
                f,
                "equivalence {program}: {} packets, {share:.1} % not dropped, {} rewritten, {} events; besides, {} refused by \
                 the kernel ({} for a header cut short)",
                figures.compared, figures.rewritten, figures.events, figures.refused, figures.refused_short
            )?;
            writeln!(f, "  (action, drop reason): {:?}", figures.verdicts)?;
            writeln!(f, "  made as: {:?}", figures.kinds)?;
        }
        write!(
            f,
            "equivalence: {} differences, {} bad checksums, {} connections at the end, {} comparisons of all maps, {} \
             changes meanwhile, {} packets between two seconds, {} from pods by the short way",
            self.found,
            self.bad_checksums,
            self.connections,
            self.map_comparisons,
            self.changes,
            self.between_seconds,
            self.short
        )
    }
}

pub struct Bench {
    pub world: World,
    /// What both arms were given at first.
    #[cfg_attr(not(feature = "libbpf"), expect(dead_code, reason = "only libbpf's maps are filled later"))]
    pub initial: Vec<MapWrite>,
    kernel: Kernel,
    pub native: Native,
    /// As `native`, but every packet goes through all stages: the short way may differ in nothing.
    pub long: Native,
    generator: Generator,
    rng: Rng,
    pub report: Report,
    /// Changes a byte of the native answer: the comparison must notice.
    pub tamper: bool,
}

impl Bench {
    pub fn new(seed: u64, world: World, config: NodeConfig, datapath: Datapath) -> Self {
        let cpu = support::stay_on_one_cpu();
        let mut rng = Rng::new(seed ^ 0x5eed);
        let (kernel, mut native) = (Kernel::new(datapath), Native::new(config, cpu));
        let mut long = Native::new(NodeConfig { flags: config.flags | NODE_NO_SHORT_WAY, ..config }, cpu);
        let initial = world.writes(&mut rng);
        for write in &initial {
            kernel.write(write);
            native.write(write);
            long.write(write);
        }
        let generator = Generator::new(seed);
        Self { world, initial, kernel, native, long, generator, rng, report: Report::default(), tamper: false }
    }

    /// Runs packets through each program in turn, until this many were compared of each.
    pub fn run(&mut self, packets: u64) {
        let mut since_maps = 0;
        let compared = |bench: &Self, program| bench.report.programs.get(&Hook::Tc(program)).map_or(0, |f| f.compared);
        while PROGRAMS.iter().any(|program| compared(self, *program) < packets) {
            for program in PROGRAMS {
                self.one(program);
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
        self.report.short = self.native.short;
    }

    /// Runs this many packets through each program in the kernel and through `other`, which must answer alike (but for
    /// events). Returns how many both ran, and how many of those were not dropped.
    #[cfg(feature = "libbpf")]
    pub fn run_beside(&mut self, packets: u64, other: impl Fn(&Stimulus) -> Option<Answer>) -> (u64, u64) {
        let (mut compared, mut not_dropped) = (0, 0);
        for n in 0..packets * PROGRAMS.len() as u64 {
            let program = PROGRAMS[(n % PROGRAMS.len() as u64) as usize];
            let stimulus = self.generator.next(program, &self.world);
            let now = support::coarse_clock_away_from_the_next_second();
            let (first, second) = (self.kernel.run(&stimulus), other(&stimulus));
            if support::a_second_may_have_turned(now) {
                // The arms may have written times a second apart, which decides nothing within the minutes of a run.
                continue;
            }
            let first = first.map(|answer| Answer { events: Vec::new(), ..answer });
            assert_eq!(first, second, "{program}: {}", hex(&stimulus.packet));
            let Some(answer) = first else { continue };
            compared += 1;
            not_dropped += u64::from(!answer.is_drop());
            self.generator.ran(&stimulus, (!answer.is_drop()).then_some(answer.packet));
        }
        (compared, not_dropped)
    }

    fn one(&mut self, program: Program) {
        let stimulus = self.generator.next(program, &self.world);
        let now = support::coarse_clock_away_from_the_next_second();
        let kernel = self.kernel.run(&stimulus);
        let (turned, ticked) = (support::a_second_may_have_turned(now), now != support::coarse_clock());
        let figures = self.report.programs.entry(stimulus.hook).or_default();
        let Some(kernel) = kernel else {
            figures.refused += 1;
            figures.refused_short += u64::from(packets::is_short(&stimulus.packet));
            return;
        };
        if turned {
            self.report.between_seconds += 1;
            self.copy_connections();
            return;
        }
        let mut native = self.native.run(&stimulus, now);
        let long = self.long.run(&stimulus, now);
        if ticked && (kernel.action, kernel.argument) != (native.action, native.argument) {
            // The arms may have seen the bucket of the node's own errors a tick apart: only one was allowed to complain.
            self.report.between_seconds += 1;
            self.copy_connections();
            return;
        }
        let same = long == native;
        let key = RateKey { usage: RATE_ICMPV6, ifindex: stimulus.ifindex };
        if let Some(bucket) = self.kernel.maps().ratelimit.get(&key).expect("reading") {
            // It holds a time to the nanosecond, of which the arms see different ticks: from here on all have the kernel's.
            for arm in [&mut self.native, &mut self.long] {
                arm.maps.ratelimit.update(key, bucket, Default::default()).expect("room");
            }
        }
        if self.tamper && self.rng.below(20) == 0 {
            native.packet[0] ^= 1;
        }
        figures.saw(&stimulus, &kernel);
        let output = (!kernel.is_drop()).then(|| kernel.packet.clone());
        if stimulus.whole && output.as_deref().is_some_and(|packet| !packets::checksums_hold(packet)) {
            self.report.bad_checksums += 1;
        }
        if !same {
            let stimulus = stimulus.clone();
            self.report.differ(Difference::Way { stimulus, long, short: native.clone() });
        }
        self.generator.ran(&stimulus, output);
        self.report.compare(stimulus, kernel, native);
    }

    /// Something changes on both sides: configuration, or the age of some connections.
    fn change(&mut self) {
        self.report.changes += 1;
        if self.rng.chance(30) {
            self.age();
            return;
        }
        for write in self.world.change(&mut self.rng) {
            self.kernel.write(&write);
            self.native.write(&write);
            self.long.write(&write);
        }
    }

    /// Some connections end now, and some were reported long ago.
    fn age(&mut self) {
        let now = (support::coarse_clock() / 1_000_000_000) as u32;
        let rng = &mut self.rng;
        let mut older = |connection: &mut Connection| {
            if rng.chance(50) {
                connection.lifetime = now.saturating_sub(rng.below(3) as u32);
            } else {
                connection.last_tx_report = now.saturating_sub(4 + rng.below(4) as u32);
                connection.last_rx_report = now.saturating_sub(4 + rng.below(4) as u32);
            }
        };
        let maps = self.kernel.datapath.maps();
        let (native, long) = (&mut self.native.maps, &mut self.long.maps);
        age_some(&maps.ct4, [&mut native.ct4, &mut long.ct4], |entry| older(&mut entry.connection));
        age_some(&maps.ct_any4, [&mut native.ct_any4, &mut long.ct_any4], |entry| older(&mut entry.connection));
        age_some(&maps.ct6, [&mut native.ct6, &mut long.ct6], |entry| older(&mut entry.connection));
        age_some(&maps.ct_any6, [&mut native.ct_any6, &mut long.ct_any6], |entry| older(&mut entry.connection));
    }

    fn compare_maps(&mut self) {
        self.report.map_comparisons += 1;
        let (kernel, native) = (self.kernel.maps(), &self.native.maps);
        let mut found = Vec::new();
        let mut connections = 0;
        macro_rules! compare {
            ($($map:ident),*) => { $(
                let theirs = contents(&kernel.$map);
                let ours: BTreeMap<_, _> = native.$map.iter().map(|(k, v)| (*k, *v)).collect();
                if stringify!($map).starts_with("ct") {
                    connections += theirs.len();
                }
                found.extend(first_differences(stringify!($map), &theirs, &ours));
                let long: BTreeMap<_, _> = self.long.maps.$map.iter().map(|(k, v)| (*k, *v)).collect();
                found.extend(first_differences(concat!(stringify!($map), " of the long way"), &long, &ours));
            )* };
        }
        compare!(lxc, devices, ipcache, policy, lb4_services, lb6_services, lb4_backends, lb6_backends);
        compare!(
            lb4_reverse_nat,
            lb6_reverse_nat,
            frag4,
            frag6,
            ct4,
            ct_any4,
            ct6,
            ct_any6,
            lb4_affinity,
            lb6_affinity
        );
        let counters: BTreeMap<_, _> = kernel.metrics.sums().expect("reading").into_iter().collect();
        let ours: BTreeMap<_, _> = native.metrics[0].iter().map(|(k, v)| (*k, *v)).collect();
        found.extend(first_differences("metrics", &counters, &ours));
        let long: BTreeMap<_, _> = self.long.maps.metrics[0].iter().map(|(k, v)| (*k, *v)).collect();
        found.extend(first_differences("metrics of the long way", &long, &ours));
        self.report.connections = connections;
        found.into_iter().for_each(|difference| self.report.differ(difference));
    }

    /// Makes the native arm's maps those of the kernel, after a packet whose time is not known.
    fn copy_connections(&mut self) {
        let (kernel, native, long) = (self.kernel.maps(), &mut self.native.maps, &mut self.long.maps);
        macro_rules! copy {
            ($($map:ident),*) => { $(
                for (key, value) in kernel.$map.entries().expect("reading") {
                    native.$map.update(key, value, Default::default()).expect("it is as large");
                    long.$map.update(key, value, Default::default()).expect("it is as large");
                }
            )* };
        }
        copy!(frag4, frag6, ct4, ct_any4, ct6, ct_any6, lb4_affinity, lb6_affinity, ratelimit);
        for (key, value) in kernel.metrics.sums().expect("reading") {
            native.metrics[0].update(key, value, Default::default()).expect("it is as large");
            long.metrics[0].update(key, value, Default::default()).expect("it is as large");
        }
    }
}

pub fn contents<K: Plain + Ord, V: Plain>(table: &Table<K, V>) -> BTreeMap<K, V> {
    table.entries().expect("reading").into_iter().collect()
}

/// A few of the entries that one side has otherwise, or not at all.
pub fn first_differences<K: Ord + Copy + Debug, V: Copy + PartialEq + Debug>(
    map: &'static str,
    kernel: &BTreeMap<K, V>,
    native: &BTreeMap<K, V>,
) -> Vec<Difference> {
    let keys: BTreeSet<K> = kernel.keys().chain(native.keys()).copied().collect();
    let differing = keys.into_iter().filter(|key| kernel.get(key) != native.get(key));
    let show = |side: &BTreeMap<K, V>, key: &K| format!("{key:?} {:?}", side.get(key));
    differing
        .take(5)
        .map(|key| Difference::Maps { map, kernel: show(kernel, &key), native: show(native, &key) })
        .collect()
}

/// Changes a hundred entries on both sides alike.
fn age_some<K: Plain + Ord, V: Plain>(
    kernel: &Table<K, V>,
    native: [&mut datapath_sim::map::Lru<K, V>; 2],
    mut change: impl FnMut(&mut V),
) {
    let [native, long] = native;
    let some: Vec<(K, V)> = native.iter().map(|(key, value)| (*key, *value)).step_by(7).take(100).collect();
    for (key, mut value) in some {
        change(&mut value);
        kernel.insert(&key, &value).expect("it is there");
        native.update(key, value, Default::default()).expect("it is there");
        long.update(key, value, Default::default()).expect("it is there");
    }
}

/// A network namespace for this thread with six interfaces.
pub fn six_interfaces() -> [u32; 6] {
    support::in_new_network_namespace();
    support::ip(&["link", "add", "c", "type", "veth", "peer", "name", "d"]);
    support::ip(&["link", "add", "e", "type", "veth", "peer", "name", "f"]);
    ["left", "right", "c", "d", "e", "f"].map(|name| Interface::by_name(name).expect("it was just made").index)
}
