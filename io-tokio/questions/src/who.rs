//! Who is meant: labels, pods, identities and addresses become what an engine can be asked about.

use std::net::IpAddr;

use api::models::Party;
use policy::{EndpointFacts, NamedPort, engine::PeerQuestion};
use types::{EndpointId, Label, Labels, NumericIdentity, labels};

use crate::{BadQuestion, bad};

/// A workload of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its endpoint.
    pub endpoint: EndpointId,
    /// `namespace/name` of its pod, if it is one.
    pub pod: String,
    /// One of its addresses.
    pub addr: Option<IpAddr>,
    /// What policy needs to know of it.
    pub facts: EndpointFacts,
}

/// What is known of workloads and addresses besides what the engine knows.
pub trait Workloads {
    /// The endpoint of a number.
    fn endpoint(&self, id: EndpointId) -> Option<Known>;
    /// The endpoint of a pod, `namespace/name`.
    fn pod(&self, name: &str) -> Option<Known>;
    /// The endpoint with an address.
    fn at(&self, addr: IpAddr) -> Option<Known>;
    /// The identity of an address that is no endpoint's.
    fn identity_at(&self, addr: IpAddr) -> Option<NumericIdentity>;
    /// The labels of an identity.
    fn labels_of(&self, id: NumericIdentity) -> Option<Labels>;
}

/// Knows no workload: for questions without an agent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Workloads for Nobody {
    fn endpoint(&self, _: EndpointId) -> Option<Known> {
        None
    }
    fn pod(&self, _: &str) -> Option<Known> {
        None
    }
    fn at(&self, _: IpAddr) -> Option<Known> {
        None
    }
    fn identity_at(&self, _: IpAddr) -> Option<NumericIdentity> {
        None
    }
    fn labels_of(&self, id: NumericIdentity) -> Option<Labels> {
        id.reserved_labels()
    }
}

/// One end of traffic.
#[derive(Debug, Clone, Default)]
pub(crate) struct End {
    /// How it is shown.
    pub(crate) text: String,
    pub(crate) endpoint: Option<EndpointId>,
    pub(crate) addr: Option<IpAddr>,
    pub(crate) identity: Option<NumericIdentity>,
    /// What its labels are now, if it has any.
    pub(crate) labels: Labels,
    /// The labels were said, not looked up.
    pub(crate) said: bool,
    pub(crate) named_ports: Vec<NamedPort>,
}

impl End {
    /// What the engine is asked when this is the other side.
    pub(crate) fn peer(&self) -> PeerQuestion {
        let labels = self.said.then(|| self.labels.clone());
        PeerQuestion { addr: self.addr, identity: self.identity, labels }
    }

    /// What the engine must know when this is the end that judges.
    pub(crate) fn facts(&self) -> EndpointFacts {
        EndpointFacts {
            labels: self.labels.clone(),
            named_ports: self.named_ports.clone(),
            host: self.labels.has_reserved("host"),
            audit: false,
        }
    }

    /// Whether a policy judges this end: it is a workload or the node itself, not the world or another node.
    pub(crate) fn is_judged(&self) -> bool {
        is_judged(&self.labels)
    }
}

/// See [`End::is_judged`].
pub(crate) fn is_judged(labels: &Labels) -> bool {
    const ELSEWHERE: [&str; 6] = ["world", "world-ipv4", "world-ipv6", "remote-node", "kube-apiserver", "unmanaged"];
    let elsewhere = |label: &Label| {
        matches!(label.source(), labels::CIDR | labels::CIDR_GROUP | labels::FQDN)
            || ELSEWHERE.iter().any(|name| label.is_reserved() && label.key() == *name)
    };
    !labels.is_empty() && !labels.iter().any(elsewhere)
}

/// Reads one side as people write it: an identity's number, an address, `namespace/pod`, `endpoint:7`, an entity such
/// as `world`, or labels such as `k8s:app=web,k8s:io.kubernetes.pod.namespace=shop`.
///
/// # Errors
/// [`BadQuestion`] when the text is none of these.
pub fn party(field: &str, text: &str) -> Result<Party, BadQuestion> {
    let text = text.trim();
    if text.is_empty() {
        return Err(bad(field, "it is empty; give labels, a pod, an identity or an address"));
    }
    if let Ok(identity) = text.parse::<u32>() {
        return Ok(Party { identity: Some(identity), ..Party::default() });
    }
    if text.parse::<IpAddr>().is_ok() {
        return Ok(Party { ip: text.into(), ..Party::default() });
    }
    if let Some(number) = text.strip_prefix("endpoint:") {
        let id = number.parse().ok().filter(|n| *n != 0);
        let why = || bad(field, format!("{number:?} is no endpoint; a number from 1 to 65535 is expected"));
        return Ok(Party { endpoint: Some(id.ok_or_else(why)?), ..Party::default() });
    }
    if NumericIdentity::from_reserved_name(text).is_some() {
        return Ok(Party { labels: vec![format!("reserved:{text}")], ..Party::default() });
    }
    let is_labels = text.contains('=') || text.split(',').all(|l| l.contains(':'));
    if is_labels {
        let labels = text.split(',').map(|label| label.trim().to_owned()).collect();
        return Ok(Party { labels, ..Party::default() });
    }
    match text.split_once('/') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
            Err(bad(field, format!("{text:?} is a prefix; give one address of it")))
        }
        Some((namespace, pod)) if !namespace.is_empty() && !pod.is_empty() && !pod.contains('/') => {
            Ok(Party { pod: text.into(), ..Party::default() })
        }
        _ => {
            let why = format!(
                "{text:?} is not understood; give labels (k8s:app=web,…), namespace/pod, an identity's number, an \
                 address, endpoint:NUMBER, or an entity such as world"
            );
            Err(bad(field, why))
        }
    }
}

/// Finds out who a party is.
pub(crate) fn end(field: &str, party: &Party, known: &dyn Workloads) -> Result<End, BadQuestion> {
    let ways = [
        !party.labels.is_empty(),
        party.identity.is_some(),
        !party.pod.is_empty(),
        party.endpoint.is_some(),
        !party.ip.is_empty() && party.labels.is_empty(),
    ];
    match ways.into_iter().filter(|way| *way).count() {
        1 => {}
        0 => return Err(bad(field, "nobody is named; give labels, a pod, an endpoint, an identity or an address")),
        _ => {
            return Err(bad(
                field,
                "it is named in several ways; one of labels, pod, endpoint, identity and ip is enough",
            ));
        }
    }
    if !party.labels.is_empty() {
        return said(field, party);
    }
    if let Some(number) = party.identity {
        let id = NumericIdentity::new(number);
        let labels = known.labels_of(id).ok_or_else(|| bad(field, format!("there is no identity {number}")))?;
        return Ok(End { text: format!("identity {number} ({labels})"), identity: Some(id), labels, ..End::default() });
    }
    if let Some(number) = party.endpoint {
        let found = EndpointId::new(number).and_then(|id| known.endpoint(id));
        return found.map(local).ok_or_else(|| bad(field, format!("there is no endpoint {number} on this node")));
    }
    if !party.pod.is_empty() {
        let why = || {
            let pod = &party.pod;
            bad(field, format!("{pod:?} is no pod of this node; name it by its labels or its address"))
        };
        return known.pod(&party.pod).map(local).ok_or_else(why);
    }
    let addr = address(field, &party.ip)?;
    if let Some(found) = known.at(addr) {
        return Ok(End { addr: Some(addr), ..local(found) });
    }
    let identity = known.identity_at(addr);
    let labels = identity.and_then(|id| known.labels_of(id)).unwrap_or_default();
    Ok(End { text: addr.to_string(), addr: Some(addr), identity, labels, ..End::default() })
}

fn said(field: &str, party: &Party) -> Result<End, BadQuestion> {
    let labels = parse_labels(field, &party.labels)?;
    let addr = if party.ip.is_empty() { None } else { Some(address(field, &party.ip)?) };
    Ok(End { text: labels.to_string(), addr, labels, said: true, ..End::default() })
}

fn local(known: Known) -> End {
    let name = if known.pod.is_empty() { known.facts.labels.to_string() } else { known.pod };
    End {
        text: format!("{name} (endpoint {})", known.endpoint),
        endpoint: Some(known.endpoint),
        addr: known.addr,
        identity: None,
        labels: known.facts.labels,
        said: false,
        named_ports: known.facts.named_ports,
    }
}

fn address(field: &str, text: &str) -> Result<IpAddr, BadQuestion> {
    text.parse().map_err(|_| bad(field, format!("{text:?} is no IPv4 or IPv6 address")))
}

/// Reads labels; those without a source are Kubernetes'.
pub(crate) fn parse_labels(field: &str, texts: &[String]) -> Result<Labels, BadQuestion> {
    let mut all = Labels::default();
    for text in texts {
        let mut label = Label::parse(text);
        if label.source() == labels::UNSPEC {
            label = Label::k8s(label.key(), label.value());
        }
        if label.key().is_empty() {
            return Err(bad(field, format!("{text:?} is no label; SOURCE:KEY=VALUE is expected")));
        }
        if let Some(other) = all.insert(label.clone())
            && other != label
        {
            return Err(bad(field, format!("{label} contradicts {other}: one value for each key")));
        }
    }
    Ok(all)
}
