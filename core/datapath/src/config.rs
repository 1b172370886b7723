//! The node's configuration, one field at a time.
//!
//! In the kernel each of these is one load from read-only data that the verifier knows, so a test of a switched-off
//! feature removes the feature's code. Never copied as a whole: that would be a stack full of loads for each packet.

use abi::be::Port;
use abi::config::{LB_DSR, LB_DSR_GENEVE, LB_DSR_IPIP, LB_HYBRID, LB_MODE_BY_SERVICE, Lifetime, NodeConfig};
use core::mem::{offset_of, size_of};

use crate::env::NodeFields;
use crate::nodeport::geneve;

/// `NODE_*` bits.
#[inline(always)]
pub fn flags<N: NodeFields>(node: N) -> u32 {
    node.field(offset_of!(NodeConfig, flags))
}

/// Whether all of the `NODE_*` bits in `mask` are set.
#[inline(always)]
pub fn enabled<N: NodeFields>(node: N, mask: u32) -> bool {
    flags(node) & mask == mask
}

/// Monitor aggregation level.
#[inline(always)]
pub fn aggregation<N: NodeFields>(node: N) -> u32 {
    node.field(offset_of!(NodeConfig, monitor_aggregation))
}

/// Seconds between reports of one connection and direction.
#[inline(always)]
pub fn report_interval<N: NodeFields>(node: N) -> u32 {
    node.field(offset_of!(NodeConfig, report_interval))
}

/// TCP flags whose first appearance is reported.
#[inline(always)]
pub fn report_tcp_flags<N: NodeFields>(node: N) -> u8 {
    node.field::<u32>(offset_of!(NodeConfig, report_tcp_flags)) as u8
}

/// Packet bytes copied into events.
#[inline(always)]
pub fn capture_len<N: NodeFields>(node: N) -> u32 {
    node.field(offset_of!(NodeConfig, capture_len))
}

/// A connection lifetime in seconds.
#[inline(always)]
pub fn lifetime<N: NodeFields>(node: N, which: Lifetime) -> u32 {
    node.field(offset_of!(NodeConfig, lifetimes) + which as usize * size_of::<u32>())
}

/// Ticks of the kernel a second; 0: not known.
#[inline(always)]
pub fn ticks_per_second<N: NodeFields>(node: N) -> u32 {
    node.field(offset_of!(NodeConfig, ticks_per_second))
}

/// The kernel's count of ticks when the monotonic clock stood at zero.
#[inline(always)]
pub fn ticks_base<N: NodeFields>(node: N) -> u64 {
    let [low, high]: [u32; 2] = node.field(offset_of!(NodeConfig, ticks_base));
    (high as u64) << 32 | low as u64
}

/// Mixed into every hash.
#[inline(always)]
pub fn seed<N: NodeFields>(node: N) -> u32 {
    node.field(offset_of!(NodeConfig, seed))
}

/// `LB_*` bits.
#[inline(always)]
pub fn lb_flags<N: NodeFields>(node: N) -> u32 {
    node.field(offset_of!(NodeConfig, lb_flags))
}

/// Whether all of the `LB_*` bits in `mask` are set.
#[inline(always)]
pub fn balances<N: NodeFields>(node: N, mask: u32) -> bool {
    lb_flags(node) & mask == mask
}

/// First and last source port that is allocated.
#[inline(always)]
pub fn nat_ports<N: NodeFields>(node: N) -> (u16, u16) {
    (node.field(offset_of!(NodeConfig, nat_port_min)), node.field(offset_of!(NodeConfig, nat_port_max)))
}

/// Entries of a Maglev table; never 0.
#[inline(always)]
pub fn maglev_size<N: NodeFields>(node: N) -> u32 {
    node.field::<u32>(offset_of!(NodeConfig, maglev_size)).max(1)
}

/// UDP port of Geneve.
#[inline(always)]
pub fn geneve_port<N: NodeFields>(node: N) -> Port {
    node.field(offset_of!(NodeConfig, geneve_port))
}

/// Longest packet from outside, from the IP header on, that reaches a backend on another node with what is added to it.
#[inline(always)]
pub fn forwarded_mtu<N: NodeFields>(node: N, ipv6: bool) -> u32 {
    let mut mtu: u32 = node.field(offset_of!(NodeConfig, direct_routing_mtu));
    if mtu == 0 {
        mtu = node.field(offset_of!(NodeConfig, mtu));
    }
    let flags = lb_flags(node);
    let added = if flags & (LB_DSR | LB_HYBRID | LB_MODE_BY_SERVICE) == 0 {
        0
    } else if flags & LB_DSR_IPIP != 0 {
        if ipv6 { 40 } else { 20 }
    } else if flags & LB_DSR_GENEVE != 0 {
        // The most it can be: IPv6 inside IPv4 has 20 bytes less.
        geneve::overhead(ipv6, ipv6)
    } else if ipv6 {
        24
    } else {
        8
    };
    mtu.wrapping_sub(added)
}

/// Cookie of the network namespace that is the host.
#[inline(always)]
pub fn host_netns_cookie<N: NodeFields>(node: N) -> u64 {
    let [low, high]: [u32; 2] = node.field(offset_of!(NodeConfig, host_netns_cookie));
    low as u64 | (high as u64) << 32
}

/// First and last node port.
#[inline(always)]
pub fn node_ports<N: NodeFields>(node: N) -> (u16, u16) {
    (node.field(offset_of!(NodeConfig, node_port_min)), node.field(offset_of!(NodeConfig, node_port_max)))
}
