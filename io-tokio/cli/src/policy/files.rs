//! Policy files and flow files, read with every mistake named by file.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use api::models::Traffic;
use questions::Tally;
use serde_json::Value;

use super::reading::Reading;
use crate::CliError;

/// A line of a flow file at most.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// A policy file at most: the parser takes less, and says so by name.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What a file asks for that is understood and not enforced.
pub(crate) type Warnings = Vec<String>;

/// Reads policies and checks them as the agent would. Objects come one by one, bare rules one by one without a kind.
pub(crate) fn read(path: &Path, reading: &Reading) -> Result<(Vec<Value>, Warnings), CliError> {
    let mut rules = Vec::new();
    let mut warnings = Vec::new();
    for (name, text) in texts(path)? {
        let invalid = |errors: Vec<policy::DocError>| {
            let lines: Vec<String> = errors.iter().map(|e| format!("{}: {e}", name.display())).collect();
            CliError::Invalid(lines.join("\n"))
        };
        let mut warn = |object: &str, notices: &[policy::rule::Notice]| {
            let line = |n: &policy::rule::Notice| format!("{}: {object}{}: {}", name.display(), n.path, n.what);
            warnings.extend(notices.iter().map(line));
        };
        let options = &reading.options;
        // What the object before the path is called, its rules, and its notices.
        let mut check = |object: &str, rules: &[policy::rule::Rule], notices: &[policy::rule::Notice]| {
            warn(object, notices);
            match policy::abilities::check(rules, &reading.abilities) {
                Ok(notices) => {
                    warn(object, &notices);
                    Ok(())
                }
                Err(unable) => {
                    let lines: Vec<String> =
                        unable.iter().map(|each| format!("{}: {object}{each}", name.display())).collect();
                    Err(CliError::Invalid(lines.join("\n")))
                }
            }
        };
        let values = policy::parse::documents(&text, &options.limits).map_err(|e| invalid(vec![e]))?;
        for (index, value) in values.into_iter().enumerate().filter(|(_, value)| !value.is_null()) {
            let here = |mut errors: Vec<policy::DocError>| {
                errors.iter_mut().for_each(|e| e.document = index);
                invalid(errors)
            };
            // Bare rules have no kind; everything else is an object of one.
            if value.is_array() || value.get("kind").is_none() {
                let read = policy::parse::parse_rules(&value.to_string(), options).map_err(here)?;
                read.iter().try_for_each(|rule| check("", std::slice::from_ref(&rule.rule), &rule.notices))?;
            } else {
                let read = policy::parse::parse_value(&value, options).map_err(here)?;
                read.iter()
                    .try_for_each(|object| check(&format!("{}: ", object.key), &object.rules, &object.notices))?;
            }
            match value {
                Value::Array(items) => rules.extend(items),
                Value::Object(mut map) if map.get("items").is_some_and(Value::is_array) => {
                    if let Some(Value::Array(items)) = map.remove("items") {
                        rules.extend(items);
                    }
                }
                object => rules.push(object),
            }
        }
    }
    if rules.is_empty() {
        return Err(CliError::Invalid(format!("{}: there is no policy in it", path.display())));
    }
    Ok((rules, warnings))
}

/// Policies of several files as documents: objects as they are, bare rules together in one list.
pub(crate) fn documents(paths: &[PathBuf]) -> Result<Vec<Value>, CliError> {
    let mut documents = Vec::new();
    let mut bare = Vec::new();
    for path in paths {
        for value in read(path, &Reading::default())?.0 {
            if value.get("kind").is_some() { documents.push(value) } else { bare.push(value) }
        }
    }
    if !bare.is_empty() {
        documents.push(Value::Array(bare));
    }
    Ok(documents)
}

fn texts(path: &Path) -> Result<Vec<(PathBuf, String)>, CliError> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(failed(path))?;
        files = entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(failed(path))?;
        files.retain(|f| f.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
        files.sort();
    }
    files.into_iter().map(|file| text(&file).map(|text| (shown(&file), text))).collect()
}

/// A whole file, or standard input for `-`.
pub(crate) fn text(path: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed(path))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(path)(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes"))));
    }
    Ok(text)
}

/// Recorded flows, line by line.
pub(crate) fn flows(path: &Path) -> Result<Traffic, CliError> {
    let mut tally = Tally::default();
    let mut input = open(path)?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line).map_err(failed(path))?;
        if read == 0 {
            return Ok(tally.finish());
        }
        if read as u64 > LINE_BYTES_MAX {
            return Err(failed(path)(io::Error::other(format!("a line has more than {LINE_BYTES_MAX} bytes"))));
        }
        let text = std::str::from_utf8(&line).map_err(|why| failed(path)(io::Error::other(why)))?;
        tally.line(text).map_err(|why| CliError::Invalid(format!("{}: {why}", shown(path).display())))?;
    }
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, CliError> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(BufReader::new(File::open(path).map_err(failed(path))?)))
}

fn shown(path: &Path) -> PathBuf {
    if path == Path::new("-") { PathBuf::from("standard input") } else { path.to_owned() }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CliError + use<> {
    let path = shown(path);
    move |source| CliError::Read { path, source }
}
