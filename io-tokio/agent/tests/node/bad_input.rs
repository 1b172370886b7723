//! Bad input through every door: a clear sentence, and nothing lost or left half-made.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;

use api::models::{
    AddressPair, DaemonConfiguration, Endpoint, EndpointChangeRequest, EndpointState, IPAMResponse, Service,
    StatusResponse,
};

use crate::support::{Node, Pod};

/// The agent's tables, to be compared before and after.
fn tables(node: &Node) -> [String; 3] {
    let get = |path: &str| {
        let answer = node.client.send("GET", path, &[], b"").unwrap();
        String::from_utf8(answer.body).unwrap()
    };
    [get("/policy"), get("/service"), get("/ip")]
}

#[test]
fn what_the_api_refuses_leaves_no_trace() {
    let Some(node) = Node::new(&[]) else { return };
    let pod = node.pod("web", &["k8s:app=web"]);
    let before = tables(&node);
    let mac = r#""mac":"02:00:00:00:00:01","host-mac":"02:00:00:00:00:02""#;
    let endpoint = |rest: &str| format!(r#"{{"interface-name":"lxcx","interface-index":99,{mac},{rest}}}"#);
    let rule = |rest: &str| format!(r#"[{{"endpointSelector":{{}},{rest}}}]"#);
    let frontend = r#""frontend-address":{"ip":"10.96.0.1","port":80,"protocol":"tcp"}"#;
    for (method, path, body, status, says) in [
        ("PUT", "/endpoint/7", endpoint(r#""addressing":{"ipv4":"10.77.0.300"}"#), 400, "addressing.ipv4"),
        ("PUT", "/endpoint/7", endpoint(r#""addressing":{"ipv6":"10.77.0.3"}"#), 400, "addressing.ipv6"),
        ("PUT", "/endpoint/7", endpoint(r#""addressing":{"ipv4":"10.77.0.9"},"labels":["k8s:"]"#), 400, "labels[0]"),
        (
            "PUT",
            "/endpoint/7",
            endpoint(r#""addressing":{"ipv4":"10.77.0.9"},"labels":["k8s:-bad=x"]"#),
            400,
            "labels[0]",
        ),
        (
            "PUT",
            "/endpoint/7",
            endpoint(r#""addressing":{"ipv4":"10.77.0.9"},"labels":["reserved:host"]"#),
            400,
            "given by the agent alone",
        ),
        ("PUT", "/endpoint/7", endpoint(r#""addressing":{}"#), 400, "addressing"),
        ("PUT", "/endpoint/7", endpoint(r#""id":8,"addressing":{"ipv4":"10.77.0.9"}"#), 400, "contradicts the path"),
        ("PUT", "/endpoint/7", endpoint(r#""state":"ready","addressing":{"ipv4":"10.77.0.9"}"#), 400, "field state"),
        ("PUT", "/endpoint/7", endpoint(r#""netns-cookie":"many""#), 400, "netns-cookie"),
        ("PUT", "/endpoint/7", r#"{"mac":"02:00"}"#.into(), 400, "field mac"),
        ("GET", "/endpoint/65535", String::new(), 404, "no endpoint"),
        ("DELETE", "/endpoint/65535", String::new(), 404, "no endpoint"),
        ("DELETE", "/endpoint", "{}".into(), 400, "container-id"),
        ("POST", "/ipam/10.77.0.1", String::new(), 409, "10.77.0.1"),
        ("POST", "/ipam/192.0.2.1", String::new(), 400, "10.77.0.0/24"),
        ("DELETE", "/ipam/10.77.0.200", String::new(), 404, "not in use"),
        ("DELETE", "/ipam/10.77.0.1", String::new(), 403, "belongs to the node"),
        ("PUT", "/policy", "[{".into(), 460, "document"),
        ("PUT", "/policy", r#"[{"endpointSelektor":{}}]"#.into(), 460, "endpointSelektor"),
        ("PUT", "/policy", rule(r#""egress":[{"toCIDR":["10.0.0.0/33"]}]"#), 460, "ADDRESS/LENGTH"),
        ("PUT", "/policy", rule(r#""egress":[{"toCIDR":["10.0.0.1/8"]}]"#), 460, "behind the prefix length"),
        (
            "PUT",
            "/policy",
            rule(r#""ingress":[{"toPorts":[{"ports":[{"port":"70000","protocol":"TCP"}]}]}]"#),
            460,
            "port",
        ),
        ("PUT", "/service/1", "{}".into(), 460, "frontend-address"),
        (
            "PUT",
            "/service/1",
            format!(r#"{{{frontend},"backend-addresses":[{{"ip":"fd00::1","port":80}}]}}"#),
            461,
            "family",
        ),
        ("PUT", "/service/1", format!(r#"{{{frontend},"flags":{{"type":"Nodeport"}}}}"#), 460, "flags.type"),
        ("DELETE", "/service/9", String::new(), 404, "9"),
        ("PATCH", "/config", r#"{"options":{"PolicyAuditMode":"maybe"}}"#.into(), 400, "options.PolicyAuditMode"),
        ("PATCH", "/config", r#"{"options":{"Debug":"true"}}"#.into(), 400, "options.Debug"),
        ("PATCH", "/config", r#"{"policy-enforcement":"often"}"#.into(), 400, "policy-enforcement"),
        ("GET", "/identity/99999999", String::new(), 404, "99999999"),
        ("GET", "/map/nothing", String::new(), 404, "nothing"),
        ("GET", "/ip?cidr=10.0.0.1/8", String::new(), 400, "query cidr"),
    ] {
        let answer = node.client.send(method, path, &[], body.as_bytes()).unwrap();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{method} {path} {body}: {text}");
        assert!(text.contains(says), "{method} {path} {body}: {text}");
    }
    assert_eq!(tables(&node), before);
    let left: Vec<Endpoint> = node.client.get("/endpoint").unwrap();
    assert_eq!(left.iter().map(|endpoint| endpoint.id).collect::<Vec<_>>(), [pod.endpoint.id]);
}

/// Services that make no sense: each mistake is named with the service and the field, and takes nothing away.
#[test]
fn a_service_that_makes_no_sense_is_named_and_the_good_ones_stay() {
    let Some(node) = Node::new(&["--enable-node-port"]) else { return };
    let body = |frontend: &str, rest: &str| {
        let (ip, port) = frontend.rsplit_once(':').unwrap();
        let frontend = format!(r#""frontend-address":{{"ip":"{ip}","port":{port},"protocol":"tcp"}}"#);
        format!(r#"{{{frontend},"flags":{{"namespace":"shop","name":"web"{rest}"#)
    };
    let good = body("10.96.0.1:80", r#"},"backend-addresses":[{"ip":"10.0.0.1","port":8080,"weight":7}]}"#);
    assert_eq!(node.client.send("PUT", "/service/1", &[], good.as_bytes()).unwrap().status, 201);
    let before = tables(&node);
    let backend = |one: &str| body("10.96.0.2:80", &format!(r#"}},"backend-addresses":[{one}]}}"#));
    let flags = |more: &str| body("10.96.0.2:80", &format!(",{more}}}}}"));
    for (text, status, says) in [
        (body("10.96.0.1:80", "}}"), 460, "service shop/web 10.96.0.1:80/TCP: the frontend belongs to service 1"),
        (
            body("10.96.0.2:0", "}}"),
            460,
            "service shop/web 10.96.0.2:0/TCP: frontend-address.port must be from 1 to 65535",
        ),
        (
            backend(r#"{"ip":"fd00::1","port":80}"#),
            461,
            "service shop/web 10.96.0.2:80/TCP: backend-addresses[0].ip must be of the frontend's address family",
        ),
        (
            backend(r#"{"ip":"10.0.0.1","port":0}"#),
            461,
            "service shop/web 10.96.0.2:80/TCP: backend-addresses[0].port must be from 1 to 65535",
        ),
        (
            backend(r#"{"ip":"10.0.0.1","port":80},{"ip":"10.0.0.1","port":80}"#),
            461,
            "service shop/web 10.96.0.2:80/TCP: backend-addresses[1] is listed twice",
        ),
        (backend(r#"{"ip":"10.0.0.1","port":80,"weight":65536}"#), 400, "field backend-addresses[0].weight: "),
        (backend(r#"{"ip":"10.0.0.1","port":80,"weight":-1}"#), 400, "field backend-addresses[0].weight: "),
        (backend(r#"{"ip":"10.0.0","port":80}"#), 461, "service 2: field backend-addresses[0].ip: "),
        (
            flags(r#""sourceRanges":["10.0.0.0/8","10.1.0.0/16"]"#),
            460,
            "service shop/web 10.96.0.2:80/TCP: flags.sourceRanges[1]: 10.1.0.0/16 lies in another range; leave it out",
        ),
        (flags(r#""sourceRanges":["10.0.0.0/8","x"]"#), 460, "service 2: field flags.sourceRanges[1]: "),
        (
            flags(r#""sessionAffinityTimeoutSeconds":86401"#),
            460,
            "service shop/web 10.96.0.2:80/TCP: flags.sessionAffinityTimeoutSeconds must be at most 86400 seconds",
        ),
    ] {
        let answer = node.client.send("PUT", "/service/2", &[], text.as_bytes()).unwrap();
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{text}: {said}");
        assert!(said.contains(says), "{text}: {said}");
        assert_eq!(tables(&node), before, "{text}");
    }
}

/// The same from a directory: what makes sense of each object is applied, and the rest is in the status.
#[test]
fn of_objects_that_make_no_sense_the_good_part_is_applied() {
    let Some(mut node) = Node::without_agent(&["--enable-node-port"]) else { return };
    let dir = node.dir.path().join("services");
    fs::create_dir(&dir).unwrap();
    node.add(format!("--static-service-path={}", dir.display()));
    let objects = "
kind: Service
metadata: {name: web, creationTimestamp: '2026-01-01T00:00:00Z'}
spec:
  clusterIP: 10.96.0.1
  externalIPs: [10.96.0.1]
  loadBalancerSourceRanges: [10.0.0.0/8, 10.1.0.0/16]
  ports: [{name: a, port: 80}, {name: b, port: 0}]
---
kind: EndpointSlice
addressType: IPv4
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
ports: [{name: a, port: 8080}]
endpoints: [{addresses: [10.77.0.10]}, {addresses: ['fd00::10']}]
---
kind: Service
metadata: {name: later, creationTimestamp: '2026-01-02T00:00:00Z'}
spec: {clusterIPs: [10.96.0.1, 'fd96::2'], ports: [{port: 80}]}
---
kind: Service
metadata: {name: unreadable}
spec: {clusterIP: 10.96.0.9, ports: [{port: http}]}
";
    fs::write(dir.join("all.yaml"), objects).unwrap();
    node.add("--enable-external-ips".into());
    node.start();
    node.wait_ready();
    let services: Vec<Service> = node.client.get("/service").unwrap();
    let of = |one: &Service| {
        let (front, backends) = (&one.spec.frontend_address, &one.spec.backend_addresses);
        let backends: Vec<String> = backends.iter().map(|at| format!("{}:{}", at.ip, at.port)).collect();
        format!("{} {}:{} {}", one.spec.flags.name, front.ip, front.port, backends.join(" "))
    };
    let have: BTreeSet<String> = services.iter().map(of).collect();
    assert_eq!(have, BTreeSet::from(["web 10.96.0.1:80 10.77.0.10:8080".into(), "later fd96::2:80 ".into()]));
    let status: StatusResponse = node.client.get("/healthz").unwrap();
    let file = format!("{}: Service default/unreadable: spec.ports[0].port: ", dir.join("all.yaml").display());
    let expected = [
        &*file,
        "Service default/web: spec.externalIPs[0]: 10.96.0.1:80/TCP is a frontend of this object already; the first counts",
        "Service default/web: spec.loadBalancerSourceRanges[1]: 10.1.0.0/16 lies in spec.loadBalancerSourceRanges[0]",
        "Service default/web: spec.ports[1].port: 0 is no port; it must be from 1 to 65535",
        "EndpointSlice default/web-1: endpoints[1].addresses[0]: fd00::10 is not of addressType IPv4",
        "Service default/later: spec: service default/later 10.96.0.1:80/TCP: the frontend belongs to default/web",
    ];
    for part in expected {
        let found = status.service_problems.iter().filter(|text| text.starts_with(part)).count();
        assert_eq!(found, 1, "{part}: {:#?}", status.service_problems);
    }
    assert_eq!(status.service_problems.len(), expected.len(), "{:#?}", status.service_problems);
}

#[test]
fn one_attachment_has_one_endpoint_and_an_exhausted_pool_says_so() {
    let Some(node) = Node::new(&["--ipv4-range=10.77.0.0/29", "--enable-ipv6=false"]) else { return };
    let first = node.pod("one", &["k8s:app=one"]);
    let change = EndpointChangeRequest {
        interface_name: "lxcother".into(),
        interface_index: 4_000,
        mac: "02:00:00:00:00:01".into(),
        host_mac: "02:00:00:00:00:02".into(),
        addressing: AddressPair { ipv4: "10.77.0.6".into(), ..AddressPair::default() },
        state: EndpointState::WaitingForIdentity,
        ..EndpointChangeRequest::default()
    };
    let put = node.client.call::<_, Endpoint>("PUT", "/endpoint/cni-attachment-id:one:eth0", &[], Some(&change));
    let twice = put.map(|_| ()).unwrap_err();
    assert_eq!(twice.status(), Some(409), "{twice}");
    assert!(node.endpoint(&first).is_ok(), "the first one is untouched");

    let mut lent = Vec::new();
    let refused = loop {
        match node.client.call::<(), IPAMResponse>("POST", "/ipam?family=ipv4", &[], None) {
            Ok(answer) => lent.push(answer.address.ipv4),
            Err(why) => break why,
        }
        assert!(lent.len() < 8, "a /29 has no more than six: {lent:?}");
    };
    assert_eq!(refused.status(), Some(502));
    assert!(refused.to_string().contains("10.77.0.0/29"), "{refused}");
    node.client.call::<(), ()>("DELETE", &format!("/ipam/{}", lent[0]), &[], None).unwrap();
    let again: IPAMResponse = node.client.call("POST", "/ipam?family=ipv4", &[], None::<&()>).unwrap();
    assert_eq!(again.address.ipv4, lent[0]);
    let off = node.client.call::<(), IPAMResponse>("POST", "/ipam?family=ipv6", &[], None).unwrap_err();
    assert!(off.to_string().contains("not enabled"), "{off}");

    // A policy for IPv6 on a node without it is refused by name.
    let rule = r#"[{"endpointSelector":{},"egress":[{"toCIDR":["fd00::/8"]}]}]"#;
    let answer = node.client.send("PUT", "/policy", &[], rule.as_bytes()).unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 460, "{text}");
    assert!(text.contains("fd00::/8 is IPv6, which is not enabled"), "{text}");
}

#[test]
fn a_damaged_state_file_is_told_and_kept_and_the_other_endpoints_are_restored() {
    let Some(mut node) = Node::new(&[]) else { return };
    let pods: Vec<Pod> = ["a", "b"].map(|name| node.pod(name, &["k8s:app=x"])).into();
    pods[0].echo(80);
    node.kill();
    let damaged = node.dir.path().join(format!("run/state/{}/endpoint.json", pods[1].endpoint.id));
    fs::write(&damaged, "{\"id\": 2, \"spec\"").unwrap();
    node.start();
    node.wait_ready();
    assert!(node.endpoint(&pods[0]).is_ok(), "{}", node.log());
    assert_eq!(node.endpoint(&pods[1]).unwrap_err().status(), Some(404));
    let status: api::models::StatusResponse = node.client.get("/healthz").unwrap();
    let own = status.cilium.unwrap();
    assert!(own.msg.contains("endpoint.json"), "{own:?}");
    node.eventually("the damaged file is kept for people to look at", || {
        let kept = node.dir.path().join(format!("run/state/quarantine/{}-endpoint.json", pods[1].endpoint.id));
        fs::read_to_string(kept).is_ok_and(|text| text.starts_with("{\"id\""))
    });
    assert!(!pods[1].reaches((pods[0].ipv4, 80)), "whom nobody manages gets nowhere");
}

#[test]
fn an_agent_that_cannot_run_says_why_before_it_touches_anything() {
    let Some(node) = Node::new(&[]) else { return };
    let config: DaemonConfiguration = node.client.get("/config").unwrap();
    let second = node.run_to_its_end(|_| {});
    assert!(second.contains("another agent"), "{second}");
    let no_object = node.run_to_its_end(|command| {
        let dir = node.dir.path().join("second");
        command.arg(format!("--state-dir={}", dir.display()));
        command.arg(format!("--lib-dir={}", dir.display()));
        command.arg("--bpf-object=/nonexistent/cilium.o");
    });
    assert!(no_object.contains("/nonexistent/cilium.o"), "{no_object}");
    let bad_range = node.run_to_its_end(|command| {
        command.arg("--ipv4-range=10.77.0.1/24");
    });
    assert!(bad_range.contains("--ipv4-range") && bad_range.contains("10.77.0.0/24"), "{bad_range}");
    let bad_store = node.dir.path().join("bad-store");
    fs::write(&bad_store, "this is no database").unwrap();
    let damaged = node.run_to_its_end(|command| {
        command.arg(format!("--state-dir={}", node.dir.path().join("third").display()));
        command.arg(format!("--kvstore-opt=path={}", bad_store.display()));
    });
    assert!(damaged.contains("bad-store") && damaged.contains("move the file away"), "{damaged}");
    // The first agent did not notice any of it.
    assert_eq!(node.client.get::<DaemonConfiguration>("/config").unwrap(), config);
}

#[test]
fn without_privileges_the_missing_one_is_named() {
    let program = env!("CARGO_BIN_EXE_cilium-agent");
    if !nix::unistd::geteuid().is_root() {
        return crate::support::skip("only root can give privileges up");
    }
    // A copy that anybody may run: the build's own folder may be closed to others.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("cilium-agent");
    // By another process: a descriptor open for writing, inherited by a child of another test, would keep it from running.
    crate::support::run("cp", &[program, copy.to_str().unwrap()]);
    run_as_nobody(&dir, &copy);
}

fn run_as_nobody(dir: &tempfile::TempDir, program: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let out =
        std::process::Command::new(program).arg("--ipv4-range=10.77.0.0/24").uid(65_534).gid(65_534).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("CAP_"), "{said}");
}

/// Rules for ports that no prefix joins.
fn rules(ports: std::ops::Range<u16>) -> String {
    let ports: Vec<String> = ports.map(|n| format!(r#"{{"port":"{}","protocol":"TCP"}}"#, 1001 + 2 * n)).collect();
    let lists: Vec<String> = ports.chunks(40).map(|chunk| format!(r#"{{"ports":[{}]}}"#, chunk.join(","))).collect();
    format!(
        r#"[{{"endpointSelector":{{"matchLabels":{{"app":"web"}}}},"ingress":[{{"toPorts":[{}]}}]}}]"#,
        lists.join(",")
    )
}

#[test]
fn a_full_policy_map_refuses_the_policy_by_name_and_keeps_the_old_one() {
    let Some(node) = Node::new(&["--bpf-policy-map-max=64"]) else { return };
    let web = node.pod("web", &["k8s:app=web"]);
    let client = node.pod("client", &["k8s:app=client"]);
    web.echo(1001);
    web.echo(999);
    let put = |text: &str| node.client.send("PUT", "/policy?replace=true", &[], text.as_bytes()).unwrap();
    assert_eq!(put(&rules(0..2)).status, 200);
    node.eventually("the small policy is enforced", || !client.reaches((web.ipv4, 999)));
    assert!(client.reaches((web.ipv4, 1001)));
    let before = tables(&node);
    let refused = put(&rules(0..200));
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(refused.status >= 400 && text.contains("cilium_policy"), "{} {text}", refused.status);
    assert_eq!(tables(&node), before, "the small policy is still the policy");
    assert!(client.reaches((web.ipv4, 1001)) && !client.reaches((web.ipv4, 999)));
    assert_eq!(put(&rules(0..3)).status, 200, "and a policy that fits is taken afterwards");
}

#[test]
fn a_full_ipcache_refuses_the_pod_by_name_and_leaves_nothing_of_it() {
    let Some(node) = Node::new(&["--bpf-ipcache-map-max=16"]) else { return };
    let mut pods: Vec<Pod> = Vec::new();
    let refused = loop {
        match node.try_pod(&format!("p{}", pods.len()), &["k8s:app=x"]) {
            Ok(pod) => pods.push(pod),
            Err(why) => break why,
        }
        assert!(pods.len() < 16, "sixteen entries hold no sixteen pods with two addresses each");
    };
    assert!(refused.to_string().contains("cilium_ipcache"), "{refused}");
    assert!(pods.len() >= 2, "some pods fit");
    let left: Vec<Endpoint> = node.client.get("/endpoint").unwrap();
    assert_eq!(left.len(), pods.len(), "nothing is left of the refused one");
    pods[0].echo(80);
    assert!(pods[1].reaches((pods[0].ipv4, 80)), "the others go on");
    let gone = pods.pop().unwrap();
    node.client.call::<(), ()>("DELETE", &format!("/endpoint/{}", gone.endpoint.id), &[], None).unwrap();
    node.pod("again", &["k8s:app=x"]);
}

#[test]
fn an_endpoint_whose_device_vanishes_is_gone_and_its_address_is_free_again() {
    let Some(node) = Node::new(&[]) else { return };
    let pod = node.pod("web", &["k8s:app=web"]);
    drop(pod.net);
    let path = format!("/endpoint/{}", pod.endpoint.id);
    node.eventually("the endpoint is gone", || {
        node.client.get::<Endpoint>(&path).is_err_and(|why| why.status() == Some(404))
    });
    let reserve = format!("/ipam/{}", pod.ipv4);
    node.eventually("its address can be had", || node.client.send("POST", &reserve, &[], b"").unwrap().status == 200);
}
