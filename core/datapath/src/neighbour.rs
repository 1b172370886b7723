//! ARP and IPv6 neighbour discovery on behalf of a pod's surroundings.
//!
//! To a pod everything is behind its host-side interface, so every question is answered with that interface's MAC
//! address, without asking anybody. What a pod tells the host about itself goes to the host's stack.

use abi::be::{Addr6, Wide6};
use abi::endpoint::{Device, ENDPOINT_HOST, EndpointKey};
use wire::{header, protocol};

use crate::checksum;
use crate::env::Env;
use crate::family::{Family, V6};
use crate::nat;
use crate::parse::{L3, Network};
use crate::verdict::{DropReason, Verdict};

/// Router solicitation.
const SOLICIT_ROUTER: u8 = 133;
/// Neighbour solicitation.
const SOLICIT: u8 = 135;
/// Neighbour advertisement.
const ADVERTISE: u8 = 136;
/// Hop limit of everything that did not come through a router.
const ON_LINK: u8 = 255;

/// Bytes of an advertisement with its one option.
const ADVERTISEMENT_LEN: u32 = 32;

/// Who stands behind the interface that is asked.
#[inline(always)]
fn asked<E: Env>(env: &E) -> Result<Device, DropReason> {
    match env.device(env.ifindex()) {
        Some(device) => Ok(*device),
        None => Err(DropReason::NotReady),
    }
}

/// Answers an ARP request from a pod; everything else goes to the stack.
#[inline(always)]
pub fn arp<E: Env>(env: &mut E) -> Result<Verdict, DropReason> {
    let device = asked(env)?;
    let Some(arp) = env.load::<header::Arp>(L3) else { return Err(DropReason::Invalid) };
    let request = arp.hardware_be == 1u16.to_be()
        && arp.protocol_be == wire::ETHERTYPE_IPV4.to_be()
        && arp.lengths == [6, 4]
        && arp.operation_be == 1u16.to_be();
    if !request || u32::from_ne_bytes(arp.target_ip) == device.ipv4.raw {
        return Ok(Verdict::PASS);
    }
    let [a, b, c, d, e, f, _, _] = device.node_mac;
    let reply = header::Arp {
        operation_be: 2u16.to_be(),
        sender_mac: [a, b, c, d, e, f],
        sender_ip: arp.target_ip,
        target_mac: arp.sender_mac,
        target_ip: arp.sender_ip,
        ..arp
    };
    if env.store(L3, &reply).is_none() {
        return Err(DropReason::Write);
    }
    nat::write_macs(env, &device.mac, &device.node_mac)?;
    Ok(Verdict::redirect(env.ifindex()))
}

/// What neighbour discovery makes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// It is something else.
    No,
    /// It is for the stack.
    Stack,
    /// A solicitation that may be ours to answer.
    Solicitation,
}

/// Whether a packet is neighbour discovery.
#[inline(always)]
pub fn discovery<E: Env>(env: &E, network: &Network<V6>) -> Discovery {
    if network.protocol != protocol::ICMPV6 || network.ttl != ON_LINK {
        return Discovery::No;
    }
    let Some(icmp) = env.load::<header::Icmp>(network.l4) else { return Discovery::No };
    match icmp.kind {
        SOLICIT => Discovery::Solicitation,
        SOLICIT_ROUTER | ADVERTISE => Discovery::Stack,
        _ => Discovery::No,
    }
}

/// Answers a neighbour solicitation from a pod.
#[inline(always)]
pub fn solicited<E: Env>(env: &mut E, network: &Network<V6>) -> Result<Verdict, DropReason> {
    let device = asked(env)?;
    let target_at = network.l4 + 8;
    let Some(target) = env.load::<Wide6>(target_at) else { return Err(DropReason::Invalid) };
    // Somebody makes sure that an address is free: silence says that it is. Link-local addresses the host answers for itself.
    let [first, ..] = Addr6::from(target).words;
    let link_local = u32::from_be(first) & 0xffc0_0000 == 0xfe80_0000;
    if network.src == V6::UNSPECIFIED || link_local || target == device.ipv6.into() {
        return Ok(Verdict::PASS);
    }
    if target != V6::router(env) {
        let Some(endpoint) = env.endpoint(&EndpointKey::v6(target.into())) else {
            return Err(DropReason::UnknownTarget);
        };
        if endpoint.flags & ENDPOINT_HOST != 0 {
            return Ok(Verdict::PASS);
        }
    }
    // An answer has no extension headers, so the question must have none.
    if network.l4 != L3 + 40 {
        return Err(DropReason::ExtensionHeader);
    }
    advertise(env, &device, network, &target)
}

/// Turns a solicitation into the advertisement of `target`.
#[inline(always)]
fn advertise<E: Env>(
    env: &mut E,
    device: &Device,
    network: &Network<V6>,
    target: &Wide6,
) -> Result<Verdict, DropReason> {
    let [a, b, c, d, e, f, _, _] = device.node_mac;
    let [t0, t1, t2, t3] = Addr6::from(*target).words;
    // Type and code, checksum; router, solicited and override flags; target; its link-layer address.
    let mut body = [
        u32::from_ne_bytes([ADVERTISE, 0, 0, 0]),
        0xe000_0000_u32.to_be(),
        t0,
        t1,
        t2,
        t3,
        u32::from_ne_bytes([2, 1, a, b]),
        u32::from_ne_bytes([c, d, e, f]),
    ];
    let mut sum = checksum::add(ADVERTISEMENT_LEN.to_be(), (protocol::ICMPV6 as u32).to_be());
    let [s0, s1, s2, s3] = Addr6::from(network.src).words;
    let [b0, b1, b2, b3, b4, b5, b6, b7] = body;
    for word in [s0, s1, s2, s3, t0, t1, t2, t3, b0, b1, b2, b3, b4, b5, b6, b7] {
        sum = checksum::add(sum, word);
    }
    let [sum0, sum1] = checksum::fold(sum).to_ne_bytes();
    body = [u32::from_ne_bytes([ADVERTISE, 0, sum0, sum1]), b1, b2, b3, b4, b5, b6, b7];
    let ip = header::Ipv6 {
        version_class_flow_be: (6u32 << 28).to_be(),
        payload_len_be: (ADVERTISEMENT_LEN as u16).to_be(),
        next_header: protocol::ICMPV6,
        hop_limit: ON_LINK,
        src: target.halves,
        dst: network.src.halves,
    };
    let stored = env.resize(L3 + 40 + ADVERTISEMENT_LEN).is_some()
        && env.store(L3, &ip).is_some()
        && env.store(L3 + 40, &body).is_some();
    if !stored {
        return Err(DropReason::Write);
    }
    nat::write_macs(env, &device.mac, &device.node_mac)?;
    Ok(Verdict::redirect(env.ifindex()))
}
