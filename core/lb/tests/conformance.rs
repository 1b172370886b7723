//! The published placements and hashes, where they are there.

#![allow(clippy::disallowed_macros, reason = "a skipped test says so")]

use std::io::Write as _;

mod corpus;

#[test]
fn placements_and_hashes_are_the_originals() {
    let files = corpus::corpora(&corpus::shared().join("conformance"), "maglev");
    if files.is_empty() {
        let _shown =
            writeln!(std::io::stderr(), "skipped: there is no maglev.*.json in {}", corpus::shared().display());
    }
    for file in files {
        for score in corpus::run(&corpus::read(&file)) {
            assert!(score.total > 0, "{}: nothing was checked", score.name);
            assert_eq!(score.passed, score.total, "{}: {:#?}", score.name, score.differences);
        }
    }
}

/// Where two backends of the published example go, and how few places move with them.
#[test]
fn the_published_ways_are_these() {
    let file = corpus::shared().join("reference/data/maglev-vectors.json");
    if !file.exists() {
        let _shown = writeln!(std::io::stderr(), "skipped: there is no {}", file.display());
        return;
    }
    let vectors = corpus::read(&file);
    let mut checked = 0;
    for case in vectors["cases"].as_array().expect("a list") {
        let number = |value: &serde_json::Value| u32::try_from(value.as_u64().expect("a number")).expect("small");
        let size = lb::maglev::TableSize::new(number(&case["m"])).expect("an allowed size");
        let mut named: Vec<_> = case["backends"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|backend| {
                let name = backend["name"].as_str().expect("a name");
                let way = lb::maglev::Way::of(name.as_bytes(), number(&case["seed_murmur"]), size);
                let weight = u16::try_from(number(&backend["weight"])).expect("small");
                (name, lb::maglev::Member { id: number(&backend["id"]), weight, way })
            })
            .collect();
        named.sort_by_key(|(name, _)| *name);
        let table = lb::maglev::Recipe::new(size, named.into_iter().map(|(_, member)| member).collect()).table();
        let want: Vec<u32> = case["table"].as_array().expect("a list").iter().map(number).collect();
        assert_eq!(table, want);
        checked += 1;
    }
    assert!(checked > 0);
}
