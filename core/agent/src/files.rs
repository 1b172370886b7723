//! What the agent keeps over restarts, file by file.
//!
//! Invariant: of one file at most one operation is under way; what changed meanwhile is written after it. A file's
//! content is made when its operation begins, so the last one says what holds.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use machine::{Effects, Instant, OpId};
use serde::{Deserialize, Serialize};
use types::{EndpointId, Labels, NumericIdentity};

use crate::agent::Agent;
use crate::effect::{AgentEvent, Effect, Refusal, Response, StateFile};
use crate::input::{AddressOwner, Failure, RequestId};

/// Operations on state files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    under_way: BTreeMap<OpId, StateFile>,
    changed_meanwhile: BTreeSet<StateFile>,
    failures: BTreeMap<StateFile, u32>,
    retry: BTreeMap<StateFile, Instant>,
    /// Answers that promise what is not on disk yet.
    answers: BTreeMap<StateFile, Vec<(RequestId, Response)>>,
}

impl Files {
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.retry.values().min().copied()
    }
    pub(crate) fn is_pending(&self, file: StateFile) -> bool {
        self.retry.contains_key(&file) || self.under_way.values().any(|have| *have == file)
    }
    pub(crate) fn failing(&self) -> impl Iterator<Item = StateFile> + '_ {
        self.failures.keys().copied()
    }
}

/// An endpoint as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SavedEndpoint {
    pub(crate) id: EndpointId,
    pub(crate) identity: Option<NumericIdentity>,
    pub(crate) identity_labels: Labels,
    #[serde(default)]
    pub(crate) external_addresses: bool,
    pub(crate) spec: endpoint::EndpointSpec,
}

impl Agent {
    /// Keeps the present state of a file, or removes the file if there is nothing to keep.
    pub(crate) fn store(&mut self, file: StateFile, fx: &mut Effects<Effect>) {
        if self.files.under_way.values().any(|have| *have == file) {
            self.files.changed_meanwhile.insert(file);
            return;
        }
        self.files.retry.remove(&file);
        let op = self.ops.fresh();
        self.files.under_way.insert(op, file);
        fx.push(match self.content(file) {
            Some(content) => Effect::Save(op, file, content),
            None => Effect::Forget(op, file),
        });
    }

    /// What a file should hold; `None`: it should not be there.
    fn content(&self, file: StateFile) -> Option<Vec<u8>> {
        let json = match file {
            StateFile::Endpoint(id) => {
                let endpoint = self.endpoints.by_id(id)?;
                let external = self.progress.get(&id).is_some_and(|p| p.addresses == AddressOwner::External);
                serde_json::to_vec_pretty(&SavedEndpoint {
                    id,
                    identity: endpoint.identity,
                    identity_labels: endpoint.identity_labels.clone(),
                    external_addresses: external,
                    spec: endpoint.spec.clone(),
                })
            }
            StateFile::LocalIdentities => serde_json::to_vec(&self.local.save()),
            StateFile::Services => serde_json::to_vec(&self.services_to_keep()),
            StateFile::Policies => serde_json::to_vec(&self.documents.imported()),
        };
        Some(json.expect("plain values are JSON"))
    }

    /// Answers a request as soon as what it changed would survive a crash.
    pub(crate) fn answer_once_kept(
        &mut self,
        id: RequestId,
        response: Response,
        file: StateFile,
        fx: &mut Effects<Effect>,
    ) {
        if self.files.is_pending(file) {
            self.files.answers.entry(file).or_default().push((id, response));
        } else {
            fx.push(Effect::Reply(id, Ok(response)));
        }
    }

    /// Takes the outcome of an operation on a file. `false`: it was none.
    pub(crate) fn file_finished(
        &mut self,
        now: Instant,
        op: OpId,
        result: &Result<(), Failure>,
        fx: &mut Effects<Effect>,
    ) -> bool {
        let Some(file) = self.files.under_way.remove(&op) else { return false };
        let changed = self.files.changed_meanwhile.remove(&file);
        match result {
            Ok(()) => {
                self.files.failures.remove(&file);
                if changed {
                    self.store(file, fx);
                    return true;
                }
                let kept = self.files.answers.remove(&file).unwrap_or_default();
                fx.extend(kept.into_iter().map(|(id, response)| Effect::Reply(id, Ok(response))));
                if let StateFile::Endpoint(id) = file {
                    self.endpoint_saved(now, id, fx);
                }
            }
            Err(failure) => {
                let promised = self.files.answers.remove(&file).unwrap_or_default();
                let refused =
                    |id| Effect::Reply(id, Err(Refusal::NotKept { file: file.path(), why: failure.message.clone() }));
                fx.extend(promised.into_iter().map(|(id, _)| refused(id)));
                let failures = self.files.failures.entry(file).or_default();
                *failures += 1;
                self.files.retry.insert(file, now + self.config.retry.after(*failures));
                fx.push(Effect::Notify(AgentEvent::Warning(alloc::format!(
                    "{} could not be kept and is tried again: {}",
                    file.path(),
                    failure.message
                ))));
            }
        }
        true
    }

    /// Tries again what failed, when it is due.
    pub(crate) fn store_again(&mut self, now: Instant, fx: &mut Effects<Effect>) {
        let due: Vec<_> = self.files.retry.iter().filter(|(_, at)| **at <= now).map(|(file, _)| *file).collect();
        for file in due {
            self.store(file, fx);
        }
    }
}
