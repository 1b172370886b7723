//! Recorded flows as traffic to judge: what decides is kept, the rest is counted together.
//!
//! Replies, application messages and events that are no connection's are passed over: policy judges the first packet
//! of a connection at each of its ends.

use std::collections::BTreeMap;

use api::models::{ExplainRequest, Party, SeenFlow, Traffic, Workload};
use hubble_api::{
    event_type,
    flow::{Endpoint, Flow, FlowType, TrafficDirection, layer4},
    json::{self, Unknown},
    observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
};

use crate::{BadQuestion, bad};

/// Flows that differ, at most: what fits into one request.
pub const FLOWS_MAX: usize = 100_000;

/// Why recorded flows cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// A line is no flow.
    #[error("line {line}: this is no flow as `hubble observe -o json` prints them: {why}")]
    NoFlow {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        why: json::Error,
    },
    /// There are too many different flows.
    #[error("there are more than {FLOWS_MAX} different flows; take a part of them")]
    TooMany,
}

/// Who talked to whom in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Alike {
    source: u32,
    destination: u32,
    direction: i32,
    protocol: &'static str,
    port: u16,
}

/// Flows, alike ones counted together.
#[derive(Debug, Default)]
pub struct Tally {
    numbers: BTreeMap<(String, Vec<String>, String), u32>,
    workloads: Vec<Workload>,
    flows: BTreeMap<Alike, u64>,
    skipped: u64,
    lines: u64,
}

impl Tally {
    /// Takes one line of `hubble observe -o json` or of an export file.
    ///
    /// # Errors
    /// When the line is no flow, or the flows differ too much.
    pub fn line(&mut self, text: &str) -> Result<(), FlowError> {
        self.lines += 1;
        if text.trim().is_empty() {
            return Ok(());
        }
        match read(text).map_err(|why| FlowError::NoFlow { line: self.lines, why })? {
            Some(flow) => self.flow(&flow),
            None => {
                self.skipped += 1;
                Ok(())
            }
        }
    }

    /// Takes one flow.
    ///
    /// # Errors
    /// When the flows differ too much.
    pub fn flow(&mut self, flow: &Flow) -> Result<(), FlowError> {
        let Some(((protocol, port), (source, destination))) = layer4(flow).zip(ends(flow)) else {
            self.skipped += 1;
            return Ok(());
        };
        if !begins(flow) {
            self.skipped += 1;
            return Ok(());
        }
        let alike = Alike {
            source: self.number(source),
            destination: self.number(destination),
            direction: flow.traffic_direction,
            protocol,
            port,
        };
        if self.flows.len() >= FLOWS_MAX && !self.flows.contains_key(&alike) {
            return Err(FlowError::TooMany);
        }
        *self.flows.entry(alike).or_default() += 1;
        Ok(())
    }

    fn number(&mut self, workload: Workload) -> u32 {
        let key = (workload.name.clone(), workload.labels.clone(), workload.ip.clone());
        let next = u32::try_from(self.workloads.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(key).or_insert_with(|| {
            self.workloads.push(workload);
            next
        })
    }

    /// What was taken.
    #[must_use]
    pub fn finish(self) -> Traffic {
        let flow = |(alike, count): (Alike, u64)| SeenFlow {
            source: alike.source,
            destination: alike.destination,
            direction: direction(alike.direction).into(),
            protocol: alike.protocol.into(),
            port: alike.port,
            count,
        };
        Traffic { workloads: self.workloads, flows: self.flows.into_iter().map(flow).collect(), skipped: self.skipped }
    }
}

/// The question why one recorded flow got its verdict.
///
/// # Errors
/// When the text is no flow, or one nobody judges.
pub fn question_of_flow(text: &str) -> Result<ExplainRequest, BadQuestion> {
    let flow = read(text).map_err(|why| bad("flow", format!("this is no flow as Hubble prints them: {why}")))?;
    let flow = flow.ok_or_else(|| bad("flow", "there is no flow in this line"))?;
    if flow.is_reply == Some(true) {
        return Err(bad("flow", "it is a reply; what policy judged is the flow it answers"));
    }
    let ((protocol, port), (source, destination)) = layer4(&flow)
        .zip(ends(&flow))
        .ok_or_else(|| bad("flow", "it has no addresses, or no transport policy judges"))?;
    let party = |workload: Workload| match workload.labels.is_empty() {
        true => Party { ip: workload.ip, ..Party::default() },
        false => Party { labels: workload.labels, ip: workload.ip, ..Party::default() },
    };
    Ok(ExplainRequest {
        from: party(source),
        to: party(destination),
        protocol: protocol.into(),
        port,
        port_name: String::new(),
        direction: direction(flow.traffic_direction).into(),
    })
}

/// A flow, alone or as the answer to a request; `None`: another kind of answer.
fn read(text: &str) -> Result<Option<Flow>, json::Error> {
    let answer: GetFlowsResponse = json::read(text, Unknown::Discard)?;
    match answer.response_types {
        Some(ResponseTypes::Flow(flow)) => Ok(Some(flow)),
        Some(_) => Ok(None),
        None => {
            let flow: Flow = json::read(text, Unknown::Discard)?;
            Ok((flow != Flow::default()).then_some(flow))
        }
    }
}

/// Whether it is of a connection's way out, seen at layer 3 or 4.
fn begins(flow: &Flow) -> bool {
    let kind = flow.event_type.as_ref().map_or(0, |kind| kind.r#type);
    let of_packets = matches!(kind, 0 | event_type::DROP | event_type::TRACE | event_type::POLICY_VERDICT);
    let layer = matches!(FlowType::try_from(flow.r#type), Ok(FlowType::UnknownType | FlowType::L3L4));
    of_packets && layer && flow.is_reply != Some(true)
}

/// Protocol and destination port, or ICMP type.
fn layer4(flow: &Flow) -> Option<(&'static str, u16)> {
    use layer4::Protocol;
    let port = |number: u32| u16::try_from(number).ok();
    Some(match flow.l4.as_ref()?.protocol.as_ref()? {
        Protocol::Tcp(tcp) => ("TCP", port(tcp.destination_port)?),
        Protocol::Udp(udp) => ("UDP", port(udp.destination_port)?),
        Protocol::Sctp(sctp) => ("SCTP", port(sctp.destination_port)?),
        Protocol::IcmPv4(icmp) => ("ICMP", port(icmp.r#type)?),
        Protocol::IcmPv6(icmp) => ("ICMPv6", port(icmp.r#type)?),
        _ => return None,
    })
}

fn direction(number: i32) -> &'static str {
    match TrafficDirection::try_from(number) {
        Ok(TrafficDirection::Ingress) => "ingress",
        Ok(TrafficDirection::Egress) => "egress",
        _ => "",
    }
}

fn ends(flow: &Flow) -> Option<(Workload, Workload)> {
    let ip = flow.ip.as_ref()?;
    let source = workload(flow.source.as_ref(), &ip.source, &flow.source_names);
    let destination = workload(flow.destination.as_ref(), &ip.destination, &flow.destination_names);
    Some((source, destination))
}

fn workload(endpoint: Option<&Endpoint>, ip: &str, names: &[String]) -> Workload {
    let nobody = Endpoint::default();
    let endpoint = endpoint.unwrap_or(&nobody);
    let mut labels = endpoint.labels.clone();
    labels.sort_unstable();
    let namespace = if endpoint.namespace.is_empty() { String::new() } else { format!("{}/", endpoint.namespace) };
    let reserved = labels.iter().find_map(|label| label.strip_prefix("reserved:"));
    let world = reserved.is_some_and(|name| name.starts_with("world"));
    let name = match (endpoint.workloads.first(), reserved) {
        (Some(workload), _) => format!("{namespace}{}", workload.name),
        (None, _) if !endpoint.pod_name.is_empty() => format!("{namespace}{}", endpoint.pod_name),
        (None, Some(name)) if !world => name.to_owned(),
        (None, None) if !labels.is_empty() => labels.join(","),
        _ => names.first().cloned().unwrap_or_else(|| ip.to_owned()),
    };
    Workload { name, labels, identity: endpoint.identity, ip: ip.to_owned() }
}
