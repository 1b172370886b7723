//! What the maps say about an endpoint.

use alloc::vec::Vec;

use abi::endpoint as layout;
use abi::write::MapWrite;
use endpoint::Endpoint;
use types::MacAddr;

use crate::agent::Agent;

impl Agent {
    /// The entry of an endpoint's device; `None` while nothing may pass.
    pub(crate) fn device(&self, endpoint: &Endpoint, judged: policy::EndpointPolicy) -> Option<MapWrite> {
        let identity = endpoint.identity?;
        if self.progress.get(&endpoint.id).is_none_or(|progress| progress.leaving || !progress.attached) {
            return None;
        }
        let spec = &endpoint.spec;
        let mut flags = 0;
        for (set, flag) in [
            (judged.ingress, layout::DEVICE_ENFORCE_INGRESS),
            (judged.egress, layout::DEVICE_ENFORCE_EGRESS),
            (judged.audit, layout::DEVICE_AUDIT),
            (spec.source_check == endpoint::SourceCheck::Disabled, layout::DEVICE_ANY_SOURCE),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let device = layout::Device {
            identity: identity.as_u32(),
            policy: self.numbers.policy(judged.policy),
            lxc_id: endpoint.id.as_u16(),
            flags,
            ipv4: spec.ipv4.map(Into::into).unwrap_or_default(),
            ipv6: spec.ipv6.map(Into::into).unwrap_or_default(),
            mac: wide(spec.mac),
            node_mac: wide(spec.host_mac),
        };
        Some(MapWrite::Device(spec.ifindex, Some(device)))
    }
}

/// An Ethernet address and two zero bytes.
const fn wide(mac: MacAddr) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.0;
    [a, b, c, d, e, f, 0, 0]
}

/// Where an endpoint's addresses live.
pub(crate) fn lxc_entries(endpoint: &Endpoint) -> Vec<MapWrite> {
    let Some(identity) = endpoint.identity else { return Vec::new() };
    let spec = &endpoint.spec;
    let info = layout::EndpointInfo {
        ifindex: spec.ifindex,
        lxc_id: endpoint.id.as_u16(),
        identity: identity.as_u32(),
        mac: wide(spec.mac),
        node_mac: wide(spec.host_mac),
        ..layout::EndpointInfo::default()
    };
    spec.addresses().map(|addr| MapWrite::Lxc(layout::EndpointKey::new(addr), Some(info))).collect()
}
