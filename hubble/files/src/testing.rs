//! Disks for tests.

use std::{io::Write as _, path::Path};

/// Runs with a small disk of its own in a folder, if it may mount one.
pub(crate) fn on_a_small_disk(work: impl FnOnce(&Path) + Send + 'static) {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    let thread = std::thread::spawn(move || {
        let folder = tempfile::tempdir().unwrap();
        // This thread, and those it starts, have mounts of their own from here on.
        let mounted = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>))
            .and_then(|()| mount(Some("none"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some("size=1m")));
        if let Err(why) = mounted {
            assert!(std::env::var_os("CI").is_none(), "CI must run this: {why}");
            let _shown = writeln!(std::io::stderr(), "skipped: no disk can be mounted: {why}");
            return;
        }
        work(folder.path());
        nix::mount::umount(folder.path()).unwrap();
    });
    thread.join().unwrap();
}
