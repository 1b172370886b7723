//! The file with options: a flat YAML mapping of names to values or lists of values.

use saphyr_parser::{Event, Parser};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says itself")]
pub enum FileError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}, line {line}: {why}", path.display())]
    Line { path: PathBuf, line: usize, why: String },
}

/// Options by name, lists joined by commas. A file that is not there says nothing, unless it was asked for.
pub fn read(path: &Path, must_exist: bool) -> Result<BTreeMap<String, String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text).map_err(|(line, why)| FileError::Line { path: path.to_owned(), line, why }),
        Err(why) if why.kind() == io::ErrorKind::NotFound && !must_exist => Ok(BTreeMap::new()),
        Err(source) => Err(FileError::Read { path: path.to_owned(), source }),
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, (usize, String)> {
    const FLAT: &str = "want `name: value`, or a list of values";
    let mut found = BTreeMap::new();
    let (mut key, mut list, mut depth): (Option<String>, Option<Vec<String>>, u32) = (None, None, 0);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|why| (why.marker().line(), why.info().to_owned()))?;
        let bad = || (span.start.line(), FLAT.to_owned());
        match event {
            Event::MappingStart(..) if depth == 0 => depth = 1,
            Event::SequenceStart(..) if key.is_some() && list.is_none() => list = Some(Vec::new()),
            Event::Scalar(value, ..) => match (&mut list, key.take(), depth) {
                (Some(list), name, _) => {
                    list.push(value.into_owned());
                    key = name;
                }
                // No value leaves the default.
                (None, Some(_), _) if value.is_empty() || value == "~" || value == "null" => {}
                (None, Some(name), _) => {
                    found.insert(name, value.into_owned());
                }
                (None, None, 1) => key = Some(value.into_owned()),
                // A file of nothing but comments is one empty value.
                (None, None, _) if value == "~" || value.is_empty() => {}
                (None, None, _) => return Err(bad()),
            },
            Event::SequenceEnd => {
                if let (Some(name), Some(values)) = (key.take(), list.take()) {
                    found.insert(name, values.join(","));
                }
            }
            Event::MappingStart(..) | Event::SequenceStart(..) | Event::Alias(_) => return Err(bad()),
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_lists() {
        let text = "# c\ncluster-name: c1\nretry-timeout: 10s\nca:\n  - /a\n  - /b\nflow: [x, y]\nempty:\n";
        let found = parse(text).expect("flat");
        let want = [("ca", "/a,/b"), ("cluster-name", "c1"), ("flow", "x,y"), ("retry-timeout", "10s")];
        assert_eq!(found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), want);
        assert_eq!(parse(""), Ok(BTreeMap::new()));
        assert_eq!(parse("# nothing\n"), Ok(BTreeMap::new()));
    }

    #[test]
    fn what_is_not_flat_names_its_line() {
        for (text, line) in [("a: 1\nb:\n  c: 2\n", 3), ("- a\n", 1), ("just text", 1), ("a: [\n", 2)] {
            assert_eq!(parse(text).expect_err(text).0, line, "{text}");
        }
    }
}
