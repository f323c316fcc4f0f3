//! What could be understood in two ways is refused; what is legal arrives as it was meant.

use crate::kit::{Client, Gateway, H2Client, Origin, answer, run_async};
use http::Method;
use std::io::Write;

fn before(origin: &Origin) -> Gateway {
    Gateway::start(&format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: /*, to: http://{origin} }}]\n"))
}

#[test]
fn ambiguous_requests_are_refused_counted_and_written_down() {
    let origin = Origin::echo();
    let gateway = before(&origin);
    let bad = [
        "GET / HTTP/1.1\nHost: h\n\n",
        "GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a%zz\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a%4\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.7\r\nHost: h\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: h\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /<b> HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /` HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /?q=<b> HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /?q=\"b\" HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET http://other/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n",
        "xxGET  / HTTP/1.1\r\nHost: h\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ];
    for request in bad {
        let mut client = gateway.connect();
        client.send(request);
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.code(), answer.header("connection")),
            (400, "bad_request".to_string(), Some("close")),
            "{request:?}"
        );
        client.wait_for_close();
    }
    assert_eq!(origin.seen().len(), 0);
    assert_eq!(gateway.metric("frontdesk_refusals_total{code=\"bad_request\",route=\"\"}"), bad.len() as f64);
    assert_eq!(gateway.metric("frontdesk_requests_total{method=\"OTHER\",route=\"\",status=\"400\"}"), bad.len() as f64);
    let lines = gateway.access_log(bad.len());
    assert!(
        lines.iter().all(|line| line["status"] == 400 && line["client_ip"] == "127.0.0.1" && line["code"] == "bad_request"),
        "{lines:?}"
    );
    gateway.wait_for_log("Host is missing.");
}

#[test]
fn a_refused_head_is_answered_though_the_client_goes_on_sending() {
    let origin = Origin::echo();
    let gateway = before(&origin);
    let mut client = gateway.connect();
    let mut sending = client.stream().try_clone().expect("a stream");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = sending.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n");
            let _ = sending.write_all(&vec![b'x'; 4 << 20]);
        });
        assert_eq!(client.answer().status, 400);
    });
    drop(client);
    gateway.wait_until_idle();
}

#[test]
fn broken_chunks_are_refused_and_nothing_behind_them_is_believed() {
    let origin = Origin::echo();
    let gateway = before(&origin);
    for chunks in [
        "\r\n0\r\n\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        "0\r\n x: y\r\n\r\n",
    ] {
        let mut client = gateway.connect();
        client.send(format!(
            "POST /bad HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}GET /behind HTTP/1.1\r\nHost: h\r\n\r\n"
        ));
        let answer = client.answer();
        assert_eq!((answer.status, answer.code()), (400, "bad_request".to_string()), "{chunks:?}");
        client.wait_for_close();
    }
    assert!(!origin.has_seen("/behind"));
    gateway.wait_until_idle();
}

#[test]
fn legal_requests_arrive_as_they_were_meant() {
    let origin = Origin::echo();
    let gateway = before(&origin);
    let chunked = "POST /c HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0002\r\nde\r\n0\r\nT: v\r\n\r\n";
    for (request, body) in [
        ("\r\nGET /x HTTP/1.1\r\nHost:\th\r\nEmpty:\r\n\r\n", ""),
        ("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", "abc"),
        ("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", ""),
        (chunked, "abcde"),
        ("GET http://h/x HTTP/1.1\r\nHost: h\r\n\r\n", ""),
        ("GET /x HTTP/1.0\r\n\r\n", ""),
    ] {
        let mut client = gateway.connect();
        client.send(request);
        let answer = client.answer();
        assert_eq!((answer.status, &answer.json()["body"]), (200, &body.into()), "{request:?}");
    }
    // Byte by byte it is the same.
    let mut client = gateway.connect();
    chunked.bytes().for_each(|byte| client.send([byte]));
    assert_eq!(client.answer().json()["body"], "abcde");
}

#[test]
fn a_request_that_may_do_without_a_host_gets_one_on_its_way() {
    let origin = Origin::echo();
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send("GET /x HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    assert_eq!(origin.seen()[0].header("host"), Some(&*origin.to_string()));
}

#[test]
fn what_is_sent_ahead_is_served_in_its_order() {
    let origin = Origin::new(|request| answer(200, &[], format!("{} {}", request.target, request.body.len()).as_bytes()));
    let gateway = before(&origin);
    let mut client = gateway.connect();
    let get = |n: usize| format!("GET /{n} HTTP/1.1\r\nHost: h\r\n\r\n");
    let post = |n: usize| format!("POST /{n} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcde");
    let chunked = |n: usize| format!("POST /{n} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n");
    let requests: String = (0..60).map(|n| [get(n), post(n), chunked(n)][n % 3].clone()).collect();
    client.send(requests);
    for n in 0..60 {
        let body = if n % 3 == 0 { 0 } else { 5 };
        assert_eq!(client.answer().text(), format!("/{n} {body}"));
    }
    assert_eq!(client.get("/last").text(), "/last 0");
}

#[test]
fn more_than_one_read_may_be_sent_ahead_while_a_service_thinks() {
    let origin = Origin::fixed("x");
    let gateway = before(&origin);
    let mut client: Client = gateway.connect();
    let one = format!("GET /x HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(3000));
    let mut sending = client.stream().try_clone().expect("a stream");
    std::thread::scope(|scope| {
        scope.spawn(move || sending.write_all(one.repeat(200).as_bytes()).expect("to send"));
        (0..200).for_each(|_| assert_eq!(client.answer().text(), "x"));
    });
}

/// What a client hears of a service that answers with these bytes and closes.
fn behind(bytes: &'static [u8]) -> (Vec<u8>, Option<u16>) {
    let origin = Origin::bare(move |stream, _| {
        if crate::kit::read_head(stream)?.is_some() {
            stream.get_mut().write_all(bytes)?;
        }
        Ok(())
    });
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send(crate::kit::head("GET", "/", &[("Connection", "close")], 0));
    let raw = client.read_to_end();
    let status = std::str::from_utf8(&raw).ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
    (raw, status)
}

#[test]
fn answers_whose_framing_can_not_be_trusted_are_not_passed_on() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        assert_eq!(behind(bytes).1, Some(502), "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_service_can_not_nominate_its_framing_away() {
    let (raw, status) = behind(b"HTTP/1.1 200 OK\r\nConnection: Content-Length, close\r\nContent-Length: 10\r\n\r\nhello");
    let text = String::from_utf8_lossy(&raw).to_ascii_lowercase();
    // Five bytes of ten: broken off, and to be seen as that.
    assert!(status == Some(200) && text.contains("content-length: 10\r\n") && text.ends_with("hello"), "{text}");
}

#[test]
fn the_version_of_an_answer_is_our_own() {
    let (raw, _) = behind(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert!(raw.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&raw));
}

#[test]
fn the_gateway_is_no_forward_proxy() {
    let origin = Origin::echo();
    let gateway = before(&origin);
    let answer = gateway.connect().request("CONNECT", "/", &[], b"");
    assert_eq!((answer.status, answer.code(), answer.header("server")), (405, "method_not_allowed".to_string(), None));
    run_async(async {
        let answer = H2Client::connect(gateway.address()).await.request(Method::CONNECT, "", &[], b"").await;
        assert_eq!((answer.status, answer.header("server")), (405, None));
        assert!(answer.header("allow").is_some_and(|allow| !allow.contains("CONNECT")), "{answer:?}");
    });
    let lines = gateway.access_log(2);
    // What has no path is no target that is read.
    assert_eq!(gateway.connect().request("CONNECT", "x:80", &[], b"").code(), "bad_request");
    assert_eq!(origin.seen().len(), 0);
    assert!(lines.iter().all(|line| line["method"] == "CONNECT" && line["code"] == "method_not_allowed"), "{lines:?}");
}

#[test]
fn a_path_has_one_form_whichever_a_client_sends() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
routes:
  - {{ path: /e/*, to: http://{origin} }}
  - {{ path: /e/caf\u{e9}, respond: {{ body: closed }} }}
  - {{ path: '/e/a%7Cb', respond: {{ body: closed }} }}
"
    ));
    let mut client = gateway.connect();
    for target in ["/e/caf\u{e9}", "/e/caf%C3%A9", "/e/caf%c3%a9", "/e/a|b", "/e/a%7cb"] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(client.answer().text(), "closed", "{target}");
    }
    client.send("GET /e/th\u{e9}/\"{x}\" HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.answer().json()["target"], "/e/th%C3%A9/%22%7Bx%7D%22");
}

#[test]
fn a_target_over_http2_begins_with_a_slash() {
    let origin = Origin::echo();
    let gateway = before(&origin);
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        assert_eq!(client.get("?x").await.status, 400);
        assert_eq!(client.get("/?x").await.status, 200);
    });
}
