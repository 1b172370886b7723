//! Links that outlive the agent, and a new agent's programs in place of the old ones.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use loader::{Datapath, SockAttached, SockProgram};

use crate::{
    frontends::Frontend,
    world::{Node, backend_ip, frontend_ip},
};

const ALL: usize = SockProgram::ALL.len();

/// The agent restarts again and again while connections are open and others are made: none breaks, none is left out.
#[test]
fn a_restarted_agent_takes_over_without_a_gap() {
    // The first connection is asked for its peer after thousands of others.
    let Some(mut node) = Node::with(|sizes| sizes.retain(|name, _| !name.ends_with("reverse_sk"))) else { return };
    let (frontend, target) = (SocketAddr::new(frontend_ip(1, false), 80), SocketAddr::new(backend_ip(1, false), 7001));
    node.put(&Frontend::new(frontend, 6, 1, &[target]).writes());
    let first = node.datapath.attach_sockets(node.cgroup.path()).expect("it attaches");
    assert_eq!(first, SockAttached { new: ALL, ..SockAttached::default() });
    let listener = node.pod.enter(|| TcpListener::bind(target).expect("a port"));
    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let (stop, made, pod) = (&stop, &made, &node.pod);
        scope.spawn(move || {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept() {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    break;
                }
                stream.write_all(&byte).expect("the client waits");
                open.push(stream);
                if open.len() > 8 {
                    open.remove(1);
                }
            }
        });
        let client = scope.spawn(move || {
            pod.enter(|| {
                let mut first = None;
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = TcpStream::connect(frontend).expect("at no instant is there no program");
                    assert_eq!(stream.peer_addr().expect("connected"), frontend);
                    stream.write_all(b"x").expect("it listens");
                    stream.read_exact(&mut [0]).expect("an answer");
                    made.fetch_add(1, Ordering::Relaxed);
                    first.get_or_insert(stream);
                }
                let mut first = first.expect("at least one was made");
                assert_eq!(first.peer_addr().expect("still open"), frontend);
                first.set_nonblocking(true).expect("a socket");
                let open = first.read(&mut [0]).expect_err("nothing to read, and not closed");
                assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
            });
        });
        for _ in 0..5 {
            let before = made.load(Ordering::Relaxed);
            let again = Datapath::open(&node.loader).unwrap_or_else(|why| panic!("{why}"));
            let taken = again.attach_sockets(node.cgroup.path()).expect("it attaches");
            assert_eq!(taken, SockAttached { replaced: ALL, ..SockAttached::default() });
            drop(std::mem::replace(&mut node.datapath, again));
            while made.load(Ordering::Relaxed) < before + 20 && !client.is_finished() {
                thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        let done = client.join();
        // Wakes the server, which then ends.
        drop(pod.enter(|| TcpStream::connect(target)));
        done.expect("the client does not panic");
    });
}

/// Another group, a lost pin, and switching it off.
#[test]
fn links_follow_the_option_and_lost_pins_are_found() {
    let Some(node) = Node::new() else { return };
    let attach = |group: &std::path::Path| node.datapath.attach_sockets(group).unwrap_or_else(|why| panic!("{why}"));
    let below = node.cgroup.child("below");
    assert_eq!(attach(&below), SockAttached { new: ALL, ..SockAttached::default() });
    assert_eq!(attach(node.cgroup.path()), SockAttached { new: ALL, removed: ALL, ..SockAttached::default() });
    // A descriptor keeps a link alive whose pin was removed by hand.
    let pins = loader::sock_links_directory(&node.loader.bpffs);
    let pin = pins.join(SockProgram::Connect4.name());
    let held = aya_link(&pin);
    std::fs::remove_file(&pin).expect("it is there");
    assert_eq!(attach(node.cgroup.path()), SockAttached { replaced: ALL, ..SockAttached::default() });
    assert!(pin.exists(), "it is pinned again");
    drop(held);
    assert_eq!(node.datapath.detach_sockets().expect("root may"), ALL);
    assert_eq!(node.datapath.detach_sockets().expect("root may"), 0);
    let nowhere = node.datapath.attach_sockets(std::path::Path::new("/proc")).expect_err("no control group");
    assert!(nowhere.to_string().contains("--cgroup-root"), "{nowhere}");
    let gone = node.datapath.attach_sockets(std::path::Path::new("/nowhere")).expect_err("no such directory");
    assert!(gone.to_string().contains("/nowhere"), "{gone}");
}

/// An open descriptor of a pinned link.
fn aya_link(pin: &std::path::Path) -> std::os::fd::OwnedFd {
    use std::os::{fd::FromRawFd, unix::ffi::OsStrExt};
    let path = std::ffi::CString::new(pin.as_os_str().as_bytes()).expect("a path");
    #[repr(C)]
    struct ObjGet {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let attr = ObjGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: BPF_OBJ_GET reads the path, which is live and terminated, and makes a descriptor nobody else owns.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_bpf, 7, std::ptr::from_ref(&attr), size_of::<ObjGet>());
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        std::os::fd::OwnedFd::from_raw_fd(fd as i32)
    };
    assert!(fd.as_raw_fd() >= 0);
    fd
}
