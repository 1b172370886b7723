//! Events as lines and as JSON, in the reference's form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use abi::event::{PolicyVerdictNotify, TraceNotify, point, reason};
use hubble_model::packet::{self, L4};
use hubble_model::text;
use serde_json::{Value, json};

use super::Event;

/// `10.0.0.1:4242 -> 10.0.0.2:80 tcp SYN`
pub(super) fn summary(bytes: &[u8]) -> String {
    let headers = packet::parse(bytes);
    let Some((source, destination)) = headers.ip else { return format!("[{} bytes]", bytes.len()) };
    let with = |ip: IpAddr, port: Option<u16>| match (ip, port) {
        (ip, None) => ip.to_string(),
        (IpAddr::V4(ip), Some(port)) => format!("{ip}:{port}"),
        (IpAddr::V6(ip), Some(port)) => format!("[{ip}]:{port}"),
    };
    let ports = headers.l4.ports();
    let ends = format!("{} -> {}", with(source, ports.map(|p| p.0)), with(destination, ports.map(|p| p.1)));
    match headers.l4 {
        L4::Tcp { flags, .. } => format!("{ends} tcp {}", text::tcp_summary(flags).trim_start_matches("TCP Flags: ")),
        L4::Udp { .. } => format!("{ends} udp"),
        L4::Sctp { .. } => format!("{ends} sctp"),
        L4::Icmp4 { kind, code } => format!("{ends} icmp {}", text::icmp4(kind, code)),
        L4::Icmp6 { kind, code } => format!("{ends} icmp {}", text::icmp6(kind, code)),
        L4::Vrrp { vrid, .. } => format!("{ends} vrrp router {vrid}"),
        L4::Igmp { .. } => format!("{ends} igmp"),
        L4::None => ends,
    }
}

fn place(trace: &TraceNotify) -> String {
    match trace.subtype {
        point::TO_ENDPOINT => format!("-> endpoint {}", trace.dst_id),
        point::TO_PROXY if trace.dst_id != 0 => format!("-> proxy port {}", trace.dst_id),
        point::TO_PROXY => "-> proxy".into(),
        point::TO_HOST => "-> host from".into(),
        point::TO_STACK => "-> stack".into(),
        point::TO_OVERLAY => "-> overlay".into(),
        point::TO_NETWORK => "-> network".into(),
        point::FROM_ENDPOINT => format!("<- endpoint {}", trace.source),
        point::FROM_PROXY => "<- proxy".into(),
        point::FROM_HOST => "<- host".into(),
        point::FROM_STACK => "<- stack".into(),
        point::FROM_OVERLAY => "<- overlay".into(),
        point::FROM_NETWORK => "<- network".into(),
        other => format!("<- point {other}"),
    }
}

fn state(trace: &TraceNotify) -> &'static str {
    match trace.reason & 0x7f {
        reason::NEW => "new",
        reason::ESTABLISHED => "established",
        reason::REPLY => "reply",
        reason::RELATED => "related",
        _ => "unknown",
    }
}

fn original(trace: &TraceNotify) -> IpAddr {
    if trace.flags & 1 != 0 {
        return IpAddr::V6(Ipv6Addr::from(trace.orig_ip));
    }
    let [a, b, c, d, ..] = trace.orig_ip;
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

fn action(verdict: &PolicyVerdictNotify) -> &'static str {
    match verdict.verdict {
        _ if verdict.flags & 0x40 != 0 => "audit",
        ..0 => "deny",
        0 => "allow",
        1.. => "redirect",
    }
}

fn direction(verdict: &PolicyVerdictNotify) -> &'static str {
    if verdict.flags & 3 == 2 { "egress" } else { "ingress" }
}

pub(super) fn line(event: &Event<'_>, name: &mut dyn FnMut(u32) -> String) -> String {
    match event {
        Event::Drop(n, packet) => format!(
            "xx drop ({}) flow {:#x} to endpoint {}, ifindex {}, file {}:{}, , identity {}->{}: {}",
            text::drop_reason_ext(n.subtype, n.ext_error),
            n.hash,
            n.dst_id,
            n.ifindex,
            text::source_file(n.file),
            n.line,
            name(n.src_label),
            name(n.dst_label),
            summary(packet)
        ),
        Event::Trace(n, packet) => format!(
            "{} flow {:#x} , identity {}->{} state {} ifindex {} orig-ip {}: {}",
            place(n),
            n.hash,
            name(n.src_label),
            name(n.dst_label),
            state(n),
            n.ifindex,
            original(n),
            summary(packet)
        ),
        Event::Verdict(n, packet) => format!(
            "Policy verdict log: flow {:#x} local EP ID {}, remote ID {}, proto {}, {}, action {}, auth: disabled, match {}, {}",
            n.hash,
            n.source,
            name(n.remote_label),
            n.proto,
            direction(n),
            action(n),
            text::policy_match(u32::from(n.flags >> 3 & 7)),
            summary(packet)
        ),
    }
}

pub(super) fn json(event: &Event<'_>, cpu: u32) -> Value {
    match event {
        Event::Drop(n, packet) => json!({
            "cpu": format!("CPU {cpu:02}:"), "type": "drop", "mark": format!("{:#x}", n.hash),
            "reason": text::drop_reason_ext(n.subtype, n.ext_error), "source": n.source, "bytes": n.orig_len,
            "srcLabel": n.src_label, "dstLabel": n.dst_label, "dstID": n.dst_id, "Line": n.line,
            "File": text::source_file(n.file), "ExtError": n.ext_error, "Ifindex": n.ifindex, "summary": summary(packet),
        }),
        Event::Trace(n, packet) => json!({
            "cpu": format!("CPU {cpu:02}:"), "type": "trace", "mark": format!("{:#x}", n.hash),
            "ifindex": n.ifindex.to_string(), "state": state(n),
            "observationPoint": text::observation_point(i32::from(n.subtype)), "traceSummary": place(n),
            "source": n.source, "bytes": n.orig_len, "srcLabel": n.src_label, "dstLabel": n.dst_label,
            "dstID": n.dst_id, "summary": summary(packet),
        }),
        Event::Verdict(n, packet) => json!({
            "cpu": format!("CPU {cpu:02}:"), "type": "policy-verdict", "mark": format!("{:#x}", n.hash),
            "source": n.source, "remoteLabel": n.remote_label, "verdict": n.verdict, "action": action(n),
            "direction": direction(n), "proto": n.proto, "dstPort": n.dst_port,
            "match": text::policy_match(u32::from(n.flags >> 3 & 7)), "summary": summary(packet),
        }),
    }
}

pub(super) fn details(event: &Event<'_>, cpu: u32) -> String {
    let (source, hash, length) = match event {
        Event::Drop(n, _) => (n.source, n.hash, n.orig_len),
        Event::Trace(n, _) => (n.source, n.hash, n.orig_len),
        Event::Verdict(n, _) => (n.source, n.hash, n.orig_len),
    };
    format!("CPU {cpu:02}: MARK {hash:#x} FROM {source}: {length} bytes")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).enumerate().map(|(at, chunk)| {
        let hex: Vec<String> = chunk.iter().map(|b| format!("{b:02x}")).collect();
        format!("{:08x}  {}", at * 16, hex.join(" "))
    });
    lines.collect::<Vec<_>>().join("\n")
}
