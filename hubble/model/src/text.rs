//! The words of the monitor and of flows: drop reasons, observation points, ICMP types.

use alloc::{
    format,
    string::{String, ToString},
};
use hubble_api::flow::DropReason;

/// The text of a drop code, as monitor, metrics and command line show it.
pub fn drop_reason(code: u8) -> Option<&'static str> {
    Some(match code {
        0 => "Success",
        2 => "Invalid packet",
        3 => "Interface",
        4 => "Interface Decrypted",
        5 => "LB, sock cgroup: No backend slot entry found",
        6 => "LB, sock cgroup: No backend entry found",
        7 => "LB, sock cgroup: Reverse entry update failed",
        8 => "LB, sock cgroup: Reverse entry stale",
        9 => "Fragmented packet",
        10 => "Fragmented packet entry update failed",
        11 => "Missed tail call to custom program",
        12 => "Interface Decrypting",
        13 => "Interface Encrypting",
        14 => "LB: sock cgroup: Reverse entry delete succeeded",
        15 => "MTU error message",
        130 => "Invalid source mac",
        131 => "Invalid destination mac",
        132 => "Invalid source ip",
        133 => "Policy denied",
        134 => "Invalid packet",
        135 => "CT: Truncated or invalid header",
        136 => "Fragmentation needed",
        137 => "CT: Unknown L4 protocol",
        138 => "CT: Can't create entry from packet",
        139 => "Unsupported L3 protocol",
        140 => "Missed tail call",
        141 => "Error writing to packet",
        142 => "Unknown L4 protocol",
        143 => "Unknown ICMPv4 code",
        144 => "Unknown ICMPv4 type",
        145 => "Unknown ICMPv6 code",
        146 => "Unknown ICMPv6 type",
        147 => "Error retrieving tunnel key",
        148 => "Error retrieving tunnel options",
        149 => "Invalid Geneve option",
        150 => "Unknown L3 target address",
        151 => "Stale or unroutable IP",
        152 => "No matching local container found",
        153 => "Error while correcting L3 checksum",
        154 => "Error while correcting L4 checksum",
        155 => "CT: Map insertion failed",
        156 => "Invalid IPv6 extension header",
        157 => "IP fragmentation not supported",
        158 => "Service backend not found",
        160 => "No tunnel/encapsulation endpoint (datapath BUG!)",
        161 => "NAT 46/64 not enabled",
        162 => "Reached EDT rate-limiting drop horizon",
        163 => "Unknown connection tracking state",
        164 => "Local host is unreachable",
        165 => "No configuration available to perform policy decision",
        166 => "Unsupported L2 protocol",
        167 => "No mapping for NAT masquerade",
        168 => "Unsupported protocol for NAT masquerade",
        169 => "FIB lookup failed",
        170 => "Encapsulation traffic is prohibited",
        171 => "Invalid identity",
        172 => "Unknown sender",
        173 => "NAT not needed",
        174 => "Is a ClusterIP",
        175 => "First logical datagram fragment not found",
        176 => "Forbidden ICMPv6 message",
        177 => "Denied by LB src range check",
        178 => "Socket lookup failed",
        179 => "Socket assign failed",
        180 => "Proxy redirection not supported for protocol",
        181 => "Policy denied by denylist",
        182 => "VLAN traffic disallowed by VLAN filter",
        183 => "Incorrect VNI from VTEP",
        184 => "Failed to update or lookup TC buffer",
        185 => "No SID was found for the IP address",
        186 => "SRv6 state was removed during tail call",
        187 => "L3 translation from IPv4 to IPv6 failed (NAT46)",
        188 => "L3 translation from IPv6 to IPv4 failed (NAT64)",
        189 => "Authentication required",
        190 => "No conntrack map found",
        191 => "No nat map found",
        192 => "Invalid ClusterID",
        193 => "Unsupported packet protocol for DSR encapsulation",
        194 => "No egress gateway found",
        195 => "Traffic is unencrypted",
        196 => "TTL exceeded",
        197 => "No node ID found",
        198 => "Rate limited",
        199 => "IGMP handled",
        200 => "IGMP subscribed",
        201 => "Multicast handled",
        202 => "Host datapath not ready",
        203 => "Endpoint policy program not available",
        204 => "No Egress IP configured",
        205 => "Punt to proxy",
        _ => return None,
    })
}

/// The text of a drop code with a helper's error behind it; unknown codes are shown as numbers.
pub fn drop_reason_ext(code: u8, error: i8) -> String {
    match (drop_reason(code), error) {
        (Some(text), 0) => text.into(),
        (Some(text), error) => format!("{text}, {error}"),
        (None, error) => format!("{code}, {error}"),
    }
}

/// `DropReason` of a drop code; 0 when the enum has none.
pub fn drop_reason_enum(code: u8) -> i32 {
    DropReason::try_from(i32::from(code)).map_or(0, |reason| reason as i32)
}

/// Observation points as the monitor numbers them.
const POINTS: [&str; 14] = [
    "to-endpoint",
    "to-proxy",
    "to-host",
    "to-stack",
    "to-overlay",
    "from-endpoint",
    "from-proxy",
    "from-host",
    "from-stack",
    "from-overlay",
    "from-network",
    "to-network",
    "from-crypto",
    "to-crypto",
];

/// The name of an observation point by the monitor's number.
pub fn observation_point(number: i32) -> Option<&'static str> {
    usize::try_from(number).ok().and_then(|number| POINTS.get(number).copied())
}

/// The monitor's number of an observation point.
pub fn observation_point_number(name: &str) -> Option<i32> {
    POINTS.iter().position(|point| *point == name).and_then(|at| i32::try_from(at).ok())
}

/// The name of what a deciding rule named.
pub fn policy_match(number: u32) -> &'static str {
    match number {
        0 => "none",
        1 => "L3-Only",
        2 => "L3-L4",
        3 => "L4-Only",
        4 => "all",
        5 => "L3-Proto",
        6 => "Proto-Only",
        _ => "unknown",
    }
}

/// The file of the datapath behind a file id.
pub fn source_file(id: u8) -> String {
    match id {
        1 => "bpf_host.c",
        2 => "bpf_lxc.c",
        3 => "bpf_overlay.c",
        4 => "bpf_xdp.c",
        5 => "bpf_sock.c",
        6 => "bpf_network.c",
        7 => "bpf_wireguard.c",
        101 => "arp.h",
        102 => "drop.h",
        103 => "srv6.h",
        104 => "icmp6.h",
        105 => "nodeport.h",
        106 => "lb.h",
        107 => "mcast.h",
        108 => "ipv4.h",
        109 => "conntrack.h",
        110 => "l3.h",
        111 => "trace.h",
        112 => "encap.h",
        113 => "encrypt.h",
        114 => "host_firewall.h",
        _ => return format!("unknown({id})"),
    }
    .to_string()
}

/// Names of reserved identities.
pub fn reserved_identity(identity: u32) -> Option<&'static str> {
    Some(match identity {
        0 => "unknown",
        1 => "host",
        2 => "world",
        3 => "unmanaged",
        4 => "health",
        5 => "init",
        6 => "remote-node",
        7 => "kube-apiserver",
        8 => "ingress",
        9 => "world-ipv4",
        10 => "world-ipv6",
        _ => return None,
    })
}

/// TCP flags in the order summaries list them: bit on the wire, name.
const FLAGS: [(u16, &str); 9] =
    [(1, "SYN"), (4, "ACK"), (2, "RST"), (0, "FIN"), (3, "PSH"), (5, "URG"), (6, "ECE"), (7, "CWR"), (8, "NS")];

/// `TCP Flags: SYN, ACK`.
pub fn tcp_summary(bits: u16) -> String {
    let mut text = String::from("TCP Flags: ");
    let mut first = true;
    for (bit, name) in FLAGS {
        if bits >> bit & 1 == 1 {
            if !first {
                text.push_str(", ");
            }
            first = false;
            text.push_str(name);
        }
    }
    text
}

fn with_code(name: &str, codes: Option<&[&str]>, code: u8) -> String {
    match codes {
        None if code == 0 => name.into(),
        Some(codes) => match codes.get(usize::from(code)) {
            Some(text) => format!("{name}({text})"),
            None => format!("{name}(Code: {code})"),
        },
        None => format!("{name}(Code: {code})"),
    }
}

/// An ICMP type and code in words, such as `DestinationUnreachable(Port)`.
pub fn icmp4(kind: u8, code: u8) -> String {
    const UNREACHABLE: [&str; 16] = [
        "Net",
        "Host",
        "Protocol",
        "Port",
        "FragmentationNeeded",
        "SourceRoutingFailed",
        "NetUnknown",
        "HostUnknown",
        "SourceIsolated",
        "NetAdminProhibited",
        "HostAdminProhibited",
        "NetTOS",
        "HostTOS",
        "CommAdminProhibited",
        "HostPrecedence",
        "PrecedenceCutoff",
    ];
    let (name, codes): (_, Option<&[&str]>) = match kind {
        0 => ("EchoReply", None),
        3 => ("DestinationUnreachable", Some(&UNREACHABLE)),
        4 => ("SourceQuench", None),
        5 => ("Redirect", Some(&["Net", "Host", "TOS+Net", "TOS+Host"])),
        8 => ("EchoRequest", None),
        9 => ("RouterAdvertisement", None),
        10 => ("RouterSolicitation", None),
        11 => ("TimeExceeded", Some(&["TTLExceeded", "FragmentReassemblyTimeExceeded"])),
        12 => ("ParameterProblem", Some(&["PointerIndicatesError", "MissingOption", "BadLength"])),
        13 => ("TimestampRequest", None),
        14 => ("TimestampReply", None),
        15 => ("InfoRequest", None),
        16 => ("InfoReply", None),
        17 => ("AddressMaskRequest", None),
        18 => ("AddressMaskReply", None),
        _ => return format!("{kind}({code})"),
    };
    with_code(name, codes, code)
}

/// An ICMPv6 type and code in words, such as `EchoRequest`.
pub fn icmp6(kind: u8, code: u8) -> String {
    const UNREACHABLE: [&str; 7] = [
        "NoRouteToDst",
        "AdminProhibited",
        "BeyondScopeOfSrc",
        "Address",
        "Port",
        "SrcAddressFailedPolicy",
        "RejectRoute",
    ];
    let (name, codes): (_, Option<&[&str]>) = match kind {
        1 => ("DestinationUnreachable", Some(&UNREACHABLE)),
        2 => ("PacketTooBig", None),
        3 => ("TimeExceeded", Some(&["HopLimitExceeded", "FragmentReassemblyTimeExceeded"])),
        4 => ("ParameterProblem", Some(&["ErroneousHeader", "UnrecognizedNextHeader", "UnrecognizedIPv6Option"])),
        128 => ("EchoRequest", None),
        129 => ("EchoReply", None),
        130 => ("MLDv1MulticastListenerQueryMessage", None),
        131 => ("MLDv1MulticastListenerReportMessage", None),
        132 => ("MLDv1MulticastListenerDoneMessage", None),
        133 => ("RouterSolicitation", None),
        134 => ("RouterAdvertisement", None),
        135 => ("NeighborSolicitation", None),
        136 => ("NeighborAdvertisement", None),
        137 => ("Redirect", None),
        143 => ("MLDv2MulticastListenerReportMessageV2", None),
        _ => return format!("{kind}({code})"),
    };
    with_code(name, codes, code)
}

/// The name of a DNS record type; `TYPE` and the number when it has none.
pub fn dns_type(number: u16) -> String {
    let name = match number {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        13 => "HINFO",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        29 => "LOC",
        33 => "SRV",
        35 => "NAPTR",
        39 => "DNAME",
        41 => "OPT",
        43 => "DS",
        44 => "SSHFP",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        50 => "NSEC3",
        51 => "NSEC3PARAM",
        52 => "TLSA",
        64 => "SVCB",
        65 => "HTTPS",
        99 => "SPF",
        251 => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        256 => "URI",
        257 => "CAA",
        _ => return format!("TYPE{number}"),
    };
    name.into()
}

/// A DNS response code in words.
pub fn dns_rcode(code: u32) -> &'static str {
    match code {
        0 => "No Error",
        1 => "Format Error",
        2 => "Server Failure",
        3 => "Non-Existent Domain",
        4 => "Not Implemented",
        5 => "Query Refused",
        6 => "Name Exists when it should not",
        7 => "RR Set Exists when it should not",
        8 => "RR Set that should exist does not",
        9 => "Server Not Authoritative for zone",
        10 => "Name not contained in zone",
        16 => "Bad OPT Version",
        17 => "Key not recognized",
        18 => "Signature out of time window",
        19 => "Bad TKEY Mode",
        20 => "Duplicate key name",
        21 => "Algorithm not supported",
        22 => "Bad Truncation",
        23 => "Bad/missing Server Cookie",
        _ => "Unknown",
    }
}

/// Reads a duration such as `1h43m` or `-1.5s`; nanoseconds. The error is the original's.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (whole, fraction) = rest[..end].split_once('.').unwrap_or((&rest[..end], ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale: i128 = match &rest[..end] {
            "" => return Err(format!("time: missing unit in duration {}", quote(text))),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            unit => return Err(format!("time: unknown unit {} in duration {}", quote(unit), quote(text))),
        };
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total += i128::from(whole) * scale + part_of(fraction, scale);
        rest = &rest[end..];
    }
    let total = if negative { -total } else { total };
    i64::try_from(total).map_err(|_| invalid())
}

/// A decimal fraction of a unit; digits beyond what a unit can be divided into say nothing.
fn part_of(fraction: &str, scale: i128) -> i128 {
    let digits = &fraction[..fraction.len().min(15)];
    let number = digits.bytes().fold(0_i128, |number, digit| number * 10 + i128::from(digit - b'0'));
    number * scale / 10_i128.pow(u32::try_from(digits.len()).expect("at most fifteen"))
}

/// A duration as the original prints it: `1h2m3.5s`, `250ms`, `0s`.
pub fn show_duration(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    let fraction = |whole: u64, part: u64, digits: usize| {
        let part = format!("{part:0digits$}");
        let part = part.trim_end_matches('0');
        if part.is_empty() { format!("{whole}") } else { format!("{whole}.{part}") }
    };
    match ns {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{ns}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(ns / 1_000, ns % 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(ns / 1_000_000, ns % 1_000_000, 6)),
        _ => {
            let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
            let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
            let seconds = fraction(seconds % 60, nanos, 9);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, _) => format!("{sign}{minutes}m{seconds}s"),
                _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// A text in double quotes with escapes, as the original quotes it.
pub fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
