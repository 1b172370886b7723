//! Reading a policy, and everything that is wrong with it.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use serde_json::{Map, Value};
use types::selector::{Demand, Requirement, Selector, SelectorKey};

use super::{API_VERSION, KIND, LocalRedirect, RedirectFrom, RedirectPort};
use crate::objects::{Metadata, ObjectError};
use crate::{ServiceName, Transport};

/// Reads a policy; its kind is known.
pub(super) fn read(value: &Value, metadata: Metadata) -> Result<LocalRedirect, Vec<ObjectError>> {
    let object = format!("{KIND} {}/{}", metadata.namespace, metadata.name);
    let mut reader = Reader { object, faults: Vec::new() };
    match reader.policy(value, metadata) {
        Some(policy) if reader.faults.is_empty() => Ok(policy),
        _ => Err(reader.faults),
    }
}

/// Reads fields and gathers what is wrong with them.
struct Reader {
    object: String,
    faults: Vec<ObjectError>,
}

impl Reader {
    fn fault(&mut self, path: impl Into<String>, why: impl Into<String>) {
        self.faults.push(ObjectError::Field { object: self.object.clone(), path: path.into(), why: why.into() });
    }

    /// An object with these fields and no others.
    fn object<'v>(&mut self, path: &str, value: Option<&'v Value>, names: &[&str]) -> Option<&'v Map<String, Value>> {
        match value {
            Some(Value::Object(map)) => {
                for unknown in map.keys().filter(|name| !names.contains(&name.as_str())) {
                    let at = if path.is_empty() { unknown.clone() } else { format!("{path}.{unknown}") };
                    self.fault(at, format!("there is no such field; there are {}", names.join(", ")));
                }
                Some(map)
            }
            None | Some(Value::Null) => {
                self.fault(path, "it is missing");
                None
            }
            Some(_) => {
                self.fault(path, format!("it must be an object with the fields {}", names.join(", ")));
                None
            }
        }
    }

    fn text<'v>(&mut self, path: &str, value: Option<&'v Value>, example: &str) -> Option<&'v str> {
        let text = value.and_then(Value::as_str);
        if text.is_none() {
            let lead = if value.is_none_or(Value::is_null) { "it is missing" } else { "it is no text" };
            self.fault(path, format!("{lead}; write a text such as {example:?}"));
        }
        text
    }

    fn list<'v>(&mut self, path: &str, value: Option<&'v Value>) -> Option<&'v [Value]> {
        match value {
            None | Some(Value::Null) => None,
            Some(Value::Array(list)) => Some(list),
            Some(_) => {
                self.fault(path, "it must be a list");
                None
            }
        }
    }

    fn policy(&mut self, value: &Value, metadata: Metadata) -> Option<LocalRedirect> {
        let root = self.object("", Some(value), &["apiVersion", "kind", "metadata", "spec", "status"])?;
        if let Some(version) = root.get("apiVersion").filter(|version| version.as_str() != Some(API_VERSION)) {
            self.fault("apiVersion", format!("{version} is not known; write {API_VERSION}"));
        }
        let names = ["description", "redirectBackend", "redirectFrontend", "skipRedirectFromBackend"];
        let spec = self.object("spec", root.get("spec"), &names)?;
        match spec.get("skipRedirectFromBackend") {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(Value::Bool(true)) => self.fault(
                "spec.skipRedirectFromBackend",
                "true is not in this version: what the pods send there themselves would come back to them; leave it \
                 out if they do not, or let them use another address",
            ),
            Some(_) => self.fault("spec.skipRedirectFromBackend", "it must be true or false"),
        }
        let from = self.frontend(spec.get("redirectFrontend"), &metadata.namespace);
        let (selector, to) = self.backend(spec.get("redirectBackend"))?;
        let policy = LocalRedirect { metadata, from: from?, selector: selector?, to: to? };
        self.pairs(&policy);
        Some(policy)
    }

    /// Every port of the frontend must lead to one of the backend; a whole service's are looked at when it is known.
    fn pairs(&mut self, policy: &LocalRedirect) {
        let (matcher, ports) = match &policy.from {
            RedirectFrom::Address { ports, .. } => ("addressMatcher", ports),
            RedirectFrom::Service { ports, .. } => ("serviceMatcher", ports),
        };
        for (at, port) in ports.iter().enumerate() {
            if let Err(why) = policy.target(&port.name, port.protocol, ports.len()) {
                self.fault(format!("spec.redirectFrontend.{matcher}.toPorts[{at}]"), why);
            }
        }
    }

    fn frontend(&mut self, value: Option<&Value>, namespace: &str) -> Option<RedirectFrom> {
        let path = "spec.redirectFrontend";
        let map = self.object(path, value, &["addressMatcher", "serviceMatcher"])?;
        let there = |name: &str| map.get(name).filter(|value| !value.is_null());
        match (there("addressMatcher"), there("serviceMatcher")) {
            (Some(matcher), None) => {
                let path = "spec.redirectFrontend.addressMatcher";
                let map = self.object(path, Some(matcher), &["ip", "toPorts"])?;
                let text = self.text(&format!("{path}.ip"), map.get("ip"), "169.254.169.254");
                let ip = text.map(|text| text.trim().parse::<IpAddr>().ok().filter(is_destination));
                if ip == Some(None) {
                    let why = format!("{:?} is no unicast IP address", text.unwrap_or_default());
                    self.fault(format!("{path}.ip"), why);
                }
                let ports = self.ports(&format!("{path}.toPorts"), map.get("toPorts"), Needed::Yes);
                Some(RedirectFrom::Address { ip: ip??, ports: ports? })
            }
            (None, Some(matcher)) => {
                let path = "spec.redirectFrontend.serviceMatcher";
                let map = self.object(path, Some(matcher), &["namespace", "serviceName", "toPorts"])?;
                let name = self.text(&format!("{path}.serviceName"), map.get("serviceName"), "my-service");
                let of = self.text(&format!("{path}.namespace"), map.get("namespace"), namespace);
                if of.is_some_and(|of| of != namespace) {
                    let why = format!("it must be the policy's own, {namespace:?}");
                    self.fault(format!("{path}.namespace"), why);
                }
                let ports = self.ports(&format!("{path}.toPorts"), map.get("toPorts"), Needed::No);
                let name = ServiceName { namespace: of?.into(), name: name?.into() };
                Some(RedirectFrom::Service { name, ports: ports? })
            }
            (Some(_), Some(_)) => {
                self.fault(path, "it has both addressMatcher and serviceMatcher; leave one of them out");
                None
            }
            (None, None) => {
                self.fault(path, "it needs either addressMatcher or serviceMatcher");
                None
            }
        }
    }

    fn backend(&mut self, value: Option<&Value>) -> Option<(Option<Selector>, Option<Vec<RedirectPort>>)> {
        let path = "spec.redirectBackend";
        let map = self.object(path, value, &["localEndpointSelector", "toPorts"])?;
        let selector = self.selector("spec.redirectBackend.localEndpointSelector", map.get("localEndpointSelector"));
        Some((selector, self.ports("spec.redirectBackend.toPorts", map.get("toPorts"), Needed::Yes)))
    }

    fn ports(&mut self, path: &str, value: Option<&Value>, needed: Needed) -> Option<Vec<RedirectPort>> {
        let before = self.faults.len();
        let list = self.list(path, value).unwrap_or_default();
        if list.is_empty() && needed == Needed::Yes && self.faults.len() == before {
            self.fault(path, "at least one port is needed, such as {port: \"53\", protocol: UDP}");
        }
        let mut ports: Vec<RedirectPort> = Vec::new();
        for (at, item) in list.iter().enumerate() {
            let path = format!("{path}[{at}]");
            let Some(port) = self.port(&path, item) else { continue };
            if list.len() > 1 && port.name.is_empty() {
                self.fault(format!("{path}.name"), "it is missing; of several ports each needs a name");
            } else if list.len() > 1 && ports.iter().any(|other| other.name == port.name) {
                self.fault(format!("{path}.name"), format!("{:?} is there twice", port.name));
            }
            if ports.iter().any(|other| (other.port, other.protocol) == (port.port, port.protocol)) {
                self.fault(format!("{path}.port"), format!("{}/{} is there twice", port.port, port.protocol));
            }
            ports.push(port);
        }
        (self.faults.len() == before).then_some(ports)
    }

    fn port(&mut self, path: &str, value: &Value) -> Option<RedirectPort> {
        let map = self.object(path, Some(value), &["name", "port", "protocol"])?;
        let name = match map.get("name") {
            None | Some(Value::Null) => Some(""),
            name => self.text(&format!("{path}.name"), name, "dns"),
        };
        if name.is_some_and(|name| !name.is_empty() && !is_port_name(name)) {
            let why = "it must have letters, digits and single '-' between them, and a letter";
            self.fault(format!("{path}.name"), format!("{:?}: {why}", name.unwrap_or_default()));
        }
        let text = self.text(&format!("{path}.port"), map.get("port"), "53");
        let digits = text.filter(|text| text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0'));
        let port = digits.and_then(|text| text.parse::<u16>().ok());
        if let (Some(text), None) = (text, port) {
            self.fault(format!("{path}.port"), format!("{text:?} is no port; it must be from 1 to 65535"));
        }
        let text = self.text(&format!("{path}.protocol"), map.get("protocol"), "UDP");
        let protocol = match text {
            Some("TCP") => Some(Transport::Tcp),
            Some("UDP") => Some(Transport::Udp),
            Some(other) => {
                self.fault(format!("{path}.protocol"), format!("{other:?} is neither TCP nor UDP"));
                None
            }
            None => None,
        };
        Some(RedirectPort { name: name?.to_ascii_lowercase().into(), port: port?, protocol: protocol? })
    }

    fn selector(&mut self, path: &str, value: Option<&Value>) -> Option<Selector> {
        let before = self.faults.len();
        let map = self.object(path, value, &["matchLabels", "matchExpressions"])?;
        let mut all = Vec::new();
        match map.get("matchLabels") {
            None | Some(Value::Null) => {}
            Some(Value::Object(labels)) => {
                for (key, value) in labels {
                    if let Some(value) = self.text(&format!("{path}.matchLabels.{key}"), Some(value), "web") {
                        all.push(Requirement::equals(SelectorKey::parse(key), value));
                    }
                }
            }
            Some(_) => self.fault(format!("{path}.matchLabels"), "it must be an object of labels and their values"),
        }
        let path = format!("{path}.matchExpressions");
        for (at, item) in self.list(&path, map.get("matchExpressions")).unwrap_or_default().iter().enumerate() {
            all.extend(self.expression(&format!("{path}[{at}]"), item));
        }
        (self.faults.len() == before).then(|| all.into_iter().collect())
    }

    fn expression(&mut self, path: &str, value: &Value) -> Option<Requirement> {
        let map = self.object(path, Some(value), &["key", "operator", "values"])?;
        let key = self.text(&format!("{path}.key"), map.get("key"), "app").map(SelectorKey::parse);
        let operator = self.text(&format!("{path}.operator"), map.get("operator"), "In");
        let at = format!("{path}.values");
        let mut values: Vec<Box<str>> = Vec::new();
        for (index, value) in self.list(&at, map.get("values")).unwrap_or_default().iter().enumerate() {
            values.extend(self.text(&format!("{at}[{index}]"), Some(value), "web").map(Into::into));
        }
        let demand = match (operator?, values.is_empty()) {
            ("In", false) => Demand::In(values),
            ("NotIn", false) => Demand::NotIn(values),
            ("Exists", true) => Demand::Exists,
            ("DoesNotExist", true) => Demand::Absent,
            ("In" | "NotIn", true) => {
                self.fault(at, "the operators In and NotIn need at least one value");
                return None;
            }
            ("Exists" | "DoesNotExist", false) => {
                self.fault(at, "the operators Exists and DoesNotExist take no values; leave them out");
                return None;
            }
            (other, _) => {
                let why = format!("{other:?} is none of In, NotIn, Exists and DoesNotExist");
                self.fault(format!("{path}.operator"), why);
                return None;
            }
        };
        Some(Requirement { key: key?, demand })
    }
}

/// Whether a list may be empty.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needed {
    Yes,
    No,
}

fn is_destination(ip: &IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast()
}

/// A service name of IANA's kind, or up to four digits, as the original has it.
fn is_port_name(name: &str) -> bool {
    let single = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    let digits = name.len() <= 4 && name.bytes().all(|b| b.is_ascii_digit());
    digits || (name.split('-').all(single) && name.bytes().any(|b| b.is_ascii_alphabetic()))
}
