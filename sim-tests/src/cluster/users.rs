//! Users and the container runtime: what they ask of agents, and what they make of the answers.

use std::net::IpAddr;

use agent_core::{
    AnswerWhen, CreateEndpoint, EndpointRequest, Input, IpamRequest, PolicyFile, PolicyFiles, Refusal, Request,
    RequestId, Response, ServiceRequest,
};
use datapath_sim::Interface;
use endpoint::{Attachment, EndpointName, EndpointSpec};
use types::{Label, MacAddr};

use super::{Cluster, Event, MILLI};
use crate::check::Violation;
use crate::node::{Fault, Waiting, link_name};
use crate::objects::{Labels, Pod, Policy, Resting, Service};
use crate::plan::{Action, PODS_PER_NODE};

impl Cluster {
    /// Does what a user or an accident does.
    pub(super) fn act(&mut self, action: Action) -> Result<(), Violation> {
        self.trace.record(format_args!("{} {action:?}", self.now_ns));
        match action {
            Action::AddPod { node, labels } => self.add_pod(node, labels),
            Action::DeletePod(pod) => self.delete_pod(&pod),
            Action::Relabel(pod, labels) => self.relabel(&pod, labels),
            Action::PutPolicy(name, policy) => self.put_policy(name, Some(policy)),
            Action::DeletePolicy(name) => self.put_policy(name, None),
            Action::PutService(name, service) => self.put_service(name, service),
            Action::DeleteService(name) => self.delete_service(&name),
            Action::CrashAgent(node) => self.crash_agent(node),
            Action::ChangeWeather { delay_ms_max, unknown_per_mille } => {
                self.store.weather = crate::store::Weather { delay_ms_max, unknown_per_mille };
                Ok(())
            }
            Action::EndLease(node) => {
                let life = self.nodes[node].life;
                let said = self.store.end_lease(node, life, self.now_ns);
                self.deliver(said);
                Ok(())
            }
        }
    }

    /// Asks an agent something. An agent that is down is asked again when it is up, where that matters.
    pub(super) fn request(&mut self, node: usize, waiting: Waiting, request: Request) -> Result<(), Violation> {
        let id = self.nodes[node].request_id();
        if self.nodes[node].agent.is_none() {
            if matches!(waiting, Waiting::Again(_)) {
                self.nodes[node].waiting.insert(id, waiting);
            }
            return Ok(());
        }
        self.nodes[node].waiting.insert(id, waiting);
        self.feed(node, Input::Request(id, request))
    }

    fn add_pod(&mut self, node: usize, labels: Labels) -> Result<(), Violation> {
        let here = self.objects.pods.values().filter(|pod| pod.node == node).count();
        if self.nodes[node].agent.is_none() || here >= PODS_PER_NODE {
            return Ok(());
        }
        self.next_pod += 1;
        let name = format!("pod-{}", self.next_pod);
        let state = &mut self.nodes[node];
        state.next_ifindex += 1;
        let ifindex = state.next_ifindex;
        state.host.add_interface(ifindex, Interface::Pod);
        self.objects.pods.insert(name.clone(), Pod { node, labels, addrs: Vec::new(), ifindex });
        self.objects_changed();
        let owner = format!("default/{name}").into_boxed_str();
        let request = Request::Ipam(IpamRequest::Allocate { family: None, owner, expires: true });
        self.request(node, Waiting::Addresses { pod: name }, request)
    }

    fn addresses_given(&mut self, node: usize, name: &str, mut loans: Vec<ipam::Loan>) -> Result<(), Violation> {
        if self.settings.fault == Some(Fault::AddressTwice)
            && let Some(taken) = self.holders.keys().find(|addr| addr.is_ipv4()).copied()
        {
            loans[0].addr = taken;
        }
        let Some(pod) = self.objects.pods.get_mut(name) else { return Ok(()) };
        for loan in &loans {
            if let Some(first) = self.holders.insert(loan.addr, name.to_owned()) {
                return Err(Violation::AddressTwice { addr: loan.addr, first, second: name.to_owned() });
            }
            pod.addrs.push(loan.addr);
        }
        let id = |ipv4: bool| {
            let loan = loans.iter().find(|loan| loan.addr.is_ipv4() == ipv4)?;
            loan.expires.map(|(_, id)| id)
        };
        let create = CreateEndpoint {
            id: None,
            spec: spec(name, pod),
            ipv4_loan: id(true),
            ipv6_loan: id(false),
            answer: AnswerWhen::Ready,
            ..CreateEndpoint::default()
        };
        self.objects_changed();
        let request = Request::Endpoint(EndpointRequest::Create(Box::new(create)));
        self.request(node, Waiting::Creation { pod: name.to_owned() }, request)
    }

    /// The pod is gone for everybody: its link, its addresses, its name.
    fn remove_pod(&mut self, name: &str) {
        let Some(pod) = self.objects.pods.remove(name) else { return };
        self.nodes[pod.node].host.remove_interface(pod.ifindex);
        self.flows.retain(|flow| !flow.involves(name));
        self.objects_changed();
    }

    /// Its addresses may be given to others from now on.
    fn release_addresses(&mut self, name: &str) {
        self.holders.retain(|_, holder| holder != name);
    }

    fn delete_pod(&mut self, name: &str) -> Result<(), Violation> {
        let Some(pod) = self.objects.pods.get(name) else { return Ok(()) };
        let (node, container) = (pod.node, container_id(name));
        // What waits for it is answered by whoever looks next; the runtime gives up on it now.
        if self.nodes[node].agent.is_none() {
            self.nodes[node].queued_deletions.push(container);
            self.remove_pod(name);
            return Ok(());
        }
        self.remove_pod(name);
        self.delete_container(node, name.to_owned(), container)
    }

    fn delete_container(&mut self, node: usize, pod: String, container: String) -> Result<(), Violation> {
        let request = Request::Endpoint(EndpointRequest::DeleteContainer(container.as_str().into()));
        self.request(node, Waiting::Deletion { pod, container }, request)
    }

    fn relabel(&mut self, name: &str, labels: Labels) -> Result<(), Violation> {
        let Some(pod) = self.objects.pods.get_mut(name) else { return Ok(()) };
        if pod.addrs.is_empty() {
            return Ok(());
        }
        pod.labels = labels.clone();
        let node = pod.node;
        let attachment = EndpointName::Attachment(format!("{}:eth0", container_id(name)).into());
        self.objects_changed();
        let request = Request::Endpoint(EndpointRequest::SetLabels(attachment, k8s(&labels)));
        self.request(node, Waiting::Again(request.clone()), request)
    }

    fn put_policy(&mut self, name: String, policy: Option<Policy>) -> Result<(), Violation> {
        let path = format!("/policies/{name}.yaml");
        let json = policy.as_ref().map(|policy| policy.json(&name));
        match policy {
            Some(policy) => self.objects.policies.insert(name, policy),
            None => self.objects.policies.remove(&name),
        };
        self.objects_changed();
        for node in 0..self.nodes.len() {
            match &json {
                Some(json) => self.nodes[node].policy_dir.insert(path.clone(), json.clone()),
                None => self.nodes[node].policy_dir.remove(&path),
            };
            if self.nodes[node].agent.is_some() {
                let change = PolicyFile { path: path.as_str().into(), content: Ok(json.clone()) };
                let life = self.nodes[node].life;
                let files = PolicyFiles { changes: vec![change] };
                // A directory is watched in order: all its changes take the same time to be noticed.
                self.on_its_way(node, 20 * MILLI, Event::Files { node, life, files });
            }
        }
        Ok(())
    }

    fn put_service(&mut self, name: String, service: Service) -> Result<(), Violation> {
        let request = Request::Service(ServiceRequest::Put(Box::new(service_spec(&name, &service))));
        self.objects.services.insert(name, service);
        self.objects_changed();
        for node in 0..self.nodes.len() {
            self.request(node, Waiting::Again(request.clone()), request.clone())?;
        }
        Ok(())
    }

    fn delete_service(&mut self, name: &str) -> Result<(), Violation> {
        let Some(service) = self.objects.services.remove(name) else { return Ok(()) };
        self.objects_changed();
        let Some(id) = service_spec(name, &service).id else { return Ok(()) };
        let request = Request::Service(ServiceRequest::Delete(id));
        for node in 0..self.nodes.len() {
            self.request(node, Waiting::Again(request.clone()), request.clone())?;
        }
        Ok(())
    }

    /// An agent has answered.
    pub(super) fn answered(
        &mut self,
        node: usize,
        id: RequestId,
        answer: Result<Response, Refusal>,
    ) -> Result<(), Violation> {
        let Some(waiting) = self.nodes[node].waiting.remove(&id) else { return Ok(()) };
        match (waiting, answer) {
            (Waiting::Addresses { pod }, Ok(Response::Allocated(loans))) => self.addresses_given(node, &pod, loans),
            (Waiting::Addresses { pod }, _) => {
                self.remove_pod(&pod);
                Ok(())
            }
            (Waiting::Creation { pod }, Ok(_)) => {
                if self.objects.pods.contains_key(&pod) {
                    self.outcome.pods += 1;
                }
                Ok(())
            }
            (Waiting::Creation { pod }, Err(_)) => {
                self.remove_pod(&pod);
                self.delete_container(node, pod.clone(), container_id(&pod))
            }
            (Waiting::Deletion { pod, .. }, Ok(_) | Err(Refusal::NoEndpoint(_))) => {
                self.release_addresses(&pod);
                Ok(())
            }
            (Waiting::Deletion { container, .. }, Err(_)) => {
                let request = Request::Endpoint(EndpointRequest::DeleteContainer(container.as_str().into()));
                self.on_its_way(node, 500 * MILLI, Event::Again { node, request });
                Ok(())
            }
            (Waiting::Again(request), Err(Refusal::Starting | Refusal::Busy { .. })) => {
                self.on_its_way(node, 500 * MILLI, Event::Again { node, request });
                Ok(())
            }
            (Waiting::Again(_) | Waiting::Nothing, _) => Ok(()),
        }
    }

    /// The agent is gone: the runtime gives up what it was doing with it.
    pub(super) fn clean_up_after_crash(&mut self, node: usize) -> Result<(), Violation> {
        let waiting = std::mem::take(&mut self.nodes[node].waiting);
        for (id, waiting) in waiting {
            match waiting {
                Waiting::Addresses { pod } | Waiting::Creation { pod } => {
                    self.remove_pod(&pod);
                    let container = container_id(&pod);
                    self.nodes[node].queued_deletions.push(container);
                }
                Waiting::Deletion { container, .. } => self.nodes[node].queued_deletions.push(container),
                again @ Waiting::Again(_) => {
                    self.nodes[node].waiting.insert(id, again);
                }
                Waiting::Nothing => {}
            }
        }
        Ok(())
    }

    /// The agent is back: what was queued for it, and what it never answered, in the order in which it was asked.
    pub(super) fn ask_again(&mut self, node: usize) -> Result<(), Violation> {
        // What waits from now on waits for this life.
        let unanswered = std::mem::take(&mut self.nodes[node].waiting);
        for container in std::mem::take(&mut self.nodes[node].queued_deletions) {
            let pod = container.trim_start_matches("container-").to_owned();
            self.delete_container(node, pod, container)?;
        }
        for (_, waiting) in unanswered {
            if let Waiting::Again(request) = waiting {
                self.request(node, Waiting::Again(request.clone()), request)?;
            }
        }
        Ok(())
    }
}

fn container_id(pod: &str) -> String {
    format!("container-{pod}")
}

fn k8s(labels: &Labels) -> types::Labels {
    labels.iter().map(|(key, value)| Label::k8s(key, value)).collect()
}

fn spec(name: &str, pod: &Pod) -> EndpointSpec {
    let mac = |side: u8| {
        let [a, b, c, d] = pod.ifindex.to_be_bytes();
        MacAddr([2, side ^ (pod.node as u8) << 4, a, b, c, d])
    };
    let v4 = pod.addrs.iter().find_map(|addr| match addr {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let v6 = pod.addrs.iter().find_map(|addr| match addr {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    });
    EndpointSpec {
        attachment: Some(Attachment { container_id: container_id(name).into(), ifname: "eth0".into() }),
        pod: Some(endpoint::Pod { namespace: "default".into(), name: name.into(), uid: "".into() }),
        ifname: link_name(pod.ifindex).into(),
        ifindex: pod.ifindex,
        mac: mac(1),
        host_mac: mac(2),
        ipv4: v4,
        ipv6: v6,
        labels: k8s(&pod.labels),
        ..EndpointSpec::default()
    }
}

fn service_spec(name: &str, service: &Service) -> lb::ServiceSpec {
    let protocol = if service.protocol == "TCP" { lb::Transport::Tcp } else { lb::Transport::Udp };
    let addr = |(ip, port): (IpAddr, u16)| lb::L4Addr { ip, port, protocol };
    let backend = |end: &(IpAddr, u16)| lb::Backend::new(addr(*end));
    let number = name.trim_start_matches("service-").parse::<u16>().map_or(0, |number| number + 1);
    let resting = service.resting.iter().map(|(end, why)| lb::Backend {
        state: match why {
            Resting::Terminating => lb::BackendState::Terminating,
            Resting::Maintenance => lb::BackendState::Maintenance,
        },
        ..backend(end)
    });
    let attributes =
        lb::Attributes { affinity_seconds: if service.affinity { 60 } else { 0 }, ..lb::Attributes::default() };
    lb::ServiceSpec {
        id: lb::ServiceId::new(number),
        name: lb::ServiceName { namespace: "default".into(), name: name.into() },
        attributes,
        ..lb::ServiceSpec::new(addr(service.frontend), service.backends.iter().map(backend).chain(resting).collect())
    }
}
