//! Network namespaces. Work inside one is done by a thread of its own, which ends there: no other thread ever
//! finds itself in the wrong namespace.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
};

use crate::error::NamespaceError;

/// `NSFS_MAGIC` and `PROC_SUPER_MAGIC` (linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// `SO_NETNS_COOKIE` (asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// An open network namespace. It lives at least as long as this handle.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// Opens one by path, such as `/var/run/netns/pod` or `/proc/17/ns/net`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, NamespaceError> {
        let path = path.into();
        let file = File::open(&path).map_err(|source| NamespaceError::Open { path: path.clone(), source })?;
        let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
        // SAFETY: the descriptor is open and `stat` is room for one statfs.
        let ret = unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) };
        if ret != 0 {
            return Err(NamespaceError::Open { path, source: io::Error::last_os_error() });
        }
        // SAFETY: fstatfs succeeded, so the kernel filled the structure.
        if unsafe { stat.assume_init() }.f_type != NSFS_MAGIC {
            return Err(NamespaceError::NotANamespace { path });
        }
        Ok(Self { file, path })
    }

    /// The one the calling thread is in.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// Every network namespace of this machine that a process is in or a file stands for, each once.
    ///
    /// # Errors
    /// When /proc cannot be listed.
    pub fn all() -> Result<Vec<Self>, NamespaceError> {
        let failed = |path: &str| {
            let path = PathBuf::from(path);
            move |source| NamespaceError::Open { path, source }
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir("/proc").map_err(failed("/proc"))? {
            let entry = entry.map_err(failed("/proc"))?;
            if entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                paths.push(entry.path().join("ns/net"));
            }
        }
        // There is none where nobody named a namespace.
        if let Ok(named) = std::fs::read_dir("/var/run/netns") {
            paths.extend(named.flatten().map(|entry| entry.path()));
        }
        let mut seen = std::collections::BTreeSet::new();
        // A process that ended, or a file that stands for nothing, is no namespace.
        let fresh = |path: &PathBuf| path.metadata().is_ok_and(|meta| seen.insert((meta.dev(), meta.ino())));
        Ok(paths.into_iter().filter(fresh).filter_map(|path| Self::open(path).ok()).collect())
    }

    /// Its path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. Sockets it opens stay inside wherever they go.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        let fd = self.file.as_raw_fd();
        let entered = thread::scope(|scope| {
            let inside = move || {
                // SAFETY: the descriptor stays open for as long as `self` is borrowed; only this thread moves.
                if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(work())
            };
            scope.spawn(inside).join()
        });
        match entered {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(NamespaceError::Enter { path: self.path.clone(), source }),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The kernel's cookie for it, unique until reboot.
    pub fn cookie(&self) -> Result<u64, NamespaceError> {
        self.run(cookie_here)?.map_err(|source| NamespaceError::Ask { what: "cookie", path: self.path.clone(), source })
    }

    /// Whether both handles are of the same namespace.
    pub fn is_same(&self, other: &Self) -> bool {
        let id = |namespace: &Self| namespace.file.metadata().map(|m| (m.dev(), m.ino())).ok();
        id(self).is_some() && id(self) == id(other)
    }
}

impl AsRawFd for Namespace {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// The cookie of the calling thread's namespace, read from a socket in it.
fn cookie_here() -> io::Result<u64> {
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).expect("eight fits");
    // SAFETY: `cookie` has the eight bytes that `len` says.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut len,
        )
    };
    if ret == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
