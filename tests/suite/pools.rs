//! Which endpoint, and what happens when one fails.

use crate::kit::{Answer, Gate, Gateway, Origin, answer, dead_address, eventually, head, read_request, rest, until_gone};
use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A gateway whose only service is `s`.
fn gateway(endpoints: &[&dyn Display], service: &str) -> Gateway {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{}], {service} }} }}
routes: [{{ path: /*, to: s }}]
",
        endpoints.join(", ")
    ))
}

/// One that reads a request and closes without a word.
fn mute() -> Origin {
    Origin::scripted(|_, _| Ok(false))
}

fn refused(answer: &Answer) -> (u16, String) {
    (answer.status, answer.code())
}

fn reset() -> (u16, String) {
    (502, "upstream_reset".to_string())
}

fn timed_out() -> (u16, String) {
    (504, "upstream_timeout".to_string())
}

fn upstream_metric(gateway: &Gateway, endpoint: SocketAddr, outcome: &str) -> f64 {
    gateway.metric(&format!("frontdesk_upstream_requests_total{{endpoint=\"{endpoint}\",outcome=\"{outcome}\",service=\"s\"}}"))
}

#[test]
fn round_robin_is_exact_over_a_cycle() {
    let (a, b, c) = (Origin::fixed("a"), Origin::fixed("b"), Origin::fixed("c"));
    let weighted = |origin: &Origin, weight| format!("{{ address: '{origin}', weight: {weight} }}");
    let gateway = gateway(&[&a, &weighted(&b, 2), &weighted(&c, 3)], "balance: round_robin");
    let mut client = gateway.connect();
    for cycle in 1..=3 {
        let turns: String = (0..6).map(|_| client.get("/").text()).collect();
        assert_eq!((a.seen().len(), b.seen().len(), c.seen().len()), (cycle, 2 * cycle, 3 * cycle), "{turns}");
        assert!(!turns.contains("ccc"), "{turns}");
    }
    assert_eq!(upstream_metric(&gateway, c.address(), "ok"), 9.0);
}

#[test]
fn least_request_avoids_an_endpoint_that_is_busy() {
    let gate = Gate::default();
    let origin = |name: &'static str| {
        let held = gate.clone();
        Origin::new(move |request| {
            if request.target == "/held" {
                held.wait();
            }
            answer(200, &[], name.as_bytes())
        })
    };
    let (a, b) = (origin("a"), origin("b"));
    let gateway = gateway(&[&a, &b], "balance: least_request");
    let mut busy = gateway.connect();
    busy.send(head("GET", "/held", &[], 0));
    eventually("the request that is held", || (a.seen().len() + b.seen().len() == 1).then_some(()));
    let mut client = gateway.connect();
    let others: Vec<_> = (0..20).map(|_| client.get("/").text()).collect();
    gate.open();
    let held = busy.answer().text();
    assert!(others.iter().all(|other| *other != held), "{held} was busy: {others:?}");
}

#[test]
fn a_dead_endpoint_costs_the_client_nothing() {
    let (dead, live) = (dead_address(), Origin::echo());
    let gateway = gateway(&[&dead, &live], "balance: round_robin");
    let mut client = gateway.connect();
    for method in ["GET", "POST", "GET", "POST"] {
        let echo = client.request(method, "/", &[], b"hello").json();
        assert_eq!((&echo["method"], &echo["body"]), (&method.into(), &"hello".into()));
    }
    let attempts: Vec<_> = gateway.access_log(4).iter().map(|line| line["attempts"].clone()).collect();
    // Every attempt is a turn of its own: dead and live each time.
    assert_eq!(attempts, [2, 2, 2, 2]);
    assert_eq!(gateway.access_log(4)[0]["endpoint"], live.address().to_string());
    assert_eq!(gateway.metric("frontdesk_retries_total{service=\"s\"}"), 4.0);
    assert_eq!((upstream_metric(&gateway, dead, "connect"), upstream_metric(&gateway, live.address(), "ok")), (4.0, 4.0));
}

#[test]
fn when_all_endpoints_are_dead_the_client_is_told() {
    let gateway = gateway(&[&dead_address(), &dead_address()], "");
    let answer = gateway.get("/");
    assert_eq!(refused(&answer), (502, "upstream_connect".to_string()));
    assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    let line = &gateway.access_log(1)[0];
    assert_eq!((&line["attempts"], &line["code"], &line["status"]), (&2.into(), &"upstream_connect".into(), &502.into()));
}

#[test]
fn a_reset_before_the_answer_is_tried_again_when_that_is_safe() {
    let (bad, good) = (mute(), Origin::fixed("good"));
    let gateway = gateway(&[&bad, &good], "balance: round_robin");
    for method in ["GET", "HEAD", "OPTIONS"] {
        assert_eq!(gateway.connect().request(method, "/", &[], b"").status, 200, "{method}");
    }
    assert_eq!((bad.seen().len(), good.seen().len()), (3, 3));
    assert_eq!(upstream_metric(&gateway, bad.address(), "reset"), 3.0);
}

#[test]
fn a_reset_before_the_answer_is_not_tried_again_when_that_is_unsafe() {
    let (bad, good) = (mute(), Origin::fixed("good"));
    let gateway = gateway(&[&bad, &good], "balance: round_robin");
    assert_eq!(refused(&gateway.connect().request("POST", "/", &[], b"hello")), reset());
    assert_eq!(good.seen().len(), 0);
    assert_eq!(gateway.access_log(1)[0]["attempts"], 1);
}

#[test]
fn a_pooled_connection_that_was_closed_is_replaced() {
    // Each connection serves one request, and is closed when another one comes.
    let origin = Origin::bare(|stream, _| {
        let Some(_) = read_request(stream)? else { return Ok(()) };
        stream.get_mut().write_all(&answer(200, &[], b"once"))?;
        read_request(stream).map(drop)
    });
    let gateway = gateway(&[&origin], "");
    let mut client = gateway.connect();
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "once");
    }
    assert_eq!(client.request("PUT", "/", &[], b"hello").text(), "once");
}

#[test]
fn a_service_may_close_behind_every_answer() {
    let origin = Origin::scripted(|_, stream| stream.get_mut().write_all(&answer(200, &[], b"bye")).map(|()| false));
    let gateway = gateway(&[&origin], "");
    let mut client = gateway.connect();
    for i in 0..50 {
        assert_eq!(client.get("/").text(), "bye", "request {i}");
    }
}

#[test]
fn connections_are_kept_for_the_next_request() {
    for (service, connections) in [("", 1), ("keepalive: { connections: 0 }", 5)] {
        let origin = Origin::fixed("ok");
        let gateway = gateway(&[&origin], service);
        let mut client = gateway.connect();
        for _ in 0..5 {
            assert_eq!(client.get("/").text(), "ok");
        }
        assert_eq!(origin.connections(), connections, "{service}");
    }
}

#[test]
fn a_connection_that_rests_too_long_is_closed() {
    let origin = Origin::fixed("ok");
    let gateway = gateway(&[&origin], "keepalive: { idle: 100ms }");
    assert_eq!(gateway.get("/").text(), "ok");
    eventually("its end", || (origin.open() == 0).then_some(()));
}

#[test]
fn a_silent_service_is_timed_out() {
    let origin = Origin::scripted(|_, stream| until_gone(stream).map(|()| false));
    let other = Origin::fixed("other");
    let gateway = gateway(&[&origin, &other], "balance: round_robin, timeouts: { read: 500ms }");
    for method in ["GET", "POST"] {
        assert_eq!(refused(&gateway.connect().request(method, "/", &[], b"")), timed_out());
        assert_eq!(gateway.get("/").text(), "other");
    }
    assert_eq!(upstream_metric(&gateway, origin.address(), "timeout"), 2.0);
    eventually("the end of the connections", || (origin.open() == 0).then_some(()));
}

/// Sends a byte now and then, for as long as somebody listens.
fn drip(to: &mut impl Write) -> io::Result<bool> {
    loop {
        std::thread::sleep(Duration::from_millis(20));
        to.write_all(b"x")?;
    }
}

#[test]
fn a_service_that_drips_its_head_is_timed_out() {
    let origin = Origin::scripted(|_, stream| {
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
        drip(stream.get_mut())
    });
    let gateway = gateway(&[&origin], "timeouts: { read: 200ms }");
    assert_eq!(refused(&gateway.get("/")), timed_out());
}

#[test]
fn the_whole_time_is_bounded_up_to_the_head_of_the_answer() {
    let origin = Origin::scripted(|request, stream| {
        if request.target == "/late" {
            return until_gone(stream).map(|()| false);
        }
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")?;
        for _ in 0..40 {
            std::thread::sleep(Duration::from_millis(20));
            stream.get_mut().write_all(b"x")?;
        }
        Ok(true)
    });
    let gateway = gateway(&[&origin], "timeouts: { total: 500ms }");
    assert_eq!(refused(&gateway.get("/late")), timed_out());
    assert_eq!(gateway.get("/slow").text(), "x".repeat(40));
}

#[test]
fn attempts_share_the_whole_time() {
    let tries = AtomicUsize::new(0);
    let origin = Origin::scripted(move |_, stream| {
        if tries.fetch_add(1, Ordering::AcqRel) == 0 {
            rest(stream, Duration::from_millis(1500))?; // most of the time, then a reset
            return Ok(false);
        }
        until_gone(stream).map(|()| false)
    });
    let gateway = gateway(&[&origin], "timeouts: { total: 2s }");
    assert_eq!(refused(&gateway.get("/")), timed_out());
    let duration = gateway.access_log(1)[0]["duration_ms"].as_f64().expect("a number");
    assert_eq!(origin.seen().len(), 2);
    assert!(duration < 3300.0, "{duration} ms"); // 3500 if each had its own
}

#[test]
fn a_routes_timeouts_replace_those_of_the_service_field_by_field() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::new(move |_| {
        held.wait();
        answer(200, &[], b"at last")
    });
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{origin}], timeouts: {{ read: 200ms }} }} }}
routes:
  - {{ path: /service, to: s }}
  - {{ path: /other-field, to: s, timeouts: {{ connect: 10s, write: 10s }} }}
  - {{ path: /longer, to: s, timeouts: {{ read: 20s }} }}
  - {{ path: /shorter, to: s, timeouts: {{ read: 20s, total: 200ms }} }}
"
    ));
    let mut longer = gateway.connect();
    longer.send(head("GET", "/longer", &[], 0));
    for path in ["/service", "/other-field", "/shorter"] {
        assert_eq!(refused(&gateway.get(path)), timed_out(), "{path}");
    }
    gate.open();
    assert_eq!(longer.answer().text(), "at last");
}

#[test]
fn an_answer_that_can_not_be_read_is_not_passed_on() {
    for bytes in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let origin = Origin::new(|_| bytes.as_bytes().to_vec());
        let gateway = gateway(&[&origin], "");
        let answer = gateway.connect().request("POST", "/", &[], b"");
        assert_eq!(refused(&answer), (502, "upstream_protocol".to_string()), "{bytes}");
        assert_eq!(upstream_metric(&gateway, origin.address(), "protocol"), 1.0);
    }
}
