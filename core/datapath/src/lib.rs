//! The per-packet pipeline, written once for the kernel and the simulator.
#![no_std]
#![forbid(unsafe_code)]

pub mod checksum;
pub mod config;
pub mod conntrack;
pub mod egress;
pub mod env;
pub mod events;
pub mod family;
pub mod fast;
pub mod hash;
pub mod hooks;
pub mod icmp;
pub mod ingress;
pub mod kept;
pub mod lb;
pub mod maps;
pub mod nat;
pub mod neighbour;
pub mod nodeport;
pub mod parse;
pub mod policy;
pub mod side;
pub mod sock;
pub mod stages;
pub mod verdict;

pub use abi::stage::Stage;
pub use env::{Env, FamilyMaps, NodeFields, Notification};
pub use family::{End, Family, V4, V6};
pub use kept::Kept;
pub use nodeport::env::{Hop, NodeportEnv, NodeportMaps, Room, hop};
pub use nodeport::family::Balanced;
pub use nodeport::snat::{Wish, find_port};
pub use nodeport::ways::{KnownWay, WAYS};
pub use stages::{complete, early, from_host, from_netdev, from_pod, to_netdev, to_pod};
pub use verdict::{Action, DropReason, Verdict};
