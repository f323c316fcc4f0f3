//! TLS on both sides.

use crate::kit::{Gateway, Origin, TlsOrigin, certificate, curl, run, secure, shown};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::process::Command;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A gateway with TLS, which has certificates for a.example and for b.example and all below it, in this order.
fn gateway(more: &str, routes: &str) -> Gateway {
    let folder = folder();
    certificate(folder.path(), "a", &["a.example"]);
    certificate(folder.path(), "b", &["b.example", "*.b.example"]);
    Gateway::start_in(
        folder,
        &format!(
            "
listeners:
  - bind: 127.0.0.1:0
    tls: {{ certificates: [{{ cert: DIR/a.pem, key: DIR/a.key }}, {{ cert: DIR/b.pem, key: DIR/b.key }}], {more} }}
routes: {routes}
"
        ),
    )
}

const HELLO: &str = "[{ path: /*, respond: { body: hello } }]";

/// Runs curl against a gateway, under a name and with a certificate that is trusted.
fn ask(gateway: &Gateway, name: &str, trusted: &str, arguments: &[&str]) -> String {
    let port = gateway.address().port();
    let (ca, resolve) = (gateway.file(trusted), format!("{name}:{port}:127.0.0.1"));
    let url = format!("https://{name}:{port}/x");
    curl(&[&["--cacert", ca.to_str().expect("a path"), "--resolve", &resolve, &url], arguments].concat())
}

#[test]
fn the_certificate_goes_with_the_name_that_is_asked_for() {
    let gateway = gateway("", HELLO);
    for (name, file) in
        [("a.example", "a.pem"), ("b.example", "b.pem"), ("x.b.example", "b.pem"), ("B.Example", "b.pem"), ("other.example", "a.pem")]
    {
        let stream = secure(gateway.address(), name, &[]).expect("a handshake");
        assert_eq!(shown(&stream), CertificateDer::from_pem_file(gateway.file(file)).expect("a certificate"), "{name}");
    }
    assert_eq!(ask(&gateway, "a.example", "a.pem", &[]), "hello");
    assert_eq!(ask(&gateway, "x.b.example", "b.pem", &[]), "hello");
}

#[test]
fn a_host_of_another_certificate_is_misdirected() {
    let gateway = gateway("", HELLO);
    for version in ["--http1.1", "--http2"] {
        // The certificate's own hosts, one that stands in none, and those of the other certificate.
        for (host, status) in
            [("a.example", 200), ("A.EXAMPLE:1", 200), ("c.example", 200), ("b.example", 421), ("x.b.example", 421), ("X.B.example:1", 421)]
        {
            let host_field = format!("Host: {host}");
            let told = ask(&gateway, "a.example", "a.pem", &[version, "-H", &host_field, "-w", " %{http_code}"]);
            assert!(told.ends_with(&status.to_string()), "{host}: {told}");
        }
        let told = ask(&gateway, "x.b.example", "b.pem", &[version, "-H", "Host: b.example", "-w", " %{http_code}"]);
        assert_eq!(told, "hello 200");
        // Who asked for no name in particular may ask for any host.
        let told = ask(&gateway, "127.0.0.1", "a.pem", &[version, "-k", "-H", "Host: b.example", "-w", " %{http_code}"]);
        assert_eq!(told, "hello 200");
    }
    assert!(gateway.access_log(16).iter().filter(|line| line["code"] == "misdirected").count() == 6);
}

#[test]
fn both_versions_of_http_are_agreed_upon() {
    let gateway = gateway("", HELLO);
    for (arguments, version) in [(&["--http2"][..], "2"), (&["--http1.1"], "1.1"), (&["--no-alpn"], "1.1")] {
        let arguments = [arguments, &["-w", " %{http_version}"]].concat();
        assert_eq!(ask(&gateway, "a.example", "a.pem", &arguments), format!("hello {version}"));
    }
    let protocols: Vec<_> = gateway.access_log(3).iter().map(|line| line["protocol"].to_string()).collect();
    assert_eq!(protocols.iter().filter(|protocol| *protocol == "\"HTTP/2\"").count(), 1, "{protocols:?}");
}

#[test]
fn many_requests_pass_over_one_connection() {
    let origin = Origin::echo();
    for version in ["--http2", "--http1.1"] {
        let gateway = gateway("", &format!("[{{ path: /*, to: http://{origin} }}]"));
        let url = format!("https://a.example:{}/[1-20]", gateway.address().port());
        let arguments = [version, "-X", "POST", "-d", "hello", "-w", "%{num_connects}\n", "-o", "/dev/null", &url];
        let connects = ask(&gateway, "a.example", "a.pem", &arguments);
        assert_eq!(connects.lines().filter(|line| *line == "1").count(), 1, "{connects}");
        assert!(gateway.access_log(20).iter().all(|line| line["status"] == 200), "{version}");
    }
}

#[test]
fn versions_below_the_lowest_are_refused() {
    for (more, version, works) in
        [("min_version: '1.3'", "1.3", true), ("min_version: '1.3'", "1.2", false), ("", "1.2", true), ("", "1.3", true)]
    {
        let gateway = gateway(more, HELLO);
        let url = format!("https://{}/", gateway.address());
        let output = run(Command::new("curl").args(["-s", "-k", "--noproxy", "*", "--tls-max", version, "--max-time", "20", &url]));
        assert_eq!(output.status.success(), works, "{more} {version}");
    }
}

#[test]
fn services_and_the_log_hear_of_tls() {
    let origin = Origin::echo();
    let gateway = gateway("", &format!("[{{ path: /*, to: http://{origin} }}]"));
    let echo: serde_json::Value = serde_json::from_str(&ask(&gateway, "a.example", "a.pem", &["--http2"])).expect("an echo");
    assert_eq!(echo["headers"]["x-forwarded-proto"][0], "https");
    let forwarded = echo["headers"]["forwarded"][0].as_str().unwrap_or_default();
    assert!(forwarded.contains("proto=https"), "{forwarded}");
    assert_eq!(gateway.access_log(1)[0]["tls"], "TLSv1.3");
    ask(&gateway, "a.example", "a.pem", &["--http1.1", "--tls-max", "1.2"]);
    assert_eq!(gateway.access_log(2)[1]["tls"], "TLSv1.2");
}

#[test]
fn plaintext_on_a_port_with_tls_harms_nobody() {
    let gateway = gateway("", HELLO);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert!(!String::from_utf8_lossy(&client.read_to_end()).contains("hello"));
    assert_eq!(ask(&gateway, "a.example", "a.pem", &[]), "hello");
}

/// A gateway on plaintext with a service that has TLS, whose certificate is for s.example; DIR has an `other` one too.
fn to_service(tls: &str) -> (Gateway, TlsOrigin) {
    let folder = folder();
    let pair = certificate(folder.path(), "s", &["s.example"]);
    certificate(folder.path(), "other", &["s.example"]);
    let origin = TlsOrigin::echo(&pair, None);
    let yaml = format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{origin}], tls: {tls} }} }}
routes: [{{ path: /*, to: s }}]
"
    );
    (Gateway::start_in(folder, &yaml), origin)
}

#[test]
fn a_service_is_verified() {
    let (gateway, _origin) = to_service("{ ca: DIR/s.pem, sni: s.example }");
    for _ in 0..2 {
        let echo = gateway.get("/x").json();
        assert_eq!((&echo["target"], &echo["headers"]["asked-for"][0]), (&"/x".into(), &"s.example".into()));
        assert_eq!(echo["headers"]["x-forwarded-proto"][0], "http");
    }
}

#[test]
fn connections_to_a_service_are_kept_and_agree_upon_http1() {
    const UPGRADE: &[(&str, &str)] = &[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
    for (keepalive, connections) in [("", 1), ("connections: 0", 3)] {
        let (gateway, origin) = to_service(&format!("{{ verify: false }}, keepalive: {{ {keepalive} }}"));
        let mut client = gateway.connect();
        for _ in 0..3 {
            assert_eq!(client.request("GET", "/", &[], b"").json()["headers"]["agreed"][0], "http/1.1");
        }
        assert_eq!(origin.connections(), connections, "{keepalive}");
        // A tunnel has one of its own.
        assert_eq!(client.request("GET", "/", UPGRADE, b"").json()["headers"]["agreed"][0], "http/1.1");
        assert_eq!(origin.connections(), connections + 1, "{keepalive}");
    }
}

#[test]
fn a_service_whose_authority_is_replaced_is_not_trusted_on_a_kept_connection() {
    let (gateway, origin) = to_service("{ ca: DIR/s.pem, sni: s.example }");
    assert_eq!(gateway.get("/").status, 200);
    std::fs::copy(gateway.file("other.pem"), gateway.file("s.pem")).expect("a file");
    let yaml = std::fs::read_to_string(gateway.file("frontdesk.yaml")).expect("the configuration");
    assert!(gateway.reload(&yaml));
    assert_eq!(gateway.get("/").code(), "upstream_connect");
    assert!(origin.connections() > 1);
}

#[test]
fn a_service_that_is_not_to_be_trusted_gets_nothing() {
    for tls in [
        "{ ca: DIR/other.pem, sni: s.example }",
        "{ ca: DIR/s.pem, sni: other.example }",
        "{ ca: DIR/s.pem }", // the endpoint's address is not in the certificate
        "{ sni: s.example }",
        "{ ca: DIR/other.pem, sni: s.example, verify: true }",
    ] {
        let (gateway, _origin) = to_service(tls);
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.code()), (502, "upstream_connect".to_string()), "{tls}");
    }
}

#[test]
fn verification_can_be_left_out() {
    for tls in ["{ verify: false }", "{ ca: DIR/other.pem, sni: other.example, verify: false }"] {
        let (gateway, _origin) = to_service(tls);
        assert_eq!(gateway.get("/").status, 200, "{tls}");
    }
}

#[test]
fn a_service_without_tls_is_not_spoken_to_in_plaintext() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]\nservices: {{ s: {{ endpoints: [{origin}], tls: {{ verify: false }} }} }}\nroutes: [{{ path: /*, to: s }}]"
    ));
    assert_eq!(gateway.get("/").code(), "upstream_connect");
    assert!(origin.seen().is_empty());
}

#[test]
fn a_service_may_ask_for_a_certificate() {
    let folder = folder();
    let pair = certificate(folder.path(), "s", &["s.example"]);
    let (me, _) = certificate(folder.path(), "me", &["gateway"]);
    let origin = TlsOrigin::echo(&pair, Some(&me));
    let gateway = Gateway::start_in(
        folder,
        &format!(
            "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  known: {{ endpoints: [{origin}], tls: {{ ca: DIR/s.pem, sni: s.example, cert: DIR/me.pem, key: DIR/me.key }} }}
  unknown: {{ endpoints: [{origin}], tls: {{ ca: DIR/s.pem, sni: s.example }} }}
routes: [{{ path: /known, to: known }}, {{ path: /unknown, to: unknown }}]
"
        ),
    );
    assert_eq!(gateway.get("/known").status, 200);
    assert_eq!(gateway.get("/unknown").status, 502);
    assert_eq!(gateway.get("/known").status, 200);
}

#[test]
fn a_url_may_be_https() {
    let folder = folder();
    let pair = certificate(folder.path(), "s", &["localhost"]);
    let origin = TlsOrigin::echo(&pair, None);
    let yaml = format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: /*, to: 'https://localhost:{}' }}]", origin.port());
    // Nobody vouches for it.
    assert_eq!(Gateway::start(&yaml).get("/").code(), "upstream_connect");
    let gateway = Gateway::start_with(folder, &yaml, &[("SSL_CERT_FILE", pair.0.to_str().expect("a path"))]);
    let echo = gateway.connect().request("GET", "/x", &[("Host", "shop.example")], b"").json();
    assert_eq!((&echo["headers"]["asked-for"][0], &echo["target"]), (&"localhost".into(), &"/x".into()));
    assert_eq!(echo["headers"]["host"][0], format!("localhost:{}", origin.port()));
    assert_eq!(echo["headers"]["x-forwarded-host"][0], "shop.example");
}

#[test]
fn a_machine_without_authorities_still_serves() {
    let origin = Origin::fixed("ok");
    let yaml = format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: /*, to: http://{origin} }}]");
    let gateway = Gateway::start_with(
        tempfile::tempdir().expect("a folder"),
        &yaml,
        &[("SSL_CERT_FILE", "/no/such/file"), ("SSL_CERT_DIR", "/no/such/folder")],
    );
    assert_eq!(gateway.get("/").text(), "ok");
    gateway.wait_for_log("the system's certificate authorities can't be read");
}
