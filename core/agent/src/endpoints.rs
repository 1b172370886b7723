//! The lives of endpoints: created, numbered, written, attached, relabelled, taken down.
//!
//! A new endpoint is closed until its policy is in the kernel: its device has no entry before. It is answered when its
//! policy is written, its device attached and its state file kept; what fails on the way is taken back before the
//! answer. An endpoint that goes loses its device entry first, and its addresses only once nothing of it is left in the
//! kernel.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;
use core::net::IpAddr;

use abi::endpoint as layout;
use abi::write::{MapWrite, WriteErrorKind};
use endpoint::{EndpointName, EndpointSpec, Mover, State};
use identity::Trouble;
use machine::{Effects, Instant, OpId};
use types::{Cidr, EndpointId, Labels, NumericIdentity, Revision};

use crate::agent::{Agent, Deleting};
use crate::effect::{AgentEvent, Device, Effect, Refusal, Response, StateFile};
use crate::input::{AddressOwner, AnswerWhen, CreateEndpoint, EndpointRequest, Failure, RequestId};
use crate::kernel::Mark;
use crate::layout::lxc_entries;
use crate::services::LocalPodIs;

type Answer = Result<Response, Refusal>;

/// Whether a new number waits for the grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grace {
    /// It is taken at once: there is no old one, or it is somebody else's.
    None,
    /// The old one is kept for a while.
    Wait,
}

/// Whether programs may already be at an endpoint's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceIs {
    /// They are to be attached before anything may pass.
    New,
    /// An earlier life attached them; they stay while they are exchanged.
    TakenOver,
}

/// What is under way with one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// Labels it should have the number of.
    pub(crate) labels: Labels,
    /// Labels whose number is held for it.
    held: Vec<Labels>,
    pub(crate) grace: Grace,
    switch: Option<(Instant, NumericIdentity)>,
    pub(crate) trouble: Option<Trouble>,
    pub(crate) attached: bool,
    attach_failures: u32,
    attach_again: Option<Instant>,
    written: bool,
    creator: Option<(RequestId, Instant)>,
    /// What to tell the creator once everything is taken back.
    epitaph: Option<(RequestId, Refusal)>,
    pub(crate) addresses: AddressOwner,
    pub(crate) leaving: bool,
}

impl Progress {
    pub(crate) fn new(labels: Labels, addresses: AddressOwner, device: DeviceIs) -> Self {
        Self {
            held: Vec::new(),
            labels,
            grace: Grace::None,
            switch: None,
            trouble: None,
            attached: device == DeviceIs::TakenOver,
            attach_failures: 0,
            attach_again: None,
            written: false,
            creator: None,
            epitaph: None,
            addresses,
            leaving: false,
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.leaving {
            return None;
        }
        let times = [self.switch.map(|(at, _)| at), self.attach_again, self.creator.map(|(_, at)| at)];
        times.into_iter().flatten().min()
    }
}

impl Agent {
    pub(crate) fn endpoint_request(
        &mut self,
        now: Instant,
        id: RequestId,
        request: EndpointRequest,
        fx: &mut Effects<Effect>,
    ) -> Option<Answer> {
        match request {
            EndpointRequest::Create(create) => match self.create(now, id, *create, fx) {
                Ok(answer) => answer.map(Ok),
                Err(refusal) => Some(Err(refusal)),
            },
            EndpointRequest::SetLabels(name, labels) => match self.set_labels(now, &name, labels, fx) {
                Ok(endpoint) => {
                    self.answer_once_kept(id, Response::Done, StateFile::Endpoint(endpoint), fx);
                    None
                }
                Err(refusal) => Some(Err(refusal)),
            },
            EndpointRequest::Delete(name) => match self.endpoints.find(&name).map(|endpoint| endpoint.id) {
                Some(endpoint) => self.delete(now, id, [endpoint].into(), fx),
                None => Some(Err(Refusal::NoEndpoint(name))),
            },
            EndpointRequest::DeleteContainer(container) => {
                let all: BTreeSet<_> = self.endpoints.of_container(&container).map(|endpoint| endpoint.id).collect();
                if all.is_empty() {
                    return Some(Err(Refusal::NoEndpoint(EndpointName::ContainerId(container))));
                }
                self.delete(now, id, all, fx)
            }
        }
    }

    fn create(
        &mut self,
        now: Instant,
        request: RequestId,
        create: CreateEndpoint,
        fx: &mut Effects<Effect>,
    ) -> Result<Option<Response>, Refusal> {
        create.spec.validate(self.config.endpoints.labels_max)?;
        for addr in create.spec.addresses() {
            if !self.ipam.has(ipam::Family::of(addr)) {
                return Err(ipam::Refusal::FamilyOff(ipam::Family::of(addr)).into());
            }
        }
        if let Some(other) = self.endpoints.iter().find(|other| other.spec.ifindex == create.spec.ifindex) {
            return Err(Refusal::InterfaceTaken { ifindex: create.spec.ifindex, by: other.id });
        }
        let labels = create.spec.identity_labels(&self.config.cluster_name);
        let id = self.endpoints.insert(
            now,
            create.id,
            create.spec.clone(),
            labels.clone(),
            State::WaitingForIdentity,
            "endpoint created",
        )?;
        if let Err(refusal) = self.take_addresses(&create) {
            self.endpoints.remove(id);
            return Err(refusal);
        }
        let mut progress = Progress::new(labels.clone(), create.addresses, DeviceIs::New);
        let waits = create.answer == AnswerWhen::Ready;
        progress.creator = waits.then_some((request, now + self.config.create_within));
        self.progress.insert(id, progress);
        fx.push(Effect::Notify(AgentEvent::EndpointCreated(id)));
        self.attach(id, fx);
        self.acquire(now, id, labels, fx);
        Ok((!waits).then_some(Response::Endpoint(id)))
    }

    fn device_of(&self, id: EndpointId) -> Option<Device> {
        let spec = &self.endpoints.by_id(id)?.spec;
        Some(Device { endpoint: id, ifindex: spec.ifindex, ifname: spec.ifname.clone() })
    }

    pub(crate) fn attach(&mut self, id: EndpointId, fx: &mut Effects<Effect>) {
        if let Some(device) = self.device_of(id) {
            let op = self.ops.fresh();
            self.attaching.insert(op, id);
            fx.push(Effect::Attach(op, device));
        }
    }

    /// Gets the number of labels for an endpoint.
    pub(crate) fn acquire(&mut self, now: Instant, id: EndpointId, labels: Labels, fx: &mut Effects<Effect>) {
        if let Some(number) = identity::reserved(&labels) {
            return self.number_for(now, id, number, fx);
        }
        if let Some(progress) = self.progress.get_mut(&id) {
            progress.held.push(labels.clone());
        }
        self.tell_allocator(now, identity::Input::Acquire(labels), fx);
    }

    /// Takes up the number an endpoint had in an earlier life.
    pub(crate) fn reclaim(
        &mut self,
        now: Instant,
        id: EndpointId,
        labels: Labels,
        number: NumericIdentity,
        fx: &mut Effects<Effect>,
    ) {
        if let Some(progress) = self.progress.get_mut(&id) {
            progress.held.push(labels.clone());
        }
        self.tell_allocator(now, identity::Input::Restore(labels, number), fx);
    }

    /// Labels have a number: endpoints with them take it.
    pub(crate) fn number_known(
        &mut self,
        now: Instant,
        labels: &Labels,
        number: NumericIdentity,
        fx: &mut Effects<Effect>,
    ) {
        let consequence = "peers with this identity match no label selector";
        if let Err(refusal) = self.change(fx, consequence, |engine| engine.upsert_identity(number, labels)) {
            fx.push(Effect::Notify(AgentEvent::Warning(format!("{number}: {refusal}"))));
        }
        let waiting = self.progress.iter().filter(|(_, progress)| progress.labels == *labels && !progress.leaving);
        let waiting: Vec<_> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.number_for(now, id, number, fx);
        }
    }

    fn number_for(&mut self, now: Instant, id: EndpointId, number: NumericIdentity, fx: &mut Effects<Effect>) {
        let Some(endpoint) = self.endpoints.by_id(id) else { return };
        let Some(progress) = self.progress.get_mut(&id) else { return };
        progress.trouble = None;
        if endpoint.identity == Some(number) && endpoint.identity_labels == progress.labels {
            progress.switch = None;
            progress.grace = Grace::Wait;
            return;
        }
        let at_once = progress.grace == Grace::None
            || endpoint.identity.is_none_or(|old| old == NumericIdentity::INIT || old == number);
        if at_once {
            self.take_number(now, id, number, fx);
        } else if progress.switch.is_none_or(|(_, waiting)| waiting != number) {
            progress.switch = Some((now + self.config.identity_change_grace, number));
        }
    }

    /// Gives an endpoint its number and writes what follows.
    fn take_number(&mut self, now: Instant, id: EndpointId, number: NumericIdentity, fx: &mut Effects<Effect>) {
        let Some(progress) = self.progress.get_mut(&id) else { return };
        progress.switch = None;
        progress.grace = Grace::Wait;
        let labels = progress.labels.clone();
        let unneeded: Vec<Labels> = progress.held.extract_if(.., |held| *held != labels).collect();
        let Some(endpoint) = self.endpoints.by_id_mut(id) else { return };
        endpoint.identity = Some(number);
        endpoint.identity_labels = labels;
        endpoint.step(now, State::Ready, Mover::Anyone, format!("identity {number} is known"));
        fx.push(Effect::Notify(AgentEvent::EndpointIdentity(id, number)));
        self.store(StateFile::Endpoint(id), fx);
        self.open(now, id, fx);
        for labels in unneeded {
            self.tell_allocator(now, identity::Input::Release(labels), fx);
        }
    }

    /// Lets an endpoint talk, once it has a number and programs guard its device.
    fn open(&mut self, now: Instant, id: EndpointId, fx: &mut Effects<Effect>) {
        if self.progress.get(&id).is_some_and(|progress| progress.attached && !progress.leaving)
            && let Err(refusal) = self.bring_up(now, id, fx)
        {
            self.cannot_write(now, id, refusal, fx);
        }
    }

    /// Tells everyone who an endpoint is: the engine, the maps, the other nodes.
    pub(crate) fn bring_up(&mut self, now: Instant, id: EndpointId, fx: &mut Effects<Effect>) -> Result<(), Refusal> {
        let Some(endpoint) = self.endpoints.by_id(id) else { return Ok(()) };
        let Some(number) = endpoint.identity else { return Ok(()) };
        let (labels, spec) = (endpoint.identity_labels.clone(), endpoint.spec.clone());
        let consequence = "the endpoint stays closed, or under the policy it has";
        self.change(fx, consequence, |engine| engine.upsert_identity(number, &labels))?;
        let pod = spec.pod.as_ref().map(|pod| (pod.namespace.clone(), pod.name.clone()));
        for addr in spec.addresses() {
            let entry = ipcache::Entry { identity: number, host: None, pod: pod.clone() };
            if !self.say(Cidr::host(addr), ipcache::Source::Local, entry, fx) {
                let max = self.config.maps.ipcache;
                return Err(Refusal::MapFull { map: abi::maps::IPCACHE.name, max, needed: 1, consequence });
            }
        }
        if let Some(endpoint) = self.endpoints.by_id(id) {
            lxc_entries(endpoint).into_iter().for_each(|write| self.put(write));
        }
        let facts = policy::EndpointFacts { labels, ..policy::EndpointFacts::default() };
        self.change(fx, consequence, |engine| Ok(engine.upsert_endpoint(id, facts)))?;
        // The engine says nothing if only the number moved.
        if let (Some(endpoint), Some(judged)) = (self.endpoints.by_id(id), self.engine.endpoint_policy(id))
            && let Some(write) = self.device(endpoint, judged)
        {
            self.put(write);
        }
        self.local_pod(id, LocalPodIs::Reachable, fx);
        for addr in spec.addresses() {
            let what = ipcache::Announcement { identity: number, pod: pod.clone() };
            self.tell_sync(now, ipcache::Input::Announce(addr, Some(what)), fx);
        }
        self.begin_writing(now, id, "endpoint's identity changed");
        Ok(())
    }

    fn begin_writing(&mut self, now: Instant, id: EndpointId, why: &'static str) {
        let revision = self.engine.revision();
        let live = self.is_live();
        let Some(endpoint) = self.endpoints.by_id_mut(id) else { return };
        endpoint.policy.wanted = revision;
        endpoint.step(now, State::WaitingToRegenerate, Mover::Anyone, why);
        if live {
            endpoint.step(now, State::Regenerating, Mover::Builder, "policy is being written");
            self.kernel.mark(Mark::Written(id, revision));
        }
    }

    /// Every endpoint's policy may have changed.
    pub(crate) fn regenerate(&mut self, now: Instant, why: &'static str) {
        let revision = self.engine.revision();
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.state() == State::Ready) {
            endpoint.policy.wanted = revision;
            endpoint.step(now, State::WaitingToRegenerate, Mover::Anyone, why);
            endpoint.step(now, State::Regenerating, Mover::Builder, "policy is being written");
        }
        self.kernel.mark(Mark::Realized(revision));
    }

    pub(crate) fn endpoints_realized(&mut self, now: Instant, revision: Revision, fx: &mut Effects<Effect>) {
        for endpoint in self.endpoints.iter_mut() {
            let written = self.progress.get(&endpoint.id).is_some_and(|progress| progress.written && progress.attached);
            if !written || endpoint.policy.wanted > revision {
                continue;
            }
            endpoint.policy.realized = revision;
            if endpoint.state() == State::Regenerating {
                endpoint.step(now, State::Ready, Mover::Builder, format!("policy revision {revision} is enforced"));
                fx.push(Effect::Notify(AgentEvent::EndpointRegenerated(endpoint.id, revision)));
            }
        }
    }

    pub(crate) fn endpoint_written(
        &mut self,
        now: Instant,
        id: EndpointId,
        revision: Revision,
        fx: &mut Effects<Effect>,
    ) {
        if let Some(endpoint) = self.endpoints.by_id_mut(id) {
            endpoint.policy.realized = endpoint.policy.realized.max(revision);
        }
        if let Some(progress) = self.progress.get_mut(&id) {
            progress.written = true;
        }
        self.maybe_ready(now, id, fx);
    }

    pub(crate) fn endpoint_saved(&mut self, now: Instant, id: EndpointId, fx: &mut Effects<Effect>) {
        self.maybe_ready(now, id, fx);
    }

    /// Declares an endpoint ready, and answers its creator, once everything is done.
    fn maybe_ready(&mut self, now: Instant, id: EndpointId, fx: &mut Effects<Effect>) {
        let kept = !self.files.is_pending(StateFile::Endpoint(id));
        let Some(progress) = self.progress.get_mut(&id).filter(|progress| !progress.leaving) else { return };
        if !progress.written || !progress.attached {
            return;
        }
        let Some(endpoint) = self.endpoints.by_id_mut(id) else { return };
        if endpoint.state() == State::Regenerating && endpoint.policy.realized >= endpoint.policy.wanted {
            let revision = endpoint.policy.realized;
            endpoint.step(now, State::Ready, Mover::Builder, format!("policy revision {revision} is enforced"));
            fx.push(Effect::Notify(AgentEvent::EndpointRegenerated(id, revision)));
        }
        if kept && let Some((request, _)) = progress.creator.take() {
            fx.push(Effect::Reply(request, Ok(Response::Endpoint(id))));
        }
    }

    pub(crate) fn finished(&mut self, now: Instant, op: OpId, result: Result<(), Failure>, fx: &mut Effects<Effect>) {
        if self.file_finished(now, op, &result, fx) {
            return;
        }
        let Some(id) = self.attaching.remove(&op) else { return };
        let Some(progress) = self.progress.get_mut(&id).filter(|progress| !progress.leaving) else { return };
        match result {
            Ok(()) => {
                progress.attach_failures = 0;
                if !core::mem::replace(&mut progress.attached, true) {
                    self.open(now, id, fx);
                }
                self.maybe_ready(now, id, fx);
            }
            Err(failure) => {
                progress.attach_failures += 1;
                progress.attach_again = Some(now + self.config.retry.after(progress.attach_failures));
                let creating = progress.creator.is_some();
                let Some(endpoint) = self.endpoints.by_id_mut(id) else { return };
                endpoint.failed(now, format!("programs cannot be attached: {}", failure.message));
                let refusal = Refusal::Attach { ifname: endpoint.spec.ifname.clone(), why: failure.message };
                fx.push(Effect::Notify(AgentEvent::EndpointFailed(id, refusal.clone())));
                if creating {
                    self.give_up(now, id, refusal, fx);
                }
            }
        }
    }

    /// What an endpoint needs does not fit or cannot be written.
    fn cannot_write(&mut self, now: Instant, id: EndpointId, refusal: Refusal, fx: &mut Effects<Effect>) {
        if let Some(endpoint) = self.endpoints.by_id_mut(id) {
            endpoint.failed(now, format!("{refusal}"));
        }
        fx.push(Effect::Notify(AgentEvent::EndpointFailed(id, refusal.clone())));
        let creating = self.progress.get(&id).is_some_and(|progress| progress.creator.is_some());
        if creating {
            self.give_up(now, id, refusal, fx);
        }
    }

    /// A write failed: endpoints that wait for it say so.
    pub(crate) fn stalled(&mut self, now: Instant, map: &str, kind: WriteErrorKind, _fx: &mut Effects<Effect>) {
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.state() == State::Regenerating) {
            endpoint.failed(now, format!("{map} cannot be written and is tried again: {kind}"));
        }
    }

    /// Takes a creation back; its request is answered when nothing is left.
    fn give_up(&mut self, now: Instant, id: EndpointId, refusal: Refusal, fx: &mut Effects<Effect>) {
        if let Some(progress) = self.progress.get_mut(&id)
            && let Some((request, _)) = progress.creator.take()
        {
            progress.epitaph = Some((request, refusal));
        }
        self.take_down(now, id, "creation failed", fx);
    }

    fn set_labels(
        &mut self,
        now: Instant,
        name: &EndpointName,
        labels: Labels,
        fx: &mut Effects<Effect>,
    ) -> Result<EndpointId, Refusal> {
        EndpointSpec::validate_labels(&labels, self.config.endpoints.labels_max)
            .map_err(|refusal| Refusal::Endpoint(refusal.into()))?;
        let id = self.endpoints.find(name).map(|endpoint| endpoint.id);
        let id = id.ok_or_else(|| Refusal::NoEndpoint(name.clone()))?;
        let cluster = self.config.cluster_name.clone();
        let (Some(endpoint), Some(progress)) = (self.endpoints.by_id_mut(id), self.progress.get_mut(&id)) else {
            return Err(Refusal::NoEndpoint(name.clone()));
        };
        if progress.leaving {
            return Err(Refusal::Leaving(id));
        }
        endpoint.spec.labels = labels;
        let wanted = endpoint.spec.identity_labels(&cluster);
        let before = core::mem::replace(&mut progress.labels, wanted.clone());
        if wanted == before {
            self.store(StateFile::Endpoint(id), fx);
            return Ok(id);
        }
        progress.switch = None;
        let returned = wanted == endpoint.identity_labels && endpoint.identity.is_some();
        let current = endpoint.identity_labels.clone();
        let to = if returned { State::Ready } else { State::WaitingForIdentity };
        endpoint.step(now, to, Mover::Anyone, "labels changed");
        let unneeded: Vec<Labels> = progress.held.extract_if(.., |held| *held != current && *held != wanted).collect();
        self.store(StateFile::Endpoint(id), fx);
        if !returned {
            self.acquire(now, id, wanted, fx);
        }
        for labels in unneeded {
            self.tell_allocator(now, identity::Input::Release(labels), fx);
        }
        Ok(id)
    }

    fn delete(
        &mut self,
        now: Instant,
        request: RequestId,
        endpoints: BTreeSet<EndpointId>,
        fx: &mut Effects<Effect>,
    ) -> Option<Answer> {
        self.deleting.insert(request, Deleting { waiting: endpoints.clone(), gone: Vec::new() });
        for id in endpoints {
            self.take_down(now, id, "deletion requested", fx);
        }
        None
    }

    pub(crate) fn link_vanished(&mut self, now: Instant, ifindex: u32, fx: &mut Effects<Effect>) {
        let id = self.endpoints.iter().find(|endpoint| endpoint.spec.ifindex == ifindex).map(|endpoint| endpoint.id);
        if let Some(id) = id {
            self.take_down(now, id, "its interface is gone", fx);
        }
    }

    /// Begins to take an endpoint down: first its device, then the ways to it.
    fn take_down(&mut self, now: Instant, id: EndpointId, why: &'static str, fx: &mut Effects<Effect>) {
        let Some(progress) = self.progress.get_mut(&id).filter(|progress| !progress.leaving) else { return };
        progress.leaving = true;
        progress.switch = None;
        if let Some((request, _)) = progress.creator.take() {
            progress.epitaph = Some((request, Refusal::WentAway(id)));
        }
        let held = core::mem::take(&mut progress.held);
        let Some(endpoint) = self.endpoints.by_id_mut(id) else { return };
        endpoint.step(now, State::Disconnecting, Mover::Anyone, why);
        let (addrs, ifindex): (Vec<IpAddr>, u32) = (endpoint.spec.addresses().collect(), endpoint.spec.ifindex);
        self.local_pod(id, LocalPodIs::Leaving, fx);
        self.put(MapWrite::Device(ifindex, None));
        let delta = self.engine.remove_endpoint(id);
        self.apply(delta, fx);
        for addr in addrs {
            self.put(MapWrite::Lxc(layout::EndpointKey::new(addr), None));
            self.unsay(Cidr::host(addr), ipcache::Source::Local, fx);
            self.tell_sync(now, ipcache::Input::Announce(addr, None), fx);
        }
        for labels in held {
            self.tell_allocator(now, identity::Input::Release(labels), fx);
        }
        self.kernel.mark(Mark::Gone(id));
    }

    pub(crate) fn endpoint_gone(&mut self, now: Instant, id: EndpointId, fx: &mut Effects<Effect>) {
        let device = self.device_of(id);
        let Some(mut endpoint) = self.endpoints.remove(id) else { return };
        endpoint.step(now, State::Disconnected, Mover::Anyone, "nothing of it is left");
        let progress = self.progress.remove(&id);
        fx.extend(device.map(Effect::Detach));
        if progress.as_ref().is_some_and(|progress| progress.addresses == AddressOwner::Agent) {
            for addr in endpoint.spec.addresses() {
                // An expired loan may be somebody else's by now; one without end is this endpoint's.
                if self.ipam.loan(addr).is_some_and(|loan| loan.expires.is_none()) {
                    let _ = self.ipam.release(addr);
                }
            }
        }
        self.store(StateFile::Endpoint(id), fx);
        fx.push(Effect::Notify(AgentEvent::EndpointDeleted(id)));
        if let Some((request, refusal)) = progress.and_then(|progress| progress.epitaph) {
            fx.push(Effect::Reply(request, Err(refusal)));
        }
        for deleting in self.deleting.values_mut() {
            if deleting.waiting.remove(&id) {
                deleting.gone.push(id);
            }
        }
        let complete = self.deleting.extract_if(.., |_, deleting| deleting.waiting.is_empty());
        fx.extend(complete.map(|(request, deleting)| Effect::Reply(request, Ok(Response::Deleted(deleting.gone)))));
    }

    pub(crate) fn endpoints_due(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        let due: Vec<_> = self
            .progress
            .iter()
            .filter(|(_, progress)| progress.next_deadline().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(progress) = self.progress.get_mut(&id) else { continue };
            if progress.attach_again.take_if(|at| *at <= now).is_some() {
                self.attach(id, fx);
            }
            let Some(progress) = self.progress.get_mut(&id) else { continue };
            if let Some((_, number)) = progress.switch.filter(|(at, _)| *at <= now) {
                self.take_number(now, id, number, fx);
            }
            let Some(progress) = self.progress.get(&id) else { continue };
            if progress.creator.is_some_and(|(_, at)| at <= now) {
                let waiting_for = self.waiting_for(id);
                self.give_up(now, id, Refusal::TooSlow { id, waiting_for }, fx);
            }
        }
    }

    /// What an endpoint that is not ready waits for.
    fn waiting_for(&self, id: EndpointId) -> &'static str {
        let (Some(endpoint), Some(progress)) = (self.endpoints.by_id(id), self.progress.get(&id)) else {
            return "nothing";
        };
        match endpoint.identity {
            None => "an identity number from the key-value store",
            _ if !progress.attached => "its programs to be attached",
            _ if !progress.written => "its policy to be written",
            _ => "its state file to be kept",
        }
    }
}
