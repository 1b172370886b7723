//! Where options come from, and which are refused.

use super::*;

fn read(line: &str, environment: &[(&str, &str)]) -> Result<(Serve, Vec<String>), OptionsError> {
    let args = ["hubble-relay", "serve"].into_iter().chain(line.split_whitespace()).map(OsString::from);
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let Read { cli, unknown } = Cli::read(args, &environment)?;
    match cli.command {
        Command::Serve(serve) => Ok((*serve, unknown)),
        Command::Version => panic!("serve was asked for"),
    }
}

#[test]
fn defaults_are_the_originals() {
    let (serve, _) = read("", &[]).expect("all have defaults");
    assert_eq!(serve.listen_address.to_string(), "[::]:4245");
    assert_eq!(serve.health_listen_address.to_string(), "[::]:4222");
    assert_eq!(serve.peer_service, "unix:///var/run/cilium/hubble.sock");
    assert_eq!((serve.dial_timeout, serve.retry_timeout), (Duration::from_secs(30), Duration::from_secs(30)));
    assert_eq!((serve.sort_buffer_len_max, serve.sort_buffer_drain_timeout), (100, Duration::from_secs(1)));
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.yaml");
    std::fs::write(
        &file,
        "peer-service: a:1\nretry-timeout: 1s\ndial-timeout: 1s\ntls-hubble-server-ca-files: [/a, /b]\ntls-client-cert-file: /c\nnonsense: 1\ndisable-server-tls: true\n",
    )
    .expect("written");
    let line = format!("--config {} --dial-timeout 3s", file.display());
    let environment = [("RELAY_RETRY_TIMEOUT", "2s"), ("RELAY_DIAL_TIMEOUT", "2s")];
    let (serve, unknown) = read(&line, &environment).expect("valid");
    let secs = Duration::from_secs;
    assert_eq!((serve.dial_timeout, serve.retry_timeout, serve.peer_service.as_str()), (secs(3), secs(2), "a:1"));
    assert_eq!(serve.tls_hubble_server_ca_files, [PathBuf::from("/a"), "/b".into()]);
    assert_eq!(serve.tls_hubble_client_cert_file, Some("/c".into()), "an old name still counts");
    assert!(serve.disable_server_tls);
    assert_eq!(unknown, ["nonsense"]);
    let from_variable = [("RELAY_CONFIG", file.to_str().expect("text"))];
    assert_eq!(read("", &from_variable).expect("valid").0.peer_service, "a:1");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let plain = "--disable-client-tls --disable-server-tls";
    let refused = |line: &str| match read(line, &[]) {
        Err(why) => why.to_string(),
        Ok((serve, _)) => serve.check("n").expect_err(line).to_string(),
    };
    for (line, want) in [
        ("--config /nonexistent/relay.yaml".to_owned(), "--config: cannot read /nonexistent/relay.yaml"),
        (String::new(), "--tls-hubble-server-ca-files: nodes' certificates cannot be checked without it"),
        ("--disable-client-tls".into(), "--tls-relay-server-cert-file: clients cannot be served with TLS without it"),
        (format!("{plain} --peer-service nowhere"), "--peer-service: \"nowhere\" is no address"),
        (format!("{plain} --retry-timeout 0s"), "--retry-timeout: 0ns is not from 10ms to 1h"),
        (format!("{plain} --retry-timeout soon"), "error: invalid value 'soon' for '--retry-timeout <DURATION>'"),
        (format!("{plain} --listen-address here"), "error: invalid value 'here' for '--listen-address"),
        (format!("{plain} --sort-buffer-len-max 0"), "--sort-buffer-len-max: 0 is not from 1"),
        (format!("{plain} --metrics-listen-address x"), "--metrics-listen-address: \"x\" is no address"),
        (
            format!("{plain} --tls-hubble-client-cert-file /c"),
            "--tls-hubble-client-key-file: --tls-hubble-client-cert-file needs it",
        ),
        (format!("{plain} --tls-relay-client-ca-files /c"), "--disable-server-tls: contradicts the TLS files"),
        (
            "--tls-hubble-server-ca-files /nonexistent/ca.crt --disable-server-tls".into(),
            "TLS towards nodes: cannot read /nonexistent/ca.crt",
        ),
    ] {
        let why = refused(&line);
        assert!(why.starts_with(want), "{line}: {why}");
    }
    let (serve, _) = read(&format!("{plain} --gops=false --pprof --gops-port 1"), &[]).expect("accepted");
    assert_eq!(serve.without_effect(), ["pprof", "gops-port"]);
    assert_eq!(serve.check("n1").expect("valid").settings.node_name, "default/n1");
}
