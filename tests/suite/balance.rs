//! Which copy: at random, by what requests have in common, and the one that a client has been to.

use crate::kit::{Answer, Gateway, Origin, answer};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn yaml(endpoints: &[&dyn std::fmt::Display], service: &str, server: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ trusted_proxies: [127.0.0.0/8], {server} }}
services: {{ s: {{ endpoints: [{}], {service} }} }}
routes: [{{ path: /*, to: s }}]
",
        endpoints.join(", ")
    )
}

#[test]
fn random_takes_each_by_its_weight() {
    let (a, b) = (Origin::fixed("a"), Origin::fixed("b"));
    let heavy = format!("{{ address: '{b}', weight: 3 }}");
    let gateway = Gateway::start(&yaml(&[&a, &heavy], "balance: random", ""));
    let mut client = gateway.connect();
    let share = (0..400).filter(|_| client.get("/").text() == "b").count();
    // 300 with a standard deviation of 9.
    assert!((246..=354).contains(&share), "{share}");
}

#[test]
fn requests_that_have_something_in_common_go_to_one_endpoint() {
    let origins: Vec<Origin> = ["a", "b", "c", "d"].map(Origin::fixed).into_iter().collect();
    let endpoints: Vec<&dyn std::fmt::Display> = origins.iter().map(|origin| origin as _).collect();
    for (by, field) in [("client_ip", "X-Forwarded-For"), ("header:X-User", "X-User"), ("cookie:sid", "Cookie")] {
        let gateway = Gateway::start(&yaml(&endpoints, &format!("balance: {{ hash: '{by}' }}"), ""));
        let mut client = gateway.connect();
        let mut all = HashSet::new();
        for user in 0..96 {
            let value = match by {
                "client_ip" => format!("192.0.2.{user}"),
                "cookie:sid" => format!("a=b; sid=user-{user}"),
                _ => format!("user-{user}"),
            };
            let mut ask = |more: &str| client.request("GET", &format!("/{more}"), &[(field, &value)], b"").text();
            let first = ask("first");
            assert!((0..4).all(|n| ask(&n.to_string()) == first), "{by} {user}");
            all.insert(first);
        }
        assert_eq!(all.len(), 4, "{by}");
    }
}

#[test]
fn the_key_of_one_that_fails_goes_to_another_and_comes_back() {
    let is_ill = Arc::new(AtomicBool::new(false));
    let origin = |name: &'static str| {
        let theirs = is_ill.clone();
        Origin::new(move |request| match theirs.load(Ordering::Acquire) && request.header("x-first") == Some(name) {
            true => answer(503, &[], b""),
            false => answer(200, &[], name.as_bytes()),
        })
    };
    let (a, b, c) = (origin("a"), origin("b"), origin("c"));
    let service = "balance: { hash: 'header:X-User' }, retries: { when: [503] }, ejection: { max_percent: 0 }";
    let gateway = Gateway::start(&yaml(&[&a, &b, &c], service, ""));
    let mut client = gateway.connect();
    let first = client.request("GET", "/", &[("X-User", "ada")], b"").text();
    let fields = [("X-User", "ada"), ("X-First", first.as_str())];
    is_ill.store(true, Ordering::Release);
    let second = client.request("GET", "/", &fields, b"").text();
    assert!(second != first && !second.is_empty());
    is_ill.store(false, Ordering::Release);
    assert_eq!(client.request("GET", "/", &fields, b"").text(), first);
}

/// The cookie of an answer, as a client sends it back.
fn cookie(answer: &Answer) -> Option<String> {
    answer.header("set-cookie").and_then(|field| field.split(';').next()).map(str::to_string)
}

#[test]
fn a_cookie_brings_a_client_back() {
    let origins: Vec<Origin> = ["a", "b", "c", "d"].map(Origin::fixed).into_iter().collect();
    let endpoints: Vec<&dyn std::fmt::Display> = origins.iter().map(|origin| origin as _).collect();
    let gateway = Gateway::start(&yaml(&endpoints, "sticky: { cookie: fd_orders, ttl: 1h }", "secret: hunter2"));
    let mut client = gateway.connect();
    let mut all = HashSet::new();
    for _ in 0..12 {
        let first = client.get("/");
        let field = first.header("set-cookie").expect("a cookie");
        assert!(field.starts_with("fd_orders=") && field.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"), "{field}");
        assert!(!field.contains("127.0.0.1"), "{field}");
        let own = cookie(&first).expect("a cookie");
        for _ in 0..8 {
            let again = client.request("GET", "/", &[("Cookie", &format!("x=y; {own}"))], b"");
            assert_eq!((again.text(), again.header("set-cookie")), (first.text(), None));
        }
        all.insert(first.text());
    }
    assert!(all.len() > 1, "{all:?}");
}

#[test]
fn a_cookie_is_worth_something_wherever_the_secret_is_known() {
    let (a, b) = (Origin::fixed("a"), Origin::fixed("b"));
    let start = |server: &str| Gateway::start(&yaml(&[&a, &b], "sticky: { cookie: c }", server));
    let (old, both, other) = (start("secret: hunter2"), start("secret: [other-secret, hunter2]"), start("secret: other-secret"));
    let first = old.get("/");
    let own = cookie(&first).expect("a cookie");
    let ask = |gateway: &Gateway, cookie: &str| gateway.connect().request("GET", "/", &[("Cookie", cookie)], b"");
    assert!((0..8).all(|_| ask(&both, &own).text() == first.text()));
    // One that is not believed is replaced.
    assert!(cookie(&ask(&other, &own)).is_some());
    let forged = format!("{}A", &own[..own.len() - 1]);
    assert!(forged == own || cookie(&ask(&old, &forged)).is_some());
    assert!(old.ask("/config").text().contains("secret: '***'"), "{}", old.ask("/config").text());
}

#[test]
fn a_client_whose_endpoint_is_out_gets_another() {
    let (a, b) = (Origin::fixed("a"), Origin::fixed("b"));
    let service = |more: &str| format!("sticky: {{ cookie: c }}, {more}");
    let gateway = Gateway::start(&yaml(&[&a, &b], &service(""), "secret: s"));
    let first = gateway.get("/");
    let own = cookie(&first).expect("a cookie");
    let other = if first.text() == "a" { &b } else { &a };
    assert!(gateway.reload(&yaml(&[other], &service(""), "secret: s")));
    let moved = gateway.connect().request("GET", "/", &[("Cookie", &own)], b"");
    assert!(moved.text() != first.text() && cookie(&moved).is_some_and(|new| new != own));
}

#[test]
fn without_a_secret_the_process_has_its_own_and_says_so() {
    let (a, b) = (Origin::fixed("a"), Origin::fixed("b"));
    let gateway = Gateway::start(&yaml(&[&a, &b], "sticky: {}", ""));
    gateway.wait_for_log("sticky cookies without `server.secret`");
    let first = gateway.get("/");
    let own = cookie(&first).expect("a cookie");
    assert!(own.starts_with("fd_s="));
    assert!(gateway.reload(&yaml(&[&a, &b], "sticky: {}, slow_start: 1s", "")));
    let mut client = gateway.connect();
    assert!((0..8).all(|_| client.request("GET", "/", &[("Cookie", &own)], b"").text() == first.text()));
}
