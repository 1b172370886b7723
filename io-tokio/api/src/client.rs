//! A blocking HTTP/1.1 client for the agent's unix socket.
//!
//! One connection for each request, closed after it: connecting to a unix socket costs microseconds, and a plugin
//! that asks four times gains nothing from a pool. It never retries; whoever asks knows what may be asked twice.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// More than this is no answer of the agent.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// Headers in an answer at most.
const HEADERS_MAX: usize = 64;

/// Why a call gave no value.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or we may not speak to it.
    #[error("cannot reach the Cilium agent at {socket}: {source} ({advice})")]
    Connect {
        /// The socket's path.
        socket: String,
        /// What the kernel said.
        source: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// The connection broke or took too long.
    #[error("{method} {path}: {step} failed: {source}")]
    Transport {
        /// Method.
        method: &'static str,
        /// Path with query.
        path: String,
        /// Send or receive.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The answer is not HTTP/1.1.
    #[error("{method} {path}: the answer is not HTTP: {why}")]
    NotHttp {
        /// Method.
        method: &'static str,
        /// Path with query.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The agent refused.
    #[error("{method} {path}: {status}{}{message}", if message.is_empty() { "" } else { ": " })]
    Refused {
        /// Method.
        method: &'static str,
        /// Path with query.
        path: String,
        /// HTTP status.
        status: u16,
        /// The agent's sentence.
        message: String,
    },
    /// The body is not what this call answers.
    #[error("{method} {path}: unexpected answer: {source}")]
    Body {
        /// Method.
        method: &'static str,
        /// Path with query.
        path: String,
        /// Where decoding stopped.
        source: serde_json::Error,
    },
}

impl ClientError {
    /// The HTTP status, when the agent answered at all.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
    /// Nobody listens on the socket (or it may not be used).
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}

/// What came back: any status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// Speaks to one agent.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the agent that listens on `socket`; each request may take `timeout`.
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { socket: socket.into(), timeout }
    }
    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
    /// `GET path`, decoded.
    ///
    /// # Errors
    /// See [`ClientError`]; any status but 2xx is [`ClientError::Refused`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call("GET", path, &[], None::<&()>)
    }
    /// Sends `body` (if any) as JSON and decodes the answer; an empty answer decodes like `null`.
    ///
    /// # Errors
    /// See [`ClientError`]; any status but 2xx is [`ClientError::Refused`].
    pub fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let body = match body {
            Some(body) => {
                serde_json::to_vec(body).map_err(|source| ClientError::Body { method, path: path.into(), source })?
            }
            None => Vec::new(),
        };
        let answer = self.send(method, path, headers, &body)?;
        if !(200..300).contains(&answer.status) {
            return Err(refused(method, path, &answer));
        }
        let bytes: &[u8] = if answer.body.trim_ascii().is_empty() { b"null" } else { &answer.body };
        serde_json::from_slice(bytes).map_err(|source| ClientError::Body { method, path: path.into(), source })
    }
    /// Sends a request and returns whatever status came back. `path` is without the base path.
    ///
    /// # Errors
    /// All of [`ClientError`] but `Refused` and `Body`.
    pub fn send(
        &self,
        method: &'static str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let transport =
            |step| move |source: io::Error| ClientError::Transport { method, path: path.to_owned(), step, source };
        let mut stream = self.connect()?;
        let mut head =
            format!("{method} {}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", crate::BASE_PATH);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str("Content-Type: application/json\r\n");
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        stream.set_write_timeout(Some(self.timeout)).map_err(transport("sending"))?;
        let mut message = head.into_bytes();
        message.extend_from_slice(body);
        stream.write_all(&message).map_err(transport("sending"))?;
        let raw = read_all(&mut stream, deadline).map_err(transport("receiving"))?;
        parse(&raw).map_err(|why| ClientError::NotHttp { method, path: path.into(), why })
    }
    fn connect(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(&self.socket).map_err(|source| {
            let advice = match source.kind() {
                io::ErrorKind::NotFound => "is the agent running, and is this its socket? See CILIUM_SOCK",
                io::ErrorKind::ConnectionRefused => "the agent is not running; start it or wait for it",
                io::ErrorKind::PermissionDenied => "run as root or as a member of the socket's group",
                _ => "check the path and the agent's log",
            };
            ClientError::Connect { socket: self.socket.display().to_string(), source, advice }
        })
    }
}

fn refused(method: &'static str, path: &str, answer: &Answer) -> ClientError {
    let text = String::from_utf8_lossy(&answer.body);
    // Errors are JSON strings, but a proxy or a panic page may say anything.
    let message = serde_json::from_str::<String>(&text).unwrap_or_else(|_| text.trim().to_owned());
    ClientError::Refused { method, path: path.into(), status: answer.status, message }
}

fn read_all(stream: &mut UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut raw = Vec::with_capacity(4096);
    let mut chunk = [0; 16384];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(raw),
            Ok(n) => raw.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            }
            // The peer closed with our request half read: what it already said still counts.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset && !raw.is_empty() => return Ok(raw),
            Err(e) => return Err(e),
        }
        if raw.len() as u64 > ANSWER_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer is larger than any answer of the agent",
            ));
        }
    }
}

/// Takes an answer apart. `raw` is everything until the peer closed.
fn parse(raw: &[u8]) -> Result<Answer, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(raw).map_err(|_| "bad status line or header")? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial => return Err("the connection closed within the headers"),
    };
    let status = response.code.ok_or("no status")?;
    let body = &raw[head..];
    let find = |name: &str| {
        response
            .headers
            .iter()
            .find(|h| h.name.eq_ignore_ascii_case(name))
            .and_then(|h| std::str::from_utf8(h.value).ok())
    };
    let body = if find("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        dechunk(body)?
    } else if let Some(length) = find("content-length") {
        let length: usize = length.trim().parse().map_err(|_| "content-length is not a number")?;
        body.get(..length).ok_or("the connection closed within the body")?.to_vec()
    } else {
        body.to_vec()
    };
    Ok(Answer { status, body })
}

fn dechunk(mut rest: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut body = Vec::with_capacity(rest.len());
    loop {
        let (skip, size) = match httparse::parse_chunk_size(rest).map_err(|_| "bad chunk size")? {
            httparse::Status::Complete(found) => found,
            httparse::Status::Partial => return Err("the connection closed within a chunk"),
        };
        let size = usize::try_from(size).map_err(|_| "bad chunk size")?;
        if size == 0 {
            return Ok(body);
        }
        rest = &rest[skip..];
        let end = size.checked_add(2).ok_or("bad chunk size")?;
        let chunk = rest.get(..end).ok_or("the connection closed within a chunk")?;
        body.extend_from_slice(&chunk[..size]);
        rest = &rest[end..];
    }
}

/// Escapes one path or query component.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:@,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests;
