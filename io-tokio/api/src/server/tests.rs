use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::client::Client;
use crate::models::{EndpointChangeRequest, EndpointState};

/// Answers 200 to everything and remembers what was asked.
#[derive(Default)]
struct Recorder {
    asked: Mutex<Vec<Request>>,
}
impl Backend for Recorder {
    fn call(&self, request: Request) -> Pending<'_> {
        self.asked.lock().unwrap().push(request);
        Box::pin(async { Reply::ok(&"done") })
    }
}

struct Served {
    _dir: tempfile::TempDir,
    client: Client,
    recorder: Arc<Recorder>,
    _runtime: tokio::runtime::Runtime,
}

fn served() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/api.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let recorder = Arc::new(Recorder::default());
    let app = router(recorder.clone());
    let listener = {
        let _in = runtime.enter();
        listen(&path, SocketOwner::default()).unwrap()
    };
    runtime.spawn(serve(listener, app, std::future::pending()));
    Served { _dir: dir, client: Client::new(path, Duration::from_secs(20)), recorder, _runtime: runtime }
}

fn ask(served: &Served, method: &'static str, path: &str, body: &str) -> (u16, String, Option<Request>) {
    let answer = served.client.send(method, path, &[], body.as_bytes()).unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    (answer.status, text, served.recorder.asked.lock().unwrap().pop())
}

#[test]
fn every_bad_request_is_refused_with_the_field_and_reaches_nobody() {
    let served = served();
    for (method, path, body, status, says) in [
        ("PUT", "/endpoint/1", "", 400, "bad request body"),
        ("PUT", "/endpoint/1", "{", 400, "bad request body"),
        ("PUT", "/endpoint/1", "[]", 400, "bad request body"),
        ("PUT", "/endpoint/1", "{} {}", 400, "trailing"),
        ("PUT", "/endpoint/1", r#"{"containerid":"a"}"#, 400, "unknown field containerid"),
        ("PUT", "/endpoint/1", r#"{"addressing":{"ipv5":"a"}}"#, 400, "unknown field addressing.ipv5"),
        ("PUT", "/endpoint/1", r#"{"addressing":{"ipv4":7}}"#, 400, "field addressing.ipv4"),
        ("PUT", "/endpoint/1", r#"{"state":"sleeping"}"#, 400, "field state"),
        ("PUT", "/endpoint/1", r#"{"interface-index":"seven"}"#, 400, "field interface-index"),
        ("PUT", "/endpoint/0", "{}", 400, "field id"),
        ("PUT", "/endpoint/65536", "{}", 400, "1 to 65535"),
        ("GET", "/endpoint/-1", "", 400, "field id"),
        ("GET", "/endpoint/+1", "", 400, "field id"),
        ("GET", "/endpoint/shape:round", "", 400, "unknown prefix"),
        ("GET", "/endpoint/ipv4:10.0.0", "", 400, "an IPv4 address"),
        ("GET", "/endpoint/cep-name:alone", "", 400, "NAMESPACE/NAME"),
        ("GET", "/endpoint/container-id:", "", 400, "a container id"),
        ("GET", "/endpoint", "{\"a\":1}", 400, "bad request body"),
        ("PATCH", "/endpoint/1/labels", r#"{"user":"app"}"#, 400, "field user"),
        ("GET", "/identity/many", "", 400, "field id"),
        ("POST", "/ipam?family=ipx", "", 400, "query family"),
        ("POST", "/ipam/10.0.0.256", "", 400, "field ip"),
        ("PUT", "/policy?replace=perhaps", "[]", 400, "query replace"),
        ("PUT", "/service/1", r#"{"frontend-address":{"port":70000}}"#, 400, "field frontend-address.port"),
        ("PUT", "/service/70000", "{}", 400, "0 to 65535"),
        ("PATCH", "/config", r#"{"option":{}}"#, 400, "unknown field option"),
        ("GET", "/nowhere", "", 404, "no call of this API"),
        ("POST", "/endpoint/1", "{}", 405, "does not take POST"),
        ("GET", "/recorder", "", 501, "not served by this version"),
    ] {
        let (got, text, asked) = ask(&served, method, path, body);
        assert_eq!(got, status, "{method} {path} {body}: {text}");
        assert!(text.contains(says), "{method} {path} {body}: {text}");
        assert_eq!(asked, None, "{method} {path} {body}");
    }
}

#[test]
fn good_requests_arrive_typed() {
    let served = served();
    let change = EndpointChangeRequest { state: EndpointState::WaitingForIdentity, ..Default::default() };
    let body = serde_json::to_string(&change).unwrap();
    let pod = EndpointRef::Pod { namespace: "ns".into(), name: "web".into() };
    for (method, path, body, want) in [
        ("GET", "/healthz", "", Request::Status { brief: false }),
        ("GET", "/lrp", "", Request::LocalRedirects),
        ("GET", "/endpoint/17", "", Request::Endpoint(EndpointRef::Local(17))),
        ("GET", "/endpoint/cilium-local:17", "", Request::Endpoint(EndpointRef::Local(17))),
        ("GET", "/endpoint/cep-name:ns%2Fweb", "", Request::Endpoint(pod)),
        (
            "GET",
            "/endpoint/ipv6:fd00::1/healthz",
            "",
            Request::EndpointHealth(EndpointRef::Ipv6("fd00::1".parse().unwrap())),
        ),
        (
            "PUT",
            "/endpoint/cni-attachment-id:abc:eth0",
            body.as_str(),
            Request::EndpointPut(EndpointRef::Attachment("abc:eth0".into()), Box::new(change)),
        ),
        ("GET", "/identity/endpoints", "", Request::IdentityEndpoints),
        ("GET", "/identity/256", "", Request::Identity(256)),
        ("GET", "/identity", r#"["k8s:app=web"]"#, Request::Identities { labels: vec!["k8s:app=web".into()] }),
        (
            "POST",
            "/ipam?family=ipv4&owner=ns%2Fweb",
            "",
            Request::AddressAllocate {
                family: Some(Family::V4),
                owner: "ns/web".into(),
                pool: String::new(),
                expiration: false,
            },
        ),
        (
            "DELETE",
            "/ipam/fd00::5",
            "",
            Request::AddressRelease { ip: "fd00::5".parse().unwrap(), pool: String::new() },
        ),
        (
            "PUT",
            "/policy?replace=true&replace-with-labels=k8s:a,k8s:b",
            "[]",
            Request::PolicyPut {
                text: "[]".into(),
                replace: true,
                replace_with_labels: vec!["k8s:a".into(), "k8s:b".into()],
            },
        ),
        ("GET", "/metrics/", "", Request::Metrics),
        ("GET", "/map/cilium_ipcache", "", Request::Map("cilium_ipcache".into())),
    ] {
        let (status, text, asked) = ask(&served, method, path, body);
        assert_eq!((status, asked), (200, Some(want)), "{method} {path}: {text}");
    }
}

#[test]
fn a_body_beyond_the_bound_is_refused() {
    let served = served();
    let body = vec![b' '; BODY_BYTES_MAX + 1];
    let answer = served.client.send("PUT", "/policy", &[], &body).unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(served.recorder.asked.lock().unwrap().len(), 0);
}

#[test]
fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _in = runtime.enter();
    let first = listen(&path, SocketOwner::default()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(matches!(listen(&path, SocketOwner::default()), Err(ListenError::InUse { .. })));
    drop(first);
    listen(&path, SocketOwner::default()).expect("nobody listens any more");
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(listen(&file, SocketOwner::default()), Err(ListenError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");
}

#[test]
fn bodies_of_any_bytes_are_decoded_or_refused_with_a_sentence() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let refused = |reply: Reply| {
            assert_eq!(reply.status, 400);
            assert!(serde_json::from_slice::<String>(&reply.body).unwrap().starts_with("bad request body"));
        };
        body::strict::<EndpointChangeRequest>(bytes).map_or_else(refused, |_| ());
        body::strict::<crate::models::ServiceSpec>(bytes).map_or_else(refused, |_| ());
        body::optional::<Vec<String>>(bytes).map_or_else(refused, |_| ());
        let text = String::from_utf8_lossy(bytes);
        if let Ok(name) = EndpointRef::parse(&text) {
            assert_eq!(EndpointRef::parse(&name.to_string()), Ok(name));
        }
    });
}
