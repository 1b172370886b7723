//! Endpoints and policies from beginning to end.

use api::models::{Endpoint, LabelConfigurationSpec, StatusResponse};

use crate::support::Node;

const WEB: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints:
    - matchLabels: {app: client}
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
"#;

#[test]
fn policy_files_and_labels_decide_who_gets_through_on_both_families() {
    let Some(node) = Node::new(&[]) else { return };
    let web = node.pod("web", &["k8s:app=web"]);
    let client = node.pod("client", &["k8s:app=client"]);
    let other = node.pod("other", &["k8s:app=other"]);
    web.echo(80);
    web.echo(81);
    let ipv6 = web.ipv6.unwrap();
    for pod in [&client, &other] {
        assert!(pod.reaches((web.ipv4, 80)) && pod.reaches((ipv6, 80)), "without a policy {} gets through", pod.name);
    }

    node.policy("web.yaml", WEB);
    node.eventually("the policy is enforced", || !other.reaches((web.ipv4, 80)));
    assert!(!other.reaches((ipv6, 80)), "IPv6 is enforced with IPv4");
    assert!(client.reaches((web.ipv4, 80)) && client.reaches((ipv6, 80)));
    assert!(!client.reaches((web.ipv4, 81)), "another port is not allowed");

    // A file that makes no sense changes nothing, and the status says so.
    node.policy("web.yaml", "spec: [1, 2");
    node.eventually("the bad file is reported", || {
        let status: StatusResponse = node.client.get("/healthz").unwrap();
        status.cilium.unwrap().msg.contains("web.yaml")
    });
    assert!(!other.reaches((web.ipv4, 80)) && client.reaches((web.ipv4, 80)));

    // The right labels open the way, on a live endpoint.
    let user = vec!["k8s:app=client".to_owned()];
    let path = format!("/endpoint/{}/labels", other.endpoint.id);
    node.client.call::<_, ()>("PATCH", &path, &[], Some(&LabelConfigurationSpec { user })).unwrap();
    node.eventually("the new labels count", || other.reaches((web.ipv4, 80)));

    std::fs::remove_file(node.dir.path().join("policies/web.yaml")).unwrap();
    node.eventually("the policy is gone", || client.reaches((web.ipv4, 81)));

    node.client.call::<(), ()>("DELETE", &format!("/endpoint/{}", client.endpoint.id), &[], None).unwrap();
    assert_eq!(node.endpoint(&client).unwrap_err().status(), Some(404));
    let left: Vec<Endpoint> = node.client.get("/endpoint").unwrap();
    assert_eq!(left.len(), 2);
}

#[test]
fn a_graceful_end_leaves_the_kernel_as_decided_and_the_next_agent_takes_over() {
    let Some(mut node) = Node::new(&[]) else { return };
    let web = node.pod("web", &["k8s:app=web"]);
    let client = node.pod("client", &["k8s:app=client"]);
    let other = node.pod("other", &["k8s:app=other"]);
    web.echo(80);
    node.policy("web.yaml", WEB);
    node.eventually("the policy is enforced", || !other.reaches((web.ipv4, 80)));
    let before = node.endpoint(&web).unwrap();
    assert_eq!(node.stop(), Some(0), "{}", node.log());
    assert!(!node.dir.path().join("run/cilium.pid").exists());
    assert!(client.reaches((web.ipv4, 80)) && !other.reaches((web.ipv4, 80)), "no agent: all goes on as decided");

    // What a plugin left while nobody listened is done before the API answers.
    let queue = node.dir.path().join("run/deleteQueue");
    std::fs::write(queue.join("a.delete"), r#"{"container-id":"other"}"#).unwrap();
    node.start();
    node.wait_ready();
    assert_eq!(node.endpoint(&other).unwrap_err().status(), Some(404), "{}", node.log());
    assert!(!queue.join("a.delete").exists());
    let after = node.endpoint(&web).unwrap();
    assert_eq!(after.id, before.id);
    assert_eq!(after.status.identity.unwrap().id, before.status.identity.unwrap().id);
    assert!(client.reaches((web.ipv4, 80)));
}

/// The maps are gone, as after a reboot, but the rules are there: nothing passes that they do not allow, from the first
/// moment on.
#[test]
fn after_the_maps_are_gone_nothing_denied_passes_while_the_agent_comes_back() {
    let Some(mut node) = Node::new(&[]) else { return };
    let web = node.pod("web", &["k8s:app=web"]);
    let client = node.pod("client", &["k8s:app=client"]);
    let other = node.pod("other", &["k8s:app=other"]);
    web.echo(80);
    node.policy("web.yaml", WEB);
    node.eventually("the policy is enforced", || !other.reaches((web.ipv4, 80)));
    node.kill();
    loader::remove_all(&node.dir.path().join("bpf")).unwrap();
    node.start();
    while !node.is_ready() {
        assert!(!other.reaches((web.ipv4, 80)), "a denied connection while the agent starts");
    }
    assert!(!other.reaches((web.ipv4, 80)));
    node.eventually("what is allowed passes again", || client.reaches((web.ipv4, 80)));
}
