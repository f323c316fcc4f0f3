//! Another attempt: when, how often, for whom, and at what price.

use crate::kit::{Gateway, Origin, answer, dead_address, until_gone};
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A gateway whose only service `s` takes its endpoints in turns and never ejects one.
fn gateway(endpoints: &[&dyn Display], service: &str) -> Gateway {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{}], balance: round_robin, ejection: {{ max_percent: 0 }}, {service} }} }}
routes: [{{ path: /*, to: s }}]
",
        endpoints.join(", ")
    ))
}

fn status(code: u16) -> Origin {
    Origin::new(move |_| answer(code, &[("X-From", "service")], b"its own words"))
}

#[test]
fn a_status_is_tried_again_where_that_is_asked_for() {
    for code in [502, 503, 504] {
        let (bad, good) = (status(code), Origin::fixed("good"));
        let gateway = gateway(&[&bad, &good], &format!("retries: {{ when: [{code}] }}"));
        assert_eq!(gateway.get("/").text(), "good", "{code}");
        assert_eq!(gateway.connect().request("POST", "/", &[], b"hello").status, code);
        assert_eq!((bad.seen().len(), good.seen().len()), (2, 1));
        let lines = gateway.access_log(2);
        assert!(lines.iter().any(|line| line["attempts"] == 2 && line["status"] == 200), "{lines:?}");
        assert_eq!(gateway.metric("frontdesk_retries_total{service=\"s\"}"), 1.0);
    }
}

#[test]
fn a_status_is_passed_on_where_it_is_not_and_after_the_last_attempt() {
    let (bad, worse) = (status(503), status(503));
    for (retries, attempts) in [("", 1), ("retries: { when: [502] }", 1), ("retries: { attempts: 4, when: [503], backoff: 1ms }", 4)] {
        let gateway = gateway(&[&bad, &worse], retries);
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.text().as_str(), answer.header("x-from")), (503, "its own words", Some("service")));
        assert_eq!(gateway.access_log(1)[0]["attempts"], attempts, "{retries}");
    }
}

#[test]
fn a_server_error_of_the_services_own_is_never_tried_again() {
    let (bad, good) = (status(500), Origin::fixed("good"));
    let gateway = gateway(&[&bad, &good], "retries: { attempts: 3, when: [connect, reset, 502, 503, 504], methods: all }");
    assert_eq!(gateway.get("/").status, 500);
    assert_eq!(good.seen().len(), 0);
}

#[test]
fn methods_say_who_may_be_sent_twice() {
    let (bad, good) = (status(503), Origin::echo());
    for (methods, method, fields, expected) in [
        ("safe", "PUT", &[][..], 503),
        ("idempotent", "PUT", &[], 200),
        ("idempotent", "POST", &[], 503),
        ("all", "POST", &[], 200),
        ("[safe, POST]", "POST", &[], 200),
        ("idempotency_key", "POST", &[("Idempotency-Key", "7")], 200),
        ("idempotency_key", "POST", &[], 503),
    ] {
        let gateway = gateway(&[&bad, &good], &format!("retries: {{ when: [503], methods: {methods} }}"));
        let answer = gateway.connect().request(method, "/", fields, b"the same twice");
        assert_eq!(answer.status, expected, "{methods} {method} {fields:?}");
        if expected == 200 {
            assert_eq!(answer.json()["body"], "the same twice");
        }
    }
}

#[test]
fn a_body_is_sent_again_up_to_64_kib_and_refused_for_it_above() {
    let (bad, good) = (status(503), Origin::echo());
    for (size, expected) in [(60 << 10, 200), (200 << 10, 503)] {
        let gateway = gateway(&[&bad, &good], "retries: { when: [503], methods: all }");
        let body = vec![b'x'; size];
        let answer = gateway.connect().request("POST", "/", &[], &body);
        assert_eq!(answer.status, expected, "{size}");
        if expected == 200 {
            assert_eq!(answer.json()["body"].as_str().map(str::len), Some(size));
        }
        // Which is told.
        let refused = gateway.metric("frontdesk_retries_refused_total{reason=\"body\",service=\"s\"}");
        assert_eq!(refused, if expected == 200 { 0.0 } else { 1.0 });
    }
}

#[test]
fn one_attempt_is_none_beside_the_first() {
    let gateway = gateway(&[&dead_address(), &Origin::fixed("good")], "retries: { attempts: 1 }");
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.code()), (502, "upstream_connect".to_string()));
}

#[test]
fn each_attempt_goes_somewhere_else_while_there_is_somewhere() {
    let (a, b, c) = (status(503), status(503), Origin::fixed("good"));
    let gateway = gateway(&[&a, &b, &c], "retries: { attempts: 3, when: [503], backoff: 1ms }");
    for round in 1..=4 {
        assert_eq!(gateway.get("/").text(), "good");
        assert!(a.seen().len() <= round && b.seen().len() <= round);
    }
}

#[test]
fn an_attempt_that_takes_too_long_is_given_up_for_the_next() {
    let (silent, good) = (Origin::scripted(|_, stream| until_gone(stream).map(|()| false)), Origin::fixed("good"));
    let gateway = gateway(&[&silent, &good], "retries: { per_try: 200ms }");
    let started = Instant::now();
    assert_eq!(gateway.get("/").text(), "good");
    assert!(started.elapsed() >= Duration::from_millis(190), "{:?}", started.elapsed());
    let answer = gateway.connect().request("POST", "/", &[], b"once");
    assert_eq!((answer.status, answer.code()), (504, "upstream_timeout".to_string()));
    let lines = gateway.access_log(2);
    assert!(lines.iter().any(|line| line["attempts"] == 2 && line["method"] == "GET"), "{lines:?}");
}

#[test]
fn silence_is_tried_again_where_504_is() {
    let (silent, good) = (Origin::scripted(|_, stream| until_gone(stream).map(|()| false)), Origin::fixed("good"));
    let gateway = gateway(&[&silent, &good], "timeouts: { read: 200ms }, retries: { when: [504] }");
    assert_eq!(gateway.get("/").text(), "good");
}

#[test]
fn an_answer_that_can_not_be_read_is_tried_again_where_502_is() {
    let (garbage, good) = (Origin::new(|_| b"nonsense\r\n\r\n".to_vec()), Origin::fixed("good"));
    let gateway = gateway(&[&garbage, &good], "retries: { when: [502] }");
    assert_eq!(gateway.get("/").text(), "good");
}

#[test]
fn all_attempts_share_the_whole_time() {
    let silent = || Origin::scripted(|_, stream| until_gone(stream).map(|()| false));
    let (a, b, c) = (silent(), silent(), silent());
    let gateway = gateway(&[&a, &b, &c], "timeouts: { total: 700ms }, retries: { attempts: 10, per_try: 300ms, backoff: 1ms }");
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.code()), (504, "upstream_timeout".to_string()));
    let line = &gateway.access_log(1)[0];
    let duration = line["duration_ms"].as_f64().expect("a number");
    assert_eq!(line["attempts"], 3);
    // Ten would take three seconds.
    assert!((690.0..2_000.0).contains(&duration), "{duration} ms");
}

#[test]
fn pauses_grow_between_attempts() {
    let bad = status(503);
    let gateway = gateway(&[&bad], "retries: { attempts: 6, when: [503], backoff: 200ms }");
    let started = Instant::now();
    assert_eq!(gateway.get("/").status, 503);
    // 200, 400, ... 3200 ms at most, of which random parts are waited for: less than 50 ms in all would be a chance of one in 10^9.
    assert!(started.elapsed() > Duration::from_millis(50), "{:?}", started.elapsed());
    assert_eq!(bad.seen().len(), 6);
}

#[test]
fn an_outage_makes_no_storm() {
    let bad = status(503);
    let gateway = gateway(&[&bad], "retries: { attempts: 3, when: [503], budget_percent: 20, backoff: 0 }");
    let (mut client, started) = (gateway.connect(), Instant::now());
    for _ in 0..200 {
        assert_eq!(client.get("/").status, 503);
    }
    let attempts = bad.seen().len();
    // Ten at first, a fifth of 200, and one more for each second that this takes.
    let most = 200 + 10 + 40 + 2 + started.elapsed().as_secs() as usize;
    assert!((245..=most).contains(&attempts), "{attempts} of at most {most}");
}

#[test]
fn a_budget_of_nothing_is_no_retry() {
    let bad = status(503);
    let gateway = gateway(&[&bad], "retries: { when: [503], budget_percent: 0 }");
    assert_eq!(gateway.get("/").status, 503);
    assert_eq!(bad.seen().len(), 1);
    assert_eq!(gateway.metric("frontdesk_retries_refused_total{reason=\"budget\",service=\"s\"}"), 1.0);
}

#[test]
fn nothing_is_tried_again_once_the_answer_has_begun() {
    let tries = AtomicUsize::new(0);
    let origin = Origin::scripted(move |_, stream| {
        tries.fetch_add(1, Ordering::AcqRel);
        std::io::Write::write_all(stream.get_mut(), b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
        Ok(false)
    });
    let gateway = gateway(&[&origin], "retries: { attempts: 3, methods: all, when: [reset, 502, 503, 504] }");
    let mut client = gateway.connect();
    client.send(crate::kit::head("GET", "/", &[], 0));
    assert!(client.try_answer("GET").is_err());
    assert_eq!(origin.seen().len(), 1);
}
