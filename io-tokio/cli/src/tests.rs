use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use clap::{CommandFactory, Parser};

use super::*;

/// An agent that gives one answer to everything; returns what it was asked.
fn agent(answer: &'static str) -> (tempfile::TempDir, String, std::sync::mpsc::Receiver<String>) {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("cilium.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let (asked, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut chunk = vec![0; 1 << 16];
            let n = stream.read(&mut chunk).expect("a request");
            let _ = asked.send(String::from_utf8_lossy(&chunk[..n]).into_owned());
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
        }
    });
    let path = path.display().to_string();
    (dir, path, requests)
}

fn cilium(socket: &str, line: &str) -> Result<String, CliError> {
    let words = ["cilium", "-H", socket].into_iter().chain(line.split_whitespace());
    let arguments = Arguments::try_parse_from(words).map_err(|e| CliError::Invalid(e.to_string()))?;
    let mut out = Vec::new();
    run(&arguments, &mut out)?;
    Ok(String::from_utf8(out).expect("text"))
}

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn endpoints_are_listed_with_all_their_labels() {
    let (_dir, socket, _) = agent(
        r#"[{"id":7,"status":{"state":"ready","identity":{"id":2000,"labels":["k8s:app=web","k8s:tier=front"]},
        "policy":{"realized":{"policy-enabled":"ingress"}},"networking":{"addressing":[{"ipv4":"10.0.0.1","ipv6":"fd00::1"}]}}}]"#,
    );
    let text = cilium(&socket, "endpoint list --no-headers").expect("listed");
    assert_eq!(
        text,
        "7   Enabled   Disabled   2000   k8s:app=web      fd00::1   10.0.0.1   ready\n                                k8s:tier=front\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&cilium(&socket, "endpoint list -o json").expect("json")).expect("json");
    assert_eq!(json[0]["status"]["identity"]["labels"][1], "k8s:tier=front");
}

#[test]
fn status_fails_when_the_agent_is_not_well() {
    let (_dir, socket, asked) = agent(r#"{"cilium":{"state":"Failure","msg":"no maps"}}"#);
    let error = cilium(&socket, "status --brief").expect_err("not well");
    assert_eq!(error.to_string(), "Cilium failed: no maps");
    assert!(asked.recv().expect("a request").contains("brief: true"));
    let (_dir, socket, _) = agent(r#"{"cilium":{"state":"Ok","msg":"1.17"}}"#);
    assert_eq!(cilium(&socket, "status --brief").expect("well"), "OK\n");
}

#[test]
fn an_agent_that_is_away_is_named_with_the_way_out() {
    let error = cilium("/nowhere/cilium.sock", "endpoint list").expect_err("nobody").to_string();
    assert!(error.contains("/nowhere/cilium.sock") && error.contains("CILIUM_SOCK"), "{error}");
    let error = cilium("/nowhere/cilium.sock", "monitor").expect_err("nobody").to_string();
    assert!(error.contains("/nowhere/monitor1_2.sock"), "{error}");
    let error = cilium("/nowhere/cilium.sock", "--bpf-root /nowhere bpf ct list").expect_err("no maps").to_string();
    assert!(error.contains("--bpf-root"), "{error}");
}

#[test]
fn a_service_is_asked_for_as_the_api_wants_it() {
    let (_dir, socket, asked) = agent("null");
    let line = "service update --id 3 --frontend [fd00::10]:80 --backends [fd00::1]:8080,[fd00::2]:8080 --states active,maintenance --name shop/web";
    cilium(&socket, line).expect("accepted");
    let request = asked.recv().expect("a request");
    assert!(request.starts_with("PUT /v1/service/3 "), "{request}");
    let body: serde_json::Value =
        serde_json::from_str(request.split("\r\n\r\n").nth(1).expect("a body")).expect("json");
    assert_eq!(body["backend-addresses"][1]["state"], "maintenance");
    assert_eq!((&body["flags"]["name"], &body["flags"]["type"]), (&"web".into(), &"ClusterIP".into()));
    for (line, want) in [
        ("service update --id 3 --frontend 10.0.0.1", "--frontend"),
        ("service update --id 3 --frontend 10.0.0.1:80 --backends [fd00::1]:80", "another address family"),
        (
            "service update --id 3 --frontend 10.0.0.1:80 --backends 10.0.0.2:80 --states active,active",
            "2 values for 1",
        ),
        ("service update --id 3 --frontend 10.0.0.1:80 --backends 10.0.0.2:99999", "--backends"),
    ] {
        let error = cilium(&socket, line).expect_err(line).to_string();
        assert!(error.contains(want), "{line}: {error}");
    }
}

#[test]
fn policies_are_checked_before_they_are_sent_and_mistakes_named() {
    let (dir, socket, asked) = agent(r#"{"revision":5,"policy":"[]"}"#);
    let good = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: a\n  namespace: shop\nspec:\n  endpointSelector: {}\n  ingress:\n  - fromEndpoints:\n    - {}\n";
    let file = dir.path().join("p.yaml");
    std::fs::write(&file, good).expect("temp dir");
    let line = format!("policy import {}", file.display());
    assert_eq!(cilium(&socket, &line).expect("accepted"), "Revision: 5\n");
    assert!(asked.recv().expect("a request").contains("CiliumNetworkPolicy"));
    std::fs::write(&file, good.replace("fromEndpoints", "fromEndpoint")).expect("temp dir");
    for verb in ["import", "validate"] {
        let error = cilium(&socket, &format!("policy {verb} {}", file.display())).expect_err("a mistake").to_string();
        assert!(error.contains("p.yaml") && error.contains("fromEndpoint"), "{error}");
    }
    assert!(asked.try_recv().is_err(), "what is wrong is not sent");
}

mod questions;

#[test]
fn a_service_is_updated_with_all_its_attributes() {
    let (_dir, socket, requests) = agent("");
    cilium(
        &socket,
        "service update --id 7 --frontend 198.51.100.7:80 --backends 10.0.0.1:8080,10.0.0.2:8080 --states active,maintenance \
         --backend-weights 100,0 --backend-nodes a,b --k8s-load-balancer --k8s-ext-traffic-policy Local \
         --session-affinity 60 --source-ranges 10.0.0.0/8,192.0.2.0/24 --forwarding-mode dsr --name shop/web",
    )
    .expect("taken");
    let request = requests.recv().expect("asked");
    let body = request.split("\r\n\r\n").nth(1).expect("a body");
    let spec: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let flags = &spec["flags"];
    assert_eq!((&flags["type"], &flags["extTrafficPolicy"]), (&"LoadBalancer".into(), &"Local".into()));
    assert_eq!((&flags["sessionAffinityTimeoutSeconds"], &flags["forwardingMode"]), (&60.into(), &"dsr".into()));
    assert_eq!(flags["sourceRanges"], serde_json::json!(["10.0.0.0/8", "192.0.2.0/24"]));
    let second = &spec["backend-addresses"][1];
    assert_eq!(
        (&second["weight"], &second["state"], &second["nodeName"]),
        (&0.into(), &"maintenance".into(), &"b".into())
    );
    let two = cilium(&socket, "service update --id 7 --frontend 1.2.3.4:80 --k8s-node-port --k8s-external");
    assert!(two.unwrap_err().to_string().contains("NodePort and ExternalIPs"));
}

#[test]
fn services_are_listed_with_what_is_not_as_usual() {
    let (_dir, socket, _) = agent(
        r#"[{"spec":{"id":3,"frontend-address":{"ip":"fd00::1","port":80,"protocol":"tcp","scope":"internal"},
        "backend-addresses":[{"ip":"fd00::2","port":8080,"protocol":"tcp","state":"active","weight":7,"nodeName":"n"}],
        "flags":{"type":"NodePort","namespace":"shop","name":"web","extTrafficPolicy":"Local","sessionAffinityTimeoutSeconds":9}}}]"#,
    );
    let text = cilium(&socket, "service list --verbose").expect("listed");
    for part in ["[fd00::1]:80/TCP/i", "shop/web", "external traffic: local", "affinity: 9s", "weight 7 on n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn policies_of_local_redirection_are_listed_with_where_traffic_goes() {
    let (_dir, socket, asked) = agent(
        r#"[{"name":"cache","namespace":"kube-system","frontend-type":"clusterIP + all svc ports","lrp-type":"svc",
        "service-id":"kube-system/dns","frontend-mappings":[{"frontend-address":{"ip":"10.96.0.10","port":53,"protocol":"udp"},
        "backends":[{"pod-id":"kube-system/p","backend-address":{"ip":"10.0.0.7","port":5353,"protocol":"udp"}}]}]},
        {"name":"idle","namespace":"default","frontend-type":"IP + port","lrp-type":"addr"}]"#,
    );
    let text = cilium(&socket, "lrp list").expect("listed");
    assert!(asked.recv().expect("a request").starts_with("GET /v1/lrp "));
    for part in ["kube-system/dns", "10.96.0.10:53/UDP -> 10.0.0.7:5353/UDP (kube-system/p)", "as without the policy"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&cilium(&socket, "lrp list -o json").expect("json")).expect("json");
    assert_eq!(json[0]["frontend-mappings"][0]["backends"][0]["pod-id"], "kube-system/p");
}

/// An agent that answers by method; returns everything it was asked.
fn agent_by_method(answers: &'static [(&'static str, &'static str, &'static str)]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("cilium.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut chunk = vec![0; 1 << 16];
            let n = stream.read(&mut chunk).expect("a request");
            let asked = String::from_utf8_lossy(&chunk[..n]).into_owned();
            let known = answers.iter().find(|(start, ..)| asked.starts_with(start));
            let (_, status, body) = known.expect("a request that is foreseen");
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    let path = path.display().to_string();
    (dir, path)
}

const TWO: &str = r#"[{"spec":{"id":2,"frontend-address":{"ip":"10.96.0.2","port":80,"protocol":"tcp","scope":"external"}}},
    {"spec":{"id":1,"frontend-address":{"ip":"10.96.0.1","port":80,"protocol":"tcp","scope":"external"}}}]"#;

#[test]
fn all_services_are_deleted_but_those_of_objects_which_are_named() {
    let (_dir, socket) = agent_by_method(&[
        ("GET /v1/service ", "200 OK", TWO),
        (
            "DELETE /v1/service/1 ",
            "403 Forbidden",
            r#""service 1 belongs to Service default/web; change or delete that""#,
        ),
        ("DELETE /v1/service/2 ", "200 OK", ""),
        ("DELETE /v1/service/9 ", "404 Not Found", r#""there is no service 9""#),
    ]);
    let mut out = Vec::new();
    let arguments = Arguments::try_parse_from(["cilium", "-H", &socket, "service", "delete", "--all"]).expect("valid");
    let why = run(&arguments, &mut out).expect_err("one is left");
    assert_eq!(String::from_utf8_lossy(&out), "Service 2 is deleted\n");
    assert!(why.to_string().contains("Service default/web") && why.exit_code() == 1, "{why}");
    assert_eq!(cilium(&socket, "service delete 2 -o json").expect("deleted"), "{\n  \"deleted\": [\n    2\n  ]\n}\n");
    assert!(cilium(&socket, "service delete 9").expect_err("none").to_string().contains("there is no service 9"));
}

#[test]
fn a_service_without_a_number_is_told_by_the_one_it_got() {
    static ANSWERS: &[(&str, &str, &str)] = &[
        ("GET /v1/service ", "200 OK", TWO),
        ("GET /v1/service/1 ", "200 OK", r#"{"spec":{"id":1,"frontend-address":{"ip":"10.96.0.1","port":80}}}"#),
        ("PUT /v1/service/0 ", "201 Created", ""),
    ];
    let (_dir, socket) = agent_by_method(ANSWERS);
    let line = "service update --id 0 --frontend 10.96.0.2:80 --backends 10.0.0.1:80";
    assert_eq!(cilium(&socket, line).expect("taken"), "Service 2 is 10.96.0.2:80 with 1 backend\n");
    let json = |line: &str| -> serde_json::Value {
        serde_json::from_str(&cilium(&socket, line).expect("taken")).expect("json")
    };
    assert_eq!(json(&format!("{line} -o json"))["id"], 2);
    assert_eq!(json("service get 1 -o json")["spec"]["id"], 1, "one service, and no list of it");
}
