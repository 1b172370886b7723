//! TLS: who is trusted, and what is said when somebody is not.

mod common;

use common::hubble;
use hubble_api::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse, GetFlowsRequest,
    GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest, GetNodesResponse, Namespace,
    ServerStatusRequest, ServerStatusResponse,
    observer_server::{Observer, ObserverServer},
};
use hubble_cli::settings::Environment;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{net::SocketAddr, pin::Pin};
use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tonic::{Request, Response, Status};

/// Answers with what the client sent to authorize itself.
struct Mirror;

type Stream<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Observer for Mirror {
    type GetFlowsStream = Stream<GetFlowsResponse>;
    type GetAgentEventsStream = Stream<GetAgentEventsResponse>;
    type GetDebugEventsStream = Stream<GetDebugEventsResponse>;
    async fn get_flows(&self, _: Request<GetFlowsRequest>) -> Result<Response<Self::GetFlowsStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }
    async fn get_agent_events(
        &self,
        _: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }
    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }
    async fn get_nodes(&self, _: Request<GetNodesRequest>) -> Result<Response<GetNodesResponse>, Status> {
        Err(Status::unimplemented("GetNodes not implemented"))
    }
    async fn get_namespaces(
        &self,
        request: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let given = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let namespace = Namespace { namespace: given.unwrap_or("nobody").into(), ..Namespace::default() };
        Ok(Response::new(GetNamespacesResponse { namespaces: vec![namespace] }))
    }
    async fn server_status(&self, _: Request<ServerStatusRequest>) -> Result<Response<ServerStatusResponse>, Status> {
        Ok(Response::new(ServerStatusResponse::default()))
    }
}

struct Lab {
    folder: tempfile::TempDir,
    address: SocketAddr,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

impl Lab {
    /// A server whose certificate names `instance.hubble-relay.cilium.io`.
    async fn start(mutual: bool) -> Self {
        Self::speaking(rustls::ALL_VERSIONS, mutual).await
    }

    /// The same, with these versions of TLS.
    async fn speaking(versions: &[&'static rustls::SupportedProtocolVersion], mutual: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("writable");
        let (ca, other) = (authority("ours"), authority("theirs"));
        write("ca.pem", ca.pem());
        write("other-ca.pem", other.pem());
        write("garbage.pem", "not a certificate".into());
        let issue = |name: &str, issuer: &CertifiedIssuer<'static, KeyPair>| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec![name.to_owned()]).expect("a DNS name");
            (params.signed_by(&key, issuer).expect("signed"), key)
        };
        let (cert, key) = issue("instance.hubble-relay.cilium.io", &ca);
        for (name, issuer) in [("client", &ca), ("stranger", &other)] {
            let (cert, key) = issue("client.hubble-relay.cilium.io", issuer);
            write(&format!("{name}.pem"), cert.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        let provider = std::sync::Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .expect("versions the provider knows");
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(ca.der().clone()).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().expect("one authority"))
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = builder.with_single_cert(vec![cert.der().clone()], key).expect("a certificate and its key");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (accepted, incoming) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whoever fails the handshake is no client of ours.
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = accepted.send(Ok::<_, std::io::Error>(Io(stream))).await;
                }
            }
        });
        let server = tonic::transport::Server::builder().add_service(ObserverServer::new(Mirror));
        tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::ReceiverStream::new(incoming)));
        Self { folder, address }
    }

    /// Runs `list namespaces`; `@` before a name is a file of the lab.
    async fn list(&self, server: &str, flags: &str) -> (i32, String, String) {
        let folder = format!("{}/", self.folder.path().display());
        let server = server.replace("ADDRESS", &self.address.to_string());
        let line = format!("list namespaces --server {server} {flags}").replace('@', &folder);
        hubble(&line.split_whitespace().collect::<Vec<_>>(), "", &Environment::default()).await
    }
}

/// A secured stream as tonic wants it.
struct Io(tokio_rustls::server::TlsStream<tokio::net::TcpStream>);

impl tonic::transport::server::Connected for Io {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl tokio::io::AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

const NAME: &str = "--tls-server-name instance.hubble-relay.cilium.io";

#[tokio::test]
async fn a_trusted_server_of_the_right_name() {
    let lab = Lab::start(false).await;
    let fine = (0, "NAMESPACE\nnobody\n".to_owned(), String::new());
    assert_eq!(lab.list("ADDRESS", &format!("--tls --tls-ca-cert-files @ca.pem {NAME}")).await, fine);
    assert_eq!(lab.list("tls://ADDRESS", &format!("--tls-ca-cert-files @other-ca.pem,@ca.pem {NAME}")).await, fine);
    assert_eq!(lab.list("tls://ADDRESS", "--tls-allow-insecure").await, fine, "whoever it is");
    let older = Lab::speaking(&[&rustls::version::TLS12], true).await;
    let own = "--tls-client-cert-file @client.pem --tls-client-key-file @client.key";
    assert_eq!(older.list("tls://ADDRESS", &format!("--tls-ca-cert-files @ca.pem {NAME} {own}")).await, fine);
    let user = "--tls-allow-insecure --basic-auth-username me --basic-auth-password pass";
    assert_eq!(lab.list("tls://ADDRESS", user).await.1, "NAMESPACE\nBasic bWU6cGFzcw==\n");
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_named_with_the_reason() {
    let lab = Lab::start(false).await;
    for (flags, part) in [
        (
            "--tls-ca-cert-files @ca.pem",
            "as \"127.0.0.1\" failed: invalid peer certificate: certificate not valid for name",
        ),
        (
            "--tls-ca-cert-files @ca.pem --tls-server-name other.cilium.io",
            "as \"other.cilium.io\" failed: invalid peer certificate: certificate not valid for name",
        ),
        (&format!("--tls-ca-cert-files @other-ca.pem {NAME}"), "invalid peer certificate: UnknownIssuer"),
    ] {
        let (code, out, err) = lab.list("tls://ADDRESS", flags).await;
        assert_eq!((code, out.as_str()), (1, ""), "{flags}");
        assert!(err.starts_with("failed to get namespaces: rpc error: code = Unavailable desc = "), "{flags}: {err}");
        assert!(err.contains(part) && err.lines().count() == 1, "{flags}: {err}");
    }
    let (code, _, err) = lab.list("ADDRESS", "").await;
    assert!(code == 1 && err.ends_with("; the server may want --tls\n"), "plain text to a TLS server: {err}");
}

#[tokio::test]
async fn a_server_that_wants_to_know_its_clients() {
    let lab = Lab::start(true).await;
    let trust = format!("--tls --tls-ca-cert-files @ca.pem {NAME}");
    let with = |name: &str| format!("{trust} --tls-client-cert-file @{name}.pem --tls-client-key-file @{name}.key");
    assert_eq!(lab.list("ADDRESS", &with("client")).await.1, "NAMESPACE\nnobody\n");
    for flags in [trust.clone(), with("stranger")] {
        let (code, out, err) = lab.list("ADDRESS", &flags).await;
        assert_eq!((code, out.as_str()), (1, ""), "{flags}");
        assert!(err.starts_with("failed to get namespaces: rpc error: code = "), "{err}");
    }
    let mixed = format!("{trust} --tls-client-cert-file @client.pem --tls-client-key-file @stranger.key");
    let (code, _, err) = lab.list("ADDRESS", &mixed).await;
    assert!(code == 1 && err.starts_with("--tls-client-cert-file: ") && err.contains("do not fit each other"), "{err}");
}

#[tokio::test]
async fn files_that_do_not_do_are_named() {
    let lab = Lab::start(false).await;
    for (flags, want, part) in [
        ("--tls --tls-ca-cert-files /nonexistent.pem", "--tls-ca-cert-files: cannot read /nonexistent.pem: ", ""),
        ("--tls --tls-ca-cert-files @garbage.pem", "--tls-ca-cert-files: no certificate in ", "garbage.pem: want PEM"),
        (
            "--tls --tls-ca-cert-files @ca.pem --tls-server-name a..b",
            "invalid --tls-server-name: \"a..b\" is neither",
            "",
        ),
        (
            "--tls --tls-ca-cert-files @ca.pem --tls-client-cert-file @client.pem --tls-client-key-file @client.pem",
            "--tls-client-key-file: no private key in ",
            "client.pem",
        ),
        (
            "--tls --tls-client-cert-file @client.pem",
            "invalid flag(s): certificate and private key are both required, but only one was provided",
            "",
        ),
        (
            "--tls-client-cert-file @client.pem --tls-client-key-file @client.key",
            "invalid flag(s): transport layer security required",
            "",
        ),
        (
            "--basic-auth-username me --basic-auth-password pass",
            "invalid flag(s): transport layer security required",
            "",
        ),
        (
            "-P --kube-namespace cilium --port-forward-port 4246",
            "--port-forward is not supported: run \"kubectl -n cilium port-forward service/hubble-relay 4246:80\" ",
            "--server localhost:4246",
        ),
    ] {
        let (code, out, err) = lab.list("ADDRESS", flags).await;
        assert_eq!((code, out.as_str()), (1, ""), "{flags}");
        assert!(err.starts_with(want) && err.contains(part) && err.lines().count() == 1, "{flags}: {err}");
    }
}

#[tokio::test]
async fn addresses_that_are_none() {
    for server in [
        "",
        "unix://",
        "http://a",
        "a:b:c",
        "[::1",
        "[x]:1",
        "host:port",
        "host:99999",
        "a b",
        ":4245",
        "[::1]x",
        "a/b",
    ] {
        let (code, _, err) = hubble(&["status", "--server", server], "", &Environment::default()).await;
        assert_eq!(code, 1);
        assert!(
            err.starts_with(&format!("invalid --server {server:?}: ")) && err.lines().count() == 1,
            "{server}: {err}"
        );
    }
}
