//! Files that fit, and each way in which they may not.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use std::{fs, path::Path};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

fn issue(ca: &Issuer, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let mut params = CertificateParams::new(vec!["n.c.hubble-grpc.cilium.io".to_owned()]).expect("a name");
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, ca).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

fn files(folder: &Path, cert: &str, key: &str) -> ServerFiles {
    let identity = Identity { cert: folder.join("tls.crt"), key: folder.join("tls.key") };
    fs::write(&identity.cert, cert).expect("written");
    fs::write(&identity.key, key).expect("written");
    ServerFiles { identity, client_cas: Vec::new() }
}

#[test]
fn changed_files_are_taken_over_and_bad_ones_are_not() {
    let (folder, ca) = (tempfile::tempdir().expect("a folder"), authority());
    let (cert, key) = issue(&ca, |_| {});
    let tls = ServerTls::load(files(folder.path(), &cert, &key)).expect("they fit");
    let first = tls.current();
    assert!(!tls.reload().expect("still readable"), "nothing changed");
    let (cert, key) = issue(&ca, |_| {});
    files(folder.path(), &cert, &key);
    assert!(tls.reload().expect("they fit"), "both changed");
    let second = tls.current();
    assert!(!Arc::ptr_eq(&first, &second));
    fs::write(folder.path().join("tls.key"), "rubbish").expect("written");
    let why = tls.reload().expect_err("no key").to_string();
    assert!(why.contains("tls.key holds no private key in PEM"), "{why}");
    assert!(Arc::ptr_eq(&tls.current(), &second), "the last good ones stay");
}

#[test]
fn each_fault_is_named_with_its_file() {
    let (folder, ca) = (tempfile::tempdir().expect("a folder"), authority());
    let (cert, key) = issue(&ca, |_| {});
    let (other, _) = issue(&ca, |_| {});
    let (expired, expired_key) = issue(&ca, |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let (early, early_key) = issue(&ca, |params| params.not_before = date_time_ymd(2500, 1, 1));
    let at = |name: &str| folder.path().join(name).display().to_string();
    for (cert, key, want) in [
        (
            &*other,
            &*key,
            format!("the key in {} does not belong to the certificate in {}", at("tls.key"), at("tls.crt")),
        ),
        (&expired, &expired_key, format!("the certificate in {} expired ", at("tls.crt"))),
        (&early, &early_key, format!("the certificate in {} is valid only in ", at("tls.crt"))),
        ("", &key, format!("{} holds no certificate in PEM", at("tls.crt"))),
        (&cert, "", format!("{} holds no private key in PEM", at("tls.key"))),
    ] {
        let why = ServerTls::load(files(folder.path(), cert, key)).expect_err("refused").to_string();
        assert!(why.starts_with(&want), "{why}");
    }
    let missing = ServerFiles { client_cas: vec!["/nonexistent/ca.crt".into()], ..files(folder.path(), &cert, &key) };
    let why = ServerTls::load(missing).expect_err("refused").to_string();
    assert!(why.starts_with("cannot read /nonexistent/ca.crt: "), "{why}");
    let none = ClientFiles { identity: None, server_cas: Vec::new() };
    assert!(matches!(ClientTls::load(none), Err(TlsError::NoCa)));
}
