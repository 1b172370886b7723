//! The command against a server in the same process, and what it says when things are wrong.

mod common;

use common::{Lab, Tap};
use hubble_api::{
    Timestamp,
    flow::{
        AgentEvent, CiliumEventType, Endpoint, Flow, Ip, Layer4, Policy, Tcp, TrafficDirection, Verdict,
        layer4::Protocol,
    },
};
use hubble_cli::{Io, run, settings::Environment};

/// Exit code, output and error output of a command.
async fn hubble(line: &str, input: &str, env: &Environment) -> (i32, String, String) {
    common::hubble(&line.split_whitespace().collect::<Vec<_>>(), input, env).await
}

fn flow(second: i64, pod: &str, verdict: Verdict) -> Flow {
    let end = |pod_name: &str| {
        Some(Endpoint {
            identity: 1234,
            namespace: "shop".into(),
            cluster_name: "c1".into(),
            pod_name: pod_name.into(),
            ..Endpoint::default()
        })
    };
    let tcp = Tcp { source_port: 40_000, destination_port: 80, flags: None };
    Flow {
        time: Some(Timestamp { seconds: second, nanos: 0 }),
        verdict: verdict.into(),
        ip: Some(Ip { source: "10.0.0.1".into(), destination: "10.0.0.2".into(), ip_version: 1, ..Ip::default() }),
        l4: Some(Layer4 { protocol: Some(Protocol::Tcp(tcp)) }),
        source: end(pod),
        destination: end("web"),
        event_type: Some(CiliumEventType { r#type: 4, sub_type: 0 }),
        is_reply: Some(false),
        summary: "TCP Flags: SYN".into(),
        ..Flow::default()
    }
}

#[tokio::test]
async fn flows_come_out_as_the_server_has_them() {
    let lab = Lab::start().await;
    for (second, pod) in [(1, "a"), (2, "b"), (3, "a")] {
        lab.observer.publish_flow(flow(second, pod, Verdict::Forwarded));
    }
    lab.observer.publish_flow(flow(4, "b", Verdict::Dropped));
    let line = |second: i64, pod: &str, verdict: &str| {
        format!(
            "Jan  1 00:00:0{second}.000: shop/{pod}:40000 (ID:1234) -> shop/web:80 (ID:1234) to-endpoint {verdict} (TCP Flags: SYN)\n"
        )
    };
    let (a1, b2, a3, b4) =
        (line(1, "a", "FORWARDED"), line(2, "b", "FORWARDED"), line(3, "a", "FORWARDED"), line(4, "b", "DROPPED"));
    for (args, want) in [
        ("observe", [&a1, &b2, &a3, &b4][..].concat_all()),
        ("observe flows --last 2", [&a3, &b4][..].concat_all()),
        ("observe --first 1", a1.clone()),
        ("observe --from-pod shop/a", [&a1, &a3][..].concat_all()),
        ("observe -n shop --not --verdict FORWARDED", b4.clone()),
        ("observe --all --verdict DROPPED", b4.clone()),
        (
            "observe --where _flow.verdict==Verdict.DROPPED||_flow.source.pod_name=='a'",
            [&a1, &a3, &b4][..].concat_all(),
        ),
        ("observe --not --cel-expression _flow.source.pod_name.startsWith('a')", [&b2, &b4][..].concat_all()),
    ] {
        assert_eq!(lab.hubble(args).await, (0, want, String::new()), "{args}");
    }
    let (code, json, _) = lab.hubble("observe --last 1 -o json").await;
    assert_eq!(code, 0);
    assert!(json.starts_with(r#"{"flow":{"time":"1970-01-01T00:00:04Z","verdict":"DROPPED","IP":"#), "{json}");
    assert!(json.ends_with("\"node_name\":\"c1/node-1\",\"time\":\"1970-01-01T00:00:04Z\"}\n"), "{json}");
    let (code, json, _) = lab.hubble("observe --last 1 -o json --field-mask source.pod_name").await;
    assert_eq!((code, json.as_str()), (0, "{\"flow\":{\"source\":{\"pod_name\":\"b\"}}}\n"));
    let mut verdict = flow(5, "b", Verdict::Dropped);
    verdict.event_type = Some(CiliumEventType { r#type: 5, sub_type: 0 });
    verdict.traffic_direction = TrafficDirection::Ingress.into();
    let policy = Policy { name: "deny-b".into(), kind: "CiliumNetworkPolicy".into(), ..Policy::default() };
    verdict.ingress_denied_by = vec![policy];
    lab.observer.publish_flow(verdict);
    let (_, named, _) = lab.hubble("observe --last 1 --print-policy-names").await;
    assert!(named.contains("policy-verdict:none INGRESS DENIED BY deny-b (CiliumNetworkPolicy) ("), "{named}");
    lab.stop.cancel();
}

trait ConcatAll {
    fn concat_all(&self) -> String;
}

impl ConcatAll for [&String] {
    fn concat_all(&self) -> String {
        self.iter().map(|text| text.as_str()).collect()
    }
}

#[tokio::test]
async fn following_ends_with_the_server_and_without_an_error() {
    let lab = Lab::start().await;
    lab.observer.publish_flow(flow(1, "old", Verdict::Forwarded));
    lab.observer.publish_flow(flow(2, "new", Verdict::Forwarded));
    let tap = Tap::default();
    let line = format!("--server {} observe --follow --last 1 -o json --field-mask source.pod_name", lab.server());
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let (env, mut out, mut err) = (lab.environment(), tap.clone(), Vec::new());
    let follow = async {
        let mut io = Io { input: &mut &b""[..], out: &mut out, err: &mut err, terminal: false };
        run(&args, &env, &mut io).await
    };
    let publish = async {
        tap.wait_for(1).await;
        lab.observer.publish_flow(flow(3, "newer", Verdict::Forwarded));
        tap.wait_for(2).await;
        lab.observer.publish_flow(flow(4, "newest", Verdict::Forwarded));
        tap.wait_for(3).await;
        assert_eq!(lab.observer.streams(), 1);
        lab.stop.cancel();
    };
    let (code, ()) = tokio::join!(follow, publish);
    let line = |pod| format!("{{\"flow\":{{\"source\":{{\"pod_name\":\"{pod}\"}}}}}}\n");
    assert_eq!((code, tap.text()), (0, ["new", "newer", "newest"].map(line).concat()));
    assert_eq!(err, b"");
}

#[tokio::test]
async fn the_state_of_the_server() {
    let lab = Lab::start().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    lab.observer.publish_flow(flow(i64::try_from(now).expect("small"), "a", Verdict::Forwarded));
    lab.observer.publish_agent_event(AgentEvent { r#type: 7, notification: None });
    let (code, out, err) = lab.hubble("status").await;
    assert_eq!((code, err.as_str()), (0, ""));
    let want = format!("Healthcheck (via {}): Ok\nCurrent/Max Flows: 2/4,095 (0.05%)\nFlows/s: ", lab.server());
    assert!(out.starts_with(&want), "{out}");
    let (_, dict, _) = lab.hubble("status -o dict").await;
    assert!(dict.contains("          SEEN FLOWS: 1\n") && dict.contains(" NUM CONNECTED NODES: N/A\n"), "{dict}");
    let (code, nodes, _) = lab.hubble("list nodes").await;
    assert_eq!(code, 0);
    assert!(nodes.starts_with("NAME        STATUS      AGE"), "{nodes}");
    assert!(nodes.contains("c1/node-1   Connected   "), "{nodes}");
    assert_eq!(lab.hubble("list namespaces -o wide").await.1, "NAMESPACE   CLUSTER\nshop        c1\n");
    let json = "[\n  {\n    \"cluster\": \"c1\",\n    \"namespace\": \"shop\"\n  }\n]\n";
    assert_eq!(lab.hubble("list namespaces -o json").await.1, json);
    let (code, events, _) = lab.hubble("observe agent-events").await;
    assert_eq!(code, 0);
    assert!(events.ends_with(": ENDPOINT_CREATED (UNKNOWN)\n"), "{events}");
    assert_eq!(lab.hubble("observe debug-events").await, (0, String::new(), String::new()));
    lab.stop.cancel();
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let lab = Lab::start().await;
    for (args, want) in [
        ("observe --since yesterday", "failed to parse the since time: failed to convert yesterday to time"),
        (
            "observe --last x",
            "invalid argument \"x\" for \"--last\" flag: strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        ("observe --from-ip 1.2.3", "invalid IP address \"1.2.3\" in filter: want an IPv4 or IPv6 address"),
        ("observe --label a~b", "invalid source label filter: unable to parse requirement: invalid label key \"a~b\""),
        ("observe --http-path [", "invalid http path filter: failed to compile regexp \"[\""),
        ("observe --port http", "invalid source port filter: invalid port \"http\": want a number from 0 to 65535"),
        ("observe --frobnicate", "unknown flag: --frobnicate"),
        (
            "observe --where _flow.uuid",
            "invalid argument \"_flow.uuid\" for \"--where\" flag: column 7: the expression must be a bool",
        ),
        (
            "observe --cel-expression _flow.uuid",
            "invalid CEL expression filter \"_flow.uuid\": column 7: the expression must be a bool",
        ),
        (
            "observe --input-file - --cel-expression 1",
            "invalid CEL expression filter \"1\": column 1: the expression must be a bool",
        ),
        ("observe --output", "flag needs an argument: --output"),
        ("observe -o yaml", "invalid output format: yaml"),
        (
            "observe --field-mask source.pod -o json",
            "rpc error: code = InvalidArgument desc = invalid field mask path \"source.pod\"",
        ),
        ("observe --color sometimes", "invalid --color value \"sometimes\": want auto, always or never"),
        (
            "observe --basic-auth-username me",
            "invalid flag(s): must specify both basic-auth-username and basic-auth-password",
        ),
        (
            "observe --tls-client-key-file k",
            "invalid flag(s): certificate and private key are both required, but only one was provided",
        ),
        ("status -o xml", "invalid output format: xml"),
        ("list nodes -o xml", "unknown output format: xml"),
        ("nonsense", "unknown command \"nonsense\" for \"hubble\""),
        ("observe --first 1 --last 1", "cannot set both --first and --last"),
        ("observe --first 1 --all", "cannot set both --first and --all"),
        ("observe --first 1 --follow", "cannot set both --first and --follow"),
        ("observe --last 1 --all", "cannot set both --last and --all"),
        ("observe --follow -o table", "table output format is not compatible with follow mode"),
        ("observe --field-mask uuid -o dict", "dict output format is not compatible with custom field mask"),
        ("observe --pod a --namespace b --from-pod c", "invalid argument"),
        ("observe --not", "trailing --not found in the arguments"),
        ("observe --not --not --pod a", "invalid argument \"true\" for \"--not\" flag: consecutive --not statements"),
        (
            "observe --ip 1.1.1.1 --pod a",
            "invalid argument \"a\" for \"--pod\" flag: filters --ip and --pod cannot be combined",
        ),
        ("observe --until tomorrow", "failed to parse the until time: failed to convert tomorrow to time"),
        ("observe --from-ip 10.0.0.0/40", "invalid IP prefix \"10.0.0.0/40\" in filter: "),
        ("observe --http-status 600", "invalid http status code filter: invalid status code prefix: \"600\""),
        ("observe --protocol ftp", "invalid protocol filter: unknown protocol: \"ftp\""),
        ("observe --fqdn a..", "multiple trailing dots in pattern"),
        ("observe --node-name a/b/c", "too many slashes in pattern"),
        (
            "observe --verdict dropped",
            "invalid argument \"dropped\" for \"--verdict\" flag: invalid --verdict value: dropped",
        ),
        ("observe --drop-reason-desc NO", "invalid argument \"NO\" for \"--drop-reason-desc\" flag: "),
        ("observe --tcp-flags SIN", "invalid argument \"SIN\" for \"--tcp-flags\" flag: unknown tcp flag: SIN"),
        ("observe --type 4:x", "invalid argument \"4:x\" for \"-t, --type\" flag: "),
        (
            "observe --identity nobody",
            "invalid argument \"nobody\" for \"--identity\" flag: invalid security identity, ",
        ),
        (
            "observe --http-header a",
            "invalid argument \"a\" for \"--http-header\" flag: invalid http-header value \"a\"",
        ),
        ("observe --ip-trace-id 0", "invalid argument \"0\" for \"--ip-trace-id\" flag: "),
        ("observe --traffic-direction up", "invalid argument \"up\" for \"--traffic-direction\" flag: up: "),
        ("observe --encrypted=maybe", "invalid argument \"maybe\" for \"--encrypted\" flag: strconv.ParseBool: "),
        ("observe --follow=maybe", "invalid argument \"maybe\" for \"-f, --follow\" flag: strconv.ParseBool: "),
        ("observe --allowlist {", "invalid --allowlist flag: failed to decode '{': "),
        ("observe --denylist {\"novel\":1}", "invalid --denylist flag: failed to decode '{\"novel\":1}': "),
        ("observe --timeout 5", "invalid argument \"5\" for \"--timeout\" flag: time: missing unit in duration \"5\""),
        ("top --by colour", "invalid --by value \"colour\""),
        ("graph -o png", "invalid output format: png"),
        ("list pods", "unknown command \"pods\" for \"hubble list\""),
        ("config get nothing", "unknown key: nothing"),
        ("config set tls maybe", "cannot assign value=maybe for key=tls, expected type=bool: strconv.ParseBool: "),
        ("config set timeout 5", "cannot assign value=5 for key=timeout, expected type=duration: time: missing unit "),
        ("config set a b c", "invalid arguments: set requires exactly 1 or 2 argument(s): got 'a b c'"),
        ("completion csh", "unknown shell \"csh\": want bash, zsh, fish or powershell"),
        ("observe --input-file /nonexistent/file", "failed to open /nonexistent/file: "),
    ] {
        let (code, out, err) = lab.hubble(args).await;
        assert_eq!((code, out.as_str()), (1, ""), "{args}");
        assert!(err.starts_with(want) && err.lines().count() == 1, "{args}: {err}");
    }
    lab.stop.cancel();
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    let env = Environment::default();
    for server in ["unix:///nonexistent/hubble.sock", "127.0.0.1:1", "localhost:1"] {
        let (code, _, err) = hubble(&format!("observe --server {server}"), "", &env).await;
        assert_eq!(code, 1);
        assert!(err.starts_with("rpc error: code = Unavailable desc = "), "{server}: {err}");
        let (code, _, err) = hubble(&format!("status --server {server}"), "", &env).await;
        assert_eq!(code, 1);
        assert!(err.starts_with("failed getting status: rpc error: code = Unavailable desc = "), "{server}: {err}");
    }
    let (code, _, err) = hubble("status --server http://a:b:c", "", &env).await;
    assert_eq!(code, 1);
    assert!(err.starts_with("invalid --server \"http://a:b:c\": "), "{err}");
}

#[tokio::test]
async fn a_file_with_broken_lines() {
    let good =
        r#"{"flow":{"time":"2024-03-01T12:00:00Z","uuid":"u","verdict":"DROPPED"},"time":"2024-03-01T12:00:00Z"}"#;
    let input = format!("{good}\nnot json\n\n{{\"flow\":{{\"novel\":1}}}}\n{{\"flow\":{{\"older\":1}}}}\n{good}");
    let env = Environment::default();
    let (code, out, err) = hubble("observe --input-file - -o jsonpb", &input, &env).await;
    assert_eq!(code, 0);
    assert_eq!(out, format!("{good}\n{{\"flow\":{{}}}}\n{{\"flow\":{{}}}}\n{good}\n"));
    let warnings: Vec<_> = err.lines().collect();
    assert_eq!(warnings.len(), 2, "{err}");
    assert!(warnings[0].starts_with("warning: -: line 2 is skipped: expected an object"), "{err}");
    assert!(warnings[1].starts_with("warning: -: line 4: unknown field \"novel\" in flow.Flow"), "{err}");
    let (_, one, _) = hubble("observe --input-file - -o jsonpb --uuid u --last 1", &input, &env).await;
    assert_eq!(one, format!("{good}\n"));
    let (_, none, _) = hubble("observe --input-file - -o jsonpb --since 2024-03-01T12:00:01Z", &input, &env).await;
    assert_eq!(none, "");
    let (code, _, err) = hubble("observe --input-file - --last 1000001", "", &env).await;
    assert_eq!((code, err.starts_with("--last 1000001: ")), (1, true), "{err}");
}

#[tokio::test]
async fn settings_come_from_flag_environment_file_and_default() {
    let lab = Lab::start().await;
    let mut env = lab.environment();
    let view = hubble("config view", "", &env).await.1;
    assert!(view.contains("\nport-forward-port: \"4245\"\n") && view.contains("\nrequest-timeout: 12s\n"), "{view}");
    assert!(view.contains("\nserver: localhost:4245\n") && view.contains("\ntls-ca-cert-files: []\n"), "{view}");
    assert_eq!(hubble("config set server from-file:1", "", &env).await.0, 0);
    assert_eq!(hubble("config set tls-ca-cert-files a.pem,b.pem", "", &env).await.0, 0);
    assert_eq!(hubble("config get server", "", &env).await.1, "from-file:1\n");
    env.variables.insert("HUBBLE_SERVER".into(), "from-environment:1".into());
    assert_eq!(hubble("config get server", "", &env).await.1, "from-environment:1\n");
    assert_eq!(hubble("config get server --server from-flag:1", "", &env).await.1, "from-flag:1\n");
    env.variables.remove("HUBBLE_SERVER");
    let file = std::fs::read_to_string(env.config_path()).expect("written");
    assert_eq!(file, "server: from-file:1\ntls-ca-cert-files:\n    - a.pem\n    - b.pem\n");
    assert_eq!(hubble("config reset server", "", &env).await.0, 0);
    assert_eq!(hubble("config get server", "", &env).await.1, "localhost:4245\n");
    assert_eq!(hubble("config reset", "", &env).await.0, 0);
    let (code, _, err) = hubble("config reset port-forward-port", "", &env).await;
    assert_eq!((code, err.as_str()), (1, "unhandeld type uint16, please open an issue\n"));
    lab.stop.cancel();
}

#[tokio::test]
async fn a_setting_without_meaning_is_told_with_its_place_and_counts_as_none() {
    let lab = Lab::start().await;
    let server = lab.server();
    for (variable, value, want) in [
        (
            "HUBBLE_TIMEOUT",
            "5",
            "warning: invalid setting HUBBLE_TIMEOUT: time: missing unit in duration \"5\"; \"5s\" is taken\n",
        ),
        (
            "HUBBLE_PORT_FORWARD_PORT",
            "70000",
            "warning: invalid setting HUBBLE_PORT_FORWARD_PORT: strconv.ParseUint: parsing \"70000\": \
             value out of range; \"4245\" is taken\n",
        ),
        (
            "HUBBLE_DEBUG",
            "on",
            "warning: invalid setting HUBBLE_DEBUG: strconv.ParseBool: parsing \"on\": invalid syntax; \
             \"false\" is taken\n",
        ),
    ] {
        let mut env = lab.environment();
        env.variables.insert(variable.into(), value.into());
        let (code, _, err) = common::hubble(&["status", "--server", &server], "", &env).await;
        assert_eq!((code, err.as_str()), (0, want), "{variable}");
        let (code, _, err) = common::hubble(&["observe", "--silent-errors", "--server", &server], "", &env).await;
        assert_eq!((code, err.as_str()), (0, ""), "{variable}");
        let flag = variable.trim_start_matches("HUBBLE_").to_lowercase().replace('_', "-");
        let given = format!("--{flag}={}", if flag == "timeout" { "5s" } else { "0" });
        let (code, _, err) = common::hubble(&["status", "--server", &server, &given], "", &env).await;
        assert_eq!((code, err.as_str()), (0, ""), "the flag counts, not the variable");
    }
    lab.stop.cancel();
}

#[tokio::test]
async fn tls_that_was_misspelt_is_not_plain_text() {
    let lab = Lab::start().await;
    let server = lab.server();
    let mut env = lab.environment();
    env.variables.insert("HUBBLE_TLS".into(), "yes".into());
    let want = "invalid setting HUBBLE_TLS: strconv.ParseBool: parsing \"yes\": invalid syntax";
    let refused = (1, String::new(), format!("{want}\n"));
    assert_eq!(common::hubble(&["status", "--server", &server], "", &env).await, refused);
    let (code, _, err) = common::hubble(&["status", "--server", "tls://127.0.0.1:1"], "", &env).await;
    let told = err.starts_with(&format!("warning: {want}; \"false\" is taken\nfailed getting status: "));
    assert!(code == 1 && told, "TLS is on by the address: {err}");
    env.variables.insert("HUBBLE_COMPAT".into(), "other,Lenient-Settings".into());
    let (code, _, err) = common::hubble(&["status", "--server", &server], "", &env).await;
    assert_eq!((code, err), (0, format!("warning: {want}; \"false\" is taken\n")));
    let env = lab.environment();
    let path = env.config_path();
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
    std::fs::write(&path, "tls: perhaps\n").expect("writable");
    let (code, _, err) = common::hubble(&["status", "--server", &server], "", &env).await;
    let want = format!("invalid setting {}: tls: strconv.ParseBool: ", path.display());
    assert!(code == 1 && err.starts_with(&want), "{err}");
    assert_eq!(common::hubble(&["config", "set", "tls", "false"], "", &env).await.0, 0, "and can be mended");
    assert_eq!(common::hubble(&["status", "--server", &server], "", &env).await.0, 0);
    lab.stop.cancel();
}

#[tokio::test]
async fn words_and_variables_that_mean_nothing_change_nothing() {
    let lab = Lab::start().await;
    for (command, path) in [
        ("observe", "observe"),
        ("observe flows", "observe"),
        ("observe agent-events", "observe agent-events"),
        ("status", "status"),
        ("list nodes", "list nodes"),
        ("list namespaces", "list namespaces"),
        ("config view", "config view"),
        ("version", "version"),
    ] {
        let told = format!("warning: hubble {path} takes no words: \"nonsense\" is passed over\n");
        let (code, out, _) = lab.hubble(command).await;
        assert_eq!(lab.hubble(&format!("{command} nonsense more")).await, (code, out, told), "{command}");
        assert_eq!(code, 0, "{command}");
    }
    let (_, out, _) = lab.hubble("observe --print-raw-filters --pod a").await;
    let mut env = lab.environment();
    for variable in ["HUBBLE_OUTPUT", "HUBBLE_LAST", "HUBBLE_FOLLOW", "HUBBLE_PRINT_RAW_FILTERS", "HUBBLE_POD"] {
        env.variables.insert(variable.into(), "x".into());
    }
    let args = ["observe", "--print-raw-filters", "--pod", "a"];
    assert_eq!(
        common::hubble(&args, "", &env).await,
        (0, out.clone(), String::new()),
        "they are of the command line alone"
    );
    env.variables.insert("HUBBLE_DENYLIST".into(), r#"{"uuid":["u"]}"#.into());
    let (_, with, _) = common::hubble(&args, "", &env).await;
    assert_eq!(with, format!("{out}denylist:\n    - '{{\"uuid\":[\"u\"]}}'\n"));
    lab.stop.cancel();
}

#[tokio::test]
async fn events_of_a_file() {
    let event = |second: u32, kind: &str| {
        format!(r#"{{"agent_event":{{"type":"{kind}"}},"node_name":"n1","time":"2024-03-01T12:00:0{second}Z"}}"#)
    };
    let lines = [event(1, "AGENT_STARTED"), event(2, "POLICY_UPDATED"), "{".into(), event(3, "POLICY_DELETED")];
    let line = |second: u32, kind: &str| format!("Mar  1 12:00:0{second}.000: {kind} (UNKNOWN)\n");
    let (one, two, three) = (line(1, "AGENT_STARTED"), line(2, "POLICY_UPDATED"), line(3, "POLICY_DELETED"));
    for (flags, want) in [
        ("", format!("{one}{two}{three}")),
        ("--last 2", format!("{two}{three}")),
        ("--first 1", one.clone()),
        ("--since 2024-03-01T12:00:02Z --until 2024-03-01T12:00:02Z", two.clone()),
    ] {
        let command = format!("observe agent-events --input-file - {flags}");
        let (code, out, err) = hubble(&command, &lines.join("\n"), &Environment::default()).await;
        assert_eq!((code, out), (0, want), "{flags}: {err}");
        assert!(flags == "--first 1" || err.starts_with("warning: -: line 3 is skipped: "), "{flags}: {err}");
    }
    let debug = r#"{"debug_event":{"type":"DBG_CT_VERDICT","message":"m"},"time":"2024-03-01T12:00:01Z"}"#;
    let (_, out, _) = hubble("observe debug-events --input-file -", debug, &Environment::default()).await;
    assert_eq!(out, "Mar  1 12:00:01.000: N/A DBG_CT_VERDICT MARK: N/A CPU: N/A (m)\n");
}

#[tokio::test]
async fn a_server_tells_what_it_speaks() {
    let lab = Lab::start().await;
    let (code, out, err) = lab.hubble("reflect").await;
    assert_eq!((code, err.as_str()), (0, ""));
    let all: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let files = all["file"].as_array().expect("files");
    let find = |name: &str| files.iter().find(|file| file["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(find("observer/observer.proto")["service"][0]["name"], "Observer");
    let verdict = find("flow/flow.proto")["message_type"][0]["field"].as_array().expect("fields");
    assert!(verdict.iter().any(|field| field["name"] == "verdict" && field["number"] == 2), "{out}");
    find("google/protobuf/timestamp.proto");
    assert!(!files.iter().any(|file| file["package"] == "recorder"), "nobody serves that");
    lab.stop.cancel();
}

#[tokio::test]
async fn help_version_and_completion_need_no_server() {
    let env = Environment::default();
    for (args, part) in [
        ("--help", "Usage:\n  hubble [flags]"),
        ("", "Commands:\n  observe"),
        ("help observe", "Usage:\n  hubble observe [flags]"),
        ("observe -h", "--from-pod"),
        ("list", "nodes"),
        ("version", "hubble "),
        ("completion bash", "complete -F _hubble hubble"),
        ("completion zsh", "#compdef hubble"),
        ("completion fish", "-l from-pod"),
        ("completion powershell", "Register-ArgumentCompleter"),
    ] {
        let (code, out, err) = hubble(args, "", &env).await;
        assert_eq!((code, err.as_str()), (0, ""), "{args}");
        assert!(out.contains(part), "{args}: {out}");
    }
}

#[tokio::test]
async fn an_output_closed_by_its_reader_ends_the_command_in_silence() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut err = Vec::new();
    let mut io = Io { input: &mut &b""[..], out: &mut Closed, err: &mut err, terminal: false };
    assert_eq!(run(&["version".to_owned()], &Environment::default(), &mut io).await, 141);
    assert_eq!(err, b"");
}
