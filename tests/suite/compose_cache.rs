//! Composed answers from memory, and under limits.

use crate::kit::{self, Answer, Gate, Gateway, Origin, SECRET, answer, head, token};
use serde_json::json;

const LISTENERS: &str = "listeners: [{ bind: 127.0.0.1:0 }]\n";

#[track_caller]
fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or_default()
}

/// For how many seconds what was found is fresh yet.
#[track_caller]
fn left(answer: &Answer) -> i64 {
    let told = status(answer);
    let left = told.strip_prefix("frontdesk; hit; ttl=").unwrap_or_else(|| panic!("{told}"));
    left.parse().expect("a number")
}

/// A service whose answers are fresh for as many seconds as the last segment of their path says, and are what was asked for.
fn service() -> Origin {
    Origin::new(|request| {
        let told = json!({ "path": request.target, "user": request.header("x-user"), "language": request.header("accept-language") });
        let path = request.target.split('?').next().unwrap_or_default();
        let seconds = path.rsplit('/').next().unwrap_or_default();
        match seconds {
            "none" => answer(200, &[], told.to_string().as_bytes()),
            "private" => answer(200, &[("Cache-Control", "private, max-age=60")], told.to_string().as_bytes()),
            "bad" => answer(500, &[], b"{}"),
            "vary" => answer(200, &[("Cache-Control", "max-age=60"), ("Vary", "X-User")], told.to_string().as_bytes()),
            seconds => answer(200, &[("Cache-Control", &format!("max-age={seconds}")), ("Cache-Tag", "t")], told.to_string().as_bytes()),
        }
    })
}

fn gateway(origin: &Origin, rule: &str, more: &str, route: &str) -> Gateway {
    Gateway::start(&format!(
        "{LISTENERS}services: {{ s: {{ endpoints: ['{origin}'] }} }}\ncaches: {{ all: {rule} }}\n{more}\nroutes: [{{ name: x, path: /x/*, cache: all, {route} }}]"
    ))
}

#[test]
fn the_whole_is_fresh_for_as_long_as_its_least_part() {
    let origin = service();
    let gateway = gateway(
        &origin,
        "{ tags: Cache-Tag }",
        "",
        "compose: { calls: { a: { to: s, path: /a/1000 }, b: { to: s, path: '/b/${query.q}/100', default: 1 },
            each: { to: s, path: '/c/${item.n}', for_each: '${list.body}' }, list: { to: s, path: /l/500, default: [] } }, body: { a: '${a.body.path}', b: '${b.body.path}' } }",
    );
    let mut client = gateway.connect();
    let first = client.get("/x/1?q=1");
    assert_eq!((status(&first), first.json()), ("frontdesk; fwd=uri-miss; stored", json!({ "a": "/a/1000", "b": "/b/1/100" })));
    assert!(first.header("server-timing").is_some());
    let asked = origin.seen().len();
    let second = client.get("/x/1?q=1");
    assert!((80..=100).contains(&left(&second)), "{second:?}");
    assert_eq!((second.json(), second.header("age").is_some(), second.header("server-timing")), (first.json(), true, None));
    assert_eq!(second.header("content-type"), Some("application/json"));
    assert_eq!(client.request("HEAD", "/x/1?q=1", &[], b"").header("content-length"), first.header("content-length"));
    assert_eq!(origin.seen().len(), asked);
    assert_eq!(status(&client.get("/x/1?q=2")), "frontdesk; fwd=uri-miss; stored", "another page");
    assert_eq!(status(&client.request("GET", "/x/1?q=1", &[("Cache-Control", "no-cache")], b"")), "frontdesk; fwd=stale; stored");
    assert_eq!(client.request("GET", "/x/9?q=1", &[("Cache-Control", "only-if-cached")], b"").code(), "not_cached");
    assert_eq!(status(&client.request("POST", "/x/1?q=1", &[], b"")), "frontdesk; fwd=method");
    assert_eq!(gateway.metric("frontdesk_cache_total{route=\"x\",status=\"hit\"}"), 2.0);
    let admin = format!("http://{}", gateway.admin());
    let output = kit::run(kit::frontdesk().args(["purge", "--tag", "t", "--admin", &admin]));
    assert!(output.status.success());
    assert_eq!(status(&client.get("/x/1?q=1")), "frontdesk; fwd=uri-miss; stored");
    // Lines of several threads are written in no order of theirs.
    assert_eq!(gateway.access_log(8).iter().filter(|line| line["cache"] == "hit").count(), 2);
}

#[test]
fn what_is_made_of_something_that_may_not_be_kept_is_not() {
    let origin = service();
    for (last, rule, is_kept) in [
        ("60", "{}", true),
        ("none", "{}", false),
        ("none", "{ ttl: 60s }", true),
        ("private", "{ ttl: 60s }", false),
        ("bad", "{ ttl: 60s }", false),
        ("0", "{ ttl: 60s }", false),
        ("60", "{ body_bytes_max: 10B }", false),
    ] {
        let gateway = gateway(
            &origin,
            rule,
            "",
            &format!("compose: {{ calls: {{ a: {{ to: s, path: /a/60 }}, b: {{ to: s, path: /b/{last} }} }} }}"),
        );
        let mut client = gateway.connect();
        client.get("/x");
        let second = client.get("/x");
        assert_eq!(status(&second).contains("hit"), is_kept, "{last} {rule}: {second:?}");
        assert_eq!(second.status, 200);
    }
    // Each item counts.
    let gateway = gateway(
        &origin,
        "{}",
        "",
        "compose: { calls: { a: { to: s, path: '/i/${item}', for_each: '${list.body}' }, list: { to: s, path: /none, default: [60, 5] } } }",
    );
    assert!(!status(&gateway.get("/x")).contains("stored"), "a partial answer");
}

#[test]
fn items_count_too() {
    let origin = Origin::new(|request| match request.target.as_str() {
        "/list" => answer(200, &[("Cache-Control", "max-age=600")], b"[300, 20, 100]"),
        other => answer(200, &[("Cache-Control", &format!("max-age={}", other.trim_start_matches('/')))], b"1"),
    });
    let gateway = gateway(
        &origin,
        "{}",
        "",
        "compose: { calls: { list: { to: s, path: /list }, each: { to: s, path: '/${item}', for_each: '${list.body}' } } }",
    );
    let mut client = gateway.connect();
    client.get("/x");
    assert!((1..=20).contains(&left(&client.get("/x"))));
}

#[test]
fn one_users_answer_reaches_no_other() {
    let origin = service();
    let auth = format!("auth: {{ users: {{ jwt: {{ secret: '{SECRET}', claims_to_headers: {{ sub: X-User }} }} }} }}");
    let calls = "auth: users, compose: { calls: { a: { to: s, path: '/a/60' } } }";
    let shared = gateway(&origin, "{ ttl: 60s }", &auth, calls);
    let own = gateway(&origin, "{ ttl: 60s, key: [host, path, identity] }", &auth, calls);
    let get = |gateway: &Gateway, user: &str| {
        let bearer = format!("Bearer {}", token(json!({ "sub": user })));
        gateway.connect().request("GET", "/x", &[("Authorization", &bearer)], b"")
    };
    for _ in 0..2 {
        for user in (0..50).map(|n| format!("user-{n}")) {
            let answers = [get(&shared, &user), get(&own, &user)];
            assert!(answers.iter().all(|answer| answer.json()["a"]["user"] == *user), "{answers:?}");
            assert!(!status(&answers[0]).contains("hit"), "it is for whoever asks alone");
        }
    }
    assert!((0..50).all(|n| status(&get(&own, &format!("user-{n}"))).contains("hit")));
    // What is said to be for all is, unless it goes by who asks.
    let varied = gateway(&origin, "{}", &auth, "auth: users, compose: { calls: { a: { to: s, path: /vary } } }");
    assert!(!status(&get(&varied, "ada")).contains("stored"));
}

#[test]
fn fields_that_go_along_tell_answers_apart() {
    let origin = service();
    let gateway = gateway(&origin, "{}", "", "compose: { calls: { a: { to: s, path: /a/60, headers: [Accept-Language] } } }");
    let get = |language: &str| gateway.connect().request("GET", "/x", &[("Accept-Language", language)], b"");
    for _ in 0..2 {
        for language in ["de", "en"] {
            assert_eq!(get(language).json()["a"]["language"], language);
        }
    }
    assert!(status(&get("de")).contains("hit") && status(&get("fr")).contains("miss"));
}

#[test]
fn what_comes_from_memory_is_charged_as_all_is() {
    let origin = service();
    let gateway = gateway(
        &origin,
        "{}",
        "rate_limits: { few: { rate: 3/h } }",
        "rate_limits: [few], compose: { calls: { a: { to: s, path: /a/60 } } }",
    );
    let mut client = gateway.connect();
    let told: Vec<_> = (0..4).map(|_| client.get("/x").status).collect();
    assert_eq!((told, origin.seen().len()), (vec![200, 200, 200, 429], 1));
}

#[test]
fn calls_keep_to_the_bound_of_their_service_and_requests_to_the_routes() {
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = Origin::new(move |request| {
        if request.target == "/hold" {
            opened.wait();
        }
        answer(200, &[], b"1")
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}services: {{ s: {{ endpoints: ['{origin}'], max_in_flight: 1 }}, free: {{ endpoints: ['{origin}'] }} }}
routes:
  - {{ path: /hold, max_in_flight: 1, compose: {{ calls: {{ a: {{ to: s, path: /hold }} }} }} }}
  - {{ path: /two, compose: {{ report: true, calls: {{ a: {{ to: s, path: / }}, b: {{ to: free, path: / }} }} }} }}
  - {{ path: /must, compose: {{ calls: {{ a: {{ to: s, path: /, required: true }} }} }} }}
"
    ));
    let mut held = gateway.connect();
    held.send(head("GET", "/hold", &[], 0));
    origin.wait_for(1);
    let two = gateway.get("/two").json();
    assert_eq!((&two["a"], &two["b"], &two["errors"][0]["code"]), (&json!(null), &json!(1), &json!("too_many_in_flight")));
    let must = gateway.get("/must");
    assert_eq!((must.status, must.code(), must.header("retry-after")), (503, "too_many_in_flight".to_string(), Some("1")));
    assert_eq!(gateway.get("/hold").code(), "too_many_in_flight", "the route's own bound");
    gate.open();
    assert_eq!(held.answer_to("GET").json(), json!({ "a": 1 }));
    drop(held);
    gateway.wait_until_idle();
    assert_eq!(gateway.get("/must").status, 200);
}

#[test]
fn what_a_composition_changes_is_forgotten() {
    let origin = Origin::new(|_| answer(200, &[("Cache-Control", "max-age=60")], b"{}"));
    let gateway = Gateway::start(&format!(
        "{LISTENERS}caches: {{ all: {{}} }}
routes:
  - {{ path: /cart, methods: GET, cache: all, to: 'http://{origin}' }}
  - {{ path: /cart, methods: POST, compose: {{ calls: {{ a: {{ to: 'http://{origin}', path: /a, method: POST }} }} }} }}"
    ));
    for _ in 0..2 {
        assert_eq!(gateway.get("/cart").status, 200);
    }
    assert_eq!(origin.seen().len(), 1);
    assert_eq!(gateway.connect().request("POST", "/cart", &[], b"").status, 200);
    assert_eq!(gateway.get("/cart").status, 200);
    // RFC 9111, 4.4.
    assert_eq!(origin.seen().len(), 3);
}
