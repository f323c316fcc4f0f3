//! Clients that vanish, at each stage of a request, by an end or by a reset: nothing is left of them.

use crate::kit::{
    Client, Gateway, H2Client, HANDSHAKE, Origin, Stuck, answer, certificate, eventually, head, read_head, run_async, scale, secure,
    until_gone,
};
use http::Method;
use std::io::{Read, Write};
use std::sync::LazyLock;
use std::time::Duration;

/// Clients at once, of each kind: there are 34 kinds.
static CLIENTS: LazyLock<usize> = LazyLock::new(|| scale(100, 300));

/// How often they come: ten thousand at each stage in all.
static ROUNDS: LazyLock<usize> = LazyLock::new(|| scale(1, 17));

/// Writes each request down at its head, and takes what it is told to by the path.
fn service() -> Origin {
    Origin::bare(|stream, seen| {
        while let Some(request) = read_head(stream)? {
            seen.lock().expect("the requests").push(request.clone());
            let accepted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            match request.target.split('/').nth(1) {
                Some("part") => stream.get_mut().write_all(&answer(200, &[], &[b'x'; 50_000])[..30_000])?,
                Some("chunk") => {
                    let part = "x".repeat(0x4000);
                    let text = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4000\r\n{part}\r\n");
                    stream.get_mut().write_all(text.as_bytes())?;
                }
                Some("tunnel") => stream.get_mut().write_all(accepted.as_bytes())?,
                Some("flood") => {
                    stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")?;
                    let part = vec![b'x'; 1 << 16];
                    while stream.get_mut().write_all(&part).is_ok() {}
                }
                Some("served") => {
                    stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nserved")?;
                    continue;
                }
                _ => {}
            }
            return until_gone(stream);
        }
        Ok(())
    })
}

fn gateway(origin: &Origin) -> Gateway {
    // What is counted of each is given back as well, see `Gateway::wait_until_idle`.
    Gateway::start(&format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ overload: {{ target: 7d }} }}
services: {{ it: {{ endpoints: ['{origin}'], max_in_flight: 10000, queue: {{ size: 9 }} }} }}
routes: [{{ path: /*, max_in_flight: 10000, to: it }}]
"
    ))
}

/// Lets clients reach a stage and vanish; then nothing may be left of them, and the next is served.
#[track_caller]
fn vanish(origin: &Origin, gateway: &Gateway, stage: impl Fn(&mut Client, &str) + Sync) {
    for (round, is_reset) in (0..*ROUNDS).flat_map(|round| [(round, false), (round, true)]) {
        std::thread::scope(|scope| {
            for i in 0..*CLIENTS {
                let stage = &stage;
                scope.spawn(move || {
                    let mut client = gateway.connect();
                    stage(&mut client, &format!("{is_reset}-{round}-{i}"));
                    if is_reset {
                        client.reset();
                    }
                });
            }
        });
        gateway.wait_until_idle();
        eventually("the end at the service", || (origin.open() == 0).then_some(()));
    }
    for _ in 0..10 {
        assert_eq!(gateway.get("/served").text(), "served");
    }
    gateway.wait_until_idle();
}

/// Waits until the service has seen a request.
fn wait_at(origin: &Origin, target: &str) {
    eventually("the request at the service", || origin.has_seen(target).then_some(()));
}

#[test]
fn behind_connecting() {
    let origin = service();
    vanish(&origin, &gateway(&origin), |_, _| {});
    assert_eq!(origin.seen().len(), 10);
}

#[test]
fn within_a_head() {
    let origin = service();
    vanish(&origin, &gateway(&origin), |client, id| client.send(format!("GET /{id} HTTP/1.1\r\nHost: te")));
    assert_eq!(origin.seen().len(), 10);
}

#[test]
fn before_a_body_that_was_announced() {
    let origin = service();
    vanish(&origin, &gateway(&origin), |client, id| {
        client.send(head("POST", &format!("/hold/{id}"), &[], 1000));
        wait_at(&origin, &format!("/hold/{id}"));
    });
}

#[test]
fn within_a_body() {
    let origin = service();
    let gateway = gateway(&origin);
    for coding in [("Content-Length", "1000"), ("Transfer-Encoding", "chunked")] {
        vanish(&origin, &gateway, |client, id| {
            client.send(head("POST", &format!("/hold/{id}"), &[coding], 0) + "5\r\nabcde\r\n");
            wait_at(&origin, &format!("/hold/{id}"));
        });
    }
}

#[test]
fn while_the_service_holds_its_answer() {
    let origin = service();
    let gateway = gateway(&origin);
    for (method, body) in [("GET", ""), ("POST", "a body")] {
        vanish(&origin, &gateway, |client, id| {
            client.send(head(method, &format!("/hold/{method}{id}"), &[], body.len()) + body);
            wait_at(&origin, &format!("/hold/{method}{id}"));
        });
    }
}

#[test]
fn within_an_answer() {
    let origin = service();
    let gateway = gateway(&origin);
    for kind in ["part", "chunk"] {
        vanish(&origin, &gateway, |client, id| {
            client.send(head("GET", &format!("/{kind}/{id}"), &[], 0));
            client.read(10_000);
        });
    }
}

#[test]
fn within_a_large_answer() {
    let origin = service();
    vanish(&origin, &gateway(&origin), |client, id| {
        client.send(head("GET", &format!("/flood/{id}"), &[], 0));
        client.read(100_000);
    });
}

#[test]
fn behind_an_answer() {
    let origin = service();
    let gateway = gateway(&origin);
    for is_reset in [false, true] {
        std::thread::scope(|scope| {
            for _ in 0..*CLIENTS {
                scope.spawn(|| {
                    let mut client = gateway.connect();
                    assert_eq!(client.get("/served").text(), "served");
                    if is_reset {
                        client.reset();
                    }
                });
            }
        });
        gateway.wait_until_idle();
    }
    // The connections to the service outlive their clients.
    let connections = origin.connections();
    assert_eq!(gateway.get("/served").text(), "served");
    assert_eq!((origin.connections(), origin.open() > 0), (connections, true));
}

#[test]
fn within_a_websocket_handshake() {
    let origin = service();
    vanish(&origin, &gateway(&origin), |client, id| {
        client.send(head("GET", &format!("/hold/{id}"), HANDSHAKE, 0));
        wait_at(&origin, &format!("/hold/{id}"));
    });
}

#[test]
fn within_a_tunnel() {
    let origin = service();
    vanish(&origin, &gateway(&origin), |client, id| {
        assert_eq!(client.request("GET", &format!("/tunnel/{id}"), HANDSHAKE, b"").status, 101);
        client.send("a message");
    });
}

#[test]
fn within_a_tls_handshake() {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path(), "a", &["a.example"]);
    let origin = service();
    let yaml = format!(
        "
listeners:
  - {{ name: secure, bind: 127.0.0.1:0, tls: {{ certificates: [{{ cert: DIR/a.pem, key: DIR/a.key }}] }} }}
  - {{ name: plain, bind: 127.0.0.1:0 }}
routes: [{{ path: /*, to: http://{origin} }}]
"
    );
    let gateway = Gateway::start_in(folder, &yaml);
    for is_reset in [false, true] {
        std::thread::scope(|scope| {
            for begin in [&b""[..], &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00], b"GET / HTTP/1.1\r\n\r\n"].repeat(*CLIENTS / 3) {
                let gateway = &gateway;
                scope.spawn(move || {
                    let mut client = Client::connect(gateway.address_of("secure"));
                    client.send(begin);
                    if is_reset {
                        client.reset();
                    }
                });
            }
        });
        gateway.wait_until_idle();
    }
    assert_eq!(Client::connect(gateway.address_of("plain")).get("/served").text(), "served");
    let mut stream = secure(gateway.address_of("secure"), "a.example", &[]).expect("a handshake");
    stream.write_all(head("GET", "/served", &[("Connection", "close")], 0).as_bytes()).expect("to send");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(text.ends_with("served"), "{text}");
}

/// A preface, empty settings, and a GET of a path in the first stream.
fn http2(path: &str) -> Vec<u8> {
    // RFC 7541: GET and http from the static table, then path and authority as literals.
    let text = |index: u8, text: &str| [&[index, text.len() as u8], text.as_bytes()].concat();
    let fields = [&[0x82, 0x86][..], &text(0x04, path), &text(0x01, "test")].concat();
    let frame =
        |kind: u8, flags: u8, stream: u8, payload: &[u8]| [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat();
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, b""), &frame(1, 5, 1, &fields)].concat()
}

#[test]
fn over_http2_within_a_preface() {
    let origin = service();
    vanish(&origin, &gateway(&origin), |client, id| client.send(&http2("/")[..id.len() * 3]));
    assert_eq!(origin.seen().len(), 10);
}

#[test]
fn over_http2_while_the_service_holds_its_answer() {
    let origin = service();
    vanish(&origin, &gateway(&origin), |client, id| {
        client.send(http2(&format!("/hold/{id}")));
        wait_at(&origin, &format!("/hold/{id}"));
    });
}

#[test]
fn over_http2_within_an_answer() {
    let origin = service();
    vanish(&origin, &gateway(&origin), |client, id| {
        client.send(http2(&format!("/flood/{id}")));
        client.read(10_000);
    });
}

#[test]
fn while_a_service_is_connected_to_it_is_written_down_all_the_same() {
    let stuck = Stuck::new();
    let gateway = Gateway::start(&format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ it: {{ endpoints: ['{}'], timeouts: {{ connect: 60s }} }} }}
routes: [{{ name: stuck, path: /*, to: it }}]
",
        stuck.address()
    ));
    let in_flight = || gateway.ask("/status").json()["in_flight"].as_u64();
    let mut http1 = gateway.connect();
    http1.send(head("GET", "/plain?q=1", &[("User-Agent", "me")], 0));
    let mut tunnel = gateway.connect();
    tunnel.send(head("GET", "/tunnel", HANDSHAKE, 0));
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let (answer, _body) = client.begin(Method::POST, "/h2", &[], true).await;
        let all_wait = async {
            while in_flight() != Some(3) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            answer = answer => panic!("{answer:?}"),
            () = all_wait => {}
        }
    });
    drop((http1, tunnel));
    let lines = gateway.access_log(3);
    for (path, method) in [("/plain?q=1", "GET"), ("/h2", "POST")] {
        let line = lines.iter().find(|line| line["path"] == path).unwrap_or_else(|| panic!("{path}: {lines:?}"));
        assert_eq!(
            (&line["status"], &line["method"], &line["route"], &line["code"]),
            (&499.into(), &method.into(), &"stuck".into(), &"".into())
        );
        assert!(line["attempts"] == 1 && line["service"] == "it" && line["client_ip"] == "127.0.0.1", "{line}");
    }
    assert!(lines.iter().any(|line| line["user_agent"] == "me") && lines.iter().all(|line| line["status"] == 499), "{lines:?}");
    assert_eq!(gateway.metric("frontdesk_requests_total{method=\"POST\",route=\"stuck\",status=\"499\"}"), 1.0);
    gateway.wait_until_idle();
    assert_eq!(gateway.access_log(3).len(), 3);
}
