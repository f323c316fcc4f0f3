//! Endpoints are asked whether they are well.

use crate::kit::{Gateway, H2Origin, Origin, answer, dead_address, eventually, frontdesk, h2_head, run, until_gone};
use bytes::Bytes;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn yaml(endpoints: &[&dyn Display], service: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{}], balance: round_robin, {service} }} }}
routes: [{{ path: /*, to: s }}]
",
        endpoints.join(", ")
    )
}

/// One that serves everything, and answers 500 when it is asked about its health while it is ill.
fn patient(name: &'static str) -> (Origin, Arc<AtomicBool>) {
    let is_ill = Arc::new(AtomicBool::new(false));
    let theirs = is_ill.clone();
    let origin = Origin::new(move |request| match request.target == "/healthz" && theirs.load(Ordering::Acquire) {
        true => answer(500, &[], b"ill"),
        false => answer(200, &[], name.as_bytes()),
    });
    (origin, is_ill)
}

fn up(gateway: &Gateway, endpoint: SocketAddr) -> bool {
    gateway.metric(&format!("frontdesk_endpoint_up{{endpoint=\"{endpoint}\",service=\"s\"}}")) == 1.0
}

#[track_caller]
fn wait_until(gateway: &Gateway, endpoint: SocketAddr, is_up: bool) {
    eventually(&format!("{endpoint} to be up: {is_up}"), || (up(gateway, endpoint) == is_up).then_some(()));
}

#[test]
fn one_that_is_ill_gets_nothing_until_it_is_well_again() {
    let ((a, is_ill), (b, _)) = (patient("a"), patient("b"));
    let gateway = Gateway::start(&yaml(&[&a, &b], "health_check: { path: /healthz, interval: 20ms, rise: 2, fall: 3 }"));
    assert!(up(&gateway, a.address()) && up(&gateway, b.address()), "endpoints start healthy");
    is_ill.store(true, Ordering::Release);
    wait_until(&gateway, a.address(), false);
    assert!((0..20).all(|_| gateway.get("/").text() == "b"));
    gateway.wait_for_log("is ill: it answered 500");
    is_ill.store(false, Ordering::Release);
    wait_until(&gateway, a.address(), true);
    let texts: Vec<String> = (0..4).map(|_| gateway.get("/").text()).collect();
    assert!(texts.contains(&"a".to_string()), "{texts:?}");
}

#[test]
fn one_bad_answer_is_not_enough() {
    let asked = Arc::new(AtomicUsize::new(0));
    let theirs = asked.clone();
    // Every third answer is good: there are never three bad ones in a row.
    let origin = Origin::new(move |_| answer(if theirs.fetch_add(1, Ordering::AcqRel) % 3 == 2 { 200 } else { 500 }, &[], b""));
    let gateway = Gateway::start(&yaml(&[&origin], "health_check: { path: /healthz, interval: 5ms }"));
    origin.wait_for(30);
    assert!(up(&gateway, origin.address()));
}

#[test]
fn when_all_are_ill_all_are_used() {
    let ((a, _), (b, _)) = (patient("a"), patient("b"));
    let gateway = Gateway::start(&yaml(&[&a, &b], "health_check: { path: /healthz, interval: 20ms, fall: 1, status: [299] }"));
    wait_until(&gateway, a.address(), false);
    wait_until(&gateway, b.address(), false);
    let texts: Vec<String> = (0..4).map(|_| gateway.get("/").text()).collect();
    assert!(texts.contains(&"a".to_string()) && texts.contains(&"b".to_string()), "{texts:?}");
}

#[test]
fn what_well_means_is_said() {
    for (check, is_up) in [
        ("path: /healthz", true),
        ("path: /healthz, status: [200, 204]", true),
        ("path: /healthz, status: 204", false),
        ("path: /healthz, body: fine", true),
        ("path: /healthz, body: other", false),
        ("path: /healthz, host: other.example", false),
        ("tcp: true", true),
    ] {
        let origin =
            Origin::new(|request| answer(if request.header("host") == Some("other.example") { 500 } else { 200 }, &[], b"all fine"));
        let gateway = Gateway::start(&yaml(&[&origin], &format!("health_check: {{ {check}, interval: 10ms, fall: 2 }}")));
        match is_up {
            true => {
                eventually("some checks", || (origin.connections() > 5).then_some(()));
                assert!(up(&gateway, origin.address()), "{check}");
            }
            false => wait_until(&gateway, origin.address(), false),
        }
    }
}

#[test]
fn one_that_can_not_be_reached_or_says_nothing_is_ill() {
    let (dead, silent) = (dead_address(), Origin::scripted(|_, stream| until_gone(stream).map(|()| false)));
    for check in ["tcp: true", "path: /healthz"] {
        let gateway = Gateway::start(&yaml(&[&dead], &format!("health_check: {{ {check}, interval: 10ms }}")));
        wait_until(&gateway, dead, false);
    }
    let gateway = Gateway::start(&yaml(&[&silent], "health_check: { path: /healthz, interval: 10ms, timeout: 50ms }"));
    wait_until(&gateway, silent.address(), false);
    gateway.wait_for_log("it did not answer in time");
}

#[test]
fn checks_say_who_asks() {
    let origin = Origin::echo();
    let _gateway = Gateway::start(&yaml(&[&origin], "health_check: { path: /healthz?deep=1, interval: 10ms, host: h.example }"));
    origin.wait_for(1);
    let asked = &origin.seen()[0];
    assert_eq!((asked.method.as_str(), asked.target.as_str(), asked.header("host")), ("GET", "/healthz?deep=1", Some("h.example")));
    assert_eq!(asked.header("user-agent"), Some("frontdesk-health-check"));
}

#[test]
fn a_reload_keeps_what_is_known_and_forgets_it_with_the_check() {
    let (origin, is_ill) = patient("a");
    let check = "health_check: { path: /healthz, interval: 20ms, fall: 1, rise: 1000 }";
    let gateway = Gateway::start(&yaml(&[&origin], check));
    is_ill.store(true, Ordering::Release);
    wait_until(&gateway, origin.address(), false);
    is_ill.store(false, Ordering::Release);
    assert!(gateway.reload(&yaml(&[&origin], &format!("{check}, slow_start: 1s"))));
    assert!(!up(&gateway, origin.address()));
    assert!(gateway.reload(&yaml(&[&origin], "")));
    wait_until(&gateway, origin.address(), true);
}

#[test]
fn checks_that_are_to_be_made_more_often_are() {
    let (origin, is_ill) = patient("a");
    let check = |interval: &str| format!("health_check: {{ path: /healthz, interval: {interval}, rise: 1, fall: 1 }}");
    let gateway = Gateway::start(&yaml(&[&origin], &check("1h")));
    eventually("the first check", || (origin.seen().len() == 1).then_some(()));
    is_ill.store(true, Ordering::Release);
    assert!(gateway.reload(&yaml(&[&origin], &check("20ms"))));
    wait_until(&gateway, origin.address(), false);
}

#[test]
fn grpc_has_a_protocol_of_its_own_for_it() {
    let is_serving = Arc::new(AtomicBool::new(true));
    let theirs = is_serving.clone();
    let origin = H2Origin::new(move |request, mut respond| {
        let status = if theirs.load(Ordering::Acquire) { 1 } else { 2 };
        async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let mut stream = respond.send_response(h2_head(200, &[("content-type", "application/grpc")]), false)?;
            stream.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]), false)?;
            stream.send_trailers([("grpc-status".parse().expect("a name"), "0".parse().expect("a value"))].into_iter().collect())
        }
    });
    let gateway = Gateway::start(&yaml(&[&origin], "protocol: h2c, health_check: { grpc: orders, interval: 20ms, rise: 1, fall: 1 }"));
    let address: SocketAddr = origin.to_string().parse().expect("an address");
    is_serving.store(false, Ordering::Release);
    wait_until(&gateway, address, false);
    is_serving.store(true, Ordering::Release);
    wait_until(&gateway, address, true);
}

#[test]
fn an_interim_answer_to_the_question_is_not_the_answer() {
    let is_ill = Arc::new(AtomicBool::new(true));
    let theirs = is_ill.clone();
    let origin = Origin::new(move |_| {
        let status = if theirs.load(Ordering::Acquire) { 500 } else { 200 };
        [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec(), answer(status, &[], b"x")].concat()
    });
    let gateway = Gateway::start(&yaml(&[&origin], "health_check: { path: /healthz, interval: 20ms, rise: 1, fall: 1 }"));
    wait_until(&gateway, origin.address(), false);
    is_ill.store(false, Ordering::Release);
    wait_until(&gateway, origin.address(), true);
}

#[test]
fn the_operator_takes_one_out_and_back_in() {
    let ((a, _), (b, _)) = (patient("a"), patient("b"));
    let gateway = Gateway::start(&yaml(&[&a, &b], ""));
    let admin = format!("http://{}", gateway.admin());
    let order = |order: &str, address: &str| {
        let output = run(frontdesk().args(["endpoint", order, "s", address, "--admin", &admin]));
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let address = a.address().to_string();
    assert_eq!(order("drain", &address), (Some(0), format!("{address} of s is drained\n")));
    assert!(!up(&gateway, a.address()) && (0..10).all(|_| gateway.get("/").text() == "b"));
    assert!(gateway.reload(&yaml(&[&a, &b], "slow_start: 1s")));
    assert!(!up(&gateway, a.address()));
    let (code, said) = order("drain", "127.0.0.1:1");
    assert!(code == Some(1) && said.contains("no endpoint 127.0.0.1:1"), "{said}");
    assert_eq!(order("drain", &b.address().to_string()).0, Some(0));
    assert_eq!(gateway.get("/").code(), "no_endpoint");
    assert_eq!(order("resume", &address).0, Some(0));
    assert_eq!(gateway.get("/").text(), "a");
}
