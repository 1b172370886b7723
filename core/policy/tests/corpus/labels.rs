//! Labels, selectors, identity keys and prefixes with exceptions, as upstream's own code gives them.

use super::{Score, list, text};
use policy::rule::{CidrRule, CidrScope};
use serde_json::Value;
use types::{
    Cidr, Label, Labels,
    labels::{cilium_key_from, extended_key_from},
};

pub fn run(corpus: &Value) -> Score {
    let mut score = Score::new("fqdn-labels: labels, selectors, identity keys, exceptions");
    for row in list(&corpus["label_parse"]) {
        label_parse(&mut score, row);
    }
    for row in list(&corpus["label_has"]) {
        let label = Label::parse(text(&row["label"]));
        let target = Label::parse_select(text(&row["target"]));
        let found = (label.has(&target), label.has_key(&target));
        let want = (row["has"] == true, row["has_key"] == true);
        score.count(found == want, &["label_has"], || format!("{row}: {found:?}"));
    }
    for row in list(&corpus["label_sets"]) {
        label_set(&mut score, row);
    }
    for row in list(&corpus["endpoint_selectors"]) {
        selector(&mut score, row);
    }
    for row in list(&corpus["cidr_labels"]) {
        let prefix: Cidr = text(&row["prefix"]).parse().unwrap();
        let mut found = Vec::new();
        if !prefix.is_default() {
            found.push(Label::cidr(prefix.addr(), prefix.bits()).to_string());
        }
        let world = match (row["dual_stack"] == true, prefix.is_ipv4()) {
            (true, true) => "reserved:world-ipv4",
            (true, false) => "reserved:world-ipv6",
            (false, _) => "reserved:world",
        };
        found.push(world.to_string());
        let want: Vec<&str> = list(&row["labels"]).iter().map(text).collect();
        score.count(found == want, &["cidr_labels"], || format!("{row}: {found:?}"));
    }
    for row in list(&corpus["ip_string_to_label"]) {
        let found = ip_to_label(text(&row["in"])).map(|l| l.to_string());
        let want = row["label"].as_str().map(ToString::to_string);
        score.count(found == want, &["ip_string_to_label"], || format!("{row}: {found:?}"));
    }
    for row in list(&corpus["cidr_set_except"]) {
        let except = list(&row["except"]).iter().map(|e| text(e).parse().unwrap()).collect();
        let rule = CidrRule { cidr: text(&row["cidr"]).parse().unwrap(), except, scope: CidrScope::World };
        let mut found: Vec<String> = rule.remaining().iter().map(ToString::to_string).collect();
        found.sort();
        let want: Vec<&str> = list(&row["resultant_sorted"]).iter().map(text).collect();
        score.count(found == want, &["cidr_set_except"], || format!("{row}: {found:?}"));
    }
    score
}

fn ip_to_label(input: &str) -> Option<Label> {
    let (addr, len) = match input.split_once('/') {
        Some((addr, len)) => (addr.parse().ok()?, len.parse().ok()?),
        None => {
            let addr: std::net::IpAddr = input.parse().ok()?;
            (addr, if addr.is_ipv4() { 32 } else { 128 })
        }
    };
    Some(Label::cidr(addr, len))
}

fn label_parse(score: &mut Score, row: &Value) {
    let input = text(&row["in"]);
    let (label, select) = (Label::parse(input), Label::parse_select(input));
    let same = |l: &Label, want: &Value| {
        (l.source(), l.key(), l.value()) == (text(&want["source"]), text(&want["key"]), text(&want["value"]))
    };
    let checks = [
        ("label", same(&label, &row["label"])),
        ("string", label.to_string() == text(&row["string"])),
        ("select_label", same(&select, &row["select_label"])),
        ("select_string", select.to_string() == text(&row["select_string"])),
        ("extended_key", label.extended_key() == text(&row["extended_key"])),
        ("select_extended_key", select.extended_key() == text(&row["select_extended_key"])),
        ("kvstore", label.kvstore_form() == text(&row["kvstore"])),
        ("extended_key_from", extended_key_from(input) == text(&row["extended_key_from"])),
        ("cilium_key_from", cilium_key_from(input) == text(&row["cilium_key_from"])),
    ];
    for (what, passed) in checks {
        score.count(passed, &["label_parse"], || {
            format!("{what} of {row}: {label:?} {select:?} {} {}", extended_key_from(input), cilium_key_from(input))
        });
    }
}

fn label_set(score: &mut Score, row: &Value) {
    let set = Labels::parse(list(&row["in"]).iter().map(text));
    let mut sorted: Vec<String> = set.iter().map(ToString::to_string).collect();
    let in_order = sorted.clone();
    sorted.sort();
    let strings = |v: &Value| list(v).iter().map(|s| text(s).to_string()).collect::<Vec<_>>();
    let round: Vec<String> = Labels::from_identity_key(&set.identity_key()).iter().map(ToString::to_string).collect();
    let query = text(&row["query_key"]);
    let (source, key) = query.split_once('.').unwrap_or(("any", query));
    let got = set.value_of(source, key);
    let checks = [
        ("model_sorted", sorted == strings(&row["model_sorted"])),
        ("label_array", in_order == strings(&row["label_array"])),
        ("sorted_list", set.identity_key() == text(&row["sorted_list"])),
        ("identity_key", set.identity_key() == text(&row["identity_key"])),
        // As a set: upstream reads a list, in the order of the text.
        (
            "identity_key_roundtrip",
            round
                == Labels::parse(list(&row["identity_key_roundtrip"]).iter().map(text))
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
        ),
        ("array_has", got.is_some() == (row["array_has"] == true)),
        ("array_get", got.unwrap_or_default() == text(&row["array_get"])),
    ];
    for (what, passed) in checks {
        score.count(passed, &["label_sets"], || format!("{what} of {row}: {set:?} {round:?} {got:?}"));
    }
}

fn selector(score: &mut Score, row: &Value) {
    let document = serde_json::json!([{ "endpointSelector": row["selector"] }]);
    let rules = policy::parse::parse_rules(&document.to_string(), &policy::parse::Options::default());
    let selector = match (&rules, row.get("decode_error")) {
        (Ok(rules), None) => match &rules[0].rule.subject {
            policy::rule::Subject::Endpoints(selector) => selector.clone(),
            policy::rule::Subject::Nodes(_) => return,
        },
        (rules, error) => {
            let passed = rules.is_err() == error.is_some();
            return score.count(passed, &["endpoint_selectors"], || format!("{}: {rules:?}", row["selector"]));
        }
    };
    for case in list(&row["cases"]) {
        let labels = Labels::parse(list(&case["labels"]).iter().map(text));
        let found = selector.matches(&labels);
        score.count(found == (case["match"] == true), &["endpoint_selectors"], || {
            format!("{} on {labels:?}: found {found}", row["selector"])
        });
    }
}
