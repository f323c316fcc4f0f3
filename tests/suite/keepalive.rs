//! Connections to services between two requests.

use crate::kit::{Gate, Gateway, Origin, answer, eventually, head, read_request};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

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
