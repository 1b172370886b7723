//! Policy documents: where each came from, and what of it is in force.
//!
//! A document is taken up whole or not at all. Those that came through the API are kept over restarts; those of the
//! watched directory are read again. A file with a mistake changes nothing: what it last said stays in force.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use machine::{Effects, Instant};
use policy::abilities::{self, Abilities, Unable};
use policy::{ObjectKey, ObjectKind, PolicyObject, parse};
use serde_json::Value;
use types::Labels;

use crate::agent::Agent;
use crate::effect::{AgentEvent, Effect, Refusal, Response, StateFile};
use crate::input::{PolicyFiles, PolicyRequest, Replace};

/// Where a document came from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// The API.
    Imported,
    /// A file of the watched directory.
    File(Box<str>),
}

#[derive(Debug, Clone)]
struct Document {
    origin: Origin,
    value: Value,
    labels: Labels,
    rules: usize,
}

/// All documents in force, by the object they define.
#[derive(Debug, Clone, Default)]
pub(crate) struct Documents {
    by_key: BTreeMap<ObjectKey, Document>,
}

impl Documents {
    /// What came through the API, to be kept.
    pub(crate) fn imported(&self) -> Vec<&Value> {
        self.by_key.values().filter(|doc| doc.origin == Origin::Imported).map(|doc| &doc.value).collect()
    }
    /// All documents.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Value> {
        self.by_key.values().map(|doc| &doc.value)
    }
    /// The labels of each, for selection.
    pub(crate) fn labelled(&self) -> impl Iterator<Item = (&ObjectKey, &Labels, &Value)> {
        self.by_key.iter().map(|(key, doc)| (key, &doc.labels, &doc.value))
    }
    /// How many rules there are.
    pub(crate) fn rules(&self) -> usize {
        self.by_key.values().map(|doc| doc.rules).sum()
    }

    fn of_file(&self, path: &str) -> BTreeSet<ObjectKey> {
        let of_file = |doc: &Document| matches!(&doc.origin, Origin::File(have) if **have == *path);
        self.by_key.iter().filter(|(_, doc)| of_file(doc)).map(|(key, _)| key.clone()).collect()
    }
}

/// A change of documents, ready to be made.
struct Change {
    origin: Origin,
    add: Vec<(PolicyObject, Value)>,
    remove: BTreeSet<ObjectKey>,
}

impl Agent {
    pub(crate) fn policy_request(
        &mut self,
        now: Instant,
        request: PolicyRequest,
        fx: &mut Effects<Effect>,
    ) -> Result<Response, Refusal> {
        let change = match request {
            PolicyRequest::Put { text, replace } => {
                let add = self.read(&text)?;
                let remove = self.replaced(&add, &replace);
                Change { origin: Origin::Imported, add, remove }
            }
            PolicyRequest::Delete(labels) => {
                let remove = self.imported_with(&labels);
                if remove.is_empty() && !labels.is_empty() {
                    return Err(Refusal::NoPolicy(labels));
                }
                Change { origin: Origin::Imported, add: Vec::new(), remove }
            }
        };
        let rules = change.add.iter().map(|(object, _)| object.rules.len()).sum::<usize>()
            + change.remove.iter().filter_map(|key| self.documents.by_key.get(key)).map(|doc| doc.rules).sum::<usize>();
        let notices = change
            .add
            .iter()
            .flat_map(|(object, _)| {
                object.notices.iter().map(|notice| format!("{}: {}: {}", object.key, notice.path, notice.what))
            })
            .collect();
        self.take_up(now, change, fx)?;
        if core::mem::take(&mut self.policies_lost) {
            let delta =
                self.engine.set_mode(self.engine_enforcement(self.enforcement), self.audit == crate::Audit::Report);
            self.apply(delta, fx);
        }
        self.store(StateFile::Policies, fx);
        Ok(Response::Policy { revision: self.engine.revision(), rules, notices })
    }

    /// Takes up what changed in the watched directory, file by file.
    pub(crate) fn policy_files(&mut self, now: Instant, files: PolicyFiles, fx: &mut Effects<Effect>) {
        for file in files.changes {
            let refused = |why: String| Effect::Notify(AgentEvent::PolicyFileRefused { path: file.path.clone(), why });
            let add = match &file.content {
                Ok(Some(text)) => self.read(text),
                Ok(None) => Ok(Vec::new()),
                Err(failure) => {
                    fx.push(refused(failure.message.to_string()));
                    continue;
                }
            };
            let taken = add.and_then(|add| {
                let remove = self.documents.of_file(&file.path);
                self.take_up(now, Change { origin: Origin::File(file.path.clone()), add, remove }, fx)
            });
            if let Err(refusal) = taken {
                fx.push(refused(refusal.to_string()));
            }
        }
    }

    /// Takes up documents that were imported in an earlier life.
    pub(crate) fn restore_policies(
        &mut self,
        now: Instant,
        json: &[u8],
        fx: &mut Effects<Effect>,
    ) -> Result<(), String> {
        let values: Vec<Value> = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let mut add = Vec::new();
        for value in values {
            add.extend(self.read_value(value).map_err(|refusal| refusal.to_string())?);
        }
        let change = Change { origin: Origin::Imported, add, remove: BTreeSet::new() };
        self.take_up(now, change, fx).map_err(|refusal| refusal.to_string())
    }

    fn read(&self, text: &str) -> Result<Vec<(PolicyObject, Value)>, Refusal> {
        let options = parse_options();
        let values = parse::documents(text, &options.limits).map_err(|error| refusal(&[error]))?;
        let mut found = Vec::new();
        for value in values {
            found.extend(self.read_value(value)?);
        }
        Ok(found)
    }

    /// Reads one document; lists are taken apart, so that each object can be kept and removed for itself.
    fn read_value(&self, value: Value) -> Result<Vec<(PolicyObject, Value)>, Refusal> {
        let options = parse_options();
        let pieces: Vec<Value> = match value {
            Value::Null => Vec::new(),
            Value::Array(rules) => rules.into_iter().map(|rule| Value::Array([rule].into())).collect(),
            Value::Object(mut map) if map.get("items").is_some_and(Value::is_array) => match map.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            },
            value => [value].into(),
        };
        let abilities = self.abilities();
        let mut found = Vec::new();
        for (index, value) in pieces.into_iter().enumerate() {
            let objects = parse::parse_value(&value, &options).map_err(|mut errors| {
                errors.iter_mut().for_each(|error| error.document = index);
                refusal(&errors)
            })?;
            for mut object in objects {
                object
                    .notices
                    .extend(abilities::check(&object.rules, &abilities).map_err(|all| unable(&object, &all))?);
                if object.key.kind == ObjectKind::Rules {
                    // Bare rules have no name; what they say is their name, so that saying it twice is saying it once.
                    object.key.name = format!("{}#{:016x}", object.key.name, fnv(&value.to_string())).into();
                }
                found.push((object, value.clone()));
            }
        }
        Ok(found)
    }

    /// What this agent puts into effect: nobody tells it of groups, services or names yet, and the node's own traffic is
    /// not judged.
    #[must_use]
    pub fn abilities(&self) -> Abilities {
        Abilities {
            ipv4: self.config.ipv4.is_some(),
            ipv6: self.config.ipv6.is_some(),
            cidr_groups: false,
            services: false,
            dns_names: false,
            port_names: false,
            host_firewall: false,
        }
    }

    /// Reads documents as if they were imported, and changes nothing.
    ///
    /// # Errors
    /// [`Refusal::Policy`] with every mistake.
    pub fn read_policies(&self, documents: Vec<Value>) -> Result<Vec<PolicyObject>, Refusal> {
        let mut objects = Vec::new();
        for value in documents {
            objects.extend(self.read_value(value)?.into_iter().map(|(object, _)| object));
        }
        Ok(objects)
    }

    fn replaced(&self, add: &[(PolicyObject, Value)], replace: &Replace) -> BTreeSet<ObjectKey> {
        let imported = self.documents.by_key.iter().filter(|(_, doc)| doc.origin == Origin::Imported);
        match replace {
            Replace::SameObject => BTreeSet::new(),
            Replace::SameLabels => imported
                .filter(|(_, doc)| add.iter().any(|(object, _)| object.labels == doc.labels))
                .map(|(key, _)| key.clone())
                .collect(),
            Replace::Labelled(labels) => self.imported_with(labels),
        }
    }

    fn imported_with(&self, labels: &Labels) -> BTreeSet<ObjectKey> {
        let wanted =
            |doc: &Document| doc.origin == Origin::Imported && labels.iter().all(|label| doc.labels.has(label));
        self.documents.by_key.iter().filter(|(_, doc)| wanted(doc)).map(|(key, _)| key.clone()).collect()
    }

    /// Makes a change, or nothing of it.
    fn take_up(&mut self, now: Instant, change: Change, fx: &mut Effects<Effect>) -> Result<(), Refusal> {
        let Change { origin, add, remove } = change;
        let kept: BTreeSet<_> = add.iter().map(|(object, _)| object.key.clone()).collect();
        let remove: Vec<_> = remove.into_iter().filter(|key| !kept.contains(key)).collect();
        let before = self.engine.revision();
        let objects: Vec<_> = add.iter().map(|(object, _)| object.clone()).collect();
        self.change(fx, "the policies stay as they were", |engine| engine.change_objects(objects, &remove))?;
        for key in &remove {
            self.documents.by_key.remove(key);
        }
        for (object, value) in add {
            for notice in &object.notices {
                let text = format!("{}: {}: {}", object.key, notice.path, notice.what);
                fx.push(Effect::Notify(AgentEvent::Warning(text)));
            }
            let doc = Document { origin: origin.clone(), value, labels: object.labels, rules: object.rules.len() };
            self.documents.by_key.insert(object.key, doc);
        }
        let revision = self.engine.revision();
        if revision != before && self.is_live() {
            self.regenerate(now, "policy changed");
        }
        fx.push(Effect::Notify(AgentEvent::PolicyUpdated { revision, rules: self.documents.rules() }));
        Ok(())
    }
}

/// How this agent reads: it has no L7 proxy. A prefix with host bits is asked back: it says two things.
#[must_use]
pub fn parse_options() -> parse::Options {
    parse::Options { l7_proxy: false, host_bits: parse::HostBits::Refuse, ..parse::Options::default() }
}

fn refusal(errors: &[policy::DocError]) -> Refusal {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let path = errors.first().map(|error| error.path.clone()).unwrap_or_default();
    Refusal::Policy { path, why: lines.join("\n") }
}

fn unable(object: &PolicyObject, all: &[Unable]) -> Refusal {
    let path = all.first().map(|first| format!("{}: {}", object.key, first.path)).unwrap_or_default();
    let why: Vec<String> = all.iter().map(|each| each.why.to_string()).collect();
    Refusal::Policy { path, why: why.join("; ") }
}

fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
