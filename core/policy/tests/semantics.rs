//! What rules mean, sentence by sentence: who is selected, by which name, in which namespace, and what becomes of the rest.
//! `docs/policy-semantics.md` says which test stands for which sentence.
#![allow(clippy::unwrap_used, reason = "a test stops where its setting cannot be made")]

#[path = "semantics/world.rs"]
mod world;

use policy::{
    Config,
    Direction::{Egress, Ingress},
    Enforcement,
    engine::ServiceFacts,
    rule::AuthMode,
};
use types::{Label, Labels};
use world::{cnp, engine, everybody, only, read, subject, verdict, web};

fn plain() -> Config {
    Config { allow_localhost: false, ..Config::default() }
}

/// Who is let in on port 80 by one policy.
#[track_caller]
fn ingress(policy: &str, allowed: &[&str]) {
    only(&engine(plain(), subject(&[]), &[policy]), Ingress, "80", allowed);
}

#[track_caller]
fn egress(policy: &str, allowed: &[&str]) {
    only(&engine(plain(), subject(&[]), &[policy]), Egress, "80", allowed);
}

/// Traffic of one peer, port by port: `80` (TCP), `53/UDP`, `8/ICMP`.
#[track_caller]
fn ports(policy: &str, peer: &str, rows: &[(&str, &str)]) {
    let (direction, engine) =
        (if policy.contains("egress") { Egress } else { Ingress }, engine(plain(), subject(&[]), &[policy]));
    for (what, want) in rows {
        assert_eq!(verdict(&engine, direction, peer, what), *want, "{policy}: {what} of {peer}");
    }
}

fn all() -> Vec<&'static str> {
    everybody().collect()
}

#[test]
fn a_key_without_a_source_is_answered_by_every_source() {
    ingress(&cnp("ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]"), &["client", "east", "container"]);
    ingress(&cnp("ingress: [{fromEndpoints: [{matchLabels: {'any:app': client}}]}]"), &["client", "east", "container"]);
    ingress(&cnp("ingress: [{fromEndpoints: [{matchLabels: {'k8s:app': client}}]}]"), &["client", "east"]);
    ingress(&cnp("ingress: [{fromEndpoints: [{matchLabels: {'container:app': client}}]}]"), &["container"]);
}

#[test]
fn expressions_of_a_selector_hold_together_and_selectors_of_a_list_for_themselves() {
    let with =
        |expressions: &str| cnp(&format!("ingress: [{{fromEndpoints: [{{matchExpressions: [{expressions}]}}]}}]"));
    ingress(&with("{key: version, operator: In, values: ['1', '2']}"), &["client"]);
    ingress(&with("{key: version, operator: NotIn, values: ['2']}"), &["east", "container"]);
    ingress(&with("{key: version, operator: Exists}"), &["client"]);
    ingress(&with("{key: version, operator: DoesNotExist}"), &["east", "container"]);
    ingress(&with("{key: app, operator: Exists}, {key: version, operator: DoesNotExist}"), &["east", "container"]);
    let both = "{matchLabels: {version: '2'}, matchExpressions: [{key: app, operator: NotIn, values: [client]}]}";
    ingress(&cnp(&format!("ingress: [{{fromEndpoints: [{both}]}}]")), &[]);
    let either = "{matchLabels: {version: '2'}}, {matchLabels: {'container:app': client}}";
    ingress(&cnp(&format!("ingress: [{{fromEndpoints: [{either}]}}]")), &["client", "container"]);
}

#[test]
fn a_namespaced_policy_is_about_pods_of_its_namespace() {
    let judged = |policy: &str| {
        let engine = engine(plain(), subject(&[]), &[policy]);
        engine.endpoint_policy(web()).unwrap().ingress
    };
    assert!(judged("cnp default/a {endpointSelector: {}, ingress: [{}]}"));
    assert!(!judged("cnp other/a {endpointSelector: {}, ingress: [{}]}"));
    let elsewhere = "{matchLabels: {app: web, 'k8s:io.kubernetes.pod.namespace': other}}";
    assert!(judged(&format!("cnp default/a {{endpointSelector: {elsewhere}, ingress: [{{}}]}}")), "it is overwritten");
    assert!(!judged(&format!("cnp other/a {{endpointSelector: {elsewhere}, ingress: [{{}}]}}")));
    assert!(judged("ccnp a {endpointSelector: {}, ingress: [{}]}"));
}

#[test]
fn peers_are_of_the_policys_namespace_unless_they_say_otherwise() {
    let peers = |selector: &str| cnp(&format!("ingress: [{{fromEndpoints: [{selector}]}}]"));
    ingress(&peers("{}"), &["client", "east", "container"]);
    ingress(&peers("{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}"), &["stranger"]);
    ingress(&peers("{matchLabels: {'io.kubernetes.pod.namespace': other}}"), &["stranger"]);
    let everywhere = "{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: Exists}]}";
    ingress(&peers(everywhere), &["client", "stranger", "east", "container"]);
    ingress(&peers("{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': blue}}"), &["stranger"]);
    ingress(&peers("{matchLabels: {'io.cilium.k8s.namespace.labels.team': blue}}"), &["stranger"]);
    ingress(&peers("{matchLabels: {'reserved:host': ''}}"), &["host"]);
}

#[test]
fn peers_of_a_clusterwide_policy_are_pods_unless_they_say_otherwise() {
    let peers = |selector: &str| {
        format!(
            "ccnp a {{endpointSelector: {{matchLabels: {{app: web}}}}, ingress: [{{fromEndpoints: [{selector}]}}]}}"
        )
    };
    ingress(&peers("{}"), &["client", "stranger", "east", "container"]);
    ingress(&peers("{matchLabels: {app: client}}"), &["client", "stranger", "east", "container"]);
    ingress(&peers("{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}"), &["stranger"]);
    ingress(&peers("{matchLabels: {'reserved:remote-node': ''}}"), &["node", "api"]);
    let init = "ccnp a {endpointSelector: {matchLabels: {'reserved:init': ''}}, ingress: [{fromEndpoints: [{}]}]}";
    only(&engine(plain(), subject(&["reserved:init"]), &[init]), Ingress, "80", &all());
}

#[test]
fn requirements_of_all_rules_narrow_the_endpoints_of_each_and_nothing_else() {
    let some = cnp("ingress: [{fromEndpoints: [{}], fromRequires: [{matchLabels: {version: '2'}}]}]");
    ingress(&some, &["client"]);
    let another = cnp(
        "ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}, {fromEntities: [host]}, {fromCIDR: [10.1.0.0/16]}]",
    );
    let another = another.replace("default/web", "default/another");
    let both = engine(plain(), subject(&[]), &[&some, &another]);
    only(&both, Ingress, "80", &["client", "host", "ten-one"]);
    ingress(&cnp("ingress: [{fromRequires: [{}]}]"), &[]);
    // A requirement is of the policy's namespace even where it names a reserved label.
    let reserved = "fromRequires: [{matchLabels: {'reserved:host': ''}}]";
    ingress(
        &cnp(&format!("ingress: [{{fromEndpoints: [{{matchLabels: {{'reserved:host': ''}}}}], {reserved}}}]")),
        &[],
    );
    egress(&cnp("egress: [{toEndpoints: [{}], toRequires: [{matchLabels: {version: '2'}}]}]"), &["client"]);
}

#[test]
fn a_section_switches_default_deny_on_if_it_holds_a_rule() {
    let judged = |config: Config, subject_: &[&str], policies: &[&str]| {
        let policy = engine(config, subject(subject_), policies).endpoint_policy(web()).unwrap();
        (policy.ingress, policy.egress)
    };
    for (rules, want) in [
        ("ingress: []", (false, false)),
        ("ingress: [{}]", (true, false)),
        ("egress: [{}]", (false, true)),
        ("ingressDeny: [{}]", (true, false)),
        ("egressDeny: [{}]", (false, true)),
        ("ingress: [{}], egress: []", (true, false)),
        ("ingress: [{}], enableDefaultDeny: {egress: true}", (true, false)),
    ] {
        assert_eq!(judged(plain(), &[], &[&cnp(rules)]), want, "{rules}");
    }
    ingress(&cnp("ingress: [{}]"), &[]);
    let always = Config { enforcement: Enforcement::Always, ..plain() };
    let never = Config { enforcement: Enforcement::Never, ..plain() };
    assert_eq!(judged(always.clone(), &[], &[]), (true, true));
    assert_eq!(judged(always, &["reserved:health"], &[]), (true, true));
    assert_eq!(judged(never.clone(), &[], &[&cnp("ingress: [{}], egress: [{}]")]), (false, false));
    only(&engine(never, subject(&[]), &[&cnp("ingress: [{}]")]), Ingress, "80", &all());
    assert_eq!(judged(plain(), &["reserved:init"], &[]), (true, true), "who has no labels yet is always judged");
    assert_eq!(judged(plain(), &["reserved:health"], &[]), (false, false));
}

#[test]
fn without_default_deny_only_denials_and_redirects_have_effect() {
    let open = "enableDefaultDeny: {ingress: false}";
    ingress(&cnp(&format!("{open}, ingress: [{{fromEntities: [host]}}]")), &all());
    let denied = cnp(&format!("{open}, ingressDeny: [{{fromEntities: [world]}}]"));
    let within: Vec<&str> = all().into_iter().filter(|p| !WORLDLY.contains(p)).collect();
    ingress(&denied, &within);
    let l7 = "toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]";
    ports(
        &cnp(&format!("{open}, ingress: [{{{l7}}}]")),
        "client",
        &[("80", "proxy"), ("81", "allow"), ("80/UDP", "allow")],
    );
    // One rule that keeps default deny is enough.
    let strict = cnp("ingress: [{fromEntities: [host]}]").replace("default/web", "default/strict");
    let engine =
        engine(plain(), subject(&[]), &[&cnp(&format!("{open}, ingress: [{{fromEntities: [health]}}]")), &strict]);
    only(&engine, Ingress, "80", &["host", "health"]);
}

/// Everybody outside the cluster.
const WORLDLY: [&str; 6] = ["world", "world6", "ten-one", "ten-two", "api-outside", "example.com"];

#[test]
fn audit_mode_is_the_nodes_or_the_endpoints() {
    let audited = |config: Config, audit: bool| {
        let facts = policy::EndpointFacts { audit, ..subject(&[]) };
        let engine = engine(config, facts, &[&cnp("ingress: [{}]")]);
        // The verdict stays what it is: the datapath lets it through and says what it would have been.
        assert_eq!(verdict(&engine, Ingress, "client", "80"), "deny");
        engine.endpoint_policy(web()).unwrap().audit
    };
    assert!(!audited(plain(), false));
    assert!(audited(plain(), true));
    assert!(audited(Config { audit: true, ..plain() }, false));
}

#[test]
fn the_node_reaches_its_endpoints_unless_a_rule_denies_it() {
    let kubernetes = || Config { allow_localhost: true, ..plain() };
    let of = |rules: &str| engine(kubernetes(), subject(&[]), &[&cnp(rules)]);
    only(&of("ingress: [{}]"), Ingress, "80", &["host"]);
    only(&of("egress: [{}]"), Egress, "80", &[]);
    only(&of("ingress: [{}], ingressDeny: [{fromEntities: [host]}]"), Ingress, "80", &[]);
    let closed = of("ingress: [{}], ingressDeny: [{toPorts: [{ports: [{port: '80'}]}]}]");
    assert_eq!(verdict(&closed, Ingress, "host", "80"), "deny");
    assert_eq!(verdict(&closed, Ingress, "host", "81"), "allow");
    let l7 = of("ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]");
    assert_eq!(verdict(&l7, Ingress, "client", "80"), "proxy");
    assert_eq!(verdict(&l7, Ingress, "host", "81"), "allow");
    // Who may reach it anyway need not prove who he is.
    let auth = of(
        "ingress: [{fromEntities: [host], authentication: {mode: required}}, {fromEntities: [health], authentication: {mode: required}}]",
    );
    assert_eq!(verdict(&auth, Ingress, "host", "80"), "allow");
    assert_eq!(verdict(&auth, Ingress, "health", "80"), "deny");
}

#[test]
fn an_absent_member_constrains_nothing_and_an_empty_one_selects_nobody() {
    for (members, section) in [
        (&["fromEndpoints", "fromCIDR", "fromCIDRSet", "fromEntities", "fromNodes"][..], "ingress"),
        (&["toEndpoints", "toCIDR", "toCIDRSet", "toEntities", "toNodes", "toFQDNs", "toServices"], "egress"),
    ] {
        for member in members {
            let empty = cnp(&format!("{section}: [{{{member}: [], toPorts: [{{ports: [{{port: '80'}}]}}]}}]"));
            let direction = if section == "ingress" { Ingress } else { Egress };
            only(&engine(plain(), subject(&[]), &[&empty]), direction, "80", &[]);
        }
    }
    ingress(&cnp("ingress: [{toPorts: [{ports: [{port: '80'}]}]}]"), &all());
    ingress(&cnp("ingress: [{toPorts: [{ports: [{port: '81'}]}]}]"), &[]);
    ingress(&cnp("ingress: [{}]"), &[]);
    egress(&cnp("egress: [{toFQDNs: [{matchName: unheard.of}]}]"), &[]);
    egress(&cnp("egress: [{toFQDNs: [{matchName: example.com}]}]"), &["example.com"]);
}

#[test]
fn ports_are_all_none_one_or_a_range() {
    let to = |ports: &str| cnp(&format!("ingress: [{{fromEndpoints: [{{}}], toPorts: {ports}}}]"));
    let everything =
        [("80", "allow"), ("1/UDP", "allow"), ("9/SCTP", "allow"), ("8/ICMP", "allow"), ("128/ICMPv6", "allow")];
    ports(&cnp("ingress: [{fromEndpoints: [{}]}]"), "client", &everything);
    ports(&to("[]"), "client", &everything);
    ports(&to("[{ports: []}]"), "client", &everything.map(|(what, _)| (what, "deny")));
    let any = [("80", "allow"), ("80/UDP", "allow"), ("80/SCTP", "allow"), ("80/ICMP", "deny"), ("81", "deny")];
    ports(&to("[{ports: [{port: '80'}]}]"), "client", &any);
    ports(&to("[{ports: [{port: '80', protocol: ANY}]}]"), "client", &any);
    ports(
        &to("[{ports: [{port: '80', protocol: SCTP}]}]"),
        "client",
        &[("80/SCTP", "allow"), ("80", "deny"), ("80/UDP", "deny")],
    );
    ports(
        &to("[{ports: [{port: '0', protocol: UDP}]}]"),
        "client",
        &[("0/UDP", "allow"), ("65535/UDP", "allow"), ("80", "deny")],
    );
    let range =
        [("79", "deny"), ("80", "allow"), ("97", "allow"), ("100", "allow"), ("101", "deny"), ("90/UDP", "deny")];
    ports(&to("[{ports: [{port: '80', endPort: 100, protocol: TCP}]}]"), "client", &range);
    let either = "[{ports: [{port: '80'}, {port: '81'}]}, {ports: [{port: '90'}]}]";
    ports(&to(either), "client", &[("80", "allow"), ("81", "allow"), ("90", "allow"), ("82", "deny")]);
    ports(
        &to("[{ports: [{port: '443', endPort: 80, protocol: TCP}]}]"),
        "client",
        &[("443", "allow"), ("80", "deny"), ("444", "deny")],
    );
}

#[test]
fn a_named_port_is_the_endpoints_own_inwards_and_each_peers_outwards() {
    let to = |section: &str, peers: &str, name: &str, more: &str| {
        cnp(&format!("{section}: [{{{peers}toPorts: [{{ports: [{{port: {name}{more}}}]}}]}}]"))
    };
    let inwards = [("8080", "allow"), ("8001", "deny"), ("80", "deny"), ("8080/UDP", "deny")];
    ports(&to("ingress", "", "http", ""), "client", &inwards);
    ports(&to("ingress", "", "HTTP", ""), "client", &inwards);
    ports(
        &to("ingress", "", "http", ", endPort: 9000"),
        "client",
        &[("8080", "allow"), ("8081", "deny"), ("9000", "deny")],
    );
    ports(&to("ingress", "", "http", ", protocol: UDP"), "client", &[("8080", "deny"), ("8080/UDP", "deny")]);
    ports(&to("ingress", "", "dns", ""), "client", &[("5353/UDP", "allow"), ("5353", "deny")]);
    ports(&to("ingress", "", "unheard-of", ""), "client", &[("80", "deny"), ("8080", "deny")]);
    let everywhere =
        "toEndpoints: [{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: Exists}]}], ";
    for peers in ["", everywhere] {
        let http = to("egress", peers, "http", "");
        ports(&http, "client", &[("8001", "allow"), ("8002", "deny"), ("8080", "deny"), ("8003/SCTP", "deny")]);
        ports(&http, "stranger", &[("8002", "allow"), ("8001", "deny"), ("8003/SCTP", "allow"), ("8003", "deny")]);
        ports(&http, "east", &[("8001", "deny"), ("8002", "deny"), ("80", "deny")]);
    }
    // A denied name, too, is each peer's own.
    let denied = cnp("egress: [{toEntities: [all]}], egressDeny: [{toPorts: [{ports: [{port: http}]}]}]");
    ports(&denied, "client", &[("8001", "deny"), ("8002", "allow")]);
    ports(&denied, "stranger", &[("8002", "deny"), ("8001", "allow")]);
}

#[test]
fn icmp_rules_speak_of_types_of_one_family() {
    let of = |fields: &str| cnp(&format!("ingress: [{{icmps: [{{fields: [{fields}]}}]}}]"));
    ports(&of("{type: 8}"), "client", &[("8/ICMP", "allow"), ("0/ICMP", "deny"), ("8/ICMPv6", "deny"), ("8", "deny")]);
    ports(&of("{type: EchoRequest}"), "client", &[("8/ICMP", "allow"), ("128/ICMPv6", "deny")]);
    ports(&of("{type: EchoRequest, family: IPv6}"), "client", &[("128/ICMPv6", "allow"), ("8/ICMP", "deny")]);
    ports(
        &of("{type: 3}, {type: PacketTooBig, family: IPv6}"),
        "world",
        &[("3/ICMP", "allow"), ("2/ICMPv6", "allow"), ("4/ICMP", "deny")],
    );
    ports(&of("{type: 0}"), "client", &[("0/ICMP", "allow"), ("8/ICMP", "allow"), ("128/ICMPv6", "deny")]);
    let denied = cnp("ingress: [{fromEntities: [all]}], ingressDeny: [{icmps: [{fields: [{type: 8}]}]}]");
    ports(&denied, "client", &[("8/ICMP", "deny"), ("0/ICMP", "allow"), ("80", "allow")]);
}

#[test]
fn entities_are_whom_the_table_says() {
    let mut world = WORLDLY.to_vec();
    world.retain(|p| *p != "world6");
    for (entity, want) in [
        ("all", all()),
        ("world", WORLDLY.to_vec()),
        ("world-ipv4", world),
        ("world-ipv6", vec!["world6"]),
        ("host", vec!["host"]),
        ("remote-node", vec!["node", "api"]),
        ("kube-apiserver", vec!["api", "api-outside"]),
        (
            "cluster",
            vec![
                "client",
                "stranger",
                "container",
                "host",
                "unmanaged",
                "health",
                "init",
                "node",
                "api",
                "ingress",
                "api-outside",
            ],
        ),
        ("init", vec!["init"]),
        ("ingress", vec!["ingress"]),
        ("health", vec!["health"]),
        ("unmanaged", vec!["unmanaged"]),
        ("none", vec![]),
    ] {
        ingress(&cnp(&format!("ingress: [{{fromEntities: [{entity}]}}]")), &want);
        egress(&cnp(&format!("egress: [{{toEntities: [{entity}]}}]")), &want);
    }
}

#[test]
fn prefixes_select_what_is_outside_the_cluster() {
    egress(&cnp("egress: [{toCIDR: [10.0.0.0/8]}]"), &["ten-one", "ten-two"]);
    egress(&cnp("egress: [{toCIDR: [10.1.2.3]}]"), &["ten-one"]);
    egress(&cnp("egress: [{toCIDR: [192.168.0.0/16]}]"), &[]);
    egress(&cnp("egress: [{toCIDR: ['::/0']}]"), &["world6"]);
    egress(&cnp("egress: [{toCIDR: [0.0.0.0/0]}]"), &["world", "ten-one", "ten-two", "api-outside", "example.com"]);
    egress(&cnp("egress: [{toCIDR: [0.0.0.0/0, '::/0']}]"), &WORLDLY);
    egress(&cnp("egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]"), &["ten-two"]);
    egress(
        &cnp("egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}, {cidr: 10.1.2.0/24}]}]"),
        &["ten-one", "ten-two"],
    );
    ingress(
        &cnp(
            "ingress: [{fromEntities: [all]}], ingressDeny: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]",
        ),
        &{
            let mut rest = all();
            rest.retain(|p| *p != "ten-two");
            rest
        },
    );
    let nodes = Config { cidr_selects_nodes: true, ..plain() };
    let by_prefix = cnp("egress: [{toCIDR: [192.168.0.0/16]}]");
    only(&engine(nodes, subject(&[]), &[&by_prefix]), Egress, "80", &["host", "node", "api"]);
}

#[test]
fn groups_and_services_stand_for_their_members() {
    let mut engine =
        engine(plain(), subject(&[]), &[&cnp("egress: [{toCIDRSet: [{cidrGroupRef: g, except: [10.2.0.0/16]}]}]")]);
    only(&engine, Egress, "80", &[]);
    engine.upsert_cidr_group("g", vec!["10.0.0.0/8".parse().unwrap(), "8.8.8.8/32".parse().unwrap()]);
    only(&engine, Egress, "80", &["ten-one", "world"]);
    engine.remove_cidr_group("g");
    only(&engine, Egress, "80", &[]);

    let labels: Labels = [Label::k8s("app", "db")].into_iter().collect();
    let facts = ServiceFacts { labels, backends: vec!["10.1.2.3".parse().unwrap(), "10.0.1.1".parse().unwrap()] };
    for (service, meant) in [
        ("{k8sService: {serviceName: db, namespace: shop}}", true),
        ("{k8sService: {serviceName: db}}", true),
        ("{k8sService: {serviceName: db, namespace: other}}", false),
        ("{k8sService: {serviceName: web, namespace: shop}}", false),
        ("{k8sServiceSelector: {selector: {matchLabels: {app: db}}}}", true),
        ("{k8sServiceSelector: {selector: {matchLabels: {app: db}}, namespace: other}}", false),
        ("{k8sServiceSelector: {selector: {matchLabels: {app: web}}}}", false),
    ] {
        let mut engine =
            world::engine(plain(), subject(&[]), &[&cnp(&format!("egress: [{{toServices: [{service}]}}]"))]);
        only(&engine, Egress, "80", &[]);
        engine.upsert_service("shop", "db", facts.clone());
        // Backends are prefixes, and prefixes select no pods.
        only(&engine, Egress, "80", if meant { &["ten-one"] } else { &[] });
    }
}

#[test]
fn a_network_policy_speaks_of_labels_of_kubernetes() {
    let knp = |spec: &str| format!("knp default/a {{podSelector: {{matchLabels: {{app: web}}}}, {spec}}}");
    let judged = |subject_: &[&str], policy: &str| {
        let policy = engine(plain(), subject(subject_), &[policy]).endpoint_policy(web()).unwrap();
        (policy.ingress, policy.egress)
    };
    assert_eq!(judged(&[], &knp("policyTypes: [Ingress]")), (true, false));
    assert_eq!(judged(&["container:app=web", "ns=default"], &knp("policyTypes: [Ingress]")), (false, false));
    assert_eq!(judged(&["k8s:app=web", "ns=other"], &knp("policyTypes: [Ingress]")), (false, false));
    assert_eq!(judged(&[], "knp default/a {podSelector: {}}"), (true, false), "ingress, where nothing is said");
    assert_eq!(judged(&[], &knp("egress: [{}]")), (true, true));
    assert_eq!(judged(&[], &knp("policyTypes: [Egress]")), (false, true));
    assert_eq!(judged(&[], &knp("policyTypes: [Egress], egress: []")), (false, true));
    assert_eq!(judged(&[], &knp("policyTypes: [Ingress], egress: [{}]")), (true, false), "egress is not listed");
}

#[test]
fn peers_of_a_network_policy() {
    let from = |peers: &str| format!("knp default/a {{podSelector: {{}}, ingress: [{{from: [{peers}]}}]}}");
    ingress(&from("{podSelector: {}}"), &["client", "east", "container"]);
    ingress(&from("{podSelector: {matchLabels: {app: client}}}"), &["client", "east"]);
    ingress(&from("{namespaceSelector: {}}"), &["client", "stranger", "east", "container"]);
    ingress(&from("{namespaceSelector: {matchLabels: {team: blue}}}"), &["stranger"]);
    let both = "{namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {app: client}}}";
    ingress(&from(both), &["client"]);
    ingress(
        &from("{namespaceSelector: {matchLabels: {team: red}}}, {podSelector: {matchLabels: {app: client}}}"),
        &["client", "east"],
    );
    ingress("knp default/a {podSelector: {}, ingress: [{}]}", &all());
    ingress("knp default/a {podSelector: {}, ingress: [{from: []}]}", &all());
    ingress("knp default/a {podSelector: {}, ingress: []}", &[]);
    // An ipBlock means whoever has the address: Kubernetes' meaning.
    let block = "{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}";
    ingress(&from(block), &["client", "stranger", "east", "container", "health", "ingress", "ten-two"]);
    let mixed = "{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}";
    assert!(read(&from(mixed)).is_err());
}

#[test]
fn ports_of_a_network_policy() {
    let to = |ports: &str| format!("knp default/a {{podSelector: {{}}, ingress: [{{ports: [{ports}]}}]}}");
    ports(&to("{port: 80}"), "client", &[("80", "allow"), ("80/UDP", "deny"), ("81", "deny")]);
    ports(&to("{protocol: UDP}"), "client", &[("1/UDP", "allow"), ("65535/UDP", "allow"), ("80", "deny")]);
    ports(&to("{}"), "client", &[("80", "allow"), ("80/UDP", "deny"), ("8/ICMP", "deny")]);
    ports(&to("{port: 80, endPort: 90}"), "client", &[("80", "allow"), ("90", "allow"), ("91", "deny")]);
    ports(&to("{port: http}"), "client", &[("8080", "allow"), ("80", "deny")]);
    ports(&to("{port: 5, protocol: SCTP}"), "client", &[("5/SCTP", "allow"), ("5", "deny")]);
    let outwards = "knp default/a {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}";
    ports(outwards, "client", &[("8001", "allow"), ("8002", "deny")]);
    ports(outwards, "stranger", &[("8002", "allow"), ("8001", "deny")]);
}

/// The node a pod runs on may always reach it (Kubernetes' documentation, and `allow-localhost`). What a pod says to
/// itself never leaves it; through a service it comes back, which the datapath tells (`core/datapath`, hairpin).
#[test]
fn a_network_policy_does_not_keep_the_node_out() {
    let closed = "knp default/a {podSelector: {}, policyTypes: [Ingress, Egress]}";
    let engine = engine(Config::default(), subject(&[]), &[closed]);
    only(&engine, Ingress, "80", &["host"]);
    only(&engine, Egress, "80", &[]);
}

const NODE: &[&str] = &["reserved:host", "k8s:role=worker", "node:zone=a"];

#[test]
fn rules_about_nodes_are_for_the_node_and_need_the_host_firewall() {
    let firewall = || Config { host_firewall: true, ..Config::default() };
    let of = |selector: &str| format!("ccnp n {{nodeSelector: {selector}, ingress: [{{fromEntities: [health]}}]}}");
    let judged = |config: Config, subject_: &[&str], policy: &str| {
        engine(config, subject(subject_), &[policy]).endpoint_policy(web()).unwrap().ingress
    };
    for (selector, want) in [
        ("{}", true),
        ("{matchLabels: {role: worker}}", true),
        ("{matchLabels: {'node:zone': a}}", true),
        ("{matchLabels: {role: other}}", false),
    ] {
        assert_eq!(judged(firewall(), NODE, &of(selector)), want, "{selector}");
        assert!(!judged(Config::default(), NODE, &of(selector)), "the host firewall is off");
        assert!(!judged(firewall(), &[], &of(selector)), "a pod is no node");
    }
    let pods = "ccnp p {endpointSelector: {}, ingress: [{}]}";
    assert!(!judged(firewall(), NODE, pods), "a node is no pod");
    assert!(!judged(Config { enforcement: Enforcement::Always, ..Config::default() }, NODE, &of("{}")));
    // Nothing is added for traffic of the node with itself.
    only(&engine(firewall(), subject(NODE), &[&of("{}")]), Ingress, "80", &["health"]);
    let l7 = |section: &str, rules: &str, protocol: &str| {
        let ports = format!("toPorts: [{{ports: [{{port: '53', protocol: {protocol}}}], rules: {{{rules}}}}}]");
        read(&format!("ccnp n {{nodeSelector: {{}}, {section}: [{{{ports}}}]}}")).is_ok()
    };
    assert!(!l7("ingress", "http: [{}]", "TCP"));
    assert!(!l7("egress", "http: [{}]", "TCP"));
    assert!(l7("egress", "dns: [{matchPattern: '*'}]", "UDP"));
}

#[test]
fn nodes_are_selected_by_their_labels() {
    // `fromNodes` is read with `enable-node-selector-labels`, and never narrowed to a namespace.
    ingress(&cnp("ingress: [{fromNodes: [{matchLabels: {'reserved:remote-node': ''}}]}]"), &["node", "api"]);
    egress(&cnp("egress: [{toNodes: [{matchLabels: {'reserved:kube-apiserver': ''}}]}]"), &["api", "api-outside"]);
}

/// The reference's table of what denials do: client to server, default deny in effect.
#[test]
fn denials_win_over_every_allowance() {
    let allow = "{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}, \
                 {toPorts: [{ports: [{port: '80', protocol: TCP}]}]}, {toPorts: [{ports: [{port: '81', protocol: TCP}]}]}, \
                 {fromEndpoints: [{matchLabels: {app: client}}]}";
    let port80 = "{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}";
    let client = "{fromEndpoints: [{matchLabels: {app: client}}]}";
    for (allow, deny, want) in [
        (allow, String::new(), ["allow", "pass", "allow"]),
        (allow, port80.to_owned(), ["allow", "deny", "allow"]),
        (allow, client.to_owned(), ["deny", "deny", "deny"]),
        (allow, format!("{port80}, {client}"), ["deny", "deny", "deny"]),
        ("", port80.to_owned(), ["deny", "deny", "deny"]),
    ] {
        let engine = engine(plain(), subject(&[]), &[&cnp(&format!("ingress: [{allow}], ingressDeny: [{deny}]"))]);
        let found = ["81", "80", "8/ICMP"].map(|what| match verdict(&engine, Ingress, "client", what) {
            "proxy" => "pass",
            other => other,
        });
        assert_eq!(found, want, "{deny}");
    }
}

/// A denial is not weakened by a narrower allowance, wherever the two stand.
#[test]
fn a_denial_holds_against_narrower_rules_of_other_policies() {
    let allow = cnp(
        "ingress: [{fromEndpoints: [{matchLabels: {version: '2'}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]",
    );
    for deny in [
        "ccnp d {endpointSelector: {}, ingressDeny: [{fromEntities: [cluster]}]}",
        "ccnp d {endpointSelector: {}, ingressDeny: [{toPorts: [{ports: [{port: '1', endPort: 1000}]}]}]}",
        "ccnp d {endpointSelector: {}, ingressDeny: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '0', protocol: TCP}]}]}]}",
        "cnp default/d {endpointSelector: {}, ingressDeny: [{fromEntities: [all]}]}",
    ] {
        only(&engine(plain(), subject(&[]), &[&allow, deny]), Ingress, "80", &[]);
        only(&engine(plain(), subject(&[]), &[deny, &allow]), Ingress, "80", &[]);
    }
    // And a narrow denial takes no more than it names.
    let wide = cnp("ingress: [{fromEndpoints: [{}]}]");
    let narrow = "ccnp d {endpointSelector: {}, ingressDeny: [{fromEndpoints: [{matchLabels: {version: '2'}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]}";
    let both = engine(plain(), subject(&[]), &[&wide, narrow]);
    only(&both, Ingress, "80", &["east", "container"]);
    only(&both, Ingress, "81", &["client", "east", "container"]);
}

#[test]
fn a_demand_for_authentication_reaches_narrower_rules_that_say_nothing_of_it() {
    let config = Config { mutual_auth: true, ..plain() };
    let of = |rules: &str| {
        let engine = engine(config.clone(), subject(&[]), &[&cnp(&format!("ingress: [{rules}]"))]);
        ["80", "81"].map(|port| {
            let class = engine.class_of(types::NumericIdentity::new(1000), None);
            engine.verdict(web(), Ingress, class, 6, port.parse().unwrap()).unwrap().auth
        })
    };
    let wide = "{fromEndpoints: [{}], authentication: {mode: required}}";
    let narrow = "{fromEndpoints: [{}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]";
    assert_eq!(of(&format!("{wide}, {narrow}}}")), [Some(AuthMode::Required); 2]);
    assert_eq!(
        of(&format!("{wide}, {narrow}, authentication: {{mode: disabled}}}}")),
        [None, Some(AuthMode::Required)]
    );
    assert_eq!(
        of(&format!("{narrow}, authentication: {{mode: required}}}}, {{fromEndpoints: [{{}}]}}")),
        [Some(AuthMode::Required), None]
    );
    // Of two demands for one port the stricter holds.
    assert_eq!(
        of(&format!("{wide}, {{fromEndpoints: [{{}}], authentication: {{mode: test-always-fail}}}}")),
        [Some(AuthMode::AlwaysFail); 2]
    );
}

#[test]
fn a_rule_is_known_by_its_object() {
    let object =
        read("cnp default/web {endpointSelector: {}, labels: ['user:a=b', {key: c, source: d}], ingress: [{}]}")
            .unwrap()
            .remove(0);
    let texts: Vec<String> = object.labels.iter().map(ToString::to_string).collect();
    for label in [
        "k8s:io.cilium.k8s.policy.derived-from=CiliumNetworkPolicy",
        "k8s:io.cilium.k8s.policy.name=web",
        "k8s:io.cilium.k8s.policy.namespace=default",
        "user:a=b",
        "d:c",
    ] {
        assert!(texts.iter().any(|t| t == label), "{label}: {texts:?}");
    }
    let clusterwide = read("ccnp all {endpointSelector: {}, ingress: [{}]}").unwrap().remove(0);
    assert!(!clusterwide.labels.iter().any(|l| l.key().ends_with("policy.namespace")));
}
