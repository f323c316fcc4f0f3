//! How many at once: per route, per service, and the queue before it. That nothing is left of clients that vanish at any stage,
//! `vanish.rs` shows.

use crate::kit::{Client, Gate, Gateway, Origin, answer, eventually, head};
use serde_json::json;
use std::time::{Duration, Instant};

/// Holds requests for `/hold…` until the gate is open; others are answered at once.
fn service(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::new(move |request| {
        if request.target.starts_with("/hold") {
            gate.wait();
        }
        answer(200, &[], b"served")
    })
}

fn yaml(origin: &Origin, service: &str, route: &str) -> String {
    format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ it: {{ endpoints: ['{origin}']{service} }} }}
routes: [{{ name: all, path: /*{route}, to: it }}, {{ path: /other, to: it }}]
"
    )
}

fn send(gateway: &Gateway, target: &str) -> Client {
    let mut client = gateway.connect();
    client.send(head("GET", target, &[], 0));
    client
}

#[test]
fn above_the_most_of_a_route_requests_are_refused() {
    let gate = Gate::default();
    let origin = service(&gate);
    let gateway = Gateway::start(&yaml(&origin, "", ", max_in_flight: 2"));
    let held = [send(&gateway, "/hold/1"), send(&gateway, "/hold/2")];
    origin.wait_for(2);
    let refused = gateway.get("/3");
    assert_eq!((refused.status, refused.code()), (503, "too_many_in_flight".to_string()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(gateway.get("/other").status, 200, "another route");
    let status = gateway.ask("/status").json();
    assert_eq!(status["caps"][0], json!({ "route": "all", "cap": { "in_flight": 2, "waiting": 0, "max": 2 } }));
    // A reload forgets nobody who is inside.
    assert!(gateway.reload(&yaml(&origin, "", ", max_in_flight: 3")));
    let third = send(&gateway, "/hold/3");
    origin.wait_for(4);
    assert_eq!(gateway.get("/4").status, 503);
    gate.open();
    for mut client in held.into_iter().chain([third]) {
        assert_eq!(client.answer_to("GET").text(), "served");
    }
    gateway.wait_until_idle();
    assert_eq!(gateway.get("/5").status, 200);
}

#[test]
fn a_service_has_its_own_bound_over_all_routes() {
    let gate = Gate::default();
    let origin = service(&gate);
    let gateway = Gateway::start(&yaml(&origin, ", max_in_flight: 1", ""));
    let mut held = send(&gateway, "/hold");
    origin.wait_for(1);
    assert_eq!((gateway.get("/x").status, gateway.get("/other").status), (503, 503));
    gate.open();
    assert_eq!(held.answer_to("GET").status, 200);
    drop(held);
    gateway.wait_until_idle();
    assert_eq!(gateway.get("/other").status, 200);
}

#[test]
fn those_above_wait_until_somebody_leaves() {
    let gate = Gate::default();
    let origin = service(&gate);
    let gateway = Gateway::start(&yaml(&origin, ", max_in_flight: 1, queue: { size: 2, timeout: 15s }", ""));
    let mut clients = vec![send(&gateway, "/hold")];
    origin.wait_for(1);
    let waiting = |n: u64| {
        eventually("those that wait", || (gateway.ask("/status").json()["services"][0]["cap"]["waiting"] == n).then_some(()));
    };
    clients.push(send(&gateway, "/1"));
    clients.push(send(&gateway, "/2"));
    waiting(2);
    assert_eq!(gateway.get("/3").status, 503, "the queue is full");
    assert_eq!(origin.seen().len(), 1);
    // Whoever vanishes from the queue is not served when it is its turn, or is served in vain: the others are not held up.
    drop(clients.pop());
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer_to("GET").status, 200);
    }
    gateway.wait_until_idle();
}

#[test]
fn nobody_waits_longer_than_the_queue_says() {
    let gate = Gate::default();
    let origin = service(&gate);
    let gateway = Gateway::start(&yaml(&origin, ", max_in_flight: 1, queue: { size: 9, timeout: 200ms }", ""));
    let _held = send(&gateway, "/hold");
    origin.wait_for(1);
    let started = Instant::now();
    let refused = gateway.get("/1");
    assert_eq!((refused.status, refused.code()), (503, "too_many_in_flight".to_string()));
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
    gate.open();
}

#[test]
fn what_the_cache_has_takes_no_place_at_the_service() {
    let gate = Gate::default();
    let theirs = gate.clone();
    let origin = Origin::new(move |request| {
        if request.target == "/hold" {
            theirs.wait();
        }
        answer(200, &[("Cache-Control", "max-age=60")], b"served")
    });
    let gateway = Gateway::start(&format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ it: {{ endpoints: ['{origin}'], max_in_flight: 1 }} }}
caches: {{ c: {{}} }}
routes: [{{ name: all, path: /*, to: it, cache: c }}]
"
    ));
    assert_eq!(gateway.get("/kept").text(), "served");
    // Its place is given back behind its answer.
    gateway.wait_until_idle();
    let mut held = send(&gateway, "/hold");
    origin.wait_for(2);
    assert_eq!(gateway.get("/kept").text(), "served");
    let refused = gateway.get("/other");
    assert_eq!((refused.status, refused.code()), (503, "too_many_in_flight".to_string()));
    gate.open();
    assert_eq!(held.answer_to("GET").text(), "served");
    drop(held);
    gateway.wait_until_idle();
}
