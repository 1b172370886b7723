//! The program itself, started as an operator would, between servers of nodes and the `hubble` command.

use hubble_api::{
    Timestamp,
    flow::{CiliumEventType, Endpoint, Flow, Ip, Layer4, Tcp, layer4::Protocol},
};
use hubble_cli::{Io, settings::Environment};
use hubble_server::{Config, Listen, Observer, PeerFile, Server};
use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};
use tokio::task::JoinSet;

const RELAY: &str = env!("CARGO_BIN_EXE_hubble-relay");

fn flow(second: i64, pod: &str) -> Flow {
    let end = |pod_name: &str| {
        Some(Endpoint { identity: 1234, namespace: "shop".into(), pod_name: pod_name.into(), ..Endpoint::default() })
    };
    let tcp = Tcp { source_port: 40_000, destination_port: 80, flags: None };
    Flow {
        time: Some(Timestamp { seconds: second, nanos: 0 }),
        verdict: 1,
        ip: Some(Ip { source: "10.0.0.1".into(), destination: "10.0.0.2".into(), ip_version: 1, ..Ip::default() }),
        l4: Some(Layer4 { protocol: Some(Protocol::Tcp(tcp)) }),
        source: end(pod),
        destination: end("web"),
        event_type: Some(CiliumEventType { r#type: 4, sub_type: 0 }),
        is_reply: Some(false),
        summary: "TCP Flags: SYN".into(),
        ..Flow::default()
    }
}

/// Two nodes; the first one's unix socket is the peer service.
async fn nodes(folder: &Path, tasks: &mut JoinSet<()>) -> ([Observer; 2], PathBuf) {
    let observers = ["n1", "n2"].map(|name| Observer::new(Config { node_name: name.into(), ..Config::default() }));
    let sockets = ["n1.sock", "n2.sock"].map(|name| folder.join(name));
    let peers = folder.join("peers");
    std::fs::write(&peers, format!("n2 unix://{}\n", sockets[1].display())).expect("written");
    let peers = PeerFile::open(&peers, false).expect("valid");
    for (observer, socket) in observers.iter().zip(&sockets) {
        let listen = Listen { unix: Some(socket.clone()), tcp: None };
        let server =
            Server::bind(&listen, observer.clone()).await.expect("a fresh path").with_peers(Arc::new(peers.clone()));
        tasks.spawn(async move { server.run(std::future::pending()).await.expect("it serves") });
    }
    let [first, _] = sockets;
    (observers, first)
}

/// The program, killed when it is dropped.
struct Program {
    child: Child,
    address: SocketAddr,
    log: BufReader<std::process::ChildStderr>,
}

impl Program {
    fn start(peers: &Path) -> Self {
        let mut command = Command::new(RELAY);
        command.args(["serve", "--disable-client-tls", "--disable-server-tls", "--config", "/dev/null"]);
        command.args(["--listen-address", "127.0.0.1:0", "--health-listen-address", "127.0.0.1:0"]);
        command.arg(format!("--peer-service=unix://{}", peers.display())).env_remove("NO_COLOR").env_remove("RUST_LOG");
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).expect("text") > 0, "it ended before it said where it listens");
            assert!(!line.contains('\u{1b}'), "colours are for terminals: {line}");
            // The line's second address is that of the health checks.
            if let Some((_, rest)) = line.split_once(" address=") {
                break rest.split_whitespace().next().and_then(|text| text.parse().ok()).expect("an address");
            }
        };
        Self { child, address, log }
    }

    /// Ends it as a service manager does; its exit code and the rest of its log.
    fn stop(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        // The shell's own: not every machine has the program.
        let kill = Command::new("sh").args(["-c", "kill -TERM $0", &pid]).status();
        assert!(kill.expect("there is a shell").success());
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("text");
        (self.child.wait().expect("it ends").code(), rest)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

async fn hubble(line: &str) -> (i32, String, String) {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let env = Environment { variables: BTreeMap::new(), directory: PathBuf::from("/nonexistent") };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = {
        let mut io = Io { input: &mut &b""[..], out: &mut out, err: &mut err, terminal: false };
        hubble_cli::run(&args, &env, &mut io).await
    };
    (code, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubble_sees_all_nodes_through_the_relay() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut tasks = JoinSet::new();
    let ([n1, n2], socket) = nodes(folder.path(), &mut tasks).await;
    let program = Program::start(&socket);
    let server = format!("--server {}", program.address);
    // Until both are connected.
    while !hubble(&format!("{server} status")).await.1.contains("Connected Nodes: 2/2") {
        tokio::task::yield_now().await;
    }
    for second in 1..=3 {
        n1.publish_flow(flow(2 * second, "a"));
        n2.publish_flow(flow(2 * second + 1, "b"));
    }
    let line = |second: i64, pod: &str| {
        format!(
            "Jan  1 00:00:0{second}.000: shop/{pod}:40000 (ID:1234) -> shop/web:80 (ID:1234) to-endpoint FORWARDED (TCP Flags: SYN)\n"
        )
    };
    let all: String = (2..=7).map(|second| line(second, if second % 2 == 0 { "a" } else { "b" })).collect();
    let (code, out, err) = hubble(&format!("{server} observe --all")).await;
    assert_eq!((code, out.as_str()), (0, all.as_str()), "{err}");
    let (code, out, err) = hubble(&format!("{server} observe --last 2")).await;
    assert_eq!((code, out), (0, line(6, "a") + &line(7, "b")), "the last of all, not of each: {err}");
    let (code, out, _) = hubble(&format!("{server} observe --first 1 --from-pod shop/b")).await;
    assert_eq!((code, out), (0, line(3, "b")));
    let (code, out, _) = hubble(&format!("{server} list nodes")).await;
    assert_eq!(code, 0);
    assert!(out.contains("n1 ") && out.contains("n2 "), "{out}");
    let (code, rest) = program.stop();
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("draining"), "{rest}");
}

#[test]
fn what_it_refuses_it_says_and_ends_with_two() {
    for (args, want) in [
        (&["serve", "--config", "/nonexistent.yaml"][..], "hubble-relay: --config: cannot read /nonexistent.yaml"),
        (&["serve", "--config", "/dev/null"], "hubble-relay: --tls-hubble-server-ca-files: nodes' certificates"),
        (&["serve", "--nonsense"], "error: unexpected argument '--nonsense'"),
    ] {
        let out = Command::new(RELAY).args(args).output().expect("it runs");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(said.starts_with(want), "{said}");
    }
    let out = Command::new(RELAY).arg("version").output().expect("it runs");
    assert!(out.status.success() && out.stdout.starts_with(b"hubble-relay "));
}
