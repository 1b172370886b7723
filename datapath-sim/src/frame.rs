//! What a router needs of a frame, read and written without the pipeline's help.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERNET: usize = wire::ETHERNET_LEN as usize;

/// Destination address of an IP frame.
pub(crate) fn destination(frame: &[u8]) -> Option<IpAddr> {
    match ethertype(frame)? {
        wire::ETHERTYPE_IPV4 => Some(IpAddr::V4(Ipv4Addr::from(bytes::<4>(frame, ETHERNET + 16)?))),
        wire::ETHERTYPE_IPV6 => Some(IpAddr::V6(Ipv6Addr::from(bytes::<16>(frame, ETHERNET + 24)?))),
        _ => None,
    }
}

/// Takes one hop off an IP frame, as a router does; `None`, and no change, when none is left.
pub(crate) fn spend_hop(frame: &mut [u8]) -> Option<()> {
    match ethertype(frame)? {
        wire::ETHERTYPE_IPV4 => {
            let ttl = frame.get(ETHERNET + 8).copied().filter(|ttl| *ttl > 1)?;
            frame[ETHERNET + 8] = ttl - 1;
            let len = usize::from(frame[ETHERNET] & 15) * 4;
            let header = frame.get_mut(ETHERNET..ETHERNET + len).filter(|header| header.len() >= 20)?;
            header[10..12].fill(0);
            let sum = header_checksum(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        wire::ETHERTYPE_IPV6 => {
            let hops = frame.get(ETHERNET + 7).copied().filter(|hops| *hops > 1)?;
            frame[ETHERNET + 7] = hops - 1;
        }
        _ => return None,
    }
    Some(())
}

fn ethertype(frame: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes::<2>(frame, 12)?))
}

fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}

/// RFC 1071 over a whole IPv4 header whose checksum field is zero.
fn header_checksum(header: &[u8]) -> u16 {
    let mut sum: u32 =
        header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
