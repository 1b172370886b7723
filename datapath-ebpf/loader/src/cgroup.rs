//! The control groups of version 2: where their root is on this machine, and whether programs can be attached to them.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::{error::Missing, sys};

/// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Why a control group cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no directory of that name.
    #[error("cannot open the control group {}: {source}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no control group of version 2.
    #[error(
        "{} is no control group of version 2; give the root of one with --cgroup-root (mount one: mount -t cgroup2 none \
         /run/cilium/cgroupv2)",
        path.display()
    )]
    NotVersion2 {
        /// Where.
        path: PathBuf,
    },
    /// No file system of control groups of version 2 is mounted with its root.
    #[error(
        "no root of control groups of version 2 is mounted here; mount one (mount -t cgroup2 none /run/cilium/cgroupv2) and \
         give it with --cgroup-root"
    )]
    NotMounted,
    /// The table of mounts cannot be read.
    #[error("cannot read /proc/self/mountinfo: {0}")]
    Mounts(#[source] io::Error),
}

/// Where the root of the control groups of version 2 is mounted, also beside those of version 1.
pub fn cgroup_root() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
    root_of(&mounts).ok_or(CgroupError::NotMounted)
}

/// The first mount of type cgroup2 that shows its root. A container's own mount shows a part, which would leave other
/// pods out.
fn root_of(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        // id parent major:minor root mount-point options [optional ...] - type source super-options
        let (mount, rest) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (rest.split(' ').next() == Some("cgroup2") && root == "/").then(|| PathBuf::from(unescaped(point)))
    })
}

/// A path as the kernel shows it, with space, tab, newline and backslash as octal numbers.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(char::from(byte));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// The number by which the kernel knows a group. Names what is wrong with a directory that is none.
pub(crate) fn id(path: &Path, dir: &fs::File) -> Result<u64, CgroupError> {
    let failed = |source| CgroupError::Open { path: path.to_owned(), source };
    if sys::filesystem_type(path).map_err(failed)? != CGROUP2_MAGIC {
        return Err(CgroupError::NotVersion2 { path: path.to_owned() });
    }
    Ok(dir.metadata().map_err(failed)?.ino())
}

/// Names the first thing that is missing to translate services at sockets: a root of control groups, and a kernel that
/// runs programs there. `root` is the one given; without it, it is looked for.
pub fn check_sock_lb(root: Option<&Path>) -> Result<PathBuf, SockLbMissing> {
    let root = match root {
        Some(root) => root.to_owned(),
        None => cgroup_root()?,
    };
    let dir = fs::File::open(&root).map_err(|source| CgroupError::Open { path: root.clone(), source })?;
    id(&root, &dir)?;
    match sys::probe_sock_addr() {
        Ok(program) => drop(program.as_fd()),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            return Err(SockLbMissing::Kernel(Missing::CgroupBpf { release: sys::kernel_release() }));
        }
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            return Err(SockLbMissing::Kernel(Missing::Capability { capability: "CAP_BPF" }));
        }
        Err(source) => return Err(CgroupError::Open { path: root, source }.into()),
    }
    Ok(root)
}

/// Why services cannot be translated at sockets here.
#[derive(Debug, thiserror::Error)]
pub enum SockLbMissing {
    /// The control group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The kernel or this process.
    #[error(transparent)]
    Kernel(#[from] Missing),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_found_on_unified_and_on_hybrid_machines_and_in_no_container() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(root_of(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(root_of(unified), Some("/sys/fs/cgroup".into()));
        let container = "30 23 0:26 /../../kubepods /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n\
                         50 23 0:26 / /run/with\\040space rw - cgroup2 none rw\n";
        assert_eq!(root_of(container), Some("/run/with space".into()));
        assert_eq!(root_of("1 2 0:1 / / rw - ext4 /dev/sda rw\nnonsense\n"), None);
    }
}
