use alloc::string::ToString;

use machine::Instant;
use types::{EndpointId, Label, Labels, MacAddr};

use crate::{
    Attachment, Code, Config, EndpointName, EndpointSpec, Endpoints, HealthStatus, InsertRefusal, LabelRefusal, Mover,
    Pod, SpecRefusal, State,
};

fn spec(n: u8) -> EndpointSpec {
    EndpointSpec {
        attachment: Some(Attachment { container_id: "c".into(), ifname: alloc::format!("eth{n}").into() }),
        pod: Some(Pod { namespace: "default".into(), name: alloc::format!("p{n}").into(), uid: "".into() }),
        ifname: "lxc1".into(),
        ifindex: u32::from(n) + 1,
        mac: MacAddr([2, 0, 0, 0, 0, n]),
        host_mac: MacAddr([2, 0, 0, 0, 1, n]),
        ipv4: Some([10, 0, 0, n].into()),
        labels: Labels::parse(["k8s:app=web"]),
        ..EndpointSpec::default()
    }
}

/// The reference's table, row by row: to whom each state may go, and to whom the builder may take it besides.
#[test]
fn the_table_of_states_is_the_references() {
    use State::{
        Disconnected, Disconnecting, Invalid, Ready, Regenerating, Restoring, WaitingForIdentity, WaitingToRegenerate,
    };
    let rows: [(State, &[State], &[State]); 8] = [
        (WaitingForIdentity, &[Ready, Disconnecting, Invalid], &[]),
        (Ready, &[WaitingForIdentity, Disconnecting, WaitingToRegenerate, Restoring], &[]),
        (WaitingToRegenerate, &[Disconnecting, Restoring], &[Regenerating]),
        (Regenerating, &[WaitingForIdentity, Disconnecting, WaitingToRegenerate, Restoring], &[Ready]),
        (Restoring, &[Disconnecting, Restoring], &[Regenerating]),
        (Disconnecting, &[Disconnected], &[]),
        (Disconnected, &[], &[]),
        (Invalid, &[], &[]),
    ];
    for (from, anyone, builder) in rows {
        for to in State::ALL.into_iter().filter(|to| *to != from) {
            assert_eq!(from.may_become(to, Mover::Anyone), anyone.contains(&to), "{from} to {to}");
            let allowed = anyone.contains(&to) || builder.contains(&to);
            assert_eq!(from.may_become(to, Mover::Builder), allowed, "{from} to {to} by the builder");
        }
    }
}

#[test]
fn every_name_leads_to_the_endpoint_until_it_is_removed() {
    let mut all = Endpoints::new(Config::default());
    let id = all
        .insert(Instant::ZERO, None, spec(7), Labels::default(), State::WaitingForIdentity, "created")
        .expect("nothing is taken");
    let names = [
        "1",
        "cilium-local:1",
        "container-id:c",
        "cni-attachment-id:c:eth7",
        "ipv4:10.0.0.7",
        "cep-name:default/p7",
        "pod-name:default/p7",
    ];
    for name in names {
        let name: EndpointName = name.parse().expect("well-formed");
        assert_eq!(all.find(&name).map(|endpoint| endpoint.id), Some(id), "{name}");
    }
    let again = all.insert(Instant::ZERO, None, spec(7), Labels::default(), State::WaitingForIdentity, "created");
    assert!(matches!(again, Err(InsertRefusal::Taken { by, .. }) if by == id));
    all.remove(id).expect("it is there");
    for name in names {
        assert!(all.find(&name.parse().expect("well-formed")).is_none(), "{name}");
    }
    assert!(all.is_empty());
}

#[test]
fn malformed_names_say_what_is_expected() {
    for (text, part) in [
        ("0", "from 1 to 65535"),
        ("70000", "from 1 to 65535"),
        ("ipv4:fd00::1", "address of that family"),
        ("cep-name:x", "NAMESPACE/NAME"),
        ("cni-attachment-id:x", "CONTAINER:INTERFACE"),
        ("cilium-global:n:3", "other nodes"),
        ("what:ever", "unknown prefix"),
    ] {
        let error = text.parse::<EndpointName>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn a_specification_without_device_address_or_with_foreign_labels_is_refused() {
    assert_eq!(spec(1).validate(8), Ok(()));
    assert_eq!(EndpointSpec { ifindex: 0, ..spec(1) }.validate(8), Err(SpecRefusal::Missing("interface-index")));
    assert!(EndpointSpec { ipv4: None, ..spec(1) }.validate(8).is_err());
    let check = |label: &str| EndpointSpec::validate_labels(&[Label::parse(label)].into_iter().collect(), 8);
    assert!(matches!(check("reserved:host"), Err(LabelRefusal::Source { .. })));
    assert!(matches!(check("cidr:10.0.0.0/8"), Err(LabelRefusal::Source { .. })));
    assert!(matches!(check("k8s:-bad=1"), Err(LabelRefusal::Key { .. })));
    assert!(matches!(check("k8s:a=b c"), Err(LabelRefusal::Value { .. })));
    assert_eq!(check("k8s:app.kubernetes.io/name=web"), Ok(()));
    let two = Labels::parse(["a=1", "b=2"]);
    assert_eq!(EndpointSpec::validate_labels(&two, 1), Err(LabelRefusal::TooMany { max: 1 }));
}

#[test]
fn identity_labels_name_namespace_and_cluster_and_nothing_is_init() {
    let labels = spec(1).identity_labels("default");
    assert_eq!(
        labels.identity_key(),
        "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=default;k8s:io.kubernetes.pod.namespace=default;"
    );
    let bare = EndpointSpec { labels: Labels::default(), ..spec(1) };
    assert_eq!(bare.identity_labels("default").identity_key(), "reserved:init=;");
}

#[test]
fn the_log_is_bounded_and_health_follows_it() {
    let mut all = Endpoints::new(Config { log_max: 3, ..Config::default() });
    let id = all
        .insert(Instant::ZERO, None, spec(1), Labels::default(), State::Restoring, "restored")
        .expect("nothing is taken");
    let endpoint = all.by_id_mut(id).expect("just inserted");
    assert!(!endpoint.step(Instant::ZERO, State::Ready, Mover::Builder, "no"));
    assert!(endpoint.step(Instant::ZERO, State::Regenerating, Mover::Builder, "writing"));
    assert_eq!(endpoint.health().overall, HealthStatus::Pending);
    for n in 0..5 {
        endpoint.failed(Instant::from_secs(n), alloc::format!("failure {n}"));
        endpoint.failed(Instant::from_secs(n), alloc::format!("failure {n}"));
    }
    assert_eq!(endpoint.log().iter().count(), 3);
    assert_eq!(endpoint.log().last().map(|change| change.code), Some(Code::Failed));
    assert_eq!(endpoint.health().overall, HealthStatus::Warning);
    assert!(endpoint.step(Instant::from_secs(9), State::Ready, Mover::Builder, "done"));
    assert_eq!(endpoint.health().overall, HealthStatus::Ok);
}

#[test]
fn numbers_are_not_reused_at_once_and_run_out_with_a_name() {
    let mut all = Endpoints::new(Config { endpoints_max: 2, ..Config::default() });
    let add = |all: &mut Endpoints, n| {
        all.insert(Instant::ZERO, None, spec(n), Labels::default(), State::WaitingForIdentity, "created")
    };
    let first = add(&mut all, 1).expect("free");
    all.remove(first);
    assert_eq!(add(&mut all, 2).map(EndpointId::as_u16), Ok(2));
    assert_eq!(add(&mut all, 3).map(EndpointId::as_u16), Ok(3));
    assert_eq!(add(&mut all, 4), Err(InsertRefusal::TooMany { max: 2 }));
}
