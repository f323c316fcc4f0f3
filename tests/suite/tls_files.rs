//! What TLS rests on, and how long: files that change, sessions that are resumed, stapled answers, lists of the revoked.

use crate::kit::{Gateway, Visitor, certificate, curl, eventually, frontdesk, run, secure, shown};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use rustls::HandshakeKind;
use std::path::Path;
use std::process::Command;

fn listener(more: &str) -> String {
    format!("{{ bind: 127.0.0.1:0, tls: {{ certificates: [{{ cert: DIR/tls.pem, key: DIR/tls.key }}]{more} }} }}")
}

fn yaml(listeners: &str, more: &str) -> String {
    format!("listeners: [{listeners}]\nroutes: [{{ path: /*, respond: {{ body: hello }} }}]\n{more}\n")
}

/// A folder with a certificate for `localhost`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path(), "tls", &["localhost"]);
    folder
}

fn copy(from: &Path, to: &Path) {
    for name in ["tls.pem", "tls.key"] {
        std::fs::copy(from.join(name), to.join(name)).expect("a copy");
    }
}

#[test]
fn a_certificate_that_is_renewed_is_shown_without_a_reload() {
    let gateway = Gateway::start_in(folder(), &yaml(&listener(""), ""));
    let met = || shown(&secure(gateway.address(), "localhost", &[]).expect("a handshake"));
    let before = met();
    certificate(gateway.folder(), "tls", &["localhost", "new.example"]);
    eventually("the new certificate", || (met() != before).then_some(()));
    gateway.wait_for_log("read anew");
    assert_eq!(gateway.ask("/status").json()["snapshot"]["version"], 1);
    assert!(gateway.metric("frontdesk_certificate_expiry_seconds{name=\"localhost\"}") > 1e9);
}

#[test]
fn files_that_do_not_fit_leave_the_old_ones_in_use() {
    let gateway = Gateway::start_in(folder(), &yaml(&listener(""), ""));
    let met = || shown(&secure(gateway.address(), "localhost", &[]).expect("a handshake"));
    let before = met();
    let other = folder();
    std::fs::copy(other.path().join("tls.pem"), gateway.file("tls.pem")).expect("a copy");
    gateway.wait_for_log("can't be used, the old ones go on");
    assert_eq!(met(), before);
    // Once the key follows, both are used.
    std::fs::copy(other.path().join("tls.key"), gateway.file("tls.key")).expect("a copy");
    eventually("the new certificate", || (met() != before).then_some(()));
    std::fs::remove_file(gateway.file("tls.key")).expect("the key");
    eventually("the reason", || (gateway.log().iter().filter(|line| line.contains("can't be used")).count() == 2).then_some(()));
    assert!(met() != before);
}

#[test]
fn a_session_is_resumed_after_an_upgrade() {
    for secret in ["", "server: { secret: a-long-secret }"] {
        let gateway = Gateway::start_in(folder(), &yaml(&listener(""), secret));
        for version in ["1.2", "1.3"] {
            let visitor = Visitor::new(version);
            assert_eq!(visitor.visit(gateway.address()), HandshakeKind::Full, "{version}");
            assert_eq!(visitor.visit(gateway.address()), HandshakeKind::Resumed, "{version}");
            assert_eq!(gateway.upgrade().0, 0);
            assert_eq!(visitor.visit(gateway.address()), HandshakeKind::Resumed, "{secret} {version}");
        }
    }
}

#[test]
fn gateways_that_share_a_secret_resume_each_others_sessions() {
    let one = Gateway::start_in(folder(), &yaml(&listener(""), "server: { secret: [new-long-secret, old-long-secret] }"));
    let start = |server: &str| {
        let folder = folder();
        copy(one.folder(), folder.path());
        Gateway::start_in(folder, &yaml(&listener(""), server))
    };
    let (same, behind, stranger) = (
        start("server: { secret: new-long-secret }"),
        start("server: { secret: [old-long-secret] }"),
        start("server: { secret: another-long-secret }"),
    );
    let meets = |from: &Gateway, to: &Gateway| {
        let visitor = Visitor::new("1.3");
        visitor.visit(from.address());
        visitor.visit(to.address())
    };
    assert_eq!(meets(&one, &same), HandshakeKind::Resumed);
    assert_eq!(meets(&behind, &one), HandshakeKind::Resumed);
    for (from, to) in [(&one, &stranger), (&one, &behind), (&stranger, &one)] {
        assert_ne!(meets(from, to), HandshakeKind::Resumed);
    }
}

#[test]
fn a_session_is_not_resumed_where_other_rules_hold() {
    let plain = format!("{{ name: plain, {}", &listener("")[1..]);
    let asking = format!("{{ name: asking, {}", &listener(", client_auth: { ca: DIR/tls.pem, mode: optional }")[1..]);
    let gateway = Gateway::start_in(folder(), &yaml(&format!("{plain}, {asking}"), "server: { secret: a-long-secret }"));
    let visitor = Visitor::new("1.3");
    visitor.visit(gateway.address_of("plain"));
    assert_ne!(visitor.visit(gateway.address_of("asking")), HandshakeKind::Resumed);
    assert_ne!(visitor.visit(gateway.address_of("plain")), HandshakeKind::Resumed);
    assert_eq!(visitor.visit(gateway.address_of("plain")), HandshakeKind::Resumed);
}

#[test]
fn an_answer_about_the_certificate_is_stapled() {
    let folder = folder();
    // What the certificate's authority, which is itself here, says of it.
    let openssl = |line: &str| {
        let told = run(Command::new("openssl").args(line.split(' ')).current_dir(folder.path()));
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    };
    std::fs::write(folder.path().join("index.txt"), "").expect("a file");
    openssl("ocsp -issuer tls.pem -cert tls.pem -reqout request.der");
    openssl("ocsp -index index.txt -rsigner tls.pem -rkey tls.key -CA tls.pem -reqin request.der -respout tls.ocsp");
    let answer = std::fs::read(folder.path().join("tls.ocsp")).expect("a file");
    let with = listener("").replace("key: DIR/tls.key", "key: DIR/tls.key, ocsp: DIR/tls.ocsp");
    let gateway = Gateway::start_in(folder, &yaml(&with, ""));
    let visitor = Visitor::new("1.3");
    visitor.visit(gateway.address());
    assert_eq!(visitor.stapled(), answer);
    // The shortest that may be one.
    std::fs::write(gateway.file("tls.ocsp"), [0x30, 5, 0x0a, 1, 0, 0xa0, 0]).expect("a file");
    eventually("the new answer", || {
        let visitor = Visitor::new("1.2");
        visitor.visit(gateway.address());
        (visitor.stapled().len() == 7).then_some(())
    });
    // "Try later", of which nobody learns anything.
    std::fs::write(gateway.file("tls.ocsp"), [0x30, 3, 0x0a, 1, 3]).expect("a file");
    gateway.wait_for_log("is no OCSP response");
}

#[test]
fn certificates_of_two_kinds_lie_side_by_side() {
    let folder = folder();
    let (key, cert) = (folder.path().join("rsa.key"), folder.path().join("rsa.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    assert!(run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert)).status.success());
    let with = listener("").replace("]", ", { cert: DIR/rsa.pem, key: DIR/rsa.key }]");
    let gateway = Gateway::start_in(folder, &yaml(&with, ""));
    let port = gateway.address().port();
    for (cipher, file) in [("ECDHE-ECDSA-AES128-GCM-SHA256", "tls.pem"), ("ECDHE-RSA-AES128-GCM-SHA256", "rsa.pem")] {
        let (ca, resolve) = (gateway.file(file).display().to_string(), format!("localhost:{port}:127.0.0.1"));
        let url = format!("https://localhost:{port}/");
        let told = curl(&["--tls-max", "1.2", "--ciphers", cipher, "--cacert", &ca, "--resolve", &resolve, &url]);
        assert_eq!(told, "hello", "{cipher}");
    }
}

#[test]
fn a_client_whose_certificate_was_revoked_is_turned_away() {
    let folder = folder();
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).expect("a certificate").pem()).expect("a file");
    let authority = Issuer::new(params, key);
    for (serial, name) in [(7u64, "alice"), (8, "bob")] {
        let mut params = CertificateParams::new(vec![format!("{name}.example")]).expect("parameters");
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &authority).expect("a certificate");
        std::fs::write(folder.path().join(format!("{name}.pem")), signed.pem()).expect("a file");
        std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    }
    let revoke = |folder: &Path, serials: &[u64], until: i32| {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64 + 1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        std::fs::write(folder.join("new.crl"), list.signed_by(&authority).expect("a list").pem().expect("PEM")).expect("a file");
        std::fs::rename(folder.join("new.crl"), folder.join("ca.crl")).expect("a file");
    };
    revoke(folder.path(), &[8], 2050);
    let more = ", client_auth: { ca: DIR/ca.pem, crl: DIR/ca.crl, mode: required }";
    let gateway = Gateway::start_in(folder, &yaml(&listener(more), ""));
    let is_let_in = |name: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-k", "--noproxy", "*", "--max-time", "20", &format!("https://{}/", gateway.address())]);
        let [cert, key] = ["pem", "key"].map(|kind| gateway.file(&format!("{name}.{kind}")));
        run(curl.arg("--cert").arg(cert).arg("--key").arg(key)).stdout == b"hello"
    };
    assert_eq!((is_let_in("alice"), is_let_in("bob")), (true, false));
    revoke(gateway.folder(), &[7, 8], 2050);
    eventually("the new list", || (!is_let_in("alice")).then_some(()));
    // One that should have been renewed is used on, and spoken of.
    revoke(gateway.folder(), &[8], 2025);
    gateway.wait_for_log("a list of revoked certificates is past its end");
    assert_eq!((is_let_in("alice"), is_let_in("bob")), (true, false));
    let checked = run(frontdesk().args(["check", "-c"]).arg(gateway.file("frontdesk.yaml")));
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    assert!(checked.status.success() && said.contains("is past its end"), "{said}");
}
