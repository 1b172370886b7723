//! Prints what a flow costs in the relay: `cargo run --release -p hubble-relay --example relay-cost [FLOWS]`.
//!
//! End to end means: servers of nodes, the relay and a client, all over TCP of this machine. Beside each figure stands the
//! original's, where one was measured on a machine like CI's.

use futures::StreamExt as _;
use hubble_api::{
    flow::{CiliumEventType, Endpoint, Flow, Ip, Layer4, Tcp, TcpFlags, layer4::Protocol},
    observer::{GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes},
    raw::{AsClient, GET_FLOWS},
    time,
};
use hubble_model::{FanIn, merge::Limits};
use hubble_relay::{Relay, Settings, pool::Reach, wire};
use hubble_server::{Config, Listen, Observer, Peer, PeerSource, PeerTable, Server};
use hubble_transport::{Address, Clock, Network, connect};
use prost::Message as _;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, runtime::Builder, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery};

/// Counts what is allocated.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps the allocator's contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const LIMITS: Limits = Limits { window_ns: 1_000_000_000, length_max: 100, source_max: 256 };

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

fn report(what: &str, ns: f64, original: &str) {
    println!("{what:<58} {ns:>9.1} ns   original: {original}");
}

fn alone() {
    let response = GetFlowsResponse {
        node_name: "default/node-1".into(),
        time: flow(1, 1).time,
        response_types: Some(ResponseTypes::Flow(flow(1, 1))),
    };
    let bytes = response.encode_to_vec();
    const ROUNDS: u32 = 1_000_000;
    let began = Instant::now();
    for _ in 0..ROUNDS {
        black_box(wire::peek(black_box(&bytes)).is_ok());
    }
    let per = |began: Instant, rounds: u32| began.elapsed().as_nanos() as f64 / f64::from(rounds);
    report(&format!("look through a response of {} bytes", bytes.len()), per(began, ROUNDS), "-");
    for (sources, original) in [(2, "2000-2300 ns"), (10, "2000-2300 ns"), (100, "2000-2300 ns")] {
        let mut merge = FanIn::new(LIMITS, false);
        let ids: Vec<_> = (0..sources).map(|_| merge.join(0)).collect();
        let value = prost::bytes::Bytes::from(bytes.clone());
        let began = Instant::now();
        let (mut out, mut at) = (0_u32, 0_i64);
        while out < ROUNDS {
            // Each source in batches, as they come from the network.
            for id in &ids {
                for step in 0..64 {
                    at += 1;
                    merge.push(1, *id, at - step % 7, value.clone());
                }
            }
            while let Some(popped) = merge.pop(1) {
                black_box(popped);
                out += 1;
            }
        }
        report(&format!("merge of {sources} sources, one flow"), per(began, out), original);
    }
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
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
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
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let service = runtime.block_on(nodes(count, flows));
    let (address, used) = relay(service);
    let paths: Vec<String> = mask.iter().map(|path| (*path).to_owned()).collect();
    let field_mask = (!paths.is_empty()).then_some(hubble_api::FieldMask { paths });
    let request = GetFlowsRequest { field_mask, ..GetFlowsRequest::default() };
    let want = u64::try_from(flows).expect("few") * count as u64;
    // Until every node is connected.
    while runtime.block_on(ask(address.clone(), GetFlowsRequest { number: 1, first: true, ..Default::default() })) == 0
        || runtime.block_on(ask(address.clone(), request.clone())) < want
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (before, began) = (used(), Instant::now());
    let (allocations, bytes) = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    const ROUNDS: u64 = 3;
    for _ in 0..ROUNDS {
        assert_eq!(runtime.block_on(ask(address.clone(), request.clone())), want);
    }
    let all = (ROUNDS * want) as f64;
    let masked = if mask.is_empty() { "" } else { ", masked" };
    report(&format!("end to end, {count} nodes{masked}: time"), began.elapsed().as_nanos() as f64 / all, original);
    report(&format!("end to end, {count} nodes{masked}: CPU of the relay alone"), (used() - before) as f64 / all, "-");
    let per = |after: u64, before: u64| (after - before) as f64 / all;
    println!(
        "{:<58} {:>9.1} allocations, {:.0} bytes (nodes, relay and client)   original: 185, 13800",
        "",
        per(ALLOCATIONS.load(Ordering::Relaxed), allocations),
        per(BYTES.load(Ordering::Relaxed), bytes),
    );
}

/// Resident memory of the program with so many nodes, when nobody asks anything.
fn idle(count: usize, original: &str) {
    let Some(program) = std::env::current_exe().ok().and_then(|me| Some(me.parent()?.parent()?.join("hubble-relay")))
    else {
        return;
    };
    if !program.exists() {
        println!("skipped: no {}: build it first (cargo build --release -p hubble-relay)", program.display());
        return;
    }
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let service = runtime.block_on(nodes(count, 1));
    let options = ["serve", "--disable-client-tls", "--disable-server-tls", "--config", "/dev/null"];
    let addresses = ["--listen-address", "127.0.0.1:0", "--health-listen-address", "127.0.0.1:0"];
    let mut child = Command::new(program);
    let child = child.args(options).args(addresses).arg("--peer-service").arg(service.to_string());
    let mut child: Child = child.stderr(Stdio::null()).spawn().expect("it starts");
    std::thread::sleep(Duration::from_secs(3));
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("?").trim();
    println!("{:<58} {resident:>12}   original: {original}", format!("resident memory, idle, {count} nodes"));
    child.kill().and_then(|()| child.wait()).expect("it ends");
}

fn main() {
    let flows = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(50_000);
    alone();
    end_to_end(2, flows, &[], "34500 ns");
    end_to_end(2, flows, &["time", "verdict", "source.pod_name", "destination.pod_name"], "21900 ns");
    end_to_end(10, flows / 5, &[], "-");
    end_to_end(100, flows / 50, &[], "-");
    idle(2, "61 MB");
    idle(100, "-");
}
