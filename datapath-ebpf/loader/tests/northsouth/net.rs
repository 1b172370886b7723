//! Network namespaces, and sockets in them whose stack is the judge.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::Ordering,
    thread,
    time::Duration,
};

pub use crate::support::netns::{Namespace, mac, move_into};

/// How long what should come may take: the machine may be busy, and a wait ends as soon as it is over.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Makes a device of this namespace compute every checksum itself, as on a real wire, and take packets from XDP of its peer.
pub fn like_a_wire(device: &str) {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    const ETHTOOL_SGRO: u32 = 0x2c;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let socket = UdpSocket::bind("127.0.0.1:0").expect("lo is up");
    for (command, value) in [(ETHTOOL_STXCSUM, 0_u32), (ETHTOOL_SGRO, 1)] {
        let mut data = [command, value];
        // SAFETY: ifreq is plain memory.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
        // SAFETY: the request points to a command and its value, which outlive the call.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        assert_eq!(done, 0, "ethtool {command:#x} at {device}: {}", std::io::Error::last_os_error());
    }
}

/// A server on both transports at one address, in a namespace, that echoes. It runs until the value goes.
pub struct Server {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    peers: std::sync::Arc<std::sync::Mutex<Vec<SocketAddr>>>,
}

impl Server {
    pub fn start(netns: &Namespace, at: SocketAddr) -> Self {
        let (tcp, udp) = netns.enter(|| (TcpListener::bind(at).expect("free"), UdpSocket::bind(at).expect("free")));
        tcp.set_nonblocking(true).expect("it can");
        udp.set_read_timeout(Some(Duration::from_millis(50))).expect("not zero");
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let peers = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (stop_tcp, stop_udp) = (stop.clone(), stop.clone());
        let (peers_tcp, peers_udp) = (peers.clone(), peers.clone());
        let threads = vec![
            thread::spawn(move || {
                while !stop_tcp.load(Ordering::Relaxed) {
                    match tcp.accept() {
                        Ok((stream, peer)) => {
                            peers_tcp.lock().expect("nobody panics with it").push(peer);
                            thread::spawn(move || echo(stream));
                        }
                        Err(_) => thread::sleep(Duration::from_millis(2)),
                    }
                }
            }),
            thread::spawn(move || {
                let mut data = vec![0; 65_536];
                while !stop_udp.load(Ordering::Relaxed) {
                    if let Ok((n, peer)) = udp.recv_from(&mut data) {
                        peers_udp.lock().expect("nobody panics with it").push(peer);
                        let answer: Vec<u8> = data[..n].iter().rev().copied().collect();
                        let _ = udp.send_to(&answer, peer);
                    }
                }
            }),
        ];
        Self { stop, threads, peers }
    }

    /// Addresses from which it was spoken to since the last question.
    pub fn peers(&self) -> Vec<IpAddr> {
        self.ends().into_iter().map(|peer| peer.ip()).collect()
    }

    /// The same with their ports.
    pub fn ends(&self) -> Vec<SocketAddr> {
        std::mem::take(&mut *self.peers.lock().expect("nobody panics with it"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let mut data = vec![0; 65_536];
    while let Ok(n @ 1..) = stream.read(&mut data) {
        if stream.write_all(&data[..n]).is_err() {
            return;
        }
    }
}

/// What the calling thread's namespace knows of the way to an address, in words.
pub fn way_to(ip: IpAddr) -> String {
    let out = std::process::Command::new("ip").args(["route", "get", &ip.to_string()]).output();
    String::from_utf8(out.expect("iproute2 is installed").stdout).expect("text")
}

/// Sends `len` bytes over TCP and reads them back.
pub fn transfer(to: SocketAddr, len: usize) -> Result<(), std::io::Error> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    assert_eq!(stream.peer_addr()?, to);
    let sent: Vec<u8> = (0..len).map(|i| (i * 31 + i / 251) as u8).collect();
    let mut writer = stream.try_clone()?;
    thread::scope(|scope| {
        let sent = &sent;
        scope.spawn(move || {
            writer.write_all(sent).expect("the server reads");
            writer.shutdown(std::net::Shutdown::Write).expect("still open");
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got)?;
        assert!(got == *sent, "{} of {} bytes came back, or others", got.len(), sent.len());
        Ok(())
    })
}

/// Asks over UDP; the answer is the question backwards, and must come from where it was sent to.
pub fn ask(to: SocketAddr, question: &[u8], patience: Duration) -> Result<Vec<u8>, std::io::Error> {
    let any: SocketAddr = if to.is_ipv6() { "[::]:0".parse() } else { "0.0.0.0:0".parse() }.expect("an address");
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(question)?;
    let mut data = vec![0; 65_536];
    let n = socket.recv(&mut data)?;
    Ok(data[..n].iter().rev().copied().collect())
}
