//! Three schemas that must agree: the tables (as definitions), the reader, and the published definitions of the original.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests read files")]

mod schemas;

use policy::{
    DocError,
    parse::{Limits, Options, Problem, documents, parse_value, parse_with},
    schema::RESOURCES,
};
use schemas::{constraints, differences, documents_of_everything, examples, fields, place_mut, schema_of};
use serde_json::{Value, json};
use std::io::Write as _;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

fn reference(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/data").join(name);
    if path.exists() {
        return Some(path);
    }
    let _shown = writeln!(std::io::stderr(), "skipped: there is no {}", path.display());
    None
}

fn options() -> Options {
    Options { node_selectors: true, ..Options::default() }
}

/// A document in which `path` is there, with a value that says nothing.
fn document(path: &str) -> Value {
    let mut value = Value::Null;
    for part in path.split('.').rev() {
        let name = part.trim_end_matches("[]");
        if part.ends_with("[]") {
            value = json!([value]);
        }
        value = json!({ name: value });
    }
    value["apiVersion"] = "cilium.io/v2".into();
    value["kind"] = "CiliumClusterwideNetworkPolicy".into();
    value["metadata"] = json!({ "name": "fields" });
    value
}

fn unknown(path: &str) -> Vec<DocError> {
    let errors = parse_value(&document(path), &options()).err().unwrap_or_default();
    errors.into_iter().filter(|e| matches!(e.problem, Problem::UnknownField { .. })).collect()
}

/// Paths of `spec` as the tables have them, without what is below keys of the user's.
fn paths() -> Vec<String> {
    let definition = RESOURCES[0].definition();
    let all = fields(schema_of(&definition));
    all.into_iter().filter(|path| path.starts_with("spec.") && !path.contains("{}")).collect()
}

#[test]
fn every_field_of_the_schema_is_known_to_the_reader() {
    let paths = paths();
    assert!(paths.len() > 280, "only {} fields", paths.len());
    for path in paths {
        let errors = unknown(&path);
        assert!(errors.is_empty(), "{path}: {}", errors[0]);
    }
}

#[test]
fn a_field_beside_one_of_the_schema_is_a_mistake() {
    let mut checked = 0;
    for path in paths() {
        let (parent, _) = path.rsplit_once('.').unwrap();
        // Groups of a cloud are taken whole: nothing resolves them.
        if path.contains("Groups[]") {
            continue;
        }
        let errors = unknown(&format!("{parent}.surprise"));
        assert_eq!(errors.len(), 1, "{parent}.surprise: {errors:?}");
        assert!(errors[0].path.ends_with(".surprise"), "{}", errors[0]);
        checked += 1;
    }
    assert!(checked > 150, "only {checked} were checked");
}

/// What the reader takes although a definition refuses it, and why.
const LENIENT: &[(&str, &str)] =
    &[("spec.labels[] type", "bare rules, which no API server sees, may have their labels as text: k8s:app=web")];

/// Fields the reader refuses as a whole, with the reason in the error.
const REFUSED_WHOLE: &[&str] = &["spec.ingress[].toPorts[].listener", "spec.ingress[].toPorts[].rules.dns"];

#[test]
fn each_constraint_of_the_schema_is_demanded_by_the_reader() {
    let definition = RESOURCES[1].definition();
    let documents = documents_of_everything();
    for document in &documents {
        let errors = parse_value(document, &options()).err().unwrap_or_default();
        assert!(errors.is_empty(), "the document to start from is valid: {errors:?}\n{document}");
    }
    let (mut checked, mut uncovered) = (0, Vec::new());
    let mut lenient = BTreeSet::new();
    for constraint in constraints(schema_of(&definition)) {
        let path = constraint.path.as_str();
        if !path.starts_with("spec.") && path != "spec" {
            continue;
        }
        let holders: Vec<&Value> = documents.iter().filter(|d| place_mut(&mut (*d).clone(), path).is_some()).collect();
        let Some(holder) = holders.first() else {
            if !REFUSED_WHOLE.iter().any(|whole| path.starts_with(whole)) {
                uncovered.push(path.to_owned());
            }
            continue;
        };
        for (what, bad) in constraint.violations(holder, &documents) {
            let read = parse_value(&bad, &options());
            let Err(errors) = read else {
                lenient.insert(format!("{path} {} ({what})", constraint.keyword));
                continue;
            };
            let parent =
                path.rsplit_once('.').map_or(path, |(parent, _)| parent).replace("[]", "[0]").replace("{}", "");
            let at = parent.trim_end_matches('.');
            assert!(
                errors.iter().any(|e| e.path.starts_with(at)),
                "{path} {} ({what}): {errors:?}",
                constraint.keyword
            );
            checked += 1;
        }
    }
    lenient.retain(|found| !LENIENT.iter().any(|(listed, _)| found.starts_with(listed)));
    assert!(lenient.is_empty(), "the reader does not demand {lenient:#?}");
    assert!(uncovered.is_empty(), "no document has {uncovered:?}");
    assert!(checked > 900, "only {checked} violations were tried");
}

/// Where our definitions say something else than the original's: part of the path, keyword, reason.
const DIFFERENT: &[(&str, &str, &str)] = &[
    (".port", "pattern", "the original's is anchored at one end of each half, so that it takes 80abc and 99999"),
    (
        ".icmps[].fields[].type",
        "pattern",
        "the original's lacks ExtendedEchoReply (it has a space in it) and names two twice",
    ),
    (".matchName", "pattern", "the same names without nested repetition, which takes exponential time in some engines"),
    (".matchPattern", "pattern", "as for matchName"),
    (".endPort", "format", "the bounds say more than int32"),
    (".topic", "pattern", "the reader demands it as the original's does; here the API server does, too"),
];

#[test]
fn definitions_differ_from_the_published_ones_only_for_a_stated_reason() {
    let Some(folder) = reference("crds/v2") else { return };
    let (mut used, mut unlisted) = (BTreeSet::new(), Vec::new());
    for resource in &RESOURCES {
        let text = std::fs::read_to_string(folder.join(format!("{}.yaml", resource.plural))).unwrap();
        let theirs = documents(&text, &Limits { depth_max: 128, ..Limits::default() }).unwrap().remove(0);
        let ours = resource.definition();
        for place in ["group", "names", "scope"] {
            assert_eq!(ours["spec"][place], theirs["spec"][place], "{} {place}", resource.kind);
        }
        let version = |of: &Value| {
            let mut version = of["spec"]["versions"][0].clone();
            version.as_object_mut().unwrap().remove("schema");
            version
        };
        assert_eq!(version(&ours)["subresources"], version(&theirs)["subresources"]);
        let columns = |of: &Value| {
            let list = version(of)["additionalPrinterColumns"].as_array().cloned().unwrap_or_default();
            list.into_iter().map(|c| c["name"].clone()).collect::<Vec<_>>()
        };
        if resource.kind == "CiliumNetworkPolicy" {
            assert_eq!(columns(&ours), columns(&theirs));
        }
        let found = differences(schema_of(&ours), schema_of(&theirs));
        for (path, keyword, ours, theirs) in found {
            let listed = DIFFERENT.iter().position(|(part, word, _)| path.ends_with(part) && *word == keyword);
            match listed {
                Some(listed) => drop(used.insert(listed)),
                None => unlisted.push(format!("{path}: {keyword} is {ours}, the original's {theirs}")),
            }
        }
    }
    assert!(unlisted.is_empty(), "{unlisted:#?}");
    let unused: Vec<_> = (0..DIFFERENT.len()).filter(|i| !used.contains(i)).map(|i| DIFFERENT[i]).collect();
    assert!(unused.is_empty(), "these differences are not there: {unused:?}");
}

/// Example documents of the original that are refused, and a word of the reason.
const REFUSED: &[(&str, &str)] = &[
    ("auth/auth.yaml", "unknown field"),
    ("l3/match-expressions/and-statement.yaml", "In, NotIn"),
    ("l3/match-expressions/or-statement.yaml", "In, NotIn"),
    ("demo-pods.yaml", "NetworkPolicy"),
];

#[test]
fn every_example_of_the_original_loads_or_is_listed() {
    let Some(folder) = reference("examples-policies") else { return };
    let files = examples(&folder);
    assert!(files.len() > 90, "only {} examples", files.len());
    let mut refused = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&folder).unwrap().display().to_string();
        let listed = REFUSED.iter().find(|(part, _)| name.ends_with(part));
        match (parse_with(&text, &options()), listed) {
            (Ok(objects), None) => assert!(!objects.is_empty(), "{name} holds nothing"),
            (Ok(_), Some(_)) => panic!("{name} loads, though it is listed"),
            (Err(errors), Some((part, why))) => {
                assert!(errors.iter().any(|e| e.to_string().contains(why)), "{name}: {}", errors[0]);
                refused.insert(*part);
            }
            (Err(errors), None) => panic!("{name}: {}", errors[0]),
        }
    }
    assert_eq!(refused.len(), REFUSED.len(), "only these were met: {refused:?}");
}
