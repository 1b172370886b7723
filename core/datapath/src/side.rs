//! One endpoint's side of a connection: is it known, is it allowed, and if it is new, remember it.
//!
//! Egress and ingress differ only in which end is local, so both use this.

use abi::be::Port;
use abi::ct::{CT_AUDITED, CT_INBOUND, CT_PROXY_REDIRECT};

use crate::config;
use crate::conntrack::{self, Found, Moment};
use crate::env::{Env, FamilyMaps};
use crate::events::{self, Report};
use crate::family::{End, Family};
use crate::maps;
use crate::parse::Flow;
use crate::policy::{self, Judgement, Local, Peer, Question};
use crate::verdict::DropReason;

/// Tells of a decision, if decisions are to be told.
#[inline(always)]
fn tell<F: Family, E: Env>(env: &mut E, report: &Report, judgement: &Judgement, question: &Question) {
    if config::enabled(env.node(), abi::config::NODE_POLICY_VERDICTS) {
        events::judged(env, report, judgement, question.protocol, question.port.host());
    }
}

/// Judges a packet that opens a connection and remembers the connection. Returns the proxy to redirect to, 0: none.
#[inline(always)]
pub fn open<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    flow: &Flow<F>,
    key: &F::CtKey,
    peer: &Peer,
    report: &Report,
    now: &Moment,
    rev_nat: Port,
) -> Result<Port, DropReason> {
    let ingress = report.ingress();
    let question =
        Question { ingress, protocol: flow.protocol(), port: flow.policy_port(), icmp_code: flow.icmp_code() };
    let judgement = policy::judge::<F, E>(env, local, peer, &question);
    tell::<F, E>(env, report, &judgement, &question);
    if let Some(reason) = judgement.denial() {
        return Err(reason);
    }
    // An error opens nothing.
    if flow.is_icmp_error() {
        return Ok(Port::from_raw(0));
    }
    let flags = if ingress { CT_INBOUND } else { 0 }
        | if judgement.audited { CT_AUDITED } else { 0 }
        | if judgement.proxy_port.raw != 0 { CT_PROXY_REDIRECT } else { 0 };
    let mut connection = conntrack::opening(env, flow, flags, now);
    connection.source_identity = report.src_identity();
    connection.peer_identity = peer.identity;
    connection.cookie = judgement.cookie;
    connection.proxy_port = judgement.proxy_port;
    connection.rev_nat_index = rev_nat;
    let icmp = if flow.protocol() == F::ICMP { question.port } else { Port::from_raw(0) };
    let entry = F::ct_entry(connection, &End { addr: F::UNSPECIFIED, port: icmp });
    if maps::track::<F, E>(env, flow.is_tcp(), key, &entry).is_none() {
        return Err(DropReason::ConnectionTableFull);
    }
    Ok(judgement.proxy_port)
}

/// Judges a known connection again after policy has moved. Returns the proxy to redirect to, 0: none.
#[inline(always)]
pub fn again<F: Family, E: Env + FamilyMaps<F>>(
    env: &mut E,
    local: &Local,
    flow: &Flow<F>,
    key: &F::CtKey,
    found: &Found<F>,
    peer: &Peer,
    report: &Report,
    now: &Moment,
) -> Result<Port, DropReason> {
    let inbound = found.has(CT_INBOUND);
    let port = if flow.protocol() == F::ICMP {
        found.nat.port
    } else if inbound == report.ingress() {
        flow.dst.port
    } else {
        flow.src.port
    };
    let question = Question { ingress: inbound, protocol: flow.protocol(), port, icmp_code: 0 };
    let judgement = policy::judge::<F, E>(env, local, peer, &question);
    if let Some(reason) = judgement.denial() {
        tell::<F, E>(env, report, &judgement, &question);
        return Err(reason);
    }
    if let Some(entry) = maps::connection::<F, E>(env, flow.is_tcp(), key) {
        let connection = F::connection(entry);
        connection.peer_identity = peer.identity;
        connection.cookie = judgement.cookie;
        connection.proxy_port = judgement.proxy_port;
        connection.policy_revision = now.policy;
    }
    Ok(judgement.proxy_port)
}
