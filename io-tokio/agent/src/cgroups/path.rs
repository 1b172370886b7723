//! What the path of a control group says about the pod it is of.
//!
//! The kubelet makes a directory for each pod below `kubepods`, in one of two spellings (its `cgroupDriver`); the runtime
//! makes one in it for each container, and for the sandbox first of all:
//!
//! ```text
//! cgroupfs  kubepods/burstable/pod<uid>/<id>
//! systemd   kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope
//! ```
//!
//! Something may stand before (`kubelet.slice/kubelet-kubepods.slice/…`), and containers may make groups of their own below
//! theirs. So the outermost pod counts: whatever a container calls its own groups, it does not become another pod.

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

/// A pod's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodGroup<'a> {
    /// The pod's uid. A static pod's is the hash of its manifest, which the API does not know.
    pub uid: Cow<'a, str>,
    /// The directory, relative as the path was.
    pub directory: PathBuf,
}

/// The pod a control group is of, by its path below the root of the hierarchy.
pub fn pod_of(path: &Path) -> Option<PodGroup<'_>> {
    let mut directory = PathBuf::new();
    let mut below_kubepods = false;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        directory.push(name);
        let name = name.to_str()?;
        let uid = match name.strip_suffix(".slice") {
            Some(slice) => slice_uid(slice).map(Cow::Owned),
            None => name.strip_prefix("pod").filter(|_| below_kubepods).map(Cow::Borrowed),
        };
        if let Some(uid) = uid.filter(|uid| is_uid(uid)) {
            return Some(PodGroup { uid, directory });
        }
        below_kubepods |= name == "kubepods";
    }
    None
}

/// The uid in a slice's name, in which dashes stand for the slices above and are spelt otherwise.
fn slice_uid(slice: &str) -> Option<String> {
    let (above, uid) = slice.rsplit_once("-pod")?;
    above.split('-').any(|part| part == "kubepods").then(|| uid.replace('_', "-"))
}

fn is_uid(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// The id of the container a directory of a pod is of: behind the runtime's name, if that is there.
pub fn container_of(name: &str) -> &str {
    let bare = name.strip_suffix(".scope").unwrap_or(name);
    bare.rsplit_once('-').map_or(bare, |(_runtime, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "3b1f5a70-0a5c-4b6e-9f5d-2c9d1e7a8b10";

    #[test]
    fn a_pod_is_told_from_the_path_in_both_spellings() {
        let slice = UID.replace('-', "_");
        for (path, directory) in [
            ("kubepods/burstable/podUID/0123abcd", "kubepods/burstable/podUID"),
            ("kubepods/besteffort/podUID/crio-0123abcd", "kubepods/besteffort/podUID"),
            ("kubepods/podUID", "kubepods/podUID"),
            ("kubelet/kubepods/podUID/0123abcd/init/unit", "kubelet/kubepods/podUID"),
            (
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSLICE.slice/cri-containerd-0123abcd.scope",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSLICE.slice",
            ),
            ("/kubepods.slice/kubepods-podSLICE.slice/crio-0123abcd.scope", "kubepods.slice/kubepods-podSLICE.slice"),
            (
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podSLICE.slice/docker-0123abcd.scope/nested",
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podSLICE.slice",
            ),
        ] {
            let [path, directory] = [path, directory].map(|text| text.replace("UID", UID).replace("SLICE", &slice));
            let want = PodGroup { uid: UID.into(), directory: directory.into() };
            assert_eq!(pod_of(Path::new(&path)), Some(want), "{path}");
        }
        let fixed = pod_of(Path::new("kubepods/pod0123456789abcdef0123456789abcdef/9")).unwrap();
        assert_eq!(fixed.uid, "0123456789abcdef0123456789abcdef", "a static pod");
    }

    #[test]
    fn other_groups_are_no_pods_and_a_container_does_not_become_another_one() {
        for path in [
            "",
            "system.slice/docker.service",
            "system.slice/podman.service",
            "machine.slice/libpod-0123.scope",
            "user.slice/user-0.slice/session-1.scope",
            "kubepods.slice/kubepods-burstable.slice",
            "kubepods/burstable",
            "kubepods/burstable/pod",
            "kubepods/podium/1",
            "pod3b1f5a70/1",
            "other.slice/other-pod3b1f5a70.slice/1",
            "kubepods.slice/kubepods-pod.slice",
        ] {
            assert_eq!(pod_of(Path::new(path)), None, "{path}");
        }
        let inside = "kubepods/poda1/container/kubepods/podb2/container";
        assert_eq!(pod_of(Path::new(inside)).unwrap().uid, "a1");
        let inside = "kubepods.slice/kubepods-poda1.slice/x.scope/kubepods.slice/kubepods-podb2.slice/y.scope";
        assert_eq!(pod_of(Path::new(inside)).unwrap().uid, "a1");
    }

    #[test]
    fn containers_are_called_by_their_id() {
        for name in ["0123ab", "cri-containerd-0123ab.scope", "crio-0123ab.scope", "docker-0123ab.scope", "crio-0123ab"]
        {
            assert_eq!(container_of(name), "0123ab", "{name}");
        }
    }
}
