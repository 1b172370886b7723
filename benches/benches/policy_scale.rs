//! The policy engine at scale, beside the figures of the original (Cilium 1.17 in Go on this kind of machine).
//!
//! First a table: time, bytes allocated, bytes kept and map entries of each case, the median of five runs where a run is
//! short. Then criterion's statistics of the cases that are short enough. `POLICY_SCALE=word` takes only the rows of the
//! table whose name holds the word, and no statistics. The table as measured, and the original's figures: README.md.

#![allow(missing_docs, reason = "a benchmark's parts are its own")]

use cilium_benches::counting::{Counting, count};
use criterion::{BatchSize, Criterion, criterion_group};
use policy::{
    Config, Delta, EndpointFacts, Engine, ObjectKey, ObjectKind, PolicyObject, Refused,
    rule::{
        Action, CidrRule, CidrScope, Peer, PeerRule, Peers, Place, PortMatch, PortRange, PortRule, PortSpec, Ports,
        Rule, Subject,
    },
};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};
use types::{
    Cidr, EndpointId, Label, Labels, NumericIdentity, Protocol,
    selector::{Requirement, Selector, SelectorKey},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn label(key: &str, value: impl std::fmt::Display) -> Label {
    Label::k8s(key, &value.to_string())
}

fn pod(namespace: usize, app: usize) -> Labels {
    [
        label("app", format_args!("app-{app}")),
        label("io.kubernetes.pod.namespace", format_args!("ns-{namespace}")),
        label("io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", format_args!("ns-{namespace}")),
        label("io.cilium.k8s.policy.cluster", "default"),
        label("io.cilium.k8s.policy.serviceaccount", "default"),
    ]
    .into_iter()
    .collect()
}

fn with(pairs: &[(&str, String)]) -> Selector {
    pairs.iter().map(|(key, value)| Requirement::equals(SelectorKey::k8s(key), value)).collect()
}

fn tcp(port: u16) -> Ports {
    let port = PortMatch { protocol: Protocol::Tcp, port: PortSpec::Range(PortRange::single(port)) };
    Ports::Listed(vec![PortRule { ports: vec![port], l7: None }])
}

fn allow(peers: Vec<Peer>, ports: Ports) -> PeerRule {
    PeerRule { action: Action::Allow, index: 0, peers: Peers::Listed(peers), ports, requires: Vec::new(), auth: None }
}

fn object(name: usize, subject: Selector, ingress: Vec<PeerRule>, egress: Vec<PeerRule>) -> PolicyObject {
    let key = ObjectKey { kind: ObjectKind::Rules, namespace: "".into(), name: format!("policy-{name}").into() };
    let rule = Rule {
        place: Place::Spec,
        subject: Subject::Endpoints(subject),
        ingress_default_deny: (!ingress.is_empty()).then_some(true),
        egress_default_deny: (!egress.is_empty()).then_some(true),
        ingress,
        egress,
        description: "".into(),
    };
    PolicyObject { key, uid: "".into(), labels: Labels::default(), rules: vec![rule], notices: Vec::new() }
}

fn engine() -> Engine {
    Engine::new(Config { allow_localhost: false, ..Config::default() }).0
}

fn endpoint(n: usize) -> EndpointId {
    u16::try_from(n + 1).ok().and_then(EndpointId::new).expect("a case has far fewer than 65,535 endpoints")
}

fn facts(labels: Labels) -> EndpointFacts {
    EndpointFacts { labels, ..EndpointFacts::default() }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("counts of a case fit")
}

/// The IPv4 prefix at a number.
fn prefix(addr: u32, bits: u8) -> Cidr {
    Cidr::containing(std::net::Ipv4Addr::from_bits(addr).into(), bits).expect("at most 32 bits")
}

/// Facts of a case are far below every bound of the engine.
fn taken(outcome: Result<Delta, Refused>) -> Delta {
    outcome.expect("far below the bounds")
}

fn identity(n: usize) -> NumericIdentity {
    NumericIdentity::new(256 + number(n))
}

/// 1,000 rules that each select one of 1,000 apps; `per_rule` identities share an app.
fn selectors(rules: usize, identities: usize, per_rule: usize) -> Engine {
    let mut engine = engine();
    for n in 0..identities {
        taken(engine.upsert_identity(identity(n), &pod(n % 50, n / per_rule)));
    }
    for n in 0..rules {
        let peer = Peer::Labels(with(&[("app", format!("app-{n}"))]));
        taken(engine.upsert_object(object(n, Selector::everything(), vec![allow(vec![peer], tcp(80))], vec![])));
    }
    engine
}

fn disjoint_cidrs(one_rule: bool) -> Engine {
    let mut engine = engine();
    let peers = (0..10_000u32)
        .map(|n| {
            let cidr = prefix(0x0a00_0000 + (n << 8), 24);
            Peer::Cidr(CidrRule { cidr, except: Vec::new(), scope: CidrScope::World })
        })
        .collect();
    taken(engine.upsert_object(object(0, Selector::everything(), vec![], rules_of(peers, one_rule))));
    engine
}

/// One rule with all peers, or a rule for each.
fn rules_of(peers: Vec<Peer>, one_rule: bool) -> Vec<PeerRule> {
    if one_rule {
        return vec![allow(peers, tcp(443))];
    }
    let index = |n: usize| u16::try_from(n).expect("a rule has fewer than 65,536 entries");
    peers.into_iter().enumerate().map(|(n, p)| PeerRule { index: index(n), ..allow(vec![p], tcp(443)) }).collect()
}

/// Prefixes of /10 to /30, nested in each other, each with an exception one to eight bits longer.
fn nested_cidrs(one_rule: bool) -> Engine {
    let mut engine = engine();
    let mut state = 1u32;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let peers = (0..10_000)
        .map(|_| {
            let addr = 0x0a00_0000 | (random() & 0x003f_ffff);
            let bits = 10 + random().to_le_bytes()[0] % 21;
            let cidr = prefix(addr, bits);
            let inner = (bits + 1 + random().to_le_bytes()[0] % 8).min(32);
            let except = vec![prefix(addr, inner)];
            Peer::Cidr(CidrRule { cidr, except, scope: CidrScope::World })
        })
        .collect();
    taken(engine.upsert_object(object(0, Selector::everything(), vec![], rules_of(peers, one_rule))));
    engine
}

/// Prefixes of five lengths nested in three of eight bits, each rule with one of 97 ports: the shape of the CIDR rules
/// the original's own benchmarks make. A /8 is named by some 667 rules, so its addresses have all the ports.
fn nested_with_ports() -> Engine {
    let mut engine = engine();
    let rules = (1..=10_000u32).map(|n| {
        let base = [10u32, 192, 244][(n % 3) as usize] << 24;
        let (second, third) = ((n % 17) << 16, (n % 121) << 8);
        let cidr = match n % 5 {
            0 => prefix(base, 8),
            1 => prefix(base | second, 16),
            2 => prefix(base | second | third, 24),
            3 => prefix(base | second | third | ((n % 16) << 4), 28),
            _ => prefix(base | second | third | (n % 255), 32),
        };
        let peer = Peer::Cidr(CidrRule { cidr, except: Vec::new(), scope: CidrScope::World });
        let [low, high, ..] = (80 + n % 97).to_le_bytes();
        let [first, second, ..] = (n - 1).to_le_bytes();
        PeerRule {
            index: u16::from_le_bytes([first, second]),
            ..allow(vec![peer], tcp(u16::from_le_bytes([low, high])))
        }
    });
    taken(engine.upsert_object(object(0, Selector::everything(), vec![], rules.collect())));
    engine
}

/// 100 endpoints with policies of their own, each with ten ports for one app.
fn hundred_policies() -> Engine {
    let mut engine = engine();
    for n in 0..1_000 {
        taken(engine.upsert_identity(identity(n), &pod(n % 50, n % 100)));
    }
    for n in 0..100 {
        let ports = (0..10).map(|p| allow(vec![Peer::Labels(with(&[("app", "app-7".into())]))], tcp(8000 + p)));
        let subject = with(&[("app", format!("app-{n}"))]);
        taken(engine.upsert_object(object(n, subject, ports.collect(), vec![])));
        engine.upsert_endpoint(endpoint(n), facts(pod(0, n)));
    }
    engine
}

/// A cluster: a namespace per policy, pods spread over them, 100 endpoints here.
fn cluster(policies: usize, pods: usize) -> Engine {
    let mut engine = engine();
    for n in 0..policies {
        let namespace = |n: usize| ("io.kubernetes.pod.namespace", format!("ns-{n}"));
        let own = Peer::Labels(with(&[namespace(n)]));
        let other = Peer::Labels(with(&[namespace((n + 1) % policies), ("app", format!("app-{}", n % 10))]));
        let dns = Peer::Labels(with(&[namespace(0), ("app", "app-0".into())]));
        let ingress = vec![allow(vec![own.clone(), other], tcp(8080))];
        let egress = vec![allow(vec![own], Ports::All), allow(vec![dns], tcp(53))];
        taken(engine.upsert_object(object(n, with(&[namespace(n)]), ingress, egress)));
    }
    for n in 0..pods {
        taken(engine.upsert_identity(identity(n), &pod(n % policies, n % 10)));
        taken(engine.upsert_address(prefix(0x0a00_0000 + number(n), 32), identity(n), &[]));
    }
    for n in 0..100 {
        engine.upsert_endpoint(endpoint(n), facts(pod(n * 50 % policies, n % 10)));
    }
    engine
}

/// What a row says besides its measurements.
struct Row<'a> {
    name: &'a str,
    original: &'a str,
    aim: &'a str,
}

/// Runs per row whose setting can be copied.
const RUNS: usize = 5;

impl Row<'_> {
    fn is_wanted(&self) -> bool {
        std::env::var("POLICY_SCALE").map_or(true, |word| self.name.contains(&word))
    }

    /// Changes copies of an engine; the run of median time is shown.
    fn change(&self, engine: &Engine, change: impl Fn(&mut Engine) -> String) {
        if !self.is_wanted() {
            return;
        }
        let mut runs: Vec<(Duration, f64, f64, String)> = (0..RUNS)
            .map(|_| {
                let mut engine = engine.clone();
                measure(|| change(&mut engine))
            })
            .collect();
        runs.sort_by_key(|run| run.0);
        self.show(&runs[RUNS / 2]);
    }

    /// Makes an engine, once.
    fn make(&self, make: impl FnOnce() -> Engine) -> Engine {
        let mut made = None;
        let run = measure(|| {
            let engine = make();
            let note = sizes(&engine);
            made = Some(engine);
            note
        });
        if self.is_wanted() {
            self.show(&run);
        }
        made.expect("it was made a moment ago")
    }

    fn show(&self, (time, allocated, live, note): &(Duration, f64, f64, String)) {
        let Row { name, original, aim } = self;
        println!("| {name} | {time:.2?} | {allocated:.1} MB | {live:+.1} MB | {note} | {original} | {aim} |");
    }
}

/// Time, megabytes allocated, megabytes kept.
fn measure(work: impl FnOnce() -> String) -> (Duration, f64, f64, String) {
    let start = Instant::now();
    let ((note, time), used) = count(|| (work(), start.elapsed()));
    (time, used.allocated as f64 / 1e6, used.kept as f64 / 1e6, note)
}

fn sizes(engine: &Engine) -> String {
    let s = engine.stats();
    format!("{} entries, {} classes, {} policies", s.entries, s.classes, s.policies)
}

fn writes(delta: &Delta) -> String {
    format!("{} entry writes, {} in all", delta.entry_writes(), delta.writes.len())
}

fn first_endpoint(engine: &mut Engine) -> String {
    engine.upsert_endpoint(endpoint(0), facts(pod(0, 0)));
    sizes(engine)
}

fn table() {
    println!("| case | time | allocated | kept | result | original | aim |\n|---|---|---|---|---|---|---|");
    let row = |name, original, aim| Row { name, original, aim };
    row("cold: 1,000 selectors x 1,000 identities, first endpoint", "218 ms, 93 MB", "<= 5 ms")
        .change(&selectors(1_000, 1_000, 1), first_endpoint);
    let disjoint = "29.8 s, 12 GB, 10,001 entries";
    row("cold: 10,000 disjoint /24 in 10,000 rules, first endpoint", disjoint, "<= 50 ms")
        .change(&disjoint_cidrs(false), first_endpoint);
    row("cold: 10,000 disjoint /24 in one rule, first endpoint", disjoint, "<= 50 ms")
        .change(&disjoint_cidrs(true), first_endpoint);
    let (nested, aim) = ("0.81 s, 587,239 entries", "<= 50 ms, <= 20,000 entries");
    row("10,000 nested CIDRs with except in 10,000 rules, first endpoint", nested, aim)
        .change(&nested_cidrs(false), first_endpoint);
    row("10,000 nested CIDRs with except in one rule, first endpoint", nested, aim)
        .change(&nested_cidrs(true), first_endpoint);
    row("10,000 rules of the original's generator: nested CIDRs, 97 ports", nested, aim)
        .change(&nested_with_ports(), first_endpoint);
    let mut warm = selectors(1_000, 1_000, 10);
    first_endpoint(&mut warm);
    row(
        "warm: 1,000 rules x 1,000 identities, 10 a rule, next endpoint",
        "11 ms, 5.6 MB, 10,001 entries again",
        "<= 1 ms",
    )
    .change(&warm, |engine| writes(&engine.upsert_endpoint(endpoint(1), facts(pod(0, 1)))));
    row("identity added, class known, 100 policies x 10 keys", "6.0 ms, 2.5 MB, 1,000 writes", "<= 50 us, 0 writes")
        .change(&hundred_policies(), |engine| writes(&taken(engine.upsert_identity(identity(5_000), &pod(3, 7)))));
    row("load 1,000 rules x 10,000 identities x 100 endpoints (identities x ports: 1,000,000)", "", "").make(|| {
        let mut engine = selectors(1_000, 10_000, 10);
        for n in 0..100 {
            engine.upsert_endpoint(endpoint(n), facts(pod(n % 50, n)));
        }
        engine
    });
    there();
}

/// The large cluster, and changes in it.
fn there() {
    let row = |name, aim| Row { name, original: "", aim };
    let load = Row {
        name: "load 21,000 policies, 15,000 pods, 21,000 namespaces",
        original: "1.5-3 GB, minutes",
        aim: "<= 250 MB, < 10 s",
    };
    let cluster = load.make(|| cluster(21_000, 15_000));
    for (name, app) in [("there: identity of a known class added", 3), ("there: identity of a new class added", 77)] {
        row(name, "<= 1 ms")
            .change(&cluster, |engine| writes(&taken(engine.upsert_identity(identity(40_000 + app), &pod(50, app)))));
    }
    let app = |namespace: Option<&str>| {
        let place = namespace.map(|n| ("io.kubernetes.pod.namespace", n.to_string()));
        let pairs: Vec<_> = place.into_iter().chain([("app", "app-5".to_string())]).collect();
        with(&pairs)
    };
    for (n, name, peer) in [
        (99_998, "there: one rule added, peer an app of a namespace", app(Some("ns-105"))),
        (99_999, "there: one rule added that selects 1,500 pods of all namespaces", app(None)),
    ] {
        row(name, "<= 1 ms").change(&cluster, |engine| {
            let subject = with(&[("io.kubernetes.pod.namespace", "ns-50".into())]);
            let rule = allow(vec![Peer::Labels(peer.clone())], tcp(9_999));
            writes(&taken(engine.upsert_object(object(n, subject, vec![rule], vec![]))))
        });
    }
    row("there: one namespace's label changed (its pod gets a new identity)", "<= 1 ms").change(&cluster, |engine| {
        let mut labels = pod(50, 0);
        labels.insert(label("io.cilium.k8s.namespace.labels.team", "red"));
        let mut delta = taken(engine.upsert_identity(identity(50_000), &labels));
        delta.append(taken(engine.upsert_address(prefix(0x0a00_0000 + 50, 32), identity(50_000), &[])));
        delta.append(engine.remove_identity(identity(50)));
        writes(&delta)
    });
}

fn statistics(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy");
    group.sample_size(10);
    let cold = selectors(1_000, 1_000, 1);
    group.bench_function("cold_1000_selectors_1000_identities", |b| {
        b.iter_batched(
            || cold.clone(),
            |mut engine| {
                black_box(engine.upsert_endpoint(endpoint(0), facts(pod(0, 0))));
                engine
            },
            BatchSize::LargeInput,
        );
    });
    let disjoint = disjoint_cidrs(false);
    group.bench_function("cold_10000_disjoint_cidrs", |b| {
        b.iter_batched(
            || disjoint.clone(),
            |mut engine| {
                black_box(engine.upsert_endpoint(endpoint(0), facts(pod(0, 0))));
                engine
            },
            BatchSize::LargeInput,
        );
    });
    let mut hundred = hundred_policies();
    group.bench_function("identity_of_known_class_added_and_removed", |b| {
        b.iter(|| {
            black_box(taken(hundred.upsert_identity(identity(5_000), &pod(3, 7))));
            black_box(hundred.remove_identity(identity(5_000)));
        });
    });
    group.finish();
}

criterion_group!(benches, statistics);

fn main() {
    table();
    if std::env::var_os("POLICY_SCALE").is_some() {
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
