use abi::event::{DropRecord, PolicyVerdictRecord, TraceRecord, point};
use clap::Parser;
use zerocopy::IntoBytes;

use super::*;
use crate::arguments::Command;

/// An IPv4 SYN from 10.0.0.1:4242 to 10.0.0.2:80.
fn syn() -> [u8; 54] {
    let mut packet = [0; 54];
    packet[12] = 0x08;
    packet[14] = 0x45;
    packet[23] = 6;
    packet[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet[34..38].copy_from_slice(&[0x10, 0x92, 0, 80]);
    packet[46] = 0x50;
    packet[47] = 0x02;
    packet
}

fn drop_record() -> DropRecord {
    let mut record = DropRecord::default();
    let n = &mut record.notify;
    (n.kind, n.subtype, n.source, n.dst_id, n.cap_len) = (NOTIFY_DROP, 133, 7, 9, 54);
    (n.src_label, n.dst_label, n.hash, n.ifindex) = (2000, 1, 0xab, 3);
    record.payload[..54].copy_from_slice(&syn());
    record
}

fn options(line: &str) -> MonitorOptions {
    let words = ["cilium", "monitor"].into_iter().chain(line.split_whitespace());
    match Arguments::parse_from(words).command {
        Command::Monitor(options) => options,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_drop_is_a_line_and_an_object() {
    let record = drop_record();
    let event = Event::read(record.as_bytes()).expect("a record");
    assert_eq!(
        text::line(&event, &mut |identity| identity.to_string()),
        "xx drop (Policy denied) flow 0xab to endpoint 9, ifindex 3, file unknown(0):0, , identity 2000->1: 10.0.0.1:4242 -> 10.0.0.2:80 tcp SYN"
    );
    let value = text::json(&event, 1);
    assert_eq!((&value["type"], &value["reason"]), (&"drop".into(), &"Policy denied".into()));
}

#[test]
fn a_trace_and_a_verdict_are_lines() {
    let mut record = TraceRecord::default();
    let n = &mut record.notify;
    (n.kind, n.subtype, n.source, n.dst_id, n.version, n.cap_len) = (NOTIFY_TRACE, point::TO_ENDPOINT, 7, 9, 1, 54);
    record.payload[..54].copy_from_slice(&syn());
    let event = Event::read(record.as_bytes()).expect("a record");
    let line = text::line(&event, &mut |identity| identity.to_string());
    assert!(
        line.starts_with("-> endpoint 9 flow 0x0 , identity 0->0 state new ifindex 0 orig-ip 0.0.0.0: 10.0.0.1:4242"),
        "{line}"
    );

    let mut record = PolicyVerdictRecord::default();
    let n = &mut record.notify;
    (n.kind, n.source, n.verdict, n.proto, n.flags, n.cap_len) = (NOTIFY_POLICY_VERDICT, 7, -133, 6, 0b1_0001, 54);
    let event = Event::read(record.as_bytes()).expect("a record");
    let line = text::line(&event, &mut |identity| identity.to_string());
    assert!(
        line.contains("local EP ID 7, remote ID 0, proto 6, ingress, action deny, auth: disabled, match L3-L4"),
        "{line}"
    );
}

#[test]
fn filters_must_all_agree() {
    let record = drop_record();
    let event = Event::read(record.as_bytes()).expect("a record");
    for (line, want) in [
        ("", true),
        ("--from 7", true),
        ("--from 8", false),
        ("--to 9", true),
        ("--from 7 --to 8", false),
        ("--related-to 9", true),
        ("--related-to 8,7", true),
        ("-t drop", true),
        ("-t trace,policy-verdict", false),
        ("-t drop --related-to 1", false),
    ] {
        assert_eq!(is_wanted(&options(line), &event), want, "{line}");
    }
}

#[test]
fn a_record_cut_short_is_no_event() {
    let record = drop_record();
    for length in 0..size_of::<Prefix>() + size_of::<DropNotify>() {
        assert!(Event::read(&record.as_bytes()[..length]).is_none(), "{length}");
    }
}
