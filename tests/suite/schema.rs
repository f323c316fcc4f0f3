//! What a request's JSON body has to be, by a JSON Schema.

use crate::kit::{Answer, Gateway, H2Client, Origin, frontdesk, run, run_async};
use serde_json::{Value, json};
use std::fs;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const ORDER: &str = r##"{
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object", "required": ["id", "items"], "additionalProperties": false,
    "properties": {
        "id": { "type": "integer" },
        "mail": { "type": "string", "pattern": "^(a+)+@x$" },
        "items": { "type": "array", "maxItems": 3, "items": { "$ref": "#/$defs/item" } },
        "debug": {}
    },
    "$defs": { "item": { "type": "object", "properties": { "qty": { "type": "integer", "minimum": 1 } }, "required": ["qty"] } }
}"##;

fn yaml(route: &str) -> String {
    format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ name: x, path: /*, {} }}]", route.replace("FILE", "DIR/order.json"))
}

/// A gateway with a schema beside it; `FILE` in the route stands for that.
fn checking(route: &str) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("order.json"), ORDER).expect("a file");
    Gateway::start_in(folder, &yaml(route))
}

fn post(gateway: &Gateway, body: &str) -> Answer {
    gateway.connect().request("POST", "/", &[JSON], body.as_bytes())
}

fn pointers(refused: &Answer) -> Vec<String> {
    assert_eq!((refused.status, refused.code()), (422, "body_invalid".to_string()), "{refused:?}");
    let errors = refused.json()["errors"].as_array().cloned().unwrap_or_default();
    errors.iter().map(|flaw| flaw["pointer"].as_str().expect("a pointer").to_string()).collect()
}

#[test]
fn what_does_not_match_is_refused_with_its_place() {
    let origin = Origin::echo();
    let gateway = checking(&format!("to: 'http://{origin}', request: {{ body: {{ schema: FILE }} }}"));
    let good = r#"{ "id": 12345678901234567, "items": [{ "qty": 2 }] }"#;
    assert_eq!(post(&gateway, good).json()["body"], good, "as it came");
    let refused = post(&gateway, r#"{"id":"7","items":[{"qty":1},{"qty":0}],"hunter":1}"#);
    let mut found = pointers(&refused);
    found.sort_unstable();
    assert_eq!(found, ["#", "#/id", "#/items/1/qty"]);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    let told = refused.json();
    assert!(told["errors"].as_array().expect("flaws").iter().all(|flaw| !flaw["detail"].as_str().expect("a text").is_empty()), "{told}");
    let first = told["errors"][0]["pointer"].as_str().expect("a pointer");
    assert!(told["detail"].as_str().is_some_and(|detail| detail.starts_with(&format!("At {first}: "))), "{told}");
    for (body, places) in [("{", &[][..]), ("[]", &["#"]), (r#"{"id":1,"id":2,"items":[]}"#, &[]), ("", &["#"])] {
        assert_eq!(pointers(&post(&gateway, body)), places, "{body}");
    }
    assert_eq!(origin.seen().len(), 1, "the service sees what is good");
    assert_eq!(gateway.access_log(6).iter().filter(|line| line["code"] == "body_invalid").count(), 5);
    assert_eq!(gateway.metric("frontdesk_refusals_total{code=\"body_invalid\",route=\"x\"}"), 5.0);
}

#[test]
fn nobody_gets_past_it() {
    let origin = Origin::echo();
    let gateway = checking(&format!("to: 'http://{origin}', request: {{ body: {{ schema: FILE, body_bytes_max: 1KiB }} }}"));
    let mut client = gateway.connect();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/json-seq"] {
        let refused = client.request("POST", "/", &[("Content-Type", kind)], b"{}");
        assert_eq!((refused.status, refused.code()), (422, "body_invalid".to_string()), "{kind}");
    }
    assert_eq!(client.request("POST", "/", &[], b"{}").status, 422, "no type at all");
    let large = json!({ "id": 1, "items": [], "debug": "x".repeat(2_000) }).to_string();
    assert_eq!(gateway.connect().request("POST", "/", &[JSON], large.as_bytes()).status, 413);
    // In chunks, which are not known before their end.
    for (body, status) in [(r#"{"id":1,"items":[]}"#, 200), (r#"{"id":1}"#, 422)] {
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let answer = gateway.connect().request("POST", "/", &[JSON, ("Transfer-Encoding", "chunked")], chunks.as_bytes());
        assert_eq!(answer.status, status, "{answer:?}");
    }
    // What carries nothing passes.
    assert_eq!(client.request("GET", "/", &[], b"").status, 200);
    // A pattern that an engine which goes back would need years for.
    let evil = json!({ "id": 1, "items": [], "mail": "a".repeat(200) }).to_string();
    assert_eq!(pointers(&post(&gateway, &evil)), ["#/mail"]);
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let refused = client.request(http::Method::POST, "/", &[("content-type", "application/json")], br#"{"id":1}"#).await;
        assert_eq!((refused.status, refused.json()["errors"][0]["pointer"].as_str()), (422, Some("#")));
        let call = client.request(http::Method::POST, "/", &[("content-type", "application/grpc")], b"{}").await;
        assert_eq!(call.header("grpc-status"), Some("2"));
    });
}

#[test]
fn other_types_pass_where_that_is_told() {
    let origin = Origin::echo();
    let gateway = checking(&format!("to: 'http://{origin}', request: {{ body: {{ schema: FILE, other_types: pass }} }}"));
    assert_eq!(gateway.connect().request("POST", "/", &[("Content-Type", "text/plain")], b"hello").json()["body"], "hello");
    assert_eq!(post(&gateway, "{}").status, 422);
}

#[test]
fn what_the_client_sends_is_checked_and_then_changed() {
    let origin = Origin::echo();
    let gateway = checking(&format!(
        "to: 'http://{origin}', request: {{ body: {{ schema: FILE, json: {{ rename: {{ id: key }}, remove: [debug] }} }} }}"
    ));
    assert_eq!(post(&gateway, r#"{"id":1,"items":[],"debug":1}"#).json()["body"], r#"{"key":1,"items":[]}"#);
    assert_eq!(post(&gateway, r#"{"key":1,"items":[]}"#).status, 422);
}

#[test]
fn composed_answers_have_checked_requests_too() {
    let origin = Origin::echo();
    let route = "request: { body: { schema: FILE, json: { remove: [debug] } } },
        compose: { calls: { a: { to: 'http://ORIGIN', path: '/${body.id}', method: POST, body: { sent: '${body}' } } } }";
    let gateway = checking(&route.replace("ORIGIN", &origin.to_string()));
    let told = post(&gateway, r#"{"id":7,"items":[],"debug":1}"#).json();
    assert_eq!((&told["a"]["target"], &told["a"]["body"]), (&json!("/7"), &json!(r#"{"sent":{"id":7,"items":[]}}"#)));
    assert_eq!(pointers(&post(&gateway, r#"{"id":"x","items":[]}"#)), ["#/id"]);
    assert_eq!(origin.seen().len(), 1);
    assert_eq!(gateway.get("/").status, 200, "what carries nothing passes");
}

#[test]
fn a_reload_reads_the_file_again_and_a_bad_one_changes_nothing() {
    let origin = Origin::echo();
    let route = format!("to: 'http://{origin}', request: {{ body: {{ schema: FILE }} }}");
    let gateway = checking(&route);
    let write = |schema: &str| fs::write(gateway.file("order.json"), schema).expect("a file");
    write(r#"{ "required": ["name"] }"#);
    assert_eq!(post(&gateway, r#"{"name":1}"#).status, 422, "nobody has said that it is ready");
    assert!(gateway.reload(&yaml(&route)));
    assert_eq!(post(&gateway, r#"{"name":1}"#).status, 200);
    write(r#"{ "type": 5 }"#);
    assert!(!gateway.reload(&yaml(&route)));
    assert_eq!((post(&gateway, r#"{"name":1}"#).status, post(&gateway, "{}").status), (200, 422));
}

#[test]
fn a_bad_schema_is_a_problem_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("bad.json"), r#"{ "properties": { "a": { "type": "objekt" } } }"#).expect("a file");
    let yaml = "listeners: [{ bind: 127.0.0.1:0 }]
routes:
  - { path: /a, to: 'http://127.0.0.1:1', request: { body: { schema: bad.json } } }
  - { path: /b, to: 'http://127.0.0.1:1', request: { body: { schema: none.json } } }
";
    fs::write(folder.path().join("f.yaml"), yaml).expect("a file");
    let output = run(frontdesk().current_dir(folder.path()).args(["check", "-c", "f.yaml", "--json"]));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = told.to_string();
    assert!(text.contains("#/properties/a/type") && text.contains("can't read `none.json`"), "{text}");
    assert!(text.contains("\"line\":3") && text.contains("\"line\":4"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}
