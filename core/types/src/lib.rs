//! Newtypes: identities, labels, selectors, prefixes, endpoint ids, Ethernet addresses.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod cidr;
pub mod identity;
pub mod ids;
pub mod labels;
pub mod selector;

pub use cidr::{Cidr, CidrError};
pub use identity::NumericIdentity;
pub use ids::{EndpointId, MacAddr, Protocol, Revision};
pub use labels::{Label, Labels};
