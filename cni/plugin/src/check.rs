//! CHECK and STATUS: looks, changes nothing.

use std::net::IpAddr;

use api::models::{EndpointHealthStatus, State};
use netconf::{Code, Failure};
use netlink::Namespace;

use crate::Call;
use crate::pod;

pub(crate) fn check(call: &Call<'_>) -> Result<(), Failure> {
    let agent = call.agent();
    agent
        .wait(call.settings.add_patience)
        .map_err(|e| Failure::new(Code::TryAgainLater, "DaemonDown").with_details(e))?;
    let Some(earlier) = &call.conf.prev_result else {
        let msg = "CHECK needs \"prevResult\", the result of the ADD, in the configuration";
        return Err(Failure::new(Code::InvalidConfig, msg));
    };
    let health = agent
        .health(&call.invocation.attachment)
        .map_err(|e| Failure::new(Code::HealthzFailed, "HealthzFailed").with_details(e))?;
    if health.overall_health == EndpointHealthStatus::Failure {
        return Err(Failure::new(Code::Unhealthy, "Unhealthy").with_details("container is unhealthy in agent"));
    }
    let netns = &call.invocation.netns;
    let namespace = Namespace::open(&**netns).map_err(|e| Failure::new(Code::Io, e))?;
    for (at, interface) in earlier.interfaces.iter().enumerate().filter(|(_, i)| i.sandbox == *netns) {
        let addresses: Vec<IpAddr> =
            earlier.ips.iter().filter(|ip| ip.interface == Some(at)).map(|ip| ip.address).collect();
        if let Err(why) = pod::is_wired(&namespace, &interface.name, None, &addresses)? {
            return Err(Failure::new(Code::Other, why));
        }
    }
    Ok(())
}

pub(crate) fn status(call: &Call<'_>) -> Result<(), Failure> {
    let unavailable = |details: String| {
        Failure::new(Code::PluginUnavailable, "the Cilium agent cannot take pods now").with_details(details)
    };
    let status = call.agent().status().map_err(|e| unavailable(e.to_string()))?;
    match status.cilium {
        Some(own) if own.state == State::Failure => Err(unavailable(own.msg)),
        _ => Ok(()),
    }
}
