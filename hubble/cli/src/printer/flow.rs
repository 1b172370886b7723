//! The parts a flow's line is made of.

use super::{
    Options,
    style::{Color, foreign},
};
use hubble_api::{
    event_type,
    flow::{
        AuthType, DebugCapturePoint, Endpoint, Flow, L7FlowType, Policy, Service, SocketTranslationPoint,
        TrafficDirection, Verdict, layer4::Protocol, layer7::Record,
    },
};
use hubble_model::text;

pub(super) struct View<'a> {
    pub flow: &'a Flow,
    pub options: &'a Options,
}

impl View<'_> {
    /// Source and destination: names if wanted and known, else addresses; with ports.
    pub fn hosts(&self) -> (String, String) {
        let style = self.options.style;
        let Some(ip) = &self.flow.ip else {
            return match &self.flow.ethernet {
                None => (String::new(), String::new()),
                Some(mac) => (
                    style.paint(Color::Cyan, &foreign(&mac.source)),
                    style.paint(Color::Cyan, &foreign(&mac.destination)),
                ),
            };
        };
        let (source_port, destination_port) = self.ports();
        let flow = self.flow;
        (
            self.host(&ip.source, source_port, flow.source.as_ref(), flow.source_service.as_ref(), &flow.source_names),
            self.host(
                &ip.destination,
                destination_port,
                flow.destination.as_ref(),
                flow.destination_service.as_ref(),
                &flow.destination_names,
            ),
        )
    }

    fn ports(&self) -> (u32, u32) {
        match self.flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
            Some(Protocol::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
            Some(Protocol::Udp(udp)) => (udp.source_port, udp.destination_port),
            Some(Protocol::Sctp(sctp)) => (sctp.source_port, sctp.destination_port),
            _ => (0, 0),
        }
    }

    fn host(&self, ip: &str, port: u32, end: Option<&Endpoint>, service: Option<&Service>, names: &[String]) -> String {
        let (mut namespace, pod) = end.map_or(("", ""), |end| (end.namespace.as_str(), end.pod_name.as_str()));
        let service = service.map_or("", |service| {
            namespace = &service.namespace;
            &service.name
        });
        let host = match (pod, service, names) {
            _ if !self.options.ip_translation => ip.to_owned(),
            ("", "", []) => ip.to_owned(),
            ("", "", names) => names.join(","),
            ("", service, _) => join(namespace, service),
            (pod, _, _) => join(namespace, pod),
        };
        let style = self.options.style;
        let host = foreign(&host);
        if port == 0 {
            return style.paint(Color::Cyan, &host);
        }
        let port = style.paint(Color::Yellow, &port.to_string());
        let both = if host.contains([':', '%']) { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        style.paint(Color::Cyan, &both)
    }

    /// Both security identities: reserved ones by name.
    pub fn identities(&self) -> (String, String) {
        let show = |end: Option<&Endpoint>| {
            let identity = end.map_or(0, |end| end.identity);
            let text = match text::reserved_identity(identity) {
                Some(name) => format!("({name})"),
                None => format!("(ID:{identity})"),
            };
            self.options.style.paint(Color::Magenta, &text)
        };
        (show(self.flow.source.as_ref()), show(self.flow.destination.as_ref()))
    }

    /// What kind of event the flow was seen in.
    pub fn kind(&self) -> String {
        let flow = self.flow;
        if let Some(l7) = &flow.l7 {
            let half = L7FlowType::try_from(l7.r#type)
                .map_or_else(|_| l7.r#type.to_string(), |half| half.as_str_name().to_lowercase());
            return match &l7.record {
                Some(Record::Http(_)) => format!("http-{half}"),
                Some(Record::Kafka(_)) => format!("kafka-{half}"),
                Some(Record::Dns(dns)) => format!("dns-{half} {}", foreign(&dns.observation_source)),
                None => format!("l7-{half}"),
            };
        }
        let (kind, sub_type) = flow.event_type.as_ref().map_or((0, 0), |kind| (kind.r#type, kind.sub_type));
        match kind {
            event_type::TRACE => text::observation_point(sub_type).map_or_else(|| sub_type.to_string(), str::to_owned),
            event_type::DROP => match u8::try_from(sub_type) {
                Ok(code) => text::drop_reason_ext(code, 0),
                Err(_) => format!("{sub_type}, 0"),
            },
            event_type::POLICY_VERDICT => {
                let direction = name(TrafficDirection::try_from(flow.traffic_direction), flow.traffic_direction, |d| {
                    d.as_str_name()
                });
                format!("policy-verdict:{} {direction}", text::policy_match(flow.policy_match_type))
            }
            event_type::CAPTURE => {
                name(DebugCapturePoint::try_from(flow.debug_capture_point), flow.debug_capture_point, |p| {
                    p.as_str_name()
                })
            }
            event_type::TRACE_SOCK => match SocketTranslationPoint::try_from(flow.sock_xlate_point) {
                Ok(SocketTranslationPoint::SockXlatePointPreDirectionFwd) => "pre-xlate-fwd".into(),
                Ok(SocketTranslationPoint::SockXlatePointPostDirectionFwd) => "post-xlate-fwd".into(),
                Ok(SocketTranslationPoint::SockXlatePointPreDirectionRev) => "pre-xlate-rev".into(),
                Ok(SocketTranslationPoint::SockXlatePointPostDirectionRev) => "post-xlate-rev".into(),
                other => name(other, flow.sock_xlate_point, |p| p.as_str_name()),
            },
            _ => "UNKNOWN".into(),
        }
    }

    /// What became of the packet; for policy verdicts what the policy said.
    pub fn verdict(&self) -> String {
        let verdict = Verdict::try_from(self.flow.verdict);
        let color = match verdict {
            Ok(Verdict::Forwarded | Verdict::Redirected) => Some(Color::Green),
            Ok(Verdict::Dropped | Verdict::Error) => Some(Color::Red),
            Ok(Verdict::Audit | Verdict::Traced | Verdict::Translated) => Some(Color::Yellow),
            _ => None,
        };
        let policy = self.flow.event_type.as_ref().is_some_and(|kind| kind.r#type == event_type::POLICY_VERDICT);
        let word = match verdict {
            Ok(Verdict::Forwarded | Verdict::Redirected) if policy => "ALLOWED".to_owned(),
            Ok(Verdict::Dropped | Verdict::Error) if policy => "DENIED".to_owned(),
            Ok(Verdict::Audit) if policy => "AUDITED".to_owned(),
            other => name(other, self.flow.verdict, |verdict| verdict.as_str_name()),
        };
        let painted = match color {
            Some(color) => self.options.style.paint(color, &word),
            None => word.clone(),
        };
        match word.as_str() {
            "ALLOWED" | "DENIED" if self.options.policy_names => painted + &self.policies(word == "DENIED"),
            _ => painted,
        }
    }

    fn policies(&self, denied: bool) -> String {
        let flow = self.flow;
        let list: &[Policy] = match (TrafficDirection::try_from(flow.traffic_direction), denied) {
            (Ok(TrafficDirection::Egress), false) => &flow.egress_allowed_by,
            (Ok(TrafficDirection::Egress), true) => &flow.egress_denied_by,
            (Ok(TrafficDirection::Ingress), false) => &flow.ingress_allowed_by,
            (Ok(TrafficDirection::Ingress), true) => &flow.ingress_denied_by,
            _ => &[],
        };
        let named = list.iter().filter(|policy| !policy.kind.is_empty() && !policy.name.is_empty());
        let names: Vec<String> = named.map(|policy| format!("{} ({})", policy.name, policy.kind)).collect();
        if names.is_empty() { String::new() } else { format!(" BY {}", foreign(&names.join(", "))) }
    }

    /// The innermost header or message in words.
    pub fn summary(&self) -> String {
        let mut text = foreign(&self.flow.summary).into_owned();
        let id = self.flow.ip_trace_id.as_ref().map_or(0, |id| id.trace_id);
        if id != 0 {
            text = format!("IP Trace ID: {id}; {text}");
        }
        let (auth, color) = match AuthType::try_from(self.flow.auth_type) {
            Ok(AuthType::Disabled) => return text,
            Ok(AuthType::Spire) => ("SPIRE".to_owned(), Some(Color::Green)),
            Ok(AuthType::TestAlwaysFail) => ("TEST_ALWAYS_FAIL".to_owned(), Some(Color::Red)),
            Err(_) => (self.flow.auth_type.to_string(), None),
        };
        let auth = color.map_or(auth.clone(), |color| self.options.style.paint(color, &auth));
        format!("{text}; Auth: {auth}")
    }
}

/// The name of an enum value; the number when it has none.
fn name<E, X>(value: Result<E, X>, number: i32, of: impl Fn(&E) -> &'static str) -> String {
    value.map_or_else(|_| number.to_string(), |value| of(&value).to_owned())
}

fn join(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}
