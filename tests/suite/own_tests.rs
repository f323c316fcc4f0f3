//! `tests:` of a configuration: `frontdesk test`, and `check`.

use crate::kit::{frontdesk, run};
use serde_json::{Value, json};
use std::path::PathBuf;

const EXAMPLE: &str = include_str!("../../conf/tests.yaml");

/// A configuration's file, for as long as the folder lives.
fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("f.yaml");
    std::fs::write(&file, text).expect("a file");
    (folder, file)
}

fn ask(command: &str, text: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let (_folder, file) = written(text);
    let output = run(frontdesk().arg(command).arg("-c").arg(&file).args(more));
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_example_passes() {
    let (code, said, _) = ask("test", EXAMPLE, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("ok    GET https://api.example.com/orders/7\n") && said.contains("ok    without a token nobody gets in\n"),
        "{said}"
    );
    assert!(said.ends_with("6 tests passed\n"), "{said}");
    assert_eq!(ask("check", EXAMPLE, &[]).0, Some(0));
}

#[test]
fn what_is_not_as_expected_is_named() {
    let text =
        EXAMPLE.replace("scopes_all: [orders.write]", "scopes_all: [orders.admin]").replace("\"/v2/orders/${id}\"", "\"/v3/orders/${id}\"");
    let (code, said, _) = ask("test", &text, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAIL  GET https://api.example.com/orders/7\n") && said.ends_with("1 of 6 tests failed\n"), "{said}");
    for what in ["service is none, expected `orders`", "upstream_path is none, expected `/v2/orders/7`"] {
        assert!(said.contains(what), "{what} is not in\n{said}");
    }
    assert!(!said.contains("route is") && !said.contains("identity is"), "that is right: {said}");
    let (code, said, _) = ask("test", &text, &["--json"]);
    let told: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &told["ok"], &told["passed"], &told["failed"]), (Some(1), &json!(false), &json!(5), &json!(1)));
    assert_eq!(told["tests"][0]["differences"][0], json!({ "key": "service", "expected": "orders", "found": "" }));
    // `check` shows them where they stand.
    let (code, _, said) = ask("check", &text, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("f.yaml:25:44: `service` is none, expected `orders`") && said.contains("2 problems"), "{said}");
}

#[test]
fn tokens_are_believed_but_for_what_they_say() {
    let outcome = |jwt: &str, expect: &str| {
        let text =
            format!("{}\n  - {{ request: \"GET https://api.example.com/orders/7\", jwt: {jwt}, expect: {expect} }}\n", EXAMPLE.trim_end());
        let (code, said, errors) = ask("test", &text, &[]);
        assert_eq!(code, Some(0), "{jwt}: {said}{errors}");
    };
    outcome("{ exp: 1 }", "{ status: 401, code: token_expired }");
    outcome("{ nbf: 99999999999 }", "{ code: token_not_yet_valid }");
    outcome("{ iss: https://other.example }", "{ code: token_issuer }");
    outcome("{ scope: 'a orders.write', sub: bob }", "{ status: 200, identity: bob, code: \"\" }");
}

#[test]
fn listeners_addresses_and_fields_decide() {
    let text = "
listeners: [{ name: a, bind: 127.0.0.1:1 }, { name: b, bind: 127.0.0.1:2 }]
rate_limits: { few: { rate: 1/h } }
routes:
  - { name: inside, path: /*, listener: b, rate_limits: [few], ip: { allow: [10.0.0.0/8] }, respond: { status: 204 } }
  - { name: beta, path: /*, headers: { X-Beta: \"1\" }, respond: { status: 201 } }
  - { name: rest, path: /*, respond: {} }
tests:
  - { request: GET /x, expect: { route: rest, status: 200 } }
  - { request: GET /x, headers: { x-beta: 1 }, expect: { route: beta, status: 201 } }
  - { request: GET /x, listener: b, expect: { route: inside, code: forbidden_ip } }
  - { request: GET /x, listener: b, client_ip: 10.1.2.3, expect: { route: inside, status: 204 } }
  - { request: GET /x, listener: b, client_ip: 10.1.2.3, expect: { status: 204 } }
";
    let (code, said, errors) = ask("test", text, &[]);
    assert_eq!(code, Some(0), "{said}{errors}");
    let (code, said, _) = ask("test", &text.replace("listener: b, client_ip", "listener: c, client_ip"), &[]);
    assert!(code == Some(1) && said.contains("no listener is named `c`"), "{said}");
}

#[test]
fn a_path_is_expected_with_its_query_or_without() {
    let text = "listeners: [{ bind: 127.0.0.1:1 }]
routes: [{ path: '/{id}', request: { path: '/v2/{id}', query: { set: { src: gw } } }, to: 'http://127.0.0.1:2' }]
tests:
  - { request: GET /a, expect: { upstream_path: /v2/a } }
  - { request: GET /a?x=1, expect: { upstream_path: /v2/a?x=1&src=gw } }
";
    let (code, said, errors) = ask("test", text, &[]);
    assert_eq!(code, Some(0), "{said}{errors}");
    for (other, found) in [("/v2/b }", "/v2/a?src=gw"), ("/v2/a?src=other }", "/v2/a?src=gw"), ("/v2/a? }", "/v2/a?src=gw")] {
        let (code, said, _) = ask("test", &text.replace("/v2/a }", other), &[]);
        assert!(code == Some(1) && said.contains(&format!("upstream_path is `{found}`")), "{other}: {said}");
    }
}

#[test]
fn what_is_no_test_is_a_problem() {
    let text = "listeners: [{ bind: 127.0.0.1:1 }]
routes: [{ path: /*, respond: {} }]
tests:
  - { request: /x, expect: {} }
  - { request: \"get /x\", expect: { status: 99 } }
  - { request: GET /x }
  - { request: GET /x, jwt: alice, expect: { staus: 200 } }
";
    let (code, said, errors) = ask("test", text, &[]);
    assert_eq!((code, said.as_str()), (Some(1), ""));
    for what in [
        "`/x` is not a method and a URL",
        "`get` is not a method in capitals",
        "`status` is 99",
        "has no `expect`",
        "must be a map of claims",
        "did you mean `status`?",
    ] {
        assert!(errors.contains(what), "{what} is not in\n{errors}");
    }
}
