use std::collections::BTreeMap;
use std::ffi::OsString;

use super::*;

fn host() -> Host {
    let addr = |text: &str| text.parse::<IpAddr>().unwrap();
    Host {
        name: "node".into(),
        ipv4: Some(addr("192.0.2.7")),
        ipv6: Some(addr("2001:db8::7")),
        mtu: Some(9000),
        addresses: vec![addr("192.0.2.7"), addr("2001:db8::7"), addr("198.51.100.1")],
        has_ipv6: true,
    }
}

fn settings(args: &[&str], host: &Host) -> Result<Settings, SettingsError> {
    let args = std::iter::once("cilium-agent").chain(args.iter().copied()).map(OsString::from);
    Settings::new(&Options::read(args, &BTreeMap::new()).unwrap().options, host, 1)
}

#[test]
fn ranges_and_routers_follow_from_the_nodes_addresses() {
    let settings = settings(&[], &host()).unwrap();
    let (ipv4, ipv6) = (settings.agent.ipv4.unwrap(), settings.agent.ipv6.unwrap());
    assert_eq!(ipv4.pod_cidr.to_string(), "10.7.0.0/16");
    assert_eq!(ipv4.router.to_string(), "10.7.0.1");
    assert_eq!(ipv4.node_addrs.len(), 2);
    assert_eq!(ipv6.pod_cidr.to_string(), "f00d::c000:207:0:0/96");
    assert_eq!(ipv6.router.to_string(), "f00d::c000:207:0:1");
    assert_eq!((settings.mtu, settings.node.world_ipv4, settings.node.world_ipv6), (9000, 9, 10));
    assert_eq!(settings.node.lifetimes[..6], abi::config::DEFAULT_LIFETIMES[..6]);
}

#[test]
fn one_family_alone_has_one_world_and_the_other_familys_router_stays_zero() {
    let settings = settings(&["--enable-ipv6=false", "--ipv4-range=10.1.2.0/24"], &host()).unwrap();
    assert!(settings.agent.ipv6.is_none());
    assert_eq!((settings.node.world_ipv4, settings.node.router_ipv6), (2, abi::be::Addr6::default()));
    assert_eq!(settings.pod_ranges().len(), 1);
}

#[test]
fn load_balancing_is_what_the_options_say() {
    let plain = settings(&[], &host()).unwrap();
    let told = &plain.agent.lb;
    assert!(!told.node_ports && !told.external_ips && !told.host_ports && !told.session_affinity);
    assert!(!told.node.addresses.is_empty(), "all of the node's");
    assert_eq!((plain.node.node_port_min, plain.node.node_port_max, plain.node.nat_port_min), (30_000, 32_767, 32_768));
    assert_eq!(told.algorithm, lb::Algorithm::Random);
    let all = settings(
        &[
            "--enable-node-port",
            "--enable-external-ips",
            "--enable-host-port",
            "--enable-session-affinity",
            "--bpf-lb-algorithm=maglev",
            "--bpf-lb-maglev-table-size=65521",
            "--bpf-lb-mode=hybrid",
            "--node-port-range=20000,20100",
            "--bpf-lb-map-max=1000",
        ],
        &host(),
    )
    .unwrap();
    let told = &all.agent.lb;
    assert!(told.node_ports && told.external_ips && told.host_ports && told.session_affinity);
    let lb::Algorithm::Maglev { size, seed } = told.algorithm else { panic!("{:?}", told.algorithm) };
    assert_eq!((size.places(), seed), (65_521, lb::maglev::Seed::default()));
    assert_eq!((all.node.maglev_size, all.node.maglev_seed_v4), (65_521, 0x71dc_da46));
    assert_eq!((all.node.node_port_max, all.node.nat_port_min), (20_100, 20_101));
    let wanted = abi::config::LB_NODE_PORT | abi::config::LB_MAGLEV | abi::config::LB_HYBRID | abi::config::LB_AFFINITY;
    assert_eq!(all.node.lb_flags & wanted, wanted);
    assert_eq!((told.slots_max, all.map_sizes["cilium_lb4_maglev"]), (1_000, 1_000));
    let geneve = settings(&["--bpf-lb-mode=dsr", "--bpf-lb-dsr-dispatch=geneve"], &host()).unwrap();
    assert_ne!(geneve.node.lb_flags & abi::config::LB_DSR_GENEVE, 0);
    assert_eq!(geneve.node.geneve_port.host(), 6081);
    let ipip = ["--bpf-lb-mode=dsr", "--bpf-lb-dsr-dispatch=ipip", "--bpf-lb-dsr-l4-xlate=backend"];
    let ipip = settings(&ipip, &host()).unwrap().node.lb_flags;
    let wanted = abi::config::LB_DSR_IPIP | abi::config::LB_DSR_XLATE_BACKEND;
    assert_eq!(ipip & wanted, wanted);
}

#[test]
fn paths_follow_the_directories_unless_given() {
    let settings = settings(
        &["--state-dir=/run/a", "--lib-dir=/lib/a", "--socket-path=/tmp/x.sock", "--enable-monitor=false"],
        &host(),
    )
    .unwrap();
    let places = settings.places;
    assert_eq!(places.api.to_str(), Some("/tmp/x.sock"));
    assert_eq!(places.hubble.to_str(), Some("/run/a/hubble.sock"));
    assert_eq!(places.state.to_str(), Some("/run/a/state"));
    assert_eq!(places.store.to_str(), Some("/lib/a/kvstore.redb"));
    assert_eq!(places.object.to_str(), Some("/lib/a/bpf/cilium.o"));
    assert_eq!(places.monitor, None);
}

#[test]
fn each_mistake_is_named_by_its_option() {
    let nowhere = Host { ipv4: None, ipv6: None, ..host() };
    let no_ipv6 = Host { has_ipv6: false, ..host() };
    for (args, host, says) in [
        (&["--ipv4-range=10.0.0.0"][..], host(), "--ipv4-range"),
        (&["--ipv4-range=10.0.0.1/16"], host(), "10.0.0.0/16"),
        (&["--ipv4-range=fd00::/96"], host(), "which is not IPv4"),
        (&["--ipv6-range=10.0.0.0/8"], host(), "which is not IPv6"),
        (&["--local-router-ipv4=10.9.0.1"], host(), "10.9.0.1"),
        (&["--enable-ipv4=false", "--enable-ipv6=false"], host(), "neither IPv4 nor IPv6"),
        (&[], nowhere, "--ipv4-range"),
        (&[], no_ipv6, "--enable-ipv6=false"),
        (&["--mtu=100"], host(), "--mtu"),
        (&["--ipv4-node=fd00::1"], host(), "--ipv4-node"),
        (&["--monitor-aggregation-flags=syn,xyz"], host(), "xyz"),
        (&["--trace-payloadlen=100000"], host(), "--trace-payloadlen"),
        (&["--bpf-policy-map-max=1"], host(), "--bpf-policy-map-max"),
        (&["--bpf-lb-maglev-table-size=1000"], host(), "--bpf-lb-maglev-table-size: a Maglev table cannot have 1000"),
        (&["--bpf-lb-maglev-hash-seed=AAAA"], host(), "--bpf-lb-maglev-hash-seed: \"AAAA\" is 3 bytes"),
        (&["--bpf-lb-maglev-hash-seed=?"], host(), "--bpf-lb-maglev-hash-seed"),
        (&["--node-port-range=30000"], host(), "--node-port-range"),
        (&["--node-port-range=32767,30000"], host(), "32767 is not below 30000"),
        (&["--node-port-range=80,30000"], host(), "\"80\" is not from 1024"),
        (&["--nodeport-addresses=203.0.113.0/24"], host(), "none of the node's addresses"),
        (&["--nodeport-addresses=x"], host(), "--nodeport-addresses"),
        (&["--bpf-lb-rss-ipv4-src-cidr=fd00::/64"], host(), "of the other family"),
        (
            &["--bpf-lb-mode=dsr", "--bpf-lb-dsr-l4-xlate=backend"],
            host(),
            "--bpf-lb-dsr-l4-xlate: backend is for packets that come by IPIP",
        ),
        (&["--ipv6-native-routing-cidr=x"], host(), "--ipv6-native-routing-cidr"),
        (&["--bpf-ct-timeout-regular-tcp=0"], host(), "--bpf-ct-timeout-regular-tcp"),
        (&["--hubble-event-buffer-capacity=4096"], host(), "--hubble-event-buffer-capacity"),
        (&["--hubble-listen-address=here"], host(), "--hubble-listen-address"),
        (
            &["--hubble-listen-address=:4244"],
            host(),
            "--hubble-tls-cert-file: it is needed with --hubble-listen-address",
        ),
        (&["--hubble-tls-cert-file=/c", "--hubble-listen-address=:1"], host(), "--hubble-tls-key-file: it is needed"),
        (&["--hubble-tls-cert-file=/c", "--hubble-tls-key-file=/k"], host(), "--hubble-tls-cert-file: cannot read /c"),
        (&["--hubble-disable-tls", "--hubble-tls-cert-file=/c"], host(), "--hubble-disable-tls: contradicts"),
        (&["--hubble-peers-file=/nonexistent"], host(), "--hubble-peers-file: cannot read /nonexistent"),
        (&["--hubble-monitor-events=drop,nonsense"], host(), "--hubble-monitor-events: \"nonsense\""),
        (&["--hubble-event-queue-size=99999999"], host(), "--hubble-event-queue-size"),
        (&["--hubble-observer-queue-size=0"], host(), "--hubble-observer-queue-size"),
        (&["--prometheus-serve-addr=9962"], host(), "--prometheus-serve-addr"),
        (&["--hubble-metrics=dns:querry"], host(), "--hubble-metrics: dns: there is no option \"querry\""),
        (&["--hubble-metrics-series-max=0"], host(), "--hubble-metrics-series-max"),
        (&["--hubble-metrics-server=here"], host(), "--hubble-metrics-server"),
        (&["--hubble-metrics=dns", "--hubble-dynamic-metrics-config-path=/x"], host(), "--hubble-dynamic-metrics"),
        (&["--hubble-metrics-server-enable-tls"], host(), "--hubble-metrics-server-tls-cert-file"),
        (
            &["--hubble-metrics-server-enable-tls", "--hubble-metrics-server-tls-cert-file=/c"],
            host(),
            "--hubble-metrics-server-tls-key-file",
        ),
        (&["--hubble-metrics-server-tls-key-file=/k"], host(), "--hubble-metrics-server-enable-tls"),
        (&["--hubble-export-file-path=x.log"], host(), "--hubble-export-file-path"),
        (&["--hubble-export-file-max-size-mb=0"], host(), "--hubble-export-file-max-size-mb"),
        (&["--hubble-export-fieldmask=verdict,pod"], host(), "--hubble-export-fieldmask"),
        (&["--hubble-export-allowlist={\"pod\":[]}"], host(), "--hubble-export-allowlist: filter 1"),
        (&["--hubble-export-denylist={\"source_ip\":[\"x\"]}"], host(), "--hubble-export-denylist"),
        (&["--hubble-history-path=history"], host(), "--hubble-history-path"),
        (&["--hubble-history-max-size-mb=0"], host(), "--hubble-history-max-size-mb"),
        (&["--hubble-history-max-age=0"], host(), "--hubble-history-max-age"),
        (&["--hubble-redact-http-urlquery"], host(), "--hubble-redact-http-urlquery: nothing is redacted"),
        (
            &["--hubble-redact-enabled", "--hubble-redact-http-headers-allow=a", "--hubble-redact-http-headers-deny=b"],
            host(),
            "--hubble-redact-http-headers-deny",
        ),
        (&["--hubble-drop-events"], host(), "--hubble-drop-events: events are Kubernetes objects"),
        (&["--hubble-drop-events-reasons=bad_luck"], host(), "--hubble-drop-events-reasons: \"bad_luck\""),
        (&["--kvstore=etcd"], host(), "--kvstore"),
        (&["--kvstore-opt=file=x"], host(), "--kvstore-opt"),
    ] {
        let error = settings(args, &host).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(says), "{args:?}: {error}");
    }
}

#[test]
fn map_sizes_name_only_what_differs() {
    assert!(settings(&[], &host()).unwrap().map_sizes.is_empty());
    let sizes = settings(&["--bpf-ct-global-tcp-max=1024"], &host()).unwrap().map_sizes;
    let names: Vec<&str> = sizes.keys().map(String::as_str).collect();
    assert_eq!(names, ["cilium_ct4_global", "cilium_ct6_global"]);
}

#[test]
fn what_becomes_of_flows_is_off_unless_asked_for() {
    let sinks = settings(&[], &host()).unwrap().sinks;
    assert!(sinks.export.is_none() && sinks.history.is_none() && sinks.redact.is_none());
    assert_eq!((sinks.metrics_server, sinks.plugins().len(), sinks.series_max), (None, 0, 10_000));
    let sinks = settings(
        &[
            "--hubble-metrics=dns drop",
            "--hubble-metrics-server=:9965",
            "--hubble-export-file-path=/var/log/events.log",
            "--hubble-export-file-max-size-mb=3",
            "--hubble-export-fieldmask=verdict,source.pod_name",
            "--hubble-export-allowlist={\"verdict\":[\"DROPPED\"]},{\"protocol\":[\"dns\"]}",
            "--hubble-history-path=/var/lib/flows",
            "--hubble-history-max-age=1h",
            "--hubble-redact-enabled",
            "--hubble-redact-http-headers-deny=Cookie,Authorization",
        ],
        &host(),
    )
    .unwrap()
    .sinks;
    let export = sinks.export.as_ref().unwrap();
    assert_eq!((export.rotation.bytes_max, export.mask.len(), export.include.len()), (3 << 20, 2, 2));
    assert_eq!(sinks.history.as_ref().unwrap().1.age_max, Duration::from_secs(3_600));
    let redact = sinks.redact.as_ref().unwrap();
    assert!(redact.user_info && !redact.url_query && !redact.kafka_api_key, "as the reference has it");
    assert_eq!(sinks.plugins().len(), 2);
}
