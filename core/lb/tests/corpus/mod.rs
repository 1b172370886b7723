//! The published placements and hashes, computed by this crate. Read in place, never copied.
//!
//! Shared by the test of this crate and by its `conformance` example, which prints the numbers.
#![allow(dead_code, missing_docs, reason = "the test and the example each use a part")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a corpus of another shape must stop the run")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "the corpora are files; this is no part of the crate"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use lb::maglev::{Member, Recipe, TableSize, Way};
use serde_json::Value;
use sha2::{Digest, Sha256};
use wire::jhash;

/// How many of a list are as published, and the first that are not.
#[derive(Debug, Default)]
pub struct Score {
    pub name: String,
    pub passed: usize,
    pub total: usize,
    pub differences: Vec<String>,
}

/// The files `<name>.<part>.json` of a directory; empty where it is absent.
pub fn corpora(dir: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
            file.starts_with(&format!("{name}.")) && file.ends_with(".json")
        })
        .collect();
    files.sort();
    files
}

/// Where the corpora are, beside the repository.
pub fn shared() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared")
}

pub fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn score(name: &str, list: &Value, check: impl Fn(&Value) -> Option<String>) -> Score {
    let mut score = Score { name: name.into(), ..Score::default() };
    for row in list.as_array().into_iter().flatten() {
        score.total += 1;
        match check(row) {
            None => score.passed += 1,
            Some(difference) => score.differences.push(difference),
        }
    }
    score
}

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Everything in one corpus.
pub fn run(corpus: &Value) -> Vec<Score> {
    vec![
        score("tables", &corpus["tables"], table),
        score("murmur3 x64 128", &corpus["murmur3_x64_128"], |row| {
            let (h1, h2) = lb::maglev::name_hash(&bytes(&row["data_hex"]), number(&row["seed"]));
            let have = (format!("{h1:016x}"), format!("{h2:016x}"));
            let same = *have.0 == *row["h1"].as_str().unwrap() && *have.1 == *row["h2"].as_str().unwrap();
            (!same).then(|| format!("{row}: {have:?}"))
        }),
        score("jhash of three words", &corpus["jhash_3words"], |row| {
            hash(row, 4, jhash::seeded(number(&row[0]), number(&row[1]), number(&row[2]), number(&row[3])))
        }),
        score("jhash of two words", &corpus["jhash_2words"], |row| hash(row, 3, words(row, 2))),
        score("jhash of one word", &corpus["jhash_1word"], |row| hash(row, 2, words(row, 1))),
        score("jhash of bytes", &corpus["jhash_bytes"], |row| {
            hash(row, 2, jhash::bytes(&bytes(&row[0]), number(&row[1])))
        }),
        score("IPv4 flows", &corpus["tuple_v4"], |row| {
            let client: Ipv4Addr = row["saddr"].as_str().unwrap().parse().unwrap();
            let client = u32::from_ne_bytes(client.octets());
            let [from, to, protocol] = ports(row);
            flow(row, jhash::tuple4(client, from, to, protocol as u8, number(&row["seed"])))
        }),
        score("IPv6 flows", &corpus["tuple_v6"], |row| {
            let client = bytes(&row["saddr_hex"]);
            let word = |at: usize| u32::from_ne_bytes(client[4 * at..4 * at + 4].try_into().unwrap());
            let [from, to, protocol] = ports(row);
            let words = [word(0), word(1), word(2), word(3)];
            flow(row, jhash::tuple6(words, from, to, protocol as u8, number(&row["seed"])))
        }),
    ]
}

fn hash(row: &Value, at: usize, have: u32) -> Option<String> {
    (have != number(&row[at])).then(|| format!("{row}: {have}"))
}

/// `count` words as bytes, in the machine's order.
fn words(row: &Value, count: usize) -> u32 {
    let bytes: Vec<u8> = (0..count).flat_map(|at| number(&row[at]).to_ne_bytes()).collect();
    jhash::bytes(&bytes, number(&row[count]))
}

/// Source, destination and protocol; ports as they lie in memory.
fn ports(row: &Value) -> [u16; 3] {
    let port = |name: &str| (number(&row[name]) as u16).to_be();
    [port("sport"), port("dport"), number(&row["proto"]) as u16]
}

fn flow(row: &Value, have: u32) -> Option<String> {
    (have != number(&row["hash"])).then(|| format!("{row}: {have}"))
}

fn table(row: &Value) -> Option<String> {
    let size = TableSize::new(number(&row["m"])).unwrap();
    let seed = number(&row["seed_murmur"]);
    let mut named: Vec<(&str, Member)> = row["backends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|backend| {
            let name = backend["name"].as_str().unwrap();
            let way = Way::of(name.as_bytes(), seed, size);
            (name, Member { id: number(&backend["id"]), weight: number(&backend["weight"]) as u16, way })
        })
        .collect();
    named.sort_by_key(|(name, _)| name.as_bytes());
    let table = Recipe::new(size, named.into_iter().map(|(_, member)| member).collect()).table();
    let mut digest = Sha256::new();
    table.iter().for_each(|id| digest.update(id.to_le_bytes()));
    let mut hex = String::new();
    digest.finalize().iter().for_each(|byte| write!(hex, "{byte:02x}").unwrap());
    let first: Vec<u32> =
        ["table", "table_first_64"].iter().filter_map(|key| row[key].as_array()).flatten().map(number).collect();
    let mut share: BTreeMap<u32, u32> = BTreeMap::new();
    table.iter().for_each(|id| *share.entry(*id).or_default() += 1);
    let counted = row["slots_per_backend_id"].as_array().into_iter().flatten();
    let counts = counted.clone().all(|pair| share.get(&number(&pair[0])).copied().unwrap_or(0) == number(&pair[1]));
    let same = hex == row["sha256_le_u32"].as_str().unwrap() && table.starts_with(&first) && counts;
    (!same).then(|| format!("{} {}: {} backends, {} places", row["id"], row["kind"], share.len(), size.places()))
}
