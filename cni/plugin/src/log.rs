//! Log lines: to standard error when the configuration asks for debugging, and to its log file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use netconf::{Code, Failure, Invocation, NetConf};

/// Where lines go.
pub(crate) struct Log {
    file: Option<File>,
    debug: bool,
    prefix: String,
}

impl Log {
    pub(crate) fn open(conf: &NetConf, invocation: &Invocation) -> Result<Self, Failure> {
        let file = match conf.log_file.as_str() {
            "" => None,
            path => Some(OpenOptions::new().append(true).create(true).open(path).map_err(|e| {
                Failure::new(Code::InvalidConfig, "InvalidLoggingConfig")
                    .with_details(format!("log-file {path:?}: {e}"))
            })?),
        };
        let prefix = format!("{} {}", invocation.command, invocation.attachment.id());
        Ok(Self { file, debug: conf.enable_debug, prefix })
    }
    pub(crate) fn debug(&self, line: &str) {
        if self.debug {
            self.write("debug", line);
        }
    }
    pub(crate) fn warn(&self, line: &str) {
        self.write("warning", line);
    }
    pub(crate) fn error(&self, line: &str) {
        self.write("error", line);
    }
    fn write(&self, level: &str, line: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let text = format!(
            "time={}.{:03} level={level} call={:?} msg={line:?}\n",
            since.as_secs(),
            since.subsec_millis(),
            self.prefix
        );
        // A log that cannot be written must not keep a pod from starting.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        if let Some(file) = &self.file {
            let _ = (&*file).write_all(text.as_bytes());
        }
    }
}
