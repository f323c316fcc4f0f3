//! `explain` and `routes` say what the gateway does.

use crate::kit::{Client, Gateway, Origin, frontdesk, run};
use serde_json::{Value, json};

const YAML: &str = "
listeners: [{ name: public, bind: 127.0.0.1:0 }, { name: other, bind: 127.0.0.1:0 }]
services:
  orders: { endpoints: [ORIGIN] }
  next: { endpoints: [ORIGIN], host: next.internal }
routes:
  - { name: place, host: api.example.com, path: '/orders/{id}', methods: [POST], to: orders }
  - name: read
    host: api.example.com
    path: '/orders/{id}'
    methods: [GET]
    request: { path: '/v2/orders/{id}', query: { set: { src: gw } }, headers: { set: { X-Id: '${id}' }, remove: [Cookie] } }
    to: [{ service: orders, weight: 3 }, { service: next, weight: 1 }]
  - { path: /orders/*, headers: { X-Beta: '1' }, to: next }
  - { path: /orders/*, query: { v: '2' }, listener: other, to: next }
  - { name: old, path: /old/*, redirect: { status: 308, to: '/new/${rest}' } }
  - { name: robots, path: /robots.txt, respond: { status: 204 } }
";

fn file(yaml: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), yaml.replace("ORIGIN", "10.0.0.1:80")).expect("a file");
    file
}

fn told(command: &[&str]) -> (i32, String) {
    let output = run(frontdesk().args(command));
    (output.status.code().expect("an exit code"), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_route_may_take_a_bound_away() {
    let file = file(
        "
listeners: [{ bind: 127.0.0.1:0 }]
services: { s: { endpoints: [ORIGIN], timeouts: { total: 5s }, retries: { per_try: none }, breaker: { slow: none }, keepalive: { ping: none } }, t: { endpoints: [ORIGIN], timeouts: { total: none } } }
routes: [{ path: /x, compose: { calls: { c: { to: s, path: /, timeout: none } } } }, { path: /a, to: s }, { path: /b, timeouts: { total: none }, to: s }, { path: /c, to: t }]
",
    );
    for (path, total) in [("/a", "5s"), ("/b", "none"), ("/c", "none")] {
        let (code, text) = told(&["explain", "-c", &file.path().display().to_string(), "GET", path]);
        assert!(code == 0 && text.contains(&format!("timeouts   connect 2s, read 60s, write 30s, total {total}\n")), "{text}");
    }
}

#[test]
fn the_table_is_printed_in_the_order_in_which_routes_win() {
    let file = file(YAML);
    let (code, text) = told(&["routes", "-c", &file.path().display().to_string()]);
    let expected = "
ROUTE                ASKS FOR                          LEADS TO
place                POST api.example.com/orders/{id}  orders
read                 GET api.example.com/orders/{id}   orders (3), next (1)
robots               /robots.txt                       respond 204
/orders/* X-Beta=1   /orders/* X-Beta=1                next
/orders/* ?v=2       /orders/* ?v=2                    next
old                  /old/*                            redirect 308
";
    let squeeze = |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    assert_eq!((code, squeeze(&text)), (0, squeeze(expected.trim_start())), "{text}");
}

#[test]
fn a_request_is_explained_for_people() {
    let file = file(YAML);
    let (code, text) =
        told(&["explain", "-c", &file.path().display().to_string(), "get", "https://api.example.com/x/../orders/7?a=1", "-H", "X-Beta: 2"]);
    let expected = "GET api.example.com /orders/7?a=1 by listener public, from 127.0.0.1

ROUTE               ASKS FOR                          VERDICT
place               POST api.example.com/orders/{id}  another method
read                GET api.example.com/orders/{id}   wins
/orders/* X-Beta=1  /orders/* X-Beta=1                header x-beta
/orders/* ?v=2      /orders/* ?v=2                    another listener
and 2 routes whose path does not fit

route read sends it to service orders
  which gets 75.0 percent of its clients, this one among them
  as         /v2/orders/7?a=1&src=gw with Host api.example.com
  endpoints  10.0.0.1:80
  timeouts   connect 2s, read 60s, write 30s, total none
  body       at most 16777216 bytes
  headers    remove cookie, set x-id: 7
";
    assert_eq!((code, &*text), (0, expected));
}

#[test]
fn what_is_not_a_question_is_said() {
    let file = file(YAML);
    let path = file.path().display().to_string();
    for (question, why) in [
        (&["GET", "x"][..], "`x` is neither a URL"),
        (&["G T", "/x"], "`G T` is not a method"),
        (&["GET", "/x", "-H", "nonsense"], "`nonsense` is not a header field"),
        (&["GET", "not a url"], "`not a url` is not a URL"),
        (&["GET", "/x", "--client-ip", "me"], "`me` is not an address"),
    ] {
        let (code, text) = told(&[&["explain", "-c", &path], question].concat());
        assert!(code == 2 && text.contains(why), "{question:?}: {text}");
    }
    // Only the file knows who its listeners are.
    let (code, text) = told(&["explain", "-c", &path, "GET", "/x", "--listener", "nobody"]);
    assert!(code == 1 && text.contains("no listener is named `nobody`"), "{text}");
}

#[test]
fn the_running_gateway_tells_who_of_the_pool_gets_nothing() {
    let origin = Origin::fixed("x");
    let (dead, other) = (crate::kit::dead_address(), crate::kit::dead_address());
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  broken: {{ endpoints: ['{dead}'], retries: {{ attempts: 1 }}, breaker: {{ min_requests: 1, open: 1h }} }}
  pool: {{ endpoints: ['{origin}', '{dead}', '{other}'], ejection: {{ consecutive_failures: 1, base: 1h }}, balance: round_robin }}
routes: [{{ path: /broken, to: broken }}, {{ path: /pool, to: pool }}]
"
    ));
    let admin = format!("http://{}", gateway.admin());
    let explain = |path: &str| told(&["explain", "--live", "--admin", &admin, "GET", path]).1;
    assert!(!explain("/broken").contains("  breaker"));
    assert_eq!(gateway.get("/broken").code(), "upstream_connect");
    assert!(explain("/broken").contains("  breaker    open: "), "{}", explain("/broken"));
    let target = format!("/endpoint?service=pool&address={other}&state=drained");
    assert_eq!(Client::connect(gateway.admin()).request("POST", &target, &[("Host", "localhost")], b"").status, 200);
    crate::kit::eventually("an ejection", || {
        gateway.get("/pool");
        explain("/pool").contains("(ejected)").then_some(())
    });
    let text = explain("/pool");
    assert!(text.contains(&format!("  endpoints  {origin}, {dead} (ejected), {other} (drained)\n")), "{text}");
    let json: Value = serde_json::from_str(&told(&["explain", "--json", "--admin", &admin, "GET", "/pool"]).1).expect("JSON");
    let forwarded = &json["outcome"]["forwarded"];
    assert_eq!((&forwarded["pool"][1], &forwarded["breaker"]), (&json!({ "address": dead.to_string(), "state": "ejected" }), &json!(null)));
}

/// Requests, and what becomes of them: the kind of outcome, and what the gateway answers.
type Request = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str, u16);
const REQUESTS: &[Request] = &[
    ("GET", "http://api.example.com/orders/7", &[], "forwarded", 200),
    ("HEAD", "http://api.example.com/orders/7", &[], "forwarded", 200),
    ("POST", "http://API.example.com:80/orders/%37", &[], "forwarded", 200),
    ("DELETE", "http://api.example.com/orders/7", &[], "refused", 405),
    ("DELETE", "http://api.example.com/orders/7", &[("X-Beta", "1")], "forwarded", 200),
    ("GET", "http://other.example.com/orders/7", &[], "refused", 404),
    ("GET", "http://other.example.com/orders/7?v=2", &[], "refused", 404),
    ("GET", "http://h/old/./a/b?q", &[], "redirected", 308),
    ("GET", "http://h/robots.txt", &[], "answered", 204),
    ("GET", "http://h/a%00", &[], "refused", 400),
    ("OPTIONS", "http://api.example.com/orders/7", &[("Origin", "http://a"), ("Access-Control-Request-Method", "POST")], "forwarded", 200),
];

#[test]
fn what_is_explained_is_what_happens() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&YAML.replace("ORIGIN", &origin.to_string()));
    let admin = format!("http://{}", gateway.admin());
    for (nth, (method, url, headers, kind, status)) in REQUESTS.iter().enumerate() {
        let (host, target) = url.trim_start_matches("http://").split_at(url.trim_start_matches("http://").find('/').expect("a path"));
        let fields: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let mut command = vec!["explain", "--json", "--admin", &admin, method, url];
        fields.iter().for_each(|field| command.extend(["-H", field]));
        let (code, text) = told(&command);
        let told: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let outcome = &told["outcome"][kind];
        assert!(code == 0 && outcome.is_object(), "{method} {url}: {text}");
        let mut with_host = headers.to_vec();
        with_host.push(("Host", host));
        let mut client = Client::connect(gateway.address_of("public"));
        client.send(crate::kit::head(method, target, &with_host, 0));
        let answer = client.answer_to(method);
        assert_eq!(answer.status, *status, "{method} {url}");
        let line = gateway.access_log(nth + 1).pop().expect("a line");
        match *kind {
            "refused" => assert_eq!((&outcome["status"], &outcome["code"]), (&line["status"], &line["code"]), "{method} {url}"),
            _ => assert_eq!(outcome["route"], line["route"], "{method} {url}"),
        }
        match *kind {
            "redirected" => assert_eq!(outcome["location"].as_str(), answer.header("location")),
            "forwarded" => {
                let seen = origin.seen().pop().expect("a request");
                assert_eq!((outcome["service"].as_str(), outcome["path"].as_str()), (line["service"].as_str(), Some(&*seen.target)));
                assert_eq!(outcome["host"].as_str(), seen.header("host"), "{method} {url}");
            }
            _ => {}
        }
    }
}

#[test]
fn the_running_gateway_is_asked_and_not_the_file() {
    let gateway = Gateway::start(&YAML.replace("ORIGIN", "127.0.0.1:1"));
    gateway.rewrite("nonsense");
    let admin = format!("http://{}", gateway.admin());
    let (code, text) = told(&["routes", "--json", "--admin", &admin]);
    let routes: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &routes[0]), (0, &json!({ "route": "place", "asks": "POST api.example.com/orders/{id}", "leads_to": "orders" })));
    let (code, text) = told(&["explain", "--admin", &admin, "GET", "/robots.txt", "--listener", "other"]);
    assert!(code == 0 && text.contains("by listener other") && text.ends_with("route robots answers 204 by itself\n"), "{text}");
    let (code, text) = told(&["explain", "--admin", &admin, "GET", "/robots.txt", "--listener", "nobody"]);
    assert!(code == 1 && text.contains("no listener is named `nobody`"), "{text}");
}

#[test]
fn the_cache_says_whether_why_not_and_under_which_key() {
    let service = Origin::new(|_| crate::kit::answer(200, &[("Vary", "Accept-Language"), ("Cache-Tag", "m")], b"x"));
    let gateway = Gateway::start(&format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]
caches: {{ menus: {{ ttl: 60s, stale_if_error: 1h, vary: [X-Shop], tags: Cache-Tag }} }}
routes: [{{ path: /menus/*, cache: menus, to: 'http://{service}' }}, {{ path: /*, to: 'http://{service}' }}]
"
    ));
    let admin = format!("http://{}", gateway.admin());
    let explain = |arguments: &[&str]| {
        let all: Vec<&str> = [&["explain"], arguments, &["--live", "--admin", &admin]].concat();
        let (code, text) = told(&[&all[..], &["--json"]].concat());
        assert_eq!(code, 0, "{text}");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let shown = told(&all).1;
        (answer["cache"].clone(), shown)
    };
    let status = |arguments: &[&str]| explain(arguments).0["status"].as_str().map(str::to_string);
    let url = "http://test/menus/1";
    let cold = explain(&["GET", url]).0;
    assert_eq!(
        (&cold["cache"], &cold["by"], &cold["status"]),
        (&json!("menus"), &json!("scheme, host, path, query, field x-shop"), &json!("miss"))
    );
    gateway.connect().request("GET", "/menus/1", &[("Accept-Language", "de")], b"");
    assert_eq!(status(&["GET", url, "-H", "Accept-Language: en"]), Some("miss".into()), "another variant");
    let (warm, shown) = explain(&["GET", url, "-H", "Accept-Language: de"]);
    assert_eq!((&warm["status"], &warm["key"], &warm["kept"]["tags"]), (&json!("hit"), &cold["key"], &json!(["m"])));
    assert!(warm["kept"]["fresh_seconds"].as_i64().is_some_and(|left| (50..60).contains(&left)), "{warm:#}");
    assert!(
        shown.contains("cache menus by scheme, host, path, query, field x-shop, key ") && shown.contains(": hit, it is fresh"),
        "{shown}"
    );
    for (arguments, expected, why) in [
        (&["POST", url][..], "bypass", "only GET and HEAD"),
        (&["GET", url, "-H", "Accept-Language: de", "-H", "Cache-Control: no-store"], "bypass", "no-store"),
        (&["GET", url, "-H", "Accept-Language: de", "-H", "Cache-Control: no-cache"], "expired", "wants the service"),
    ] {
        let told = explain(arguments).0;
        assert!(told["status"] == expected && told["why"].as_str().is_some_and(|said| said.contains(why)), "{arguments:?}: {told:#}");
    }
    let personal = explain(&["GET", url, "-H", "Authorization: Basic eDp5"]).0;
    assert!(personal["condition"].as_str().is_some_and(|said| said.contains("public")), "{personal:#}");
    assert_ne!(explain(&["GET", url, "-H", "X-Shop: 2"]).0["key"], cold["key"]);
    assert!(explain(&["GET", "http://test/other"]).0.is_null());
    // To ask about an answer is no use of it, nor a request.
    assert_eq!(service.seen().len(), 1);
    let output = run(frontdesk().args(["purge", "--all", "--soft", "--admin", &admin]));
    assert!(output.status.success());
    let (stale, shown) = explain(&["GET", url, "-H", "Accept-Language: de"]);
    assert_eq!(stale["status"], "expired", "{stale:#}");
    assert!(shown.contains("it stands in should that fail"), "{shown}");
}
