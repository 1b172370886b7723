//! Nodes and clients that do not behave, over real sockets: nobody else suffers, memory stays bounded, and it is told.

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use hubble_api::{
    Timestamp,
    flow::Flow,
    observer::{
        GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNodesRequest, ServerStatusRequest,
        ServerStatusResponse, get_flows_response::ResponseTypes, observer_client::ObserverClient,
    },
    raw::AsServer,
    relay::NodeState,
};
use hubble_relay::{Relay, Settings, answer::Bounds, pool::Reach};
use hubble_server::{Config, Listen, Observer, Peer, PeerSource, PeerTable, Server};
use hubble_transport::{Address, Clock, Network, connect};
use prost::{Message as _, bytes::Bytes};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, NamedService, ServerStreamingService, UnaryService},
    transport::Channel,
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};

/// What a node's server says to `GetFlows`, as bytes.
type Script = Arc<dyn Fn() -> BoxStream<'static, Result<Bytes, Status>> + Send + Sync>;

/// A server of which every byte is ours.
#[derive(Clone)]
struct Rogue(Script);

impl NamedService for Rogue {
    const NAME: &'static str = "observer.Observer";
}

impl ServerStreamingService<GetFlowsRequest> for Rogue {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;
    fn call(&mut self, _: Request<GetFlowsRequest>) -> Self::Future {
        let said = (self.0)();
        async move { Ok(Response::new(said)) }.boxed()
    }
}

impl UnaryService<GetFlowsRequest> for Rogue {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;
    /// `ServerStatus`: an empty request decodes as any message.
    fn call(&mut self, _: Request<GetFlowsRequest>) -> Self::Future {
        let status = ServerStatusResponse { version: "rogue".into(), ..ServerStatusResponse::default() };
        async move { Ok(Response::new(status.encode_to_vec().into())) }.boxed()
    }
}

impl<B> Service<http::Request<B>> for Rogue
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let rogue = self.clone();
        async move {
            let mut grpc = Grpc::new(AsServer);
            Ok(match request.uri().path() {
                "/observer.Observer/GetFlows" => grpc.server_streaming(rogue, request).await,
                "/observer.Observer/ServerStatus" => grpc.unary(rogue, request).await,
                _ => Status::unimplemented("a rogue does little").into_http(),
            })
        }
        .boxed()
    }
}

struct Table(PeerTable);

impl PeerSource for Table {
    fn peers(&self, _: &Peer) -> watch::Receiver<Arc<PeerTable>> {
        watch::channel(Arc::new(self.0.clone())).1
    }
}

/// One good node, one of another kind, and a relay.
struct Lab {
    good: Observer,
    relay: Relay,
    address: Address,
    _tasks: JoinSet<()>,
}

enum Other {
    Rogue(Script),
    /// Takes connections and says nothing.
    Mute,
    /// Says what is no HTTP, without end.
    Noise,
    /// Speaks until it is told, then closes its half of every connection and goes on listening.
    HalfClosing(Script, Arc<Notify>),
}

fn serve(tasks: &mut JoinSet<()>, listener: TcpListener, script: Script) {
    let serving = tonic::transport::Server::builder().add_service(Rogue(script));
    tasks.spawn(async move {
        serving.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("it serves");
    });
}

/// Carries a connection until told, then closes the half towards whoever dialled.
async fn half(dialled: TcpStream, server: SocketAddr, told: Arc<Notify>) -> std::io::Result<()> {
    let (mut from_relay, mut to_relay) = dialled.into_split();
    let (mut from_node, mut to_node) = TcpStream::connect(server).await?.into_split();
    let listening = async move { tokio::io::copy(&mut from_relay, &mut to_node).await };
    let speaking = async move {
        tokio::select! {
            _ = tokio::io::copy(&mut from_node, &mut to_relay) => {}
            () = told.notified() => {}
        }
        to_relay.shutdown().await?;
        std::future::pending::<std::io::Result<()>>().await
    };
    tokio::try_join!(listening, speaking).map(drop)
}

async fn start(other: Other, settings: Settings) -> Lab {
    let mut tasks = JoinSet::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let rogue = listener.local_addr().expect("bound").to_string();
    // Who says nothing is waited for as long as this.
    let dial_timeout = Duration::from_millis(if matches!(other, Other::Mute) { 500 } else { 30_000 });
    match other {
        Other::Rogue(script) => serve(&mut tasks, listener, script),
        Other::HalfClosing(script, told) => {
            let behind = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let server = behind.local_addr().expect("bound");
            serve(&mut tasks, behind, script);
            tasks.spawn(async move {
                let mut halves = JoinSet::new();
                while let Ok((socket, _)) = listener.accept().await {
                    halves.spawn(half(socket, server, told.clone()));
                }
            });
        }
        Other::Noise => {
            tasks.spawn(async move {
                let mut noisy = JoinSet::new();
                while let Ok((mut socket, _)) = listener.accept().await {
                    // Until the other end has had enough.
                    noisy.spawn(async move { while socket.write_all(&[0xa5; 4_096]).await.is_ok() {} });
                }
            });
        }
        Other::Mute => {
            tasks.spawn(async move {
                let mut kept = Vec::new();
                while let Ok((socket, _)) = listener.accept().await {
                    kept.push(socket);
                }
            });
        }
    }
    let good = Observer::new(Config { node_name: "good".into(), ..Config::default() });
    let listen = Listen { unix: None, tcp: Some("127.0.0.1:0".parse().expect("an address")) };
    let server = Server::bind(&listen, good.clone()).await.expect("a free port");
    let service = server.tcp_address().expect("bound");
    let rogue = Peer { name: "rogue".into(), address: rogue, server_name: None };
    let this = server.this_node();
    let table = Table([(this.name.clone(), this), (rogue.name.clone(), rogue)].into());
    let server = server.with_peers(Arc::new(table));
    tasks.spawn(async move { server.run(std::future::pending()).await.expect("it serves") });
    let reach = Reach {
        network: Arc::new(Network),
        tls: None,
        service: Address::Tcp { host: service.ip().to_string(), port: service.port() },
        service_name: String::new(),
        dial_timeout,
        clock: Clock::default(),
    };
    let (relay, keep) = Relay::new(Settings { node_name: "relay".into(), ..settings }, reach, 1);
    tasks.spawn(keep);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let serving = relay.clone();
    tasks.spawn(async move { serving.serve(TcpListenerStream::new(listener), None).await.expect("it serves") });
    Lab { good, relay, address: Address::Tcp { host: "127.0.0.1".into(), port }, _tasks: tasks }
}

impl Lab {
    async fn ready(&self, names: &[&str]) {
        let mut view = self.relay.view();
        let all = |view: &Arc<hubble_relay::pool::View>| {
            names.iter().all(|name| view.ready().any(|(node, ..)| node.peer.name == *name))
        };
        view.wait_for(all).await.expect("the relay lives");
    }

    async fn client(&self) -> ObserverClient<Channel> {
        let connected =
            connect(&Network, self.address.clone(), None, Duration::from_secs(30)).await.expect("it listens");
        ObserverClient::new(connected.channel)
    }

    /// What health checks say, from now on.
    async fn health(&self) -> Streaming<HealthCheckResponse> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let relay = self.relay.clone();
        tokio::spawn(async move { relay.serve_health(TcpListenerStream::new(listener)).await });
        let address = Address::Tcp { host: "127.0.0.1".into(), port };
        let connected = connect(&Network, address, None, Duration::from_secs(30)).await.expect("it listens");
        let service = hubble_api::OBSERVER_HEALTH_SERVICE.into();
        let watch = HealthClient::new(connected.channel).watch(HealthCheckRequest { service }).await;
        watch.expect("known from the start").into_inner()
    }

    /// Everything a request that ends is answered with.
    async fn all(&self, request: GetFlowsRequest) -> Vec<ResponseTypes> {
        let flows = self.client().await.get_flows(request).await.expect("accepted").into_inner();
        flows.map(|response| response.expect("no error").response_types.expect("set")).collect().await
    }
}

fn flow(number: i64) -> Flow {
    Flow { uuid: number.to_string(), time: Some(Timestamp { seconds: number, nanos: 0 }), ..Flow::default() }
}

fn encoded(number: i64) -> Bytes {
    let response = GetFlowsResponse {
        time: flow(number).time,
        response_types: Some(ResponseTypes::Flow(flow(number))),
        ..Default::default()
    };
    response.encode_to_vec().into()
}

fn uuids(all: &[ResponseTypes]) -> Vec<&str> {
    let flows = all.iter().filter_map(|one| match one {
        ResponseTypes::Flow(flow) => Some(flow.uuid.as_str()),
        _ => None,
    });
    flows.collect()
}

/// What was said of the rogue besides that it is connected.
fn complaint(all: &[ResponseTypes]) -> Option<(NodeState, String)> {
    all.iter().find_map(|one| match one {
        ResponseTypes::NodeStatus(status)
            if status.node_names == ["rogue"] && status.state_change() != NodeState::NodeConnected =>
        {
            Some((status.state_change(), status.message.clone()))
        }
        _ => None,
    })
}

#[tokio::test]
async fn garbage_ends_the_node_that_sends_it_and_nobody_elses_stream() {
    let script: Script = Arc::new(|| {
        // A good one, then a flow whose text is no text.
        let bad = Bytes::from_static(&[0x0a, 0x05, 0x92, 0x02, 0x02, 0xff, 0xfe]);
        stream::iter([Ok(encoded(2)), Ok(bad), Ok(encoded(3))]).boxed()
    });
    let lab = start(Other::Rogue(script), Settings::default()).await;
    lab.ready(&["good", "rogue"]).await;
    (1..=4).for_each(|number| lab.good.publish_flow(flow(number)));
    let all = lab.all(GetFlowsRequest::default()).await;
    assert_eq!(uuids(&all), ["1", "2", "2", "3", "4"], "what came before it counts");
    let (state, message) = complaint(&all).expect("it is named");
    assert_eq!(state, NodeState::NodeError);
    assert_eq!(message, "the node sent something that is no GetFlowsResponse: a text is not UTF-8");
}

#[tokio::test]
async fn a_response_beyond_all_measure_ends_the_node_that_sends_it() {
    let vast = GetFlowsResponse {
        response_types: Some(ResponseTypes::Flow(Flow { summary: "x".repeat(2 << 20), ..flow(3) })),
        ..GetFlowsResponse::default()
    };
    let vast = Bytes::from(vast.encode_to_vec());
    let script: Script = Arc::new(move || stream::iter([Ok(encoded(2)), Ok(vast.clone())]).boxed());
    let lab = start(Other::Rogue(script), Settings::default()).await;
    lab.ready(&["good", "rogue"]).await;
    (1..=4).for_each(|number| lab.good.publish_flow(flow(number)));
    let all = lab.all(GetFlowsRequest::default()).await;
    assert_eq!(uuids(&all), ["1", "2", "2", "3", "4"]);
    let (state, message) = complaint(&all).expect("it is named");
    assert!(state == NodeState::NodeError && message.starts_with("OutOfRange: "), "{message}");
}

#[tokio::test]
async fn an_error_of_one_node_is_told_with_its_words() {
    let script: Script = Arc::new(|| stream::iter([Ok(encoded(2)), Err(Status::unknown("out of order"))]).boxed());
    let lab = start(Other::Rogue(script), Settings::default()).await;
    lab.ready(&["good", "rogue"]).await;
    lab.good.publish_flow(flow(1));
    let all = lab.all(GetFlowsRequest::default()).await;
    assert_eq!(uuids(&all), ["1", "2"]);
    assert_eq!(complaint(&all), Some((NodeState::NodeError, "out of order".into())));
}

#[tokio::test]
async fn a_node_that_ends_its_stream_is_gone_and_asked_again() {
    let asked = Arc::new(AtomicU64::new(0));
    let counter = asked.clone();
    let script: Script = Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        stream::iter([Ok(encoded(9))]).boxed()
    });
    let lab = start(Other::Rogue(script), Settings::default()).await;
    lab.ready(&["good", "rogue"]).await;
    let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    let mut flows = lab.client().await.get_flows(request).await.expect("accepted").into_inner();
    let mut heard = Vec::new();
    while asked.load(Ordering::SeqCst) < 2 {
        heard.push(flows.message().await.expect("open").expect("more").response_types.expect("set"));
    }
    assert!(complaint(&heard).is_some_and(|(state, _)| state == NodeState::NodeGone), "{heard:?}");
}

/// What a node may push into a stream that nobody reads: windows of two connections, batches and buffers on the way.
#[tokio::test]
async fn a_flood_to_a_client_that_never_reads_stops_at_the_node() {
    const BULK: usize = 4_000;
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let script: Script = Arc::new(move || {
        let counter = counter.clone();
        let bulky = GetFlowsResponse {
            response_types: Some(ResponseTypes::Flow(Flow { summary: "x".repeat(BULK), ..flow(1) })),
            time: flow(1).time,
            ..GetFlowsResponse::default()
        };
        let bytes = Bytes::from(bulky.encode_to_vec());
        stream::repeat_with(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(bytes.clone())
        })
        .boxed()
    });
    let lab = start(Other::Rogue(script), Settings::default()).await;
    lab.ready(&["good", "rogue"]).await;
    let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    let mut client = lab.client().await;
    let unread = client.get_flows(request).await.expect("accepted");
    // It is full when nothing moves any more.
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = sent.load(Ordering::Relaxed);
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    let bytes = before * BULK as u64;
    assert!(bytes < 16 << 20, "{bytes} bytes are on the way to a client that reads nothing");
    // Meanwhile others are served.
    let status = lab.client().await.server_status(ServerStatusRequest {}).await.expect("answered").into_inner();
    assert_eq!(status.num_connected_nodes, Some(2));
    drop(unread);
}

/// A node sends as fast as it can; another one's flow comes all the same, and what is on the way is bounded.
#[tokio::test]
async fn a_flood_of_one_node_drowns_nobody_else() {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let script: Script = Arc::new(move || {
        let counter = counter.clone();
        stream::repeat_with(move || {
            Ok(encoded(1_000 + i64::try_from(counter.fetch_add(1, Ordering::Relaxed)).expect("few")))
        })
        .boxed()
    });
    let lab = start(Other::Rogue(script), Settings::default()).await;
    lab.ready(&["good", "rogue"]).await;
    let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    let mut flows = lab.client().await.get_flows(request).await.expect("accepted").into_inner();
    let (mut received, mut published) = (0_u64, false);
    loop {
        let response = flows.message().await.expect("open").expect("more");
        let Some(ResponseTypes::Flow(flow)) = response.response_types else { continue };
        if flow.uuid == "7" {
            break;
        }
        received += 1;
        // The good node is asked by now as well.
        if !published && lab.good.streams() > 0 {
            published = true;
            lab.good.publish_flow(self::flow(7));
        }
    }
    let on_the_way = sent.load(Ordering::Relaxed) - received;
    assert!(on_the_way < 200_000, "{on_the_way} flows are on the way");
}

#[tokio::test]
async fn a_node_that_closes_its_half_is_named_and_asked_again() {
    let told = Arc::new(Notify::new());
    let script: Script = Arc::new(|| stream::once(async { Ok(encoded(1)) }).chain(stream::pending()).boxed());
    let lab = start(Other::HalfClosing(script, told.clone()), Settings::default()).await;
    lab.ready(&["good", "rogue"]).await;
    let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    let mut flows = lab.client().await.get_flows(request).await.expect("accepted").into_inner();
    let mut heard = Vec::new();
    while !uuids(&heard).contains(&"1") {
        heard.push(flows.message().await.expect("open").expect("more").response_types.expect("set"));
    }
    told.notify_waiters();
    lab.good.publish_flow(flow(2));
    while complaint(&heard).is_none() || !uuids(&heard).contains(&"2") {
        heard.push(flows.message().await.expect("open").expect("more").response_types.expect("set"));
    }
    let is_connected = |one: &&ResponseTypes| match one {
        ResponseTypes::NodeStatus(status) => {
            status.state_change() == NodeState::NodeConnected && status.node_names.iter().any(|name| name == "rogue")
        }
        _ => false,
    };
    while heard.iter().filter(is_connected).count() < 2 {
        heard.push(flows.message().await.expect("open").expect("more").response_types.expect("set"));
    }
}

#[tokio::test]
async fn a_node_that_speaks_something_else_is_unavailable_and_nobody_waits_for_it() {
    let lab = start(Other::Noise, Settings::default()).await;
    lab.ready(&["good"]).await;
    lab.good.publish_flow(flow(1));
    let all = lab.all(GetFlowsRequest { number: 20, ..GetFlowsRequest::default() }).await;
    assert_eq!(uuids(&all), ["1"]);
    assert_eq!(complaint(&all), Some((NodeState::NodeUnavailable, String::new())));
    let mut view = lab.relay.view();
    let told = view.wait_for(|view| view.nodes.iter().any(|node| node.why.is_some())).await.expect("the relay lives");
    let why = told.nodes.iter().find_map(|node| node.why.clone()).expect("told").to_string();
    assert!(!why.is_empty(), "the reason is known");
}

#[tokio::test]
async fn a_mute_node_is_unavailable_and_nobody_waits_for_it() {
    let lab = start(Other::Mute, Settings::default()).await;
    let mut view = lab.relay.view();
    let decided = |view: &Arc<hubble_relay::pool::View>| {
        view.nodes.iter().any(|node| node.peer.name == "rogue" && (node.why.is_some() || node.channel.is_some()))
    };
    view.wait_for(decided).await.expect("the relay lives");
    assert!(view.borrow().ready().all(|(node, ..)| node.peer.name != "rogue"), "to accept is not to answer");
    lab.ready(&["good"]).await;
    lab.good.publish_flow(flow(1));
    let all = lab.all(GetFlowsRequest { number: 20, ..GetFlowsRequest::default() }).await;
    assert_eq!(uuids(&all), ["1"]);
    assert_eq!(complaint(&all), Some((NodeState::NodeUnavailable, String::new())));
    let mut client = lab.client().await;
    let status = client.server_status(ServerStatusRequest {}).await.expect("answered").into_inner();
    assert_eq!((status.num_connected_nodes, status.num_unavailable_nodes), (Some(1), Some(1)));
    assert_eq!(status.unavailable_nodes, ["rogue"]);
    let nodes = client.get_nodes(GetNodesRequest {}).await.expect("answered").into_inner().nodes;
    let states: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), node.state())).collect();
    assert_eq!(states, [("good", NodeState::NodeConnected), ("rogue", NodeState::NodeUnavailable)]);
}

#[tokio::test]
async fn requests_other_than_flows_come_from_those_who_answer() {
    let script: Script = Arc::new(|| stream::pending().boxed());
    let bounds = Bounds { answer_within: Duration::from_millis(100), ..Settings::default().bounds };
    let lab = start(Other::Rogue(script), Settings { bounds, ..Settings::default() }).await;
    lab.ready(&["good", "rogue"]).await;
    let source =
        hubble_api::flow::Endpoint { namespace: "shop".into(), cluster_name: "c".into(), ..Default::default() };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    lab.good.publish_flow(Flow { source: Some(source), ..flow(i64::try_from(now).expect("small")) });
    let mut client = lab.client().await;
    let spaces = client.get_namespaces(GetNamespacesRequest {}).await.expect("answered").into_inner().namespaces;
    assert_eq!((spaces.len(), spaces[0].namespace.as_str()), (1, "shop"), "the rogue has no such method");
    let response = client.server_status(ServerStatusRequest {}).await.expect("answered");
    assert!(response.metadata().contains_key("hubble-relay-version"));
    let agent = client.get_agent_events(hubble_api::observer::GetAgentEventsRequest::default()).await;
    assert_eq!(agent.expect_err("not here").message(), "GetAgentEvents not yet implemented");
    // It says again and again that it is there, and nothing else, until that is enough; the rest is there.
    let all = lab.all(GetFlowsRequest::default()).await;
    assert_eq!(uuids(&all).len(), 1);
    assert!(complaint(&all).is_some_and(|(_, message)| message.starts_with("no answer within")), "{all:?}");
}

#[tokio::test]
async fn bad_requests_and_too_many_are_refused() {
    let script: Script = Arc::new(|| stream::pending().boxed());
    let lab = start(Other::Rogue(script), Settings { streams_max: 1, ..Settings::default() }).await;
    lab.ready(&["good"]).await;
    let mut client = lab.client().await;
    let both = GetFlowsRequest { first: true, follow: true, ..GetFlowsRequest::default() };
    let refused = client.get_flows(both).await.expect_err("refused");
    assert_eq!(refused.message(), "first cannot be specified with follow");
    let open = client.get_flows(GetFlowsRequest { follow: true, ..Default::default() }).await.expect("the first");
    let refused = client.get_flows(GetFlowsRequest::default()).await.expect_err("one too many");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    drop(open);
    let text = lab.relay.metrics().render();
    for line in [
        r#"grpc_server_handled_total{grpc_type="server_stream",grpc_service="observer.Observer",grpc_method="GetFlows",grpc_code="InvalidArgument"} 1"#,
        r#"hubble_relay_pool_peer_connection_status{status="NIL_CONNECTION"} 0"#,
        r#"grpc_server_started_total{grpc_type="server_stream",grpc_service="observer.Observer",grpc_method="GetFlows"} 3"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn a_drain_says_why_streams_end_and_waits_for_those_that_end_by_themselves() {
    let (release, released) = watch::channel(false);
    let script: Script = Arc::new(move || {
        let mut released = released.clone();
        let last = async move {
            released.wait_for(|released| *released).await.expect("the test lives");
            Ok(encoded(2))
        };
        last.into_stream().boxed()
    });
    // Nobody is given up before the test says so.
    let bounds = Bounds { answer_within: Duration::from_secs(600), ..Settings::default().bounds };
    let drain_within = Duration::from_secs(600);
    let lab = start(Other::Rogue(script), Settings { bounds, drain_within, ..Settings::default() }).await;
    lab.ready(&["good", "rogue"]).await;
    lab.good.publish_flow(flow(1));
    let since = Some(Timestamp::default());
    let follow = GetFlowsRequest { follow: true, since, ..GetFlowsRequest::default() };
    let mut follows = lab.client().await.get_flows(follow).await.expect("accepted").into_inner();
    let mut past = lab.client().await.get_flows(GetFlowsRequest::default()).await.expect("accepted").into_inner();
    for stream in [&mut follows, &mut past] {
        let connected = stream.message().await.expect("open").expect("a word").response_types;
        assert!(matches!(connected, Some(ResponseTypes::NodeStatus(_))));
        let first = stream.message().await.expect("open").expect("a flow").response_types;
        assert!(matches!(first, Some(ResponseTypes::Flow(flow)) if flow.uuid == "1"));
    }
    let relay = lab.relay.clone();
    let draining = tokio::spawn(async move { relay.drain().await });
    let end = follows.message().await.expect_err("the end");
    assert_eq!((end.code(), end.message()), (tonic::Code::Unavailable, "the relay is shutting down"));
    assert!(!draining.is_finished(), "a question about the past is still open");
    release.send_replace(true);
    let rest = past.message().await.expect("open").expect("a flow").response_types;
    assert!(matches!(rest, Some(ResponseTypes::Flow(flow)) if flow.uuid == "2"));
    assert!(past.message().await.expect("a clean end").is_none());
    drop((follows, past));
    draining.await.expect("no panic");
}

/// The next that is said of the relay's health.
async fn next(health: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    health.message().await.expect("open").expect("more").status()
}

#[tokio::test]
async fn health_ends_with_the_peer_service_and_with_the_relay() {
    let script: Script = Arc::new(|| stream::pending().boxed());
    let bounds = Bounds { answer_within: Duration::from_secs(600), ..Settings::default().bounds };
    let settings = Settings { bounds, drain_within: Duration::from_secs(600), ..Settings::default() };
    let lab = start(Other::Rogue(script.clone()), settings.clone()).await;
    lab.ready(&["good", "rogue"]).await;
    let mut health = lab.health().await;
    while next(&mut health).await != ServingStatus::Serving {}
    // The rogue stays connected, but nobody says which nodes there are.
    lab.good.close();
    assert_eq!(next(&mut health).await, ServingStatus::NotServing);
    lab.ready(&["rogue"]).await;

    let lab = start(Other::Rogue(script), settings).await;
    lab.ready(&["good", "rogue"]).await;
    let mut health = lab.health().await;
    while next(&mut health).await != ServingStatus::Serving {}
    let unanswered = lab.client().await.get_flows(GetFlowsRequest::default()).await.expect("accepted");
    let relay = lab.relay.clone();
    let draining = tokio::spawn(async move { relay.drain().await });
    assert_eq!(next(&mut health).await, ServingStatus::NotServing, "new requests belong elsewhere");
    assert!(!draining.is_finished());
    drop(unanswered);
    draining.await.expect("no panic");
}

#[tokio::test]
async fn a_drain_ends_in_time_whoever_does_not() {
    let script: Script = Arc::new(|| stream::pending().boxed());
    let bounds = Bounds { answer_within: Duration::from_secs(600), ..Settings::default().bounds };
    let settings = Settings { bounds, drain_within: Duration::from_millis(200), ..Settings::default() };
    let lab = start(Other::Rogue(script), settings).await;
    lab.ready(&["good", "rogue"]).await;
    let unanswered = lab.client().await.get_flows(GetFlowsRequest::default()).await.expect("accepted");
    tokio::time::timeout(Duration::from_secs(60), lab.relay.drain()).await.expect("it does not wait for ever");
    drop(unanswered);
}
