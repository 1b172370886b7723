//! From bytes to a [`Flow`]: who talks to whom over what.
//!
//! Nothing is rewritten before the whole transport header is known to be there. Loops and offsets are bounded so
//! that the verifier can follow: at most [`EXTENSION_HEADERS`] IPv6 extension headers of at most
//! [`EXTENSION_LEN`] bytes each; what has more is dropped under a name of its own.

use abi::be::{Addr4, Port, Wide6};
use abi::config::NODE_TRACK_FRAGMENTS;
use abi::frag::FragPorts;
use wire::{header, protocol, tcp_flags};

use crate::config;
use crate::env::{Env, FamilyMaps};
use crate::family::{End, Family, V4, V6};
use crate::hash;
use crate::maps;
use crate::verdict::DropReason;

/// Offset of the IP header.
pub const L3: u32 = wire::ETHERNET_LEN;
/// IPv6 extension headers followed at most.
pub const EXTENSION_HEADERS: u32 = 4;
/// Bytes of one IPv6 extension header at most.
pub const EXTENSION_LEN: u32 = 64;

/// Whether a packet is a fragment, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// A whole datagram.
    No = 0,
    /// The first one: the transport header is in it.
    First = 1,
    /// One without transport header.
    Later = 2,
}

/// What the network header says.
#[derive(Clone, Copy, Debug)]
pub struct Network<F: Family> {
    /// Source address.
    pub src: F::Addr,
    /// Destination address.
    pub dst: F::Addr,
    /// Transport protocol, after all extension headers.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Fragmentation.
    pub fragment: Fragment,
    /// Identification of the fragmented datagram.
    pub id: u32,
    /// Offset of the transport header.
    pub l4: u32,
}

/// What network and transport header say together.
#[derive(Clone, Copy, Debug)]
pub struct Flow<F: Family> {
    /// Source. For ICMP see [`echo_ports`].
    pub src: End<F::Addr>,
    /// Destination.
    pub dst: End<F::Addr>,
    /// Offset of the transport header.
    pub l4: u32,
    /// The small numbers of the headers, packed: a flow lives long, and apart each would take eight bytes of stack.
    bits: u64,
}

/// Places of the small numbers in [`Flow`].
mod place {
    pub const PROTOCOL: u32 = 0;
    pub const TCP_FLAGS: u32 = 8;
    pub const ICMP_TYPE: u32 = 16;
    pub const ICMP_CODE: u32 = 24;
    pub const TTL: u32 = 32;
    pub const FRAGMENT: u32 = 40;
}

impl<F: Family> Flow<F> {
    /// A flow of which the network header is known.
    #[inline(always)]
    pub(crate) fn of(network: &Network<F>) -> Self {
        let none = Port::from_raw(0);
        Self {
            src: End { addr: network.src, port: none },
            dst: End { addr: network.dst, port: none },
            l4: network.l4,
            bits: (network.protocol as u64) << place::PROTOCOL
                | (network.ttl as u64) << place::TTL
                | (network.fragment as u64) << place::FRAGMENT,
        }
    }

    /// Puts flags of TCP where there were none.
    #[inline(always)]
    pub(crate) fn set_tcp(&mut self, flags: u8) {
        self.bits |= (flags as u64) << place::TCP_FLAGS;
    }
    /// A flow from its parts.
    #[inline(always)]
    pub(crate) const fn from_bits(src: End<F::Addr>, dst: End<F::Addr>, l4: u32, bits: u64) -> Self {
        Self { src, dst, l4, bits }
    }
    /// The small numbers, packed.
    #[inline(always)]
    pub(crate) const fn bits(&self) -> u64 {
        self.bits
    }

    /// See [`Env::forget`]: what was found out about the protocol so far is asked anew from here on.
    #[inline(always)]
    pub fn forget<E: Env>(&mut self, env: &E) {
        self.bits = env.forget(self.bits);
    }

    /// Transport protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        (self.bits >> place::PROTOCOL) as u8
    }
    /// Flags of TCP; otherwise 0.
    #[inline(always)]
    pub fn tcp_flags(&self) -> u8 {
        (self.bits >> place::TCP_FLAGS) as u8
    }
    /// Type of ICMP or ICMPv6; otherwise 0.
    #[inline(always)]
    pub fn icmp_type(&self) -> u8 {
        (self.bits >> place::ICMP_TYPE) as u8
    }
    /// Code of ICMP or ICMPv6; otherwise 0.
    #[inline(always)]
    pub fn icmp_code(&self) -> u8 {
        (self.bits >> place::ICMP_CODE) as u8
    }
    /// Time to live or hop limit.
    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        (self.bits >> place::TTL) as u8
    }
    /// Whether the packet is a part of one.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        (self.bits >> place::FRAGMENT) as u8 != Fragment::No as u8
    }
    /// Whether the packet has no transport header, because it is a later fragment.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        (self.bits >> place::FRAGMENT) as u8 == Fragment::Later as u8
    }

    /// Whether the connection belongs to the TCP map.
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.protocol() == protocol::TCP
    }

    /// Whether a service can be meant.
    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        self.protocol() == protocol::TCP || self.protocol() == protocol::UDP || self.protocol() == protocol::SCTP
    }

    /// Whether this is an ICMP error, which quotes the packet it is about.
    #[inline(always)]
    pub fn is_icmp_error(&self) -> bool {
        if self.protocol() != F::ICMP {
            return false;
        }
        if F::IPV6 { self.icmp_type() >= 1 && self.icmp_type() <= 4 } else { matches!(self.icmp_type(), 3 | 11 | 12) }
    }

    /// What policy keys hold as destination port of a packet that opens a connection.
    #[inline(always)]
    pub fn policy_port(&self) -> Port {
        if self.protocol() == F::ICMP { Port::new(self.icmp_type() as u16) } else { self.dst.port }
    }

    /// Names the flow in events and spreads it over backends: the same for all packets of one direction.
    #[inline(always)]
    pub fn hash(&self, seed: u32) -> u32 {
        let ports = (self.src.port.raw as u32) << 16 | self.dst.port.raw as u32;
        hash::seeded(F::mix(&self.src.addr), F::mix(&self.dst.addr), ports ^ (self.protocol() as u32) << 8, seed)
    }
}

/// Reads an IPv4 header at `offset`.
#[inline(always)]
pub fn ipv4<E: Env>(env: &E, offset: u32) -> Result<Network<V4>, DropReason> {
    let Some(ip) = env.load::<header::Ipv4>(offset) else { return Err(DropReason::Invalid) };
    let header_len = ((ip.version_ihl & 0xf) as u32) << 2;
    if ip.version_ihl >> 4 != 4 || header_len < 20 {
        return Err(DropReason::Invalid);
    }
    let bits = u16::from_be(ip.fragment_be);
    let fragment = if bits & 0x1fff != 0 {
        Fragment::Later
    } else if bits & 0x2000 != 0 {
        Fragment::First
    } else {
        Fragment::No
    };
    Ok(Network {
        src: Addr4::from_raw(ip.src),
        dst: Addr4::from_raw(ip.dst),
        protocol: ip.protocol,
        ttl: ip.ttl,
        fragment,
        id: ip.id_be as u32,
        l4: offset + header_len,
    })
}

/// Reads an IPv6 header at `offset`, taking what follows for the transport header.
#[inline(always)]
pub fn ipv6_fixed<E: Env>(env: &E, offset: u32) -> Result<Network<V6>, DropReason> {
    let Some(ip) = env.load::<header::Ipv6>(offset) else { return Err(DropReason::Invalid) };
    if u32::from_be(ip.version_class_flow_be) >> 28 != 6 {
        return Err(DropReason::Invalid);
    }
    Ok(Network {
        src: Wide6 { halves: ip.src },
        dst: Wide6 { halves: ip.dst },
        protocol: ip.next_header,
        ttl: ip.hop_limit,
        fragment: Fragment::No,
        id: 0,
        l4: offset + 40,
    })
}

/// Reads an IPv6 header at `offset` and its extension headers.
#[inline(always)]
pub fn ipv6<E: Env>(env: &E, offset: u32) -> Result<Network<V6>, DropReason> {
    let mut network = ipv6_fixed(env, offset)?;
    let mut seen = 0;
    loop {
        match network.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION | protocol::AUTH => {
                let Some([next, len]) = env.load::<[u8; 2]>(network.l4) else { return Err(DropReason::Invalid) };
                let len = len as u32;
                let len = if network.protocol == protocol::AUTH { (len + 2) << 2 } else { (len + 1) << 3 };
                if len > EXTENSION_LEN {
                    return Err(DropReason::ExtensionHeader);
                }
                network.protocol = next;
                network.l4 += len;
            }
            protocol::FRAGMENT => {
                let Some(part) = env.load::<header::Ipv6Fragment>(network.l4) else { return Err(DropReason::Invalid) };
                let bits = u16::from_be(part.offset_be);
                if bits & 0xfff8 != 0 {
                    network.fragment = Fragment::Later;
                } else if bits & 1 != 0 {
                    network.fragment = Fragment::First;
                }
                network.id = part.id;
                network.protocol = part.next_header;
                network.l4 += 8;
                // What follows in a later fragment is payload, whatever it looks like.
                if bits & 0xfff8 != 0 {
                    break;
                }
            }
            protocol::NO_NEXT => return Err(DropReason::UnknownTransport),
            _ => break,
        }
        seen += 1;
        if seen == EXTENSION_HEADERS {
            break;
        }
    }
    // Four were read, and yet another follows.
    if network.fragment != Fragment::Later
        && matches!(
            network.protocol,
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION | protocol::AUTH | protocol::FRAGMENT
        )
    {
        return Err(DropReason::ExtensionHeader);
    }
    network.l4 = env.forget(network.l4 as u64) as u32;
    Ok(network)
}

/// What stands for ports in ICMP: an echo's identifier is at the end that asked. Everything else has none.
#[inline(always)]
pub fn echo_ports<F: Family>(icmp: &header::Icmp) -> (Port, Port) {
    let (request, reply) = if F::IPV6 { (128, 129) } else { (8, 0) };
    let id = Port::from_raw(icmp.id);
    let none = Port::from_raw(0);
    if icmp.kind == request {
        (id, none)
    } else if icmp.kind == reply {
        (none, id)
    } else {
        (none, none)
    }
}

/// Reads the transport header, or recalls it when the packet is a later fragment.
#[inline(always)]
pub fn transport<F: Family, E: Env + FamilyMaps<F>>(env: &mut E, network: &Network<F>) -> Result<Flow<F>, DropReason> {
    let mut flow = Flow::<F>::of(network);
    if network.fragment != Fragment::No && !config::enabled(env.node(), NODE_TRACK_FRAGMENTS) {
        return Err(DropReason::Fragment);
    }
    if network.fragment == Fragment::Later {
        let key = F::frag_key(&network.src, &network.dst, network.id, network.protocol);
        let Some(ports) = maps::fragment::<F, E>(env, &key) else { return Err(DropReason::FragmentUnknown) };
        flow.src.port = ports.sport;
        flow.dst.port = ports.dport;
        return Ok(flow);
    }
    header::<F, E>(env, network, &mut flow)?;
    flow.forget(env);
    if network.fragment == Fragment::First {
        let key = F::frag_key(&network.src, &network.dst, network.id, network.protocol);
        // Without the entry the later fragments are dropped by name; this one may pass.
        let _ = maps::track_fragment::<F, E>(env, &key, &FragPorts { sport: flow.src.port, dport: flow.dst.port });
    }
    Ok(flow)
}

/// Reads the transport header.
#[inline(always)]
fn header<F: Family, E: Env>(env: &E, network: &Network<F>, flow: &mut Flow<F>) -> Result<(), DropReason> {
    match network.protocol {
        protocol::TCP => {
            let Some(tcp) = env.load::<header::Tcp>(network.l4) else { return Err(DropReason::InvalidTransport) };
            let open_and_close = tcp_flags::SYN | tcp_flags::FIN;
            if tcp.data_offset < 0x50 || tcp.flags & open_and_close == open_and_close {
                return Err(DropReason::InvalidTransport);
            }
            flow.src.port = Port::from_raw(tcp.sport);
            flow.dst.port = Port::from_raw(tcp.dport);
            flow.set_tcp(tcp.flags);
        }
        protocol::UDP => {
            let Some(udp) = env.load::<header::Udp>(network.l4) else { return Err(DropReason::InvalidTransport) };
            flow.src.port = Port::from_raw(udp.sport);
            flow.dst.port = Port::from_raw(udp.dport);
        }
        protocol::SCTP => {
            let Some(sctp) = env.load::<header::Sctp>(network.l4) else { return Err(DropReason::InvalidTransport) };
            flow.src.port = Port::from_raw(sctp.sport);
            flow.dst.port = Port::from_raw(sctp.dport);
        }
        other if other == F::ICMP => {
            let Some(icmp) = env.load::<header::Icmp>(network.l4) else { return Err(DropReason::InvalidTransport) };
            let (sport, dport) = echo_ports::<F>(&icmp);
            flow.src.port = sport;
            flow.dst.port = dport;
            flow.bits |= (icmp.kind as u64) << place::ICMP_TYPE | (icmp.code as u64) << place::ICMP_CODE;
        }
        _ => return Err(DropReason::UnknownTransport),
    }
    Ok(())
}
