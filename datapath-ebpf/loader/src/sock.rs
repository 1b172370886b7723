//! Programs of control groups: attached to a group so that they outlive the agent, exchanged in place.
//!
//! Each hangs at a link pinned under `<bpffs>/cilium/socketlb/links/cgroup`. A new agent puts its program into the link it
//! finds there; at no instant is a hook without one. A link of ours that lost its pin is found among the kernel's links, so
//! that no second copy runs beside a new one. Links at another group (the option changed) are detached after the new
//! ones are in place.
//!
//! Where all of them are new, those that tell a program its peer come first and those that translate last, so that no call
//! is translated whose answer is not.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{Ebpf, programs::ProgramError};

use crate::{cgroup::CgroupError, error::LoadError, sys, verifier::Rejection};

/// A program of a control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are those of the hooks")]
pub enum SockProgram {
    PostBind4,
    PostBind6,
    GetPeerName4,
    GetPeerName6,
    RecvMsg4,
    RecvMsg6,
    SendMsg4,
    SendMsg6,
    Connect4,
    Connect6,
}

impl SockProgram {
    /// Every program, in the order in which they are attached.
    pub const ALL: [Self; 10] = [
        Self::PostBind4,
        Self::PostBind6,
        Self::GetPeerName4,
        Self::GetPeerName6,
        Self::RecvMsg4,
        Self::RecvMsg6,
        Self::SendMsg4,
        Self::SendMsg6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// Its name in the object file and in the kernel (which keeps 15 bytes of it).
    pub const fn name(self) -> &'static str {
        match self {
            Self::PostBind4 => "cil_sock4_post_bind",
            Self::PostBind6 => "cil_sock6_post_bind",
            Self::GetPeerName4 => "cil_sock4_getpeername",
            Self::GetPeerName6 => "cil_sock6_getpeername",
            Self::RecvMsg4 => "cil_sock4_recvmsg",
            Self::RecvMsg6 => "cil_sock6_recvmsg",
            Self::SendMsg4 => "cil_sock4_sendmsg",
            Self::SendMsg6 => "cil_sock6_sendmsg",
            Self::Connect4 => "cil_sock4_connect",
            Self::Connect6 => "cil_sock6_connect",
        }
    }

    /// The kernel's number of its hook (`enum bpf_attach_type`).
    pub(crate) const fn attach_type(self) -> u32 {
        match self {
            Self::PostBind4 => 12,
            Self::PostBind6 => 13,
            Self::GetPeerName4 => 29,
            Self::GetPeerName6 => 30,
            Self::RecvMsg4 => 19,
            Self::RecvMsg6 => 20,
            Self::SendMsg4 => 14,
            Self::SendMsg6 => 15,
            Self::Connect4 => sys::CGROUP_INET4_CONNECT,
            Self::Connect6 => 11,
        }
    }

    fn kernel_name(self) -> &'static str {
        let name = self.name();
        name.get(..15).unwrap_or(name)
    }
}

impl fmt::Display for SockProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why socket programs could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum SockError {
    /// The object file has no such program.
    #[error("there is no program {program} in the object file; build it and the agent from one source")]
    Absent {
        /// Which program.
        program: SockProgram,
    },
    /// They were not asked for when the programs were loaded.
    #[error("the socket programs were not loaded")]
    NotLoaded,
    /// The control group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A step failed.
    #[error("{step} {program} at control group {} failed: {source}", cgroup.display())]
    Step {
        /// Which step.
        step: &'static str,
        /// Which program.
        program: SockProgram,
        /// Which group.
        cgroup: PathBuf,
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

/// What attaching the socket programs did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockAttached {
    /// Hooks that had no program of ours.
    pub new: usize,
    /// Hooks at which the program of an earlier agent was replaced in place.
    pub replaced: usize,
    /// Links at other groups, or second copies, that were detached.
    pub removed: usize,
}

/// Where links of control groups are pinned under a BPF file system.
pub fn sock_links_directory(bpffs: &Path) -> PathBuf {
    bpffs.join("cilium/socketlb/links/cgroup")
}

/// A control group, open.
struct Group<'a> {
    path: &'a Path,
    dir: fs::File,
    id: u64,
}

impl<'a> Group<'a> {
    fn open(path: &'a Path) -> Result<Self, CgroupError> {
        let failed = |source| CgroupError::Open { path: path.to_owned(), source };
        let dir = fs::File::open(path).map_err(failed)?;
        let id = crate::cgroup::id(path, &dir)?;
        Ok(Self { path, dir, id })
    }

    fn failed(&self, step: &'static str, program: SockProgram, source: io::Error) -> SockError {
        SockError::Step { step, program, cgroup: self.path.to_owned(), source }
    }
}

/// Loads the socket programs of an object. An object without them is one of another version.
pub(crate) fn load_all(ebpf: &mut Ebpf) -> Result<BTreeMap<SockProgram, OwnedFd>, LoadError> {
    SockProgram::ALL.into_iter().map(|which| Ok((which, load(ebpf, which)?))).collect()
}

fn load(ebpf: &mut Ebpf, which: SockProgram) -> Result<OwnedFd, LoadError> {
    let fd = |fd: Result<&aya::programs::ProgramFd, ProgramError>| Ok(fd?.as_fd().try_clone_to_owned()?);
    let loaded: Result<OwnedFd, ProgramError> = match ebpf.program_mut(which.name()) {
        Some(aya::programs::Program::CgroupSockAddr(program)) => program.load().and_then(|()| fd(program.fd())),
        Some(aya::programs::Program::CgroupSock(program)) => program.load().and_then(|()| fd(program.fd())),
        _ => {
            return Err(LoadError::Object { problem: format!("there is no program {which} for control groups in it") });
        }
    };
    loaded.map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => LoadError::Rejected {
            program: which.to_string(),
            rejection: Box::new(Rejection::parse(io_error.to_string(), &verifier_log.to_string())),
        },
        other => LoadError::Aya { step: which.to_string(), source: Box::new(other.into()) },
    })
}

/// Attaches every program to a group, or puts it in place of what an earlier agent left there.
pub(crate) fn attach_all<'p>(
    links: &Path,
    cgroup: &Path,
    program: impl Fn(SockProgram) -> Option<BorrowedFd<'p>>,
) -> Result<SockAttached, SockError> {
    let group = Group::open(cgroup)?;
    fs::create_dir_all(links).map_err(|e| pins("make the directory", links, e))?;
    let strays = strays(links)?;
    let mut done = SockAttached::default();
    for which in SockProgram::ALL {
        let fd = program(which).ok_or(SockError::Absent { program: which })?;
        attach(links, &group, which, fd, &strays, &mut done)?;
    }
    Ok(done)
}

fn attach(
    links: &Path,
    group: &Group<'_>,
    which: SockProgram,
    fd: BorrowedFd<'_>,
    strays: &[Stray],
    done: &mut SockAttached,
) -> Result<(), SockError> {
    let path = links.join(which.name());
    let here = |info: &sys::CgroupLinkInfo| info.cgroup_id() == group.id && info.attach_type == which.attach_type();
    let pinned = open_link(&path)?;
    let info = pinned.as_ref().map(|link| sys::cgroup_link_info(link.as_fd())).transpose();
    let info = info.map_err(|e| group.failed("inspecting the link of", which, e))?;
    let kept = match (&pinned, &info) {
        (Some(link), Some(info)) if here(info) => {
            sys::link_update(link.as_fd(), fd).map_err(|e| group.failed("replacing", which, e))?;
            done.replaced += 1;
            Some(info.id)
        }
        _ => None,
    };
    let mut lost = strays.iter().filter(|stray| stray.program == which && here(&stray.info));
    let kept = match (kept, kept.is_none().then(|| lost.next()).flatten()) {
        (Some(kept), _) => kept,
        (None, Some(stray)) => {
            sys::link_update(stray.link.as_fd(), fd).map_err(|e| group.failed("replacing", which, e))?;
            repin(&stray.link, &path)?;
            done.replaced += 1;
            stray.info.id
        }
        (None, None) => {
            let link = sys::link_create_cgroup(fd, group.dir.as_fd(), which.attach_type())
                .map_err(|e| group.failed("attaching", which, e))?;
            repin(&link, &path)?;
            done.new += 1;
            0
        }
    };
    // Only now, with the new program in place: what hung at another group, and second copies.
    if let (Some(link), Some(info)) = (&pinned, &info)
        && !here(info)
    {
        detach(link.as_fd()).map_err(|e| group.failed("detaching from another group", which, e))?;
        done.removed += 1;
    }
    for stray in strays.iter().filter(|stray| stray.program == which && here(&stray.info) && stray.info.id != kept) {
        detach(stray.link.as_fd()).map_err(|e| group.failed("removing a second copy of", which, e))?;
        done.removed += 1;
    }
    Ok(())
}

/// Detaches every program whose link is pinned, translation first. Returns how many there were.
pub(crate) fn detach_all(links: &Path) -> Result<usize, SockError> {
    let mut found = 0;
    for which in SockProgram::ALL.into_iter().rev() {
        let path = links.join(which.name());
        if let Some(link) = open_link(&path)? {
            detach(link.as_fd()).map_err(|e| pins("detach the link", &path, e))?;
            fs::remove_file(&path).map_err(|e| pins("remove the pin", &path, e))?;
            found += 1;
        }
    }
    Ok(found)
}

/// A link of ours without a pin.
struct Stray {
    program: SockProgram,
    link: OwnedFd,
    info: sys::CgroupLinkInfo,
}

/// Links of control groups that run programs of our names and are pinned nowhere we know.
fn strays(links: &Path) -> Result<Vec<Stray>, SockError> {
    let mut pinned = Vec::new();
    for which in SockProgram::ALL {
        if let Some(link) = open_link(&links.join(which.name()))? {
            pinned.extend(sys::cgroup_link_info(link.as_fd()).ok().map(|info| info.id));
        }
    }
    let mut out = Vec::new();
    let mut last = 0;
    while let Some(id) = sys::link_next_id(last).map_err(|e| pins("list the kernel's links beside", links, e))? {
        last = id;
        let Ok(link) = sys::link_by_id(id) else { continue }; // It went in the meantime.
        let Ok(info) = sys::cgroup_link_info(link.as_fd()) else { continue };
        if info.kind != sys::LINK_TYPE_CGROUP || pinned.contains(&id) {
            continue;
        }
        let Ok(program) = sys::prog_info(info.prog_id) else { continue };
        let named = |which: &SockProgram| {
            which.attach_type() == info.attach_type && program.name.starts_with(which.kernel_name().as_bytes())
        };
        if let Some(program) = SockProgram::ALL.into_iter().find(named) {
            out.push(Stray { program, link, info });
        }
    }
    Ok(out)
}

/// Detaches a link; that its group is gone is as good.
fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    match sys::link_detach(link) {
        Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        other => other,
    }
}

/// Puts a pin in place of whatever is there.
fn repin(link: &OwnedFd, path: &Path) -> Result<(), SockError> {
    let beside = path.with_extension("new");
    let beside = beside.with_file_name(beside.file_name().map_or_else(String::new, |name| {
        name.to_string_lossy().replace('.', "_") // bpffs takes no dots.
    }));
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(pins("remove the pin", &beside, e)),
        _ => {}
    }
    sys::pin(link.as_fd(), &beside).map_err(|e| pins("pin a link at", &beside, e))?;
    fs::rename(&beside, path).map_err(|e| pins("pin a link at", path, e))
}

fn open_link(path: &Path) -> Result<Option<OwnedFd>, SockError> {
    match sys::open_pin(path, false) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(pins("open the pinned link", path, e)),
    }
}

fn pins(step: &'static str, path: &Path, source: io::Error) -> SockError {
    SockError::Pins { step, path: path.to_owned(), source }
}
