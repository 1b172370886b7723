use super::*;
use crate::{delta::Verdict, parse};
use alloc::format;

const TCP: u8 = 6;

fn pod(name: &str) -> Labels {
    Labels::parse([&*format!("k8s:app={name}"), "k8s:io.kubernetes.pod.namespace=default"])
}

fn engine(pods: &[(u32, &str)]) -> (Engine, EndpointId) {
    let (mut engine, _) = Engine::new(Config { allow_localhost: false, ..Config::default() });
    for (id, name) in pods {
        engine.upsert_identity(NumericIdentity::new(*id), &pod(name)).unwrap();
    }
    let endpoint = EndpointId::new(1).unwrap();
    engine.upsert_endpoint(endpoint, EndpointFacts { labels: pod("web"), ..EndpointFacts::default() });
    (engine, endpoint)
}

fn cnp(name: &str, spec: &str) -> PolicyObject {
    let text = format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: web}}}}\n{spec}"
    );
    parse(&text).unwrap_or_else(|e| panic!("{e:?}")).remove(0)
}

fn ingress(engine: &Engine, endpoint: EndpointId, identity: u32, port: u16) -> Verdict {
    let class = engine.class_of(NumericIdentity::new(identity), None);
    engine.verdict(endpoint, Direction::Ingress, class, TCP, port).unwrap().verdict
}

#[test]
fn an_endpoint_without_rules_is_not_judged() {
    let (engine, web) = engine(&[(300, "client")]);
    let judged = engine.endpoint_policy(web).unwrap();
    assert_eq!((judged.ingress, judged.egress), (false, false));
    assert_eq!(ingress(&engine, web, 300, 80), Verdict::Allow);
}

#[test]
fn a_rule_by_labels_lets_its_peer_in_and_nobody_else() {
    let (mut engine, web) = engine(&[(300, "client"), (301, "other")]);
    let delta = engine
        .upsert_object(cnp(
            "one",
            "  ingress:\n  - fromEndpoints: [{matchLabels: {app: client}}]\n    toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n",
        ))
        .unwrap();
    assert_eq!(delta.entry_writes(), 1);
    assert_eq!(ingress(&engine, web, 300, 80), Verdict::Allow);
    assert_eq!(ingress(&engine, web, 300, 81), Verdict::Deny);
    assert_eq!(ingress(&engine, web, 301, 80), Verdict::Deny);
    assert_eq!(ingress(&engine, web, 999, 80), Verdict::Deny);
    let known = engine.upsert_identity(NumericIdentity::new(302), &{
        let mut labels = pod("client");
        labels.insert(types::Label::k8s("version", "2"));
        labels
    });
    let known = known.unwrap();
    assert_eq!((known.entry_writes(), known.writes.len()), (0, 1), "its class is known: {known:?}");
    assert_eq!(ingress(&engine, web, 302, 80), Verdict::Allow);
}

#[test]
fn an_exception_stays_out_of_a_prefix_and_both_are_wanted() {
    let (mut engine, web) = engine(&[]);
    let delta = engine
        .upsert_object(cnp("cidr", "  egress:\n  - toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]\n"))
        .unwrap();
    assert_eq!(delta.wanted.len(), 2);
    let to = |addr: &str| {
        let addr = addr.parse().unwrap();
        let class = engine.class_of(NumericIdentity::WORLD_IPV4, Some(addr));
        engine.verdict(web, Direction::Egress, class, TCP, 443).unwrap().verdict
    };
    assert_eq!(to("10.2.3.4"), Verdict::Allow);
    assert_eq!(to("10.1.3.4"), Verdict::Deny);
    assert_eq!(to("11.2.3.4"), Verdict::Deny);
}

#[test]
fn removing_everything_leaves_nothing_behind() {
    let (mut engine, web) = engine(&[(300, "client")]);
    let empty = engine.stats();
    let one = cnp(
        "one",
        "  ingress:\n  - fromEndpoints: [{matchLabels: {app: client}}]\n  egress:\n  - toCIDR: [10.0.0.0/8]\n",
    );
    let two = cnp(
        "two",
        "  ingressDeny:\n  - fromEntities: [world]\n    toPorts: [{ports: [{port: '22', protocol: TCP, endPort: 90}]}]\n",
    );
    let keys = [one.key.clone(), two.key.clone()];
    engine.upsert_object(one).unwrap();
    engine.upsert_object(two).unwrap();
    assert!(engine.stats().entries > 0);
    for key in &keys {
        engine.remove_object(key);
    }
    assert_eq!(engine.stats(), empty);
    assert_eq!(ingress(&engine, web, 300, 80), Verdict::Allow);
}

#[test]
fn the_smaller_part_moves_when_a_class_splits_and_when_two_become_one() {
    let (mut engine, web) = engine(&[]);
    for id in 300..310u32 {
        let mut labels = pod("client");
        labels.insert(types::Label::k8s("version", &format!("{id}")));
        if id != 305 {
            labels.insert(types::Label::k8s("tier", "front"));
        }
        let id = NumericIdentity::new(id);
        engine.upsert_identity(id, &labels).unwrap();
        let addr = types::Cidr::host(core::net::Ipv4Addr::from_bits(0x0a00_0000 + id.as_u32()).into());
        engine.upsert_address(addr, id, &[]).unwrap();
    }
    let moved = |delta: &Delta| delta.writes.len() - delta.entry_writes();
    let all = "  ingress:\n  - fromEndpoints: [{matchLabels: {app: client}}]\n    toPorts: [{ports: [{port: '80'}]}]\n";
    let front =
        "  ingress:\n  - fromEndpoints: [{matchLabels: {tier: front}}]\n    toPorts: [{ports: [{port: '81'}]}]\n";
    let first = engine.upsert_object(cnp("all", all)).unwrap();
    assert_eq!(moved(&first), 20 + 1, "who leaves class 0 is written: identities, addresses, and the endpoint");
    let split = engine.upsert_object(cnp("front", front)).unwrap();
    assert_eq!(moved(&split), 2, "one of ten does not answer: {split:?}");
    let ports = |engine: &Engine, id| [80, 81].map(|port| ingress(engine, web, id, port));
    assert_eq!(ports(&engine, 304), [Verdict::Allow, Verdict::Allow]);
    assert_eq!(ports(&engine, 305), [Verdict::Allow, Verdict::Deny]);
    let key = crate::ObjectKey {
        kind: crate::ObjectKind::CiliumNetworkPolicy,
        namespace: "default".into(),
        name: "front".into(),
    };
    let merged = engine.remove_object(&key);
    assert_eq!(moved(&merged), 2, "the one joins the nine: {merged:?}");
    assert_eq!(ports(&engine, 304), [Verdict::Allow, Verdict::Deny]);
    assert_eq!(engine.class_of(NumericIdentity::new(304), None), engine.class_of(NumericIdentity::new(305), None));
}
