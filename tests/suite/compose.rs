//! One answer from several services.

use crate::kit::{
    Gateway, H2Client, H2Origin, Origin, SECRET, all, answer, dead_address, eventually, frontdesk, h2_head, head, run, run_async, token,
};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LISTENERS: &str = "listeners: [{ bind: 127.0.0.1:0 }]\n";

fn json_answer(body: &Value) -> Vec<u8> {
    answer(200, &[("Content-Type", "application/json")], body.to_string().as_bytes())
}

/// A service that answers each path with a status and a body; `null` is for what it does not know.
fn service(answers: &'static [(&'static str, u16, &'static str)]) -> Origin {
    Origin::new(move |request| {
        let path = request.target.split('?').next().unwrap_or_default();
        match answers.iter().find(|(known, ..)| *known == path) {
            Some((_, status, body)) => answer(*status, &[("Content-Type", "application/json")], body.as_bytes()),
            None => answer(404, &[("Content-Type", "text/plain")], b"nobody knows"),
        }
    })
}

/// A gateway with one route, `/x`, that composes; `ORIGIN` in it stands for the service.
fn composing(origin: &Origin, compose: &str) -> Gateway {
    let compose = compose.replace("ORIGIN", &format!("http://{origin}"));
    Gateway::start(&format!("{LISTENERS}routes: [{{ name: x, path: /x, compose: {compose} }}]"))
}

fn complete(answer: &crate::kit::Answer) -> Option<&str> {
    answer.header("x-frontdesk-complete")
}

#[test]
fn a_home_screen() {
    let users = Origin::new(|request| match request.target.as_str() {
        "/users/ada" => json_answer(&json!({ "name": "Ada", "favourites": [3, 4], "balance": 1 })),
        _ => answer(404, &[], b""),
    });
    let orders = Origin::new(|request| {
        assert_eq!(request.target, "/orders?user=ada&limit=5");
        // Digits that no floating point number has, and members in an order of their own.
        answer(200, &[], br#"{ "items" : [ { "z": 1.10, "a": 12345678901234567890123 } ], "total": 1 }"#)
    });
    let restaurants = Origin::new(|request| {
        assert_eq!(request.target, "/restaurants?ids=3,4");
        json_answer(&json!([{ "id": 3 }, { "id": 4 }]))
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}
services:
  users: {{ endpoints: ['{users}'] }}
  orders: {{ endpoints: ['{orders}'] }}
  restaurants: {{ endpoints: ['{restaurants}'] }}
auth: {{ customers: {{ jwt: {{ secret: '{SECRET}', claims_to_headers: {{ sub: X-User-Id }} }} }} }}
routes:
  - name: home-screen
    path: /home
    auth: [customers]
    response: {{ headers: {{ set: {{ X-Screen: '${{route}} of ${{profile.body.name}}', X-Orders: '${{orders.status}}' }} }} }}
    compose:
      timeout: 10s
      calls:
        profile: {{ to: users, path: '/users/${{identity}}', required: true }}
        orders: {{ to: orders, path: '/orders?user=${{identity}}&limit=5', default: [] }}
        favourites: {{ to: restaurants, path: '/restaurants?ids=${{profile.body.favourites}}', timeout: 5s }}
      body: {{ user: '${{profile.body}}', orders: '${{orders.body.items}}', favourites: '${{favourites.body}}', hello: 'Hello ${{profile.body.name}}' }}
"
    ));
    let bearer = format!("Bearer {}", token(json!({})));
    let answer = gateway.connect().request("GET", "/home", &[("Authorization", &bearer), ("Cookie", "a=b"), ("X-User-Id", "eve")], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.text(),
        r#"{"user":{"balance":1,"favourites":[3,4],"name":"Ada"},"orders":[ { "z": 1.10, "a": 12345678901234567890123 } ],"favourites":[{"id":3},{"id":4}],"hello":"Hello Ada"}"#
    );
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
    assert_eq!((answer.header("x-screen"), answer.header("x-orders")), (Some("home-screen of Ada"), Some("200")));
    assert_eq!(complete(&answer), None);
    let timing = answer.header("server-timing").expect("times");
    assert!(["profile;dur=", "orders;dur=", "favourites;dur="].iter().all(|call| timing.contains(call)), "{timing}");
    for origin in [&users, &orders, &restaurants] {
        let [request] = &origin.seen()[..] else { panic!("{:?}", origin.seen()) };
        assert_eq!(request.all("x-user-id"), ["ada"], "the gateway says who it is");
        assert_eq!(request.header("x-request-id"), answer.header("x-request-id"));
        assert_eq!((request.header("authorization"), request.header("cookie")), (None, None));
        assert!(request.header("traceparent").is_some() && request.header("x-forwarded-for") == Some("127.0.0.1"), "{request:?}");
        assert_eq!((request.header("host"), request.header("accept")), (Some("test"), Some("application/json")));
    }
    assert_eq!(gateway.connect().get("/home").code(), "unauthenticated");
    // The two came on connections of their own, and end in any order.
    let lines = gateway.access_log(2);
    let own = lines.iter().find(|line| line["identity"] == "ada").expect("a line");
    assert_eq!((&own["route"], &own["attempts"]), (&json!("home-screen"), &json!(3)));
    let count = |service: &Origin, name| {
        gateway.metric(&format!("frontdesk_upstream_requests_total{{endpoint=\"{service}\",outcome=\"ok\",service=\"{name}\"}}"))
    };
    assert_eq!((count(&users, "users"), count(&orders, "orders")), (1.0, 1.0));
}

/// The shipped example, with services of our own in place of the embedded ones.
#[test]
fn the_shipped_home_screen_loses_one_list_with_one_service() {
    let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/food-delivery.yaml")).expect("the example");
    let users = service(&[("/users/7", 200, r#"{"id":7,"name":"Ada","city":"London"}"#)]);
    let orders = service(&[("/orders", 200, r#"{"items":[{"id":42,"restaurant":3},{"id":43,"restaurant":4}]}"#)]);
    let restaurants = service(&[("/restaurants/3", 200, r#"{"id":3}"#), ("/restaurants/4", 200, r#"{"id":4}"#)]);
    let good = service(&[("/recommendations/London", 200, r#"[{"id":4}]"#)]);
    let ill = Origin::scripted(|_, stream| std::io::BufRead::fill_buf(stream).map(|_| false));
    for (recommended, list, is_complete) in [(&good, json!([{ "id": 4 }]), None), (&ill, json!([]), Some("false"))] {
        let mut yaml = shipped
            .replace(", { address: 127.0.0.1:8113, weight: 2 }", "")
            .replace(": auth/", concat!(": ", env!("CARGO_MANIFEST_DIR"), "/conf/auth/"))
            .replace("access_log: { path: stdout,", "access_log: { path: DIR/access.log,");
        for (port, origin) in [(8101, &users), (8102, &restaurants), (8103, &orders), (8105, recommended)] {
            yaml = yaml.replace(&format!("endpoints: [127.0.0.1:{port}]"), &format!("endpoints: ['{origin}']"));
        }
        // All listeners of the file, the admin one among them.
        let yaml: Vec<String> = yaml
            .split("bind: 127.0.0.1:")
            .enumerate()
            .map(|(n, part)| {
                if n == 0 {
                    part.to_string()
                } else {
                    format!("bind: 127.0.0.1:0{}", part.trim_start_matches(|c: char| c.is_ascii_digit()))
                }
            })
            .collect();
        let gateway = Gateway::start(&yaml.concat());
        let home = crate::kit::Client::connect(gateway.address_of("public")).get("/home/7");
        assert_eq!((home.status, complete(&home)), (200, is_complete), "{home:?}");
        assert_eq!(
            home.json(),
            json!({
                "user": { "id": 7, "name": "Ada", "city": "London" }, "orders": [{ "id": 42, "restaurant": 3 }, { "id": 43, "restaurant": 4 }],
                "restaurants": [{ "id": 3 }, { "id": 4 }], "recommended": list, "greeting": "Hello Ada",
            })
        );
    }
}

#[test]
fn calls_that_need_nothing_run_side_by_side() {
    // Each answers only when all three are there: one after the other would never end.
    let gate = Arc::new(std::sync::Barrier::new(3));
    let origin = Origin::new(move |request| {
        gate.wait();
        json_answer(&json!(request.target))
    });
    let gateway =
        composing(&origin, "{ calls: { a: { to: ORIGIN, path: /a }, b: { to: ORIGIN, path: /b }, c: { to: ORIGIN, path: /c } } }");
    let answer = gateway.get("/x");
    assert_eq!((answer.status, answer.json()), (200, json!({ "a": "/a", "b": "/b", "c": "/c" })));
}

#[test]
fn a_call_that_fails_costs_itself_alone() {
    let origin = service(&[("/good", 200, r#"{"v":1}"#), ("/bad", 500, r#"{"secret":true}"#), ("/text", 200, "hello"), ("/none", 204, "")]);
    let gateway = composing(
        &origin,
        "{ report: true, calls: {
             good: { to: ORIGIN, path: /good }, bad: { to: ORIGIN, path: /bad }, gone: { to: ORIGIN, path: /gone, default: { list: [1] } },
             text: { to: ORIGIN, path: /text, optional: true }, none: { to: ORIGIN, path: /none }, after: { to: ORIGIN, path: '/good?${bad.body.v}' },
             dead: { to: 'http://DEAD', path: / } },
           body: { good: '${good.body.v}', bad: '${bad.body.v}', gone: '${gone.body.list}', nothing: '${gone.body.nothing}', text: '${text.body}',
                   none: '${none.body}', after: '${after.body}', status: '${bad.status}', dead: '${dead.body.x}' } }"
            .replace("DEAD", &dead_address().to_string())
            .as_str(),
    );
    let answer = gateway.get("/x");
    let mut body = answer.json();
    let mut errors = body.as_object_mut().expect("a map").remove("errors").expect("errors");
    for error in errors.as_array_mut().expect("a list") {
        assert!(error["ms"].as_u64().is_some_and(|ms| ms < 20_000), "{error}");
        error.as_object_mut().expect("a map").remove("ms");
    }
    assert_eq!(answer.status, 200);
    assert_eq!(complete(&answer), Some("false"));
    assert_eq!(
        body,
        json!({ "good": 1, "bad": null, "gone": [1], "nothing": null, "text": null, "none": null, "after": null, "status": 500, "dead": null })
    );
    assert_eq!(
        errors,
        json!([
            { "name": "bad", "status": 500 },
            { "name": "gone", "status": 404 },
            { "name": "text", "status": 502, "code": "not_json" },
            { "name": "after", "status": 502, "code": "skipped" },
            { "name": "dead", "status": 502, "code": "upstream_connect" },
        ])
    );
    assert!(!answer.text().contains("secret"));
}

#[test]
fn a_default_stands_for_whatever_is_looked_for() {
    let origin = service(&[]);
    let gateway = composing(
        &origin,
        "{ calls: { list: { to: ORIGIN, path: /a, default: [] }, map: { to: ORIGIN, path: /b, default: { a: 1 } }, after: { to: ORIGIN, path: '/c/${map.body.a}' } },
           body: ['${list.body.items}', '${map.body.a}', '${map.body.b}'] }",
    );
    let answer = gateway.get("/x");
    assert_eq!((answer.json(), complete(&answer)), (json!([[], 1, null]), Some("false")));
    assert!(origin.has_seen("/c/1"));
}

#[test]
fn the_failure_of_a_required_call_is_the_answers() {
    let origin = Origin::new(|request| match request.target.as_str() {
        "/gone" => answer(410, &[("Content-Type", "text/plain"), ("X-Why", "closed"), ("Connection", "x-hop"), ("X-Hop", "1")], b"no more"),
        "/text" => answer(200, &[], b"hello"),
        _ => json_answer(&json!(1)),
    });
    let dead = dead_address();
    let gateway = Gateway::start(&format!(
        "{LISTENERS}routes:
  - {{ path: /passed, compose: {{ calls: {{ a: {{ to: 'http://{origin}', path: /gone, required: true }}, b: {{ to: 'http://{origin}', path: / }} }} }} }}
  - {{ path: /own, compose: {{ calls: {{ a: {{ to: 'http://{origin}', path: /gone, required: true, on_error: 502 }} }} }} }}
  - {{ path: /text, compose: {{ calls: {{ a: {{ to: 'http://{origin}', path: /text, required: true }} }} }} }}
  - {{ path: /dead, compose: {{ calls: {{ a: {{ to: 'http://{dead}', path: /, required: true }} }} }} }}
"
    ));
    let passed = gateway.get("/passed");
    assert_eq!((passed.status, passed.text(), passed.header("x-why")), (410, "no more".to_string(), Some("closed")));
    assert_eq!((passed.header("content-type"), passed.header("x-hop")), (Some("text/plain"), None));
    for path in ["/own", "/text", "/dead"] {
        let answer = gateway.get(path);
        assert_eq!((answer.status, answer.code()), (502, "compose_failed".to_string()), "{path}");
    }
    assert_eq!(gateway.metric("frontdesk_refusals_total{code=\"compose_failed\",route=\"/own\"}"), 1.0);
}

#[test]
fn one_deadline_for_all_and_one_for_each() {
    let origin = Origin::scripted(|request, stream| {
        if request.target == "/slow" {
            // It never answers; the client's end lets it go.
            let _ = std::io::BufRead::fill_buf(stream);
            return Ok(false);
        }
        stream.get_mut().write_all(&json_answer(&json!(1)))?;
        Ok(true)
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}services: {{ s: {{ endpoints: ['{origin}'] }} }}
routes:
  - {{ path: /each, compose: {{ calls: {{ slow: {{ to: s, path: /slow, timeout: 100ms, default: 0 }}, good: {{ to: s, path: / }} }} }} }}
  - {{ path: /all, compose: {{ timeout: 150ms, calls: {{ slow: {{ to: s, path: /slow }}, good: {{ to: s, path: / }}, after: {{ to: s, path: '/${{slow.body}}' }} }} }} }}
  - {{ path: /required, compose: {{ timeout: 150ms, calls: {{ slow: {{ to: s, path: /slow, required: true }} }} }} }}
  - {{ path: /read, timeouts: {{ read: 100ms }}, compose: {{ report: true, calls: {{ slow: {{ to: s, path: /slow }} }} }} }}
"
    ));
    let started = Instant::now();
    let each = gateway.get("/each");
    assert_eq!((each.json(), complete(&each)), (json!({ "slow": 0, "good": 1 }), Some("false")));
    let all = gateway.get("/all");
    assert_eq!((all.json(), complete(&all)), (json!({ "slow": null, "good": 1, "after": null }), Some("false")));
    let required = gateway.get("/required");
    assert_eq!((required.status, required.code()), (504, "upstream_timeout".to_string()));
    assert_eq!(gateway.get("/read").json()["errors"][0]["status"], 504);
    assert!(started.elapsed() < Duration::from_secs(15));
    let late = gateway.metric(&format!("frontdesk_upstream_requests_total{{endpoint=\"{origin}\",outcome=\"timeout\",service=\"s\"}}"));
    assert_eq!(late, 4.0);
    gateway.wait_until_idle();
}

#[test]
fn a_sick_optional_service_costs_its_timeout_once_and_then_nothing() {
    let good = Origin::fixed("1");
    // It never answers.
    let sick = Origin::scripted(|_, stream| std::io::BufRead::fill_buf(stream).map(|_| false));
    let gateway = Gateway::start(&format!(
        "{LISTENERS}services:
  good: {{ endpoints: ['{good}'] }}
  sick: {{ endpoints: ['{sick}'], retries: {{ attempts: 1 }}, breaker: {{ error_percent: 50, min_requests: 1, window: 1m, open: 1h }} }}
routes: [{{ path: /x, compose: {{ timeout: 1h, report: true, calls: {{ good: {{ to: good, path: / }}, sick: {{ to: sick, path: /, timeout: 300ms, default: [] }} }} }} }}]"
    ));
    let mut client = gateway.connect();
    let first = client.get("/x").json();
    assert_eq!((&first["good"], &first["sick"], &first["errors"][0]["status"]), (&json!(1), &json!([]), &json!(504)));
    for _ in 0..20 {
        let later = client.get("/x");
        let error = &later.json()["errors"][0];
        assert_eq!((later.status, &later.json()["good"], complete(&later)), (200, &json!(1), Some("false")));
        assert_eq!((&error["name"], &error["status"], &error["code"]), (&json!("sick"), &json!(503), &json!("breaker_open")));
        assert!(error["ms"].as_u64().is_some_and(|ms| ms < 300), "{error}");
    }
    assert_eq!(sick.seen().len(), 1, "it is left alone");
    assert_eq!(gateway.metric("frontdesk_breaker_open{service=\"sick\"}"), 1.0);
}

#[test]
fn a_call_has_what_those_before_it_have_left() {
    let origin = Origin::scripted(|request, stream| {
        if request.target == "/first" {
            std::thread::sleep(Duration::from_millis(300));
            stream.get_mut().write_all(&json_answer(&json!("x")))?;
            return Ok(true);
        }
        let _ = std::io::BufRead::fill_buf(stream);
        Ok(false)
    });
    let gateway = composing(
        &origin,
        "{ timeout: 1s, calls: { first: { to: ORIGIN, path: /first }, then: { to: ORIGIN, path: '/${first.body}', timeout: 1h } } }",
    );
    let answer = gateway.get("/x");
    assert_eq!((answer.json(), complete(&answer)), (json!({ "first": "x", "then": null }), Some("false")));
    let timing = answer.header("server-timing").expect("times");
    let then = timing.split("then;dur=").nth(1).and_then(|rest| rest.split(';').next()).and_then(|ms| ms.parse::<f64>().ok());
    assert!(then.is_some_and(|ms| ms < 800.0), "{timing}");
}

#[test]
fn a_call_for_each_item() {
    let origin = Origin::new(|request| match request.target.as_str() {
        "/orders" => json_answer(
            &json!({ "items": [{ "id": 7, "at": "b/c" }, { "id": 8, "at": "x" }, { "id": 9, "at": "y" }, { "id": 10, "at": "z" }] }),
        ),
        "/restaurants/x" => answer(500, &[], b""),
        other => json_answer(&json!({ "path": other, "of": serde_json::from_slice::<Value>(&request.body).unwrap_or_default() })),
    });
    let gateway = composing(
        &origin,
        "{ calls: { orders: { to: ORIGIN, path: /orders },
             places: { to: ORIGIN, path: '/restaurants/${item.at}', method: POST, body: { order: '${item.id}' }, for_each: '${orders.body.items}', items_max: 3, parallel: 2, default: {} } },
           body: { ids: '${orders.body.items.id}', first: '${orders.body.items.0.id}', places: '${places.body}', paths: '${places.body.path}' } }",
    );
    let answer = gateway.get("/x");
    let (first, third) = ("/restaurants/b%2Fc", "/restaurants/y");
    assert_eq!(
        answer.json(),
        json!({
            "ids": [7, 8, 9, 10], "first": 7,
            "places": [{ "path": first, "of": { "order": 7 } }, {}, { "path": third, "of": { "order": 9 } }],
            "paths": [first, third],
        })
    );
    assert_eq!(complete(&answer), Some("false"), "one failed, and one was too many");
    assert!(!origin.has_seen("/restaurants/z"));
}

#[test]
fn bodies_and_fields_go_along() {
    let origin = Origin::echo();
    let gateway = composing(
        &origin,
        "{ calls: {
             listed: { to: ORIGIN, path: /a, headers: [Accept-Language, X-Tenant] },
             set: { to: ORIGIN, path: /b, method: PUT, headers: { X-Tenant: 't-${header.X-Tenant}', If-Match: '${listed.header.content-type}' }, body: { all: '${body}', one: '${body.a.b}', text: 'n=${body.n}' } },
             empty: { to: ORIGIN, path: '/c/${query.q}', method: POST } } }",
    );
    let body = br#"{ "a": { "b": [1, 2.50] }, "n": 7 }"#;
    let fields = [("Accept-Language", "de"), ("X-Tenant", "7"), ("Cookie", "a=b"), ("Content-Type", "application/json")];
    let answer = gateway.connect().request("POST", "/x?q=a%2Fb", &fields, body);
    let calls = answer.json();
    let header = |call: &str, name: &str| calls[call]["headers"][name][0].as_str().map(str::to_string);
    assert_eq!((header("listed", "accept-language").as_deref(), header("listed", "x-tenant").as_deref()), (Some("de"), Some("7")));
    assert_eq!((header("listed", "cookie"), header("listed", "content-type")), (None, None));
    assert_eq!((header("set", "x-tenant").as_deref(), header("set", "if-match").as_deref()), (Some("t-7"), Some("application/json")));
    assert_eq!(calls["set"]["method"], "PUT");
    assert_eq!(calls["set"]["body"], r#"{"all":{ "a": { "b": [1, 2.50] }, "n": 7 },"one":[1, 2.50],"text":"n=7"}"#);
    assert_eq!(header("set", "content-type").as_deref(), Some("application/json"));
    assert_eq!((&calls["empty"]["target"], header("empty", "content-length").as_deref()), (&json!("/c/a%2Fb"), Some("0")));
    let invalid = gateway.connect().request("POST", "/x", &[], b"{");
    assert_eq!((invalid.status, invalid.code()), (422, "body_invalid".to_string()));
    assert_eq!(gateway.get("/x").status, 200, "nothing is null");
}

#[test]
fn bodies_are_merged_in_their_order() {
    let origin = service(&[
        ("/a", 200, r#"{"x":1,"m":{"p":1}}"#),
        ("/b", 200, r#"{"y":2,"m":{"q":2}}"#),
        ("/list", 200, "[1]"),
        ("/c", 200, r#"{"z":3}"#),
    ]);
    let route = |name: &str, merge: &str, more: &str| {
        format!(
            "  - {{ path: /{name}, compose: {{ merge: {merge}, {more} calls: {{ a: {{ to: 'http://{origin}', path: /a }}, b: {{ to: 'http://{origin}', path: /b }},
                list: {{ to: 'http://{origin}', path: /list }}, c: {{ to: 'http://{origin}', path: /c }}, bad: {{ to: 'http://{origin}', path: /bad }} }} }} }}\n"
        )
    };
    let gateway = Gateway::start(&format!(
        "{LISTENERS}routes:\n{}{}{}{}{}",
        route("none", "[c, a, list, bad]", ""),
        route("error", "[a, b]", ""),
        route("first", "[a, b]", "on_conflict: first,"),
        route("last", "[a, b]", "on_conflict: last,"),
        route("deep", "[a, b]", "on_conflict: deep,"),
    ));
    assert_eq!(gateway.get("/none").text(), r#"{"z":3,"x":1,"m":{"p":1},"list":[1]}"#);
    assert_eq!(gateway.get("/error").code(), "compose_failed");
    assert_eq!(gateway.get("/first").text(), r#"{"x":1,"m":{"p":1},"y":2}"#);
    assert_eq!(gateway.get("/last").text(), r#"{"x":1,"m":{"q":2},"y":2}"#);
    assert_eq!(gateway.get("/deep").text(), r#"{"x":1,"m":{"p":1,"q":2},"y":2}"#);
}

#[test]
fn what_is_too_large_is_a_failure() {
    let origin = Origin::new(|request| match request.target.as_str() {
        "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n\"1234567\"\r\n0\r\n\r\n".to_vec(),
        _ => answer(200, &[], b"\"1234567\""),
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}server: {{ buffers: 30B }}\nroutes:
  - {{ path: /max, compose: {{ report: true, calls: {{ fits: {{ to: 'http://{origin}', path: /, body_bytes_max: 9B }}, large: {{ to: 'http://{origin}', path: /, body_bytes_max: 8B }}, chunked: {{ to: 'http://{origin}', path: /chunked, body_bytes_max: 8B }} }} }} }}
  - {{ path: /all, compose: {{ report: true, calls: {{ a: {{ to: 'http://{origin}', path: / }}, b: {{ to: 'http://{origin}', path: /chunked }}, c: {{ to: 'http://{origin}', path: / }}, d: {{ to: 'http://{origin}', path: / }} }} }} }}
"
    ));
    let max = gateway.get("/max").json();
    assert_eq!((&max["fits"], &max["large"], &max["chunked"]), (&json!("1234567"), &json!(null), &json!(null)));
    assert_eq!(
        max["errors"].as_array().map(|errors| errors.iter().map(|e| e["code"].as_str()).collect()),
        Some(vec![Some("too_large"); 2])
    );
    // What a request holds is given back when it is over, which its client may know before.
    gateway.wait_until_idle();
    let all = gateway.get("/all").json();
    let failed: Vec<_> = all["errors"].as_array().expect("errors").iter().map(|e| (e["status"].as_u64(), e["code"].as_str())).collect();
    assert_eq!(failed, [(Some(503), Some("overloaded"))], "only three of them fit");
    gateway.wait_until_idle();
    assert_eq!(gateway.get("/max").json()["fits"], "1234567", "what was held is given back");
}

#[test]
fn a_client_that_goes_away_takes_its_calls_along() {
    // It answers nothing until the gateway ends the connection.
    let origin = Origin::scripted(|_, stream| std::io::BufRead::fill_buf(stream).map(|_| false));
    let gateway = composing(&origin, "{ timeout: 1h, calls: { a: { to: ORIGIN, path: / }, b: { to: ORIGIN, path: / } } }");
    let gone = || eventually("no connection to the service", || (origin.open() == 0).then_some(()));
    let mut client = gateway.connect();
    client.send(head("GET", "/x", &[], 0));
    origin.wait_for(2);
    drop(client);
    gone();
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let request = client.begin(http::Method::GET, "/x", &[], true).await;
        while origin.seen().len() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The stream is reset, and the connection goes on.
        drop(request);
        while origin.open() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    gateway.wait_until_idle();
}

#[test]
fn services_over_http2_are_asked_too() {
    let origin = H2Origin::new(|request, mut respond| async move {
        let (head, mut body) = request.into_parts();
        let body = all(&mut body).await?;
        let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_string);
        let told = json!({
            "path": head.uri.path(), "authority": head.uri.authority().map(ToString::to_string), "host": field("host"), "kind": field("content-type"),
            "body": serde_json::from_slice::<Value>(&body).unwrap_or_default(),
        });
        let mut stream = respond.send_response(h2_head(200, &[("content-type", "application/json")]), false)?;
        stream.send_data(told.to_string().into(), true)
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}services: {{ s: {{ endpoints: ['{origin}'], protocol: h2c }} }}
routes: [{{ path: /x, compose: {{ calls: {{ a: {{ to: s, path: /a }}, b: {{ to: s, path: '/${{a.body.path}}', method: POST, body: ['${{a.body.authority}}'] }} }} }} }}]"
    ));
    let mut client = gateway.connect();
    for _ in 0..3 {
        let answer = client.get("/x").json();
        assert_eq!(answer["a"], json!({ "path": "/a", "authority": "test", "host": null, "kind": null, "body": null }));
        assert_eq!(
            answer["b"],
            json!({ "path": "/%2Fa", "authority": "test", "host": null, "kind": "application/json", "body": ["test"] })
        );
    }
    run_async(async {
        let answer = H2Client::connect(gateway.address()).await.get("/x").await;
        assert_eq!((answer.status, &answer.json()["a"]["path"]), (200, &json!("/a")));
    });
}

#[test]
fn nothing_of_one_answer_reaches_another() {
    let origin = Origin::new(|request| json_answer(&json!({ "path": request.target, "user": request.header("x-user") })));
    let gateway = Gateway::start(&format!(
        "{LISTENERS}services: {{ s: {{ endpoints: ['{origin}'] }} }}
auth: {{ customers: {{ jwt: {{ secret: '{SECRET}', claims_to_headers: {{ sub: X-User }} }} }} }}
routes:
  - path: /x
    auth: customers
    compose:
      calls: {{ a: {{ to: s, path: '/a/${{identity}}' }}, b: {{ to: s, path: '/b/${{a.body.user}}' }}, c: {{ to: s, path: '/c/${{query.n}}' }} }}
"
    ));
    let address = gateway.address();
    let clients: Vec<_> = (0..8)
        .map(|client| {
            std::thread::spawn(move || {
                let mut connection = crate::kit::Client::connect(address);
                for n in (0..1_000).filter(|n| n % 8 == client) {
                    let user = format!("user-{n}");
                    let bearer = format!("Bearer {}", token(json!({ "sub": user })));
                    let answer = connection.request("GET", &format!("/x?n={n}"), &[("Authorization", &bearer)], b"");
                    let told = |call: &str, last: &str| json!({ "path": format!("/{call}/{last}"), "user": user });
                    let last = n.to_string();
                    assert_eq!(answer.json(), json!({ "a": told("a", &user), "b": told("b", &user), "c": told("c", &last) }));
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    assert!(origin.connections() < 100, "connections are kept: {}", origin.connections());
}

#[test]
fn limits_cors_and_heads_are_as_everywhere() {
    let origin = Origin::fixed("1");
    let gateway = Gateway::start(&format!(
        "{LISTENERS}rate_limits: {{ few: {{ rate: 3/h }} }}
routes: [{{ path: /x, rate_limits: [few], cors: {{ origins: ['https://a.example'] }}, compose: {{ calls: {{ a: {{ to: 'http://{origin}', path: / }} }} }} }}]"
    ));
    let mut client = gateway.connect();
    let answer = client.request("GET", "/x", &[("Origin", "https://a.example")], b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("https://a.example")));
    assert!(answer.header("ratelimit").is_some_and(|told| told.starts_with("\"few\";r=2")));
    let head = client.request("HEAD", "/x", &[], b"");
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("7"), 0));
    assert_eq!((client.get("/x").status, client.get("/x").status), (200, 429));
}

#[test]
fn a_kept_connection_that_has_gone_is_no_failure() {
    let origin =
        Origin::new(|request| answer(200, &[("Connection", if request.target == "/last" { "close" } else { "keep-alive" })], b"1"));
    let gateway = composing(&origin, "{ calls: { a: { to: ORIGIN, path: '/${query.q}', required: true } } }");
    for _ in 0..20 {
        assert_eq!(gateway.get("/x?q=1").status, 200);
        assert_eq!(gateway.get("/x?q=last").status, 200);
    }
}

#[test]
fn the_graph_is_explained() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let yaml = "
listeners: [{ bind: 127.0.0.1:0 }]
services: { users: { endpoints: [10.0.0.1:80] }, orders: { endpoints: [10.0.0.2:80] } }
routes:
  - name: home
    path: /home
    compose:
      timeout: 800ms
      calls:
        profile: { to: users, path: '/users/${identity}', required: true }
        orders: { to: orders, path: /orders, default: [] }
        places: { to: users, path: '/p/${item.id}/${profile.body.id}', for_each: '${orders.body.items}' }
";
    std::fs::write(file.path(), yaml).expect("a file");
    let explain = |more: &[&str]| {
        let output = run(frontdesk().args(["explain", "-c", &file.path().display().to_string(), "GET", "/home"]).args(more));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = explain(&[]);
    let told: Vec<String> = text.lines().skip(5).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        told,
        [
            "route home makes one answer of these calls, within 800ms",
            "",
            "CALL ASKS SERVICE WHEN",
            "profile GET /users/${identity} users at once, required",
            "orders GET /orders orders at once, optional, with a default",
            "places GET /p/${item.id}/${profile.body.id} users after profile, orders, for each item, optional",
        ],
        "{text}"
    );
    let told: Value = serde_json::from_str(&explain(&["--json"])).expect("JSON");
    assert_eq!(told["outcome"]["composed"]["calls"][0]["call"], "profile");
}

#[test]
fn calls_are_retried_and_endpoints_ejected_as_for_any_request() {
    let (bad, good) = (Origin::new(|_| answer(503, &[], b"")), Origin::fixed("1"));
    let gateway = Gateway::start(&format!(
        "{LISTENERS}services: {{ s: {{ endpoints: ['{bad}', '{good}'], balance: round_robin, retries: {{ when: [503], budget_percent: 100 }}, ejection: {{ consecutive_failures: 3, base: 1h }} }} }}
routes: [{{ path: /x, compose: {{ calls: {{ a: {{ to: s, path: / }} }} }} }}]"
    ));
    for _ in 0..20 {
        let answer = gateway.get("/x");
        assert_eq!((answer.json(), complete(&answer)), (json!({ "a": 1 }), None));
    }
    assert_eq!(bad.seen().len(), 3, "then it is left alone");
    assert_eq!(gateway.metric("frontdesk_retries_total{service=\"s\"}"), 3.0);
    assert_eq!(gateway.access_log(20).iter().filter(|line| line["attempts"] == 2).count(), 3);
}

#[test]
fn numbers_are_numbers_however_they_are_written() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "{LISTENERS}
x-shared: &shared {{ e: 1e3 }}
routes:
  - path: /x
    compose:
      calls:
        gone: {{ to: 'http://{}', path: /, default: {{ price: 1.50, digits: 12345678901234567890123 }} }}
        sent: {{ to: 'http://{origin}', path: /, method: POST, body: {{ vat: 0.10, list: [-0.50, *shared] }} }}
      body: {{ gone: '${{gone.body}}', sent: '${{sent.body.body}}', a: 2.0, b: '2.0', c: 007, d: 1.2.3, 1.10: 1, s: *shared }}
  - path: /s
    to: 'http://{origin}'
    request: {{ headers: {{ set: {{ X-Version: 1.50 }} }}, body: {{ json: {{ set: {{ n: 2.50, 'm.v': 1.0 }} }} }} }}
",
        dead_address()
    ));
    assert_eq!(
        gateway.get("/x").text(),
        concat!(
            r#"{"gone":{"price":1.50,"digits":12345678901234567890123},"sent":"{\"vat\":0.10,\"list\":[-0.50,{\"e\":1e3}]}","#,
            r#""a":2.0,"b":"2.0","c":"007","d":"1.2.3","1.10":1,"s":{"e":1e3}}"#
        )
    );
    let told = gateway.connect().request("POST", "/s", &[("Content-Type", "application/json")], b"{}").json();
    assert_eq!((&told["body"], &told["headers"]["x-version"][0]), (&json!(r#"{"n":2.50,"m":{"v":1.0}}"#), &json!("1.50")));
}
