//! The agent of one node: connects the deciding core with the kernel, the store, the API and the files.
//!
//! It decides nothing about packets, identities or policies. Facts and requests go into `core/agent`'s machine through
//! one queue; its effects are carried out in order by [`world`]. A killed agent leaves everything as it was decided; a
//! restarted one restores, computes, writes the difference and takes the programs over without a gap.

pub mod cgroups;
pub mod cleanup;
pub mod config;
pub mod delete_queue;
pub mod events;
pub mod health;
pub mod healthz;
pub mod host;
pub mod lookup;
pub mod monitor;
pub mod news;
pub mod options;
pub mod policy_dir;
pub mod process;
pub mod publish;
pub mod replies;
pub mod rest;
pub mod run;
pub mod scrape;
pub mod sinks;
pub mod sockets;
pub mod start;
pub mod state;
pub mod status;
pub mod tasks;
pub mod wall;
pub mod world;
