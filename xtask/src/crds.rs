//! `cargo xtask crds`: the custom resource definitions, written from the tables the policy reader uses.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use policy::schema::RESOURCES;
use serde_json::Value;

use crate::shell::root;

/// Where the definitions are, below the workspace's root.
const FOLDER: &str = "deploy/crds";
const HEAD: &str = "# Written by `cargo xtask crds` from core/policy/src/schema. Do not edit.\n";

/// Writes the definitions, or with `check` only says which are not current.
pub fn write(check: bool) -> Result<()> {
    let mut stale = Vec::new();
    for (path, text) in files() {
        let current = std::fs::read_to_string(&path).is_ok_and(|have| have == text);
        if check && !current {
            stale.push(path.display().to_string());
        } else if !check {
            std::fs::create_dir_all(root().join(FOLDER)).context(FOLDER)?;
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
            println!("{} {}", if current { "current" } else { "written" }, path.display());
        }
    }
    if !stale.is_empty() {
        bail!("not current: {}; run `cargo xtask crds`", stale.join(", "));
    }
    Ok(())
}

fn files() -> Vec<(PathBuf, String)> {
    let file = |resource: &policy::schema::Resource| {
        let path = root().join(FOLDER).join(format!("{}.yaml", resource.plural));
        (path, format!("{HEAD}{}", yaml(&resource.definition())))
    };
    RESOURCES.iter().map(file).collect()
}

/// A value as YAML, in blocks, every text quoted that could be taken for something else.
fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            // In the order of their names, whichever order the map keeps in this build.
            let sorted: std::collections::BTreeMap<_, _> = map.iter().collect();
            for (key, inner) in sorted {
                let _infallible = write!(out, "{indent}{}:", text(key));
                under(inner, depth, out);
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                block(item, depth + 1, &mut inner);
                // The first line of the item stands behind its dash.
                let _infallible = write!(out, "{indent}- {}", inner.trim_start_matches(' '));
            }
        }
        scalar => {
            let _infallible = writeln!(out, "{indent}{}", self::scalar(scalar));
        }
    }
}

fn under(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, depth + 1, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, depth, out);
        }
        other => {
            let _infallible = writeln!(out, " {}", scalar(other));
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(plain) => text(plain),
        other => other.to_string(),
    }
}

/// Plain where it is a word or a sentence, as JSON otherwise.
fn text(plain: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || "-_./ (),".contains(c);
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let quiet = plain.chars().all(word)
        && plain.starts_with(|c: char| c.is_ascii_alphabetic())
        && !plain.ends_with(' ')
        && !reserved.contains(&plain.to_ascii_lowercase().as_str());
    if quiet { plain.to_owned() } else { Value::from(plain).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_in_the_repository_are_current() {
        write(true).expect("current");
    }

    #[test]
    fn what_is_written_is_read_again_as_the_same() {
        for (path, text) in files() {
            let limits = policy::parse::Limits { depth_max: 128, ..policy::parse::Limits::default() };
            let read = policy::parse::documents(&text, &limits).expect("YAML");
            let resource = RESOURCES.iter().find(|r| path.to_string_lossy().contains(r.plural)).expect("ours");
            assert_eq!(read, [resource.definition()], "{}", path.display());
        }
        let odd = serde_json::json!({ "a": [], "b": {}, "c": [[1, ["x: y"]], { "d": null }], "on": "yes", "e": "1" });
        let read = policy::parse::documents(&yaml(&odd), &policy::parse::Limits::default()).expect("YAML");
        assert_eq!(read, [odd]);
    }
}
