//! `cargo xtask measure`: what one node costs, in numbers, with a baseline in the same run.
//!
//! Nothing here passes or fails: speed is a figure, not a test. Pod to pod is compared with two namespaces that the
//! kernel alone routes between, in short slices that take turns (A B A B), so that a slow moment of the machine
//! hits both. Agent and plugin are the lab's own, built with optimisation.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netlink::{End, Namespace, Netlink, Route, VethPair, sysctl};
use serde_json::json;
use types::MacAddr;

use super::node::Lab;
use super::place::Place;
use super::pod::Pod;
use super::{Profile, build, namespace};
use crate::shell::is_root;

/// How long one slice of traffic lasts.
const SLICE: Duration = Duration::from_millis(500);
/// Slices of each kind.
const SLICES: usize = 9;

/// Measures and prints a table; `json` prints the same for scripts.
pub fn measure(json: bool) -> Result<()> {
    if !is_root() {
        bail!("measuring makes network namespaces and loads eBPF programs: run it as root");
    }
    let place = Place::claim("measure")?;
    place.take_down();
    let programs = build(Profile::Release)?;
    super::report::hear_interrupts();
    let mut lab = Lab::new(place, programs, false, 0);
    let mut table = Table { json, rows: Vec::new() };
    let outcome = walk(&mut lab, &mut table);
    lab.take_down();
    table.print();
    outcome
}

fn walk(lab: &mut Lab, table: &mut Table) -> Result<()> {
    lab.build()?;
    lab.start_agent()?;
    std::thread::sleep(Duration::from_secs(3));
    table.row("agent, resident, idle", lab.agent_rss_mib()?, "MiB", Some(40.0));
    let pods: Vec<Pod> = (0..100).map(pod).collect();
    adds(lab, &pods, table)?;
    std::thread::sleep(Duration::from_secs(3));
    table.row("agent, resident, 100 endpoints", lab.agent_rss_mib()?, "MiB", Some(80.0));
    let pair = [lab.pods[0].clone(), lab.pods[1].clone()];
    let base = Baseline::build(lab.place())?;
    traffic(lab, &pair, &base, "no rules", table)?;
    policies(lab, table)?;
    lab.apply("rules.yaml", &thousand_rules())?;
    traffic(lab, &pair, &base, "1,000 rules", table)?;
    Ok(())
}

/// A pod of the measurement. Names live as long as the process: there are a hundred of them.
fn pod(number: usize) -> Pod {
    let name: &'static str = Box::leak(format!("m{number}").into_boxed_str());
    let label: &'static str = Box::leak(format!("app=m{}", number % 10).into_boxed_str());
    let labels: &'static [&'static str] = Box::leak(vec![label].into_boxed_slice());
    Pod { name, namespace: "default", labels, ips: Vec::new() }
}

/// Adds pods one after the other, then ten at a time.
fn adds(lab: &mut Lab, pods: &[Pod], table: &mut Table) -> Result<()> {
    let (alone, together) = pods.split_at(50);
    let mut took = Vec::new();
    for pod in alone {
        lab.make_namespace(pod)?;
        let (pod, time) = lab.attach(pod.clone())?;
        lab.pods.push(pod);
        took.push(time);
    }
    quantiles(table, "CNI ADD, one at a time", &mut took);
    let mut took = Vec::new();
    for ten in together.chunks(10) {
        for pod in ten {
            lab.make_namespace(pod)?;
        }
        let shared: &Lab = lab;
        let added: Vec<_> = std::thread::scope(|scope| {
            let handles: Vec<_> = ten.iter().map(|pod| scope.spawn(move || shared.attach(pod.clone()))).collect();
            handles.into_iter().map(|handle| handle.join().expect("attaching does not panic")).collect()
        });
        for result in added {
            let (pod, time) = result?;
            lab.pods.push(pod);
            took.push(time);
        }
    }
    quantiles(table, "CNI ADD, ten at a time", &mut took);
    Ok(())
}

fn quantiles(table: &mut Table, what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
    let aim = what.contains("one at").then_some(30.0);
    table.row(&format!("{what}, p50"), at(50), "ms", aim);
    table.row(&format!("{what}, p99"), at(99), "ms", None);
}

/// From handing a policy in to its being enforced on all endpoints it selects (50 of the 100).
fn policies(lab: &Lab, table: &mut Table) -> Result<()> {
    let mut spawn = Vec::new();
    let mut took = Vec::new();
    for round in 0..9 {
        let began = Instant::now();
        lab.cilium(&["--help"])?;
        spawn.push(began.elapsed());
        let text = one_policy(round);
        let file = lab.draft("measured.json", &text)?;
        let before = lab.policy_revision()?;
        let began = Instant::now();
        lab.cilium(&["policy", "import", &file])?;
        lab.settle(before)?;
        took.push(began.elapsed());
    }
    spawn.sort_unstable();
    took.sort_unstable();
    let ms = |all: &[Duration]| all[all.len() / 2].as_secs_f64() * 1e3;
    table.row("policy import to enforced, 50 endpoints, by 3 commands, median", ms(&took), "ms", None);
    table.row("one command that does nothing, median", ms(&spawn), "ms", None);
    table.row("policy import to enforced, net of 3 commands", ms(&took) - 3.0 * ms(&spawn), "ms", Some(20.0));
    Ok(())
}

fn one_policy(round: usize) -> String {
    let half: Vec<String> = (0..5).map(|n| format!("m{n}")).collect();
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": { "name": "measured", "namespace": "default" },
        "spec": {
            "endpointSelector": { "matchExpressions": [{ "key": "app", "operator": "In", "values": half }] },
            "ingress": [{
                "fromEndpoints": [{}],
                "toPorts": [{ "ports": [{ "port": (1000 + round).to_string(), "protocol": "TCP" },
                                        { "port": "7000", "protocol": "TCP" }] }]
            }]
        }
    })
    .to_string()
}

/// A thousand rules about the measured pods, the last of which lets the traffic pass.
fn thousand_rules() -> String {
    let rule = |n: usize| {
        let port = if n == 999 { 7000 } else { 10_000 + n };
        json!({
            "fromEndpoints": [{ "matchLabels": { "app": format!("m{}", n % 10) } }],
            "toPorts": [{ "ports": [{ "port": port.to_string(), "protocol": "TCP" }] }]
        })
    };
    let mut rules: Vec<_> = (0..1000).map(rule).collect();
    rules.push(json!({ "fromEndpoints": [{}], "toPorts": [{ "ports": [{ "port": "7000", "protocol": "TCP" }] }] }));
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": { "name": "thousand", "namespace": "default" },
        "spec": { "endpointSelector": {}, "ingress": rules }
    })
    .to_string()
}

/// Two namespaces with a router between them, and nothing else.
struct Baseline {
    client: Namespace,
    server: Namespace,
    _router: Namespace,
}

const BASE_SERVER: [u8; 4] = [10, 99, 2, 2];

impl Baseline {
    fn build(place: &Place) -> Result<Self> {
        let [client, router, server] =
            ["base-client", "base-router", "base-server"].map(|name| namespace::make(&place.namespace(name)));
        let (client, router, server) = (client?, router?, server?);
        for (side, end, near) in [(1_u8, &client, "toc"), (2, &server, "tos")] {
            router.run(|| -> Result<()> {
                let mut link = Netlink::open()?;
                let pair = link.create_veth(&VethPair {
                    near: End { name: near, mac: MacAddr([2, 0, 0, side, 0, 1]), namespace: None },
                    far: End { name: "eth0", mac: MacAddr([2, 0, 0, side, 0, 2]), namespace: Some(end) },
                    mtu: 1500,
                    up: true,
                })?;
                link.add_address(pair.index, IpAddr::from([10, 99, side, 1]), 24)?;
                sysctl::set("net/ipv4/ip_forward", "1")?;
                Ok(())
            })??;
            end.run(|| -> Result<()> {
                let mut link = Netlink::open()?;
                let device = link.existing("eth0")?.index;
                link.set_up(device)?;
                link.add_address(device, IpAddr::from([10, 99, side, 2]), 24)?;
                let via = Some(IpAddr::from([10, 99, side, 1]));
                link.set_route(&Route { to: "0.0.0.0/0".parse()?, via, device, mtu: None, source: None })?;
                Ok(())
            })??;
        }
        Ok(Self { client, server, _router: router })
    }
}

/// Request/response and stream between two pods, against the baseline.
fn traffic(lab: &Lab, pods: &[Pod; 2], base: &Baseline, when: &str, table: &mut Table) -> Result<()> {
    let ns = |pod: &Pod| lab.namespace(pod.name);
    let ours = |kind| {
        let address = SocketAddr::new(pods[1].ips[0], 7000);
        slice(ns(&pods[0]), ns(&pods[1]), address, kind)
    };
    let theirs = |kind| slice(&base.client, &base.server, SocketAddr::from((BASE_SERVER, 7000)), kind);
    for (kind, name, unit) in [(Kind::Answers, "request/response", "/s"), (Kind::Stream, "stream", "Gbit/s")] {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..SLICES {
            a.push(ours(kind)?);
            b.push(theirs(kind)?);
        }
        let (a, b) = (median(&mut a), median(&mut b));
        table.row(&format!("pod to pod TCP {name}, {when}"), a, unit, None);
        table.row(&format!("  bare veth routed by the kernel, {name}"), b, unit, None);
        table.row("  share", a / b * 100.0, "%", Some(90.0));
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Answers,
    Stream,
}

/// One connection's worth of traffic: answers a second, or gigabits a second.
fn slice(client: &Namespace, server: &Namespace, address: SocketAddr, kind: Kind) -> Result<f64> {
    let listener = server.run(|| TcpListener::bind(address))??;
    let serving = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; 1 << 17];
        loop {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            if kind == Kind::Answers {
                stream.write_all(&buffer[..read])?;
            }
        }
    });
    let mut stream = client.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?.context("connect")?;
    stream.set_nodelay(true)?;
    let began = Instant::now();
    let mut count = 0_u64;
    let chunk = vec![7; 1 << 16];
    let mut byte = [0; 1];
    while began.elapsed() < SLICE {
        match kind {
            Kind::Answers => {
                stream.write_all(&[1])?;
                stream.read_exact(&mut byte)?;
                count += 1;
            }
            Kind::Stream => {
                stream.write_all(&chunk)?;
                count += chunk.len() as u64 * 8;
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(stream);
    serving.join().expect("the server does not panic")?;
    let rate = count as f64 / seconds;
    Ok(if kind == Kind::Stream { rate / 1e9 } else { rate })
}

/// Figures with their aims.
struct Table {
    json: bool,
    rows: Vec<(String, f64, &'static str, Option<f64>)>,
}

impl Table {
    fn row(&mut self, what: &str, value: f64, unit: &'static str, aim: Option<f64>) {
        self.rows.push((what.to_owned(), value, unit, aim));
    }
    fn print(&self) {
        if self.json {
            let rows = self.rows.iter().map(
                |(what, value, unit, aim)| json!({ "what": what.trim(), "value": value, "unit": unit, "aim": aim }),
            );
            println!("{}", serde_json::Value::Array(rows.collect()));
            return;
        }
        println!("{:<68} {:>10}  {:<7} aim", "what", "measured", "unit");
        for (what, value, unit, aim) in &self.rows {
            let aim = aim.map_or(String::new(), |aim| format!("{aim}"));
            println!("{what:<68} {value:>10.2}  {unit:<7} {aim}");
        }
    }
}

impl Lab {
    /// Resident memory of the agent.
    fn agent_rss_mib(&self) -> Result<f64> {
        let pid = self.agent_pid().context("the agent does not run")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS in /proc/PID/status")?;
        let kib: f64 = line.split_whitespace().nth(1).context("VmRSS has no number")?.parse()?;
        Ok(kib / 1024.0)
    }
}
