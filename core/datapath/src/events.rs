//! Counters and event records: what is told about a packet, and to whom it is attributed.
//!
//! Aggregation (reference: monitor aggregation): at level none every packet is traced at every point; from low on,
//! packets are not traced where they come in; at medium and above only what is new about a connection is traced:
//! its first packet, TCP flags not seen before, and one packet in each interval. Drops and denials are
//! always told. Nothing limits their rate: a full ring buffer loses records, never packets.

use abi::event::{
    DropNotify, NOTIFY_DROP, NOTIFY_POLICY_VERDICT, NOTIFY_TRACE, PAYLOAD_LEN, PolicyVerdictNotify, TraceNotify, point,
};
use abi::metrics::{DIR_EGRESS, DIR_INGRESS, MetricsKey};
use zerocopy::transmute;

use crate::config;
use crate::env::Env;
use crate::family::{Family, V4, V6};
use crate::parse::L3;
use crate::policy::Judgement;
use crate::verdict::Verdict;

/// To whom what happens to a packet is attributed; filled in as it becomes known.
///
/// Packed into words: a report lives as long as its packet, and apart each field would take eight bytes of stack.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Hash of the flow (high half) and identity of the source.
    source: u64,
    /// Endpoint it goes to when local (high 16 bits), endpoint at whose side it is (16 bits), identity of the destination.
    destination: u64,
    /// [`Outcome`], then `INGRESS` and `IPV6`.
    told: u32,
}

/// Bit of [`Report::told`]: the packet is at its destination's side.
const INGRESS: u32 = 1 << 24;
/// Bit of [`Report::told`]: it is IPv6.
const IPV6: u32 = 1 << 25;
/// Bit of [`Report::told`]: whoever sent it hears of it when it is dropped for certain reasons.
const ANSWERED: u32 = 1 << 26;
/// The bits of [`Report::told`] that hold the [`Outcome`].
const OUTCOME: u32 = 0xff_ffff;

impl Report {
    /// About a packet of which nothing is known yet.
    #[inline(always)]
    pub const fn new(ingress: bool) -> Self {
        Self { source: 0, destination: 0, told: Outcome::at(UNTOLD, 0, false).bits | if ingress { INGRESS } else { 0 } }
    }
    /// The report as words.
    #[inline(always)]
    pub(crate) const fn words(&self) -> (u64, u64, u32) {
        (self.source, self.destination, self.told)
    }
    /// A report of its words.
    #[inline(always)]
    pub(crate) const fn from_words(source: u64, destination: u64, told: u32) -> Self {
        Self { source, destination, told }
    }
    /// Sets the hash of the flow.
    #[inline(always)]
    pub fn set_hash(&mut self, hash: u32) {
        self.source = self.source & 0xffff_ffff | (hash as u64) << 32;
    }
    /// Sets the identity of the source.
    #[inline(always)]
    pub fn set_src_identity(&mut self, identity: u32) {
        self.source = self.source & !0xffff_ffff | identity as u64;
    }
    /// Sets the identity of the destination.
    #[inline(always)]
    pub fn set_dst_identity(&mut self, identity: u32) {
        self.destination = self.destination & !0xffff_ffff | identity as u64;
    }
    /// Sets the endpoint at whose side the packet is.
    #[inline(always)]
    pub fn set_endpoint(&mut self, id: u16) {
        self.destination = self.destination & !0xffff_0000_0000 | (id as u64) << 32;
    }
    /// Sets the endpoint the packet goes to.
    #[inline(always)]
    pub fn set_dst_endpoint(&mut self, id: u16) {
        self.destination = self.destination & !0xffff_0000_0000_0000 | (id as u64) << 48;
    }
    /// The packet is at its destination's side now.
    #[inline(always)]
    pub fn set_ingress(&mut self) {
        self.told |= INGRESS;
    }
    /// The packet is IPv6.
    #[inline(always)]
    pub fn set_ipv6(&mut self) {
        self.told |= IPV6;
    }
    /// A pod of this node sent the packet, and is told by ICMP why it was dropped where that is due.
    #[inline(always)]
    pub fn set_answered(&mut self) {
        self.told |= ANSWERED;
    }
    /// What is to be told about the packet if it is forwarded.
    #[inline(always)]
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.told = self.told & !OUTCOME | outcome.bits;
    }
    /// See [`Env::forget`].
    #[inline(always)]
    pub fn forget<E: Env>(&mut self, env: &E) {
        self.told = env.forget(self.told as u64) as u32;
    }
    /// Hash of the flow.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        (self.source >> 32) as u32
    }
    /// Identity of the source.
    #[inline(always)]
    pub fn src_identity(&self) -> u32 {
        self.source as u32
    }
    /// Identity of the destination.
    #[inline(always)]
    pub fn dst_identity(&self) -> u32 {
        self.destination as u32
    }
    /// Endpoint at whose side the packet is.
    #[inline(always)]
    pub fn endpoint(&self) -> u16 {
        (self.destination >> 32) as u16
    }
    /// Endpoint the packet goes to, when local.
    #[inline(always)]
    pub fn dst_endpoint(&self) -> u16 {
        (self.destination >> 48) as u16
    }
    /// Whether the packet is at its destination's side.
    #[inline(always)]
    pub fn ingress(&self) -> bool {
        self.told & INGRESS != 0
    }
    /// Whether it is IPv6.
    #[inline(always)]
    pub fn ipv6(&self) -> bool {
        self.told & IPV6 != 0
    }
    /// Whether a pod of this node is told why it was dropped.
    #[inline(always)]
    pub fn answered(&self) -> bool {
        self.told & ANSWERED != 0
    }
    /// What is to be told about it.
    #[inline(always)]
    pub fn outcome(&self) -> Outcome {
        Outcome { bits: self.told & OUTCOME }
    }
}

/// What is to be told about a forwarded packet, once it has been rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Observation point (8 bits), reason of the trace event (8), [`NEWS`], [`LOOPED`].
    bits: u32,
}

/// Bit of [`Outcome`]: something about the connection is new.
const NEWS: u32 = 1 << 16;
/// Bit of [`Outcome`]: the pod reached itself through a service.
const LOOPED: u32 = 1 << 17;

/// Observation point of packets that are neither counted nor traced.
pub const UNTOLD: u8 = u8::MAX;

impl Outcome {
    /// Told at observation point `at` with trace reason `state`; `news`: something about the connection is new.
    #[inline(always)]
    pub const fn at(at: u8, state: u8, news: bool) -> Self {
        Self { bits: at as u32 | (state as u32) << 8 | if news { NEWS } else { 0 } }
    }
    /// The pod reached itself through a service: its address, now the destination, was the source.
    #[inline(always)]
    pub const fn looped(self) -> Self {
        Self { bits: self.bits | LOOPED }
    }
    #[inline(always)]
    const fn point(self) -> u8 {
        self.bits as u8
    }
    #[inline(always)]
    const fn state(self) -> u8 {
        (self.bits >> 8) as u8
    }
    #[inline(always)]
    const fn has(self, bit: u32) -> bool {
        self.bits & bit != 0
    }
}

/// Counts a packet under `reason` (0: forwarded).
#[inline(always)]
pub fn count<E: Env>(env: &mut E, reason: u8, ingress: bool) {
    let dir = if ingress { DIR_INGRESS } else { DIR_EGRESS };
    let bytes = env.packet_len();
    env.count(&MetricsKey::new(reason, dir), bytes);
}

/// Packet bytes to copy into a record.
#[inline(always)]
fn captured<E: Env>(env: &E) -> u16 {
    let limit = config::capture_len(env.node()).min(PAYLOAD_LEN as u32);
    env.packet_len().min(limit) as u16
}

/// Counts and reports a drop for the reason with number `reason`.
#[inline(always)]
pub fn dropped<E: Env>(env: &mut E, report: &Report, reason: u8) -> Verdict {
    count(env, reason, report.ingress());
    let notification = DropNotify {
        kind: NOTIFY_DROP,
        subtype: reason,
        source: report.endpoint(),
        hash: report.hash(),
        orig_len: env.packet_len(),
        cap_len: captured(env),
        version: 0,
        src_label: report.src_identity(),
        dst_label: report.dst_identity(),
        dst_id: if report.ingress() { report.dst_endpoint() as u32 } else { 0 },
        line: 0,
        file: 0,
        ext_error: 0,
        ifindex: env.ifindex(),
    };
    env.event(0, &notification);
    Verdict::dropped(reason)
}

/// Counts a forwarded packet and traces it, as its report says.
#[inline(always)]
pub fn forwarded<E: Env>(env: &mut E, report: &Report) {
    let outcome = report.outcome();
    if outcome.point() == UNTOLD {
        return;
    }
    count(env, 0, outcome.point() == point::TO_ENDPOINT);
    trace(env, report, outcome);
}

/// Whether a packet that is new in the sense of `news` (see [`crate::conntrack::Found::report`]) is traced at `at`.
#[inline(always)]
fn traced<E: Env>(env: &E, at: u8, news: bool) -> bool {
    let level = config::aggregation(env.node());
    level == 0 || (level < 3 && !comes_in(at)) || (news && !comes_in(at))
}

/// Whether packets come in at this observation point.
#[inline(always)]
const fn comes_in(at: u8) -> bool {
    at >= point::FROM_ENDPOINT && at <= point::FROM_NETWORK
}

/// The packet's destination address, IPv4 in the first four bytes.
#[inline(always)]
fn destination<E: Env>(env: &E, ipv6: bool) -> [u8; 16] {
    if ipv6 {
        return env.load(L3 + V6::DST).unwrap_or_default();
    }
    let address: u32 = env.load(L3 + V4::DST).unwrap_or_default();
    transmute!([address, 0, 0, 0])
}

/// Reports a packet at an observation point, as far as aggregation lets it.
#[inline(always)]
pub fn trace<E: Env>(env: &mut E, report: &Report, outcome: Outcome) {
    if !traced(env, outcome.point(), outcome.has(NEWS)) {
        return;
    }
    let notification = TraceNotify {
        kind: NOTIFY_TRACE,
        subtype: outcome.point(),
        source: report.endpoint(),
        hash: report.hash(),
        orig_len: env.packet_len(),
        cap_len: captured(env),
        version: 1,
        src_label: report.src_identity(),
        dst_label: report.dst_identity(),
        dst_id: report.dst_endpoint(),
        reason: outcome.state(),
        flags: report.ipv6() as u8,
        ifindex: env.ifindex(),
        orig_ip: if outcome.has(LOOPED) { destination(env, report.ipv6()) } else { [0; 16] },
    };
    env.event(0, &notification);
}

/// Reports a policy decision.
#[inline(always)]
pub fn judged<E: Env>(env: &mut E, report: &Report, judgement: &Judgement, protocol: u8, port: u16) {
    let direction = if report.ingress() { 1 } else { 2 };
    let audited = (judgement.audited as u8) << 6;
    let verdict = if judgement.drop != 0 { -(judgement.drop as i32) } else { judgement.proxy_port.host() as i32 };
    let notification = PolicyVerdictNotify {
        kind: NOTIFY_POLICY_VERDICT,
        subtype: 0,
        source: report.endpoint(),
        hash: report.hash(),
        orig_len: env.packet_len(),
        cap_len: captured(env),
        version: 0,
        remote_label: if report.ingress() { report.src_identity() } else { report.dst_identity() },
        verdict,
        dst_port: port,
        proto: protocol,
        flags: direction | (report.ipv6() as u8) << 2 | (judgement.match_type & 7) << 3 | audited,
        auth_type: judgement.auth_type,
        pad: 0,
        pad2: 0,
    };
    env.event(judgement.cookie, &notification);
}
