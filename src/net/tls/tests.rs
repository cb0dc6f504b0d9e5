//! Files that are of use, and those that are not.

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use super::*;

/// A folder with an authority, and a certificate and key that it signed.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    for (name, text) in [
        ("ca.pem", authority.pem()),
        ("cert.pem", cert.pem()),
        ("key.pem", key.serialize_pem()),
        ("other-key.pem", KeyPair::generate().unwrap().serialize_pem()),
        ("empty.pem", String::new()),
        ("cut.pem", cert.pem().chars().take(100).collect()),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn files(folder: &TempDir, [cert, key, ca]: [&str; 3]) -> Files {
    let at = |name: &str| folder.path().join(name);
    let ca = (!ca.is_empty()).then(|| at(ca));
    Files { identity: Identity { cert: at(cert), key: at(key) }, ca, clients: ClientWants::Certificate }
}

#[test]
fn files_that_fit_are_taken_and_others_are_named_with_what_is_wrong() {
    let folder = folder();
    let load = |names| Tls::load(files(&folder, names));
    assert!(load(["cert.pem", "key.pem", ""]).unwrap().client().is_none());
    assert!(load(["cert.pem", "key.pem", "ca.pem"]).unwrap().client().is_some());
    for (names, expected) in [
        (["none.pem", "key.pem", ""], "none.pem` can't be read: entity not found"),
        (["empty.pem", "key.pem", ""], "empty.pem` has no certificate in PEM"),
        (["key.pem", "key.pem", ""], "key.pem` has no certificate in PEM"),
        (["cut.pem", "key.pem", ""], "cut.pem` can't be read: "),
        (["cert.pem", "cert.pem", ""], "cert.pem` has no private key in PEM"),
        (["cert.pem", "other-key.pem", ""], "other-key.pem` are of no use: the key is not that of the certificate"),
        (["cert.pem", "key.pem", "empty.pem"], "empty.pem` has no certificate in PEM"),
    ] {
        let said = load(names).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn what_is_read_again_is_taken_as_a_whole_or_not_at_all() {
    let folder = folder();
    let tls = Tls::load(files(&folder, ["cert.pem", "key.pem", "ca.pem"])).unwrap();
    let now = || (tls.server.0.get(), tls.client.as_ref().unwrap().0.get());
    let first = now();
    std::fs::copy(folder.path().join("other-key.pem"), folder.path().join("key.pem")).unwrap();
    tls.reload().unwrap_err();
    assert!(Arc::ptr_eq(&first.0, &now().0) && Arc::ptr_eq(&first.1, &now().1));
    let again = self::folder();
    for name in ["cert.pem", "key.pem", "ca.pem"] {
        std::fs::copy(again.path().join(name), folder.path().join(name)).unwrap();
    }
    tls.reload().unwrap();
    assert!(!Arc::ptr_eq(&first.0, &now().0) && !Arc::ptr_eq(&first.1, &now().1));
}
