//! `hubble graph`: which workloads depend on which, as text or as a picture.
//!
//! The same flows give the same picture: everything is sorted by name, and nothing depends on when a flow came. Memory
//! is bounded: edges beyond a bound are joined into one between the rest of the world and itself, and counted.

mod layout;
mod svg;
mod text;

use crate::{
    Failure, Io,
    filters::Filters,
    settings::Settings,
    source::{self, Selector, Sink, Source, Until},
    talk::{By, Talk, talk},
    top::MASK,
};
use hubble_api::{
    FieldMask,
    flow::Verdict,
    observer::{GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes},
};
use std::collections::{BTreeMap, BTreeSet};

/// Edges at most.
const EDGES_MAX: usize = 5_000;
/// Ports of one edge at most.
const PORTS_MAX: usize = 64;
/// Ports shown of one edge.
const PORTS_SHOWN: usize = 4;
/// What ends beyond the bounds are called.
const REST: &str = "(others)";

/// Flows by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdicts {
    /// Passed on, to where they went or to a proxy.
    pub forwarded: u64,
    /// Dropped.
    pub dropped: u64,
    /// Failed.
    pub error: u64,
    /// Passed on, though policy would have them dropped.
    pub audit: u64,
    /// Of socket operations and of events that decide nothing.
    pub other: u64,
}

impl Verdicts {
    fn add(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Forwarded | Verdict::Redirected => &mut self.forwarded,
            Verdict::Dropped => &mut self.dropped,
            Verdict::Error => &mut self.error,
            Verdict::Audit => &mut self.audit,
            Verdict::Unknown | Verdict::Traced | Verdict::Translated => &mut self.other,
        } += 1;
    }

    /// Names and counts of those that are not zero.
    fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = [
            ("forwarded", self.forwarded),
            ("dropped", self.dropped),
            ("error", self.error),
            ("audit", self.audit),
            ("other", self.other),
        ];
        all.into_iter().filter(|(_, count)| *count > 0)
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.forwarded + self.dropped + self.error + self.audit + self.other
    }
}

/// What passes between two ends.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    pub verdicts: Verdicts,
    /// By transport and port.
    pub ports: BTreeMap<String, u64>,
    /// Application protocols seen.
    pub applications: BTreeSet<&'static str>,
    /// Why flows were dropped.
    pub reasons: BTreeMap<String, u64>,
}

impl Edge {
    /// The ports with most flows, and how many more there are.
    fn shown_ports(&self) -> String {
        let mut ports: Vec<(&String, &u64)> = self.ports.iter().collect();
        ports.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        let more = ports.len().saturating_sub(PORTS_SHOWN);
        let mut shown: Vec<String> = ports.into_iter().take(PORTS_SHOWN).map(|(port, _)| port.clone()).collect();
        if more > 0 {
            shown.push(format!("{more} more"));
        }
        shown.join(", ")
    }

    /// Ports and application protocols.
    fn title(&self) -> String {
        let applications: Vec<&str> = self.applications.iter().copied().collect();
        let ports = self.shown_ports();
        if applications.is_empty() { ports } else { format!("{ports} ({})", applications.join(", ")) }
    }

    /// Verdicts in words, with the reasons of drops.
    fn outcome(&self) -> String {
        let mut parts: Vec<String> = self.verdicts.named().map(|(name, count)| format!("{count} {name}")).collect();
        parts = vec![parts.join(", ")];
        if !self.reasons.is_empty() {
            let reasons: Vec<&str> = self.reasons.keys().map(String::as_str).collect();
            parts.push(format!("({})", reasons.join("; ")));
        }
        parts.join(" ")
    }
}

/// Who depends on whom.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// By client and server.
    pub edges: BTreeMap<(String, String), Edge>,
    pub flows: u64,
    pub lost: u64,
}

impl Graph {
    /// All names, in order.
    pub fn nodes(&self) -> BTreeSet<&str> {
        self.edges.keys().flat_map(|(client, server)| [client.as_str(), server.as_str()]).collect()
    }

    fn add(&mut self, talk: Talk) {
        let mut key = (talk.client, talk.server);
        if self.edges.len() >= EDGES_MAX && !self.edges.contains_key(&key) {
            key = (REST.into(), REST.into());
        }
        let edge = self.edges.entry(key).or_default();
        edge.verdicts.add(talk.verdict);
        let full = edge.ports.len() >= PORTS_MAX && !edge.ports.contains_key(&talk.port);
        *edge.ports.entry(if full { "other".into() } else { talk.port }).or_default() += 1;
        edge.applications.extend(talk.application);
        if let Some(reason) = talk.reason {
            *edge.reasons.entry(reason).or_default() += 1;
        }
    }
}

struct Collect {
    graph: Graph,
    by: By,
}

impl Sink for Collect {
    fn take(&mut self, response: &GetFlowsResponse) -> Result<bool, Failure> {
        match &response.response_types {
            Some(ResponseTypes::Flow(flow)) => {
                self.graph.flows += 1;
                if let Some(talk) = talk(flow, self.by) {
                    self.graph.add(talk);
                }
            }
            Some(ResponseTypes::LostEvents(lost)) => self.graph.lost += lost.num_events_lost,
            _ => {}
        }
        Ok(true)
    }
}

/// `hubble graph`.
pub async fn run(settings: &Settings, filters: &Filters, io: &mut Io<'_>) -> Result<(), Failure> {
    let (whitelist, blacklist) = source::filters(settings, filters)?;
    let selector = Selector::new(settings)?;
    let draw = match settings.text("output") {
        "text" => text::text as fn(&Graph) -> String,
        "dot" => text::dot,
        "mermaid" => text::mermaid,
        "json" => text::json,
        "svg" => svg::svg,
        other => {
            return Err(Failure(format!("invalid output format: {other}: want text, dot, mermaid, svg or json")));
        }
    };
    let by = By::parse(settings.text("by")).map_err(Failure)?;
    let source = Source::of(settings)?;
    // Everything there is, unless less is asked for.
    let (number, first) = match selector.number(false) {
        (0, first) if selector.since.is_none() && !selector.follow => (u64::MAX, first),
        asked => asked,
    };
    let request = GetFlowsRequest {
        number,
        first,
        follow: selector.follow,
        whitelist,
        blacklist,
        since: selector.since,
        until: selector.until,
        field_mask: settings
            .flag("use-default-field-masks")
            .then(|| FieldMask { paths: MASK.map(str::to_owned).to_vec() }),
        ..GetFlowsRequest::default()
    };
    let mut collect = Collect { graph: Graph::default(), by };
    let until = if selector.follow { Until::Interrupted(None) } else { Until::End };
    let warnings = source.read(settings, &request, io.input, &mut collect, until).await?;
    io.out.write_all(draw(&collect.graph).as_bytes())?;
    for warning in warnings {
        writeln!(io.err, "warning: {warning}")?;
    }
    if collect.graph.lost > 0 {
        writeln!(io.err, "warning: {} events were lost on the way and are not in the graph", collect.graph.lost)?;
    }
    Ok(())
}
