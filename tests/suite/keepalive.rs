//! Connections to services between two requests.

use crate::kit::{Gate, Gateway, Origin, answer, eventually, head, read_head, read_request, rest};
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn gateway(origin: &Origin, keepalive: &str) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ threads: 1 }} # or a client may ask again before another thread has let go of its connection
services: {{ s: {{ endpoints: ['{origin}'], keepalive: {{ {keepalive} }} }} }}
routes:
  - {{ path: /two, compose: {{ calls: {{ a: {{ to: s, path: /a }}, b: {{ to: s, path: '/b?id=${{a.body.id}}' }} }} }} }}
  - {{ path: /*, to: s }}
"
    ))
}

#[test]
fn no_more_rest_than_may() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::new(move |_| {
        held.wait();
        answer(200, &[], b"ok")
    });
    let gateway = gateway(&origin, "connections: 3");
    let mut clients: Vec<_> = (0..10).map(|_| gateway.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(head("GET", "/", &[], 0)));
    eventually("ten at once", || (origin.seen().len() == 10).then_some(()));
    gate.open();
    assert!(clients.iter_mut().all(|client| client.answer().text() == "ok"));
    eventually("seven are closed", || (origin.open() == 3).then_some(()));
    assert_eq!(gateway.get("/").text(), "ok");
    assert_eq!((origin.connections(), origin.open()), (10, 3));
}

#[test]
fn what_a_service_says_unasked_is_never_an_answer() {
    // Behind the first answer of a connection stands another one that nobody asked for: right away, or while it rests.
    for delay in [false, true] {
        let rested = Gate::default();
        let (resting, seen) = (rested.clone(), AtomicUsize::new(0));
        let origin = Origin::bare(move |stream, _| {
            while read_request(stream)?.is_some() {
                let mut said = answer(200, &[], b"yours");
                let unasked = if seen.fetch_add(1, Ordering::SeqCst) == 0 { answer(200, &[], b"not yours") } else { Vec::new() };
                if !delay {
                    said.extend_from_slice(&unasked);
                }
                stream.get_mut().write_all(&said)?;
                if delay && !unasked.is_empty() {
                    resting.wait();
                    stream.get_mut().write_all(&unasked)?;
                }
            }
            Ok(())
        });
        let gateway = gateway(&origin, "");
        assert_eq!(gateway.get("/").text(), "yours");
        rested.open();
        if delay {
            eventually("the connection is given up", || (origin.open() == 0).then_some(()));
        }
        for _ in 0..5 {
            assert_eq!(gateway.get("/").text(), "yours");
        }
    }
}

/// A service that answers a request with a body like this before it has come, and takes the body for the next request (CL.0).
fn hasty(early: &'static [u8]) -> Origin {
    Origin::bare(move |stream, seen| {
        while let Some(request) = read_head(stream)? {
            let (is_hasty, target) = (request.target == "/hasty", request.target.clone());
            seen.lock().expect("the list").push(request);
            if !is_hasty {
                // Longer than the next request takes to come, or the gateway would see an answer that nobody asked for.
                rest(stream, Duration::from_millis(200))?;
            }
            let said = if is_hasty { early.to_vec() } else { answer(200, &[], target.as_bytes()) };
            stream.get_mut().write_all(&said)?;
        }
        Ok(())
    })
}

#[test]
fn what_comes_behind_an_early_answer_is_nobodys_request() {
    const BODY: &str = "GET /admin HTTP/1.1\r\nHost: x\r\n\r\n";
    let framings =
        [&[("Content-Length", "34")][..], &[("Content-Length", "34"), ("Expect", "100-continue")], &[("Transfer-Encoding", "chunked")]];
    let answers = [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhasty"[..], 200),
        // With these nothing comes behind the head.
        (b"HTTP/1.1 301 Elsewhere\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 301),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
    ];
    for (fields, (said, status)) in framings.into_iter().flat_map(|fields| answers.map(|answer| (fields, answer))) {
        let origin = hasty(said);
        let gateway = gateway(&origin, "");
        let mut client = gateway.connect();
        client.send(head("POST", "/hasty", fields, 0));
        assert_eq!(client.next_answer("POST").status, status, "{fields:?}");
        // The connection may have ended by now, which is good as well.
        let _ =
            client.try_send(if fields.len() == 1 && fields[0].1 == "chunked" { format!("22\r\n{BODY}\r\n0\r\n\r\n") } else { BODY.into() });
        assert_eq!(gateway.get("/victim").text(), "/victim", "{fields:?}");
        assert!(!origin.has_seen("/admin"), "{fields:?}: it got past the gateway");
    }
}

#[test]
fn a_service_that_asks_for_the_body_keeps_its_connection() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    for _ in 0..3 {
        let mut client = gateway.connect();
        client.send(head("POST", "/x", &[("Expect", "100-continue"), ("Content-Length", "5")], 0));
        assert_eq!(client.next_answer("POST").status, 100);
        client.send("hello");
        assert_eq!(client.next_answer("POST").json()["body"], "hello");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_body_where_there_can_be_none_is_nobodys_answer() {
    const STOLEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen";
    for (method, begin, status) in [
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n", 304),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 44\r\n\r\n", 502),
        ("GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", 502),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n", 200),
    ] {
        let origin = Origin::bare(move |stream, _| {
            while let Some(request) = read_head(stream)? {
                if request.target == "/victim" {
                    stream.get_mut().write_all(&answer(200, &[], b"mine"))?;
                    continue;
                }
                stream.get_mut().write_all(begin.as_bytes())?;
                // As late as can be: with the next request, if one comes this way.
                if !stream.fill_buf()?.is_empty() {
                    stream.get_mut().write_all(STOLEN.as_bytes())?;
                }
            }
            Ok(())
        });
        let gateway = gateway(&origin, "");
        let first = gateway.connect().request(method, "/first", &[], b"");
        assert_eq!((first.status, gateway.get("/victim").text()), (status, "mine".to_string()), "{method} {begin}");
    }
}

#[test]
fn a_call_of_head_ends_its_connection() {
    let origin = Origin::fixed("{}");
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: ['{origin}'] }} }}
routes: [{{ path: /*, compose: {{ calls: {{ a: {{ to: s, path: /a, method: HEAD }} }}, body: {{ status: '${{a.status}}' }} }} }}]
"
    ));
    assert_eq!(gateway.get("/").json()["status"], 200);
    assert_eq!(origin.seen()[0].header("connection"), Some("close"));
}

#[test]
fn one_that_the_service_ends_is_let_go_of() {
    let gate = Gate::default();
    let resting = gate.clone();
    let origin = Origin::scripted(move |_, stream| {
        stream.get_mut().write_all(&answer(200, &[], b"ok"))?;
        resting.wait();
        Ok(false)
    });
    let gateway = gateway(&origin, "idle: 60s");
    assert_eq!(gateway.get("/").text(), "ok");
    gate.open();
    eventually("the gateway's side is closed too", || (origin.open() == 0).then_some(()));
    let line = &gateway.access_log(1)[0];
    assert_eq!(line["attempts"], 1);
    assert_eq!(gateway.get("/").text(), "ok");
    // It was known to be gone: nothing had to be tried again.
    assert_eq!(gateway.access_log(2)[1]["attempts"], 1);
}

#[test]
fn composed_calls_and_requests_share_them() {
    let origin = Origin::new(|_| answer(200, &[("Content-Type", "application/json")], b"{\"id\":1}"));
    let gateway = gateway(&origin, "");
    for target in ["/two", "/", "/two"] {
        assert_eq!(gateway.get(target).status, 200, "{target}");
    }
    assert_eq!((origin.seen().len(), origin.connections()), (5, 1));
}
