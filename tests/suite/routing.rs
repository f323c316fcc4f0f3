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
  - { path: '/u/{id}', redirect: { to: '/users/${id}#top' } }
  - { path: /f, redirect: { to: '/r?fixed=1#top?' } }
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
    assert_eq!(location("/u/7?z=1"), (302, "/users/7?z=1#top".to_string()));
    assert_eq!(location("/u/7"), (302, "/users/7#top".to_string()));
    assert_eq!(location("/f?z=1"), (302, "/r?fixed=1#top?".to_string()));
    assert_eq!(location("/tls/x?y"), (301, "https://test/tls/x?y".to_string()));
    for (host, place) in
        [("a.example:8080", "https://a.example/tls/x"), ("[::1]:80", "https://[::1]/tls/x"), ("a%2Fb", "https://a%2Fb/tls/x")]
    {
        let answer = gateway.connect().request("GET", "/tls/x", &[("Host", host)], b"");
        assert_eq!(answer.header("location"), Some(place), "{host}");
    }
    let answer = gateway.get("/gone");
    assert_eq!((answer.status, answer.text()), (410, "gone\n".to_string()));
    assert_eq!((answer.header("content-type"), answer.header("x-ip")), (Some("text/plain"), Some("127.0.0.1")));
    let answer = gateway.get("/empty");
    assert_eq!((answer.status, answer.header("content-length")), (204, None));
}

#[test]
fn answers_of_the_gateway_get_their_routes_fields() {
    let changes = "response: { headers: { set: { X-Frame-Options: DENY, X-Q: '${query.q}' }, add: { X-B: two }, rename: { X-Old: X-New }, remove: [X-C] } }";
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
routes:
  - {{ path: /fixed, {changes}, respond: {{ headers: {{ X-B: one, X-C: gone, X-Old: kept }}, body: fixed }} }}
  - {{ path: /away, {changes}, redirect: {{ to: /there }} }}
"
    ));
    let answer = gateway.get("/fixed?q=a%0Ab");
    assert_eq!((answer.status, answer.text()), (200, "fixed".to_string()));
    assert_eq!((answer.header("x-frame-options"), answer.header("x-q")), (Some("DENY"), Some("a%0Ab")));
    assert_eq!((answer.all("x-b"), answer.header("x-c")), (vec!["one", "two"], None));
    assert_eq!((answer.header("x-new"), answer.header("x-old")), (Some("kept"), None));
    let answer = gateway.get("/away");
    assert_eq!((answer.status, answer.header("x-frame-options"), answer.header("x-b")), (302, Some("DENY"), Some("two")));
    assert_eq!((answer.header("location"), answer.header("via")), (Some("/there"), Some("1.1 frontdesk")));
}

#[test]
fn what_is_put_into_a_fixed_body_stays_a_text_of_its_type() {
    let gateway = Gateway::start(
        "
listeners: [{ bind: 127.0.0.1:0 }]
routes:
  - { path: /json, respond: { headers: { content-type: application/json }, body: '{\"q\":\"${query.q}\"}' } }
  - { path: /page, respond: { headers: { Content-Type: text/html; charset=utf-8 }, body: '<p title=\"${query.q}\">' } }
  - { path: /later, response: { headers: { set: { Content-Type: image/svg+xml } } }, respond: { body: '${query.q}' } }
  - { path: /text, respond: { body: '${query.q}' } }
",
    );
    let answer = |target: &str| {
        let answer = gateway.get(target);
        (answer.header("content-type").unwrap_or_default().to_string(), answer.text())
    };
    let (kind, body) = answer("/json?q=a%22,%22admin%22:%22b%5C%0A");
    assert_eq!((&*kind, &*body), ("application/json", r#"{"q":"a\",\"admin\":\"b\\\n"}"#));
    let (kind, body) = answer("/page?q=%22%3E%3Cscript%3E%26%27");
    assert_eq!((&*kind, &*body), ("text/html; charset=utf-8", "<p title=\"&quot;&gt;&lt;script&gt;&amp;&#39;\">"));
    assert_eq!(answer("/later?q=%3Cb%3E"), ("image/svg+xml".to_string(), "&lt;b&gt;".to_string()));
    assert_eq!(answer("/text?q=%3Cb%3E%22"), ("text/plain; charset=utf-8".to_string(), "<b>\"".to_string()));
}

#[test]
fn a_dollar_before_a_name_makes_it_literal_wherever_it_stands() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("odd"), "a$${b}${route}").expect("a file");
    let gateway = Gateway::start_in(
        folder,
        "
listeners: [{ bind: 127.0.0.1:0 }]
admin: { bind: 127.0.0.1:0, token: 'to$${ken}' }
routes:
  - { path: /x, headers: { X-A: '$${X}' }, query: { q: 'v$${file:X}' }, respond: { body: '$${route}' } }
  - { path: /x, headers: { X-A: '${file:DIR/odd}' }, respond: { headers: { X-A: '${file:DIR/odd}' }, body: 'put ${file:DIR/odd}' } }
",
    );
    let ask = |target: &str, value: &str| gateway.connect().request("GET", target, &[("X-A", value)], b"");
    assert_eq!(ask("/x?q=v${file:X}", "${X}").text(), "${route}");
    assert_eq!(ask("/x?q=v${file:X}", "$${X}").status, 404);
    // What is put in is no template either.
    let answer = ask("/x", "a$${b}${route}");
    assert_eq!((&*answer.text(), answer.header("x-a")), ("put a$${b}${route}", Some("a$${b}${route}")));
    let status = |token: &str| {
        let fields = [("Host", "localhost"), ("Authorization", token)];
        Client::connect(gateway.admin()).request("GET", "/status", &fields, b"").status
    };
    assert_eq!((status("Bearer to${ken}"), status("Bearer to$${ken}")), (200, 401));
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
fn expressions_match_the_whole_path_and_give_their_groups_to_templates() {
    let gateway = Gateway::start(
        r"
listeners: [{ bind: 127.0.0.1:0 }]
routes:
  - { path_regex: '/v(?<version>[0-9]+)/(?<what>[a-z]+)(?:/.*)?', respond: { body: '${version} ${what} ${path}' } }
  - { path_regex: '/go/(?<to>.+)', redirect: { to: '/went/${to}' } }
  - { path: /v1/plain, respond: { body: plain } }
",
    );
    for (path, body) in [("/v12/orders", "12 orders /v12/orders"), ("/v2/a/b/c", "2 a /v2/a/b/c"), ("/v1/plain", "plain")] {
        assert_eq!(gateway.get(path).text(), body, "{path}");
    }
    for path in ["/x/v1/orders", "/v/orders", "/v1/orders2", "/V1/orders"] {
        assert_eq!(gateway.get(path).status, 404, "{path}");
    }
    assert_eq!(gateway.get("/go/a%2fb/c").header("location"), Some("/went/a%2Fb/c"));
}

#[test]
fn header_fields_and_parameters_choose() {
    let gateway = Gateway::start(
        r"
listeners: [{ bind: 127.0.0.1:0 }]
routes:
  - { path: /*, respond: { body: plain } }
  - { path: /*, headers: { X-Beta: 1 }, respond: { body: beta } }
  - { path: /*, headers: { X-Beta: { regex: '[2-9]|1,1' } }, respond: { body: several } }
  - { path: /*, headers: { Authorization: { present: true } }, respond: { body: known } }
  - { path: /*, headers: { X-Beta: 1, Authorization: { present: true } }, respond: { body: both } }
  - { path: /*, query: { v: '2', 'a b': { regex: '.*é' } }, respond: { body: 'v${query.v} ${query.q}' } }
  - { path: /only, headers: { X-Only: 1 }, methods: PUT, respond: { body: only } }
",
    );
    let ask = |target: &str, headers: &[(&str, &str)]| {
        let headers: Vec<_> = [("Host", "h")].iter().chain(headers).copied().collect();
        gateway.connect().request("GET", target, &headers, b"").text()
    };
    assert_eq!(ask("/", &[]), "plain");
    assert_eq!(ask("/", &[("x-BETA", "1")]), "beta");
    assert_eq!(ask("/", &[("x-beta", "3")]), "several");
    // Several lines are one value.
    assert_eq!(ask("/", &[("x-beta", "1"), ("x-beta", "1")]), "several");
    assert_eq!(ask("/", &[("x-beta", "1"), ("x-beta", "2")]), "plain");
    assert_eq!(ask("/", &[("Authorization", "")]), "known");
    assert_eq!(ask("/", &[("Authorization", "x"), ("X-Beta", "1")]), "both");
    assert_eq!(ask("/?v=2&a+b=caf%C3%A9&q=x+y%2B", &[]), "v2 x y+");
    assert_eq!(ask("/?v=1&v=2&a+b=caf%C3%A9", &[]), "plain");
    // Only the method is wrong, but another route takes it.
    assert_eq!(ask("/only", &[("X-Only", "1")]), "plain");
}

#[test]
fn what_a_client_claims_of_itself_chooses_only_when_it_is_trusted() {
    let routes = "
listeners: [{ bind: 127.0.0.1:0 }]
routes:
  - { path: /, respond: { body: 'plain ${header.X-Forwarded-Proto}' } }
  - { path: /, headers: { X-Forwarded-Proto: https }, respond: { body: secure } }
";
    for (server, body) in [("", "plain "), ("server: { trusted_proxies: [127.0.0.1] }", "secure")] {
        let gateway = Gateway::start(&format!("{routes}{server}"));
        let answer = gateway.connect().request("GET", "/", &[("X-Forwarded-Proto", "https")], b"");
        assert_eq!(answer.text(), body, "{server}");
    }
}

#[test]
fn only_the_method_may_be_wrong_for_a_405() {
    let gateway = Gateway::start(
        "
listeners: [{ name: a, bind: 127.0.0.1:0 }, { name: b, bind: 127.0.0.1:0 }]
routes:
  - { path: /x, methods: PUT, headers: { X-Key: { present: true } }, respond: {} }
  - { path: /x, methods: PATCH, query: { v: 1 }, respond: {} }
  - { path: /x, methods: DELETE, listener: b, respond: {} }
",
    );
    let ask = |listener: &str, target: &str, headers: &[(&str, &str)]| {
        let answer = Client::connect(gateway.address_of(listener)).request("GET", target, headers, b"");
        (answer.status, answer.header("allow").unwrap_or_default().to_string())
    };
    assert_eq!(ask("a", "/x", &[]), (404, String::new()));
    assert_eq!(ask("a", "/x", &[("X-Key", "1")]), (405, "PUT".to_string()));
    assert_eq!(ask("a", "/x?v=1", &[("X-Key", "1")]), (405, "PATCH, PUT".to_string()));
    assert_eq!(ask("b", "/x", &[]), (405, "DELETE".to_string()));
}

#[test]
fn a_preflight_takes_the_route_of_the_request_behind_it() {
    let gateway = Gateway::start(
        "
listeners: [{ bind: 127.0.0.1:0 }]
routes:
  - { path: /orders, methods: [GET, POST], respond: { body: orders } }
  - { path: /menus, methods: GET, respond: { body: menus } }
  - { path: /menus, methods: OPTIONS, respond: { body: options } }
",
    );
    let ask = |path: &str, headers: &[(&str, &str)]| {
        let answer = gateway.connect().request("OPTIONS", path, headers, b"");
        if answer.status == 200 { answer.text() } else { answer.status.to_string() }
    };
    let preflight = |method| [("Origin", "https://app.example"), ("Access-Control-Request-Method", method)];
    assert_eq!(ask("/orders", &preflight("POST")), "orders");
    assert_eq!(ask("/orders", &preflight("DELETE")), "405");
    assert_eq!(ask("/menus", &preflight("GET")), "options");
    assert_eq!(ask("/none", &preflight("GET")), "404");
    assert_eq!(ask("/orders", &[("Origin", "https://app.example")]), "405");
}

#[test]
fn a_service_gets_another_target() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ origin: {{ endpoints: [{origin}] }} }}
routes:
  - path: '/orders/{{id}}/*'
    to: origin
    request: {{ path: '/v2/orders/{{id}}/${{rest}}', query: {{ set: {{ src: 'gw ${{id}}' }}, remove: [token], rename: {{ n: count }} }} }}
  - {{ path: /files, to: origin, request: {{ path: '/files/${{query.name}}', query: {{ keep: [v] }} }} }}
  - {{ path_regex: '/r/(?<a>[^/]+)/(?<b>[^/]+)', to: origin, request: {{ path: '/{{b}}/{{a}}' }} }}
"
    ));
    for (sent, got) in [
        ("/orders/7/a%2fb/c?token=t&n=2&src=client&x", "/v2/orders/7/a%2Fb/c?count=2&x&src=gw%207"),
        ("/orders/%61/../7/", "/v2/orders/7/?src=gw%207"),
        ("/files?name=a/b%20c&v=1", "/files/a%2Fb%20c?v=1"),
        ("/r/x/y?q", "/y/x?q"),
    ] {
        let answer = gateway.get(sent);
        assert_eq!(answer.json()["target"], got, "{sent} {answer:?}");
    }
    // A client can't lead the service out of the folder.
    let answer = gateway.get("/files?name=..");
    assert_eq!((answer.status, answer.code()), (400, "bad_request".to_string()));
    assert_eq!(origin.seen().len(), 4);
    // The log and the client's own head keep what was asked for.
    assert_eq!(gateway.access_log(1)[0]["path"], "/orders/7/a%2Fb/c?token=t&n=2&src=client&x");
}

#[test]
fn a_client_keeps_its_service_across_retries_and_connections() {
    let dead = crate::kit::dead_address();
    let origin = Origin::fixed("alive");
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ one: {{ endpoints: [{dead}, {origin}] }}, none: {{ endpoints: [{dead}] }} }}
routes: [{{ path: /*, to: [{{ service: one, weight: 1 }}, {{ service: none, weight: 0 }}] }}]
"
    ));
    for _ in 0..20 {
        assert_eq!(gateway.get("/").text(), "alive");
    }
    assert!(gateway.access_log(20).iter().all(|line| line["service"] == "one"));
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

#[test]
fn the_shipped_example_does_what_it_says() {
    let text = include_str!("../../conf/routing.yaml");
    let gateway = Gateway::start(&text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:8081", "127.0.0.1:0"));
    let public = gateway.address_of("public");
    for (target, headers, body) in [
        ("/orders", &[][..], "all orders\n"),
        ("/orders/7", &[], "order 7\n"),
        ("/orders/latest", &[], "the latest order\n"),
        ("/orders/7/files/a/b", &[], "file a/b of order 7\n"),
        ("/2026/07/report.pdf", &[("Host", "files.example.com")], "report.pdf of 07/2026\n"),
        ("/", &[("Host", "a.b.example.com")], "one of many: a.b.example.com\n"),
        ("/app", &[], "the app\n"),
        ("/app", &[("X-Beta", "1")], "the beta\n"),
        ("/app", &[("User-Agent", "curl/8")], "the app for curl\n"),
        ("/app", &[("X-Beta", "1"), ("Authorization", "x")], "the beta for members\n"),
        ("/search?lang=de&q=pizza", &[], "Sie suchen pizza\n"),
        ("/search?q=pizza", &[], "you look for pizza\n"),
    ] {
        assert_eq!(Client::connect(public).request("GET", target, headers, b"").text(), body, "{target} {headers:?}");
    }
    assert_eq!(Client::connect(public).get("/metrics-of-the-day").status, 404);
    assert_eq!(Client::connect(gateway.address_of("private")).get("/metrics-of-the-day").text(), "42\n");
    let answer = Client::connect(public).request("DELETE", "/menus", &[("Host", "api.example.com")], b"");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD, POST")));
}
