//! Network namespaces with names, as `ip netns` would make them.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use netlink::Namespace;

/// Where named namespaces live.
const DIRECTORY: &str = "/run/netns";

/// Path of a named namespace.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Makes a namespace with that name and with its loopback device up.
pub(super) fn make(name: &str) -> Result<Namespace> {
    let target = path(name);
    fs::create_dir_all(DIRECTORY).with_context(|| format!("cannot make {DIRECTORY}"))?;
    share().with_context(|| format!("cannot make {DIRECTORY} a shared mount"))?;
    File::create(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let bind = target.clone();
    // A thread of its own moves into the new namespace and ends there; the mount keeps it.
    let made = std::thread::spawn(move || -> io::Result<()> {
        // SAFETY: unshare takes no pointers and moves this thread alone.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        mount("/proc/thread-self/ns/net".as_ref(), &bind)
    });
    let step = || format!("cannot make the network namespace {name} (is this a container without CAP_SYS_ADMIN?)");
    made.join().expect("the thread does not panic").with_context(step)?;
    let namespace = Namespace::open(&target)?;
    namespace.run(|| -> Result<()> {
        let mut inside = netlink::Netlink::open()?;
        let lo = inside.existing("lo")?;
        Ok(inside.set_up(lo.index)?)
    })??;
    Ok(namespace)
}

/// Removes a named namespace, with every device in it, if it exists.
pub(super) fn remove(name: &str) {
    let target = path(name);
    if !target.exists() {
        return;
    }
    let text = CString::new(target.as_os_str().as_bytes()).expect("names of namespaces have no zero byte");
    // SAFETY: `text` is a C string that lives across the call. A failure means it was not mounted.
    unsafe { libc::umount2(text.as_ptr(), libc::MNT_DETACH) };
    let _ = fs::remove_file(&target);
}

/// Makes the directory a shared mount of its own, as `ip netns add` does. Otherwise the next `ip netns add` would put one over
/// it, and the mounts below could not be taken down any more.
fn share() -> io::Result<()> {
    let directory = Path::new(DIRECTORY);
    let shared = || call_mount(None, directory, libc::MS_SHARED | libc::MS_REC);
    match shared() {
        Err(why) if why.raw_os_error() == Some(libc::EINVAL) => {
            call_mount(Some(directory), directory, libc::MS_BIND | libc::MS_REC)?;
            shared()
        }
        other => other,
    }
}

fn mount(source: &Path, target: &Path) -> io::Result<()> {
    call_mount(Some(source), target, libc::MS_BIND)
}

fn call_mount(source: Option<&Path>, target: &Path, flags: libc::c_ulong) -> io::Result<()> {
    let c = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("paths here have no zero byte");
    let (source, target) = (source.map(c), c(target));
    let source = source.as_ref().map_or(std::ptr::null(), |source| source.as_ptr());
    // SAFETY: all pointers are C strings that live across the call, or null where the kernel takes none.
    let ret = unsafe { libc::mount(source, target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets a command run inside a namespace, in a process group of its own (Ctrl-C is the lab's to handle). With `die`, it
/// ends when the lab's process ends, however that happens.
pub(super) fn inside(command: &mut Command, name: &str, die: bool) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let file = File::open(path(name)).with_context(|| format!("there is no network namespace {name}"))?;
    command.process_group(0);
    let enter = move || {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open, it was inherited across fork; setns and prctl take no pointers here.
        unsafe {
            if libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) != 0 {
                return Err(io::Error::last_os_error());
            }
            if die && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `enter` makes system calls only: no allocation, no lock, between fork and exec.
    unsafe { command.pre_exec(enter) };
    Ok(())
}
