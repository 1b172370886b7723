//! What is aimed at, and what others measured: the speed table of issue 5.

/// The side of an aim that is good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// Shown to compare with.
    None,
}

impl Aim {
    /// Whether it is reached; `None`: there is none.
    pub fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
            Self::None => None,
        }
    }
}

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// The program that measures it, by its name in the table, and the row as that calls it.
    pub from: (&'static str, &'static str),
    /// What is done.
    pub work: &'static str,
    /// What is wanted, in the unit that the program tells.
    pub aim: Aim,
    /// What others measured on this kind of machine.
    pub elsewhere: &'static str,
}

impl Row {
    /// As it is named to be selected.
    pub fn name(&self) -> String {
        format!("{}: {}", self.from.0, self.from.1)
    }
}

const fn row(from: (&'static str, &'static str), work: &'static str, aim: Aim, elsewhere: &'static str) -> Row {
    Row { from, work, aim, elsewhere }
}

use Aim::{AtLeast, AtMost};

/// The rows in the order of the table. Another one is one more entry.
pub const ROWS: &[Row] = &[
    row(("packets", "XDP IPIP DSR, established"), "XDP IPIP DSR, established", AtMost(60.0), "Katran 63, Cilium 112"),
    row(("packets", "XDP IPIP DSR, 64k flows"), "XDP IPIP DSR, 64k flows", AtMost(120.0), "Katran 124-146, Cilium 200"),
    row(
        ("packets", "XDP IPIP DSR, new, LRU full"),
        "XDP IPIP DSR, new flow, LRU full",
        AtMost(500.0),
        "Katran 870, Cilium 770",
    ),
    row(("packets", "XDP SNAT, established"), "XDP NodePort SNAT, established", AtMost(100.0), "Cilium 193"),
    row(
        ("packets", "XDP SNAT, new, LRU full"),
        "XDP NodePort SNAT, new flow, LRU full",
        AtMost(1_200.0),
        "Cilium 3,230",
    ),
    row(("packets", "tc SNAT, established"), "tc NodePort SNAT, established", AtMost(170.0), "Cilium 278"),
    row(
        ("packets", "pod to service in the world, v4"),
        "pod egress, service and policy, established",
        AtMost(140.0),
        "Cilium 233",
    ),
    row(
        ("packets", "new flow: pod to service in the world, v4"),
        "pod egress, service and policy, new flow, no room for its events",
        AtMost(350.0),
        "Cilium 580",
    ),
    row(
        ("packets", "new flow: pod to service in the world, v4, events read"),
        "the same with its events",
        Aim::None,
        "",
    ),
    row(("maglev", "M=16381, 100 backends"), "Maglev M=16381, 100 backends", AtMost(0.3), "Katran 0.35, Cilium 10.6"),
    row(
        ("maglev", "M=16381, 1000 backends"),
        "Maglev M=16381, 1,000 backends",
        AtMost(0.35),
        "Katran 0.40, Cilium 107",
    ),
    row(
        ("maglev", "M=131071, 1000 backends"),
        "Maglev M=131071, 1,000 backends",
        AtMost(3.0),
        "Katran 3.8, Cilium 787",
    ),
    row(
        ("maglev", "1,000 services x 100 backends"),
        "1,000 services x 100 backends, one core",
        AtMost(250.0),
        "Cilium 11,100",
    ),
    row(("connects", "direct again, 1"), "connects/s, direct, against itself", Aim::None, ""),
    row(("connects", "socket LB, 1"), "connects/s by a service, 1 service", AtLeast(0.97), ""),
    row(("connects", "socket LB, 1000"), "connects/s by a service, 1,000 services", AtLeast(0.97), ""),
    row(("connects", "socket LB, 10000"), "connects/s by a service, 10,000 services", AtLeast(0.97), ""),
    row(("connects", "nftables, 1"), "the same by nftables, 1 service", Aim::None, "0.68"),
    row(("connects", "nftables, 1000"), "the same by nftables, 1,000 services", Aim::None, "0.70"),
    row(("connects", "nftables, 10000"), "the same by nftables, 10,000 services", Aim::None, "0.67"),
    row(("connects", "iptables, 1"), "the same by iptables, 1 service", Aim::None, "0.63"),
    row(("connects", "iptables, 1000"), "the same by iptables, 1,000 services", Aim::None, "0.46"),
    row(("connects", "iptables, 10000"), "the same by iptables, 10,000 services", Aim::None, "0.11"),
    row(
        ("services", "ClusterIP: 10000 services x 3 backends loaded"),
        "10,000 services x 3 backends into the kernel",
        AtMost(500.0),
        "nftables 17,500, iptables-nft 13,800",
    ),
    row(
        ("services", "ClusterIP: one backend of one service replaced (median of 40)"),
        "one of them changed",
        AtMost(1.0),
        "600-800",
    ),
    row(
        ("services", "LoadBalancer with Maglev tables: one backend of one service replaced (median of 40)"),
        "one of 1,000 changed, with its Maglev table",
        AtMost(1.0),
        "",
    ),
];
