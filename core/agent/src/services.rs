//! Services: of the API, and of Kubernetes' objects in a watched directory. What changes becomes writes in an order in
//! which no packet meets half a service.
//!
//! A file with a mistake takes nothing away: what of it can be read is taken up, what it last said of the rest stays.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use abi::config::Runtime;
use abi::write::MapWrite;
use lb::{Change, HealthPort, Object, ObjectKey, Planned, Purge};
use machine::Effects;
use serde_json::Value;
use types::EndpointId;

use crate::agent::Agent;
use crate::effect::{AgentEvent, Effect, Refusal, Response, StateFile};
use crate::input::{PolicyFile, PolicyFiles, RequestId, ServiceRequest};
use crate::kernel::Mark;

/// Which file says what, and what is wrong with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceFiles {
    objects: BTreeMap<Box<str>, BTreeSet<ObjectKey>>,
    file_of: BTreeMap<ObjectKey, Box<str>>,
    problems: BTreeMap<Box<str>, Vec<String>>,
}

/// Whether traffic may be led to a pod of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LocalPodIs {
    /// It may.
    Reachable,
    /// It may no longer.
    Leaving,
}

/// What a file asks for.
#[derive(Debug, Default)]
struct Read {
    objects: Vec<Object>,
    problems: Vec<String>,
}

impl Agent {
    pub(crate) fn service_request(
        &mut self,
        id: RequestId,
        request: ServiceRequest,
        fx: &mut Effects<Effect>,
    ) -> Option<Result<Response, Refusal>> {
        let planned = match request {
            ServiceRequest::Put(spec) => self.balancer.put(*spec).map(|planned| [planned].into()),
            ServiceRequest::Delete(service) => self.balancer.delete(service),
        };
        let planned: Vec<Planned> = match planned {
            Ok(planned) => planned,
            Err(refusal) => return Some(Err(refusal.into())),
        };
        let answer = match planned.first() {
            Some(Planned { id, change: change @ (Change::Created | Change::Updated), .. }) => {
                Response::Service { id: *id, created: *change == Change::Created }
            }
            _ => Response::Done,
        };
        self.write_services(planned, fx);
        self.store(StateFile::Services, fx);
        self.kernel.mark(Mark::AnswerKept(id, answer, StateFile::Services));
        None
    }

    /// Takes up what changed in the watched directory, as one change.
    pub(crate) fn service_files(&mut self, files: PolicyFiles, fx: &mut Effects<Effect>) {
        let (mut put, mut removed) = (Vec::new(), Vec::new());
        for file in files.changes {
            self.service_file(file, &mut put, &mut removed, fx);
        }
        let planned = self.balancer.change(put, removed);
        self.write_services(planned, fx);
        self.tell_problems(fx);
    }

    fn service_file(
        &mut self,
        file: PolicyFile,
        put: &mut Vec<Object>,
        removed: &mut Vec<ObjectKey>,
        fx: &mut Effects<Effect>,
    ) {
        let PolicyFile { path, content } = file;
        let mut read = match content {
            Ok(Some(text)) => read(&text),
            Ok(None) => Read::default(),
            Err(failure) => Read { problems: [failure.message.to_string()].into(), ..Read::default() },
        };
        let files = &mut self.files_of_services;
        let mut keys = BTreeSet::new();
        for object in read.objects {
            let key = object.key();
            match files.file_of.get(&key).filter(|owner| **owner != path) {
                Some(owner) => read.problems.push(format!("{key}: {owner} says already what it is; leave it out here")),
                None if !keys.insert(key.clone()) => {
                    read.problems.push(format!("{key}: it is there twice; the first counts"))
                }
                None => {
                    files.file_of.insert(key, path.clone());
                    put.push(object);
                }
            }
        }
        let had = files.objects.remove(&path).unwrap_or_default();
        for key in had.difference(&keys).cloned().collect::<Vec<_>>() {
            if read.problems.is_empty() {
                files.file_of.remove(&key);
                removed.push(key);
            } else {
                keys.insert(key);
            }
        }
        if !keys.is_empty() {
            files.objects.insert(path.clone(), keys);
        }
        files.problems.remove(&path);
        if !read.problems.is_empty() {
            fx.push(Effect::Notify(AgentEvent::ServiceFileRefused {
                path: path.clone(),
                why: read.problems.join("; "),
            }));
            files.problems.insert(path, read.problems);
        }
    }

    /// A pod of this node can be reached, or is about to go: traffic that policies keep on the node follows it.
    pub(crate) fn local_pod(&mut self, id: EndpointId, is: LocalPodIs, fx: &mut Effects<Effect>) {
        let endpoint = self.endpoints.by_id(id).filter(|_| is == LocalPodIs::Reachable);
        let pod = endpoint.and_then(|endpoint| {
            let pod = endpoint.spec.pod.as_ref()?;
            Some(lb::LocalPod {
                name: lb::ServiceName { namespace: pod.namespace.clone(), name: pod.name.clone() },
                labels: endpoint.identity_labels.clone(),
                addresses: endpoint.spec.addresses().collect(),
            })
        });
        let planned = self.balancer.set_local(id, pod);
        self.write_services(planned, fx);
        if self.balancer.objects().redirects().next().is_some() {
            self.tell_problems(fx);
        }
    }

    /// What of services does not count, each with its object and field, or its file.
    pub fn service_problems(&self) -> Vec<String> {
        let files = self.files_of_services.problems.iter();
        let of_files = files.flat_map(|(path, list)| list.iter().map(move |why| format!("{path}: {why}")));
        of_files.chain(self.balancer.problems().map(ToString::to_string)).collect()
    }

    /// Says what is newly wrong with objects.
    fn tell_problems(&mut self, fx: &mut Effects<Effect>) {
        let now: BTreeSet<lb::Problem> = self.balancer.problems().cloned().collect();
        for problem in now.difference(&self.problems_told) {
            fx.push(Effect::Notify(AgentEvent::ServiceProblem(problem.clone())));
        }
        self.problems_told = now;
    }

    /// Writes what changed. Before the kernel follows nothing is written: going live writes everything.
    fn write_services(&mut self, planned: Vec<Planned>, fx: &mut Effects<Effect>) {
        if planned.is_empty() || !self.is_live() {
            return;
        }
        let changing = planned.iter().map(|one| one.id).collect();
        fx.push(Effect::Notify(AgentEvent::ServicesChanging(changing)));
        let (mut writes, mut purge) = (Vec::with_capacity(planned.len()), Vec::<Purge>::new());
        let mut marks = Vec::with_capacity(planned.len());
        for one in planned {
            self.kernel.learn(&one.tables);
            writes.push(one.writes);
            purge.extend(one.purge);
            marks.push(Mark::Service(one.id, one.change));
        }
        // Once heads and slots are written, services are what they will be. What is left is to clear away what nobody should
        // find any more: cached backends are checked before that, so that no packet goes out whose reply finds no way back.
        let mut clearing = false;
        let writes = lb::together(writes);
        let changed = !writes.is_empty();
        for write in writes {
            if write.value().is_none() && !is_service(&write) && !clearing {
                clearing = true;
                self.publish_services();
            }
            self.put(write);
        }
        // And once more after that: a backend that was still there when it was checked may be gone now.
        if changed {
            self.publish_services();
        }
        self.kernel.forget_unused();
        marks.into_iter().for_each(|mark| self.kernel.mark(mark));
        if !purge.is_empty() {
            self.kernel.mark(Mark::Purge(purge));
        }
        self.tell_health(fx);
    }

    /// Says which ports are asked whether this node has a backend, if that changed.
    pub(crate) fn tell_health(&mut self, fx: &mut Effects<Effect>) {
        let ports: BTreeMap<u16, HealthPort> = self.balancer.services().health_ports();
        if ports != self.health_told {
            self.health_told.clone_from(&ports);
            fx.push(Effect::HealthPorts(ports));
        }
    }

    /// Moves the revision by which cached backends are checked anew.
    pub(crate) fn publish_services(&mut self) {
        self.lb_revision += 1;
        self.put(MapWrite::Runtime(Runtime::LbRevision as u32, Some(self.lb_revision)));
    }

    /// Takes up services that came through the API in an earlier life.
    pub(crate) fn restore_services(&mut self, bytes: &[u8], fx: &mut Effects<Effect>) -> Result<(), String> {
        let values: Vec<Value> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        for value in values {
            let spec = serde_json::from_value(of_first_form(value)).map_err(|error| error.to_string())?;
            if let Err(refusal) = self.balancer.put(spec) {
                fx.push(Effect::Notify(AgentEvent::Warning(refusal.to_string())));
            }
        }
        Ok(())
    }

    /// Services that came through the API, to be kept.
    pub(crate) fn services_to_keep(&self) -> Vec<lb::ServiceSpec> {
        let services = self.balancer.services().iter();
        services.filter(|service| self.balancer.owner(&service.key()).is_none()).map(lb::Service::spec).collect()
    }
}

/// A service as the first form kept it has no type, and the weights of its backends are 0 and mean nothing.
fn of_first_form(mut value: Value) -> Value {
    if value.get("kind").is_none() {
        for backend in value.get_mut("backends").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(fields) = backend.as_object_mut().filter(|fields| fields.get("weight") == Some(&0.into())) {
                fields.remove("weight");
            }
        }
    }
    value
}

const fn is_service(write: &MapWrite) -> bool {
    matches!(write, MapWrite::Service4(..) | MapWrite::Service6(..))
}

/// Reads a file of objects, as far as it can be read.
fn read(text: &str) -> Read {
    let mut found = Read::default();
    let values = match policy::parse::documents(text, &policy::parse::Limits::default()) {
        Ok(values) => values,
        Err(error) => return Read { problems: [error.to_string()].into(), ..found },
    };
    for value in values {
        let items = match value {
            Value::Array(items) => items,
            value => [value].into(),
        };
        for item in items {
            let (objects, errors) = Object::read(item);
            found.objects.extend(objects);
            found.problems.extend(errors.iter().map(ToString::to_string));
        }
    }
    found
}
