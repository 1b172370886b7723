//! What pods did, seen by the `hubble` command through a relay in front of the agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hubble_cli::{Io, settings::Environment};
use hubble_relay::{Relay, Settings, pool::Reach};
use hubble_transport::{Address, Clock, Network, bind_tcp};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;

use crate::sockets::{World, vip};
use crate::support::Node;

/// A relay whose peer service is the agent's socket; its address, and what keeps it running.
async fn relay(agent: &Path) -> (SocketAddr, JoinSet<()>) {
    let reach = Reach {
        network: Arc::new(Network),
        tls: None,
        service: Address::Unix(agent.to_owned()),
        service_name: String::new(),
        dial_timeout: Duration::from_secs(30),
        clock: Clock::default(),
    };
    let (relay, keep) = Relay::new(Settings { node_name: "relay".into(), ..Settings::default() }, reach, 1);
    let listener = bind_tcp(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(keep);
    tasks.spawn(async move { relay.serve(TcpListenerStream::new(listener), None).await.unwrap() });
    (address, tasks)
}

async fn hubble(server: SocketAddr, line: &str) -> (i32, String, String) {
    run_hubble(&format!("--server {server} {line}")).await
}

async fn run_hubble(words: &str) -> (i32, String, String) {
    let args: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let env = Environment { variables: BTreeMap::new(), directory: PathBuf::from("/nonexistent") };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = {
        let mut io = Io { input: &mut &b""[..], out: &mut out, err: &mut err, terminal: false };
        hubble_cli::run(&args, &env, &mut io).await
    };
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn hubble_shows_what_pods_did_through_a_relay() {
    let Some(node) = Node::new(&[]) else { return };
    let web = node.pod("web", &["k8s:app=web"]);
    let client = node.pod("client", &["k8s:app=client"]);
    web.echo(80);
    assert!(client.reaches((web.ipv4, 80)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (server, _tasks) = runtime.block_on(relay(&node.dir.path().join("run/hubble.sock")));
    let ask = |line: &str| runtime.block_on(hubble(server, line));
    node.eventually("the relay is connected", || ask("status").1.contains("Connected Nodes: 1/1"));
    let line = "observe --all --from-pod default/client --to-pod default/web --port 80 --protocol tcp -o compact";
    node.eventually("the connection is shown", || ask(line).1.contains("default/web:80"));
    let (code, out, err) = ask("list nodes");
    assert!(code == 0 && out.contains("node ") && out.contains("Connected"), "{out}{err}");
    let (code, out, err) = ask("observe --last 3 -o json");
    assert_eq!((code, out.lines().count()), (0, 3), "{out}{err}");
}

/// Control groups below that of the node, outermost first; gone with their last process.
struct Groups(Vec<PathBuf>);

impl Groups {
    fn new(paths: Vec<PathBuf>) -> Self {
        paths.iter().for_each(|path| std::fs::create_dir(path).unwrap());
        Self(paths)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for _ in 0..50 {
            while self.0.last().is_some_and(|path| std::fs::remove_dir(path).is_ok()) {
                self.0.pop();
            }
            if self.0.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A container is found by a process in it; one of Kubernetes by the place of its group, also when its process has ended.
#[test]
fn a_socket_sent_to_a_backend_is_a_flow_of_its_pod() {
    let Some(world) = World::new(&[]) else { return };
    world.serve(1, "TCP", &world.backends()[..1]);
    let plain = Groups::new(vec![world.cgroup().join("container")]);
    // The first call of the container, from a process that ends only when it is told to.
    let mut child = call_from(&world, &plain.0[0], "read -r end");
    shown_before_and_after(&world, plain.0.last().unwrap());
    drop(child.stdin.take());
    child.wait().unwrap();
    let slice = world.cgroup().join("kubepods.slice");
    let pod = slice.join("kubepods-pod3b1f5a70.slice");
    let (sandbox, container) = (pod.join("cri-containerd-client.scope"), pod.join("cri-containerd-c0ffee.scope"));
    let of_kubernetes = Groups::new(vec![slice, pod, sandbox, container]);
    assert!(call_from(&world, of_kubernetes.0.last().unwrap(), "true").wait().unwrap().success());
    shown_before_and_after(&world, of_kubernetes.0.last().unwrap());
}

/// The client calls the service from a process in a group, which then does something else.
fn call_from(world: &World, group: &Path, then: &str) -> Child {
    let (group, vip) = (group.display(), vip(1));
    let script = format!(
        "echo $$ > {group}/cgroup.procs && exec 3<>/dev/tcp/{}/{} && echo connected && {then}",
        vip.ip(),
        vip.port()
    );
    world.client.net.command("bash").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap()
}

/// Waits until the call from this group is a flow of the client's.
fn shown_before_and_after(world: &World, group: &Path) {
    let id = format!("\"cgroup_id\":\"{}\"", std::fs::metadata(group).unwrap().ino());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let socket = world.node.dir.path().join("run/hubble.sock");
    let line =
        format!("--server unix://{} observe --all -t trace-sock --from-pod default/client -o jsonpb", socket.display());
    let ask = || {
        let all = runtime.block_on(run_hubble(&line)).1;
        all.lines().filter(|line| line.contains(&id)).collect::<Vec<_>>().join("\n")
    };
    world.node.eventually("the call is shown before and after", || {
        let shown = ask();
        shown.contains("\"TRACED\"") && shown.contains("\"TRANSLATED\"")
    });
    let shown = ask();
    assert!(shown.contains("SOCK_XLATE_POINT_PRE_DIRECTION_FWD"), "{shown}");
    assert!(shown.contains(&format!("\"destination\":\"{}\"", vip(1).ip())), "{shown}");
}
