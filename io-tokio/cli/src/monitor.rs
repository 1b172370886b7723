//! `cilium monitor`: events as they happen.

mod text;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use abi::event::{
    DropNotify, NOTIFY_DROP, NOTIFY_POLICY_VERDICT, NOTIFY_TRACE, PolicyVerdictNotify, Prefix, TraceNotify,
};
use api::client::Client;
use api::monitor::{Feed, Payload};
use zerocopy::FromBytes;

use crate::arguments::{EventKind, MonitorOptions};
use crate::output::Screen;
use crate::{Arguments, CliError, identity};

/// One event, its fixed part read.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    Drop(DropNotify, &'a [u8]),
    Trace(TraceNotify, &'a [u8]),
    Verdict(PolicyVerdictNotify, &'a [u8]),
}

/// What every event is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    from: u16,
    to: u16,
}

impl<'a> Event<'a> {
    /// Reads a record of the ring buffer; `None` when it is of another kind or too short.
    pub(crate) fn read(record: &'a [u8]) -> Option<Self> {
        let (_, rest) = Prefix::read_from_prefix(record).ok()?;
        let packet = |rest: &'a [u8], cap_len: u16| &rest[..rest.len().min(usize::from(cap_len))];
        Some(match *rest.first()? {
            NOTIFY_DROP => {
                let (notify, rest) = DropNotify::read_from_prefix(rest).ok()?;
                Self::Drop(notify, packet(rest, notify.cap_len))
            }
            NOTIFY_TRACE => {
                let (notify, rest) = TraceNotify::read_from_prefix(rest).ok()?;
                Self::Trace(notify, packet(rest, notify.cap_len))
            }
            NOTIFY_POLICY_VERDICT => {
                let (notify, rest) = PolicyVerdictNotify::read_from_prefix(rest).ok()?;
                Self::Verdict(notify, packet(rest, notify.cap_len))
            }
            _ => return None,
        })
    }
    fn kind(&self) -> EventKind {
        match self {
            Self::Drop(..) => EventKind::Drop,
            Self::Trace(..) => EventKind::Trace,
            Self::Verdict(..) => EventKind::PolicyVerdict,
        }
    }
    fn ends(&self) -> Ends {
        match self {
            Self::Drop(n, _) => Ends { from: n.source, to: u16::try_from(n.dst_id).unwrap_or(0) },
            Self::Trace(n, _) => Ends { from: n.source, to: n.dst_id },
            Self::Verdict(n, _) => Ends { from: n.source, to: 0 },
        }
    }
    fn packet(&self) -> &'a [u8] {
        match self {
            Self::Drop(_, packet) | Self::Trace(_, packet) | Self::Verdict(_, packet) => packet,
        }
    }
}

/// Every filter that is given must agree.
fn is_wanted(options: &MonitorOptions, event: &Event<'_>) -> bool {
    let ends = event.ends();
    let any = |list: &[u16], id: u16| list.is_empty() || list.contains(&id);
    let related = options.related_to.is_empty()
        || options.related_to.contains(&ends.from)
        || options.related_to.contains(&ends.to);
    let kind = options.kinds.is_empty() || options.kinds.contains(&event.kind());
    any(&options.from, ends.from) && any(&options.to, ends.to) && related && kind
}

pub(crate) fn run(
    client: &Client,
    arguments: &Arguments,
    options: &MonitorOptions,
    screen: &mut Screen<'_>,
) -> Result<(), CliError> {
    let path = options.monitor_socket.clone().unwrap_or_else(|| beside(arguments.socket()));
    let stream = UnixStream::connect(&path).map_err(|source| CliError::MonitorConnect { path, source })?;
    let json = options.json || screen.is_json();
    if !json {
        eprintln!("Listening for events; press Ctrl-C to quit");
    }
    let mut names = Names { client, numeric: options.numeric, known: BTreeMap::new() };
    let mut feed = Feed::new(stream)?;
    while let Some(payload) = feed.next_payload()? {
        match payload {
            Payload::Lost { cpu, count } if json => {
                screen.json_line(&serde_json::json!({ "type": "lost", "cpu": cpu, "lost": count }))?;
            }
            Payload::Lost { cpu, count } => screen.line(&format!("CPU {cpu:02}: lost {count} events"))?,
            Payload::Sample { cpu, data } => {
                let Some(event) = Event::read(&data).filter(|event| is_wanted(options, event)) else { continue };
                if json {
                    screen.json_line(&text::json(&event, cpu))?;
                    continue;
                }
                screen.line(&text::line(&event, &mut |identity| names.name(identity)))?;
                if options.verbose > 0 {
                    screen.line(&text::details(&event, cpu))?;
                }
                if options.hex || options.verbose > 1 {
                    screen.line(&text::hex(event.packet()))?;
                }
                screen.flush()?;
            }
        }
    }
    Ok(())
}

/// The feed lies beside the API's socket.
fn beside(socket: PathBuf) -> PathBuf {
    let name = std::path::Path::new(api::monitor::DEFAULT_SOCKET).file_name().expect("the default has a name");
    socket.with_file_name(name)
}

/// Names of identities, asked for once each.
struct Names<'a> {
    client: &'a Client,
    numeric: bool,
    known: BTreeMap<u32, Vec<String>>,
}

impl Names<'_> {
    fn name(&mut self, number: u32) -> String {
        if self.numeric {
            return number.to_string();
        }
        if let Some(reserved) = hubble_model::text::reserved_identity(number) {
            return reserved.to_owned();
        }
        if !self.known.contains_key(&number) {
            // New identities appear while we listen. One that is unknown now is asked for once and then left alone.
            self.known.extend(identity::labels_of_all(self.client).unwrap_or_default());
            self.known.entry(number).or_default();
        }
        number.to_string()
    }
}

#[cfg(test)]
mod tests;
