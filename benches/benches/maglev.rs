//! Maglev tables and the tables of services, beside the figures of the original (Cilium 1.17 in Go, Katran in C++, on this kind
//! of machine).
//!
//! First a table: the shortest of several runs of each case on one core, hashing of names included. Then criterion's
//! statistics. With `--json`, the table alone, a row a line.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark stops where its setting cannot be made")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use lb::maglev::{Member, Recipe, Seed, TableSize, Way};
use lb::{Algorithm, Attributes, Backend, Config, L4Addr, ServiceSpec, ServiceType, Services, Transport};

/// Places, backends, whether weights differ, milliseconds of Cilium and of Katran, the aim.
const CASES: [(u32, usize, bool, &str, &str, &str); 5] = [
    (16_381, 100, false, "10.6", "0.35", "0.3"),
    (16_381, 1_000, false, "107", "0.40", "0.35"),
    (131_071, 1_000, false, "787", "3.8", "3"),
    (16_381, 100, true, "", "", ""),
    (16_381, 1_000, true, "", "", ""),
];

fn names(count: usize) -> Vec<String> {
    let mut names: Vec<String> =
        (0..count).map(|n| format!("[10.{}.{}.{}:8080/TCP,State:active]", n >> 16, n >> 8 & 255, n & 255)).collect();
    names.sort();
    names
}

/// Everything from the sorted names on.
fn table(names: &[String], size: TableSize, weighted: bool) -> Vec<u32> {
    let seed = Seed::default().names;
    let weight = |at: usize| if weighted { 1 + (at % 7) as u16 } else { 100 };
    let member = |(at, name): (usize, &String)| Member {
        id: at as u32 + 1,
        weight: weight(at),
        way: Way::of(name.as_bytes(), seed, size),
    };
    Recipe::new(size, names.iter().enumerate().map(member).collect()).table()
}

fn shortest(runs: usize, mut run: impl FnMut()) -> Duration {
    let one = |_| {
        let began = Instant::now();
        run();
        began.elapsed()
    };
    (0..runs).map(one).min().unwrap()
}

fn milliseconds(took: Duration) -> String {
    format!("{:.3}", took.as_secs_f64() * 1e3)
}

fn print_table(json: bool) {
    if !json {
        println!("{:<44}{:>10}{:>10}{:>10}{:>8}", "case (ms, one core)", "here", "Cilium", "Katran", "aim");
    }
    let row = |case: &str, took: Duration, others: [&str; 3]| {
        let [cilium, katran, aim] = others;
        if json {
            return println!("{{\"row\":\"{case}\",\"value\":{},\"unit\":\"ms\"}}", milliseconds(took));
        }
        println!("{case:<44}{:>10}{cilium:>10}{katran:>10}{aim:>8}", milliseconds(took));
    };
    for (places, backends, weighted, cilium, katran, aim) in CASES {
        let (names, size) = (names(backends), TableSize::new(places).unwrap());
        let took = shortest(40, || drop(black_box(table(&names, size, weighted))));
        let weights = if weighted { ", weights 1-7" } else { "" };
        row(&format!("M={places}, {backends} backends{weights}"), took, [cilium, katran, aim]);
    }
    let all: Vec<Vec<String>> = (0..1_000)
        .map(|service| {
            let mut names = names(100);
            names.iter_mut().for_each(|name| name.insert_str(1, &format!("{service}-")));
            names
        })
        .collect();
    let size = TableSize::default();
    let took = shortest(3, || all.iter().for_each(|names| drop(black_box(table(names, size, false)))));
    row("1,000 services x 100 backends", took, ["11100", "", "250"]);
    let specs = specs(10_000, 3);
    let took = shortest(5, || drop(black_box(put_all(&specs, Algorithm::Random))));
    row("10,000 services x 3 into the tables of core", took, ["", "", ""]);
    let mut services = put_all(&specs, Algorithm::Random);
    let mut other = specs[77].clone();
    other.backends[0] = Backend::new(L4Addr { port: 9, ..other.backends[0].addr });
    let mut flip = false;
    let took = shortest(50, || {
        flip = !flip;
        services.put(if flip { other.clone() } else { specs[77].clone() }).unwrap();
    });
    row("one of them changed, in core", took, ["", "", "1"]);
    let mut services = put_all(&specs[..100], Algorithm::Maglev { size, seed: Seed::default() });
    let took = shortest(20, || {
        flip = !flip;
        let planned = services.put(if flip { other.clone() } else { specs[77].clone() }).unwrap();
        planned.tables.iter().for_each(|(_, recipe)| drop(black_box(recipe.table())));
    });
    row("one changed, with its Maglev table", took, ["", "", ""]);
}

fn specs(services: u32, backends: u32) -> Vec<ServiceSpec> {
    let addr = |base: u32, n: u32, port| L4Addr {
        ip: std::net::Ipv4Addr::from_bits(base + n).into(),
        port,
        protocol: Transport::Tcp,
    };
    let one = |service: u32| {
        let members = (0..backends).map(|n| Backend::new(addr(0x0a80_0000, service * backends + n, 8080)));
        ServiceSpec {
            attributes: Attributes { kind: ServiceType::LoadBalancer, ..Attributes::default() },
            ..ServiceSpec::new(addr(0xac10_0000, service, 80), members.collect())
        }
    };
    (0..services).map(one).collect()
}

fn put_all(specs: &[ServiceSpec], algorithm: Algorithm) -> Services {
    let mut services = Services::new(Config { algorithm, ..Config::default() });
    for spec in specs {
        services.put(spec.clone()).unwrap();
    }
    services
}

fn statistics(c: &mut Criterion) {
    let mut group = c.benchmark_group("maglev");
    for (places, backends, weighted, ..) in CASES {
        let (names, size) = (names(backends), TableSize::new(places).unwrap());
        let weights = if weighted { "_weighted" } else { "" };
        group.bench_function(format!("{places}_places_{backends}_backends{weights}"), |b| {
            b.iter(|| black_box(table(&names, size, weighted)));
        });
    }
    group.finish();
}

criterion_group!(benches, statistics);

fn main() {
    let json = std::env::args().any(|text| text == "--json");
    print_table(json);
    if json {
        return;
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
