//! What may happen, read from bytes, and what the world is then.

use policy::{
    EndpointFacts, NamedPort, ObjectKey, ObjectKind, PolicyObject,
    rule::{
        Action, CidrRule, CidrScope, Entity, L7Parser, L7Rules, Peer, PeerRule, Peers, Place, PortMatch, PortRange,
        PortRule, PortSpec, Ports, Rule, Subject,
    },
};
use std::{collections::BTreeMap, sync::Arc};
use types::{
    Cidr, EndpointId, Labels, NumericIdentity, Protocol, Revision,
    selector::{Demand, Requirement, Selector, SelectorKey},
};

/// Choices: the given bytes first, then what a generator seeded by them gives.
pub struct Bytes<'b> {
    rest: &'b [u8],
    state: u64,
    steps: u32,
}

impl<'b> Bytes<'b> {
    /// The first byte says how many steps there are, so that a failing history shrinks.
    pub fn new(bytes: &'b [u8]) -> Self {
        let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let state = bytes.iter().skip(1).fold(0xcbf2_9ce4_8422_2325, fold) | 1;
        let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
        Self { rest, state, steps: 1 + u32::from(first % 48) }
    }

    pub fn next(&mut self) -> u8 {
        if let Some((first, rest)) = self.rest.split_first() {
            self.rest = rest;
            return *first;
        }
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.to_be_bytes()[2]
    }

    pub fn pick(&mut self, below: u8) -> u8 {
        self.next() % below
    }

    pub fn flag(&mut self) -> bool {
        self.pick(2) == 1
    }

    pub fn of<T: Clone>(&mut self, from: &[T]) -> T {
        let index = usize::from(self.pick(u8::try_from(from.len()).expect("short lists")));
        from[index].clone()
    }

    fn list<T>(&mut self, most: u8, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.pick(most + 1);
        (0..count).map(|_| one(self)).collect()
    }
}

#[derive(Debug, Clone)]
pub enum Op {
    PutIdentity(NumericIdentity, Labels),
    DropIdentity(NumericIdentity),
    PutAddress(Cidr, NumericIdentity, Vec<NamedPort>),
    DropAddress(Cidr),
    PutEndpoint(EndpointId, EndpointFacts),
    DropEndpoint(EndpointId),
    PutObject(PolicyObject),
    /// Several at once: taken in, removed.
    ChangeObjects(Vec<PolicyObject>, Vec<ObjectKey>),
    DropObject(ObjectKey),
    PutGroup(&'static str, Vec<Cidr>),
}

pub const IDENTITIES: [u32; 5] = [1000, 1001, 1002, 1003, 0x0100_0001];
/// Identities that are there from the beginning, alike but for a label of most of them: classes that split unevenly.
pub const CROWD: [u32; 4] = [1004, 1005, 1006, 1007];
pub const PREFIXES: [&str; 6] = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "10.1.2.4/32", "fd00::/8"];

fn identity(bytes: &mut Bytes<'_>) -> NumericIdentity {
    NumericIdentity::new(bytes.of(&IDENTITIES))
}

fn prefix(bytes: &mut Bytes<'_>) -> Cidr {
    bytes.of(&PREFIXES).parse().expect("they are prefixes")
}

fn labels(bytes: &mut Bytes<'_>) -> Labels {
    let mut texts = vec![bytes.of(&["k8s:app=a", "k8s:app=b", "k8s:app=c"])];
    texts.push(bytes.of(&["k8s:io.kubernetes.pod.namespace=x", "k8s:io.kubernetes.pod.namespace=y"]));
    if bytes.flag() {
        texts.push("k8s:tier=t");
    }
    Labels::parse(texts)
}

fn identity_labels(bytes: &mut Bytes<'_>, id: NumericIdentity) -> Labels {
    if id.as_u32() == 0x0100_0001 {
        return bytes.of(&[
            Labels::parse(["cidr:10.1.0.0/16", "reserved:world-ipv4"]),
            Labels::parse(["cidr:10.0.0.0/8", "reserved:world-ipv4", "fqdn:a.io"]),
        ]);
    }
    labels(bytes)
}

fn selector(bytes: &mut Bytes<'_>) -> Selector {
    let requirements = bytes.list(2, |bytes| {
        let key = bytes.of(&["app", "io.kubernetes.pod.namespace", "k8s:tier", "container:app"]);
        let values = bytes.of(&[vec!["a"], vec!["b", "c"], vec!["x"], vec!["t"]]);
        let values = values.into_iter().map(Into::into).collect();
        let demand = match bytes.pick(6) {
            0 => Demand::NotIn(values),
            1 => Demand::Exists,
            2 => Demand::Absent,
            _ => Demand::In(values),
        };
        Requirement { key: SelectorKey::parse(key), demand }
    });
    requirements.into_iter().collect()
}

fn named_ports(bytes: &mut Bytes<'_>) -> Vec<NamedPort> {
    bytes.list(1, |bytes| NamedPort { name: "web".into(), protocol: Protocol::Tcp, port: bytes.of(&[80, 8080]) })
}

fn peer(bytes: &mut Bytes<'_>) -> Peer {
    match bytes.pick(8) {
        0..=2 => Peer::Labels(selector(bytes)),
        3 => Peer::Entity(bytes.of(&[Entity::All, Entity::World, Entity::Host, Entity::Cluster])),
        4 | 5 => {
            let cidr = prefix(bytes);
            let mut except: Vec<Cidr> = bytes.list(2, prefix).into_iter().filter(|e| cidr.covers(e)).collect();
            except.sort_unstable();
            except.dedup();
            let scope = bytes.of(&[CidrScope::World, CidrScope::Everyone]);
            Peer::Cidr(CidrRule { cidr, except, scope })
        }
        6 => Peer::CidrGroup { name: "group".into(), except: bytes.list(1, prefix) },
        _ => Peer::Fqdn("a.io".into()),
    }
}

fn ports(bytes: &mut Bytes<'_>) -> Ports {
    if bytes.pick(3) == 0 {
        return Ports::All;
    }
    Ports::Listed(bytes.list(2, |bytes| {
        let l7 = (bytes.pick(4) == 0).then(|| {
            Arc::new(L7Rules {
                parser: L7Parser::Http,
                http: Vec::new(),
                kafka: Vec::new(),
                dns: Vec::new(),
                custom: Vec::new(),
                server_names: Vec::new(),
                listener: None,
            })
        });
        let port = match bytes.pick(6) {
            0 => PortSpec::Named("web".into()),
            1 => PortSpec::Range(PortRange::ALL),
            2 => PortSpec::Range(PortRange { first: 79, last: 8079 }),
            3 => PortSpec::Range(PortRange { first: 80, last: 81 }),
            _ => PortSpec::Range(PortRange::single(bytes.of(&[80, 53, 8]))),
        };
        let protocol = bytes.of(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Icmp]);
        PortRule { ports: vec![PortMatch { protocol, port }], l7 }
    }))
}

fn peer_rules(bytes: &mut Bytes<'_>) -> Vec<PeerRule> {
    let mut index = 0;
    bytes.list(2, |bytes| {
        index += 1;
        let action = if bytes.pick(4) == 0 { Action::Deny } else { Action::Allow };
        PeerRule {
            action,
            index,
            peers: if bytes.pick(6) == 0 { Peers::Unstated } else { Peers::Listed(bytes.list(2, peer)) },
            ports: match ports(bytes) {
                Ports::Listed(list) if action == Action::Deny => {
                    Ports::Listed(list.into_iter().map(|r| PortRule { l7: None, ..r }).collect())
                }
                other => other,
            },
            requires: if bytes.pick(12) == 0 { vec![selector(bytes)] } else { Vec::new() },
            auth: None,
        }
    })
}

fn key(bytes: &mut Bytes<'_>) -> ObjectKey {
    let name = bytes.of(&["one", "two", "three", "four"]).into();
    ObjectKey { kind: ObjectKind::Rules, namespace: "".into(), name }
}

fn object(bytes: &mut Bytes<'_>) -> PolicyObject {
    let mut place = 0;
    let key = key(bytes);
    let rules = bytes.list(2, |bytes| {
        let subject = if bytes.pick(8) == 0 {
            Subject::Nodes(Selector::everything())
        } else {
            Subject::Endpoints(selector(bytes))
        };
        let (ingress, egress) = (peer_rules(bytes), peer_rules(bytes));
        let deny = |bytes: &mut Bytes<'_>, rules: &[PeerRule]| (!rules.is_empty()).then(|| bytes.pick(5) != 0);
        let (ingress_default_deny, egress_default_deny) = (deny(bytes, &ingress), deny(bytes, &egress));
        place += 1;
        Rule {
            place: Place::Specs(place - 1),
            subject,
            ingress,
            egress,
            ingress_default_deny,
            egress_default_deny,
            description: "".into(),
        }
    });
    PolicyObject { key, uid: "".into(), labels: Labels::default(), rules, notices: Vec::new() }
}

impl Op {
    pub fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
        bytes.steps = bytes.steps.checked_sub(1)?;
        Some(match bytes.pick(16) {
            0..=2 => {
                let id = identity(bytes);
                Self::PutIdentity(id, identity_labels(bytes, id))
            }
            3 => Self::DropIdentity(identity(bytes)),
            4 | 5 => {
                let (prefix, id) = (prefix(bytes), identity(bytes));
                let ports = if prefix.is_host() { named_ports(bytes) } else { Vec::new() };
                Self::PutAddress(prefix, id, ports)
            }
            6 => Self::DropAddress(prefix(bytes)),
            7 | 8 => {
                let id = EndpointId::new(1 + u16::from(bytes.pick(2))).expect("not zero");
                let host = bytes.pick(8) == 0;
                let labels = if host { Labels::parse(["reserved:host"]) } else { labels(bytes) };
                Self::PutEndpoint(id, EndpointFacts { labels, named_ports: named_ports(bytes), host, audit: false })
            }
            9 => Self::DropEndpoint(EndpointId::new(1 + u16::from(bytes.pick(2))).expect("not zero")),
            10..=12 => Self::PutObject(object(bytes)),
            13 => Self::ChangeObjects(bytes.list(3, object), bytes.list(2, key)),
            14 => Self::DropObject(key(bytes)),
            _ => {
                let mut members = bytes.list(2, prefix);
                members.sort_unstable();
                members.dedup();
                Self::PutGroup("group", members)
            }
        })
    }
}

/// The facts, as plainly as can be.
#[derive(Debug, Default)]
pub struct World {
    pub identities: BTreeMap<NumericIdentity, Labels>,
    pub addresses: BTreeMap<Cidr, (NumericIdentity, Vec<NamedPort>)>,
    pub endpoints: BTreeMap<EndpointId, EndpointFacts>,
    pub objects: BTreeMap<ObjectKey, PolicyObject>,
    pub group: Vec<Cidr>,
    pub revision: Revision,
}

impl World {
    pub fn new() -> Self {
        let mut world = Self::default();
        for id in NumericIdentity::all_reserved().filter(|id| id.as_u32() != 0) {
            world.identities.insert(id, id.reserved_labels().expect("reserved identities have labels"));
        }
        for id in CROWD {
            let tier = (id != 1006).then_some("k8s:tier=t");
            let labels = Labels::parse(["k8s:app=a", "k8s:io.kubernetes.pod.namespace=x"].into_iter().chain(tier));
            world.identities.insert(NumericIdentity::new(id), labels);
        }
        let all = |text: &str| text.parse().expect("it is a prefix");
        world.addresses.insert(all("0.0.0.0/0"), (NumericIdentity::WORLD_IPV4, Vec::new()));
        world.addresses.insert(all("::/0"), (NumericIdentity::WORLD_IPV6, Vec::new()));
        world.revision = Revision(1);
        world
    }

    pub fn apply(&mut self, op: &Op) {
        match op.clone() {
            Op::PutIdentity(id, labels) => drop(self.identities.insert(id, labels)),
            Op::DropIdentity(id) => drop(self.identities.remove(&id)),
            Op::PutAddress(prefix, id, ports) => drop(self.addresses.insert(prefix, (id, ports))),
            Op::DropAddress(prefix) => drop(self.addresses.remove(&prefix)),
            Op::PutEndpoint(id, facts) => drop(self.endpoints.insert(id, facts)),
            Op::DropEndpoint(id) => drop(self.endpoints.remove(&id)),
            Op::PutObject(object) => drop(self.objects.insert(object.key.clone(), object)),
            Op::DropObject(key) => drop(self.objects.remove(&key)),
            Op::ChangeObjects(upsert, remove) => {
                remove.iter().for_each(|key| drop(self.objects.remove(key)));
                self.objects.extend(upsert.into_iter().map(|object| (object.key.clone(), object)));
            }
            Op::PutGroup(_, members) => self.group = members,
        }
    }

    /// A shortest history that leads here.
    pub fn history(&self) -> Vec<Op> {
        let mut ops = vec![Op::PutGroup("group", self.group.clone())];
        ops.extend(self.objects.values().cloned().map(Op::PutObject));
        ops.extend(self.endpoints.iter().map(|(id, facts)| Op::PutEndpoint(*id, facts.clone())));
        ops.extend(self.addresses.iter().map(|(p, (id, ports))| Op::PutAddress(*p, *id, ports.clone())));
        ops.extend(self.identities.iter().map(|(id, labels)| Op::PutIdentity(*id, labels.clone())));
        ops
    }
}
