//! Traffic that must not notice what happens.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
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
    ports: bool,
}

impl Speaker {
    pub fn new(net: &Net, to: &[SocketAddr]) -> Self {
        Self { net: Namespace::open(net.handle.path()).unwrap(), to: to.to_vec(), ports: false }
    }

    /// Each connection is from a port of its own. Where packets are translated on their way, two connections from one port through
    /// two frontends to one backend are the same connection to it, and the client's kernel gives ports away by frontend.
    pub fn with_ports(net: &Net, to: &[SocketAddr]) -> Self {
        Self { ports: true, ..Self::new(net, to) }
    }
}

/// Ports of a speaker's long connection, of its new ones, and those that are left to others.
const LONG_PORT: u16 = 2_000;
const NEW_PORTS: (u16, u16) = (3_000, 14_999);
const OTHER_PORTS: (u16, u16) = (18_000, 13_999);

/// The port of a client's `n`th connection, as [`Speaker::with_ports`] leaves them to others.
pub fn other_port(n: u16) -> u16 {
    OTHER_PORTS.0 + n % OTHER_PORTS.1
}

/// Connects from a port; 0: any.
pub fn connect(from: u16, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    let any = if to.is_ipv6() { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    socket.bind(&SocketAddr::new(any, from).into())?;
    socket.connect_timeout(&to.into(), ANSWER_WITHIN)?;
    Ok(socket.into())
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

fn long_lived(speaker: &Speaker, seen: &Seen) -> Result<(), String> {
    let (to, from) = (speaker.to[0], if speaker.ports { LONG_PORT } else { 0 });
    let fail = |what: &str, why: std::io::Error| format!("established to {to}: {what}: {why}");
    speaker
        .net
        .run(|| {
            let mut stream = connect(from, to).map_err(|e| fail("connect", e))?;
            while seen.goes_on() {
                exchange(&mut stream).map_err(|e| fail("exchange", e))?;
                seen.exchanges.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        })
        .unwrap()
}

fn new_ones(speaker: &Speaker, seen: &Seen) -> Result<(), String> {
    let fail = |to: &SocketAddr, what: &str, why: std::io::Error| format!("new to {to}: {what}: {why}");
    let (first, count) = NEW_PORTS;
    speaker
        .net
        .run(|| {
            for (to, port) in speaker.to.iter().cycle().zip((first..first + count).cycle()) {
                if !seen.goes_on() {
                    break;
                }
                let from = if speaker.ports { port } else { 0 };
                let mut stream = connect(from, *to).map_err(|e| fail(to, "connect", e))?;
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
        for speaker in from {
            traffic.push(scope.spawn(move || long_lived(speaker, seen)));
            traffic.push(scope.spawn(move || new_ones(speaker, seen)));
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
