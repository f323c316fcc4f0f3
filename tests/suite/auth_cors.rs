//! Pages of other origins.

use crate::kit::{Answer, Gateway, Origin, SECRET, answer, frontdesk, run, token};
use serde_json::json;

fn with(origin: &Origin) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth: {{ c: {{ jwt: {{ secret: '{SECRET}' }} }} }}
routes:
  - name: api
    path: /api/*
    methods: [GET, POST]
    auth: c
    cors: {{ origins: [https://app.example.com, 'https://*.dev.example.com'], headers: [Content-Type, Authorization], expose: [X-Total], credentials: true, max_age: 10m }}
    to: http://{origin}
  - {{ name: any, path: /any, cors: {{ origins: '*' }}, respond: {{ body: any }} }}
  - {{ name: options, path: /*, methods: OPTIONS, to: http://{origin} }}
"
    ))
}

fn asks(gateway: &Gateway, target: &str, method: &str, origin: &str) -> Answer {
    gateway.connect().request("OPTIONS", target, &[("Origin", origin), ("Access-Control-Request-Method", method)], b"")
}

#[test]
fn a_preflight_is_answered_before_anybody_is_asked_who_it_is() {
    let origin = Origin::new(|_| answer(200, &[], b"service"));
    let gateway = with(&origin);
    for page in ["https://app.example.com", "https://pr-7.dev.example.com"] {
        let told = asks(&gateway, "/api/x", "POST", page);
        assert_eq!((told.status, told.header("access-control-allow-origin")), (204, Some(page)));
        assert_eq!(told.header("access-control-allow-methods"), Some("GET, POST"));
        assert_eq!(told.header("access-control-allow-headers"), Some("content-type, authorization"));
        assert_eq!(told.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(told.header("access-control-max-age"), Some("600"));
        assert!(told.header("vary").is_some_and(|vary| vary.starts_with("Origin, ")), "{told:?}");
    }
    let told = asks(&gateway, "/api/x", "GET", "https://evil.example");
    assert_eq!((told.status, told.header("access-control-allow-origin"), told.header("access-control-allow-methods")), (204, None, None));
    assert!(told.header("vary").is_some());
    // What the route doesn't take is another's.
    assert_eq!(asks(&gateway, "/api/x", "DELETE", "https://app.example.com").text(), "service");
    assert_eq!(asks(&gateway, "/any", "PUT", "https://x.example").header("access-control-allow-origin"), Some("*"));
    let plain = gateway.connect().request("OPTIONS", "/api/x", &[("Origin", "https://app.example.com")], b"");
    assert_eq!(plain.text(), "service");
    assert_eq!(origin.seen().len(), 2);
}

#[test]
fn answers_and_refusals_may_be_read_by_the_page_and_what_the_service_says_of_it_is_replaced() {
    let origin =
        Origin::new(|_| answer(200, &[("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Foo", "x"), ("Vary", "Accept")], b""));
    let gateway = with(&origin);
    let bearer = format!("Bearer {}", token(json!({})));
    let page = ("Origin", "https://app.example.com");
    let told = gateway.connect().request("GET", "/api/x", &[page, ("Authorization", &bearer)], b"");
    assert_eq!((told.status, told.header("access-control-allow-origin")), (200, Some("https://app.example.com")));
    assert_eq!((told.header("access-control-expose-headers"), told.header("access-control-allow-foo")), (Some("x-total"), None));
    assert_eq!(told.all("vary"), ["Accept", "Origin"]);
    let refused = gateway.connect().request("GET", "/api/x", &[page], b"");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("https://app.example.com")));
    assert_eq!(refused.header("vary"), Some("Origin"));
    for fields in [&[("Origin", "https://evil.example"), ("Authorization", &*bearer)][..], &[("Authorization", &*bearer)]] {
        let told = gateway.connect().request("GET", "/api/x", fields, b"");
        assert_eq!((told.status, told.header("access-control-allow-origin"), told.all("vary")), (200, None, vec!["Accept", "Origin"]));
    }
}

#[test]
fn every_origin_with_credentials_is_a_problem() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = "listeners: [{ bind: 127.0.0.1:1 }]\nroutes:\n  - { path: /a, cors: { origins: '*', credentials: true }, respond: {} }\n  - { path: /b, cors: { origins: app.example.com }, respond: {} }\n";
    std::fs::write(file.path(), text).expect("a file");
    let said = String::from_utf8_lossy(&run(frontdesk().args(["check", "-c"]).arg(file.path())).stderr).into_owned();
    assert!(said.contains(":3:34: every origin, with credentials") && said.contains(":4:34: `app.example.com` is not an origin"), "{said}");
}
