//! Which pod a control group belongs to.
//!
//! A record of a socket call names a control group and no address of its own. The group's directory has the same number as
//! its inode, a process in it lives in the network namespace of its pod, and the addresses there are the pod's. That holds
//! for every container runtime. The agent must see the node's processes: in a container it needs the node's process
//! namespace, without which such records stay nobody's.
//!
//! To look means to read files, so it is done beside the decoding: records of a group that is not known yet wait for it.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hubble_model::Family;
use netlink::{Namespace, Netlink};
use tokio::sync::Notify;

/// How long a group of no pod is left alone before it is looked at again.
const NOBODY_FOR: Duration = Duration::from_secs(5);
/// How often control groups are looked through at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Groups remembered at most.
const GROUPS_MAX: usize = 8_192;
/// Groups that may wait to be looked at.
const ASKED_MAX: usize = 256;
/// Processes of a group asked for their addresses.
const PROCESSES_MAX: usize = 8;
/// Directories looked through at most.
const DIRECTORIES_MAX: usize = 100_000;

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

    /// Looks for what is asked for below the root of the hierarchy; `is_pod` tells the addresses of pods. Never ends.
    pub async fn look_up(&self, root: PathBuf, is_pod: impl Fn(IpAddr) -> bool + Clone + Send + 'static) {
        loop {
            self.asked.notified().await;
            let (ids, root, is_pod) = (self.known().asked.clone(), root.clone(), is_pod.clone());
            let asked = ids.clone();
            let pods = tokio::task::spawn_blocking(move || find(&root, &ids, is_pod)).await.unwrap_or_else(|why| {
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

/// The addresses of the pods these groups belong to.
fn find(root: &Path, ids: &BTreeSet<u64>, is_pod: impl Fn(IpAddr) -> bool) -> HashMap<u64, Box<[IpAddr]>> {
    let mut pods = HashMap::new();
    for (id, directory) in directories(root, ids) {
        let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        let mut addresses = processes.lines().take(PROCESSES_MAX).map(|process| {
            let mut found = addresses_of(process);
            found.retain(|ip| is_pod(*ip));
            found
        });
        if let Some(found) = addresses.find(|found| !found.is_empty()) {
            pods.insert(id, found.into());
        }
    }
    pods
}

/// The directories of these groups.
fn directories(root: &Path, ids: &BTreeSet<u64>) -> Vec<(u64, PathBuf)> {
    let (mut found, mut looked_at) = (Vec::new(), 0);
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        // A group that went meanwhile has no sockets any more.
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            looked_at += 1;
            if ids.contains(&entry.ino()) {
                found.push((entry.ino(), entry.path()));
            }
            if found.len() == ids.len() || looked_at == DIRECTORIES_MAX {
                return found;
            }
            open.push(entry.path());
        }
    }
    found
}

/// The addresses in the network namespace of a process; none when it has ended.
fn addresses_of(process: &str) -> Vec<IpAddr> {
    let Ok(namespace) = Namespace::open(format!("/proc/{process}/ns/net")) else { return Vec::new() };
    let listed = namespace.run(|| {
        let mut netlink = Netlink::open()?;
        let mut all = Vec::new();
        for link in netlink.links()? {
            all.extend(netlink.addresses(link.index)?.into_iter().map(|(ip, _)| ip));
        }
        Ok::<_, netlink::NetlinkError>(all)
    });
    listed.ok().and_then(Result::ok).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

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

    #[test]
    fn a_directory_is_found_by_its_inode_however_deep() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("kubepods.slice/kubepods-pod1.slice/cri-1.scope");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("cgroup.procs"), format!("999999999\n{}\n", std::process::id())).unwrap();
        let ino = fs::metadata(&deep).unwrap().ino();
        assert_eq!(directories(root.path(), &[ino, u64::MAX].into()), [(ino, deep)]);
        assert!(find(root.path(), &[ino].into(), |_| false).is_empty(), "a process of the host is no pod");
        if !nix::unistd::geteuid().is_root() {
            // Nobody else may enter a namespace, not even their own; the tests of the node need root throughout.
            return;
        }
        let found = find(root.path(), &[ino].into(), |ip| ip.is_loopback());
        assert!(found[&ino].contains(&IpAddr::from([127, 0, 0, 1])), "{found:?}");
    }
}
