//! What ADD answers, in every version's form.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::Version;

/// A result, in the form of the newest version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniResult {
    /// Interfaces; the container's side has a sandbox.
    pub interfaces: Vec<Interface>,
    /// Addresses, IPv6 first.
    pub ips: Vec<Ip>,
    /// Routes in the container.
    pub routes: Vec<Route>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// MAC address.
    pub mac: String,
    /// Path of the container's network namespace; empty: the host's side.
    pub sandbox: String,
}

/// An address of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Address.
    pub address: IpAddr,
    /// Prefix length.
    pub bits: u8,
    /// Next hop of the default route.
    pub gateway: Option<IpAddr>,
    /// Index into [`CniResult::interfaces`].
    pub interface: Option<usize>,
}

/// A route in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination prefix.
    pub dst: (IpAddr, u8),
    /// Next hop; `None`: on the link.
    pub gw: Option<IpAddr>,
    /// MTU along it; `None`: the interface's.
    pub mtu: Option<u32>,
}

/// What is wrong with a result that was handed in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResultError {
    /// A field is missing or of another form.
    #[error("{field} must be {want}")]
    Field {
        /// Path of the field.
        field: &'static str,
        /// What it must be.
        want: &'static str,
    },
}

impl CniResult {
    /// As it goes to standard output.
    pub fn to_json(&self, version: Version) -> String {
        let mut value = if version <= Version::V0_2_0 { self.by_family() } else { self.as_lists(version) };
        value.insert("cniVersion".to_string(), json!(version.as_str()));
        Value::Object(value).to_string()
    }

    /// 0.1.0 and 0.2.0: one address of each family, its routes with it.
    fn by_family(&self) -> Map<String, Value> {
        let mut out = Map::new();
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.is_ipv4() == v4) else { continue };
            let mut family = json!({ "ip": prefix(ip.address, ip.bits) });
            if let Some(gateway) = ip.gateway {
                family["gateway"] = json!(gateway.to_string());
            }
            let routes: Vec<Value> =
                self.routes.iter().filter(|r| r.dst.0.is_ipv4() == v4).map(Route::to_value).collect();
            if !routes.is_empty() {
                family["routes"] = Value::Array(routes);
            }
            out.insert(key.to_string(), family);
        }
        out.insert("dns".to_string(), json!({}));
        out
    }

    /// 0.3.0 and later: lists. Before 1.0.0 each address says its family.
    fn as_lists(&self, version: Version) -> Map<String, Value> {
        let interface = |i: &Interface| {
            let mut value = json!({ "name": i.name });
            if !i.mac.is_empty() {
                value["mac"] = json!(i.mac);
            }
            if !i.sandbox.is_empty() {
                value["sandbox"] = json!(i.sandbox);
            }
            value
        };
        let ip = |ip: &Ip| {
            let mut value = json!({ "address": prefix(ip.address, ip.bits) });
            if version < Version::V1_0_0 {
                value["version"] = json!(if ip.address.is_ipv4() { "4" } else { "6" });
            }
            if let Some(gateway) = ip.gateway {
                value["gateway"] = json!(gateway.to_string());
            }
            if let Some(index) = ip.interface {
                value["interface"] = json!(index);
            }
            value
        };
        let mut out = Map::new();
        out.insert("interfaces".to_string(), self.interfaces.iter().map(interface).collect());
        out.insert("ips".to_string(), self.ips.iter().map(ip).collect());
        out.insert("routes".to_string(), self.routes.iter().map(Route::to_value).collect());
        out.insert("dns".to_string(), json!({}));
        out
    }

    /// Reads a result of 0.3.0 or later (CHECK, which hands results in, begins with 0.4.0).
    ///
    /// # Errors
    /// Names the field that is of another form.
    pub fn from_value(value: &Value) -> Result<Self, ResultError> {
        let wrong = |field, want| ResultError::Field { field, want };
        if !value.is_object() {
            return Err(wrong("the result", "an object"));
        }
        let list = |key, field| match value.get(key) {
            None | Some(Value::Null) => Ok(&[][..]),
            Some(Value::Array(items)) => Ok(items.as_slice()),
            Some(_) => Err(wrong(field, "a list")),
        };
        let text = |item: &Value, key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        let interfaces = list("interfaces", "interfaces")?
            .iter()
            .map(|i| match i.get("name") {
                Some(Value::String(name)) => {
                    Ok(Interface { name: name.clone(), mac: text(i, "mac"), sandbox: text(i, "sandbox") })
                }
                _ => Err(wrong("interfaces[].name", "a string")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let want_ip = "an address";
        let ips = list("ips", "ips")?
            .iter()
            .map(|ip| {
                let (address, bits) = parse_prefix(&text(ip, "address"))
                    .ok_or(wrong("ips[].address", "an address with prefix length"))?;
                let interface = match ip.get("interface") {
                    None | Some(Value::Null) => None,
                    Some(index) => Some(
                        index
                            .as_u64()
                            .and_then(|i| usize::try_from(i).ok())
                            .filter(|i| *i < interfaces.len())
                            .ok_or(wrong("ips[].interface", "the index of an interface"))?,
                    ),
                };
                Ok(Ip {
                    address,
                    bits,
                    gateway: optional_ip(ip, "gateway").ok_or(wrong("ips[].gateway", want_ip))?,
                    interface,
                })
            })
            .collect::<Result<_, _>>()?;
        let routes = list("routes", "routes")?
            .iter()
            .map(|route| {
                Ok(Route {
                    dst: parse_prefix(&text(route, "dst")).ok_or(wrong("routes[].dst", "a prefix"))?,
                    gw: optional_ip(route, "gw").ok_or(wrong("routes[].gw", want_ip))?,
                    mtu: route.get("mtu").and_then(Value::as_u64).and_then(|mtu| u32::try_from(mtu).ok()),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { interfaces, ips, routes })
    }
}

impl Route {
    fn to_value(&self) -> Value {
        let mut value = json!({ "dst": prefix(self.dst.0, self.dst.1) });
        if let Some(gw) = self.gw {
            value["gw"] = json!(gw.to_string());
        }
        if let Some(mtu) = self.mtu {
            value["mtu"] = json!(mtu);
        }
        value
    }
}

fn prefix(addr: IpAddr, bits: u8) -> String {
    alloc::format!("{addr}/{bits}")
}

fn parse_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (addr, bits) = text.split_once('/')?;
    let (addr, bits): (IpAddr, u8) = (addr.parse().ok()?, bits.parse().ok()?);
    (bits <= if addr.is_ipv4() { 32 } else { 128 }).then_some((addr, bits))
}

/// `None`: there, but no address.
fn optional_ip(value: &Value, key: &str) -> Option<Option<IpAddr>> {
    match value.get(key) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) if text.is_empty() => Some(None),
        Some(Value::String(text)) => text.parse().ok().map(Some),
        Some(_) => None,
    }
}
