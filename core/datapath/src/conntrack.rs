//! Connection tracking at one endpoint's side: one look-up answers for both directions.
//!
//! An entry is found by the ordered pair of ends (see [`abi::ct`]); it says who opened the connection, so the packet's
//! direction tells whether it is a reply. Several CPUs may touch one entry at once, so a field is written only by the
//! direction it belongs to, and only when it changes: `tx_*` by the opener's packets, `rx_*` by the others'. Two packets
//! of one direction on two CPUs may lose a flag or a second of lifetime, never a verdict. Whoever closes is
//! read from those bytes; the closing bits in `flags` repeat it for people.
//!
//! What would let a dead connection stand for a new one is not found at all: an expired entry, a SYN on
//! one that is closing, and a SYN from the end that did not open it.

use abi::be::Port;
use abi::config::Lifetime;
use abi::ct::{CT_FAR_AWAY, CT_INBOUND, CT_RX_CLOSING, CT_SEEN_NON_SYN, CT_SERVICE, CT_TX_CLOSING, Connection};
use abi::event::reason;
use wire::tcp_flags::{ACK, FIN, RST, SYN};

use crate::config;
use crate::env::{Env, FamilyMaps, NodeFields};
use crate::family::{End, Family};
use crate::fast::USUAL;
use crate::maps;
use crate::parse::Flow;

/// What is known about a packet's connection. Its small parts are packed: apart each would take eight bytes of stack.
#[derive(Clone, Copy, Debug)]
pub struct Found<F: Family> {
    /// `CT_*` bits (16), reverse NAT index (16), proxy port (16), state (8), [`REPORT`], [`POLICY_STALE`], [`LB_STALE`].
    bits: u64,
    /// Backend id of a service entry (high half) and identity of the remote end.
    ids: u64,
    /// Where a service entry translates to; for ICMP, the port is the type that opened the connection.
    pub nat: End<F::Addr>,
}

/// Bit of [`Found`]: something about the connection is new.
const REPORT: u64 = 1 << 56;
/// Bit of [`Found`]: policy has moved since the connection was last judged.
const POLICY_STALE: u64 = 1 << 57;
/// Bit of [`Found`]: services have moved since the far end was last checked.
const LB_STALE: u64 = 1 << 58;

impl<F: Family> Found<F> {
    /// Nothing is known: the packet opens a connection.
    #[inline(always)]
    pub fn nothing() -> Self {
        Self {
            bits: REPORT | (reason::NEW as u64) << 48,
            ids: 0,
            nat: End { addr: F::UNSPECIFIED, port: Port::from_raw(0) },
        }
    }

    /// What an entry says about a packet of which [`touch`] said `touched`. Without branches: each would be two more
    /// paths for the verifier.
    #[inline(always)]
    fn entry(connection: &Connection, nat: End<F::Addr>, touched: u32, now: &Moment) -> Self {
        let moved = |then: u32, now: u32| ((then ^ now) as u64).wrapping_neg() >> 63;
        Self {
            bits: connection.flags as u64
                | (connection.rev_nat_index.raw as u64) << 16
                | (connection.proxy_port.raw as u64) << 32
                | ((touched & (0xff | TOUCHED_REPORT)) as u64) << 48
                | moved(connection.policy_revision, now.policy) << 57
                | moved(connection.lb_revision, now.lb) << 58,
            ids: (connection.backend_id as u64) << 32 | connection.peer_identity as u64,
            nat,
        }
    }

    /// See [`Env::forget`].
    #[inline(always)]
    pub fn forget<E: Env>(&mut self, env: &E) {
        self.bits = env.forget(self.bits);
    }

    /// The packet opens a connection to a service's backend.
    #[inline(always)]
    pub fn with_rev_nat(self, index: Port) -> Self {
        Self { bits: self.bits & !0xffff_0000 | (index.raw as u64) << 16, ..self }
    }

    /// The packet opens a connection to a far end that is not on this node.
    #[inline(always)]
    pub fn with_far_away(self) -> Self {
        Self { bits: self.bits | CT_FAR_AWAY as u64, ..self }
    }

    /// `NEW`, `ESTABLISHED` or `REPLY` of [`abi::event::reason`].
    #[inline(always)]
    pub fn state(&self) -> u8 {
        (self.bits >> 48) as u8
    }
    /// Whether the packet opens a connection.
    #[inline(always)]
    pub fn is_new(&self) -> bool {
        self.state() == reason::NEW
    }
    /// Whether something about the connection is new: worth a trace event.
    #[inline(always)]
    pub fn report(&self) -> bool {
        self.bits & REPORT != 0
    }
    /// Whether policy has moved since the connection was last judged.
    #[inline(always)]
    pub fn policy_stale(&self) -> bool {
        self.bits & POLICY_STALE != 0
    }
    /// Whether services have moved since the far end was last checked.
    #[inline(always)]
    pub fn lb_stale(&self) -> bool {
        self.bits & LB_STALE != 0
    }
    /// Whether any of the `CT_*` bits in `mask` is set.
    #[inline(always)]
    pub fn has(&self, mask: u16) -> bool {
        self.bits & mask as u64 != 0
    }
    /// Reverse NAT index; 0: none.
    #[inline(always)]
    pub fn rev_nat(&self) -> Port {
        Port::from_raw((self.bits >> 16) as u16)
    }
    /// Proxy port; 0: none.
    #[inline(always)]
    pub fn proxy_port(&self) -> Port {
        Port::from_raw((self.bits >> 32) as u16)
    }
    /// Backend id of a service entry.
    #[inline(always)]
    pub fn backend_id(&self) -> u32 {
        (self.ids >> 32) as u32
    }
    /// Identity of the remote end.
    #[inline(always)]
    pub fn peer_identity(&self) -> u32 {
        self.ids as u32
    }
}

/// The moment of a packet: time and revisions, read before anything is decided by them.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Seconds of the monotonic clock.
    pub seconds: u32,
    /// Policy revision. A verdict found after this was read is at least as new.
    pub policy: u32,
    /// Load-balancer revision.
    pub lb: u32,
}

impl Moment {
    /// Now, where no policy is asked.
    #[inline(always)]
    pub fn of_services<E: Env>(env: &E) -> Self {
        let lb = env.runtime(abi::config::Runtime::LbRevision) as u32;
        Self { seconds: env.now_seconds(), policy: 0, lb }
    }

    /// Now.
    #[inline(always)]
    pub fn read<E: Env>(env: &E) -> Self {
        Self {
            seconds: env.now_seconds(),
            policy: env.runtime(abi::config::Runtime::PolicyRevision) as u32,
            lb: env.runtime(abi::config::Runtime::LbRevision) as u32,
        }
    }
}

/// How long a connection with this history lives on, in seconds.
///
/// Both ends closed, or a reset before both ends spoke: it ends soon. A reset from one end alone may be forged: it
/// shortens the life, but a connection that goes on lives on. A service entry sees its client only: after
/// the client's FIN the backend may still be sending, so it gets the grace period.
#[inline(always)]
fn lifetime<N: NodeFields>(node: N, tcp: bool, service: bool, tx: u8, rx: u8) -> u32 {
    let closes = FIN | RST;
    let which = if !tcp {
        if service { Lifetime::ServiceAny } else { Lifetime::Any }
    } else if (tx | rx) & !SYN == 0 {
        Lifetime::TcpSyn
    } else if (tx | rx) & closes == 0 {
        if service { Lifetime::ServiceTcp } else { Lifetime::Tcp }
    } else if service {
        if tx & RST != 0 { Lifetime::TcpFin } else { Lifetime::ServiceTcpGrace }
    } else if tx & closes != 0 && rx & closes != 0 {
        Lifetime::TcpFin
    } else if (tx | rx) & RST != 0 {
        if tx & rx & SYN != 0 { Lifetime::TcpSyn } else { Lifetime::TcpFin }
    } else {
        Lifetime::Tcp
    };
    config::lifetime(node, which)
}

/// Whether TCP flags open a connection.
#[inline(always)]
pub const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN
}

/// Looks a connection up and brings it up to date with this packet. `outbound`: the packet comes from the local end.
#[inline(always)]
pub fn lookup<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    key: &F::CtKey,
    flow: &Flow<F>,
    outbound: bool,
    now: &Moment,
) -> Found<F> {
    let mut found = known::<F, E>(env, key, flow, outbound, now);
    found.bits = env.forget(found.bits);
    found
}

#[inline(always)]
fn known<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    key: &F::CtKey,
    flow: &Flow<F>,
    outbound: bool,
    now: &Moment,
) -> Found<F> {
    let node = env.node();
    let tcp = flow.is_tcp();
    let Some(entry) = maps::connection::<F, E>(env, tcp, key) else { return Found::nothing() };
    let nat = F::nat(entry);
    let connection = F::connection(entry);
    let touched = touch(node, connection, touching(flow, outbound), now.seconds);
    if touched == STALE {
        return Found::nothing();
    }
    Found::entry(connection, nat, touched, now)
}

/// Who opened the connection of an outbound packet: [`reason::REPLY`] if the far end did. Nothing is brought up to date.
#[inline(always)]
pub fn state_of<F: Family, E: Env + FamilyMaps<F>>(env: &mut E, key: &F::CtKey, flow: &Flow<F>, now: &Moment) -> u8 {
    match maps::connection::<F, E>(env, flow.is_tcp(), key) {
        Some(entry) => {
            let connection = F::connection(entry);
            if connection.lifetime > now.seconds && connection.flags & CT_INBOUND != 0 {
                reason::REPLY
            } else {
                reason::NEW
            }
        }
        None => reason::NEW,
    }
}

/// What the short way ([`crate::fast`]) needs to know of a connection about which nothing is new.
#[derive(Clone, Copy, Debug)]
pub struct Steady<F: Family> {
    /// `CT_*` bits (16), reverse NAT index (16), then state (8), [`STEADY_POLICY`] and [`STEADY_LB`].
    bits: u64,
    /// Where a service entry translates to.
    pub nat: End<F::Addr>,
}

/// Bit of [`Steady`]: policy has moved.
const STEADY_POLICY: u64 = 1 << 40;
/// Bit of [`Steady`]: services have moved.
const STEADY_LB: u64 = 1 << 41;

impl<F: Family> Steady<F> {
    /// Whether any of the `CT_*` bits in `mask` is set.
    #[inline(always)]
    pub fn has(&self, mask: u16) -> bool {
        self.bits & mask as u64 != 0
    }
    /// Reverse NAT index; 0: none.
    #[inline(always)]
    pub fn rev_nat(&self) -> Port {
        Port::from_raw((self.bits >> 16) as u16)
    }
    /// `ESTABLISHED` or `REPLY` of [`abi::event::reason`].
    #[inline(always)]
    pub fn state(&self) -> u8 {
        (self.bits >> 32) as u8
    }
    /// Whether the connection was judged by the policy that holds now.
    #[inline(always)]
    pub fn policy_fresh(&self) -> bool {
        self.bits & STEADY_POLICY == 0
    }
    /// Whether the far end was checked against the services that are now.
    #[inline(always)]
    pub fn lb_fresh(&self) -> bool {
        self.bits & STEADY_LB == 0
    }
}

/// Looks a connection up to which a packet that neither opens nor closes brings nothing new, and prolongs its life, just as
/// [`lookup`] would. `None`, with nothing changed, when there is no such connection; `absent` then says whether there is no entry at all.
#[inline(always)]
pub fn steady<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    key: &F::CtKey,
    flow: &Flow<F>,
    outbound: bool,
    now: &Moment,
    absent: &mut bool,
) -> Option<Steady<F>> {
    let node = env.node();
    let tcp = flow.is_tcp();
    let Some(entry) = maps::connection::<F, E>(env, tcp, key) else {
        *absent = true;
        return None;
    };
    let nat = F::nat(entry);
    let connection = F::connection(entry);
    let flags = connection.flags;
    let reply = (flags & CT_INBOUND == 0) != outbound;
    let (tx, rx) = (connection.tx_flags_seen, connection.rx_flags_seen);
    let (before, last) = if reply { (rx, connection.last_rx_report) } else { (tx, connection.last_tx_report) };
    let news = connection.lifetime <= now.seconds
        || flags & !USUAL != 0
        || connection.proxy_port.raw != 0
        || flow.tcp_flags() & !before != 0
        || (tcp && ((tx | rx) & (FIN | RST) != 0 || (tx | rx) & !SYN == 0))
        || last.wrapping_add(config::report_interval(node)) <= now.seconds;
    if news {
        return None;
    }
    let service = flags & CT_SERVICE != 0;
    let which = match (tcp, service) {
        (true, true) => Lifetime::ServiceTcp,
        (true, false) => Lifetime::Tcp,
        (false, true) => Lifetime::ServiceAny,
        (false, false) => Lifetime::Any,
    };
    let until = now.seconds.wrapping_add(config::lifetime(node, which));
    if until != connection.lifetime {
        connection.lifetime = until;
    }
    let state = if reply { reason::REPLY } else { reason::ESTABLISHED };
    let moved = |then: u32, now: u32| ((then ^ now) as u64).wrapping_neg() >> 63;
    Some(Steady {
        bits: flags as u64
            | (connection.rev_nat_index.raw as u64) << 16
            | (state as u64) << 32
            | moved(connection.policy_revision, now.policy) << 40
            | moved(connection.lb_revision, now.lb) << 41,
        nat,
    })
}

/// Whether a service's entry, whose client sends `flow`, stands for it: see [`touch`].
#[inline(always)]
pub(crate) fn stands_for<F: Family>(entry: &Connection, flow: &Flow<F>, now: &Moment) -> bool {
    let closing = (entry.tx_flags_seen | entry.rx_flags_seen) & (FIN | RST) != 0;
    entry.lifetime > now.seconds && !(closing && flow.is_tcp() && opens(flow.tcp_flags()))
}

/// What [`touch`] says of an entry that does not stand for the packet.
pub(crate) const STALE: u32 = u32::MAX;
/// Bit of what [`touch`] says: worth a trace event.
const TOUCHED_REPORT: u32 = 1 << 8;

/// What [`touch`] needs to know of a packet: TCP flags, transport protocol (from bit 8), [`TOUCHES_OUTBOUND`].
#[inline(always)]
fn touching<F: Family>(flow: &Flow<F>, outbound: bool) -> u32 {
    flow.tcp_flags() as u32 | (flow.protocol() as u32) << 8 | if outbound { TOUCHES_OUTBOUND } else { 0 }
}

/// [`touch`] for a packet.
#[inline(always)]
pub(crate) fn bring_up_to_date<F: Family, N: NodeFields>(
    node: N,
    entry: &mut Connection,
    flow: &Flow<F>,
    outbound: bool,
    now: &Moment,
) -> u32 {
    touch(node, entry, touching(flow, outbound), now.seconds)
}

/// Bit of what [`touch`] is told: the packet comes from the local end.
const TOUCHES_OUTBOUND: u32 = 1 << 16;

/// Brings a live entry up to date with a packet. Returns the packet's state and a bit that says whether it is worth a
/// trace event, or a number of its own when the entry does not stand for the packet.
///
#[inline(always)]
fn touch<N: NodeFields>(node: N, entry: &mut Connection, packet: u32, seconds: u32) -> u32 {
    if entry.lifetime <= seconds {
        return STALE;
    }
    let flags_now = packet as u8;
    let opened_here = entry.flags & CT_INBOUND == 0;
    let reply = opened_here != (packet & TOUCHES_OUTBOUND != 0);
    let tcp = (packet >> 8) as u8 == wire::protocol::TCP;
    let (tx, rx) = (entry.tx_flags_seen, entry.rx_flags_seen);
    if tcp && opens(flags_now) && (reply || (tx | rx) & (FIN | RST) != 0) {
        return STALE;
    }
    let service = entry.flags & CT_SERVICE != 0;
    let before = if reply { rx } else { tx };
    let seen = before | flags_now;
    if seen != before {
        let closing = flags_now & (FIN | RST) != 0;
        let mut flags = entry.flags;
        if flags_now & !SYN != 0 {
            flags |= CT_SEEN_NON_SYN;
        }
        if reply {
            entry.rx_flags_seen = seen;
            flags |= if closing { CT_RX_CLOSING } else { 0 };
        } else {
            entry.tx_flags_seen = seen;
            flags |= if closing { CT_TX_CLOSING } else { 0 };
        }
        if flags != entry.flags {
            entry.flags = flags;
        }
    }
    let (tx, rx) = if reply { (tx, seen) } else { (seen, rx) };
    let until = seconds.wrapping_add(lifetime(node, tcp, service, tx, rx));
    if until != entry.lifetime {
        entry.lifetime = until;
    }
    let last = if reply { entry.last_rx_report } else { entry.last_tx_report };
    let report = flags_now & config::report_tcp_flags(node) & !before != 0
        || last.wrapping_add(config::report_interval(node)) <= seconds;
    if report {
        if reply {
            entry.last_rx_report = seconds;
        } else {
            entry.last_tx_report = seconds;
        }
    }
    let state = if reply { reason::REPLY } else { reason::ESTABLISHED };
    state as u32 | if report { TOUCHED_REPORT } else { 0 }
}

/// A connection that opens now with `flow`. The caller fills in what is special about it.
#[inline(always)]
pub fn opening<F: Family, E: Env>(env: &E, flow: &Flow<F>, flags: u16, now: &Moment) -> Connection {
    let service = flags & CT_SERVICE != 0;
    Connection {
        lifetime: now.seconds.wrapping_add(lifetime(env.node(), flow.is_tcp(), service, flow.tcp_flags(), 0)),
        policy_revision: now.policy,
        lb_revision: now.lb,
        last_tx_report: now.seconds,
        flags,
        tx_flags_seen: flow.tcp_flags(),
        ..Connection::default()
    }
}
