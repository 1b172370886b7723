//! Where identities lie in the key-value store (reference: identities, kvstore mode).

use alloc::format;
use alloc::string::{String, ToString};

use types::{Labels, NumericIdentity};

const BASE: &str = "cilium/state/identities/v1";

/// The keys of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    suffix: String,
}

impl Keys {
    /// The keys of the node with this suffix (its address).
    pub fn new(suffix: &str) -> Self {
        Self { suffix: suffix.to_string() }
    }
    /// What all master keys begin with.
    pub fn masters() -> String {
        format!("{BASE}/id/")
    }
    /// The master key: number to labels.
    pub fn master(number: NumericIdentity) -> String {
        format!("{BASE}/id/{number}")
    }
    /// The number of a master key.
    pub fn number(master: &str) -> Option<NumericIdentity> {
        let digits = master.strip_prefix(BASE)?.strip_prefix("/id/")?;
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok().map(NumericIdentity::new)
    }
    /// What the slave keys of these labels begin with.
    pub fn slaves(labels: &Labels) -> String {
        format!("{BASE}/value/{}/", labels.identity_key())
    }
    /// This node's slave key: proof that it uses the labels' number.
    pub fn slave(&self, labels: &Labels) -> String {
        format!("{BASE}/value/{}/{}", labels.identity_key(), self.suffix)
    }
    /// Held while a number is chosen for these labels.
    pub fn lock(labels: &Labels) -> String {
        format!("{BASE}/locks/{}", labels.identity_key())
    }
    /// What marks keys as this node's.
    pub fn suffix(&self) -> &str {
        &self.suffix
    }
}
