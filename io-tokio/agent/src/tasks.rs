//! What goes on beside the drive loop: the store's events, devices that vanish, policies that change, sweeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use abi::config::Runtime;
use agent_core::{Agent, Input};
use loader::Maps;
use netlink::{LinkChange, LinkWatch, Netlink, NetlinkError};
use runtime::{Closed, Handle};

use crate::policy_dir::Watch;
use crate::status::Status;

/// How long names and gauges may be behind.
const PUBLISH_WITHIN: Duration = Duration::from_millis(200);

/// Hands the store's events to the core.
///
/// # Errors
/// When the core is gone, or the store is: without it no identity can be had.
pub async fn store_events(mut events: kvstore::Events, core: Handle<Agent>) -> Result<(), String> {
    while let Some(event) = events.recv().await {
        core.send(Input::Kv(event)).await.map_err(|why| why.to_string())?;
    }
    Err("the key-value store ended".into())
}

/// Tells the core of devices that are gone.
///
/// # Errors
/// When the kernel does not tell any more.
pub async fn vanished_links(core: Handle<Agent>, mut watch: LinkWatch) -> Result<(), String> {
    loop {
        let event = watch.next().await.map_err(|why| why.to_string())?;
        let gone: Vec<u32> = match (event.change, event.link) {
            (LinkChange::Gone, Some(link)) => vec![link.index],
            (LinkChange::Missed, _) => missed(&core).await?,
            _ => Vec::new(),
        };
        for index in gone {
            core.send(Input::LinkVanished(index)).await.map_err(|why| why.to_string())?;
        }
    }
}

/// Devices of endpoints that are not there (any more).
async fn missed(core: &Handle<Agent>) -> Result<Vec<u32>, String> {
    let present =
        Netlink::open().and_then(|mut netlink| netlink.links()).map_err(|why: NetlinkError| why.to_string())?;
    let present: std::collections::BTreeSet<u32> = present.into_iter().map(|link| link.index).collect();
    let devices = core.look(|agent| agent.endpoints().map(|endpoint| endpoint.spec.ifindex).collect::<Vec<_>>());
    let devices = devices.await.map_err(|why: Closed| why.to_string())?;
    Ok(devices.into_iter().filter(|index| !present.contains(index)).collect())
}

/// Hands changes of the policy directory to the core.
///
/// # Errors
/// When the core is gone.
pub async fn policies(mut watch: Watch, core: Handle<Agent>, status: Arc<Status>) -> Result<(), Closed> {
    loop {
        let files = watch.changed().await;
        for file in &files.changes {
            tracing::info!(file = %file.path, gone = matches!(file.content, Ok(None)), "policy file changed");
            status.policy_file_changed(&file.path);
        }
        core.send(Input::PolicyFiles(files)).await?;
    }
}

/// Hands changes of the directory of services to the core.
///
/// # Errors
/// When the core is gone.
pub async fn services(mut watch: Watch, core: Handle<Agent>) -> Result<(), Closed> {
    loop {
        let files = watch.changed().await;
        tracing::info!(files = files.changes.len(), "services changed");
        core.send(Input::ServiceFiles(files)).await?;
    }
}

/// Notes in the maps that the agent lives, and how far the clocks are apart.
///
/// # Errors
/// When the maps cannot be written.
pub async fn liveness(maps: Arc<Maps>, every: Duration) -> Result<(), loader::MapError> {
    loop {
        let now = runtime::now().as_nanos();
        maps.set_runtime(Runtime::AgentLiveness, now)?;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let offset = u64::try_from(wall).unwrap_or(u64::MAX).saturating_sub(now);
        maps.set_runtime(Runtime::UtimeOffset, offset / 512)?;
        tokio::time::sleep(every).await;
    }
}

/// Gives the drive loop a turn when tables were left unpublished because publishing them takes long.
///
/// # Errors
/// When the core is gone.
pub async fn publication(core: Handle<Agent>, stale: Arc<AtomicBool>) -> Result<(), Closed> {
    loop {
        tokio::time::sleep(PUBLISH_WITHIN).await;
        if stale.load(Ordering::Relaxed) {
            core.look(|_| ()).await?;
        }
    }
}
