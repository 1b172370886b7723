//! Traffic from outside to services (north-south), at the hooks of a network device.
//!
//! The same code runs in XDP and in tc. What XDP cannot finish (a backend of this node, a neighbour that is not resolved yet) it
//! passes on untouched, and tc decides it again, by the same entry in the connection map: the client's packets never
//! meet two decisions.
//!
//! ```text
//! packet ─ to an allocated port? ────────── client and frontend back in place ──► client
//!        ─ ICMP error about one of these? ─ quotation translated ───────────────► client or backend
//!        ─ known connection, or service? ─┬ backend here: destination translated, on to the pod's side
//!                                         ├ SNAT: both ends translated ─────────► backend
//!                                         └ DSR: backend told of the frontend ──► backend
//!        ─ otherwise the stack's
//! ```

pub mod dsr;
pub mod env;
pub mod errors;
pub mod family;
pub mod forward;
pub mod geneve;
pub mod hooks;
pub mod host;
pub mod maps;
pub mod masquerade;
pub mod select;
pub mod service;
pub mod snat;
pub mod ways;

use abi::be::Port;
use abi::ct::{CT_DSR, CT_LOCAL_BACKEND, CT_NODE_PORT, Connection};

use crate::conntrack::{self, Found, Moment};
use crate::env::{Env, FamilyMaps};
use crate::family::{End, Family};
use crate::nat;
use crate::parse::Flow;
use crate::stages;
use crate::verdict::{DropReason, Verdict};
use env::{NodeportEnv, NodeportMaps};
use family::Balanced;
use service::Served;

/// What became of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Whether `verdict` is the last word; otherwise the packet goes on, perhaps translated.
    pub done: bool,
    /// The last word.
    pub verdict: Verdict,
    /// Reverse NAT index of the service whose backend, the packet's destination now, is on this node; 0: none.
    pub rev_nat: Port,
}

impl Step {
    /// It was not for a service, or is for the later hook.
    pub const ON: Self = Self { done: false, verdict: Verdict::PASS, rev_nat: Port::from_raw(0) };

    #[inline(always)]
    const fn done(verdict: Verdict) -> Self {
        Self { done: true, verdict, rev_nat: Port::from_raw(0) }
    }
}

/// The service by which a packet came from outside to a backend of this node, and whose address replies must have.
#[derive(Clone, Copy, Debug)]
pub struct Origin<F: Family> {
    /// [`CT_NODE_PORT`], [`CT_DSR`], or 0: by none.
    pub flags: u16,
    /// With [`CT_DSR`] the frontend; otherwise its port is the service's reverse NAT index.
    pub frontend: End<F::Addr>,
}

impl<F: Family> Origin<F> {
    /// By no service.
    #[inline(always)]
    pub fn none() -> Self {
        Self { flags: 0, frontend: End { addr: F::UNSPECIFIED, port: Port::from_raw(0) } }
    }

    /// By the service with this reverse NAT index.
    #[inline(always)]
    pub fn service(index: Port) -> Self {
        let flags = if index.raw == 0 { 0 } else { CT_NODE_PORT };
        Self { flags, frontend: End { addr: F::UNSPECIFIED, port: index } }
    }

    /// Puts it into the entry of a connection at the backend's side.
    #[inline(always)]
    pub fn imprint(&self, connection: &mut Connection, nat: &mut End<F::Addr>) {
        if self.flags & CT_DSR != 0 {
            *nat = self.frontend;
        } else if self.flags != 0 {
            connection.rev_nat_index = self.frontend.port;
        }
        connection.flags |= self.flags;
    }

    /// A known connection comes by another service now, or by one at all: replies follow the newest.
    #[inline(always)]
    pub fn mark<E: Env + FamilyMaps<F>>(&self, env: &mut E, flow: &Flow<F>, key: &F::CtKey, found: &Found<F>) {
        let same = if self.flags & CT_DSR != 0 {
            found.has(CT_DSR) && found.nat == self.frontend
        } else {
            found.has(CT_NODE_PORT) && !found.has(CT_DSR) && found.rev_nat() == self.frontend.port
        };
        if same {
            return;
        }
        if let Some(entry) = crate::maps::connection::<F, E>(env, flow.is_tcp(), key) {
            let mut connection = *F::connection(entry);
            let mut nat = F::nat(entry);
            connection.flags &= !(CT_NODE_PORT | CT_DSR);
            self.imprint(&mut connection, &mut nat);
            *entry = F::ct_entry(connection, &nat);
        }
    }
}

/// Sends the answer of a pod of this node to a client outside, from the frontend the client knows.
#[inline(always)]
pub fn answer<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
    origin: &Origin<F>,
    now: &Moment,
) -> Result<Verdict, DropReason> {
    let mut frontend = origin.frontend;
    if origin.flags & CT_DSR == 0 {
        let Some(entry) = crate::maps::reverse_nat::<F, E>(env, frontend.port) else {
            return Err(DropReason::NoMapping);
        };
        frontend = F::frontend(entry);
    }
    if flow.is_icmp_error() {
        return errors::answer(env, flow, &frontend, now);
    }
    let client = flow.dst;
    forward::send(env, flow, &frontend, &client, now)
}

/// Balances and translates a packet that came in at a network device.
#[inline(always)]
pub fn balance<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
    now: &Moment,
) -> Result<Step, DropReason> {
    if snat::is_allocated::<F, E>(env, &flow.dst) {
        let (client, index) = snat::standing_for::<F, E>(env, &flow.src, &flow.dst, flow.protocol());
        if index.raw != 0 {
            return reply(env, flow, &client, index, now);
        }
        if client.port.raw != 0 {
            return to_pod(env, flow, &client);
        }
    }
    if flow.is_icmp_error() {
        return errors::translate(env, flow, now);
    }
    if !flow.has_ports() {
        return Ok(Step::ON);
    }
    let served = service::serve(env, flow, now)?;
    if !served.known() {
        return Ok(Step::ON);
    }
    if served.unmade() {
        return Ok(Step::done(Verdict::go_on(stages::of::<F>().open)));
    }
    carry(env, flow, &served, now)
}

/// Sends a packet of a connection whose way is made to its backend.
#[inline(always)]
pub fn carry<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
    served: &Served<F>,
    now: &Moment,
) -> Result<Step, DropReason> {
    if served.has(CT_LOCAL_BACKEND) {
        if env.is_early() {
            return Ok(Step::ON);
        }
        nat::rewrite(env, flow, nat::Which::Destination, &served.backend)?;
        return Ok(Step { rev_nat: served.rev_nat(), ..Step::ON });
    }
    if served.has(CT_DSR) {
        return Ok(Step::done(dsr::forward(env, flow, &served.backend, now)?));
    }
    let source = End { addr: F::snat_address(env.node()), port: served.snat_port() };
    Ok(Step::done(forward::send(env, flow, &source, &served.backend, now)?))
}

/// An answer to a pod of this node that was masqueraded: to the pod, by policy.
#[inline(always)]
fn to_pod<F: Balanced, E: NodeportEnv>(
    env: &mut E,
    flow: &mut Flow<F>,
    pod: &End<F::Addr>,
) -> Result<Step, DropReason> {
    if env.is_early() {
        return Ok(Step::ON);
    }
    if flow.protocol() == F::ICMP {
        masquerade::rename_echo(env, flow, pod.port)?;
        flow.dst.port = pod.port;
    }
    nat::rewrite(env, flow, nat::Which::Destination, pod)?;
    Ok(Step::ON)
}

/// A backend's answer, to an allocated port: from the frontend to the client.
#[inline(always)]
fn reply<F: Balanced, E: NodeportEnv + NodeportMaps<F>>(
    env: &mut E,
    flow: &mut Flow<F>,
    client: &End<F::Addr>,
    index: Port,
    now: &Moment,
) -> Result<Step, DropReason> {
    let Some(entry) = crate::maps::reverse_nat::<F, E>(env, index) else { return Ok(Step::ON) };
    let frontend = F::frontend(entry);
    let key = F::ct_key(&frontend, client, flow.protocol());
    let _ = conntrack::lookup::<F, E>(env, &key, flow, true, now);
    Ok(Step::done(forward::send(env, flow, &frontend, client, now)?))
}
