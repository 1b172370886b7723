//! Against the kernel, each test in network namespaces of its own. Needs root; prints `skipped: …` without.

use std::io::Write as _;
use std::{
    fs::File,
    net::IpAddr,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use netlink::{
    End, LinkChange, LinkWatch, Namespace, NamespaceError, Netlink, Route, VethPair,
    host::{self, HostConfig, HostError},
    sysctl,
};
use types::{Cidr, MacAddr};

/// A network namespace that lives as long as this, at a path like those of `ip netns`.
struct TestNamespace {
    namespace: Namespace,
    path: PathBuf,
}

impl TestNamespace {
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // SAFETY: geteuid(2) takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
            let _shown = writeln!(std::io::stderr(), "skipped: network namespaces need root");
            return None;
        }
        let name = format!("tnetlink-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        File::create(&path).expect("a file to mount the namespace on");
        let target = std::ffi::CString::new(path.to_str().expect("a plain path")).expect("no zero bytes");
        // A thread that makes a namespace, mounts it on the file and ends.
        let made = std::thread::spawn(move || {
            // SAFETY: only this thread moves; the strings are terminated and live.
            unsafe {
                assert_eq!(libc::unshare(libc::CLONE_NEWNET), 0, "{}", std::io::Error::last_os_error());
                let source = c"/proc/thread-self/ns/net".as_ptr();
                libc::mount(source, target.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null())
            }
        });
        assert_eq!(made.join().expect("the thread does not panic"), 0);
        Some(Self { namespace: Namespace::open(&path).expect("it was just made"), path })
    }

    fn run<T: Send>(&self, work: impl FnOnce(&mut Netlink) -> T + Send) -> T {
        self.namespace.run(|| work(&mut Netlink::open().expect("a socket"))).expect("root can enter")
    }
}

impl Drop for TestNamespace {
    fn drop(&mut self) {
        let path = std::ffi::CString::new(self.path.to_str().expect("a plain path")).expect("no zero bytes");
        // SAFETY: the path is a terminated string.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        let _ = std::fs::remove_file(&self.path);
    }
}

fn mac(last: u8) -> MacAddr {
    MacAddr([0x02, 0, 0, 0, 0, last])
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a literal prefix")
}

#[test]
fn a_veth_pair_is_made_across_namespaces_with_one_request() {
    let (Some(host), Some(pod)) = (TestNamespace::new(), TestNamespace::new()) else { return };
    let near = End { name: "lxc0123456789ab", mac: mac(1), namespace: None };
    let far = End { name: "eth0", mac: mac(2), namespace: Some(&pod.namespace) };
    let pair = VethPair { near, far, mtu: 1450, up: true };
    let link = host.run(|nl| nl.create_veth(&pair)).expect("nothing is in the way");
    assert_eq!((link.name.as_str(), link.mac, link.mtu, link.up), ("lxc0123456789ab", Some(mac(1)), 1450, true));
    let peer = pod.run(|nl| nl.existing("eth0")).expect("it was made there");
    assert_eq!((peer.mac, peer.mtu, peer.up), (Some(mac(2)), 1450, false));
    assert_eq!(link.peer, Some(peer.index));
    assert!(link.veth && peer.veth);

    let again = host.run(|nl| nl.create_veth(&pair)).expect_err("the name is taken");
    assert!(again.is_already_there(), "{again}");
    assert!(again.to_string().contains("lxc0123456789ab") && again.to_string().contains("eth0"), "{again}");

    assert!(host.run(|nl| nl.delete_link("lxc0123456789ab")).expect("it is there"));
    assert!(!host.run(|nl| nl.delete_link("lxc0123456789ab")).expect("deleting twice is no error"));
    assert_eq!(pod.run(|nl| nl.link("eth0")).expect("asking works"), None, "the pair goes as a whole");
}

#[test]
fn addresses_routes_and_neighbours_of_a_pod_are_set_twice_without_complaint() {
    let (Some(host), Some(pod)) = (TestNamespace::new(), TestNamespace::new()) else { return };
    let near = End { name: "lxc1", mac: mac(1), namespace: None };
    let far = End { name: "eth0", mac: mac(2), namespace: Some(&pod.namespace) };
    host.run(|nl| nl.create_veth(&VethPair { near, far, mtu: 1500, up: true })).expect("nothing is in the way");
    pod.run(|nl| {
        let eth0 = nl.existing("eth0").expect("made").index;
        nl.set_up(eth0).expect("up");
        for _ in 0..2 {
            for (addr, bits, router, all) in
                [("10.0.0.5", 32, "10.0.0.1", "0.0.0.0/0"), ("fd00::5", 128, "fd00::1", "::/0")]
            {
                nl.add_address(eth0, ip(addr), bits).expect("address");
                nl.set_route(&Route::on_link(Cidr::host(ip(router)), eth0)).expect("route to the router");
                let via = Some(ip(router));
                nl.set_route(&Route { to: cidr(all), via, device: eth0, mtu: Some(1400), source: None })
                    .expect("default route");
                nl.set_neighbour(eth0, ip(router), mac(1)).expect("neighbour");
            }
        }
        let addresses = nl.addresses(eth0).expect("listing");
        assert!(
            addresses.contains(&(ip("10.0.0.5"), 32)) && addresses.contains(&(ip("fd00::5"), 128)),
            "{addresses:?}"
        );
        let routes = nl.routes().expect("listing");
        for (to, via) in [("0.0.0.0/0", "10.0.0.1"), ("::/0", "fd00::1")] {
            let route = routes.iter().find(|r| r.to == cidr(to)).unwrap_or_else(|| panic!("{to} in {routes:?}"));
            assert_eq!((route.via, route.device, route.mtu), (Some(ip(via)), eth0, Some(1400)));
        }
        assert!(nl.remove_neighbour(eth0, ip("10.0.0.1")).expect("removing"));
        assert!(!nl.remove_neighbour(eth0, ip("10.0.0.1")).expect("removing twice is no error"));
        assert!(nl.remove_address(eth0, ip("10.0.0.5"), 32).expect("removing"));
        assert!(!nl.remove_address(eth0, ip("10.0.0.5"), 32).expect("removing twice is no error"));
    });
}

#[test]
fn a_missing_device_is_named() {
    let Some(host) = TestNamespace::new() else { return };
    let error = host.run(|nl| nl.existing("nowhere0")).expect_err("there is none");
    assert!(error.is_no_such_device() && error.to_string().contains("nowhere0"), "{error}");
    let error = host.run(|nl| nl.add_address(4711, ip("10.0.0.1"), 32)).expect_err("there is none");
    assert!(error.is_no_such_device() && error.to_string().contains("10.0.0.1/32"), "{error}");
}

#[test]
fn the_hosts_devices_are_made_once_and_follow_the_configuration() {
    let Some(node) = TestNamespace::new() else { return };
    let mut config = HostConfig {
        router: vec![ip("10.0.0.1"), ip("fd00::1")],
        pods: vec![cidr("10.0.0.0/24"), cidr("fd00::/112")],
        mtu: 1500,
        macs: [mac(1), mac(2)],
    };
    let first = node.run(|nl| host::ensure(nl, &config)).expect("a fresh namespace");
    assert!(first.host.up && first.net.up);
    assert_eq!((first.host.mac, first.net.mac), (Some(mac(1)), Some(mac(2))));
    let second = node.run(|nl| host::ensure(nl, &config)).expect("again");
    assert_eq!(first, second, "the second time changes nothing");

    config.router = vec![ip("10.0.0.2"), ip("fd00::1")];
    config.mtu = 1400;
    let third = node.run(|nl| host::ensure(nl, &config)).expect("a new router address");
    assert_eq!((third.host.index, third.host.mtu), (first.host.index, 1400));
    node.run(|nl| {
        let addresses = nl.addresses(third.host.index).expect("listing");
        assert!(addresses.contains(&(ip("10.0.0.2"), 32)), "{addresses:?}");
        assert!(!addresses.contains(&(ip("10.0.0.1"), 32)), "the old one is gone: {addresses:?}");
        let routes = nl.routes().expect("listing");
        for to in ["10.0.0.0/24", "fd00::/112"] {
            let route = routes.iter().find(|r| r.to == cidr(to)).unwrap_or_else(|| panic!("{to} in {routes:?}"));
            assert_eq!(route.device, third.host.index);
        }
        for (key, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/cilium_host/rp_filter", "0"),
            ("net/ipv4/conf/cilium_net/accept_local", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ] {
            assert_eq!(sysctl::get(key).expect(key), value, "{key}");
        }
    });
}

#[test]
fn a_device_of_another_kind_under_our_name_is_refused() {
    let Some(node) = TestNamespace::new() else { return };
    let end = |name, last| End { name, mac: mac(last), namespace: None };
    node.run(|nl| nl.create_veth(&VethPair { near: end("cilium_host", 1), far: end("other", 2), mtu: 1500, up: true }))
        .expect("nothing is in the way");
    let config = HostConfig { router: vec![ip("10.0.0.1")], pods: vec![], mtu: 1500, macs: [mac(1), mac(2)] };
    let refusal = node.run(|nl| host::ensure(nl, &config)).expect_err("cilium_host is somebody else's");
    assert!(matches!(refusal, HostError::Taken { name: "cilium_host" }), "{refusal}");
    assert!(refusal.to_string().contains("ip link delete cilium_host"), "{refusal}");
}

#[test]
fn namespaces_have_cookies_and_are_told_apart() {
    let (Some(one), Some(two)) = (TestNamespace::new(), TestNamespace::new()) else { return };
    let cookies = (one.namespace.cookie().expect("cookie"), two.namespace.cookie().expect("cookie"));
    assert_ne!(cookies.0, cookies.1);
    assert_eq!(cookies.0, one.namespace.cookie().expect("cookie"), "it does not change");
    assert!(!one.namespace.is_same(&two.namespace));
    assert!(one.namespace.is_same(&Namespace::open(&one.path).expect("still there")));
    assert!(one.namespace.as_raw_fd() >= 0);
}

#[test]
fn what_is_no_namespace_is_refused_by_name() {
    let missing = Namespace::open("/nowhere/ns").expect_err("there is none");
    assert!(matches!(missing, NamespaceError::Open { .. }) && missing.to_string().contains("/nowhere/ns"), "{missing}");
    let file = Namespace::open("/proc/version").expect_err("a plain file");
    assert!(matches!(file, NamespaceError::NotANamespace { .. }), "{file}");
}

#[test]
fn a_watch_tells_of_devices_that_come_and_go() {
    let Some(node) = TestNamespace::new() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let guard = &runtime;
    let mut watch = node
        .namespace
        .run(|| {
            let _inside = guard.enter();
            LinkWatch::open()
        })
        .expect("root can enter")
        .expect("a socket");
    let end = |name, last| End { name, mac: mac(last), namespace: None };
    node.run(|nl| nl.create_veth(&VethPair { near: end("lxc7", 1), far: end("lxc8", 2), mtu: 1500, up: true }))
        .expect("made");
    node.run(|nl| nl.delete_link("lxc7")).expect("deleted");
    let seen = runtime.block_on(async {
        let mut seen = Vec::new();
        let deadline = std::time::Duration::from_secs(20);
        while !(seen.contains(&(LinkChange::Gone, "lxc7".to_owned()))
            && seen.contains(&(LinkChange::Gone, "lxc8".to_owned())))
        {
            let event = tokio::time::timeout(deadline, watch.next()).await.expect("the kernel tells").expect("read");
            seen.push((event.change, event.link.map(|l| l.name).unwrap_or_default()));
        }
        seen
    });
    assert!(seen.contains(&(LinkChange::Present, "lxc7".to_owned())), "{seen:?}");
}
