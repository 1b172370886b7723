//! Services for the world: a backend on another node in both ways of forwarding, and backends that come and go under load.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::node::Lab;
use super::outside::{BALANCED, NODE, WORLD, WORLD6};
use super::pod;
use super::probe::{Kind, ask_at};
use super::report::Report;
use super::script::{BACKENDS, through};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Times a backend comes and goes, for each family.
const CHANGES: usize = 5;

/// The node either takes the client's place, and everything passes it twice; or the other node answers the client itself, with
/// the address that the client asked. What the backend sees tells which.
pub(super) fn modes(lab: &mut Lab, report: &mut Report) -> Result<()> {
    lab.start_far(pod::far())?;
    let far = lab.far.clone().context("it was just added")?;
    for (family, node) in NODE.into_iter().enumerate() {
        let world: &[&str] = [&WORLD, &WORLD6][family];
        for (mode, port, seen_as) in [("snat", 30_081, [node].as_slice()), ("dsr", 30_082, world)] {
            let front = SocketAddr::new(node.parse()?, port);
            let id = (usize::from(port - 30_081) * 2 + 30 + family).to_string();
            let backend = SocketAddr::new(far.ips[family], Kind::Http.port()).to_string();
            let options = ["--k8s-node-port", "--forwarding-mode", mode, "--name", "shop/far"];
            update(lab, &id, front, &backend, &options)?;
            let answers: BTreeSet<String> = (0..10)
                .map(|_| {
                    let answer = ask_at(lab.namespace("world"), front, Kind::Http, PATIENCE);
                    answer.unwrap_or_else(|why| format!("nobody: {why}"))
                })
                .collect();
            let right = |answer: &String| seen_as.iter().any(|ip| *answer == format!("{} saw {ip}", far.name));
            report.saw(answers.iter().all(right), &format!("world -> {front} by {mode}, 10 times: {answers:?}"));
        }
    }
    Ok(())
}

/// The address of a load balancer, asked all the time, while a backend on either node is added and, after it has had its time to
/// finish, removed.
pub(super) fn change(lab: &Lab, report: &mut Report) -> Result<()> {
    let far = lab.far.as_ref().context("the other node has a pod")?;
    for (family, address) in BALANCED.into_iter().enumerate() {
        let front = SocketAddr::new(address.parse()?, 80);
        let at = |ip: IpAddr| SocketAddr::new(ip, Kind::Http.port()).to_string();
        let all: Vec<String> = [far, lab.pod(BACKENDS[2]), lab.pod(BACKENDS[0]), lab.pod(BACKENDS[1])]
            .map(|pod| at(pod.ips[family]))
            .into();
        let id = (40 + family).to_string();
        let put = |from: usize, states: &str| {
            let mut options = vec!["--k8s-load-balancer", "--name", "shop/balanced"];
            if !states.is_empty() {
                options.extend(["--states", states]);
            }
            update(lab, &id, front, &all[from..].join(","), &options)
        };
        put(0, "")?;
        let seen = through(lab, "world", front, Kind::Http, 60);
        let fair = seen.len() == 4 && !seen.contains_key("nobody");
        report.saw(fair, &format!("world -> {front}, 60 times, backends on both nodes: {seen:?}"));
        let done = AtomicBool::new(false);
        let asked = thread::scope(|scope| -> Result<(usize, Vec<String>)> {
            let asking = scope.spawn(|| {
                let (mut count, mut failed) = (0, Vec::new());
                while !done.load(Ordering::Relaxed) {
                    count += 1;
                    failed.extend(ask_at(lab.namespace("world"), front, Kind::Http, PATIENCE).err());
                }
                (count, failed.iter().map(ToString::to_string).collect())
            });
            let changed = (0..CHANGES).try_for_each(|_| {
                put(0, "terminating,terminating,active,active")?;
                thread::sleep(Duration::from_millis(50));
                put(2, "")?;
                thread::sleep(Duration::from_millis(50));
                put(0, "")?;
                thread::sleep(Duration::from_millis(50));
                Ok(())
            });
            done.store(true, Ordering::Relaxed);
            let asked = asking.join().expect("probes do not panic");
            changed.map(|()| asked)
        })?;
        let (count, failed) = asked;
        let what =
            format!("{CHANGES} times two backends leave and return: {} of {count} failed {failed:?}", failed.len());
        report.saw(failed.is_empty() && count > 20, &what);
    }
    Ok(())
}

fn update(lab: &Lab, id: &str, front: SocketAddr, backends: &str, options: &[&str]) -> Result<()> {
    let front = front.to_string();
    let service = ["service", "update", "--id", id, "--frontend", &front, "--backends", backends];
    lab.cilium(&[&service, options].concat()).map(drop)
}
