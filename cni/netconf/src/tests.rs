use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use serde_json::{Value, json};

use super::*;

fn env(pairs: &[(&str, &str)]) -> Result<Invocation, EnvironmentError> {
    let map: BTreeMap<String, String> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    Invocation::parse(|name| map.get(name).map(String::as_str))
}

const ADD: [(&str, &str); 4] =
    [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "abc"), ("CNI_NETNS", "/run/netns/x"), ("CNI_IFNAME", "eth0")];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn sample() -> CniResult {
    CniResult {
        interfaces: vec![
            Interface { name: "lxc1".into(), mac: "02:00:00:00:00:01".into(), sandbox: String::new() },
            Interface { name: "eth0".into(), mac: "02:00:00:00:00:02".into(), sandbox: "/run/netns/x".into() },
        ],
        ips: vec![
            Ip { address: ip("fd00::5"), bits: 128, gateway: Some(ip("fd00::1")), interface: Some(1) },
            Ip { address: ip("10.0.0.5"), bits: 32, gateway: Some(ip("10.0.0.1")), interface: Some(1) },
        ],
        routes: vec![
            Route { dst: (ip("fd00::1"), 128), gw: None, mtu: None },
            Route { dst: (ip("::"), 0), gw: Some(ip("fd00::1")), mtu: Some(1450) },
            Route { dst: (ip("10.0.0.1"), 32), gw: None, mtu: None },
            Route { dst: (ip("0.0.0.0"), 0), gw: Some(ip("10.0.0.1")), mtu: Some(1450) },
        ],
    }
}

#[test]
fn a_call_is_read_from_its_variables() {
    let mut vars = ADD.to_vec();
    vars.push(("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop;K8S_POD_INFRA_CONTAINER_ID=q"));
    let call = env(&vars).expect("complete");
    assert_eq!(call.command, Command::Add);
    assert_eq!(call.attachment.endpoint_name(), "cni-attachment-id:abc:eth0");
    assert_eq!((call.args.pod_name.as_str(), call.args.pod_namespace.as_str()), ("web", "shop"));
}

#[test]
fn what_is_missing_or_malformed_is_named() {
    for (change, want) in [
        (("CNI_COMMAND", ""), "CNI_COMMAND is not set"),
        (("CNI_COMMAND", "add"), "CNI_COMMAND must be"),
        (("CNI_CONTAINERID", ""), "CNI_CONTAINERID is required for ADD"),
        (("CNI_CONTAINERID", "../etc"), "CNI_CONTAINERID"),
        (("CNI_CONTAINERID", "a:b"), "CNI_CONTAINERID"),
        (("CNI_NETNS", ""), "CNI_NETNS is required for ADD"),
        (("CNI_IFNAME", "0123456789abcdef"), "CNI_IFNAME"),
        (("CNI_IFNAME", ".."), "CNI_IFNAME"),
        (("CNI_IFNAME", "a/b"), "CNI_IFNAME"),
        (("CNI_ARGS", "K8S_POD_NAME"), "KEY=VALUE"),
        (("CNI_ARGS", "FOO=1"), "IgnoreUnknown=1"),
        (("CNI_ARGS", "IgnoreUnknown=yes"), "IgnoreUnknown must be"),
    ] {
        let mut vars: Vec<_> = ADD.iter().filter(|(name, _)| *name != change.0).copied().collect();
        vars.push(change);
        let error = env(&vars).expect_err("must be refused").to_string();
        assert!(error.contains(want), "{change:?}: {error}");
    }
}

#[test]
fn del_needs_no_namespace_and_status_needs_nothing() {
    let call = env(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "abc"), ("CNI_IFNAME", "eth0")]).expect("complete");
    assert_eq!(call.netns, "");
    for command in ["STATUS", "GC", "VERSION"] {
        assert!(env(&[("CNI_COMMAND", command)]).is_ok(), "{command}");
    }
}

#[test]
fn a_configuration_is_read() {
    let conf = NetConf::parse(
        br#"{"cniVersion":"1.0.0","name":"cilium","type":"cilium-cni","mtu":1400,"enable-debug":true,"ipam":{"type":"x"},
        "args":{"cilium":{"labels":["app=web","k8s:tier=db"]}},"capabilities":{"portMappings":true},"dns":null}"#,
    )
    .expect("valid");
    assert_eq!((conf.version, conf.mtu, conf.enable_debug), (Version::V1_0_0, 1400, true));
    assert_eq!(conf.labels, ["app=web", "k8s:tier=db"]);
    assert_eq!(NetConf::parse(b"{}").expect("all optional").version, Version::V0_1_0);
}

#[test]
fn a_field_of_another_type_is_refused_by_name() {
    for (text, want, code) in [
        (r#"{"mtu":"big"}"#, "\"mtu\" must be 0 or a whole number from 68 to 65535, not \"big\"", 7),
        (r#"{"mtu":67}"#, "\"mtu\"", 7),
        (r#"{"mtu":1e9}"#, "\"mtu\"", 7),
        (r#"{"enable-debug":1}"#, "\"enable-debug\" must be true or false, not 1", 7),
        (r#"{"args":[]}"#, "\"args\" must be an object", 7),
        (r#"{"args":{"cilium":{"labels":"app=web"}}}"#, "\"args.cilium.labels\"", 7),
        (r#"{"cniVersion":"9.9.9"}"#, "9.9.9", 1),
        (r#"{"cniVersion":3}"#, "\"cniVersion\" must be a string", 7),
        (r#"{"plugins":[]}"#, "one element of a list", 7),
        (r#"{"prevResult":{"ips":[{"address":"10.0.0.1"}]}}"#, "ips[].address", 7),
        (r#"{"prevResult":{"ips":[{"address":"10.0.0.1/32","interface":4}]}}"#, "ips[].interface", 7),
        (r#"{"cni.dev/valid-attachments":[{"containerID":"a"}]}"#, "valid-attachments", 7),
        ("[1]", "not a JSON object", 6),
        ("{", "not a JSON object", 6),
        ("", "not a JSON object", 6),
    ] {
        let failure = Failure::from(NetConf::parse(text.as_bytes()).expect_err(text));
        assert!(failure.to_string().contains(want), "{text}: {failure}");
        assert_eq!(failure.code.number(), code, "{text}");
    }
}

#[test]
fn results_take_each_versions_form() {
    let parse = |version| -> Value { serde_json::from_str(&sample().to_json(version)).expect("own output") };
    let old = parse(Version::V0_2_0);
    assert_eq!(old["ip4"]["ip"], "10.0.0.5/32");
    assert_eq!(old["ip6"]["routes"][1], json!({"dst": "::/0", "gw": "fd00::1", "mtu": 1450}));
    assert!(old.get("interfaces").is_none());
    let middle = parse(Version::V0_4_0);
    assert_eq!(middle["ips"][0]["version"], "6");
    assert_eq!(middle["cniVersion"], "0.4.0");
    let new = parse(Version::V1_1_0);
    assert_eq!(new["ips"][1], json!({"address": "10.0.0.5/32", "gateway": "10.0.0.1", "interface": 1}));
    assert_eq!(new["interfaces"][1]["sandbox"], "/run/netns/x");
}

#[test]
fn a_result_handed_back_is_the_one_given() {
    for version in SUPPORTED.into_iter().filter(|v| *v >= Version::V0_3_0) {
        let value: Value = serde_json::from_str(&sample().to_json(version)).expect("own output");
        assert_eq!(CniResult::from_value(&value), Ok(sample()), "{version}");
    }
}

#[test]
fn names_follow_the_attachment() {
    let attachment = Attachment { container_id: "abc".into(), ifname: "eth0".into() };
    // sha256("abc:eth0")
    assert_eq!(host_interface_name(&attachment), "lxcb133159de544");
    assert_eq!(host_interface_name(&attachment).len(), 15);
    let name = delete_queue_file_name(br#"{"container-id":"abc"}"#);
    assert_eq!(name, "ca3d0dc2900b429cc3717396dc059b05cb3af7e094f0b159ad2d331afddc8007.delete");
}

#[test]
fn errors_and_versions_print_as_the_specification_says() {
    let failure = Failure::new(Code::TryAgainLater, "DaemonDown").with_details("no socket");
    let value: Value = serde_json::from_str(&failure.to_json(Version::V1_0_0)).expect("own output");
    assert_eq!(value, json!({"cniVersion": "1.0.0", "code": 11, "msg": "DaemonDown", "details": "no socket"}));
    let value: Value = serde_json::from_str(&version_report()).expect("own output");
    assert_eq!(value["supportedVersions"].as_array().map(Vec::len), Some(7));
    assert_eq!(value["supportedVersions"][6], "1.1.0");
}

#[test]
fn parsing_never_panics_and_what_is_accepted_prints() {
    bolero::check!().for_each(|bytes| {
        if let Ok(conf) = NetConf::parse(bytes) {
            let result = conf.prev_result.unwrap_or_default();
            for version in SUPPORTED {
                assert!(serde_json::from_str::<Value>(&result.to_json(version)).is_ok());
            }
        }
        if let Ok(text) = core::str::from_utf8(bytes) {
            let _ = CniArgs::parse(text);
            let _ =
                env(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", text), ("CNI_NETNS", text), ("CNI_IFNAME", text)]);
        }
    });
}
