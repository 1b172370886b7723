//! The first input: what an earlier life left on disk and in the kernel.
//!
//! Everything is taken in before anything is written; until then the kernel does what it did. A state file that cannot
//! be read is told loudly, and what it was for is done the closed way.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::config::Runtime;
use abi::write::MapWrite;
use endpoint::State;
use machine::{Effects, Instant, OpIds};
use types::{Cidr, EndpointId, NumericIdentity};

use crate::agent::{Agent, HOST, Phase};
use crate::effect::{AgentEvent, Effect, StateFile};
use crate::endpoints::{DeviceIs, Progress};
use crate::files::SavedEndpoint;
use crate::input::{AddressOwner, Failure, Snapshot};
use crate::kernel::Kernel;

type File = (StateFile, Result<Vec<u8>, Failure>);

impl Agent {
    pub(crate) fn restore(&mut self, now: Instant, snapshot: Snapshot, fx: &mut Effects<Effect>) {
        self.phase = Phase::Restoring;
        let runtime = |index: Runtime| {
            let of = |write: &MapWrite| match write {
                MapWrite::Runtime(at, Some(value)) if *at == index as u32 => Some(*value),
                _ => None,
            };
            snapshot.maps.iter().find_map(of).unwrap_or(0)
        };
        self.revision_base = runtime(Runtime::PolicyRevision);
        self.lb_revision = runtime(Runtime::LbRevision);
        self.balancer.services_mut().remember(&snapshot.maps);
        // Operations of an earlier life of this machine must not be taken for this one's.
        self.kernel = Kernel::new(&self.config, OpIds::after(3 << 56), snapshot.maps);
        self.take_own_addresses(fx);
        let (endpoints, others): (Vec<File>, Vec<File>) =
            snapshot.files.into_iter().partition(|(file, _)| matches!(file, StateFile::Endpoint(_)));
        // Numbers of prefixes before the rules that name them.
        for (file, content) in others.iter().filter(|(file, _)| *file == StateFile::LocalIdentities) {
            self.restore_file(now, *file, content, fx);
        }
        for (file, content) in others.iter().filter(|(file, _)| *file != StateFile::LocalIdentities) {
            self.restore_file(now, *file, content, fx);
        }
        if let Some(files) = snapshot.policy_files {
            self.policy_files(now, files, fx);
        }
        if let Some(files) = snapshot.service_files {
            self.service_files(files, fx);
        }
        for (file, content) in endpoints {
            let StateFile::Endpoint(id) = file else { continue };
            let restored = content
                .map_err(|failure| failure.message.to_string())
                .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
                .and_then(|saved| self.restore_endpoint(now, id, saved, &snapshot.links, fx));
            if let Err(why) = restored {
                let consequence = "the endpoint is not managed any more: nothing passes its device";
                fx.push(Effect::Notify(AgentEvent::StateFileUnusable { file, why, consequence }));
            }
        }
        self.tell_allocator(now, identity::Input::Start, fx);
        self.tell_sync(now, ipcache::Input::Start, fx);
    }

    /// The router's and the node's own addresses.
    fn take_own_addresses(&mut self, fx: &mut Effects<Effect>) {
        let families: Vec<_> = [&self.config.ipv4, &self.config.ipv6].into_iter().flatten().cloned().collect();
        for family in families {
            if let Err(refusal) = self.ipam.reserve_for_node(family.router, "router") {
                fx.push(Effect::Notify(AgentEvent::Warning(format!("router address: {refusal}"))));
            }
            for addr in family.node_addrs.iter().chain([&family.router]) {
                // A node address inside of the pod range must not be lent; outside there is nothing to keep.
                if family.pod_cidr.contains(*addr) && *addr != family.router {
                    let _ = self.ipam.reserve_for_node(*addr, "node");
                }
                self.say(Cidr::host(*addr), ipcache::Source::Local, ipcache::Entry::of(HOST), fx);
            }
        }
    }

    fn restore_file(
        &mut self,
        now: Instant,
        file: StateFile,
        content: &Result<Vec<u8>, Failure>,
        fx: &mut Effects<Effect>,
    ) {
        let result: Result<(), String> = match content {
            Err(failure) => Err(failure.message.to_string()),
            Ok(bytes) => match file {
                StateFile::LocalIdentities => serde_json::from_slice::<Vec<identity::SavedLocal>>(bytes)
                    .map(|saved| self.local.remember(saved))
                    .map_err(|error| error.to_string()),
                StateFile::Services => self.restore_services(bytes, fx),
                StateFile::Policies => self.restore_policies(now, bytes, fx),
                StateFile::Endpoint(_) => Ok(()),
            },
        };
        let Err(why) = result else { return };
        let consequence = match file {
            StateFile::LocalIdentities => "prefixes get new identity numbers",
            StateFile::Services => "services in the kernel stay as they are until they are given again",
            StateFile::Policies => {
                self.policies_lost = true;
                let mode = self.engine_enforcement(self.enforcement);
                let delta = self.engine.set_mode(mode, self.audit == crate::Audit::Report);
                self.apply(delta, fx);
                "imported policies are lost; endpoints refuse what no other policy allows until policies are imported or deleted"
            }
            StateFile::Endpoint(_) => "",
        };
        if file == StateFile::Services {
            self.services_lost = true;
        }
        fx.push(Effect::Notify(AgentEvent::StateFileUnusable { file, why, consequence }));
    }

    fn restore_endpoint(
        &mut self,
        now: Instant,
        id: EndpointId,
        saved: SavedEndpoint,
        links: &[(u32, alloc::boxed::Box<str>)],
        fx: &mut Effects<Effect>,
    ) -> Result<(), String> {
        if saved.id != id {
            return Err(format!("it says it is endpoint {}", saved.id));
        }
        saved.spec.validate(self.config.endpoints.labels_max).map_err(|refusal| refusal.to_string())?;
        let spec = &saved.spec;
        if !links.iter().any(|(ifindex, name)| *ifindex == spec.ifindex && *name == spec.ifname) {
            fx.push(Effect::Notify(AgentEvent::Warning(format!(
                "endpoint {id} went while the agent was away: its interface {} is gone",
                spec.ifname
            ))));
            self.store(StateFile::Endpoint(id), fx);
            return Ok(());
        }
        let number = match saved.identity.filter(|number| number.scope() == Some(types::identity::Scope::Global)) {
            Some(number) if number.is_reserved() => {
                if identity::reserved(&saved.identity_labels) != Some(number) {
                    return Err(format!("{number} is reserved and not the identity of {}", saved.identity_labels));
                }
                Some(number)
            }
            number => number.filter(|number| *number != NumericIdentity::UNKNOWN),
        };
        let addresses = if saved.external_addresses { AddressOwner::External } else { AddressOwner::Agent };
        let owner = spec.pod_name().or_else(|| spec.attachment_id()).unwrap_or_default();
        self.endpoints
            .insert(
                now,
                Some(id),
                saved.spec.clone(),
                saved.identity_labels.clone(),
                State::Restoring,
                "endpoint restored",
            )
            .map_err(|refusal| refusal.to_string())?;
        if addresses == AddressOwner::Agent {
            for addr in spec.addresses() {
                if let Err(refusal) = self.ipam.reserve(addr, &owner) {
                    fx.push(Effect::Notify(AgentEvent::Warning(format!("endpoint {id}: {refusal}"))));
                }
            }
        }
        let wanted = spec.identity_labels(&self.config.cluster_name);
        self.progress.insert(id, Progress::new(wanted.clone(), addresses, DeviceIs::TakenOver));
        if let (Some(number), Some(endpoint)) = (number, self.endpoints.by_id_mut(id)) {
            endpoint.identity = Some(number);
            if !number.is_reserved() {
                self.reclaim(now, id, saved.identity_labels.clone(), number, fx);
            }
            if let Err(refusal) = self.bring_up(now, id, fx) {
                fx.push(Effect::Notify(AgentEvent::EndpointFailed(id, refusal)));
            }
        }
        self.attach(id, fx);
        if number.is_none() || wanted != saved.identity_labels {
            self.acquire(now, id, wanted, fx);
        }
        Ok(())
    }
}
