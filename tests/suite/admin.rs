//! What the operator asks of a running gateway.

use crate::kit::{Answer, Client, Gateway, Origin, eventually, frontdesk, run};
use serde_json::json;
use std::net::TcpStream;

const FIXED: &str = "listeners: [{ name: public, bind: 127.0.0.1:0 }]\nroutes: [{ name: all, path: /*, respond: {} }]\n";
const TOKEN: &str = "Bearer a-long-secret";

fn with_token() -> Gateway {
    Gateway::start(&format!("{FIXED}admin: {{ bind: 127.0.0.1:0, token: a-long-secret }}\n"))
}

fn ask(gateway: &Gateway, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let host = ("Host", "localhost");
    let with_host: Vec<_> = headers.iter().copied().chain((!headers.iter().any(|(name, _)| *name == "Host")).then_some(host)).collect();
    Client::connect(gateway.admin()).request(method, target, &with_host, b"")
}

#[test]
fn health_and_readiness() {
    let gateway = Gateway::start(FIXED);
    assert_eq!(
        ["/healthz", "/readyz"].map(|target| (gateway.ask(target).status, gateway.ask(target).text())),
        [(200, "ok\n".to_string()), (200, "ready\n".to_string())]
    );
    let head = ask(&gateway, "HEAD", "/healthz", &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn metrics_are_in_the_text_format_of_prometheus() {
    let gateway = Gateway::start(FIXED);
    gateway.get("/");
    // A request is counted once its answer is out.
    eventually("the count", || gateway.ask("/metrics").text().contains("frontdesk_requests_total").then_some(()));
    let answer = gateway.ask("/metrics");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let text = answer.text();
    for line in
        ["# HELP frontdesk_requests_total ", "# TYPE frontdesk_requests_total counter", "# TYPE frontdesk_request_seconds histogram"]
    {
        assert!(text.lines().any(|known| known.starts_with(line)), "{line} is not in\n{text}");
    }
}

#[test]
fn the_status_tells_what_runs() {
    let origin = Origin::fixed("x");
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ name: public, bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{{ address: {origin}, weight: 3 }}] }} }}
routes: [{{ name: all, path: /*, to: s }}, {{ path: /x, respond: {{}} }}]
"
    ));
    let status = gateway.ask("/status").json();
    assert_eq!((&status["version"], &status["pid"]), (&env!("CARGO_PKG_VERSION").into(), &gateway.pid().into()));
    assert_eq!((&status["ready"], &status["connections"], &status["in_flight"]), (&true.into(), &0.into(), &0.into()));
    assert_eq!((&status["snapshot"]["version"], &status["snapshot"]["last_error"]), (&1.into(), &json!(null)));
    assert!(humantime::parse_rfc3339(status["snapshot"]["loaded_at"].as_str().expect("a text")).is_ok());
    let address = gateway.address().to_string();
    assert_eq!(
        status["listeners"],
        json!([{ "name": "public", "bind": "127.0.0.1:0", "address": address, "tls": false, "certificates": null }])
    );
    assert_eq!(status["routes"], json!(["all", "/x"]));
    let endpoint = json!({ "address": origin.to_string(), "weight": 3, "in_flight": 0, "state": "up", "ejections": 0 });
    assert_eq!(status["services"], json!([{ "name": "s", "cap": null, "breaker": null, "endpoints": [endpoint], "sources": [] }]));
}

#[test]
fn the_configuration_is_shown_without_its_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("token"), "a-long-secret\n").expect("a file");
    let gateway = Gateway::start_in(folder, &format!("{FIXED}admin: {{ bind: 127.0.0.1:0, token: '${{file:DIR/token}}' }}\n"));
    let answer = ask(&gateway, "GET", "/config", &[("Authorization", TOKEN)]);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/yaml")));
    let shown: serde_yaml::Value = serde_yaml::from_str(&answer.text()).expect("a YAML");
    assert_eq!((shown["admin"]["token"].as_str(), shown["routes"][0]["name"].as_str()), (Some("***"), Some("all")));
    assert!(!answer.text().contains("a-long-secret"));
    let status = ask(&gateway, "GET", "/status", &[("Authorization", TOKEN)]).text();
    assert!(!status.contains("a-long-secret") && !gateway.log().iter().any(|line| line.contains("a-long-secret")));
}

#[test]
fn a_token_is_asked_for_when_there_is_one() {
    let gateway = with_token();
    for target in ["/metrics", "/status", "/config", "/", "/nothing"] {
        for given in
            [None, Some("Bearer wrong"), Some("Bearer "), Some("Bearer a-long-secret2"), Some("Basic a-long-secret"), Some("a-long-secret")]
        {
            let headers: Vec<_> = given.iter().map(|given| ("Authorization", *given)).collect();
            let answer = ask(&gateway, "GET", target, &headers);
            let challenge = answer.header("www-authenticate");
            assert_eq!((answer.status, challenge), (401, Some("Bearer")), "{target} {given:?}");
        }
    }
    for given in [TOKEN, "bearer a-long-secret"] {
        for target in ["/metrics", "/status", "/config"] {
            assert_eq!(ask(&gateway, "GET", target, &[("Authorization", given)]).status, 200, "{target}");
        }
    }
    // With it, any Host will do.
    assert_eq!(ask(&gateway, "GET", "/status", &[("Authorization", TOKEN), ("Host", "gateway.example")]).status, 200);
    assert_eq!(["/healthz", "/readyz"].map(|target| ask(&gateway, "GET", target, &[]).status), [200, 200]);
}

#[test]
fn a_reload_changes_the_token() {
    let gateway = with_token();
    assert!(gateway.reload(&format!("{FIXED}admin: {{ bind: 127.0.0.1:0, token: another-secret }}\n")));
    let status = |token: &str| ask(&gateway, "GET", "/status", &[("Authorization", token)]).status;
    assert_eq!((status(TOKEN), status("Bearer another-secret")), (401, 200));
}

#[test]
fn without_a_token_only_loopback_hosts_are_answered() {
    let gateway = Gateway::start(FIXED);
    let status = |host: &str| ask(&gateway, "GET", "/status", &[("Host", host)]).status;
    let own = gateway.admin().to_string();
    assert_eq!(["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:9901", &own].map(status), [200; 5]);
    assert_eq!(["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", ""].map(status), [403; 5]);
}

#[test]
fn nothing_is_changed_by_asking() {
    let gateway = Gateway::start(FIXED);
    for method in ["POST", "PUT", "DELETE"] {
        for target in ["/status", "/healthz"] {
            let answer = ask(&gateway, method, target, &[]);
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method} {target}");
        }
    }
    for target in ["/reload", "/drain", "/stop"] {
        let answer = ask(&gateway, "GET", target, &[]);
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{target}");
    }
    assert_eq!(["GET", "POST"].map(|method| ask(&gateway, method, "/nothing", &[]).status), [404, 404]);
    assert_eq!(gateway.ask("/status").json()["snapshot"]["version"], 1);
}

#[test]
fn a_reload_is_told_and_its_outcome_answered() {
    let gateway = Gateway::start(FIXED);
    gateway.rewrite(&FIXED.replace("respond: {}", "respond: { body: new }"));
    let answer = ask(&gateway, "POST", "/reload", &[]);
    assert_eq!((answer.status, answer.json(), gateway.get("/").text()), (200, json!({ "version": 2 }), "new".to_string()));
    gateway.rewrite(&FIXED.replace("respond: {}", "to: nobody"));
    let answer = ask(&gateway, "POST", "/reload", &[]);
    let (status, said) = (answer.status, answer.json());
    assert_eq!((status, &said["version"], gateway.get("/").text()), (422, &2.into(), "new".to_string()));
    assert!(said["error"].as_str().is_some_and(|error| error.contains("no service is named `nobody`")), "{said}");
}

#[test]
fn no_web_page_can_tell_it_anything() {
    let gateway = Gateway::start(FIXED);
    let own = gateway.admin().to_string();
    for (origin, host, status) in [
        ("http://evil.example", "localhost", 403),
        ("http://localhost:1", "localhost", 403),
        ("null", "localhost", 403),
        ("http://evil.example", "evil.example", 403),
        (&format!("http://{own}"), &own, 200),
    ] {
        assert_eq!(ask(&gateway, "POST", "/reload", &[("Origin", origin), ("Host", host)]).status, status, "{origin} {host}");
    }
    let gateway = with_token();
    for (headers, status) in
        [(vec![], 401), (vec![("Authorization", TOKEN)], 200), (vec![("Authorization", TOKEN), ("Origin", "http://evil.example")], 403)]
    {
        assert_eq!(ask(&gateway, "POST", "/reload", &headers).status, status, "{headers:?}");
    }
}

#[test]
fn it_is_not_counted_as_traffic() {
    let gateway = Gateway::start(FIXED);
    (0..5).for_each(|_| assert_eq!(gateway.ask("/metrics").status, 200));
    gateway.get("/real");
    let lines = gateway.access_log(1);
    assert_eq!((lines.len(), &lines[0]["path"]), (1, &"/real".into()));
    assert_eq!(gateway.metric("frontdesk_requests_total{method=\"GET\",route=\"\",status=\"404\"}"), 0.0);
}

#[test]
fn it_moves_with_a_reload() {
    let gateway = Gateway::start(FIXED);
    let old = gateway.admin();
    assert!(gateway.reload(&format!("{FIXED}admin: {{ bind: 127.0.0.2:0 }}\n")));
    let new = gateway.log().iter().rev().find_map(|line| line.split_once("admin on ")?.1.trim().parse().ok()).expect("an address");
    assert_ne!(old, new);
    assert_eq!(Client::connect(new).request("GET", "/status", &[("Host", "localhost")], b"").json()["snapshot"]["version"], 2);
    eventually("the old one's end", || TcpStream::connect(old).is_err().then_some(()));
}

#[test]
fn an_address_for_others_needs_a_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("f.yaml");
    for (admin, code) in
        [("{ bind: 0.0.0.0:9 }", 1), ("{ bind: '[::]:9' }", 1), ("{ bind: 0.0.0.0:9, token: s }", 0), ("{ bind: '[::1]:9' }", 0)]
    {
        std::fs::write(&path, format!("{FIXED}admin: {admin}\n")).expect("a file");
        let output = run(frontdesk().args(["check", "-c"]).arg(&path));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), text.contains("needs a token")), (Some(code), code == 1), "{admin}: {text}");
    }
}

#[test]
fn the_dashboard_reads_breakers_as_they_are_told() {
    let yaml =
        "listeners: [{ bind: 127.0.0.1:0 }]\nservices: { s: { endpoints: ['127.0.0.1:1'], breaker: {} } }\nroutes: [{ path: /*, to: s }]\n";
    let gateway = Gateway::start(yaml);
    let page = gateway.ask("/").text();
    // The state is the value itself.
    assert_eq!(gateway.ask("/status").json()["services"][0]["breaker"], "closed");
    assert!(page.contains("toned(service.breaker, ") && !page.contains("service.breaker."), "{page}");
}
