//! gRPC messages as bytes: requests of one type, responses that stay encoded.

use hubble_api::observer::GetFlowsRequest;
use prost::{
    Message as _,
    bytes::{Buf as _, BufMut as _, Bytes},
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// The relay as a client: `GetFlows` goes out, encoded responses come in.
#[derive(Debug, Clone, Copy, Default)]
pub struct ToNode;

impl Codec for ToNode {
    type Encode = GetFlowsRequest;
    type Decode = Bytes;
    type Encoder = Messages;
    type Decoder = Raw;
    fn encoder(&mut self) -> Messages {
        Messages
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

/// The relay as a server: `GetFlows` comes in, encoded responses go out.
#[derive(Debug, Clone, Copy, Default)]
pub struct ToClient;

impl Codec for ToClient {
    type Encode = Bytes;
    type Decode = GetFlowsRequest;
    type Encoder = Raw;
    type Decoder = Messages;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Messages {
        Messages
    }
}

/// Encoded already.
#[derive(Debug, Clone, Copy)]
pub struct Raw;

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

/// `GetFlowsRequest`.
#[derive(Debug, Clone, Copy)]
pub struct Messages;

impl Encoder for Messages {
    type Item = GetFlowsRequest;
    type Error = Status;
    fn encode(&mut self, item: GetFlowsRequest, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(into).map_err(|why| Status::internal(why.to_string()))
    }
}

impl Decoder for Messages {
    type Item = GetFlowsRequest;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<GetFlowsRequest>, Status> {
        GetFlowsRequest::decode(from).map(Some).map_err(|why| Status::internal(why.to_string()))
    }
}
