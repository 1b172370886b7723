//! The kernel as the judge of packets in packets: its own tunnel devices take out what the balancer put in, and real sockets
//! bound to the frontend's address answer. Skipped, by name, where the kernel has no such device; `cargo xtask kernels` has
//! kernels that do.

use std::{net::SocketAddr, process::Command, time::Duration};

use abi::config::{LB_DSR, LB_DSR_IPIP};

use crate::{
    converse,
    net::{Namespace, Server, ask},
    node::{At, CLIENT, LED_HERE, Node, REMOTE},
    support,
};

/// The two ways in which the node of a backend is set up.
#[derive(Clone, Copy, Debug)]
enum Device {
    /// A device that takes from everybody, and keeps what was outside as metadata.
    Metadata,
    /// The one that is there with the kernel's module: it takes what is no other device's.
    Fallback,
}

impl Device {
    /// The kernel's name for the kind of device.
    const fn kind(v6: bool) -> &'static str {
        if v6 { "ip6tnl" } else { "ipip" }
    }

    const fn name(self, v6: bool) -> &'static str {
        match (self, v6) {
            (Self::Metadata, false) => "unpack4",
            (Self::Metadata, true) => "unpack6",
            (Self::Fallback, false) => "tunl0",
            (Self::Fallback, true) => "ip6tnl0",
        }
    }

    /// Begins to take packets out of packets in a namespace.
    fn start(self, netns: &Namespace, v6: bool) {
        let name = self.name(v6);
        if matches!(self, Self::Metadata) {
            netns.ip(&["link", "add", "name", name, "type", Self::kind(v6), "external"]);
        }
        // What it takes out came by another device than answers go by.
        let strict = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        netns.enter(|| std::fs::write(strict, "0").expect("it is there"));
        netns.ip(&["link", "set", name, "up"]);
    }

    /// Packets that it took out in this namespace, and those it could not.
    fn received(self, netns: &Namespace, v6: bool) -> (u64, u64) {
        let text = netns.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev").expect("procfs is mounted"));
        let begin = format!("{}:", self.name(v6));
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(&begin)).expect("it was made");
        let mut numbers = line.split_whitespace().skip(1).map(|number| number.parse().expect("a number"));
        let mut next = || numbers.next().expect("packets and errors");
        (next(), next())
    }
}

/// Whether this kernel has such devices; says so where it has not.
fn kernel_unpacks() -> bool {
    if let Err(why) = loader::check_kernel() {
        support::skip(&why.to_string());
        return false;
    }
    let netns = Namespace::new("probe");
    for v6 in [false, true] {
        let kind = Device::kind(v6);
        let out = Command::new("ip")
            .args(["-n", &netns.name, "link", "add", "name", "probe", "type", kind, "external"])
            .output()
            .expect("iproute2 is installed");
        let told = String::from_utf8_lossy(&out.stderr);
        if told.contains("Unknown device type") {
            support::kernel_lacks(&format!("{kind} device"));
            return false;
        }
        assert!(out.status.success(), "{kind}: {told}");
        netns.ip(&["link", "del", "probe"]);
    }
    true
}

#[test]
fn the_kernels_devices_take_packets_out_and_sockets_at_the_frontends_address_answer() {
    if !kernel_unpacks() {
        return;
    }
    for (at, device) in
        At::ALL.into_iter().flat_map(|at| [Device::Metadata, Device::Fallback].map(|device| (at, device)))
    {
        let Some(mut node) = Node::new(at, |config| config.lb_flags |= LB_DSR | LB_DSR_IPIP) else { return };
        // The backend's port is the frontend's: nothing inside is translated.
        node.service_at(LED_HERE, 8080, &[REMOTE], |_| {});
        for v6 in [false, true] {
            let to = SocketAddr::new(LED_HERE.of(v6), 8080);
            node.other.add_address(to.ip(), "lo");
            let server = Server::start(&node.other, to);
            let early = node.client.enter(|| ask(to, b"anybody?", Duration::from_millis(300)));
            assert!(early.is_err() && server.peers().is_empty(), "{at:?}: nobody takes it out yet");
            device.start(&node.other, v6);
            converse(&node, to);
            let peers = server.peers();
            assert!(peers.len() > 20 && peers.iter().all(|ip| *ip == CLIENT.of(v6)), "{at:?} {device:?}: {peers:?}");
            let (packets, errors) = device.received(&node.other, v6);
            assert!(packets > 100, "{at:?} {device:?}: {packets} packets came by the device");
            assert_eq!(errors, 0, "{at:?} {device:?}: packets that the kernel refused");
        }
    }
}
