//! The gRPC services, each a thin cover over the observer.

use crate::{
    Observer,
    flows::{AgentEvents, DebugEvents, Flows, Reader, Select, Window},
    observer::{Shared, now_ns},
};
use futures::{Stream, StreamExt as _, stream};
use hubble_api::{
    DESCRIPTORS, OBSERVER_HEALTH_SERVICE,
    flow::Flow,
    json::Mask,
    observer::{
        self, GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
        GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest,
        GetNodesResponse, Namespace, Node, ServerStatusRequest, ServerStatusResponse,
        observer_server::{Observer as ObserverRpc, ObserverServer},
    },
    peer::{
        ChangeNotification, ChangeNotificationType, NotifyRequest,
        peer_server::{Peer as PeerRpc, PeerServer},
    },
    relay::NodeState,
};
use hubble_model::FilterList;
use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};
use tonic::{
    Request, Response, Status,
    metadata::MetadataValue,
    transport::server::{Router, Server},
};
use tonic_health::{
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

/// Port of the server on every node, unless an address says otherwise.
const DEFAULT_PORT: u16 = 4244;

/// How often a silent connection is asked whether its other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
struct Api {
    shared: Arc<Shared>,
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

    fn stream<S: Select + Sync>(&self, select: S, window: Window) -> Result<Response<BoxStream<S::Response>>, Status>
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
}

#[tonic::async_trait]
impl ObserverRpc for Api {
    type GetFlowsStream = BoxStream<GetFlowsResponse>;
    type GetAgentEventsStream = BoxStream<GetAgentEventsResponse>;
    type GetDebugEventsStream = BoxStream<GetDebugEventsResponse>;

    async fn get_flows(&self, request: Request<GetFlowsRequest>) -> Result<Response<Self::GetFlowsStream>, Status> {
        let request = request.into_inner();
        let window = Window::new(
            request.number,
            (request.first, request.follow),
            request.since.as_ref(),
            request.until.as_ref(),
        )?;
        let filters = FilterList::new(&request.whitelist, &request.blacklist)
            .map_err(|error| Status::unknown(error.to_string()))?;
        let paths = request.field_mask.map(|mask| mask.paths).filter(|paths| !paths.is_empty());
        let mask = paths
            .map(|paths| Mask::new::<Flow>(&paths))
            .transpose()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.stream(Flows { filters: Arc::new(filters), mask }, window)
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
            address: peer_address(config.node_ip),
            state: NodeState::NodeConnected.into(),
            tls: Some(observer::Tls::default()),
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

fn peer_address(ip: Option<IpAddr>) -> String {
    ip.map(|ip| std::net::SocketAddr::new(ip, DEFAULT_PORT).to_string()).unwrap_or_default()
}

#[tonic::async_trait]
impl PeerRpc for Api {
    type NotifyStream = BoxStream<ChangeNotification>;

    /// One node alone knows of itself: one notification, and the stream stays open.
    async fn notify(&self, _: Request<NotifyRequest>) -> Result<Response<Self::NotifyStream>, Status> {
        let this = ChangeNotification {
            name: self.shared.config.peer_name(),
            address: peer_address(self.shared.config.node_ip),
            r#type: ChangeNotificationType::PeerAdded.into(),
            tls: None,
        };
        let closed = self.shared.closed.clone().cancelled_owned();
        let rest = stream::once(closed).filter_map(|()| async { None });
        Ok(self.answer(stream::once(async { Ok(this) }).chain(rest).boxed()))
    }
}

/// Everything a listener serves.
pub(crate) struct Services {
    api: Api,
    health: HealthReporter,
}

impl Services {
    /// The services of an observer, healthy from the start.
    pub async fn new(observer: &Observer) -> Self {
        let reporter = HealthReporter::new();
        reporter.set_service_status(OBSERVER_HEALTH_SERVICE, tonic_health::ServingStatus::Serving).await;
        Self { api: Api { shared: Arc::clone(observer.shared()) }, health: reporter }
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
            .add_service(ObserverServer::new(self.api.clone()))
            .add_service(PeerServer::new(self.api.clone()))
            .add_service(HealthServer::new(HealthService::from_health_reporter(self.health.clone())))
            .add_service(describe().build_v1().expect("the descriptors are those the messages were made from"))
            .add_service(describe().build_v1alpha().expect("the descriptors are those the messages were made from"))
    }
}
