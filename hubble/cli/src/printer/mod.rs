//! Flows and events as text.
//!
//! Scripts parse these lines, so every byte is part of the interface. What a packet, a pod or a proxy put into a name
//! cannot steer the terminal: escape characters and carriage returns are shown, not sent.

mod events;
mod flow;
mod style;

pub use style::Style;

/// Text from outside, with what could steer a terminal made visible.
pub fn safe(text: &str) -> std::borrow::Cow<'_, str> {
    Style::default().safe(text)
}

use crate::{tabwriter::TabWriter, times::TimeFormat};
use hubble_api::{
    flow::{Flow, LostEvent},
    json,
    observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
    relay::NodeState,
};
use std::io::{self, Write};

/// How a record is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// One line a record.
    #[default]
    Compact,
    /// A key and a value a line.
    Dict,
    /// Aligned columns.
    Table,
    /// The response as JSON.
    JsonPb,
    /// The flow alone as JSON, as old versions did.
    JsonLegacy,
}

/// Settings of a printer.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The layout.
    pub output: Output,
    /// How times are shown.
    pub time_format: TimeFormat,
    /// Names in place of addresses.
    pub ip_translation: bool,
    /// Show which node saw the record.
    pub node_name: bool,
    /// Show which policies decided.
    pub policy_names: bool,
    /// Show all changes among nodes.
    pub debug: bool,
    /// Show none of them.
    pub silent_errors: bool,
    /// Colours.
    pub style: Style,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            output: Output::Compact,
            time_format: TimeFormat::StampMilli,
            ip_translation: true,
            node_name: false,
            policy_names: false,
            debug: false,
            silent_errors: false,
            style: Style::default(),
        }
    }
}

/// Prints records one after the other.
pub struct Printer<'a> {
    options: Options,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    tabs: TabWriter,
    /// Records printed to the output, and to the error output.
    printed: (u64, u64),
}

impl<'a> Printer<'a> {
    /// A printer onto two streams; node status goes to the second.
    pub fn new(options: Options, out: &'a mut dyn Write, err: &'a mut dyn Write) -> Self {
        let style = if options.output == Output::Table { Style::default() } else { options.style };
        Self { options: Options { style, ..options }, out, err, tabs: TabWriter::default(), printed: (0, 0) }
    }

    /// Prints one answer of the server.
    pub fn response(&mut self, response: &GetFlowsResponse) -> io::Result<()> {
        match &response.response_types {
            None => Ok(()),
            Some(ResponseTypes::Flow(flow)) => self.flow(flow, response),
            Some(ResponseTypes::LostEvents(lost)) => self.lost(lost, response),
            Some(ResponseTypes::NodeStatus(_)) => self.node_status(response),
        }
    }

    /// Prints what was held back to align columns.
    pub fn finish(&mut self) -> io::Result<()> {
        let text = self.tabs.finish();
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Hands on what was printed so far.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn json<M: json::Message>(&mut self, message: &M) -> io::Result<()> {
        let mut line = json::to_string(message);
        line.push('\n');
        self.out.write_all(line.as_bytes())
    }

    fn emit(&mut self, text: &str) -> io::Result<()> {
        self.printed.0 += 1;
        self.out.write_all(self.options.style.safe(text).as_bytes())
    }

    /// A table row, after the header if it is the first.
    fn row(&mut self, header: &[&str], cells: &[String]) {
        if self.printed.0 == 0 {
            self.tabs.write(&(header.join("\t") + "\n"));
        }
        self.printed.0 += 1;
        let line = cells.join("\t") + "\n";
        self.tabs.write(&self.options.style.safe(&line));
    }

    fn node(&self, name: &str) -> String {
        if self.options.node_name { format!(" [{}]", style::foreign(name)) } else { String::new() }
    }

    fn flow(&mut self, flow: &Flow, response: &GetFlowsResponse) -> io::Result<()> {
        let time = self.options.time_format.show(flow.time.as_ref());
        let view = flow::View { flow, options: &self.options };
        match self.options.output {
            Output::JsonPb => self.json(response),
            Output::JsonLegacy => self.json(flow),
            Output::Compact => {
                let node = self.node(&flow.node_name);
                let ((src, dst), (src_id, dst_id)) = (view.hosts(), view.identities());
                let ends = match flow.is_reply {
                    Some(true) => format!("{dst} {dst_id} <- {src} {src_id}"),
                    Some(false) => format!("{src} {src_id} -> {dst} {dst_id}"),
                    None => format!("{src} {src_id} <> {dst} {dst_id}"),
                };
                let (kind, verdict, summary) = (view.kind(), view.verdict(), view.summary());
                self.emit(&format!("{time}{node}: {ends} {kind} {verdict} ({summary})\n"))
            }
            Output::Dict => {
                let (src, dst) = view.hosts();
                let mut fields = vec![("TIMESTAMP", time)];
                if self.options.node_name {
                    fields.push(("NODE", style::foreign(&flow.node_name).into_owned()));
                }
                fields.extend([
                    ("SOURCE", src),
                    ("DESTINATION", dst),
                    ("TYPE", view.kind()),
                    ("VERDICT", view.verdict()),
                    ("SUMMARY", view.summary()),
                ]);
                self.dict(&fields, "------------\n")
            }
            Output::Table => {
                let (src, dst) = view.hosts();
                let mut cells = vec![time];
                if self.options.node_name {
                    cells.push(flow.node_name.clone());
                }
                cells.extend([src, dst, view.kind(), view.verdict(), view.summary()]);
                self.flow_row(&cells);
                Ok(())
            }
        }
    }

    fn flow_row(&mut self, cells: &[String]) {
        let mut header = vec!["TIMESTAMP", "SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"];
        if self.options.node_name {
            header.insert(1, "NODE");
        }
        self.row(&header, cells);
    }

    /// Keys end in the same column; a rule comes between records.
    fn dict(&mut self, fields: &[(&str, String)], rule: &str) -> io::Result<()> {
        let mut text = if self.printed.0 == 0 { String::new() } else { rule.to_owned() };
        for (key, value) in fields {
            text.push_str(&format!("{key:>11}: {value}\n"));
        }
        self.emit(&text)
    }

    fn lost(&mut self, lost: &LostEvent, response: &GetFlowsResponse) -> io::Result<()> {
        let format = self.options.time_format;
        let time = format.show(response.time.as_ref());
        let source = lost.source().as_str_name();
        let cpu = lost.cpu.unwrap_or(0);
        let mut count = lost.num_events_lost.to_string();
        if lost.first.is_some() && lost.last.is_some() {
            let (first, last) = (format.show(lost.first.as_ref()), format.show(lost.last.as_ref()));
            count.push_str(&format!(" (first: {first}, last: {last})"));
        }
        match self.options.output {
            Output::JsonPb => self.json(response),
            Output::JsonLegacy => self.json(lost),
            Output::Compact => self.emit(&format!("{time} EVENTS LOST: {source} CPU({cpu}) {count}\n")),
            Output::Dict => {
                let mut fields = vec![("TIMESTAMP", time)];
                if self.options.node_name {
                    fields.push(("NODE", style::foreign(&response.node_name).into_owned()));
                }
                fields.extend([
                    ("SOURCE", source.to_owned()),
                    ("TYPE", "EVENTS LOST".to_owned()),
                    ("VERDICT", "-".to_owned()),
                    ("SUMMARY", format!("CPU({cpu}) - {count}")),
                ]);
                self.dict(&fields, "------------\n")
            }
            Output::Table => {
                let mut cells = vec![time];
                if self.options.node_name {
                    cells.push(response.node_name.clone());
                }
                cells.extend([source, "-", "EVENTS LOST", "-"].map(str::to_owned));
                cells.push(format!("CPU({cpu}) - {count}"));
                self.flow_row(&cells);
                Ok(())
            }
        }
    }

    fn node_status(&mut self, response: &GetFlowsResponse) -> io::Result<()> {
        let Some(ResponseTypes::NodeStatus(status)) = &response.response_types else { return Ok(()) };
        let state = NodeState::try_from(status.state_change);
        let bad = matches!(state, Ok(NodeState::NodeError | NodeState::NodeUnavailable));
        if self.options.silent_errors || !(bad || self.options.debug) {
            return Ok(());
        }
        let time = self.options.time_format.show(response.time.as_ref());
        let names = name_list(&status.node_names);
        let count = status.node_names.len();
        let message = crate::times::quote(&status.message);
        let first = self.printed.1 == 0;
        let text = match self.options.output {
            Output::JsonLegacy => return Ok(()),
            Output::JsonPb => json::to_string(response) + "\n",
            Output::Compact | Output::Table => {
                let what = match state {
                    Ok(NodeState::NodeConnected) => format!("Receiving flows from {count} nodes: {names}"),
                    Ok(NodeState::NodeUnavailable) => format!("{count} nodes are unavailable: {names}"),
                    Ok(NodeState::NodeGone) => format!("{count} nodes removed from cluster: {names}"),
                    Ok(NodeState::NodeError) => format!("Error {message} on {count} nodes: {names}"),
                    _ => format!("unknown node status event: {}", unknown_status(status)),
                };
                format!("{time} [{}]: {what}\n", response.node_name)
            }
            Output::Dict => {
                let state = match state {
                    Ok(state) => state.as_str_name().to_owned(),
                    Err(_) => status.state_change.to_string(),
                };
                let message = if status.message.is_empty() { "N/A" } else { &message };
                let rule = if first && self.printed.0 == 0 { "" } else { "------------\n" };
                format!(
                    "{rule}  TIMESTAMP: {time}\n      STATE: {state}\n      NODES: {names}\n    MESSAGE: {message}\n"
                )
            }
        };
        self.printed.1 += 1;
        let safe = match self.options.output {
            Output::JsonPb => text,
            _ => Style::default().safe(&text).into_owned(),
        };
        self.err.write_all(safe.as_bytes())
    }
}

/// The fields of a status that has no words of its own.
fn unknown_status(status: &hubble_api::relay::NodeStatusEvent) -> String {
    let names = status.node_names.iter().map(|name| format!("node_names:{}", crate::times::quote(name)));
    let message = (!status.message.is_empty()).then(|| format!("message:{}", crate::times::quote(&status.message)));
    names.chain(message).collect::<Vec<_>>().join("  ")
}

/// Names up to about 50 characters, and how many more there are.
fn name_list(names: &[String]) -> String {
    const LENGTH_MAX: usize = 50;
    let mut text = String::new();
    for (at, name) in names.iter().enumerate() {
        let joined = if at == 0 { name.clone() } else { format!("{text}, {name}") };
        if at > 0 && joined.len() > LENGTH_MAX {
            return format!("{text} (and {} more)", names.len() - at);
        }
        text = joined;
    }
    text
}
