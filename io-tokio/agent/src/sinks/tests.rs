use std::fs;
use std::net::Ipv4Addr;

use hubble_api::flow::{Flow, TcpFlags, Verdict};
use hubble_files::export::Rotation;
use hubble_model::EndpointInfo;
use hubble_server::{Config, Observer};
use hubble_transport::tls::{Identity, ServerFiles};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;

fn settings(metrics: &str) -> SinkSettings {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    SinkSettings { metrics: metrics.into(), metrics_server: Some(any), series_max: 100, ..SinkSettings::default() }
}

fn node() -> NodeInfo {
    NodeInfo { name: "default/node".into(), labels: Vec::new() }
}

fn syn() -> Flow {
    use hubble_api::flow::{CiliumEventType, Endpoint, Ip, IpVersion, Layer4, Tcp, layer4::Protocol};
    let flags = Some(TcpFlags { syn: true, ..TcpFlags::default() });
    let tcp = Tcp { source_port: 1, destination_port: 80, flags };
    Flow {
        verdict: Verdict::Forwarded.into(),
        ip: Some(Ip { ip_version: IpVersion::IPv4.into(), ..Ip::default() }),
        l4: Some(Layer4 { protocol: Some(Protocol::Tcp(tcp)) }),
        source: Some(Endpoint { namespace: "ns".into(), pod_name: "web".into(), ..Endpoint::default() }),
        event_type: Some(CiliumEventType { r#type: 4, sub_type: 0 }),
        is_reply: Some(false),
        ..Flow::default()
    }
}

/// One HTTP request, and everything that comes back.
async fn get(mut io: impl AsyncRead + AsyncWrite + Unpin, accept: &str) -> String {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// Serves what these sinks count; ends with the runtime.
async fn served(sinks: &Arc<Sinks>, open: bool) -> SocketAddr {
    let listener = page::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (text, counted) = (sinks.clone(), sinks.metrics.clone().unwrap());
    let text = move |accept: &str| text.text(if open { Format::accepted(accept) } else { Format::Text });
    let scraped = move |code, took: Duration| counted.scraped(code, took.as_secs_f64());
    tokio::spawn(page::serve(listener, sinks.tls.clone(), text, scraped, std::future::pending()));
    address
}

use std::net::SocketAddr;

#[tokio::test]
async fn flows_go_in_and_a_scrape_comes_out() {
    let settings = settings("tcp:sourceContext=pod");
    let sinks = Arc::new(Sinks::open(&settings, &node()).unwrap());
    let observer = Observer::with(Config::default(), sinks.extras(&settings));
    observer.publish_flow(syn());
    observer.publish_flow(syn());
    let plain = served(&sinks, false).await;
    let connect = || async move { TcpStream::connect(plain).await.unwrap() };
    let answer = get(connect().await, "application/openmetrics-text; version=1.0.0").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "not asked for by the operator: {answer}");
    let line = "hubble_tcp_flags_total{family=\"IPv4\",flag=\"SYN\",source=\"ns/web\"} 2\n";
    assert!(answer.contains(line), "{answer}");
    let again = get(connect().await, "").await;
    assert!(again.contains("hubble_metrics_http_handler_requests_total{code=\"200\"} 1\n"), "{again}");
    let open = served(&sinks, true).await;
    let answer = get(TcpStream::connect(open).await.unwrap(), "application/openmetrics-text; version=1.0.0").await;
    assert!(answer.contains("content-type: application/openmetrics-text") && answer.ends_with("# EOF\n"), "{answer}");
    assert!(answer.contains("source=\"ns/web\"} 2.0\n"), "{answer}");
    assert_eq!(sinks.plugins(), Some(vec!["tcp"]));
}

#[tokio::test]
async fn tls_is_spoken_with_scrapers_that_have_a_certificate_and_nobody_holds_others_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["node".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(path("cert"), cert.pem()).unwrap();
    fs::write(path("key"), key.serialize_pem()).unwrap();
    let identity = Identity { cert: path("cert"), key: path("key") };
    let mut settings = settings("tcp");
    settings.metrics_tls = Some(ServerFiles { identity, client_cas: Vec::new() });
    let sinks = Arc::new(Sinks::open(&settings, &node()).unwrap());
    let address = served(&sinks, false).await;

    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let client = |alpn: &[&[u8]]| {
        let client =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let mut client = client.with_root_certificates(roots.clone()).with_no_client_auth();
        client.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(client))
    };
    let name = || ServerName::try_from("node").unwrap();
    // A client that says nothing, and one that does not speak TLS.
    let silent = TcpStream::connect(address).await.unwrap();
    let mut clear = TcpStream::connect(address).await.unwrap();
    clear.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
    for alpn in [&[][..], &[b"h2".as_slice(), b"http/1.1"], &[b"http/1.1"]] {
        let io = client(alpn).connect(name(), TcpStream::connect(address).await.unwrap()).await.unwrap();
        let answer = get(io, "").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{alpn:?}: {answer}");
    }
    let mut said = Vec::new();
    let _reset = clear.read_to_end(&mut said).await;
    assert!(!String::from_utf8_lossy(&said).contains("HTTP/1.1 200"), "nothing is told in the clear");
    drop(silent);

    settings.metrics_tls.as_mut().unwrap().identity.key = path("none");
    let why = Sinks::open(&settings, &node()).unwrap_err().to_string();
    assert!(why.contains("none"), "{why}");
}

#[test]
fn files_that_change_are_followed_and_mistakes_are_told_in_the_status() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut settings = settings("");
    settings.metrics_file = Some(path("metrics.yaml"));
    settings.exports_file = Some(path("exports.yaml"));
    settings.rotation = Rotation::default();
    let sinks = Sinks::open(&settings, &node()).unwrap();
    let troubles = sinks.troubles();
    assert!(troubles[0].contains("metrics.yaml") && troubles[1].contains("exports.yaml"), "{troubles:?}");
    fs::write(path("metrics.yaml"), "metrics: [{name: tcp}]").unwrap();
    fs::write(path("exports.yaml"), format!("flowLogs: [{{name: a, filePath: {}}}]", path("a.log").display())).unwrap();
    let mut last = None;
    sinks.reload_metrics(&path("metrics.yaml"), &mut last);
    sinks.reload_exports(&path("exports.yaml"));
    assert_eq!((sinks.troubles(), sinks.plugins()), (Vec::new(), Some(vec!["tcp"])));
    let observer = Observer::with(Config::default(), sinks.extras(&settings));
    observer.publish_flow(syn());
    assert!(sinks.exports.as_ref().unwrap().flush(Duration::from_secs(60)));
    assert_eq!(fs::read_to_string(path("a.log")).unwrap().lines().count(), 1);
    let (_, text) = sinks.text(Format::Text);
    assert!(text.contains("hubble_exporter_events_total{name=\"a\"} 1\n"), "{text}");
    fs::write(path("metrics.yaml"), "metrics: [{name: pct}]").unwrap();
    sinks.reload_metrics(&path("metrics.yaml"), &mut last);
    assert!(sinks.troubles()[0].contains("'pct' does not exist"), "{:?}", sinks.troubles());
    assert_eq!(sinks.plugins(), Some(vec!["tcp"]), "what was there goes on");
    fs::write(path("metrics.yaml"), "metrics: [{name: tcp}]").unwrap();
    sinks.reload_metrics(&path("metrics.yaml"), &mut last);
    assert_eq!(sinks.troubles(), Vec::<String>::new());
}

#[test]
fn pods_that_leave_the_names_lose_their_series() {
    let settings = settings("tcp:sourceContext=pod");
    let sinks = Sinks::open(&settings, &node()).unwrap();
    let observer = Observer::with(Config::default(), sinks.extras(&settings));
    let info = Arc::new(EndpointInfo { namespace: "ns".into(), pod_name: "web".into(), ..EndpointInfo::default() });
    let with = Snapshot { endpoints: [(Ipv4Addr::LOCALHOST.into(), info)].into(), ..Snapshot::default() };
    sinks.pods(&with);
    observer.publish_flow(syn());
    let metrics = sinks.metrics.as_ref().unwrap();
    metrics.sweep(i64::MAX);
    assert!(sinks.text(Format::Text).1.contains("ns/web"), "it is there");
    sinks.pods(&Snapshot::default());
    metrics.sweep(now_ns());
    assert!(sinks.text(Format::Text).1.contains("ns/web"), "for a minute");
    metrics.sweep(i64::MAX);
    assert!(!sinks.text(Format::Text).1.contains("ns/web"));
}

#[tokio::test]
async fn the_end_writes_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings("");
    settings.metrics_server = None;
    settings.history = Some((folder.path().join("history"), hubble_files::history::Limits::default()));
    let sinks = Sinks::open(&settings, &node()).unwrap();
    let observer = Observer::with(Config::default(), sinks.extras(&settings));
    observer.publish_flow(syn());
    sinks.close().await;
    let report = sinks.history.as_ref().unwrap().report();
    assert_eq!((report.written, report.error, report.segments), (1, None, 1));
    // The lock of the folder goes with the last who holds it.
    drop((sinks, observer));
    let again = Sinks::open(&settings, &node()).unwrap();
    assert_eq!(again.history.as_ref().unwrap().report().damage.len(), 0);
    let why = Sinks::open(&settings, &node()).unwrap_err().to_string();
    assert!(why.contains("--hubble-history-path") && why.contains("another agent"), "{why}");
}

/// Whoever keeps a history need not serve metrics of flows to see how it is.
#[tokio::test]
async fn exports_and_history_are_on_one_page() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings("flow");
    settings.history = Some((folder.path().join("history"), hubble_files::history::Limits::default()));
    settings.metrics_server = None;
    let has = |page: &str, line: &str| page.lines().any(|have| have == line);
    let lost = |zero| format!("hubble_history_lost_flows_total{{reason=\"queue_full\"}} {zero}");
    let agents = |sinks: &Arc<Sinks>| metrics::Metrics::new("1", vec![sinks.clone() as Arc<dyn Source>]).render();
    {
        let sinks = Arc::new(Sinks::open(&settings, &node()).unwrap());
        let observer = Observer::with(Config::default(), sinks.extras(&settings));
        observer.publish_flow(syn());
        assert!(sinks.history.as_ref().unwrap().flush(Duration::from_secs(60)));
        let page = agents(&sinks);
        assert!(has(&page, "hubble_history_flows_total 1.0") && has(&page, &lost("0.0")), "{page}");
        assert!(has(&page, "# TYPE hubble_history_bytes gauge") && has(&page, "hubble_history_segments 1.0"), "{page}");
    }
    settings.metrics_server = Some((Ipv4Addr::LOCALHOST, 0).into());
    let sinks = Arc::new(Sinks::open(&settings, &node()).unwrap());
    assert!(!agents(&sinks).contains("hubble_"), "the page of flows has them");
    assert!(has(&sinks.text(Format::Text).1, &lost("0")));
}
