//! What differs between IPv4 and IPv6, as one trait, so that the pipeline is written once.

use abi::Plain;
use abi::be::{Addr4, Addr6, Port, Wide6};
use abi::config::NodeConfig;
use abi::ct::{Connection, CtEntry4, CtEntry6, CtKey4, CtKey6, SIDE_A, SIDE_B};
use abi::endpoint::{Device, EndpointKey};
use abi::frag::{FragKey4, FragKey6};
use abi::ipcache::IpcacheKey;
use abi::lb::{
    LbBackend4, LbBackend6, LbKey4, LbKey6, LbRevNat4, LbRevNat6, SERVICE_LOOPBACK_IPV4, SERVICE_LOOPBACK_IPV6,
};
use core::mem::offset_of;
use wire::{header, protocol};

use crate::checksum;
use crate::env::{Env, NodeFields};
use crate::neighbour::{self, Discovery};
use crate::parse::{self, Network};
use crate::verdict::DropReason;

/// IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6;

/// An address and port pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct End<A> {
    /// Address.
    pub addr: A,
    /// Port, or what stands for it (see [`abi::ct`]).
    pub port: Port,
}

/// One address family: its types, numbers and offsets.
pub trait Family: Copy + 'static {
    /// An address.
    type Addr: Plain;
    /// Key of the connection maps.
    type CtKey: Plain;
    /// Value of the connection maps.
    type CtEntry: Plain;
    /// Key of the service map.
    type LbKey: Plain;
    /// Value of the backend map.
    type Backend: Plain;
    /// Value of the reverse NAT map.
    type RevNat: Plain;
    /// Key of the fragment map.
    type FragKey: Plain;

    /// Whether this is IPv6.
    const IPV6: bool;
    /// Protocol number of this family's ICMP.
    const ICMP: u8;
    /// Offset of the transport header behind a network header without options or extension headers.
    const FIXED: u32;
    /// Offset of the source address in the IP header.
    const SRC: u32;
    /// Offset of the destination address in the IP header.
    const DST: u32;
    /// Source of packets that a pod sends itself through a service.
    const LOOPBACK: Self::Addr;
    /// The address that stands for none.
    const UNSPECIFIED: Self::Addr;

    /// The connection key of `local` (the end at whose side the packet is) and `remote`.
    fn ct_key(local: &End<Self::Addr>, remote: &End<Self::Addr>, protocol: u8) -> Self::CtKey;
    /// The value of the connection maps.
    fn ct_entry(connection: Connection, nat: &End<Self::Addr>) -> Self::CtEntry;
    /// What of the entry does not depend on the family.
    fn connection(entry: &mut Self::CtEntry) -> &mut Connection;
    /// The end a service entry translates to.
    fn nat(entry: &Self::CtEntry) -> End<Self::Addr>;
    /// A frontend's key (slot 0) or that of one of its backend slots.
    fn lb_key(frontend: &End<Self::Addr>, protocol: u8, slot: u16) -> Self::LbKey;
    /// A backend's address, port and state.
    fn backend(backend: &Self::Backend) -> (End<Self::Addr>, u8);
    /// The frontend of a reverse NAT entry.
    fn frontend(entry: &Self::RevNat) -> End<Self::Addr>;
    /// The key of a fragmented datagram.
    fn frag_key(src: &Self::Addr, dst: &Self::Addr, id: u32, protocol: u8) -> Self::FragKey;
    /// The key of `cilium_lxc`.
    fn endpoint_key(addr: &Self::Addr) -> EndpointKey;
    /// The key with which `cilium_ipcache` is asked about an address.
    fn ipcache_key(addr: &Self::Addr) -> IpcacheKey;
    /// Checksum difference of replacing one address by another.
    fn difference(old: &Self::Addr, new: &Self::Addr) -> u32;
    /// Mixes an address into 32 bits.
    fn mix(addr: &Self::Addr) -> u32;
    /// Reads the network header at `offset`.
    fn network<E: Env>(env: &E, offset: u32) -> Result<Network<Self>, DropReason>;
    /// Reads the network header behind the Ethernet header, without extension headers; `None`: there is none.
    fn fixed<E: Env>(env: &E) -> Option<Network<Self>>;
    /// Reads the network header of a packet quoted in an ICMP error. IPv6 extension headers are not followed there: an
    /// error about a packet that had some is about no connection we can name.
    fn quoted<E: Env>(env: &E, offset: u32) -> Result<Network<Self>, DropReason>;
    /// The only address of this family the pod behind a device may use.
    fn own(device: &Device) -> Self::Addr;
    /// What neighbour discovery makes of a packet. (IPv4's is ARP, which is no IP.)
    fn discovery<E: Env>(env: &E, network: &Network<Self>) -> Discovery;
    /// An address as two long words.
    fn widen(addr: &Self::Addr) -> [u64; 2];
    /// The address of two long words.
    fn narrow(words: &[u64; 2]) -> Self::Addr;
    /// Identity of addresses outside the cluster.
    fn world<E: Env>(env: &E) -> u32;
    /// The router's address, [`Family::UNSPECIFIED`] when the family is off.
    fn router<E: Env>(env: &E) -> Self::Addr;
}

/// Whether `local` is end A of a connection key: ends are ordered by raw address, then raw port.
#[inline(always)]
fn local_first4(local: &End<Addr4>, remote: &End<Addr4>) -> bool {
    let order = |end: &End<Addr4>| (end.addr.raw as u64) << 16 | end.port.raw as u64;
    order(local) <= order(remote)
}

#[inline(always)]
fn local_first6(local: &End<Wide6>, remote: &End<Wide6>) -> bool {
    let ([a, b], [c, d]) = (local.addr.halves, remote.addr.halves);
    if a != c {
        return a < c;
    }
    if b != d {
        return b < d;
    }
    local.port.raw <= remote.port.raw
}

impl Family for V4 {
    type Addr = Addr4;
    type CtKey = CtKey4;
    type CtEntry = CtEntry4;
    type LbKey = LbKey4;
    type Backend = LbBackend4;
    type RevNat = LbRevNat4;
    type FragKey = FragKey4;

    const IPV6: bool = false;
    const ICMP: u8 = protocol::ICMP;
    const FIXED: u32 = parse::L3 + 20;
    const SRC: u32 = offset_of!(header::Ipv4, src) as u32;
    const DST: u32 = offset_of!(header::Ipv4, dst) as u32;
    const LOOPBACK: Addr4 = Addr4::new(SERVICE_LOOPBACK_IPV4.to_bits());
    const UNSPECIFIED: Addr4 = Addr4::from_raw(0);

    #[inline(always)]
    fn ct_key(local: &End<Addr4>, remote: &End<Addr4>, protocol: u8) -> CtKey4 {
        let first = local_first4(local, remote);
        CtKey4 {
            a: if first { local.addr } else { remote.addr },
            b: if first { remote.addr } else { local.addr },
            a_port: if first { local.port } else { remote.port },
            b_port: if first { remote.port } else { local.port },
            protocol,
            side: if first { SIDE_A } else { SIDE_B },
            pad: 0,
        }
    }
    #[inline(always)]
    fn ct_entry(connection: Connection, nat: &End<Addr4>) -> CtEntry4 {
        CtEntry4 { connection, nat_addr: nat.addr, nat_port: nat.port, snat_port: Port::from_raw(0) }
    }
    #[inline(always)]
    fn connection(entry: &mut CtEntry4) -> &mut Connection {
        &mut entry.connection
    }
    #[inline(always)]
    fn nat(entry: &CtEntry4) -> End<Addr4> {
        End { addr: entry.nat_addr, port: entry.nat_port }
    }
    #[inline(always)]
    fn lb_key(frontend: &End<Addr4>, proto: u8, slot: u16) -> LbKey4 {
        LbKey4 { address: frontend.addr, dport: frontend.port, backend_slot: slot, proto, scope: 0, pad: 0 }
    }
    #[inline(always)]
    fn backend(backend: &LbBackend4) -> (End<Addr4>, u8) {
        (End { addr: backend.address, port: backend.port }, backend.flags)
    }
    #[inline(always)]
    fn frontend(entry: &LbRevNat4) -> End<Addr4> {
        End { addr: entry.address, port: entry.port }
    }
    #[inline(always)]
    fn frag_key(src: &Addr4, dst: &Addr4, id: u32, proto: u8) -> FragKey4 {
        FragKey4 { daddr: *dst, saddr: *src, id: id as u16, proto, pad: 0 }
    }
    #[inline(always)]
    fn endpoint_key(addr: &Addr4) -> EndpointKey {
        EndpointKey::v4(*addr)
    }
    #[inline(always)]
    fn ipcache_key(addr: &Addr4) -> IpcacheKey {
        IpcacheKey::v4(*addr, 32)
    }
    #[inline(always)]
    fn difference(old: &Addr4, new: &Addr4) -> u32 {
        checksum::difference(old.raw, new.raw)
    }
    #[inline(always)]
    fn mix(addr: &Addr4) -> u32 {
        addr.raw
    }
    #[inline(always)]
    fn network<E: Env>(env: &E, offset: u32) -> Result<Network<Self>, DropReason> {
        parse::ipv4(env, offset)
    }
    #[inline(always)]
    fn fixed<E: Env>(env: &E) -> Option<Network<Self>> {
        parse::ipv4(env, parse::L3).ok()
    }
    #[inline(always)]
    fn quoted<E: Env>(env: &E, offset: u32) -> Result<Network<Self>, DropReason> {
        parse::ipv4(env, offset)
    }
    #[inline(always)]
    fn own(device: &Device) -> Addr4 {
        device.ipv4
    }
    #[inline(always)]
    fn discovery<E: Env>(_: &E, _: &Network<Self>) -> Discovery {
        Discovery::No
    }
    #[inline(always)]
    fn widen(addr: &Addr4) -> [u64; 2] {
        [addr.raw as u64, 0]
    }
    #[inline(always)]
    fn narrow(words: &[u64; 2]) -> Addr4 {
        let [low, _] = *words;
        Addr4::from_raw(low as u32)
    }
    #[inline(always)]
    fn world<E: Env>(env: &E) -> u32 {
        env.node().field(offset_of!(NodeConfig, world_ipv4))
    }
    #[inline(always)]
    fn router<E: Env>(env: &E) -> Addr4 {
        env.node().field(offset_of!(NodeConfig, router_ipv4))
    }
}

impl Family for V6 {
    type Addr = Wide6;
    type CtKey = CtKey6;
    type CtEntry = CtEntry6;
    type LbKey = LbKey6;
    type Backend = LbBackend6;
    type RevNat = LbRevNat6;
    type FragKey = FragKey6;

    const IPV6: bool = true;
    const ICMP: u8 = protocol::ICMPV6;
    const FIXED: u32 = parse::L3 + 40;
    const SRC: u32 = offset_of!(header::Ipv6, src) as u32;
    const DST: u32 = offset_of!(header::Ipv6, dst) as u32;
    const LOOPBACK: Wide6 = zerocopy::transmute!(SERVICE_LOOPBACK_IPV6.octets());
    const UNSPECIFIED: Wide6 = Wide6 { halves: [0; 2] };

    #[inline(always)]
    fn ct_key(local: &End<Wide6>, remote: &End<Wide6>, protocol: u8) -> CtKey6 {
        if local_first6(local, remote) {
            CtKey6 {
                a: local.addr,
                b: remote.addr,
                a_port: local.port,
                b_port: remote.port,
                protocol,
                side: SIDE_A,
                pad: 0,
            }
        } else {
            CtKey6 {
                a: remote.addr,
                b: local.addr,
                a_port: remote.port,
                b_port: local.port,
                protocol,
                side: SIDE_B,
                pad: 0,
            }
        }
    }
    #[inline(always)]
    fn ct_entry(connection: Connection, nat: &End<Wide6>) -> CtEntry6 {
        CtEntry6 { connection, nat_addr: nat.addr.into(), nat_port: nat.port, snat_port: Port::from_raw(0) }
    }
    #[inline(always)]
    fn connection(entry: &mut CtEntry6) -> &mut Connection {
        &mut entry.connection
    }
    #[inline(always)]
    fn nat(entry: &CtEntry6) -> End<Wide6> {
        End { addr: entry.nat_addr.into(), port: entry.nat_port }
    }
    #[inline(always)]
    fn lb_key(frontend: &End<Wide6>, proto: u8, slot: u16) -> LbKey6 {
        LbKey6 { address: frontend.addr.into(), dport: frontend.port, backend_slot: slot, proto, scope: 0, pad: 0 }
    }
    #[inline(always)]
    fn backend(backend: &LbBackend6) -> (End<Wide6>, u8) {
        (End { addr: backend.address.into(), port: backend.port }, backend.flags)
    }
    #[inline(always)]
    fn frontend(entry: &LbRevNat6) -> End<Wide6> {
        End { addr: entry.address.into(), port: entry.port }
    }
    #[inline(always)]
    fn frag_key(src: &Wide6, dst: &Wide6, id: u32, proto: u8) -> FragKey6 {
        FragKey6 { daddr: (*dst).into(), saddr: (*src).into(), id, proto, pad: 0, pad2: 0 }
    }
    #[inline(always)]
    fn endpoint_key(addr: &Wide6) -> EndpointKey {
        EndpointKey::v6((*addr).into())
    }
    #[inline(always)]
    fn ipcache_key(addr: &Wide6) -> IpcacheKey {
        IpcacheKey::v6((*addr).into(), 128)
    }
    #[inline(always)]
    fn difference(old: &Wide6, new: &Wide6) -> u32 {
        let difference = |old: u64, new: u64| {
            let high = checksum::difference((old >> 32) as u32, (new >> 32) as u32);
            checksum::add(high, checksum::difference(old as u32, new as u32))
        };
        let ([a, b], [c, d]) = (old.halves, new.halves);
        checksum::add(difference(a, c), difference(b, d))
    }
    #[inline(always)]
    fn mix(addr: &Wide6) -> u32 {
        let [a, b] = addr.halves;
        crate::hash::mix((a ^ a >> 32) as u32, b as u32, (b >> 32) as u32)
    }
    #[inline(always)]
    fn network<E: Env>(env: &E, offset: u32) -> Result<Network<Self>, DropReason> {
        parse::ipv6(env, offset)
    }
    #[inline(always)]
    fn fixed<E: Env>(env: &E) -> Option<Network<Self>> {
        parse::ipv6_fixed(env, parse::L3).ok()
    }
    #[inline(always)]
    fn quoted<E: Env>(env: &E, offset: u32) -> Result<Network<Self>, DropReason> {
        parse::ipv6_fixed(env, offset)
    }
    #[inline(always)]
    fn own(device: &Device) -> Wide6 {
        device.ipv6.into()
    }
    #[inline(always)]
    fn discovery<E: Env>(env: &E, network: &Network<Self>) -> Discovery {
        neighbour::discovery(env, network)
    }
    #[inline(always)]
    fn widen(addr: &Wide6) -> [u64; 2] {
        addr.halves
    }
    #[inline(always)]
    fn narrow(words: &[u64; 2]) -> Wide6 {
        Wide6 { halves: *words }
    }
    #[inline(always)]
    fn world<E: Env>(env: &E) -> u32 {
        env.node().field(offset_of!(NodeConfig, world_ipv6))
    }
    #[inline(always)]
    fn router<E: Env>(env: &E) -> Wide6 {
        env.node().field::<Addr6>(offset_of!(NodeConfig, router_ipv6)).into()
    }
}
