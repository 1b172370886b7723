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

pub mod env;
pub mod family;
pub mod forward;
pub mod hooks;
pub mod maps;
pub mod select;
pub mod service;
pub mod snat;

use abi::be::Port;
use abi::ct::{CT_DSR, CT_LOCAL_BACKEND};

use crate::conntrack::{self, Moment};
use crate::family::End;
use crate::nat;
use crate::parse::Flow;
use crate::verdict::{DropReason, Verdict};
use env::{NodeportEnv, NodeportMaps};
use family::Balanced;

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
    }
    if !flow.has_ports() {
        return Ok(Step::ON);
    }
    let served = service::serve(env, flow, now)?;
    if !served.known() {
        return Ok(Step::ON);
    }
    if served.has(CT_LOCAL_BACKEND) {
        if E::EARLY {
            return Ok(Step::ON);
        }
        nat::rewrite(env, flow, nat::Which::Destination, &served.backend)?;
        return Ok(Step { rev_nat: served.rev_nat(), ..Step::ON });
    }
    if served.has(CT_DSR) {
        return Err(DropReason::NoRoute);
    }
    let source = End { addr: F::snat_address(env.node()), port: served.snat_port() };
    Ok(Step::done(forward::send(env, flow, &source, &served.backend)?))
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
    Ok(Step::done(forward::send(env, flow, &frontend, client)?))
}
