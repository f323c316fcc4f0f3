//! Clients that come by way of a proxy, which says so by the PROXY protocol.

use crate::kit::{Client, Gateway, H2Client, Origin, certificate, eventually, head, run_async, secure_to};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.2 1111 443\r\n";

/// Version 2 for the same client, with an extension behind the addresses.
fn v2() -> Vec<u8> {
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    [&signature[..], &[0x21, 0x11, 0, 15, 192, 0, 2, 7, 198, 51, 100, 2, 4, 87, 1, 187, 4, 0, 0]].concat()
}

/// What a proxy says of itself, as for a health check.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn gateway(trusted: &str) -> (Gateway, Origin) {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path(), "tls", &["localhost"]);
    let origin = Origin::echo();
    let yaml = format!(
        "
listeners:
  - {{ name: plain, bind: 127.0.0.1:0, proxy_protocol: true }}
  - {{ name: tls, bind: 127.0.0.1:0, proxy_protocol: true, tls: {{ certificates: [{{ cert: DIR/tls.pem, key: DIR/tls.key }}] }} }}
server: {{ trusted_proxies: [{trusted}], timeouts: {{ tls_handshake: 700ms }} }}
routes: [{{ path: /*, to: http://{origin} }}]
"
    );
    (Gateway::start_in(folder, &yaml), origin)
}

/// The client as the service and the log see it.
fn seen(gateway: &Gateway, lines: usize) -> Vec<String> {
    gateway.access_log(lines).iter().map(|line| line["client_ip"].as_str().unwrap_or_default().to_string()).collect()
}

#[test]
fn a_trusted_proxy_says_who_comes_in_both_versions() {
    let (gateway, _origin) = gateway("127.0.0.1/32");
    for (header, client) in [(V1.as_bytes().to_vec(), "192.0.2.7"), (v2(), "192.0.2.7"), (LOCAL.to_vec(), "127.0.0.1")] {
        let mut stream = Client::connect(gateway.address_of("plain"));
        // Header and request in one segment, then a second request, which needs none.
        stream.send([header, head("GET", "/a", &[], 0).into_bytes()].concat());
        let echo = stream.answer().json();
        assert_eq!(echo["headers"]["x-forwarded-for"][0], client);
        assert_eq!(stream.get("/b").json()["headers"]["x-forwarded-for"][0], client);
    }
    let mut all = seen(&gateway, 6);
    all.sort();
    assert_eq!(all, ["127.0.0.1", "127.0.0.1", "192.0.2.7", "192.0.2.7", "192.0.2.7", "192.0.2.7"]);
}

#[test]
fn it_may_come_in_pieces() {
    let (gateway, _origin) = gateway("127.0.0.0/8");
    for header in [V1.as_bytes().to_vec(), v2()] {
        let mut stream = Client::connect(gateway.address_of("plain"));
        for byte in [header, head("GET", "/", &[], 0).into_bytes()].concat() {
            stream.send([byte]);
        }
        assert_eq!(stream.answer().json()["headers"]["x-forwarded-for"][0], "192.0.2.7");
    }
}

#[test]
fn over_tls_and_http2_too() {
    let (gateway, _origin) = gateway("127.0.0.0/8");
    for header in [V1.as_bytes().to_vec(), v2()] {
        let mut tcp = TcpStream::connect(gateway.address_of("tls")).expect("a connection");
        tcp.write_all(&header).expect("to send");
        let mut stream = secure_to(tcp, "localhost", &[], b"").expect("TLS");
        stream.write_all(head("GET", "/", &[("Connection", "close")], 0).as_bytes()).expect("to send");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.contains("192.0.2.7"), "{answer}");
    }
    run_async(async {
        let client = H2Client::connect_behind(gateway.address_of("plain"), V1.as_bytes()).await;
        let answer = client.get("/").await;
        assert!(String::from_utf8_lossy(&answer.body).contains("192.0.2.7"));
    });
}

/// What comes back, and whether it ends by itself.
fn answered(address: SocketAddr, bytes: &[u8]) -> String {
    let mut client = Client::connect(address);
    client.send(bytes);
    String::from_utf8_lossy(&client.read_to_end()).into_owned()
}

#[test]
fn from_a_trusted_proxy_it_has_to_come_and_in_time() {
    let (gateway, origin) = gateway("127.0.0.0/8");
    let plain = gateway.address_of("plain");
    assert_eq!(answered(plain, head("GET", "/", &[], 0).as_bytes()), "");
    assert_eq!(answered(plain, b"PROXY TCP4 nonsense\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n"), "");
    // Half of it, and then nothing.
    assert_eq!(answered(plain, &V1.as_bytes()[..20]), "");
    assert_eq!(answered(gateway.address_of("tls"), &v2()[..20]), "");
    assert!(origin.seen().is_empty());
    // What is no header is counted and written down.
    assert_eq!(gateway.metric("frontdesk_refusals_total{code=\"bad_request\",route=\"\"}"), 2.0);
    gateway.wait_for_log("127.0.0.1");
    let said = gateway.log().into_iter().filter(|line| line.contains("INFO") && line.contains(": bad_request: "));
    let reasons: Vec<String> = said.filter_map(|line| Some(line.split_once("bad_request: ")?.1.to_string())).collect();
    assert_eq!(reasons, ["There is no PROXY header.", "The PROXY header has another number of fields than five."]);
    let lines = gateway.access_log(2);
    assert!(lines.iter().all(|line| line["client_ip"] == "127.0.0.1" && line["code"] == "bad_request"), "{lines:?}");
    eventually("no connection left", || (gateway.ask("/status").json()["connections"] == 0).then_some(()));
}

#[test]
fn from_anybody_else_it_is_not_taken() {
    let (gateway, origin) = gateway("10.0.0.0/8");
    let plain = gateway.address_of("plain");
    let refused = answered(plain, (V1.to_string() + &head("GET", "/", &[], 0)).as_bytes());
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    assert!(!answered(plain, &v2()).contains("200"));
    assert!(origin.seen().is_empty());
    // Whoever comes without a proxy is served as who it is.
    assert_eq!(Client::connect(plain).get("/").json()["headers"]["x-forwarded-for"][0], "127.0.0.1");
}

#[test]
fn what_the_client_itself_claims_is_not_believed() {
    let (gateway, _origin) = gateway("127.0.0.0/8");
    let mut client = Client::connect(gateway.address_of("plain"));
    client.send(V1);
    let echo = client.request("GET", "/", &[("X-Forwarded-For", "6.6.6.6")], b"").json();
    assert_eq!(echo["headers"]["x-forwarded-for"], serde_json::json!(["192.0.2.7"]));
}

#[test]
fn an_upgrade_is_no_proxy_and_a_reload_changes_who_is() {
    let (gateway, origin) = gateway("127.0.0.0/8");
    assert_eq!(gateway.upgrade().0, 0);
    let ask = |header: &str| {
        answered(gateway.address_of("plain"), (header.to_string() + &head("GET", "/", &[("Connection", "close")], 0)).as_bytes())
    };
    assert!(ask(V1).contains("192.0.2.7"));
    let yaml = std::fs::read_to_string(gateway.file("frontdesk.yaml")).expect("a file");
    std::fs::write(gateway.file("frontdesk.yaml"), yaml.replace("127.0.0.0/8", "10.0.0.0/8")).expect("a file");
    let client = crate::kit::run(crate::kit::frontdesk().args(["reload", "--admin", &format!("http://{}", gateway.admin())]));
    assert!(client.status.success());
    assert!(ask(V1).starts_with("HTTP/1.1 400 ") && ask("").contains("127.0.0.1"));
    assert_eq!(origin.seen().len(), 2);
}
