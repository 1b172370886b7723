//! Names: pods and services by namespace and prefix, DNS names and nodes by pattern.

use super::FilterError;
use alloc::{
    boxed::Box,
    string::{String, ToString},
    vec::Vec,
};

/// `namespace/prefix`; an empty namespace is any.
#[derive(Debug)]
pub(super) struct Named {
    namespace: String,
    prefix: String,
}

impl Named {
    /// Reads `ns/prefix`, `ns/`, `/prefix` or `prefix`, which is in the namespace `default`.
    pub fn list(names: &[String], field: &'static str) -> Result<Box<[Self]>, FilterError> {
        let read = |name: &String| {
            if name.is_empty() {
                return Err(FilterError::EmptyName { field });
            }
            let (namespace, prefix) = name.split_once('/').unwrap_or(("default", name));
            Ok(Self { namespace: namespace.into(), prefix: prefix.into() })
        };
        names.iter().map(read).collect()
    }

    /// True when one of the list matches; nothing matches a flow that has neither namespace nor name.
    pub fn any(list: &[Self], (namespace, name): (&str, &str)) -> bool {
        let one = |want: &Self| {
            (want.namespace.is_empty() || want.namespace == namespace) && name.starts_with(want.prefix.as_str())
        };
        !(namespace.is_empty() && name.is_empty()) && list.iter().any(one)
    }
}

/// A glob: pieces that must follow each other, with any number of name characters between them.
#[derive(Debug, Clone)]
struct Glob {
    pieces: Box<[String]>,
}

/// What a star stands for: narrower than what a pattern may say.
fn in_star(c: u8) -> bool {
    matches!(c, b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z')
}

impl Glob {
    /// A DNS or node name pattern: trimmed, lower case, without a dot at the end.
    fn parse(pattern: &str) -> Result<Self, FilterError> {
        let pattern = pattern.trim().to_lowercase();
        let pattern = pattern.strip_suffix('.').unwrap_or(&pattern);
        if pattern.is_empty() {
            return Err(FilterError::EmptyPattern);
        }
        if pattern.ends_with('.') {
            return Err(FilterError::PatternDots(pattern.into()));
        }
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '.' | '*' | '-');
        if let Some(rune) = pattern.chars().find(|c| !allowed(*c)) {
            return Err(FilterError::PatternRune(rune));
        }
        Ok(Self { pieces: pattern.split('*').map(ToString::to_string).collect() })
    }

    /// Any name but the empty one.
    fn any() -> Self {
        Self { pieces: [].into() }
    }

    fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.pieces.split_first() else {
            return !name.is_empty() && name.bytes().all(|c| in_star(c) || c == b'_');
        };
        let Some(mut left) = name.as_bytes().strip_prefix(first.as_bytes()) else { return false };
        let Some((last, middle)) = rest.split_last() else { return left.is_empty() };
        for piece in middle {
            // The earliest place is the best one: stars are alike.
            let Some(at) = find(left, piece.as_bytes()) else { return false };
            if !left[..at].iter().all(|c| in_star(*c)) {
                return false;
            }
            left = &left[at + piece.len()..];
        }
        left.strip_suffix(last.as_bytes()).is_some_and(|star| star.iter().all(|c| in_star(*c)))
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    (0..=haystack.len().checked_sub(needle.len())?).find(|at| haystack[*at..].starts_with(needle))
}

/// Patterns of DNS names; one of them must match.
#[derive(Debug)]
pub(super) struct Pattern(Box<[Glob]>);

impl Pattern {
    pub fn names(patterns: &[String]) -> Result<Self, FilterError> {
        patterns.iter().map(|pattern| Glob::parse(pattern)).collect::<Result<_, _>>().map(Self)
    }

    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|glob| glob.matches(name))
    }
}

/// Patterns of node names, `cluster/node`; one of them must match.
#[derive(Debug)]
pub(super) struct NodePattern(Box<[(Glob, Glob)]>);

impl NodePattern {
    pub fn new(patterns: &[String]) -> Result<Self, FilterError> {
        let half = |pattern: &str| if pattern.is_empty() { Ok(Glob::any()) } else { Glob::parse(pattern) };
        let parse = |pattern: &String| {
            let parts: Vec<&str> = pattern.split('/').collect();
            match parts[..] {
                [""] => Err(FilterError::EmptyPattern),
                [node] => Ok((Glob::any(), half(node)?)),
                [cluster, node] => Ok((half(cluster)?, half(node)?)),
                _ => Err(FilterError::PatternSlashes),
            }
        };
        patterns.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    pub fn matches(&self, name: &str) -> bool {
        let (cluster, node) = name.split_once('/').unwrap_or(("default", name));
        self.0.iter().any(|(c, n)| c.matches(cluster) && n.matches(node))
    }
}
