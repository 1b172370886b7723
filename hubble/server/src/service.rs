//! The gRPC services, each a thin cover over the observer.

use crate::{
    Observer,
    flows::{Reader, Window},
    observer::{Shared, now_ns},
    peers::{Peer, PeerSource, PeerTable, changes},
    select::{AgentEvents, DebugEvents, Flows, Select},
};
use futures::{Stream, StreamExt as _, future, stream};
use hubble_api::{
    DESCRIPTORS, OBSERVER_HEALTH_SERVICE,
    flow::Flow,
    json::Mask,
    observer::{
        GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse, GetFlowsRequest,
        GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest, GetNodesResponse, Namespace,
        Node, ServerStatusRequest, ServerStatusResponse,
        observer_server::{Observer as ObserverRpc, ObserverServer},
    },
    peer::{
        ChangeNotification, NotifyRequest,
        peer_server::{Peer as PeerRpc, PeerServer},
    },
    raw::ObserverInBytes,
    relay::NodeState,
};
use hubble_model::{FilterList, Interest};
use prost::bytes::Bytes;
use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};
use tokio::sync::watch;
use tonic::{
    Request, Response, Status,
    metadata::MetadataValue,
    server::ServerStreamingService,
    transport::server::{Router, Server},
};
use tonic_health::{
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

/// How often a silent connection is asked whether its other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Requests at once on one connection: a relay has one connection for all its clients.
const REQUESTS_MAX: u32 = 4_096;

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
struct Api {
    shared: Arc<Shared>,
    this: Arc<Peer>,
    peers: watch::Receiver<Arc<PeerTable>>,
}

impl Api {
    /// Clients warn when their version is newer than this header's.
    fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        if let Ok(version) = MetadataValue::try_from(self.shared.config.version.as_str()) {
            response.metadata_mut().insert("hubble-server-version", version);
        }
        response
    }

    fn stream<S: Select>(&self, select: S, window: Window) -> Result<Response<BoxStream<S::Response>>, Status>
    where
        S::Response: 'static,
    {
        let reader = Reader::open(&self.shared, select, window)?;
        let events = stream::unfold(reader, |mut reader| async move {
            let response = reader.next().await?;
            Some((Ok(response), reader))
        });
        Ok(self.answer(events.boxed()))
    }

    fn flows(&self, request: GetFlowsRequest) -> Result<Response<BoxStream<Bytes>>, Status> {
        let window = Window::new(
            request.number,
            (request.first, request.follow),
            request.since.as_ref(),
            request.until.as_ref(),
        )?;
        let filters = FilterList::new(&request.whitelist, &request.blacklist)
            .map_err(|error| Status::unknown(error.to_string()))?;
        let interest = Interest::of(&request.whitelist);
        // Clients before 1.18 put it elsewhere.
        let old = request.experimental.and_then(|experimental| experimental.field_mask);
        let paths =
            [request.field_mask, old].into_iter().flatten().map(|mask| mask.paths).find(|paths| !paths.is_empty());
        let mask = paths
            .map(|paths| Mask::new::<Flow>(&paths))
            .transpose()
            .map_err(|error| Status::invalid_argument(error.to_string()))?
            .map(|mask| self.shared.made.mask(mask));
        self.stream(Flows { filters: Arc::new(filters), mask, interest }, window)
    }
}

/// `GetFlows`, in bytes.
impl ServerStreamingService<GetFlowsRequest> for Api {
    type Response = Bytes;
    type ResponseStream = BoxStream<Bytes>;
    type Future = future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<GetFlowsRequest>) -> Self::Future {
        future::ready(self.flows(request.into_inner()))
    }
}

#[tonic::async_trait]
impl ObserverRpc for Api {
    type GetFlowsStream = BoxStream<GetFlowsResponse>;
    type GetAgentEventsStream = BoxStream<GetAgentEventsResponse>;
    type GetDebugEventsStream = BoxStream<GetDebugEventsResponse>;

    async fn get_flows(&self, _: Request<GetFlowsRequest>) -> Result<Response<Self::GetFlowsStream>, Status> {
        Err(Status::internal("flows are answered as bytes"))
    }

    async fn get_agent_events(
        &self,
        request: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        let r = request.into_inner();
        self.stream(AgentEvents, Window::new(r.number, (r.first, r.follow), r.since.as_ref(), r.until.as_ref())?)
    }

    async fn get_debug_events(
        &self,
        request: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        let r = request.into_inner();
        self.stream(DebugEvents, Window::new(r.number, (r.first, r.follow), r.since.as_ref(), r.until.as_ref())?)
    }

    /// The original leaves this to the relay; a node alone can at least name itself.
    async fn get_nodes(&self, _: Request<GetNodesRequest>) -> Result<Response<GetNodesResponse>, Status> {
        let config = &self.shared.config;
        let (num_flows, max_flows) = self.shared.num_flows();
        let node = Node {
            name: config.peer_name(),
            version: config.version.clone(),
            address: self.this.address.clone(),
            state: NodeState::NodeConnected.into(),
            tls: Some(self.this.tls()),
            uptime_ns: uptime_ns(&self.shared),
            num_flows,
            max_flows,
            seen_flows: self.shared.seen_flows(),
        };
        Ok(self.answer(GetNodesResponse { nodes: vec![node] }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let all = self.shared.namespaces(now_ns()).into_iter();
        let namespaces = all.map(|(cluster, namespace)| Namespace { cluster, namespace }).collect();
        Ok(self.answer(GetNamespacesResponse { namespaces }))
    }

    async fn server_status(&self, _: Request<ServerStatusRequest>) -> Result<Response<ServerStatusResponse>, Status> {
        let (num_flows, max_flows) = self.shared.num_flows();
        Ok(self.answer(ServerStatusResponse {
            num_flows,
            max_flows,
            seen_flows: self.shared.seen_flows(),
            uptime_ns: uptime_ns(&self.shared),
            version: self.shared.config.version.clone(),
            flows_rate: self.shared.flows_rate(now_ns()),
            ..ServerStatusResponse::default()
        }))
    }
}

fn uptime_ns(shared: &Shared) -> u64 {
    u64::try_from(now_ns() - shared.started_ns).unwrap_or(0)
}

#[tonic::async_trait]
impl PeerRpc for Api {
    type NotifyStream = BoxStream<ChangeNotification>;

    /// All nodes known, then every change, until the observer is closed.
    async fn notify(&self, _: Request<NotifyRequest>) -> Result<Response<Self::NotifyStream>, Status> {
        let closed = self.shared.closed.clone();
        let told = (self.peers.clone(), Arc::<PeerTable>::default(), VecDeque::new());
        let changes = stream::unfold((told, closed), |((mut peers, mut told, mut queue), closed)| async move {
            loop {
                if let Some(change) = queue.pop_front() {
                    return Some((Ok(change), ((peers, told, queue), closed)));
                }
                let now = peers.borrow_and_update().clone();
                queue.extend(changes(&told, &now));
                told = now;
                if queue.is_empty() {
                    tokio::select! {
                        biased;
                        () = closed.cancelled() => return None,
                        // A source that has gone has nothing more to say; what is known stays.
                        Ok(()) = peers.changed() => {}
                        else => closed.cancelled().await,
                    }
                }
            }
        });
        Ok(self.answer(changes.boxed()))
    }
}

/// Everything a listener serves.
pub(crate) struct Services {
    api: Api,
    health: HealthReporter,
}

impl Services {
    /// The services of an observer, healthy from the start.
    pub async fn new(observer: &Observer, this: Peer, peers: &dyn PeerSource) -> Self {
        let reporter = HealthReporter::new();
        reporter.set_service_status(OBSERVER_HEALTH_SERVICE, tonic_health::ServingStatus::Serving).await;
        let peers = peers.peers(&this);
        Self { api: Api { shared: Arc::clone(observer.shared()), this: Arc::new(this), peers }, health: reporter }
    }

    /// One listener's worth of services.
    pub fn router(&self) -> Router {
        let describe = || {
            let health = tonic_health::pb::FILE_DESCRIPTOR_SET;
            let all = tonic_reflection::server::Builder::configure();
            all.register_encoded_file_descriptor_set(DESCRIPTORS).register_encoded_file_descriptor_set(health)
        };
        Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .max_concurrent_streams(Some(REQUESTS_MAX))
            .add_service(ObserverInBytes::new(self.api.clone(), ObserverServer::new(self.api.clone())))
            .add_service(PeerServer::new(self.api.clone()))
            .add_service(HealthServer::new(HealthService::from_health_reporter(self.health.clone())))
            .add_service(describe().build_v1().expect("the descriptors are those the messages were made from"))
            .add_service(describe().build_v1alpha().expect("the descriptors are those the messages were made from"))
    }
}
