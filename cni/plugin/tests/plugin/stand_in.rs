//! Stands in for the agent: the few calls of the API that the plugin uses, with faults to order.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Works,
    RefusesEndpoints,
    BreaksOffAfterCreating,
    GivesNoAddress,
    GivesNonsense,
    Exhausted,
}

#[derive(Default)]
struct State {
    endpoints: BTreeMap<String, Value>,
    lent: BTreeSet<String>,
    next: u32,
    asked: Vec<String>,
    last_put: Value,
}

/// A running stand-in, or the place where one could run.
pub struct StandIn {
    dir: Arc<tempfile::TempDir>,
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

impl StandIn {
    pub fn start(mode: Mode) -> Self {
        let stand_in = Self::absent();
        stand_in.listen(mode);
        stand_in
    }
    /// Nobody listens.
    pub fn absent() -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("temp dir"));
        Self { socket: dir.path().join("cilium.sock"), dir, state: Arc::default() }
    }
    /// The same place with nobody listening.
    pub fn away(&self) -> Self {
        Self { dir: self.dir.clone(), socket: self.dir.path().join("away.sock"), state: Arc::default() }
    }
    pub fn comes_back(&self) -> Self {
        self.listen(Mode::Works);
        Self { dir: self.dir.clone(), socket: self.socket.clone(), state: self.state.clone() }
    }
    pub fn socket(&self) -> &Path {
        &self.socket
    }
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
    pub fn endpoints(&self) -> usize {
        self.state.lock().expect("state").endpoints.len()
    }
    pub fn lent(&self) -> usize {
        self.state.lock().expect("state").lent.len()
    }
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().expect("state").asked.clone()
    }
    pub fn last_put(&self) -> Value {
        self.state.lock().expect("state").last_put.clone()
    }
    fn listen(&self, mode: Mode) {
        let listener = UnixListener::bind(&self.socket).expect("bind");
        let state = self.state.clone();
        // Ends with the test process; a connection each, as the agent would serve them.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                std::thread::spawn(move || serve(stream, mode, &state));
            }
        });
    }
}

fn serve(mut stream: UnixStream, mode: Mode, state: &Mutex<State>) {
    let Some((method, path, body)) = read(&mut stream) else { return };
    let answer = {
        let mut state = state.lock().expect("state");
        state.asked.push(format!("{method} {path}"));
        state.answer(mode, &method, path.strip_prefix("/v1").unwrap_or(&path), &body)
    };
    let Some((status, value)) = answer else { return };
    let text = value.to_string();
    let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{text}", text.len());
}

fn read(stream: &mut UnixStream) -> Option<(String, String, Value)> {
    let (mut raw, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&raw).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).and_then(|n| n.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                let mut words = head.split(' ');
                let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
                return Some((method, path, serde_json::from_str(body).unwrap_or(Value::Null)));
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(n) => raw.extend_from_slice(&chunk[..n]),
        }
    }
}

impl State {
    fn answer(&mut self, mode: Mode, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let router = json!({"ipv4": {"enabled": true, "ip": "10.0.0.1"}, "ipv6": {"enabled": true, "ip": "fd00::1"}});
        let name = path.strip_prefix("/endpoint/");
        Some(match (method, path) {
            ("GET", "/config") => (200, json!({"status": {"deviceMTU": 1500, "routeMTU": 1450, "addressing": router}})),
            ("POST", _) if path.starts_with("/ipam") => match mode {
                Mode::Exhausted => (502, json!("all 254 IPv4 addresses of the pod range 10.0.0.0/24 are in use")),
                Mode::GivesNoAddress => (201, json!({"address": {}, "host-addressing": router})),
                Mode::GivesNonsense => (201, json!({"address": {"ipv4": "ten"}, "host-addressing": router})),
                _ => {
                    self.next += 1;
                    let (v4, v6) = (format!("10.0.0.{}", 9 + self.next), format!("fd00::{:x}", 15 + self.next));
                    self.lent.extend([v4.clone(), v6.clone()]);
                    (201, json!({"address": {"ipv4": v4, "ipv6": v6}, "host-addressing": router}))
                }
            },
            ("DELETE", _) if path.starts_with("/ipam/") => {
                self.lent.remove(path.trim_start_matches("/ipam/"));
                (200, Value::Null)
            }
            ("PUT", _) => {
                if mode == Mode::RefusesEndpoints {
                    return Some((400, json!("field \"mac\": no")));
                }
                let mut endpoint = json!({"id": 7, "status": {"state": "ready", "networking": {
                    "addressing": [body["addressing"]], "mac": body["mac"], "host-mac": body["host-mac"]}}});
                let id = name?.trim_start_matches("cni-attachment-id:");
                endpoint["status"]["external-identifiers"] =
                    json!({"cni-attachment-id": id, "container-id": body["container-id"]});
                self.last_put = body.clone();
                self.endpoints.insert(name?.to_owned(), endpoint.clone());
                if mode == Mode::BreaksOffAfterCreating {
                    return None;
                }
                (201, endpoint)
            }
            ("GET", "/endpoint") => (200, self.endpoints.values().cloned().collect()),
            ("DELETE", "/endpoint") => {
                let of = |e: &Value| e["status"]["external-identifiers"]["container-id"] == body["container-id"];
                let names: Vec<String> = self.endpoints.iter().filter(|(_, e)| of(e)).map(|(n, _)| n.clone()).collect();
                names.iter().for_each(|name| self.forget(name));
                (if names.is_empty() { 404 } else { 200 }, Value::Null)
            }
            ("GET", _) if path.ends_with("/healthz") => {
                let known = name.is_some_and(|n| self.endpoints.contains_key(n.trim_end_matches("/healthz")));
                if known { (200, json!({"overallHealth": "OK", "connected": true})) } else { (404, Value::Null) }
            }
            ("GET", _) => self.endpoints.get(name?).map_or((404, Value::Null), |e| (200, e.clone())),
            ("DELETE", _) => {
                let there = self.endpoints.contains_key(name?);
                self.forget(name?);
                (if there { 200 } else { 404 }, Value::Null)
            }
            _ => (404, Value::Null),
        })
    }
    fn forget(&mut self, name: &str) {
        let Some(endpoint) = self.endpoints.remove(name) else { return };
        for key in ["ipv4", "ipv6"] {
            if let Some(ip) = endpoint["status"]["networking"]["addressing"][0][key].as_str() {
                self.lent.remove(ip);
            }
        }
    }
}
