//! What differs between IPv4 and IPv6 at sockets.

use abi::Plain;
use abi::be::{Addr4, Port, Wide6};
use abi::lb::{LbAffinityKey4, LbAffinityKey6, LbKey4, LbKey6, LbRevSk4, LbRevSk6, LbRevSkKey4, LbRevSkKey6};

use crate::family::{End, Family, V4, V6};

/// One address family, with what only sockets need.
pub trait SockFamily: Family {
    /// Key of the map of translated sockets.
    type ReverseKey: Plain;
    /// Its value.
    type ReverseEntry: Plain;
    /// Key of the affinity map.
    type AffinityKey: Plain;

    /// The key of a socket that was sent to a backend.
    fn reverse_key(cookie: u64, backend: &End<Self::Addr>) -> Self::ReverseKey;
    /// What is remembered about it.
    fn reverse_entry(frontend: &End<Self::Addr>, rev_nat: Port) -> Self::ReverseEntry;
    /// The frontend and the reverse NAT index of an entry.
    fn reversed(entry: &Self::ReverseEntry) -> (End<Self::Addr>, Port);
    /// The key of a client that is a network namespace.
    fn affinity_key(netns_cookie: u64, rev_nat: Port) -> Self::AffinityKey;
    /// A frontend's key (slot 0) or that of one of its backend slots, in one of the scopes.
    fn scoped_key(frontend: &End<Self::Addr>, protocol: u8, slot: u16, scope: u8) -> Self::LbKey;
    /// Whether a host reaches itself by this address.
    fn is_loopback(addr: &Self::Addr) -> bool;
    /// The address as events hold it: IPv4 in the first word.
    fn words(addr: &Self::Addr) -> [u32; 4];
}

impl SockFamily for V4 {
    type ReverseKey = LbRevSkKey4;
    type ReverseEntry = LbRevSk4;
    type AffinityKey = LbAffinityKey4;

    #[inline(always)]
    fn reverse_key(cookie: u64, backend: &End<Addr4>) -> LbRevSkKey4 {
        LbRevSkKey4 { cookie, address: backend.addr, port: backend.port, pad: 0, tail: [] }
    }
    #[inline(always)]
    fn reverse_entry(frontend: &End<Addr4>, rev_nat: Port) -> LbRevSk4 {
        LbRevSk4 { address: frontend.addr, port: frontend.port, rev_nat_index: rev_nat }
    }
    #[inline(always)]
    fn reversed(entry: &LbRevSk4) -> (End<Addr4>, Port) {
        (End { addr: entry.address, port: entry.port }, entry.rev_nat_index)
    }
    #[inline(always)]
    fn affinity_key(netns_cookie: u64, rev_nat: Port) -> LbAffinityKey4 {
        LbAffinityKey4 { client: netns_cookie, rev_nat_index: rev_nat, netns_cookie: 1, pad: 0, pad2: 0 }
    }
    #[inline(always)]
    fn scoped_key(frontend: &End<Addr4>, proto: u8, slot: u16, scope: u8) -> LbKey4 {
        LbKey4 { address: frontend.addr, dport: frontend.port, backend_slot: slot, proto, scope, pad: 0 }
    }
    #[inline(always)]
    fn is_loopback(addr: &Addr4) -> bool {
        let [first, ..] = addr.raw.to_ne_bytes();
        first == 127
    }
    #[inline(always)]
    fn words(addr: &Addr4) -> [u32; 4] {
        [addr.raw, 0, 0, 0]
    }
}

impl SockFamily for V6 {
    type ReverseKey = LbRevSkKey6;
    type ReverseEntry = LbRevSk6;
    type AffinityKey = LbAffinityKey6;

    #[inline(always)]
    fn reverse_key(cookie: u64, backend: &End<Wide6>) -> LbRevSkKey6 {
        LbRevSkKey6 { cookie, address: backend.addr.into(), port: backend.port, pad: 0, tail: [0] }
    }
    #[inline(always)]
    fn reverse_entry(frontend: &End<Wide6>, rev_nat: Port) -> LbRevSk6 {
        LbRevSk6 { address: frontend.addr.into(), port: frontend.port, rev_nat_index: rev_nat }
    }
    #[inline(always)]
    fn reversed(entry: &LbRevSk6) -> (End<Wide6>, Port) {
        (End { addr: entry.address.into(), port: entry.port }, entry.rev_nat_index)
    }
    #[inline(always)]
    fn affinity_key(netns_cookie: u64, rev_nat: Port) -> LbAffinityKey6 {
        let client = Wide6 { halves: [netns_cookie, 0] };
        LbAffinityKey6 { client, rev_nat_index: rev_nat, netns_cookie: 1, pad: 0, pad2: 0 }
    }
    #[inline(always)]
    fn scoped_key(frontend: &End<Wide6>, proto: u8, slot: u16, scope: u8) -> LbKey6 {
        LbKey6 { address: frontend.addr.into(), dport: frontend.port, backend_slot: slot, proto, scope, pad: 0 }
    }
    #[inline(always)]
    fn is_loopback(addr: &Wide6) -> bool {
        addr.halves[0] == 0 && addr.halves[1] == 1_u64.to_be()
    }
    #[inline(always)]
    fn words(addr: &Wide6) -> [u32; 4] {
        zerocopy::transmute!(*addr)
    }
}
