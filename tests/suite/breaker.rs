//! A service that fails as a whole is left alone.

use crate::kit::{Client, Gate, Gateway, Origin, answer, dead_address, echoes, eventually, head, until_gone};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

fn yaml(endpoint: &dyn std::fmt::Display, service: &str) -> String {
    format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  s: {{ endpoints: ['{endpoint}'], retries: {{ attempts: 1 }}, {service} }}
routes: [{{ path: /*, to: s }}]
"
    )
}

/// One that answers with a status that may be changed.
fn moody() -> (Origin, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(500));
    let theirs = status.clone();
    (Origin::new(move |_| answer(theirs.load(Ordering::Acquire), &[], b"its own")), status)
}

#[track_caller]
fn open(client: &mut Client, times: usize) {
    (0..times).for_each(|_| assert_eq!(client.get("/").status, 500));
}

#[test]
fn it_opens_answers_by_itself_and_closes_again() {
    let (origin, status) = moody();
    let gateway = Gateway::start(&yaml(&origin, "breaker: { min_requests: 4, open: 300ms }"));
    let mut client = gateway.connect();
    let is_open = || gateway.metric("frontdesk_breaker_open{service=\"s\"}");
    assert_eq!(is_open(), 0.0);
    open(&mut client, 4);
    let refused = client.get("/");
    assert_eq!((refused.status, refused.code().as_str(), refused.header("retry-after")), (503, "breaker_open", Some("1")));
    assert_eq!((origin.seen().len(), is_open()), (4, 1.0));
    assert_eq!(gateway.ask("/status").json()["services"][0]["breaker"], "open");
    let lines = gateway.access_log(5);
    assert!(lines.iter().any(|line| line["code"] == "breaker_open" && line["attempts"] == 0), "{lines:?}");
    gateway.wait_for_log("s fails too often");
    status.store(200, Ordering::Release);
    eventually("the service's return", || (client.get("/").status == 200).then_some(()));
    assert_eq!((is_open(), client.get("/").status), (0.0, 200));
}

#[test]
fn what_can_not_be_reached_opens_it_too() {
    let gateway = Gateway::start(&yaml(&dead_address(), "breaker: { min_requests: 3, open: 1h }"));
    let codes: Vec<String> = (0..4).map(|_| gateway.get("/").code()).collect();
    assert_eq!(codes, ["upstream_connect", "upstream_connect", "upstream_connect", "breaker_open"]);
    let after: u64 = gateway.get("/").header("retry-after").expect("a time").parse().expect("a number");
    assert!((3_500..=3_600).contains(&after), "{after}");
}

#[test]
fn half_of_the_requests_have_to_fail() {
    let turn = AtomicU16::new(0);
    let origin = Origin::new(move |_| answer(if turn.fetch_add(1, Ordering::AcqRel) % 3 == 2 { 503 } else { 200 }, &[], b""));
    let gateway = Gateway::start(&yaml(&origin, "breaker: { min_requests: 2 }"));
    let mut client = gateway.connect();
    assert!((0..30).all(|_| client.get("/").status != 503 || origin.seen().len().is_multiple_of(3)));
    assert_eq!(origin.seen().len(), 30);
}

#[test]
fn one_at_a_time_tries() {
    let (gate, status) = (Gate::default(), Arc::new(AtomicU16::new(500)));
    let (held, theirs) = (gate.clone(), status.clone());
    let origin = Origin::new(move |request| {
        if request.target == "/held" {
            held.wait();
        }
        answer(theirs.load(Ordering::Acquire), &[], b"")
    });
    let gateway = Gateway::start(&yaml(&origin, "breaker: { min_requests: 2, open: 100ms }"));
    open(&mut gateway.connect(), 2);
    gateway.access_log(2);
    status.store(200, Ordering::Release);
    let mut trial = eventually("a trial", || {
        let before = gateway.access_log(0).len();
        let mut client = gateway.connect();
        client.send(head("GET", "/held", &[], 0));
        // The trial waits at the service; whoever is refused has the answer at once.
        let came = eventually("the service or a refusal", || {
            let is_refused = gateway.access_log(0).len() > before;
            (is_refused || origin.has_seen("/held")).then_some(!is_refused)
        });
        came.then_some(client)
    });
    for _ in 0..5 {
        assert_eq!(gateway.get("/").code(), "breaker_open");
    }
    gate.open();
    assert_eq!(trial.answer().status, 200);
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn slowness_may_be_an_error() {
    let origin = Origin::new(|_| {
        std::thread::sleep(std::time::Duration::from_millis(30));
        answer(200, &[], b"")
    });
    let gateway = Gateway::start(&yaml(&origin, "breaker: { min_requests: 3, open: 1h, slow: 10ms }"));
    assert!((0..3).all(|_| gateway.get("/").status == 200));
    assert_eq!(gateway.get("/").code(), "breaker_open");
}

#[test]
fn a_fallback_answers_instead() {
    let (origin, _) = moody();
    let respond = "{ status: 200, headers: { X-From: fallback }, body: 'sorry' }";
    for fallback in [respond.to_string(), format!("{{ respond: {respond} }}")] {
        let text = yaml(&origin, &format!("breaker: {{ min_requests: 2, open: 1h }}, fallback: {fallback}"));
        let gateway = Gateway::start(&text.replace("to: s }", "to: s, response: { headers: { set: { X-Frame-Options: DENY } } } }"));
        let mut client = gateway.connect();
        open(&mut client, 2);
        let answer = client.get("/");
        assert_eq!((answer.status, answer.text().as_str(), answer.header("x-from")), (200, "sorry", Some("fallback")));
        assert_eq!(answer.header("x-frame-options"), Some("DENY"));
        let lines = gateway.access_log(3);
        assert!(lines.iter().any(|line| line["code"] == "breaker_open" && line["status"] == 200), "{lines:?}");
    }
}

#[test]
fn another_service_may_take_its_place() {
    let ((origin, _), other) = (moody(), Origin::echo());
    for form in ["other", "{ to: other }", "{ service: other }"] {
        let gateway = Gateway::start(&format!(
            "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  s: {{ endpoints: [{origin}], breaker: {{ min_requests: 2, open: 1h }}, fallback: {form} }}
  other: {{ endpoints: [{other}] }}
routes: [{{ path: /*, to: s }}]
"
        ));
        let mut client = gateway.connect();
        open(&mut client, 2);
        let answer = client.request("POST", "/x", &[], b"hello");
        assert_eq!((answer.status, &answer.json()["body"]), (200, &"hello".into()), "{form}");
        let lines = gateway.access_log(3);
        assert!(lines.iter().any(|line| line["path"] == "/x" && line["service"] == "other"), "{lines:?}");
    }
}

#[test]
fn a_tunnel_goes_to_that_service_too() {
    let ((origin, _), other) = (moody(), Origin::websocket_echo());
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  s: {{ endpoints: [{origin}], breaker: {{ min_requests: 2, open: 1h }}, fallback: other }}
  other: {{ endpoints: [{other}] }}
routes: [{{ path: /*, to: s }}]
"
    ));
    open(&mut gateway.connect(), 2);
    echoes(&mut gateway.websocket(), "hello");
}

#[test]
fn a_reload_keeps_it_open() {
    let (origin, _) = moody();
    let gateway = Gateway::start(&yaml(&origin, "breaker: { min_requests: 2, open: 1h }"));
    open(&mut gateway.connect(), 2);
    assert!(gateway.reload(&yaml(&origin, "breaker: { min_requests: 3, open: 1h }")));
    assert_eq!(gateway.get("/").code(), "breaker_open");
}

#[test]
fn what_takes_its_place_keeps_its_own_bound() {
    let gate = Gate::default();
    let ((origin, _), theirs) = (moody(), gate.clone());
    let other = Origin::new(move |request| {
        if request.target == "/hold" {
            theirs.wait();
        }
        answer(200, &[], b"other")
    });
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  s: {{ endpoints: [{origin}], breaker: {{ min_requests: 2, open: 1h }}, fallback: other, max_in_flight: 100 }}
  other: {{ endpoints: [{other}], max_in_flight: 1 }}
routes: [{{ path: /*, to: s }}]
"
    ));
    open(&mut gateway.connect(), 2);
    let mut held = gateway.connect();
    held.send(head("GET", "/hold", &[], 0));
    other.wait_for(1);
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.code().as_str()), (503, "too_many_in_flight"));
    let caps = gateway.ask("/status").json()["services"].clone();
    assert_eq!((&caps[0]["cap"]["in_flight"], &caps[1]["cap"]["in_flight"]), (&0.into(), &1.into()));
    gate.open();
    assert_eq!(held.answer_to("GET").text(), "other");
    drop(held);
    gateway.wait_until_idle();
    assert_eq!(gateway.get("/").text(), "other");
}

#[test]
fn what_takes_its_place_has_the_routes_patience() {
    let silent = Origin::scripted(|_, stream| until_gone(stream).map(|()| false));
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  s: {{ dns: 'nothing.invalid:80', fallback: other }}
  other: {{ endpoints: [{silent}], retries: {{ attempts: 1 }} }}
routes: [{{ path: /*, to: s, timeouts: {{ read: 100ms }} }}]
"
    ));
    // The service's own would be a minute.
    let late = gateway.get("/");
    assert_eq!((late.status, late.code().as_str()), (504, "upstream_timeout"));
}

#[test]
fn a_tunnel_of_a_service_without_endpoints_goes_there_too() {
    let other = Origin::websocket_echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  s: {{ dns: 'nothing.invalid:80', fallback: other }}
  other: {{ endpoints: [{other}] }}
routes: [{{ path: /*, to: s }}]
"
    ));
    echoes(&mut gateway.websocket(), "hello");
}

#[test]
fn composed_calls_ask_it_and_tell_it() {
    let (origin, status) = moody();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{origin}], breaker: {{ min_requests: 3, open: 300ms }} }} }}
routes:
  - path: /home
    compose: {{ calls: {{ a: {{ to: s, path: /a, required: true }} }}, body: {{ a: '${{a.body}}' }} }}
  - {{ path: /*, to: s }}
"
    ));
    let mut client = gateway.connect();
    (0..3).for_each(|_| assert_eq!(client.get("/home").status, 500));
    assert_eq!((client.get("/home").code().as_str(), client.get("/").code().as_str()), ("breaker_open", "breaker_open"));
    assert_eq!(origin.seen().len(), 3);
    status.store(200, Ordering::Release);
    // What is no JSON is no answer to a call, but one of the service.
    eventually("the service's return", || (client.get("/home").code() == "compose_failed").then_some(()));
    assert_eq!(gateway.metric("frontdesk_breaker_open{service=\"s\"}"), 0.0);
}

#[test]
fn mirrors_ask_it_and_tell_it() {
    let (main, (copy, _)) = (Origin::fixed("main"), moody());
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  s: {{ endpoints: [{main}] }}
  next: {{ endpoints: [{copy}], breaker: {{ min_requests: 3, open: 1h }} }}
routes: [{{ name: r, path: /*, to: s, mirror: {{ to: next }} }}]
"
    ));
    let metric = |outcome: &str| gateway.metric(&format!("frontdesk_mirror_total{{outcome=\"{outcome}\",route=\"r\"}}"));
    let mut client = gateway.connect();
    for n in 1..=3 {
        assert_eq!(client.get("/").text(), "main");
        eventually("the copy", || (metric("sent") == f64::from(n)).then_some(()));
    }
    assert_eq!(client.get("/").text(), "main");
    eventually("the copy that was not sent", || (metric("dropped") == 1.0).then_some(()));
    assert_eq!((copy.seen().len(), gateway.metric("frontdesk_breaker_open{service=\"next\"}")), (3, 1.0));
}
