//! Endpoints that are found by name.

use crate::kit::{Gateway, Origin};

#[test]
fn a_name_stands_for_its_addresses() {
    let origin = Origin::fixed("found");
    let port = origin.address().port();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ dns: 'localhost:{port}', host: orders.internal }} }}
routes: [{{ path: /*, to: s }}]
"
    ));
    assert_eq!(gateway.get("/").text(), "found");
    assert_eq!(origin.seen()[0].header("host"), Some("orders.internal"));
    assert_eq!(gateway.ask("/status").json()["services"][0]["endpoints"][0]["address"], format!("127.0.0.1:{port}"));
}

#[test]
fn addresses_may_be_beside_it() {
    let (a, b) = (Origin::fixed("a"), Origin::fixed("b"));
    let port = a.address().port();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: ['{b}'], dns: 'localhost:{port}', balance: round_robin }} }}
routes: [{{ path: /*, to: s }}]
"
    ));
    let mut client = gateway.connect();
    let mut texts = [client.get("/").text(), client.get("/").text()];
    texts.sort();
    assert_eq!(texts, ["a", "b"]);
}

#[test]
fn a_name_without_addresses_is_no_reason_not_to_start() {
    let gateway = Gateway::start(
        "
listeners: [{ bind: 127.0.0.1:0 }]
services: { s: { dns: 'nothing.invalid:80' } }
routes: [{ path: /*, to: s }]
",
    );
    let answer = gateway.get("/");
    assert_eq!((answer.status, answer.code().as_str()), (503, "no_endpoint"));
    assert!(answer.header("retry-after").is_some());
}
