//! How long clients and services may take.

use crate::kit::{Client, Gate, Gateway, H2Client, Origin};
use crate::kit::{answer, certificate, eventually, head, rest, run_async, secure, secure_and_send, steadily, until_gone, whole};
use bytes::Bytes;
use http::Method;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

/// A gateway with a route to the service and one that needs none.
fn with(server: &str, service: &str, origin: &Origin) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ {server} }}
services: {{ s: {{ endpoints: [{origin}], {service} }} }}
routes: [{{ path: /*, to: s }}, {{ path: /fixed, respond: {{ body: fixed }} }}]
"
    ))
}

fn refuses_late_head(client: &mut Client, started: Instant) {
    let answer = client.answer();
    assert!(started.elapsed() >= 250 * MS, "after {:?}", started.elapsed());
    assert_eq!((answer.status, answer.code(), answer.header("connection")), (408, "request_timeout".to_string(), Some("close")));
    client.wait_for_close();
}

#[test]
fn a_head_that_is_not_whole_in_time_is_refused() {
    let origin = Origin::echo();
    let gateway = with("timeouts: { request_header: 300ms, keepalive: 300ms }", "", &origin);
    // The last one could become the preface of HTTP/2.
    for part in ["G", "GET /x HTTP/1.1\r\n", "GET /x HTTP/1.1\r\nHost: test\r\n", "P"] {
        let mut client = gateway.connect();
        let started = Instant::now();
        client.send(part);
        refuses_late_head(&mut client, started);
    }
    // The rest of a preface never comes: what there is, is no request.
    let mut client = gateway.connect();
    client.send("PRI * HTTP/2.0\r\n\r\nSM");
    assert_eq!((client.answer().status, client.wait_for_close()), (400, ()));
    gateway.wait_until_idle();
}

#[test]
fn a_late_head_is_counted_and_written_down_with_its_peer() {
    let origin = Origin::echo();
    let gateway = with("timeouts: { request_header: 300ms }", "", &origin);
    let mut client = gateway.connect();
    client.send("GET /x HTTP/1.1\r\n");
    assert_eq!(client.answer().status, 408);
    eventually("the count", || (gateway.metric("frontdesk_refusals_total{code=\"request_timeout\",route=\"\"}") == 1.0).then_some(()));
    gateway.wait_for_log(&client.stream().local_addr().expect("an address").to_string());
}

#[test]
fn the_second_head_of_a_connection_too() {
    let origin = Origin::echo();
    let gateway = with("timeouts: { request_header: 300ms }", "", &origin);
    for first in ["/fixed", "/service"] {
        let mut client = gateway.connect();
        assert_eq!(client.get(first).status, 200);
        let started = Instant::now();
        client.send("GET /second HTTP/1.1\r\nHost: te");
        refuses_late_head(&mut client, started);
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_too() {
    let origin = Origin::echo();
    let gateway = with("timeouts: { request_header: 300ms }", "", &origin);
    let mut client = gateway.connect();
    let mut dripping = client.stream().try_clone().expect("a stream");
    let started = Instant::now();
    std::thread::scope(|scope| {
        // It ends with the connection.
        scope.spawn(move || {
            while dripping.write_all(b"x").is_ok() {
                std::thread::sleep(20 * MS)
            }
        });
        let answer = client.answer();
        assert!(started.elapsed() >= 250 * MS);
        assert_eq!((answer.status, answer.code()), (408, "request_timeout".to_string()));
        client.read_to_end();
    });
}

#[test]
fn a_connection_that_rests_is_closed() {
    let origin = Origin::echo();
    let gateway = with("timeouts: { keepalive: 300ms }", "", &origin);
    for requests in [&[][..], &["/fixed"], &["/service", "/service"]] {
        let mut client = gateway.connect();
        requests.iter().for_each(|target| assert_eq!(client.get(target).status, 200));
        let started = Instant::now();
        client.wait_for_close();
        assert!(started.elapsed() >= 250 * MS, "{requests:?}: {:?}", started.elapsed());
    }
    gateway.wait_until_idle();
}

#[test]
fn without_any_rest_it_is_closed_behind_each_answer() {
    let origin = Origin::echo();
    let gateway = with("timeouts: { keepalive: 0s }", "", &origin);
    for (target, status) in [("/fixed", 200), ("/service", 200), ("/%00", 400)] {
        let mut client = gateway.connect();
        let answer = client.get(target);
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{target}");
        client.wait_for_close();
    }
    // A client has the time of a head to begin.
    let mut client = gateway.connect();
    gateway.access_log(3);
    assert_eq!(client.get("/fixed").status, 200);
    let secure = with_tls("timeouts: { keepalive: 0s }");
    let mut client = secure_and_send(secure.address(), "a.example", &[], b"").expect("a handshake");
    client.write_all(head("GET", "/", &[], 0).as_bytes()).expect("to send");
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("Connection: close"), "{answer}");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        assert_eq!((client.get("/fixed").await.status, client.get("/service").await.status), (200, 200));
    });
}

#[test]
fn one_that_is_used_is_not() {
    let origin = Origin::echo();
    let gateway = with("timeouts: { keepalive: 1s }", "", &origin);
    let mut client = gateway.connect();
    steadily(15, 100 * MS, |_| assert_eq!(client.get("/fixed").status, 200));
}

#[test]
fn over_tls_a_handshake_and_a_rest_are_bounded() {
    let gateway = with_tls("timeouts: { tls_handshake: 300ms, keepalive: 300ms }");
    // Nothing, and the begin of a ClientHello.
    for begin in [&[][..], &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00]] {
        let mut client = gateway.connect();
        let started = Instant::now();
        client.send(begin);
        client.wait_for_close();
        assert!(started.elapsed() >= 250 * MS, "{begin:?}: {:?}", started.elapsed());
    }
    // A handshake without a request.
    let mut client = secure(gateway.address(), "a.example", &["http/1.1"]).expect("a handshake");
    let started = Instant::now();
    assert!(!client.read(&mut [0]).is_ok_and(|n| n > 0));
    assert!(started.elapsed() >= 250 * MS);
    gateway.wait_until_idle();
}

fn with_tls(server: &str) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path(), "a", &["a.example"]);
    let yaml = format!(
        "
listeners: [{{ bind: 127.0.0.1:0, tls: {{ certificates: [{{ cert: DIR/a.pem, key: DIR/a.key }}] }} }}]
server: {{ {server} }}
routes: [{{ path: /*, respond: {{}} }}]
"
    );
    Gateway::start_in(folder, &yaml)
}

#[test]
fn over_tls_a_late_head_is_refused_likewise() {
    let gateway = with_tls("timeouts: { request_header: 300ms }");
    let first = head("GET", "/", &[], 0);
    // The first head of a connection, which comes along with the handshake, and the second.
    for (sent, answers) in [("GET / HT", ["408"].as_slice()), (&*(first + "GET / HT"), &["200", "408"])] {
        let mut client = secure_and_send(gateway.address(), "a.example", &[], sent.as_bytes()).expect("a handshake");
        let mut text = String::new();
        client.read_to_string(&mut text).expect("the end");
        let statuses: Vec<_> = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, answers, "{text}");
    }
}

#[test]
fn a_client_that_goes_silent_within_its_body_is_refused_and_the_service_not_blamed() {
    let origin = Origin::echo();
    let gateway = with("timeouts: { request_body: 600ms }", "timeouts: { read: 200ms }", &origin);
    for part in [head("POST", "/x", &[], 10) + "abc", head("POST", "/x", &[("Transfer-Encoding", "chunked")], 0) + "3\r\nabc\r\n"] {
        let mut client = gateway.connect();
        let started = Instant::now();
        client.send(&part);
        let answer = client.answer();
        assert_eq!((answer.status, answer.code()), (408, "request_timeout".to_string()));
        assert!(started.elapsed() >= 550 * MS, "{:?}", started.elapsed());
        client.wait_for_close();
    }
    let failed = |outcome: &str| {
        gateway.metric(&format!("frontdesk_upstream_requests_total{{endpoint=\"{origin}\",outcome=\"{outcome}\",service=\"s\"}}"))
    };
    assert_eq!(["timeout", "reset", "protocol", "connect"].map(failed), [0.0; 4]);
    gateway.wait_until_idle();
}

#[test]
fn a_body_that_drips_is_refused_unless_the_route_bears_it() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ limits: {{ body_rate: 100B }} }}
routes:
  - {{ path: /*, to: http://{origin} }}
  - {{ path: /patient, body_rate: 0, to: http://{origin} }}
"
    ));
    let drip = |target: &str| {
        let mut client = gateway.connect();
        client.send(head("POST", target, &[], 12));
        let mut sending = client.stream().try_clone().expect("a stream");
        std::thread::scope(|scope| {
            // It ends with the body, or with the connection.
            scope.spawn(move || {
                for _ in 0..12 {
                    std::thread::sleep(500 * MS);
                    if sending.write_all(b"x").is_err() {
                        return;
                    }
                }
            });
            client.answer().status
        })
    };
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| drip("/patient"));
        assert_eq!((drip("/hasty"), patient.join().expect("an answer")), (408, 200));
    });
    assert!(gateway.access_log(2).iter().any(|line| line["code"] == "request_timeout" && line["path"] == "/hasty"));
    gateway.wait_until_idle();
}

#[test]
fn so_is_one_over_http2() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ limits: {{ body_rate: 100B }} }}
routes:
  - {{ path: /service, to: http://{origin} }}
  - {{ path: /held, to: http://{origin}, request: {{ body: {{ json: {{ remove: [a] }} }} }} }}
  - {{ path: /composed, compose: {{ calls: {{ a: {{ to: http://{origin}, path: '/${{body.a}}' }} }} }} }}
"
    ));
    let gateway = &gateway;
    run_async(async move {
        let drip = async |path: &str| {
            let client = H2Client::connect(gateway.address()).await;
            let (answer, mut body) = client.begin(Method::POST, path, &[("content-type", "application/json")], false).await;
            let drip = async {
                // It ends with the stream.
                while body.send_data(Bytes::from_static(b" "), false).is_ok() {
                    tokio::time::sleep(500 * MS).await;
                }
            };
            let (answer, ()) = tokio::join!(answer, drip);
            assert_eq!(answer.expect("an answer").status(), 408, "{path}");
            assert_eq!(client.get("/service").await.status, 200);
        };
        tokio::join!(drip("/service"), drip("/held"), drip("/composed"));
    });
    gateway.wait_until_idle();
}

#[test]
fn many_clients_that_take_nothing_are_borne_for_shorter() {
    let origin = Origin::scripted(|_, to| {
        // More than the kernel holds; it ends with the connection.
        to.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")?;
        (0..1024).try_for_each(|_| to.get_mut().write_all(&[b'x'; 64 << 10]))?;
        Ok(true)
    });
    let gateway = with("buffers: 1MiB, timeouts: { client_write: 60s }", "", &origin);
    let started = Instant::now();
    let clients: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = gateway.connect();
            client.send(head("GET", "/x", &[], 0));
            client
        })
        .collect();
    // The last of them are given up long before the first.
    eventually("some are given up", || (gateway.metric("frontdesk_connections") < 20.0).then_some(()));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(gateway.get("/fixed").status, 200);
    assert!(gateway.metric("frontdesk_connections") >= 4.0);
    drop(clients);
    gateway.wait_until_idle();
}

#[test]
fn a_client_that_sends_slowly_is_not_cut_off_by_the_patience_with_the_service() {
    let origin = Origin::echo();
    let gateway = with("", "timeouts: { read: 300ms }", &origin);
    let mut client = gateway.connect();
    client.send(head("POST", "/x", &[], 15));
    steadily(15, 60 * MS, |_| client.send("."));
    let answer = client.answer();
    assert_eq!((answer.status, &answer.json()["body"]), (200, &"...............".into()));
}

/// More than all buffers on the way hold.
const UPLOAD: usize = 32 << 20;

#[test]
fn a_service_that_takes_nothing_is_given_up() {
    let end = Gate::default();
    let held = end.clone();
    let origin = Origin::bare(move |_, _| {
        held.wait();
        Ok(())
    });
    let gateway = with("limits: { body_bytes: 0 }", "timeouts: { write: 300ms }, retries: { attempts: 1 }", &origin);
    let mut client = gateway.connect();
    let mut sending = client.stream().try_clone().expect("a stream");
    let answer = std::thread::scope(|scope| {
        scope.spawn(move || {
            let head = format!("POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: {UPLOAD}\r\n\r\n");
            // It is cut off.
            let _ = sending.write_all(head.as_bytes()).and_then(|()| sending.write_all(&vec![b'x'; UPLOAD]));
        });
        client.answer()
    });
    assert_eq!((answer.status, answer.code()), (504, "upstream_timeout".to_string()));
    drop(client);
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let (answer, mut body) = client.begin(Method::POST, "/x", &[], false).await;
        body.send_data(vec![b'x'; UPLOAD].into(), true).expect("to send");
        let answer = whole(answer).await.expect("an answer");
        assert_eq!((answer.status, answer.json()["code"].as_str()), (504, Some("upstream_timeout")));
    });
    gateway.wait_until_idle();
    end.open();
}

#[test]
fn a_service_that_is_silent_is_given_up() {
    let origin = Origin::scripted(|_, stream| until_gone(stream).map(|()| false));
    let gateway = with("", "timeouts: { read: 300ms }", &origin);
    let started = Instant::now();
    let answer = gateway.get("/x");
    assert_eq!((answer.status, answer.code()), (504, "upstream_timeout".to_string()));
    assert!(started.elapsed() >= 250 * MS);
    eventually("the end at the service", || (origin.open() == 0).then_some(()));
}

#[test]
fn an_answer_that_stops_halfway_is_broken_off() {
    let origin = Origin::scripted(|_, stream| {
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")?;
        until_gone(stream).map(|()| false)
    });
    let gateway = with("", "timeouts: { read: 1s }", &origin);
    let mut client = gateway.connect();
    client.send(head("GET", "/x", &[], 0));
    assert!(client.try_answer("GET").is_err());
    eventually("the end at the service", || (origin.open() == 0).then_some(()));
}

#[test]
fn the_total_bounds_a_service_that_drips_its_head() {
    let origin = Origin::scripted(|_, stream| {
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
        while stream.get_mut().write_all(b"x").is_ok() {
            rest(stream, 20 * MS)?;
        }
        Ok(false)
    });
    let gateway = with("", "timeouts: { total: 400ms }", &origin);
    let started = Instant::now();
    let answer = gateway.get("/x");
    assert_eq!((answer.status, answer.code()), (504, "upstream_timeout".to_string()));
    assert!(started.elapsed() >= 350 * MS);
}

#[test]
fn a_route_replaces_the_timeouts_of_its_service_field_by_field() {
    let origin = Origin::scripted(|_, stream| until_gone(stream).map(|()| false));
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{origin}], timeouts: {{ read: 1h, total: 1h }} }} }}
routes: [{{ path: /read, to: s, timeouts: {{ read: 200ms }} }}, {{ path: /total, to: s, timeouts: {{ total: 200ms }} }}]
"
    ));
    assert_eq!(["/read", "/total"].map(|target| gateway.get(target).code()), ["upstream_timeout"; 2]);
}

#[test]
fn events_may_rest_longer_than_the_patience_with_the_service() {
    for kind in ["text/event-stream", "text/event-stream; charset=utf-8"] {
        let origin = Origin::scripted(move |_, stream| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
            stream.get_mut().write_all(head.as_bytes())?;
            rest(stream, 900 * MS)?;
            stream.get_mut().write_all(b"3\r\ntwo\r\n0\r\n\r\n").map(|()| true)
        });
        let gateway = with("", "timeouts: { read: 300ms }", &origin);
        let answer = gateway.connect().request("GET", "/x", &[("Content-Type", kind)], b"");
        assert_eq!((answer.status, answer.text()), (200, "onetwo".to_string()), "{kind}");
    }
}

#[test]
fn a_client_that_takes_nothing_is_cut_off_and_its_service_let_go() {
    let origin = Origin::scripted(|_, stream| {
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")?;
        let part = vec![b'x'; 1 << 20];
        while stream.get_mut().write_all(&part).is_ok() {}
        Ok(false)
    });
    let gateway = with("timeouts: { client_write: 300ms }", "", &origin);
    let mut client = gateway.connect();
    client.send(head("GET", "/x", &[], 0));
    origin.wait_for(1);
    eventually("the end at the service", || (origin.open() == 0).then_some(()));
    gateway.wait_until_idle();
    assert!(client.read_to_end().len() < 100_000_000);
}

#[test]
fn a_client_that_takes_slowly_is_not() {
    const PART: usize = 512 << 10;
    let origin = Origin::new(|_| answer(200, &[], &[b'x'; 30 * PART]));
    let gateway = with("timeouts: { client_write: 800ms }", "", &origin);
    let mut client = gateway.connect();
    socket2::SockRef::from(client.stream()).set_recv_buffer_size(64 << 10).expect("a small window");
    client.send(head("GET", "/x", &[("Connection", "close")], 0));
    // The gateway waits for most of it, longer than it would wait for one part.
    steadily(30, 60 * MS, |_| drop(client.read(PART)));
    assert!(!client.read_to_end().is_empty(), "as many bytes more as the head has");
}

#[test]
fn nor_is_its_service_blamed() {
    const PART: usize = 512 << 10;
    let origin = Origin::new(|_| answer(200, &[], &[b'x'; 30 * PART]));
    // The service may be silent for less time than the client takes between two pieces.
    let gateway = with("", "timeouts: { read: 100ms }", &origin);
    let mut client = gateway.connect();
    socket2::SockRef::from(client.stream()).set_recv_buffer_size(64 << 10).expect("a small window");
    client.send(head("GET", "/service", &[("Connection", "close")], 0));
    steadily(5, 500 * MS, |_| drop(client.read(PART)));
    drop(client.read(25 * PART));
    assert!(!client.read_to_end().is_empty(), "as many bytes more as the head has");
    let of = |outcome: &str| format!("frontdesk_upstream_requests_total{{endpoint=\"{origin}\",outcome=\"{outcome}\",service=\"s\"}}");
    assert_eq!((gateway.metric(&of("timeout")), gateway.metric(&of("ok"))), (0.0, 1.0));
}

#[test]
fn connections_above_the_cap_are_told_so() {
    let origin = Origin::echo();
    let gateway = with("max_connections: 2", "", &origin);
    let mut kept: Vec<Client> = (0..2).map(|_| gateway.connect()).collect();
    kept.iter_mut().for_each(|client| assert_eq!(client.get("/fixed").status, 200));
    for sent in ["", "GET /fixed HTTP/1.1\r\nHost: test\r\n\r\n"] {
        let mut client = gateway.connect();
        client.send(sent);
        let answer = client.answer();
        assert_eq!((answer.status, answer.code(), answer.header("retry-after")), (503, "overloaded".to_string(), Some("1")));
        client.wait_for_close();
    }
    assert_eq!(gateway.metric("frontdesk_connections_refused_total"), 2.0);
    kept.iter_mut().for_each(|client| assert_eq!(client.get("/fixed").status, 200));
    kept.pop();
    eventually("room for another", || (gateway.get("/fixed").status == 200).then_some(()));
}

#[test]
fn connections_above_the_cap_are_closed_on_tls() {
    let gateway = with_tls("max_connections: 1");
    let kept = secure(gateway.address(), "a.example", &[]).expect("a handshake");
    assert!(secure(gateway.address(), "a.example", &[]).is_err());
    drop(kept);
    eventually("room for another", || secure(gateway.address(), "a.example", &[]).ok());
}

#[test]
fn over_http2_a_body_that_goes_silent_ends_its_stream_and_no_other() {
    let origin = Origin::echo();
    let gateway = with("timeouts: { request_body: 400ms }", "timeouts: { read: 100ms }", &origin);
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let started = Instant::now();
        let (answer, mut body) = client.begin(Method::POST, "/silent", &[], false).await;
        body.send_data("abc".into(), false).expect("to send");
        assert_eq!(client.get("/other").await.status, 200);
        // Told so or reset, but not before it was due, and the connection goes on.
        let ended = whole(answer).await;
        assert!(ended.as_ref().is_ok_and(|answer| answer.status == 408) || ended.as_ref().is_err_and(h2::Error::is_reset), "{ended:?}");
        assert!(started.elapsed() >= 350 * MS, "{:?}", started.elapsed());
        assert_eq!(client.get("/other").await.status, 200);
    });
    gateway.wait_until_idle();
    let lines = gateway.access_log(3);
    let silent = lines.iter().find(|line| line["path"] == "/silent").unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!((&silent["status"], &silent["code"]), (&408.into(), &"request_timeout".into()));
}
