//! Certificates and keys in files, checked before anybody relies on them.

use std::{
    fmt, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use x509_cert::der::Decode as _;

/// The only version spoken.
const VERSIONS: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
/// What gRPC speaks inside.
const ALPN: &[u8] = b"h2";

/// A certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Chain in PEM, the end's own first.
    pub cert: PathBuf,
    /// Key in PEM.
    pub key: PathBuf,
}

/// Files of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Who the server is.
    pub identity: Identity,
    /// Who signs clients; empty: any client may come.
    pub client_cas: Vec<PathBuf>,
}

/// Files of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// Who the client is, when servers want to know.
    pub identity: Option<Identity>,
    /// Who signs servers.
    pub server_cas: Vec<PathBuf>,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says itself")]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no {what} in PEM: {why}", path.display())]
    Pem { path: PathBuf, what: &'static str, why: String },
    #[error("the certificate in {} cannot be used: {why}", path.display())]
    Certificate { path: PathBuf, why: String },
    #[error("the certificate in {} expired {} ago: renew it", path.display(), ago(*since))]
    Expired { path: PathBuf, since: Duration },
    #[error("the certificate in {} is valid only in {}: check the clock", path.display(), ago(*until))]
    NotYet { path: PathBuf, until: Duration },
    #[error("the key in {} does not belong to the certificate in {}", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("no CA file is given, so no server could be trusted")]
    NoCa,
}

/// A length of time in its largest unit.
fn ago(time: Duration) -> String {
    match time.as_secs() {
        secs if secs >= 2 * 86_400 => format!("{} days", secs / 86_400),
        secs if secs >= 2 * 3_600 => format!("{} hours", secs / 3_600),
        secs if secs >= 120 => format!("{} minutes", secs / 60),
        secs => format!("{secs} seconds"),
    }
}

/// Files a configuration is made of.
pub trait Files: fmt::Display + Clone + Send + Sync + 'static {
    /// What they make.
    type Config: Send + Sync + fmt::Debug + 'static;
    /// All of them.
    fn paths(&self) -> Vec<&Path>;
    /// Reads and checks them.
    ///
    /// # Errors
    /// See [`TlsError`].
    fn config(&self) -> Result<Self::Config, TlsError>;
}

/// The configuration, and the hash of the contents it was made of.
pub(super) fn build<F: Files>(files: &F) -> Result<(u64, F::Config), TlsError> {
    // Hashed first: contents that change in between are read again at the next look.
    let hash = hash(files)?;
    Ok((hash, files.config()?))
}

pub(super) fn hash(files: &impl Files) -> Result<u64, TlsError> {
    let mut hasher = DefaultHasher::new();
    for path in files.paths() {
        read(path)?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |why: String| TlsError::Pem { path: path.to_owned(), what: "certificate", why };
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|why| bad(why.to_string()))?;
    if found.is_empty() { Err(bad("nothing begins with BEGIN CERTIFICATE".into())) } else { Ok(found) }
}

/// Refuses what is not valid now.
fn check_dates(path: &Path, certificate: &CertificateDer<'_>) -> Result<(), TlsError> {
    let path = path.to_owned();
    let parsed = match x509_cert::Certificate::from_der(certificate) {
        Ok(parsed) => parsed,
        Err(why) => return Err(TlsError::Certificate { path, why: why.to_string() }),
    };
    let validity = parsed.tbs_certificate.validity;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (from, to) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
    match (now.checked_sub(to), from.checked_sub(now)) {
        (Some(since), _) if !since.is_zero() => Err(TlsError::Expired { path, since }),
        (_, Some(until)) if !until.is_zero() => Err(TlsError::NotYet { path, until }),
        _ => Ok(()),
    }
}

fn roots(paths: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for path in paths {
        for certificate in certificates(path)? {
            check_dates(path, &certificate)?;
            let bad = |why: rustls::Error| TlsError::Certificate { path: path.clone(), why: why.to_string() };
            store.add(certificate).map_err(bad)?;
        }
    }
    Ok(store)
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Identity {
    fn load(&self) -> Result<Pair, TlsError> {
        let chain = certificates(&self.cert)?;
        check_dates(&self.cert, &chain[0])?;
        let bad = |why: String| TlsError::Pem { path: self.key.clone(), what: "private key", why };
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|why| bad(why.to_string()))?;
        let unusable = |why: rustls::Error| TlsError::Certificate { path: self.cert.clone(), why: why.to_string() };
        let signer = provider().key_provider.load_private_key(key.clone_key()).map_err(|why| bad(why.to_string()))?;
        match CertifiedKey::new(chain.clone(), signer).keys_match() {
            // A key that cannot tell its public half is seen through when it signs.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok((chain, key)),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(TlsError::Mismatch { cert: self.cert.clone(), key: self.key.clone() })
            }
            Err(why) => Err(unusable(why)),
        }
    }
}

impl Files for ServerFiles {
    type Config = ServerConfig;

    fn paths(&self) -> Vec<&Path> {
        let cas = self.client_cas.iter().map(PathBuf::as_path);
        [self.identity.cert.as_path(), self.identity.key.as_path()].into_iter().chain(cas).collect()
    }

    fn config(&self) -> Result<ServerConfig, TlsError> {
        let (chain, key) = self.identity.load()?;
        let unusable =
            |why: rustls::Error| TlsError::Certificate { path: self.identity.cert.clone(), why: why.to_string() };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&VERSIONS)
            .expect("the provider speaks TLS 1.3");
        let builder = if self.client_cas.is_empty() {
            builder.with_no_client_auth()
        } else {
            let roots = Arc::new(roots(&self.client_cas)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|why| TlsError::Certificate { path: self.client_cas[0].clone(), why: why.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        };
        let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

impl Files for ClientFiles {
    type Config = ClientConfig;

    fn paths(&self) -> Vec<&Path> {
        let own = self.identity.iter().flat_map(|identity| [identity.cert.as_path(), identity.key.as_path()]);
        own.chain(self.server_cas.iter().map(PathBuf::as_path)).collect()
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        if self.server_cas.is_empty() {
            return Err(TlsError::NoCa);
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&VERSIONS)
            .expect("the provider speaks TLS 1.3")
            .with_root_certificates(roots(&self.server_cas)?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.load()?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|why| TlsError::Certificate { path: identity.cert.clone(), why: why.to_string() })?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

fn list(f: &mut fmt::Formatter<'_>, paths: &[&Path]) -> fmt::Result {
    let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    f.write_str(&names.join(", "))
}

impl fmt::Display for ServerFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.paths())
    }
}

impl fmt::Display for ClientFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.paths())
    }
}
