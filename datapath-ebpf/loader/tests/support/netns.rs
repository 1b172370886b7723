//! Network namespaces for hosts, pods and clients.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::AsRawFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use super::ip;

/// A network namespace that goes with the value.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tns-{}-{}-{name}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let _ = Command::new("ip").args(["netns", "del", &name]).output();
        ip(&["netns", "add", &name]);
        Self { name }
    }

    /// That of a pod: its `eth0` is up, and the other end, `lxc<n>`, is here.
    pub fn of_pod(n: u16) -> Self {
        let netns = Self::new(&format!("p{n}"));
        let (host_side, pod_side) = (format!("lxc{n}"), format!("tmp{n}"));
        ip(&["link", "add", &host_side, "type", "veth", "peer", "name", &pod_side]);
        ip(&["link", "set", &pod_side, "netns", &netns.name]);
        ip(&["link", "set", &host_side, "up"]);
        netns.ip(&["link", "set", &pod_side, "name", "eth0"]);
        netns.ip(&["link", "set", "lo", "up"]);
        netns.ip(&["link", "set", "eth0", "up"]);
        netns
    }

    pub fn ip(&self, args: &[&str]) {
        let mut all = vec!["-n", &self.name];
        all.extend(args);
        ip(&all);
    }

    /// Gives a device one more address, of itself alone, if it has not got it; at once usable.
    pub fn add_address(&self, ip: IpAddr, device: &str) {
        let (family, bits) = if ip.is_ipv6() { ("-6", 128) } else { ("-4", 32) };
        self.ip(&[family, "addr", "replace", &format!("{ip}/{bits}"), "dev", device, "nodad"]);
    }

    /// Runs `body` on a thread inside.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into(&self.name);
                body()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Moves the calling thread.
pub fn move_into(name: &str) {
    let file = File::open(format!("/var/run/netns/{name}")).expect("it was made");
    // SAFETY: setns(2) takes a descriptor, which is open; only this thread moves.
    assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
}

/// Makes the calling thread's namespace one that forwards, and in which addresses serve at once.
pub fn forward() {
    for (path, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
    ] {
        std::fs::write(format!("/proc/sys/{path}"), value).expect("we are root in this namespace");
    }
}

/// Eight bytes of a MAC address as `ip link` shows it.
pub fn mac(in_netns: &[&str], device: &str) -> [u8; 8] {
    let mut args = in_netns.to_vec();
    args.extend(["-o", "link", "show", device]);
    let out = Command::new("ip").args(&args).output().expect("iproute2 is installed");
    let text = String::from_utf8(out.stdout).expect("text");
    let shown = text.split("link/ether ").nth(1).expect("an Ethernet device").split(' ').next().expect("an address");
    let mut mac = [0; 8];
    for (to, from) in mac.iter_mut().zip(shown.split(':')) {
        *to = u8::from_str_radix(from, 16).expect("hex");
    }
    mac
}
