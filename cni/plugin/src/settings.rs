//! Where the agent is and how long to wait for it.

use std::path::PathBuf;
use std::time::Duration;

use netconf::{Code, Failure};

/// ADD and CHECK wait this long for an agent that is not there (reference).
const ADD_PATIENCE: Duration = Duration::from_secs(30);
/// DEL waits this long, then queues (reference).
const DEL_PATIENCE: Duration = Duration::from_secs(10);
/// How long one call of the API may take: an endpoint is answered when its policy is enforced.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// From the environment: `CILIUM_SOCK` (the agent's socket), `CILIUM_RUN_DIR` (its run directory, which holds the
/// delete queue), `CILIUM_CNI_PATIENCE` (seconds to wait for the agent).
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) socket: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) add_patience: Duration,
    pub(crate) del_patience: Duration,
    pub(crate) call_timeout: Duration,
}

impl Settings {
    pub(crate) fn from_environment<'a>(variable: &dyn Fn(&str) -> Option<&'a str>) -> Result<Self, Failure> {
        let path = |name, default: &str| PathBuf::from(variable(name).filter(|v| !v.is_empty()).unwrap_or(default));
        let patience = match variable("CILIUM_CNI_PATIENCE").filter(|v| !v.is_empty()) {
            None => None,
            Some(text) => Some(Duration::from_secs(text.parse::<u16>().map(u64::from).map_err(|_| {
                let msg = format!("CILIUM_CNI_PATIENCE must be a whole number of seconds up to 65535, not {text:?}");
                Failure::new(Code::InvalidEnvironment, msg)
            })?)),
        };
        Ok(Self {
            socket: path("CILIUM_SOCK", api::DEFAULT_SOCKET),
            run_dir: path("CILIUM_RUN_DIR", "/var/run/cilium"),
            add_patience: patience.unwrap_or(ADD_PATIENCE),
            del_patience: patience.unwrap_or(DEL_PATIENCE),
            call_timeout: CALL_TIMEOUT,
        })
    }
}
