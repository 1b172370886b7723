//! Twenty deaths under traffic: nothing established breaks, nothing allowed fails, nothing denied gets through.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use machine::Rng;

use crate::support::{Net, Node};

const DEATHS: u64 = 20;
/// Longer than any start takes, so that some deaths are in the middle of one and some long after.
const LIFE_MS_MAX: u64 = 2_500;
/// How long an answer on an established or a new connection may take; TCP retries a lost SYN after a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints:
    - matchLabels: {app: client}
"#;

/// What the traffic saw.
#[derive(Debug, Default)]
struct Seen {
    stop: AtomicBool,
    exchanges: AtomicU64,
    connections: AtomicU64,
    denied_tries: AtomicU64,
}

impl Seen {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// One connection that is used all the time.
fn long_lived(net: &Net, to: SocketAddr, seen: &Seen) -> Result<(), String> {
    let fail = |what: &str, why: std::io::Error| format!("long-lived to {to}: {what}: {why}");
    net.within(|| {
        let mut stream = TcpStream::connect_timeout(&to, ANSWER_WITHIN).map_err(|e| fail("connect", e))?;
        stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(|e| fail("set", e))?;
        while seen.goes_on() {
            let said = seen.exchanges.fetch_add(1, Ordering::Relaxed).to_le_bytes();
            stream.write_all(&said).map_err(|e| fail("write", e))?;
            let mut heard = [0; 8];
            stream.read_exact(&mut heard).map_err(|e| fail("read", e))?;
            if heard != said {
                return Err(format!("long-lived to {to}: another answer"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    })
}

/// One new connection after the other.
fn new_ones(net: &Net, to: SocketAddr, seen: &Seen) -> Result<(), String> {
    let fail = |what: &str, why: std::io::Error| format!("new to {to}: {what}: {why}");
    net.within(|| {
        while seen.goes_on() {
            let mut stream = TcpStream::connect_timeout(&to, ANSWER_WITHIN).map_err(|e| fail("connect", e))?;
            stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(|e| fail("set", e))?;
            stream.write_all(b"x").map_err(|e| fail("write", e))?;
            stream.read_exact(&mut [0]).map_err(|e| fail("read", e))?;
            seen.connections.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    })
}

/// Tries all the time what is denied: by TCP, which must never connect, and by UDP, which must never arrive.
fn denied(net: &Net, tcp: SocketAddr, udp: SocketAddr, seen: &Seen) -> Result<(), String> {
    net.within(|| {
        let any = if udp.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).map_err(|e| e.to_string())?;
        while seen.goes_on() {
            // Refused or dropped: both are fine, arriving is not, and the receiver watches for that.
            let _dropped = socket.send_to(b"?", udp);
            if TcpStream::connect_timeout(&tcp, Duration::from_millis(30)).is_ok() {
                return Err(format!("a denied connection to {tcp} was made"));
            }
            seen.denied_tries.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })
}

/// Watches for datagrams that must not come.
fn nothing_comes(net: &Net, port: u16, seen: &Seen) -> Result<(), String> {
    net.within(|| {
        let socket = UdpSocket::bind(("::", port)).map_err(|e| e.to_string())?;
        socket.set_read_timeout(Some(Duration::from_millis(100))).map_err(|e| e.to_string())?;
        while seen.goes_on() {
            if let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
                return Err(format!("a denied datagram came from {from}"));
            }
        }
        Ok(())
    })
}

#[test]
fn twenty_deaths_break_nothing_and_open_nothing() {
    let Some(mut node) = Node::new(&[]) else { return };
    let web = node.pod("web", &["k8s:app=web"]);
    let client = node.pod("client", &["k8s:app=client"]);
    let other = node.pod("other", &["k8s:app=other"]);
    web.echo(80);
    node.policy("web.yaml", POLICY);
    node.eventually("the policy is enforced", || !other.reaches((web.ipv4, 80)));

    let seen = Arc::new(Seen::default());
    let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
    let (v4, v6) = (web.ipv4, web.ipv6.unwrap());
    let faults: Vec<String> = std::thread::scope(|scope| {
        let s = &*seen;
        let (web, client, other) = (&web.net, &client.net, &other.net);
        let mut traffic = vec![scope.spawn(move || nothing_comes(web, 90, s))];
        for ip in [v4, v6] {
            traffic.push(scope.spawn(move || long_lived(client, at(ip, 80), s)));
            traffic.push(scope.spawn(move || new_ones(client, at(ip, 80), s)));
            traffic.push(scope.spawn(move || denied(other, at(ip, 80), at(ip, 90), s)));
        }
        let mut rng = Rng::new(20);
        for _ in 0..DEATHS {
            std::thread::sleep(Duration::from_millis(rng.below(LIFE_MS_MAX)));
            node.kill();
            std::thread::sleep(Duration::from_millis(rng.below(300)));
            node.start();
            if traffic.iter().any(|thread| thread.is_finished()) {
                break;
            }
        }
        node.wait_ready();
        // Once more with everything up.
        std::thread::sleep(Duration::from_millis(500));
        seen.stop.store(true, Ordering::Relaxed);
        traffic.into_iter().filter_map(|thread| thread.join().unwrap().err()).collect()
    });
    assert_eq!(faults, Vec::<String>::new(), "{}", node.log());
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let numbers = (count(&seen.exchanges), count(&seen.connections), count(&seen.denied_tries));
    assert!(numbers.0 > 500 && numbers.1 > 200 && numbers.2 > 100, "this proves little: {numbers:?}");
}
