//! What becomes of a packet.

use abi::stage::Stage;

/// What the caller is to do with the packet.
///
/// Always wholly initialised and without payload enums, so that the compiler cannot merge half-defined values (the verifier would refuse them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a verdict that nobody carries out lets the packet through"]
pub struct Verdict {
    /// What to do.
    pub action: Action,
    /// The interface of a redirect; the number of the next stage; the proxy's port (network order) of [`Action::Proxy`]; the drop reason's number of [`Action::Drop`]; otherwise 0.
    pub argument: u32,
}

/// The kinds of verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// On to the host's network stack, or out of the interface at an egress hook.
    Pass = 0,
    /// Drop. The reason has been counted and reported.
    Drop = 1,
    /// Into the network namespace of the interface's peer, past the host's stack and past the hook on the interface.
    RedirectPeer = 2,
    /// Out of the interface, through its egress hook.
    Redirect = 3,
    /// Out of the interface; the kernel finds the neighbour and waits for it.
    RedirectNeighbour = 6,
    /// To the local proxy (no program produces it yet).
    Proxy = 4,
    /// On in another stage; the argument is its number. Never the verdict of a hook: see [`crate::stages`].
    Continue = 5,
}

impl Verdict {
    /// On in `stage`.
    #[inline(always)]
    pub const fn go_on(stage: Stage) -> Self {
        Self { action: Action::Continue, argument: stage as u32 }
    }
    /// On to the stack.
    pub const PASS: Self = Self { action: Action::Pass, argument: 0 };

    /// Dropped for `reason`.
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Self {
        Self { action: Action::Drop, argument: reason as u32 }
    }
    /// Dropped for the reason with this number.
    #[inline(always)]
    pub const fn dropped(reason: u8) -> Self {
        Self { action: Action::Drop, argument: reason as u32 }
    }
    /// Into the namespace of the peer of `ifindex`.
    #[inline(always)]
    pub const fn redirect_peer(ifindex: u32) -> Self {
        Self { action: Action::RedirectPeer, argument: ifindex }
    }
    /// Out of `ifindex`.
    #[inline(always)]
    pub const fn redirect(ifindex: u32) -> Self {
        Self { action: Action::Redirect, argument: ifindex }
    }
    /// Out of `ifindex`, by a neighbour that the kernel has to find.
    #[inline(always)]
    pub const fn redirect_neighbour(ifindex: u32) -> Self {
        Self { action: Action::RedirectNeighbour, argument: ifindex }
    }
    /// To the proxy listening on `port` (network order).
    #[inline(always)]
    pub const fn proxy(port: u16) -> Self {
        Self { action: Action::Proxy, argument: port as u32 }
    }
}

/// Why a packet is dropped (numbers of the reference's drop codes; those the pipeline uses).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DropReason {
    /// The source address is not the endpoint's.
    InvalidSource = 132,
    /// No rule allows it.
    Policy = 133,
    /// A header is cut short or contradicts itself.
    Invalid = 134,
    /// The transport header is cut short or contradicts itself.
    InvalidTransport = 135,
    /// Longer than the way's MTU.
    FragmentationNeeded = 136,
    /// No connection can be tracked for this protocol.
    UnknownTransport = 137,
    /// Neither IPv4, IPv6 nor ARP.
    UnknownNetwork = 139,
    /// The program of the next stage is not there.
    MissedTailCall = 140,
    /// The packet could not be written to.
    Write = 141,
    /// The target of a neighbour solicitation is nobody we answer for.
    UnknownTarget = 150,
    /// The connection map refused the entry.
    ConnectionTableFull = 155,
    /// Too many or too long IPv6 extension headers.
    ExtensionHeader = 156,
    /// A fragment, and fragments are not tracked.
    Fragment = 157,
    /// The service has no backend.
    NoBackend = 158,
    /// No source port is left for the translation.
    NoMapping = 167,
    /// The protocol's checksum cannot be corrected for this translation.
    UntranslatableProtocol = 168,
    /// The routing table knows no way.
    NoRoute = 169,
    /// The address of a service for the cluster's own traffic, asked from outside.
    ClusterIp = 174,
    /// The fragment that carries the ports was not seen.
    FragmentUnknown = 175,
    /// The client is in none of the service's source ranges.
    SourceRange = 177,
    /// A rule denies it.
    PolicyDeny = 181,
    /// A rule demands authentication, which there is not yet.
    AuthRequired = 189,
    /// The packet cannot carry what tells its backend of the frontend.
    DsrUnsupported = 193,
    /// Time to live, or hop limit, is used up.
    TtlExceeded = 196,
    /// The endpoint's policy is not known yet, or nobody is behind the interface.
    NotReady = 203,
}
