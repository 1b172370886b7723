//! A way to the backend in a namespace of its own: a server, a client process, and what leads from one to the other.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, SocketAddrV4, TcpListener},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Instant,
};

use super::{BACKEND, CONNECTIONS, Way, frontend, rules};

/// A namespace with a server, a client, and what leads from one to the other.
pub struct Site {
    pub way: Way,
    namespace: String,
    client: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    target: SocketAddrV4,
}

impl Site {
    pub fn new(way: Way, services: u32, group: Option<&Path>) -> Result<Self, String> {
        let namespace = format!("connects-{}-{}-{services}", std::process::id(), way as u8);
        ip(&["netns", "add", &namespace])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{}/32", BACKEND.ip()), "dev", "lo"])?;
        // A service's address must lead somewhere before it is translated.
        ip(&["-n", &namespace, "route", "add", "10.96.0.0/16", "dev", "lo"])?;
        let rules = match way {
            Way::Direct | Way::Again | Way::Sockets => None,
            Way::Nftables => Some(("nft", vec!["-f", "-"], rules::nftables(services))),
            Way::Iptables => Some(("iptables-restore", vec![], rules::iptables(services))),
        };
        if let Some((program, args, text)) = rules {
            feed(&namespace, program, &args, &text)?;
            forget_soon(&namespace)?;
        }
        serve(&namespace)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("--client").stdin(Stdio::piped()).stdout(Stdio::piped());
        let (netns, procs) = (namespace_file(&namespace)?, group.map(|group| group.join("cgroup.procs")));
        // SAFETY: between fork and exec only system calls are made, on descriptors and paths made before.
        unsafe {
            command.pre_exec(move || {
                if let Some(procs) = &procs {
                    fs::write(procs, b"0")?;
                }
                if libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                pin(0)
            });
        }
        let mut client = command.spawn().map_err(|e| format!("starting a client: {e}"))?;
        let orders = client.stdin.take().ok_or("a client without input")?;
        let answers = BufReader::new(client.stdout.take().ok_or("a client without output")?);
        let target = match way {
            Way::Direct | Way::Again => BACKEND,
            _ => SocketAddrV4::new(frontend(services), 80),
        };
        Ok(Self { way, namespace, client, orders, answers, target })
    }

    /// Connections a second.
    pub fn run(&mut self) -> Result<f64, String> {
        let failed = |e: std::io::Error| format!("the client of {} ended: {e}", self.way.name());
        writeln!(self.orders, "{} {CONNECTIONS}", self.target).map_err(failed)?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(failed)?;
        let nanos: f64 = line.trim().parse().map_err(|_| format!("{}: {}", self.way.name(), line.trim()))?;
        Ok(f64::from(CONNECTIONS) / nanos * 1e9)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _gone = self.client.kill();
        let _gone = self.client.wait();
        let _gone = Command::new("ip").args(["netns", "del", &self.namespace]).output();
    }
}

fn namespace_file(name: &str) -> Result<fs::File, String> {
    fs::File::open(format!("/var/run/netns/{name}")).map_err(|e| format!("namespace {name}: {e}"))
}

fn ip(args: &[&str]) -> Result<(), String> {
    let out = Command::new("ip").args(args).output().map_err(|e| format!("ip: {e}"))?;
    if out.status.success() { Ok(()) } else { Err(format!("ip {args:?}: {}", String::from_utf8_lossy(&out.stderr))) }
}

/// Hands a program its rules, inside.
fn feed(namespace: &str, program: &str, args: &[&str], text: &str) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{program}: {e}");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]).args(args).stdin(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    child.stdin.take().ok_or("no input")?.write_all(text.as_bytes()).map_err(failed)?;
    let status = child.wait().map_err(failed)?;
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
}

/// Lets connections that were reset be forgotten after a second: more are made here than the kernel's table holds in ten.
fn forget_soon(namespace: &str) -> Result<(), String> {
    let file = namespace_file(namespace)?;
    let write = move || {
        // SAFETY: the descriptor is open; only this thread moves.
        if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", b"1")
    };
    let done = thread::spawn(write).join().map_err(|_| "a thread that writes one file panicked".to_owned())?;
    done.map_err(|e| format!("nf_conntrack_tcp_timeout_close: {e}"))
}

/// Starts a server inside that accepts and forgets, until the process ends.
fn serve(namespace: &str) -> Result<(), String> {
    let file = namespace_file(namespace)?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let begin = || {
            // SAFETY: the descriptor is open; only this thread moves.
            if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
            pin(1)?;
            fs::write("/proc/sys/net/core/somaxconn", b"8192")?;
            let listener = TcpListener::bind(BACKEND)?;
            // SAFETY: a listening socket; the call only makes its queue longer.
            unsafe { libc::listen(listener.as_raw_fd(), 8192) };
            Ok(listener)
        };
        let listener = begin();
        // Whoever waits for it gave up only with the whole program.
        let _gone = ready.send(listener.as_ref().map(drop).map_err(|e| format!("the server: {e}")));
        for stream in listener.into_iter().flat_map(|listener| std::iter::from_fn(move || Some(listener.accept()))) {
            drop(stream);
        }
    });
    is_ready.recv().map_err(|e| e.to_string())?
}

fn pin(cpu: usize) -> std::io::Result<()> {
    // SAFETY: zeroed bytes are an empty set, which CPU_SET writes within its bounds and the call reads with its size.
    let ret = unsafe {
        let mut set = std::mem::zeroed::<libc::cpu_set_t>();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    if ret == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Reads `ADDRESS COUNT` from its input, connects so often, and answers with the nanoseconds it took.
pub fn client() {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let order = (words.next().map(str::parse::<SocketAddr>), words.next().map(str::parse::<u32>));
        let (Some(Ok(SocketAddr::V4(to))), Some(Ok(count))) = order else {
            println!("cannot read {line:?}");
            continue;
        };
        let began = Instant::now();
        match (0..count).try_for_each(|_| connect(to)) {
            Ok(()) => println!("{}", began.elapsed().as_nanos()),
            Err(why) => println!("connecting to {to}: {why}"),
        }
    }
}

/// Connects, and resets, so that no port waits.
fn connect(to: SocketAddrV4) -> std::io::Result<()> {
    // SAFETY: plain calls on a descriptor made here, with live values of the sizes given.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            size_of_val(&linger) as u32,
        );
        let mut address = std::mem::zeroed::<libc::sockaddr_in>();
        address.sin_family = libc::AF_INET as u16;
        address.sin_port = to.port().to_be();
        address.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
        let size = size_of_val(&address) as u32;
        if libc::connect(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), size) != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
