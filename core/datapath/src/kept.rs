//! What one stage leaves for the next.
//!
//! A stage that goes on as another program takes nothing with it: its stack is gone. What the next stage could not find in the
//! packet again (because the packet has been rewritten, or at the price of look-ups) is kept in memory of this CPU, and
//! read once, at the start of the next stage. One shape serves both address families and all stages.

use abi::be::Port;
use abi::lb::LbService;

use crate::conntrack::Moment;
use crate::env::Env;
use crate::events::Report;
use crate::family::{End, Family};
use crate::nodeport::Origin;
use crate::nodeport::select::Slots;
use crate::nodeport::service::Wanted;
use crate::parse::Flow;
use crate::policy::{Local, Peer};
use crate::verdict::DropReason;

/// The kept words. Which of the last ones mean something is a matter between two stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
pub struct Kept {
    src: [u64; 2],
    dst: [u64; 2],
    bits: u64,
    source: u64,
    destination: u64,
    ports: u32,
    l4: u32,
    told: u32,
    seconds: u32,
    policy: u32,
    lb: u32,
    /// Identity of who sent the packet.
    pub identity: u32,
    /// Class of who sent the packet.
    pub class: u32,
    /// The interface the packet goes to; the drop reason of a packet that is complained about.
    pub number: u32,
    /// Port (or reverse NAT index) and `CT_*` bits of [`Origin`].
    origin: u32,
    /// Frontend address of [`Origin`].
    frontend: [u64; 2],
}

/// Bit of [`Kept::sender`]'s flags.
const MADE: u64 = 2;

impl Kept {
    /// What every stage after parsing needs.
    #[inline(always)]
    pub fn of<F: Family>(flow: &Flow<F>, report: &Report, now: &Moment) -> Self {
        let (source, destination, told) = report.words();
        Self {
            src: F::widen(&flow.src.addr),
            dst: F::widen(&flow.dst.addr),
            bits: flow.bits(),
            source,
            destination,
            ports: flow.src.port.raw as u32 | (flow.dst.port.raw as u32) << 16,
            l4: flow.l4,
            told,
            seconds: now.seconds,
            policy: now.policy,
            lb: now.lb,
            ..Self::default()
        }
    }

    /// Keeps this for the next stage.
    #[inline(always)]
    pub fn leave<E: Env>(&self, env: &mut E) -> Result<(), DropReason> {
        match env.keep(self) {
            Some(()) => Ok(()),
            None => Err(DropReason::MissedTailCall),
        }
    }

    /// What the first stage of a pod's packet has found: the pod, its only address, and whether the packet's connection was
    /// looked for and is not there.
    #[inline(always)]
    pub fn sender<F: Family>(local: &Local, own: &F::Addr, absent: bool) -> Self {
        Self {
            src: F::widen(own),
            identity: local.identity,
            class: local.policy,
            number: local.lxc_id as u32 | (local.flags as u32) << 16,
            bits: absent as u64,
            ..Self::default()
        }
    }

    /// The same once the packet's way to a service has been made.
    #[inline(always)]
    pub fn with_way(self) -> Self {
        Self { bits: MADE, ..self }
    }

    /// Whether the packet's way to a service has been made, of [`Self::sender`].
    #[inline(always)]
    pub fn made(&self) -> bool {
        self.bits & MADE != 0
    }

    /// The pod, of [`Self::sender`].
    #[inline(always)]
    pub fn local(&self) -> Local {
        Local {
            identity: self.identity,
            policy: self.class,
            lxc_id: self.number as u16,
            flags: (self.number >> 16) as u16,
        }
    }

    /// Its address, of [`Self::sender`].
    #[inline(always)]
    pub fn own<F: Family>(&self) -> F::Addr {
        F::narrow(&self.src)
    }

    /// Whether the connection is known not to be there, of [`Self::sender`].
    #[inline(always)]
    pub fn absent(&self) -> bool {
        self.bits & !MADE != 0
    }

    /// The packet's flow.
    #[inline(always)]
    pub fn flow<F: Family>(&self) -> Flow<F> {
        let end = |addr, port: u32| End { addr: F::narrow(addr), port: Port::from_raw(port as u16) };
        Flow::from_bits(end(&self.src, self.ports), end(&self.dst, self.ports >> 16), self.l4, self.bits)
    }

    /// What is known to be told about it.
    #[inline(always)]
    pub fn report(&self) -> Report {
        Report::from_words(self.source, self.destination, self.told)
    }

    /// The packet's moment.
    #[inline(always)]
    pub fn moment(&self) -> Moment {
        Moment { seconds: self.seconds, policy: self.policy, lb: self.lb }
    }

    /// By which service the packet came.
    #[inline(always)]
    pub fn origin<F: Family>(&self) -> Origin<F> {
        Origin {
            flags: (self.origin >> 16) as u16,
            frontend: End { addr: F::narrow(&self.frontend), port: Port::from_raw(self.origin as u16) },
        }
    }

    /// Keeps by which service the packet came.
    #[inline(always)]
    pub fn through<F: Family>(self, origin: &Origin<F>) -> Self {
        Self {
            origin: origin.frontend.port.raw as u32 | (origin.flags as u32) << 16,
            frontend: F::widen(&origin.frontend.addr),
            ..self
        }
    }

    /// Keeps what a connection that opens is to be given, in the places of identity, class, number and origin.
    #[inline(always)]
    pub fn wanting(self, wanted: &Wanted) -> Self {
        let Wanted { service, slots, absent } = *wanted;
        Self {
            identity: service.backend_id,
            class: service.count as u32 | (service.rev_nat_index.raw as u32) << 16,
            number: service.flags as u32 | (service.flags2 as u32) << 8 | (service.qcount as u32) << 16,
            origin: slots.protocol as u32 | (slots.scope as u32) << 8 | (absent as u32) << 16,
            ..self
        }
    }

    /// What a connection that opens is to be given, of [`Self::wanting`].
    #[inline(always)]
    pub fn wanted(&self) -> Wanted {
        Wanted {
            service: LbService {
                backend_id: self.identity,
                count: self.class as u16,
                rev_nat_index: Port::from_raw((self.class >> 16) as u16),
                flags: self.number as u8,
                flags2: (self.number >> 8) as u8,
                qcount: (self.number >> 16) as u16,
            },
            slots: Slots { protocol: self.origin as u8, scope: (self.origin >> 8) as u8 },
            absent: self.origin & 1 << 16 != 0,
        }
    }

    /// Who sent the packet.
    #[inline(always)]
    pub fn peer(&self) -> Peer {
        Peer { identity: self.identity, class: self.class }
    }

    /// Keeps two numbers between two stages, in the places of identity and interface.
    #[inline(always)]
    pub fn with(self, identity: u32, number: u32) -> Self {
        Self { identity, number, ..self }
    }

    /// Keeps who sent the packet, and the interface it goes to.
    #[inline(always)]
    pub fn towards(self, peer: &Peer, ifindex: u32) -> Self {
        Self { identity: peer.identity, class: peer.class, number: ifindex, ..self }
    }
}
