//! Which policy decided, in flows and in answers: on the real kernel, for allow and deny, in both directions.

use std::path::PathBuf;

use api::models::{
    ExplainAnswer, ExplainRequest, LintFinding, LintRequest, Party, PreviewAnswer, PreviewRequest, RuleRef,
};
use hubble_api::flow::{Flow, Policy, TrafficDirection, Verdict, layer4::Protocol};
use hubble_api::observer::{GetFlowsRequest, get_flows_response::ResponseTypes, observer_client::ObserverClient};
use serde_json::{Value, json};

use crate::support::{Node, Pod};

const WEB: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web-in, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{}]
    toPorts: [{ports: [{port: '80', protocol: TCP}]}]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: bad}}]
";

const CLIENT: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client-out, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{}]
  egressDeny:
  - toEndpoints: [{matchLabels: {app: other}}]
";

/// The policy verdicts the ring holds.
fn verdicts(node: &Node) -> Vec<Flow> {
    let socket: PathBuf = node.dir.path().join("run/hubble.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let channel = tonic::transport::Endpoint::from_static("http://localhost");
        let channel = channel.connect_with_connector(connector).await.unwrap();
        let request = GetFlowsRequest { number: 4096, ..GetFlowsRequest::default() };
        let mut stream = ObserverClient::new(channel).get_flows(request).await.unwrap().into_inner();
        let mut flows = Vec::new();
        while let Some(answer) = stream.message().await.unwrap() {
            if let Some(ResponseTypes::Flow(flow)) = answer.response_types {
                flows.push(flow);
            }
        }
        let verdict = |flow: &Flow| {
            flow.event_type.as_ref().is_some_and(|kind| kind.r#type == hubble_api::event_type::POLICY_VERDICT)
        };
        flows.into_iter().filter(verdict).collect()
    })
}

fn between(flow: &Flow, from: &Pod, to: &Pod, port: u32, direction: TrafficDirection) -> bool {
    let ip = flow.ip.clone().unwrap_or_default();
    let to_port = match flow.l4.as_ref().and_then(|l4| l4.protocol.as_ref()) {
        Some(Protocol::Tcp(tcp)) => tcp.destination_port,
        _ => 0,
    };
    ip.source == from.ipv4.to_string()
        && ip.destination == to.ipv4.to_string()
        && to_port == port
        && flow.traffic_direction == direction as i32
}

/// Names on the four lists: egress allowed and denied, ingress allowed and denied.
fn named(flow: &Flow) -> [Vec<String>; 4] {
    let names = |list: &[Policy]| {
        list.iter().map(|p| format!("{} {}/{} {}", p.kind, p.namespace, p.name, p.revision > 0)).collect()
    };
    [&flow.egress_allowed_by, &flow.egress_denied_by, &flow.ingress_allowed_by, &flow.ingress_denied_by]
        .map(|list| names(list))
}

fn party(pod: &Pod) -> Party {
    Party { pod: format!("default/{}", pod.name), ..Party::default() }
}

fn documents(texts: &[&str]) -> Vec<Value> {
    let read = |text: &&str| policy::parse::documents(text, &policy::parse::Limits::default()).unwrap();
    texts.iter().flat_map(read).collect()
}

fn rule(rules: &[RuleRef]) -> Vec<String> {
    rules.iter().map(|r| format!("{}/{} {}", r.namespace, r.name, r.path)).collect()
}

#[test]
fn flows_and_answers_name_the_policy_that_decided() {
    let Some(node) = Node::new(&[]) else { return };
    let web = node.pod("web", &["k8s:app=web"]);
    let client = node.pod("client", &["k8s:app=client"]);
    let bad = node.pod("bad", &["k8s:app=bad"]);
    let other = node.pod("other", &["k8s:app=other"]);
    web.echo(80);
    other.echo(80);
    node.policy("web.yaml", WEB);
    node.policy("client.yaml", CLIENT);
    node.eventually("both policies are enforced", || !bad.reaches((web.ipv4, 80)) && !client.reaches((other.ipv4, 80)));
    assert!(client.reaches((web.ipv4, 80)));
    assert!(!client.reaches((web.ipv4, 81)), "no rule allows port 81");

    flows_name_policies(&node, &web, &client, &bad, &other);
    answers_name_rules(&node, &web, &client, &bad, &other);
    previews_are_answered_from_the_ring(&node, &web, &client);
    bad_questions_are_refused(&node);
}

fn flows_name_policies(node: &Node, web: &Pod, client: &Pod, bad: &Pod, other: &Pod) {
    use TrafficDirection::{Egress, Ingress};
    let (web_in, client_out) =
        ("CiliumNetworkPolicy default/web-in true", "CiliumNetworkPolicy default/client-out true");
    type Case<'a> = (&'a Pod, &'a Pod, u32, TrafficDirection, Verdict, [&'a [&'a str]; 4]);
    let cases: [Case<'_>; 5] = [
        (client, web, 80, Egress, Verdict::Forwarded, [&[client_out], &[], &[], &[]]),
        (client, web, 80, Ingress, Verdict::Forwarded, [&[], &[], &[web_in], &[]]),
        (bad, web, 80, Ingress, Verdict::Dropped, [&[], &[], &[], &[web_in]]),
        (client, other, 80, Egress, Verdict::Dropped, [&[], &[client_out], &[], &[]]),
        // Nothing allows it, so no policy is to be named.
        (client, web, 81, Ingress, Verdict::Dropped, [&[], &[], &[], &[]]),
    ];
    for (from, to, port, direction, verdict, want) in cases {
        let what = format!("{} to {} port {port}, {direction:?} {verdict:?}", from.name, to.name);
        let mut last = None;
        let want = want.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        node.eventually(&what, || {
            let all = verdicts(node);
            last = all
                .into_iter()
                .rfind(|flow| between(flow, from, to, port, direction) && flow.verdict == verdict as i32);
            last.as_ref().is_some_and(|flow| named(flow) == want)
        });
    }
}

fn answers_name_rules(node: &Node, web: &Pod, client: &Pod, bad: &Pod, other: &Pod) {
    let ask = |from: &Pod, to: &Pod, port| -> ExplainAnswer {
        let question = ExplainRequest { from: party(from), to: party(to), port, ..ExplainRequest::default() };
        node.client.call("POST", "/policy/explain", &[], Some(&question)).unwrap()
    };
    let allowed = ask(client, web, 80);
    assert_eq!(allowed.verdict, "allowed");
    assert_eq!(rule(&allowed.egress.unwrap().deciding), ["default/client-out spec.egress[0]"]);
    assert_eq!(rule(&allowed.ingress.unwrap().deciding), ["default/web-in spec.ingress[0]"]);
    let denied = ask(bad, web, 80);
    assert_eq!((denied.verdict.as_str(), denied.egress.unwrap().enforced), ("denied", false));
    assert_eq!(rule(&denied.ingress.unwrap().deciding), ["default/web-in spec.ingressDeny[0]"]);
    let denied = ask(client, other, 80);
    assert_eq!(rule(&denied.egress.unwrap().deciding), ["default/client-out spec.egressDeny[0]"]);
    let nothing = ask(client, web, 81).ingress.unwrap();
    assert_eq!((nothing.verdict.as_str(), nothing.deciding.len()), ("denied", 0));
    assert_eq!(rule(&nothing.default_deny), ["default/web-in spec.ingress[0]"]);

    // By address, by identity and by labels the answer is the same.
    let identity = client.endpoint.status.identity.as_ref().map(|identity| identity.id);
    let by_ip = Party { ip: client.ipv4.to_string(), ..Party::default() };
    let by_number = Party { identity: identity.map(|id| u32::try_from(id).unwrap()), ..Party::default() };
    let by_endpoint = Party { endpoint: Some(u16::try_from(client.endpoint.id).unwrap()), ..Party::default() };
    let labels = vec!["k8s:app=client".into(), "k8s:io.kubernetes.pod.namespace=default".into()];
    let by_labels = Party { labels, ..Party::default() };
    for from in [by_ip, by_number, by_endpoint, by_labels] {
        let question = ExplainRequest { from, to: party(web), port: 80, ..ExplainRequest::default() };
        let answer: ExplainAnswer = node.client.call("POST", "/policy/explain", &[], Some(&question)).unwrap();
        assert_eq!(rule(&answer.ingress.unwrap().deciding), ["default/web-in spec.ingress[0]"], "{question:?}");
    }
}

fn previews_are_answered_from_the_ring(node: &Node, web: &Pod, client: &Pod) {
    let stricter = WEB.replace("fromEndpoints: [{}]", "fromEndpoints: [{matchLabels: {app: nobody}}]");
    let question =
        PreviewRequest { put: documents(&[&stricter]), since_seconds: Some(3600), ..PreviewRequest::default() };
    let preview = |question: &PreviewRequest| -> PreviewAnswer {
        node.client.call("POST", "/policy/preview", &[], Some(question)).unwrap()
    };
    let answer = preview(&question);
    let change = answer.changes.iter().find(|c| c.source == "default/client" && c.port == 80);
    let change = change.unwrap_or_else(|| panic!("{answer:?}"));
    assert_eq!((change.destination.as_str(), change.direction.as_str()), ("default/web", "ingress"));
    assert_eq!((change.before.as_str(), change.after.as_str()), ("allowed", "denied"));
    assert_eq!(rule(&change.rules), ["default/web-in spec.ingress[0]"]);
    assert!(answer.newly_denied > 0 && answer.newly_allowed == 0, "{answer:?}");
    // A preview changes nothing.
    assert!(client.reaches((web.ipv4, 80)));

    let name = api::models::ObjectRef { kind: "cnp".into(), namespace: "default".into(), name: "web-in".into() };
    let gone = preview(&PreviewRequest { delete: vec![name], since_seconds: Some(3600), ..Default::default() });
    assert!(gone.newly_denied == 0 && gone.newly_allowed > 0, "{gone:?}");
    assert!(gone.changes.iter().any(|c| c.source == "default/bad" && c.after == "allowed"), "{gone:?}");

    let findings: Vec<LintFinding> = node
        .client
        .call("POST", "/policy/lint", &[], Some(&LintRequest { documents: documents(&[&stricter]) }))
        .unwrap();
    assert!(findings.iter().any(|f| f.path == "spec.ingress[0]" && f.what.contains("nobody")), "{findings:?}");
}

fn bad_questions_are_refused(node: &Node) {
    let refused = |path: &str, body: Value| {
        let answer = node.client.call::<_, Value>("POST", path, &[], Some(&body));
        answer.expect_err(&body.to_string()).to_string()
    };
    for (path, body, want) in [
        (
            "/policy/explain",
            json!({ "from": { "pod": "default/none" }, "to": { "ip": "10.0.0.1" } }),
            "no pod of this node",
        ),
        ("/policy/explain", json!({ "from": {}, "to": { "ip": "10.0.0.1" } }), "nobody is named"),
        ("/policy/explain", json!({ "form": {} }), "unknown field form"),
        ("/policy/explain", json!({ "from": { "ip": "10" }, "to": { "ip": "10.0.0.1" } }), "\"10\" is no IPv4"),
        ("/policy/preview", json!({ "put": [{ "kind": "Pod", "apiVersion": "v1" }] }), "v1 Pod"),
        ("/policy/preview", json!({ "delete": [{ "namespace": "default", "name": "none" }] }), "not in force"),
        ("/policy/preview", json!({ "traffic": { "flows": [{ "source": 3 }] } }), "3 is no place in the list of 0"),
        ("/policy/preview", json!({ "since-seconds": 60, "traffic": { "skipped": 1 } }), "cannot be combined"),
        ("/policy/lint", json!({ "documents": [7] }), "a mapping"),
    ] {
        let why = refused(path, body.clone());
        assert!(why.contains(want), "{path} {body}: {why}");
    }
}
