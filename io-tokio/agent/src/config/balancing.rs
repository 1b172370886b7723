//! What the options of load balancing mean on this host: for the core, and as constants of the programs.

use std::net::IpAddr;

use abi::config::{self, NodeConfig};
use lb::maglev::{Seed, TableSize};
use types::Cidr;

use super::{SettingsError, bad, range};
use crate::options::{Acceleration, Algorithm, Dispatch, LoadBalancing, Mode, NoBackend, Options, Xlate};

/// Ports below these belong to well-known services and to clients; node ports must not take them.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 1024..=65_534;

/// UDP port of Geneve (reference: tunnel ports).
const GENEVE_PORT: abi::be::Port = abi::be::Port::new(6081);

/// What the core is told.
pub(super) fn balancer(options: &Options, agent: &agent_core::Config) -> Result<lb::Config, SettingsError> {
    let given = &options.balancing;
    let all = given.kube_proxy_replacement;
    if given.bpf_lb_acceleration != Acceleration::Disabled && !all && !given.enable_node_port {
        let why = "there is nothing to accelerate without --enable-node-port or --kube-proxy-replacement";
        return Err(bad("bpf-lb-acceleration", why));
    }
    if given.bpf_lb_dsr_l4_xlate == Xlate::Backend && given.bpf_lb_dsr_dispatch != Dispatch::Ipip {
        let why = "backend is for packets that come by IPIP; it needs --bpf-lb-dsr-dispatch=ipip";
        return Err(bad("bpf-lb-dsr-l4-xlate", why));
    }
    let addresses = addresses(given, agent)?;
    let size = options.datapath.bpf_lb_map_max as usize;
    let node = lb::Node {
        name: agent.node_name.clone(),
        zone: given.node_zone.as_str().into(),
        addresses,
        ports: node_ports(given)?,
        ipv4: agent.ipv4.is_some(),
        ipv6: agent.ipv6.is_some(),
    };
    let mode = match given.bpf_lb_mode {
        Mode::Snat | Mode::Annotation => lb::ForwardingMode::Snat,
        Mode::Dsr => lb::ForwardingMode::Dsr,
        Mode::Hybrid => lb::ForwardingMode::Hybrid,
    };
    Ok(lb::Config {
        node,
        algorithm: algorithm(given)?,
        forwarding: mode,
        forwarding_by_service: by_service(given),
        node_ports: all || given.enable_node_port,
        external_ips: all || given.enable_external_ips,
        host_ports: all || given.enable_host_port,
        external_cluster_ip: given.bpf_lb_external_clusterip,
        session_affinity: all || given.enable_session_affinity,
        source_ranges: given.enable_svc_source_range_check,
        topology: given.enable_service_topology,
        health_checks: given.enable_health_check_nodeport,
        local_redirects: given.enable_local_redirect_policy,
        services_max: size.min(65_535),
        backends_max: size,
        slots_max: size,
        source_ranges_max: size,
        affinity_max: size,
        ..lb::Config::default()
    })
}

const fn by_service(given: &LoadBalancing) -> bool {
    given.bpf_lb_mode_annotation || matches!(given.bpf_lb_mode, Mode::Annotation)
}

fn algorithm(given: &LoadBalancing) -> Result<lb::Algorithm, SettingsError> {
    let size = TableSize::new(given.bpf_lb_maglev_table_size)
        .map_err(|why| bad("bpf-lb-maglev-table-size", why.to_string()))?;
    let seed = seed(&given.bpf_lb_maglev_hash_seed)?;
    Ok(match given.bpf_lb_algorithm {
        Algorithm::Random => lb::Algorithm::Random,
        Algorithm::Maglev => lb::Algorithm::Maglev { size, seed },
    })
}

fn seed(text: &str) -> Result<Seed, SettingsError> {
    use base64::Engine;
    let option = "bpf-lb-maglev-hash-seed";
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|why| bad(option, format!("{text:?} is no base64: {why}")))?;
    let length = bytes.len();
    let bytes = <[u8; 12]>::try_from(bytes).map_err(|_| {
        bad(option, format!("{text:?} is {length} bytes; 12 are needed (head -c12 /dev/urandom | base64 -w0)"))
    })?;
    Ok(Seed::from_bytes(bytes))
}

fn node_ports(given: &LoadBalancing) -> Result<(u16, u16), SettingsError> {
    let texts = &given.node_port_range;
    let [first, last] = texts.as_slice() else {
        let why = format!("{:?} is no first and last port, such as 30000,32767", texts.join(","));
        return Err(bad("node-port-range", why));
    };
    let port = |text: &String| {
        let port = text.trim().parse::<u16>().ok().filter(|port| NODE_PORTS.contains(port));
        port.ok_or_else(|| {
            bad("node-port-range", format!("{text:?} is not from {} to {}", NODE_PORTS.start(), NODE_PORTS.end()))
        })
    };
    match (port(first)?, port(last)?) {
        (first, last) if first < last => Ok((first, last)),
        (first, last) => Err(bad("node-port-range", format!("{first} is not below {last}"))),
    }
}

/// The node's addresses that lie in one of the given ranges.
fn addresses(given: &LoadBalancing, agent: &agent_core::Config) -> Result<Vec<IpAddr>, SettingsError> {
    let option = "nodeport-addresses";
    let ranges: Vec<Cidr> = given
        .nodeport_addresses
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| range(option, text))
        .collect::<Result<_, _>>()?;
    let families = [&agent.ipv4, &agent.ipv6];
    let all = families.into_iter().flatten().flat_map(|family| family.node_addrs.iter().copied());
    let chosen: Vec<IpAddr> =
        all.filter(|ip| ranges.is_empty() || ranges.iter().any(|range| range.contains(*ip))).collect();
    if chosen.is_empty() && !ranges.is_empty() {
        return Err(bad(option, "none of the node's addresses lies in one of these ranges"));
    }
    Ok(chosen)
}

/// Fills in what the programs are told.
pub(super) fn programs(
    options: &Options,
    agent: &agent_core::Config,
    mtu: u32,
    node: &mut NodeConfig,
) -> Result<(), SettingsError> {
    let given = &options.balancing;
    let told = &agent.lb;
    let masquerade = (
        given.enable_bpf_masquerade && given.enable_ipv4_masquerade,
        given.enable_bpf_masquerade && given.enable_ipv6_masquerade,
    );
    for (set, bit) in [
        (told.node_ports, config::LB_NODE_PORT),
        (matches!(told.algorithm, lb::Algorithm::Maglev { .. }), config::LB_MAGLEV),
        (given.bpf_lb_mode == Mode::Dsr, config::LB_DSR),
        (given.bpf_lb_mode == Mode::Hybrid, config::LB_HYBRID),
        (told.forwarding_by_service, config::LB_MODE_BY_SERVICE),
        (given.bpf_lb_dsr_dispatch == Dispatch::Ipip, config::LB_DSR_IPIP),
        (given.bpf_lb_dsr_dispatch == Dispatch::Geneve, config::LB_DSR_GENEVE),
        (given.bpf_lb_dsr_l4_xlate == Xlate::Backend, config::LB_DSR_XLATE_BACKEND),
        (told.external_cluster_ip, config::LB_EXTERNAL_CLUSTER_IP),
        (given.service_no_backend_response == NoBackend::Drop, config::LB_NO_BACKEND_DROP),
        (told.session_affinity, config::LB_AFFINITY),
        (told.source_ranges, config::LB_SOURCE_RANGES),
        (masquerade.0, config::LB_MASQUERADE_IPV4),
        (masquerade.1, config::LB_MASQUERADE_IPV6),
    ] {
        node.lb_flags |= if set { bit } else { 0 };
    }
    (node.node_port_min, node.node_port_max) = told.node.ports;
    // Source ports are allocated above the node ports, so that neither is taken for the other.
    (node.nat_port_min, node.nat_port_max) = (told.node.ports.1 + 1, u16::MAX);
    node.maglev_size = given.bpf_lb_maglev_table_size;
    let seed = seed(&given.bpf_lb_maglev_hash_seed)?;
    (node.maglev_seed_v4, node.maglev_seed_v6) = (seed.flows4, seed.flows6);
    node.direct_routing_mtu = mtu;
    node.geneve_port = GENEVE_PORT;
    let first = |family: &Option<agent_core::FamilyConfig>| family.as_ref().and_then(|f| f.node_addrs.first().copied());
    if let Some(IpAddr::V4(ip)) = preferred(agent.node_ip, first(&agent.ipv4)) {
        (node.direct_routing_ipv4, node.snat_ipv4) = (ip.into(), ip.into());
        node.masquerade_ipv4 = if masquerade.0 { ip.into() } else { Default::default() };
    }
    if let Some(IpAddr::V6(ip)) = preferred(agent.node_ip, first(&agent.ipv6)) {
        (node.direct_routing_ipv6, node.snat_ipv6) = (ip.into(), ip.into());
        node.masquerade_ipv6 = if masquerade.1 { ip.into() } else { Default::default() };
    }
    ranges(given, node)
}

/// The address by which the cluster knows the node, if it is of the family of `first`, or else that.
fn preferred(node_ip: IpAddr, first: Option<IpAddr>) -> Option<IpAddr> {
    first.map(|first| if first.is_ipv4() == node_ip.is_ipv4() { node_ip } else { first })
}

fn ranges(given: &LoadBalancing, node: &mut NodeConfig) -> Result<(), SettingsError> {
    let read = |option: &'static str, text: &str, v4: bool| match text {
        "" => Ok(None),
        text => match range(option, text)? {
            range if range.is_ipv4() == v4 => Ok(Some(range)),
            range => Err(bad(option, format!("{range} is of the other family"))),
        },
    };
    for (option, text, native) in [
        ("ipv4-native-routing-cidr", &given.ipv4_native_routing_cidr, true),
        ("bpf-lb-rss-ipv4-src-cidr", &given.bpf_lb_rss_ipv4_src_cidr, false),
    ] {
        let Some(range) = read(option, text, true)? else { continue };
        let IpAddr::V4(addr) = range.addr() else { continue };
        let mask = std::net::Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(range.bits())).unwrap_or(0));
        if native {
            (node.native_routing_ipv4, node.native_routing_mask_ipv4) = (addr.into(), mask.into());
        } else {
            (node.rss_ipv4, node.rss_mask_ipv4) = (addr.into(), mask.into());
        }
    }
    for (option, text, native) in [
        ("ipv6-native-routing-cidr", &given.ipv6_native_routing_cidr, true),
        ("bpf-lb-rss-ipv6-src-cidr", &given.bpf_lb_rss_ipv6_src_cidr, false),
    ] {
        let Some(range) = read(option, text, false)? else { continue };
        let IpAddr::V6(addr) = range.addr() else { continue };
        let mask = std::net::Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - u32::from(range.bits())).unwrap_or(0));
        if native {
            (node.native_routing_ipv6, node.native_routing_mask_ipv6) = (addr.into(), mask.into());
        } else {
            (node.rss_ipv6, node.rss_mask_ipv6) = (addr.into(), mask.into());
        }
    }
    Ok(())
}

/// Maps that `--bpf-lb-map-max` sizes.
pub(super) const MAPS: &[abi::maps::MapSpec] = &[
    abi::maps::LB4_SERVICES,
    abi::maps::LB6_SERVICES,
    abi::maps::LB4_BACKENDS,
    abi::maps::LB6_BACKENDS,
    abi::maps::LB4_REVERSE_NAT,
    abi::maps::LB6_REVERSE_NAT,
    abi::maps::LB4_MAGLEV,
    abi::maps::LB6_MAGLEV,
    abi::maps::LB4_AFFINITY,
    abi::maps::LB6_AFFINITY,
    abi::maps::LB_AFFINITY_MATCH,
    abi::maps::LB4_SOURCE_RANGE,
    abi::maps::LB6_SOURCE_RANGE,
];
