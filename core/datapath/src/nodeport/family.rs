//! What differs between IPv4 and IPv6 when traffic from outside is balanced, translated and routed.

use abi::Plain;
use abi::be::{Addr4, Addr6, Port, Wide6};
use abi::config::{LB_MASQUERADE_IPV4, LB_MASQUERADE_IPV6, NodeConfig};
use abi::ct::{Connection, CtEntry4, CtEntry6};
use abi::lb::{
    IpMasqKey4, IpMasqKey6, LbAffinityKey4, LbAffinityKey6, LbKey4, LbKey6, LbSourceRange4, LbSourceRange6,
    SOURCE_RANGE_STATIC_BITS,
};
use abi::nat::{SnatEntry4, SnatEntry6, SnatKey4, SnatKey6};
use core::mem::offset_of;

use super::env::NodeportEnv;
use super::{Origin, dsr};
use crate::env::{Env, NodeFields};
use crate::family::{End, Family, V4, V6};
use crate::hash;
use crate::parse::Flow;

/// The part of a [`Family`] that only north-south traffic needs.
pub trait Balanced: Family {
    /// Key of the source NAT map.
    type SnatKey: Plain;
    /// Value of the source NAT map.
    type SnatEntry: Plain;
    /// Key of the affinity map.
    type AffinityKey: Plain;
    /// Key of the source range map.
    type SourceRange: Plain;
    /// Key of the map of destinations that are not masqueraded.
    type Exclusion: Plain;

    /// The key of a packet from `src` to `dst`.
    fn snat_key(src: &End<Self::Addr>, dst: &End<Self::Addr>, protocol: u8, flags: u8) -> Self::SnatKey;
    /// A value that translates to `to`.
    fn snat_entry(to: &End<Self::Addr>, rev_nat: Port, needs_ct: u64, created: u32) -> Self::SnatEntry;
    /// What an entry translates to, and its reverse NAT index.
    fn snat_target(entry: &Self::SnatEntry) -> (End<Self::Addr>, Port);
    /// A frontend's key (slot 0) or that of one of its backend slots, in a scope.
    fn scoped_key(frontend: &End<Self::Addr>, protocol: u8, slot: u16, scope: u8) -> Self::LbKey;
    /// A connection entry that translates to `backend`, and the source to `snat_port` of the node.
    fn service_entry(connection: Connection, backend: &End<Self::Addr>, snat_port: Port) -> Self::CtEntry;
    /// The port of the node that stands for the client; 0: none.
    fn snat_port(entry: &Self::CtEntry) -> Port;
    /// The key of a client's affinity to a service.
    fn affinity_key(client: &Self::Addr, index: Port) -> Self::AffinityKey;
    /// The key with which the source ranges of a service are asked about a client.
    fn source_range(client: &Self::Addr, index: Port) -> Self::SourceRange;
    /// The reference's hash of a flow, by which Maglev tables are indexed. The destination address is no part of it.
    fn maglev_hash<N: NodeFields>(node: N, flow: &Flow<Self>) -> u32;
    /// Source of traffic to backends on other nodes.
    fn snat_address<N: NodeFields>(node: N) -> Self::Addr;
    /// [`abi::config`]'s bit that says that this family is masqueraded.
    const MASQUERADE: u32;
    /// Source of masqueraded traffic.
    fn masquerade_address<N: NodeFields>(node: N) -> Self::Addr;
    /// Whether pods' addresses are routed to this destination.
    fn is_natively_routed<N: NodeFields>(node: N, dst: &Self::Addr) -> bool;
    /// Source of packets in which others are carried to their backend.
    fn rss_source<N: NodeFields>(node: N, hash: u32) -> Self::Addr;
    /// Writes a header of this family where room was made for it before the packet, which is `len` bytes long with it.
    fn put_outer<E: NodeportEnv>(env: &mut E, src: &Self::Addr, dst: &Self::Addr, protocol: u8, len: u32) -> bool;
    /// Tells the backend of the frontend.
    fn put_frontend<E: NodeportEnv>(env: &mut E, frontend: &End<Self::Addr>) -> bool;
    /// What a packet says of its frontend.
    fn told<E: Env>(env: &E, flow: &Flow<Self>) -> Origin<Self>;
    /// The key with which destinations that are not masqueraded are asked.
    fn exclusion(dst: &Self::Addr) -> Self::Exclusion;
    /// The address as words; IPv4 in the first.
    fn words(addr: &Self::Addr) -> [u32; 4];
}

/// Ports as they lie in the reference's tuple of a packet: source port in the upper half, both in network order.
#[inline(always)]
fn tuple_ports<F: Family>(flow: &Flow<F>) -> u32 {
    (flow.src.port.raw as u32) << 16 | flow.dst.port.raw as u32
}

impl Balanced for V4 {
    type SnatKey = SnatKey4;
    type SnatEntry = SnatEntry4;
    type AffinityKey = LbAffinityKey4;
    type SourceRange = LbSourceRange4;
    type Exclusion = IpMasqKey4;

    const MASQUERADE: u32 = LB_MASQUERADE_IPV4;

    #[inline(always)]
    fn snat_key(src: &End<Addr4>, dst: &End<Addr4>, nexthdr: u8, flags: u8) -> SnatKey4 {
        SnatKey4 { daddr: dst.addr, saddr: src.addr, dport: dst.port, sport: src.port, nexthdr, flags, pad: 0 }
    }
    #[inline(always)]
    fn snat_entry(to: &End<Addr4>, rev_nat_index: Port, needs_ct: u64, created: u32) -> SnatEntry4 {
        SnatEntry4 {
            created: created as u64,
            needs_ct,
            pad1: 0,
            pad2: 0,
            to_addr: to.addr,
            to_port: to.port,
            rev_nat_index,
            tail: [],
        }
    }
    #[inline(always)]
    fn snat_target(entry: &SnatEntry4) -> (End<Addr4>, Port) {
        (End { addr: entry.to_addr, port: entry.to_port }, entry.rev_nat_index)
    }
    #[inline(always)]
    fn scoped_key(frontend: &End<Addr4>, proto: u8, slot: u16, scope: u8) -> LbKey4 {
        LbKey4 { address: frontend.addr, dport: frontend.port, backend_slot: slot, proto, scope, pad: 0 }
    }
    #[inline(always)]
    fn service_entry(connection: Connection, backend: &End<Addr4>, snat_port: Port) -> CtEntry4 {
        CtEntry4 { connection, nat_addr: backend.addr, nat_port: backend.port, snat_port }
    }
    #[inline(always)]
    fn snat_port(entry: &CtEntry4) -> Port {
        entry.snat_port
    }
    #[inline(always)]
    fn affinity_key(client: &Addr4, rev_nat_index: Port) -> LbAffinityKey4 {
        LbAffinityKey4 { client: client.raw as u64, rev_nat_index, netns_cookie: 0, pad: 0, pad2: 0 }
    }
    #[inline(always)]
    fn source_range(client: &Addr4, rev_nat_index: Port) -> LbSourceRange4 {
        LbSourceRange4 { prefixlen: SOURCE_RANGE_STATIC_BITS + 32, rev_nat_index, pad: 0, addr: *client }
    }
    #[inline(always)]
    fn maglev_hash<N: NodeFields>(node: N, flow: &Flow<V4>) -> u32 {
        let seed = node.field(offset_of!(NodeConfig, maglev_seed_v4));
        hash::seeded(flow.src.addr.raw, tuple_ports(flow), flow.protocol() as u32, seed)
    }
    #[inline(always)]
    fn snat_address<N: NodeFields>(node: N) -> Addr4 {
        node.field(offset_of!(NodeConfig, snat_ipv4))
    }
    #[inline(always)]
    fn masquerade_address<N: NodeFields>(node: N) -> Addr4 {
        node.field(offset_of!(NodeConfig, masquerade_ipv4))
    }
    #[inline(always)]
    fn is_natively_routed<N: NodeFields>(node: N, dst: &Addr4) -> bool {
        let mask: u32 = node.field(offset_of!(NodeConfig, native_routing_mask_ipv4));
        mask != 0 && dst.raw & mask == node.field::<u32>(offset_of!(NodeConfig, native_routing_ipv4))
    }
    #[inline(always)]
    fn rss_source<N: NodeFields>(node: N, hash: u32) -> Addr4 {
        let mask: u32 = node.field(offset_of!(NodeConfig, rss_mask_ipv4));
        if mask == 0 {
            return Self::snat_address(node);
        }
        Addr4::from_raw(node.field::<u32>(offset_of!(NodeConfig, rss_ipv4)) & mask | hash & !mask)
    }
    #[inline(always)]
    fn put_outer<E: NodeportEnv>(env: &mut E, src: &Addr4, dst: &Addr4, protocol: u8, len: u32) -> bool {
        dsr::put_outer4(env, *src, *dst, protocol, len)
    }
    #[inline(always)]
    fn put_frontend<E: NodeportEnv>(env: &mut E, frontend: &End<Addr4>) -> bool {
        dsr::put_frontend4(env, frontend)
    }
    #[inline(always)]
    fn told<E: Env>(env: &E, flow: &Flow<V4>) -> Origin<V4> {
        dsr::told4(env, flow)
    }
    #[inline(always)]
    fn exclusion(dst: &Addr4) -> IpMasqKey4 {
        IpMasqKey4 { prefixlen: 32, addr: *dst }
    }
    #[inline(always)]
    fn words(addr: &Addr4) -> [u32; 4] {
        [addr.raw, 0, 0, 0]
    }
}

impl Balanced for V6 {
    type SnatKey = SnatKey6;
    type SnatEntry = SnatEntry6;
    type AffinityKey = LbAffinityKey6;
    type SourceRange = LbSourceRange6;
    type Exclusion = IpMasqKey6;

    const MASQUERADE: u32 = LB_MASQUERADE_IPV6;

    #[inline(always)]
    fn snat_key(src: &End<Wide6>, dst: &End<Wide6>, nexthdr: u8, flags: u8) -> SnatKey6 {
        SnatKey6 { daddr: dst.addr, saddr: src.addr, dport: dst.port, sport: src.port, nexthdr, flags, pad: 0 }
    }
    #[inline(always)]
    fn snat_entry(to: &End<Wide6>, rev_nat_index: Port, needs_ct: u64, created: u32) -> SnatEntry6 {
        SnatEntry6 {
            created: created as u64,
            needs_ct,
            pad1: 0,
            pad2: 0,
            to_addr: to.addr.into(),
            to_port: to.port,
            rev_nat_index,
            tail: [0],
        }
    }
    #[inline(always)]
    fn snat_target(entry: &SnatEntry6) -> (End<Wide6>, Port) {
        (End { addr: entry.to_addr.into(), port: entry.to_port }, entry.rev_nat_index)
    }
    #[inline(always)]
    fn scoped_key(frontend: &End<Wide6>, proto: u8, slot: u16, scope: u8) -> LbKey6 {
        LbKey6 { address: frontend.addr.into(), dport: frontend.port, backend_slot: slot, proto, scope, pad: 0 }
    }
    #[inline(always)]
    fn service_entry(connection: Connection, backend: &End<Wide6>, snat_port: Port) -> CtEntry6 {
        CtEntry6 { connection, nat_addr: backend.addr.into(), nat_port: backend.port, snat_port }
    }
    #[inline(always)]
    fn snat_port(entry: &CtEntry6) -> Port {
        entry.snat_port
    }
    #[inline(always)]
    fn affinity_key(client: &Wide6, rev_nat_index: Port) -> LbAffinityKey6 {
        LbAffinityKey6 { client: *client, rev_nat_index, netns_cookie: 0, pad: 0, pad2: 0 }
    }
    #[inline(always)]
    fn source_range(client: &Wide6, rev_nat_index: Port) -> LbSourceRange6 {
        LbSourceRange6 { prefixlen: SOURCE_RANGE_STATIC_BITS + 128, rev_nat_index, pad: 0, addr: (*client).into() }
    }
    #[inline(always)]
    fn maglev_hash<N: NodeFields>(node: N, flow: &Flow<V6>) -> u32 {
        let seed: u32 = node.field(offset_of!(NodeConfig, maglev_seed_v6));
        let [a, b, c, d] = Addr6::from(flow.src.addr).words;
        hash::two_rounds([a, b, c, d, tuple_ports(flow), flow.protocol() as u32], seed)
    }
    #[inline(always)]
    fn snat_address<N: NodeFields>(node: N) -> Wide6 {
        node.field::<Addr6>(offset_of!(NodeConfig, snat_ipv6)).into()
    }
    #[inline(always)]
    fn masquerade_address<N: NodeFields>(node: N) -> Wide6 {
        node.field::<Addr6>(offset_of!(NodeConfig, masquerade_ipv6)).into()
    }
    #[inline(always)]
    fn is_natively_routed<N: NodeFields>(node: N, dst: &Wide6) -> bool {
        let mask: Wide6 = node.field::<Addr6>(offset_of!(NodeConfig, native_routing_mask_ipv6)).into();
        let range: Wide6 = node.field::<Addr6>(offset_of!(NodeConfig, native_routing_ipv6)).into();
        let ([m0, m1], [r0, r1], [d0, d1]) = (mask.halves, range.halves, dst.halves);
        (m0 != 0 || m1 != 0) && d0 & m0 == r0 && d1 & m1 == r1
    }
    #[inline(always)]
    fn rss_source<N: NodeFields>(node: N, hash: u32) -> Wide6 {
        let mask: Wide6 = node.field::<Addr6>(offset_of!(NodeConfig, rss_mask_ipv6)).into();
        let [m0, m1] = mask.halves;
        if m0 == 0 && m1 == 0 {
            return Self::snat_address(node);
        }
        let prefix: Wide6 = node.field::<Addr6>(offset_of!(NodeConfig, rss_ipv6)).into();
        let [p0, p1] = prefix.halves;
        // The last word varies.
        Wide6 { halves: [p0 & m0, p1 & m1 | ((hash as u64) << 32) & !m1] }
    }
    #[inline(always)]
    fn put_outer<E: NodeportEnv>(env: &mut E, src: &Wide6, dst: &Wide6, protocol: u8, len: u32) -> bool {
        dsr::put_outer6(env, *src, *dst, protocol, len)
    }
    #[inline(always)]
    fn put_frontend<E: NodeportEnv>(env: &mut E, frontend: &End<Wide6>) -> bool {
        dsr::put_frontend6(env, frontend)
    }
    #[inline(always)]
    fn told<E: Env>(env: &E, flow: &Flow<V6>) -> Origin<V6> {
        dsr::told6(env, flow)
    }
    #[inline(always)]
    fn exclusion(dst: &Wide6) -> IpMasqKey6 {
        IpMasqKey6 { prefixlen: 128, addr: (*dst).into() }
    }
    #[inline(always)]
    fn words(addr: &Wide6) -> [u32; 4] {
        Addr6::from(*addr).words
    }
}
