//! TLS to a server: whom to trust, as whom to appear, and which name the certificate must carry.
//!
//! Files are read once, when the connection is made, so that a wrong one is named before anything is sent. With
//! `--tls-allow-insecure` any certificate is taken; the connection is then secret towards onlookers, not towards whoever
//! poses as the server.

use crate::{Failure, settings::Settings};
use std::{fs, sync::Arc};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    },
};

/// How to secure a connection.
#[derive(Clone)]
pub struct Secure {
    /// Does the handshake.
    pub connector: TlsConnector,
    /// The name the certificate must carry.
    pub name: ServerName<'static>,
}

/// Reads the files the settings name. `host` is the name asked for when the settings name none.
pub fn secure(settings: &Settings, host: &str) -> Result<Secure, Failure> {
    let (flag, name) = match settings.text("tls-server-name") {
        "" => ("--server", host),
        given => ("--tls-server-name", given),
    };
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| Failure(format!("invalid {flag}: {name:?} is neither a DNS name nor an address")))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure(format!("TLS is not available: {error}")))?;
    let builder = if settings.flag("tls-allow-insecure") {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    } else {
        builder.with_root_certificates(roots(settings)?)
    };
    let (cert, key) = (settings.text("tls-client-cert-file"), settings.text("tls-client-key-file"));
    let mut config = if cert.is_empty() {
        builder.with_no_client_auth()
    } else {
        let chain = certificates("--tls-client-cert-file", cert)?;
        let pem = read("--tls-client-key-file", key)?;
        let key_der = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|error| Failure(format!("--tls-client-key-file: no private key in {key}: {error}")))?;
        builder.with_client_auth_cert(chain, key_der).map_err(|error| {
            Failure(format!("--tls-client-cert-file: {cert} and the key in {key} do not fit each other: {error}"))
        })?
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Secure { connector: TlsConnector::from(Arc::new(config)), name })
}

fn read(flag: &str, path: &str) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| Failure(format!("{flag}: cannot read {path}: {error}")))
}

fn certificates(flag: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = read(flag, path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Failure(format!("{flag}: {path} is no PEM: {error}")))?;
    if found.is_empty() { Err(Failure(format!("{flag}: no certificate in {path}: want PEM"))) } else { Ok(found) }
}

/// The authorities of the settings; those of the system when they name none.
fn roots(settings: &Settings) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    let paths = settings.list("tls-ca-cert-files");
    if paths.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    for path in paths {
        for certificate in certificates("--tls-ca-cert-files", path)? {
            roots.add(certificate).map_err(|error| {
                Failure(format!("--tls-ca-cert-files: a certificate in {path} is unusable: {error}"))
            })?;
        }
    }
    if roots.is_empty() {
        return Err(Failure(
            "no certificate authority is known: name some with --tls-ca-cert-files, or accept any server with --tls-allow-insecure"
                .into(),
        ));
    }
    Ok(roots)
}

/// Takes any certificate, as long as the server holds its key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
