//! Names that follow from an attachment.

use alloc::format;
use alloc::string::String;

use sha2::{Digest, Sha256};

use crate::EnvironmentError;

/// One interface of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The runtime's name for the container.
    pub container_id: String,
    /// Name of the interface within it.
    pub ifname: String,
}

/// `IFNAMSIZ` without the closing zero.
const IFNAME_BYTES_MAX: usize = 15;
/// Longer ids are no ids (the specification names no limit; runtimes use 64 characters).
const CONTAINER_ID_BYTES_MAX: usize = 512;

impl Attachment {
    /// `<container id>:<interface>`, also the tail of the endpoint's name in the REST API.
    pub fn id(&self) -> String {
        format!("{}:{}", self.container_id, self.ifname)
    }
    /// The endpoint's name in the REST API.
    pub fn endpoint_name(&self) -> String {
        format!("cni-attachment-id:{}", self.id())
    }
    pub(crate) fn check(&self) -> Result<(), EnvironmentError> {
        let id = &self.container_id;
        let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !id.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !id.chars().all(legal)
            || id.len() > CONTAINER_ID_BYTES_MAX
        {
            return Err(EnvironmentError::ContainerId(id.clone()));
        }
        let name = &self.ifname;
        let illegal = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
        if name.is_empty() || name.len() > IFNAME_BYTES_MAX || name == "." || name == ".." || name.contains(illegal) {
            return Err(EnvironmentError::IfName(name.clone()));
        }
        Ok(())
    }
}

/// Name of the host's side: `lxc` and the first twelve hex digits of the SHA-256 of the attachment's id.
pub fn host_interface_name(attachment: &Attachment) -> String {
    let mut hex = hex_sha256(attachment.id().as_bytes());
    hex.truncate(12);
    format!("lxc{hex}")
}

/// More files than this in the delete queue, and DEL fails: the runtime tries again.
pub const DELETE_QUEUE_FILES_MAX: usize = 256;
/// Lock of the delete queue, in its directory: plugins take it shared, the agent takes it alone.
pub const DELETE_QUEUE_LOCK: &str = "lockfile";
/// How names of queued files end.
pub const DELETE_QUEUE_SUFFIX: &str = ".delete";

/// Name of a file in the delete queue with that content: the same request twice is one file.
pub fn delete_queue_file_name(content: &[u8]) -> String {
    format!("{}{DELETE_QUEUE_SUFFIX}", hex_sha256(content))
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
