//! What the running kernel and this process have, asked before anything is made, so that what is missing is named.

use std::{fs, io, path::Path};

use crate::{
    error::{LoadError, Missing},
    sys,
};

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPFFS_MAGIC: i64 = 0xcafe_4a11;
/// The oldest kernel whose helpers and map types suffice.
const OLDEST: (u32, u32) = (6, 1);
/// `lo`, which every network namespace has, to ask about TCX.
const LOOPBACK: u32 = 1;

/// Major and minor number of a release such as `6.12.9+deb13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn require_version(release: &str) -> Result<(), Missing> {
    match version(release) {
        Some(found) if found < OLDEST => Err(Missing::Kernel { release: release.to_owned() }),
        _ => Ok(()),
    }
}

/// Bits of `CapEff:` in /proc/self/status.
fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn require_capabilities(effective: u64) -> Result<(), Missing> {
    const SYS_ADMIN: u32 = 21;
    let has = |bit: u32| effective & (1 << bit) != 0;
    for (bit, capability) in [(39, "CAP_BPF"), (38, "CAP_PERFMON"), (12, "CAP_NET_ADMIN")] {
        // Before 5.8 CAP_SYS_ADMIN was all of CAP_BPF and CAP_PERFMON, and it still is.
        let covered = bit != 12 && has(SYS_ADMIN);
        if !has(bit) && !covered {
            return Err(Missing::Capability { capability });
        }
    }
    Ok(())
}

/// Names the first thing that is missing to load programs at all.
pub fn check() -> Result<(), Missing> {
    let release = sys::kernel_release();
    require_version(&release)?;
    if let Some(effective) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(effective_capabilities) {
        require_capabilities(effective)?;
    }
    let kind = sys::map_type(abi::maps::MapKind::Array);
    let shape = sys::MapShape { kind, key_size: 4, value_size: 8, max_entries: 1, flags: 0 };
    match sys::map_create("cilium_probe", &shape) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Err(Missing::BpfSyscall),
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => Err(Missing::Capability { capability: "CAP_BPF" }),
        _ => Ok(()),
    }
}

/// Whether programs can be attached by TCX links.
pub fn has_tcx() -> bool {
    sys::tcx_query(LOOPBACK, sys::TCX_INGRESS).is_ok()
}

/// Makes sure that `path` is a bpffs, mounting one if it is a directory and nothing else is.
pub fn ensure_bpffs(path: &Path) -> Result<(), LoadError> {
    let failed = |source| LoadError::Bpffs { path: path.to_owned(), source };
    match sys::filesystem_type(path) {
        Ok(kind) if kind == BPFFS_MAGIC => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(path).map_err(failed)?,
        Err(e) => return Err(failed(e)),
        Ok(_) => {}
    }
    sys::mount_bpffs(path).map_err(failed)
}

#[cfg(test)]
mod tests;
