//! The server as a client sees it, over a real unix socket.

use hubble_api::{
    Timestamp,
    flow::{CiliumEventType, Endpoint, Flow, FlowFilter, LostEventSource, Verdict},
    observer::{
        GetAgentEventsRequest, GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNodesRequest,
        ServerStatusRequest, get_flows_response::ResponseTypes, observer_client::ObserverClient,
    },
    peer::{ChangeNotificationType, NotifyRequest, peer_client::PeerClient},
};
use hubble_server::{BindError, Config, Listen, Observer, Server};
use hyper_util::rt::TokioIo;
use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};
use tokio::{net::UnixStream, sync::oneshot, task::JoinHandle};
use tonic::{
    Code,
    transport::{Channel, Endpoint as Connection, Uri},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

struct Running {
    observer: Observer,
    channel: Channel,
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), hubble_server::ServeError>>,
    _folder: tempfile::TempDir,
}

async fn start(config: Config) -> Running {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("run").join("hubble.sock");
    let observer = Observer::new(Config { node_name: "node-1".into(), ..config });
    let listen = Listen { unix: Some(socket.clone()), tcp: None };
    let server = Server::bind(&listen, observer.clone()).await.expect("a fresh path");
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    Running { observer, channel: connect(socket.clone()).await, socket, stop, served, _folder: folder }
}

async fn connect(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Connection::from_static("http://localhost").connect_with_connector(connector).await.expect("the server listens")
}

/// The flow of second `at`; even ones are forwarded, odd ones dropped.
fn flow(at: i64) -> Flow {
    let verdict = if at % 2 == 0 { Verdict::Forwarded } else { Verdict::Dropped };
    Flow {
        time: Some(Timestamp { seconds: at, nanos: 0 }),
        uuid: at.to_string(),
        verdict: verdict.into(),
        event_type: Some(CiliumEventType { r#type: 4, sub_type: 0 }),
        source: Some(Endpoint { namespace: "ns-a".into(), cluster_name: "default".into(), ..Endpoint::default() }),
        ..Flow::default()
    }
}

impl Running {
    fn client(&self) -> ObserverClient<Channel> {
        ObserverClient::new(self.channel.clone())
    }

    /// The uuids of all flows a request that ends by itself answers with.
    async fn uuids(&self, request: GetFlowsRequest) -> Vec<String> {
        let mut stream = self.client().get_flows(request).await.expect("accepted").into_inner();
        let mut all = Vec::new();
        while let Some(response) = stream.message().await.expect("no error") {
            all.push(uuid(&response));
        }
        all
    }
}

fn uuid(response: &GetFlowsResponse) -> String {
    match &response.response_types {
        Some(ResponseTypes::Flow(flow)) => flow.uuid.clone(),
        Some(ResponseTypes::LostEvents(lost)) => format!("lost {}", lost.num_events_lost),
        other => panic!("{other:?}"),
    }
}

fn dropped() -> Vec<FlowFilter> {
    vec![FlowFilter { verdict: vec![Verdict::Dropped.into()], ..FlowFilter::default() }]
}

fn second(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

#[tokio::test]
async fn the_past_by_number_and_time() {
    let running = start(Config::default()).await;
    for at in 1..=10 {
        running.observer.publish_flow(flow(at));
    }
    let all = GetFlowsRequest::default;
    for (what, request, want) in [
        ("everything", all(), "1 2 3 4 5 6 7 8 9 10"),
        ("the last three", GetFlowsRequest { number: 3, ..all() }, "8 9 10"),
        ("more than there are", GetFlowsRequest { number: 99, ..all() }, "1 2 3 4 5 6 7 8 9 10"),
        ("all, as the command line asks for it", GetFlowsRequest { number: u64::MAX, ..all() }, "1 2 3 4 5 6 7 8 9 10"),
        ("the first three", GetFlowsRequest { number: 3, first: true, ..all() }, "1 2 3"),
        ("the last two dropped", GetFlowsRequest { number: 2, whitelist: dropped(), ..all() }, "7 9"),
        ("the first two not dropped", GetFlowsRequest { number: 2, first: true, blacklist: dropped(), ..all() }, "2 4"),
        ("since, inclusive", GetFlowsRequest { since: second(8), ..all() }, "8 9 10"),
        ("until, inclusive", GetFlowsRequest { until: second(3), ..all() }, "1 2 3"),
        ("between", GetFlowsRequest { since: second(4), until: second(6), ..all() }, "4 5 6"),
        ("the oldest two since", GetFlowsRequest { number: 2, since: second(4), ..all() }, "4 5"),
        (
            "the first dropped one since",
            GetFlowsRequest { number: 1, first: true, since: second(4), whitelist: dropped(), ..all() },
            "5",
        ),
    ] {
        assert_eq!(running.uuids(request).await.join(" "), want, "{what}");
    }
}

#[tokio::test]
async fn following_begins_where_asked_and_goes_on() {
    let running = start(Config::default()).await;
    for at in 1..=5 {
        running.observer.publish_flow(flow(at));
    }
    let follow = |number, since| GetFlowsRequest { follow: true, number, since, ..GetFlowsRequest::default() };
    let mut news = running.client().get_flows(follow(0, None)).await.expect("accepted").into_inner();
    let mut last = running.client().get_flows(follow(2, None)).await.expect("accepted").into_inner();
    let mut since = running.client().get_flows(follow(0, second(3))).await.expect("accepted").into_inner();
    for want in ["4", "5"] {
        assert_eq!(uuid(&last.message().await.expect("open").expect("a flow")), want);
    }
    for want in ["3", "4", "5"] {
        assert_eq!(uuid(&since.message().await.expect("open").expect("a flow")), want);
    }
    for at in 6..=7 {
        running.observer.publish_flow(flow(at));
        for stream in [&mut news, &mut last, &mut since] {
            assert_eq!(uuid(&stream.message().await.expect("open").expect("a flow")), at.to_string());
        }
    }
    running.stop.send(()).expect("still running");
    assert!(news.message().await.expect("a clean end").is_none());
    running.served.await.expect("no panic").expect("no error");
    assert!(!running.socket.exists());
}

#[tokio::test]
async fn a_slow_follower_learns_what_it_missed_and_nobody_else_does() {
    const ASIDE: i64 = 100;
    const FLOWS: i64 = 20_000;
    let running = start(Config {
        ring_capacity: 15,
        observer_queue_max: usize::try_from(ASIDE).expect("small"),
        lost_event_interval: Duration::ZERO,
        ..Config::default()
    })
    .await;
    let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    // A summary this long fills the connection's window soon, and then nobody reads.
    let bulky = |at| Flow { summary: "x".repeat(2_000), ..flow(at) };
    let mut slow = running.client().get_flows(request.clone()).await.expect("accepted").into_inner();
    let quick = connect(running.socket.clone()).await;
    let mut quick = ObserverClient::new(quick).get_flows(request).await.expect("accepted").into_inner();
    for at in 1..=FLOWS {
        running.observer.publish_flow(bulky(at));
        assert_eq!(uuid(&quick.message().await.expect("open").expect("a flow")), at.to_string());
    }
    assert!(running.observer.held_events() <= 300, "{} are held", running.observer.held_events());
    let (mut flows, mut lost, mut newest) = (0, 0, 0);
    while newest < FLOWS {
        let response = slow.message().await.expect("open").expect("more");
        match response.response_types {
            Some(ResponseTypes::Flow(flow)) => {
                flows += 1;
                let at = flow.uuid.parse().expect("a number");
                assert!(at > newest, "in order");
                newest = at;
            }
            Some(ResponseTypes::LostEvents(event)) => {
                assert_eq!(event.source(), LostEventSource::HubbleRingBuffer);
                assert!(event.first.is_some() && event.last.is_some());
                lost += i64::try_from(event.num_events_lost).expect("small");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(lost > 0, "the window of a connection is smaller than {FLOWS} flows");
    assert_eq!(flows + lost, FLOWS, "every flow is either there or counted");
    assert!(flows >= ASIDE);
}

/// The next responses of a stream, until one names this flow.
async fn until(stream: &mut tonic::Streaming<GetFlowsResponse>, last: &str) -> Vec<String> {
    let mut all = Vec::new();
    while all.last().is_none_or(|uuid| uuid != last) {
        all.push(uuid(&stream.message().await.expect("open").expect("more")));
    }
    all
}

#[tokio::test]
async fn a_slow_follower_loses_nothing_it_asked_for_to_what_it_did_not_ask_for() {
    let running = start(Config { ring_capacity: 63, lost_event_interval: Duration::ZERO, ..Config::default() }).await;
    let asked = |at| Flow {
        source: Some(Endpoint { namespace: "ns-b".into(), ..Endpoint::default() }),
        summary: "x".repeat(20_000),
        ..flow(at)
    };
    let filter = FlowFilter { source_pod: vec!["ns-b/".into()], ..FlowFilter::default() };
    let request = GetFlowsRequest { follow: true, whitelist: vec![filter], ..GetFlowsRequest::default() };
    let mut stream = running.client().get_flows(request).await.expect("accepted").into_inner();
    // These fill every window on the way, so that what follows finds the stream standing still.
    for at in 1..=200 {
        running.observer.publish_flow(asked(at));
        tokio::task::yield_now().await;
    }
    for at in 201..=5_000 {
        running.observer.publish_flow(flow(at));
        tokio::task::yield_now().await;
    }
    running.observer.publish_flow(asked(5_001));
    let want: Vec<String> = (1..=200).chain([5_001]).map(|at: i64| at.to_string()).collect();
    assert_eq!(until(&mut stream, "5001").await, want, "the ring went round 76 times, no loss is told");
    assert_eq!(running.observer.held_events(), 0);
}

#[tokio::test]
async fn what_nobody_could_look_at_is_told_to_those_it_may_concern() {
    let running = start(Config { lost_event_interval: Duration::ZERO, ..Config::default() }).await;
    let follow = |whitelist| GetFlowsRequest { follow: true, whitelist, ..GetFlowsRequest::default() };
    let all = running.client().get_flows(follow(Vec::new())).await.expect("accepted");
    let only_dropped = running.client().get_flows(follow(dropped())).await.expect("accepted");
    let (mut all, mut only_dropped) = (all.into_inner(), only_dropped.into_inner());
    // All at once: no task gets to run before the ring has come round.
    for at in 1..=5_000 {
        running.observer.publish_flow(flow(2 * at));
    }
    running.observer.publish_flow(flow(10_001));
    let seen = until(&mut all, "10001").await;
    assert_eq!((seen[0].as_str(), seen.len()), ("lost 906", 1 + 4_095), "flows and losses are all there were");
    assert_eq!(until(&mut only_dropped, "10001").await, ["10001"], "none that was overwritten was dropped");
}

#[tokio::test]
async fn losses_before_the_ring_are_told_together() {
    let lost_event_interval = Duration::from_secs(3_600);
    let running = start(Config { lost_event_interval, ..Config::default() }).await;
    for count in [3, 4, 5] {
        running.observer.publish_lost(LostEventSource::PerfEventRingBuffer, count, Some(1));
    }
    running.observer.publish_flow(flow(1));
    let all = running.uuids(GetFlowsRequest::default()).await;
    assert_eq!(all, ["lost 3", "1", "lost 9"], "the first at once, what follows within the interval at the end");
}

#[tokio::test]
async fn losses_before_the_ring_are_told_to_those_they_may_concern() {
    let running = start(Config::default()).await;
    running.observer.publish_lost(LostEventSource::PerfEventRingBuffer, 3, Some(1));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let hence = second(i64::try_from(now + 3_600).expect("small"));
    let all = GetFlowsRequest::default;
    let of = |protocol: &str| vec![FlowFilter { protocol: vec![protocol.into()], ..FlowFilter::default() }];
    for (what, request, want) in [
        ("everything", all(), "lost 3"),
        ("drops", GetFlowsRequest { whitelist: dropped(), ..all() }, "lost 3"),
        ("TCP", GetFlowsRequest { whitelist: of("tcp"), ..all() }, "lost 3"),
        ("what proxies see, which takes another way", GetFlowsRequest { whitelist: of("dns"), ..all() }, ""),
        ("the time around it", GetFlowsRequest { since: second(1), until: hence, ..all() }, "lost 3"),
        ("a time after it", GetFlowsRequest { since: hence, ..all() }, ""),
        ("a time before it", GetFlowsRequest { until: second(1), ..all() }, ""),
    ] {
        assert_eq!(running.uuids(request).await.join(" "), want, "{what}");
    }
}

#[tokio::test]
async fn bad_requests_name_what_is_wrong() {
    let running = start(Config { streams_max: 1, ..Config::default() }).await;
    let refused = |request: GetFlowsRequest| {
        let mut client = running.client();
        async move { client.get_flows(request).await.expect_err("refused") }
    };
    let base = GetFlowsRequest::default;
    let both = refused(GetFlowsRequest { first: true, follow: true, ..base() }).await;
    assert_eq!((both.code(), both.message()), (Code::InvalidArgument, "first cannot be specified with follow"));
    let filter = FlowFilter { source_ip: vec!["300.1.1.1".into()], ..FlowFilter::default() };
    let address = refused(GetFlowsRequest { whitelist: vec![filter], ..base() }).await;
    assert_eq!(address.code(), Code::Unknown);
    assert!(address.message().starts_with("invalid IP address \"300.1.1.1\" in filter: "), "{}", address.message());
    let mask = hubble_api::FieldMask { paths: vec!["source.pod".into()] };
    let mask = refused(GetFlowsRequest { field_mask: Some(mask), ..base() }).await;
    assert!(mask.message().contains("\"source.pod\""), "{}", mask.message());
    let time = refused(GetFlowsRequest { since: Some(Timestamp { seconds: 0, nanos: -1 }), ..base() }).await;
    assert!(time.message().starts_with("since: "), "{}", time.message());
    let open = running.client().get_flows(GetFlowsRequest { follow: true, ..base() }).await.expect("the first");
    assert_eq!(refused(base()).await.code(), Code::ResourceExhausted);
    drop(open);
}

#[tokio::test]
async fn a_mask_thins_every_flow() {
    let running = start(Config::default()).await;
    running.observer.publish_flow(flow(3));
    let paths = vec!["uuid".into(), "source.namespace".into()];
    let request = GetFlowsRequest { field_mask: Some(hubble_api::FieldMask { paths }), ..GetFlowsRequest::default() };
    let mut stream = running.client().get_flows(request).await.expect("accepted").into_inner();
    let response = stream.message().await.expect("open").expect("a flow");
    let want = r#"{"flow":{"uuid":"3","source":{"namespace":"ns-a"}}}"#;
    assert_eq!(hubble_api::json::to_string(&response), want, "node name and time come from the thinned flow");
}

#[tokio::test]
async fn what_the_server_says_about_itself() {
    let config = Config {
        cluster_name: "c1".into(),
        node_ip: Some("10.0.0.7".parse().expect("an address")),
        ..Config::default()
    };
    let running = start(config).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    running.observer.publish_flow(flow(i64::try_from(now).expect("small")));
    running.observer.publish_agent_event(hubble_api::flow::AgentEvent { r#type: 2, notification: None });
    let mut client = running.client();
    let response = client.server_status(ServerStatusRequest {}).await.expect("answered");
    assert_eq!(response.metadata().get("hubble-server-version").expect("a version"), env!("CARGO_PKG_VERSION"));
    let status = response.into_inner();
    assert_eq!((status.num_flows, status.max_flows, status.seen_flows), (2, 4095, 1));
    let nodes = client.get_nodes(GetNodesRequest {}).await.expect("answered").into_inner().nodes;
    let socket = format!("unix://{}", running.socket.display());
    assert_eq!((nodes[0].name.as_str(), &nodes[0].address), ("c1/node-1", &socket), "nothing listens on TCP");
    let spaces = client.get_namespaces(GetNamespacesRequest {}).await.expect("answered").into_inner().namespaces;
    assert_eq!((spaces[0].cluster.as_str(), spaces[0].namespace.as_str()), ("default", "ns-a"));
    let request = GetAgentEventsRequest { number: 5, ..GetAgentEventsRequest::default() };
    let mut events = client.get_agent_events(request).await.expect("answered").into_inner();
    let event = events.message().await.expect("open").expect("one event");
    assert_eq!((event.agent_event.expect("set").r#type, event.node_name.as_str()), (2, "c1/node-1"));
    assert!(events.message().await.expect("open").is_none());
    let check = HealthCheckRequest { service: "hubble.server.Observer".into() };
    let health = HealthClient::new(running.channel.clone()).check(check).await.expect("answered").into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let mut peers =
        PeerClient::new(running.channel.clone()).notify(NotifyRequest {}).await.expect("answered").into_inner();
    let peer = peers.message().await.expect("open").expect("this node");
    assert_eq!((peer.r#type(), peer.name.as_str()), (ChangeNotificationType::PeerAdded, "c1/node-1"));
    assert_eq!((peer.address, peer.tls), (socket, None));
    running.stop.send(()).expect("still running");
    assert!(peers.message().await.expect("a clean end").is_none());
    running.served.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn reflection_names_every_service() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let running = start(Config::default()).await;
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = tokio_stream::once(ServerReflectionRequest { host: String::new(), message_request });
    let mut client = ServerReflectionClient::new(running.channel.clone());
    let mut answers = client.server_reflection_info(request).await.expect("answered").into_inner();
    let answer = answers.message().await.expect("open").expect("a list").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["observer.Observer", "peer.Peer", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[tokio::test]
async fn the_socket_is_for_its_group_and_a_live_one_is_left_alone() {
    let running = start(Config::default()).await;
    let mode = std::fs::metadata(&running.socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let listen = Listen { unix: Some(running.socket.clone()), tcp: None };
    let second = Server::bind(&listen, running.observer.clone()).await;
    assert!(matches!(second, Err(BindError::InUse(_))));
    // Killed servers leave their socket behind.
    let stale = running.socket.with_file_name("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a fresh path"));
    let listen = Listen { unix: Some(stale), tcp: Some("127.0.0.1:0".parse().expect("an address")) };
    let server = Server::bind(&listen, running.observer.clone()).await.expect("replaced");
    assert!(server.tcp_address().is_some());
    let blocked = Listen { unix: Some("/proc/hubble.sock".into()), tcp: None };
    let error = Server::bind(&blocked, running.observer.clone()).await.expect_err("no place for sockets");
    assert!(error.to_string().contains("/proc/hubble.sock"), "{error}");
}
