//! Bodies both ways: framing, sizes, limits, interim answers, trailers.

use crate::kit::{Answer, Client, Gate, Gateway, H2Client, LARGE, Origin, PATIENCE, Request};
use crate::kit::{answer, drink, head, pour, read_head, run_async};
use http::Method;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::channel;

fn gateway(origin: &Origin, route: &str) -> Gateway {
    Gateway::start(&format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: /*, to: http://{origin}, {route} }}]"))
}

/// An origin that answers every request with these bytes, and ends the connection behind them when told so.
fn wire(bytes: &'static [u8], keeps: bool) -> Origin {
    Origin::scripted(move |_, stream| {
        stream.get_mut().write_all(bytes)?;
        Ok(keeps)
    })
}

fn post(client: &mut Client, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    client.send(head("POST", "/", headers, if headers.is_empty() { body.len() } else { 0 }));
    client.send(body);
    client.answer()
}

const CHUNKED: [(&str, &str); 1] = [("Transfer-Encoding", "chunked")];

/// How the body of a request was framed, and what it was.
fn framing(request: &Request) -> (usize, String) {
    let fields = request.all("content-length").len() + request.all("transfer-encoding").len();
    (fields, String::from_utf8_lossy(&request.body).into_owned())
}

#[test]
fn uploads_arrive_whole_and_framed_once() {
    let origin = Origin::fixed("ok");
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    assert_eq!(post(&mut client, &[], b"hello").text(), "ok");
    assert_eq!(post(&mut client, &CHUNKED, b"3;ext=1\r\nhel\r\n2\r\nlo\r\n0\r\nX-Trailer: 1\r\n\r\n").text(), "ok");
    assert_eq!(post(&mut client, &[("Content-Length", "0")], b"").text(), "ok");
    assert_eq!(client.get("/").text(), "ok");
    let seen: Vec<_> = origin.seen().iter().map(framing).collect();
    assert_eq!(seen[..2], [(1, "hello".to_string()), (1, "hello".to_string())]);
    assert_eq!((seen[2].1.as_str(), &seen[3]), ("", &(0, String::new())));
}

#[test]
fn an_empty_chunked_upload_spoils_nothing() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    for _ in 0..3 {
        assert_eq!(post(&mut client, &CHUNKED, b"0\r\n\r\n").json()["body"], "");
        assert_eq!(client.get("/").json()["method"], "GET");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn answers_of_every_framing_arrive_whole() {
    for (bytes, keeps) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..], true),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", true),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", false),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", false),
    ] {
        let origin = wire(bytes, keeps);
        let gateway = gateway(&origin, "");
        let mut client = gateway.connect();
        for _ in 0..2 {
            let answer = client.get("/");
            let fields = answer.all("content-length").len() + answer.all("transfer-encoding").len();
            assert_eq!((answer.text(), fields), ("hello".to_string(), 1), "{}", String::from_utf8_lossy(bytes));
        }
    }
}

#[test]
fn an_old_client_gets_no_chunks() {
    let origin = wire(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true);
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("transfer-encoding"), answer.text()), (200, None, "hello".to_string()));
}

#[test]
fn an_answer_that_breaks_off_is_broken_off_for_the_client_too() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n",
        // A chunk's size has a digit (RFC 9112, 7.1): an empty line is no 0.
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n;x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
    ] {
        let origin = wire(bytes, false);
        let gateway = gateway(&origin, "");
        let mut client = gateway.connect();
        client.send(head("GET", "/", &[], 0));
        let error = client.try_answer("GET").expect_err("a broken answer");
        assert!(
            matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
            "{error}: {}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[test]
fn nor_does_it_look_whole_to_an_old_client() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n",
    ] {
        let origin = wire(bytes, false);
        let gateway = gateway(&origin, "");
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
        let error = client.reader().read_to_end(&mut Vec::new()).expect_err("no end of the connection");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn an_old_client_gets_no_interim_answers() {
    let origin = Origin::scripted(|_, stream| {
        stream.get_mut().write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")?;
        stream.get_mut().write_all(&answer(200, &[], b"ok"))?;
        Ok(true)
    });
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.0\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi");
    let answer = client.next_answer("POST");
    assert_eq!((answer.status, answer.text()), (200, "ok".to_string()));
    assert_eq!(origin.seen()[0].header("expect"), None);
}

#[test]
fn what_only_says_that_it_is_grpc_is_bounded_too() {
    let origin = Origin::fixed("ok");
    let gateway = gateway(&origin, "body_bytes: 10");
    let body = "x".repeat(11);
    for kind in ["application/grpc", "application/grpcfoo", "application/grpc-web"] {
        let mut client = gateway.connect();
        client.send(head("POST", "/", &[CHUNKED[0], ("Content-Type", kind)], 0) + &format!("b\r\n{body}\r\n"));
        let answer = client.answer();
        assert!(answer.status == 413 || answer.header("grpc-message") == Some("body_too_large"), "{kind}: {answer:?}");
        run_async(async {
            let client = H2Client::connect(gateway.address()).await;
            let answer = client.request(Method::POST, "/", &[("content-type", kind)], body.as_bytes()).await;
            assert!(answer.status == 413 || answer.header("grpc-message") == Some("body_too_large"), "{kind}: {answer:?}");
        });
    }
}

#[test]
fn bodies_above_the_limit_are_refused() {
    let origin = Origin::fixed("ok");
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ limits: {{ body_bytes: 10B }} }}
routes:
  - {{ path: /server, to: http://{origin} }}
  - {{ path: /route, body_bytes: 20, to: http://{origin} }}
  - {{ path: /none, body_bytes: 0, to: http://{origin} }}
"
    ));
    for (path, bytes, status) in
        [("/server", 10, 200), ("/server", 11, 413), ("/route", 20, 200), ("/route", 21, 413), ("/none", 100_000, 200)]
    {
        let body = "x".repeat(bytes);
        let announced = gateway.connect().request("POST", path, &[], body.as_bytes());
        let mut client = gateway.connect();
        // The terminator is left out where it is not needed: a connection that is closed on unread bytes is reset.
        client.send(head("POST", path, &CHUNKED, 0) + &format!("{bytes:x}\r\n{body}\r\n"));
        client.send(if status == 200 { "0\r\n\r\n" } else { "" });
        for answer in [announced, client.answer()] {
            assert_eq!(answer.status, status, "{path} {bytes}: {answer:?}");
            assert!(status == 200 || answer.code() == "body_too_large");
        }
    }
    assert!(origin.seen().iter().all(|request| !matches!(request.body.len(), 11 | 21)), "a body that was refused arrived");
    assert_eq!(gateway.metric("frontdesk_refusals_total{code=\"body_too_large\",route=\"/server\"}"), 2.0);
}

#[test]
fn a_body_that_is_announced_too_large_is_refused_before_it_is_sent() {
    let origin = Origin::fixed("ok");
    let gateway = gateway(&origin, "body_bytes: 10");
    let mut client = gateway.connect();
    client.send(head("POST", "/", &[("Content-Length", "1000000")], 0));
    assert_eq!(client.answer().code(), "body_too_large");
    assert_eq!(origin.connections(), 0);
}

#[test]
fn answers_of_the_gateway_have_the_bound_too() {
    let gateway = Gateway::start(
        "
listeners: [{ bind: 127.0.0.1:0 }]
server: { limits: { body_bytes: 10B } }
routes:
  - { path: /fixed, respond: { body: fixed } }
  - { path: /away, body_bytes: 20, redirect: { to: /there } }
  - { path: /none, body_bytes: 0, respond: {} }
",
    );
    for (path, bytes, status) in [("/fixed", 10, 200), ("/fixed", 11, 413), ("/away", 20, 302), ("/away", 21, 413), ("/none", 1000, 200)] {
        let mut client = gateway.connect();
        let answer = client.request("POST", path, &[], "x".repeat(bytes).as_bytes());
        assert_eq!(answer.status, status, "{path} {bytes}: {answer:?}");
        assert!(status != 413 || answer.code() == "body_too_large");
        assert_eq!(client.get("/none").status, 200, "the connection goes on");
    }
}

#[test]
fn a_service_sees_the_begin_of_a_body_before_its_end() {
    let (saw, seen) = channel();
    let saw = Mutex::new(saw);
    let origin = Origin::bare(move |stream, _| {
        read_head(stream)?;
        let mut begin = [0; 10];
        stream.read_exact(&mut begin)?;
        saw.lock().expect("a channel").send(begin).expect("a test");
        stream.read_exact(&mut [0; 5])?;
        stream.get_mut().write_all(&answer(200, &[], b"ok"))
    });
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send(head("POST", "/", &[("Content-Length", "15")], 0) + "begin ");
    client.send("more");
    assert_eq!(&seen.recv_timeout(*PATIENCE).expect("the begin"), b"begin more");
    client.send(" end.");
    assert_eq!(client.answer().text(), "ok");
}

/// An origin that sends the begin of an answer, waits for the client to have seen it, and sends the end.
fn begin_is_seen(begin: &'static str, end: &'static str) {
    let gate = Gate::default();
    let may_end = gate.clone();
    let origin = Origin::scripted(move |_, stream| {
        stream.get_mut().write_all(begin.as_bytes())?;
        may_end.pass()?;
        stream.get_mut().write_all(end.as_bytes())?;
        Ok(!begin.contains("close"))
    });
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send(head("GET", "/", &[("Connection", "close")], 0));
    let mut got = Vec::new();
    while !got.ends_with(b"begin") {
        got.extend(client.read(1));
    }
    gate.open();
    assert!(String::from_utf8_lossy(&client.read_to_end()).contains("end"));
}

#[test]
fn a_client_sees_the_begin_of_a_chunked_answer_before_its_end() {
    begin_is_seen("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n", "3\r\nend\r\n0\r\n\r\n");
}

#[test]
fn a_client_sees_the_begin_of_an_answer_of_known_length_before_its_end() {
    begin_is_seen("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbegin", "end");
}

#[test]
fn a_client_sees_the_begin_of_an_answer_of_unknown_length_before_its_end() {
    begin_is_seen("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbegin", "end");
}

/// What may gather on the way of a large body.
const GROWTH_KIB_MAX: u64 = 32 << 10;

#[test]
fn a_large_upload_waits_for_a_slow_service_and_takes_no_memory() {
    let stuck = Gate::default();
    let is_stuck = stuck.clone();
    let origin = Origin::bare(move |stream, _| {
        read_head(stream)?;
        is_stuck.pass()?;
        drink(stream)?;
        stream.get_mut().write_all(&answer(200, &[], b"ok"))
    });
    let gateway = gateway(&origin, "body_bytes: 0");
    gateway.ask("/status");
    let before = gateway.resident_kib();
    let mut client = gateway.connect();
    client.send(head("POST", "/", &[("Content-Length", &LARGE.to_string())], 0));
    pour(client.stream(), &stuck).expect("to send all");
    assert_eq!(client.answer().text(), "ok");
    assert!(gateway.peak_kib() < before + GROWTH_KIB_MAX, "{} KiB, then {}", before, gateway.peak_kib());
    assert_eq!(gateway.access_log(1)[0]["bytes_in"], *LARGE);
}

#[test]
fn a_large_download_waits_for_a_slow_client_and_takes_no_memory() {
    let stuck = Gate::default();
    let is_stuck = stuck.clone();
    let origin = Origin::scripted(move |_, stream| {
        write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", *LARGE)?;
        pour(stream.get_ref(), &is_stuck)?;
        Ok(true)
    });
    let gateway = gateway(&origin, "");
    gateway.ask("/status");
    let before = gateway.resident_kib();
    let mut client = gateway.connect();
    client.send(head("GET", "/", &[], 0));
    stuck.wait();
    let mut stream = io::BufReader::new(client.stream());
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).expect("a head");
    }
    drink(&mut stream).expect("the whole body");
    assert!(gateway.peak_kib() < before + GROWTH_KIB_MAX, "{} KiB, then {}", before, gateway.peak_kib());
    assert_eq!(gateway.access_log(1)[0]["bytes_out"], *LARGE);
}

#[test]
fn head_has_no_body_and_the_connection_goes_on() {
    let origin = Origin::new(|request| match &*request.method {
        "HEAD" => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Kept: 1\r\n\r\n".to_vec(),
        _ => answer(200, &[], b"hello"),
    });
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    for _ in 0..2 {
        let head = client.request("HEAD", "/", &[], b"");
        assert_eq!((head.status, head.header("content-length"), head.header("x-kept")), (200, Some("5"), Some("1")));
        assert_eq!(client.get("/").text(), "hello");
    }
}

#[test]
fn a_body_behind_an_answer_to_head_reaches_nobody() {
    let origin = Origin::fixed("hello");
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    for _ in 0..3 {
        assert_eq!(client.request("HEAD", "/", &[], b"").status, 200);
        assert_eq!(client.get("/").text(), "hello");
    }
}

#[test]
fn answers_without_a_body_have_none() {
    for (bytes, status) in [
        (&b"HTTP/1.1 204 No Content\r\n\r\n"[..], 204),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", 204),
        (b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\n", 304),
    ] {
        let origin = wire(bytes, true);
        let gateway = gateway(&origin, "");
        let mut client = gateway.connect();
        for _ in 0..3 {
            let answer = client.get("/");
            assert_eq!((answer.status, answer.header("transfer-encoding")), (status, None));
            assert!(status == 304 || answer.header("content-length").is_none());
        }
    }
}

#[test]
fn early_hints_are_passed_on_before_the_answer() {
    let gate = Gate::default();
    let may_end = gate.clone();
    let origin = Origin::scripted(move |_, stream| {
        stream.get_mut().write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")?;
        may_end.pass()?;
        stream.get_mut().write_all(&answer(200, &[], b"ok"))?;
        Ok(true)
    });
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send(head("GET", "/", &[], 0));
    let hints = client.next_answer("GET");
    assert_eq!((hints.status, hints.header("link")), (103, Some("</a.css>; rel=preload")));
    gate.open();
    let answer = client.next_answer("GET");
    assert_eq!((answer.status, answer.text()), (200, "ok".to_string()));
}

#[test]
fn a_body_that_waits_to_be_asked_for_is_asked_for_by_the_service() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send(head("POST", "/", &[("Expect", "100-continue"), ("Content-Length", "5")], 0));
    assert_eq!(client.next_answer("POST").status, 100);
    client.send("hello");
    assert_eq!(client.next_answer("POST").json()["body"], "hello");
}

#[test]
fn a_service_may_answer_without_asking_for_the_body() {
    let origin = Origin::bare(|stream, _| {
        read_head(stream)?;
        stream.get_mut().write_all(&answer(403, &[], b"no"))
    });
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send(head("POST", "/", &[("Expect", "100-continue"), ("Content-Length", "5")], 0));
    let answer = client.next_answer("POST");
    assert_eq!((answer.status, answer.text()), (403, "no".to_string()));
}

#[test]
fn trailers_of_an_http1_answer_are_left_out_and_nothing_else() {
    let origin = wire(b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n", true);
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!(answer.text(), "hello");
        assert_eq!((answer.header("trailer"), answer.trailers.len()), (None, 0));
    }
}

#[test]
fn requests_that_come_at_once_are_answered_in_order() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    client.send(
        [
            head("GET", "/1", &[], 0),
            head("POST", "/2", &[], 4) + "body",
            head("POST", "/3", &CHUNKED, 0) + "4\r\nbody\r\n0\r\n\r\n",
            head("GET", "/4", &[], 0),
        ]
        .concat(),
    );
    let answers: Vec<_> = (0..4).map(|_| client.answer().json()).map(|echo| (echo["target"].clone(), echo["body"].clone())).collect();
    assert_eq!(answers, [("/1", ""), ("/2", "body"), ("/3", "body"), ("/4", "")].map(|(target, body)| (target.into(), body.into())));
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let origin = Origin::fixed("ok");
    let gateway = gateway(&origin, "body_bytes: 1KiB");
    let body = vec![b'x'; 4 << 20];
    for headers in [&[][..], &CHUNKED] {
        let mut client = gateway.connect();
        client.send(head("POST", "/", headers, body.len()));
        client.send("1000000\r\n");
        // All of it is sent before the answer is read, as many clients do.
        client.send(&body);
        let answer = client.answer();
        assert_eq!((answer.status, answer.code(), answer.header("connection")), (413, "body_too_large".to_string(), Some("close")));
    }
    gateway.wait_until_idle();
}
