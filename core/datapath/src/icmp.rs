//! ICMP errors: those that are about a known connection, and those the node itself sends to a pod.
//!
//! An error quotes the packet it is about. If that packet belongs to a connection known at this side, the error
//! shares its fate: it needs no rule of its own, and its quotation is translated back where the connection is.
//! An error never opens a connection and never keeps one alive.

use abi::be::Port;
use abi::ct::{CT_DSR, CT_INBOUND, CT_LB_LOOPBACK, CT_NODE_PORT, CT_SERVICE};
use abi::lb::{RATE_ICMPV6, RateBucket, RateKey};
use core::mem::offset_of;
use wire::header;

use crate::checksum;
use crate::config;
use crate::conntrack::Moment;
use crate::env::{Env, FamilyMaps};
use crate::family::{End, Family};
use crate::maps;
use crate::nat;
use crate::nodeport::env::NodeportEnv;
use crate::parse::{self, Flow, Fragment, L3};
use crate::policy::{self, Local, Peer, Question};
use crate::verdict::DropReason;

/// Bytes from an ICMP header to the quoted packet.
pub(crate) const QUOTED: u32 = 8;

/// The connection an error is about.
#[derive(Clone, Copy, Debug)]
pub struct Related<F: Family> {
    /// Whether one is known; otherwise nothing else here means anything.
    pub known: bool,
    /// The end of the quoted packet that is to be translated back, and into what. Index 0: none.
    pub rev_nat: Port,
    /// [`CT_NODE_PORT`] and [`CT_DSR`] of the connection: the far end reached the pod through a frontend, with the reverse NAT index
    /// `rev_nat` or, with the latter, at `backend`.
    pub through: u16,
    /// The quoted packet was sent to a service's client (its source is the frontend); otherwise its destination is a backend.
    pub to_backend: bool,
    /// Backend to put in the frontend's place, when `to_backend`.
    pub backend: End<F::Addr>,
    /// The end of the quoted packet that is to be replaced.
    pub quoted_remote: End<F::Addr>,
    /// Offset of the quoted transport header.
    pub quoted_l4: u32,
    /// Transport protocol of the quoted packet.
    pub protocol: u8,
    /// Identity of the remote end.
    pub peer_identity: u32,
}

/// The ends of a quoted packet, seen from whoever sends the error: its destination and source.
#[derive(Clone, Copy)]
pub(crate) struct Quotation<F: Family> {
    /// Whether it could be read; otherwise nothing else here means anything.
    pub known: bool,
    /// Its source.
    pub sender: End<F::Addr>,
    /// Its destination.
    pub receiver: End<F::Addr>,
    /// Its transport protocol.
    pub protocol: u8,
    /// Offset of its transport header.
    pub l4: u32,
}

/// Reads the quoted packet.
#[inline(always)]
pub(crate) fn quotation<F: Family, E: Env>(env: &E, flow: &Flow<F>) -> Quotation<F> {
    let nothing = End { addr: F::UNSPECIFIED, port: Port::from_raw(0) };
    let mut quoted = Quotation::<F> { known: false, sender: nothing, receiver: nothing, protocol: 0, l4: 0 };
    let Ok(network) = F::quoted(env, flow.l4 + QUOTED) else { return quoted };
    if network.fragment == Fragment::Later {
        return quoted;
    }
    let (sport, dport) = if network.protocol == F::ICMP {
        let Some(icmp) = env.load::<header::Icmp>(network.l4) else { return quoted };
        parse::echo_ports::<F>(&icmp)
    } else {
        let Some([sport, dport]) = env.load::<[u16; 2]>(network.l4) else { return quoted };
        (Port::from_raw(sport), Port::from_raw(dport))
    };
    quoted.known = true;
    quoted.sender = End { addr: network.src, port: sport };
    quoted.receiver = End { addr: network.dst, port: dport };
    quoted.protocol = network.protocol;
    quoted.l4 = network.l4;
    quoted
}

/// Finds the connection an error is about. `outbound`: the error comes from the local end.
#[inline(always)]
pub fn related<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    flow: &Flow<F>,
    local: &Local,
    outbound: bool,
    now: &Moment,
) -> Result<Related<F>, DropReason> {
    let quoted = quotation::<F, E>(env, flow);
    let mut related = Related::<F> {
        known: false,
        rev_nat: Port::from_raw(0),
        through: 0,
        to_backend: false,
        backend: quoted.sender,
        quoted_remote: quoted.sender,
        quoted_l4: quoted.l4,
        protocol: quoted.protocol,
        peer_identity: 0,
    };
    // The local end received what the error of an outbound packet quotes, and sent what that of an inbound one does.
    let (here, there) = if outbound { (quoted.receiver, quoted.sender) } else { (quoted.sender, quoted.receiver) };
    let own = if outbound { flow.src.addr } else { flow.dst.addr };
    if !quoted.known || here.addr != own {
        return Ok(related);
    }
    related.quoted_remote = there;
    let tcp = quoted.protocol == wire::protocol::TCP;
    let key = F::ct_key(&here, &there, quoted.protocol);
    let Some(entry) = maps::connection::<F, E>(env, tcp, &key) else { return Ok(related) };
    let nat = F::nat(entry);
    let connection = *F::connection(entry);
    // A pod's errors to itself through a service are left to policy.
    if connection.lifetime <= now.seconds || connection.flags & CT_LB_LOOPBACK != 0 {
        return Ok(related);
    }
    related.known = true;
    related.peer_identity = connection.peer_identity;
    related.rev_nat = connection.rev_nat_index;
    related.through = connection.flags & (CT_NODE_PORT | CT_DSR);
    related.to_backend = connection.flags & CT_SERVICE != 0;
    related.backend = nat;
    if connection.policy_revision != now.policy && !related.to_backend {
        let inbound = connection.flags & CT_INBOUND != 0;
        let port = if quoted.protocol == F::ICMP {
            nat.port
        } else if inbound {
            here.port
        } else {
            there.port
        };
        let question = Question { ingress: inbound, protocol: quoted.protocol, port, icmp_code: 0 };
        let peer: Peer = policy::peer::<F, E>(env, &there.addr);
        let judgement = policy::judge::<F, E>(env, local, &peer, &question);
        if let Some(reason) = judgement.denial() {
            return Err(reason);
        }
    }
    Ok(related)
}

/// Translates an error about a service's connection back: the end of the quoted packet, and the error's own
/// source (or destination, when `outbound`) where it is the same end.
#[inline(always)]
pub fn translate<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
    related: &Related<F>,
    outbound: bool,
) -> Result<(), DropReason> {
    let new = if related.to_backend && outbound {
        related.backend
    } else if !related.to_backend && related.rev_nat.raw != 0 && related.through == 0 && !outbound {
        let Some(entry) = maps::reverse_nat::<F, E>(env, related.rev_nat) else { return Ok(()) };
        F::frontend(entry)
    } else {
        return Ok(());
    };
    let old = related.quoted_remote;
    // Outbound: the remote end sent what is quoted. Inbound: it was to receive it.
    let quoted_source = outbound;
    let quoted_l3 = flow.l4 + QUOTED;
    let address = F::difference(&old.addr, &new.addr);
    let mut changed = address;
    if env.store(quoted_l3 + if quoted_source { F::SRC } else { F::DST }, &new.addr).is_none() {
        return Err(DropReason::Write);
    }
    if !F::IPV6 {
        changed = checksum::add(changed, nat::patch_header(env, quoted_l3, address)?);
    }
    if related.protocol != F::ICMP && old.port != new.port {
        changed = checksum::add(changed, nat::port_difference(old.port, new.port));
        if env.store(related.quoted_l4 + if quoted_source { 0 } else { 2 }, &new.port).is_none() {
            return Err(DropReason::Write);
        }
    }
    let sum = flow.l4 + offset_of!(header::Icmp, checksum) as u32;
    if env.patch_l4_checksum(sum, 0, changed, false).is_none() {
        return Err(DropReason::Write);
    }
    let (outer, which) = if outbound { (flow.dst, nat::Which::Destination) } else { (flow.src, nat::Which::Source) };
    if outer.addr == old.addr {
        nat::rewrite(env, flow, which, &End { addr: new.addr, port: outer.port })?;
    }
    Ok(())
}

/// Which error the node sends to a pod, or to a client outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The destination, a service, has nobody behind it.
    Unreachable,
    /// Time to live is used up here.
    TimeExceeded,
    /// The packet is longer than what the way to the backend takes, this many bytes.
    TooBig(u32),
}

impl Complaint {
    /// What is said about a packet that was dropped for the reason with this number.
    #[inline(always)]
    pub fn about<E: Env>(env: &E, reason: u8, ipv6: bool) -> Self {
        if reason == DropReason::NoBackend as u8 {
            Self::Unreachable
        } else if reason == DropReason::FragmentationNeeded as u8 {
            Self::TooBig(config::forwarded_mtu(env.node(), ipv6))
        } else {
            Self::TimeExceeded
        }
    }

    /// The second word of the message, in host order.
    #[inline(always)]
    const fn rest(self) -> u32 {
        match self {
            Self::TooBig(mtu) => mtu,
            _ => 0,
        }
    }
}

/// Tokens of a full bucket, and how many a second adds (reference: rate limit of ICMPv6).
const BUCKET: u64 = 1000;
const REFILL: u64 = 100;
const SECOND_NS: u64 = 1_000_000_000;

/// Whether the node may send yet another error at this interface. To pods it always may: each answers one packet of theirs.
#[inline(always)]
pub fn may_complain<E: NodeportEnv>(env: &mut E) -> bool {
    let ifindex = env.ifindex();
    if env.device(ifindex).is_some() {
        return true;
    }
    let (key, now) = (RateKey { usage: RATE_ICMPV6, ifindex }, env.now_ns());
    if let Some(bucket) = env.bucket(&key) {
        let passed = now.wrapping_sub(bucket.last_topup) / SECOND_NS;
        if passed != 0 {
            bucket.tokens = bucket.tokens.wrapping_add(passed.min(BUCKET) * REFILL).min(BUCKET);
            bucket.last_topup = now;
        }
        if bucket.tokens == 0 {
            return false;
        }
        bucket.tokens -= 1;
        return true;
    }
    env.set_bucket(&key, &RateBucket { last_topup: now, tokens: BUCKET - 1 }).is_some()
}

/// Sum of the words of a block.
#[inline(always)]
fn sum<const N: usize>(words: &[u32; N]) -> u32 {
    let mut total = 0;
    for word in words {
        total = checksum::add(total, *word);
    }
    total
}

/// Sum of an IPv4 header without options.
#[inline(always)]
fn header_sum(ip: &header::Ipv4) -> u32 {
    let words: [u32; 5] = zerocopy::transmute!(*ip);
    sum(&words)
}

/// Replaces an IPv4 packet by an ICMP error about it, addressed to the pod it came from. `None`: it gets none.
#[inline(always)]
pub fn complain4<E: Env>(env: &mut E, complaint: Complaint) -> Option<()> {
    let quoted: header::Ipv4 = env.load(L3)?;
    // No complaint about what has options, is a later fragment, or is ICMP other than an echo request.
    let icmp = quoted.protocol == wire::protocol::ICMP;
    if quoted.version_ihl != 0x45
        || quoted.fragment_be & 0x1fff_u16.to_be() != 0
        || (icmp && env.load::<u8>(L3 + 20)? != 8)
    {
        return None;
    }
    let start: [u32; 2] = env.load(L3 + 20)?;
    let (kind, code, src) = match complaint {
        Complaint::Unreachable => (3, 3, quoted.dst),
        Complaint::TimeExceeded => (11, 0, crate::family::V4::router(env).raw),
        Complaint::TooBig(_) => (3, 4, crate::family::V4::router(env).raw),
    };
    let mut ip = header::Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_len_be: 56u16.to_be(),
        id_be: 0,
        fragment_be: 0,
        ttl: 64,
        protocol: wire::protocol::ICMP,
        checksum: 0,
        src,
        dst: quoted.src,
    };
    ip.checksum = checksum::fold(header_sum(&ip));
    let first = u32::from_ne_bytes([kind, code, 0, 0]);
    let rest = complaint.rest().to_be();
    let total = checksum::add(checksum::add(checksum::add(first, rest), header_sum(&quoted)), sum(&start));
    let [high, low] = checksum::fold(total).to_ne_bytes();
    env.resize(L3 + 56)?;
    env.store(L3, &ip)?;
    env.store(L3 + 20, &[u32::from_ne_bytes([kind, code, high, low]), rest])?;
    env.store(L3 + 28, &quoted)?;
    env.store(L3 + 48, &start)?;
    send_back(env)
}

/// Replaces an IPv6 packet by an ICMP error about it, addressed to the pod it came from. `None`: it gets none.
#[inline(always)]
pub fn complain6<E: Env>(env: &mut E, complaint: Complaint) -> Option<()> {
    let quoted: header::Ipv6 = env.load(L3)?;
    let icmp = quoted.next_header == wire::protocol::ICMPV6;
    if icmp && env.load::<u8>(L3 + 40)? != 128 {
        return None;
    }
    let start: [u32; 2] = env.load(L3 + 40)?;
    let (kind, code, src) = match complaint {
        Complaint::Unreachable => (1, 4, quoted.dst),
        Complaint::TimeExceeded => (3, 0, crate::family::V6::router(env).halves),
        Complaint::TooBig(_) => (2, 0, crate::family::V6::router(env).halves),
    };
    let ip = header::Ipv6 {
        version_class_flow_be: (6u32 << 28).to_be(),
        payload_len_be: 56u16.to_be(),
        next_header: wire::protocol::ICMPV6,
        hop_limit: 64,
        src,
        dst: quoted.src,
    };
    let words: [u32; 10] = zerocopy::transmute!(quoted);
    let first = u32::from_ne_bytes([kind, code, 0, 0]);
    let rest = complaint.rest().to_be();
    let mut total = checksum::add(checksum::add(rest, 56u32.to_be()), (wire::protocol::ICMPV6 as u32).to_be());
    total = checksum::add(total, sum::<8>(&zerocopy::transmute!([ip.src, ip.dst])));
    total = checksum::add(total, checksum::add(first, checksum::add(sum(&words), sum(&start))));
    let [high, low] = checksum::fold(total).to_ne_bytes();
    env.resize(L3 + 96)?;
    env.store(L3, &ip)?;
    env.store(L3 + 40, &[u32::from_ne_bytes([kind, code, high, low]), rest])?;
    env.store(L3 + 48, &quoted)?;
    env.store(L3 + 88, &start)?;
    send_back(env)
}

/// Addresses the frame to where it came from.
#[inline(always)]
fn send_back<E: Env>(env: &mut E) -> Option<()> {
    if let Some(device) = env.device(env.ifindex()) {
        let (mac, node_mac) = (device.mac, device.node_mac);
        return nat::write_macs(env, &mac, &node_mac).ok();
    }
    let [a, b, c, d, e, f]: [u16; 6] = env.load(0)?;
    env.store(0, &[d, e, f, a, b, c])
}
