//! When the maps of connections and of source NAT are swept.
//!
//! Why: an entry that nobody uses pushes out one that somebody does, and a new pod must not inherit connections with its
//! address. But a sweep walks millions of entries, so it should come as seldom as it finds little, and at once when
//! something is known to be there: a backend or an address went, or the programs ran short of ports.
//!
//! Never: says which entry goes (that is a matter of the entry and of what else is in the maps), reads a map or a clock.
//!
//! Invariant: at most one sweep runs; what is reported while it runs is swept by a later one.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

mod config;
mod interval;

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::IpAddr;

use machine::{Effects, Instant, Machine, OpId, OpIds};

pub use config::{Checked, Config, ConfigError};
pub use interval::{Interval, Share};

/// What the collector is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A sweep ended. The share is the largest of any map's entries that it deleted.
    Swept(OpId, Result<Share, Failed>),
    /// A backend or a service was deleted: connections and translations that name it are orphans.
    ServiceChanged,
    /// An address is nobody's any more.
    AddressGone(IpAddr),
    /// A program had to try many ports before it found a free one, or found none.
    NatPressure,
    /// Somebody wants a sweep now.
    Sweep,
}

/// A sweep was not completed; why was told to whoever reads the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;

/// What the collector wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Walk all maps once; delete what ended, what is orphaned, and what has one of these addresses.
    Sweep(OpId, Sweep),
}

/// One sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// Why now.
    pub why: Why,
    /// Connections from or to these go, whether or not they ended.
    pub addresses: Vec<IpAddr>,
}

/// Why a sweep is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its time has come.
    Periodic,
    /// Backends, services or addresses went.
    Departures,
    /// Ports for source NAT run short.
    Pressure,
    /// Somebody asked.
    Asked,
}

/// The collector of one node.
#[derive(Debug, Clone)]
pub struct Collector {
    config: Config,
    interval: Interval,
    /// When the running sweep began.
    running: Option<(OpId, Instant)>,
    /// What a running sweep takes away; again if it fails.
    taken: BTreeSet<IpAddr>,
    gone: BTreeSet<IpAddr>,
    /// Why an extra sweep is wanted, and since when.
    wanted: Option<(Why, Instant)>,
    /// When the last sweep ended; before the first, when the collector was made.
    last: Instant,
    swept_once: bool,
    ops: OpIds,
}

impl Collector {
    /// A collector that begins now.
    pub fn new(config: &Checked, now: Instant) -> Self {
        let config = config.get();
        Self {
            interval: Interval::new(&config),
            config,
            running: None,
            taken: BTreeSet::new(),
            gone: BTreeSet::new(),
            wanted: None,
            last: now,
            swept_once: false,
            ops: OpIds::default(),
        }
    }

    /// Time between periodic sweeps as it stands.
    pub fn interval(&self) -> core::time::Duration {
        self.interval.current()
    }

    /// Whether a sweep runs.
    pub const fn is_sweeping(&self) -> bool {
        self.running.is_some()
    }

    fn want(&mut self, now: Instant, why: Why) {
        let since = self.wanted.map_or(now, |(_, since)| since);
        let why = self.wanted.map_or(why, |(before, _)| before.max(why));
        self.wanted = Some((why, since));
    }

    /// When an extra sweep may begin: departures are gathered for a moment, and a node that changes all the time
    /// is not swept all the time.
    fn extra(&self) -> Option<Instant> {
        let (why, since) = self.wanted?;
        let gathered = match why {
            Why::Departures => since + self.config.gather,
            Why::Periodic | Why::Pressure | Why::Asked => since,
        };
        let rested = if self.swept_once && why != Why::Asked { self.last + self.config.rest } else { since };
        Some(gathered.max(rested))
    }

    fn periodic(&self) -> Instant {
        self.last + self.interval.current()
    }

    fn begin(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        let op = self.ops.fresh();
        let why = self.wanted.take().map_or(Why::Periodic, |(why, _)| why);
        self.taken = core::mem::take(&mut self.gone);
        self.running = Some((op, now));
        fx.push(Effect::Sweep(op, Sweep { why, addresses: self.taken.iter().copied().collect() }));
    }

    fn ended(&mut self, now: Instant, op: OpId, outcome: Result<Share, Failed>) {
        if self.running.take_if(|(running, _)| *running == op).is_none() {
            return; // The outcome of a sweep of an earlier life.
        }
        let taken = core::mem::take(&mut self.taken);
        match outcome {
            Ok(share) => {
                let elapsed = now.since(self.last);
                self.interval.learn(&self.config, share, elapsed);
            }
            // What it was to take away is still there.
            Err(Failed) => {
                self.gone.extend(taken);
                if !self.gone.is_empty() {
                    self.want(now, Why::Departures);
                }
            }
        }
        self.last = now;
        self.swept_once = true;
    }
}

impl Machine for Collector {
    type Input = Input;
    type Effect = Effect;

    fn handle(&mut self, now: Instant, input: Input, fx: &mut Effects<Effect>) {
        match input {
            Input::Swept(op, outcome) => self.ended(now, op, outcome),
            Input::ServiceChanged => self.want(now, Why::Departures),
            Input::AddressGone(addr) => {
                // Beyond the bound the oldest are not kept longer: the sweep comes at once instead.
                self.gone.insert(addr);
                let full = self.gone.len() >= self.config.addresses_max;
                self.want(now, if full { Why::Asked } else { Why::Departures });
            }
            Input::NatPressure => self.want(now, Why::Pressure),
            Input::Sweep => self.want(now, Why::Asked),
        }
        if self.next_deadline().is_some_and(|due| due <= now) {
            self.on_deadline(now, fx);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.running.is_some() {
            return None;
        }
        let periodic = self.periodic();
        Some(self.extra().map_or(periodic, |extra| extra.min(periodic)))
    }

    fn on_deadline(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        if self.next_deadline().is_some_and(|due| due <= now) {
            self.begin(now, fx);
        }
    }
}

#[cfg(test)]
mod tests;
