//! The network configuration on standard input.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::{Map, Value};

use crate::{Attachment, CniResult, Code, Failure, ResultError, Version};

/// A configuration, as far as the plugin reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetConf {
    /// `cniVersion`
    pub version: Version,
    /// `name` of the network.
    pub name: String,
    /// `type`, the plugin's name.
    pub kind: String,
    /// `mtu`: overrides the agent's; 0: not set.
    pub mtu: u32,
    /// `chaining-mode`
    pub chaining_mode: String,
    /// `enable-debug`
    pub enable_debug: bool,
    /// `log-file`; empty: none.
    pub log_file: String,
    /// `log-format`
    pub log_format: String,
    /// `ipam.type`: the delegated plugin, when the agent delegates.
    pub ipam_type: String,
    /// `args.cilium.labels`: labels for the pod's endpoint where no Kubernetes tells the agent.
    /// Each is `key=value` or `source:key=value`.
    pub labels: Vec<String>,
    /// `prevResult`
    pub prev_result: Option<CniResult>,
    /// `cni.dev/valid-attachments` (GC): everything else may go. `None`: no list was given.
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("the network configuration on standard input is not a JSON object: {0}")]
    NotJson(String),
    /// A list was given to a single plugin.
    #[error(
        "the configuration is a list (it has \"plugins\" and no \"type\"); a plugin is given one element of a list"
    )]
    IsAList,
    /// A version nobody knows.
    #[error("cniVersion {0:?} is not supported; supported are 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0")]
    UnsupportedVersion(String),
    /// A field of another type or out of range.
    #[error("field {field:?} must be {want}, not {found}")]
    Field {
        /// Path of the field.
        field: String,
        /// What it must be.
        want: &'static str,
        /// What it is, shortened.
        found: String,
    },
    /// The result of an earlier plugin or call.
    #[error("field \"prevResult\": {0}")]
    PrevResult(#[from] ResultError),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::NotJson(_) => Self::new(Code::Decode, error),
            ConfigError::UnsupportedVersion(_) => Self::new(Code::IncompatibleVersion, error),
            _ => Self::new(Code::InvalidConfig, "InvalidNetworkConfig").with_details(error),
        }
    }
}

impl NetConf {
    /// Reads a configuration. Unknown keys are other plugins' or the runtime's, and are left alone.
    ///
    /// # Errors
    /// See [`ConfigError`]; each names its field.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_slice(bytes).map_err(|e| ConfigError::NotJson(e.to_string()))?;
        let Value::Object(object) = value else { return Err(ConfigError::NotJson(shorten(&value))) };
        let root = Fields { object: &object, prefix: "" };
        if object.contains_key("plugins") && !object.contains_key("type") {
            return Err(ConfigError::IsAList);
        }
        let version = root.text("cniVersion")?;
        let version = Version::parse(&version).ok_or(ConfigError::UnsupportedVersion(version))?;
        let labels = match root.object("args")? {
            Some(args) => match args.object("cilium")? {
                Some(cilium) => cilium.texts("labels")?,
                None => Vec::new(),
            },
            None => Vec::new(),
        };
        Ok(Self {
            version,
            name: root.text("name")?,
            kind: root.text("type")?,
            mtu: root.mtu("mtu")?,
            chaining_mode: root.text("chaining-mode")?,
            enable_debug: root.switch("enable-debug")?,
            log_file: root.text("log-file")?,
            log_format: root.text("log-format")?,
            ipam_type: root.object("ipam")?.map_or(Ok(String::new()), |ipam| ipam.text("type"))?,
            labels,
            prev_result: match object.get("prevResult") {
                None | Some(Value::Null) => None,
                Some(value) => Some(CniResult::from_value(value)?),
            },
            valid_attachments: root.attachments("cni.dev/valid-attachments")?,
        })
    }
}

/// Fields of one object, with the path to it for errors.
struct Fields<'a> {
    object: &'a Map<String, Value>,
    prefix: &'static str,
}

impl<'a> Fields<'a> {
    /// The field unless it is absent or null.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }
    fn wrong(&self, name: &str, want: &'static str, found: &Value) -> ConfigError {
        ConfigError::Field { field: format!("{}{name}", self.prefix), want, found: shorten(found) }
    }
    fn text(&self, name: &str) -> Result<String, ConfigError> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(self.wrong(name, "a string", other)),
        }
    }
    fn switch(&self, name: &str) -> Result<bool, ConfigError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(other) => Err(self.wrong(name, "true or false", other)),
        }
    }
    fn mtu(&self, name: &str) -> Result<u32, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(0) };
        match value.as_u64().and_then(|mtu| u32::try_from(mtu).ok()) {
            // 0 means "not set"; below 68 (RFC 791) no IPv4 passes, above 65535 no veth can be made.
            Some(mtu @ (0 | 68..=65_535)) => Ok(mtu),
            _ => Err(self.wrong(name, "0 or a whole number from 68 to 65535", value)),
        }
    }
    fn texts(&self, name: &str) -> Result<Vec<String>, ConfigError> {
        let want = "a list of strings that are not empty";
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let Value::Array(items) = value else { return Err(self.wrong(name, want, value)) };
        let text = |item: &Value| match item {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            other => Err(self.wrong(name, want, other)),
        };
        items.iter().map(text).collect()
    }
    fn object(&self, name: &'static str) -> Result<Option<Fields<'a>>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields {
                object,
                prefix: match name {
                    "args" => "args.",
                    "cilium" => "args.cilium.",
                    _ => "ipam.",
                },
            })),
            Some(other) => Err(self.wrong(name, "an object", other)),
        }
    }
    fn attachments(&self, name: &str) -> Result<Option<Vec<Attachment>>, ConfigError> {
        let want = "a list of objects with \"containerID\" and \"ifname\"";
        let Some(value) = self.get(name) else { return Ok(None) };
        let Value::Array(items) = value else { return Err(self.wrong(name, want, value)) };
        let one = |item: &Value| {
            let text = |key: &str| item.get(key).and_then(Value::as_str).map(ToString::to_string);
            match (text("containerID"), text("ifname")) {
                (Some(container_id), Some(ifname)) => Ok(Attachment { container_id, ifname }),
                _ => Err(self.wrong(name, want, item)),
            }
        };
        items.iter().map(one).collect::<Result<_, _>>().map(Some)
    }
}

/// What was found, short enough for one line.
fn shorten(value: &Value) -> String {
    let mut text = value.to_string();
    if let Some((cut, _)) = text.char_indices().nth(60) {
        text.truncate(cut);
        text.push('…');
    }
    text
}
