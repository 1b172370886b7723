//! The protobuf packages `flow`, `observer`, `peer`, `relay` and `recorder` that Hubble's clients and servers speak, and their
//! JSON form.
//!
//! Field names and numbers are those of the original, so that either side may be the original. The messages need no
//! runtime; with the feature `grpc` clients and servers of the services are there too.
//!
//! This crate holds no behaviour: what a flow means, which flows a filter selects and who may see them is decided
//! elsewhere.
#![forbid(unsafe_code)]

pub mod json;
#[cfg(feature = "grpc")]
pub mod raw;
pub mod reflect;
pub mod time;

/// The vocabulary of flows: what was seen, where, and between whom.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod flow {
    include!(concat!(env!("OUT_DIR"), "/flow.rs"));
}
/// The service that hands out flows.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod observer {
    include!(concat!(env!("OUT_DIR"), "/observer.rs"));
}
/// The service that tells which nodes there are.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod peer {
    include!(concat!(env!("OUT_DIR"), "/peer.rs"));
}
/// The service that writes packets into files; gone from newer servers.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod recorder {
    include!(concat!(env!("OUT_DIR"), "/recorder.rs"));
}
/// What a relay says about the nodes behind it.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod relay {
    include!(concat!(env!("OUT_DIR"), "/relay.rs"));
}

/// What protobuf files consist of, for those who ask a server by reflection.
pub mod descriptor {
    pub use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};
}

pub use prost_types::{Any, Duration, FieldMask, Timestamp};

/// The encoded descriptors of the packages our servers serve, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The name under which the health service reports the observer; not the name of the service itself.
pub const OBSERVER_HEALTH_SERVICE: &str = "hubble.server.Observer";

/// Monitor message types: the numbers in `CiliumEventType.type`.
pub mod event_type {
    /// A dropped packet; the sub type is the drop code.
    pub const DROP: i32 = 1;
    /// A debug message of the datapath.
    pub const DEBUG: i32 = 2;
    /// A packet captured for debugging; the sub type is the capture point.
    pub const CAPTURE: i32 = 3;
    /// A forwarded packet; the sub type is the observation point.
    pub const TRACE: i32 = 4;
    /// The verdict of a policy on a new connection.
    pub const POLICY_VERDICT: i32 = 5;
    /// A socket operation; the sub type is the translation point.
    pub const TRACE_SOCK: i32 = 7;
    /// An application message from the proxy.
    pub const L7: i32 = 129;
    /// Something that happened in the agent.
    pub const AGENT: i32 = 130;
}
