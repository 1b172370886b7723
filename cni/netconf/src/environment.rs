//! The call itself, from environment variables.

use alloc::string::{String, ToString};

use crate::{ArgumentsError, Attachment, CniArgs, Code, Failure};

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// Is it still connected as it was?
    Check,
    /// Remove what is not on the list.
    Gc,
    /// Could ADD work now?
    Status,
    /// Which versions are supported?
    Version,
}

impl Command {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
    /// The verbs that are about one container.
    const fn is_about_a_container(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl core::fmt::Display for Command {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A call. Fields that its command does not need are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// For which container and interface.
    pub attachment: Attachment,
    /// Path of the container's network namespace; may be empty for DEL.
    pub netns: String,
    /// What the runtime says about the pod.
    pub args: CniArgs,
    /// Where plugins lie, separated by colons.
    pub path: String,
}

/// Why the environment makes no call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// No command.
    #[error("CNI_COMMAND is not set; this is a CNI plugin and is started by a container runtime")]
    NoCommand,
    /// Another command.
    #[error("CNI_COMMAND must be ADD, DEL, CHECK, GC, STATUS or VERSION, not {0:?}")]
    UnknownCommand(String),
    /// A variable is missing.
    #[error("{variable} is required for {command}")]
    Missing {
        /// Its name.
        variable: &'static str,
        /// For what.
        command: Command,
    },
    /// The container's id has other characters.
    #[error(
        "CNI_CONTAINERID {0:?} must start with a letter or digit, followed by letters, digits, '_', '.' or '-', 512 at most"
    )]
    ContainerId(String),
    /// The kernel would not take that name.
    #[error("CNI_IFNAME {0:?} must have 1 to 15 bytes, no '/', ':' or white space, and not be '.' or '..'")]
    IfName(String),
    /// Arguments.
    #[error(transparent)]
    Arguments(#[from] ArgumentsError),
}

impl From<EnvironmentError> for Failure {
    fn from(error: EnvironmentError) -> Self {
        match error {
            EnvironmentError::Arguments(_) => Self::new(Code::InvalidConfig, "InvalidArgs").with_details(error),
            _ => Self::new(Code::InvalidEnvironment, error),
        }
    }
}

impl Invocation {
    /// Reads the call from a look-up of environment variables.
    ///
    /// # Errors
    /// See [`EnvironmentError`]; each names its variable.
    pub fn parse<'a>(variable: impl Fn(&str) -> Option<&'a str>) -> Result<Self, EnvironmentError> {
        let value = |name| variable(name).unwrap_or_default();
        let command = match value("CNI_COMMAND") {
            "" => return Err(EnvironmentError::NoCommand),
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            other => return Err(EnvironmentError::UnknownCommand(other.to_string())),
        };
        let mut call = Self {
            command,
            attachment: Attachment::default(),
            netns: String::new(),
            args: CniArgs::default(),
            path: value("CNI_PATH").to_string(),
        };
        if command.is_about_a_container() {
            let required = |name| match value(name) {
                "" => Err(EnvironmentError::Missing { variable: name, command }),
                text => Ok(text.to_string()),
            };
            call.attachment =
                Attachment { container_id: required("CNI_CONTAINERID")?, ifname: required("CNI_IFNAME")? };
            call.netns = match command {
                Command::Del => value("CNI_NETNS").to_string(),
                _ => required("CNI_NETNS")?,
            };
            call.attachment.check()?;
            call.args = CniArgs::parse(value("CNI_ARGS"))?;
        }
        Ok(call)
    }
}
