//! Label selectors: which sets of labels a rule speaks of.
//!
//! A selector is a conjunction of requirements on single keys, as Kubernetes' `LabelSelector` is, with Cilium's
//! addition that a key may name the source it wants (`k8s:app`); without one every source answers.
//!
//! Invariant: requirements are sorted and unique, so equal selectors are equal values (that is what lets the policy
//! engine share them).

use crate::labels::{self, ANY, K8S, Label, Labels};
use alloc::{boxed::Box, string::String, vec::Vec};
use core::fmt;

/// The key a requirement asks for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelectorKey {
    /// The wanted source; [`ANY`] takes all.
    pub source: Box<str>,
    /// The wanted key.
    pub key: Box<str>,
}

impl SelectorKey {
    /// A key of the given parts.
    #[must_use]
    pub fn new(source: &str, key: &str) -> Self {
        Self { source: source.into(), key: key.into() }
    }

    /// Reads `source:key`, `$key`, `reserved.key` or `key`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (source, key) = labels::split_selector_key(text);
        Self::new(&source, &key)
    }

    /// A key of Kubernetes' own.
    #[must_use]
    pub fn k8s(key: &str) -> Self {
        Self::new(K8S, key)
    }
}

impl fmt::Display for SelectorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.source, self.key)
    }
}

impl fmt::Debug for SelectorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a requirement asks of its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Demand {
    /// The key is there with one of these values (sorted, at least one).
    In(Vec<Box<str>>),
    /// The key is absent, or has none of these values (sorted, at least one).
    NotIn(Vec<Box<str>>),
    /// The key is there.
    Exists,
    /// The key is absent.
    Absent,
}

/// One requirement of a selector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// Which key.
    pub key: SelectorKey,
    /// What of it.
    pub demand: Demand,
}

impl Requirement {
    /// The key has exactly this value.
    #[must_use]
    pub fn equals(key: SelectorKey, value: &str) -> Self {
        Self { key, demand: Demand::In(alloc::vec![value.into()]) }
    }

    /// The key is there.
    #[must_use]
    pub fn exists(key: SelectorKey) -> Self {
        Self { key, demand: Demand::Exists }
    }

    /// True if these labels fulfil it.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.value_of(&self.key.source, &self.key.key);
        match (&self.demand, value) {
            (Demand::In(values), Some(value)) => values.iter().any(|v| **v == *value),
            (Demand::NotIn(values), Some(value)) => values.iter().all(|v| **v != *value),
            (Demand::Exists, Some(_)) | (Demand::NotIn(_) | Demand::Absent, None) => true,
            (Demand::In(_) | Demand::Exists, None) | (Demand::Absent, Some(_)) => false,
        }
    }
}

/// A conjunction of requirements. The empty one matches everything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Selector(Vec<Requirement>);

impl Selector {
    /// The selector that matches every set of labels.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// The selector of labels that hold `reserved:name`.
    #[must_use]
    pub fn reserved(name: &str) -> Self {
        [Requirement::exists(SelectorKey::new(labels::RESERVED, name))].into_iter().collect()
    }

    /// The selector of labels that hold exactly this label.
    #[must_use]
    pub fn has_label(label: &Label) -> Self {
        let key = SelectorKey::new(label.source(), label.key());
        [Requirement::equals(key, label.value())].into_iter().collect()
    }

    /// The requirements, sorted.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// True if it matches everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// True if these labels fulfil all requirements.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|r| r.matches(labels))
    }

    /// This selector with one more requirement.
    #[must_use]
    pub fn and(mut self, requirement: Requirement) -> Self {
        if let Err(at) = self.0.binary_search(&requirement) {
            self.0.insert(at, requirement);
        }
        self
    }

    /// Removes every requirement on this key.
    #[must_use]
    pub fn without_key(mut self, key: &SelectorKey) -> Self {
        self.0.retain(|r| r.key != *key);
        self
    }

    /// True if some requirement is on a key for which `wanted` says so.
    pub fn has_key(&self, wanted: impl Fn(&SelectorKey) -> bool) -> bool {
        self.0.iter().any(|r| wanted(&r.key))
    }

    /// The value the selector pins this key to, if it pins it to exactly one, from `source` or any.
    #[must_use]
    pub fn pinned(&self, source: &str, key: &str) -> Option<&str> {
        self.0.iter().find_map(|r| match &r.demand {
            Demand::In(values) if &*r.key.key == key && (&*r.key.source == source || &*r.key.source == ANY) => {
                match values.as_slice() {
                    [one] => Some(&**one),
                    _ => None,
                }
            }
            _ => None,
        })
    }
}

impl FromIterator<Requirement> for Selector {
    fn from_iter<I: IntoIterator<Item = Requirement>>(requirements: I) -> Self {
        let mut all: Vec<Requirement> = requirements
            .into_iter()
            .map(|mut r| {
                if let Demand::In(values) | Demand::NotIn(values) = &mut r.demand {
                    values.sort();
                    values.dedup();
                }
                r
            })
            .collect();
        all.sort();
        all.dedup();
        Self(all)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("{}");
        }
        for (i, r) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            let key = &r.key;
            match &r.demand {
                Demand::In(values) if values.len() == 1 => write!(f, "{}:{}={}", key.source, key.key, values[0])?,
                Demand::In(values) => write!(f, "{}:{} in ({})", key.source, key.key, join(values))?,
                Demand::NotIn(values) => write!(f, "{}:{} notin ({})", key.source, key.key, join(values))?,
                Demand::Exists => write!(f, "{}:{}", key.source, key.key)?,
                Demand::Absent => write!(f, "!{}:{}", key.source, key.key)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

fn join(values: &[Box<str>]) -> String {
    values.join(",")
}

#[cfg(test)]
mod tests;
