//! `connects [--json] [OBJECT]`: connections a second through a service, against connections to the backend itself.
//!
//! Compared, in turns and in namespaces of their own, with 1, 1,000 and 10,000 services each: services at sockets
//! (this datapath), nftables and iptables in kube-proxy's ways (a verdict map; a chain of jumps, the service asked for being the
//! last). A client process, pinned to one CPU, connects and resets; a server on another accepts. Every round measures
//! each way once and the direct way before and after, so that what else the machine does hits all alike; shown are the median
//! rate and the median ratio to the direct way of the same round. Needs root; takes less than two minutes.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Instant,
};

use abi::{
    be::Port,
    config::NodeConfig,
    lb::{LbBackend4, LbKey4, LbRevNat4, LbService},
};
use loader::{Datapath, LoaderConfig};

/// Connections of one measurement, and rounds.
const CONNECTIONS: u32 = 3_000;
const ROUNDS: usize = 9;
/// How many services there are.
const SIZES: [u32; 3] = [1, 1_000, 10_000];
const BACKEND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 200, 0, 1), 8080);

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--client") {
        return client();
    }
    let json = args.iter().position(|arg| arg == "--json").map(|at| args.remove(at)).is_some();
    let object = args.pop().map_or_else(built, PathBuf::from);
    if let Err(why) = measure(&object, json) {
        eprintln!("connects: {why}");
        std::process::exit(1);
    }
}

fn built() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    target.join("bpf/cilium.o")
}

/// Address of a service.
fn frontend(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + n)
}

/// A way to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Direct,
    Sockets,
    Nftables,
    Iptables,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Sockets => "socket LB",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

fn measure(object: &Path, json: bool) -> Result<(), String> {
    let root = loader::check_sock_lb(None).map_err(|why| why.to_string())?;
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cpus < 2 {
        return Err("one CPU for the client and one for the server are needed".into());
    }
    let mut table: Vec<(Way, u32, f64, f64)> = Vec::new();
    for size in SIZES {
        let mut ways = vec![Site::new(Way::Direct, size, None)?];
        let group = Group::new(&root)?;
        let fast = Fast::new(object, size, &group)?;
        ways.push(Site::new(Way::Sockets, size, Some(&group.0))?);
        for (way, program) in [(Way::Nftables, "nft"), (Way::Iptables, "iptables-restore")] {
            if Command::new(program).arg("--version").output().is_ok() {
                ways.push(Site::new(way, size, None)?);
            } else {
                eprintln!("skipped: {} ({program} is not installed)", way.name());
            }
        }
        let mut rates: BTreeMap<Way, Vec<f64>> = BTreeMap::new();
        let mut ratios: BTreeMap<Way, Vec<f64>> = BTreeMap::new();
        for round in 0..=ROUNDS {
            let before = ways[0].run()?;
            let measured: Vec<(Way, f64)> =
                ways[1..].iter_mut().map(|site| Ok((site.way, site.run()?))).collect::<Result<_, String>>()?;
            let direct = f64::midpoint(before, ways[0].run()?);
            if round == 0 {
                continue; // Warms up.
            }
            rates.entry(Way::Direct).or_default().push(direct);
            for (way, rate) in measured {
                rates.entry(way).or_default().push(rate);
                ratios.entry(way).or_default().push(rate / direct);
            }
        }
        for (way, mut all) in rates {
            let ratio = ratios.get_mut(&way).map_or(1.0, |all| median(all));
            table.push((way, size, median(&mut all), ratio));
        }
        drop(ways);
        drop(fast);
    }
    show(&table, json);
    Ok(())
}

fn show(table: &[(Way, u32, f64, f64)], json: bool) {
    if !json {
        println!("{:<10} {:>8} {:>14} {:>18}", "way", "services", "connects/s", "against direct");
    }
    for (way, size, rate, ratio) in table {
        if json {
            println!(
                "{{\"work\":\"connects/s through a service\",\"way\":\"{}\",\"services\":{size},\"rate\":{rate:.0},\"ratio\":{ratio:.3}}}",
                way.name()
            );
        } else {
            println!("{:<10} {size:>8} {rate:>14.0} {ratio:>18.3}", way.name());
        }
    }
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// A namespace with a server, a client, and what leads from one to the other.
struct Site {
    way: Way,
    namespace: String,
    client: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    target: SocketAddrV4,
}

impl Site {
    fn new(way: Way, services: u32, group: Option<&Path>) -> Result<Self, String> {
        let namespace = format!("connects-{}-{}-{services}", std::process::id(), way as u8);
        ip(&["netns", "add", &namespace])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{}/32", BACKEND.ip()), "dev", "lo"])?;
        // A service's address must lead somewhere before it is translated.
        ip(&["-n", &namespace, "route", "add", "10.96.0.0/16", "dev", "lo"])?;
        let rules = match way {
            Way::Direct | Way::Sockets => None,
            Way::Nftables => Some(("nft", vec!["-f", "-"], nftables(services))),
            Way::Iptables => Some(("iptables-restore", vec![], iptables(services))),
        };
        if let Some((program, args, text)) = rules {
            feed(&namespace, program, &args, &text)?;
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
        let target = if way == Way::Direct { BACKEND } else { SocketAddrV4::new(frontend(services), 80) };
        Ok(Self { way, namespace, client, orders, answers, target })
    }

    /// Connections a second.
    fn run(&mut self) -> Result<f64, String> {
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

/// As kube-proxy's nftables mode: one map from frontend to chain.
fn nftables(services: u32) -> String {
    let mut chains = String::new();
    let mut elements = Vec::new();
    for n in 1..=services {
        chains += &format!("  chain service-{n} {{ meta l4proto tcp dnat to {BACKEND}; }}\n");
        elements.push(format!("{} . tcp . 80 : goto service-{n}", frontend(n)));
    }
    format!(
        "table ip proxy {{\n{chains}  map services {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}; }}\n  \
         chain services {{ ip daddr . meta l4proto . th dport vmap @services; }}\n  \
         chain output {{ type nat hook output priority -100; jump services; }}\n}}\n",
        elements.join(", ")
    )
}

/// As kube-proxy's iptables mode: a chain of jumps, to a chain of the service, to one of its backend.
fn iptables(services: u32) -> String {
    let mut text = String::from("*nat\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\n:KUBE-SERVICES -\n");
    for n in 1..=services {
        text += &format!(":KUBE-SVC-{n} -\n:KUBE-SEP-{n} -\n");
    }
    text += "-A OUTPUT -j KUBE-SERVICES\n";
    for n in 1..=services {
        text += &format!("-A KUBE-SERVICES -d {}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-{n}\n", frontend(n));
        text +=
            &format!("-A KUBE-SVC-{n} -j KUBE-SEP-{n}\n-A KUBE-SEP-{n} -p tcp -j DNAT --to-destination {BACKEND}\n");
    }
    text + "COMMIT\n"
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
fn client() {
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

/// A control group, empty at first.
struct Group(PathBuf);

impl Group {
    fn new(root: &Path) -> Result<Self, String> {
        let path = root.join(format!("connects-{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _gone = fs::remove_dir(&self.0);
    }
}

/// This datapath, attached to the group, with its services.
struct Fast {
    datapath: Datapath,
    bpffs: PathBuf,
}

impl Fast {
    fn new(object: &Path, services: u32, group: &Group) -> Result<Self, String> {
        let bpffs = std::env::temp_dir().join(format!("connects-bpffs-{}", std::process::id()));
        loader::ensure_bpffs(&bpffs).map_err(|e| e.to_string())?;
        // The cookie of no namespace: the client is a pod. What is reported is what is reported by default.
        let flags = abi::config::NODE_TRACE_SOCK;
        let node =
            NodeConfig { flags, monitor_aggregation: 3, host_netns_cookie: [u32::MAX; 2], ..NodeConfig::default() };
        let mut config = LoaderConfig::new(object, node);
        config.bpffs.clone_from(&bpffs);
        config.sockets = true;
        let small = |spec: &&abi::maps::MapSpec| spec.max_entries > 1024 && !spec.name.contains("lb4");
        let sizes = abi::maps::ALL.iter().filter(small).filter(|spec| spec.kind != abi::maps::MapKind::RingBuf);
        config.map_sizes = sizes.map(|spec| (spec.name.to_owned(), 1024)).collect();
        let datapath = Datapath::open(&config).map_err(|e| e.to_string())?;
        let maps = datapath.maps();
        let fill = || -> Result<(), loader::MapError> {
            let backend = LbBackend4 {
                address: (*BACKEND.ip()).into(),
                port: Port::new(BACKEND.port()),
                ..LbBackend4::default()
            };
            maps.lb4_backends.insert(&1, &backend)?;
            for n in 1..=services {
                let (index, dport) = (Port::new(n as u16), Port::new(80));
                let at = |slot| LbKey4 {
                    address: frontend(n).into(),
                    dport,
                    backend_slot: slot,
                    proto: 6,
                    scope: 0,
                    pad: 0,
                };
                maps.lb4_reverse_nat.insert(&index, &LbRevNat4 { address: frontend(n).into(), port: dport, pad: 0 })?;
                let value = LbService { rev_nat_index: index, ..LbService::default() };
                maps.lb4_services.insert(&at(1), &LbService { backend_id: 1, ..value })?;
                maps.lb4_services.insert(&at(0), &LbService { count: 1, ..value })?;
            }
            Ok(())
        };
        fill().map_err(|e| e.to_string())?;
        datapath.attach_sockets(&group.0).map_err(|e| e.to_string())?;
        Ok(Self { datapath, bpffs })
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        let _gone = self.datapath.detach_sockets();
        if let Ok(path) = std::ffi::CString::new(self.bpffs.as_os_str().as_encoded_bytes()) {
            // SAFETY: the path is a terminated string.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
        let _gone = fs::remove_dir(&self.bpffs);
    }
}
