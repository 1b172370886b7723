//! Health-check node ports: whether this node has a backend of a service whose outside traffic must stay on the node.
//!
//! A load balancer outside asks each node and sends clients only to those that say yes. The answer is the reference's: 200
//! with the number of local backends, 503 when there is none.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::world::HealthPorts;

/// Bytes of a request at most, and how long it may take.
const REQUEST_MAX: usize = 8 << 10;
const WITHIN: Duration = Duration::from_secs(5);
/// Requests of one port at once; more wait.
const AT_ONCE_MAX: usize = 64;
/// How long to wait before a port that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Answers on the ports that are asked for at any time.
///
/// # Errors
/// Never; a port that cannot be opened is reported and tried again.
pub async fn serve(mut ports: watch::Receiver<HealthPorts>) -> Result<(), Infallible> {
    let mut open: BTreeMap<u16, tokio::task::AbortHandle> = BTreeMap::new();
    let mut servers = JoinSet::new();
    loop {
        let wanted: Vec<u16> = ports.borrow_and_update().keys().copied().collect();
        open.retain(|port, server| {
            let stays = wanted.contains(port);
            if !stays {
                server.abort();
            }
            stays
        });
        let mut refused = false;
        for port in wanted {
            if open.contains_key(&port) {
                continue;
            }
            match listen(port).await {
                Ok(listener) => {
                    open.insert(port, servers.spawn(one_port(listener, port, ports.clone())));
                }
                Err(why) => {
                    refused = true;
                    tracing::error!(port, %why, "health-check node port cannot be opened; it is tried again");
                }
            }
        }
        tokio::select! {
            changed = ports.changed() => if changed.is_err() {
                // Nobody will ask for other ports any more.
                std::future::pending::<()>().await;
            },
            () = tokio::time::sleep(RETRY), if refused => {}
            Some(_ended) = servers.join_next() => {}
        }
    }
}

/// Both families where there are two.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await,
    }
}

async fn one_port(listener: TcpListener, port: u16, ports: watch::Receiver<HealthPorts>) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= AT_ONCE_MAX {
            connections.join_next().await;
        }
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is left, or the client went: the next one may come.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answer = answer(&ports.borrow(), port);
        connections.spawn(async move {
            let _late = tokio::time::timeout(WITHIN, reply(stream, &answer)).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Reads the request's head and says the same to everything.
async fn reply(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < REQUEST_MAX {
        let mut part = [0; 1024];
        match stream.read(&mut part).await? {
            0 => break,
            read => head.extend_from_slice(part.get(..read).unwrap_or_default()),
        }
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn answer(ports: &HealthPorts, port: u16) -> String {
    let found = ports.get(&port);
    let local = found.map_or(0, |port| port.local);
    let (namespace, name) = found.map_or(("", ""), |port| (&*port.name.namespace, &*port.name.name));
    let body = serde_json::json!({
        "service": { "namespace": namespace, "name": name },
        "localEndpoints": local,
    });
    let body = format!("{body}\n");
    let status = if local > 0 { "200 OK" } else { "503 Service Unavailable" };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {local}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests;
