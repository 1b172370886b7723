//! `connects [--json] [--only WORD] [OBJECT]`: connections a second through a service, against connections to the backend itself.
//!
//! Compared, in turns and in namespaces of their own, with 1, 1,000 and 10,000 services each: services at sockets
//! (this datapath), nftables and iptables in kube-proxy's ways (a verdict map; a chain of jumps, the service asked for being the
//! last). A client process, pinned to one CPU, connects and resets; a server on another accepts.
//!
//! What else a machine does moves rates by a tenth from one second to the next, so that only neighbours are compared: a short
//! run of direct connections and one of the way's make a pair, in turns the one or the other first, and pairs follow until the
//! median of their ratios is known (95 % of such medians lie within [`CLOSE`] of it) or [`LONGEST`] is over. Shown are that
//! median, the interval it lies in, and the median rates. Direct connections are compared with themselves, too: what that row
//! differs from 1 is this rig's own error. Needs root, and two CPUs; takes about two minutes.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command")]

mod fast;
mod rules;
mod site;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use fast::{Fast, Group};
use site::Site;

/// Connections of one run.
const CONNECTIONS: u32 = 400;
/// Pairs of runs of one way: at least, at most.
const PAIRS: std::ops::RangeInclusive<usize> = 30..=250;
/// How far from the median the ends of its interval may be, for it to be known.
const CLOSE: f64 = 0.005;
/// How long one way is tried.
const LONGEST: Duration = Duration::from_secs(7);
/// How many services there are.
const SIZES: [u32; 3] = [1, 1_000, 10_000];
const BACKEND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 200, 0, 1), 8080);

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--client") {
        return site::client();
    }
    let json = args.iter().position(|arg| arg == "--json").map(|at| args.remove(at)).is_some();
    let only = args.iter().position(|arg| arg == "--only").map(|at| args.drain(at..args.len().min(at + 2)).nth(1));
    let only = only.flatten().unwrap_or_default();
    let object = args.pop().map_or_else(built, PathBuf::from);
    if let Err(why) = measure(&object, json, &only) {
        eprintln!("connects: {why}");
        std::process::exit(1);
    }
}

fn built() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    target.join("bpf/cilium.o")
}

/// Address of a service.
fn frontend(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + n)
}

/// A way to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    /// The same once more.
    Again,
    Sockets,
    Nftables,
    Iptables,
}

impl Way {
    /// What is compared with [`Way::Direct`], and the program that sets it up.
    const COMPARED: [(Self, Option<&'static str>); 4] = [
        (Self::Again, None),
        (Self::Sockets, None),
        (Self::Nftables, Some("nft")),
        (Self::Iptables, Some("iptables-restore")),
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Again => "direct again",
            Self::Sockets => "socket LB",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// What came of one way.
struct Row {
    name: String,
    /// Connections a second, and those of its direct neighbours.
    rate: f64,
    direct: f64,
    ratio: Median,
    pairs: usize,
}

fn measure(object: &Path, json: bool, only: &str) -> Result<(), String> {
    let root = loader::check_sock_lb(None).map_err(|why| why.to_string())?;
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cpus < 2 {
        return Err("one CPU for the client and one for the server are needed".into());
    }
    if !json {
        println!(
            "{:<22} {:>9} {:>17} {:>11} {:>11} {:>6}",
            "way, services", "ratio", "95 %", "connects/s", "direct", "pairs"
        );
    }
    for size in SIZES {
        let name = |way: Way| format!("{}, {size}", way.name());
        let wanted = |way: Way| name(way).contains(only) && (way != Way::Again || size == SIZES[0]);
        if !Way::COMPARED.iter().any(|(way, _)| wanted(*way)) {
            continue;
        }
        let mut direct = Site::new(Way::Direct, size, None)?;
        for (way, program) in Way::COMPARED.into_iter().filter(|(way, _)| wanted(*way)) {
            if program.is_some_and(|program| Command::new(program).arg("--version").output().is_err()) {
                eprintln!("skipped: {} ({} is not installed)", name(way), program.unwrap_or_default());
                continue;
            }
            let row = if way == Way::Sockets {
                let group = Group::new(&root)?;
                let _attached = Fast::new(object, size, &group)?;
                let mut site = Site::new(way, size, Some(&group.0))?;
                compare(name(way), &mut direct, &mut site)?
            } else {
                compare(name(way), &mut direct, &mut Site::new(way, size, None)?)?
            };
            show(&row, json);
        }
    }
    Ok(())
}

fn compare(name: String, direct: &mut Site, site: &mut Site) -> Result<Row, String> {
    // The first runs warm up.
    for _ in 0..3 {
        direct.run()?;
        site.run()?;
    }
    let (mut rates, mut ratios) = ([vec![], vec![]], vec![]);
    let began = Instant::now();
    while ratios.len() < *PAIRS.start() || ratios.len() < *PAIRS.end() && began.elapsed() < LONGEST {
        let (one, other) = if ratios.len() % 2 == 0 {
            let one = direct.run()?;
            (one, site.run()?)
        } else {
            let other = site.run()?;
            (direct.run()?, other)
        };
        rates[0].push(one);
        rates[1].push(other);
        ratios.push(other / one);
        // Pairs of both orders alike.
        if ratios.len() % 2 == 0 && ratios.len() >= *PAIRS.start() && Median::of(&ratios).is_close() {
            break;
        }
    }
    let [direct, rate] = rates.map(|all| Median::of(&all).value);
    Ok(Row { name, rate, direct, ratio: Median::of(&ratios), pairs: ratios.len() })
}

/// A median, and the ends of the interval in which 95 % of such medians lie (by the ranks of what was measured).
struct Median {
    low: f64,
    value: f64,
    high: f64,
}

impl Median {
    fn of(all: &[f64]) -> Self {
        let mut all = all.to_vec();
        all.sort_by(f64::total_cmp);
        let (last, count) = (all.len() - 1, all.len() as f64);
        let half = 0.98 * count.sqrt();
        let low = (count / 2.0 - half).floor().max(0.0) as usize;
        Self { low: all[low], value: all[all.len() / 2], high: all[last - low] }
    }

    fn is_close(&self) -> bool {
        (self.high - self.value).max(self.value - self.low) <= CLOSE * self.value
    }
}

fn show(row: &Row, json: bool) {
    let Row { name, rate, direct, ratio: Median { low, value, high }, pairs } = row;
    if json {
        println!(
            "{{\"row\":\"{name}\",\"value\":{value:.3},\"unit\":\"of direct\",\"low\":{low:.3},\"high\":{high:.3},\
             \"rate\":{rate:.0},\"direct\":{direct:.0},\"pairs\":{pairs}}}"
        );
    } else {
        println!("{name:<22} {value:>9.3} {low:>8.3}-{high:<8.3} {rate:>11.0} {direct:>11.0} {pairs:>6}");
    }
}
