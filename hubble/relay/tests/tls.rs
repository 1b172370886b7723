//! TLS on both sides of the relay, over real sockets: what works, and what is said when it does not.

use futures::StreamExt as _;
use hubble_api::{
    flow::Flow,
    observer::{
        GetFlowsRequest, GetNodesRequest, ServerStatusRequest, get_flows_response::ResponseTypes,
        observer_client::ObserverClient,
    },
    relay::NodeState,
};
use hubble_relay::{Relay, Settings, pool::Reach};
use hubble_server::{Config, Listen, Observer, Peer, PeerSource, PeerTable, Server};
use hubble_transport::{
    Address, Clock, Network, Secure, connect,
    tls::{ClientFiles, ClientTls, Identity, ServerFiles, ServerTls},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use std::{fs, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;

const NODE: &str = "node-1.default.hubble-grpc.cilium.io";
const RELAY: &str = "*.hubble-relay.cilium.io";

/// A CA with a folder for what it signs.
struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        let ca = Self { issuer, folder: tempfile::tempdir().expect("a folder") };
        fs::write(ca.cert(), ca.issuer.pem()).expect("written");
        ca
    }

    fn cert(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// A certificate for a name, in files called after `file`.
    fn issue(&self, file: &str, name: &str) -> Identity {
        self.issue_until(file, name, 2100)
    }

    fn issue_until(&self, file: &str, name: &str, year: i32) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let at = |end: &str| self.folder.path().join(format!("{file}.{end}"));
        fs::write(at("crt"), certificate.pem()).expect("written");
        fs::write(at("key"), key.serialize_pem()).expect("written");
        Identity { cert: at("crt"), key: at("key") }
    }
}

/// A node, a relay in front of it, and everything that keeps them running.
struct Lab {
    observer: Observer,
    relay: Relay,
    address: Address,
    tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

/// A relay behind this peer service, and where it listens.
async fn relay(
    tasks: &mut JoinSet<()>,
    service: Address,
    to_nodes: Option<ClientTls>,
    to_clients: Option<ServerTls>,
) -> (Relay, Address) {
    let reach = Reach {
        network: Arc::new(Network),
        tls: to_nodes,
        service,
        service_name: String::new(),
        dial_timeout: Duration::from_secs(10),
        clock: Clock::default(),
    };
    let (relay, keep) = Relay::new(Settings { node_name: "relay".into(), ..Settings::default() }, reach, 1);
    tasks.spawn(keep);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let serving = relay.clone();
    tasks.spawn(async move { serving.serve(TcpListenerStream::new(listener), to_clients).await.expect("it serves") });
    (relay, Address::Tcp { host: "127.0.0.1".into(), port })
}

async fn start(node_tls: Option<ServerTls>, to_nodes: Option<ClientTls>, to_clients: Option<ServerTls>) -> Lab {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("hubble.sock");
    let observer = Observer::new(Config { node_name: "node-1".into(), ..Config::default() });
    let listen = Listen { unix: Some(socket.clone()), tcp: Some("127.0.0.1:0".parse().expect("an address")) };
    let mut server = Server::bind(&listen, observer.clone()).await.expect("free places");
    if let Some(tls) = node_tls {
        server = server.with_tls(tls);
    }
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.run(std::future::pending()).await.expect("it serves") });
    let (relay, address) = relay(&mut tasks, Address::Unix(socket), to_nodes, to_clients).await;
    Lab { observer, relay, address, tasks, _folder: folder }
}

impl Lab {
    /// Waits until the node is ready, or why it is not.
    async fn node(&self) -> Result<(), String> {
        let mut view = self.relay.view();
        let settled =
            view.wait_for(|view| view.nodes.first().is_some_and(|node| node.channel.is_some() || node.why.is_some()));
        let view = settled.await.expect("the relay lives").clone();
        match &view.nodes[0].why {
            None => Ok(()),
            Some(why) => Err(why.to_string()),
        }
    }
}

fn server(identity: Identity, client_cas: &[PathBuf]) -> ServerTls {
    ServerTls::load(ServerFiles { identity, client_cas: client_cas.to_vec() }).expect("good files")
}

fn client(identity: Option<Identity>, ca: &Ca) -> ClientTls {
    ClientTls::load(ClientFiles { identity, server_cas: vec![ca.cert()] }).expect("good files")
}

#[tokio::test]
async fn flows_come_through_mutual_tls_on_both_sides() {
    let ca = Ca::new();
    let node = server(ca.issue("node", NODE), &[ca.cert()]);
    let front = server(ca.issue("relay", RELAY), &[ca.cert()]);
    let lab = start(Some(node), Some(client(Some(ca.issue("to-nodes", RELAY)), &ca)), Some(front)).await;
    lab.node().await.expect("connected");
    lab.observer.publish_flow(Flow { uuid: "u1".into(), ..Flow::default() });
    let tls = client(Some(ca.issue("cli", "cli")), &ca);
    let secure = Secure { config: tls.current(), server_name: "instance.hubble-relay.cilium.io".into() };
    let connected =
        connect(&Network, lab.address.clone(), Some(secure), Duration::from_secs(10)).await.expect("trusted");
    let mut observer = ObserverClient::new(connected.channel);
    let flows = observer.get_flows(GetFlowsRequest::default()).await.expect("accepted").into_inner();
    let all: Vec<_> = flows.map(|flow| flow.expect("no error").response_types.expect("set")).collect().await;
    assert!(matches!(&all[0], ResponseTypes::NodeStatus(status) if status.state_change() == NodeState::NodeConnected));
    assert!(matches!(&all[1], ResponseTypes::Flow(flow) if flow.uuid == "u1"), "{all:?}");
    let nodes = observer.get_nodes(GetNodesRequest {}).await.expect("answered").into_inner().nodes;
    let tls = nodes[0].tls.clone().expect("always set");
    assert_eq!((tls.enabled, tls.server_name.as_str()), (true, NODE));
    assert_eq!(nodes[0].state(), NodeState::NodeConnected);
    let nobody = Secure { config: client(None, &ca).current(), server_name: "instance.hubble-relay.cilium.io".into() };
    let connected = connect(&Network, lab.address.clone(), Some(nobody), Duration::from_secs(10)).await;
    // With TLS 1.3 the client has finished before the server has seen that it shows nothing.
    if let Ok(connected) = connected {
        let refused = ObserverClient::new(connected.channel).server_status(ServerStatusRequest {}).await;
        refused.expect_err("no certificate, no answer");
    }
    drop(lab.tasks);
}

#[tokio::test]
async fn what_is_wrong_with_a_nodes_tls_is_said() {
    let (ca, other) = (Ca::new(), Ca::new());
    let expired = {
        use tokio_rustls::rustls::{
            ServerConfig,
            pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        };
        let Identity { cert, key } = ca.issue_until("old", NODE, 2021);
        let chain = vec![CertificateDer::from_pem_file(&cert).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(&key).expect("a key");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&tokio_rustls::rustls::version::TLS13]);
        config.expect("known").with_no_client_auth().with_single_cert(chain, key).expect("it fits")
    };
    let good = || server(ca.issue("node", NODE), &[]);
    let wrong_name = server(ca.issue("wrong", "node-2.default.hubble-grpc.cilium.io"), &[]);
    for (node, relay, want) in [
        (
            Some(wrong_name),
            Some(client(None, &ca)),
            "the server's certificate is not for node-1.default.hubble-grpc.cilium.io",
        ),
        (
            Some(good()),
            Some(client(None, &other)),
            "the server's certificate is signed by none of the CAs that were given",
        ),
        (None, Some(client(None, &ca)), "the node serves without TLS and the relay wants it"),
        (
            Some(good()),
            None,
            "the node serves with TLS as node-1.default.hubble-grpc.cilium.io and the relay was started with --disable-client-tls",
        ),
        (Some(server(ca.issue("node", NODE), &[ca.cert()])), Some(client(None, &ca)), ""),
    ] {
        let lab = start(node, relay, None).await;
        let why = lab.node().await.expect_err("not connected");
        assert!(why.contains(want), "{why}");
        // The client hears which node it is, at once.
        let connected = connect(&Network, lab.address.clone(), None, Duration::from_secs(10)).await.expect("plain");
        let mut observer = ObserverClient::new(connected.channel);
        let mut flows = observer.get_flows(GetFlowsRequest::default()).await.expect("accepted").into_inner();
        let Some(ResponseTypes::NodeStatus(status)) =
            flows.message().await.expect("open").expect("a word").response_types
        else {
            panic!("the first response tells of nodes")
        };
        assert_eq!(
            (status.state_change(), &status.node_names[..]),
            (NodeState::NodeUnavailable, &["node-1".to_owned()][..])
        );
        assert!(flows.message().await.expect("open").is_none(), "and nothing is waited for");
    }
    // A certificate that has expired since it was loaded.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(expired));
    let accept = async { acceptor.accept(listener.accept().await.expect("a client").0).await.is_ok() };
    let secure = Secure { config: client(None, &ca).current(), server_name: NODE.into() };
    let address = Address::Tcp { host: "127.0.0.1".into(), port };
    let (_, connected) = tokio::join!(accept, connect(&Network, address, Some(secure), Duration::from_secs(10)));
    let why = connected.expect_err("expired").to_string();
    assert!(why.contains("the server's certificate has expired: renew it"), "{why}");
}

#[tokio::test]
async fn plain_and_tls_that_meet_say_so() {
    let ca = Ca::new();
    let lab = start(None, None, Some(server(ca.issue("relay", RELAY), &[]))).await;
    lab.node().await.expect("connected");
    // Plain to a TLS port.
    let connected = connect(&Network, lab.address.clone(), None, Duration::from_secs(10)).await.expect("TCP is there");
    let refused =
        ObserverClient::new(connected.channel).server_status(ServerStatusRequest {}).await.expect_err("no TLS");
    let mut text = refused.message().to_owned();
    let mut cause = std::error::Error::source(&refused);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(text.contains("security"), "HTTP/2 says that the security is inadequate: {text}");
    // TLS to a plain port.
    let plain = start(None, None, None).await;
    let secure = Secure { config: client(None, &ca).current(), server_name: "r.hubble-relay.cilium.io".into() };
    let connected = connect(&Network, plain.address.clone(), Some(secure), Duration::from_secs(10)).await;
    let why = connected.expect_err("no TLS there").to_string();
    assert!(why.contains("the server speaks no TLS there"), "{why}");
}

#[tokio::test]
async fn new_certificates_are_used_without_a_restart() {
    let ca = Ca::new();
    let tls = server(ca.issue("node", "elsewhere"), &[]);
    let lab = start(Some(tls.clone()), Some(client(None, &ca)), None).await;
    lab.node().await.expect_err("the wrong name");
    ca.issue("node", NODE);
    assert!(tls.reload().expect("good files"));
    let mut view = lab.relay.view();
    let ready = view.wait_for(|view| view.nodes[0].channel.is_some());
    tokio::time::timeout(Duration::from_secs(60), ready).await.expect("tried again").expect("the relay lives");
}

struct Table(PeerTable);

impl PeerSource for Table {
    fn peers(&self, _: &Peer) -> watch::Receiver<Arc<PeerTable>> {
        watch::channel(Arc::new(self.0.clone())).1
    }
}

/// A node that can be stopped.
struct Node {
    server: JoinSet<()>,
    stop: oneshot::Sender<()>,
}

impl Node {
    async fn start(observer: &Observer, tls: ServerTls, port: u16) -> (Self, Peer) {
        let listen = Listen { unix: None, tcp: Some(([127, 0, 0, 1], port).into()) };
        let server = Server::bind(&listen, observer.clone()).await.expect("a free port").with_tls(tls);
        let this = server.this_node();
        let (stop, stopped) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let stopped = async {
                let _asked = stopped.await;
            };
            server.run(stopped).await.expect("it serves");
        });
        (Self { server: tasks, stop }, this)
    }

    async fn stop(self) {
        self.stop.send(()).expect("it runs");
        self.server.join_all().await;
    }
}

fn flow_of(uuid: &str) -> Flow {
    Flow { uuid: uuid.into(), ..Flow::default() }
}

#[tokio::test]
async fn a_node_that_comes_back_with_another_certificate_is_named_and_holds_nobody_up() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let name = "node-2.default.hubble-grpc.cilium.io";
    let observer = |name: &str| Observer::new(Config { node_name: name.into(), ..Config::default() });
    // The node's observer is closed with its server, so each life has its own.
    let (first, second, third) = (observer("node-2"), observer("node-2"), observer("node-2"));
    let (node, peer) = Node::start(&first, server(ca.issue("two", name), &[]), 0).await;
    let port = peer.address.rsplit_once(':').expect("a port").1.parse().expect("a number");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("hubble.sock");
    let good = observer("node-1");
    let listen = Listen { unix: Some(socket.clone()), tcp: Some("127.0.0.1:0".parse().expect("an address")) };
    let serving = Server::bind(&listen, good.clone()).await.expect("free places");
    let serving = serving.with_tls(server(ca.issue("one", NODE), &[]));
    let this = serving.this_node();
    let table = Table([(this.name.clone(), this), (peer.name.clone(), peer)].into());
    let serving = serving.with_peers(Arc::new(table));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { serving.run(std::future::pending()).await.expect("it serves") });
    let (relay, address) = relay(&mut tasks, Address::Unix(socket), Some(client(None, &ca)), None).await;
    let mut view = relay.view();
    view.wait_for(|view| view.ready().count() == 2).await.expect("the relay lives");
    let channel = connect(&Network, address, None, Duration::from_secs(10)).await.expect("it listens").channel;
    let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    let mut flows = ObserverClient::new(channel).get_flows(request).await.expect("accepted").into_inner();
    let mut until = async |want: &str| loop {
        let response = flows.message().await.expect("open").expect("more").response_types;
        if matches!(&response, Some(ResponseTypes::Flow(flow)) if flow.uuid == want) {
            break;
        }
    };
    first.publish_flow(flow_of("before"));
    until("before").await;

    node.stop().await;
    let (node, _) = Node::start(&second, server(stranger.issue("two", name), &[]), port).await;
    let refused = |view: &Arc<hubble_relay::pool::View>| {
        let why = view.nodes.iter().filter_map(|node| node.why.as_ref());
        why.map(ToString::to_string).any(|why| why.contains("signed by none of the CAs"))
    };
    view.wait_for(refused).await.expect("the relay lives");
    second.publish_flow(flow_of("of a stranger"));
    good.publish_flow(flow_of("meanwhile"));
    until("meanwhile").await;

    node.stop().await;
    let (_node, _) = Node::start(&third, server(ca.issue("two", name), &[]), port).await;
    view.wait_for(|view| view.ready().count() == 2).await.expect("the relay lives");
    while third.streams() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    third.publish_flow(flow_of("after"));
    until("after").await;
}
