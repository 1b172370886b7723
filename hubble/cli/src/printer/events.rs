//! Agent events and debug events.

use super::{Output, Printer, Style};
use hubble_api::{
    flow::{
        AgentEvent, AgentEventType, DebugEvent, DebugEventType, EndpointRegenNotification, EndpointUpdateNotification,
        IpCacheNotification, ServiceUpsertNotification, agent_event::Notification,
    },
    observer::{GetAgentEventsResponse, GetDebugEventsResponse},
};
use std::io;

impl Printer<'_> {
    /// Prints an event of the agent; never in colours.
    pub fn agent_event(&mut self, response: &GetAgentEventsResponse) -> io::Result<()> {
        self.options.style = Style::default();
        let fallback = AgentEvent::default();
        let event = response.agent_event.as_ref().unwrap_or(&fallback);
        let time = self.options.time_format.show(response.time.as_ref());
        let kind = AgentEventType::try_from(event.r#type)
            .map_or_else(|_| event.r#type.to_string(), |kind| kind.as_str_name().to_owned());
        let details = self.details(event);
        match self.options.output {
            Output::JsonPb => self.json(response),
            Output::JsonLegacy => self.json(event),
            Output::Compact => {
                let node = self.node(&response.node_name);
                self.emit(&format!("{time}{node}: {kind} ({details})\n"))
            }
            Output::Dict => {
                let mut fields = vec![("TIMESTAMP", time)];
                if self.options.node_name {
                    fields.push(("NODE", response.node_name.clone()));
                }
                fields.extend([("TYPE", kind), ("DETAILS", details)]);
                self.dict(&fields, "------------")
            }
            Output::Table => {
                let (mut header, mut cells) = (vec!["TIMESTAMP"], vec![time]);
                if self.options.node_name {
                    header.push("NODE");
                    cells.push(response.node_name.clone());
                }
                header.extend(["TYPE", "DETAILS"]);
                cells.extend([kind, details]);
                self.row(&header, &cells);
                Ok(())
            }
        }
    }

    /// What happened, in words.
    fn details(&self, event: &AgentEvent) -> String {
        use AgentEventType as T;
        let kind = AgentEventType::try_from(event.r#type).unwrap_or(T::AgentEventUnknown);
        match (kind, &event.notification) {
            (T::AgentEventUnknown, Some(Notification::Unknown(unknown))) => {
                format!("type: {}, notification: {}", unknown.r#type, unknown.notification)
            }
            (T::AgentStarted, Some(Notification::AgentStart(start))) => {
                format!("start time: {}", self.options.time_format.show(start.time.as_ref()))
            }
            (T::PolicyUpdated | T::PolicyDeleted, Some(Notification::PolicyUpdate(update))) => {
                let labels = update.labels.join(",");
                format!("labels: [{labels}], revision: {}, count: {}", update.revision, update.rule_count)
            }
            (
                T::EndpointRegenerateSuccess | T::EndpointRegenerateFailure,
                Some(Notification::EndpointRegenerate(regen)),
            ) => regenerated(regen),
            (T::EndpointCreated | T::EndpointDeleted, Some(Notification::EndpointUpdate(update))) => endpoint(update),
            (T::IpcacheUpserted | T::IpcacheDeleted, Some(Notification::IpcacheUpdate(update))) => ipcache(update),
            (T::ServiceUpserted, Some(Notification::ServiceUpsert(service))) => service_text(service),
            (T::ServiceDeleted, Some(Notification::ServiceDelete(service))) => format!("id: {}", service.id),
            _ => "UNKNOWN".into(),
        }
    }

    /// Prints a debug message of the datapath; never in colours.
    pub fn debug_event(&mut self, response: &GetDebugEventsResponse) -> io::Result<()> {
        self.options.style = Style::default();
        let fallback = DebugEvent::default();
        let event = response.debug_event.as_ref().unwrap_or(&fallback);
        let time = self.options.time_format.show(response.time.as_ref());
        let kind = DebugEventType::try_from(event.r#type)
            .map_or_else(|_| event.r#type.to_string(), |kind| kind.as_str_name().to_owned());
        let from = origin(event);
        let mark = event.hash.map_or("N/A".to_owned(), |hash| format!("0x{hash:x}"));
        let cpu = event.cpu.map_or("N/A".to_owned(), |cpu| format!("{cpu:02}"));
        match self.options.output {
            Output::JsonPb => self.json(response),
            Output::JsonLegacy => self.json(event),
            Output::Compact => {
                let node = self.node(&response.node_name);
                self.emit(&format!("{time}{node}: {from} {kind} MARK: {mark} CPU: {cpu} ({})\n", event.message))
            }
            Output::Dict => {
                let mut fields = vec![("TIMESTAMP", time)];
                if self.options.node_name {
                    fields.push(("NODE", response.node_name.clone()));
                }
                fields.extend([
                    ("TYPE", kind),
                    ("FROM", from),
                    ("MARK", mark),
                    ("CPU", cpu),
                    ("MESSAGE", event.message.clone()),
                ]);
                self.dict(&fields, "------------")
            }
            Output::Table => {
                let (mut header, mut cells) = (vec!["TIMESTAMP"], vec![time]);
                if self.options.node_name {
                    header.push("NODE");
                    cells.push(response.node_name.clone());
                }
                header.extend(["FROM", "", "TYPE", "CPU/MARK", "MESSAGE"]);
                cells.extend([from, String::new(), kind, format!("{cpu} {mark}"), event.message.clone()]);
                self.row(&header, &cells);
                Ok(())
            }
        }
    }
}

/// Which endpoint the message came from.
fn origin(event: &DebugEvent) -> String {
    let Some(source) = &event.source else { return "N/A".into() };
    let id = format!("ID: {}", source.id);
    if !source.pod_name.is_empty() {
        return format!("{}/{} ({id})", source.namespace, source.pod_name);
    }
    match &source.labels[..] {
        [label] if label.starts_with("reserved:") => format!("{label} ({id})"),
        _ => id,
    }
}

fn regenerated(regen: &EndpointRegenNotification) -> String {
    let mut text = format!("id: {}, labels: [{}]", regen.id, regen.labels.join(","));
    if !regen.error.is_empty() {
        text.push_str(&format!(", error: {}", regen.error));
    }
    text
}

fn endpoint(update: &EndpointUpdateNotification) -> String {
    let mut text = format!("id: {}", update.id);
    if !update.namespace.is_empty() {
        text.push_str(&format!(", namespace: {}", update.namespace));
    }
    if !update.pod_name.is_empty() {
        text.push_str(&format!(", pod name: {}", update.pod_name));
    }
    text
}

fn ipcache(update: &IpCacheNotification) -> String {
    let mut text = format!("cidr: {}, identity: {}", update.cidr, update.identity);
    if let Some(old) = update.old_identity {
        text.push_str(&format!(", old identity: {old}"));
    }
    if !update.host_ip.is_empty() {
        text.push_str(&format!(", host ip: {}", update.host_ip));
    }
    if !update.old_host_ip.is_empty() {
        text.push_str(&format!(", old host ip: {}", update.old_host_ip));
    }
    text + &format!(", encrypt key: {}", update.encrypt_key)
}

fn service_text(service: &ServiceUpsertNotification) -> String {
    let address =
        |ip: &str, port: u32| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    let mut parts = vec![format!("id: {}", service.id)];
    if let Some(frontend) = &service.frontend_address {
        parts.push(format!("frontend: {}", address(&frontend.ip, frontend.port)));
    }
    if !service.backend_addresses.is_empty() {
        let backends: Vec<_> = service.backend_addresses.iter().map(|b| address(&b.ip, b.port)).collect();
        parts.push(format!("backends: [{}]", backends.join(",")));
    }
    for (key, value) in [
        ("type", &service.r#type),
        ("traffic policy", &service.traffic_policy),
        ("namespace", &service.namespace),
        ("name", &service.name),
    ] {
        if !value.is_empty() {
            parts.push(format!("{key}: {value}"));
        }
    }
    parts.join(", ")
}
