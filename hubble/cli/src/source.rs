//! Where flows come from: a server, or a file of JSON lines that is asked as a server would be.

use crate::{Failure, filters::Filters, remote, settings::Settings, times::parse_time};
use hubble_api::{
    Timestamp,
    flow::FlowFilter,
    json::{self, ErrorKind, Unknown},
    observer::{GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes, observer_client::ObserverClient},
    time,
};
use hubble_model::FilterList;
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio_stream::StreamExt as _;

/// Records shown when nothing else is asked for.
const DEFAULT_LAST: u64 = 20;
/// Records of a file that can be held back to find the last ones.
const FILE_LAST_MAX: u64 = 1_000_000;

/// Nanoseconds since 1970.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Which records: the part flows and events have in common.
pub struct Selector {
    /// All records there are.
    pub all: bool,
    /// The last so many.
    pub last: u64,
    /// The first so many.
    pub first: u64,
    /// Go on with new ones.
    pub follow: bool,
    /// From a time on.
    pub since: Option<Timestamp>,
    /// Up to a time.
    pub until: Option<Timestamp>,
}

impl Selector {
    /// Reads the flags; those that contradict each other are refused.
    pub fn new(settings: &Settings) -> Result<Self, Failure> {
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
    pub fn number(&self, default_last: bool) -> (u64, bool) {
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

/// The filters of the flags, and those given as JSON behind them: which flows to show, and which of them not.
pub fn filters(settings: &Settings, filters: &Filters) -> Result<(Vec<FlowFilter>, Vec<FlowFilter>), Failure> {
    let (mut allow, mut deny) = filters.finish()?;
    allow.extend(raw_filters(settings, "allowlist")?);
    deny.extend(raw_filters(settings, "denylist")?);
    Ok((allow, deny))
}

/// What flows go into.
pub trait Sink {
    /// Takes one answer. False when no more are wanted.
    fn take(&mut self, response: &GetFlowsResponse) -> Result<bool, Failure>;
    /// The time between looks has passed. False when no more are wanted.
    fn tick(&mut self) -> Result<bool, Failure> {
        Ok(true)
    }
}

/// How long to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until there is no more.
    End,
    /// The same, or until the user interrupts; with a tick in between if wanted.
    Interrupted(Option<Duration>),
}

/// A server or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The server of the settings.
    Server,
    /// A file; `-` is the standard input.
    File(String),
}

impl Source {
    /// What the settings name.
    pub fn of(settings: &Settings) -> Result<Self, Failure> {
        match settings.text("input-file") {
            "" => Ok(Self::Server),
            _ if settings.flag("port-forward") => {
                Err(Failure("cannot use --input-file and --auto-port-forward together".into()))
            }
            file => Ok(Self::File(file.into())),
        }
    }

    /// Hands everything asked for to `sink`. Answers what was wrong with single lines of a file.
    pub async fn read(
        &self,
        settings: &Settings,
        request: &GetFlowsRequest,
        input: &mut dyn BufRead,
        sink: &mut dyn Sink,
        until: Until,
    ) -> Result<Vec<String>, Failure> {
        match self {
            Self::Server => from_server(settings, request, sink, until).await.map(|()| Vec::new()),
            Self::File(file) => from_file(file, request, input, sink),
        }
    }
}

async fn from_server(
    settings: &Settings,
    request: &GetFlowsRequest,
    sink: &mut dyn Sink,
    until: Until,
) -> Result<(), Failure> {
    let mut client = ObserverClient::new(remote::connect(settings)?);
    let (interruptible, every) = match until {
        Until::End => (false, None),
        Until::Interrupted(every) => (true, every),
    };
    let mut responses = tokio::select! {
        answer = client.get_flows(request.clone()) => match answer {
            Ok(response) => response.into_inner(),
            Err(status) => return remote::stream_end(&status),
        },
        _ = tokio::signal::ctrl_c(), if interruptible => return Ok(()),
    };
    let mut ticks = tokio::time::interval(every.unwrap_or(Duration::from_secs(3_600)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await; // The first one is due at once.
    loop {
        let more = tokio::select! {
            answer = responses.next() => match answer {
                None => return Ok(()),
                Some(Err(status)) => return remote::stream_end(&status),
                Some(Ok(response)) => sink.take(&response)?,
            },
            _ = ticks.tick(), if every.is_some() => sink.tick()?,
            _ = tokio::signal::ctrl_c(), if interruptible => false,
        };
        if !more {
            return Ok(());
        }
    }
}

/// Filters and counts the lines of a file as a server would have.
fn from_file(
    file: &str,
    request: &GetFlowsRequest,
    input: &mut dyn BufRead,
    sink: &mut dyn Sink,
) -> Result<Vec<String>, Failure> {
    let filters =
        FilterList::new(&request.whitelist, &request.blacklist).map_err(|error| Failure(error.to_string()))?;
    let mut window = Window::new(request.number, request.first, request.since, request.until)?;
    let warnings = lines(file, input, |response: GetFlowsResponse| {
        if !window.covers(response.time.as_ref()) || !passes(&response, &filters) {
            return Ok(true);
        }
        window.take(response, |response| sink.take(response))
    })?;
    window.finish(|response| sink.take(response))?;
    Ok(warnings)
}

/// Which of the lines of a file that are asked for are shown.
pub struct Window<M> {
    first: bool,
    /// How many; all when it is zero or the greatest number.
    wanted: usize,
    shown: usize,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Held back until the end shows that they are the last ones.
    tail: VecDeque<M>,
}

impl<M> Window<M> {
    /// A window of so many, counted from the first or from the last.
    pub fn new(number: u64, first: bool, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<Self, Failure> {
        if number > FILE_LAST_MAX && number != u64::MAX && !first {
            return Err(Failure(format!("--last {number}: a file can show the last {FILE_LAST_MAX} at most")));
        }
        let wanted = usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Self { first, wanted, shown: 0, since, until, tail: VecDeque::new() })
    }

    /// True when the time lies between the bounds; without a time, when there are none.
    pub fn covers(&self, at: Option<&Timestamp>) -> bool {
        let at = at.map(time::nanos);
        let early = self.since.as_ref().is_some_and(|since| at.is_none_or(|at| at < time::nanos(since)));
        let late = self.until.as_ref().is_some_and(|until| at.is_none_or(|at| at > time::nanos(until)));
        !early && !late
    }

    /// Takes a message: shown at once, or held back. False when no more are wanted.
    pub fn take(&mut self, message: M, mut show: impl FnMut(&M) -> Result<bool, Failure>) -> Result<bool, Failure> {
        if self.first || self.wanted == 0 || self.wanted == usize::MAX {
            self.shown += 1;
            return Ok(show(&message)? && !(self.first && self.shown == self.wanted));
        }
        if self.tail.len() == self.wanted {
            self.tail.pop_front();
        }
        self.tail.push_back(message);
        Ok(true)
    }

    /// Shows what was held back.
    pub fn finish(self, mut show: impl FnMut(&M) -> Result<bool, Failure>) -> Result<(), Failure> {
        for message in &self.tail {
            if !show(message)? {
                break;
            }
        }
        Ok(())
    }
}

/// Reads a file of JSON lines, `-` being the standard input, until `take` has enough. Answers what was wrong with
/// single lines.
pub fn lines<M: json::Message>(
    file: &str,
    input: &mut dyn BufRead,
    mut take: impl FnMut(M) -> Result<bool, Failure>,
) -> Result<Vec<String>, Failure> {
    let mut opened;
    let input: &mut dyn BufRead = if file == "-" {
        input
    } else {
        let found = std::fs::File::open(file).map_err(|error| Failure(format!("failed to open {file}: {error}")))?;
        opened = BufReader::new(found);
        &mut opened
    };
    let mut warnings = Warnings { file, told: Vec::new(), untold: 0 };
    let mut line = Vec::new();
    let mut number = 0;
    let mut told_unknown = false;
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        number += 1;
        let message = match read_line(&line, &mut told_unknown) {
            Ok(None) => continue,
            Ok(Some((message, unknown))) => {
                if let Some(why) = unknown {
                    warnings.add(format!("line {number}: {why}; unknown fields are passed over"));
                }
                message
            }
            Err(why) => {
                warnings.add(format!("line {number} is skipped: {why}"));
                continue;
            }
        };
        if !take(message)? {
            break;
        }
    }
    Ok(warnings.finish())
}

/// What was wrong with lines; a file with nothing but broken lines does not fill the memory.
struct Warnings<'a> {
    file: &'a str,
    told: Vec<String>,
    untold: u64,
}

impl Warnings<'_> {
    const TOLD_MAX: usize = 1_000;

    fn add(&mut self, what: String) {
        if self.told.len() < Self::TOLD_MAX {
            self.told.push(format!("{}: {what}", self.file));
        } else {
            self.untold += 1;
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.untold > 0 {
            self.told.push(format!("{}: {} more lines with something wrong", self.file, self.untold));
        }
        self.told
    }
}

/// One line of a file: nothing when it is empty; with the first unknown field met in the file.
fn read_line<M: json::Message>(line: &[u8], told: &mut bool) -> Result<Option<(M, Option<String>)>, String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?.trim();
    if text.is_empty() {
        return Ok(None);
    }
    match json::from_str(text) {
        Ok(message) => Ok(Some((message, None))),
        Err(error) => {
            let message = json::read(text, Unknown::Discard).map_err(|error| error.to_string())?;
            let first = !std::mem::replace(told, true);
            Ok(Some((message, first.then(|| error.to_string()))))
        }
    }
}

/// True when the record is asked for. Records that are no flows pass as long as nothing particular is asked for.
fn passes(response: &GetFlowsResponse, filters: &FilterList) -> bool {
    match &response.response_types {
        Some(ResponseTypes::Flow(flow)) => filters.matches(flow),
        Some(_) => filters.allows_all(),
        None => false,
    }
}
