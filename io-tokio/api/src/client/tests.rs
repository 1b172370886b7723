use super::*;
use std::os::unix::net::UnixListener;

/// Serves one canned answer and returns what was asked.
fn serve(answer: &'static [u8]) -> (tempfile::TempDir, Client, std::thread::JoinHandle<String>) {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("a.sock");
    let listener = UnixListener::bind(&path).expect("bind");
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut seen = Vec::new();
        let mut chunk = [0; 1024];
        while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
            let n = stream.read(&mut chunk).expect("read");
            seen.extend_from_slice(&chunk[..n]);
        }
        stream.write_all(answer).expect("write");
        String::from_utf8(seen).expect("text")
    });
    (dir, Client::new(path, Duration::from_secs(5)), asked)
}

#[test]
fn a_value_comes_back_by_length_and_by_chunks() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}trailing"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n{\"a\":1}",
    ] {
        let (_dir, client, asked) = serve(answer);
        let value: serde_json::Value = client.get("/config").expect("an answer");
        assert_eq!(value["a"], 1);
        assert!(asked.join().expect("server").starts_with("GET /v1/config HTTP/1.1\r\n"));
    }
}

#[test]
fn a_refusal_carries_status_and_the_agents_sentence() {
    let (_dir, client, _) = serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 11\r\n\r\n\"not there\"");
    let error = client.get::<serde_json::Value>("/endpoint/7").expect_err("refused");
    assert_eq!(error.status(), Some(404));
    assert_eq!(error.to_string(), "GET /endpoint/7: 404: not there");
}

#[test]
fn an_answer_cut_short_is_an_error_not_a_value() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\":1}"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"a\r\n",
        b"HTTP/1.1 200",
        b"nonsense\r\n\r\n",
    ] {
        let (_dir, client, _) = serve(answer);
        let error = client.get::<serde_json::Value>("/x").expect_err("broken");
        assert!(matches!(error, ClientError::NotHttp { .. }), "{error}");
    }
}

#[test]
fn no_agent_is_told_from_a_broken_one() {
    let dir = tempfile::tempdir().expect("temp dir");
    let error = Client::new(dir.path().join("none"), Duration::from_secs(1)).get::<()>("/config").expect_err("nobody");
    assert!(error.is_unreachable());
    assert!(error.to_string().contains("CILIUM_SOCK"), "{error}");
}

#[test]
fn path_components_are_escaped() {
    assert_eq!(escape("cni-attachment-id:a/b:eth0"), "cni-attachment-id:a%2Fb:eth0");
    assert_eq!(escape("fd00::1/64"), "fd00::1%2F64");
}

#[test]
fn parsing_answers_never_panics() {
    bolero::check!().for_each(|raw| {
        let _ = parse(raw);
    });
}
