//! Removes connections that ended, and what is left of backends, services and addresses that went.
//!
//! The maps evict by themselves when they are full; a sweep keeps dead entries from pushing out live ones, lists short,
//! and a new pod free of its predecessor's connections. What is worth keeping is asked of the maps as they are at that
//! moment and asked again right before an entry goes: packets and the agent write all the while.
//!
//! A backend that left one service and serves another keeps the other's connections only. One that is terminating is still in
//! the map, so its connections live. Translations (source NAT) live as long as the
//! connection they belong to: that of a pod, or that of a client and a frontend, also where the host itself has the
//! backend. Those of the node's own traffic belong to none and are left to eviction.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use abi::{
    Plain,
    be::{Addr4, Port, Wide6},
    ct::{CT_SERVICE, Connection, CtEntry4, CtEntry6, CtKey4, CtKey6},
    lb::{BACKEND_ACTIVE, LbService, SCOPE_EXTERNAL, SCOPE_INTERNAL},
    nat::{SNAT_IN, SNAT_NEEDS_CT, SNAT_OUT, SnatEntry4, SnatEntry6, SnatKey4, SnatKey6},
};
use datapath::{Balanced, End, Family, V4, V6};
use gc::Share;
use loader::{MapError, Maps, Table};

/// A translation younger than this may wait for its connection's entry.
const YOUNG_SECONDS: u64 = 10;
/// TCP's protocol number.
const TCP: u8 = 6;

/// What one sweep found in one map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Entries that stay.
    pub alive: u64,
    /// Removed because their time was up.
    pub ended: u64,
    /// Removed because the backend, service or connection they name is gone.
    pub orphaned: u64,
    /// Removed because their address is nobody's any more.
    pub departed: u64,
}

impl Found {
    /// All that was removed.
    pub const fn removed(&self) -> u64 {
        self.ended + self.orphaned + self.departed
    }
    fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Alive => self.alive += 1,
            Fate::Ended => self.ended += 1,
            Fate::Orphaned => self.orphaned += 1,
            Fate::Departed => self.departed += 1,
        }
    }
}

/// What one sweep did, map by map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// TCP connections, IPv4 and IPv6.
    pub tcp: [Found; 2],
    /// Other connections, IPv4 and IPv6.
    pub any: [Found; 2],
    /// Translations, IPv4 and IPv6.
    pub nat: [Found; 2],
    /// Ports in use towards the far end (address, port, protocol) that most are used for, IPv4 and IPv6.
    pub busiest: [u32; 2],
    /// The largest share of any map that had ended.
    pub share: Share,
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Alive,
    Ended,
    Orphaned,
    Departed,
}

/// Walks all maps once. `now_seconds` is the monotonic clock, as the programs keep it; entries with one of `addresses` go.
///
/// # Errors
/// When a map cannot be read or written. What was removed by then stays removed.
pub fn sweep(maps: &Maps, now_seconds: u32, addresses: &BTreeSet<IpAddr>) -> Result<Swept, MapError> {
    let mut out = Swept::default();
    let v4 = Side4 { maps, now: now_seconds, addresses };
    let v6 = Side6 { maps, now: now_seconds, addresses };
    // Connections before translations, which live as long.
    out.tcp = [connections::<V4, _>(&v4, &maps.ct4)?, connections::<V6, _>(&v6, &maps.ct6)?];
    out.any = [connections::<V4, _>(&v4, &maps.ct_any4)?, connections::<V6, _>(&v6, &maps.ct_any6)?];
    let sizes = [&maps.ct4, &maps.ct_any4].map(Table::max_entries).into_iter();
    let sizes = sizes.zip([&maps.ct6, &maps.ct_any6].map(Table::max_entries));
    for (found, (v4, v6)) in [out.tcp, out.any].into_iter().zip(sizes) {
        for (found, size) in found.into_iter().zip([v4, v6]) {
            out.share = out.share.max(Share::of(found.removed(), size.into()));
        }
    }
    let (mut ports4, mut ports6) = (Ports::default(), Ports::default());
    out.nat = [
        walk(&maps.snat4, |key, entry| {
            let fate = v4.translation(key, entry)?;
            ports4.see(key.flags, (key.daddr, key.saddr, key.sport.raw, key.nexthdr), fate);
            Ok(fate)
        })?,
        walk(&maps.snat6, |key, entry| {
            let fate = v6.translation(key, entry)?;
            ports6.see(key.flags, (key.daddr, key.saddr, key.sport.raw, key.nexthdr), fate);
            Ok(fate)
        })?,
    ];
    out.busiest = [ports4.most(), ports6.most()];
    Ok(out)
}

/// How many of a node's ports stand for somebody, by its address and the far end: there is one range of them for each.
#[derive(Debug)]
struct Ports<A>(BTreeMap<(A, A, u16, u8), u32>);

impl<A> Default for Ports<A> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<A: Ord> Ports<A> {
    /// Counts an entry that lives.
    fn see(&mut self, flags: u8, between: (A, A, u16, u8), fate: Fate) {
        if flags == SNAT_IN && fate == Fate::Alive {
            *self.0.entry(between).or_default() += 1;
        }
    }
    fn most(&self) -> u32 {
        self.0.values().copied().max().unwrap_or_default()
    }
}

/// Whether a service, by its number, has a backend in one of its slots at this moment.
///
/// # Errors
/// When a map cannot be read.
pub fn serves(maps: &Maps, service: Port, backend: SocketAddr) -> Result<bool, MapError> {
    let (none, port) = (BTreeSet::new(), Port::new(backend.port()));
    match backend.ip() {
        IpAddr::V4(ip) => {
            is_member::<V4, _>(&Side4 { maps, now: 0, addresses: &none }, service, End { addr: ip.into(), port })
        }
        IpAddr::V6(ip) => {
            is_member::<V6, _>(&Side6 { maps, now: 0, addresses: &none }, service, End { addr: ip.into(), port })
        }
    }
}

fn is_member<F: Family, T: Tables<F>>(tables: &T, service: Port, backend: End<F::Addr>) -> Result<bool, MapError> {
    let Some(frontend) = tables.frontend(service)? else { return Ok(false) };
    for id in tables.members(service, &frontend)? {
        if tables.backend(id)?.is_some_and(|(end, _)| end == backend) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Hands every entry to `fate` and removes those that do not live, each after a second look.
fn walk<K: Plain, V: Plain>(
    table: &Table<K, V>,
    mut fate: impl FnMut(&K, &V) -> Result<Fate, MapError>,
) -> Result<Found, MapError> {
    let mut found = Found::default();
    let mut failure = None;
    table.visit(|key, value| {
        if failure.is_some() {
            return;
        }
        let mut judge = || {
            if fate(&key, &value)? == Fate::Alive {
                return Ok(Fate::Alive);
            }
            // A packet may have revived or replaced it since the batch was read.
            let Some(now) = table.get(&key)? else { return Ok(Fate::Ended) };
            let second = fate(&key, &now)?;
            if second != Fate::Alive {
                table.remove(&key)?;
            }
            Ok(second)
        };
        match judge() {
            Ok(fate) => found.count(fate),
            Err(why) => failure = Some(why),
        }
    })?;
    failure.map_or(Ok(found), Err)
}

/// Where a backend is, and its state.
type Known<A> = (End<A>, u8);

/// What is asked of one family's maps.
trait Tables<F: Family> {
    fn now(&self) -> u32;
    fn has_departed(&self, key: &F::CtKey) -> bool;
    fn backend(&self, id: u32) -> Result<Option<Known<F::Addr>>, MapError>;
    fn frontend(&self, index: Port) -> Result<Option<End<F::Addr>>, MapError>;
    fn service(
        &self,
        frontend: &End<F::Addr>,
        protocol: u8,
        slot: u16,
        scope: u8,
    ) -> Result<Option<LbService>, MapError>;

    /// The backends in the slots of a service: it is known by the number with which its frontend stands in them.
    fn members(&self, index: Port, frontend: &End<F::Addr>) -> Result<Vec<u32>, MapError> {
        let mut members = Vec::new();
        for (protocol, scope) in PROTOCOLS.into_iter().flat_map(|protocol| SCOPES.map(|scope| (protocol, scope))) {
            let Some(head) = self.service(frontend, protocol, 0, scope)?.filter(|head| head.rev_nat_index == index)
            else {
                continue;
            };
            for slot in 1..=head.count.saturating_add(head.qcount) {
                members.extend(self.service(frontend, protocol, slot, scope)?.map(|slot| slot.backend_id));
            }
        }
        Ok(members)
    }
}

/// Protocols of services; 0: any.
const PROTOCOLS: [u8; 4] = [TCP, 17, 132, 0];
/// Whose traffic services are for.
const SCOPES: [u8; 2] = [SCOPE_EXTERNAL, SCOPE_INTERNAL];

fn connections<F: Family, T: Tables<F>>(tables: &T, table: &Table<F::CtKey, F::CtEntry>) -> Result<Found, MapError> {
    // Answers of the maps, so that a service with many connections is not asked for once for each. A known
    // answer only ever lets an entry live: whatever would go is asked about anew.
    let mut backends: BTreeMap<u32, Known<F::Addr>> = BTreeMap::new();
    let mut members: BTreeSet<(u16, u32)> = BTreeSet::new();
    walk(table, |key, entry| {
        let mut copy = *entry;
        let connection: Connection = *F::connection(&mut copy);
        if tables.has_departed(key) {
            return Ok(Fate::Departed);
        }
        if connection.lifetime < tables.now() {
            return Ok(Fate::Ended);
        }
        if connection.flags & CT_SERVICE == 0 {
            return Ok(Fate::Alive);
        }
        let (id, index, end) = (connection.backend_id, connection.rev_nat_index, F::nat(entry));
        let state = match backends.get(&id) {
            Some((known, state)) if *known == end => *state,
            _ => match tables.backend(id)? {
                Some((serves, state)) if serves == end => {
                    backends.insert(id, (serves, state));
                    state
                }
                _ => return Ok(Fate::Orphaned),
            },
        };
        if members.contains(&(index.raw, id)) {
            return Ok(Fate::Alive);
        }
        let Some(frontend) = tables.frontend(index)? else { return Ok(Fate::Orphaned) };
        if state != BACKEND_ACTIVE {
            // It has no slot, and finishes what it has.
            return Ok(Fate::Alive);
        }
        let all = tables.members(index, &frontend)?;
        members.extend(all.iter().map(|id| (index.raw, *id)));
        Ok(if all.contains(&id) { Fate::Alive } else { Fate::Orphaned })
    })
}

/// Declares what is asked of one family's maps.
macro_rules! side {
    ($side:ident, $family:ty, $ct_key:ty, $ct_entry:ty, $snat_key:ty, $snat_entry:ty, $addr:ty, $ip:ty,
     $services:ident, $backends:ident, $frontends:ident, $tcp:ident, $any:ident) => {
        struct $side<'a> {
            maps: &'a Maps,
            now: u32,
            addresses: &'a BTreeSet<IpAddr>,
        }

        impl Tables<$family> for $side<'_> {
            fn now(&self) -> u32 {
                self.now
            }
            fn has_departed(&self, key: &$ct_key) -> bool {
                !self.addresses.is_empty() && [key.a, key.b].into_iter().any(|addr| self.is_gone(addr))
            }
            fn backend(&self, id: u32) -> Result<Option<Known<$addr>>, MapError> {
                Ok(self.maps.$backends.get(&id)?.map(|backend| <$family as Family>::backend(&backend)))
            }
            fn service(
                &self,
                frontend: &End<$addr>,
                protocol: u8,
                slot: u16,
                scope: u8,
            ) -> Result<Option<LbService>, MapError> {
                self.maps.$services.get(&<$family as Balanced>::scoped_key(frontend, protocol, slot, scope))
            }
            fn frontend(&self, index: Port) -> Result<Option<End<$addr>>, MapError> {
                Ok(self.maps.$frontends.get(&index)?.map(|entry| <$family as Family>::frontend(&entry)))
            }
        }

        impl $side<'_> {
            fn is_gone(&self, addr: $addr) -> bool {
                self.addresses.contains(&IpAddr::from(<$ip>::from(addr)))
            }

            /// The connection of a local and a remote end, if it lives.
            fn connection(
                &self,
                local: &End<$addr>,
                remote: &End<$addr>,
                protocol: u8,
            ) -> Result<Option<$ct_entry>, MapError> {
                let key = <$family as Family>::ct_key(local, remote, protocol);
                let table = if protocol == TCP { &self.maps.$tcp } else { &self.maps.$any };
                Ok(table.get(&key)?.filter(|entry| entry.connection.lifetime >= self.now))
            }

            fn translation(&self, key: &$snat_key, entry: &$snat_entry) -> Result<Fate, MapError> {
                let to = End { addr: <$addr>::from(entry.to_addr), port: entry.to_port };
                let (source, destination) =
                    (End { addr: key.saddr, port: key.sport }, End { addr: key.daddr, port: key.dport });
                if !self.addresses.is_empty()
                    && (self.is_gone(if key.flags == SNAT_IN { to.addr } else { source.addr }))
                {
                    return Ok(Fate::Departed);
                }
                if entry.created + YOUNG_SECONDS > u64::from(self.now) {
                    return Ok(Fate::Alive);
                }
                let lives = match key.flags {
                    // A client through a service: the connection of client and frontend holds this port.
                    SNAT_IN if entry.rev_nat_index.raw != 0 => match self.frontend(entry.rev_nat_index)? {
                        Some(frontend) => self
                            .connection(&frontend, &to, key.nexthdr)?
                            .is_some_and(|connection| connection.snat_port == destination.port),
                        None => false,
                    },
                    // What a backend of the host answers a client of a frontend: likewise, and only while that client is sent there.
                    SNAT_OUT if entry.rev_nat_index.raw != 0 => self
                        .connection(&to, &destination, key.nexthdr)?
                        .is_some_and(|connection| <$family as Family>::nat(&connection) == source),
                    _ if entry.needs_ct & SNAT_NEEDS_CT == 0 => true,
                    SNAT_IN => self.connection(&to, &source, key.nexthdr)?.is_some(),
                    SNAT_OUT => self.connection(&source, &destination, key.nexthdr)?.is_some(),
                    _ => true, // Not ours to judge.
                };
                Ok(if lives { Fate::Alive } else { Fate::Orphaned })
            }
        }
    };
}
side!(
    Side4,
    V4,
    CtKey4,
    CtEntry4,
    SnatKey4,
    SnatEntry4,
    Addr4,
    std::net::Ipv4Addr,
    lb4_services,
    lb4_backends,
    lb4_reverse_nat,
    ct4,
    ct_any4
);
side!(
    Side6,
    V6,
    CtKey6,
    CtEntry6,
    SnatKey6,
    SnatEntry6,
    Wide6,
    std::net::Ipv6Addr,
    lb6_services,
    lb6_backends,
    lb6_reverse_nat,
    ct6,
    ct_any6
);
