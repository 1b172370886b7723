//! Everything the pipeline may touch: one packet, the maps, the time, and the way out for events.
//!
//! Two implementations exist: the eBPF programs (kernel helpers and BPF maps) and the simulated host (plain
//! memory). The pipeline is generic over [`Env`] and knows neither. Rules for implementors:
//!
//! - Offsets count from the first byte of the Ethernet header. A load or store that does not lie wholly inside the
//!   packet changes nothing and returns `None`; the pipeline never assumes that an earlier success covers it.
//! - A map look-up returns a reference into the map. The pipeline copies what it needs before it touches the packet or
//!   another map, so an implementation may hand out anything that lives until the next call.
//! - Look-ups count as use for LRU maps, as in the kernel. Writes to a full hash map fail with `None`; an LRU map evicts.
//! - Nothing may panic, block or allocate on behalf of the pipeline.
//! - The result depends only on packet, maps, configuration and time, so two implementations given the same give the same.

use abi::config::{NodeConfig, Runtime};
use abi::endpoint::{Device, EndpointInfo, EndpointKey};
use abi::event::{DropNotify, DropRecord, PolicyVerdictNotify, PolicyVerdictRecord, TraceNotify, TraceRecord};
use abi::frag::FragPorts;
use abi::ipcache::{IpcacheEntry, IpcacheKey};
use abi::lb::LbService;
use abi::metrics::MetricsKey;
use abi::policy::{PolicyEntry, PolicyKey};
use abi::{Plain, be::Port};

use zerocopy::IntoBytes;

use crate::checksum;
use crate::family::{Family, V4, V6};
use crate::kept::Kept;

/// The world of one packet.
pub trait Env: FamilyMaps<V4> + FamilyMaps<V6> {
    /// Bytes of the packet, from the Ethernet header on.
    fn packet_len(&self) -> u32;

    /// Interface whose hook the packet is at.
    fn ifindex(&self) -> u32;

    /// Copies `T` out of the packet; `None` when it reaches past the end.
    fn load<T: Plain>(&self, offset: u32) -> Option<T>;

    /// Copies `value` into the packet; `None`, and no change, when it reaches past the end.
    fn store<T: Plain>(&mut self, offset: u32, value: &T) -> Option<()>;

    /// Cuts the packet to `len` bytes or appends zero bytes up to it.
    fn resize(&mut self, len: u32) -> Option<()>;

    /// Returns `word`.
    ///
    /// The kernel's verifier walks every path with every value it can tell apart. Where paths meet and what they
    /// found out is packed in a word, an implementation for the kernel makes it forget the difference, so that what follows is
    /// walked once.
    #[inline(always)]
    fn forget(&self, word: u64) -> u64 {
        word
    }

    /// Sets the packet's mark, which the host's network stack sees.
    fn set_mark(&mut self, mark: u32);

    /// Corrects the TCP, UDP or ICMPv6 checksum at `offset`.
    ///
    /// `pseudo` is the one's complement difference of what only the pseudo header covers (addresses), `own` that
    /// of bytes the checksum covers itself (ports): a packet whose checksum the hardware will fill in holds the
    /// sum of the pseudo header alone, so the kernel must be told them apart. With `udp`, a checksum of zero
    /// means none and stays, and a computed zero is written as all ones.
    #[inline(always)]
    fn patch_l4_checksum(&mut self, offset: u32, pseudo: u32, own: u32, udp: bool) -> Option<()> {
        let mut sum: u16 = self.load(offset)?;
        if udp && sum == 0 {
            return Some(());
        }
        if own != 0 {
            sum = checksum::apply(sum, own, udp);
        }
        if pseudo != 0 {
            sum = checksum::apply(sum, pseudo, udp);
        }
        self.store(offset, &sum)
    }

    /// Seconds of the monotonic clock. May be as coarse as a timer tick.
    fn now_seconds(&self) -> u32;

    /// How the node's configuration is read.
    type Node: NodeFields;

    /// The node's configuration. Apart from `self`, so that it can be read while a map's value is borrowed.
    fn node(&self) -> Self::Node;

    /// A value of `cilium_runtime_config`; 0 when it was never written.
    fn runtime(&self, value: Runtime) -> u64;

    /// Keeps `kept` for the stage in which the packet goes on. `None`: it cannot.
    fn keep(&mut self, kept: &Kept) -> Option<()>;

    /// What the stage before has kept.
    fn kept(&self) -> Option<&Kept>;

    /// `cilium_devices`.
    fn device(&self, ifindex: u32) -> Option<&Device>;

    /// `cilium_lxc`.
    fn endpoint(&self, key: &EndpointKey) -> Option<&EndpointInfo>;

    /// `cilium_ipcache`, longest prefix.
    fn ipcache(&self, key: &IpcacheKey) -> Option<&IpcacheEntry>;

    /// `cilium_policy`, longest prefix.
    fn policy(&self, key: &PolicyKey) -> Option<&PolicyEntry>;

    /// Adds one packet of `bytes` bytes to `cilium_metrics`. Losing a count on a full map is no error.
    fn count(&mut self, key: &MetricsKey, bytes: u32);

    /// Writes an event record: prefix (time in nanoseconds, `cookie`, CPU), `notification`, and the first
    /// [`Notification::captured`] bytes of the packet, the rest of the payload zero. A full buffer loses the record.
    fn event<N: Notification>(&mut self, cookie: u32, notification: &N);
}

/// The node's configuration, field by field. See [`crate::config`].
pub trait NodeFields: Copy {
    /// The field of type `T` at byte `offset` of [`NodeConfig`].
    fn field<T: Plain>(self, offset: usize) -> T;
}

impl NodeFields for &NodeConfig {
    fn field<T: Plain>(self, offset: usize) -> T {
        let bytes = self.as_bytes().get(offset..).and_then(|rest| T::read_from_prefix(rest).ok());
        bytes.expect("offset and type are those of a field").0
    }
}

/// The maps that exist once for each address family.
pub trait FamilyMaps<F: Family> {
    /// Services: a frontend (slot 0) or one of its backends.
    fn service(&self, key: &F::LbKey) -> Option<&LbService>;

    /// Backends by id.
    fn backend(&self, id: u32) -> Option<&F::Backend>;

    /// Frontends by reverse NAT index.
    fn reverse_nat(&self, index: Port) -> Option<&F::RevNat>;

    /// Connections; `tcp` chooses between the TCP map and the one for the rest.
    fn connection(&mut self, tcp: bool, key: &F::CtKey) -> Option<&mut F::CtEntry>;

    /// Writes a connection, replacing what is there. `None` when the map refuses.
    fn track(&mut self, tcp: bool, key: &F::CtKey, entry: &F::CtEntry) -> Option<()>;

    /// Ports of a fragmented datagram.
    fn fragment(&self, key: &F::FragKey) -> Option<&FragPorts>;

    /// Remembers the ports of a fragmented datagram. `None` when the map refuses.
    fn track_fragment(&mut self, key: &F::FragKey, ports: &FragPorts) -> Option<()>;
}

/// What can be reported in an event record.
pub trait Notification: Plain {
    /// The whole record: [`abi::event::Prefix`], `Self`, payload.
    type Record: Plain;

    /// Packet bytes to append, at most [`abi::event::PAYLOAD_LEN`].
    fn captured(&self) -> u16;
}

impl Notification for DropNotify {
    type Record = DropRecord;
    #[inline(always)]
    fn captured(&self) -> u16 {
        self.cap_len
    }
}
impl Notification for TraceNotify {
    type Record = TraceRecord;
    #[inline(always)]
    fn captured(&self) -> u16 {
        self.cap_len
    }
}
impl Notification for PolicyVerdictNotify {
    type Record = PolicyVerdictRecord;
    #[inline(always)]
    fn captured(&self) -> u16 {
        self.cap_len
    }
}
