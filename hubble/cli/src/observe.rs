//! `hubble observe`: flows, agent events and debug events, from a server or a file.

use crate::{
    Failure, Io,
    commands::Command,
    filters::Filters,
    printer::{Options, Output, Printer, Style},
    remote,
    settings::{Environment, Settings},
    source::{self, Selector, Sink, Source, Until, Window},
    times::{TimeFormat, quote},
};
use hubble_api::{
    FieldMask,
    flow::FlowFilter,
    json,
    observer::{
        GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse, GetFlowsRequest,
        GetFlowsResponse, observer_client::ObserverClient,
    },
};
use tokio_stream::StreamExt as _;

/// What compact, dict and table show; nothing else is asked for.
pub const DEFAULT_MASK: [&str; 20] = [
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

fn output(settings: &Settings, env: Option<&Environment>) -> Result<Output, Failure> {
    let legacy = env.is_some_and(|env| env.compat("legacy-json-output"));
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

/// `hubble observe [flows]`.
pub async fn flows(settings: &Settings, filters: &Filters, env: &Environment, io: &mut Io<'_>) -> Result<(), Failure> {
    let (allow, deny) = source::filters(settings, filters)?;
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
    let (number, first) = selector.number(!selector.follow && settings.text("input-file").is_empty());
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
    let file = Source::of(settings)?;
    let mut print = Print { printer: Printer::new(options, io.out, io.err), follow: selector.follow };
    let end = file.read(settings, &request, io.input, &mut print, Until::End).await;
    print.printer.finish()?;
    for warning in end? {
        writeln!(io.err, "warning: {warning}")?;
    }
    Ok(())
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

/// A printer as the end of a stream of flows.
struct Print<'a> {
    printer: Printer<'a>,
    follow: bool,
}

impl Sink for Print<'_> {
    fn take(&mut self, response: &GetFlowsResponse) -> Result<bool, Failure> {
        self.printer.response(response)?;
        if self.follow {
            self.printer.flush()?;
        }
        Ok(true)
    }
}

/// `hubble observe agent-events` and `debug-events`.
pub async fn events(command: Command, settings: &Settings, io: &mut Io<'_>) -> Result<(), Failure> {
    let output = output(settings, None)?;
    let selector = Selector::new(settings)?;
    if output == Output::Table && selector.follow {
        return Err(Failure("table output format is not compatible with follow mode".into()));
    }
    let source = Source::of(settings)?;
    let (number, first) = selector.number(source == Source::Server);
    let options = Options {
        output,
        time_format: TimeFormat::named(settings.text("time-format")),
        node_name: settings.flag("print-node-name"),
        ..Options::default()
    };
    let Selector { follow, since, until, .. } = selector;
    let mut printer = Printer::new(options, io.out, io.err);
    macro_rules! stream {
        ($request:expr, $call:ident, $print:ident) => {{
            let mut client = ObserverClient::new(remote::connect(settings)?);
            let mut responses = match client.$call($request).await {
                Ok(response) => response.into_inner(),
                Err(status) => return remote::stream_end(&status),
            };
            loop {
                match responses.next().await {
                    None => break Ok(Vec::new()),
                    Some(Err(status)) => break remote::stream_end(&status).map(|()| Vec::new()),
                    Some(Ok(response)) => {
                        printer.$print(&response)?;
                        if follow {
                            printer.flush()?;
                        }
                    }
                }
            }
        }};
    }
    macro_rules! file {
        ($file:expr, $message:ty, $print:ident) => {{
            let mut window = Window::new(number, first, since, until)?;
            let mut print = |event: &$message| Ok(printer.$print(event).map(|()| true)?);
            let warnings = source::lines($file, io.input, |event: $message| {
                if window.covers(event.time.as_ref()) { window.take(event, &mut print) } else { Ok(true) }
            })?;
            window.finish(print)?;
            Ok(warnings)
        }};
    }
    let end = match (command, &source) {
        (Command::AgentEvents, Source::Server) => {
            stream!(GetAgentEventsRequest { number, follow, since, until, first }, get_agent_events, agent_event)
        }
        (Command::AgentEvents, Source::File(file)) => file!(file, GetAgentEventsResponse, agent_event),
        (_, Source::Server) => {
            stream!(GetDebugEventsRequest { number, follow, since, until, first }, get_debug_events, debug_event)
        }
        (_, Source::File(file)) => file!(file, GetDebugEventsResponse, debug_event),
    };
    printer.finish()?;
    for warning in end? {
        writeln!(io.err, "warning: {warning}")?;
    }
    Ok(())
}
