//! What a CNI runtime says and wants to hear, as plain values: network configuration, environment, results, errors,
//! and the names that follow from an attachment.
//!
//! Everything here is a pure function of its arguments: no environment, no file, no clock. A field that is wrong is
//! refused by its name, with the way out; fields that are not known are left to whoever put them there, as the
//! specification asks. Formats: CNI specification 0.1.0 to 1.1.0.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod arguments;
mod config;
mod environment;
mod error;
mod names;
mod result;
mod version;

pub use arguments::{ArgumentsError, CniArgs};
pub use config::{ConfigError, NetConf};
pub use environment::{Command, EnvironmentError, Invocation};
pub use error::{Code, Failure};
pub use names::{
    Attachment, DELETE_QUEUE_FILES_MAX, DELETE_QUEUE_LOCK, DELETE_QUEUE_SUFFIX, delete_queue_file_name,
    host_interface_name,
};
pub use result::{CniResult, Interface, Ip, ResultError, Route};
pub use version::{SUPPORTED, Version, version_report};

#[cfg(test)]
mod tests;
