//! The stages of the packet pipeline that are programs of their own.
//!
//! A program goes on in another by its number in `cilium_calls`, an array of programs. Each load of the programs has an array
//! of its own, filled before any packet meets them, so the numbers are no shared layout: they may change with any version.

/// Declares the stages: number and name of the program.
macro_rules! stages {
    ($($(#[$meta:meta])* $id:ident = $name:literal;)*) => {
        /// A stage. Its number is its place in `cilium_calls`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Stage { $($(#[$meta])* $id,)* }

        impl Stage {
            /// Every stage, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$id),*];

            /// The program's name in the object file, at most 15 bytes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)* }
            }

            /// The stage with a number.
            #[inline(always)]
            pub const fn of(number: u32) -> Option<Self> {
                match number { $(n if n == Self::$id as u32 => Some(Self::$id),)* _ => None }
            }
        }
    };
}

stages! {
    /// From a pod, IPv4: service, connection, egress policy, route.
    PodIpv4 = "cil_pod_ipv4";
    /// The same for IPv6.
    PodIpv6 = "cil_pod_ipv6";
    /// From a pod to a service, IPv4: the backend is chosen, and the connection remembered.
    PodOpen4 = "cil_pod_open4";
    /// The same for IPv6.
    PodOpen6 = "cil_pod_open6";
    /// From a pod: ARP and neighbour discovery.
    Neighbour = "cil_neighbour";
    /// From a pod: an ICMP error.
    PodError4 = "cil_pod_error4";
    /// The same for ICMPv6.
    PodError6 = "cil_pod_error6";
    /// From a pod to itself through a service, IPv4.
    Hairpin4 = "cil_hairpin4";
    /// The same for IPv6.
    Hairpin6 = "cil_hairpin6";
    /// To a pod of this node, IPv4: ingress policy and delivery.
    Deliver4 = "cil_deliver4";
    /// The same for IPv6.
    Deliver6 = "cil_deliver6";
    /// To a pod from the host's stack, IPv4.
    ToPod4 = "cil_to_pod4";
    /// The same for IPv6.
    ToPod6 = "cil_to_pod6";
    /// From the network, IPv4: services, translation, the way to a pod.
    Net4 = "cil_net4";
    /// The same for IPv6.
    Net6 = "cil_net6";
    /// From the network to a service, IPv4: the backend is chosen, and the connection remembered.
    Open4 = "cil_open4";
    /// The same for IPv6.
    Open6 = "cil_open6";
    /// To a backend of another node inside another packet, IPv4.
    Wrap4 = "cil_wrap4";
    /// The same for IPv6.
    Wrap6 = "cil_wrap6";
    /// From the network, perhaps with a packet for a backend inside, IPv4.
    Unwrap4 = "cil_unwrap4";
    /// The same for IPv6.
    Unwrap6 = "cil_unwrap6";
    /// From a pod to a client outside, as an answer of a service, IPv4.
    Return4 = "cil_return4";
    /// The same for IPv6.
    Return6 = "cil_return6";
    /// To the network, IPv4: masquerading.
    Out4 = "cil_out4";
    /// The same for IPv6.
    Out6 = "cil_out6";
    /// An ICMP error of the node's own about a packet that was dropped.
    Complain = "cil_complain";
}

/// The stages that exist for packets without a buffer too, and the names of their programs there. They are in `cilium_calls_xdp`
/// under the same numbers: an array takes programs of one type only.
pub const EARLY: [(Stage, &str); 4] = [
    (Stage::Open4, "cil_xdp_open4"),
    (Stage::Open6, "cil_xdp_open6"),
    (Stage::Wrap4, "cil_xdp_wrap4"),
    (Stage::Wrap6, "cil_xdp_wrap6"),
];

/// Entries of `cilium_calls` and `cilium_calls_xdp`.
pub const CALLS_ENTRIES: u32 = 64;
