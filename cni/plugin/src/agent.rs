//! The agent, as far as the plugin asks it.

use std::time::{Duration, Instant};

use api::client::{Client, ClientError, escape};
use api::models::{
    DaemonConfiguration, Endpoint, EndpointBatchDeleteRequest, EndpointChangeRequest, EndpointHealth, IPAMResponse,
    StatusResponse,
};
use netconf::{Attachment, Code, Failure};

use crate::log::Log;
use crate::settings::Settings;

/// First pause between attempts to reach the agent; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

pub(crate) struct Agent<'a> {
    client: Client,
    log: &'a Log,
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deleted {
    /// It was there and is gone.
    Gone,
    /// It was not there.
    WasNotThere,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(settings: &Settings, log: &'a Log) -> Self {
        Self { client: Client::new(&settings.socket, settings.call_timeout), log }
    }

    /// Asks for the configuration until the agent answers or `patience` is over. An agent that starts up answers 503.
    pub(crate) fn wait(&self, patience: Duration) -> Result<DaemonConfiguration, ClientError> {
        let deadline = Instant::now() + patience;
        let mut pause = PAUSE_MIN;
        loop {
            let error = match self.client.get("/config") {
                Ok(config) => return Ok(config),
                Err(error) => error,
            };
            let may_come = error.is_unreachable() || error.status() == Some(503);
            if !may_come || Instant::now() + pause >= deadline {
                return Err(error);
            }
            self.log.debug(&format!("waiting for the agent: {error}"));
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    pub(crate) fn allocate(&self, owner: &str) -> Result<IPAMResponse, Failure> {
        let path = format!("/ipam?owner={}", escape(owner));
        self.client.call("POST", &path, &[("expiration", "true")], None::<&()>).map_err(|error| {
            let code = if error.status() == Some(502) { Code::TryAgainLater } else { code_of(&error) };
            Failure::new(code, "unable to allocate IP via local cilium agent").with_details(error)
        })
    }

    pub(crate) fn release(&self, ip: &str, pool: &str) {
        if ip.is_empty() {
            return;
        }
        let query = if pool.is_empty() { String::new() } else { format!("?pool={}", escape(pool)) };
        let path = format!("/ipam/{}{query}", escape(ip));
        // An address that cannot be released now expires: it was allocated for ten minutes only.
        match self.client.call::<(), serde_json::Value>("DELETE", &path, &[], None) {
            Ok(_) => {}
            Err(error) => self.log.warn(&format!("releasing {ip}: {error}")),
        }
    }

    /// The endpoint of an attachment, if there is one.
    pub(crate) fn endpoint(&self, attachment: &Attachment) -> Result<Option<Endpoint>, ClientError> {
        match self.client.get(&format!("/endpoint/{}", escape(&attachment.endpoint_name()))) {
            Ok(endpoint) => Ok(Some(endpoint)),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>, ClientError> {
        self.client.get("/endpoint")
    }

    pub(crate) fn create(
        &self,
        attachment: &Attachment,
        request: &EndpointChangeRequest,
    ) -> Result<Endpoint, ClientError> {
        self.client.call("PUT", &format!("/endpoint/{}", escape(&attachment.endpoint_name())), &[], Some(request))
    }

    pub(crate) fn delete(&self, attachment: &Attachment) -> Result<Deleted, ClientError> {
        let path = format!("/endpoint/{}", escape(&attachment.endpoint_name()));
        deleted(self.client.call::<(), serde_json::Value>("DELETE", &path, &[], None))
    }

    pub(crate) fn delete_container(&self, container_id: &str) -> Result<Deleted, ClientError> {
        let request = EndpointBatchDeleteRequest { container_id: container_id.to_owned() };
        deleted(self.client.call::<_, serde_json::Value>("DELETE", "/endpoint", &[], Some(&request)))
    }

    pub(crate) fn health(&self, attachment: &Attachment) -> Result<EndpointHealth, ClientError> {
        self.client.get(&format!("/endpoint/{}/healthz", escape(&attachment.endpoint_name())))
    }

    pub(crate) fn status(&self) -> Result<StatusResponse, ClientError> {
        self.client.call("GET", "/healthz", &[("brief", "true")], None::<&()>)
    }
}

fn deleted(answer: Result<serde_json::Value, ClientError>) -> Result<Deleted, ClientError> {
    match answer {
        Ok(_) => Ok(Deleted::Gone),
        Err(error) if error.status() == Some(404) => Ok(Deleted::WasNotThere),
        Err(error) => Err(error),
    }
}

/// The runtime may try again when the agent is away, starting, limiting or broke the connection.
pub(crate) fn code_of(error: &ClientError) -> Code {
    match error {
        ClientError::Connect { .. } | ClientError::Transport { .. } | ClientError::NotHttp { .. } => {
            Code::TryAgainLater
        }
        _ if matches!(error.status(), Some(429 | 503)) => Code::TryAgainLater,
        _ => Code::Other,
    }
}
