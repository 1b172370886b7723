//! Flows as bytes: who hands on what others send, or writes a response without building the message, needs no messages.

use crate::observer::GetFlowsRequest;
use prost::{
    Message as _,
    bytes::{Buf as _, BufMut as _, Bytes},
};
use std::{
    convert::Infallible,
    task::{Context, Poll},
};
use tonic::{
    Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{BoxFuture, Service, StdError, http},
    server::{Grpc, NamedService, ServerStreamingService},
};

/// The path of the method.
pub const GET_FLOWS: &str = "/observer.Observer/GetFlows";

/// For clients: `GetFlows` goes out, encoded responses come in.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsClient;

impl Codec for AsClient {
    type Encode = GetFlowsRequest;
    type Decode = Bytes;
    type Encoder = Requests;
    type Decoder = Responses;
    fn encoder(&mut self) -> Requests {
        Requests
    }
    fn decoder(&mut self) -> Responses {
        Responses
    }
}

/// For servers: `GetFlows` comes in, encoded responses go out.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsServer;

impl Codec for AsServer {
    type Encode = Bytes;
    type Decode = GetFlowsRequest;
    type Encoder = Responses;
    type Decoder = Requests;
    fn encoder(&mut self) -> Responses {
        Responses
    }
    fn decoder(&mut self) -> Requests {
        Requests
    }
}

/// Encoded `GetFlowsResponse`s.
#[derive(Debug, Clone, Copy)]
pub struct Responses;

impl Encoder for Responses {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Responses {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

/// `GetFlowsRequest`.
#[derive(Debug, Clone, Copy)]
pub struct Requests;

impl Encoder for Requests {
    type Item = GetFlowsRequest;
    type Error = Status;
    fn encode(&mut self, item: GetFlowsRequest, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(into).map_err(|why| Status::internal(why.to_string()))
    }
}

impl Decoder for Requests {
    type Item = GetFlowsRequest;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<GetFlowsRequest>, Status> {
        GetFlowsRequest::decode(from).map(Some).map_err(|why| Status::internal(why.to_string()))
    }
}

/// The service `observer.Observer`: `GetFlows` is answered in bytes by one, everything else by another.
#[derive(Debug, Clone)]
pub struct ObserverInBytes<F, R> {
    flows: F,
    rest: R,
}

impl<F, R> ObserverInBytes<F, R> {
    /// The two together.
    pub fn new(flows: F, rest: R) -> Self {
        Self { flows, rest }
    }
}

impl<F, R> NamedService for ObserverInBytes<F, R> {
    const NAME: &'static str = "observer.Observer";
}

type Answer = BoxFuture<http::Response<Body>, Infallible>;

impl<B, F, R> Service<http::Request<B>> for ObserverInBytes<F, R>
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
    F: ServerStreamingService<GetFlowsRequest, Response = Bytes> + Clone + Send + 'static,
    F::ResponseStream: Send + 'static,
    F::Future: Send + 'static,
    R: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible, Future = Answer>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.rest.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Answer {
        if request.uri().path() != GET_FLOWS {
            return self.rest.call(request);
        }
        let flows = self.flows.clone();
        Box::pin(async move { Ok(Grpc::new(AsServer).server_streaming(flows, request).await) })
    }
}
