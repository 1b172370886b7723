//! The published corpora of the command line's output, byte for byte.

mod corpus;

use corpus::{
    compare_filters, hubble,
    parts::{Score, shared},
};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

fn check(evaluate: fn(&Value) -> Score) {
    let Some(folder) = shared("conformance") else { return };
    corpus::parts::parts(&folder, "hubble-printer").iter().for_each(|part| evaluate(part).finish());
}

#[test]
fn every_line_in_every_format() {
    check(corpus::per_line);
}

#[test]
fn batches() {
    check(corpus::batches);
}

#[test]
fn filters_from_flags() {
    check(corpus::cli_filters);
}

#[test]
fn agent_and_debug_events() {
    check(corpus::events);
}

#[test]
fn filters_from_flags_of_the_golden_set() {
    let Some(path) = shared("reference/data/hubble-cli-golden/flag-to-filter.json") else { return };
    let cases: Vec<Value> = serde_json::from_str(&fs::read_to_string(path).expect("readable")).expect("JSON");
    let mut score = Score::new("flag-to-filter");
    for case in &cases {
        compare_filters(&mut score, case);
    }
    score.finish();
}

#[test]
fn golden_set() {
    let Some(folder) = shared("reference/data/hubble-cli-golden") else { return };
    let mut score = Score::new("hubble-cli-golden");
    let mut commands: Vec<_> = fs::read_dir(&folder)
        .expect("readable")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cmd"))
        .collect();
    commands.sort();
    for path in commands {
        let command = fs::read_to_string(&path).expect("readable");
        let mut words = command.split_whitespace().peekable();
        let mut variables = BTreeMap::new();
        while let Some((name, value)) =
            words.peek().and_then(|word| word.split_once('=')).filter(|(name, _)| !name.starts_with('-'))
        {
            variables.insert(name.to_owned(), value.to_owned());
            words.next();
        }
        assert_eq!(words.next(), Some("hubble"), "{command}");
        let input = folder.join("input.jsonl").display().to_string();
        let args: Vec<String> =
            words.map(|word| if word == "input.jsonl" { input.clone() } else { word.into() }).collect();
        let read = |extension: &str| fs::read_to_string(path.with_extension(extension)).ok();
        let code = read("rc").map_or(0, |code| code.trim().parse().expect("a number"));
        let got = hubble(&args, "", variables, Path::new("/nonexistent"));
        let (stdout, stderr) = (read("stdout").unwrap_or_default(), read("stderr").unwrap_or_default());
        score.compare(command.trim(), &got, (code, &stdout, &stderr));
    }
    score.finish();
}
