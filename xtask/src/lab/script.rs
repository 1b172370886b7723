//! The tutorial: what a stranger would try, in order, each with what must be seen.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::node::Lab;
use super::outside::{NODE, WORLD, WORLD6};
use super::policies;
use super::probe::{Kind, ask, ask_at, ask_briefly, who};
use super::report::Report;
use super::{northsouth, pod, restart};

/// Frontends of the services: the backends by HTTP, the databases by UDP and TCP.
const SHOP: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
const DB: [&str; 2] = ["10.96.0.20", "fd00:96::20"];

pub(super) fn walk(lab: &mut Lab, report: &mut Report) -> Result<()> {
    report.step("A node and a world outside, as network namespaces", |_| lab.build())?;
    report.step("The agent starts", |r| start(lab, r))?;
    // Without a node and an agent nothing of what follows can be seen.
    ensure!(report.failed() == 0, "there is no node to show anything on");
    report.step("Pods are added through cilium-cni", |r| pods(lab, r))?;
    ensure!(report.failed() == 0, "there are no pods to show anything with");
    report.step("Services get addresses and backends", |r| services(lab, r))?;
    report.step("No policy: everything talks", |r| everything_talks(lab, r))?;
    report.step("The world reaches a service at the node's own address", |r| node_port(lab, r))?;
    report.step("A backend on another node, by SNAT and by DSR", |r| northsouth::modes(lab, r))?;
    report.step("Backends come and go behind a load balancer's address", |r| northsouth::change(lab, r))?;
    report.step("A policy by labels: only the right client gets through", |r| by_labels(lab, r))?;
    report.step("A CIDR rule to the outside", |r| cidr(lab, r))?;
    report.step("A CIDR rule with an exception", |r| except(lab, r))?;
    report.step("A deny rule wins over an allow", |r| deny(lab, r))?;
    report.step("A service spreads connections over its backends", |r| spread(lab, r))?;
    report.step("hubble observe shows who was dropped, and by which policy", |r| hubble(lab, r))?;
    report.step("cilium monitor shows drops as they happen", |r| monitor(lab, r))?;
    report.step("cilium bpf policy get and cilium policy get agree", |r| agree(lab, r))?;
    report.step("The agent is killed under traffic and comes back", |r| restart::under_traffic(lab, r))?;
    if !lab.is_kept() {
        report.step("Pods are deleted and nothing stays", |r| delete(lab, r))?;
    }
    Ok(())
}

fn start(lab: &mut Lab, report: &mut Report) -> Result<()> {
    let took = lab.start_agent()?;
    report.saw(true, &format!("ready after {:.0} ms", took.as_secs_f32() * 1e3));
    report.say("$ cilium status");
    report.say(&lab.cilium(&["status"])?);
    Ok(())
}

fn pods(lab: &mut Lab, report: &mut Report) -> Result<()> {
    let mut times = Vec::new();
    for pod in pod::all() {
        let (name, namespace, labels) = (pod.name, pod.namespace, pod.labels.join(","));
        let took = lab.add(pod)?;
        times.push(took);
        let ips: Vec<String> = lab.pod(name).ips.iter().map(ToString::to_string).collect();
        report.say(&format!(
            "{namespace}/{name:<10} {:<28} {labels} ({:.0} ms)",
            ips.join(" "),
            took.as_secs_f32() * 1e3
        ));
    }
    times.sort();
    let median = times[times.len() / 2].as_secs_f32() * 1e3;
    let endpoints = lab.cilium_json(&["endpoint", "list"])?;
    let of_pod =
        |e: &&Value| e["status"]["external-identifiers"]["k8s-pod-name"].as_str().is_some_and(|n| !n.is_empty());
    let ready =
        endpoints.as_array().into_iter().flatten().filter(of_pod).filter(|e| e["status"]["state"] == "ready").count();
    report.saw(
        ready == times.len(),
        &format!("{ready} of {} endpoints are ready; the median ADD took {median:.0} ms", times.len()),
    );
    let first = lab.pods[0].clone();
    let again = lab.cni("ADD", &first)?;
    let same = again["ips"].to_string();
    report.saw(
        first.ips.iter().all(|ip| same.contains(&ip.to_string())),
        "an ADD that is repeated gives the same addresses",
    );
    Ok(())
}

fn services(lab: &Lab, report: &mut Report) -> Result<()> {
    let mut id = 0;
    for family in 0..2 {
        let at = |ip: IpAddr, port: u16| SocketAddr::new(ip, port).to_string();
        let front = |list: [&str; 2], port: u16| -> Result<String> { Ok(at(list[family].parse()?, port)) };
        let backends = |app: &str, port: u16| {
            let of = lab.pods.iter().filter(|pod| pod.name.starts_with(app));
            of.map(|pod| at(pod.ips[family], port)).collect::<Vec<_>>().join(",")
        };
        for (name, front, backends, protocol) in [
            ("shop/backend", front(SHOP, 80)?, backends("backend", 80), "tcp"),
            ("shop/db", front(DB, 5432)?, backends("db", 5432), "tcp"),
            ("shop/db", front(DB, 53)?, backends("db", 53), "udp"),
        ] {
            id += 1;
            let number = id.to_string();
            lab.cilium(&[
                "service",
                "update",
                "--id",
                &number,
                "--frontend",
                &front,
                "--backends",
                &backends,
                "--protocol",
                protocol,
                "--name",
                name,
            ])?;
        }
    }
    report.say("$ cilium service list");
    report.say(&lab.cilium(&["service", "list"])?);
    let count = lab.cilium_json(&["service", "list"])?.as_array().map_or(0, Vec::len);
    report.saw(count == 6, &format!("{count} services are known"));
    Ok(())
}

/// One question: who asks whom how, and whether an answer is right.
struct Question<'a> {
    from: &'a str,
    to: &'a str,
    ip: IpAddr,
    kind: Kind,
    allowed: bool,
}

/// Asks everything at once, a thread each, and reports groups that go wrong one by one.
fn ask_all(lab: &Lab, report: &mut Report, what: &str, questions: &[Question<'_>]) {
    let answers: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = questions
            .iter()
            .map(|q| {
                let from = lab.namespace(q.from);
                scope.spawn(move || if q.allowed { ask(from, q.ip, q.kind) } else { ask_briefly(from, q.ip, q.kind) })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("probes do not panic")).collect()
    });
    let mut right = 0;
    for (q, answer) in questions.iter().zip(&answers) {
        // An answer must come from the one who was asked.
        let good = match answer {
            Ok(text) => q.allowed && who(text) == q.to,
            Err(_) => !q.allowed,
        };
        right += usize::from(good);
        if !good {
            let seen = answer.as_ref().map_or_else(|e| e.to_string(), |text| format!("answered: {text}"));
            let wanted = if q.allowed { "an answer" } else { "silence" };
            report.saw(false, &format!("{} -> {} {} {}: {seen}; {wanted} was due", q.from, q.to, q.kind, q.ip));
        }
    }
    report.saw(right == questions.len(), &format!("{what}: {right} of {} as it should be", questions.len()));
}

/// Questions from each of `from` to each of `to`, over both families.
fn cross<'a>(lab: &'a Lab, from: &[&'a str], to: &[&'a str], kinds: &[Kind], allowed: bool) -> Vec<Question<'a>> {
    let mut out = Vec::new();
    for from in from {
        for to in to {
            for ip in &lab.pod(to).ips {
                out.extend(kinds.iter().map(|kind| Question { from, to, ip: *ip, kind: *kind, allowed }));
            }
        }
    }
    out
}

/// Questions to addresses of the world.
fn to_world<'a>(from: &'a str, ips: &[&str], allowed: bool) -> Vec<Question<'a>> {
    let question =
        |ip: &&str| Question { from, to: "world", ip: ip.parse().expect("the lab's own"), kind: Kind::Http, allowed };
    ips.iter().map(question).collect()
}

pub(super) const BACKENDS: [&str; 3] = ["backend-1", "backend-2", "backend-3"];

fn everything_talks(lab: &Lab, report: &mut Report) -> Result<()> {
    let servers = ["backend-1", "backend-2", "db-1", "intruder"];
    let pods = cross(lab, &["frontend", "canary", "intruder", "db-2"], &servers, &Kind::ALL, true);
    let pods: Vec<_> = pods.into_iter().filter(|q| q.from != q.to).collect();
    ask_all(lab, report, "pod to pod, HTTP, TCP and UDP, IPv4 and IPv6", &pods);
    ask_all(lab, report, "node to pod", &cross(lab, &["node"], &["backend-1", "db-1"], &[Kind::Http], true));
    ask_all(lab, report, "world to pod", &cross(lab, &["world"], &["backend-1", "db-1"], &[Kind::Http], true));
    ask_all(lab, report, "pod to world", &to_world("frontend", &[WORLD, WORLD6].concat(), true));
    Ok(())
}

fn by_labels(lab: &Lab, report: &mut Report) -> Result<()> {
    report.say(policies::BACKENDS);
    let took = lab.apply("backends.yaml", policies::BACKENDS)?;
    report.say(&format!("enforced on all endpoints after {:.0} ms", took.as_secs_f32() * 1e3));
    let only_http = [Kind::Http];
    ask_all(lab, report, "frontends to backends", &cross(lab, &["frontend", "canary"], &BACKENDS, &only_http, true));
    ask_all(lab, report, "others to backends", &cross(lab, &["intruder", "db-1"], &BACKENDS, &only_http, false));
    ask_all(lab, report, "the world to backends", &cross(lab, &["world"], &BACKENDS, &only_http, false));
    let other_ports = cross(lab, &["frontend"], &BACKENDS, &[Kind::Tcp, Kind::Udp], false);
    ask_all(lab, report, "frontends to other ports of backends", &other_ports);
    ask_all(
        lab,
        report,
        "whom the policy does not select",
        &cross(lab, &["intruder"], &["db-1", "db-2"], &Kind::ALL, true),
    );
    Ok(())
}

fn cidr(lab: &Lab, report: &mut Report) -> Result<()> {
    report.say(policies::OUTSIDE);
    lab.apply("outside.yaml", policies::OUTSIDE)?;
    ask_all(lab, report, "frontend to the one address", &to_world("frontend", &[WORLD[0], WORLD6[0]], true));
    ask_all(
        lab,
        report,
        "frontend to others",
        &to_world("frontend", &[WORLD[1], WORLD[2], WORLD6[1], WORLD6[2]], false),
    );
    ask_all(lab, report, "frontend to backends, still", &cross(lab, &["frontend"], &BACKENDS, &[Kind::Http], true));
    ask_all(lab, report, "frontend to databases, no longer", &cross(lab, &["frontend"], &["db-1"], &Kind::ALL, false));
    ask_all(lab, report, "others to the world", &to_world("db-1", &[WORLD[1], WORLD6[1]], true));
    Ok(())
}

fn except(lab: &Lab, report: &mut Report) -> Result<()> {
    report.say(policies::EXCEPT);
    lab.apply("outside.yaml", policies::EXCEPT)?;
    let inside = [WORLD[0], WORLD[1], WORLD6[0], WORLD6[1]];
    ask_all(lab, report, "frontend into the prefix", &to_world("frontend", &inside, true));
    ask_all(lab, report, "frontend into the exception", &to_world("frontend", &[WORLD[2], WORLD6[2]], false));
    lab.withdraw("outside.yaml")?;
    ask_all(lab, report, "without the policy everything again", &to_world("frontend", &[WORLD, WORLD6].concat(), true));
    Ok(())
}

fn deny(lab: &Lab, report: &mut Report) -> Result<()> {
    report.say(policies::DENY);
    let file = lab.draft("deny.yaml", policies::DENY)?;
    report.say("$ cilium policy import deny.yaml");
    let before = lab.policy_revision()?;
    report.say(&lab.cilium(&["policy", "import", &file])?);
    lab.settle(before)?;
    ask_all(
        lab,
        report,
        "canary, a frontend that is denied",
        &cross(lab, &["canary"], &BACKENDS, &[Kind::Http], false),
    );
    ask_all(lab, report, "the other frontend", &cross(lab, &["frontend"], &BACKENDS, &[Kind::Http], true));
    Ok(())
}

fn spread(lab: &Lab, report: &mut Report) -> Result<()> {
    const CONNECTIONS: usize = 90;
    for ip in SHOP {
        let seen = through(lab, "frontend", SocketAddr::new(ip.parse()?, 80), Kind::Http, CONNECTIONS);
        // A third each would be 30; 10 are missed by chance once in 10^6 runs.
        let fair = BACKENDS.iter().all(|name| seen.get(*name).is_some_and(|n| *n >= 10));
        report.saw(
            fair && !seen.contains_key("nobody"),
            &format!("frontend -> {ip} port 80, {CONNECTIONS} times: {seen:?}"),
        );
    }
    for (ip, kind) in [(DB[0], Kind::Udp), (DB[1], Kind::Udp), (DB[0], Kind::Tcp), (DB[1], Kind::Tcp)] {
        let seen = through(lab, "frontend", SocketAddr::new(ip.parse()?, kind.port()), kind, 40);
        let fair = ["db-1", "db-2"].iter().all(|name| seen.get(*name).is_some_and(|n| *n >= 6));
        report.saw(fair && !seen.contains_key("nobody"), &format!("frontend -> {ip} by {kind}, 40 times: {seen:?}"));
    }
    for ip in DB {
        let seen = through(lab, "db-1", SocketAddr::new(ip.parse()?, 5432), Kind::Tcp, 20);
        let itself = seen.get("db-1").copied().unwrap_or(0);
        report.saw(itself > 0 && !seen.contains_key("nobody"), &format!("db-1 reaches itself through {ip}: {seen:?}"));
    }
    Ok(())
}

/// A port of the node itself, for clients outside: they are balanced on the network device, before the host's stack.
fn node_port(lab: &Lab, report: &mut Report) -> Result<()> {
    const PORT: u16 = 30_080;
    for (family, node) in NODE.into_iter().enumerate() {
        let at = |ip: IpAddr, port: u16| SocketAddr::new(ip, port).to_string();
        let backends: Vec<_> = BACKENDS.iter().map(|name| at(lab.pod(name).ips[family], 80)).collect();
        let front = SocketAddr::new(node.parse()?, PORT);
        let (id, front_text, backends) = ((20 + family).to_string(), front.to_string(), backends.join(","));
        let service = ["--id", &id, "--frontend", &front_text, "--backends", &backends, "--k8s-node-port"];
        lab.cilium(&[["service", "update", "--name", "shop/backend-outside"].as_slice(), &service].concat())?;
        let seen = through(lab, "world", front, Kind::Http, 60);
        let fair = BACKENDS.iter().all(|name| seen.get(*name).is_some_and(|n| *n >= 5));
        report.saw(fair && !seen.contains_key("nobody"), &format!("world -> {front}, 60 times: {seen:?}"));
    }
    Ok(())
}

/// Who answered how often.
pub(super) fn through(lab: &Lab, from: &str, to: SocketAddr, kind: Kind, times: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..times {
        let answer = ask_at(lab.namespace(from), to, kind, Duration::from_millis(1500));
        let name = answer.as_deref().map_or("nobody", who).to_owned();
        *seen.entry(name).or_insert(0) += 1;
    }
    seen
}

fn hubble(lab: &Lab, report: &mut Report) -> Result<()> {
    let backend = lab.pod("backend-1").ips[0];
    let _ = ask_briefly(lab.namespace("intruder"), backend, Kind::Http);
    let _ = ask_briefly(lab.namespace("canary"), backend, Kind::Http);
    report.say("$ hubble observe --verdict DROPPED --last 4 --print-policy-names");
    report.say(&lab.hubble(&["observe", "--verdict", "DROPPED", "--last", "4", "--print-policy-names"])?);
    let text = lab.hubble(&["observe", "--verdict", "DROPPED", "--last", "500", "-o", "json"])?;
    let flows: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect();
    let of = |from: &str| {
        let from = from.to_owned();
        flows.iter().map(|f| &f["flow"]).filter(move |f| {
            f["source"]["pod_name"] == from.as_str()
                && f["destination"]["pod_name"] == "backend-1"
                && f["event_type"]["type"] == 1
        })
    };
    let label = |end: &Value, label: &str| end["labels"].as_array().is_some_and(|l| l.iter().any(|l| l == label));
    let intruder = of("intruder").next_back().context("no dropped flow from the intruder to backend-1")?;
    let both = label(&intruder["source"], "k8s:app=intruder") && label(&intruder["destination"], "k8s:app=backend");
    report.saw(
        both,
        &format!(
            "the drop carries the labels of both sides: {} to {}",
            intruder["source"]["labels"], intruder["destination"]["labels"]
        ),
    );
    report.saw(
        intruder["drop_reason_desc"] == "POLICY_DENIED",
        &format!("the intruder meets no rule: {}", intruder["drop_reason_desc"]),
    );
    let verdicts = lab.hubble(&["observe", "--type", "policy-verdict", "--last", "500", "-o", "json"])?;
    let named = verdicts.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).any(|f| {
        let flow = &f["flow"];
        flow["source"]["pod_name"] == "canary"
            && flow["ingress_denied_by"].as_array().is_some_and(|p| p.iter().any(|p| p["name"] == "no-canary"))
    });
    let dropped = of("canary").next_back().is_some_and(|f| f["drop_reason_desc"] == "POLICY_DENY");
    report.saw(named && dropped, "the canary is denied by the policy shop/no-canary, by name");
    Ok(())
}

fn monitor(lab: &Lab, report: &mut Report) -> Result<()> {
    let mut live = lab.cilium_live(&["monitor", "-t", "drop", "--json"])?;
    let output = BufReader::new(live.stdout.take().context("piped")?);
    let (lines, seen) = std::sync::mpsc::channel();
    let reader = thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let began = Instant::now();
    let mut found = None;
    // Attaching takes a moment, so the drop is caused until it is seen.
    while found.is_none() && began.elapsed() < Duration::from_secs(10) {
        let _ = ask_briefly(lab.namespace("intruder"), lab.pod("backend-1").ips[0], Kind::Udp);
        found = seen.try_iter().find(|line| line.contains("Policy denied"));
    }
    let _ = live.kill();
    let _ = live.wait();
    let _ = reader.join();
    report.say(found.as_deref().unwrap_or("nothing"));
    report.saw(found.is_some(), "a drop was shown while it happened");
    Ok(())
}

fn agree(lab: &Lab, report: &mut Report) -> Result<()> {
    let endpoints = lab.cilium_json(&["endpoint", "list"])?;
    let id_of = |name: &str| {
        let of = |e: &&Value| e["status"]["external-identifiers"]["k8s-pod-name"] == name;
        endpoints.as_array().into_iter().flatten().find(of).and_then(|e| e["id"].as_i64())
    };
    let id = id_of("backend-1").context("backend-1 has no endpoint")?.to_string();
    report.say(&format!("$ cilium bpf policy get {id}"));
    report.say(&lab.cilium(&["bpf", "policy", "get", &id])?);
    let rules = lab.cilium_json(&["policy", "get"])?["policy"].to_string();
    for name in ["backend-from-frontend", "no-canary"] {
        report.saw(rules.contains(name), &format!("cilium policy get has {name}"));
    }
    let entries = lab.cilium_json(&["bpf", "policy", "get", &id])?;
    let has = |verdict: &str, label: &str, port: &str| {
        entries.as_array().into_iter().flatten().any(|e| {
            let peer =
                e["peers"].as_array().is_some_and(|p| p.iter().any(|p| p.as_str().is_some_and(|p| p.contains(label))));
            e["verdict"] == verdict && e["direction"] == "Ingress" && peer && (port.is_empty() || e["port"] == port)
        })
    };
    report.saw(has("Allow", "track=stable", "80/TCP"), "the kernel allows the frontend, on port 80");
    report.saw(has("Deny", "track=canary", ""), "the kernel denies the canary");
    report.saw(!has("Allow", "app=intruder", ""), "the kernel allows the intruder nothing");
    report.saw(!has("Allow", "app=db", ""), "the kernel allows databases nothing");
    Ok(())
}

fn delete(lab: &mut Lab, report: &mut Report) -> Result<()> {
    // One goes while the agent is away: that is left on disk, and done when the agent is back.
    let pods = lab.pods.clone();
    let (first, others) = pods.split_first().context("the lab has pods")?;
    lab.kill_agent()?;
    lab.cni("DEL", first)?;
    let queued = lab.queued_deletions();
    report.saw(queued == 1, &format!("{} is deleted while the agent is away: {queued} deletion is queued", first.name));
    lab.start_agent()?;
    report.saw(lab.queued_deletions() == 0, "the next agent takes the deletion from the queue");
    for pod in others {
        lab.cni("DEL", pod)?;
    }
    let endpoints = lab.cilium_json(&["endpoint", "list"])?;
    let of_pod =
        |e: &&Value| e["status"]["external-identifiers"]["k8s-pod-name"].as_str().is_some_and(|n| !n.is_empty());
    let left = endpoints.as_array().into_iter().flatten().filter(of_pod).count();
    report.saw(left == 0, &format!("{left} endpoints of pods are left"));
    let devices = lab.namespace("node").run(|| netlink::Netlink::open()?.links())??;
    let veths = devices.iter().filter(|d| d.name.starts_with("lxc")).count();
    report.saw(veths == 0, &format!("{veths} devices of pods are left"));
    let maps = lab.cilium_json(&["bpf", "endpoint", "list"])?;
    let pods = maps.as_array().into_iter().flatten().filter(|e| e["host"] == false).count();
    report.saw(pods == 0, &format!("{pods} addresses of pods are left in the kernel"));
    Ok(())
}
