//! What kube-proxy would write for so many services.

use super::{BACKEND, frontend};

/// As kube-proxy's nftables mode: one map from frontend to chain.
pub fn nftables(services: u32) -> String {
    let mut chains = String::new();
    let mut elements = Vec::new();
    for n in 1..=services {
        chains += &format!("  chain service-{n} {{ meta l4proto tcp dnat to {BACKEND}; }}\n");
        elements.push(format!("{} . tcp . 80 : goto service-{n}", frontend(n)));
    }
    format!(
        "table ip proxy {{\n{chains}  map services {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}; }}\n  \
         chain services {{ ip daddr . meta l4proto . th dport vmap @services; }}\n  \
         chain output {{ type nat hook output priority -100; jump services; }}\n}}\n",
        elements.join(", ")
    )
}

/// As kube-proxy's iptables mode: a chain of jumps, to a chain of the service, to one of its backend.
pub fn iptables(services: u32) -> String {
    let mut text = String::from("*nat\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\n:KUBE-SERVICES -\n");
    for n in 1..=services {
        text += &format!(":KUBE-SVC-{n} -\n:KUBE-SEP-{n} -\n");
    }
    text += "-A OUTPUT -j KUBE-SERVICES\n";
    for n in 1..=services {
        text += &format!("-A KUBE-SERVICES -d {}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-{n}\n", frontend(n));
        text +=
            &format!("-A KUBE-SVC-{n} -j KUBE-SEP-{n}\n-A KUBE-SEP-{n} -p tcp -j DNAT --to-destination {BACKEND}\n");
    }
    text + "COMMIT\n"
}
