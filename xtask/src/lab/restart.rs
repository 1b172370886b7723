//! The agent is killed under traffic: nothing that runs may break, nothing that is denied may pass.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::node::Lab;
use super::pod::ECHO;
use super::probe::{Kind, Line, ask, ask_at};
use super::report::{Report, breathe};

/// Between two requests of one stream.
const PACE: Duration = Duration::from_millis(5);
/// Traffic before and after each kill.
const CALM: Duration = Duration::from_millis(400);

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    echoes: AtomicU64,
    broken: AtomicU64,
    opened: AtomicU64,
    refused: AtomicU64,
    denied: AtomicU64,
    let_through: AtomicU64,
    first_break: Mutex<Option<String>>,
}

impl Counts {
    fn broke(&self, began: Instant, what: &str) {
        self.broken.fetch_add(1, Relaxed);
        let after = began.elapsed().as_secs_f32();
        self.first_break.lock().expect("nobody panics").get_or_insert_with(|| format!("{what} after {after:.2} s"));
    }
    fn runs(&self) -> bool {
        !self.stop.load(Relaxed)
    }
}

pub(super) fn under_traffic(lab: &mut Lab, report: &mut Report) -> Result<()> {
    let counts = Counts::default();
    let rounds = lab.restarts;
    let frontend = lab.namespaces.remove("frontend").expect("a pod of the lab");
    let intruder = lab.namespaces.remove("intruder").expect("a pod of the lab");
    let (db, backends) = (lab.pod("db-1").ips.clone(), lab.pod("backend-1").ips.clone());
    let outcome = thread::scope(|scope| -> Result<()> {
        for ip in db {
            let (counts, frontend) = (&counts, &frontend);
            scope.spawn(move || {
                let open = || Line::open(SocketAddr::new(ip, ECHO), Duration::from_secs(5));
                let began = Instant::now();
                let Ok(Ok(mut line)) = frontend.run(open) else {
                    return counts.broke(began, "it could not even be opened");
                };
                while counts.runs() {
                    match line.say("still there?") {
                        Ok(_) => counts.echoes.fetch_add(1, Relaxed),
                        Err(why) => return counts.broke(began, &why.to_string()),
                    };
                    thread::sleep(PACE);
                }
            });
        }
        for ip in backends {
            let (counts, frontend, intruder) = (&counts, &frontend, &intruder);
            scope.spawn(move || {
                while counts.runs() {
                    let count = if ask(frontend, ip, Kind::Http).is_ok() { &counts.opened } else { &counts.refused };
                    count.fetch_add(1, Relaxed);
                    thread::sleep(PACE);
                }
            });
            for (kind, port) in [(Kind::Http, 80), (Kind::Udp, 53)] {
                scope.spawn(move || {
                    while counts.runs() {
                        let to = SocketAddr::new(ip, port);
                        let answer = ask_at(intruder, to, kind, Duration::from_millis(50));
                        let count = if answer.is_ok() { &counts.let_through } else { &counts.denied };
                        count.fetch_add(1, Relaxed);
                    }
                });
            }
        }
        let outcome = kills(lab, report, rounds);
        counts.stop.store(true, Relaxed);
        outcome
    });
    lab.namespaces.insert("frontend".into(), frontend);
    lab.namespaces.insert("intruder".into(), intruder);
    outcome?;
    let n = |count: &AtomicU64| count.load(Relaxed);
    let (echoes, broken) = (n(&counts.echoes), n(&counts.broken));
    report.saw(
        broken == 0 && echoes > 0,
        &format!("{echoes} echoes on connections older than the kills, {broken} broken"),
    );
    if let Some(what) = counts.first_break.lock().expect("nobody panics").as_ref() {
        report.say(&format!("the first broke so: {what}"));
    }
    let (opened, refused) = (n(&counts.opened), n(&counts.refused));
    report.saw(refused == 0 && opened > 0, &format!("{opened} new connections that policy allows, {refused} failed"));
    let (denied, through) = (n(&counts.denied), n(&counts.let_through));
    report.saw(through == 0 && denied > 0, &format!("{denied} attempts that policy denies, {through} let through"));
    Ok(())
}

fn kills(lab: &mut Lab, report: &mut Report, rounds: u32) -> Result<()> {
    for round in 1..=rounds {
        thread::sleep(CALM);
        breathe()?;
        lab.kill_agent()?;
        thread::sleep(CALM);
        let took = lab.start_agent()?;
        report.say(&format!(
            "kill -9, number {round} of {rounds}: the next agent was ready after {:.0} ms",
            took.as_secs_f32() * 1e3
        ));
    }
    thread::sleep(CALM);
    Ok(())
}
