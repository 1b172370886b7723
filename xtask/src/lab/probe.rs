//! Traffic: one request from inside a namespace, and what came of it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use netlink::Namespace;

use super::pod::{ECHO, HTTP, UDP};

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Tcp,
    Udp,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Http, Self::Tcp, Self::Udp];
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Http => HTTP,
            Self::Tcp => ECHO,
            Self::Udp => UDP,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Long enough for a retransmission (1 s) on a busy machine.
const PATIENCE: Duration = Duration::from_millis(2500);
/// A drop is silence. A first attempt and nothing within this time is one.
const SILENCE: Duration = Duration::from_millis(600);

/// Asks and waits for as long as an answer may take.
pub(super) fn ask(from: &Namespace, to: IpAddr, kind: Kind) -> io::Result<String> {
    ask_at(from, SocketAddr::new(to, kind.port()), kind, PATIENCE)
}

/// Asks where silence is expected.
pub(super) fn ask_briefly(from: &Namespace, to: IpAddr, kind: Kind) -> io::Result<String> {
    ask_at(from, SocketAddr::new(to, kind.port()), kind, SILENCE)
}

/// Asks a given port.
pub(super) fn ask_at(from: &Namespace, to: SocketAddr, kind: Kind, patience: Duration) -> io::Result<String> {
    from.run(|| match kind {
        Kind::Http => http(to, patience),
        Kind::Tcp => Line::open(to, patience)?.say("hello"),
        Kind::Udp => udp(to, patience),
    })
    .map_err(io::Error::other)?
}

/// Who answered: the first word.
pub(super) fn who(answer: &str) -> &str {
    answer.split_whitespace().next().unwrap_or("nobody")
}

fn http(to: SocketAddr, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned());
    body.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "no HTTP answer"))
}

fn udp(to: SocketAddr, patience: Duration) -> io::Result<String> {
    let any = if to.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0_u16; 8], 0)) };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"hello")?;
    let mut chunk = [0; 2048];
    let n = uninterrupted(|| socket.recv(&mut chunk))?;
    Ok(String::from_utf8_lossy(&chunk[..n]).into_owned())
}

/// A signal to the lab is nothing that happened to a connection.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// A TCP connection that stays open.
pub(super) struct Line {
    stream: TcpStream,
}

impl Line {
    /// Opens one; call this inside a namespace. The socket stays in it wherever it goes.
    pub(super) fn open(to: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }
    /// Sends a line and waits for its echo.
    pub(super) fn say(&mut self, text: &str) -> io::Result<String> {
        self.stream.write_all(format!("{text}\n").as_bytes())?;
        let (mut line, mut byte) = (Vec::new(), [0; 1]);
        loop {
            if uninterrupted(|| self.stream.read(&mut byte))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if byte[0] == b'\n' {
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            line.push(byte[0]);
        }
    }
}
