//! Errors as the runtime reads them.

use alloc::string::{String, ToString};

use serde_json::json;

use crate::Version;

/// Error codes of the specification, and the plugin's own from 100 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 1: the configuration's version is not supported.
    IncompatibleVersion,
    /// 4: the environment is incomplete or malformed.
    InvalidEnvironment,
    /// 5: reading or writing failed.
    Io,
    /// 6: what came on standard input is not JSON.
    Decode,
    /// 7: the configuration makes no sense.
    InvalidConfig,
    /// 11: the same call may work later.
    TryAgainLater,
    /// 50: the plugin cannot take ADD now.
    PluginUnavailable,
    /// 100: health of the endpoint cannot be asked for.
    HealthzFailed,
    /// 1 as well: the endpoint is not healthy (the reference's number, which the specification also gives to versions).
    Unhealthy,
    /// 999: anything else.
    Other,
}

impl Code {
    /// The number.
    pub const fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion | Self::Unhealthy => 1,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::TryAgainLater => 11,
            Self::PluginUnavailable => 50,
            Self::HealthzFailed => 100,
            Self::Other => 999,
        }
    }
}

/// An error to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind.
    pub code: Code,
    /// One line.
    pub msg: String,
    /// More, or empty.
    pub details: String,
}

impl Failure {
    /// A failure without details.
    pub fn new(code: Code, msg: impl core::fmt::Display) -> Self {
        Self { code, msg: msg.to_string(), details: String::new() }
    }
    /// Adds what the runtime may show below the message.
    #[must_use]
    pub fn with_details(mut self, details: impl core::fmt::Display) -> Self {
        self.details = details.to_string();
        self
    }
    /// As it goes to standard output.
    pub fn to_json(&self, version: Version) -> String {
        let mut value = json!({ "cniVersion": version.as_str(), "code": self.code.number(), "msg": self.msg });
        if !self.details.is_empty() {
            value["details"] = json!(self.details);
        }
        value.to_string()
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        Ok(())
    }
}
