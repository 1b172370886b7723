//! DEL: what is there goes; what is not there is no error; an agent that is away is told later.

use std::time::Duration;

use netconf::{Failure, host_interface_name};
use netlink::{Namespace, Netlink};

use crate::Call;
use crate::agent::Agent;
use crate::queue::Queue;

pub(crate) fn del(call: &Call<'_>) -> Result<(), Failure> {
    let agent = call.agent();
    let told = match agent.wait(call.settings.del_patience) {
        Ok(_) => {
            forget(call, &agent);
            Ok(())
        }
        Err(error) => {
            call.log.warn(&format!("{error}; queueing the deletion"));
            queue(call, &agent)
        }
    };
    // The container's interface goes whether or not the agent could be told.
    unwire(call);
    told
}

/// The agent's errors do not hold the runtime up: it could only try the same again.
fn forget(call: &Call<'_>, agent: &Agent<'_>) {
    if let Err(error) = agent.delete_container(&call.invocation.attachment.container_id) {
        call.log.warn(&format!("deleting the endpoint: {error}"));
    }
}

fn queue(call: &Call<'_>, agent: &Agent<'_>) -> Result<(), Failure> {
    let queue = Queue::open(&call.settings.run_dir)?;
    // While we waited for the lock the agent may have come, read the queue, and would not read it again.
    if agent.wait(Duration::ZERO).is_ok() {
        forget(call, agent);
        return Ok(());
    }
    queue.push(&call.invocation.attachment.container_id)
}

fn unwire(call: &Call<'_>) {
    let warn = |line: String| call.log.warn(&line);
    let attachment = &call.invocation.attachment;
    if !call.invocation.netns.is_empty() {
        match Namespace::open(&*call.invocation.netns) {
            Ok(namespace) => {
                let delete = || Netlink::open().and_then(|mut inside| inside.delete_link(&attachment.ifname));
                match namespace.run(delete) {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => warn(error.to_string()),
                    Err(error) => warn(error.to_string()),
                }
            }
            Err(error) => warn(error.to_string()),
        }
    }
    // Where the namespace could not be opened the pair may live on as long as somebody holds that namespace.
    let host = Netlink::open().and_then(|mut host| host.delete_link(&host_interface_name(attachment)));
    if let Err(error) = host {
        warn(error.to_string());
    }
}
