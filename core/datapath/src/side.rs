//! One endpoint's side of a connection: is it known, is it allowed, and if it is new, remember it.
//!
//! Egress and ingress differ only in which end is local, so both use this.

use abi::be::Port;
use abi::config::NODE_POLICY_VERDICTS;
use abi::ct::{CT_AUDITED, CT_FAR_AWAY, CT_INBOUND, CT_PROXY_REDIRECT};

use crate::config;
use crate::conntrack::{self, Found, Moment};
use crate::env::{Env, FamilyMaps};
use crate::events::{self, Report};
use crate::family::{End, Family};
use crate::maps;
use crate::nodeport::Origin;
use crate::parse::Flow;
use crate::policy::{self, Judgement, Local, Peer, Question};
use crate::verdict::DropReason;

/// One side of a packet's connection.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a, F: Family> {
    /// The endpoint at this side.
    pub local: &'a Local,
    /// Who is at the other.
    pub peer: &'a Peer,
    /// The packet.
    pub flow: &'a Flow<F>,
    /// The connection's key at this side.
    pub key: &'a F::CtKey,
    /// The service by which it came from outside.
    pub origin: &'a Origin<F>,
}

/// Judges a packet of a connection that is new, or that was judged before policy moved, and remembers the verdict.
/// Returns the proxy to redirect to, 0: none.
#[inline(always)]
pub fn settle<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    side: &Side<'_, F>,
    found: &Found<F>,
    report: &Report,
    now: &Moment,
) -> Result<Port, DropReason> {
    let question = question(side.flow, found, report.ingress());
    let judgement = policy::judge::<F, E>(env, side.local, side.peer, &question);
    let denial = judgement.denial();
    if (found.is_new() || denial.is_some()) && config::enabled(env.node(), NODE_POLICY_VERDICTS) {
        events::judged(env, report, &judgement, question.protocol, question.port.host());
    }
    if let Some(reason) = denial {
        return Err(reason);
    }
    if !found.is_new() {
        if let Some(entry) = maps::connection::<F, E>(env, side.flow.is_tcp(), side.key) {
            let connection = F::connection(entry);
            connection.peer_identity = side.peer.identity;
            connection.cookie = judgement.cookie;
            connection.proxy_port = judgement.proxy_port;
            connection.policy_revision = now.policy;
        }
    } else if !side.flow.is_icmp_error() {
        // An error opens nothing.
        remember(env, side, found, report, now, &judgement)?;
    }
    Ok(judgement.proxy_port)
}

/// What is asked about a packet: what the packet that opened its connection asks.
#[inline(always)]
fn question<F: Family>(flow: &Flow<F>, found: &Found<F>, at_ingress: bool) -> Question {
    let new = found.is_new();
    let ingress = if new { at_ingress } else { found.has(CT_INBOUND) };
    let port = if flow.protocol() == F::ICMP {
        if new { flow.policy_port() } else { found.nat.port }
    } else if ingress == at_ingress {
        flow.dst.port
    } else {
        flow.src.port
    };
    Question { ingress, protocol: flow.protocol(), port, icmp_code: if new { flow.icmp_code() } else { 0 } }
}

/// Remembers a connection that opens now.
#[inline(always)]
fn remember<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    side: &Side<'_, F>,
    found: &Found<F>,
    report: &Report,
    now: &Moment,
    judgement: &Judgement,
) -> Result<(), DropReason> {
    let flags = if report.ingress() { CT_INBOUND } else { 0 }
        | if judgement.audited { CT_AUDITED } else { 0 }
        | if found.has(CT_FAR_AWAY) { CT_FAR_AWAY } else { 0 }
        | if judgement.proxy_port.raw != 0 { CT_PROXY_REDIRECT } else { 0 };
    let mut connection = conntrack::opening(env, side.flow, flags, now);
    connection.source_identity = report.src_identity();
    connection.peer_identity = side.peer.identity;
    connection.cookie = judgement.cookie;
    connection.proxy_port = judgement.proxy_port;
    connection.rev_nat_index = found.rev_nat();
    let mut nat = End { addr: F::UNSPECIFIED, port: Port::from_raw(0) };
    if side.flow.protocol() == F::ICMP {
        nat.port = side.flow.policy_port();
    }
    side.origin.imprint(&mut connection, &mut nat);
    let entry = F::ct_entry(connection, &nat);
    match maps::track::<F, E>(env, side.flow.is_tcp(), side.key, &entry) {
        Some(()) => Ok(()),
        None => Err(DropReason::ConnectionTableFull),
    }
}
