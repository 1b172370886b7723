use super::*;
use crate::context::Side;

fn one(text: &str) -> PluginConfig {
    let mut all = parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
    assert_eq!(all.len(), 1, "{text}: {all:?}");
    all.remove(0)
}

fn plugins(text: &str) -> Vec<Plugin> {
    parse(text).unwrap_or_else(|why| panic!("{text}: {why}")).iter().map(|config| config.plugin).collect()
}

#[test]
fn lists_are_separated_by_commas_or_space() {
    for text in ["dns drop tcp", "dns,drop,tcp", " dns, drop\ttcp\n", "dns:query;ignoreAAAA drop, tcp"] {
        assert_eq!(plugins(text), [Plugin::Dns, Plugin::Drop, Plugin::Tcp], "{text}");
    }
    assert_eq!(plugins("").len(), 0);
    let all: Vec<&str> = Plugin::ALL.iter().map(|(name, _)| *name).filter(|name| *name != "http").collect();
    assert_eq!(plugins(&all.join(",")).len(), 11);
}

#[test]
fn commas_between_labels_do_not_end_a_plugin() {
    let text = "httpV2:exemplars=true;labelsContext=source_ip,source_namespace,traffic_direction;sourceContext=pod|ip";
    let config = one(text);
    assert!(config.switches.exemplars);
    assert_eq!(config.contexts.labels, [Label::Ip(Side::Source), Label::Namespace(Side::Source), Label::Direction]);
    assert_eq!(config.contexts.source.any, [Context::Pod, Context::Ip]);
    let both = parse("flow:labelsContext=source_ip,destination_ip,dns:query").unwrap();
    assert_eq!((both[0].contexts.labels.len(), both[1].switches.query), (2, true));
    assert_eq!(one("flow:labelsContext=source_ip|source_pod").contexts.labels.len(), 2);
}

#[test]
fn every_option_is_read_whatever_its_case() {
    let config =
        one("flows-to-world:ANY-DROP;port;syn-only=false;sourcecontext=Namespace;DestinationEgressContext=dns|ip");
    assert_eq!(config.switches, Switches { any_drop: true, port: true, ..Switches::default() });
    assert_eq!(config.contexts.source.any, [Context::Namespace]);
    assert_eq!(config.contexts.destination.egress, [Context::Dns, Context::Ip]);
    let config = one("drop:sourceEgressContext=pod;sourceIngressContext=workload;destinationIngressContext=identity");
    assert_eq!(config.contexts.source.egress, [Context::Pod]);
    assert_eq!(config.contexts.source.ingress, [Context::Workload]);
    assert_eq!(config.contexts.destination.ingress, [Context::Identity]);
}

#[test]
fn mistakes_name_plugin_and_option_and_what_is_allowed() {
    for (text, says) in [
        ("dsn", &["'dsn' does not exist", "port-distribution"][..]),
        ("dns:querry", &["dns", "\"querry\"", "query, ignoreAAAA", "labelsContext"]),
        ("tcp:query", &["tcp", "\"query\"", "sourceContext"]),
        ("drop:sourceContext=pods", &["drop", "sourceContext", "unknown context 'pods'", "pod-name"]),
        ("drop:sourceContext", &["drop", "sourceContext=…"]),
        ("drop:labelsContext=source_pd", &["invalid labelsContext value: source_pd", "source_workload_kind"]),
        ("drop:labelsContext=source_ip,source_pd", &["\"source_pd\"", "drop", "source_pod", "flows-to-world"]),
        ("http httpV2", &["http conflicts with plugin httpV2"]),
        ("drop,drop", &["drop is there twice"]),
        ("dns:query;query", &["query is there twice"]),
        ("httpV2:exemplars=maybe", &["httpV2", "exemplars", "\"maybe\""]),
        ("drop:sourceContext=pod|", &[]),
    ] {
        match parse(text) {
            Err(why) => {
                for part in says {
                    assert!(why.to_string().contains(part), "{text}: {why} lacks {part}");
                }
            }
            Ok(_) => assert!(says.is_empty(), "{text} should be refused"),
        }
    }
}
