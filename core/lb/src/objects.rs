//! Kubernetes' objects, as far as load balancing needs them, and which belongs to which.
//!
//! What cannot be read at all is refused with its place; what can be read and makes no sense is found when frontends are
//! derived (module `derive`), so that the rest of the object still counts.

mod table;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::Deserialize;
use serde_json::Value;

pub use table::Objects;

use crate::ServiceName;
use crate::redirect::{self, LocalRedirect};

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
    /// `cilium.io/v2` CiliumLocalRedirectPolicy
    LocalRedirect,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::LocalRedirect => redirect::KIND,
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
    #[error("kind {kind:?} is not one of Service, EndpointSlice, Pod, CiliumLocalRedirectPolicy and List")]
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
    /// A policy that keeps traffic on the node.
    LocalRedirect(Box<LocalRedirect>),
}

impl Object {
    /// Reads an object, or each of a list: those that can be read, and what is wrong with the others.
    pub fn read(value: Value) -> (Vec<Self>, Vec<ObjectError>) {
        let (mut objects, mut errors) = (Vec::new(), Vec::new());
        Self::read_into(value, &mut objects, &mut errors);
        (objects, errors)
    }

    fn read_into(value: Value, objects: &mut Vec<Self>, errors: &mut Vec<ObjectError>) {
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_string();
        let read = match (&*kind, value) {
            (_, Value::Null) => return,
            (
                "List" | "ServiceList" | "EndpointSliceList" | "PodList" | "CiliumLocalRedirectPolicyList",
                Value::Object(mut list),
            ) => {
                let item_kind = kind.strip_suffix("List").unwrap_or_default();
                for mut item in list.remove("items").and_then(into_array).unwrap_or_default() {
                    if let (Value::Object(map), false) = (&mut item, item_kind.is_empty()) {
                        map.entry("kind").or_insert_with(|| item_kind.into());
                    }
                    Self::read_into(item, objects, errors);
                }
                return;
            }
            ("Service", value) => parse("Service", value).map(Self::Service),
            ("EndpointSlice", value) => parse("EndpointSlice", value).map(Self::EndpointSlice),
            ("Pod", value) => parse("Pod", value).map(Self::Pod),
            (redirect::KIND, value) => match LocalRedirect::read(&value) {
                Ok(policy) => Ok(Self::LocalRedirect(Box::new(policy))),
                Err(faults) => return errors.extend(faults),
            },
            _ => Err(ObjectError::Kind { kind }),
        };
        match read {
            Ok(object) => objects.push(object),
            Err(error) => errors.push(error),
        }
    }

    /// Its kind and name.
    pub fn key(&self) -> ObjectKey {
        let (kind, meta) = match self {
            Self::Service(service) => (ObjectKind::Service, &service.metadata),
            Self::EndpointSlice(slice) => (ObjectKind::EndpointSlice, &slice.metadata),
            Self::Pod(pod) => (ObjectKind::Pod, &pod.metadata),
            Self::LocalRedirect(policy) => (ObjectKind::LocalRedirect, &policy.metadata),
        };
        ObjectKey { kind, name: meta.key() }
    }
}

fn into_array(value: Value) -> Option<Vec<Value>> {
    if let Value::Array(list) = value { Some(list) } else { None }
}

fn parse<T: for<'de> Deserialize<'de>>(kind: &str, value: Value) -> Result<Box<T>, ObjectError> {
    let object = named(kind, &value)?;
    deserialize(&object, "", value)
}

/// Kind and name of what has a name.
fn named(kind: &str, value: &Value) -> Result<String, ObjectError> {
    let name = |at: &str| value.pointer(at).and_then(Value::as_str).unwrap_or("").to_string();
    let (namespace, name) = (name("/metadata/namespace"), name("/metadata/name"));
    let namespace = if namespace.is_empty() { "default".into() } else { namespace };
    let object = alloc::format!("{kind} {namespace}/{name}");
    if name.is_empty() {
        return Err(ObjectError::Field { object, path: "metadata.name".into(), why: "it is missing".into() });
    }
    Ok(object)
}

fn deserialize<T: for<'de> Deserialize<'de>>(object: &str, at: &str, value: Value) -> Result<T, ObjectError> {
    serde_path_to_error::deserialize(value).map_err(|error| ObjectError::Field {
        object: object.into(),
        path: alloc::format!("{at}{}", error.path()),
        why: error.inner().to_string(),
    })
}

/// Name, labels and notes of an object of that kind.
pub(crate) fn metadata(kind: &str, value: &Value) -> Result<Metadata, ObjectError> {
    let object = named(kind, value)?;
    deserialize(&object, "metadata.", value.get("metadata").cloned().unwrap_or_default())
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
    /// What tells it from an earlier object of that name; empty: not known.
    pub uid: Option<Box<str>>,
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
    pub(crate) fn key(&self) -> ServiceName {
        ServiceName { namespace: self.namespace.clone(), name: self.name.clone() }
    }
    /// Who is older comes first where two want the same; whose age is not known comes last.
    pub(crate) fn age(&self) -> (bool, Option<&str>, &str, &str) {
        let made = self.creation_timestamp.as_deref();
        (made.is_none(), made, &self.namespace, &self.name)
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
