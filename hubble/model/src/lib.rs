//! What a flow is and which flows someone asked for. Pure: no clock, no threads, no sockets.
//!
//! A record of the datapath becomes a [`FlowRecord`]: packet headers, identities and shared references to what is
//! known about either end. Records are small and stay in the [`Ring`]; the protobuf message is built when somebody
//! asked for it and a [`filter`] let it pass. Filters read through [`FlowView`], so that they see records and
//! protobuf messages alike and no message is built only to be thrown away.
//!
//! Invariant: decoding never panics and never invents: what a record does not say stays unset.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod aggregate;
pub mod cel;
pub mod decode;
mod endpoint;
mod event;
pub mod filter;
pub mod kinds;
pub mod l7;
pub mod merge;
pub mod packet;
mod record;
pub mod redact;
pub mod ring;
pub mod text;
pub mod view;

pub use decode::{DecodeError, Decoder, Stamp};
pub use endpoint::{EndpointInfo, Family, LabelList, Lookup, NodeInfo, PolicyInfo, ServiceInfo, WorkloadInfo};
pub use event::Event;
pub use filter::{Filter, FilterError, FilterList};
pub use kinds::{Interest, Kinds, KindsLog};
pub use merge::{FanIn, Merge, Newest};
pub use record::{FlowRecord, Policies, Side, Socket};
pub use ring::Ring;
pub use view::{FlowView, Seen};
