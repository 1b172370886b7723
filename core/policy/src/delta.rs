//! What a change means for the maps: an ordered list of writes.
//!
//! Why: the kernel judges packets while maps are being written. The order of a [`Delta`]'s writes is chosen so that at
//! no point between two of them does any packet get a verdict that neither the old nor the new state gives. Apply the
//! writes one by one, in order; a batch is fine as long as it keeps the order.
//!
//! Types here are plain; the agent converts them to the kernel's layouts.

use crate::rule::{AuthMode, Direction};
use alloc::vec::Vec;
use core::fmt;
use types::{Cidr, EndpointId, NumericIdentity, Revision};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) u32);

        impl $name {
            /// The number, as maps hold it.
            #[must_use]
            pub const fn as_u32(self) -> u32 {
                self.0
            }
            /// The id of a number read from a map or an event.
            #[must_use]
            pub const fn from_u32(number: u32) -> Self {
                Self(number)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} {}", stringify!($name), self.0)
            }
        }
    };
}

id!(
    /// Endpoints with the same rules share one. Zero is none.
    PolicyId
);
id!(
    /// Peers that nothing in use can tell apart. Zero is the class of whoever is unknown.
    ClassId
);
id!(
    /// Names the rules that decided. Zero: none did.
    RuleCookie
);
id!(
    /// A proxy listener to redirect to: see [`crate::Engine::redirect`].
    RedirectId
);

impl ClassId {
    /// The class of peers nothing is known of, and of those no selector matches.
    pub const UNKNOWN: Self = Self(0);
}

impl PolicyId {
    /// No policy.
    pub const NONE: Self = Self(0);
}

impl RuleCookie {
    /// No rule.
    pub const NONE: Self = Self(0);
}

/// A block of (protocol, port): the variable part of an entry's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct L4Prefix {
    /// IP protocol number; 0 if `bits` is 0.
    pub protocol: u8,
    /// First port of the block, or ICMP type; the bits behind the prefix are zero.
    pub port: u16,
    /// Bits that count: 0 (everything), 8 (every port of the protocol), 8 + port bits.
    pub bits: u8,
}

impl L4Prefix {
    /// Every protocol and port.
    pub const ALL: Self = Self { protocol: 0, port: 0, bits: 0 };

    /// True if the block holds this protocol and port.
    #[must_use]
    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        self.bits == 0 || (self.protocol == protocol && port & self.port_mask() == self.port)
    }

    /// True if all of `other` lies in this block.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits
            && (self.bits == 0 || (self.protocol == other.protocol && other.port & self.port_mask() == self.port))
    }

    fn port_mask(&self) -> u16 {
        let port_bits = u32::from(self.bits.saturating_sub(8).min(16));
        u16::MAX.checked_shl(16 - port_bits).unwrap_or(0)
    }
}

/// Key of a policy-map entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// Policy of the endpoint.
    pub policy: PolicyId,
    /// Class of the peer.
    pub class: ClassId,
    /// Direction, seen from the endpoint.
    pub direction: Direction,
    /// Protocol and port block.
    pub l4: L4Prefix,
}

/// The final verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Let through.
    Allow,
    /// Refuse, because a deny rule says so. (No entry: refuse, because none allows.)
    Deny,
    /// Let through, by way of a proxy.
    Redirect(RedirectId),
}

/// What the deciding rule named; numbers are those of policy-verdict events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MatchType {
    /// No entry matched.
    None = 0,
    /// Only the peer.
    L3Only = 1,
    /// Peer, protocol and port.
    L3L4 = 2,
    /// Protocol and port.
    L4Only = 3,
    /// Neither.
    All = 4,
    /// Peer and protocol.
    L3Proto = 5,
    /// Only the protocol.
    ProtoOnly = 6,
}

/// Value of a policy-map entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryValue {
    /// Allow, deny or redirect.
    pub verdict: Verdict,
    /// Authentication demanded of the peer first; `None`: none.
    pub auth: Option<AuthMode>,
    /// What the deciding rule named.
    pub matched: MatchType,
    /// Which rules decided.
    pub cookie: RuleCookie,
}

/// How an endpoint is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointPolicy {
    /// Its policy.
    pub policy: PolicyId,
    /// Whether ingress is judged at all; if not, everything is let in without a look-up.
    pub ingress: bool,
    /// Whether egress is.
    pub egress: bool,
    /// Audit mode: what would be refused is let through and reported.
    pub audit: bool,
}

/// One write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Inserts or replaces a policy-map entry.
    PutEntry(EntryKey, EntryValue),
    /// Deletes a policy-map entry.
    DeleteEntry(EntryKey),
    /// Sets the class of an identity whose address is not known.
    PutIdentity(NumericIdentity, ClassId),
    /// Forgets an identity: it is unknown again.
    DeleteIdentity(NumericIdentity),
    /// Sets identity and class of a prefix in the ipcache.
    PutPrefix(Cidr, NumericIdentity, ClassId),
    /// Deletes a prefix from the ipcache.
    DeletePrefix(Cidr),
    /// Sets how an endpoint is judged.
    PutEndpoint(EndpointId, EndpointPolicy),
    /// Forgets an endpoint.
    DeleteEndpoint(EndpointId),
}

/// The outcome of a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// The writes, in the order they must be made.
    pub writes: Vec<Write>,
    /// Prefixes that rules in use name and for which a node-local identity is wanted. Verdicts do not wait for it: the
    /// prefix is in the ipcache already, with the identity of what is around it.
    pub wanted: Vec<Cidr>,
    /// Prefixes whose identity is no longer wanted; remove the address when it is released.
    pub unwanted: Vec<Cidr>,
    /// The revision reached. If it moved, publish it after the writes: established flows are then judged anew.
    pub revision: Revision,
    /// Rules that cannot be put into effect as they stand. What they are about is refused until they are corrected.
    pub conflicts: Vec<crate::engine::Conflict>,
}

impl Delta {
    /// Appends what a later change means.
    pub fn append(&mut self, later: Self) {
        self.writes.extend(later.writes);
        self.wanted.extend(later.wanted);
        self.unwanted.extend(later.unwanted);
        self.revision = later.revision;
        self.conflicts.extend(later.conflicts);
    }

    /// Number of policy-map writes.
    #[must_use]
    pub fn entry_writes(&self) -> usize {
        self.writes.iter().filter(|w| matches!(w, Write::PutEntry(..) | Write::DeleteEntry(..))).count()
    }
}
