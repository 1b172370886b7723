//! What an agent refuses in a policy, condition by condition, each at its place in the document.
#![allow(clippy::unwrap_used, reason = "a test stops where its setting cannot be made")]

use policy::parse::{Options, parse_with};

fn mistakes(kind: &str, spec: &str, options: &Options) -> Vec<String> {
    let text =
        format!("apiVersion: cilium.io/v2\nkind: {kind}\nmetadata: {{name: a, namespace: b}}\nspec: {{{spec}}}\n");
    let errors = parse_with(&text, options).err().unwrap_or_default();
    errors.iter().map(|error| format!("{}: {}", error.path, error.problem)).collect()
}

/// A rule with one entry in a section.
fn rule(section: &str, entry: &str) -> String {
    format!("endpointSelector: {{}}, {section}: [{{{entry}}}]")
}

fn to_ports(ports: &str, more: &str) -> String {
    format!("toPorts: [{{ports: [{ports}]{more}}}]")
}

const CNP: &str = "CiliumNetworkPolicy";
const CCNP: &str = "CiliumClusterwideNetworkPolicy";
const TCP80: &str = "{port: '80', protocol: TCP}";

#[track_caller]
fn refused(kind: &str, spec: &str, options: &Options, path: &str, why: &str) {
    let found = mistakes(kind, spec, options);
    let meant = |text: &String| text.starts_with(&format!("{path}: ")) && text.contains(why);
    assert!(found.iter().any(meant), "{spec}\nwanted {path}: …{why}…\nfound {found:#?}");
}

#[track_caller]
fn taken(kind: &str, spec: &str, options: &Options) {
    assert_eq!(mistakes(kind, spec, options), Vec::<String>::new(), "{spec}");
}

#[test]
fn a_rule_is_about_endpoints_or_about_nodes() {
    let plain = Options::default();
    refused(CNP, "ingress: [{}]", &plain, "spec", "one of endpointSelector and nodeSelector");
    refused(CCNP, "endpointSelector: {}, nodeSelector: {}", &plain, "spec", "endpointSelector and nodeSelector cannot");
    refused(CNP, "nodeSelector: {}", &plain, "spec.nodeSelector", "nodeSelector in a CiliumNetworkPolicy");
    taken(CCNP, "nodeSelector: {}", &plain);
    let nothing = parse_with("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\n", &plain);
    assert!(nothing.unwrap_err()[0].to_string().contains("spec: missing; expected a rule in spec"));
}

/// Members of a rule that name peers; two of them in one allow rule contradict each other.
#[test]
fn two_kinds_of_peers_in_one_allow_rule_are_refused_and_in_a_deny_rule_taken() {
    let options = Options { node_selectors: true, ..Options::default() };
    let ingress = [
        ("fromEndpoints", "[{}]"),
        ("fromCIDR", "[10.0.0.0/8]"),
        ("fromCIDRSet", "[{cidr: 10.0.0.0/8}]"),
        ("fromEntities", "[world]"),
        ("fromNodes", "[{}]"),
        ("fromGroups", "[{aws: {region: r}}]"),
    ];
    let outwards: Vec<(String, &str)> =
        ingress.iter().map(|(name, value)| (name.replace("from", "to"), *value)).collect();
    let more = [("toServices", "[{k8sService: {serviceName: s}}]"), ("toFQDNs", "[{matchName: a.io}]")];
    let egress: Vec<(&str, &str)> = outwards.iter().map(|(name, value)| (name.as_str(), *value)).chain(more).collect();
    for (section, members) in [("ingress", ingress.to_vec()), ("egress", egress)] {
        for (i, (a, x)) in members.iter().enumerate() {
            for (b, y) in &members[i + 1..] {
                let both = format!("{a}: {x}, {b}: {y}");
                let found = mistakes(CNP, &rule(section, &both), &options);
                assert!(found.len() == 1 && found[0].contains(a) && found[0].contains(b), "{both}: {found:?}");
                let fqdn = *a == "toFQDNs" || *b == "toFQDNs";
                if !fqdn {
                    taken(CNP, &rule(&format!("{section}Deny"), &both), &options);
                }
                // An empty list is no second member.
                taken(CNP, &rule(section, &format!("{a}: {x}, {b}: []")), &options);
            }
        }
    }
    let requires = "fromCIDR: [10.0.0.0/8], fromRequires: [{}]";
    taken(CNP, &rule("ingress", requires), &options);
    let services = format!("toServices: [{{k8sService: {{serviceName: s}}}}], {}", to_ports(TCP80, ""));
    refused(CNP, &rule("egress", &services), &options, "spec.egress[0]", "toServices and toPorts");
}

#[test]
fn what_the_agent_has_switched_off_is_refused() {
    let plain = Options::default();
    let l7 = rule("ingress", &to_ports(TCP80, ", rules: {http: [{}]}"));
    taken(CNP, &l7, &plain);
    let without = Options { l7_proxy: false, ..Options::default() };
    refused(CNP, &l7, &without, "spec.ingress[0].toPorts[0].rules", "L7 proxy is not enabled");
    let icmp = rule("ingress", "icmps: [{fields: [{type: 8}]}]");
    taken(CNP, &icmp, &plain);
    let without = Options { icmp_rules: false, ..Options::default() };
    refused(CNP, &icmp, &without, "spec.ingress[0].icmps", "enable-icmp-rules");
    let nodes = rule("ingress", "fromNodes: [{}]");
    taken(CNP, &nodes, &Options { node_selectors: true, ..Options::default() });
    refused(CNP, &nodes, &plain, "spec.ingress[0].fromNodes[0]", "enable-node-selector-labels");
    let both = format!("icmps: [{{fields: [{{type: 8}}]}}], {}", to_ports(TCP80, ""));
    refused(CNP, &rule("ingress", &both), &plain, "spec.ingress[0]", "toPorts and icmps");
}

#[test]
fn ports_have_a_number_or_a_name_and_there_are_few_of_them() {
    let plain = Options::default();
    let at = "spec.ingress[0].toPorts[0].ports";
    for (ports, path, why) in [
        (vec![TCP80; 41].join(", "), at.to_owned(), "at most 40"),
        ("{protocol: TCP}".into(), format!("{at}[0].port"), "missing"),
        ("{port: ''}".into(), format!("{at}[0].port"), "a number from 0 (all) to 65535"),
        ("{port: '65536'}".into(), format!("{at}[0].port"), "a number from 0 (all) to 65535"),
        ("{port: '-1'}".into(), format!("{at}[0].port"), "a number from 0 (all) to 65535"),
        ("{port: a_b}".into(), format!("{at}[0].port"), "a name of up to 15"),
        ("{port: a-name-that-is-long}".into(), format!("{at}[0].port"), "a name of up to 15"),
        ("{port: '80', endPort: 65536}".into(), format!("{at}[0].endPort"), "a number from 0 to 65535"),
        ("{port: '80', protocol: GRE}".into(), format!("{at}[0].protocol"), "allowed: TCP, UDP, SCTP"),
    ] {
        refused(CNP, &rule("ingress", &to_ports(&ports, "")), &plain, &path, why);
    }
    let fields = vec!["{type: 8}"; 41].join(", ");
    let icmps = rule("ingress", &format!("icmps: [{{fields: [{fields}]}}]"));
    refused(CNP, &icmps, &plain, "spec.ingress[0].icmps[0].fields", "at most 40");
    for (field, why) in
        [("{type: 256}", "0 to 255"), ("{type: Nonsense}", "0 to 255"), ("{family: IPv5, type: 1}", "IPv4, IPv6")]
    {
        let found = mistakes(CNP, &rule("ingress", &format!("icmps: [{{fields: [{field}]}}]")), &plain);
        assert!(found.len() == 1 && found[0].contains(why), "{field}: {found:?}");
    }
}

#[test]
fn application_rules_stand_where_something_can_read_them() {
    let plain = Options::default();
    let dns = "{port: '53', protocol: UDP}";
    for (section, ports, rules, path, why) in [
        ("ingress", dns, "dns: [{matchPattern: '*'}]", "spec.ingress[0].toPorts[0].rules", "DNS rule on ingress"),
        (
            "egress",
            "{port: '53', endPort: 60, protocol: UDP}",
            "dns: [{matchPattern: '*'}]",
            "spec.egress[0].toPorts[0].ports[0]",
            "endPort",
        ),
        ("egress", "", "dns: [{matchPattern: '*'}]", "spec.egress[0].toPorts[0].ports", "port 53"),
        ("ingress", "{port: '80', protocol: UDP}", "http: [{}]", "spec.ingress[0].toPorts[0].ports[0]", "TCP only"),
        ("ingress", "{port: '0', protocol: TCP}", "http: [{}]", "spec.ingress[0].toPorts[0].ports[0]", "other than 0"),
        ("ingress", TCP80, "http: [{}], kafka: [{}]", "spec.ingress[0].toPorts[0].rules", ""),
        ("ingress", TCP80, "l7: [{a: b}]", "spec.ingress[0].toPorts[0].rules", ""),
        ("ingress", TCP80, "l7proto: p, l7: [{'': b}]", "spec.ingress[0].toPorts[0].rules.l7[0]", "empty"),
        ("ingress", TCP80, "http: [{path: '('}]", "spec.ingress[0].toPorts[0].rules.http[0].path", "RE2"),
        ("ingress", TCP80, "http: [{method: '['}]", "spec.ingress[0].toPorts[0].rules.http[0].method", "RE2"),
        (
            "ingress",
            TCP80,
            "http: [{headerMatches: [{name: ''}]}]",
            "spec.ingress[0].toPorts[0].rules.http[0].headerMatches[0].name",
            "name",
        ),
        (
            "ingress",
            TCP80,
            "http: [{headerMatches: [{name: a, mismatch: DROP}]}]",
            "spec.ingress[0].toPorts[0].rules.http[0].headerMatches[0].mismatch",
            "LOG",
        ),
        (
            "ingress",
            TCP80,
            "kafka: [{role: produce, apiKey: fetch}]",
            "spec.ingress[0].toPorts[0].rules.kafka[0]",
            "role and apiKey",
        ),
        ("ingress", TCP80, "kafka: [{apiKey: nonsense}]", "spec.ingress[0].toPorts[0].rules.kafka[0].apiKey", ""),
        ("ingress", TCP80, "kafka: [{role: nobody}]", "spec.ingress[0].toPorts[0].rules.kafka[0].role", "produce"),
        (
            "ingress",
            TCP80,
            "kafka: [{apiVersion: '32768'}]",
            "spec.ingress[0].toPorts[0].rules.kafka[0].apiVersion",
            "32767",
        ),
        ("ingress", TCP80, "kafka: [{topic: 'a b'}]", "spec.ingress[0].toPorts[0].rules.kafka[0].topic", "letters"),
    ] {
        refused(CNP, &rule(section, &to_ports(ports, &format!(", rules: {{{rules}}}"))), &plain, path, why);
    }
    let names = ", serverNames: [a.io], rules: {http: [{}]}";
    refused(
        CNP,
        &rule("ingress", &to_ports(TCP80, names)),
        &plain,
        "spec.ingress[0].toPorts[0].serverNames",
        "terminatingTLS",
    );
    refused(
        CNP,
        &rule("egress", &to_ports(TCP80, ", serverNames: ['']")),
        &plain,
        "spec.egress[0].toPorts[0].serverNames[0]",
        "a server name",
    );
    let listener = ", listener: {name: l, envoyConfig: {name: c}}";
    taken(CNP, &rule("egress", &to_ports(TCP80, listener)), &plain);
    refused(
        CNP,
        &rule("ingress", &to_ports(TCP80, listener)),
        &plain,
        "spec.ingress[0].toPorts[0].listener",
        "listener on ingress",
    );
    let both = format!("{listener}, rules: {{http: [{{}}]}}");
    refused(
        CNP,
        &rule("egress", &to_ports(TCP80, &both)),
        &plain,
        "spec.egress[0].toPorts[0].listener",
        "listener and rules",
    );
}

#[test]
fn peers_are_prefixes_names_and_entities_that_exist() {
    let plain = Options::default();
    for (section, entry, path, why) in [
        ("ingress", "fromEntities: [mars]", "fromEntities[0]", "allowed: all, world"),
        ("ingress", "fromCIDR: ['']", "fromCIDR[0]", "ADDRESS/LENGTH"),
        ("ingress", "fromCIDR: [10.0.0.0/33]", "fromCIDR[0]", "ADDRESS/LENGTH"),
        ("ingress", "fromCIDRSet: [{cidr: 10.0.0.1}]", "fromCIDRSet[0].cidr", "ADDRESS/LENGTH"),
        ("ingress", "fromCIDRSet: [{}]", "fromCIDRSet[0]", "one of cidr and cidrGroupRef"),
        ("ingress", "fromCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: g}]", "fromCIDRSet[0]", "cidr and cidrGroupRef"),
        (
            "ingress",
            "fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]",
            "fromCIDRSet[0].except[0]",
            "inside the prefix",
        ),
        ("egress", "toFQDNs: [{matchName: a.io, matchPattern: '*.io'}]", "toFQDNs[0]", "matchName and matchPattern"),
        ("egress", "toFQDNs: [{}]", "toFQDNs[0]", "one of matchName and matchPattern"),
        ("egress", "toFQDNs: [{matchName: 'a b'}]", "toFQDNs[0].matchName", "letters, digits"),
        ("egress", "toFQDNs: [{matchPattern: '[a].io'}]", "toFQDNs[0].matchPattern", "letters, digits"),
        ("ingress", "fromEndpoints: [{matchLabels: {'a b': c}}]", "fromEndpoints[0].matchLabels.a b", "a label key is"),
        (
            "ingress",
            "fromEndpoints: [{matchExpressions: [{key: a, operator: In}]}]",
            "fromEndpoints[0].matchExpressions[0].values",
            "at least one",
        ),
        (
            "ingress",
            "fromEndpoints: [{matchExpressions: [{key: a, operator: in, values: [b]}]}]",
            "fromEndpoints[0].matchExpressions[0].operator",
            "In, NotIn",
        ),
        ("ingressDeny", "authentication: {mode: required}", "authentication", "unknown field"),
        ("egressDeny", "toFQDNs: [{matchName: a.io}]", "toFQDNs", "unknown field"),
        ("ingressDeny", "toPorts: [{rules: {http: [{}]}}]", "toPorts[0].rules", "unknown field"),
    ] {
        refused(CNP, &rule(section, entry), &plain, &format!("spec.{section}[0].{path}"), why);
    }
}
