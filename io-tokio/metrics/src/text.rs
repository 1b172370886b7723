//! Reads rendered metrics back, for the REST API's list of them.

use std::collections::BTreeMap;

/// One line of the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// All values of a rendered text; buckets of histograms are left out.
pub fn readings(text: &str) -> Vec<Reading> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(reading).collect()
}

fn reading(line: &str) -> Option<Reading> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, parse(labels.strip_suffix('}')?)?),
        None => (series, BTreeMap::new()),
    };
    if name.ends_with("_bucket") && labels.contains_key("le") {
        return None;
    }
    Some(Reading { name: name.into(), labels, value: value.parse().ok()? })
}

fn parse(mut rest: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (key, tail) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = tail.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.to_owned(), value);
        rest = tail.get(end + 1..)?.trim_start_matches(',');
    }
    Some(labels)
}
