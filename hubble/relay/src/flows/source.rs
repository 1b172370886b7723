//! One node's stream, read in batches and looked through before anybody relies on it.

use crate::{answer::Item, pool, wire};
use futures::{FutureExt as _, StreamExt as _};
use hubble_api::{
    Timestamp,
    observer::{
        GetFlowsRequest, GetFlowsResponse, ServerStatusRequest, get_flows_response::ResponseTypes,
        observer_client::ObserverClient,
    },
    raw::{AsClient, GET_FLOWS},
    time,
};
use hubble_model::merge::SourceId;
use prost::{Message as _, bytes::Bytes};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, mpsc};
use tonic::{Code, Request, Status, Streaming, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};

/// Batches a node may have on the way to the merge.
pub const CREDITS: usize = 2;
/// Responses of one batch.
const BATCH_MAX: usize = 128;
/// Bytes after which a batch is full.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// The largest response a node may send.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// What a node's task says.
pub struct Heard {
    pub id: SourceId,
    pub stream: u64,
    pub batch: Batch,
}

pub enum Batch {
    /// Responses in the order they came.
    Items(Vec<Item>),
    /// The stream ended, or failed.
    End(Result<(), String>),
    /// The node was asked whether it is there.
    Alive(bool),
}

/// What a task knows of its stream.
pub struct Stream {
    pub id: SourceId,
    pub number: u64,
    pub credits: Arc<Semaphore>,
    /// Whether times were asked for only to order by them.
    pub strip: bool,
}

/// Reads a node until its stream ends or nobody listens.
pub async fn read(stream: Stream, channel: Channel, request: Request<GetFlowsRequest>, say: mpsc::Sender<Heard>) {
    let ended = match ask(channel, request).await {
        Ok(responses) => pass_on(&stream, responses, &say).await,
        Err(status) => Err(message(&status)),
    };
    // Nobody listens when the client has gone.
    let _gone = say.send(Heard { id: stream.id, stream: stream.number, batch: Batch::End(ended) }).await;
}

/// Asks a node that says nothing whether it is there.
pub async fn probe(id: SourceId, stream: u64, channel: Channel, within: Duration, say: mpsc::Sender<Heard>) {
    let mut client = ObserverClient::new(channel);
    let answered = tokio::time::timeout(within, client.server_status(ServerStatusRequest {})).await;
    let alive = matches!(answered, Ok(Ok(_)));
    // Nobody listens when the client has gone.
    let _gone = say.send(Heard { id, stream, batch: Batch::Alive(alive) }).await;
}

async fn ask(channel: Channel, request: Request<GetFlowsRequest>) -> Result<Streaming<Bytes>, Status> {
    let mut client = Grpc::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
    client.ready().await.map_err(|why| Status::unavailable(format!("the connection was lost: {why}")))?;
    let path = PathAndQuery::from_static(GET_FLOWS);
    Ok(client.server_streaming(request, path, AsClient).await?.into_inner())
}

async fn pass_on(stream: &Stream, mut responses: Streaming<Bytes>, say: &mpsc::Sender<Heard>) -> Result<(), String> {
    let mut last_ns = 0;
    loop {
        let Ok(credit) = stream.credits.acquire().await else { return Ok(()) };
        credit.forget();
        let Some(first) = responses.next().await else { return Ok(()) };
        let (mut items, mut bytes, mut end) = (Vec::with_capacity(BATCH_MAX), 0, None);
        let mut next = Some(Some(first));
        while let Some(response) = next {
            match response {
                Some(Ok(response)) => match item(response, stream.strip, &mut last_ns) {
                    Ok(item) => {
                        bytes += item.bytes.len();
                        items.push(item);
                    }
                    Err(why) => end = Some(Err(why)),
                },
                Some(Err(status)) => end = Some(Err(message(&status))),
                None => end = Some(Ok(())),
            }
            let full = items.len() >= BATCH_MAX || bytes >= BATCH_BYTES_MAX;
            next = if full || end.is_some() { None } else { responses.next().now_or_never() };
        }
        let heard = Heard { id: stream.id, stream: stream.number, batch: Batch::Items(items) };
        if say.send(heard).await.is_err() {
            return Ok(());
        }
        if let Some(end) = end {
            return end;
        }
    }
}

/// A response that says no time counts as if it were of the time of the one before it.
fn item(bytes: Bytes, strip: bool, last_ns: &mut i64) -> Result<Item, String> {
    let peek = wire::peek(&bytes).map_err(|why| why.to_string())?;
    let at_ns = peek.at_ns.unwrap_or(*last_ns);
    *last_ns = at_ns;
    let bytes = if strip && peek.is_flow { without_time(&bytes)? } else { bytes };
    Ok(Item { at_ns, is_flow: peek.is_flow, bytes })
}

fn without_time(bytes: &[u8]) -> Result<Bytes, String> {
    let mut response = GetFlowsResponse::decode(bytes).map_err(|why| why.to_string())?;
    response.time = None;
    if let Some(ResponseTypes::Flow(flow)) = &mut response.response_types {
        flow.time = None;
    }
    Ok(response.encode_to_vec().into())
}

/// What a client is told of a failed request.
fn message(status: &Status) -> String {
    let text = pool::show(status);
    match status.code() {
        Code::Unknown => text,
        code => format!("{code:?}: {text}"),
    }
}

/// How far a node's flows have come, so that after an interruption nothing comes twice.
#[derive(Debug, Default, Clone)]
pub struct Resume {
    newest: Option<i64>,
    /// The responses of that very time.
    same: Vec<Bytes>,
    /// What came before the interruption is behind us once something newer came.
    resumed: bool,
}

/// Responses of one instant that are kept for comparison.
const SAME_MAX: usize = 64;

impl Resume {
    /// Where to go on.
    pub fn since(&self) -> Option<Timestamp> {
        self.newest.map(|ns| time::from_nanos(ns.into()))
    }

    /// The node is asked again.
    pub fn begin_again(&self) -> Self {
        Self { resumed: true, ..self.clone() }
    }

    /// Takes note of a response; false when it came before the interruption already.
    pub fn takes(&mut self, item: &Item) -> bool {
        if !item.is_flow {
            return true;
        }
        match self.newest {
            Some(newest) if item.at_ns < newest => return true,
            Some(newest) if item.at_ns == newest => {
                if self.resumed && self.same.contains(&item.bytes) {
                    return false;
                }
            }
            _ => {
                self.newest = Some(item.at_ns);
                self.same.clear();
                self.resumed = false;
            }
        }
        if self.same.len() < SAME_MAX {
            self.same.push(item.bytes.clone());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(at_ns: i64, text: &'static str) -> Item {
        Item { at_ns, is_flow: true, bytes: Bytes::from_static(text.as_bytes()) }
    }

    #[test]
    fn after_an_interruption_nothing_comes_twice_and_nothing_is_left_out() {
        let mut resume = Resume::default();
        assert!(["a", "b", "b"].iter().all(|text| resume.takes(&flow(7, text))), "two alike are two");
        assert_eq!(resume.since(), Some(Timestamp { seconds: 0, nanos: 7 }));
        let mut resume = resume.begin_again();
        assert!(!resume.takes(&flow(7, "a")) && !resume.takes(&flow(7, "b")), "asked since 7, it comes again");
        assert!(resume.takes(&flow(7, "c")) && resume.takes(&flow(8, "a")) && resume.takes(&flow(8, "a")));
        assert_eq!(resume.since(), Some(Timestamp { seconds: 0, nanos: 8 }));
    }

    #[test]
    fn times_asked_for_only_to_order_are_taken_out_again() {
        let flow = hubble_api::flow::Flow {
            uuid: "u".into(),
            time: Some(Timestamp { seconds: 1, nanos: 0 }),
            ..Default::default()
        };
        let response = GetFlowsResponse {
            time: flow.time,
            response_types: Some(ResponseTypes::Flow(flow)),
            ..GetFlowsResponse::default()
        };
        let mut last_ns = 0;
        let item = item(response.encode_to_vec().into(), true, &mut last_ns).expect("a response");
        assert_eq!((item.at_ns, last_ns), (1_000_000_000, 1_000_000_000));
        let bare = GetFlowsResponse::decode(&item.bytes[..]).expect("a response");
        assert_eq!(hubble_api::json::to_string(&bare), r#"{"flow":{"uuid":"u"}}"#);
    }
}
