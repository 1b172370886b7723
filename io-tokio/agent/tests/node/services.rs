//! Services of Kubernetes' objects in a watched directory, with a real agent: in the kernel, in the API, over a death.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use abi::be::Port;
use api::models::{LRPSpec, Service, StatusResponse};
use loader::{Access, Maps, maps_directory};

use crate::support::{Node, Pod};

/// A service with a node port on every address of the node, and its endpoints.
fn objects(cluster_ip: &str, endpoints: &[&str]) -> String {
    let endpoints: String = endpoints.iter().map(|ip| format!("- {{addresses: [{ip}], nodeName: node}}\n")).collect();
    format!(
        "kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  clusterIP: {cluster_ip}
  sessionAffinity: ClientIP
  ports: [{{port: 80, nodePort: 30080}}]
---
kind: EndpointSlice
addressType: IPv4
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
ports: [{{port: 8080}}]
endpoints:
{endpoints}"
    )
}

fn maps(node: &Node) -> Maps {
    Maps::open_pinned(&maps_directory(&node.dir.path().join("bpf")), Access::ReadOnly).unwrap()
}

/// Everything of services in the kernel.
fn held(maps: &Maps) -> BTreeMap<String, Vec<u32>> {
    let mut all = BTreeMap::new();
    for (key, value) in maps.lb4_services.entries().unwrap() {
        all.insert(format!("{key:?} {value:?}"), Vec::new());
    }
    for (key, value) in maps.lb4_backends.entries().unwrap() {
        all.insert(format!("{key:?} {value:?}"), Vec::new());
    }
    for (key, value) in maps.lb4_reverse_nat.entries().unwrap() {
        all.insert(format!("{key:?} {value:?}"), Vec::new());
    }
    for (key, _) in maps.lb_affinity_match.entries().unwrap() {
        all.insert(format!("{key:?}"), Vec::new());
    }
    for index in maps.lb4_maglev.indexes().unwrap() {
        all.insert(format!("table {}", index.host()), maps.lb4_maglev.get(index).unwrap().unwrap());
    }
    all
}

fn frontends(node: &Node) -> Vec<String> {
    let services: Vec<Service> = node.client.get("/service").unwrap();
    let of = |service: &Service| {
        let spec = &service.spec;
        let (front, backends) = (&spec.frontend_address, spec.backend_addresses.len());
        format!("{} {}:{} {backends}", spec.flags.kind, front.ip, front.port)
    };
    services.iter().map(of).collect()
}

#[test]
fn a_directory_of_services_is_served_and_survives_the_agent() {
    let Some(mut node) = Node::without_agent(&[
        "--enable-node-port",
        "--enable-session-affinity",
        "--bpf-lb-algorithm=maglev",
        "--bpf-lb-maglev-table-size=1021",
    ]) else {
        return;
    };
    let dir = node.dir.path().join("services");
    fs::create_dir(&dir).unwrap();
    node.add(format!("--static-service-path={}", dir.display()));
    fs::write(dir.join("web.yaml"), objects("10.96.0.1", &["10.77.0.10", "10.77.0.11"])).unwrap();
    node.start();
    node.wait_ready();
    node.eventually("the directory is served", || {
        let found = frontends(&node);
        found.contains(&"ClusterIP 10.96.0.1:80 2".into()) && found.contains(&"NodePort 0.0.0.0:30080 2".into())
    });
    let services: Vec<Service> = node.client.get("/service").unwrap();
    assert!(services.iter().all(|service| service.spec.flags.affinity_seconds == 10_800), "{services:?}");
    let maps = maps(&node);
    let before = held(&maps);
    let routable = services.iter().filter(|one| {
        one.spec.flags.kind == "NodePort" && !["0.0.0.0", "::"].contains(&&*one.spec.frontend_address.ip)
    });
    for service in routable.filter(|one| !one.spec.frontend_address.ip.contains(':')) {
        let index = Port::new(u16::try_from(service.spec.id).unwrap());
        let table = maps.lb4_maglev.get(index).unwrap().expect("traffic from outside is placed by a table");
        let distinct: std::collections::BTreeSet<u32> = table.iter().copied().collect();
        assert_eq!((table.len(), distinct.len()), (1021, 2));
    }
    // What is right stays as it is over a death, ids and slots and tables.
    node.kill();
    node.start();
    node.wait_ready();
    assert_eq!(held(&maps), before);
    // What belongs to a file is not changed through the API.
    let id = services[0].spec.id;
    let refused = node.client.call::<(), serde_json::Value>("DELETE", &format!("/service/{id}"), &[], None);
    assert!(refused.unwrap_err().to_string().contains("Service default/web"));
    // One endpoint goes, a port is nonsense: the good part counts, the rest is told.
    let changed = objects("10.96.0.1", &["10.77.0.11"]).replace("nodePort: 30080", "nodePort: 99");
    fs::write(dir.join("web.yaml"), changed).unwrap();
    node.eventually("the change is served", || frontends(&node) == ["ClusterIP 10.96.0.1:80 1"]);
    node.eventually("the mistake is told", || {
        let status: StatusResponse = node.client.get("/healthz").unwrap();
        status.service_problems.iter().any(|text| text.starts_with("Service default/web: spec.ports[0].nodePort: 99"))
    });
    assert!(maps.lb4_maglev.indexes().unwrap().is_empty());
    fs::remove_file(dir.join("web.yaml")).unwrap();
    node.eventually("nothing is left", || held(&maps).is_empty());
}

/// An address of nobody's, and a service whose own endpoints are elsewhere.
const REDIRECTS: &str = "
kind: Service
metadata: {name: cache}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: cilium.io/v2
kind: CiliumLocalRedirectPolicy
metadata: {name: metadata, uid: f00d}
spec:
  redirectFrontend: {addressMatcher: {ip: 169.254.169.254, toPorts: [{port: '80', protocol: TCP}]}}
  redirectBackend: {localEndpointSelector: {matchLabels: {app: cache}}, toPorts: [{port: '8080', protocol: TCP}]}
---
apiVersion: cilium.io/v2
kind: CiliumLocalRedirectPolicy
metadata: {name: service}
spec:
  redirectFrontend: {serviceMatcher: {serviceName: cache, namespace: default}}
  redirectBackend: {localEndpointSelector: {matchLabels: {app: cache}}, toPorts: [{port: '8080', protocol: TCP}]}
";

/// Policies keep traffic on the node while a pod of theirs is there, over a death of the agent, and let it go with the pod.
#[test]
fn redirected_traffic_follows_a_pod() {
    let Some(mut node) = Node::without_agent(&["--enable-local-redirect-policy"]) else { return };
    let dir = node.dir.path().join("services");
    fs::create_dir(&dir).unwrap();
    node.add(format!("--static-service-path={}", dir.display()));
    fs::write(dir.join("redirects.yaml"), REDIRECTS).unwrap();
    node.start();
    node.wait_ready();
    let client = node.pod("client", &["k8s:app=client"]);
    let redirected = |node: &Node| -> Vec<(String, Vec<String>)> {
        let policies: Vec<LRPSpec> = node.client.get("/lrp").unwrap();
        let pods = |policy: &LRPSpec| {
            let backends = policy.frontend_mappings.iter().flat_map(|mapping| &mapping.backends);
            backends.map(|backend| backend.pod_id.clone()).collect()
        };
        policies.iter().map(|policy| (policy.frontend_type.clone(), pods(policy))).collect()
    };
    let both = |pods: &[&str]| {
        let pods: Vec<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
        [("IP + port".to_owned(), pods.clone()), ("clusterIP + all svc ports".to_owned(), pods)]
    };
    node.eventually("the policies are taken up", || redirected(&node) == both(&[]));
    let frontends = [([169, 254, 169, 254], 80), ([10, 96, 0, 10], 80)].map(SocketAddr::from);
    let reached = |client: &Pod| frontends.map(|frontend| client.reaches(frontend));
    assert_eq!(reached(&client), [false, false], "nobody is there");
    let pod = node.pod("cache", &["k8s:app=cache"]);
    pod.echo(8080);
    assert_eq!(redirected(&node), both(&["default/cache"]));
    assert_eq!(reached(&client), [true, true]);
    node.kill();
    assert_eq!(reached(&client), [true, true], "nobody decides anew");
    node.start();
    node.wait_ready();
    assert_eq!((reached(&client), redirected(&node)), ([true, true], both(&["default/cache"]).into()));
    node.client.call::<(), serde_json::Value>("DELETE", "/endpoint/container-id:cache", &[], None).unwrap();
    assert_eq!((reached(&client), redirected(&node)), ([false, false], both(&[]).into()));
}
