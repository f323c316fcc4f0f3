//! The end: what is in flight is finished, and nothing is waited for that need not be.

use crate::kit::{Client, Gate, Gateway, H2Client, Origin, answer, echoes, eventually, head, run_async, until_gone, whole};
use http::Method;
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn with(server: &str, origin: &Origin) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ {server} }}
routes: [{{ path: /*, to: http://{origin} }}, {{ path: /fixed, respond: {{ body: fixed }} }}]
"
    ))
}

/// A service that answers once its gate is open.
fn held() -> (Origin, Gate) {
    let gate = Gate::default();
    let theirs = gate.clone();
    let origin = Origin::new(move |_| {
        theirs.wait();
        answer(200, &[], b"done")
    });
    (origin, gate)
}

/// A service that never answers.
fn silent() -> Origin {
    Origin::scripted(|_, stream| until_gone(stream).map(|()| false))
}

/// A request that is in flight.
fn begin(gateway: &Gateway, origin: &Origin) -> Client {
    let mut client = gateway.connect();
    client.send(head("GET", "/held", &[], 0));
    origin.wait_for(1);
    client
}

fn wait_until_refused(gateway: &Gateway) {
    eventually("a refusal", || TcpStream::connect(gateway.address()).is_err().then_some(()));
}

#[test]
fn with_nothing_in_flight_it_ends_at_once() {
    let origin = silent();
    let mut gateway = with("drain_timeout: 60s", &origin);
    assert_eq!(gateway.get("/fixed").text(), "fixed");
    gateway.wait_until_idle();
    let started = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn connections_that_rest_do_not_hold_it_up() {
    let origin = silent();
    let mut gateway = with("drain_timeout: 60s", &origin);
    let (mut used, mut fresh) = (gateway.connect(), gateway.connect());
    assert_eq!(used.get("/fixed").text(), "fixed");
    let started = Instant::now();
    gateway.signal("TERM");
    used.wait_for_close();
    fresh.wait_for_close();
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_request_in_flight_is_answered_first() {
    let (origin, gate) = held();
    let mut gateway = with("drain_timeout: 60s", &origin);
    let mut client = begin(&gateway, &origin);
    gateway.signal("TERM");
    wait_until_refused(&gateway);
    gate.open();
    let answer = client.answer();
    assert_eq!((answer.status, answer.text(), answer.header("connection")), (200, "done".to_string(), Some("close")));
    client.wait_for_close();
    assert_eq!(gateway.wait().code(), Some(0));
    let text = std::fs::read_to_string(gateway.file("access.log")).expect("the access log");
    assert!(text.contains("\"path\":\"/held\""), "{text}");
}

#[test]
fn the_logs_are_opened_anew_meanwhile() {
    let (origin, gate) = held();
    let mut gateway = with("drain_timeout: 60s", &origin);
    let mut client = begin(&gateway, &origin);
    gateway.signal("TERM");
    wait_until_refused(&gateway);
    std::fs::rename(gateway.file("access.log"), gateway.file("access.log.1")).expect("a new name");
    gateway.signal("USR1");
    gateway.wait_for_log("logs reopened");
    gate.open();
    assert_eq!(client.answer().status, 200);
    assert_eq!(gateway.wait().code(), Some(0));
    let text = std::fs::read_to_string(gateway.file("access.log")).expect("the new access log");
    assert!(text.contains("\"path\":\"/held\""), "{text}");
}

#[test]
fn a_body_on_its_way_is_taken_first() {
    let origin = Origin::echo();
    let mut gateway = with("drain_timeout: 60s", &origin);
    let mut client = gateway.connect();
    client.send(head("POST", "/x", &[], 6) + "abc");
    eventually("the request", || (gateway.ask("/status").json()["in_flight"] == 1).then_some(()));
    gateway.signal("TERM");
    wait_until_refused(&gateway);
    client.send("def");
    let answer = client.answer();
    assert_eq!((&answer.json()["body"], answer.header("connection")), (&"abcdef".into(), Some("close")));
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn half_a_head_is_waited_for() {
    let origin = silent();
    let mut gateway = with("drain_timeout: 60s", &origin);
    let mut client = gateway.connect();
    client.send("GET /fixed HTTP/1.1\r\n");
    eventually("the connection", || (gateway.ask("/status").json()["connections"] == 1).then_some(()));
    gateway.signal("TERM");
    wait_until_refused(&gateway);
    client.send("Host: test\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.text(), answer.header("connection")), ("fixed".to_string(), Some("close")));
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn readiness_fails_first_while_requests_are_still_served() {
    let origin = silent();
    let mut gateway = with("drain_delay: 60s", &origin);
    let mut kept = gateway.connect();
    assert_eq!((gateway.ask("/readyz").status, kept.get("/fixed").status), (200, 200));
    gateway.signal("TERM");
    eventually("unreadiness", || (gateway.ask("/readyz").status == 503).then_some(()));
    let status = gateway.ask("/status").json();
    assert_eq!((&status["ready"], gateway.ask("/healthz").status), (&false.into(), 200));
    assert_eq!((kept.get("/fixed").text(), gateway.get("/fixed").text()), ("fixed".to_string(), "fixed".to_string()));
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn accepting_goes_on_for_the_delay() {
    let origin = silent();
    let mut gateway = with("drain_delay: 500ms", &origin);
    let started = Instant::now();
    gateway.signal("TERM");
    wait_until_refused(&gateway);
    assert!(started.elapsed() >= Duration::from_millis(450), "{:?}", started.elapsed());
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_request_without_end_is_ended_at_the_timeout() {
    let origin = silent();
    let mut gateway = with("drain_timeout: 700ms", &origin);
    let mut client = begin(&gateway, &origin);
    let started = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(started.elapsed() >= Duration::from_millis(650), "{:?}", started.elapsed());
    client.wait_for_close();
}

#[test]
fn a_timeout_shorter_than_the_patience_with_resting_connections_holds_too() {
    let origin = silent();
    let mut gateway = with("drain_timeout: 100ms", &origin);
    let _client = begin(&gateway, &origin);
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_second_signal_to_end_is_obeyed_at_once() {
    for (first, second) in [(Some("TERM"), "TERM"), (Some("TERM"), "INT"), (None, "INT")] {
        let origin = silent();
        let mut gateway = with("drain_timeout: 1h", &origin);
        let mut client = begin(&gateway, &origin);
        if let Some(first) = first {
            gateway.signal(first);
            gateway.wait_for_log("draining");
        }
        gateway.signal(second);
        assert_eq!(gateway.wait().code(), Some(0), "{first:?} {second}");
        client.wait_for_close();
    }
}

#[test]
fn over_http2_the_client_is_told_and_its_streams_finish() {
    let (origin, gate) = held();
    let mut gateway = with("drain_timeout: 60s", &origin);
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let (answer, _) = client.begin(Method::GET, "/held", &[], true).await;
        let answer = tokio::spawn(whole(answer));
        while origin.seen().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        gateway.signal("TERM");
        while client.is_open().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        gate.open();
        let answer = answer.await.expect("the stream").expect("an answer");
        assert_eq!((answer.status, answer.body), (200, b"done".to_vec()));
    });
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn over_http2_a_connection_that_rests_does_not_hold_it_up() {
    let origin = silent();
    let mut gateway = with("drain_timeout: 1h", &origin);
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        assert_eq!(client.get("/fixed").await.body, b"fixed");
        gateway.signal("TERM");
        while client.is_open().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_tunnel_is_ended_at_the_timeout() {
    let origin = Origin::websocket_echo();
    let mut gateway = with("drain_timeout: 700ms", &origin);
    let mut socket = gateway.websocket();
    echoes(&mut socket, "hello");
    let started = Instant::now();
    gateway.signal("TERM");
    wait_until_refused(&gateway);
    echoes(&mut socket, "still there");
    assert!(socket.read().is_err());
    assert!(started.elapsed() >= Duration::from_millis(650), "{:?}", started.elapsed());
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_tunnel_that_ends_before_lets_it_end_before() {
    let origin = Origin::websocket_echo();
    let mut gateway = with("drain_timeout: 1h", &origin);
    let mut socket = gateway.websocket();
    gateway.signal("TERM");
    wait_until_refused(&gateway);
    echoes(&mut socket, "hello");
    drop(socket);
    assert_eq!(gateway.wait().code(), Some(0));
}
