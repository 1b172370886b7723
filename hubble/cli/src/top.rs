//! `hubble top`: who talks most, what is dropped, and which workloads are behind it.
//!
//! Memory is bounded: of each list the entries with the fewest flows are forgotten when there are too many, and what
//! they had counted is shown as a line of its own, so that the sums stay right.

use crate::{
    Failure, Io,
    filters::Filters,
    printer::safe,
    settings::Settings,
    source::{self, Selector, Sink, Source, Until},
    tabwriter::TabWriter,
    talk::{By, Talk, talk},
    times::{TimeFormat, quote},
};
use hubble_api::{
    FieldMask,
    flow::Verdict,
    observer::{GetFlowsRequest, GetFlowsResponse, get_flows_response::ResponseTypes},
    time,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, io::Write, time::Duration};

/// Entries of a list at most.
const ENTRIES_MAX: usize = 10_000;

/// What edges are made of; nothing else is asked for.
pub const MASK: [&str; 15] = [
    "time",
    "verdict",
    "IP",
    "l4",
    "source",
    "destination",
    "source_names",
    "destination_names",
    "source_service",
    "destination_service",
    "is_reply",
    "l7",
    "drop_reason_desc",
    "node_name",
    "traffic_direction",
];

/// Counts of one entry: since the last look, and in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    window: u64,
    total: u64,
    /// Of the total, those that were dropped.
    dropped: u64,
    /// Of the window and the total, those that came in; of workloads.
    inward: (u64, u64),
}

impl Count {
    fn add(&mut self, dropped: bool, inward: bool) {
        self.window += 1;
        self.total += 1;
        self.dropped += u64::from(dropped);
        self.inward.0 += u64::from(inward);
        self.inward.1 += u64::from(inward);
    }

    fn join(&mut self, other: &Self) {
        self.window += other.window;
        self.total += other.total;
        self.dropped += other.dropped;
        self.inward.0 += other.inward.0;
        self.inward.1 += other.inward.1;
    }
}

/// Counts by key, bounded.
#[derive(Debug)]
struct Tally<const N: usize> {
    counts: BTreeMap<[String; N], Count>,
    /// What forgotten entries had counted.
    others: Count,
    entries_max: usize,
}

impl<const N: usize> Tally<N> {
    fn new(entries_max: usize) -> Self {
        Self { counts: BTreeMap::new(), others: Count::default(), entries_max }
    }

    fn add(&mut self, key: [String; N], dropped: bool, inward: bool) {
        if let Some(count) = self.counts.get_mut(&key) {
            return count.add(dropped, inward);
        }
        if self.counts.len() >= self.entries_max {
            self.forget();
        }
        self.counts.entry(key).or_default().add(dropped, inward);
    }

    /// Forgets the lesser half.
    fn forget(&mut self) {
        let mut totals: Vec<u64> = self.counts.values().map(|count| count.total).collect();
        totals.sort_unstable();
        let middle = totals[totals.len() / 2];
        let others = &mut self.others;
        let mut left = totals.len() / 2 + 1;
        self.counts.retain(|_, count| {
            let forgotten = count.total <= middle && left > 0;
            if forgotten {
                left -= 1;
                others.join(count);
            }
            !forgotten
        });
    }

    /// Those with most flows since the last look, then in all, then by name.
    fn greatest(&self, limit: usize) -> Vec<(&[String; N], &Count)> {
        let mut all: Vec<_> = self.counts.iter().collect();
        all.sort_by(|(a, x), (b, y)| (y.window, y.total).cmp(&(x.window, x.total)).then_with(|| a.cmp(b)));
        all.truncate(limit);
        all
    }

    fn next_window(&mut self) {
        for count in self.counts.values_mut().chain([&mut self.others]) {
            count.window = 0;
            count.inward.0 = 0;
        }
    }
}

/// One of the lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Talkers,
    Drops,
    Workloads,
}

const LISTS: [(&str, List); 3] = [("talkers", List::Talkers), ("drops", List::Drops), ("workloads", List::Workloads)];

/// Everything counted.
struct Counts {
    by: By,
    /// Client, server, port.
    talkers: Tally<3>,
    /// Reason, client, server, port.
    drops: Tally<4>,
    /// Name.
    workloads: Tally<1>,
    /// Of all flows.
    all: Count,
    lost: u64,
    /// Time of the newest flow.
    newest: Option<hubble_api::Timestamp>,
}

impl Counts {
    fn new(by: By, entries_max: usize) -> Self {
        Self {
            by,
            talkers: Tally::new(entries_max),
            drops: Tally::new(entries_max),
            workloads: Tally::new(entries_max),
            all: Count::default(),
            lost: 0,
            newest: None,
        }
    }

    fn take(&mut self, response: &GetFlowsResponse) {
        match &response.response_types {
            Some(ResponseTypes::Flow(flow)) => {
                let at = flow.time.or(response.time);
                if at.as_ref().map(time::nanos) > self.newest.as_ref().map(time::nanos) {
                    self.newest = at;
                }
                let dropped = flow.verdict() == Verdict::Dropped;
                self.all.add(dropped, false);
                if let Some(talk) = talk(flow, self.by) {
                    self.count(talk, dropped);
                }
            }
            Some(ResponseTypes::LostEvents(lost)) => self.lost += lost.num_events_lost,
            _ => {}
        }
    }

    fn count(&mut self, talk: Talk, dropped: bool) {
        let Talk { client, server, port, reason, .. } = talk;
        self.workloads.add([client.clone()], dropped, false);
        if client != server {
            self.workloads.add([server.clone()], dropped, true);
        }
        if let Some(reason) = reason {
            self.drops.add([reason, client.clone(), server.clone(), port.clone()], dropped, false);
        }
        self.talkers.add([client, server, port], dropped, false);
    }

    fn next_window(&mut self) {
        self.all.window = 0;
        self.talkers.next_window();
        self.drops.next_window();
        self.workloads.next_window();
    }
}

/// How the lists are shown.
struct View<'a> {
    lists: Vec<List>,
    limit: usize,
    json: bool,
    /// Redraw in place.
    redraw: bool,
    /// Length of a window; none when everything is one window, which has no rate.
    interval: Option<Duration>,
    out: &'a mut dyn Write,
}

impl View<'_> {
    fn show(&mut self, counts: &Counts) -> Result<(), Failure> {
        let text = if self.json { self.as_json(counts).to_string() + "\n" } else { self.as_text(counts) };
        if self.redraw {
            // Home, then clear what the last picture left below.
            write!(self.out, "\u{1b}[H\u{1b}[J")?;
        }
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    fn rate(&self, flows: u64) -> Option<f64> {
        self.interval.map(|interval| flows as f64 / interval.as_secs_f64())
    }

    fn shown_rate(&self, flows: u64) -> String {
        self.rate(flows).map_or_else(|| "-".into(), |rate| format!("{rate:.1}"))
    }

    fn as_text(&self, counts: &Counts) -> String {
        let at = TimeFormat::StampMilli.show(counts.newest.as_ref());
        let mut text = format!("{at}: {} flows", counts.all.total);
        if let Some(rate) = self.rate(counts.all.window) {
            text.push_str(&format!(" ({rate:.1}/s)"));
        }
        text.push_str(&format!(", {} dropped, {} lost\n", counts.all.dropped, counts.lost));
        for list in &self.lists {
            text.push('\n');
            text.push_str(&match list {
                List::Talkers => self.table(&["SOURCE", "DESTINATION", "PORT"], &counts.talkers, false),
                List::Drops => self.table(&["REASON", "SOURCE", "DESTINATION", "PORT"], &counts.drops, false),
                List::Workloads => self.table(&["WORKLOAD"], &counts.workloads, true),
            });
        }
        if !self.redraw {
            text.push('\n');
        }
        text
    }

    fn table<const N: usize>(&self, keys: &[&str], tally: &Tally<N>, directed: bool) -> String {
        let mut tabs = TabWriter::default();
        let counted = if directed { "OUT/S\tIN/S\tOUT\tIN\tDROPPED" } else { "FLOWS/S\tFLOWS\tDROPPED" };
        tabs.write(&format!("{}\t{counted}\n", keys.join("\t")));
        let cells = |count: &Count| {
            let out = (count.window - count.inward.0, count.total - count.inward.1);
            let dropped = count.dropped;
            if directed {
                let (out_rate, in_rate) = (self.shown_rate(out.0), self.shown_rate(count.inward.0));
                format!("{out_rate}\t{in_rate}\t{}\t{}\t{dropped}\n", out.1, count.inward.1)
            } else {
                format!("{}\t{}\t{dropped}\n", self.shown_rate(count.window), count.total)
            }
        };
        for (key, count) in tally.greatest(self.limit) {
            let key: Vec<String> = key.iter().map(|part| safe(&part.replace(['\t', '\n'], " ")).into_owned()).collect();
            tabs.write(&format!("{}\t{}", key.join("\t"), cells(count)));
        }
        if tally.others.total > 0 {
            tabs.write(&format!("(forgotten){}\t{}", "\t".repeat(N - 1), cells(&tally.others)));
        }
        tabs.finish()
    }

    fn as_json(&self, counts: &Counts) -> Value {
        let entry = |names: &[&str], key: &[String], count: &Count, directed: bool| {
            let mut object = serde_json::Map::new();
            for (name, part) in names.iter().zip(key) {
                object.insert((*name).into(), json!(part));
            }
            if directed {
                object.insert("out".into(), json!(count.total - count.inward.1));
                object.insert("in".into(), json!(count.inward.1));
            } else {
                object.insert("flows".into(), json!(count.total));
            }
            if let Some(rate) = self.rate(count.window) {
                object.insert("flows_per_second".into(), json!(rate));
            }
            object.insert("dropped".into(), json!(count.dropped));
            Value::Object(object)
        };
        let mut whole = serde_json::Map::new();
        let at = counts.newest.as_ref().map(|at| time::Rfc3339(at).to_string());
        whole.insert("time".into(), json!(at));
        whole.insert("flows".into(), json!(counts.all.total));
        whole.insert("dropped".into(), json!(counts.all.dropped));
        whole.insert("lost".into(), json!(counts.lost));
        if let Some(rate) = self.rate(counts.all.window) {
            whole.insert("flows_per_second".into(), json!(rate));
        }
        macro_rules! list {
            ($name:literal, $tally:expr, $keys:expr, $directed:literal) => {{
                let rows = $tally.greatest(self.limit);
                let rows: Vec<Value> = rows.iter().map(|(key, count)| entry(&$keys, *key, count, $directed)).collect();
                whole.insert($name.into(), rows.into());
                if $tally.others.total > 0 {
                    whole.insert(concat!($name, "_forgotten").into(), entry(&[], &[], &$tally.others, $directed));
                }
            }};
        }
        for list in &self.lists {
            match list {
                List::Talkers => list!("talkers", counts.talkers, ["source", "destination", "port"], false),
                List::Drops => list!("drops", counts.drops, ["reason", "source", "destination", "port"], false),
                List::Workloads => list!("workloads", counts.workloads, ["workload"], true),
            }
        }
        Value::Object(whole)
    }
}

struct Top<'a> {
    counts: Counts,
    view: View<'a>,
    /// Looks still wanted; none for any number.
    looks: Option<u64>,
}

impl Sink for Top<'_> {
    fn take(&mut self, response: &GetFlowsResponse) -> Result<bool, Failure> {
        self.counts.take(response);
        Ok(true)
    }

    fn tick(&mut self) -> Result<bool, Failure> {
        self.view.show(&self.counts)?;
        self.counts.next_window();
        self.looks = self.looks.map(|looks| looks.saturating_sub(1));
        Ok(self.looks != Some(0))
    }
}

fn lists(words: &[String]) -> Result<Vec<List>, Failure> {
    if words.is_empty() {
        return Ok(LISTS.map(|(_, list)| list).to_vec());
    }
    let find = |word: &String| {
        let found = LISTS.iter().find(|(name, _)| name == word).map(|(_, list)| *list);
        let unknown = || format!("unknown list {} for \"hubble top\": want talkers, drops or workloads", quote(word));
        found.ok_or_else(|| Failure(unknown()))
    };
    words.iter().map(find).collect()
}

/// `hubble top`.
pub async fn run(settings: &Settings, words: &[String], filters: &Filters, io: &mut Io<'_>) -> Result<(), Failure> {
    let (whitelist, blacklist) = source::filters(settings, filters)?;
    let selector = Selector::new(settings)?;
    let (lists, by) = (lists(words)?, By::parse(settings.text("by")).map_err(Failure)?);
    let json = match settings.text("output") {
        "" => false,
        "text" | "table" => false,
        "json" => true,
        other => return Err(Failure(format!("invalid output format: {other}: want text or json"))),
    };
    let interval = settings.duration("interval").map_err(Failure)?;
    if interval < Duration::from_millis(100) {
        return Err(Failure("invalid --interval: want at least 100ms".into()));
    }
    let limit = usize::try_from(settings.number("limit")).unwrap_or(usize::MAX);
    if limit == 0 {
        return Err(Failure("invalid --limit: want at least 1".into()));
    }
    let source = Source::of(settings)?;
    // A question about the past has one answer; without one, what comes is watched.
    let Selector { all, last, first, follow, since, until } = selector;
    let past = all || last > 0 || first > 0 || since.is_some() || until.is_some();
    let live = source == Source::Server && (follow || !past);
    let (number, first) = if past { Selector { follow: live, ..selector }.number(false) } else { (0, false) };
    let request = GetFlowsRequest {
        number,
        first,
        follow: live,
        whitelist,
        blacklist,
        since,
        until,
        field_mask: settings
            .flag("use-default-field-masks")
            .then(|| FieldMask { paths: MASK.map(str::to_owned).to_vec() }),
        ..GetFlowsRequest::default()
    };
    let looks = Some(settings.number("count")).filter(|looks| *looks > 0);
    let redraw = live && io.terminal && !json;
    let view = View { lists, limit, json, redraw, interval: live.then_some(interval), out: io.out };
    let mut top = Top { counts: Counts::new(by, ENTRIES_MAX), view, looks };
    if redraw {
        write!(top.view.out, "\u{1b}[2J")?;
    }
    let until = if live { Until::Interrupted(Some(interval)) } else { Until::End };
    let end = source.read(settings, &request, io.input, &mut top, until).await;
    if !live {
        top.view.show(&top.counts)?;
    }
    for warning in end? {
        writeln!(io.err, "warning: {warning}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_counted_all_the_same() {
        let mut tally: Tally<1> = Tally::new(100);
        for n in 0..10_000_u64 {
            // Two that come again and again, among thousands that come once.
            let name = match n % 4 {
                0 => "great".to_owned(),
                1 if n % 8 == 1 => "middle".to_owned(),
                _ => n.to_string(),
            };
            tally.add([name], false, false);
            assert!(tally.counts.len() <= 100);
        }
        let sum: u64 = tally.counts.values().map(|count| count.total).sum();
        assert_eq!(sum + tally.others.total, 10_000);
        let greatest: Vec<_> =
            tally.greatest(2).into_iter().map(|(key, count)| (key[0].as_str(), count.total)).collect();
        assert_eq!(greatest, [("great", 2_500), ("middle", 1_250)]);
    }

    #[test]
    fn many_alike_do_not_fill_the_memory() {
        let mut tally: Tally<1> = Tally::new(10);
        (0..1_000).for_each(|n| tally.add([n.to_string()], n % 2 == 0, false));
        assert!(tally.counts.len() <= 10 && tally.others.total >= 990);
        assert_eq!(tally.others.dropped + tally.counts.values().map(|count| count.dropped).sum::<u64>(), 500);
    }
}
