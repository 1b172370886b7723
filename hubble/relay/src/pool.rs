//! The connections themselves: what [`Peers`] decides, done on a network.

use crate::peers::{Config, ConnectionId, Effect, Input, Link, Peer, Peers};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use hubble_api::{
    observer::{ServerStatusRequest, observer_client::ObserverClient},
    peer::{ChangeNotification, ChangeNotificationType, NotifyRequest, peer_client::PeerClient},
};
use hubble_transport::{Address, Clock, Connected, Dial, Secure, connect, tls::ClientTls};
use machine::{Driven, Rng};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Status, transport::Channel};

/// News that may wait for the pool; whoever has more waits.
const NEWS_MAX: usize = 256;

/// How a node is connected, in the words of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Connectivity {
    /// Nothing is tried at the moment.
    Idle,
    /// On the way.
    Connecting,
    /// Usable.
    Ready,
    /// Failed, to be tried again.
    TransientFailure,
    /// Ending.
    Shutdown,
    /// There is nothing to connect to.
    NilConnection,
}

/// A node as requests see it.
#[derive(Debug, Clone)]
pub struct Node {
    /// As announced.
    pub peer: Peer,
    /// How it is connected.
    pub state: Connectivity,
    /// For requests, when it is ready.
    pub channel: Option<(ConnectionId, Channel)>,
    /// Why it is not, as far as known.
    pub why: Option<Arc<str>>,
}

/// All nodes, as they are at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// By name.
    pub nodes: Vec<Node>,
    /// Whether the peer service answers.
    pub service_is_open: bool,
}

impl View {
    /// Nodes that can be asked.
    pub fn ready(&self) -> impl Iterator<Item = (&Node, ConnectionId, &Channel)> {
        self.nodes.iter().filter_map(|node| node.channel.as_ref().map(|(id, channel)| (node, *id, channel)))
    }

    /// Names of those that cannot.
    pub fn unavailable(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(|node| node.channel.is_none()).map(|node| node.peer.name.as_str())
    }
}

/// How to reach others.
#[derive(Clone)]
pub struct Reach {
    /// The network.
    pub network: Arc<dyn Dial>,
    /// TLS towards nodes; none: without.
    pub tls: Option<ClientTls>,
    /// Where the peer service is.
    pub service: Address,
    /// The name its certificate must carry, when it is not on a unix socket.
    pub service_name: String,
    /// How long a connection may take until it answers (`--dial-timeout`).
    pub dial_timeout: Duration,
    /// Time.
    pub clock: Clock,
}

impl std::fmt::Debug for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reach")
            .field("service", &self.service)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

/// Keeps connections until `stop` completes, and shows them in `view`.
pub async fn keep(
    reach: Reach,
    config: Config,
    rng: Rng,
    view: watch::Sender<Arc<View>>,
    stop: impl Future<Output = ()>,
) {
    let (news, mut heard) = mpsc::channel(NEWS_MAX);
    let mut keeper = Keeper {
        driven: Driven::new(Peers::new(config, rng)),
        reach,
        news,
        tasks: FuturesUnordered::new(),
        channels: BTreeMap::new(),
        stops: BTreeMap::new(),
        view,
    };
    let mut stop = std::pin::pin!(stop);
    keeper.step(None);
    loop {
        let due = keeper.driven.next_deadline();
        let clock = keeper.reach.clock;
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(news) = heard.recv() => keeper.take(news),
            Some(()) = keeper.tasks.next(), if !keeper.tasks.is_empty() => {}
            () = clock.sleep_until(due) => keeper.step(None),
        }
    }
    keeper.view.send_modify(|view| {
        let nodes = view.nodes.iter().map(|node| Node { channel: None, state: Connectivity::Shutdown, ..node.clone() });
        *view = Arc::new(View { nodes: nodes.collect(), service_is_open: false });
    });
}

/// What the tasks around the keeper tell it.
enum News {
    Input(Input),
    Ready(ConnectionId, Channel),
}

struct Keeper {
    driven: Driven<Peers>,
    reach: Reach,
    news: mpsc::Sender<News>,
    /// Everything under way; polled here, so that it ends with the keeper.
    tasks: FuturesUnordered<BoxFuture<'static, ()>>,
    channels: BTreeMap<ConnectionId, Channel>,
    /// Dropping one ends its task.
    stops: BTreeMap<ConnectionId, oneshot::Sender<()>>,
    view: watch::Sender<Arc<View>>,
}

impl Keeper {
    fn take(&mut self, news: News) {
        match news {
            News::Ready(id, channel) => {
                if self.stops.contains_key(&id) {
                    self.channels.insert(id, channel);
                    self.step(Some(Input::Connected(id)));
                }
            }
            News::Input(input) => {
                match &input {
                    Input::Lost(id, why) => {
                        self.channels.remove(id);
                        self.stops.remove(id);
                        tracing::debug!(connection = id.0, %why, "no connection to a node");
                    }
                    Input::ServiceClosed(why) => tracing::warn!(service = %self.reach.service, %why, "no peer service"),
                    Input::ServiceOpened => tracing::info!(service = %self.reach.service, "peer service answers"),
                    Input::Announced(peer) => tracing::debug!(?peer, "announced"),
                    Input::Withdrawn(name) => tracing::debug!(name, "withdrawn"),
                    Input::Connected(_) => {}
                }
                self.step(Some(input));
            }
        }
    }

    fn step(&mut self, input: Option<Input>) {
        let now = self.reach.clock.now();
        let mut effects = VecDeque::new();
        self.driven.step(now, input, |effect| effects.push_back(effect));
        effects.into_iter().for_each(|effect| self.apply(effect));
        self.publish();
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::OpenService => {
                self.tasks.push(Box::pin(service(self.reach.clone(), self.news.clone())));
            }
            Effect::Connect(id, peer, address) => {
                let (stop, stopped) = oneshot::channel();
                self.stops.insert(id, stop);
                self.tasks.push(Box::pin(node(self.reach.clone(), self.news.clone(), id, peer, address, stopped)));
            }
            Effect::Close(id) => {
                self.channels.remove(&id);
                self.stops.remove(&id);
            }
            Effect::Refused(peer, why) => tracing::warn!(?peer, %why, "a node is left out"),
        }
    }

    fn publish(&self) {
        let peers = self.driven.machine();
        let node = |known: &crate::peers::Known| {
            let (state, why) = match &known.link {
                Link::NoAddress(why) => (Connectivity::NilConnection, Some(why.to_string().into())),
                Link::Connecting(_) => (Connectivity::Connecting, None),
                Link::Ready(_) => (Connectivity::Ready, None),
                Link::Failed { why, .. } => (Connectivity::TransientFailure, Some(why.clone())),
            };
            let ready = match &known.link {
                Link::Ready(id) => self.channels.get(id).map(|channel| (*id, channel.clone())),
                _ => None,
            };
            Node { peer: known.peer.clone(), state, channel: ready, why }
        };
        let view = View { nodes: peers.known().map(node).collect(), service_is_open: peers.service_is_open() };
        self.view.send_replace(Arc::new(view));
    }
}

/// Text of a failed request, with the causes a transport error hides.
pub(crate) fn show(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn secure(reach: &Reach, address: &Address, server_name: Option<&str>) -> Result<Option<Secure>, String> {
    match (&reach.tls, address, server_name) {
        (_, Address::Unix(_), _) | (None, _, None) => Ok(None),
        (Some(tls), _, Some(name)) => Ok(Some(Secure { config: tls.current(), server_name: name.to_owned() })),
        (Some(_), _, None) => {
            Err("the node serves without TLS and the relay wants it: give the node certificates or use --disable-client-tls".into())
        }
        (None, _, Some(name)) => Err(format!(
            "the node serves with TLS as {name} and the relay was started with --disable-client-tls: give it certificates"
        )),
    }
}

/// One connection to a node, from dialling to its end.
async fn node(
    reach: Reach,
    news: mpsc::Sender<News>,
    id: ConnectionId,
    peer: Peer,
    address: Address,
    stopped: oneshot::Receiver<()>,
) {
    let live = async {
        match dial(&reach, &peer, address).await {
            Err(why) => why,
            Ok(Connected { channel, gone }) => {
                // The keeper outlives its tasks.
                let _kept = news.send(News::Ready(id, channel)).await;
                let _ended = gone.await;
                "the connection was lost".into()
            }
        }
    };
    tokio::select! {
        biased;
        _ = stopped => {}
        why = live => {
            let _kept = news.send(News::Input(Input::Lost(id, why.into()))).await;
        }
    }
}

/// A connection counts once its server has answered: who accepts and then says nothing is not there.
async fn dial(reach: &Reach, peer: &Peer, address: Address) -> Result<Connected, String> {
    let secure = secure(reach, &address, peer.server_name.as_deref())?;
    let connected = connect(&*reach.network, address, secure, reach.dial_timeout).await;
    let connected = connected.map_err(|why| why.to_string())?;
    let mut client = ObserverClient::new(connected.channel.clone());
    match tokio::time::timeout(reach.dial_timeout, client.server_status(ServerStatusRequest {})).await {
        Ok(Ok(_)) => Ok(connected),
        Ok(Err(status)) => Err(show(&status)),
        Err(_) => Err(format!("no answer within {:?}", reach.dial_timeout)),
    }
}

/// Listens to the peer service until it ends.
async fn service(reach: Reach, news: mpsc::Sender<News>) {
    let why = match listen(&reach, &news).await {
        Ok(()) => "it ended its stream".into(),
        Err(why) => why,
    };
    let _kept = news.send(News::Input(Input::ServiceClosed(why.into()))).await;
}

async fn listen(reach: &Reach, news: &mpsc::Sender<News>) -> Result<(), String> {
    let secure = match &reach.tls {
        Some(_) => secure(reach, &reach.service, Some(&reach.service_name))?,
        None => None,
    };
    let connected = connect(&*reach.network, reach.service.clone(), secure, reach.dial_timeout).await;
    let Connected { channel, gone } = connected.map_err(|why| why.to_string())?;
    let _open = gone;
    let mut client = PeerClient::new(channel);
    let asked = tokio::time::timeout(reach.dial_timeout, client.notify(NotifyRequest {})).await;
    let asked = asked.map_err(|_| format!("no answer within {:?}", reach.dial_timeout))?;
    let mut changes = asked.map_err(|status| show(&status))?.into_inner();
    let _kept = news.send(News::Input(Input::ServiceOpened)).await;
    while let Some(change) = changes.message().await.map_err(|status| show(&status))? {
        if let Some(input) = understand(change) {
            let _kept = news.send(News::Input(input)).await;
        }
    }
    Ok(())
}

fn understand(change: ChangeNotification) -> Option<Input> {
    match change.r#type() {
        ChangeNotificationType::PeerAdded | ChangeNotificationType::PeerUpdated => {
            let server_name = change.tls.map(|tls| tls.server_name).filter(|name| !name.is_empty());
            Some(Input::Announced(Peer { name: change.name, address: change.address, server_name }))
        }
        ChangeNotificationType::PeerDeleted => Some(Input::Withdrawn(change.name)),
        ChangeNotificationType::Unknown => {
            tracing::warn!(name = change.name, number = change.r#type, "the peer service reports an unknown change");
            None
        }
    }
}
