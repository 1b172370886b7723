//! Traffic that must not notice what happens.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::client::Client;
use machine::Rng;
use netlink::Namespace;
use serde_json::Value;

use crate::support::{Net, Node};

/// How long an answer may take on a machine that does much else.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Somebody who speaks to services.
pub struct Speaker {
    net: Namespace,
    to: Vec<SocketAddr>,
}

impl Speaker {
    pub fn new(net: &Net, to: &[SocketAddr]) -> Self {
        Self { net: Namespace::open(net.handle.path()).unwrap(), to: to.to_vec() }
    }
}

/// A byte there and back.
pub fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

/// What traffic saw.
#[derive(Default)]
pub struct Seen {
    stop: AtomicBool,
    pub exchanges: AtomicU64,
    pub connections: AtomicU64,
}

impl Seen {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

fn long_lived(net: &Namespace, to: SocketAddr, seen: &Seen) -> Result<(), String> {
    let fail = |what: &str, why: std::io::Error| format!("established to {to}: {what}: {why}");
    net.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, ANSWER_WITHIN).map_err(|e| fail("connect", e))?;
        while seen.goes_on() {
            exchange(&mut stream).map_err(|e| fail("exchange", e))?;
            seen.exchanges.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    })
    .unwrap()
}

fn new_ones(net: &Namespace, to: &[SocketAddr], seen: &Seen) -> Result<(), String> {
    let fail = |to: &SocketAddr, what: &str, why: std::io::Error| format!("new to {to}: {what}: {why}");
    net.run(|| {
        for to in to.iter().cycle() {
            if !seen.goes_on() {
                break;
            }
            let mut stream = TcpStream::connect_timeout(to, ANSWER_WITHIN).map_err(|e| fail(to, "connect", e))?;
            exchange(&mut stream).map_err(|e| fail(to, "exchange", e))?;
            seen.connections.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(3));
        }
        Ok(())
    })
    .unwrap()
}

/// Runs `change` under traffic of all speakers, to the first of their services for long and to all anew; returns what went wrong.
pub fn under_traffic(from: &[Speaker], seen: &Seen, change: impl FnOnce()) -> Vec<String> {
    std::thread::scope(|scope| {
        let mut traffic = Vec::new();
        for Speaker { net, to } in from {
            traffic.push(scope.spawn(move || long_lived(net, to[0], seen)));
            traffic.push(scope.spawn(move || new_ones(net, to, seen)));
        }
        change();
        seen.stop.store(true, Ordering::Relaxed);
        traffic.into_iter().filter_map(|thread| thread.join().unwrap().err()).collect()
    })
}

/// Asks an agent for a service until it takes it: it may be dead for a while.
pub fn put_service(client: &Client, id: u16, body: &Value) {
    let until = Instant::now() + Duration::from_secs(200);
    while let Err(why) = client.call::<Value, Value>("PUT", &format!("/service/{id}"), &[], Some(body)) {
        assert!(Instant::now() < until, "service {id}: {why}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Kills the agent so many times and starts it again, at random moments after `waits`, told the death's number, says no longer.
pub fn die_meanwhile(node: &mut Node, deaths: u16, seed: u64, waits: impl Fn(u16) -> bool) {
    let mut rng = Rng::new(seed);
    for death in 1..=deaths {
        while waits(death) {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_micros(rng.below(20_000)));
        node.kill();
        std::thread::sleep(Duration::from_millis(rng.below(100)));
        node.start();
    }
}

/// Changes of a backend that flaps, and the time between two of them.
pub const FLAPS: u32 = 400;
const FLAP_EVERY: Duration = Duration::from_millis(10);

/// Makes a change a hundred times a second: so many changes, however long a busy machine takes. The last one is odd.
pub fn flap(mut change: impl FnMut(u32)) {
    let began = Instant::now();
    for number in 0..FLAPS {
        change(number);
        let due = began + FLAP_EVERY * (number + 1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
