//! From what the kernel holds to what it should hold, once, when a restarted agent knows everything.
//!
//! The policy engine has numbered policies and classes anew. Where the kernel's numbers mean the same, they are found
//! again and kept, and nothing is written. Where they do not (rules changed while no agent was there), what is new gets
//! fresh numbers and is written beside what is old; an endpoint then moves from old to new with one write of its device
//! entry. Prefixes whose class is new move after the endpoints; until each has moved, its old class is judged under the
//! new policy as it was under the old one (the *bridge*). So every packet meets old or new rules; where the old ones
//! cannot be told (an unknown layout, no room for the bridge), it is refused.
//!
//! A peer nothing was known of has class 0, which keeps its number and its meaning: it cannot be bridged. Where such a
//! prefix has a class now, it moves *before* the endpoints, and its new class is judged under the old policies as class 0
//! was.
//!
//! Deletions come last; the revision, which has established flows judged anew, after them.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use abi::endpoint::{self as layout, DEVICE_ENFORCE_EGRESS, DEVICE_ENFORCE_INGRESS};
use abi::policy::{EGRESS, INGRESS, PolicyEntry, PolicyKey};
use abi::write::MapWrite;
use endpoint::{Mover, State};
use machine::{Effects, Instant};
use policy::{ClassId, EntryKey, EntryValue, PolicyId, Write};
use types::{Cidr, EndpointId};

use crate::agent::{Agent, Phase};
use crate::effect::{AgentEvent, Effect};
use crate::kernel::{self, Mark, Numbers};
use crate::layout::lxc_entries;

/// What the kernel held when the agent started, by what is needed of it.
struct Old {
    classes: BTreeMap<Cidr, u32>,
    devices: BTreeMap<u32, layout::Device>,
    entries: BTreeMap<u32, BTreeMap<PolicyKey, PolicyEntry>>,
}

impl Old {
    fn of<'a>(maps: impl Iterator<Item = &'a MapWrite>) -> Self {
        let mut old = Self { classes: BTreeMap::new(), devices: BTreeMap::new(), entries: BTreeMap::new() };
        for write in maps {
            match *write {
                MapWrite::Ipcache(key, Some(entry)) => {
                    let prefix = key.prefix().and_then(|(addr, bits)| Cidr::new(addr, u8::try_from(bits).ok()?).ok());
                    old.classes.extend(prefix.map(|prefix| (prefix, entry.class)));
                }
                MapWrite::Device(ifindex, Some(device)) => {
                    old.devices.insert(ifindex, device);
                }
                MapWrite::Policy(key, Some(entry)) => {
                    old.entries.entry(key.policy).or_default().insert(key, entry);
                }
                _ => {}
            }
        }
        old
    }

    /// Behind which numbers fresh ones may begin.
    fn last(&self) -> (u32, u32) {
        let policies = self.devices.values().map(|device| device.policy).chain(self.entries.keys().copied());
        let in_entries = self.entries.values().flatten().map(|(key, _)| key.class);
        (policies.max().unwrap_or(0), self.classes.values().copied().chain(in_entries).max().unwrap_or(0))
    }
}

/// What is to be written when the agent goes live.
struct Batch {
    writes: Vec<MapWrite>,
    bridge: Vec<MapWrite>,
    /// Prefixes that move before the endpoints.
    early: BTreeSet<MapWrite>,
    keep: BTreeSet<MapWrite>,
}

/// What the engine wants.
#[derive(Default)]
struct Wanted {
    entries: BTreeMap<PolicyId, Vec<(EntryKey, EntryValue)>>,
    prefixes: BTreeMap<Cidr, ClassId>,
    endpoints: Vec<(u32, PolicyId)>,
}

impl Agent {
    /// Makes the kernel follow from now on.
    pub(crate) fn go_live(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        let old = Old::of(self.kernel.wanted());
        let desired = self.engine.desired();
        let wanted = self.wanted(&desired);
        self.numbers = find_numbers(&old, &wanted);
        let mut writes: Vec<MapWrite> = desired.into_iter().filter_map(|write| self.translate(write)).collect();
        let early = newly_known(&old, &wanted);
        let mut bridge = bridge(&old, &wanted, &self.numbers, &writes);
        bridge.extend(bridge_back(&old, &wanted, &self.numbers, &early));
        writes.extend(self.host_entries());
        writes.extend(self.endpoints.iter().flat_map(lxc_entries));
        self.kernel.learn(&self.balancer.services().tables());
        writes.extend(lb::together([self.balancer.services().entries().collect()]));
        self.phase = Phase::Live;
        let keep: BTreeSet<MapWrite> = writes.iter().map(MapWrite::deletion).collect();
        let early: BTreeSet<MapWrite> =
            early.keys().map(|prefix| MapWrite::Ipcache(kernel::ipcache_key(prefix), None)).collect();
        self.write_all(&old, Batch { writes, bridge, early, keep }, fx);
        self.lb_revision += 1;
        self.kernel.put(MapWrite::Runtime(abi::config::Runtime::LbRevision as u32, Some(self.lb_revision)));
        self.publish_policy();
        self.local.forget_remembered();
        self.kernel.forget_unused();
        if !self.services_lost {
            self.balancer.services_mut().forget_remembered();
        }
        self.tell_health(fx);
        let revision = self.engine.revision();
        let ids: Vec<EndpointId> = self.endpoints.iter().filter(|e| e.identity.is_some()).map(|e| e.id).collect();
        for id in ids {
            if let Some(endpoint) = self.endpoints.by_id_mut(id) {
                endpoint.policy.wanted = revision;
                endpoint.step(now, State::Regenerating, Mover::Builder, "policy is being written");
            }
            self.kernel.mark(Mark::Written(id, revision));
        }
    }

    fn wanted(&self, desired: &[Write]) -> Wanted {
        let mut wanted = Wanted::default();
        for write in desired {
            match *write {
                Write::PutEntry(key, value) => wanted.entries.entry(key.policy).or_default().push((key, value)),
                Write::PutPrefix(prefix, _, class) => {
                    wanted.prefixes.insert(prefix, class);
                }
                Write::PutEndpoint(id, judged) => {
                    if let Some(endpoint) = self.endpoints.by_id(id) {
                        wanted.endpoints.push((endpoint.spec.ifindex, judged.policy));
                    }
                }
                _ => {}
            }
        }
        wanted
    }

    /// The writes in their order: see the module documentation.
    fn write_all(&mut self, old: &Old, batch: Batch, fx: &mut Effects<Effect>) {
        let Batch { mut writes, bridge, early, keep } = batch;
        for ifindex in old.devices.keys() {
            if !keep.contains(&MapWrite::Device(*ifindex, None)) {
                self.kernel.put(MapWrite::Device(*ifindex, None));
            }
        }
        let rank = |write: &MapWrite| match write {
            MapWrite::Policy(..) => 0,
            MapWrite::Ipcache(..) if early.contains(&write.deletion()) => 1,
            MapWrite::Lxc(..) => 2,
            MapWrite::Device(..) => 3,
            MapWrite::Ipcache(..) => 4,
            _ => 5,
        };
        writes.sort_by_key(rank);
        let (first, later): (Vec<_>, Vec<_>) = writes.into_iter().partition(|write| rank(write) == 0);
        let (used, max) = self.kernel.policy_room();
        let fresh = |list: &[MapWrite]| list.iter().filter(|write| self.kernel.value(**write).is_none()).count();
        let (new, bridging) = (fresh(&first), fresh(&bridge));
        let bridge = if used + new + bridging <= max { bridge } else { Vec::new() };
        if used + new > max {
            let name = abi::maps::POLICY.name;
            fx.push(Effect::Notify(AgentEvent::Warning(format!(
                "{name} has no room for the old and the new policies at once: traffic is refused while they are exchanged"
            ))));
            let stale: Vec<_> = self
                .kernel
                .wanted()
                .filter(|w| rank(w) == 0 && !keep.contains(&w.deletion()))
                .map(MapWrite::deletion)
                .collect();
            stale.into_iter().for_each(|write| self.kernel.put(write));
        }
        first.into_iter().chain(bridge).chain(later).for_each(|write| self.kernel.put(write));
        let ours = |write: &MapWrite| match write {
            MapWrite::Runtime(..) => false,
            MapWrite::Service4(..)
            | MapWrite::Service6(..)
            | MapWrite::Backend4(..)
            | MapWrite::Backend6(..)
            | MapWrite::RevNat4(..)
            | MapWrite::RevNat6(..)
            | MapWrite::AffinityMatch(..)
            | MapWrite::SourceRange4(..)
            | MapWrite::SourceRange6(..)
            | MapWrite::Maglev4(..)
            | MapWrite::Maglev6(..) => !self.services_lost,
            _ => true,
        };
        let stale: Vec<_> =
            self.kernel.wanted().filter(|w| ours(w) && !keep.contains(&w.deletion())).map(MapWrite::deletion).collect();
        if !stale.is_empty() {
            let counts = stale.iter().fold(BTreeMap::<&str, usize>::new(), |mut counts, write| {
                *counts.entry(write.map().name).or_default() += 1;
                counts
            });
            let list: Vec<_> = counts.iter().map(|(map, count)| format!("{count} of {map}")).collect();
            let text = format!("entries nobody wants any more are deleted: {}", list.join(", "));
            fx.push(Effect::Notify(AgentEvent::Warning(text.to_string())));
        }
        // What leads to a service goes before what it needs.
        lb::together([stale]).into_iter().for_each(|write| self.kernel.put(write));
    }

    /// The node's own addresses.
    fn host_entries(&self) -> Vec<MapWrite> {
        let info =
            layout::EndpointInfo { flags: layout::ENDPOINT_HOST, identity: 1, ..layout::EndpointInfo::default() };
        let families = [&self.config.ipv4, &self.config.ipv6].into_iter().flatten();
        let addrs = families.flat_map(|family| family.node_addrs.iter().chain([&family.router]));
        addrs.map(|addr| MapWrite::Lxc(layout::EndpointKey::new(*addr), Some(info))).collect()
    }
}

/// Finds the kernel's numbers of the engine's classes and policies, where they mean the same.
fn find_numbers(old: &Old, wanted: &Wanted) -> Numbers {
    let (policy, class) = old.last();
    let mut numbers = Numbers::after(policy, class);
    // A prefix that is new or gone was or will be judged as what is around it.
    let pairs = wanted.prefixes.keys().chain(old.classes.keys()).map(|prefix| {
        let class = longest(&wanted.prefixes, prefix).unwrap_or(ClassId::UNKNOWN);
        (class, longest(&old.classes, prefix).unwrap_or(0))
    });
    for (class, number) in one_to_one(pairs) {
        if class != ClassId::UNKNOWN && number != 0 {
            numbers.keep_class(class, number);
        }
    }
    let pairs =
        wanted.endpoints.iter().filter_map(|(ifindex, policy)| Some((*policy, old.devices.get(ifindex)?.policy)));
    let empty = BTreeMap::new();
    let candidates: Vec<_> = one_to_one(pairs).into_iter().filter(|(id, n)| *id != PolicyId::NONE && *n != 0).collect();
    for (id, number) in candidates {
        numbers.keep_policy(id, number);
        let have = old.entries.get(&number).unwrap_or(&empty);
        if !same_verdicts(&numbers, wanted.entries.get(&id).map_or(&[], Vec::as_slice), have) {
            numbers.forget_policy(id);
        }
    }
    numbers
}

/// What is said about the longest prefix that covers `prefix`.
fn longest<T: Copy>(table: &BTreeMap<Cidr, T>, prefix: &Cidr) -> Option<T> {
    let mut at = Some(*prefix);
    while let Some(prefix) = at {
        if let Some(found) = table.get(&prefix) {
            return Some(*found);
        }
        at = prefix.parent();
    }
    None
}

/// The pairs in which both sides have no other partner.
fn one_to_one<A: Ord + Copy, B: Ord + Copy>(pairs: impl Iterator<Item = (A, B)>) -> Vec<(A, B)> {
    let (mut forth, mut back) = (BTreeMap::<A, BTreeSet<B>>::new(), BTreeMap::<B, BTreeSet<A>>::new());
    for (a, b) in pairs {
        forth.entry(a).or_default().insert(b);
        back.entry(b).or_default().insert(a);
    }
    let single = |(a, partners): (A, BTreeSet<B>)| {
        let b = *partners.first()?;
        (partners.len() == 1 && back.get(&b).is_some_and(|others| others.len() == 1)).then_some((a, b))
    };
    forth.into_iter().filter_map(single).collect()
}

/// Whether an old policy decides as the new one does about all classes that kept their numbers.
fn same_verdicts(numbers: &Numbers, new: &[(EntryKey, EntryValue)], old: &BTreeMap<PolicyKey, PolicyEntry>) -> bool {
    let decides = |entry: &PolicyEntry| (entry.flags, entry.auth_type, entry.proxy_port.raw);
    let new: BTreeMap<PolicyKey, _> = new
        .iter()
        .filter(|(key, _)| numbers.is_class_kept(key.class))
        .map(|(key, value)| (numbers.policy_key(key), decides(&kernel::policy_entry(key, value))))
        .collect();
    let old: BTreeMap<PolicyKey, _> = old
        .iter()
        .filter(|(key, _)| numbers.class_of(key.class).is_some_and(|class| numbers.is_class_kept(class)))
        .map(|(key, entry)| (*key, decides(entry)))
        .collect();
    new == old
}

/// Entries that judge old classes under new policies as they were judged under the old ones. Where two endpoints with
/// one new policy came from old ones that disagree, nothing is bridged: refused.
fn bridge(old: &Old, wanted: &Wanted, numbers: &Numbers, writes: &[MapWrite]) -> Vec<MapWrite> {
    let left: BTreeSet<u32> = old
        .classes
        .values()
        .copied()
        .filter(|class| *class != 0 && !numbers.class_of(*class).is_some_and(|class| numbers.is_class_kept(class)))
        .collect();
    let taken: BTreeSet<MapWrite> = writes.iter().map(MapWrite::deletion).collect();
    let mut found: BTreeMap<u32, Option<Judged>> = BTreeMap::new();
    for (ifindex, id) in &wanted.endpoints {
        let Some(device) = old.devices.get(ifindex) else { continue };
        let number = numbers.policy(*id);
        if number == device.policy || number == 0 {
            continue;
        }
        let judged = as_before(old, device, number, &left);
        let have = found.entry(number).or_insert_with(|| Some(judged.clone()));
        if have.as_ref() != Some(&judged) {
            *have = None;
        }
    }
    found
        .into_values()
        .flatten()
        .flatten()
        .map(|(key, entry)| MapWrite::Policy(key, Some(entry)))
        .filter(|write| !taken.contains(&write.deletion()))
        .collect()
}

/// Prefixes nothing was known of, and their classes now. Those that have class 0 still are among them if they are new:
/// they keep what is inside of another prefix out of that one's class.
fn newly_known(old: &Old, wanted: &Wanted) -> BTreeMap<Cidr, ClassId> {
    let unknown = |prefix: &Cidr| longest(&old.classes, prefix).unwrap_or(0) == 0;
    let moves = |prefix: &Cidr, class: ClassId| class != ClassId::UNKNOWN || !old.classes.contains_key(prefix);
    let all = wanted.prefixes.iter().filter(|(prefix, class)| unknown(prefix) && moves(prefix, **class));
    all.map(|(prefix, class)| (*prefix, *class)).collect()
}

/// Entries that judge the classes of newly known prefixes under the old policies as class 0 was judged.
fn bridge_back(
    old: &Old,
    wanted: &Wanted,
    numbers: &Numbers,
    early: &BTreeMap<Cidr, ClassId>,
) -> impl Iterator<Item = MapWrite> {
    let known = early.values().filter(|class| **class != ClassId::UNKNOWN);
    let classes: BTreeSet<u32> = known.map(|class| numbers.class(*class)).collect();
    let kept: BTreeSet<u32> = wanted.endpoints.iter().map(|(_, id)| numbers.policy(*id)).collect();
    let left: BTreeSet<u32> =
        old.devices.values().map(|device| device.policy).filter(|number| !kept.contains(number)).collect();
    let entries = old.entries.iter().filter(|(number, _)| left.contains(number)).flat_map(|(_, entries)| entries);
    let of_unknown: Vec<_> = entries.filter(|(key, _)| key.class == 0).map(|(key, entry)| (*key, *entry)).collect();
    let copies = classes.into_iter().flat_map(move |class| {
        let copy = move |(key, entry): (PolicyKey, PolicyEntry)| (PolicyKey { class, ..key }, entry);
        of_unknown.clone().into_iter().map(copy)
    });
    copies.map(|(key, entry)| MapWrite::Policy(key, Some(entry)))
}

type Judged = BTreeMap<PolicyKey, PolicyEntry>;

/// How a device judged these classes, as entries under another policy number.
fn as_before(old: &Old, device: &layout::Device, number: u32, classes: &BTreeSet<u32>) -> Judged {
    let mut judged = Judged::new();
    for (direction, flag) in [(INGRESS, DEVICE_ENFORCE_INGRESS), (EGRESS, DEVICE_ENFORCE_EGRESS)] {
        if device.flags & flag == 0 {
            let all = abi::be::Port::new(0);
            let keys = classes.iter().map(|class| PolicyKey::entry(number, *class, direction, 0, all, 0));
            judged.extend(keys.map(|key| (key, PolicyEntry::default())));
        }
    }
    let entries = old.entries.get(&device.policy).into_iter().flatten();
    let of_classes = entries.filter(|(key, _)| classes.contains(&key.class));
    judged.extend(of_classes.map(|(key, entry)| (PolicyKey { policy: number, ..*key }, *entry)));
    judged
}
