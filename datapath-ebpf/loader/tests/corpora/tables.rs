//! What an engine wants the maps to hold, in their layouts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use abi::be::Port;
use abi::endpoint::{DEVICE_ENFORCE_EGRESS, DEVICE_ENFORCE_INGRESS};
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::policy::{POLICY_DENY, PolicyEntry, PolicyKey};
use abi::write::MapWrite;
use policy::{EndpointPolicy, Engine, RedirectId, Verdict, Write};
use types::{Cidr, EndpointId, NumericIdentity};

/// Redirects stand in the maps as ports of proxies: this, and the redirect's number.
const PROXY_BASE: u16 = 10_000;

/// The maps' contents, and what the agent keeps beside them.
#[derive(Debug, Default)]
pub struct Wanted {
    pub writes: Vec<MapWrite>,
    pub endpoints: BTreeMap<EndpointId, EndpointPolicy>,
    pub classes: BTreeMap<NumericIdentity, u32>,
}

impl Wanted {
    pub fn of(engine: &Engine) -> Self {
        let mut wanted = Self::default();
        for write in engine.desired() {
            match write {
                Write::PutEntry(key, value) => {
                    let entry = PolicyEntry {
                        flags: if value.verdict == Verdict::Deny { POLICY_DENY } else { 0 },
                        proxy_port: match value.verdict {
                            Verdict::Redirect(id) => Port::new(PROXY_BASE + id.as_u32() as u16),
                            _ => Port::default(),
                        },
                        lpm_prefix_length: key.l4.bits,
                        match_type: value.matched as u8,
                        cookie: value.cookie.as_u32(),
                        ..PolicyEntry::default()
                    };
                    let (policy, class) = (key.policy.as_u32(), key.class.as_u32());
                    let port = Port::new(key.l4.port);
                    let key = PolicyKey::entry(policy, class, key.direction as u8, key.l4.protocol, port, key.l4.bits);
                    wanted.writes.push(MapWrite::Policy(key, Some(entry)));
                }
                Write::PutPrefix(prefix, identity, class) => {
                    wanted.writes.push(peer(&prefix, identity, class.as_u32()));
                }
                Write::PutIdentity(identity, class) => {
                    wanted.classes.insert(identity, class.as_u32());
                }
                Write::PutEndpoint(id, policy) => {
                    wanted.endpoints.insert(id, policy);
                }
                other => panic!("{other:?} is no part of a desired state"),
            }
        }
        wanted
    }
}

/// An entry of the ipcache.
pub fn peer(prefix: &Cidr, identity: NumericIdentity, class: u32) -> MapWrite {
    let bits = u32::from(prefix.bits());
    let key = match prefix.addr() {
        IpAddr::V4(ip) => IpcacheKey::v4(ip.into(), bits),
        IpAddr::V6(ip) => IpcacheKey::v6(ip.into(), bits),
    };
    let entry = IpcacheEntry { identity: identity.as_u32(), class, ..IpcacheEntry::default() };
    MapWrite::Ipcache(key, Some(entry))
}

/// `DEVICE_*` bits of how an endpoint is judged.
pub fn flags(policy: &EndpointPolicy) -> u16 {
    let mut flags = 0;
    if policy.ingress {
        flags |= DEVICE_ENFORCE_INGRESS;
    }
    if policy.egress {
        flags |= DEVICE_ENFORCE_EGRESS;
    }
    flags
}

/// The verdict behind the port of a proxy; 0: none.
pub fn passed(proxy_port: u16) -> Verdict {
    match proxy_port {
        0 => Verdict::Allow,
        port => Verdict::Redirect(RedirectId::from_u32(u32::from(port - PROXY_BASE))),
    }
}
