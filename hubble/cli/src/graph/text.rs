//! The graph for readers and for other programs: text, DOT, Mermaid, JSON.

use super::{Edge, Graph};
use crate::{printer::safe, tabwriter::TabWriter};
use serde_json::json;
use std::collections::BTreeMap;

fn plain(text: &str) -> String {
    safe(&text.replace(['\t', '\n'], " ")).into_owned()
}

/// Every client, and below it those it depends on.
pub fn text(graph: &Graph) -> String {
    let mut by_client: BTreeMap<&str, Vec<(&str, &Edge)>> = BTreeMap::new();
    for ((client, server), edge) in &graph.edges {
        by_client.entry(client).or_default().push((server, edge));
    }
    let mut tabs = TabWriter::default();
    for (client, servers) in by_client {
        tabs.write(&format!("{}\n", plain(client)));
        let last = servers.len() - 1;
        for (at, (server, edge)) in servers.into_iter().enumerate() {
            let branch = if at == last { "└─>" } else { "├─>" };
            tabs.write(&format!("{branch} {}\t{}\t{}\n", plain(server), edge.title(), edge.outcome()));
        }
    }
    tabs.finish()
}

/// Colour of an edge by what became of its flows.
pub fn color(edge: &Edge) -> &'static str {
    let verdicts = &edge.verdicts;
    match (verdicts.forwarded + verdicts.audit, verdicts.dropped + verdicts.error) {
        (_, 0) => "#2e7d32",
        (0, _) => "#c62828",
        _ => "#ef6c00",
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", plain(text).replace('\\', "\\\\").replace('"', "\\\""))
}

/// Graphviz's language.
pub fn dot(graph: &Graph) -> String {
    let mut out =
        String::from("digraph flows {\n  rankdir=LR;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n");
    for node in graph.nodes() {
        out.push_str(&format!("  {};\n", quoted(node)));
    }
    for ((client, server), edge) in &graph.edges {
        let label = quoted(&format!("{} | {}", edge.title(), edge.outcome()));
        let (from, to, color) = (quoted(client), quoted(server), color(edge));
        out.push_str(&format!("  {from} -> {to} [label={label}, color=\"{color}\"];\n"));
    }
    out + "}\n"
}

/// Mermaid's flowchart. Names are labels of numbered nodes, as Mermaid has words of its own.
pub fn mermaid(graph: &Graph) -> String {
    let entity = |text: &str| {
        let mut out = String::new();
        for c in plain(text).chars() {
            match c {
                '"' => out.push_str("#quot;"),
                '#' => out.push_str("#35;"),
                '<' => out.push_str("#lt;"),
                '>' => out.push_str("#gt;"),
                '|' => out.push_str("#124;"),
                c => out.push(c),
            }
        }
        out
    };
    let nodes: BTreeMap<&str, usize> = graph.nodes().into_iter().enumerate().map(|(at, name)| (name, at)).collect();
    let mut out = String::from("flowchart LR\n");
    for (name, at) in &nodes {
        out.push_str(&format!("  n{at}[\"{}\"]\n", entity(name)));
    }
    for (index, ((client, server), edge)) in graph.edges.iter().enumerate() {
        let (from, to) = (nodes[client.as_str()], nodes[server.as_str()]);
        let label = entity(&format!("{}, {}", edge.title(), edge.outcome()));
        out.push_str(&format!("  n{from} -->|\"{label}\"| n{to}\n  linkStyle {index} stroke:{}\n", color(edge)));
    }
    out
}

/// Nodes and edges as one object.
pub fn json(graph: &Graph) -> String {
    let edges: Vec<_> = graph
        .edges
        .iter()
        .map(|((client, server), edge)| {
            let verdicts: serde_json::Map<_, _> =
                edge.verdicts.named().map(|(name, count)| (name.to_owned(), json!(count))).collect();
            json!({
                "source": client,
                "destination": server,
                "flows": edge.verdicts.total(),
                "verdicts": verdicts,
                "ports": edge.ports,
                "applications": edge.applications,
                "drop_reasons": edge.reasons,
            })
        })
        .collect();
    json!({ "flows": graph.flows, "lost": graph.lost, "nodes": graph.nodes(), "edges": edges }).to_string() + "\n"
}
