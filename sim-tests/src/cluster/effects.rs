//! What agents want done, carried out by the simulator one small step at a time.

use abi::write::{MapWrite, WriteError};
use agent_core::{Effect, Input};
use machine::{Instant, OpId};

use super::{Applied, Cluster, Event, MILLI};
use crate::check::Violation;

impl Cluster {
    /// Steps a living agent and carries out its effects.
    pub(super) fn step(&mut self, node: usize, input: Option<Input>) -> Result<(), Violation> {
        let state = &mut self.nodes[node];
        let Some(agent) = &mut state.agent else { return Ok(()) };
        let mut effects = Vec::new();
        agent.step(Instant::from_nanos(self.now_ns), input, |effect| effects.push(effect));
        for effect in effects {
            self.carry_out(node, effect)?;
        }
        self.schedule_wake(node);
        Ok(())
    }

    fn schedule_wake(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        let Some(due) = state.agent.as_ref().and_then(|agent| agent.next_deadline()) else { return };
        let due = due.as_nanos().max(self.now_ns + 1);
        if state.wake_at.is_none_or(|at| due < at) {
            state.wake_at = Some(due);
            let life = state.life;
            self.at(due - self.now_ns, Event::Wake { node, life });
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) -> Result<(), Violation> {
        let life = self.nodes[node].life;
        self.trace.record(format_args!("{} node {node} {effect:?}", self.now_ns));
        match effect {
            Effect::Reply(id, answer) => return self.answered(node, id, answer),
            Effect::Kv(op, request) => {
                let delay = self.rng.below(3) * MILLI + 10_000;
                self.on_its_way(node, delay, Event::Asked((node, life), op, request));
            }
            Effect::WriteMaps(op, batch) => {
                let delay = self.rng.below(500_000);
                self.on_its_way(node, delay, Event::Write { node, life, op, batch, next: 0 });
            }
            Effect::Attach(op, device) => {
                let delay = self.rng.below(5) * MILLI;
                self.on_its_way(node, delay, Event::Attach { node, life, op, device });
            }
            Effect::Detach(device) => self.nodes[node].host.detach(device.ifindex),
            Effect::Save(op, file, bytes) => {
                let delay = self.rng.below(4) * MILLI;
                self.on_its_way(node, delay, Event::Disk { node, life, op, file, bytes: Some(bytes) });
            }
            Effect::Forget(op, file) => {
                let delay = self.rng.below(4) * MILLI;
                self.on_its_way(node, delay, Event::Disk { node, life, op, file, bytes: None });
            }
            Effect::Tables(tables) => {
                let tables = tables.iter().map(|(id, recipe)| (id.as_u64(), recipe.table()));
                self.nodes[node].host.maps.tables = tables.collect();
            }
            // Connections to what is gone end by themselves here; nobody asks for health.
            Effect::Purge(_) | Effect::HealthPorts(_) | Effect::Notify(_) => {}
        }
        Ok(())
    }

    /// Makes one write of a batch, lets packets try what they can, and goes on to the next.
    ///
    /// A crash in between leaves the rest unwritten, as a killed process does.
    pub(super) fn write(
        &mut self,
        node: usize,
        life: u32,
        op: OpId,
        batch: Vec<MapWrite>,
        next: usize,
    ) -> Result<(), Violation> {
        self.arrived(node, life);
        if !self.lives(node, life) {
            return Ok(());
        }
        let Some(write) = batch.get(next).copied() else {
            return self.feed(node, Input::Wrote(op, Ok(())));
        };
        let done = self.apply(node, write, next);
        self.outcome.writes += 1;
        self.probe_after_write(node)?;
        if let Err(error) = done {
            return self.feed(node, Input::Wrote(op, Err(error)));
        }
        let delay = self.rng.below(20_000);
        self.on_its_way(node, delay, Event::Write { node, life, op, batch, next: next + 1 });
        Ok(())
    }

    fn apply(&mut self, node: usize, write: MapWrite, index: usize) -> Applied {
        let write = match self.settings.fault {
            Some(fault) => fault.on_write(write),
            None => Some(write),
        };
        let Some(write) = write else { return Ok(()) };
        self.nodes[node].host.maps.apply_one(&write).map_err(|kind| WriteError { index, kind })
    }
}
