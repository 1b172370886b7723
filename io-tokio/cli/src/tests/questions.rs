//! `cilium policy explain`, `preview`, `validate` and `lint`.

use serde_json::{Value, json};

use super::{agent, cilium};
use crate::CliError;

const POLICY: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: front}}]
    toPorts: [{ports: [{port: '80', protocol: TCP}]}]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: front, canary: 'yes'}}]
";

const WEB: &str = "k8s:app=web,k8s:io.kubernetes.pod.namespace=shop";
const FRONT: &str = "k8s:app=front,k8s:io.kubernetes.pod.namespace=shop";

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("temp dir");
    path.display().to_string()
}

fn folder() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("temp dir");
    let policy = file(&dir, "web.yaml", POLICY);
    (dir, policy)
}

fn json_of(line: &str) -> Value {
    serde_json::from_str(&cilium("/nowhere", &format!("{line} -o json")).expect(line)).expect("json")
}

/// A flow as `hubble observe -o json` prints it.
fn flow(from: &str, to: &str, port: u16, direction: &str) -> Value {
    let end = |app: &str| {
        json!({ "identity": 1000, "namespace": "shop", "pod_name": format!("{app}-1"),
                "labels": [format!("k8s:app={app}"), "k8s:io.kubernetes.pod.namespace=shop"],
                "workloads": [{ "name": app, "kind": "Deployment" }] })
    };
    json!({ "flow": {
        "verdict": "FORWARDED", "Type": "L3_L4", "is_reply": false, "traffic_direction": direction,
        "IP": { "source": "10.0.0.1", "destination": "10.0.0.2", "ipVersion": "IPv4" },
        "l4": { "TCP": { "source_port": 40000, "destination_port": port } },
        "source": end(from), "destination": end(to),
        "event_type": { "type": 5, "sub_type": 0 },
    }, "node_name": "n1" })
}

#[test]
fn an_explanation_from_files_names_the_rule_that_decides() {
    let (_dir, policy) = folder();
    let ask =
        |from: &str, port: &str| json_of(&format!("policy explain -f {policy} --from {from} --to {WEB} --port {port}"));
    let allowed = ask(FRONT, "80/TCP");
    assert_eq!(allowed["verdict"], "allowed");
    let rule = &allowed["ingress"]["deciding"][0];
    assert_eq!(
        (&rule["name"], &rule["namespace"], &rule["path"]),
        (&"web".into(), &"shop".into(), &"spec.ingress[0]".into())
    );
    assert!(allowed["egress"]["reason"].as_str().expect("a reason").contains("speaks of egress"), "{allowed}");
    let denied = ask(&format!("{FRONT},k8s:canary=yes"), "80");
    assert_eq!(
        (&denied["verdict"], &denied["ingress"]["deciding"][0]["path"]),
        (&"denied".into(), &"spec.ingressDeny[0]".into())
    );
    assert_eq!(denied["ingress"]["considered"][0]["rule"]["path"], "spec.ingress[0]");
    let nobody = ask("10.1.2.3", "80/TCP");
    assert_eq!(nobody["verdict"], "denied");
    assert!(nobody["ingress"].get("deciding").is_none() && nobody.get("egress").is_none(), "{nobody}");
    assert_eq!(nobody["ingress"]["default-deny"][0]["name"], "web");
    assert_eq!(ask(FRONT, "81/TCP")["ingress"]["considered"][0]["why"], "the peer fits, the port does not");

    let text = cilium("/nowhere", &format!("policy explain -f {policy} --from k8s:app=front --to {WEB} --port 80"))
        .expect("explained");
    assert!(
        text.starts_with("Verdict: denied\n") && text.contains("io.kubernetes.pod.namespace, so policies"),
        "{text}"
    );
}

#[test]
fn a_recorded_flow_is_explained() {
    let (dir, policy) = folder();
    let path = file(&dir, "flow.json", &flow("front", "web", 80, "INGRESS").to_string());
    let answer = json_of(&format!("policy explain -f {policy} --flow {path}"));
    assert_eq!((&answer["verdict"], &answer["ingress"]["matched"]), (&"allowed".into(), &"l3-l4".into()));
    assert!(answer.get("egress").is_none(), "the flow was seen at one end");
    let mut reply = flow("web", "front", 40000, "EGRESS");
    reply["flow"]["is_reply"] = true.into();
    let path = file(&dir, "reply.json", &reply.to_string());
    let error = cilium("/nowhere", &format!("policy explain -f {policy} --flow {path}")).expect_err("a reply");
    assert!(error.to_string().contains("reply"), "{error}");
    let path = file(&dir, "no.json", "{\"flow\": 7}");
    let error = cilium("/nowhere", &format!("policy explain -f {policy} --flow {path}")).expect_err("no flow");
    assert!(error.to_string().contains("this is no flow"), "{error}");
}

#[test]
fn a_question_that_makes_no_sense_is_refused_with_the_flag_that_is_wrong() {
    let (_dir, policy) = folder();
    for (line, want) in [
        (format!("--from shop/web-1 --to {WEB} --port 80"), "from: \"shop/web-1\" is no pod of this node"),
        (format!("--from web --to {WEB} --port 80"), "--from: \"web\" is not understood"),
        (format!("--from 10.0.0.0/8 --to {WEB} --port 80"), "is a prefix; give one address"),
        (format!("--from 777 --to {WEB} --port 80"), "from: there is no identity 777"),
        (format!("--from {FRONT} --to {WEB} --port http"), "port: no names of ports are known of"),
        (format!("--from {FRONT} --to {WEB} --port 80000"), "--port: \"80000\" is no port"),
        (format!("--from {FRONT} --to {WEB} --port a_b/TCP"), "--port: \"a_b\" is no port"),
        (format!("--from {FRONT} --to {WEB} --port 80/QUIC"), "\"QUIC\" is no protocol"),
        ("--from world --to 10.0.0.1 --port 80".into(), "no policy judges either end"),
        (format!("--from k8s:a=b,k8s:a=c --to {WEB} --port 80"), "contradicts"),
        (format!("--to {WEB} --port 80"), "--from"),
        (format!("--from {FRONT} --to {WEB} --port 80 -f /nowhere.yaml"), "/nowhere.yaml"),
    ] {
        let error = cilium("/nowhere", &format!("policy explain -f {policy} {line}")).expect_err(&line).to_string();
        assert!(error.contains(want), "{line}: {error}");
    }
}

#[test]
fn a_preview_counts_what_would_newly_be_denied_and_says_so_by_its_exit_code() {
    let (dir, policy) = folder();
    let lines: Vec<String> = [("front", 80), ("front", 80), ("other", 80), ("front", 8080)]
        .iter()
        .flat_map(|(from, port)| [flow(from, "web", *port, "INGRESS"), flow(from, "web", *port, "EGRESS")])
        .map(|flow| flow.to_string())
        .chain(["".into(), r#"{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"3"}}"#.into()])
        .collect();
    let flows = file(&dir, "flows.json", &lines.join("\n"));
    let line = format!("policy preview -f {policy} --flows {flows} --offline");
    let mut out = Vec::new();
    let arguments =
        clap::Parser::try_parse_from(format!("cilium {line} -o json").split_whitespace()).expect("a command");
    let error = crate::run(&arguments, &mut out).expect_err("something would be denied");
    assert!(matches!(&error, CliError::Found(why) if why == "2 of 8 flows would newly be denied"), "{error}");
    assert_eq!((error.exit_code(), CliError::Invalid(String::new()).exit_code()), (3, 1));
    let answer: Value = serde_json::from_slice(&out).expect("json");
    assert_eq!(
        (&answer["newly-denied"], &answer["flows-judged"], &answer["flows-skipped"]),
        (&2.into(), &8.into(), &1.into())
    );
    let changes = answer["changes"].as_array().expect("changes");
    let of = |from: &str, port: u16| {
        changes.iter().find(|c| c["source"] == *from && c["port"] == port).cloned().expect(from)
    };
    let other = of("shop/other", 80);
    assert_eq!(
        (&other["destination"], &other["before"], &other["after"], &other["count"]),
        (&"shop/web".into(), &"allowed".into(), &"denied".into(), &1.into())
    );
    assert_eq!(other["rules"][0]["name"], "web", "who switches default deny on is responsible");
    assert_eq!((of("shop/front", 8080)["count"].as_u64(), changes.len()), (Some(1), 2));

    // The same policy in force already changes nothing; taking it away allows what it denied.
    let same = format!("policy preview -f {policy} --rules {policy} --flows {flows}");
    assert!(cilium("/nowhere", &same).expect("nothing changes").contains("0 newly denied, 0 newly allowed"));
    let gone = cilium("/nowhere", &format!("policy preview --delete shop/web --rules {policy} --flows {flows}"))
        .expect("nothing is denied");
    assert!(gone.contains("0 newly denied, 2 newly allowed") && gone.contains("no rule"), "{gone}");
}

#[test]
fn a_preview_of_nothing_says_that_it_says_nothing() {
    let (dir, policy) = folder();
    let mut reply = flow("web", "front", 40000, "EGRESS");
    reply["flow"]["is_reply"] = true.into();
    for (name, text) in
        [("empty.json", String::new()), ("blank.json", "\n\n".into()), ("reply.json", reply.to_string())]
    {
        let flows = file(&dir, name, &text);
        let answer = json_of(&format!("policy preview -f {policy} --offline --flows {flows}"));
        let number = |field: &str| answer[field].as_u64().unwrap_or(0);
        assert_eq!((number("flows-judged"), number("newly-denied")), (0, 0), "{answer}");
        assert!(answer["notes"].to_string().contains("no flow was judged"), "{answer}");
        let text = cilium("/nowhere", &format!("policy preview -f {policy} --offline --flows {flows}")).expect(name);
        assert!(text.contains("0 flows judged") && text.contains("Note: no flow was judged"), "{text}");
    }
}

#[test]
fn a_preview_of_nonsense_is_refused() {
    let (dir, policy) = folder();
    let flows = file(&dir, "flows.json", &format!("{}\nhello\n", flow("front", "web", 80, "INGRESS")));
    let good = file(&dir, "good.json", &flow("front", "web", 80, "INGRESS").to_string());
    let broken = file(&dir, "broken.yaml", &POLICY.replace("fromEndpoints", "fromEndpoint"));
    for (line, want) in [
        (format!("-f {policy} --offline --flows {flows}"), "flows.json: line 2"),
        (format!("-f {broken} --offline --flows {good}"), "spec.ingress[0].fromEndpoint"),
        (format!("--delete shop/none --offline --flows {good}"), "is not in force"),
        (format!("-f {policy} --offline"), "--flows"),
        (format!("--flows {good} --offline"), "--file"),
        (format!("-f {policy} --since 1x"), "no length of time"),
        (format!("-f {policy} --since 1h --offline"), "cannot be used with"),
        (format!("-f {policy} --flows /nowhere.json --offline"), "/nowhere.json"),
    ] {
        let error = cilium("/nowhere", &format!("policy preview {line}")).expect_err(&line).to_string();
        assert!(error.contains(want), "{line}: {error}");
    }
}

#[test]
fn the_agent_is_sent_the_change_and_the_traffic_alike_flows_together() {
    let (dir, socket, asked) = agent(r#"{"flows-judged":1,"newly-denied":0}"#);
    let policy = file(&dir, "web.yaml", POLICY);
    let two = format!("{0}\n{0}\n", flow("front", "web", 80, "INGRESS"));
    let flows = file(&dir, "flows.json", &two);
    cilium(&socket, &format!("policy preview -f {policy} --flows {flows} --delete knp/shop/old")).expect("answered");
    let request = asked.recv().expect("a request");
    assert!(request.starts_with("POST /v1/policy/preview "), "{request}");
    let body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).expect("a body")).expect("json");
    assert_eq!(body["put"][0]["metadata"]["name"], "web");
    assert_eq!(body["delete"][0], json!({"kind": "knp", "namespace": "shop", "name": "old"}));
    assert_eq!(
        (body["traffic"]["flows"].as_array().map(Vec::len), &body["traffic"]["flows"][0]["count"]),
        (Some(1), &2.into())
    );
    cilium(&socket, &format!("policy preview -f {policy} --since 1h30m")).expect("answered");
    assert!(asked.recv().expect("a request").contains("\"since-seconds\":5400"));
    cilium(&socket, "policy explain --from shop/front-1 --to 10.0.0.9 --port 53/UDP").expect("answered");
    let request = asked.recv().expect("a request");
    cilium(&socket, "policy explain --from shop/front-1 --to shop/web-1 --port http").expect("answered");
    let named = asked.recv().expect("a request");
    assert!(named.contains(r#""port-name":"http""#) && !named.contains("protocol"), "{named}");
    assert!(
        request.contains(r#""from":{"pod":"shop/front-1"}"#) && request.contains(r#""to":{"ip":"10.0.0.9"}"#),
        "{request}"
    );
}

#[test]
fn validation_names_every_mistake_of_every_file() {
    let (dir, policy) = folder();
    let one = file(&dir, "one.yaml", &POLICY.replace("fromEndpoints", "fromEndpoint"));
    let two = file(&dir, "two.yaml", &POLICY.replace("'80'", "'99999'"));
    let error = cilium("/nowhere", &format!("policy validate {policy} {one} {two}")).expect_err("mistakes").to_string();
    assert!(error.contains("one.yaml") && error.contains("two.yaml") && error.contains("ports[0].port"), "{error}");
    let valid = json_of(&format!("policy validate {policy}"));
    assert_eq!((&valid["valid"], valid["policies"].as_array().map(Vec::len)), (&true.into(), Some(1)));
    let auth = file(
        &dir,
        "auth.yaml",
        &POLICY.replace("  ingressDeny", "    authentication: {mode: required}\n  ingressDeny"),
    );
    let warned = json_of(&format!("policy validate {auth}"));
    assert!(warned["not-enforced"][0].as_str().expect("a warning").contains("authentication"), "{warned}");
}

#[test]
fn lint_without_an_agent_finds_what_needs_no_workloads() {
    let (dir, policy) = folder();
    assert_eq!(
        cilium("/nowhere", &format!("policy lint --offline {policy}")).expect("nothing"),
        "Nothing was found.\n"
    );
    let open = file(&dir, "open.yaml", &POLICY.replace("fromEndpoints: [{matchLabels: {app: front}}]\n    ", ""));
    let error = cilium("/nowhere", &format!("policy lint --offline {open}")).expect_err("a finding");
    assert_eq!((error.exit_code(), error.to_string().as_str()), (3, "1 finding"));
    let (_dir, socket, asked) = agent(r#"[{"object":"o","path":"spec","what":"selects no workload that is known"}]"#);
    cilium(&socket, &format!("policy lint {policy}")).expect_err("a finding of the agent's");
    assert!(asked.recv().expect("a request").starts_with("POST /v1/policy/lint "));
}

/// What an agent says of itself; `IPV6` stands for whether it has IPv6.
const CONFIG: &str = r#"{"status":{"daemonConfigurationMap":{"EnableIPv4":true,"EnableIPv6":IPV6,"EnableL7Proxy":false,
    "EnableHostFirewall":false,"PolicyCIDRGroups":false,"PolicyServices":false,"PolicyDNSNames":false,"PolicyPortNames":false}}}"#;

#[test]
fn policies_are_validated_for_what_an_agent_has_enabled() {
    let (dir, plain) = folder();
    let spec = |name: &str, section: &str| {
        let head = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: p}\nspec: ";
        file(&dir, name, &format!("{head}{{{section}}}\n"))
    };
    let six = spec("six.yaml", "endpointSelector: {}, egress: [{toCIDR: ['2001:db8::/32']}]");
    let http = "toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]";
    let l7 = spec("l7.yaml", &format!("endpointSelector: {{}}, ingress: [{{{http}}}]"));
    let node = spec("node.yaml", "nodeSelector: {}, ingress: [{}]");
    let group = spec("group.yaml", "endpointSelector: {}, egressDeny: [{toCIDRSet: [{cidrGroupRef: g}]}]");
    let bits = spec("bits.yaml", "endpointSelector: {}, egress: [{toCIDR: [10.0.0.1/8]}]");
    let validate = |socket: &str, line: &str| cilium(socket, &format!("policy validate {line}"));
    for file in [&plain, &six, &l7, &node, &group] {
        validate("/nowhere", file).expect(file);
    }
    let config = CONFIG.replace("IPV6", "false").leak();
    let (_agent, only4, asked) = agent(config);
    let (_agent6, both, _) = agent(CONFIG.replace("IPV6", "true").leak());
    for (socket, line, want) in [
        (
            "/nowhere",
            format!("--enable-ipv6=false {plain} {six}"),
            "six.yaml: CiliumClusterwideNetworkPolicy p: spec.egress[0]: 2001:db8::/32 is IPv6",
        ),
        (&only4, format!("--agent {six}"), "which is not enabled on this node"),
        ("/nowhere", format!("--enable-l7-proxy=false {l7}"), "spec.ingress[0].toPorts[0].rules"),
        (&only4, format!("--agent {l7}"), "L7 proxy is not enabled"),
        (&only4, format!("--agent {group}"), "spec.egressDeny[0]: this agent is told of no CIDR group"),
        ("/nowhere", bits.clone(), "bits are set behind the prefix length"),
        ("/nowhere", format!("--agent {plain}"), "/nowhere"),
        ("/nowhere", format!("--agent --enable-ipv6=false {plain}"), "cannot be used with"),
    ] {
        let error = validate(socket, &line).expect_err(&line).to_string();
        assert!(error.contains(want), "{line}: {error}");
    }
    assert!(asked.recv().expect("a request").starts_with("GET /v1/config "));
    validate(&both, &format!("--agent {six} {plain}")).expect("IPv6 is enabled there");
    let warned = |line: &str| {
        let text = validate("/nowhere", &format!("{line} -o json")).expect(line);
        serde_json::from_str::<Value>(&text).expect("json")["not-enforced"].to_string()
    };
    assert!(
        warned(&format!("--enable-host-firewall=false {node}"))
            .contains("spec.nodeSelector: the host firewall is not enabled")
    );
    assert_eq!(warned(&node), "[]");
    let (_other, other, _) = agent("{}");
    let error = validate(&other, &format!("--agent {plain}")).expect_err("an older agent").to_string();
    assert!(error.contains("does not say whether it has"), "{error}");
}
