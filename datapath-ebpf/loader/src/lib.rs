//! Loads the eBPF programs, keeps their maps, attaches them and takes over from an earlier agent.
//!
//! Everything that must outlive the agent is pinned: maps under `<bpffs>/tc/globals`, links under
//! `<bpffs>/cilium/links`, the programs that others go on in under `<bpffs>/cilium/calls`. A killed agent leaves traffic flowing; the next one finds the maps, checks that they
//! are the maps it means, loads its own programs on them and puts those in place of the old ones, each at one instant.
//!
//! This crate decides nothing about policy or packets. It never recreates a map that does not fit: it refuses, or
//! moves the entries when only the size differs. It needs no async runtime. All its `unsafe` is in one private module.

mod attach;
mod batch;
mod calls;
mod cgroup;
mod clock;
mod datapath;
mod error;
mod events;
mod inspect;
mod kernel;
mod maglev;
mod maps;
mod program;
mod schema;
mod sock;
mod sys;
mod table;
mod test_run;
mod verifier;
mod xdp;

pub use attach::{AtHook, Attachment, Direction, Hook, Interface, Outcome, PinnedLink};
pub use calls::calls_directory;
pub use cgroup::{CgroupError, SockLbMissing, cgroup_root, check_sock_lb};
pub use datapath::{Datapath, HookChoice, LoadStats, LoaderConfig, links_directory, maps_directory, remove_all};
pub use error::{AttachError, LoadError, MapError, Missing, Operation, TestRunError};
pub use events::Events;
pub use inspect::{Inspection, Loaded, inspect};
pub use kernel::{check as check_kernel, ensure_bpffs, has_tcx};
pub use maglev::MaglevTables;
pub use maps::{Access, Maps};
pub use program::{Program, UnknownProgram};
pub use schema::{Mismatch, Property};
pub use sock::{SockAttached, SockError, SockProgram, sock_links_directory};
pub use sys::kernel_release;
pub use table::{Counters, Table};
pub use test_run::{SkBuff, TestRun, XdpRun};
pub use verifier::{Figures, Rejection};
pub use xdp::{XdpAttachment, XdpChoice, XdpMode};
