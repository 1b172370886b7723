//! The policy engine: rules to classes to map entries, incrementally, with explanations.
//!
//! Documents become rules ([`parse`], [`rule`]); facts and rules become ordered map writes ([`Engine`], [`delta`]). The
//! crate is pure: no clock, no IO, no knowledge of the maps' layouts. See its README for the interface in one page.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod abilities;
pub mod delta;
pub mod engine;
pub mod lint;
pub mod parse;
pub mod preview;
pub mod rule;
pub mod schema;

pub use delta::{
    ClassId, Delta, EndpointPolicy, EntryKey, EntryValue, L4Prefix, MatchType, PolicyId, RedirectId, RuleCookie,
    Verdict, Write,
};
pub use engine::{Config, EndpointFacts, Enforcement, Engine, NamedPort, Refused, RuleName};
pub use parse::{DocError, parse, parse_with};
pub use rule::{Direction, ObjectKey, ObjectKind, PolicyObject};
