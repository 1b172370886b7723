//! `hubble list nodes` and `hubble list namespaces`.

use crate::{Failure, Io, remote, settings::Settings, tabwriter::TabWriter, times::show_duration};
use hubble_api::{
    json,
    observer::{GetNamespacesRequest, GetNodesRequest, Node, observer_client::ObserverClient},
    relay::NodeState,
};
use tonic::{Request, Status};

fn checked(settings: &Settings) -> Result<&str, Failure> {
    match settings.text("output") {
        known @ ("table" | "wide" | "json") => Ok(known),
        other => Err(Failure(format!("unknown output format: {other}"))),
    }
}

fn failed(what: &str) -> impl Fn(Status) -> Failure {
    move |status| Failure(format!("failed to get {what}: {}", remote::show(&status)))
}

fn request<T>(settings: &Settings, message: T) -> Result<Request<T>, Failure> {
    let mut request = Request::new(message);
    request.set_timeout(settings.duration("request-timeout").map_err(Failure)?);
    Ok(request)
}

/// Messages as an indented JSON array.
fn array<M: json::Message>(messages: &[M]) -> String {
    let items: Vec<String> = messages.iter().map(|message| indent(&json::to_string(message))).collect();
    if items.is_empty() { "[]\n".into() } else { format!("[\n  {}\n]\n", items.join(",\n  ")) }
}

/// Compact JSON spread over lines, two spaces a level, beginning one level deep.
fn indent(compact: &str) -> String {
    let mut out = String::new();
    let (mut depth, mut in_text, mut escaped) = (1_usize, false, false);
    let mut chars = compact.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    while let Some(c) = chars.next() {
        if in_text {
            in_text = c != '"' || escaped;
            escaped = c == '\\' && !escaped;
            out.push(c);
            continue;
        }
        match c {
            '{' | '[' if matches!(chars.peek(), Some('}' | ']')) => {
                out.push(c);
                out.extend(chars.next());
            }
            '{' | '[' => {
                depth += 1;
                out.push(c);
                line(&mut out, depth);
            }
            '}' | ']' => {
                depth -= 1;
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => {
                in_text = c == '"';
                out.push(c);
            }
        }
    }
    out
}

/// `hubble list nodes`.
pub async fn nodes(settings: &Settings, io: &mut Io<'_>) -> Result<(), Failure> {
    let output = checked(settings)?;
    let mut client = ObserverClient::new(remote::connect(settings)?);
    let request = request(settings, GetNodesRequest {})?;
    let mut nodes = client.get_nodes(request).await.map_err(failed("nodes"))?.into_inner().nodes;
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    if output == "json" {
        io.out.write_all(array(&nodes).as_bytes())?;
        return Ok(());
    }
    let wide = output == "wide";
    let mut tabs = TabWriter::default();
    tabs.write("NAME\tSTATUS\tAGE\tFLOWS/S\tCURRENT/MAX-FLOWS");
    tabs.write(if wide { "\tVERSION\tADDRESS\tTLS\n" } else { "\n" });
    for node in &nodes {
        tabs.write(&row(node, wide));
    }
    io.out.write_all(tabs.finish().as_bytes())?;
    Ok(())
}

fn row(node: &Node, wide: bool) -> String {
    const SECOND_NS: u64 = 1_000_000_000;
    let state = match node.state() {
        NodeState::NodeConnected => "Connected",
        NodeState::NodeUnavailable => "Unavailable",
        NodeState::NodeGone => "Gone",
        NodeState::NodeError => "Error",
        NodeState::UnknownNodeState => "Unknown",
    };
    let not_known = || "N/A".to_owned();
    let age = match node.uptime_ns {
        0 => not_known(),
        ns => {
            let rounded = (ns + SECOND_NS / 2) / SECOND_NS * SECOND_NS;
            show_duration(i64::try_from(rounded).unwrap_or(i64::MAX))
        }
    };
    let rate = match node.uptime_ns {
        0 => not_known(),
        ns => format!("{:.2}", node.seen_flows as f64 / (ns as f64 / 1e9)),
    };
    let ratio = match node.max_flows {
        0 => not_known(),
        max => format!("{}/{max} ({:6.2}%)", node.num_flows, node.num_flows as f64 * 100.0 / max as f64),
    };
    let mut line = format!("{}\t{state}\t{age}\t{rate}\t{ratio}", node.name);
    if wide {
        let or_not = |text: &str| if text.is_empty() { not_known() } else { text.to_owned() };
        let tls = match &node.tls {
            None => "N/A",
            Some(tls) if tls.enabled => "Enabled",
            Some(_) => "Disabled",
        };
        line.push_str(&format!("\t{}\t{}\t{tls}", or_not(&node.version), or_not(&node.address)));
    }
    line + "\n"
}

/// `hubble list namespaces`.
pub async fn namespaces(settings: &Settings, io: &mut Io<'_>) -> Result<(), Failure> {
    let output = checked(settings)?;
    let mut client = ObserverClient::new(remote::connect(settings)?);
    let request = request(settings, GetNamespacesRequest {})?;
    let found = client.get_namespaces(request).await.map_err(failed("namespaces"))?.into_inner().namespaces;
    if output == "json" {
        io.out.write_all(array(&found).as_bytes())?;
        return Ok(());
    }
    let wide = output == "wide";
    let mut tabs = TabWriter::default();
    tabs.write(if wide { "NAMESPACE\tCLUSTER\n" } else { "NAMESPACE\n" });
    for entry in &found {
        let cluster = if wide { format!("\t{}", entry.cluster) } else { String::new() };
        tabs.write(&format!("{}{cluster}\n", entry.namespace));
    }
    io.out.write_all(tabs.finish().as_bytes())?;
    Ok(())
}
