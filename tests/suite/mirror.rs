//! Copies of requests for another service.

use crate::kit::{Gateway, Origin, answer, dead_address, eventually, until_gone};

fn yaml(main: &dyn std::fmt::Display, copy: &dyn std::fmt::Display, mirror: &str) -> String {
    format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  s: {{ endpoints: ['{main}'] }}
  next: {{ endpoints: ['{copy}'] }}
routes: [{{ name: r, path: /*, to: s, request: {{ path: '/v2/${{rest}}' }}, mirror: {mirror} }}]
"
    )
}

fn metric(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric(&format!("frontdesk_mirror_total{{outcome=\"{outcome}\",route=\"r\"}}"))
}

#[test]
fn another_service_gets_the_same_request() {
    let (main, copy) = (Origin::fixed("main"), Origin::echo());
    for to in ["next".to_string(), format!("'http://{copy}'")] {
        let gateway = Gateway::start(&yaml(&main, &copy, &format!("{{ to: {to}, percent: 100 }}")));
        let before = copy.seen().len();
        let answer = gateway.connect().request("POST", "/orders?x=1", &[("X-User", "ada"), ("Host", "shop.example")], b"hello");
        assert_eq!((answer.status, answer.text().as_str()), (200, "main"));
        copy.wait_for(before + 1);
        let (sent, copied) = (main.seen().pop().expect("a request"), copy.seen().pop().expect("a copy"));
        assert_eq!((&copied.method, &copied.target, &copied.body), (&sent.method, &sent.target, &sent.body));
        assert_eq!((copied.target.as_str(), copied.body.as_slice()), ("/v2/orders?x=1", &b"hello"[..]));
        for name in ["x-user", "host", "x-request-id", "x-forwarded-for"] {
            assert_eq!(copied.all(name), sent.all(name), "{name}");
        }
        eventually("the count", || (metric(&gateway, "sent") == 1.0).then_some(()));
    }
}

#[test]
fn only_a_share_of_them() {
    let (main, copy) = (Origin::fixed("main"), Origin::fixed("copy"));
    let gateway = Gateway::start(&yaml(&main, &copy, "{ to: next, percent: 20 }"));
    let mut client = gateway.connect();
    (0..400).for_each(|_| assert_eq!(client.get("/").text(), "main"));
    let all = || metric(&gateway, "sent") + metric(&gateway, "dropped");
    // 80 with a standard deviation of 8.
    eventually("its share", || (all() > 32.0).then_some(()));
    drop(client);
    gateway.wait_until_idle();
    assert!(copy.seen().len() < 128, "{}", copy.seen().len());
}

#[test]
fn no_client_feels_it() {
    let main = Origin::fixed("main");
    let (silent, broken) = (Origin::scripted(|_, stream| until_gone(stream).map(|()| false)), Origin::new(|_| answer(500, &[], b"no")));
    for copy in [silent.address(), broken.address(), dead_address()] {
        let gateway = Gateway::start(&yaml(&main, &copy, "{ to: next }"));
        let mut client = gateway.connect();
        // More than may be copied at once.
        assert!((0..150).all(|_| client.get("/").text() == "main"));
    }
}

#[test]
fn a_body_that_is_too_large_is_not_copied() {
    let (main, copy) = (Origin::fixed("main"), Origin::fixed("copy"));
    let gateway = Gateway::start(&yaml(&main, &copy, "{ to: next }"));
    assert_eq!(gateway.connect().request("POST", "/", &[], &vec![b'x'; 100 << 10]).text(), "main");
    eventually("the count", || (metric(&gateway, "dropped") == 1.0).then_some(()));
    assert_eq!(copy.seen().len(), 0);
}
