//! May these two talk: one look-up in `cilium_policy`, and what its answer means for this endpoint.
//!
//! The map already holds final verdicts, so nothing here weighs one rule against another. A miss means denied where
//! policy is enforced and allowed where it is not; an entry is obeyed in either case.

use abi::be::Port;
use abi::config::{NODE_ALLOW_LOCALHOST, NODE_AUDIT};
use abi::endpoint::{DEVICE_AUDIT, DEVICE_CLOSED, DEVICE_ENFORCE_EGRESS, DEVICE_ENFORCE_INGRESS, Device};
use abi::policy::{EGRESS, INGRESS, MatchType, POLICY_DENY, PolicyKey};
use wire::protocol;

use crate::config;
use crate::env::Env;
use crate::family::Family;
use crate::verdict::DropReason;

/// Identity of the host.
pub const IDENTITY_HOST: u32 = 1;
/// Identity of other nodes.
pub const IDENTITY_REMOTE_NODE: u32 = 6;
/// Identity of nodes that run the Kubernetes API server.
pub const IDENTITY_KUBE_APISERVER: u32 = 7;
/// Identities from this bit on stand for CIDRs and are known to one node only.
const LOCAL_SCOPE: u32 = 1 << 24;

/// The local endpoint, as far as policy is concerned. A copy, so that one packet sees one policy.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    /// Security identity.
    pub identity: u32,
    /// Policy id.
    pub policy: u32,
    /// Endpoint id.
    pub lxc_id: u16,
    /// `DEVICE_*` bits.
    pub flags: u16,
}

impl Local {
    /// The endpoint behind a device.
    #[inline(always)]
    pub fn of(device: &Device) -> Self {
        Self { identity: device.identity, policy: device.policy, lxc_id: device.lxc_id, flags: device.flags }
    }

    /// Whether nothing may pass because its policy is not known yet.
    #[inline(always)]
    pub fn is_closed(&self) -> bool {
        self.flags & DEVICE_CLOSED != 0
    }
}

/// Who is at the far end.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Security identity.
    pub identity: u32,
    /// Identity class.
    pub class: u32,
}

/// Who is behind `addr`, by the ipcache.
#[inline(always)]
pub fn peer<F: Family, E: Env>(env: &E, addr: &F::Addr) -> Peer {
    match env.ipcache(&F::ipcache_key(addr)) {
        Some(entry) => Peer { identity: entry.identity, class: entry.class },
        None => Peer { identity: F::world(env), class: 0 },
    }
}

/// Whether `identity` is the world's or that of a part of it: nobody of the cluster, as far as the ipcache knows.
#[inline(always)]
pub fn is_outside<F: Family, E: Env>(env: &E, identity: u32) -> bool {
    identity == F::world(env) || identity & LOCAL_SCOPE != 0
}

/// Whether `identity` is that of another node.
#[inline(always)]
pub const fn is_node(identity: u32) -> bool {
    identity == IDENTITY_REMOTE_NODE || identity == IDENTITY_KUBE_APISERVER
}

/// Who is behind `addr`, which belongs to a pod of this node with this `identity`.
///
/// While the ipcache does not know the pod yet, a prefix of the world around it must not lend it its class.
#[inline(always)]
pub fn local_peer<F: Family, E: Env>(env: &E, addr: &F::Addr, identity: u32) -> Peer {
    let peer = peer::<F, E>(env, addr);
    if is_outside::<F, E>(env, peer.identity) {
        return Peer { identity, class: 0 };
    }
    Peer { identity, class: peer.class }
}

/// What policy says about a packet that opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Drop code; 0: allowed.
    pub drop: u8,
    /// [`MatchType`] number.
    pub match_type: u8,
    /// Authentication type demanded.
    pub auth_type: u8,
    /// Allowed only because policy is audited.
    pub audited: bool,
    /// Proxy to redirect to, 0: none.
    pub proxy_port: Port,
    /// Rule that decided.
    pub cookie: u32,
}

impl Judgement {
    /// Allowed, or the reason to drop.
    #[inline(always)]
    pub fn denial(&self) -> Option<DropReason> {
        match self.drop {
            0 => None,
            189 => Some(DropReason::AuthRequired),
            181 => Some(DropReason::PolicyDeny),
            _ => Some(DropReason::Policy),
        }
    }
}

/// What is asked of the policy.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Whether the local endpoint is the destination.
    pub ingress: bool,
    /// Transport protocol.
    pub protocol: u8,
    /// Destination port, or ICMP type as a number.
    pub port: Port,
    /// ICMP code; otherwise 0.
    pub icmp_code: u8,
}

/// Asks whether `local` may talk with `peer`.
#[inline(always)]
pub fn judge<F: Family, E: Env>(env: &E, local: &Local, peer: &Peer, question: &Question) -> Judgement {
    let direction = if question.ingress { INGRESS } else { EGRESS };
    let key = PolicyKey::lookup(local.policy, peer.class, direction, question.protocol, question.port);
    let mut judgement = Judgement {
        drop: DropReason::Policy as u8,
        match_type: MatchType::None as u8,
        auth_type: 0,
        audited: false,
        proxy_port: Port::from_raw(0),
        cookie: 0,
    };
    if let Some(entry) = env.policy(&key) {
        judgement.match_type = entry.match_type;
        judgement.cookie = entry.cookie;
        if entry.flags & POLICY_DENY != 0 {
            judgement.drop = DropReason::PolicyDeny as u8;
        } else if entry.auth_type != 0 {
            judgement.auth_type = entry.auth_type;
            judgement.drop = DropReason::AuthRequired as u8;
        } else {
            judgement.proxy_port = entry.proxy_port;
            judgement.drop = 0;
        }
    } else if allowed_without_entry::<F, E>(env, local, peer, question) {
        judgement.match_type = MatchType::All as u8;
        judgement.drop = 0;
    }
    if judgement.drop != 0 && (local.flags & DEVICE_AUDIT != 0 || config::enabled(env.node(), NODE_AUDIT)) {
        judgement.drop = 0;
        judgement.audited = true;
    }
    judgement
}

/// What passes although no entry says so.
#[inline(always)]
fn allowed_without_entry<F: Family, E: Env>(env: &E, local: &Local, peer: &Peer, question: &Question) -> bool {
    let enforced = if question.ingress { DEVICE_ENFORCE_INGRESS } else { DEVICE_ENFORCE_EGRESS };
    if local.flags & enforced == 0 {
        return true;
    }
    if question.ingress && peer.identity == IDENTITY_HOST && config::enabled(env.node(), NODE_ALLOW_LOCALHOST) {
        return true;
    }
    // Path MTU discovery must work whatever the policy (reference: fragmentation needed is always allowed).
    !F::IPV6 && question.protocol == protocol::ICMP && question.port.host() == 3 && question.icmp_code == 4
}
