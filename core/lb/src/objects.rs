//! Kubernetes' objects, as far as load balancing needs them, and which belongs to which.
//!
//! What cannot be read at all is refused with its place; what can be read and makes no sense is found when frontends are
//! derived (module `derive`), so that the rest of the object still counts.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::ServiceName;

/// The label that says whose slice it is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `v1` Service
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice
    EndpointSlice,
    /// `v1` Pod
    Pod,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
        })
    }
}

/// An object's kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name.
    pub name: ServiceName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Why something is no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// A kind this crate does not know.
    #[error("kind {kind:?} is not one of Service, EndpointSlice, Pod and List")]
    Kind {
        /// What was given.
        kind: String,
    },
    /// A field cannot be read.
    #[error("{object}: {path}: {why}")]
    Field {
        /// Kind and name, as far as they are known.
        object: String,
        /// Where.
        path: String,
        /// What is wrong there.
        why: String,
    },
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A service.
    Service(Box<Service>),
    /// A slice of a service's endpoints.
    EndpointSlice(Box<EndpointSlice>),
    /// A pod.
    Pod(Box<Pod>),
}

impl Object {
    /// Reads an object, or each of a list.
    pub fn read(value: Value) -> Result<Vec<Self>, ObjectError> {
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_string();
        match (&*kind, value) {
            (_, Value::Null) => Ok(Vec::new()),
            ("List" | "ServiceList" | "EndpointSliceList" | "PodList", Value::Object(mut list)) => {
                let item_kind = kind.strip_suffix("List").unwrap_or_default();
                let mut found = Vec::new();
                for mut item in list.remove("items").and_then(into_array).unwrap_or_default() {
                    if let (Value::Object(map), false) = (&mut item, item_kind.is_empty()) {
                        map.entry("kind").or_insert_with(|| item_kind.into());
                    }
                    found.extend(Self::read(item)?);
                }
                Ok(found)
            }
            ("Service", value) => Ok([Self::Service(parse("Service", value)?)].into()),
            ("EndpointSlice", value) => Ok([Self::EndpointSlice(parse("EndpointSlice", value)?)].into()),
            ("Pod", value) => Ok([Self::Pod(parse("Pod", value)?)].into()),
            _ => Err(ObjectError::Kind { kind }),
        }
    }

    /// Its kind and name.
    pub fn key(&self) -> ObjectKey {
        let (kind, meta) = match self {
            Self::Service(service) => (ObjectKind::Service, &service.metadata),
            Self::EndpointSlice(slice) => (ObjectKind::EndpointSlice, &slice.metadata),
            Self::Pod(pod) => (ObjectKind::Pod, &pod.metadata),
        };
        ObjectKey { kind, name: meta.key() }
    }
}

fn into_array(value: Value) -> Option<Vec<Value>> {
    if let Value::Array(list) = value { Some(list) } else { None }
}

fn parse<T: for<'de> Deserialize<'de>>(kind: &str, value: Value) -> Result<Box<T>, ObjectError> {
    let name = |at: &str| value.pointer(at).and_then(Value::as_str).unwrap_or("").to_string();
    let (namespace, name) = (name("/metadata/namespace"), name("/metadata/name"));
    let namespace = if namespace.is_empty() { "default".into() } else { namespace };
    let object = alloc::format!("{kind} {namespace}/{name}");
    if name.is_empty() {
        return Err(ObjectError::Field { object, path: "metadata.name".into(), why: "it is missing".into() });
    }
    serde_path_to_error::deserialize(value).map_err(|error| ObjectError::Field {
        object,
        path: error.path().to_string(),
        why: error.inner().to_string(),
    })
}

/// Name, labels and notes of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name.
    pub name: Box<str>,
    /// Namespace; `default` where it is left out.
    #[serde(deserialize_with = "namespace", default = "default_namespace")]
    pub namespace: Box<str>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    pub annotations: Option<BTreeMap<String, String>>,
    /// When it was made (RFC 3339, which sorts as text); empty: not known.
    pub creation_timestamp: Option<Box<str>>,
}

fn default_namespace() -> Box<str> {
    "default".into()
}
fn namespace<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Box<str>, D::Error> {
    let name = Option::<Box<str>>::deserialize(from)?.unwrap_or_default();
    Ok(if name.is_empty() { default_namespace() } else { name })
}

impl Metadata {
    fn key(&self) -> ServiceName {
        ServiceName { namespace: self.namespace.clone(), name: self.name.clone() }
    }
    /// An annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// `v1` Service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Service {
    pub metadata: Metadata,
    pub spec: ServiceFields,
    pub status: Option<ServiceStatus>,
}

/// Its `spec`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct ServiceFields {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<Vec<String>>,
    pub ports: Option<Vec<ServicePort>>,
    pub external_traffic_policy: Option<String>,
    pub internal_traffic_policy: Option<String>,
    pub health_check_node_port: Option<i64>,
    pub session_affinity: Option<String>,
    pub session_affinity_config: Option<AffinityConfig>,
    pub load_balancer_source_ranges: Option<Vec<String>>,
    pub traffic_distribution: Option<String>,
}

/// One of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct ServicePort {
    pub name: Option<String>,
    pub port: i64,
    pub node_port: Option<i64>,
    pub protocol: Option<String>,
}

/// How long clients are remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct AffinityConfig {
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// How long a client's address is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct ClientIpConfig {
    pub timeout_seconds: Option<i64>,
}

/// A service's `status`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct ServiceStatus {
    pub load_balancer: Option<LoadBalancerStatus>,
}

/// What a load balancer gave it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct LoadBalancerStatus {
    pub ingress: Option<Vec<Ingress>>,
}

/// One address of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Ingress {
    pub ip: Option<String>,
    pub ip_mode: Option<String>,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct EndpointSlice {
    pub metadata: Metadata,
    pub address_type: String,
    pub ports: Option<Vec<SlicePort>>,
    pub endpoints: Option<Vec<Endpoint>>,
}

impl EndpointSlice {
    /// Whose it is.
    pub fn service(&self) -> Option<ServiceName> {
        let name = self.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        Some(ServiceName { namespace: self.metadata.namespace.clone(), name: name.as_str().into() })
    }
}

/// A port that all endpoints of a slice have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct SlicePort {
    pub name: Option<String>,
    pub port: Option<i64>,
    pub protocol: Option<String>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Endpoint {
    pub addresses: Vec<String>,
    pub conditions: Option<Conditions>,
    pub node_name: Option<Box<str>>,
    pub zone: Option<Box<str>>,
    pub hints: Option<Hints>,
}

/// How an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Conditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

/// For whom an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Hints {
    pub for_zones: Option<Vec<ForZone>>,
}

/// A zone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct ForZone {
    pub name: Box<str>,
}

/// `v1` Pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Pod {
    pub metadata: Metadata,
    pub spec: PodFields,
    pub status: Option<PodStatus>,
}

/// Its `spec`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct PodFields {
    pub node_name: Option<String>,
    pub host_network: bool,
    pub containers: Vec<Container>,
}

/// One of its containers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct Container {
    pub ports: Option<Vec<ContainerPort>>,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct ContainerPort {
    pub container_port: i64,
    pub host_port: Option<i64>,
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    pub protocol: Option<String>,
}

/// A pod's `status`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct PodStatus {
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<PodIp>>,
}

/// One of its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "fields are Kubernetes' own")]
pub struct PodIp {
    pub ip: String,
}

/// All objects.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    services: BTreeMap<ServiceName, Service>,
    slices: BTreeMap<ServiceName, EndpointSlice>,
    slices_of: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
    pods: BTreeMap<ServiceName, Pod>,
}

impl Objects {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.services.len() + self.slices.len() + self.pods.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether an object is there.
    pub fn contains(&self, key: &ObjectKey) -> bool {
        match key.kind {
            ObjectKind::Service => self.services.contains_key(&key.name),
            ObjectKind::EndpointSlice => self.slices.contains_key(&key.name),
            ObjectKind::Pod => self.pods.contains_key(&key.name),
        }
    }
    /// A service.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)
    }
    /// A pod.
    pub fn pod(&self, name: &ServiceName) -> Option<&Pod> {
        self.pods.get(name)
    }
    /// A service's slices, by name.
    pub fn slices(&self, service: &ServiceName) -> impl Iterator<Item = (&ServiceName, &EndpointSlice)> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.get_key_value(name))
    }

    /// Takes an object up in place of what has its name; says whose frontends may change.
    pub(crate) fn put(&mut self, object: Object) -> Vec<ObjectKey> {
        let key = object.key();
        match object {
            Object::Service(service) => {
                self.services.insert(key.name.clone(), *service);
                [key].into()
            }
            Object::Pod(pod) => {
                self.pods.insert(key.name.clone(), *pod);
                [key].into()
            }
            Object::EndpointSlice(slice) => {
                let mut touched = self.unlink(&key.name);
                if let Some(owner) = slice.service() {
                    self.slices_of.entry(owner.clone()).or_default().insert(key.name.clone());
                    touched.push(ObjectKey { kind: ObjectKind::Service, name: owner });
                }
                self.slices.insert(key.name, *slice);
                touched
            }
        }
    }

    /// Lets an object go; says whose frontends may change.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Vec<ObjectKey> {
        match key.kind {
            ObjectKind::Service => self.services.remove(&key.name).map(|_| key.clone()).into_iter().collect(),
            ObjectKind::Pod => self.pods.remove(&key.name).map(|_| key.clone()).into_iter().collect(),
            ObjectKind::EndpointSlice => {
                let touched = self.unlink(&key.name);
                self.slices.remove(&key.name);
                touched
            }
        }
    }

    fn unlink(&mut self, slice: &ServiceName) -> Vec<ObjectKey> {
        let Some(owner) = self.slices.get(slice).and_then(EndpointSlice::service) else { return Vec::new() };
        if let Some(slices) = self.slices_of.get_mut(&owner) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices_of.remove(&owner);
            }
        }
        [ObjectKey { kind: ObjectKind::Service, name: owner }].into()
    }
}
