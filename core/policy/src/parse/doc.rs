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
    /// Documents, scalars, lists and mappings after aliases are expanded (`policy-nodes-max`).
    pub nodes_max: usize,
    /// Bytes of scalars after aliases are expanded (`policy-expanded-bytes-max`).
    pub expanded_bytes_max: usize,
}

/// Mistakes listed for one text (`policy-mistakes-max`); a document that is all wrong must not fill the memory with
/// what is wrong about it.
pub(super) const MISTAKES_MAX: usize = 1000;

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: 8 << 20, depth_max: 32, nodes_max: 1 << 20, expanded_bytes_max: 32 << 20 }
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
        if let Some((limit, allowed)) = exceeded(trimmed, limits) {
            return Err(error(0, Problem::TooMuch { limit, allowed }));
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

/// The limit a JSON text exceeds, found before anything is built. Each value but the first follows a bracket, a comma or
/// a colon, or begins a document.
fn exceeded(json: &str, limits: &Limits) -> Option<(&'static str, usize)> {
    let (mut depth, mut nodes, mut in_text, mut escaped) = (0usize, 1usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                nodes += 1;
                if depth > limits.depth_max {
                    return Some(("policy-depth-max", limits.depth_max));
                }
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            b',' if !in_text => nodes += 1,
            _ => {}
        }
        if nodes > limits.nodes_max {
            return Some(("policy-nodes-max", limits.nodes_max));
        }
    }
    None
}

/// A list or mapping that is being read.
enum Open {
    List { items: Vec<Value>, anchor: usize },
    Map { map: Map<String, Value>, key: Option<String>, anchor: usize },
}

/// How much a value takes.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

struct Builder<'l> {
    limits: &'l Limits,
    document: usize,
    nodes: usize,
    bytes: usize,
    open: Vec<Open>,
    anchors: BTreeMap<usize, (Value, Size)>,
    done: Vec<Value>,
}

fn yaml(text: &str, limits: &Limits) -> Result<Vec<Value>, DocError> {
    let mut builder = Builder {
        limits,
        document: 0,
        nodes: 0,
        bytes: 0,
        open: Vec::new(),
        anchors: BTreeMap::new(),
        done: Vec::new(),
    };
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
                self.count(Size { nodes: 1, bytes: 0 })
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
                let named = self.anchors.get(&anchor);
                let size = named.ok_or_else(|| syntax(at, "an alias must follow the end of what it names"))?.1;
                // Counted before it is copied.
                self.count(size)?;
                let value = self.anchors.get(&anchor).map(|(value, _)| value.clone()).unwrap_or_default();
                self.put(value, 0, at)
            }
            Event::Scalar(text, style, anchor, _tag) => {
                self.count(Size { nodes: 1, bytes: text.len() })?;
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

    fn count(&mut self, size: Size) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(size.nodes);
        self.bytes = self.bytes.saturating_add(size.bytes);
        for (limit, have, allowed) in [
            ("policy-nodes-max", self.nodes, self.limits.nodes_max),
            ("policy-expanded-bytes-max", self.bytes, self.limits.expanded_bytes_max),
        ] {
            if have > allowed {
                return Err(Problem::TooMuch { limit, allowed });
            }
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map { key: None, .. }))
    }

    fn push(&mut self, open: Open, at: (usize, usize)) -> Result<(), Problem> {
        self.count(Size { nodes: 1, bytes: 0 })?;
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

fn size_of(value: &Value) -> Size {
    let sum = |all: &mut dyn Iterator<Item = Size>| {
        all.fold(Size { nodes: 1, bytes: 0 }, |a, b| Size { nodes: a.nodes + b.nodes, bytes: a.bytes + b.bytes })
    };
    match value {
        Value::Array(items) => sum(&mut items.iter().map(size_of)),
        Value::Object(map) => sum(&mut map.iter().map(|(key, value)| {
            let size = size_of(value);
            Size { nodes: size.nodes + 1, bytes: size.bytes + key.len() }
        })),
        Value::String(text) => Size { nodes: 1, bytes: text.len() },
        _ => Size { nodes: 1, bytes: 0 },
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
