//! A cluster of simulated hosts: nodes that make flows, a relay, a client that writes down what it hears.

use futures::{StreamExt as _, stream};
use hubble_api::{
    Timestamp,
    flow::Flow,
    observer::{GetFlowsRequest, get_flows_response::ResponseTypes, observer_client::ObserverClient},
    relay::NodeState,
    time,
};
use hubble_relay::{Relay, Settings, answer::Bounds, pool::Reach};
use hubble_server::{Config, Observer, Peer, PeerSource, PeerTable, serve_incoming};
use hubble_transport::{Address, BoxIo, Clock, Dial, DialFuture, connect};
use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use turmoil::{Builder, Sim, net::TcpListener, net::TcpStream};

/// When every simulation begins: 2023-11-14T22:13:20Z.
pub const EPOCH_NS: i64 = 1_700_000_000_000_000_000;
/// What the relay waits for a silent node.
pub const WINDOW: Duration = Duration::from_secs(1);
/// Time between two flows of a node.
const EVERY: Duration = Duration::from_millis(20);

/// What the client heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    Flow { node: usize, number: i64, at_ns: i64 },
    Lost { node: String, count: u64 },
    Status { state: NodeState, names: Vec<String>, message: String },
    End(String),
}

/// And when, since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub at: Duration,
    pub got: Got,
}

/// Something done to the cluster at a time.
pub struct Fault {
    pub at: Duration,
    pub what: Box<dyn Fn(&mut Sim<'_>)>,
}

/// A fault.
pub fn at(secs: u64, what: impl Fn(&mut Sim<'_>) + 'static) -> Fault {
    Fault { at: Duration::from_secs(secs), what: Box::new(what) }
}

/// One run.
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    /// How far a node's clock is from the right time.
    pub skew_ns: Vec<i64>,
    pub request: GetFlowsRequest,
    /// When the client asks.
    pub ask_at: Duration,
    pub run_for: Duration,
    pub faults: Vec<Fault>,
}

impl Plan {
    pub fn new(seed: u64, nodes: usize, request: GetFlowsRequest) -> Self {
        Self {
            seed,
            nodes,
            skew_ns: vec![0; nodes],
            request,
            ask_at: Duration::from_secs(2),
            run_for: Duration::from_secs(20),
            faults: Vec::new(),
        }
    }
}

pub fn node(index: usize) -> String {
    format!("node-{index}")
}

struct Wires;

impl Dial for Wires {
    fn dial(&self, address: Address) -> DialFuture {
        Box::pin(async move {
            let Address::Tcp { host, port } = address else { panic!("nobody has unix sockets here") };
            let stream: BoxIo = Box::new(TcpStream::connect((host.as_str(), port)).await?);
            Ok(stream)
        })
    }
}

/// The peer service of the first node knows all.
struct Everybody(usize);

impl PeerSource for Everybody {
    fn peers(&self, _: &Peer) -> watch::Receiver<Arc<PeerTable>> {
        let peer = |index| {
            (node(index), Peer { name: node(index), address: format!("{}:4244", node(index)), server_name: None })
        };
        watch::channel(Arc::new((0..self.0).map(peer).collect::<PeerTable>())).1
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

async fn incoming(port: u16) -> std::io::Result<stream::BoxStream<'static, std::io::Result<TcpStream>>> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    let accepted = stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    Ok(accepted.boxed())
}

/// A node: its server, and a flow now and then. Numbers go on when it restarts; its ring does not.
async fn run_node(index: usize, nodes: usize, skew_ns: i64, next: Arc<AtomicI64>) -> Outcome {
    let observer =
        Observer::new(Config { node_name: node(index), lost_event_interval: Duration::ZERO, ..Config::default() });
    let this = Peer { name: node(index), address: format!("{}:4244", node(index)), server_name: None };
    let incoming = incoming(4244).await?;
    let flows = async {
        // Nodes are not in step.
        tokio::time::sleep(Duration::from_micros(1_700 * index as u64)).await;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let at_ns = EPOCH_NS + skew_ns + i64::try_from(turmoil::sim_elapsed().unwrap_or_default().as_nanos())?;
            observer.publish_flow(Flow {
                time: Some(time::from_nanos(at_ns.into())),
                uuid: format!("{index}:{number}"),
                ..Flow::default()
            });
            tokio::time::sleep(EVERY).await;
        }
    };
    let everybody = Everybody(nodes);
    tokio::select! {
        served = serve_incoming(&observer, this, &everybody, incoming) => Ok(served?),
        made = flows => made,
    }
}

async fn run_relay(seed: u64) -> Outcome {
    // The default of 100 flows is less than these nodes make in a window, and a full buffer waits for nobody.
    let bounds = Bounds { length_max: 2_000, ..Settings::default().bounds };
    assert_eq!(bounds.window, WINDOW);
    let settings = Settings { node_name: "relay".into(), bounds, ..Settings::default() };
    let reach = Reach {
        network: Arc::new(Wires),
        tls: None,
        service: Address::Tcp { host: node(0), port: 4244 },
        service_name: String::new(),
        dial_timeout: Duration::from_secs(3),
        clock: Clock::simulated(EPOCH_NS),
    };
    let (relay, keep) = Relay::new(settings, reach, seed);
    let incoming = incoming(4245).await?;
    tokio::select! {
        served = relay.serve(incoming, None) => Ok(served?),
        () = keep => Ok(()),
    }
}

async fn run_client(request: GetFlowsRequest, ask_at: Duration, heard: Arc<Mutex<Vec<Heard>>>) -> Outcome {
    tokio::time::sleep(ask_at).await;
    let write = |got| {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        heard.lock().expect("nobody panicked").push(Heard { at, got });
    };
    let relay = Address::Tcp { host: "relay".into(), port: 4245 };
    let connected = connect(&Wires, relay, None, Duration::from_secs(5)).await?;
    let mut flows = ObserverClient::new(connected.channel).get_flows(request).await?.into_inner();
    loop {
        let response = match flows.message().await {
            Ok(Some(response)) => response,
            Ok(None) => break write(Got::End(String::new())),
            Err(status) => break write(Got::End(status.message().to_owned())),
        };
        let node = response.node_name;
        write(match response.response_types.expect("every response says something") {
            ResponseTypes::Flow(flow) => {
                let (index, number) = flow.uuid.split_once(':').expect("as it was made");
                let at_ns = i64::try_from(time::nanos(&flow.time.expect("asked for")))?;
                Got::Flow { node: index.parse()?, number: number.parse()?, at_ns }
            }
            ResponseTypes::LostEvents(lost) => Got::Lost { node, count: lost.num_events_lost },
            ResponseTypes::NodeStatus(status) => {
                Got::Status { state: status.state_change(), names: status.node_names, message: status.message }
            }
        });
    }
    Ok(())
}

/// Runs a plan and returns what the client heard.
pub fn run(plan: Plan) -> Vec<Heard> {
    let mut sim = Builder::new()
        .rng_seed(plan.seed)
        .simulation_duration(plan.run_for + Duration::from_secs(3_600))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(Duration::from_millis(3))
        .tcp_capacity(1 << 16)
        .build();
    for index in 0..plan.nodes {
        let (nodes, skew, next) = (plan.nodes, plan.skew_ns[index], Arc::new(AtomicI64::new(0)));
        sim.host(node(index), move || run_node(index, nodes, skew, next.clone()));
    }
    let seed = plan.seed;
    sim.host("relay", move || run_relay(seed));
    let heard = Arc::new(Mutex::new(Vec::new()));
    sim.client("client", run_client(plan.request, plan.ask_at, heard.clone()));
    let mut faults = plan.faults;
    faults.sort_by_key(|fault| fault.at);
    let mut faults = faults.into_iter().peekable();
    while sim.elapsed() < plan.run_for {
        while let Some(fault) = faults.next_if(|fault| fault.at <= sim.elapsed()) {
            (fault.what)(&mut sim);
        }
        if sim.step().expect("no host fails by itself") {
            break;
        }
    }
    drop(sim);
    heard.lock().expect("nobody panicked").clone()
}

/// A point in time of the simulation as flows carry it.
pub fn second(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: EPOCH_NS / 1_000_000_000 + seconds, nanos: 0 })
}

/// How far behind its time a flow was heard, with the sender's clock taken as right.
fn delay(heard: &Heard, at_ns: i64) -> Duration {
    let heard_ns = EPOCH_NS + i64::try_from(heard.at.as_nanos()).expect("a short run");
    Duration::from_nanos(u64::try_from(heard_ns - at_ns).unwrap_or(0))
}

/// What must hold of every stream that follows, whatever happened.
pub fn check(heard: &[Heard], plan_skew: &[i64]) {
    nothing_is_lost_without_a_word(heard);
    in_order_but_for_who_is_late(heard, plan_skew);
}

/// A gap in a node's numbers, and no word of a loss on it or of a failure of it before the flow behind the gap.
fn nothing_is_lost_without_a_word(heard: &[Heard]) {
    let mut last: Vec<Option<i64>> = vec![None; 64];
    let mut excused = vec![0_u64; 64];
    for Heard { at, got } in heard {
        match got {
            Got::Flow { node: index, number, .. } => {
                if let Some(last) = last[*index] {
                    assert!(*number > last, "{at:?}: {}:{number} after {last}: twice, or out of order", node(*index));
                    let missing = u64::try_from(number - last - 1).expect("just compared");
                    assert!(
                        missing <= excused[*index],
                        "{at:?}: {missing} flows of {} before {number} are missing without a word",
                        node(*index)
                    );
                }
                last[*index] = Some(*number);
                excused[*index] = 0;
            }
            Got::Lost { node: name, count } => {
                let index: usize = name.rsplit_once('-').expect("a node's name").1.parse().expect("a number");
                excused[index] = excused[index].saturating_add(*count);
            }
            Got::Status { state, names, .. } if *state != NodeState::NodeConnected => {
                for name in names {
                    let index: usize = name.rsplit_once('-').expect("a node's name").1.parse().expect("a number");
                    excused[index] = u64::MAX;
                }
            }
            Got::Status { .. } | Got::End(_) => {}
        }
    }
}

/// A flow may be older than one before it only when nobody had to wait for it: it came later than the window, or it was
/// made before its node was asked.
fn in_order_but_for_who_is_late(heard: &[Heard], skew_ns: &[i64]) {
    let mut newest = i64::MIN;
    let mut asked_ns = vec![i64::MIN; skew_ns.len()];
    for one in heard {
        match &one.got {
            Got::Status { state: NodeState::NodeConnected, names, .. } => {
                for (_, asked_ns) in asked_ns.iter_mut().enumerate().filter(|(index, _)| names.contains(&node(*index)))
                {
                    // The request is on its way for some milliseconds.
                    *asked_ns = EPOCH_NS + i64::try_from(one.at.as_nanos()).expect("a short run") + 10_000_000;
                }
            }
            Got::Flow { node: index, at_ns, number } if skew_ns[*index] == 0 => {
                // Windows are kept to a sixteenth, and messages take their time.
                let early = WINDOW / 16 + Duration::from_millis(20);
                let late = delay(one, *at_ns) + early >= WINDOW || *at_ns <= asked_ns[*index];
                assert!(
                    *at_ns >= newest || late,
                    "{:?}: {}:{number} is out of order and was not late",
                    one.at,
                    node(*index)
                );
                newest = newest.max(*at_ns);
            }
            _ => {}
        }
    }
}

/// The longest any flow of these nodes took after `from`.
pub fn longest_delay(heard: &[Heard], nodes: &[usize], from: Duration) -> Duration {
    let delays = heard.iter().filter(|one| one.at >= from).filter_map(|one| match one.got {
        Got::Flow { node, at_ns, .. } if nodes.contains(&node) => Some(delay(one, at_ns)),
        _ => None,
    });
    delays.max().expect("there were flows")
}

/// How many flows of a node were heard in a span of time.
pub fn flows_between(heard: &[Heard], node: usize, from: u64, to: u64) -> usize {
    let span = Duration::from_secs(from)..Duration::from_secs(to);
    let of_node = |got: &Got| matches!(got, Got::Flow { node: index, .. } if *index == node);
    heard.iter().filter(|one| span.contains(&one.at) && of_node(&one.got)).count()
}

/// When a node was first named in a status after `from`.
pub fn named(heard: &[Heard], state: NodeState, index: usize, from: u64) -> Option<(Duration, String)> {
    heard.iter().filter(|one| one.at >= Duration::from_secs(from)).find_map(|one| match &one.got {
        Got::Status { state: said, names, message } if *said == state && names.contains(&node(index)) => {
            Some((one.at, message.clone()))
        }
        _ => None,
    })
}
