//! The program that meets packets before the kernel has made buffers of them (XDP).
//!
//! It hangs at a link pinned in bpffs, as those of tc do: a dead agent changes nothing, and a new one replaces the program in the
//! link at one instant. A device whose driver cannot run it in its receive path (native) runs it in the stack's
//! (generic), if that is allowed. The mode is part of the pin's name, since the kernel does not tell it.

use std::{
    fmt, fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use crate::{
    attach::{Interface, Outcome, file_name, open_link, pins},
    error::AttachError,
    sys,
};

/// Name of the program in the object file.
pub(crate) const XDP_ENTRY: &str = "cil_xdp_entry";

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the stack, before tc.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// Which modes will do (`bpf-lb-acceleration`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpChoice {
    /// Native, or fail.
    Native,
    /// Native where the driver can, else generic.
    BestEffort,
    /// Generic.
    Generic,
}

/// The program at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpAttachment {
    /// Where it runs.
    pub mode: XdpMode,
    /// What happened.
    pub outcome: Outcome,
}

/// Attaches the program to a device, or puts it in place of the one an earlier agent left there.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    links: &Path,
    interface: &Interface,
    choice: XdpChoice,
) -> Result<XdpAttachment, AttachError> {
    let modes: &[XdpMode] = match choice {
        XdpChoice::Native => &[XdpMode::Native],
        XdpChoice::BestEffort => &[XdpMode::Native, XdpMode::Generic],
        XdpChoice::Generic => &[XdpMode::Generic],
    };
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let path = pin_path(links, interface, mode);
        let Some(link) = open_link(&path).map_err(|e| pins("open the pinned link", &path, e))? else { continue };
        let info = sys::link_info(link.as_fd()).map_err(|e| failed("inspecting the link of", interface, e))?;
        if info.ifindex == interface.index && modes.contains(&mode) {
            sys::link_update(link.as_fd(), program).map_err(|e| failed("replacing", interface, e))?;
            return Ok(XdpAttachment { mode, outcome: Outcome::Replaced });
        }
        // Another mode is wanted, or the device of this name is another one.
        let _ = sys::link_detach(link.as_fd());
        fs::remove_file(&path).map_err(|e| pins("remove the pin", &path, e))?;
    }
    let mut refused = None;
    for &mode in modes {
        let flags = match mode {
            XdpMode::Native => sys::XDP_NATIVE,
            XdpMode::Generic => sys::XDP_GENERIC,
        };
        match sys::link_create_xdp(program, interface.index, flags) {
            Ok(link) => {
                let path = pin_path(links, interface, mode);
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).map_err(|e| pins("make the directory", parent, e))?;
                }
                sys::pin(link.as_fd(), &path).map_err(|e| pins("pin a link at", &path, e))?;
                return Ok(XdpAttachment { mode, outcome: Outcome::Attached });
            }
            Err(e) => refused = Some(e),
        }
    }
    Err(failed("attaching", interface, refused.expect("there is at least one mode")))
}

/// Detaches the program; says whether it was attached.
pub(crate) fn detach(links: &Path, interface: &Interface) -> Result<bool, AttachError> {
    let mut found = false;
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let path = pin_path(links, interface, mode);
        let Some(link) = open_link(&path).map_err(|e| pins("open the pinned link", &path, e))? else { continue };
        match sys::link_detach(link.as_fd()) {
            Ok(()) => found = true,
            Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(e) => return Err(failed("detaching", interface, e)),
        }
        fs::remove_file(&path).map_err(|e| pins("remove the pin", &path, e))?;
    }
    Ok(found)
}

/// `<links>/<device>/cil_xdp_entry-<mode>`
fn pin_path(links: &Path, interface: &Interface, mode: XdpMode) -> PathBuf {
    links.join(file_name(&interface.name)).join(format!("{XDP_ENTRY}-{mode}"))
}

fn failed(step: &'static str, interface: &Interface, source: io::Error) -> AttachError {
    AttachError::Xdp { step, device: interface.name.clone(), source }
}
