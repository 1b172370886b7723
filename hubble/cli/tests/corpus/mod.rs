//! The published corpora of the command line's output, byte for byte. Read in place, never copied.
//!
//! Shared by the test of this crate and by its `conformance` example, which prints the numbers.
#![allow(dead_code, missing_docs, reason = "the test and the example each use a part")]

#[path = "../../../model/tests/corpus/parts.rs"]
pub mod parts;

use parts::Score;

use hubble_api::json;
use hubble_cli::{
    Io,
    printer::{Options, Output, Printer},
    run,
    settings::Environment,
};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// What evaluates a part of the corpus.
pub const EVALUATIONS: [fn(&Value) -> Score; 4] = [per_line, batches, cli_filters, events];

/// Exit code, output and error output of a command.
pub fn hubble(
    args: &[String],
    input: &str,
    variables: BTreeMap<String, String>,
    directory: &Path,
) -> (i32, String, String) {
    let env = Environment { variables, directory: directory.to_owned() };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut io = Io { input: &mut input.as_bytes(), out: &mut out, err: &mut err, terminal: false };
    let code = runtime.block_on(run(args, &env, &mut io));
    (code, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

pub fn strings(value: &Value) -> Vec<String> {
    value.as_array().expect("a list").iter().map(|item| item.as_str().expect("text").to_owned()).collect()
}

pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Log lines carry the time of day and are no part of what is compared.
fn without_log(text: &str) -> String {
    text.lines().filter(|line| !line.contains("level=")).map(|line| format!("{line}\n")).collect()
}

/// The first place where two texts differ.
fn difference(got: &str, want: &str) -> String {
    let at = got.bytes().zip(want.bytes()).position(|(g, w)| g != w).unwrap_or(got.len().min(want.len()));
    let show = |text: &str| {
        let from = (0..=at.saturating_sub(60)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text[from..].chars().take(160).collect::<String>()
    };
    format!("at byte {at}:\n   got {:?}\n  want {:?}", show(got), show(want))
}

impl Score {
    pub fn new(name: &'static str) -> Self {
        Self { name, total: 0, wrong: Vec::new() }
    }

    pub fn compare(&mut self, what: &str, got: &(i32, String, String), want: (i32, &str, &str)) {
        self.total += 1;
        let stderr = without_log(&got.2);
        if got.0 != want.0 {
            self.wrong.push(format!("{what}: exit code {} not {} ({stderr})", got.0, want.0));
        } else if got.1 != want.1 {
            self.wrong.push(format!("{what}: stdout {}", difference(&got.1, want.1)));
        } else if stderr.trim_end() != without_log(want.2).trim_end() {
            self.wrong.push(format!("{what}: stderr {}", difference(&stderr, want.2)));
        }
    }

    pub fn finish(self) {
        println!("{}: {}/{}", self.name, self.total - self.wrong.len(), self.total);
        assert!(self.total > 0, "{}: nothing was compared", self.name);
        let first: Vec<_> = self.wrong.iter().take(12).cloned().collect();
        assert!(self.wrong.is_empty(), "{} of {} differ:\n{}", self.wrong.len(), self.total, first.join("\n"));
    }
}

/// Every line in every format.
pub fn per_line(corpus: &Value) -> Score {
    let mut score = Score::new("per_line");
    for case in corpus["per_line"].as_array().expect("a list") {
        let line = &corpus["lines"][usize::try_from(case["line"].as_u64().expect("an index")).expect("small")];
        for (output, want) in case["out"].as_object().expect("an object") {
            let args = ["observe", "--input-file", "-", "--color", "never", "-o", output].map(str::to_owned);
            let got = hubble(&args, &(line.to_string() + "\n"), BTreeMap::new(), Path::new("/nonexistent"));
            let code = i32::try_from(want.get("rc").and_then(Value::as_i64).unwrap_or(0)).expect("small");
            let what = format!("{} -o {output}", text(case, "id"));
            score.compare(&what, &got, (code, text(want, "stdout"), text(want, "stderr")));
        }
    }
    score
}

/// Lines together, under the flags of each batch.
pub fn batches(corpus: &Value) -> Score {
    let mut score = Score::new("batches");
    let lines = corpus["lines"].as_array().expect("a list");
    for case in corpus["batches"].as_array().expect("a list") {
        let chosen: Vec<&Value> = match case["lines"].as_array() {
            None => lines.iter().collect(),
            Some(indexes) => indexes
                .iter()
                .map(|at| &lines[usize::try_from(at.as_u64().expect("an index")).expect("small")])
                .collect(),
        };
        let input: String = chosen.iter().map(|line| format!("{line}\n")).collect();
        let args = strings(&case["args"]);
        let got = hubble(&args, &input, BTreeMap::new(), Path::new("/nonexistent"));
        let code = i32::try_from(case["rc"].as_i64().expect("a code")).expect("small");
        let what = format!("{} {}", text(case, "id"), args.join(" "));
        score.compare(&what, &got, (code, text(case, "stdout"), text(case, "stderr")));
    }
    score
}

/// Filters made of flags.
pub fn cli_filters(corpus: &Value) -> Score {
    let mut score = Score::new("cli_filters");
    for case in corpus["cli_filters"].as_array().expect("a list") {
        compare_filters(&mut score, case);
    }
    score
}

/// One case of filters made of flags.
pub fn compare_filters(score: &mut Score, case: &Value) {
    let args = [vec!["observe".to_owned(), "--print-raw-filters".to_owned()], strings(&case["args"])].concat();
    let got = hubble(&args, "", BTreeMap::new(), Path::new("/nonexistent"));
    let code = i32::try_from(case["rc"].as_i64().expect("a code")).expect("small");
    score.compare(&args[2..].join(" "), &got, (code, text(case, "stdout"), text(case, "stderr")));
}

/// Events of the agent and of its debugging.
pub fn events(corpus: &Value) -> Score {
    let mut score = Score::new("events");
    for case in corpus["events"].as_array().expect("a list") {
        let output = match text(case, "output") {
            "compact" => Output::Compact,
            "dict" => Output::Dict,
            "tab" | "table" => Output::Table,
            "json" | "jsonpb" => Output::JsonPb,
            other => panic!("no output {other}"),
        };
        let options =
            Options { output, node_name: case["print_node_name"].as_bool().unwrap_or(false), ..Options::default() };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(options, &mut out, &mut err);
        for line in case["lines"].as_array().expect("a list") {
            let line = line.as_str().map_or_else(|| line.to_string(), str::to_owned);
            match text(case, "kind") {
                "agent" => printer.agent_event(&json::from_str(&line).expect("an agent event")),
                _ => printer.debug_event(&json::from_str(&line).expect("a debug event")),
            }
            .expect("memory takes every write");
        }
        printer.finish().expect("memory takes every write");
        let got = (0, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"));
        let what = format!("{} {} {:?}", text(case, "id"), text(case, "kind"), output);
        score.compare(&what, &got, (0, text(case, "stdout"), ""));
    }
    score
}
