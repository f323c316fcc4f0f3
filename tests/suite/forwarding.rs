//! Heads on their way to services and back.

use crate::kit::{Gateway, Origin, answer, head};
use serde_json::Value;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A gateway in front of an origin, with these lines added to its configuration.
fn gateway(origin: &Origin, more: &str) -> Gateway {
    Gateway::start(&format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: /*, to: http://{origin} }}]\n{more}"))
}

const TRUSTING: &str = "server: { trusted_proxies: [127.0.0.0/8] }";

/// The fields of that name that an echoing service saw.
fn seen(echo: &Value, name: &str) -> Vec<String> {
    let values = echo["headers"][name].as_array().cloned().unwrap_or_default();
    values.iter().map(|value| value.as_str().unwrap_or_default().to_string()).collect()
}

#[test]
fn services_are_told_of_the_client_and_of_the_gateway() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    let answer = gateway.connect().request("GET", "/", &[("Host", "shop.example:8080")], b"");
    let echo = answer.json();
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop.example:8080"),
        ("forwarded", "for=127.0.0.1;host=\"shop.example:8080\";proto=http"),
        ("via", "1.1 frontdesk"),
    ] {
        assert_eq!(seen(&echo, name), [value], "{name}");
    }
    let id = answer.header("x-request-id").expect("an id");
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_eq!((seen(&echo, "x-request-id"), answer.header("via")), (vec![id.to_string()], Some("1.1 frontdesk")));
    let line = &gateway.access_log(1)[0];
    assert_eq!(line["request_id"], id);
    let trace = &seen(&echo, "traceparent")[0];
    let parts: Vec<&str> = trace.split('-').collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{trace}");
    assert_eq!(line["trace_id"], parts[1]);
}

#[test]
fn claims_of_strangers_are_dropped() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    let claims = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-For", "7.7.7.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-Server", "evil"),
        ("X-Real-IP", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6"),
        ("X-Request-Id", "mine"),
        // Services that read fields as variables take these for the same.
        ("X_Forwarded_For", "6.6.6.6"),
        ("X-Forwarded_Proto", "https"),
        ("X_Real-IP", "6.6.6.6"),
        ("X_Request_Id", "mine"),
    ];
    let answer = gateway.connect().request("GET", "/", &claims, b"");
    let echo = answer.json();
    for name in [
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-server",
        "x-real-ip",
        "x_forwarded_for",
        "x-forwarded_proto",
        "x_real-ip",
        "x_request_id",
    ] {
        assert!(seen(&echo, name).is_empty(), "{name}");
    }
    assert_eq!(seen(&echo, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen(&echo, "x-forwarded-proto"), ["http"]);
    assert_eq!(seen(&echo, "x-forwarded-host"), ["test"]);
    assert_eq!(seen(&echo, "forwarded"), ["for=127.0.0.1;host=\"test\";proto=http"]);
    assert_ne!(answer.header("x-request-id"), Some("mine"));
    assert_eq!(gateway.access_log(1)[0]["client_ip"], "127.0.0.1");
}

#[test]
fn trusted_proxies_are_believed_and_appended_to() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, TRUSTING);
    let claims = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-For", "203.0.113.7, 127.0.0.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.example"),
        ("X-Forwarded-Port", "443"),
        ("Forwarded", "for=203.0.113.7"),
        ("Via", "1.1 edge"),
    ];
    let echo = gateway.connect().request("GET", "/", &claims, b"").json();
    assert_eq!(seen(&echo, "x-forwarded-for"), ["6.6.6.6, 203.0.113.7, 127.0.0.9, 127.0.0.1"]);
    assert_eq!(seen(&echo, "x-forwarded-proto"), ["https"]);
    assert_eq!(seen(&echo, "x-forwarded-host"), ["shop.example"]);
    assert_eq!(seen(&echo, "x-forwarded-port"), ["443"]);
    assert_eq!(seen(&echo, "forwarded"), ["for=203.0.113.7, for=127.0.0.1;host=\"test\";proto=http"]);
    assert_eq!(seen(&echo, "via").join(", "), "1.1 edge, 1.1 frontdesk");
}

#[test]
fn the_client_is_the_rightmost_untrusted_address() {
    let gateway = Gateway::start(&format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: /, respond: {{ headers: {{ X-Ip: '${{client_ip}}' }} }} }}]\n{TRUSTING}"
    ));
    let cases = [
        ("203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7, 127.0.0.9", "203.0.113.7"),
        ("127.0.0.8, 127.0.0.9", "127.0.0.8"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("6.6.6.6, nonsense", "127.0.0.1"),
    ];
    let mut client = gateway.connect();
    for (chain, ip) in cases {
        assert_eq!(client.request("GET", "/", &[("X-Forwarded-For", chain)], b"").header("x-ip"), Some(ip), "{chain}");
    }
    let logged: Vec<_> = gateway.access_log(cases.len()).iter().map(|line| line["client_ip"].clone()).collect();
    assert_eq!(logged, cases.map(|(_, ip)| Value::from(ip)));
}

#[test]
fn a_request_id_is_believed_from_trusted_proxies_only_when_it_is_plain() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, TRUSTING);
    let answer = gateway.connect().request("GET", "/", &[("X-Request-Id", "abc-1")], b"");
    assert_eq!((answer.header("x-request-id"), seen(&answer.json(), "x-request-id")), (Some("abc-1"), vec!["abc-1".to_string()]));
    assert_eq!(gateway.access_log(1)[0]["request_id"], "abc-1");
    for odd in ["a b", "a\"b", &"x".repeat(1000)] {
        let answer = gateway.connect().request("GET", "/", &[("X-Request-Id", odd)], b"");
        assert_eq!(answer.header("x-request-id").map(str::len), Some(32), "{odd}");
    }
}

#[test]
fn traces_go_on_under_a_new_parent() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    let echo = gateway.connect().request("GET", "/", &[("traceparent", TRACE), ("tracestate", "a=1")], b"").json();
    let next = &seen(&echo, "traceparent")[0];
    assert_eq!((&next[..36], &next[52..]), (&TRACE[..36], "-01"));
    assert_ne!(&next[36..52], &TRACE[36..52]);
    assert_eq!(seen(&echo, "tracestate"), ["a=1"]);
    assert_eq!(gateway.access_log(1)[0]["trace_id"], TRACE[3..35]);
    let echo = gateway.connect().request("GET", "/", &[("traceparent", "00-nonsense"), ("tracestate", "a=1")], b"").json();
    assert_eq!((seen(&echo, "traceparent")[0].len(), seen(&echo, "tracestate")), (55, vec![]));
    let echo = gateway.connect().request("GET", "/", &[("Tracestate", "a=1"), ("tracestate", "b=1")], b"").json();
    assert_eq!(seen(&echo, "tracestate"), [""; 0], "it belongs to no trace");
}

#[test]
fn fields_of_one_hop_do_not_reach_the_service() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    let hop = [
        ("Connection", "close, X-Foo"),
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("X-Foo", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "gzip"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ("X-Stays", "1"),
    ];
    let answer = gateway.connect().request("GET", "/", &hop, b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    let echo = answer.json();
    for name in ["connection", "x-foo", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings"] {
        assert!(seen(&echo, name).is_empty(), "{name}: {echo}");
    }
    assert_eq!((seen(&echo, "x-stays"), seen(&echo, "x-forwarded-for")), (vec!["1".to_string()], vec!["127.0.0.1".to_string()]));
}

#[test]
fn a_client_can_not_have_our_own_fields_removed() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    for name in ["X-Forwarded-For", "Forwarded", "Host", "Content-Length", "Cookie, X-Real-IP"] {
        let answer = gateway.connect().request("GET", "/", &[("Connection", name)], b"");
        match answer.status {
            200 => assert_eq!(seen(&answer.json(), "x-forwarded-for"), ["127.0.0.1"], "{name}"),
            _ => assert_eq!((answer.status, answer.code()), (400, "bad_request".to_string()), "{name}"),
        }
    }
}

#[test]
fn fields_of_one_hop_do_not_reach_the_client() {
    let origin = Origin::new(|_| {
        let hop = [
            ("Connection", "close, X-Foo"),
            ("X-Foo", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "x"),
            ("Upgrade", "h2c"),
            ("X-Stays", "1"),
        ];
        answer(200, &hop, b"hello")
    });
    let gateway = gateway(&origin, "");
    let mut client = gateway.connect();
    for _ in 0..2 {
        let answer = client.get("/");
        for name in ["x-foo", "keep-alive", "proxy-connection", "upgrade"] {
            assert!(answer.all(name).is_empty(), "{name}: {answer:?}");
        }
        // The service's wish to close its own connection is none of the client's business.
        assert!(!answer.all("connection").contains(&"close"), "{answer:?}");
        assert_eq!((answer.header("x-stays"), answer.text()), (Some("1"), "hello".to_string()));
    }
}

#[test]
fn the_host_is_kept_unless_the_service_has_one() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ kept: {{ endpoints: [{origin}] }}, own: {{ endpoints: [{origin}], host: 'orders.internal:81' }} }}
routes: [{{ path: /kept, to: kept }}, {{ path: /own, to: own }}, {{ path: /url, to: http://{origin} }}]
"
    ));
    for (path, host) in [("/kept", "Shop.example:8080"), ("/own", "orders.internal:81"), ("/url", "Shop.example:8080")] {
        let echo = gateway.connect().request("GET", path, &[("Host", "Shop.example:8080")], b"").json();
        assert_eq!(seen(&echo, "host"), [host], "{path}");
        assert_eq!(seen(&echo, "x-forwarded-host"), ["Shop.example:8080"], "{path}");
    }
}

#[test]
fn routes_change_the_headers_of_requests() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
routes:
  - name: users
    path: '/u/{{id}}/*'
    to: http://{origin}
    request:
      headers:
        remove: [Cookie, X-Gone]
        set: {{ X-Route: '${{route}}', X-User: '${{id}}', X-Both: 'ip ${{client_ip}} ${{header.X-In}} ${{query.q}}' }}
        add: {{ X-More: two, X-Rest: '${{rest}}' }}
"
    ));
    let mut sent = vec![("Cookie", "a=1"), ("Cookie", "b=2"), ("X-Gone", "1"), ("X-Route", "mine"), ("X-In", "in"), ("X-More", "one")];
    // To a service that reads fields as variables these are the same again.
    sent.extend([("X_Route", "mine"), ("x_user", "root"), ("X_Gone", "1"), ("X_In", "kept")]);
    let echo = gateway.connect().request("GET", "/u/7/a/b?q=x%20y", &sent, b"").json();
    for (name, values) in [
        ("cookie", &[][..]),
        ("x-gone", &[]),
        ("x-route", &["users"]),
        ("x-user", &["7"]),
        ("x-both", &["ip 127.0.0.1 in x y"]),
        ("x-more", &["one", "two"]),
        ("x-rest", &["a/b"]),
        ("x_route", &[]),
        ("x_user", &[]),
        ("x_gone", &[]),
        ("x_in", &["kept"]),
    ] {
        assert_eq!(seen(&echo, name), values, "{name}");
    }
}

#[test]
fn routes_change_the_headers_of_answers() {
    let origin = Origin::new(|_| answer(200, &[("Server", "secret/1.2"), ("X-Old", "1"), ("X-Old", "2"), ("X-More", "one")], b""));
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
routes:
  - name: r
    path: /*
    to: http://{origin}
    response: {{ headers: {{ remove: [Server], set: {{ X-Old: '${{route}}', X-Id: '${{request_id}}' }}, add: {{ X-More: two }} }} }}
"
    ));
    let answer = gateway.get("/");
    assert_eq!((answer.header("server"), answer.header("x-old")), (None, Some("r")));
    assert_eq!((answer.all("x-more"), answer.header("x-id")), (vec!["one", "two"], answer.header("x-request-id")));
}

#[test]
fn a_template_can_not_smuggle_a_field() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
routes: [{{ path: /*, to: http://{origin}, request: {{ headers: {{ set: {{ X-Q: '${{query.q}}' }} }} }} }}]
"
    ));
    let echo = gateway.get("/?q=a%0D%0AX-Evil:%201").json();
    assert!(seen(&echo, "x-evil").is_empty(), "{echo}");
    assert!(seen(&echo, "x-q").iter().all(|value| value.starts_with('a')), "{echo}");
}

#[test]
fn a_services_own_errors_pass_unchanged() {
    let origin = Origin::new(|request| {
        let status = request.target[1..].parse().expect("a status");
        answer(status, &[("Content-Type", "text/x-own"), ("Retry-After", "7")], b"own words")
    });
    let gateway = gateway(&origin, "");
    for status in [400, 401, 404, 429, 500, 502, 503, 504] {
        let answer = gateway.get(&format!("/{status}"));
        assert_eq!((answer.status, answer.text()), (status, "own words".to_string()));
        assert_eq!((answer.header("content-type"), answer.header("retry-after")), (Some("text/x-own"), Some("7")));
    }
    assert_eq!(gateway.access_log(8)[7]["code"], "");
}

#[test]
fn methods_and_repeated_fields_arrive_as_they_were() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    for method in ["GET", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
        let mut client = gateway.connect();
        client.send(head(method, "/x?a=1&a=%20&b", &[("X-Two", "1"), ("X-Two", "2"), ("Accept", "a, b")], 0));
        let echo = client.answer().json();
        assert_eq!((&echo["method"], &echo["target"]), (&Value::from(method), &Value::from("/x?a=1&a=%20&b")));
        assert_eq!((seen(&echo, "x-two"), seen(&echo, "accept")), (vec!["1".to_string(), "2".to_string()], vec!["a, b".to_string()]));
    }
}

#[test]
fn heads_above_the_limits_are_refused() {
    let gateway = Gateway::start(
        "
listeners: [{ bind: 127.0.0.1:0 }]
server: { limits: { header_bytes: 1KiB, header_count: 5, uri_bytes: 100 } }
routes: [{ path: /*, respond: {} }]
",
    );
    let long = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
    let ask = |target: &str, headers: &[(&str, &str)]| {
        let answer = gateway.connect().request("GET", target, headers, b"");
        (answer.status, if answer.status == 200 { String::new() } else { answer.code() })
    };
    let (fine, uri, header) = ((200, String::new()), (414, "uri_too_long".to_string()), (431, "header_too_large".to_string()));
    assert_eq!((ask(&long(100), &[]), ask(&long(101), &[])), (fine.clone(), uri));
    assert_eq!((ask("/", &[("X", &long(900))]), ask("/", &[("X", &long(1100))])), (fine.clone(), header.clone()));
    assert_eq!((ask("/", &[("X", "1"); 4]), ask("/", &[("X", "1"); 5])), (fine, header)); // with Host
    let log = gateway.access_log(6);
    let logged = |code: &str| log.iter().filter(|line| line["code"] == code).count();
    assert_eq!((logged(""), logged("uri_too_long"), logged("header_too_large")), (3, 1, 2));
}

#[test]
fn heads_above_the_default_limits_are_refused() {
    let gateway = Gateway::start("listeners: [{ bind: 127.0.0.1:0 }]\nroutes: [{ path: /*, respond: {} }]");
    let long = "x".repeat(33 << 10);
    assert_eq!(gateway.get(&format!("/{}", &long[..9000])).code(), "uri_too_long");
    assert_eq!(gateway.connect().request("GET", "/", &[("X", &long)], b"").code(), "header_too_large");
    assert_eq!(gateway.connect().request("GET", "/", &[("X", "1"); 101], b"").code(), "header_too_large");
}
