//! Backends and their numbers. A backend is one entry in the kernel, however many services use it.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;

use crate::maglev::{Seed, TableSize, Way};
use crate::{Backend, BackendId, BackendState, L4Addr, ServiceId};

/// One backend.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) id: BackendId,
    /// What each of its services says of it.
    users: BTreeMap<ServiceId, BackendState>,
    /// Its name and its way through Maglev tables, once somebody asked.
    way: Option<(BackendState, Box<str>, Way)>,
}

impl Shared {
    /// What the kernel is told: the best that any of its services says. Where another one says less, it has no slot there.
    pub(crate) fn state(&self) -> BackendState {
        self.users.values().copied().min().unwrap_or_default()
    }
}

/// All backends of a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backends {
    by_addr: BTreeMap<L4Addr, Shared>,
    by_id: BTreeMap<BackendId, L4Addr>,
    /// Numbers that an earlier life gave, until they are taken up or forgotten.
    old: BTreeMap<L4Addr, BackendId>,
    old_ids: BTreeSet<BackendId>,
    next: u32,
    /// IPv4, IPv6.
    count: [usize; 2],
}

const fn family(addr: &L4Addr) -> usize {
    if addr.ip.is_ipv4() { 0 } else { 1 }
}

impl Backends {
    pub(crate) fn remember(&mut self, addr: L4Addr, id: BackendId) {
        self.old.insert(addr, id);
        self.old_ids.insert(id);
    }
    pub(crate) fn forget_remembered(&mut self) {
        self.old.clear();
        self.old_ids.clear();
    }
    pub(crate) fn get(&self, addr: &L4Addr) -> Option<&Shared> {
        self.by_addr.get(addr)
    }
    /// Backends of a family.
    pub(crate) const fn count(&self, v4: bool) -> usize {
        self.count[if v4 { 0 } else { 1 }]
    }

    /// The number of a backend, which one more service uses from now on.
    pub(crate) fn share(&mut self, user: ServiceId, backend: &Backend) -> BackendId {
        let (addr, state) = (&backend.addr, backend.state);
        if let Some(shared) = self.by_addr.get_mut(addr) {
            shared.users.insert(user, state);
            return shared.id;
        }
        let id = self.old.remove(addr).filter(|id| !self.by_id.contains_key(id)).unwrap_or_else(|| self.free());
        self.old_ids.remove(&id);
        self.by_id.insert(id, *addr);
        self.by_addr.insert(*addr, Shared { id, users: [(user, state)].into(), way: None });
        self.count[family(addr)] += 1;
        id
    }

    /// One service less uses the backend. Says whether it was the last.
    pub(crate) fn unshare(&mut self, user: ServiceId, addr: &L4Addr) -> bool {
        let Some(shared) = self.by_addr.get_mut(addr) else { return false };
        shared.users.remove(&user);
        if !shared.users.is_empty() {
            return false;
        }
        let id = shared.id;
        self.by_addr.remove(addr);
        self.by_id.remove(&id);
        self.count[family(addr)] -= 1;
        true
    }

    /// Sees to it that the backend's way through Maglev tables is known.
    pub(crate) fn ensure_way(&mut self, addr: &L4Addr, state: BackendState, size: TableSize, seed: Seed) {
        let Some(shared) = self.by_addr.get_mut(addr) else { return };
        if shared.way.as_ref().is_none_or(|(of, ..)| *of != state) {
            let name = name(addr, state);
            let way = Way::of(name.as_bytes(), seed.names, size);
            shared.way = Some((state, name, way));
        }
    }
    /// The backend's name and way through Maglev tables, once known.
    pub(crate) fn way(&self, addr: &L4Addr) -> Option<(&str, Way)> {
        self.by_addr.get(addr)?.way.as_ref().map(|(_, name, way)| (&**name, *way))
    }

    fn free(&mut self) -> BackendId {
        let free = |id: &BackendId| !self.by_id.contains_key(id) && !self.old_ids.contains(id);
        let id = (self.next.max(1)..=u32::MAX)
            .chain(1..self.next)
            .filter_map(BackendId::new)
            .find(free)
            .expect("the table is far smaller than the number space");
        self.next = id.as_u32().wrapping_add(1);
        id
    }
}

/// What the reference hashes.
fn name(addr: &L4Addr, state: BackendState) -> Box<str> {
    let L4Addr { ip, port, protocol } = addr;
    let state = state.name();
    let protocol = protocol.name();
    match ip.is_ipv4() {
        true => format!("[{ip}:{port}/{protocol},State:{state}]"),
        false => format!("[[{ip}]:{port}/{protocol},State:{state}]"),
    }
    .into()
}
