//! What flows cost on their way to whoever watches, beside the figures of the original: README.md.
//!
//! End to end means servers of nodes, the relay and a client, all of it over TCP of this machine on two cores. Rows are
//! chosen by words: `HUBBLE_STREAMS=relay,cli`. The rows of the relay's memory need its program, built for release.

#![allow(missing_docs, reason = "a benchmark's parts are its own")]

use cilium_benches::counting::{Counting, of_all_threads};
use futures::StreamExt as _;
use hubble_api::{
    FieldMask,
    flow::{CiliumEventType, Endpoint, Flow, Ip, Layer4, Tcp, TcpFlags, layer4::Protocol},
    json,
    observer::{
        GetFlowsRequest, GetFlowsResponse, ServerStatusRequest, get_flows_response::ResponseTypes,
        observer_client::ObserverClient,
    },
    raw::{AsClient, GET_FLOWS},
    time,
};
use hubble_cli::{DEFAULT_MASK, Io, settings::Environment};
use hubble_relay::{Relay, Settings, pool::Reach, wire};
use hubble_server::{Config, Listen, Observer, Peer, PeerSource, PeerTable, Server};
use hubble_transport::{Address, Clock, Network, connect};
use prost::Message as _;
use std::{
    hint::black_box,
    io::{self, BufRead, Read, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::watch,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery};

#[global_allocator]
static ALLOCATOR: Counting<true> = Counting;

fn flow(node: usize, number: i64) -> Flow {
    let end = |n: i64| {
        let labels =
            ["k8s:app=shop", "k8s:io.kubernetes.pod.namespace=default", "k8s:io.cilium.k8s.policy.cluster=default"];
        Some(Endpoint {
            id: 7,
            identity: 1_234,
            cluster_name: "default".into(),
            namespace: "default".into(),
            labels: labels.map(str::to_owned).into(),
            pod_name: format!("shop-{n}"),
            ..Endpoint::default()
        })
    };
    let flags = Some(TcpFlags { ack: true, psh: true, ..TcpFlags::default() });
    Flow {
        time: Some(time::from_nanos(i128::from(1_700_000_000_000_000_000 + number * 1_000))),
        uuid: format!("01234567-89ab-cdef-0123-{number:012}"),
        verdict: 1,
        ip: Some(Ip { source: "10.0.0.1".into(), destination: "10.0.1.2".into(), ip_version: 1, ..Ip::default() }),
        l4: Some(Layer4 { protocol: Some(Protocol::Tcp(Tcp { source_port: 40_000, destination_port: 80, flags })) }),
        source: end(number % 10),
        destination: end(number % 7),
        r#type: 1,
        node_name: format!("default/node-{node}"),
        event_type: Some(CiliumEventType { r#type: 4, sub_type: 0 }),
        traffic_direction: 1,
        trace_observation_point: 101,
        is_reply: Some(false),
        summary: "TCP Flags: ACK, PSH".into(),
        ..Flow::default()
    }
}

fn response(number: i64) -> GetFlowsResponse {
    let flow = flow(1, number);
    GetFlowsResponse {
        node_name: flow.node_name.clone(),
        time: flow.time,
        response_types: Some(ResponseTypes::Flow(flow)),
    }
}

fn report(what: &str, ns: f64, original: &str) {
    println!("{what:<66} {ns:>9.1} ns   original: {original}");
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn masked(mask: &[&str]) -> Option<FieldMask> {
    (!mask.is_empty()).then(|| FieldMask { paths: mask.iter().map(|path| (*path).to_owned()).collect() })
}

fn looked_through() {
    let bytes = response(1).encode_to_vec();
    const ROUNDS: u32 = 1_000_000;
    let began = Instant::now();
    for _ in 0..ROUNDS {
        black_box(wire::peek(black_box(&bytes)).is_ok());
    }
    let ns = began.elapsed().as_nanos() as f64 / f64::from(ROUNDS);
    report(&format!("relay: look through a response of {} bytes", bytes.len()), ns, "-");
}

struct Table(PeerTable);

impl PeerSource for Table {
    fn peers(&self, _: &Peer) -> watch::Receiver<Arc<PeerTable>> {
        watch::channel(Arc::new(self.0.clone())).1
    }
}

/// Servers of nodes with full rings, and the address of the peer service that names them.
async fn nodes(count: usize, flows: i64) -> Address {
    let mut table = PeerTable::new();
    let mut servers = Vec::new();
    for node in 0..count {
        let capacity = usize::try_from(flows).expect("few").max(1);
        let observer =
            Observer::new(Config { node_name: format!("node-{node}"), ring_capacity: capacity, ..Config::default() });
        for number in 0..flows {
            observer.publish_flow(flow(
                node,
                number * i64::try_from(count).expect("few") + i64::try_from(node).expect("few"),
            ));
        }
        let listen = Listen { unix: None, tcp: Some("127.0.0.1:0".parse().expect("an address")) };
        let server = Server::bind(&listen, observer).await.expect("a free port");
        let this = server.this_node();
        table.insert(this.name.clone(), this);
        servers.push(server);
    }
    let address = servers[0].tcp_address().expect("bound");
    let table = Arc::new(Table(table));
    for server in servers {
        tokio::spawn(server.with_peers(table.clone()).run(std::future::pending()));
    }
    Address::Tcp { host: address.ip().to_string(), port: address.port() }
}

/// CPU time of the calling thread.
fn thread_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts (CONFIG_SCHED_INFO)");
    stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("nanoseconds first")
}

/// Looks again and again until something is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let given_up = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < given_up, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A relay on a thread of its own: its address, and how much CPU time the thread has used.
fn relay(service: Address) -> (Address, impl Fn() -> u64) {
    let (say, heard) = std::sync::mpsc::channel();
    let (ask, asked) = tokio::sync::mpsc::channel::<std::sync::mpsc::Sender<u64>>(1);
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let reach = Reach {
                network: Arc::new(Network),
                tls: None,
                service,
                service_name: String::new(),
                dial_timeout: Duration::from_secs(30),
                clock: Clock::default(),
            };
            let (relay, keep) = Relay::new(Settings { node_name: "relay".into(), ..Settings::default() }, reach, 1);
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            say.send(listener.local_addr().expect("bound").port()).expect("somebody listens");
            let mut asked = asked;
            let answer = async {
                while let Some(answer) = asked.recv().await {
                    let _gone = answer.send(thread_ns());
                }
            };
            tokio::join!(relay.serve(TcpListenerStream::new(listener), None), keep, answer).0.expect("it serves");
        });
    });
    let port = heard.recv().expect("it binds");
    let used = move || {
        let (say, heard) = std::sync::mpsc::channel();
        ask.blocking_send(say).expect("it lives");
        heard.recv().expect("it answers")
    };
    (Address::Tcp { host: "127.0.0.1".into(), port }, used)
}

/// Asks; returns how many flows came.
async fn ask(address: Address, request: GetFlowsRequest) -> u64 {
    let connected = connect(&Network, address, None, Duration::from_secs(30)).await.expect("it listens");
    let mut client = Grpc::new(connected.channel);
    client.ready().await.expect("connected");
    let path = PathAndQuery::from_static(GET_FLOWS);
    // Refused while the relay knows no node yet.
    let Ok(responses) = client.server_streaming(Request::new(request), path, AsClient).await else { return 0 };
    let responses = responses.into_inner();
    responses
        .fold(0, |flows, response| async move {
            let response = response.expect("no error");
            flows + u64::from(response.first() == Some(&0x0a))
        })
        .await
}

fn end_to_end(count: usize, flows: i64, mask: &[&str], original: &str) {
    let runtime = runtime();
    let service = runtime.block_on(nodes(count, flows));
    let (address, used) = relay(service);
    let request = GetFlowsRequest { field_mask: masked(mask), ..GetFlowsRequest::default() };
    let want = u64::try_from(flows).expect("few") * count as u64;
    wait_until("every node is connected", || {
        let one = GetFlowsRequest { number: 1, first: true, ..GetFlowsRequest::default() };
        runtime.block_on(ask(address.clone(), one)) > 0
            && runtime.block_on(ask(address.clone(), request.clone())) == want
    });
    const ROUNDS: u64 = 3;
    let (allocations, bytes) = of_all_threads();
    let before = used();
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        assert_eq!(runtime.block_on(ask(address.clone(), request.clone())), want);
        best = best.min(began.elapsed());
    }
    let all = (ROUNDS * want) as f64;
    let what = if mask.is_empty() { "" } else { ", masked" };
    let name = |part| format!("relay: {count} nodes{what}, {part}");
    report(&name("end to end, best of 3"), best.as_nanos() as f64 / want as f64, original);
    report(&name("processor time of the relay alone"), (used() - before) as f64 / all, "-");
    let (allocated, in_bytes) = of_all_threads();
    // Published for two nodes without a mask.
    let original = if count == 2 && mask.is_empty() { "185, 13800" } else { "-" };
    println!(
        "{:<66} {:>9.1} allocations, {:.0} bytes (nodes, relay and client)   original: {original}",
        "",
        (allocated - allocations) as f64 / all,
        (in_bytes - bytes) as f64 / all,
    );
}

/// What any of it is measured against: the bytes of the same flows over a connection of this machine, without HTTP/2.
fn bare_connection() {
    const FLOWS: usize = 1_000_000;
    let bytes = response(1).encode_to_vec();
    let piece = bytes.repeat(128);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let began = Instant::now();
    let sender = std::thread::spawn(move || {
        let mut socket = std::net::TcpStream::connect(address).expect("it listens");
        (0..FLOWS / 128).for_each(|_| socket.write_all(&piece).expect("somebody reads"));
    });
    let (mut socket, _) = listener.accept().expect("somebody connects");
    let mut buffer = vec![0; 1 << 16];
    while socket.read(&mut buffer).expect("somebody writes") > 0 {}
    sender.join().expect("no panic");
    report("baseline: the same bytes over bare TCP", began.elapsed().as_nanos() as f64 / FLOWS as f64, "-");
}

/// Followers of one server: what a flow costs whoever publishes it, and until everybody has it.
fn followers(count: u64, flows: i64, mask: &[&str]) {
    let runtime = runtime();
    // Room for all, so that nobody loses any however slow this machine is.
    let config = Config { node_name: "node".into(), ring_capacity: 65_535, ..Config::default() };
    let observer = Observer::new(config);
    let listen = Listen { unix: None, tcp: Some("127.0.0.1:0".parse().expect("an address")) };
    let server = runtime.block_on(Server::bind(&listen, observer.clone())).expect("a free port");
    let bound = server.tcp_address().expect("bound");
    runtime.spawn(server.run(std::future::pending()));
    let address = Address::Tcp { host: bound.ip().to_string(), port: bound.port() };
    // The last flow lies behind this time, which ends the streams.
    let until = Some(time::from_nanos(i128::from(1_700_000_000_000_000_000 + (flows - 1) * 1_000)));
    let request = GetFlowsRequest { follow: true, until, field_mask: masked(mask), ..GetFlowsRequest::default() };
    let asked: Vec<_> = (0..count).map(|_| runtime.spawn(ask(address.clone(), request.clone()))).collect();
    wait_until("all follow", || observer.streams() == usize::try_from(count).expect("few"));
    let ready: Vec<Flow> = (0..=flows).map(|number| flow(1, number)).collect();
    let (before, began) = (thread_ns(), Instant::now());
    ready.into_iter().for_each(|flow| observer.publish_flow(flow));
    let published = thread_ns() - before;
    for answer in asked {
        let seen = runtime.block_on(answer).expect("no panic");
        assert_eq!(seen, u64::try_from(flows).expect("few"), "nobody loses any");
    }
    let whole = began.elapsed();
    let what = if mask.is_empty() { "" } else { ", the command's mask" };
    let name = |part| format!("server: {count} followers{what}, {part}");
    report(&name("processor time to publish a flow"), published as f64 / flows as f64, "-");
    report(&name("a flow delivered to one"), whole.as_nanos() as f64 / (flows as f64 * count as f64), "-");
}

/// The same lines again and again, as a file of a million would give them.
struct Lines {
    text: Vec<u8>,
    at: usize,
    left: usize,
}

impl Read for Lines {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let taken = self.fill_buf()?.read(into)?;
        self.consume(taken);
        Ok(taken)
    }
}

impl BufRead for Lines {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.text.len() && self.left > 0 {
            self.left -= 1;
            self.at = 0;
        }
        Ok(&self.text[self.at..])
    }
    fn consume(&mut self, taken: usize) {
        self.at += taken;
    }
}

struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The command over a file of a million flows.
fn command() {
    const DISTINCT: i64 = 1_000;
    const ROUNDS: usize = 1_000;
    let text: String = (0..DISTINCT).map(|number| json::to_string(&response(number)) + "\n").collect();
    let each = text.len() / usize::try_from(DISTINCT).expect("few");
    let began = Instant::now();
    for _ in 0..100 {
        text.lines().for_each(|line| drop(black_box(json::from_str::<GetFlowsResponse>(line))));
    }
    let parse = began.elapsed().as_nanos() as f64 / (DISTINCT as f64 * 100.0);
    report(&format!("cli: read the JSON of a flow, {each} bytes"), parse, "-");
    for output in ["compact", "jsonpb", "dict"] {
        let mut input = Lines { text: text.clone().into_bytes(), at: 0, left: ROUNDS - 1 };
        let args = ["observe", "--input-file", "-", "-o", output].map(str::to_owned);
        let (mut out, mut err) = (Count(0), Vec::new());
        let began = Instant::now();
        let code = {
            let mut buffered = io::BufWriter::with_capacity(1 << 16, &mut out);
            let mut io = Io { input: &mut input, out: &mut buffered, err: &mut err, terminal: false };
            runtime().block_on(hubble_cli::run(&args, &Environment::default(), &mut io))
        };
        let took = began.elapsed();
        assert!(code == 0 && out.0 >= 1_000_000, "{}", String::from_utf8_lossy(&err));
        report(&format!("cli: observe -o {output} of a million flows, one"), took.as_nanos() as f64 / 1e6, "-");
    }
}

/// Where a relay's program says that it listens. The rest of what it says is read and let go.
fn listens_at(child: &mut Child) -> Address {
    let mut log = io::BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    let port = loop {
        line.clear();
        assert!(log.read_line(&mut line).expect("text") > 0, "it ended before it said where it listens");
        if let Some((_, rest)) = line.split_once(" address=127.0.0.1:") {
            break rest.split_whitespace().next().and_then(|port| port.parse().ok()).expect("a port");
        }
    };
    std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
    Address::Tcp { host: "127.0.0.1".into(), port }
}

/// Nodes a relay is connected to.
async fn connected(relay: Address) -> Option<u32> {
    let connection = connect(&Network, relay, None, Duration::from_secs(30)).await.ok()?;
    let status = ObserverClient::new(connection.channel).server_status(ServerStatusRequest {}).await.ok()?;
    status.into_inner().num_connected_nodes
}

/// Resident memory of the relay's program with so many nodes, when nobody asks anything.
fn idle(count: usize, original: &str) {
    let Some(program) = std::env::current_exe().ok().and_then(|me| Some(me.parent()?.parent()?.join("hubble-relay")))
    else {
        return;
    };
    if !program.exists() {
        println!("skipped: no {}: build it first (cargo build --release -p hubble-relay)", program.display());
        return;
    }
    let runtime = runtime();
    let service = runtime.block_on(nodes(count, 1));
    let options = ["serve", "--disable-client-tls", "--disable-server-tls", "--config", "/dev/null"];
    let addresses = ["--listen-address", "127.0.0.1:0", "--health-listen-address", "127.0.0.1:0"];
    let mut child = Command::new(program);
    let child = child.args(options).args(addresses).arg("--peer-service").arg(service.to_string());
    let mut child: Child = child.stderr(Stdio::piped()).spawn().expect("it starts");
    let relay = listens_at(&mut child);
    wait_until("every node is connected", || {
        runtime.block_on(connected(relay.clone())) == Some(u32::try_from(count).expect("few"))
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("of a process").trim();
    println!("{:<66} {resident:>12}   original: {original}", format!("relay: {count} nodes, resident memory, idle"));
    child.kill().and_then(|()| child.wait()).expect("it ends");
}

fn main() {
    let chosen = std::env::var("HUBBLE_STREAMS").unwrap_or_default();
    let is_chosen = |word: &str| chosen.is_empty() || chosen.split(',').any(|one| one == word);
    if is_chosen("server") {
        bare_connection();
        followers(1, 50_000, &[]);
        followers(1, 50_000, &DEFAULT_MASK);
        followers(100, 5_000, &[]);
        followers(100, 5_000, &DEFAULT_MASK);
    }
    if is_chosen("relay") {
        looked_through();
        end_to_end(2, 50_000, &[], "34500 ns");
        end_to_end(2, 50_000, &["time", "verdict", "source.pod_name", "destination.pod_name"], "21900 ns");
        end_to_end(10, 10_000, &[], "-");
        end_to_end(100, 1_000, &[], "-");
    }
    if is_chosen("cli") {
        command();
    }
    if is_chosen("memory") {
        idle(2, "61 MB");
        idle(100, "-");
    }
}
