//! The gRPC service: flows as bytes, everything else gathered from nodes.

use crate::{Shared, flows::Flows, metrics::Call, pool::Connectivity};
use futures::{StreamExt as _, future, stream, stream::BoxStream};
use hubble_api::{
    observer::{
        GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse, GetFlowsRequest,
        GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest, GetNodesResponse, Namespace,
        Node, ServerStatusRequest, ServerStatusResponse, Tls,
        observer_client::ObserverClient,
        observer_server::{Observer as ObserverRpc, ObserverServer},
    },
    raw::ObserverInBytes,
    relay::NodeState,
};
use prost::bytes::Bytes;
use std::{collections::BTreeSet, sync::Arc};
use tonic::{
    Code, Request, Response, Status, metadata::MetadataValue, server::ServerStreamingService, transport::Channel,
};

/// Names of nodes that do not answer listed at most.
const UNAVAILABLE_MAX: usize = 10;

/// `observer.Observer` of a relay.
pub fn observer(shared: &Arc<Shared>) -> ObserverInBytes<GetFlows, ObserverServer<Rest>> {
    let rest = ObserverServer::new(Rest { shared: shared.clone() });
    ObserverInBytes::new(GetFlows { shared: shared.clone() }, rest)
}

/// Clients warn when their version is newer than this header's.
fn answer<T>(shared: &Shared, message: T) -> Response<T> {
    let mut response = Response::new(message);
    if let Ok(version) = MetadataValue::try_from(shared.settings.version.as_str()) {
        response.metadata_mut().insert("hubble-relay-version", version);
    }
    response
}

/// Flows, as nodes send them.
#[derive(Clone)]
pub struct GetFlows {
    shared: Arc<Shared>,
}

impl ServerStreamingService<GetFlowsRequest> for GetFlows {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<GetFlowsRequest>) -> Self::Future {
        let call = self.shared.metrics.call("GetFlows", true);
        let (metadata, _, request) = request.into_parts();
        let opened = Flows::open(&self.shared, request, &metadata, call);
        future::ready(opened.map(|flows| {
            let responses = stream::unfold(flows, |mut flows| async move {
                let response = flows.next().await?;
                Some((response, flows))
            });
            answer(&self.shared, responses.boxed())
        }))
    }
}

/// Everything but flows.
#[derive(Clone)]
pub struct Rest {
    shared: Arc<Shared>,
}

impl Rest {
    /// Asks every node that is connected; those that do not answer in time count as failed.
    async fn ask<T, F>(&self, one: impl Fn(ObserverClient<Channel>) -> F) -> Vec<(String, Result<T, Status>)>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let view = self.shared.view.borrow().clone();
        let within = 2 * self.shared.settings.bounds.answer_within;
        let asked = view.ready().map(|(node, _, channel)| {
            let (name, answer) = (node.peer.name.clone(), one(ObserverClient::new(channel.clone())));
            async move {
                let answer = tokio::time::timeout(within, answer).await;
                let late = || Status::deadline_exceeded(format!("no answer within {within:?}"));
                let answer = answer.unwrap_or_else(|_| Err(late())).map(Response::into_inner);
                if let Err(why) = &answer {
                    tracing::warn!(node = name, %why, "a node did not answer");
                }
                (name, answer)
            }
        });
        future::join_all(asked).await
    }

    fn done<T>(&self, mut call: Call, message: T) -> Result<Response<T>, Status> {
        call.sent();
        call.ended(Code::Ok);
        Ok(answer(&self.shared, message))
    }

    fn unimplemented<T>(&self, method: &'static str) -> Result<T, Status> {
        self.shared.metrics.call(method, true).ended(Code::Unimplemented);
        Err(Status::unimplemented(format!("{method} not yet implemented")))
    }
}

#[tonic::async_trait]
impl ObserverRpc for Rest {
    type GetFlowsStream = BoxStream<'static, Result<GetFlowsResponse, Status>>;
    type GetAgentEventsStream = BoxStream<'static, Result<GetAgentEventsResponse, Status>>;
    type GetDebugEventsStream = BoxStream<'static, Result<GetDebugEventsResponse, Status>>;

    async fn get_flows(&self, _: Request<GetFlowsRequest>) -> Result<Response<Self::GetFlowsStream>, Status> {
        Err(Status::internal("flows are answered as bytes"))
    }

    async fn get_agent_events(
        &self,
        _: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        self.unimplemented("GetAgentEvents")
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        self.unimplemented("GetDebugEvents")
    }

    async fn get_nodes(&self, _: Request<GetNodesRequest>) -> Result<Response<GetNodesResponse>, Status> {
        let call = self.shared.metrics.call("GetNodes", false);
        let view = self.shared.view.borrow().clone();
        let answers = self.ask(|mut node| async move { node.server_status(ServerStatusRequest {}).await }).await;
        let node = |node: &crate::pool::Node| {
            let ready = node.state == Connectivity::Ready;
            let unknown = if ready { NodeState::NodeError } else { NodeState::NodeUnavailable };
            let name = &node.peer.name;
            let answer = answers.iter().find(|(who, _)| who == name).and_then(|(_, answer)| answer.as_ref().ok());
            let status = answer.cloned().unwrap_or_default();
            Node {
                name: name.clone(),
                version: status.version,
                address: node.peer.address.clone(),
                state: if answer.is_some() { NodeState::NodeConnected } else { unknown }.into(),
                tls: Some(Tls {
                    enabled: node.peer.server_name.is_some(),
                    server_name: node.peer.server_name.clone().unwrap_or_default(),
                }),
                uptime_ns: status.uptime_ns,
                num_flows: status.num_flows,
                max_flows: status.max_flows,
                seen_flows: status.seen_flows,
            }
        };
        self.done(call, GetNodesResponse { nodes: view.nodes.iter().map(node).collect() })
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let call = self.shared.metrics.call("GetNamespaces", false);
        let answers = self.ask(|mut node| async move { node.get_namespaces(GetNamespacesRequest {}).await }).await;
        let all = answers.into_iter().filter_map(|(_, answer)| answer.ok()).flat_map(|answer| answer.namespaces);
        let all: BTreeSet<_> = all.map(|space| (space.cluster, space.namespace)).collect();
        let namespaces = all.into_iter().map(|(cluster, namespace)| Namespace { cluster, namespace }).collect();
        self.done(call, GetNamespacesResponse { namespaces })
    }

    async fn server_status(&self, _: Request<ServerStatusRequest>) -> Result<Response<ServerStatusResponse>, Status> {
        let call = self.shared.metrics.call("ServerStatus", false);
        let view = self.shared.view.borrow().clone();
        let answers = self.ask(|mut node| async move { node.server_status(ServerStatusRequest {}).await }).await;
        let mut sum = ServerStatusResponse { version: self.shared.settings.version.clone(), ..Default::default() };
        let mut unavailable: Vec<String> = view.unavailable().map(str::to_owned).collect();
        let mut connected = 0;
        for (name, answer) in answers {
            let Ok(status) = answer else {
                unavailable.push(name);
                continue;
            };
            connected += 1;
            sum.num_flows = sum.num_flows.saturating_add(status.num_flows);
            sum.max_flows = sum.max_flows.saturating_add(status.max_flows);
            sum.seen_flows = sum.seen_flows.saturating_add(status.seen_flows);
            sum.flows_rate += status.flows_rate;
            // The longest: to add them up would say nothing.
            sum.uptime_ns = sum.uptime_ns.max(status.uptime_ns);
        }
        sum.num_connected_nodes = Some(connected);
        sum.num_unavailable_nodes = Some(u32::try_from(unavailable.len()).unwrap_or(u32::MAX));
        unavailable.sort_unstable();
        unavailable.truncate(UNAVAILABLE_MAX);
        sum.unavailable_nodes = unavailable;
        self.done(call, sum)
    }
}
