//! Which pod a control group belongs to.
//!
//! A record of a socket call names a control group and no address of its own. The group's directory has the same number as
//! its inode. Where it lies tells the pod ([`path`]), if the kubelet made it; that needs nothing but the hierarchy. Else a
//! process in it lives in the network namespace of its pod, and the addresses there are the pod's; for that the agent must
//! see the node's processes (in a container: `hostPID`), without which such records stay nobody's.
//!
//! To look means to read files, so it is done beside the decoding: records of a group that is not known yet wait for it.

mod find;
pub mod path;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hubble_model::Family;
use tokio::sync::Notify;

/// How long a group of no pod is left alone before it is looked at again.
const NOBODY_FOR: Duration = Duration::from_secs(5);
/// How often control groups are looked through at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Groups remembered at most.
const GROUPS_MAX: usize = 8_192;
/// Groups that may wait to be looked at.
const ASKED_MAX: usize = 256;

/// What is known of the node's pods.
pub trait Pods {
    /// Whether an address is a pod's.
    fn is_pod(&self, ip: IpAddr) -> bool;
    /// The addresses of the pod with this uid, or with a sandbox of this id.
    fn named(&self, name: &str) -> Option<Box<[IpAddr]>>;
}

/// What is known of control groups, and what was asked for.
#[derive(Debug, Default)]
pub struct Cgroups {
    known: Mutex<Known>,
    /// Something was asked for.
    asked: Notify,
    /// It was looked for.
    looked: Notify,
}

#[derive(Debug, Default)]
struct Known {
    groups: HashMap<u64, Group>,
    asked: BTreeSet<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Group {
    /// Of a pod with these addresses.
    Pod(Box<[IpAddr]>),
    /// Of no pod, as of then.
    Nobody(Instant),
}

impl Cgroups {
    /// Whoever panicked with the lock has broken nothing: what it guards is valid after every statement.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of the pod a group belongs to. A group that is not known is asked for.
    pub fn address(&self, id: u64, family: Family) -> Option<IpAddr> {
        self.address_at(Instant::now(), id, family)
    }

    fn address_at(&self, now: Instant, id: u64, family: Family) -> Option<IpAddr> {
        let mut known = self.known();
        match known.groups.get(&id) {
            Some(Group::Pod(addresses)) => {
                return addresses.iter().copied().find(|ip| ip.is_ipv4() == (family == Family::V4));
            }
            Some(Group::Nobody(since)) if now.saturating_duration_since(*since) < NOBODY_FOR => return None,
            _ => {}
        }
        if known.asked.len() < ASKED_MAX && known.asked.insert(id) {
            self.asked.notify_one();
        }
        None
    }

    /// Whether the group is being looked for.
    pub fn is_asked(&self, id: u64) -> bool {
        self.known().asked.contains(&id)
    }

    /// Waits until what was asked for has been looked for. One may wait.
    pub async fn looked(&self) {
        self.looked.notified().await;
    }

    /// Looks for what is asked for below the root of the hierarchy. Never ends.
    pub async fn look_up(&self, root: PathBuf, pods: impl Pods + Clone + Send + 'static) {
        loop {
            self.asked.notified().await;
            let (ids, root, pods) = (self.known().asked.clone(), root.clone(), pods.clone());
            let asked = ids.clone();
            let pods = tokio::task::spawn_blocking(move || find::find(&root, &ids, &pods)).await.unwrap_or_else(|why| {
                tracing::error!(%why, "the search for pods of control groups broke; their sockets stay nobody's for now");
                HashMap::new()
            });
            self.note(Instant::now(), pods, &asked);
            self.looked.notify_one();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn note(&self, now: Instant, mut pods: HashMap<u64, Box<[IpAddr]>>, ids: &BTreeSet<u64>) {
        let mut known = self.known();
        if known.groups.len() + ids.len() > GROUPS_MAX {
            // Those still in use are asked for again.
            known.groups.clear();
        }
        for id in ids {
            known.asked.remove(id);
            known.groups.insert(*id, pods.remove(id).map_or(Group::Nobody(now), Group::Pod));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_asked_for_once_and_what_is_nobodys_again_later() {
        let (groups, now) = (Cgroups::default(), Instant::now());
        let pod: IpAddr = "10.0.0.7".parse().unwrap();
        assert_eq!(groups.address_at(now, 7, Family::V4), None);
        assert_eq!(groups.address_at(now, 8, Family::V4), None);
        assert!(groups.is_asked(7) && groups.is_asked(8) && !groups.is_asked(9));
        groups.note(now, [(7, Box::from([pod]))].into(), &[7, 8].into());
        assert_eq!(groups.address_at(now, 7, Family::V4), Some(pod));
        assert_eq!(groups.address_at(now, 7, Family::V6), None, "it has none of that family");
        assert_eq!(groups.address_at(now, 8, Family::V4), None);
        assert!(!groups.is_asked(7) && !groups.is_asked(8), "known to be nobody's");
        assert_eq!(groups.address_at(now + NOBODY_FOR, 8, Family::V4), None);
        assert!(groups.is_asked(8), "looked at again");
        (100..1_000).for_each(|id| assert_eq!(groups.address_at(now, id, Family::V4), None));
        assert_eq!(groups.known().asked.len(), ASKED_MAX);
    }
}
