//! Groups found in the hierarchy by their inodes, and the pods they are of.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};

use netlink::{Namespace, Netlink};

use super::{Pods, path};

/// Processes of a group asked for their addresses.
const PROCESSES_MAX: usize = 8;
/// Directories looked through at most.
const DIRECTORIES_MAX: usize = 100_000;

/// The addresses of the pods these groups belong to.
pub(super) fn find(root: &Path, ids: &BTreeSet<u64>, pods: &impl Pods) -> HashMap<u64, Box<[IpAddr]>> {
    let of = |directory: &Path| by_path(root, directory, pods).or_else(|| by_process(directory, pods));
    directories(root, ids).into_iter().filter_map(|(id, directory)| Some((id, of(&directory)?))).collect()
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

/// By the pod's uid in the path. When the runtime did not tell the uid, by the sandbox, which has a group beside the others.
fn by_path(root: &Path, directory: &Path, pods: &impl Pods) -> Option<Box<[IpAddr]>> {
    let group = path::pod_of(directory.strip_prefix(root).ok()?)?;
    pods.named(&group.uid).or_else(|| {
        let mut beside = fs::read_dir(root.join(&group.directory)).ok()?.flatten();
        beside.find_map(|entry| pods.named(path::container_of(entry.file_name().to_str()?)))
    })
}

/// By the network namespace of a process.
fn by_process(directory: &Path, pods: &impl Pods) -> Option<Box<[IpAddr]>> {
    let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut addresses = processes.lines().take(PROCESSES_MAX).map(|process| {
        let mut found = addresses_of(process);
        found.retain(|ip| pods.is_pod(*ip));
        found
    });
    addresses.find(|found| !found.is_empty()).map(Into::into)
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

    /// Pods by name; addresses of the loopback device are a pod's when `loopback` says so.
    struct Known {
        named: HashMap<&'static str, IpAddr>,
        loopback: bool,
    }

    impl Pods for Known {
        fn is_pod(&self, ip: IpAddr) -> bool {
            self.loopback && ip.is_loopback()
        }
        fn named(&self, name: &str) -> Option<Box<[IpAddr]>> {
            self.named.get(name).map(|ip| Box::from([*ip]))
        }
    }

    fn group(root: &Path, below: &str) -> u64 {
        let directory = root.join(below);
        fs::create_dir_all(&directory).unwrap();
        fs::metadata(directory).unwrap().ino()
    }

    #[test]
    fn a_directory_is_found_by_its_inode_however_deep() {
        let root = tempfile::tempdir().unwrap();
        let ino = group(root.path(), "machine.slice/a/b.scope");
        let deep = root.path().join("machine.slice/a/b.scope");
        fs::write(deep.join("cgroup.procs"), format!("999999999\n0\n{}\n", std::process::id())).unwrap();
        assert_eq!(directories(root.path(), &[ino, u64::MAX].into()), [(ino, deep)]);
        let mut known = Known { named: HashMap::new(), loopback: false };
        assert!(find(root.path(), &[ino].into(), &known).is_empty(), "a process of the host is no pod");
        if !nix::unistd::geteuid().is_root() {
            // Nobody else may enter a namespace, not even their own; the tests of the node need root throughout.
            return;
        }
        known.loopback = true;
        let found = find(root.path(), &[ino].into(), &known);
        assert!(found[&ino].contains(&IpAddr::from([127, 0, 0, 1])), "{found:?}");
    }

    /// None of these groups has a process, as none has that is to be seen from another process namespace.
    #[test]
    fn a_pod_is_found_by_its_uid_else_by_its_sandbox_without_any_process() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let known = Known { named: [("a1-b2", one), ("5a4db0", two)].into(), loopback: true };
        let by_uid = group(root.path(), "kubepods.slice/kubepods-poda1_b2.slice/crio-77.scope/own");
        group(root.path(), "kubepods/besteffort/podc3/5a4db0");
        let by_sandbox = group(root.path(), "kubepods/besteffort/podc3/99");
        let nobody = group(root.path(), "kubepods/besteffort/podd4/98");
        let inside = group(root.path(), "kubepods/besteffort/podd4/98/kubepods/poda1-b2/1");
        let found = find(root.path(), &[by_uid, by_sandbox, nobody, inside].into(), &known);
        assert_eq!(found, [(by_uid, Box::from([one])), (by_sandbox, Box::from([two]))].into());
    }
}
