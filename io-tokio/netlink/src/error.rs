//! What can go wrong, with the step, the device and the fix.

use std::{io, path::PathBuf};

/// A request the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{step} {subject}: {source}{}", fix(source))]
pub struct NetlinkError {
    /// What was being done, such as `setting the address 10.0.0.1/32 on`.
    pub step: String,
    /// Device it was about.
    pub subject: String,
    /// The kernel's answer.
    pub source: io::Error,
}

impl NetlinkError {
    pub(crate) fn new(step: impl Into<String>, subject: impl Into<String>, source: io::Error) -> Self {
        Self { step: step.into(), subject: subject.into(), source }
    }

    /// Whether the device does not exist.
    pub fn is_no_such_device(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
    }

    /// Whether a device of that name exists.
    pub fn is_already_there(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EEXIST)
    }
}

fn fix(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (needs CAP_NET_ADMIN, or root)",
        Some(libc::ENODEV | libc::ENXIO) => " (the device is gone; was it deleted meanwhile?)",
        Some(libc::EEXIST) => " (a device of that name exists; delete it if nothing uses it)",
        Some(libc::EOPNOTSUPP) => " (the kernel lacks this kind of device; veth needs CONFIG_VETH)",
        Some(libc::ENETUNREACH) => " (the gateway has no route; is the device up and does it have its address?)",
        _ => "",
    }
}

/// A network namespace that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// There is none at that path.
    #[error("cannot open the network namespace {}: {source}; did the container stop meanwhile?", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The path is something else.
    #[error("{} is no network namespace", path.display())]
    NotANamespace {
        /// The path.
        path: PathBuf,
    },
    /// A thread could not move into it.
    #[error("cannot enter the network namespace {}: {source}; needs CAP_SYS_ADMIN", path.display())]
    Enter {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A question about it was not answered.
    #[error("cannot ask for the {what} of the network namespace {}: {source}", path.display())]
    Ask {
        /// What was asked.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A sysctl that cannot be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {name} to {value:?}: {source}{}", hint(source))]
pub struct SysctlError {
    /// Its name, such as `net/ipv4/ip_forward`.
    pub name: String,
    /// The value it should get.
    pub value: String,
    /// The kernel's answer.
    pub source: io::Error,
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => " (the device is gone, or the kernel was built without that protocol)",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => " (/proc/sys must be writable)",
        _ => "",
    }
}
