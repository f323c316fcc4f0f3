//! Endpoints that fail are left alone for a while, and come back.

use crate::kit::{Gateway, Origin, answer, dead_address, eventually};
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn yaml(endpoints: &[&dyn Display], service: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{}], balance: round_robin, retries: {{ attempts: 1 }}, {service} }} }}
routes: [{{ path: /*, to: s }}]
",
        endpoints.join(", ")
    )
}

/// One that answers with a status for as long as it is ill.
fn patient(status: u16) -> (Origin, Arc<AtomicBool>) {
    let is_ill = Arc::new(AtomicBool::new(true));
    let theirs = is_ill.clone();
    let origin = Origin::new(move |_| match theirs.load(Ordering::Acquire) {
        true => answer(status, &[], b"ill"),
        false => answer(200, &[], b"well"),
    });
    (origin, is_ill)
}

fn up(gateway: &Gateway, endpoint: SocketAddr) -> f64 {
    gateway.metric(&format!("frontdesk_endpoint_up{{endpoint=\"{endpoint}\",service=\"s\"}}"))
}

fn ejections(gateway: &Gateway, endpoint: SocketAddr) -> f64 {
    gateway.metric(&format!("frontdesk_ejections_total{{endpoint=\"{endpoint}\",service=\"s\"}}"))
}

fn state(gateway: &Gateway, endpoint: SocketAddr) -> String {
    let status = gateway.ask("/status").json();
    let endpoints = status["services"][0]["endpoints"].as_array().expect("endpoints").clone();
    let found = endpoints.iter().find(|known| known["address"] == endpoint.to_string()).expect("the endpoint");
    found["state"].as_str().expect("a state").to_string()
}

#[test]
fn five_failures_in_a_row_and_it_is_left_alone() {
    for status in [502, 503, 504] {
        let ((bad, _), good) = (patient(status), Origin::fixed("good"));
        let gateway = Gateway::start(&yaml(&[&bad, &good], ""));
        let mut client = gateway.connect();
        let answers: Vec<u16> = (0..30).map(|_| client.get("/").status).collect();
        assert_eq!(answers.iter().filter(|answer| **answer == status).count(), 5, "{answers:?}");
        assert_eq!((up(&gateway, bad.address()), up(&gateway, good.address())), (0.0, 1.0));
        assert_eq!((ejections(&gateway, bad.address()), ejections(&gateway, good.address())), (1.0, 0.0));
        assert_eq!(state(&gateway, bad.address()), "ejected");
        gateway.wait_for_log("failed 5 times in a row");
    }
}

#[test]
fn one_that_can_not_be_reached_is_left_alone_too() {
    let (dead, good) = (dead_address(), Origin::fixed("good"));
    let gateway = Gateway::start(&yaml(&[&dead, &good], "ejection: { consecutive_failures: 2 }"));
    let failed = (0..20).filter(|_| gateway.get("/").status == 502).count();
    assert_eq!((failed, up(&gateway, dead)), (2, 0.0));
}

#[test]
fn a_failure_of_the_services_own_is_none_of_the_endpoint() {
    let ((bad, _), good) = (patient(500), Origin::fixed("good"));
    let gateway = Gateway::start(&yaml(&[&bad, &good], "ejection: { consecutive_failures: 1 }"));
    let mut client = gateway.connect();
    assert_eq!((0..20).filter(|_| client.get("/").status == 500).count(), 10);
    assert_eq!(ejections(&gateway, bad.address()), 0.0);
}

#[test]
fn it_comes_back_and_the_next_failure_sends_it_away_again() {
    let ((bad, is_ill), good) = (patient(503), Origin::fixed("good"));
    let gateway = Gateway::start(&yaml(&[&bad, &good], "ejection: { consecutive_failures: 3, base: 100ms }"));
    let mut client = gateway.connect();
    (0..6).for_each(|_| drop(client.get("/")));
    assert_eq!(ejections(&gateway, bad.address()), 1.0);
    // One failure is enough for somebody who has just been away.
    eventually("the second time", || {
        client.get("/");
        (ejections(&gateway, bad.address()) == 2.0).then_some(())
    });
    assert_eq!(bad.seen().len(), 4);
    is_ill.store(false, Ordering::Release);
    eventually("its return", || (client.get("/").text() == "well").then_some(()));
    assert_eq!(up(&gateway, bad.address()), 1.0);
}

#[test]
fn the_last_one_is_never_left_alone() {
    let (bad, _) = patient(503);
    let gateway = Gateway::start(&yaml(&[&bad], "ejection: { consecutive_failures: 1, max_percent: 100 }"));
    assert!((0..10).all(|_| gateway.get("/").status == 503));
    assert_eq!((bad.seen().len(), up(&gateway, bad.address())), (10, 1.0));
}

#[test]
fn only_half_of_them_rounded_down() {
    let ((a, _), (b, _), (c, _)) = (patient(503), patient(503), patient(503));
    let gateway = Gateway::start(&yaml(&[&a, &b, &c], "ejection: { consecutive_failures: 1 }"));
    let mut client = gateway.connect();
    assert!((0..12).all(|_| client.get("/").status == 503));
    let all = [&a, &b, &c].map(|origin| up(&gateway, origin.address()));
    assert_eq!(all.iter().sum::<f64>(), 2.0, "{all:?}");
}

#[test]
fn a_reload_forgets_nothing_of_it() {
    let ((bad, _), good) = (patient(503), Origin::fixed("good"));
    let gateway = Gateway::start(&yaml(&[&bad, &good], "ejection: { consecutive_failures: 1 }"));
    let mut client = gateway.connect();
    (0..2).for_each(|_| drop(client.get("/")));
    assert_eq!(up(&gateway, bad.address()), 0.0);
    assert!(gateway.reload(&yaml(&[&bad, &good], "ejection: { consecutive_failures: 2 }")));
    assert_eq!((up(&gateway, bad.address()), ejections(&gateway, bad.address())), (0.0, 1.0));
    assert!((0..10).all(|_| client.get("/").text() == "good"));
}

#[test]
fn a_new_endpoint_gets_its_share_little_by_little() {
    let (old, new) = (Origin::fixed("old"), Origin::fixed("new"));
    let gateway = Gateway::start(&yaml(&[&old], "slow_start: 1h"));
    assert!(gateway.reload(&yaml(&[&old, &new], "slow_start: 1h")));
    let mut client = gateway.connect();
    let share = (0..400).filter(|_| client.get("/").text() == "new").count();
    // A twentieth of its turns: 10 of 200, with a standard deviation of 3.
    assert!((1..40).contains(&share), "{share}");
    assert_eq!(state(&gateway, new.address()), "warming");
}
