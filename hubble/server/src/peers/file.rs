//! Nodes from a file: for clusters built by hand, before anything finds nodes by itself.
//!
//! One node a line: its name, its address, and, if its certificate is not for the usual name, that name; `-` for a node
//! without TLS. Empty lines and those that begin with `#` say nothing.

use super::{Peer, PeerSource, PeerTable, server_name};
use hubble_transport::Address;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// Port of a node's server when an address has none.
const DEFAULT_PORT: u16 = 4244;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says itself")]
pub enum PeerFileError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}, line {line}: {why}", path.display())]
    Line { path: PathBuf, line: usize, why: String },
}

/// Nodes as a file lists them, followed as it changes. Cloning shares it.
#[derive(Debug, Clone)]
pub struct PeerFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Whether nodes serve with TLS unless a line says otherwise.
    tls: bool,
    listed: Mutex<PeerTable>,
    /// The node itself, once known; in tests, several that share a file.
    these: Mutex<PeerTable>,
    seen: watch::Sender<Arc<PeerTable>>,
}

impl PeerFile {
    /// Reads the file. `tls`: nodes serve with TLS unless their line says otherwise.
    ///
    /// # Errors
    /// When it cannot be read or a line says nothing sensible.
    pub fn open(path: &Path, tls: bool) -> Result<Self, PeerFileError> {
        let listed = read(path, tls)?;
        let seen = watch::Sender::new(Arc::new(listed.clone()));
        let (listed, these) = (Mutex::new(listed), Mutex::default());
        Ok(Self(Arc::new(Inner { path: path.to_owned(), tls, listed, these, seen })))
    }

    /// Reads the file again; true when it changed.
    ///
    /// # Errors
    /// As [`PeerFile::open`]; the nodes known before stay.
    pub fn reload(&self) -> Result<bool, PeerFileError> {
        let fresh = read(&self.0.path, self.0.tls)?;
        let mut listed = self.0.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if *listed == fresh {
            return Ok(false);
        }
        *listed = fresh;
        drop(listed);
        self.publish();
        Ok(true)
    }

    /// Reads the file again from time to time, for ever. What cannot be used is told once for each kind of failure.
    pub async fn watch(self, every: Duration) {
        let mut told = None;
        loop {
            tokio::time::sleep(every).await;
            match self.reload() {
                Ok(true) => tracing::info!(path = %self.0.path.display(), "the list of nodes changed"),
                Ok(false) => told = None,
                Err(why) => {
                    let why = why.to_string();
                    if told.as_ref() != Some(&why) {
                        tracing::warn!(%why, "the list of nodes stays as it was");
                    }
                    told = Some(why);
                }
            }
        }
    }

    /// The node itself is always among them; the file may say more exactly where.
    fn publish(&self) {
        let mut table = self.0.listed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, this) in self.0.these.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            table.entry(name.clone()).or_insert_with(|| this.clone());
        }
        self.0.seen.send_replace(Arc::new(table));
    }
}

impl PeerSource for PeerFile {
    fn peers(&self, this: &Peer) -> watch::Receiver<Arc<PeerTable>> {
        self.0.these.lock().unwrap_or_else(PoisonError::into_inner).insert(this.name.clone(), this.clone());
        self.publish();
        self.0.seen.subscribe()
    }
}

fn read(path: &Path, tls: bool) -> Result<PeerTable, PeerFileError> {
    let text = fs::read_to_string(path).map_err(|source| PeerFileError::Read { path: path.to_owned(), source })?;
    let mut table = PeerTable::new();
    for (number, line) in (1..).zip(text.lines()) {
        let bad = |why: String| PeerFileError::Line { path: path.to_owned(), line: number, why };
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, address, certificate) = match words[..] {
            [] => continue,
            [first, ..] if first.starts_with('#') => continue,
            [name, address] => (name, address, None),
            [name, address, certificate] => (name, address, Some(certificate)),
            _ => return Err(bad("want `name address [name in the certificate, or -]`".into())),
        };
        Address::parse(address, DEFAULT_PORT).map_err(|why| bad(why.to_string()))?;
        let server_name = match certificate {
            Some("-") => None,
            Some(given) => Some(given.to_owned()),
            None => tls.then(|| server_name(name)),
        };
        let peer = Peer { name: name.to_owned(), address: address.to_owned(), server_name };
        if table.insert(name.to_owned(), peer).is_some() {
            return Err(bad(format!("{name} is listed twice")));
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_nodes_and_changes_are_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("peers");
        let text = "# nodes\n\nn1 10.0.0.1\nc2/n2 10.0.0.2:1 other.name\nn3 unix:///run/h.sock -\n";
        fs::write(&path, text).expect("written");
        let file = PeerFile::open(&path, true).expect("valid");
        let this = Peer { name: "n9".into(), address: "10.0.0.9:4244".into(), server_name: None };
        let mut seen = file.peers(&this);
        let show = |table: &PeerTable| -> Vec<String> {
            table
                .values()
                .map(|p| format!("{} {} {}", p.name, p.address, p.server_name.as_deref().unwrap_or("-")))
                .collect()
        };
        let want = [
            "c2/n2 10.0.0.2:1 other.name",
            "n1 10.0.0.1 n1.default.hubble-grpc.cilium.io",
            "n3 unix:///run/h.sock -",
            "n9 10.0.0.9:4244 -",
        ];
        assert_eq!(show(&seen.borrow_and_update()), want);
        assert!(!file.reload().expect("still valid"));
        fs::write(&path, "n1 10.0.0.7 -\n").expect("written");
        assert!(file.reload().expect("valid") && seen.has_changed().expect("open"));
        assert_eq!(show(&seen.borrow_and_update()), ["n1 10.0.0.7 -", "n9 10.0.0.9:4244 -"]);
        for (text, want) in [
            ("n1\n", "line 1: want `name address"),
            ("\nn1 nowhere\n", "line 2: \"nowhere\" is no address"),
            ("n1 10.0.0.1\nn1 10.0.0.2\n", "line 2: n1 is listed twice"),
        ] {
            fs::write(&path, text).expect("written");
            let why = file.reload().expect_err(text).to_string();
            assert!(why.contains(want), "{why}");
        }
        assert!(!seen.has_changed().expect("open"), "what was known stays");
        fs::remove_file(&path).expect("removed");
        assert!(file.reload().expect_err("gone").to_string().starts_with("cannot read "));
    }
}
