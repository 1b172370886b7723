//! `bpf-check OBJECT`: loads every program of an object and prints the verifier's figures as a JSON list.
//! Exit status 0: all load; 1: one is refused; 2: nothing could be tried.

use std::{path::Path, process::ExitCode};

use abi::config::{
    DEFAULT_LIFETIMES, LB_AFFINITY, LB_DSR_GENEVE, LB_DSR_IPIP, LB_HYBRID, LB_IP_MASQ_AGENT, LB_MAGLEV,
    LB_MASQUERADE_IPV4, LB_MASQUERADE_IPV6, LB_NODE_PORT, LB_SOURCE_RANGES, NODE_TRACK_FRAGMENTS, NodeConfig,
};
use loader::{Inspection, LoadError, inspect};

/// Constants with both families on, so that no branch is pruned for lack of an address.
fn node() -> NodeConfig {
    NodeConfig {
        router_ipv4: std::net::Ipv4Addr::new(10, 0, 0, 1).into(),
        router_ipv6: std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
        world_ipv4: 9,
        world_ipv6: 10,
        mtu: 1500,
        flags: NODE_TRACK_FRAGMENTS
            | abi::config::NODE_HOST_ROUTING
            | abi::config::NODE_POLICY_VERDICTS
            | abi::config::NODE_ALLOW_LOCALHOST
            | abi::config::NODE_SOCK_HOST_ONLY
            | abi::config::NODE_BIND_PROTECTION
            | abi::config::NODE_TRACE_SOCK,
        report_interval: 5,
        report_tcp_flags: 0xff,
        capture_len: 128,
        lifetimes: DEFAULT_LIFETIMES,
        lb_flags: LB_NODE_PORT
            | LB_MAGLEV
            | LB_HYBRID
            | LB_DSR_IPIP
            | LB_AFFINITY
            | LB_SOURCE_RANGES
            | LB_MASQUERADE_IPV4
            | LB_MASQUERADE_IPV6
            | LB_IP_MASQ_AGENT,
        nat_port_min: 32768,
        nat_port_max: 65535,
        maglev_size: abi::lb::MAGLEV_SIZE_DEFAULT,
        snat_ipv4: std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
        snat_ipv6: std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ..NodeConfig::default()
    }
}

/// What the programs cost, in whichever configuration each costs most: one that reports every packet, one in which
/// packets of known connections take the short way, or one in which backends are told of frontends by options, or by Geneve.
fn dearest(object: &Path) -> Result<Vec<Inspection>, LoadError> {
    let mut programs = inspect(object, &node())?;
    let quiet = NodeConfig { monitor_aggregation: 3, ..node() };
    let by_option = NodeConfig { lb_flags: node().lb_flags & !LB_DSR_IPIP, ..node() };
    let by_geneve =
        NodeConfig { lb_flags: by_option.lb_flags | LB_DSR_GENEVE, geneve_port: abi::be::Port::new(6081), ..node() };
    let others = [inspect(object, &quiet)?, inspect(object, &by_option)?, inspect(object, &by_geneve)?];
    for other in others.into_iter().flatten() {
        let cost = |program: &Inspection| program.outcome.as_ref().map_or(u64::MAX, |of| of.figures.verified_insns);
        match programs.iter_mut().find(|program| program.program == other.program) {
            Some(known) if cost(known) >= cost(&other) => {}
            Some(known) => *known = other,
            None => programs.push(other),
        }
    }
    Ok(programs)
}

fn main() -> ExitCode {
    let Some(object) = std::env::args_os().nth(1) else {
        eprintln!("usage: bpf-check OBJECT");
        return ExitCode::from(2);
    };
    match dearest(Path::new(&object)) {
        Ok(programs) => {
            let list: Vec<String> = programs.iter().map(json).collect();
            println!("[{}]", list.join(","));
            let refused: Vec<_> =
                programs.iter().filter_map(|p| Some((&p.program, p.outcome.as_ref().err()?))).collect();
            for (program, rejection) in &refused {
                eprintln!("bpf-check: the kernel refused program {program}: {rejection}");
            }
            if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            eprintln!("bpf-check: {error}");
            ExitCode::from(2)
        }
    }
}

fn json(inspection: &Inspection) -> String {
    let head = format!("\"program\":{},\"object_insns\":{}", quote(&inspection.program), inspection.object_insns);
    match &inspection.outcome {
        Ok(loaded) => format!(
            "{{{head},\"verified\":{},\"stack\":{},\"peak_states\":{},\"verification_us\":{},\"xlated_bytes\":{},\
             \"jited_bytes\":{}}}",
            loaded.figures.verified_insns,
            loaded.figures.stack_bytes,
            loaded.figures.peak_states,
            loaded.figures.verification_us,
            loaded.xlated_bytes,
            loaded.jited_bytes
        ),
        Err(rejection) => format!("{{{head},\"error\":{}}}", quote(&rejection.to_string())),
    }
}

/// A JSON string. Written by hand so that the tool stays small enough for a guest kernel's first file system.
fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
