//! The policy engine at scale, beside the figures of the original (Cilium 1.17 in Go on this kind of machine).
//!
//! First a table: time, bytes allocated, bytes kept and map entries of one run of each case. Then criterion's
//! statistics of the cases that are short enough.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark stops where its setting cannot be made")]

use criterion::{BatchSize, Criterion, criterion_group};
use policy::{
    Config, EndpointFacts, Engine, ObjectKey, ObjectKind, PolicyObject,
    rule::{
        Action, CidrRule, CidrScope, Peer, PeerRule, Peers, Place, PortMatch, PortRange, PortRule, PortSpec, Ports,
        Rule, Subject,
    },
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};
use types::{
    Cidr, EndpointId, Label, Labels, NumericIdentity, Protocol,
    selector::{Requirement, Selector, SelectorKey},
};

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system allocator unchanged; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

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
    EndpointId::new(u16::try_from(n + 1).unwrap()).unwrap()
}

fn facts(labels: Labels) -> EndpointFacts {
    EndpointFacts { labels, ..EndpointFacts::default() }
}

fn identity(n: usize) -> NumericIdentity {
    NumericIdentity::new(256 + u32::try_from(n).unwrap())
}

/// 1,000 rules that each select one of 1,000 apps; `per_rule` identities share an app.
fn selectors(rules: usize, identities: usize, per_rule: usize) -> Engine {
    let mut engine = engine();
    for n in 0..identities {
        engine.upsert_identity(identity(n), &pod(n % 50, n / per_rule)).unwrap();
    }
    for n in 0..rules {
        let peer = Peer::Labels(with(&[("app", format!("app-{n}"))]));
        engine.upsert_object(object(n, Selector::everything(), vec![allow(vec![peer], tcp(80))], vec![])).unwrap();
    }
    engine
}

fn disjoint_cidrs(one_rule: bool) -> Engine {
    let mut engine = engine();
    let peers = (0..10_000u32)
        .map(|n| {
            let addr = std::net::Ipv4Addr::from_bits(0x0a00_0000 + (n << 8));
            let cidr = Cidr::new(addr.into(), 24).unwrap();
            Peer::Cidr(CidrRule { cidr, except: Vec::new(), scope: CidrScope::World })
        })
        .collect();
    engine.upsert_object(object(0, Selector::everything(), vec![], rules_of(peers, one_rule))).unwrap();
    engine
}

/// One rule with all peers, or a rule for each.
fn rules_of(peers: Vec<Peer>, one_rule: bool) -> Vec<PeerRule> {
    if one_rule {
        return vec![allow(peers, tcp(443))];
    }
    let index = |n: usize| u16::try_from(n).unwrap();
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
            let addr = std::net::Ipv4Addr::from_bits(0x0a00_0000 | (random() & 0x003f_ffff));
            let bits = 10 + u8::try_from(random() % 21).unwrap();
            let cidr = Cidr::containing(addr.into(), bits).unwrap();
            let inner = (bits + 1 + u8::try_from(random() % 8).unwrap()).min(32);
            let except = vec![Cidr::containing(addr.into(), inner).unwrap()];
            Peer::Cidr(CidrRule { cidr, except, scope: CidrScope::World })
        })
        .collect();
    engine.upsert_object(object(0, Selector::everything(), vec![], rules_of(peers, one_rule))).unwrap();
    engine
}

/// 100 endpoints with policies of their own, each with ten ports for one app.
fn hundred_policies() -> Engine {
    let mut engine = engine();
    for n in 0..1_000 {
        engine.upsert_identity(identity(n), &pod(n % 50, n % 100)).unwrap();
    }
    for n in 0..100 {
        let ports = (0..10).map(|p| allow(vec![Peer::Labels(with(&[("app", "app-7".into())]))], tcp(8000 + p)));
        let subject = with(&[("app", format!("app-{n}"))]);
        engine.upsert_object(object(n, subject, ports.collect(), vec![])).unwrap();
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
        engine.upsert_object(object(n, with(&[namespace(n)]), ingress, egress)).unwrap();
    }
    for n in 0..pods {
        engine.upsert_identity(identity(n), &pod(n % policies, n % 10)).unwrap();
        let addr = std::net::Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(n).unwrap());
        engine.upsert_address(Cidr::host(addr.into()), identity(n), &[]).unwrap();
    }
    for n in 0..100 {
        engine.upsert_endpoint(endpoint(n), facts(pod(n * 50 % policies, n % 10)));
    }
    engine
}

fn row<T>(name: &str, original: &str, aim: &str, run: impl FnOnce() -> (T, String)) -> T {
    let (allocated, live) = (ALLOCATED.load(Ordering::Relaxed), LIVE.load(Ordering::Relaxed));
    let start = Instant::now();
    let (kept, note) = run();
    let time = start.elapsed();
    let allocated = (ALLOCATED.load(Ordering::Relaxed) - allocated) as f64 / 1e6;
    let live = (LIVE.load(Ordering::Relaxed) as f64 - live as f64) / 1e6;
    println!("| {name} | {time:.2?} | {allocated:.1} MB | {live:+.1} MB | {note} | {original} | {aim} |");
    kept
}

fn sizes(engine: &Engine) -> String {
    let s = engine.stats();
    format!("{} entries, {} classes, {} policies", s.entries, s.classes, s.policies)
}

fn table() {
    println!("| case | time | allocated | kept | result | original | aim |\n|---|---|---|---|---|---|---|");
    let mut cold = selectors(1_000, 1_000, 1);
    row("cold: 1,000 selectors x 1,000 identities, first endpoint", "218 ms, 93 MB", "<= 5 ms", || {
        cold.upsert_endpoint(endpoint(0), facts(pod(0, 0)));
        ((), sizes(&cold))
    });
    for (name, one_rule) in [("10,000 rules", false), ("one rule", true)] {
        let mut disjoint = disjoint_cidrs(one_rule);
        row(
            &format!("cold: 10,000 disjoint /24 in {name}, first endpoint"),
            "29.8 s, 12 GB, 10,001 entries",
            "<= 50 ms",
            || {
                disjoint.upsert_endpoint(endpoint(0), facts(pod(0, 0)));
                ((), sizes(&disjoint))
            },
        );
        let mut nested = nested_cidrs(one_rule);
        let aim = "<= 50 ms, <= 20,000 entries";
        row(
            &format!("10,000 nested CIDRs with except in {name}, first endpoint"),
            "0.81 s, 587,239 entries",
            aim,
            || {
                nested.upsert_endpoint(endpoint(0), facts(pod(0, 0)));
                ((), sizes(&nested))
            },
        );
    }
    let mut warm = selectors(100, 1_000, 10);
    warm.upsert_endpoint(endpoint(0), facts(pod(0, 0)));
    row("warm: 100 apps of 10 identities, second endpoint, same rules", "11 ms, 5.6 MB", "<= 1 ms", || {
        let delta = warm.upsert_endpoint(endpoint(1), facts(pod(0, 1)));
        ((), format!("{} entry writes", delta.entry_writes()))
    });
    let mut hundred = hundred_policies();
    row(
        "identity added, class known, 100 policies x 10 keys",
        "6.0 ms, 2.5 MB, 1,000 writes",
        "<= 50 us, 0 writes",
        || {
            let delta = hundred.upsert_identity(identity(5_000), &pod(3, 7)).unwrap();
            ((), format!("{} entry writes, {} in all", delta.entry_writes(), delta.writes.len()))
        },
    );
    let big = row("load 1,000 rules x 10,000 identities x 100 endpoints", "", "", || {
        let mut engine = selectors(1_000, 10_000, 10);
        for n in 0..100 {
            engine.upsert_endpoint(endpoint(n), facts(pod(n % 50, n)));
        }
        let note = format!("{}; identities x ports: {}", sizes(&engine), 10_000 * 100);
        (engine, note)
    });
    drop(big);
    let mut cluster =
        row("load 21,000 policies, 15,000 pods, 21,000 namespaces", "1.5-3 GB, minutes", "<= 250 MB, < 10 s", || {
            let engine = cluster(21_000, 15_000);
            let note = sizes(&engine);
            (engine, note)
        });
    for (name, app) in [("there: identity of a known class added", 3), ("there: identity of a new class added", 77)] {
        row(name, "", "<= 1 ms", || {
            let delta = cluster.upsert_identity(identity(40_000 + app), &pod(50, app)).unwrap();
            ((), format!("{} entry writes", delta.entry_writes()))
        });
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
        row(name, "", "<= 1 ms", || {
            let subject = with(&[("io.kubernetes.pod.namespace", "ns-50".into())]);
            let rule = allow(vec![Peer::Labels(peer)], tcp(9_999));
            let delta = cluster.upsert_object(object(n, subject, vec![rule], vec![])).unwrap();
            ((), format!("{} entry writes, {} in all", delta.entry_writes(), delta.writes.len()))
        });
    }
    row("there: one namespace's label changed (its pod gets a new identity)", "", "<= 1 ms", || {
        let mut labels = pod(50, 0);
        labels.insert(label("io.cilium.k8s.namespace.labels.team", "red"));
        let mut delta = cluster.upsert_identity(identity(50_000), &labels).unwrap();
        let addr = Cidr::host(std::net::Ipv4Addr::from_bits(0x0a00_0000 + 50).into());
        delta.append(cluster.upsert_address(addr, identity(50_000), &[]).unwrap());
        delta.append(cluster.remove_identity(identity(50)));
        ((), format!("{} entry writes, {} in all", delta.entry_writes(), delta.writes.len()))
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
            black_box(hundred.upsert_identity(identity(5_000), &pod(3, 7)).unwrap());
            black_box(hundred.remove_identity(identity(5_000)));
        });
    });
    group.finish();
}

criterion_group!(benches, statistics);

fn main() {
    table();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
