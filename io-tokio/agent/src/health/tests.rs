use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::serve;
use crate::world::HealthPorts;

async fn ask(port: u16) -> String {
    // The server may not have opened the port yet.
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => break stream,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

fn ports(port: u16, local: usize) -> HealthPorts {
    let name = lb::ServiceName { namespace: "default".into(), name: "web".into() };
    [(port, lb::HealthPort { name, local })].into()
}

#[tokio::test]
async fn a_port_says_how_many_backends_are_here() {
    // A port that is free now; nobody else takes it in the moment until it is opened again.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a free port").port();
    let (tell, told) = watch::channel(ports(free, 2));
    let server = tokio::spawn(serve(told));
    let answer = ask(free).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\nX-Load-Balancing-Endpoint-Weight: 2\r\n"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    let want = serde_json::json!({ "service": { "namespace": "default", "name": "web" }, "localEndpoints": 2 });
    assert_eq!(body, want);
    tell.send_replace(ports(free, 0));
    let answer = ask(free).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    // Asked no more, it is closed.
    tell.send_replace(HealthPorts::new());
    while TcpStream::connect(("127.0.0.1", free)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    server.abort();
}
