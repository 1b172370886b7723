//! The lives of endpoints, seen from outside.

mod world;

use std::time::Duration;

use abi::write::MapWrite;
use agent_core::{
    AgentEvent, EndpointRequest, Input, IpamRequest, PolicyRequest, Refusal, Replace, Request, Response, StateFile,
};
use endpoint::{EndpointName, State};
use types::Labels;
use world::{Mood, World, config, ip};

fn name(text: &str) -> EndpointName {
    text.parse().expect("well-formed")
}

fn delete(text: &str) -> Request {
    Request::Endpoint(EndpointRequest::Delete(name(text)))
}

#[test]
fn an_endpoint_is_answered_when_it_is_attached_written_and_kept_and_closed_before() {
    type Set = fn(&mut World, Mood);
    let moods: [(Set, &str); 4] = [
        (|world, mood| world.attach = mood, "attach"),
        (|world, mood| world.write = mood, "write"),
        (|world, mood| world.save = mood, "save"),
        (|world, mood| world.kv = mood, "kv"),
    ];
    for (set, what) in moods {
        let mut world = World::new(config());
        let request = world.pod(1, &["k8s:app=web"]);
        set(&mut world, Mood::Holds);
        let id = world.ask(request);
        assert_eq!(world.replies.get(&id), None, "{what} is held");
        if what != "save" {
            assert_eq!(world.device(1), None, "nothing passes before {what}");
        }
        world.release();
        assert!(matches!(world.replies.get(&id), Some(Ok(Response::Endpoint(_)))), "{what}: {:?}", world.replies);
        let device = world.device(1).expect("it is open");
        assert_eq!((device.flags, world.attached.as_slice()), (0, &[11][..]));
        let endpoint = world.live().endpoint(&name("cep-name:default/p1")).expect("it is there");
        assert_eq!((endpoint.state(), endpoint.identity.map(|id| id.as_u32())), (State::Ready, Some(device.identity)));
        assert!(world.files.contains_key(&StateFile::Endpoint(endpoint.id)));
    }
}

#[test]
fn a_creation_that_fails_leaves_nothing_behind() {
    let mut world = World::new(config());
    let (maps, files) = (world.maps.clone(), world.files.clone());
    let request = world.pod(1, &["k8s:app=web"]);
    world.attach = Mood::Fails;
    let refused = world.answer(request).expect_err("the programs cannot be attached");
    assert!(refused.to_string().contains("lxc1: the world says no"), "{refused}");
    assert_eq!(world.live().endpoints().count(), 0);
    let same: Vec<_> = world.maps.iter().filter(|(key, _)| !matches!(key, MapWrite::Runtime(..))).collect();
    let before: Vec<_> = maps.iter().filter(|(key, _)| !matches!(key, MapWrite::Runtime(..))).collect();
    assert_eq!(same, before);
    assert_eq!(world.files, files);
    assert_eq!(world.live().loans().count(), 1, "only the router's address is lent");
    assert!(world.store.keys().all(|key| !key.contains("/value/") && !key.contains("/ip/")), "{:?}", world.store);
    // And it can be tried again.
    world.attach = Mood::Obeys;
    world.add(1, &["k8s:app=web"]);
}

#[test]
fn a_creation_that_takes_too_long_is_taken_back_and_says_what_it_waited_for() {
    let mut world = World::new(config());
    let request = world.pod(1, &["k8s:app=web"]);
    world.kv = Mood::Holds;
    let id = world.ask(request);
    world.pass(Duration::from_secs(26));
    let refused = world.replies[&id].clone().expect_err("too slow").to_string();
    assert!(refused.contains("an identity number from the key-value store"), "{refused}");
    assert_eq!(world.live().endpoints().count(), 0);
}

#[test]
fn a_second_add_for_the_same_container_is_refused_and_the_first_is_undisturbed() {
    let mut world = World::new(config());
    let first = world.add(1, &["k8s:app=web"]);
    let maps = world.maps.clone();
    let mut again = world.pod(2, &["k8s:app=web"]);
    if let Request::Endpoint(EndpointRequest::Create(create)) = &mut again {
        create.spec.attachment = Some(endpoint::Attachment { container_id: "c1".into(), ifname: "eth0".into() });
    }
    let refused = world.answer(again).expect_err("the attachment is taken");
    assert_eq!(refused.to_string(), format!("endpoint {first} already has cni-attachment-id:c1:eth0"));
    assert_eq!(world.maps, maps);
    assert_eq!(world.live().endpoints().count(), 1);
}

#[test]
fn an_address_of_an_endpoint_is_not_released_and_comes_back_when_it_is_deleted() {
    let mut world = World::new(config());
    let id = world.add(1, &["k8s:app=web"]);
    let addr = ip("10.0.0.2");
    let release = Request::Ipam(IpamRequest::Release(addr));
    assert_eq!(world.answer(release.clone()), Err(Refusal::OfEndpoint { ip: addr, owner: id }));
    world.write = Mood::Holds;
    let deletion = world.ask(delete("ipv4:10.0.0.2"));
    assert_eq!(world.replies.get(&deletion), None, "it is still in the kernel");
    assert!(world.live().loans().any(|loan| loan.addr == addr));
    world.release();
    assert_eq!(world.replies[&deletion], Ok(Response::Deleted(vec![id])));
    assert_eq!(world.device(1), None);
    assert!(!world.live().loans().any(|loan| loan.addr == addr));
    assert_eq!(world.answer(delete("ipv4:10.0.0.2")), Err(Refusal::NoEndpoint(name("ipv4:10.0.0.2"))));
    assert!(world.attached.is_empty());
}

#[test]
fn an_exhausted_pool_is_named_and_lends_nothing_halfway() {
    let mut small = config();
    if let Some(family) = &mut small.ipv4 {
        family.pod_cidr = "10.0.0.0/30".parse().expect("a literal");
    }
    small.ipv6 = Some(agent_core::FamilyConfig {
        pod_cidr: "fd00::/120".parse().expect("a literal"),
        router: ip("fd00::1"),
        node_addrs: vec![],
    });
    let mut world = World::new(small);
    let allocate =
        |owner: &str| Request::Ipam(IpamRequest::Allocate { family: None, owner: owner.into(), expires: true });
    assert!(world.answer(allocate("a")).is_ok());
    let refused = world.answer(allocate("b")).expect_err("two addresses, one is the router's").to_string();
    assert_eq!(refused, "all 2 IPv4 addresses of the pod range 10.0.0.0/30 are in use");
    assert_eq!(world.live().loans().filter(|loan| loan.addr.is_ipv6()).count(), 2, "router and a");
}

#[test]
fn new_labels_move_an_endpoint_after_the_grace_period() {
    let mut world = World::new(config());
    let id = world.add(1, &["k8s:app=web"]);
    let before = world.device(1).expect("open").identity;
    let set = |labels: &[&str]| {
        let labels = Labels::parse(labels.iter().copied());
        Request::Endpoint(EndpointRequest::SetLabels(EndpointName::Id(id), labels))
    };
    assert_eq!(world.answer(set(&["k8s:app=db"])), Ok(Response::Done));
    // Asked again meanwhile: the clock does not start anew.
    world.pass(Duration::from_secs(3));
    assert_eq!(world.answer(set(&["k8s:app=db"])), Ok(Response::Done));
    world.pass(Duration::from_millis(1_999));
    assert_eq!(world.device(1).expect("open").identity, before);
    world.pass(Duration::from_millis(1));
    let after = world.device(1).expect("open").identity;
    assert_ne!(after, before);
    assert!(
        world.store.keys().any(|key| key.contains("app=db")) && !world.store.keys().any(|key| key.contains("app=web;"))
    );
    // Back and forth within the grace period: nothing happens.
    world.answer(set(&["k8s:app=x"])).expect("accepted");
    world.answer(set(&["k8s:app=db"])).expect("accepted");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.device(1).expect("open").identity, after);
    let refused = world.answer(set(&["reserved:host"])).expect_err("nobody becomes the host").to_string();
    assert!(refused.contains("given by the agent alone"), "{refused}");
}

#[test]
fn an_endpoint_without_labels_is_init_and_leaves_that_at_once() {
    let mut world = World::new(config());
    let id = world.add(1, &[]);
    assert_eq!(world.device(1).expect("open").identity, 5);
    let labels = Labels::parse(["k8s:app=web"]);
    world.answer(Request::Endpoint(EndpointRequest::SetLabels(EndpointName::Id(id), labels))).expect("accepted");
    assert!(world.device(1).expect("open").identity >= 256);
}

#[test]
fn a_vanished_interface_takes_its_endpoint_with_it() {
    let mut world = World::new(config());
    world.add(1, &["k8s:app=web"]);
    world.tell(Input::LinkVanished(11));
    assert_eq!(world.live().endpoints().count(), 0);
    assert_eq!(world.device(1), None);
}

#[test]
fn requests_wait_until_the_agent_is_live_and_too_many_are_refused() {
    let mut few = config();
    few.requests_max = 1;
    let mut world = World::new(few);
    world.kv = Mood::Holds;
    world.restart(|_| {});
    let ask = || Request::Ipam(IpamRequest::Reserve { ip: ip("10.0.0.9"), owner: "a".into() });
    let first = world.ask(ask());
    assert_eq!(world.replies.get(&first), None);
    assert_eq!(world.answer(ask()), Err(Refusal::Busy { max: 1 }));
    world.release();
    assert_eq!(world.replies[&first], Ok(Response::Done));
}

const DENY_ALL: &str = r#"{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy",
    "metadata":{"name":"deny","namespace":"default"},
    "spec":{"endpointSelector":{},"ingress":[{"fromEndpoints":[{"matchLabels":{"app":"db"}}],
    "toPorts":[{"ports":[{"port":"80","protocol":"TCP"}]}]}]}}"#;

fn put(text: &str) -> Request {
    Request::Policy(PolicyRequest::Put { text: text.into(), replace: Replace::SameObject })
}

#[test]
fn a_policy_that_does_not_fit_is_refused_by_name_and_changes_nothing() {
    let mut small = config();
    small.maps.policy = 2;
    let mut world = World::new(small);
    world.add(1, &["k8s:app=web"]);
    world.add(9, &["k8s:app=db"]);
    let maps = world.maps.clone();
    let wide = DENY_ALL.replace(r#""port":"80""#, r#""port":"1","endPort":65534"#);
    let refused = world.answer(put(&wide)).expect_err("two entries are not enough").to_string();
    assert!(refused.contains("cilium_policy has no room") && refused.contains("policies stay"), "{refused}");
    assert_eq!(world.maps, maps);
    assert_eq!(world.live().policy_rules(), 0);
    assert!(world.events.iter().any(|event| matches!(event, AgentEvent::MapFull { map: "cilium_policy", .. })));
    // Others go on.
    world.add(2, &["k8s:app=web"]);
}

#[test]
fn a_kernel_that_says_full_keeps_everybody_on_the_old_policy_until_there_is_room() {
    let mut world = World::new(config());
    world.add(1, &["k8s:app=web"]);
    world.add(2, &["k8s:app=db"]);
    let device = world.device(1);
    world.policy_room = 0;
    world.answer(put(DENY_ALL)).expect("it is taken up");
    assert_eq!(world.device(1), device, "it stays under the old policy");
    let endpoint = world.live().endpoint(&name("cep-name:default/p1")).expect("it is there");
    let log = endpoint.log().last().map(|change| change.message.clone()).unwrap_or_default();
    assert!(log.contains("cilium_policy cannot be written") && log.contains("full"), "{log}");
    world.policy_room = usize::MAX;
    world.pass(Duration::from_secs(31));
    assert_ne!(world.device(1), device);
    let endpoint = world.live().endpoint(&name("cep-name:default/p1")).expect("it is there");
    assert_eq!(endpoint.state(), State::Ready);
}

#[test]
fn policy_mistakes_name_their_place() {
    let mut world = World::new(config());
    let big = format!("{DENY_ALL}{}", " ".repeat(10 << 20));
    let deep = DENY_ALL.replace("\"80\"", &format!("{}{}", "[".repeat(60), "]".repeat(60)));
    for (text, part) in [
        (big.as_str(), "policy-bytes-max"),
        (&deep, "policy-depth-max"),
        ("{", "document 1"),
        (r#"{"apiVersion":"v1","kind":"Pod"}"#, "kind"),
        (&DENY_ALL.replace("fromEndpoints", "fromEndpoint"), "fromEndpoint"),
        (&DENY_ALL.replace("\"80\"", "\"80000\""), "port"),
        (
            r#"{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"six","namespace":"default"},
                "spec":{"endpointSelector":{},"egress":[{"toCIDR":["2001:db8::/32"]}]}}"#,
            "IPv6, which is not enabled on this node",
        ),
        (
            r#"{"apiVersion":"cilium.io/v2","kind":"CiliumNetworkPolicy","metadata":{"name":"bits","namespace":"default"},
                "spec":{"endpointSelector":{},"egress":[{"toCIDRSet":[{"cidr":"10.0.0.1/8"}]}]}}"#,
            "spec.egress[0].toCIDRSet[0].cidr",
        ),
    ] {
        let refused = world.answer(put(text)).expect_err(text).to_string();
        assert!(refused.contains(part), "{text}: {refused}");
        assert_eq!(world.live().policy_rules(), 0);
    }
}

#[test]
fn policies_are_deleted_by_labels_and_bare_rules_do_not_replace_each_other() {
    let mut world = World::new(config());
    world.add(1, &["k8s:app=web"]);
    let rule = |label: &str, app: &str| {
        format!(
            r#"[{{"labels":[{{"key":"{label}"}}],"endpointSelector":{{}},
                "ingress":[{{"fromEndpoints":[{{"matchLabels":{{"app":"{app}"}}}}]}}]}}]"#
        )
    };
    for text in [rule("a", "x"), rule("a", "y"), rule("b", "z"), rule("b", "z")] {
        world.answer(put(&text)).expect("well-formed");
    }
    assert_eq!(world.live().policy_rules(), 3, "saying it twice is saying it once");
    assert_eq!(world.device(1).expect("open").flags, 1);
    let delete = |label: &str| Request::Policy(PolicyRequest::Delete(Labels::parse([label])));
    assert!(matches!(world.answer(delete("a")), Ok(Response::Policy { rules: 2, .. })));
    assert!(matches!(world.answer(delete("a")), Err(Refusal::NoPolicy(_))));
    assert!(matches!(world.answer(delete("b")), Ok(Response::Policy { rules: 1, .. })));
    assert_eq!(world.device(1).expect("open").flags, 0);
}
