//! `CNI_ARGS`: what the runtime says about one pod.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The keys the plugin knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs {
    /// `K8S_POD_NAME`
    pub pod_name: String,
    /// `K8S_POD_NAMESPACE`
    pub pod_namespace: String,
    /// `K8S_POD_UID`
    pub pod_uid: String,
    /// `IgnoreUnknown`: other keys are for other plugins.
    pub ignore_unknown: bool,
}

/// What is wrong with `CNI_ARGS`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentsError {
    /// Not `K=V`.
    #[error("CNI_ARGS: {0:?} is not of the form KEY=VALUE; pairs are separated by ';'")]
    NotAPair(String),
    /// A switch with another value.
    #[error("CNI_ARGS: IgnoreUnknown must be 1, true, 0 or false, not {0:?}")]
    NotABool(String),
    /// Keys for somebody else.
    #[error("CNI_ARGS: unknown keys {0:?}; set IgnoreUnknown=1 to let them pass")]
    Unknown(Vec<String>),
}

impl CniArgs {
    /// Reads `K=V;K=V`. A key said twice counts as it was said last.
    ///
    /// # Errors
    /// See [`ArgumentsError`].
    pub fn parse(text: &str) -> Result<Self, ArgumentsError> {
        let mut args = Self::default();
        let mut unknown = Vec::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| ArgumentsError::NotAPair(pair.to_string()))?;
            match key {
                "K8S_POD_NAME" => args.pod_name = value.to_string(),
                "K8S_POD_NAMESPACE" => args.pod_namespace = value.to_string(),
                "K8S_POD_UID" => args.pod_uid = value.to_string(),
                "IgnoreUnknown" => {
                    args.ignore_unknown = match value.to_ascii_lowercase().as_str() {
                        "1" | "true" => true,
                        "0" | "false" => false,
                        _ => return Err(ArgumentsError::NotABool(value.to_string())),
                    }
                }
                _ => unknown.push(key.to_string()),
            }
        }
        if unknown.is_empty() || args.ignore_unknown { Ok(args) } else { Err(ArgumentsError::Unknown(unknown)) }
    }
}
