//! This datapath at a control group.

use std::{
    fs,
    path::{Path, PathBuf},
};

use abi::{
    be::Port,
    config::NodeConfig,
    lb::{LbBackend4, LbKey4, LbRevNat4, LbService},
};
use loader::{Datapath, LoaderConfig};

use super::{BACKEND, frontend};

/// A control group, empty at first.
pub struct Group(pub PathBuf);

impl Group {
    pub fn new(root: &Path) -> Result<Self, String> {
        let path = root.join(format!("connects-{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _gone = fs::remove_dir(&self.0);
    }
}

/// This datapath, attached to the group, with its services.
pub struct Fast {
    datapath: Datapath,
    bpffs: PathBuf,
}

impl Fast {
    pub fn new(object: &Path, services: u32, group: &Group) -> Result<Self, String> {
        let bpffs = std::env::temp_dir().join(format!("connects-bpffs-{}", std::process::id()));
        loader::ensure_bpffs(&bpffs).map_err(|e| e.to_string())?;
        // The cookie of no namespace: the client is a pod. What is reported is what is reported by default.
        let flags = abi::config::NODE_TRACE_SOCK;
        let node =
            NodeConfig { flags, monitor_aggregation: 3, host_netns_cookie: [u32::MAX; 2], ..NodeConfig::default() };
        let mut config = LoaderConfig::new(object, node);
        config.bpffs.clone_from(&bpffs);
        config.sockets = true;
        let small = |spec: &&abi::maps::MapSpec| spec.max_entries > 1024 && !spec.name.contains("lb4");
        let sizes = abi::maps::ALL.iter().filter(small).filter(|spec| spec.kind != abi::maps::MapKind::RingBuf);
        config.map_sizes = sizes.map(|spec| (spec.name.to_owned(), 1024)).collect();
        let datapath = Datapath::open(&config).map_err(|e| e.to_string())?;
        let maps = datapath.maps();
        let fill = || -> Result<(), loader::MapError> {
            let backend = LbBackend4 {
                address: (*BACKEND.ip()).into(),
                port: Port::new(BACKEND.port()),
                ..LbBackend4::default()
            };
            maps.lb4_backends.insert(&1, &backend)?;
            for n in 1..=services {
                let (index, dport) = (Port::new(n as u16), Port::new(80));
                let at = |slot| LbKey4 {
                    address: frontend(n).into(),
                    dport,
                    backend_slot: slot,
                    proto: 6,
                    scope: 0,
                    pad: 0,
                };
                maps.lb4_reverse_nat.insert(&index, &LbRevNat4 { address: frontend(n).into(), port: dport, pad: 0 })?;
                let value = LbService { rev_nat_index: index, ..LbService::default() };
                maps.lb4_services.insert(&at(1), &LbService { backend_id: 1, ..value })?;
                maps.lb4_services.insert(&at(0), &LbService { count: 1, ..value })?;
            }
            Ok(())
        };
        fill().map_err(|e| e.to_string())?;
        datapath.attach_sockets(&group.0).map_err(|e| e.to_string())?;
        Ok(Self { datapath, bpffs })
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        let _gone = self.datapath.detach_sockets();
        if let Ok(path) = std::ffi::CString::new(self.bpffs.as_os_str().as_encoded_bytes()) {
            // SAFETY: the path is a terminated string.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
        let _gone = fs::remove_dir(&self.bpffs);
    }
}
