//! `hubble observe`: flows, agent events and debug events, from a server or a file.

use crate::{
    Failure, Io,
    commands::Command,
    filters::Filters,
    printer::{Options, Output, Printer, Style},
    remote,
    settings::{Environment, Settings},
    times::{TimeFormat, parse_time, quote},
};
use hubble_api::{
    FieldMask, Timestamp,
    flow::FlowFilter,
    json::{self, ErrorKind, Unknown},
    observer::{
        GetAgentEventsRequest, GetDebugEventsRequest, GetFlowsRequest, GetFlowsResponse,
        get_flows_response::ResponseTypes, observer_client::ObserverClient,
    },
    time,
};
use hubble_model::FilterList;
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio_stream::StreamExt as _;

/// Records shown when nothing else is asked for.
const DEFAULT_LAST: u64 = 20;
/// Records of a file that can be held back to find the last ones.
const FILE_LAST_MAX: u64 = 1_000_000;

/// What compact, dict and table show; nothing else is asked for.
const DEFAULT_MASK: [&str; 20] = [
    "time",
    "verdict",
    "ethernet",
    "IP",
    "l4",
    "source.identity",
    "source.namespace",
    "source.pod_name",
    "destination.identity",
    "destination.namespace",
    "destination.pod_name",
    "Type",
    "node_name",
    "l7",
    "event_type",
    "source_service",
    "destination_service",
    "is_reply",
    "Summary",
    "ip_trace_id",
];

/// What policy names are found by; asked for beside [`DEFAULT_MASK`] when they are to be shown.
const POLICY_MASK: [&str; 6] = [
    "traffic_direction",
    "policy_match_type",
    "egress_allowed_by",
    "ingress_allowed_by",
    "egress_denied_by",
    "ingress_denied_by",
];

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Which records: the part flows and events have in common.
struct Selector {
    all: bool,
    last: u64,
    first: u64,
    follow: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Selector {
    fn new(settings: &Settings) -> Result<Self, Failure> {
        let now = now_ns();
        let at = |name: &str| match settings.text(name) {
            "" => Ok(None),
            text => parse_time(text, now).map(Some).map_err(|why| format!("failed to parse the {name} time: {why}")),
        };
        let follow = settings.flag("follow");
        let selector = Self {
            all: settings.flag("all"),
            last: settings.number("last"),
            first: settings.number("first"),
            follow,
            since: at("since")?,
            until: if follow { None } else { at("until")? },
        };
        for (one, other, both) in [
            ("first", "last", selector.first > 0 && selector.last > 0),
            ("first", "all", selector.first > 0 && selector.all),
            ("first", "follow", selector.first > 0 && follow),
            ("last", "all", selector.last > 0 && selector.all),
        ] {
            if both {
                return Err(Failure(format!("cannot set both --{one} and --{other}")));
            }
        }
        Ok(selector)
    }

    /// How many records to ask for, and whether they are counted from the oldest.
    fn number(&self, default_last: bool) -> (u64, bool) {
        if self.first > 0 {
            return (self.first, true);
        }
        let number = match (self.since.is_some() || self.until.is_some(), self.all) {
            (false, true) => u64::MAX,
            (false, false) if self.last == 0 && default_last => DEFAULT_LAST,
            _ => self.last,
        };
        (number, false)
    }
}

fn output(settings: &Settings, env: Option<&Environment>) -> Result<Output, Failure> {
    let compat = env.and_then(|env| env.variable("HUBBLE_COMPAT")).unwrap_or_default();
    let legacy = compat.split(',').any(|word| word.trim().eq_ignore_ascii_case("legacy-json-output"));
    Ok(match settings.text("output") {
        "compact" => Output::Compact,
        "dict" => Output::Dict,
        "json" | "JSON" if legacy => Output::JsonLegacy,
        "json" | "JSON" | "jsonpb" => Output::JsonPb,
        "tab" | "table" => Output::Table,
        other => return Err(Failure(format!("invalid output format: {other}"))),
    })
}

fn style(settings: &Settings, env: &Environment, terminal: bool) -> Result<Style, Failure> {
    let colors = match settings.text("color").to_lowercase().as_str() {
        "always" => true,
        "never" => false,
        "auto" => terminal && env.variable("TERM") != Some("dumb") && env.variable("NO_COLOR").is_none(),
        other => return Err(Failure(format!("invalid --color value {}: want auto, always or never", quote(other)))),
    };
    Ok(Style { colors })
}

/// Filters given as JSON, one or several to a flag.
fn raw_filters(settings: &Settings, name: &str) -> Result<Vec<FlowFilter>, Failure> {
    let mut all = Vec::new();
    for text in settings.list(name) {
        let found = json::read_all(text, Unknown::Reject).map_err(|error| {
            let why = match &error.kind {
                // The original's decoder speaks of the character it met.
                ErrorKind::Expected("a string") => match text[error.at..].chars().next() {
                    Some(c) => format!("invalid character '{c}' looking for beginning of object key string"),
                    None => error.to_string(),
                },
                _ => error.to_string(),
            };
            Failure(format!("invalid --{name} flag: failed to decode '{text}': {why}"))
        })?;
        all.extend(found);
    }
    Ok(all)
}

/// `hubble observe [flows]`.
pub async fn flows(settings: &Settings, filters: &Filters, env: &Environment, io: &mut Io<'_>) -> Result<(), Failure> {
    let (mut allow, mut deny) = filters.finish()?;
    allow.extend(raw_filters(settings, "allowlist")?);
    deny.extend(raw_filters(settings, "denylist")?);
    let output = output(settings, Some(env))?;
    let custom_mask = settings.list("field-mask");
    if !custom_mask.is_empty() && !matches!(output, Output::JsonPb | Output::JsonLegacy) {
        let name = settings.text("output");
        return Err(Failure(format!("{name} output format is not compatible with custom field mask")));
    }
    let selector = Selector::new(settings)?;
    if output == Output::Table && selector.follow {
        return Err(Failure("table output format is not compatible with follow mode".into()));
    }
    if settings.flag("print-raw-filters") {
        return print_filters(&allow, &deny, io);
    }
    let file = settings.text("input-file");
    let (number, first) = selector.number(!selector.follow && file.is_empty());
    let masked =
        settings.flag("use-default-field-masks") && matches!(output, Output::Compact | Output::Dict | Output::Table);
    let policies: &[&str] = if settings.flag("print-policy-names") { &POLICY_MASK } else { &[] };
    let paths = match custom_mask {
        [] if masked => DEFAULT_MASK.iter().chain(policies).copied().map(str::to_owned).collect(),
        paths => paths.to_vec(),
    };
    let request = GetFlowsRequest {
        number,
        first,
        follow: selector.follow,
        whitelist: allow,
        blacklist: deny,
        since: selector.since,
        until: selector.until,
        field_mask: (!paths.is_empty()).then_some(FieldMask { paths }),
        ..GetFlowsRequest::default()
    };
    let options = Options {
        output,
        time_format: TimeFormat::named(settings.text("time-format")),
        ip_translation: settings.flag("ip-translation") && !settings.flag("numeric"),
        node_name: settings.flag("print-node-name"),
        policy_names: settings.flag("print-policy-names"),
        debug: settings.flag("debug"),
        silent_errors: settings.flag("silent-errors"),
        style: style(settings, env, io.terminal)?,
    };
    if options.debug {
        writeln!(io.err, "level=DEBUG msg=\"Sending GetFlows request\" req={}", quote(&json::to_string(&request)))?;
    }
    if file.is_empty() {
        return from_server(settings, request, options, io).await;
    }
    if settings.flag("port-forward") {
        return Err(Failure("cannot use --input-file and --auto-port-forward together".into()));
    }
    from_file(file, &request, options, io)
}

fn print_filters(allow: &[FlowFilter], deny: &[FlowFilter], io: &mut Io<'_>) -> Result<(), Failure> {
    for (name, list) in [("allowlist", allow), ("denylist", deny)] {
        if list.is_empty() {
            continue;
        }
        writeln!(io.out, "{name}:")?;
        for filter in list {
            writeln!(io.out, "    - '{}'", json::to_string(filter).replace('\'', "''"))?;
        }
    }
    Ok(())
}

async fn from_server(
    settings: &Settings,
    request: GetFlowsRequest,
    options: Options,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    let mut client = ObserverClient::new(remote::connect(settings)?);
    let follow = request.follow;
    let mut responses = match client.get_flows(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return remote::stream_end(&status),
    };
    let mut printer = Printer::new(options, io.out, io.err);
    let end = loop {
        match responses.next().await {
            None => break Ok(()),
            Some(Err(status)) => break remote::stream_end(&status),
            Some(Ok(response)) => {
                printer.response(&response)?;
                if follow {
                    printer.flush()?;
                }
            }
        }
    };
    printer.finish()?;
    end
}

/// Filters, counts and prints the lines of a file as a server would have.
fn from_file(file: &str, request: &GetFlowsRequest, options: Options, io: &mut Io<'_>) -> Result<(), Failure> {
    if request.number > FILE_LAST_MAX && request.number != u64::MAX && !request.first {
        return Err(Failure(format!("--last {}: a file can show the last {FILE_LAST_MAX} at most", request.number)));
    }
    let filters =
        FilterList::new(&request.whitelist, &request.blacklist).map_err(|error| Failure(error.to_string()))?;
    let mut opened;
    let input: &mut dyn BufRead = if file == "-" {
        &mut *io.input
    } else {
        let found = std::fs::File::open(file).map_err(|error| Failure(format!("failed to open {file}: {error}")))?;
        opened = BufReader::new(found);
        &mut opened
    };
    let mut warnings = Vec::new();
    let mut printer = Printer::new(options, io.out, io.err);
    let wanted = usize::try_from(request.number).unwrap_or(usize::MAX);
    let mut tail = VecDeque::new();
    let mut shown = 0;
    let mut line = Vec::new();
    let mut number = 0;
    let mut told_unknown = false;
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        number += 1;
        let response = match read_line(&line, &mut told_unknown) {
            Ok(None) => continue,
            Ok(Some((response, unknown))) => {
                warnings.extend(unknown.map(|why| format!("line {number}: {why}; unknown fields are passed over")));
                response
            }
            Err(why) => {
                warnings.push(format!("line {number} is skipped: {why}"));
                continue;
            }
        };
        if !passes(&response, request, &filters) {
            continue;
        }
        if request.first || wanted == 0 || wanted == usize::MAX {
            printer.response(&response)?;
            shown += 1;
            if request.first && shown == wanted {
                break;
            }
            continue;
        }
        if tail.len() == wanted {
            tail.pop_front();
        }
        tail.push_back(response);
    }
    for response in &tail {
        printer.response(response)?;
    }
    printer.finish()?;
    for warning in warnings {
        writeln!(io.err, "warning: {file}: {warning}")?;
    }
    Ok(())
}

/// One line of a file: nothing when it is empty; with the first unknown field met in the file.
fn read_line(line: &[u8], told: &mut bool) -> Result<Option<(GetFlowsResponse, Option<String>)>, String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    match json::from_str(text) {
        Ok(response) => Ok(Some((response, None))),
        Err(error) => {
            let response = json::read(text, Unknown::Discard).map_err(|error| error.to_string())?;
            let first = !std::mem::replace(told, true);
            Ok(Some((response, first.then(|| error.to_string()))))
        }
    }
}

/// True when the record is asked for. Records that are no flows pass as long as nothing particular is asked for.
fn passes(response: &GetFlowsResponse, request: &GetFlowsRequest, filters: &FilterList) -> bool {
    let at = response.time.as_ref().map(time::nanos);
    let early = request.since.as_ref().is_some_and(|since| at.is_none_or(|at| at < time::nanos(since)));
    let late = request.until.as_ref().is_some_and(|until| at.is_none_or(|at| at > time::nanos(until)));
    if early || late {
        return false;
    }
    match &response.response_types {
        Some(ResponseTypes::Flow(flow)) => filters.matches(flow),
        Some(_) => filters.allows_all(),
        None => false,
    }
}

/// `hubble observe agent-events` and `debug-events`.
pub async fn events(command: Command, settings: &Settings, io: &mut Io<'_>) -> Result<(), Failure> {
    let output = output(settings, None)?;
    let selector = Selector::new(settings)?;
    if output == Output::Table && selector.follow {
        return Err(Failure("table output format is not compatible with follow mode".into()));
    }
    let (number, first) = selector.number(true);
    let options = Options {
        output,
        time_format: TimeFormat::named(settings.text("time-format")),
        node_name: settings.flag("print-node-name"),
        ..Options::default()
    };
    let mut client = ObserverClient::new(remote::connect(settings)?);
    let Selector { follow, since, until, .. } = selector;
    macro_rules! stream {
        ($request:expr, $call:ident, $print:ident) => {{
            let mut responses = match client.$call($request).await {
                Ok(response) => response.into_inner(),
                Err(status) => return remote::stream_end(&status),
            };
            let mut printer = Printer::new(options, io.out, io.err);
            let end = loop {
                match responses.next().await {
                    None => break Ok(()),
                    Some(Err(status)) => break remote::stream_end(&status),
                    Some(Ok(response)) => {
                        printer.$print(&response)?;
                        if follow {
                            printer.flush()?;
                        }
                    }
                }
            };
            printer.finish()?;
            end
        }};
    }
    if command == Command::AgentEvents {
        stream!(GetAgentEventsRequest { number, follow, since, until, first }, get_agent_events, agent_event)
    } else {
        stream!(GetDebugEventsRequest { number, follow, since, until, first }, get_debug_events, debug_event)
    }
}
