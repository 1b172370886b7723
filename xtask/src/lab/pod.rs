//! What runs in a pod: servers that say who they are, so that no other program is needed.
//!
//! Port 80 speaks HTTP, port 5432 echoes TCP lines, port 53 answers UDP. Each answer is `NAME saw ADDRESS`.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result};

/// HTTP.
pub(super) const HTTP: u16 = 80;
/// TCP echo, line by line.
pub(super) const ECHO: u16 = 5432;
/// UDP.
pub(super) const UDP: u16 = 53;

/// A pod of the lab.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    /// Name, also of its network namespace.
    pub(super) name: &'static str,
    /// Kubernetes namespace.
    pub(super) namespace: &'static str,
    /// Labels besides that of its namespace.
    pub(super) labels: &'static [&'static str],
    /// Addresses: IPv4, IPv6; set when it is added.
    pub(super) ips: Vec<IpAddr>,
}

/// The pod of the other node.
pub(super) fn far() -> Pod {
    Pod { name: "far-backend", namespace: "shop", labels: &["app=backend"], ips: Vec::new() }
}

/// Every pod of the node.
pub(super) fn all() -> Vec<Pod> {
    let pod = |name, namespace, labels| Pod { name, namespace, labels, ips: Vec::new() };
    vec![
        pod("frontend", "shop", &["app=frontend", "track=stable"]),
        pod("canary", "shop", &["app=frontend", "track=canary"]),
        pod("backend-1", "shop", &["app=backend"]),
        pod("backend-2", "shop", &["app=backend"]),
        pod("backend-3", "shop", &["app=backend"]),
        pod("db-1", "shop", &["app=db"]),
        pod("db-2", "shop", &["app=db"]),
        pod("intruder", "other", &["app=intruder"]),
    ]
}

/// Serves until the process is ended; runs in the pod, as a process of its own.
pub fn serve(name: &str) -> Result<()> {
    let any = |port| SocketAddr::from(([0_u16; 8], port));
    let http = TcpListener::bind(any(HTTP)).context("port 80")?;
    let echo = TcpListener::bind(any(ECHO)).context("port 5432")?;
    let udp = UdpSocket::bind(any(UDP)).context("port 53")?;
    let (a, b) = (name.to_owned(), name.to_owned());
    thread::spawn(move || accept(&http, move |stream, from| answer_http(&stream, &a, from)));
    thread::spawn(move || accept(&echo, move |stream, from| answer_lines(&stream, &b, from)));
    let mut chunk = [0; 2048];
    loop {
        let Ok((_, from)) = udp.recv_from(&mut chunk) else { continue };
        let _ = udp.send_to(format!("{name} saw {}", shown(from)).as_bytes(), from);
    }
}

fn accept(
    listener: &TcpListener,
    answer: impl Fn(TcpStream, SocketAddr) -> std::io::Result<()> + Clone + Send + 'static,
) {
    for stream in listener.incoming().flatten() {
        let answer = answer.clone();
        thread::spawn(move || stream.peer_addr().and_then(|from| answer(stream, from)));
    }
}

fn answer_http(stream: &TcpStream, name: &str, from: SocketAddr) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let body = format!("{name} saw {}\n", shown(from));
    let length = body.len();
    write!(&mut &*stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

fn answer_lines(stream: &TcpStream, name: &str, from: SocketAddr) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    for line in BufReader::new(stream).lines() {
        // One write, one segment: otherwise the rest waits for an acknowledgement.
        (&*stream).write_all(format!("{name} saw {}: {}\n", shown(from), line?).as_bytes())?;
    }
    Ok(())
}

/// An IPv4 client of a socket for both families is an IPv4 client.
fn shown(from: SocketAddr) -> IpAddr {
    from.ip().to_canonical()
}
