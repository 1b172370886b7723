//! Field masks as trees, so that thinning a message walks it once.

use super::{Child, Message};
use std::collections::BTreeMap;

/// The fields to keep; a mask without children keeps everything below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mask {
    children: BTreeMap<String, Mask>,
}

/// A mask path that the message does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid field mask path {path:?}: {message} has no such field")]
pub struct MaskError {
    /// The path as it was given.
    pub path: String,
    /// The message the path was meant for.
    pub message: &'static str,
}

impl Mask {
    /// A mask from paths such as `source.pod_name`, each checked against `M`.
    pub fn new<M: Message>(paths: &[String]) -> Result<Self, MaskError> {
        let mut mask = Self::default();
        for path in paths {
            let bad = || MaskError { path: path.clone(), message: M::NAME };
            let mut child: fn(&str) -> Option<Child> = M::child;
            let mut parts = path.split('.').peekable();
            while let Some(part) = parts.next() {
                match child(part).ok_or_else(bad)? {
                    Child::Message(next) => child = next,
                    Child::Leaf if parts.peek().is_some() => return Err(bad()),
                    Child::Leaf => {}
                }
            }
            mask.insert(path);
        }
        Ok(mask)
    }

    fn insert(&mut self, path: &str) {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        match (self.children.get_mut(first), rest) {
            (Some(child), None) => child.children.clear(),
            (Some(child), Some(rest)) if !child.is_whole() => child.insert(rest),
            (Some(_), Some(_)) => {}
            (None, rest) => {
                let mut child = Self::default();
                if let Some(rest) = rest {
                    child.insert(rest);
                }
                self.children.insert(first.to_owned(), child);
            }
        }
    }

    /// True when nothing below is left out.
    pub fn is_whole(&self) -> bool {
        self.children.is_empty()
    }

    /// The mask below a field; none when the field is left out.
    pub fn child(&self, key: &str) -> Option<&Mask> {
        self.children.get(key)
    }
}
