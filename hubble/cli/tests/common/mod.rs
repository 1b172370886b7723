//! Commands run within the test, and servers to run them against.
#![allow(dead_code, reason = "each test file uses its own part")]

use hubble_cli::{Io, run, settings::Environment};
use hubble_server::{Config, Listen, Observer, Server};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A server in a folder of its own.
pub struct Lab {
    pub observer: Observer,
    pub folder: tempfile::TempDir,
    pub stop: CancellationToken,
}

impl Lab {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config { node_name: "node-1".into(), cluster_name: "c1".into(), ..Config::default() };
        let observer = Observer::new(config);
        let listen = Listen { unix: Some(folder.path().join("hubble.sock")), tcp: None };
        let server = Server::bind(&listen, observer.clone()).await.expect("a fresh path");
        let stop = CancellationToken::new();
        tokio::spawn(server.run(stop.clone().cancelled_owned()));
        Self { observer, folder, stop }
    }

    pub fn server(&self) -> String {
        format!("unix://{}", self.folder.path().join("hubble.sock").display())
    }

    pub fn environment(&self) -> Environment {
        let home = self.folder.path().display().to_string();
        let variables = BTreeMap::from([("HOME".to_owned(), home)]);
        Environment { variables, directory: PathBuf::from("/nonexistent") }
    }

    /// Runs a command, given as a line, against the server.
    pub async fn hubble(&self, line: &str) -> (i32, String, String) {
        let line = format!("--server {} {line}", self.server());
        hubble(&line.split_whitespace().collect::<Vec<_>>(), "", &self.environment()).await
    }
}

/// Exit code, output and error output of a command.
pub async fn hubble(args: &[&str], input: &str, env: &Environment) -> (i32, String, String) {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = {
        let mut io = Io { input: &mut input.as_bytes(), out: &mut out, err: &mut err, terminal: false };
        run(&args, env, &mut io).await
    };
    (code, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

/// A stream others can watch while it is written to.
#[derive(Clone, Default)]
pub struct Tap(Arc<(Mutex<Vec<u8>>, Notify)>);

impl Tap {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.0.lock().expect("no writer panicked").clone()).expect("text")
    }

    /// Waits until so many lines were written.
    pub async fn wait_for(&self, lines: usize) {
        self.wait_until(|text| text.lines().count() >= lines).await;
    }

    /// Waits until what was written is as wanted.
    pub async fn wait_until(&self, wanted: impl Fn(&str) -> bool) {
        loop {
            let written = self.0.1.notified();
            if wanted(&self.text()) {
                return;
            }
            written.await;
        }
    }
}

impl std::io::Write for Tap {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.0.lock().expect("no writer panicked").extend(bytes);
        self.0.1.notify_one();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
