//! Certificates that clients show.

use crate::kit::{Gateway, Origin, certificate, curl, frontdesk, run};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::Path;

/// An authority in `FILE.pem`.
fn authority(folder: &Path, file: &str) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, file);
    let key = KeyPair::generate().expect("a key");
    std::fs::write(folder.join(format!("{file}.pem")), params.self_signed(&key).expect("a certificate").pem()).expect("a file");
    Issuer::new(params, key)
}

/// A certificate that it signs, and its key.
fn sign(by: &Issuer<'_, KeyPair>, folder: &Path, file: &str, name: &str, san: &str) {
    let mut params = CertificateParams::new(vec![san.to_string()]).expect("parameters");
    params.distinguished_name.push(DnType::OrganizationName, "Acme");
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    std::fs::write(folder.join(format!("{file}.pem")), params.signed_by(&key, by).expect("a certificate").pem()).expect("a file");
    std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).expect("a file");
}

#[test]
fn a_certificate_says_who_it_is() {
    let origin = Origin::echo();
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path(), "server", &["localhost"]);
    let (ours, theirs) = (authority(folder.path(), "ours"), authority(folder.path(), "theirs"));
    for (file, name, san) in [("billing", "billing", "b.internal"), ("menus", "m", "menus.internal"), ("nobody", "nobody", "n.internal")] {
        sign(&ours, folder.path(), file, name, san);
    }
    sign(&theirs, folder.path(), "foreign", "billing", "b.internal");
    let yaml = format!(
        "
listeners:
  - {{ name: optional, bind: 127.0.0.1:0, tls: {{ certificates: [{{ cert: DIR/server.pem, key: DIR/server.key }}], client_auth: {{ ca: DIR/ours.pem }} }} }}
  - {{ name: required, bind: 127.0.0.1:0, tls: {{ certificates: [{{ cert: DIR/server.pem, key: DIR/server.key }}], client_auth: {{ ca: DIR/ours.pem, mode: required }} }} }}
auth: {{ machines: {{ mtls: {{ subjects: {{ 'CN=billing, O=Acme': billing }}, sans: {{ menus.internal: menus }} }} }} }}
routes:
  - {{ path: /open, respond: {{ body: open }} }}
  - {{ path: /*, auth: machines, to: 'http://{origin}', request: {{ headers: {{ set: {{ X-Who: '${{identity}} ${{claim.subject}}' }} }} }} }}
"
    );
    let gateway = Gateway::start_in(folder, &yaml);
    let ask = |listener: &str, path: &str, file: Option<&str>, more: &[&str]| {
        let url = format!("https://{}{path}", gateway.address_of(listener));
        let (cert, key) = (format!("DIR/{}.pem", file.unwrap_or_default()), format!("DIR/{}.key", file.unwrap_or_default()));
        let [cert, key] = [cert, key].map(|path| path.replace("DIR", &gateway.folder().display().to_string()));
        let shown = if file.is_some() { vec!["--cert", &*cert, "--key", &*key] } else { vec![] };
        curl(&[&["-k"], more, &shown, &[&*url]].concat())
    };
    for protocol in ["--http1.1", "--http2"] {
        for (file, who) in [("billing", "billing CN=billing,O=Acme"), ("menus", "menus CN=m,O=Acme")] {
            let told = ask("optional", "/", Some(file), &[protocol]);
            assert!(told.contains(&format!("\"x-who\":[\"{who}\"]")), "{file}: {told}");
        }
    }
    assert!(ask("optional", "/", None, &[]).contains("\"code\":\"unauthenticated\""));
    assert!(ask("optional", "/", Some("nobody"), &[]).contains("\"code\":\"key_unknown\""));
    assert_eq!(ask("optional", "/open", None, &[]), "open");
    assert_eq!(ask("required", "/open", Some("nobody"), &[]), "open");
    // Where none, or another authority's, is shown, there is no connection.
    for (listener, file) in [("required", None), ("optional", Some("foreign"))] {
        let url = format!("https://{}/open", gateway.address_of(listener));
        let mut command = std::process::Command::new("curl");
        command.args(["-sk", "--max-time", "20", "--noproxy", "*", &url]);
        if let Some(file) = file {
            command.arg("--cert").arg(gateway.file(&format!("{file}.pem"))).arg("--key").arg(gateway.file(&format!("{file}.key")));
        }
        assert!(!run(&mut command).status.success(), "{listener} {file:?}");
    }
    assert_eq!(origin.seen().len(), 4);
}

/// What a client showed in the handshake for one host is worth nothing for another one's.
#[test]
fn a_certificate_shown_to_one_host_does_not_open_another() {
    let origin = Origin::echo();
    let folder = tempfile::tempdir().expect("a folder");
    for host in ["a.example", "b.example"] {
        certificate(folder.path(), host, &[host]);
    }
    let ours = authority(folder.path(), "ours");
    sign(&ours, folder.path(), "billing", "billing", "billing.internal");
    let yaml = format!(
        "
listeners:
  - {{ bind: 127.0.0.1:0, tls: {{ certificates: [{{ cert: DIR/a.example.pem, key: DIR/a.example.key }}, {{ cert: DIR/b.example.pem, key: DIR/b.example.key }}], client_auth: {{ ca: DIR/ours.pem }} }} }}
auth: {{ machines: {{ mtls: {{ subjects: {{ 'CN=billing, O=Acme': billing }} }} }} }}
routes:
  - {{ host: [a.example, b.example], path: /*, auth: machines, to: 'http://{origin}' }}
"
    );
    let gateway = Gateway::start_in(folder, &yaml);
    let [cert, key] = ["pem", "key"].map(|kind| gateway.file(&format!("billing.{kind}")).display().to_string());
    for protocol in ["--http1.1", "--http2"] {
        for (host, status) in [("a.example", "200"), ("b.example", "421")] {
            let at = format!("a.example:{}:127.0.0.1", gateway.address().port());
            let (url, field) = (format!("https://a.example:{}/", gateway.address().port()), format!("Host: {host}"));
            let shown = ["--cert", &*cert, "--key", &key, "-H", &field, "-o", "/dev/null", "-w", "%{http_code}"];
            assert_eq!(curl(&[&["-k", protocol, "--resolve", &at][..], &shown, &[&*url]].concat()), status, "{protocol} {host}");
        }
    }
    assert_eq!(origin.seen().len(), 2);
}

#[test]
fn a_method_that_no_listener_asks_for_is_a_problem() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = "listeners: [{ bind: 127.0.0.1:1 }]\nauth: { m: { mtls: {} } }\nroutes: [{ path: /, auth: m, respond: {} }]\n";
    std::fs::write(file.path(), text).expect("a file");
    let said = String::from_utf8_lossy(&run(frontdesk().args(["check", "-c"]).arg(file.path())).stderr).into_owned();
    assert!(said.contains(":2:12: no listener asks for certificates"), "{said}");
}
