//! The cases of Gateway API's HTTPRoute conformance tests, by their names there (gateway-api.sigs.k8s.io, conformance/tests).
//!
//! A rule's backends are fixed answers here, unless what they get is looked at. Where the contract says otherwise than Gateway
//! API, the case says so. MisdirectedRequest is missing: 421 needs the name that was asked for in the handshake.

use crate::kit::{Answer, Client, Gateway, Origin};

/// Sends `METHOD host/target [Field=value]…`; GET when there is no method.
#[track_caller]
fn send(gateway: &Gateway, line: &str) -> Answer {
    let mut words = line.split(' ').peekable();
    let method = words.next_if(|word| word.bytes().all(|b| b.is_ascii_uppercase())).unwrap_or("GET");
    let place = words.next().expect("a place");
    let (host, target) = place.split_at(place.find('/').expect("a path"));
    let mut headers = vec![("Host", host)];
    headers.extend(words.map(|word| word.split_once('=').expect("a field")));
    Client::connect(gateway.address()).request(method, target, &headers, b"")
}

/// Each request gets the body of the route that it should take, or a status.
#[track_caller]
fn check(routes: &str, cases: &[(&str, &str)]) {
    let gateway = Gateway::start(&format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes:\n{routes}"));
    for (line, expected) in cases {
        let answer = send(&gateway, line);
        let got = if answer.status == 200 { answer.text() } else { answer.status.to_string() };
        assert_eq!(got, *expected, "{line}");
    }
}

#[test]
fn http_route_exact_path_matching() {
    check(
        "
  - { path: /one, respond: { body: v1 } }
  - { path: /two, respond: { body: v2 } }
",
        &[("h/one", "v1"), ("h/two", "v2"), ("h/", "404"), ("h/one/example", "404"), ("h/two/", "404"), ("h/Two", "404")],
    );
}

#[test]
fn http_route_path_match_order() {
    check(
        "
  - { path: /match/*, respond: { body: prefix } }
  - { path: /match/prefix/*, respond: { body: longer } }
  - { path: /match/prefix/one/*, respond: { body: longest } }
  - { path: /match/exact, respond: { body: exact } }
  - { path: /match/exact/one, respond: { body: exact one } }
",
        &[
            ("h/match/exact/one", "exact one"),
            ("h/match/exact", "exact"),
            ("h/match", "prefix"),
            ("h/match/exact/two", "prefix"),
            ("h/match/prefix/one/any", "longest"),
            ("h/match/prefix/any", "longer"),
            ("h/match/any", "prefix"),
        ],
    );
}

#[test]
fn http_route_matching_across_routes() {
    check(
        "
  - { host: [example.com, example.net], path: /*, respond: { body: v1 } }
  - { host: [example.com, example.net], path: /*, headers: { version: one }, respond: { body: v1 one } }
  - { host: example.com, path: /v2/*, respond: { body: v2 } }
  - { host: example.com, path: /*, headers: { version: two }, respond: { body: v2 two } }
",
        &[
            ("example.com/", "v1"),
            ("example.com/example", "v1"),
            ("example.net/example", "v1"),
            ("example.com/example Version=one", "v1 one"),
            ("example.com/v2", "v2"),
            // whole segments
            ("example.com/v2example", "v1"),
            ("example.com/v2/example", "v2"),
            ("example.com/ version=two", "v2 two"),
            ("example.net/ version=two", "v1"),
            // The path counts before header fields.
            ("example.com/v2 version=one", "v2"),
            ("other.example/", "404"),
        ],
    );
}

#[test]
fn http_route_header_matching() {
    check(
        "
  - { path: /*, headers: { version: one }, respond: { body: v1 } }
  - { path: /*, headers: { version: two }, respond: { body: v2 } }
  - { path: /*, headers: { version: two, color: orange }, respond: { body: v1 orange } }
  - { path: /*, headers: { color: blue }, respond: { body: v1 blue } }
  - { path: /*, headers: { color: { regex: red|yellow } }, respond: { body: v2 warm } }
",
        &[
            ("h/ version=one", "v1"),
            ("h/ Version=two", "v2"),
            ("h/ version=two COLOR=orange", "v1 orange"),
            ("h/ color=blue", "v1 blue"),
            ("h/ color=red", "v2 warm"),
            ("h/ color=yellow", "v2 warm"),
            ("h/ color=yellowish", "404"),
            ("h/ color=purple", "404"),
            // A tie goes to the first in the file.
            ("h/ color=blue version=one", "v1"),
            ("h/", "404"),
        ],
    );
}

/// Gateway API answers 404 where only the method is wrong; the contract says 405. And here GET implies HEAD.
#[test]
fn http_route_method_matching() {
    check(
        "
  - { path: /, methods: POST, respond: { body: v1 } }
  - { path: /, methods: GET, respond: { body: v2 } }
  - { path: /path1, methods: GET, respond: { body: v1 path1 } }
  - { path: /*, methods: PUT, headers: { version: one }, respond: { body: v2 one } }
  - { path: /path2, methods: POST, headers: { version: two }, respond: { body: v3 two } }
  - { path: /path3, methods: PATCH, respond: { body: v1 patch } }
  - { path: /path3, headers: { version: four }, respond: { body: v2 four } }
",
        &[
            ("POST h/", "v1"),
            ("GET h/", "v2"),
            ("HEAD h/", ""),
            ("DELETE h/", "405"),
            ("GET h/path1", "v1 path1"),
            ("PUT h/ version=one", "v2 one"),
            ("PUT h/any version=one", "v2 one"),
            ("POST h/path2 version=two", "v3 two"),
            ("PUT h/path2 version=two", "405"),
            ("PUT h/path2 version=one", "v2 one"),
            // The method counts before header fields.
            ("PATCH h/path3 version=four", "v1 patch"),
            ("GET h/path3 version=four", "v2 four"),
            ("GET h/path3 version=five", "405"),
            ("GET h/path4", "404"),
        ],
    );
}

#[test]
fn http_route_query_param_matching() {
    check(
        "
  - { path: /*, query: { animal: whale }, respond: { body: v1 } }
  - { path: /*, query: { animal: dolphin }, respond: { body: v2 } }
  - { path: /*, query: { animal: dolphin, color: blue }, respond: { body: v3 } }
  - { path: /*, query: { ANIMAL: Whale }, respond: { body: v3 capitals } }
  - { path: /path5, query: { animal: hydra }, respond: { body: v1 path5 } }
  - { path: /*, headers: { version: one }, query: { animal: hydra }, respond: { body: v2 header } }
",
        &[
            ("h/?animal=whale", "v1"),
            ("h/?animal=dolphin", "v2"),
            ("h/?animal=whale&otherparam=irrelevant", "v1"),
            ("h/?animal=dolphin&color=yellow", "v2"),
            ("h/?animal=dolphin&color=blue", "v3"),
            ("h/?color=blue&animal=dolphin", "v3"),
            ("h/?ANIMAL=Whale", "v3 capitals"),
            ("h/?animal=whale&animal=dolphin", "v1"),
            ("h/?animal=%77hale", "v1"),
            ("h/?animal=whale&ANIMAL=Whale", "v1"),
            ("h/path5?animal=hydra", "v1 path5"),
            ("h/?animal=hydra version=one", "v2 header"),
            ("h/path5?animal=hydra version=one", "v1 path5"),
            ("h/?animal=hydra", "404"),
            ("h/?color=blue", "404"),
            ("h/?animal=dog", "404"),
            ("h/?animal=whaledolphin", "404"),
            ("h/", "404"),
            ("h/path5", "404"),
        ],
    );
}

/// Listeners have no hostnames here: what their intersection with the route's would be stands in the route.
#[test]
fn http_route_hostname_intersection() {
    check(
        "
  - { host: very.specific.com, path: /s1/*, respond: { body: s1 } }
  - { host: '*.wildcard.io', path: /s3/*, respond: { body: s3 } }
  - { host: [foo.bar.anotherwildcard.io, '*.anotherwildcard.io'], path: /s4/*, respond: { body: s4 } }
",
        &[
            ("very.specific.com/s1", "s1"),
            ("very.specific.com:1234/s1", "s1"),
            ("VERY.specific.com./s1", "s1"),
            ("non.matching.com/s1", "404"),
            ("foo.nonmatchingwildcard.io/s3", "404"),
            ("foo.wildcard.io/s3", "s3"),
            ("foo.bar.wildcard.io/s3", "s3"),
            ("wildcard.io/s3", "404"),
            ("very.specific.com/s3", "404"),
            ("one.anotherwildcard.io/s4", "s4"),
            ("foo.bar.anotherwildcard.io/s4", "s4"),
            ("anotherwildcard.io/s4", "404"),
        ],
    );
}

#[test]
fn http_route_listener_hostname_matching() {
    check(
        "
  - { host: bar.com, path: /*, respond: { body: v1 } }
  - { host: foo.bar.com, path: /*, respond: { body: v2 } }
  - { host: ['*.bar.com', '*.foo.com'], path: /*, respond: { body: v3 } }
",
        &[
            ("bar.com/", "v1"),
            ("foo.bar.com/", "v2"),
            ("baz.bar.com/", "v3"),
            ("multiple.prefixes.bar.com/", "v3"),
            ("multiple.prefixes.foo.com/", "v3"),
            ("foo.com/", "404"),
            ("no.matching.host/", "404"),
        ],
    );
}

#[test]
fn http_route_redirects() {
    let gateway = Gateway::start(
        "
listeners: [{ bind: 127.0.0.1:0 }]
routes:
  # RedirectHostAndStatus
  - { path: /hostname-redirect, redirect: { to: 'http://example.org${path}' } }
  - { path: /host-and-status, redirect: { status: 301, to: 'http://example.org${path}' } }
  # RedirectPath
  - { path: /original-prefix/*, redirect: { to: '/replacement-prefix/${rest}' } }
  - { path: /full/*, redirect: { to: /full-path-replacement } }
  - { path: /path-and-host/*, redirect: { to: 'http://example.org/replacement-prefix/${rest}' } }
  - { path: /path-and-status/*, redirect: { status: 301, to: '/replacement-prefix/${rest}' } }
  # RedirectPort
  - { path: /port, redirect: { to: 'http://${host}:8083${path}' } }
  - { path: /port-and-host-and-status, redirect: { status: 301, to: 'http://example.org:8083${path}' } }
  # RedirectScheme
  - { path: /scheme, redirect: { to: 'https://${host}${path}' } }
  - { path: /scheme-and-host-and-status, redirect: { status: 301, to: 'https://example.org${path}' } }
",
    );
    for (line, status, location) in [
        ("h/hostname-redirect", 302, "http://example.org/hostname-redirect"),
        ("h/host-and-status", 301, "http://example.org/host-and-status"),
        ("h/original-prefix/lemon", 302, "/replacement-prefix/lemon"),
        ("h/original-prefix/lemon?q=1", 302, "/replacement-prefix/lemon?q=1"),
        ("h/full/path/original", 302, "/full-path-replacement"),
        ("h/path-and-host/lemon", 302, "http://example.org/replacement-prefix/lemon"),
        ("h/path-and-status/lemon", 301, "/replacement-prefix/lemon"),
        ("example.org/port", 302, "http://example.org:8083/port"),
        ("h/port-and-host-and-status", 301, "http://example.org:8083/port-and-host-and-status"),
        ("example.org/scheme", 302, "https://example.org/scheme"),
        ("h/scheme-and-host-and-status", 301, "https://example.org/scheme-and-host-and-status"),
    ] {
        let answer = send(&gateway, line);
        assert_eq!((answer.status, answer.header("location")), (status, Some(location)), "{line}");
    }
}

#[test]
fn http_route_rewrite_host() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  one: {{ endpoints: [{origin}], host: one.example.org }}
  two: {{ endpoints: [{origin}], host: example.org }}
routes:
  - {{ host: rewrite.example, path: /one, to: one }}
  - {{ host: rewrite.example, path: /*, to: two }}
  - {{ host: kept.example, path: /*, to: http://{origin} }}
"
    ));
    for (line, host) in
        [("rewrite.example/one", "one.example.org"), ("rewrite.example/two", "example.org"), ("kept.example/x", "kept.example")]
    {
        assert_eq!(send(&gateway, line).json()["headers"]["host"][0], host, "{line}");
    }
}

#[test]
fn http_route_rewrite_path() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ origin: {{ endpoints: [{origin}] }} }}
routes:
  - {{ path: /prefix/one/*, to: origin, request: {{ path: '/one/${{rest}}' }} }}
  - {{ path: /strip-prefix/*, to: origin, request: {{ path: '/{{rest}}' }} }}
  - {{ path: /full/one/*, to: origin, request: {{ path: /one }} }}
  - path: /full/rewrite-path-and-modify-headers/*
    to: origin
    request: {{ path: /test, headers: {{ set: {{ X-Header-Set: set }}, add: {{ X-Header-Add: add }}, remove: [X-Header-Remove] }} }}
"
    ));
    for (line, target) in [
        ("h/prefix/one/two", "/one/two"),
        ("h/prefix/one/two/three?q=1", "/one/two/three?q=1"),
        ("h/strip-prefix/three", "/three"),
        ("h/strip-prefix", "/"),
        ("h/strip-prefix//evil.example/x", "/evil.example/x"),
        ("h/full/one/two", "/one"),
    ] {
        assert_eq!(send(&gateway, line).json()["target"], target, "{line}");
    }
    let seen = send(&gateway, "h/full/rewrite-path-and-modify-headers/x X-Header-Remove=r X-Header-Add=first X-Header-Set=old").json();
    assert_eq!(seen["target"], "/test");
    let headers = &seen["headers"];
    assert_eq!(headers["x-header-set"], serde_json::json!(["set"]));
    assert_eq!(headers["x-header-add"], serde_json::json!(["first", "add"]));
    assert!(headers["x-header-remove"].is_null());
}

#[test]
fn http_route_request_header_modifier() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ origin: {{ endpoints: [{origin}] }} }}
routes:
  - {{ path: /set, to: origin, request: {{ headers: {{ set: {{ X-Header-Set: set-overwrites-values }} }} }} }}
  - {{ path: /add, to: origin, request: {{ headers: {{ add: {{ X-Header-Add: add-appends-values }} }} }} }}
  - {{ path: /remove, to: origin, request: {{ headers: {{ remove: [X-Header-Remove] }} }} }}
  - path: /multiple
    to: origin
    request: {{ headers: {{ set: {{ X-Set-1: s1, X-Set-2: s2 }}, add: {{ X-Add-1: a1, X-Add-2: a2 }}, remove: [X-Remove-1, x-REMOVE-2] }} }}
"
    ));
    let none = serde_json::Value::Null;
    for (line, name, values) in [
        ("h/set", "x-header-set", serde_json::json!(["set-overwrites-values"])),
        ("h/set X-Header-Set=some-other-value", "x-header-set", serde_json::json!(["set-overwrites-values"])),
        ("h/add", "x-header-add", serde_json::json!(["add-appends-values"])),
        ("h/add X-Header-Add=some-other-value", "x-header-add", serde_json::json!(["some-other-value", "add-appends-values"])),
        ("h/remove X-Header-Remove=val", "x-header-remove", none.clone()),
        ("h/multiple X-Set-2=old", "x-set-2", serde_json::json!(["s2"])),
        ("h/multiple X-Add-1=old", "x-add-1", serde_json::json!(["old", "a1"])),
        ("h/multiple X-Remove-1=x X-Remove-2=y", "x-remove-2", none),
        ("h/multiple Another-Header=another", "another-header", serde_json::json!(["another"])),
    ] {
        assert_eq!(send(&gateway, line).json()["headers"][name], values, "{line}");
    }
}

#[test]
fn http_route_response_header_modifier() {
    let fields = [("X-Header-Set", "old"), ("X-Header-Add", "first"), ("X-Header-Remove", "val"), ("Another", "kept")];
    let origin = Origin::new(move |_| crate::kit::answer(200, &fields, b""));
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
routes:
  - path: /*
    to: http://{origin}
    response: {{ headers: {{ set: {{ X-Header-Set: new }}, add: {{ X-Header-Add: second }}, remove: [x-header-remove] }} }}
"
    ));
    let answer = gateway.get("/");
    assert_eq!(answer.all("x-header-set"), ["new"]);
    assert_eq!(answer.all("x-header-add"), ["first", "second"]);
    assert_eq!((answer.header("x-header-remove"), answer.header("another")), (None, Some("kept")));
}

/// Here a client keeps its backend, so it takes many clients to see the shares.
#[test]
fn http_route_weight() {
    let origins = [Origin::fixed("v1"), Origin::fixed("v2"), Origin::fixed("v3")];
    let [v1, v2, v3] = &origins;
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ trusted_proxies: [127.0.0.1] }}
services: {{ v1: {{ endpoints: [{v1}] }}, v2: {{ endpoints: [{v2}] }} }}
routes: [{{ path: /*, to: [{{ service: v1, weight: 70 }}, {{ service: v2, weight: 30 }}, {{ service: 'http://{v3}', weight: 0 }}] }}]
"
    ));
    let mut client = gateway.connect();
    let mut ask = |n: u32| {
        let address = format!("203.0.{}.{}", n / 250, n % 250);
        client.request("GET", "/", &[("X-Forwarded-For", &address)], b"").text()
    };
    let bodies: Vec<String> = (0..500).map(&mut ask).collect();
    let share = |body: &str| bodies.iter().filter(|got| *got == body).count();
    // 350 with a standard deviation of 10: six of them; the addresses are the same each time, so this never fails by chance.
    assert!((290..=410).contains(&share("v1")), "{}", share("v1"));
    assert_eq!((share("v1") + share("v2"), share("v3")), (500, 0));
    let again: Vec<String> = (0..500).map(&mut ask).collect();
    assert_eq!(again, bodies);
    for line in gateway.access_log(1_000) {
        let octets: Vec<usize> =
            line["client_ip"].as_str().expect("a text").split('.').map(|octet| octet.parse().expect("a number")).collect();
        let body = bodies[octets[2] * 250 + octets[3]].as_str();
        let endpoint = if body == "v1" { v1 } else { v2 }.to_string();
        assert_eq!((line["service"].as_str(), line["endpoint"].as_str()), (Some(body), Some(&*endpoint)));
    }
}
