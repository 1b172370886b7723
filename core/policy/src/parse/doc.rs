//! Text to values: YAML through events, so that depth, size and aliases are bounded while reading; JSON directly.

use super::{DocError, Problem};
use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Bounds on what is read. Meeting one is an error that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of text (`policy-bytes-max`). etcd takes no object above 1.5 MiB; lists hold several.
    pub bytes_max: usize,
    /// Nesting of lists and mappings (`policy-depth-max`). The schema needs 11, a list of objects 13.
    pub depth_max: usize,
    /// Scalars, lists and mappings after aliases are expanded (`policy-nodes-max`).
    pub nodes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: 8 << 20, depth_max: 32, nodes_max: 1 << 20 }
    }
}

/// Splits a text into its documents. Text that begins with `{` or `[` and is JSON is read as JSON; the rest as YAML.
///
/// # Errors
/// The first syntax error or limit met.
pub fn documents(text: &str, limits: &Limits) -> Result<Vec<Value>, DocError> {
    if text.len() > limits.bytes_max {
        return Err(error(0, Problem::TooMuch { limit: "policy-bytes-max", allowed: limits.bytes_max }));
    }
    let trimmed = text.trim_start_matches('\u{feff}').trim_start();
    if trimmed.starts_with(['{', '[']) {
        if depth_exceeds(trimmed, limits.depth_max) {
            return Err(error(0, Problem::TooMuch { limit: "policy-depth-max", allowed: limits.depth_max }));
        }
        let mut values = Vec::new();
        for (index, value) in serde_json::Deserializer::from_str(trimmed).into_iter::<Value>().enumerate() {
            match value {
                Ok(value) => values.push(value),
                // Flow-style YAML also begins so; let its reader decide.
                Err(_) if index == 0 && !looks_like_json(trimmed) => return yaml(text, limits),
                Err(e) => {
                    let (line, column) = (e.line(), e.column());
                    return Err(error(index, Problem::Syntax { line, column, what: e.to_string() }));
                }
            }
        }
        return Ok(values);
    }
    yaml(text, limits)
}

fn error(document: usize, problem: Problem) -> DocError {
    DocError { document, object: String::new(), path: String::new(), problem }
}

/// The first thing inside the bracket is a quote or a bracket: then it was meant to be JSON.
fn looks_like_json(text: &str) -> bool {
    let inner = text.get(1..).unwrap_or_default().trim_start();
    inner.starts_with(['"', '{', '[', '}', ']'])
}

fn depth_exceeds(json: &str, max: usize) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// A list or mapping that is being read.
enum Open {
    List { items: Vec<Value>, anchor: usize },
    Map { map: Map<String, Value>, key: Option<String>, anchor: usize },
}

struct Builder<'l> {
    limits: &'l Limits,
    document: usize,
    nodes: usize,
    open: Vec<Open>,
    anchors: BTreeMap<usize, (Value, usize)>,
    done: Vec<Value>,
}

fn yaml(text: &str, limits: &Limits) -> Result<Vec<Value>, DocError> {
    let mut builder =
        Builder { limits, document: 0, nodes: 0, open: Vec::new(), anchors: BTreeMap::new(), done: Vec::new() };
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        match next {
            Ok((event, span)) => {
                let at = (span.start.line(), span.start.col() + 1);
                let end = matches!(event, Event::StreamEnd);
                builder.take(event, at).map_err(|problem| error(builder.document, problem))?;
                if end {
                    break;
                }
            }
            Err(e) => {
                let (line, column) = (e.marker().line(), e.marker().col() + 1);
                let what = e.info().to_string();
                return Err(error(builder.document, Problem::Syntax { line, column, what }));
            }
        }
    }
    Ok(builder.done)
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, at: (usize, usize)) -> Result<(), Problem> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::DocumentEnd => {
                self.document += 1;
                // An empty document holds no event but its end.
                if self.done.len() < self.document {
                    self.done.push(Value::Null);
                }
                Ok(())
            }
            Event::Alias(anchor) => {
                let (value, size) = self
                    .anchors
                    .get(&anchor)
                    .cloned()
                    .ok_or_else(|| syntax(at, "an alias must follow the end of what it names"))?;
                self.count(size)?;
                self.put(value, 0, at)
            }
            Event::Scalar(text, style, anchor, _tag) => {
                self.count(1)?;
                if self.wants_key() {
                    if let Some(Open::Map { key, .. }) = self.open.last_mut() {
                        *key = Some(text.into_owned());
                    }
                    return Ok(());
                }
                self.put(scalar(&text, style), anchor, at)
            }
            Event::SequenceStart(anchor, _) => self.push(Open::List { items: Vec::new(), anchor }, at),
            Event::MappingStart(anchor, _) => self.push(Open::Map { map: Map::new(), key: None, anchor }, at),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { items, anchor }) => self.put(Value::Array(items), anchor, at),
                Some(Open::Map { map, anchor, .. }) => self.put(Value::Object(map), anchor, at),
                None => Err(syntax(at, "an end without a beginning")),
            },
        }
    }

    fn count(&mut self, nodes: usize) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > self.limits.nodes_max {
            return Err(Problem::TooMuch { limit: "policy-nodes-max", allowed: self.limits.nodes_max });
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map { key: None, .. }))
    }

    fn push(&mut self, open: Open, at: (usize, usize)) -> Result<(), Problem> {
        self.count(1)?;
        if self.wants_key() {
            return Err(syntax(at, "a key must be a scalar"));
        }
        if self.open.len() >= self.limits.depth_max {
            return Err(Problem::TooMuch { limit: "policy-depth-max", allowed: self.limits.depth_max });
        }
        self.open.push(open);
        Ok(())
    }

    fn put(&mut self, value: Value, anchor: usize, at: (usize, usize)) -> Result<(), Problem> {
        if anchor != 0 {
            let size = size_of(&value);
            self.count(size)?;
            self.anchors.insert(anchor, (value.clone(), size));
        }
        match self.open.last_mut() {
            None => self.done.push(value),
            Some(Open::List { items, .. }) => items.push(value),
            Some(Open::Map { map, key, .. }) => {
                let Some(key) = key.take() else { return Err(syntax(at, "a key must be a scalar")) };
                if map.contains_key(&key) {
                    return Err(syntax(at, "the key is there twice"));
                }
                map.insert(key, value);
            }
        }
        Ok(())
    }
}

fn syntax(at: (usize, usize), what: &str) -> Problem {
    Problem::Syntax { line: at.0, column: at.1, what: what.to_string() }
}

fn size_of(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size_of).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(size_of).sum::<usize>(),
        _ => 1,
    }
}

/// A plain scalar by the core schema; quoted ones are texts.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_string());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+' || c == '.') {
        if let Ok(number) = text.parse::<i64>() {
            return Value::Number(number.into());
        }
        let numeric = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
        let number = if numeric { text.parse::<f64>().ok().and_then(Number::from_f64) } else { None };
        if let Some(number) = number {
            return Value::Number(number);
        }
    }
    Value::String(text.to_string())
}
