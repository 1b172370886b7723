//! The kernel's maps as far as verdicts go: longest prefix of addresses, then one look-up.

use crate::oracle::{PeerProbe, Probe};
use policy::{ClassId, Direction, EndpointPolicy, EntryValue, L4Prefix, PolicyId, Verdict, Write};
use std::collections::BTreeMap;
use types::{Cidr, EndpointId, NumericIdentity};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Maps {
    entries: BTreeMap<(PolicyId, ClassId, Direction), BTreeMap<L4Prefix, EntryValue>>,
    identities: BTreeMap<NumericIdentity, ClassId>,
    prefixes: BTreeMap<Cidr, (NumericIdentity, ClassId)>,
    endpoints: BTreeMap<EndpointId, EndpointPolicy>,
}

impl Maps {
    pub fn apply_all(&mut self, writes: &[Write]) {
        for write in writes {
            self.apply(write);
        }
    }

    /// Makes a write; false if the maps are as they were.
    pub fn apply(&mut self, write: &Write) -> bool {
        match *write {
            Write::PutEntry(key, value) => {
                let table = self.entries.entry((key.policy, key.class, key.direction)).or_default();
                table.insert(key.l4, value) != Some(value)
            }
            Write::DeleteEntry(key) => {
                let place = (key.policy, key.class, key.direction);
                let table = self.entries.get_mut(&place).expect("only entries that are there are deleted");
                table.remove(&key.l4).expect("only entries that are there are deleted");
                if table.is_empty() {
                    self.entries.remove(&place);
                }
                true
            }
            Write::PutIdentity(id, class) => self.identities.insert(id, class) != Some(class),
            Write::DeleteIdentity(id) => {
                self.identities.remove(&id).expect("only what is there is deleted");
                true
            }
            Write::PutPrefix(prefix, id, class) => self.prefixes.insert(prefix, (id, class)) != Some((id, class)),
            Write::DeletePrefix(prefix) => {
                self.prefixes.remove(&prefix).expect("only what is there is deleted");
                true
            }
            Write::PutEndpoint(id, policy) => self.endpoints.insert(id, policy) != Some(policy),
            Write::DeleteEndpoint(id) => {
                self.endpoints.remove(&id).expect("only what is there is deleted");
                true
            }
        }
    }

    pub fn enforced(&self, probe: &Probe) -> bool {
        self.endpoints.get(&probe.endpoint).is_some_and(|judged| match probe.direction {
            Direction::Ingress => judged.ingress,
            Direction::Egress => judged.egress,
        })
    }

    pub fn verdict(&self, probe: &Probe) -> Option<Verdict> {
        let judged = self.endpoints.get(&probe.endpoint)?;
        let enforced = match probe.direction {
            Direction::Ingress => judged.ingress,
            Direction::Egress => judged.egress,
        };
        if !enforced {
            return Some(Verdict::Allow);
        }
        let class = match probe.peer {
            PeerProbe::Identity(id) => self.identities.get(&id).copied().unwrap_or(ClassId::UNKNOWN),
            PeerProbe::Address(addr) => {
                let inside = self.prefixes.iter().filter(|(p, _)| p.contains(addr));
                inside.max_by_key(|(p, _)| p.bits()).map_or(ClassId::UNKNOWN, |(_, (_, class))| *class)
            }
        };
        let table = self.entries.get(&(judged.policy, class, probe.direction));
        let matching = table.into_iter().flatten().filter(|(l4, _)| l4.contains(probe.protocol, probe.port));
        Some(matching.max_by_key(|(l4, _)| l4.bits).map_or(Verdict::Deny, |(_, value)| value.verdict))
    }
}
