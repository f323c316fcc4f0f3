//! Why was it refused? `/refusals`, `why` and the dashboard.

use crate::kit::{Client, Gateway, Origin, dead_address, eventually, frontdesk, run};
use serde_json::{Value, json};

fn gateway(more: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]
rate_limits: {{ few: {{ rate: 1/1h }} }}
routes:
  - {{ name: limited, path: /few, rate_limits: [few], respond: {{}} }}
  - {{ name: dead, path: /dead, to: 'http://{}' }}
  - {{ name: inside, path: /inside, ip: {{ deny: [127.0.0.1] }}, respond: {{}} }}
{more}
",
        dead_address()
    ))
}

/// The newest so many, once they are there.
fn refusals(gateway: &Gateway, at_least: usize) -> Vec<Value> {
    eventually("the refusals", || {
        let told = gateway.ask("/refusals").json();
        let all = told["refusals"].as_array().expect("a list").clone();
        (all.len() >= at_least).then_some(all)
    })
}

fn why(gateway: &Gateway, id: &str, more: &[&str]) -> (Option<i32>, String) {
    let output = run(frontdesk().args(["why", id, "--admin", &format!("http://{}", gateway.admin())]).args(more));
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn each_refusal_is_there_with_its_reason() {
    let gateway = gateway("access_log: { path: DIR/access.log, redact: [token] }");
    assert_eq!(gateway.ask("/refusals").json()["refusals"], json!([]));
    let mut refused = 0;
    let ids: Vec<String> = [("/few", 200), ("/few?token=a-secret&x=1", 429), ("/nowhere", 404), ("/inside", 403), ("/dead", 502)]
        .into_iter()
        .map(|(target, status)| {
            let answer = gateway.get(target);
            assert_eq!(answer.status, status, "{target}");
            // A request is written down after its answer.
            refused += usize::from(status >= 400);
            refusals(&gateway, refused);
            answer.header("x-request-id").expect("an id").to_string()
        })
        .collect();
    let all = refusals(&gateway, 4);
    let told: Vec<_> = all.iter().map(|one| (one["code"].as_str().expect("a code"), one["route"].as_str().expect("a route"))).collect();
    assert_eq!(told, [("upstream_connect", "dead"), ("forbidden_ip", "inside"), ("no_route", ""), ("rate_limited", "limited")]);
    let limited = &all[3];
    assert_eq!((&limited["limit"], &limited["path"], &limited["status"]), (&json!("few"), &json!("/few?token=***&x=1"), &json!(429)));
    assert_eq!((limited["request_id"].as_str(), limited["client_ip"].as_str()), (Some(&*ids[1]), Some("127.0.0.1")));
    assert!(
        all[0]["endpoint"].as_str().is_some_and(|endpoint| endpoint.starts_with("127.0.0.1:")) && all[0]["attempts"].as_u64() >= Some(1)
    );
    assert_eq!(gateway.ask("/refusals?limit=2").json()["refusals"].as_array().map(Vec::len), Some(2));
    assert_eq!(gateway.ask(&format!("/refusals?id={}", ids[2])).json()["refusals"][0]["code"], "no_route");
    assert_eq!(gateway.ask("/refusals?limit=x").status, 400);

    let (code, said) = why(&gateway, &ids[1], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("answered 429 rate_limited: Another try makes sense in ") && said.contains("limit     few"), "{said}");
    let (code, said) = why(&gateway, &ids[3], &["--json"]);
    assert_eq!((code, serde_json::from_str::<Value>(&said).expect("JSON")["code"].as_str()), (Some(0), Some("forbidden_ip")));
    let (code, said) = why(&gateway, &ids[0], &[]);
    assert!(code == Some(1) && said.contains("is not among the last 1000 requests"), "{said}");
}

#[test]
fn what_is_no_request_is_there_too_and_a_query_is_left_out_where_nothing_is_logged() {
    let gateway = Gateway::start("# access_log: off\nlisteners: [{ bind: 127.0.0.1:0 }]\nroutes: [{ path: /a, respond: {} }]\n");
    let mut client = gateway.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    assert_eq!(client.answer().status, 400);
    refusals(&gateway, 1);
    assert_eq!(gateway.get("/b?token=a-secret").status, 404);
    let all = refusals(&gateway, 2);
    assert_eq!((&all[1]["code"], &all[1]["method"]), (&json!("bad_request"), &json!("")));
    assert_eq!((&all[0]["code"], &all[0]["path"]), (&json!("no_route"), &json!("/b")));
}

#[test]
fn the_dashboard_is_one_page_that_needs_nothing_else() {
    let gateway = gateway("");
    let page = gateway.ask("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    let text = page.text();
    assert!(text.starts_with("<!doctype html>") && text.contains("<title>Frontdesk</title>"));
    // Nothing is fetched from elsewhere, and no text becomes markup.
    for what in ["src=", "href=", "@import", "url(", "innerHTML", "insertAdjacentHTML", "document.write", "eval("] {
        assert!(!text.contains(what), "{what}");
    }
    for asked in ["\"status\"", "\"metrics\"", "\"refusals\""] {
        assert!(text.contains(&format!("ask({asked}")), "{asked}");
    }
    let mut stranger = Client::connect(gateway.admin());
    assert_eq!(stranger.request("GET", "/", &[("Host", "evil.example")], b"").status, 403);
}

#[test]
fn a_connection_outlives_a_service_that_fails() {
    let origin = Origin::fixed("hello");
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ down: {{ endpoints: [{}] }} }}
routes:
  - {{ path: /down, to: down, response: {{ headers: {{ set: {{ X-A: a }} }} }} }}
  - {{ path: /*, to: http://{origin} }}
",
        dead_address()
    ));
    let mut client = gateway.connect();
    // With a body that has to be read away, and with what was sent ahead.
    for body in ["", "little", &"x".repeat(60_000)] {
        let answer = client.request("POST", "/down", &[], body.as_bytes());
        assert_eq!((answer.code(), answer.header("connection")), ("upstream_connect".to_string(), Some("keep-alive")), "{}", body.len());
        assert_eq!(client.get("/x").text(), "hello");
    }
    client.send("GET /down HTTP/1.1\r\nHost: test\r\n\r\nGET /down HTTP/1.1\r\nHost: test\r\n\r\nGET /x HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!([client.answer().code(), client.answer().code(), client.answer().text()], ["upstream_connect", "upstream_connect", "hello"]);
    // One that wants to end does, and so does one whose body is too long to wait for.
    let answer = client.request("GET", "/down", &[("Connection", "close")], b"");
    assert_eq!((answer.code(), answer.header("connection")), ("upstream_connect".to_string(), Some("close")));
    client.wait_for_close();
    let mut client = gateway.connect();
    client.send("POST /down HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\nx");
    let answer = client.answer();
    assert_eq!((answer.code(), answer.header("connection")), ("upstream_connect".to_string(), Some("close")));
    eventually("no connection is left", || (gateway.metric("frontdesk_in_flight") == 0.0).then_some(()));
    assert_eq!(gateway.access_log(11).iter().filter(|line| line["status"] == 502).count(), 7);
}
