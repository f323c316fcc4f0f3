//! Which route a request takes, and the answers that the gateway gives by itself.

use crate::kit::{Client, Gateway, Origin};

#[test]
fn hosts_paths_and_methods() {
    let gateway = Gateway::start(
        "
listeners: [{ bind: 127.0.0.1:0 }]
routes:
  - { path: /*, respond: { body: any } }
  - { host: a.example, path: /*, respond: { body: a } }
  - { host: '*.example', path: /x/*, respond: { body: wild } }
  - { host: a.example, path: '/u/{id}', methods: GET, respond: { body: 'user ${id}' } }
  - { host: only.example, path: /o, methods: [POST, PUT], respond: { body: o } }
  - { host: '*.nothing.example', path: /n, respond: { body: n } }
",
    );
    let ask = |method: &str, host: &str, path: &str| {
        let answer = gateway.connect().request(method, path, &[("Host", host)], b"");
        (answer.status, answer.text())
    };
    for (method, host, path, body) in [
        ("GET", "b.test", "/q", "any"),
        ("GET", "A.example:80", "/q", "a"),
        ("GET", "b.example", "/x", "wild"),
        ("GET", "b.example", "/xy", "any"),
        ("GET", "a.example", "/u/7", "user 7"),
        ("GET", "a.example", "/u/a%2Fb%20c", "user a/b c"),
        ("POST", "a.example", "/u/7", "a"),
        ("GET", "a.example", "/q/../u/./8", "user 8"),
        ("PUT", "only.example", "/o", "o"),
        ("GET", "only.example", "/o", "any"),
    ] {
        assert_eq!(ask(method, host, path), (200, body.to_string()), "{method} {host}{path}");
    }
}

#[test]
fn no_route_and_no_method_are_problems_with_a_code() {
    let gateway = Gateway::start(
        "
listeners: [{ bind: 127.0.0.1:0 }]
routes:
  - { name: get, path: /x, methods: GET, respond: { body: x } }
  - { path: /x, methods: [PUT], respond: {} }
",
    );
    let answer = gateway.get("/y");
    let problem = answer.json();
    assert_eq!((answer.status, answer.code()), (404, "no_route".to_string()));
    assert_eq!((&problem["status"], &problem["request_id"]), (&404.into(), &answer.header("x-request-id").into()));
    let answer = gateway.connect().request("DELETE", "/x", &[], b"");
    assert_eq!((answer.status, answer.code(), answer.header("allow")), (405, "method_not_allowed".to_string(), Some("GET, HEAD, PUT")));
    assert_eq!(gateway.connect().request("GET", "/x%00", &[], b"").status, 400);
    // A connection goes on behind a refusal, and behind a body that nobody wanted.
    let mut client = gateway.connect();
    assert_eq!(client.request("POST", "/y", &[], b"some body").status, 404);
    assert_eq!(client.get("/x").text(), "x");
    assert_eq!(gateway.metric("frontdesk_refusals_total{code=\"no_route\",route=\"\"}"), 2.0);
    let head = client.request("HEAD", "/x", &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("1")));
    assert_eq!(client.get("/x").text(), "x");
}

#[test]
fn redirects_and_fixed_answers() {
    let gateway = Gateway::start(
        "
listeners: [{ bind: 127.0.0.1:0 }]
routes:
  - { path: /old/*, redirect: { status: 308, to: '/new/${rest}' } }
  - { path: /q, redirect: { to: '/r?fixed=1' } }
  - { path: /tls/*, redirect: { status: 301, to: 'https://${host}${path}' } }
  - { path: /gone, respond: { status: 410, headers: { Content-Type: text/plain, X-Ip: '${client_ip}' }, body: \"gone\\n\" } }
  - { path: /empty, respond: { status: 204 } }
",
    );
    let location = |target: &str| {
        let answer = gateway.get(target);
        (answer.status, answer.header("location").unwrap_or_default().to_string())
    };
    assert_eq!(location("/old/a/b%2Fc?x=1"), (308, "/new/a/b%2Fc?x=1".to_string()));
    assert_eq!(location("/old"), (308, "/new/".to_string()));
    assert_eq!(location("/q?x=1"), (302, "/r?fixed=1".to_string()));
    assert_eq!(location("/tls/x?y"), (301, "https://test/tls/x?y".to_string()));
    let answer = gateway.get("/gone");
    assert_eq!((answer.status, answer.text()), (410, "gone\n".to_string()));
    assert_eq!((answer.header("content-type"), answer.header("x-ip")), (Some("text/plain"), Some("127.0.0.1")));
    let answer = gateway.get("/empty");
    assert_eq!((answer.status, answer.header("content-length")), (204, None));
}

#[test]
fn routes_choose_their_listeners() {
    let gateway = Gateway::start(
        "
listeners: [{ name: public, bind: 127.0.0.1:0 }, { name: private, bind: 127.0.0.1:0 }]
routes:
  - { listener: private, path: /x, respond: { body: private } }
  - { path: /x, respond: { body: both } }
  - { listener: [public, private], path: /y, respond: { body: y } }
  - { listener: public, path: /z, respond: { body: z } }
",
    );
    let ask = |listener: &str, path: &str| {
        let answer = Client::connect(gateway.address_of(listener)).get(path);
        if answer.status == 200 { answer.text() } else { answer.status.to_string() }
    };
    let all: Vec<String> = ["/x", "/y", "/z"].iter().flat_map(|path| [ask("public", path), ask("private", path)]).collect();
    assert_eq!(all, ["both", "private", "y", "y", "z", "404"]);
}

#[test]
fn what_is_matched_is_what_is_sent() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
routes: [{{ path: /open/*, to: http://{origin} }}, {{ path: /closed/*, respond: {{ status: 403 }} }}]
"
    ));
    assert_eq!(gateway.get("/open/%61/../b%2f?q=%61/../").json()["target"], "/open/b%2F?q=%61/../");
    assert_eq!(gateway.get("/open/%2e%2e/closed/x").status, 403);
    assert_eq!(gateway.get("/open/..%2Fclosed").json()["target"], "/open/..%2Fclosed");
}
