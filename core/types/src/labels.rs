//! Labels: `source:key=value`, the only thing an identity is made of.
//!
//! Why: policy never speaks of addresses of pods; it speaks of labels, and two workloads with the same labels are
//! the same peer. This module reads and prints labels exactly as users, manifests and the key-value store know them.
//!
//! Invariant: a [`Labels`] is sorted by bare key and holds each bare key once, whatever its source; the later of two
//! labels with the same key wins. Equal sets are therefore equal values and print as equal identity keys.
//!
//! Never: interprets a label beyond its spelling (which identities are reserved is `identity`'s business).

use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Source of a label whose origin is not stated.
pub const UNSPEC: &str = "unspec";
/// Source in selectors that matches labels of every source.
pub const ANY: &str = "any";
/// Source of labels that come from Kubernetes objects.
pub const K8S: &str = "k8s";
/// Source of labels with a fixed meaning, such as `reserved:host`.
pub const RESERVED: &str = "reserved";
/// Source of labels that name an address prefix.
pub const CIDR: &str = "cidr";
/// Source of labels that name a CIDR group a prefix is a member of.
pub const CIDR_GROUP: &str = "cidrgroup";
/// Source of labels that name the DNS selector an address was learned for.
pub const FQDN: &str = "fqdn";
/// Source of labels of nodes.
pub const NODE: &str = "node";

/// Key of the label that holds a pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Prefix of the keys that hold the labels of a pod's namespace.
pub const NAMESPACE_LABELS_PREFIX: &str = "io.cilium.k8s.namespace.labels.";
/// Key of the label that holds the cluster's name.
pub const POLICY_CLUSTER: &str = "io.cilium.k8s.policy.cluster";
/// Key of the label that holds a pod's service account.
pub const POLICY_SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
/// Prefix of the key of a label that names a CIDR group.
pub const CIDR_GROUP_NAME_PREFIX: &str = "io.cilium.policy.cidrgroupname/";

/// One label. Ordered by key, then source, then value.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Label {
    key: Box<str>,
    source: Box<str>,
    value: Box<str>,
}

impl Label {
    /// A label of the given parts. An empty source becomes [`UNSPEC`].
    #[must_use]
    pub fn new(source: &str, key: &str, value: &str) -> Self {
        let source = if source.is_empty() { UNSPEC } else { source };
        Self { key: key.into(), source: source.into(), value: value.into() }
    }

    /// A label of Kubernetes.
    #[must_use]
    pub fn k8s(key: &str, value: &str) -> Self {
        Self::new(K8S, key, value)
    }

    /// A reserved label, such as `reserved:host`.
    #[must_use]
    pub fn reserved(name: &str) -> Self {
        Self::new(RESERVED, name, "")
    }

    /// Reads `source:key=value`; a missing source is [`UNSPEC`]. Every text is a label, so this cannot fail.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self::parse_with_default(text, UNSPEC)
    }

    /// Reads a label as selectors spell it: like [`Label::parse`], but a missing source is [`ANY`].
    #[must_use]
    pub fn parse_select(text: &str) -> Self {
        Self::parse_with_default(text, ANY)
    }

    /// The label an address prefix has: `cidr:10.0.0.0/8`. Host bits are cleared; `:` of IPv6 is written `-`, and a
    /// leading or trailing one gets a zero beside it (`cidr:0--1/128`).
    #[must_use]
    pub fn cidr(addr: IpAddr, len: u8) -> Self {
        let net = mask(addr, len);
        let text = match net {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => {
                let text = v6.to_string().replace(':', "-");
                let lead = if text.starts_with('-') { "0" } else { "" };
                let tail = if text.ends_with('-') { "0" } else { "" };
                format!("{lead}{text}{tail}")
            }
        };
        Self::new(CIDR, &format!("{text}/{len}"), "")
    }

    /// The prefix this label names, if its source is [`CIDR`] and its key is one.
    #[must_use]
    pub fn as_cidr(&self) -> Option<(IpAddr, u8)> {
        if &*self.source == CIDR { cidr_of_key(&self.key) } else { None }
    }

    fn parse_with_default(text: &str, default_source: &str) -> Self {
        let (source, rest) = split_source(text, ':');
        let doubled;
        let rest = match (source, rest.strip_prefix(':')) {
            // `src::key` keeps both colons in the key: the spelling upstream's own vectors expect.
            (Some(_), Some(_)) => {
                doubled = format!(":{rest}");
                doubled.as_str()
            }
            _ => rest,
        };
        let source = source.filter(|s| !s.is_empty()).unwrap_or(default_source);
        match rest.split_once('=') {
            None => Self::new(source, rest, ""),
            Some(("", key)) if source == RESERVED => Self::new(source, key, ""),
            Some((key, value)) => Self::new(source, key, value),
        }
    }

    /// Where the label comes from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The key, without its source.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value; empty for labels without one.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// True for `reserved:` labels.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        &*self.source == RESERVED
    }

    /// `source.key`, the form selectors store.
    #[must_use]
    pub fn extended_key(&self) -> String {
        format!("{}.{}", self.source, self.key)
    }

    /// True if this label answers the question `target` asks: the same key and value from the same source, or from any
    /// source if the target's is [`ANY`]; for a prefix, if the target's prefix contains this one's.
    #[must_use]
    pub fn has(&self, target: &Label) -> bool {
        if &*target.source == CIDR && &*self.source == CIDR {
            return self.has_key(target);
        }
        self.has_key(target) && self.value == target.value
    }

    /// Like [`Label::has`], but whatever the value.
    #[must_use]
    pub fn has_key(&self, target: &Label) -> bool {
        self.answers(&target.source, &target.key)
    }

    /// True if this label's key is `key` and its source is `source` or `source` is [`ANY`]; prefixes by containment.
    #[must_use]
    pub fn answers(&self, source: &str, key: &str) -> bool {
        if source == CIDR && &*self.source == CIDR {
            return match (cidr_of_key(key), cidr_of_key(&self.key)) {
                (Some((outer, outer_len)), Some((inner, inner_len))) => {
                    outer.is_ipv4() == inner.is_ipv4()
                        && outer_len <= inner_len
                        && mask(inner, outer_len) == mask(outer, outer_len)
                }
                _ => key == &*self.key,
            };
        }
        &*self.key == key && (source == ANY || source == &*self.source)
    }

    /// `source:key=value;`, the form of the key-value store and of identity keys.
    #[must_use]
    pub fn kvstore_form(&self) -> String {
        format!("{}:{}={};", self.source, self.key, self.value)
    }
}

impl PartialOrd for Label {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Label {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (&self.key, &self.source, &self.value).cmp(&(&other.key, &other.source, &other.value))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.key)?;
        if self.value.is_empty() { Ok(()) } else { write!(f, "={}", self.value) }
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Ok(Self::parse(&String::deserialize(input)?))
    }
}

/// Reads `source:key` as selectors spell keys into `source.key`; a missing source is [`ANY`].
#[must_use]
pub fn extended_key_from(text: &str) -> String {
    let (source, rest) = split_source(text, ':');
    let key = rest.split('=').next().unwrap_or_default();
    format!("{}.{key}", source.filter(|s| !s.is_empty()).unwrap_or(ANY))
}

/// Reads a stored `source.key` back into `source:key`; a missing source is [`ANY`].
#[must_use]
pub fn cilium_key_from(extended: &str) -> String {
    match extended.split_once('.') {
        Some((source, key)) => format!("{source}:{key}"),
        None => format!("{ANY}:{extended}"),
    }
}

/// Splits a key as selectors spell it into source and key; a missing source is [`ANY`].
#[must_use]
pub fn split_selector_key(text: &str) -> (String, String) {
    let (source, key) = split_source(text, ':');
    (source.filter(|s| !s.is_empty()).unwrap_or(ANY).to_string(), key.to_string())
}

fn split_source(text: &str, delimiter: char) -> (Option<&str>, &str) {
    if let Some(rest) = text.strip_prefix('$') {
        return (Some(RESERVED), rest);
    }
    match text.split_once(delimiter) {
        Some(("", rest)) => (None, rest),
        Some((source, rest)) => (Some(source), rest),
        None => match text.strip_prefix("reserved.") {
            Some(rest) => (Some(RESERVED), rest),
            None => (None, text),
        },
    }
}

fn cidr_of_key(key: &str) -> Option<(IpAddr, u8)> {
    let (addr, len) = match key.rsplit_once('/') {
        Some((addr, len)) => (addr, Some(len.parse::<u8>().ok()?)),
        None => (key, None),
    };
    let addr: IpAddr = if addr.contains('-') { addr.replace('-', ":").parse().ok()? } else { addr.parse().ok()? };
    let full = if addr.is_ipv4() { 32 } else { 128 };
    let len = len.unwrap_or(full);
    (len <= full).then_some((addr, len))
}

fn mask(addr: IpAddr, len: u8) -> IpAddr {
    match addr {
        IpAddr::V4(v4) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & keep))
        }
        IpAddr::V6(v6) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & keep))
        }
    }
}

/// A set of labels, as an identity has: sorted by key, each key once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels(Vec<Label>);

impl Labels {
    /// Reads each text with [`Label::parse`].
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        texts.into_iter().map(Label::parse).collect()
    }

    /// Reads an identity key, `source:key=value;…`. A `;` always ends a label; Kubernetes allows none in values.
    #[must_use]
    pub fn from_identity_key(key: &str) -> Self {
        key.split_terminator(';').map(Label::parse).collect()
    }

    /// `source:key=value;` of each label in order: the identity key of the key-value store.
    #[must_use]
    pub fn identity_key(&self) -> String {
        self.0.iter().map(Label::kvstore_form).collect()
    }

    /// Adds a label; one with the same key, whatever its source, is replaced and returned.
    pub fn insert(&mut self, label: Label) -> Option<Label> {
        match self.0.binary_search_by(|have| have.key.cmp(&label.key)) {
            Ok(at) => Some(core::mem::replace(&mut self.0[at], label)),
            Err(at) => {
                self.0.insert(at, label);
                None
            }
        }
    }

    /// Removes the label with this key, whatever its source.
    pub fn remove(&mut self, key: &str) -> Option<Label> {
        let at = self.0.binary_search_by(|have| (*have.key).cmp(key)).ok()?;
        Some(self.0.remove(at))
    }

    /// The labels, sorted by key.
    pub fn iter(&self) -> core::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// The value of the label that answers this source (or [`ANY`]) and key.
    #[must_use]
    pub fn value_of(&self, source: &str, key: &str) -> Option<&str> {
        if source == CIDR {
            return self.0.iter().find(|l| l.answers(source, key)).map(Label::value);
        }
        let at = self.0.binary_search_by(|have| (*have.key).cmp(key)).ok()?;
        self.0.get(at).filter(|l| l.answers(source, key)).map(Label::value)
    }

    /// True if some label answers `target`.
    #[must_use]
    pub fn has(&self, target: &Label) -> bool {
        self.0.iter().any(|l| l.has(target))
    }

    /// True if `reserved:name` is in the set.
    #[must_use]
    pub fn has_reserved(&self, name: &str) -> bool {
        self.value_of(RESERVED, name).is_some()
    }

    /// The longest prefix the set names with a `cidr:` label.
    #[must_use]
    pub fn cidr(&self) -> Option<(IpAddr, u8)> {
        self.0.iter().filter_map(Label::as_cidr).max_by_key(|(_, len)| *len)
    }

    /// Number of labels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without any label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Label> for Labels {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        let mut all: Vec<Label> = labels.into_iter().collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        // Of two with one key the later one counts.
        all.dedup_by(|later, kept| {
            let same = later.key == kept.key;
            if same {
                core::mem::swap(later, kept);
            }
            same
        });
        Self(all)
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = &'a Label;
    type IntoIter = core::slice::Iter<'a, Label>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl IntoIterator for Labels {
    type Item = Label;
    type IntoIter = alloc::vec::IntoIter<Label>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, label) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            fmt::Display::fmt(label, f)?;
        }
        Ok(())
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(&self.0)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Ok(Vec::<Label>::deserialize(input)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
