//! What can go wrong, with what to do about it.

use std::{fmt, io, path::PathBuf};

use abi::maps::MapSpec;

use crate::{attach::Direction, program::Program, schema::Mismatch, verifier::Rejection};

/// What was being done to a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading entries.
    Read,
    /// Writing entries.
    Write,
    /// Deleting entries.
    Delete,
    /// Reading the kernel's information about it.
    Inspect,
    /// Pinning it.
    Pin,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "reading",
            Self::Write => "writing",
            Self::Delete => "deleting from",
            Self::Inspect => "inspecting",
            Self::Pin => "pinning",
        })
    }
}

/// Why a map could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// No room; nothing was written.
    #[error("map {map} is full: it has room for {max_entries} entries; give it more in the agent's configuration")]
    Full {
        /// Which map.
        map: &'static str,
        /// Its size.
        max_entries: u32,
    },
    /// A Maglev table is not as long as the map was made for.
    #[error("a table of {given} entries does not fit map {map}, whose tables have {size}")]
    TableSize {
        /// Which map.
        map: &'static str,
        /// Entries of the table.
        given: usize,
        /// Entries of every table of the map.
        size: u32,
    },
    /// The number of entries of a Maglev table is none that may be configured.
    #[error("a Maglev table cannot have {size} entries; choose one of {:?}", abi::lb::MAGLEV_SIZES)]
    MaglevSize {
        /// What was asked for.
        size: u32,
    },
    /// The new size of a map does not hold what the old one holds.
    #[error("map {map} holds more than {max_entries} entries, the size it should get; choose a larger one")]
    TooSmall {
        /// Which map.
        map: &'static str,
        /// The size asked for.
        max_entries: u32,
    },
    /// A size was given for a map that does not exist.
    #[error("there is no map named {name:?} to set the size of")]
    UnknownName {
        /// The name given.
        name: String,
    },
    /// There is no such pin, or it cannot be opened.
    #[error("cannot open map {map} at {}: {source}; is the agent running on this node, and are you root?", path.display())]
    Open {
        /// Which map.
        map: &'static str,
        /// Its pin.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A pinned map has another layout.
    #[error(
        "the pinned map {map} is another than this version means: {mismatch}; stop the software that uses it, then \
         remove {} (connections it tracks are lost), or run the version that made it",
        path.display()
    )]
    Shape {
        /// Which map.
        map: &'static str,
        /// Its pin.
        path: PathBuf,
        /// What differs.
        mismatch: Mismatch,
    },
    /// The pinned maps were written by a version with another layout.
    #[error(
        "the maps pinned in {} have layout version {found}, this version means {expected}; run the version that made \
         them, or stop it and remove the pins (connections they track are lost)",
        directory.display()
    )]
    Version {
        /// Where they are pinned.
        directory: PathBuf,
        /// The version stored beside them.
        found: u64,
        /// Ours.
        expected: u64,
    },
    /// Maps of our names are pinned, but not by us.
    #[error(
        "{} holds a map {map} but no cilium_runtime_config with a layout version: other software pinned it; remove it \
         if that software is gone, or choose another bpffs directory",
        directory.display()
    )]
    Foreign {
        /// The map found.
        map: &'static str,
        /// Where it is pinned.
        directory: PathBuf,
    },
    /// The kernel did not make a map.
    #[error("the kernel did not make map {map} with {max_entries} entries: {source}{}", memory_hint(source))]
    Create {
        /// Which map.
        map: &'static str,
        /// The size asked for.
        max_entries: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The pin of an array of programs could not be looked at or removed.
    #[error("the array of programs pinned at {} cannot be let go of: {source}", path.display())]
    Pin {
        /// Its pin, or the directory of pins.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Any other failure.
    #[error("{operation} map {map} failed: {source}")]
    System {
        /// Which map.
        map: &'static str,
        /// What was being done.
        operation: Operation,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn memory_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOMEM) => " (give it fewer entries in the agent's configuration, or the machine more memory)",
        Some(libc::EPERM) => " (needs CAP_BPF, or root)",
        _ => "",
    }
}

impl MapError {
    pub(crate) fn system(spec: &MapSpec, operation: Operation, source: io::Error) -> Self {
        Self::System { map: spec.name, operation, source }
    }
}

/// Something the running kernel or this process lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Too old.
    #[error("kernel {release} is older than 6.1, the oldest that has what the datapath needs")]
    Kernel {
        /// The running kernel's release.
        release: String,
    },
    /// bpf(2) is not there.
    #[error("this kernel was built without CONFIG_BPF_SYSCALL")]
    BpfSyscall,
    /// Not allowed.
    #[error("{capability} is missing: run as root, or give the process CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Capability {
        /// The first that is missing.
        capability: &'static str,
    },
    /// Not supported by the kernel although it is asked for.
    #[error("kernel {release} has no TCX (Linux 6.6 and later); let the loader choose, or use clsact")]
    Tcx {
        /// The running kernel's release.
        release: String,
    },
    /// The kernel runs no programs at control groups.
    #[error(
        "kernel {release} was built without CONFIG_CGROUP_BPF: set --bpf-lb-sock=false, and packets are balanced one by one"
    )]
    CgroupBpf {
        /// The running kernel's release.
        release: String,
    },
    /// The kernel has no clsact qdisc.
    #[error(
        "kernel {release} has neither TCX (6.6 and later) nor the clsact qdisc (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF)"
    )]
    Clsact {
        /// The running kernel's release.
        release: String,
    },
}

/// Why the datapath could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The programs' constants contradict one another.
    #[error("the programs' constants ask for {problem}")]
    Contradiction {
        /// What of them cannot be.
        problem: &'static str,
    },
    /// The kernel or this process lacks something.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// There is no BPF file system and none could be mounted.
    #[error("{} is no BPF file system and could not be made one: {source}; mount it: mount -t bpf bpf {}", path.display(), path.display())]
    Bpffs {
        /// Where it should be.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A directory for pins could not be made.
    #[error("cannot make the directory {}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The object file cannot be read.
    #[error("cannot read the programs at {}: {source}; build them with `cargo xtask bpf`", path.display())]
    ObjectFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The object file is not one of ours, or of another version.
    #[error("the programs' object file does not fit this version: {problem}; build both from one source")]
    Object {
        /// What does not fit.
        problem: String,
    },
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The verifier refused a program.
    #[error("the kernel refused program {program}: {rejection}")]
    Rejected {
        /// Which program.
        program: String,
        /// Why, in the verifier's words.
        rejection: Box<Rejection>,
    },
    /// Any other failure of loading.
    #[error("loading {step} failed: {source}")]
    Aya {
        /// What was being loaded.
        step: String,
        /// Why.
        source: Box<aya::EbpfError>,
    },
}

/// Why a program could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The object file has no such program.
    #[error("there is no program {program} in the object file")]
    Absent {
        /// Which program.
        program: Program,
    },
    /// There is no such device.
    #[error("device {device} does not exist (any more): {source}")]
    Device {
        /// Name or index.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// This kernel does not take the XDP program.
    #[error("no XDP program can be attached to {device}: {why}")]
    NoXdp {
        /// Which device.
        device: String,
        /// Why it could not be loaded.
        why: String,
    },
    /// A step with the XDP program failed.
    #[error("{step} the XDP program at {device} failed: {source}")]
    Xdp {
        /// Which step.
        step: &'static str,
        /// Which device.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A step failed.
    #[error("{step} {program} at {device} {direction} failed: {source}")]
    Step {
        /// Which step.
        step: &'static str,
        /// Which program.
        program: Program,
        /// Which device.
        device: String,
        /// Which side.
        direction: Direction,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The directory of pinned links cannot be read or written.
    #[error("cannot {step} {}: {source}", path.display())]
    Pins {
        /// What was being done.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Why a test run gave no result.
#[derive(Debug, thiserror::Error)]
pub enum TestRunError {
    /// The object file has no such program.
    #[error("there is no program {program} in the object file")]
    Absent {
        /// Which program.
        program: Program,
    },
    /// The object file has no XDP program.
    #[error("there is no XDP program in the object file")]
    NoXdp,
    /// The test run of the XDP program failed.
    #[error("the test run of the XDP program failed: {source}")]
    FailedXdp {
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// The kernel refuses such a packet or context before the program sees it.
    #[error("the kernel does not take this input: {source}")]
    Refused {
        /// The kernel's answer.
        source: io::Error,
    },
    /// Any other failure.
    #[error("the test run of {program} failed: {source}")]
    Failed {
        /// Which program.
        program: Program,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
}
