//! Peers: `fromEndpoints`, `toCIDRSet`, `toEntities` and their kin.

use super::{
    ctx::{Ctx, Path, Problem},
    selectors::{self, Keys, Scoping, is_dns_name},
};
use crate::rule::{CidrRule, CidrScope, Direction, Entity, Peer, Peers, ServicePeer};
use crate::schema;
use alloc::{string::ToString, vec::Vec};
use core::net::IpAddr;
use serde_json::{Map, Value};
use types::{Cidr, selector::Selector};

/// Names of the peer members of one direction.
pub(super) struct Members {
    endpoints: &'static str,
    requires: &'static str,
    cidr: &'static str,
    cidr_set: &'static str,
    entities: &'static str,
    groups: &'static str,
    nodes: &'static str,
}

const INGRESS: Members = Members {
    endpoints: "fromEndpoints",
    requires: "fromRequires",
    cidr: "fromCIDR",
    cidr_set: "fromCIDRSet",
    entities: "fromEntities",
    groups: "fromGroups",
    nodes: "fromNodes",
};

const EGRESS: Members = Members {
    endpoints: "toEndpoints",
    requires: "toRequires",
    cidr: "toCIDR",
    cidr_set: "toCIDRSet",
    entities: "toEntities",
    groups: "toGroups",
    nodes: "toNodes",
};

/// The peers of one rule and its requirements.
pub(super) struct Read {
    pub(super) peers: Peers,
    pub(super) requires: Vec<Selector>,
}

struct Reader<'c, 'a> {
    cx: &'c mut Ctx<'a>,
    scoping: Scoping<'c>,
    peers: Vec<Peer>,
    stated: bool,
    empty_endpoints: bool,
    non_empty: Vec<&'static str>,
}

/// Reads all peer members of a rule.
pub(super) fn peers(
    cx: &mut Ctx<'_>,
    path: &Path<'_>,
    map: &Map<alloc::string::String, Value>,
    direction: Direction,
    deny: bool,
    scoping: Scoping<'_>,
) -> Read {
    let names = match direction {
        Direction::Ingress => &INGRESS,
        Direction::Egress => &EGRESS,
    };
    let mut reader =
        Reader { cx, scoping, peers: Vec::new(), stated: false, empty_endpoints: false, non_empty: Vec::new() };
    reader.member(path, map, names.endpoints, Reader::endpoint);
    reader.empty_endpoints = reader.stated && reader.peers.is_empty() && reader.non_empty.is_empty();
    reader.member(path, map, names.cidr, Reader::cidr);
    reader.member(path, map, names.cidr_set, Reader::cidr_set);
    reader.member(path, map, names.entities, Reader::entity);
    reader.member(path, map, names.nodes, Reader::node);
    reader.member(path, map, names.groups, Reader::group);
    if direction == Direction::Egress {
        reader.member(path, map, "toServices", Reader::service);
        if !deny {
            reader.member(path, map, "toFQDNs", Reader::fqdn);
        }
    }
    if let ([a, b, ..], false) = (reader.non_empty.as_slice(), deny) {
        reader.cx.error(path, Problem::Combined { a, b });
    }
    let list = path.field(names.requires);
    let mut requires = Vec::new();
    for (i, item) in reader.cx.list_field(path, map, names.requires).unwrap_or_default().iter().enumerate() {
        if let Some(selector) = selectors::selector(reader.cx, &list.index(i), item, Keys::Cilium) {
            requires.push(scoping.apply(selector, true));
        }
    }
    let peers = if !reader.stated {
        Peers::Unstated
    } else if reader.empty_endpoints {
        // `fromEndpoints: []` empties the whole rule, whatever other members say: what upstream does.
        Peers::Listed(Vec::new())
    } else {
        Peers::Listed(reader.peers)
    };
    Read { peers, requires }
}

impl Reader<'_, '_> {
    fn member(
        &mut self,
        path: &Path<'_>,
        map: &Map<alloc::string::String, Value>,
        name: &'static str,
        read: impl Fn(&mut Self, &Path<'_>, &Value),
    ) {
        let Some(items) = self.cx.list_field(path, map, name) else { return };
        self.stated = true;
        if !items.is_empty() {
            self.non_empty.push(name);
        }
        let list = path.field(name);
        for (i, item) in items.iter().enumerate() {
            read(self, &list.index(i), item);
        }
    }

    fn endpoint(&mut self, path: &Path<'_>, value: &Value) {
        if let Some(selector) = selectors::selector(self.cx, path, value, Keys::Cilium) {
            self.peers.push(Peer::Labels(self.scoping.apply(selector, false)));
        }
    }

    fn node(&mut self, path: &Path<'_>, value: &Value) {
        if !self.cx.options.node_selectors {
            let what = "fromNodes/toNodes without enable-node-selector-labels";
            self.cx.error(path, Problem::Unsupported { what });
            return;
        }
        if let Some(selector) = selectors::selector(self.cx, path, value, Keys::Cilium) {
            self.peers.push(Peer::Nodes(selector));
        }
    }

    fn group(&mut self, path: &Path<'_>, _value: &Value) {
        self.cx.notice(path, "groups of a cloud provider are not resolved; this entry selects nobody");
    }

    fn cidr(&mut self, path: &Path<'_>, value: &Value) {
        let Some(text) = self.cx.text(path, value) else { return };
        if let Some(cidr) = any_cidr(self.cx, path, text) {
            self.peers.push(Peer::Cidr(CidrRule { cidr, except: Vec::new(), scope: CidrScope::World }));
        }
    }

    fn cidr_set(&mut self, path: &Path<'_>, value: &Value) {
        let Some(map) = self.cx.object(path, value) else { return };
        self.cx.only_fields(path, map, schema::CIDR_SET.names);
        let cidr = self.cx.text_field(path, map, "cidr");
        let group = self.cx.text_field(path, map, "cidrGroupRef");
        match (cidr, group) {
            ("", "") => self.cx.error(path, Problem::Missing { expected: "one of cidr and cidrGroupRef" }),
            ("", group) => {
                if !is_dns_name(group) {
                    let why = "a CIDR group's name is a DNS name in lower case of up to 253 characters";
                    self.cx.invalid(&path.field("cidrGroupRef"), group, why);
                }
                let except = excepts(self.cx, path, map, None);
                self.peers.push(Peer::CidrGroup { name: group.into(), except });
            }
            (text, "") => {
                let Some(cidr) = prefix(self.cx, &path.field("cidr"), text) else { return };
                let except = excepts(self.cx, path, map, Some(&cidr));
                self.peers.push(Peer::Cidr(CidrRule { cidr, except, scope: CidrScope::World }));
            }
            _ => self.cx.error(path, Problem::Combined { a: "cidr", b: "cidrGroupRef" }),
        }
    }

    fn entity(&mut self, path: &Path<'_>, value: &Value) {
        let Some(text) = self.cx.text(path, value) else { return };
        let family = matches!(text, "world-ipv4" | "world-ipv6");
        match Entity::from_name(text) {
            Some(entity) if !family || self.cx.options.family_entities => self.peers.push(Peer::Entity(entity)),
            _ => self.cx.error(path, Problem::NotOneOf { found: text.to_string(), allowed: schema::ENTITIES }),
        }
    }

    fn fqdn(&mut self, path: &Path<'_>, value: &Value) {
        let Some(map) = self.cx.object(path, value) else { return };
        self.cx.only_fields(path, map, schema::DNS_NAMES.names);
        let name = self.cx.text_field(path, map, "matchName");
        let pattern = self.cx.text_field(path, map, "matchPattern");
        if !name.is_empty() && !pattern.is_empty() {
            self.cx.error(path, Problem::Combined { a: "matchName", b: "matchPattern" });
        } else if name.is_empty() && pattern.is_empty() {
            self.cx.error(path, Problem::Missing { expected: "one of matchName and matchPattern" });
        }
        check_dns_selector(self.cx, path, name, pattern);
        let text = if name.is_empty() { pattern } else { name };
        self.peers.push(Peer::Fqdn(text.into()));
    }

    fn service(&mut self, path: &Path<'_>, value: &Value) {
        let Some(map) = self.cx.object(path, value) else { return };
        self.cx.only_fields(path, map, schema::SERVICE.names);
        if let Some(named) = map.get("k8sService").filter(|v| !v.is_null()) {
            let path = path.field("k8sService");
            if let Some(map) = self.cx.object(&path, named) {
                self.cx.only_fields(&path, map, schema::NAMED_SERVICE.names);
                let namespace = self.cx.text_field(&path, map, "namespace").into();
                let name = self.cx.text_field(&path, map, "serviceName").into();
                self.peers.push(Peer::Service(ServicePeer::Named { namespace, name }));
            }
        }
        if let Some(labelled) = map.get("k8sServiceSelector").filter(|v| !v.is_null()) {
            let path = path.field("k8sServiceSelector");
            if let Some(map) = self.cx.object(&path, labelled) {
                self.cx.only_fields(&path, map, schema::SELECTED_SERVICE.names);
                let namespace = self.cx.text_field(&path, map, "namespace").into();
                let Some(value) = map.get("selector") else {
                    self.cx.error(&path.field("selector"), Problem::Missing { expected: "a label selector" });
                    return;
                };
                let selector = selectors::selector(self.cx, &path.field("selector"), value, Keys::Kubernetes(""));
                if let Some(selector) = selector {
                    self.peers.push(Peer::Service(ServicePeer::Labelled { namespace, selector }));
                }
            }
        }
    }
}

/// Checks the characters of a DNS name and pattern.
pub(super) fn check_dns_selector(cx: &mut Ctx<'_>, path: &Path<'_>, name: &str, pattern: &str) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if !name.bytes().all(plain) {
        cx.invalid(&path.field("matchName"), name, "a DNS name has letters, digits, '-', '_' and '.' only");
    }
    if !pattern.bytes().all(|b| plain(b) || b == b'*') {
        let why = "a DNS pattern has letters, digits, '-', '_', '.' and '*' only";
        cx.invalid(&path.field("matchPattern"), pattern, why);
    }
}

/// A prefix, or an address, which means the prefix of that one address. Host bits are cleared, as upstream does.
fn any_cidr(cx: &mut Ctx<'_>, path: &Path<'_>, text: &str) -> Option<Cidr> {
    if let Ok(addr) = text.parse::<IpAddr>() {
        return Some(Cidr::host(addr));
    }
    prefix(cx, path, text)
}

/// A prefix. What becomes of host bits, the options say ([`super::HostBits`]).
pub(super) fn prefix(cx: &mut Ctx<'_>, path: &Path<'_>, text: &str) -> Option<Cidr> {
    let parsed = text.split_once('/').and_then(|(addr, len)| {
        let digits = !len.is_empty() && len.len() <= 3 && len.bytes().all(|b| b.is_ascii_digit());
        let len = if digits { len.parse().ok()? } else { return None };
        let addr = addr.parse().ok()?;
        Some((Cidr::containing(addr, len).ok()?, addr))
    });
    let host_bits = parsed.is_some_and(|(prefix, addr): (Cidr, core::net::IpAddr)| prefix.addr() != addr);
    if host_bits && cx.options.host_bits == super::HostBits::Refuse {
        let why = "bits are set behind the prefix length; write the first address of the prefix, as in 10.0.0.0/8";
        cx.invalid(path, text, why);
        return None;
    }
    let parsed = parsed.map(|(prefix, _)| prefix);
    if parsed.is_none() {
        let why = "a prefix is ADDRESS/LENGTH, such as 10.0.0.0/8 or 2001:db8::/32, with a length of at most 32 or 128";
        cx.invalid(path, text, why);
    }
    parsed
}

fn excepts(
    cx: &mut Ctx<'_>,
    path: &Path<'_>,
    map: &Map<alloc::string::String, Value>,
    outer: Option<&Cidr>,
) -> Vec<Cidr> {
    let list = path.field("except");
    let mut all = Vec::new();
    for (i, item) in cx.list_field(path, map, "except").unwrap_or_default().iter().enumerate() {
        let at = list.index(i);
        let Some(except) = cx.text(&at, item).and_then(|text| prefix(cx, &at, text)) else { continue };
        match outer {
            Some(outer) if !outer.contains(except.addr()) => {
                cx.invalid(&at, &except.to_string(), "an exception must lie inside the prefix it is taken from");
            }
            _ => all.push(except),
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// The `except` list of a Kubernetes `ipBlock`.
pub(super) fn ip_block_excepts(
    cx: &mut Ctx<'_>,
    path: &Path<'_>,
    map: &Map<alloc::string::String, Value>,
    outer: &Cidr,
) -> Vec<Cidr> {
    excepts(cx, path, map, Some(outer))
}
