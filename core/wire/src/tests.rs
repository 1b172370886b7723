use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::vec;
use std::vec::Vec;

use bolero::{TypeGenerator, check};

use crate::{Icmp, Sctp, Tcp, Udp, WireError, arp, checksum, ethernet, ipv4, ipv6, protocol};

extern crate std;

const A4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const B4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const A6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
const B6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));

/// The worked example of RFC 1071, section 3.
#[test]
fn the_checksum_is_that_of_rfc_1071() {
    let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(checksum::finish(checksum::sum(&data)), !0xddf2);
    assert_eq!(checksum::sum(&[1]), 0x100);
}

#[test]
fn a_real_header_is_read() {
    // ping 192.0.2.1 from 192.0.2.2, as Linux sends it.
    let header = [0x45, 0x00, 0x00, 0x54, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x01, 0x9a, 0x5f, 192, 0, 2, 2, 192, 0, 2, 1];
    let mut packet = header.to_vec();
    packet.resize(0x54 + 3, 0);
    let (ip, payload) = ipv4::Header::parse(&packet).expect("it is whole");
    assert_eq!((ip.src, ip.dst), (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!((ip.ttl, ip.protocol, ip.dont_fragment, ip.id), (64, protocol::ICMP, true, 0x1c46));
    assert_eq!(payload.len(), 64, "what comes after the datagram is not its payload");
    packet[8] = 63;
    assert_eq!(ipv4::Header::parse(&packet), Err(WireError::Checksum { what: "IPv4" }));
}

#[test]
fn what_is_wrong_is_named() {
    let name = |result: Result<(), WireError>| std::string::ToString::to_string(&result.expect_err("it is wrong"));
    assert_eq!(name(ethernet::Header::parse(&[0; 13]).map(drop)), "Ethernet needs 14 bytes, there are 13");
    assert_eq!(name(ipv4::Header::parse(&[0x65; 20]).map(drop)), "IPv4: version cannot be 6");
    assert_eq!(name(ipv4::Header::parse(&[0x44; 20]).map(drop)), "IPv4: header length cannot be 16");
    assert_eq!(name(ipv6::Header::parse(&[0x45; 40]).map(drop)), "IPv6: version cannot be 4");
    assert_eq!(name(Tcp::parse(&[0; 20], A4, B4).map(drop)), "TCP: data offset cannot be 0");
    let odd = ipv4::Header { options: &[0; 3], ..header4() };
    assert_eq!(name(odd.emit(&mut [0; 64]).map(drop)), "IPv4: options length cannot be 3");
}

fn header4<'a>() -> ipv4::Header<'a> {
    ipv4::Header {
        tos: 0,
        id: 7,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: protocol::UDP,
        src: Ipv4Addr::new(10, 0, 0, 1),
        dst: Ipv4Addr::new(10, 0, 0, 2),
        options: &[],
        payload_len: 0,
    }
}

#[test]
fn a_datagram_without_checksum_is_one_over_ipv4_only() {
    let mut out = [0; 12];
    Udp { sport: 1, dport: 2 }.emit(&mut out, b"data", A4, B4).expect("it fits");
    out[6..8].fill(0);
    assert!(Udp::parse(&out, A4, B4).is_ok());
    assert_eq!(Udp::parse(&out, A6, B6), Err(WireError::Checksum { what: "UDP" }));
}

/// No bytes make a parser panic, and what parses emits to the bytes it came from.
#[test]
fn what_parses_emits_to_the_same_bytes() {
    check!().with_type::<Vec<u8>>().for_each(|bytes| {
        if let Ok((header, rest)) = ethernet::Header::parse(bytes) {
            let mut out = vec![0; bytes.len()];
            header.emit(&mut out).expect("as long").copy_from_slice(rest);
            assert_eq!(&out, bytes);
        }
        if let Ok((message, rest)) = arp::Message::parse(bytes) {
            let mut out = vec![0; bytes.len()];
            message.emit(&mut out).expect("as long").copy_from_slice(rest);
            assert_eq!(&out, bytes);
        }
        if let Ok((header, payload)) = ipv4::Header::parse(bytes) {
            let len = header.header_len();
            let mut out = vec![0; len + payload.len()];
            header.emit(&mut out).expect("as long").copy_from_slice(payload);
            // Two ways to write a sum of zero: everything else must be the same.
            out[10..12].copy_from_slice(&bytes[10..12]);
            assert_eq!(out, bytes[..out.len()]);
        }
        if let Ok((header, payload)) = ipv6::Header::parse(bytes) {
            let mut out = vec![0; ipv6::LEN + payload.len()];
            header.emit(&mut out).expect("as long").copy_from_slice(payload);
            assert_eq!(out, bytes[..out.len()]);
        }
        for kind in [protocol::HOP_BY_HOP, protocol::FRAGMENT] {
            if let Ok(Some((extension, rest))) = ipv6::Extension::parse(kind, bytes) {
                let mut out = vec![0; bytes.len()];
                extension.emit(&mut out).expect("as long").copy_from_slice(rest);
                if kind == protocol::FRAGMENT {
                    // Reserved bits.
                    out[1] = bytes[1];
                    out[3] |= bytes[3] & 6;
                }
                assert_eq!(&out, bytes);
            }
        }
        if let Ok((header, rest)) = Sctp::parse(bytes) {
            let mut out = vec![0; bytes.len()];
            header.emit(&mut out).expect("as long").copy_from_slice(rest);
            assert_eq!(&out, bytes);
        }
        let _ = (Tcp::parse(bytes, A4, B4), Udp::parse(bytes, A6, B6), Icmp::parse(bytes, None));
    });
}

/// A packet of any kind this crate can write.
#[derive(Debug, TypeGenerator)]
struct Any {
    v6: bool,
    kind: u8,
    sport: u16,
    dport: u16,
    seq: u32,
    flags: u8,
    window: u16,
    options: [[u8; 4]; 3],
    option_words: u8,
    data: Vec<u8>,
}

/// What is emitted parses to the value it came from, and any single bit error in it is noticed.
#[test]
fn what_is_emitted_parses_to_the_same_value() {
    check!().with_type::<(Any, u16)>().for_each(|(any, flip)| {
        let (src, dst) = if any.v6 { (A6, B6) } else { (A4, B4) };
        let options = any.options.as_flattened();
        let options = &options[..usize::from(any.option_words % 4) * 4];
        let data = &any.data[..any.data.len().min(1400)];
        match any.kind % 3 {
            0 => {
                let tcp = Tcp {
                    sport: any.sport,
                    dport: any.dport,
                    seq: any.seq,
                    ack: !any.seq,
                    flags: any.flags,
                    window: any.window,
                    urgent: any.window / 2,
                    options,
                };
                let mut out = vec![0; tcp.header_len() + data.len()];
                tcp.emit(&mut out, data, src, dst).expect("it fits");
                assert_eq!(Tcp::parse(&out, src, dst), Ok((tcp, data)));
                broken(&mut out, *flip);
                assert!(Tcp::parse(&out, src, dst).is_err());
            }
            1 => {
                let udp = Udp { sport: any.sport, dport: any.dport };
                let mut out = vec![0; Udp::LEN + data.len()];
                udp.emit(&mut out, data, src, dst).expect("it fits");
                assert_eq!(Udp::parse(&out, src, dst), Ok((udp, data)));
                let absent = out[6..8] == [0, 0];
                assert!(!absent, "a sum of zero is written as all ones");
            }
            _ => {
                let icmp = Icmp { kind: any.flags, code: any.option_words, rest: any.seq.to_be_bytes() };
                let pseudo = any.v6.then_some((src, dst));
                let mut out = vec![0; Icmp::LEN + data.len()];
                icmp.emit(&mut out, data, pseudo).expect("it fits");
                assert_eq!(Icmp::parse(&out, pseudo), Ok((icmp, data)));
                broken(&mut out, *flip);
                assert!(Icmp::parse(&out, pseudo).is_err());
            }
        }
    });
}

/// Flips one bit.
fn broken(bytes: &mut [u8], at: u16) {
    let bit = usize::from(at) % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
}
