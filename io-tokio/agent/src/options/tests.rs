use super::*;

fn read(args: &[&str], environment: &[(&str, &str)]) -> Result<Read, OptionsError> {
    let args = std::iter::once("cilium-agent").chain(args.iter().copied()).map(OsString::from);
    Options::read(args, &environment.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
}

#[test]
fn the_command_is_well_formed_and_its_defaults_parse() {
    Options::command().debug_assert();
    let options = read(&[], &[]).unwrap().options;
    assert!(options.addresses.enable_ipv4 && options.addresses.enable_ipv6 && !options.debug);
    assert_eq!(options.datapath.bpf_ct_timeout_regular_tcp, Duration::from_secs(8000));
    assert_eq!(options.events.monitor_aggregation_flags, ["syn", "fin", "rst"]);
}

#[test]
fn flags_win_over_variables_and_those_over_files() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("cluster-name", "file\n"),
        ("node-name", "file"),
        ("enable-ipv6", "false"),
        ("ipv4-range", "10.9.0.0/16"),
        ("k8s-client-qps", "10"),
    ] {
        fs::write(dir.path().join(name), value).unwrap();
    }
    fs::create_dir(dir.path().join("..data")).unwrap();
    let path = dir.path().to_str().unwrap();
    let environment = [("CILIUM_NODE_NAME", "variable"), ("CILIUM_IPV4_RANGE", "10.8.0.0/16"), ("HOME", "/root")];
    let found = read(&["--config-dir", path, "--ipv4-range=10.7.0.0/16"], &environment).unwrap();
    assert_eq!(found.options.cluster_name, "file");
    assert_eq!(found.options.node_name.as_deref(), Some("variable"));
    assert_eq!(found.options.addresses.ipv4_range, "10.7.0.0/16");
    assert!(!found.options.addresses.enable_ipv6);
    assert_eq!(found.unknown, ["k8s-client-qps"]);
    let by_variable = read(&[], &[("CILIUM_CONFIG_DIR", path)]).unwrap();
    assert_eq!(by_variable.options.cluster_name, "file");
}

#[test]
fn switches_take_a_value_or_none() {
    for (args, want) in [(&["--debug"][..], true), (&["--debug=true"], true), (&["--debug", "--debug=false"], false)] {
        assert_eq!(read(args, &[]).unwrap().options.debug, want, "{args:?}");
    }
}

#[test]
fn what_is_no_value_is_refused_by_name() {
    for (args, says) in [
        (&["--enable-ipv4=maybe"][..], "--enable-ipv4"),
        (&["--enable-policy=sometimes"], "--enable-policy"),
        (&["--identity-change-grace-period=5"], "--identity-change-grace-period"),
        (&["--identity-change-grace-period=99999999999h"], "a duration"),
        (&["--bpf-policy-map-max=-1"], "--bpf-policy-map-max"),
        (&["--log-opt=loud"], "KEY=VALUE"),
        (&["--no-such-option"], "--no-such-option"),
    ] {
        let error = read(args, &[]).unwrap_err().to_string();
        assert!(error.contains(says), "{args:?}: {error}");
    }
    let missing = read(&["--config-dir=/nonexistent/dir"], &[]).unwrap_err().to_string();
    assert!(missing.contains("/nonexistent/dir"), "{missing}");
    let variable = read(&[], &[("CILIUM_MTU", "large")]).unwrap_err().to_string();
    assert!(variable.contains("--mtu"), "{variable}");
}

#[test]
fn durations_are_read_as_the_reference_writes_them() {
    for (text, millis) in [("0", 0), ("5s", 5_000), ("1m30s", 90_000), ("2h13m20s", 8_000_000), ("200ms", 200)] {
        assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
    }
    for bad in ["", "s", "5", "-1s", "1d", "1.5s"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}
