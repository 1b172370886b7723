//! The CNI plugin: connects a container to the node's agent and disconnects it.
//!
//! It makes the veth pair, sets addresses and routes in the container, and tells the agent, who loads programs and
//! policy. It keeps no state of its own: what it needs later follows from the attachment's name, is in the kernel, or
//! is asked of the agent. It never decides on policy or addresses. An ADD that fails leaves nothing behind; an ADD
//! that is repeated gives the same answer; a DEL that cannot reach the agent is queued on disk.

mod add;
mod agent;
mod check;
mod del;
mod gc;
mod log;
mod pod;
mod queue;
mod settings;

use std::io;

use netconf::{Code, Command, Failure, Invocation, NetConf, Version, version_report};

use agent::Agent;
use log::Log;
use settings::Settings;

/// What to print, and whether it is a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub stdout: String,
    /// Decides the exit code.
    pub success: bool,
}

/// Everything a verb works with.
pub(crate) struct Call<'a> {
    pub(crate) invocation: &'a Invocation,
    pub(crate) conf: &'a NetConf,
    pub(crate) settings: &'a Settings,
    pub(crate) log: &'a Log,
}

impl Call<'_> {
    pub(crate) fn agent(&self) -> Agent<'_> {
        Agent::new(self.settings, self.log)
    }
}

/// Serves one call. `variable` looks an environment variable up; `stdin` reads the configuration.
pub fn run<'a>(variable: &dyn Fn(&str) -> Option<&'a str>, stdin: impl FnOnce() -> io::Result<Vec<u8>>) -> Answer {
    // Errors are printed in the configuration's version as soon as it is known.
    let mut version = Version::V1_1_0;
    match serve(variable, stdin, &mut version) {
        Ok(stdout) => Answer { stdout, success: true },
        Err(failure) => Answer { stdout: failure.to_json(version), success: false },
    }
}

fn serve<'a>(
    variable: &dyn Fn(&str) -> Option<&'a str>,
    stdin: impl FnOnce() -> io::Result<Vec<u8>>,
    version: &mut Version,
) -> Result<String, Failure> {
    let invocation = Invocation::parse(variable)?;
    if invocation.command == Command::Version {
        return Ok(version_report());
    }
    let bytes = stdin()
        .map_err(|e| Failure::new(Code::Io, "cannot read the configuration on standard input").with_details(e))?;
    let conf = NetConf::parse(&bytes)?;
    *version = conf.version;
    let needs = match invocation.command {
        Command::Check => Version::V0_4_0,
        Command::Gc | Command::Status => Version::V1_1_0,
        _ => Version::V0_1_0,
    };
    if conf.version < needs {
        let command = invocation.command;
        let msg = format!("{command} needs cniVersion {needs} or later; the configuration says {}", conf.version);
        return Err(Failure::new(Code::IncompatibleVersion, msg));
    }
    let settings = Settings::from_environment(variable)?;
    let log = Log::open(&conf, &invocation)?;
    let call = Call { invocation: &invocation, conf: &conf, settings: &settings, log: &log };
    let answer = match invocation.command {
        Command::Add => add::add(&call).map(|result| result.to_json(conf.version)),
        Command::Del => del::del(&call).map(|()| String::new()),
        Command::Check => check::check(&call).map(|()| String::new()),
        Command::Gc => gc::gc(&call).map(|()| String::new()),
        Command::Status => check::status(&call).map(|()| String::new()),
        Command::Version => Ok(version_report()),
    };
    if let Err(failure) = &answer {
        log.error(&failure.to_string());
    }
    answer
}
