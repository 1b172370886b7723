//! Attaching programs to devices so that they outlive the agent, and taking over what an earlier agent left.
//!
//! With TCX each program hangs at a link pinned in bpffs; a new agent finds the pin and replaces the program in
//! it at one instant. A link of ours that lost its pin (a renamed device, a removed directory) is found by asking
//! the hook itself, so that no second copy ever runs in front of a new program. A pin whose device is gone is
//! removed. Without TCX (before Linux 6.6) the program is a filter of the device's clsact qdisc, replaced in place.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::{error::AttachError, program::Program, sys};

mod clsact;

/// Side of a device, as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// What the device receives. On the host side of a veth pair: what the pod sends.
    Ingress,
    /// What the device sends.
    Egress,
}

impl Direction {
    fn tcx(self) -> u32 {
        match self {
            Self::Ingress => sys::TCX_INGRESS,
            Self::Egress => sys::TCX_EGRESS,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TCX links, pinned (Linux 6.6 and later).
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

/// A device in the network namespace of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
}

impl Interface {
    /// Finds a device by name.
    pub fn by_name(name: &str) -> Result<Self, AttachError> {
        let index =
            sys::interface_index(name).map_err(|source| AttachError::Device { device: name.to_owned(), source })?;
        Ok(Self { index, name: name.to_owned() })
    }

    /// Finds a device by index.
    pub fn by_index(index: u32) -> Result<Self, AttachError> {
        let name =
            sys::interface_name(index).map_err(|source| AttachError::Device { device: index.to_string(), source })?;
        Ok(Self { index, name })
    }
}

/// What attaching did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing of ours was there.
    Attached,
    /// The program of an earlier agent was replaced at one instant.
    Replaced,
    /// It runs, but for the time being as a filter: see [`crate::Datapath::attach_soon`].
    Provisional,
}

/// A program at a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Where.
    pub interface: Interface,
    /// Which program.
    pub program: Program,
    /// Which side.
    pub direction: Direction,
    /// What happened.
    pub outcome: Outcome,
    /// Names of programs of others that run before ours at this hook (TCX only).
    pub before: Vec<String>,
}

/// One pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    /// The pin.
    pub path: PathBuf,
    /// Index of the device; 0: it is gone.
    pub ifindex: u32,
    /// Id of the link.
    pub link_id: u32,
    /// Id of the program.
    pub program_id: u32,
}

/// A program at a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtHook {
    /// Id of the program.
    pub program_id: u32,
    /// The first 15 bytes of its name; empty if it went meanwhile.
    pub name: String,
    /// Id of its link; 0: it was attached without one.
    pub link_id: u32,
}

/// Attaches and detaches at one kind of hook.
#[derive(Debug)]
pub(crate) struct Attacher {
    hook: Hook,
    /// `<bpffs>/cilium/links`
    links: PathBuf,
}

impl Attacher {
    pub(crate) fn new(hook: Hook, links: PathBuf) -> Self {
        Self { hook, links }
    }

    pub(crate) fn hook(&self) -> Hook {
        self.hook
    }

    /// Attaches by a pinned TCX link.
    pub(crate) fn attach_link(&self, fd: BorrowedFd<'_>, site: &Site<'_>) -> Result<Attachment, AttachError> {
        let (outcome, before) = self.attach_tcx(fd, site)?;
        // What was attached as a filter would otherwise come back to life when the link goes.
        clsact::detach(site)?;
        Ok(site.attachment(outcome, before))
    }

    /// Attaches as a filter of the clsact qdisc.
    pub(crate) fn attach_filter(
        &self,
        classifier: &mut aya::programs::SchedClassifier,
        site: &Site<'_>,
    ) -> Result<Attachment, AttachError> {
        let outcome = clsact::attach(classifier, site)?;
        self.unpin(&self.pin_path(site))?;
        Ok(site.attachment(outcome, Vec::new()))
    }

    /// Puts the program into the link an earlier agent left, if there is one.
    pub(crate) fn replace_link(&self, fd: BorrowedFd<'_>, site: &Site<'_>) -> Result<Option<Attachment>, AttachError> {
        let kept = self.take_over(fd, site, &self.pin_path(site), &site.query()?)?;
        Ok(kept.map(|_| site.attachment(Outcome::Replaced, Vec::new())))
    }

    fn attach_tcx(&self, program: BorrowedFd<'_>, site: &Site<'_>) -> Result<(Outcome, Vec<String>), AttachError> {
        let path = self.pin_path(site);
        let at_hook = site.query()?;
        let kept = self.take_over(program, site, &path, &at_hook)?;
        let before = at_hook
            .iter()
            .take_while(|entry| Some(entry.link) != kept)
            .filter_map(|entry| program_name(entry.program))
            .filter(|name| name != site.program.kernel_name())
            .collect();
        if kept.is_some() {
            return Ok((Outcome::Replaced, before));
        }
        let link = sys::link_create_tcx(program, site.interface.index, site.direction.tcx())
            .map_err(|e| site.failed("attaching", e))?;
        self.pin(&link, &path)?;
        Ok((Outcome::Attached, before))
    }

    /// Puts the new program into the link an earlier agent left, and removes further copies. Returns that link's id.
    fn take_over(
        &self,
        program: BorrowedFd<'_>,
        site: &Site<'_>,
        path: &Path,
        at_hook: &[sys::AtHook],
    ) -> Result<Option<u32>, AttachError> {
        let mut kept = None;
        if let Some(pinned) = open_link(path).map_err(|e| pins("open the pinned link", path, e))? {
            let info = sys::link_info(pinned.as_fd()).map_err(|e| site.failed("inspecting the link of", e))?;
            if info.ifindex == site.interface.index && info.attach_type == site.direction.tcx() {
                sys::link_update(pinned.as_fd(), program).map_err(|e| site.failed("replacing", e))?;
                kept = Some(info.id);
            } else {
                self.unpin(path)?; // A device of this name is gone, or now has another name.
            }
        }
        for entry in at_hook {
            let ours = || program_name(entry.program).as_deref() == Some(site.program.kernel_name());
            if entry.link == 0 || Some(entry.link) == kept || !ours() {
                continue;
            }
            let Ok(link) = sys::link_by_id(entry.link) else { continue }; // It went in the meantime.
            if kept.is_none() {
                sys::link_update(link.as_fd(), program).map_err(|e| site.failed("replacing", e))?;
                self.pin(&link, path)?;
                kept = Some(entry.link);
            } else {
                sys::link_detach(link.as_fd()).map_err(|e| site.failed("removing a second copy of", e))?;
            }
        }
        Ok(kept)
    }

    /// Detaches a program; says whether it was attached.
    pub(crate) fn detach(
        &self,
        program: Program,
        interface: &Interface,
        direction: Direction,
    ) -> Result<bool, AttachError> {
        let site = Site { program, interface, direction };
        let path = self.pin_path(&site);
        let mut found = clsact::detach(&site)?;
        if let Some(link) = open_link(&path).map_err(|e| pins("open the pinned link", &path, e))? {
            // By hand rather than by removing the pin: somebody else may hold the link open.
            match sys::link_detach(link.as_fd()) {
                Ok(()) => found = true,
                Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(e) => return Err(site.failed("detaching", e)),
            }
            self.unpin(&path)?;
        }
        Ok(found)
    }

    /// Removes pins whose device is gone. Returns them.
    pub(crate) fn remove_stale(&self) -> Result<Vec<PathBuf>, AttachError> {
        let stale: Vec<PathBuf> =
            list_pins(&self.links)?.into_iter().filter(|link| link.ifindex == 0).map(|link| link.path).collect();
        stale.iter().try_for_each(|path| self.unpin(path))?;
        Ok(stale)
    }

    /// `<links>/<device>/<program>-<direction>`
    fn pin_path(&self, site: &Site<'_>) -> PathBuf {
        let Site { program, interface, direction } = site;
        self.links.join(file_name(&interface.name)).join(format!("{program}-{direction}"))
    }

    fn pin(&self, link: &OwnedFd, path: &Path) -> Result<(), AttachError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| pins("make the directory", parent, e))?;
        }
        sys::pin(link.as_fd(), path).map_err(|e| pins("pin a link at", path, e))
    }

    fn unpin(&self, path: &Path) -> Result<(), AttachError> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(pins("remove the pin", path, e)),
            _ => {}
        }
        // Gone only when it was the last of its device.
        if let Some(parent) = path.parent().filter(|parent| *parent != self.links) {
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
}

/// A program, a device and a side: where something is done.
pub(crate) struct Site<'a> {
    pub(crate) program: Program,
    pub(crate) interface: &'a Interface,
    pub(crate) direction: Direction,
}

impl Site<'_> {
    fn attachment(&self, outcome: Outcome, before: Vec<String>) -> Attachment {
        let Self { program, interface, direction } = self;
        Attachment { interface: (*interface).clone(), program: *program, direction: *direction, outcome, before }
    }

    fn query(&self) -> Result<Vec<sys::AtHook>, AttachError> {
        sys::tcx_query(self.interface.index, self.direction.tcx()).map_err(|e| match e.raw_os_error() {
            Some(libc::ENODEV) => AttachError::Device { device: self.interface.name.clone(), source: e },
            _ => self.failed("asking what is attached, for", e),
        })
    }

    fn failed(&self, step: &'static str, source: io::Error) -> AttachError {
        let Self { program, interface, direction } = self;
        AttachError::Step { step, program: *program, device: interface.name.clone(), direction: *direction, source }
    }
}

/// What runs at one side of a device by TCX; nothing on a kernel without it.
pub(crate) fn attached(interface: &Interface, direction: Direction) -> Result<Vec<AtHook>, AttachError> {
    let at_hook = match sys::tcx_query(interface.index, direction.tcx()) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Vec::new(),
        other => other.map_err(|source| AttachError::Device { device: interface.name.clone(), source })?,
    };
    let describe = |entry: sys::AtHook| AtHook {
        program_id: entry.program,
        name: program_name(entry.program).unwrap_or_default(),
        link_id: entry.link,
    };
    Ok(at_hook.into_iter().map(describe).collect())
}

/// All pinned links under a directory.
pub(crate) fn list_pins(links: &Path) -> Result<Vec<PinnedLink>, AttachError> {
    let mut out = Vec::new();
    for device in entries(links)? {
        for path in entries(&device)? {
            let Some(fd) = open_link(&path).map_err(|e| pins("open the pinned link", &path, e))? else { continue };
            let info = sys::link_info(fd.as_fd()).map_err(|e| pins("inspect the link", &path, e))?;
            let known = info.kind == sys::LINK_TYPE_TCX || info.kind == sys::LINK_TYPE_XDP;
            let ifindex = if known { info.ifindex } else { 0 };
            out.push(PinnedLink { path, ifindex, link_id: info.id, program_id: info.prog_id });
        }
    }
    Ok(out)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, AttachError> {
    let list = || -> io::Result<Vec<PathBuf>> { fs::read_dir(directory)?.map(|e| Ok(e?.path())).collect() };
    match list() {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|e| pins("list", directory, e)),
    }
}

pub(crate) fn open_link(path: &Path) -> io::Result<Option<OwnedFd>> {
    match sys::open_pin(path, false) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The name the kernel keeps of a program; `None`: it is gone.
fn program_name(id: u32) -> Option<String> {
    let info = sys::prog_info(id).ok()?;
    let name: Vec<u8> = info.name.iter().copied().take_while(|&b| b != 0).collect();
    Some(String::from_utf8_lossy(&name).into_owned())
}

/// A device's name as a file name: bpffs takes no dots.
pub(crate) fn file_name(device: &str) -> String {
    device.replace('%', "%25").replace('.', "%2E")
}

pub(crate) fn pins(step: &'static str, path: &Path, source: io::Error) -> AttachError {
    AttachError::Pins { step, path: path.to_owned(), source }
}
