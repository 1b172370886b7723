//! What the watch of all master keys tells.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use kv::{Event, Request};
use machine::{Effects, Instant, OpId};
use types::{Labels, NumericIdentity};

use super::{Allocator, Effect};
use crate::Keys;

#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    pub(super) op: Option<OpId>,
    /// Numbers told since the watch began, while it is not synced.
    pub(super) told: Option<BTreeSet<NumericIdentity>>,
    pub(super) synced_once: bool,
    pub(super) retry: Option<Instant>,
    pub(super) failures: u32,
}

impl Allocator {
    pub(super) fn learn(&mut self, number: NumericIdentity, labels: Labels, fx: &mut Effects<Effect>) {
        if let Some(told) = &mut self.watch.told {
            told.insert(number);
        }
        if self.known.get(&number) == Some(&labels) {
            return;
        }
        if let Some(old) = self.known.insert(number, labels.clone()) {
            self.unlist(number, &old);
        }
        self.numbers.entry(labels.clone()).or_default().insert(number);
        fx.push(Effect::Learned(number, labels));
    }

    pub(super) fn unlist(&mut self, number: NumericIdentity, labels: &Labels) {
        if let Some(numbers) = self.numbers.get_mut(labels) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.numbers.remove(labels);
            }
        }
    }

    pub(super) fn forget(&mut self, number: NumericIdentity, fx: &mut Effects<Effect>) {
        if let Some(labels) = self.known.remove(&number) {
            self.unlist(number, &labels);
            fx.push(Effect::Forgotten(number));
        }
    }

    pub(super) fn start_watch(&mut self, fx: &mut Effects<Effect>) {
        let op = self.ops.fresh();
        self.watch.op = Some(op);
        self.watch.told = Some(BTreeSet::new());
        self.watch.retry = None;
        fx.push(Effect::Kv(op, Request::Watch(Keys::masters())));
    }

    pub(super) fn watch_ended(&mut self, now: Instant) {
        self.watch.op = None;
        self.watch.failures += 1;
        let until = self.backoff(now, self.watch.failures);
        self.watch.retry = Some(until);
    }

    pub(super) fn watch_event(&mut self, now: Instant, event: Event, fx: &mut Effects<Effect>) {
        match event {
            Event::Changed { key, value: Some(value), .. } => {
                let labels = core::str::from_utf8(&value).ok().map(Labels::from_identity_key);
                if let (Some(number), Some(labels)) = (Keys::number(&key), labels) {
                    let displaced: Vec<Labels> = self
                        .slots
                        .iter()
                        .filter(|(have, slot)| slot.number == Some(number) && **have != labels)
                        .map(|(have, _)| have.clone())
                        .collect();
                    self.learn(number, labels, fx);
                    for have in displaced {
                        self.lose(&have, number, fx);
                        self.restart(now, have, fx);
                    }
                }
            }
            Event::Changed { key, value: None, .. } => {
                if let Some(number) = Keys::number(&key) {
                    self.master_vanished(now, number, fx);
                }
            }
            Event::Synced(_) => {
                self.watch.failures = 0;
                let told = self.watch.told.take().unwrap_or_default();
                let stale: Vec<_> = self.known.keys().copied().filter(|number| !told.contains(number)).collect();
                for number in stale {
                    self.master_vanished(now, number, fx);
                }
                if !self.watch.synced_once {
                    self.watch.synced_once = true;
                    fx.push(Effect::Synced);
                }
                let waiting: Vec<Labels> = self
                    .slots
                    .iter()
                    .filter(|(_, slot)| slot.op.is_none() && slot.due.is_none())
                    .map(|(labels, _)| labels.clone())
                    .collect();
                for labels in waiting {
                    self.begin(now, labels, fx);
                }
            }
            Event::Broken(_) | Event::Done(_, Err(_)) => self.watch_ended(now),
            Event::Done(..) | Event::LeaseLost => {}
        }
    }

    /// A master key is gone. If the number is in use here, its key is made again.
    pub(super) fn master_vanished(&mut self, now: Instant, number: NumericIdentity, fx: &mut Effects<Effect>) {
        let Some(labels) = self.known.get(&number).cloned() else { return };
        let in_use = self.slots.get(&labels).is_some_and(|slot| slot.users > 0 && slot.number == Some(number));
        if in_use {
            self.known.remove(&number);
            self.unlist(number, &labels);
            self.restart(now, labels, fx);
        } else {
            self.forget(number, fx);
        }
    }
}
