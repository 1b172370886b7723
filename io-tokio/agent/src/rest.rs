//! The REST API: requests to the core, and what the core's tables look like in the reference's models.
//!
//! What changes something goes to the core as a request and waits for its one answer. What only reads looks into the
//! core's tables between two inputs.

pub mod ask;
mod maps;
mod questions;
mod redirects;
pub mod refused;
pub mod show;
mod status;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_core::{
    Agent, Audit, ConfigChange, EndpointRequest, Enforcement, Input, IpamRequest, PolicyRequest, Replace,
    Request as Ask, Response, ServiceRequest,
};
use api::models::{self, DaemonConfigurationSpec, EndpointChangeRequest, LabelConfigurationSpec};
use api::server::{Backend, EndpointRef, Family, Pending, Reply, Request};
use endpoint::Endpoint;
use hubble_server::Observer;
use loader::Maps;
use metrics::{ApiCall, Metrics};
use runtime::{Closed, Handle};
use types::NumericIdentity;

use crate::config::Settings;
use crate::replies::Replies;
use crate::sinks::Sinks;
use crate::status::Status;
use ask::BadField;
use refused::Call;

/// Everything answers are made of.
#[derive(Debug)]
pub struct Rest {
    /// The core.
    pub core: Handle<Agent>,
    /// Its answers.
    pub replies: Replies,
    /// How the agent was started.
    pub settings: Arc<Settings>,
    /// What happened last.
    pub status: Arc<Status>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Kernel maps.
    pub maps: Arc<Maps>,
    /// Hubble.
    pub observer: Option<Observer>,
    /// Metrics, exports and history of flows.
    pub sinks: Arc<Sinks>,
    /// `tcx` or `tc`.
    pub attach_mode: &'static str,
    /// `BPF`, or `Legacy` where packets between pods go through the host's stack.
    pub host_routing: &'static str,
}

impl Backend for Rest {
    fn call(&self, request: Request) -> Pending<'_> {
        Box::pin(async move { self.answer(request).await.unwrap_or_else(|reply| reply) })
    }
    fn served(&self, method: &str, path: &str, status: u16, took: Duration) {
        tracing::debug!(method, path, status, ?took, "API");
        self.metrics.api_call(ApiCall { method, path, status, took });
    }
}

type Answered = Result<Reply, Reply>;

fn closed(why: Closed) -> Reply {
    Reply::error(503, why.to_string())
}
#[allow(clippy::needless_pass_by_value, reason = "used as a function of an error")]
fn bad(field: BadField) -> Reply {
    Reply::error(400, field.to_string())
}

impl Rest {
    async fn answer(&self, request: Request) -> Answered {
        match request {
            Request::Status { brief } => {
                self.look(move |rest, agent| Reply::ok(&status::status(rest, agent, brief))).await
            }
            Request::Config => self.look(|rest, agent| Reply::ok(&status::configuration(rest, agent))).await,
            Request::ConfigPatch(spec) => self.configure(&spec).await,
            Request::Nodes { client_id } => self.look(move |rest, agent| status::nodes(rest, agent, client_id)).await,
            Request::Metrics => Ok(self.all_metrics()),
            Request::DebugInfo => self.look(status::debug_info).await,
            Request::Maps => Ok(maps::list(self)),
            Request::Map(name) => Ok(maps::one(self, &name)),
            Request::AddressAllocate { .. } | Request::AddressReserve { .. } | Request::AddressRelease { .. } => {
                self.address(request).await
            }
            Request::Identities { labels } => {
                let labels = ask::labels("labels", &labels).map_err(bad)?;
                self.look(move |_, agent| identities(agent, &labels)).await
            }
            Request::Identity(number) => self.look(move |_, agent| identity(agent, number)).await,
            Request::IdentityEndpoints => self.look(|_, agent| identity_endpoints(agent)).await,
            Request::Prefixes { cidr } => self.prefixes(cidr).await,
            Request::Policy { .. } | Request::PolicyPut { .. } | Request::PolicyDelete { .. } | Request::Selectors => {
                self.policy(request).await
            }
            Request::PolicyExplain(question) => self.explain(*question).await,
            Request::PolicyPreview(question) => self.preview(*question).await,
            Request::PolicyLint(question) => self.lint(question).await,
            Request::Services => {
                self.look(|_, agent| Reply::ok(&agent.services().map(show::service).collect::<Vec<_>>())).await
            }
            Request::LocalRedirects => self.look(|_, agent| Reply::ok(&redirects::list(agent.balancer()))).await,
            Request::Service(_) | Request::ServicePut(..) | Request::ServiceDelete(_) => self.service(request).await,
            endpoints => self.endpoints(endpoints).await,
        }
    }

    /// Looks into the core's tables.
    async fn look(&self, look: impl FnOnce(&View, &Agent) -> Reply + Send + 'static) -> Answered {
        let view = self.view();
        self.core.look(move |agent| look(&view, agent)).await.map_err(closed)
    }

    fn view(&self) -> View {
        View {
            settings: self.settings.clone(),
            status: self.status.clone(),
            hubble: self.observer.as_ref().map(|observer| observer.seen_flows()),
            maps: self.maps.clone(),
            sinks: self.sinks.clone(),
            attach_mode: self.attach_mode,
            host_routing: self.host_routing,
        }
    }

    /// Asks the core to do something.
    async fn ask(&self, call: Call, request: Ask) -> Result<Response, Reply> {
        let (id, answer) = self.replies.expect();
        self.core.send(Input::Request(id, request)).await.map_err(closed)?;
        let answer = answer.await.map_err(|_| closed(Closed))?;
        answer.map_err(|refusal| refused::reply(call, &refusal))
    }

    async fn configure(&self, spec: &DaemonConfigurationSpec) -> Answered {
        let change = change(spec).map_err(bad)?;
        self.ask(Call::Other, Ask::Config(change)).await?;
        Ok(Reply::empty(200))
    }

    fn all_metrics(&self) -> Reply {
        let metric = |reading: metrics::Reading| models::Metric {
            name: reading.name,
            value: reading.value,
            labels: reading.labels,
        };
        let list: Vec<_> = metrics::readings(&self.metrics.render()).into_iter().map(metric).collect();
        Reply::ok(&list)
    }

    async fn address(&self, request: Request) -> Answered {
        let pool_is_known = |pool: &str| match pool {
            "" | "default" => Ok(()),
            other => Err(Reply::error(400, format!("query pool: {other:?} is no pool of this node; default is"))),
        };
        match request {
            Request::AddressAllocate { family, owner, pool, expiration } => {
                pool_is_known(&pool)?;
                let family = family.map(|family| match family {
                    Family::V4 => ipam::Family::V4,
                    Family::V6 => ipam::Family::V6,
                });
                let request = IpamRequest::Allocate { family, owner: owner.into(), expires: expiration };
                match self.ask(Call::Allocate, Ask::Ipam(request)).await? {
                    Response::Allocated(loans) => {
                        for loan in &loans {
                            self.metrics.address("allocate", if loan.addr.is_ipv4() { "ipv4" } else { "ipv6" });
                        }
                        Ok(Reply::json(201, &show::lent(&self.settings.agent, &loans)))
                    }
                    other => Err(unexpected(&other)),
                }
            }
            Request::AddressReserve { ip, owner, pool } => {
                pool_is_known(&pool)?;
                self.ask(Call::Address, Ask::Ipam(IpamRequest::Reserve { ip, owner: owner.into() })).await?;
                Ok(Reply::empty(200))
            }
            Request::AddressRelease { ip, pool } => {
                pool_is_known(&pool)?;
                self.ask(Call::Address, Ask::Ipam(IpamRequest::Release(ip))).await?;
                self.metrics.address("release", if ip.is_ipv4() { "ipv4" } else { "ipv6" });
                Ok(Reply::empty(200))
            }
            _ => Err(Reply::empty(404)),
        }
    }

    async fn prefixes(&self, cidr: Option<String>) -> Answered {
        let within = match cidr.as_deref() {
            None | Some("") => None,
            Some(text) => Some(prefix(text).map_err(|why| Reply::error(400, format!("query cidr: {text:?}: {why}")))?),
        };
        self.look(move |_, agent| {
            let wanted = |prefix: &types::Cidr| within.is_none_or(|within| within.covers(prefix));
            let list: Vec<_> = agent.ip_list().filter(|info| wanted(&info.cidr)).map(show::prefix).collect();
            if list.is_empty() { Reply::error(404, "no prefix is known there") } else { Reply::ok(&list) }
        })
        .await
    }

    async fn policy(&self, request: Request) -> Answered {
        match request {
            Request::Policy { labels } => {
                let labels = ask::labels("labels", &labels).map_err(bad)?;
                self.look(move |_, agent| status::policy(agent, &labels)).await
            }
            Request::PolicyPut { text, replace, replace_with_labels } => {
                let replace = match (replace, replace_with_labels.is_empty()) {
                    (_, false) => {
                        Replace::Labelled(ask::labels("replace-with-labels", &replace_with_labels).map_err(bad)?)
                    }
                    (true, true) => Replace::SameLabels,
                    (false, true) => Replace::SameObject,
                };
                let answer = self.ask(Call::Other, Ask::Policy(PolicyRequest::Put { text, replace })).await;
                if answer.is_err() {
                    self.metrics.policy_changed(metrics::Outcome::Fail);
                }
                self.revision(&answer?).await
            }
            Request::PolicyDelete { labels } => {
                let labels = ask::labels("labels", &labels).map_err(bad)?;
                let answer = self.ask(Call::Other, Ask::Policy(PolicyRequest::Delete(labels))).await?;
                self.revision(&answer).await
            }
            _ => self.look(|_, agent| Reply::ok(&show::selectors(agent.engine()))).await,
        }
    }

    async fn revision(&self, answer: &Response) -> Answered {
        match answer {
            // What is not enforced was said as a warning when it was taken up.
            Response::Policy { revision, rules, .. } => {
                let revision = i64::try_from(revision.0).unwrap_or(i64::MAX);
                tracing::debug!(revision, rules, "policy changed through the API");
                self.look(move |_, agent| {
                    let (_, policy) = status::rules(agent, &types::Labels::default());
                    Reply::ok(&models::Policy { revision, policy })
                })
                .await
            }
            other => Err(unexpected(other)),
        }
    }

    async fn service(&self, request: Request) -> Answered {
        let number = |id: i64| u16::try_from(id).ok().and_then(lb::ServiceId::new);
        let missing = || Reply::error(404, "there is no service 0; numbers begin at 1");
        match request {
            Request::Service(id) => {
                let id = number(id).ok_or_else(missing)?;
                self.look(move |_, agent| match agent.service(id) {
                    Some(service) => Reply::ok(&show::service(service)),
                    None => Reply::error(404, format!("there is no service {id}")),
                })
                .await
            }
            Request::ServicePut(id, spec) => {
                let spec = ask::service(id, &spec).map_err(|why| {
                    let code = if why.field.starts_with("backend") { 461 } else { 460 };
                    Reply::error(code, format!("service {id}: {why}"))
                })?;
                match self.ask(Call::Other, Ask::Service(ServiceRequest::Put(Box::new(spec)))).await? {
                    Response::Service { created, .. } => Ok(Reply::empty(if created { 201 } else { 200 })),
                    other => Err(unexpected(&other)),
                }
            }
            Request::ServiceDelete(id) => {
                let id = number(id).ok_or_else(missing)?;
                self.ask(Call::Other, Ask::Service(ServiceRequest::Delete(id))).await?;
                Ok(Reply::empty(200))
            }
            _ => Err(Reply::empty(404)),
        }
    }

    async fn endpoints(&self, request: Request) -> Answered {
        match request {
            Request::Endpoints { labels } => {
                let labels = ask::labels("labels", &labels).map_err(bad)?;
                self.look(move |_, agent| endpoints(agent, &labels)).await
            }
            Request::Endpoint(id) => {
                self.endpoint(id, |agent, endpoint| {
                    Reply::ok(&show::endpoint(endpoint, agent.engine(), agent.audit() == Audit::Report, true))
                })
                .await
            }
            Request::EndpointLog(id) => self.endpoint(id, |_, endpoint| Reply::ok(&show::log(endpoint))).await,
            Request::EndpointHealth(id) => self.endpoint(id, |_, endpoint| Reply::ok(&show::health(endpoint))).await,
            Request::EndpointLabels(id) => {
                self.endpoint(id, |_, endpoint| {
                    Reply::ok(&models::LabelConfiguration {
                        spec: LabelConfigurationSpec { user: show::labels(&endpoint.spec.labels) },
                        status: show::label_status(endpoint),
                    })
                })
                .await
            }
            Request::EndpointConfig(id) => {
                self.endpoint(id, |agent, endpoint| Reply::ok(&status::endpoint_configuration(agent, endpoint))).await
            }
            Request::EndpointPut(id, change) => self.create(&id, &change).await,
            Request::EndpointPatch(..) => Err(Reply::error(
                501,
                "this version changes endpoints through PATCH /endpoint/{id}/labels, or by deleting and creating them",
            )),
            Request::EndpointConfigPatch(id, spec) => {
                if let Some(option) = spec.options.keys().next() {
                    let why = format!(
                        "field options.{option}: this version has no option of single endpoints; use PATCH /config"
                    );
                    return Err(Reply::error(400, why));
                }
                self.relabel(&id, &spec.label_configuration).await
            }
            Request::EndpointLabelsPatch(id, spec) => self.relabel(&id, &spec).await,
            Request::EndpointDelete(id) => {
                self.ask(Call::Other, Ask::Endpoint(EndpointRequest::Delete(ask::name(&id)))).await?;
                Ok(Reply::empty(200))
            }
            Request::EndpointsDelete(batch) => {
                if batch.container_id.is_empty() {
                    return Err(Reply::error(
                        400,
                        "field container-id: it is missing; it says which endpoints to delete",
                    ));
                }
                let request = EndpointRequest::DeleteContainer(batch.container_id.into());
                self.ask(Call::Other, Ask::Endpoint(request)).await?;
                Ok(Reply::empty(200))
            }
            _ => Err(Reply::empty(404)),
        }
    }

    async fn endpoint(
        &self,
        id: EndpointRef,
        show: impl FnOnce(&Agent, &Endpoint) -> Reply + Send + 'static,
    ) -> Answered {
        self.look(move |_, agent| match agent.endpoint(&ask::name(&id)) {
            Some(endpoint) => show(agent, endpoint),
            None => Reply::error(404, format!("there is no endpoint {id}")),
        })
        .await
    }

    async fn create(&self, id: &EndpointRef, change: &EndpointChangeRequest) -> Answered {
        let create = ask::endpoint(id, change).map_err(bad)?;
        match self.ask(Call::Other, Ask::Endpoint(EndpointRequest::Create(Box::new(create)))).await? {
            Response::Endpoint(id) => {
                let reference = EndpointRef::Local(id.as_u16());
                let shown = self.endpoint(reference, |agent, endpoint| {
                    let audit = agent.audit() == Audit::Report;
                    Reply::json(201, &show::endpoint(endpoint, agent.engine(), audit, true))
                });
                shown.await
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn relabel(&self, id: &EndpointRef, spec: &LabelConfigurationSpec) -> Answered {
        let labels = ask::labels("user", &spec.user).map_err(bad)?;
        self.ask(Call::Other, Ask::Endpoint(EndpointRequest::SetLabels(ask::name(id), labels))).await?;
        Ok(Reply::empty(200))
    }
}

/// What answers need besides the core.
pub(crate) struct View {
    settings: Arc<Settings>,
    status: Arc<Status>,
    /// Flows seen, if Hubble is on.
    hubble: Option<u64>,
    maps: Arc<Maps>,
    sinks: Arc<Sinks>,
    attach_mode: &'static str,
    host_routing: &'static str,
}

/// The core answers each request with one kind of response; another would be its bug.
fn unexpected(response: &Response) -> Reply {
    Reply::error(500, format!("the agent gave an answer of another kind: {response:?}"))
}

fn prefix(text: &str) -> Result<types::Cidr, String> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(types::Cidr::host(ip)),
        Err(_) => text.parse::<types::Cidr>().map_err(|why| why.to_string()),
    }
}

fn change(spec: &DaemonConfigurationSpec) -> Result<ConfigChange, BadField> {
    let field = |field: &str, why: String| BadField { field: field.to_owned(), why };
    let enforcement = match spec.policy_enforcement.as_str() {
        "" => None,
        "default" => Some(Enforcement::Default),
        "always" => Some(Enforcement::Always),
        "never" => Some(Enforcement::Never),
        other => {
            let why = format!("{other:?} is none of default, always and never");
            return Err(field("policy-enforcement", why));
        }
    };
    let mut change = ConfigChange { enforcement, ..ConfigChange::default() };
    for (name, value) in &spec.options {
        let on = match value.to_lowercase().as_str() {
            "true" | "enabled" | "on" | "1" => true,
            "false" | "disabled" | "off" | "0" => false,
            _ => return Err(field(&format!("options.{name}"), format!("{value:?} is neither true nor false"))),
        };
        match name.as_str() {
            "PolicyAuditMode" => change.audit = Some(if on { Audit::Report } else { Audit::Enforce }),
            _ => {
                let why = "it cannot be changed while the agent runs; restart it with the flag".to_owned();
                return Err(field(&format!("options.{name}"), why));
            }
        }
    }
    Ok(change)
}

fn endpoints(agent: &Agent, labels: &types::Labels) -> Reply {
    let selected = |endpoint: &&Endpoint| labels.iter().all(|label| endpoint.identity_labels.has(label));
    let audit = agent.audit() == Audit::Report;
    let shown = agent.endpoints().filter(selected);
    let list: Vec<_> = shown.map(|endpoint| show::endpoint(endpoint, agent.engine(), audit, false)).collect();
    if list.is_empty() && !labels.is_empty() {
        return Reply::error(404, "no endpoint has these labels");
    }
    Reply::ok(&list)
}

fn identities(agent: &Agent, labels: &types::Labels) -> Reply {
    let all = agent.identities();
    let selected = all.iter().filter(|info| labels.iter().all(|label| info.labels.has(label)));
    let list: Vec<_> = selected.map(|info| show::identity(info.id, &info.labels)).collect();
    if list.is_empty() { Reply::error(404, "no identity has these labels") } else { Reply::ok(&list) }
}

fn identity(agent: &Agent, number: u32) -> Reply {
    let number = NumericIdentity::new(number);
    match agent.labels_of(number) {
        Some(labels) => Reply::ok(&show::identity(number, &labels)),
        None => Reply::error(404, format!("there is no identity {}", number.as_u32())),
    }
}

fn identity_endpoints(agent: &Agent) -> Reply {
    let mut counts: std::collections::BTreeMap<u32, (models::Identity, i64)> = std::collections::BTreeMap::new();
    for endpoint in agent.endpoints() {
        let Some(number) = endpoint.identity else { continue };
        let shown = || (show::identity(number, &endpoint.identity_labels), 0);
        counts.entry(number.as_u32()).or_insert_with(shown).1 += 1;
    }
    let list: Vec<_> =
        counts.into_values().map(|(identity, ref_count)| models::IdentityEndpoints { identity, ref_count }).collect();
    Reply::ok(&list)
}
