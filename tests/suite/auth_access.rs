//! Lists of methods, anonymous, scopes, claims, addresses, and what becomes of who was recognised.

use crate::kit::{Gateway, Origin, SECRET, eventually, token};
use serde_json::{Value, json};

fn bearer(claims: Value) -> String {
    format!("Bearer {}", token(claims))
}

#[test]
fn several_issuers_and_optional_tokens() {
    let origin = Origin::echo();
    let other = SECRET.replace('a', "b");
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth:
  one: {{ jwt: {{ secret: '{SECRET}', issuer: one }} }}
  two: {{ jwt: {{ secret: '{other}', issuer: two }} }}
  any: {{ jwt: {{ secret: '{SECRET}' }} }}
routes:
  - {{ path: /both, auth: [one, two], to: 'http://{origin}' }}
  - {{ path: /optional, auth: [one, anonymous], to: 'http://{origin}', request: {{ headers: {{ set: {{ X-Who: '<${{identity}}>' }} }} }} }}
  - {{ path: /strict, auth: [one, anonymous], require: {{ scopes_all: a }}, to: 'http://{origin}' }}
  - {{ path: /open, auth: anonymous, to: 'http://{origin}' }}
  - {{ path: /fallback, auth: [one, any], to: 'http://{origin}' }}
"
    ));
    let of = |issuer: &str, secret: &str| {
        let claims = json!({ "iss": issuer, "sub": "ada", "exp": crate::kit::in_seconds(60) });
        format!("Bearer {}", crate::kit::hs256(secret, r#"{"alg":"HS256"}"#, &claims.to_string()))
    };
    let mut client = gateway.connect();
    let mut ask = |path: &str, token: Option<&str>| {
        let fields: Vec<(&str, &str)> = token.map(|token| ("Authorization", token)).into_iter().collect();
        let answer = client.request("GET", path, &fields, b"");
        if answer.status == 200 { (200, String::new()) } else { (answer.status, answer.code()) }
    };
    let refused = |code: &str| (401, code.to_string());
    for _ in 0..2 {
        assert_eq!(ask("/both", Some(&of("one", SECRET))).0, 200);
        assert_eq!(ask("/both", Some(&of("two", &other))).0, 200);
        assert_eq!(ask("/both", Some(&of("one", &other))), refused("token_signature"));
        assert_eq!(ask("/both", Some(&of("three", SECRET))), refused("token_issuer"));
        assert_eq!(ask("/both", None), refused("unauthenticated"));
        assert_eq!(ask("/optional", None).0, 200);
        assert_eq!(ask("/optional", Some(&of("one", SECRET))).0, 200);
        assert_eq!(ask("/optional", Some("Bearer x")), refused("token_malformed"));
        assert_eq!(ask("/strict", None), refused("unauthenticated"));
        assert_eq!(ask("/open", Some("Bearer x")).0, 200);
        assert_eq!(ask("/fallback", Some(&of("else", SECRET))).0, 200);
    }
    let seen = origin.seen();
    let who: Vec<_> = seen.iter().filter(|request| request.target == "/optional").filter_map(|request| request.header("x-who")).collect();
    assert_eq!(who, ["<>", "<ada>", "<>", "<ada>"]);
    // Nobody asked for this one, so it goes on as it came.
    assert!(seen.iter().any(|request| request.target == "/open" && request.header("authorization") == Some("Bearer x")));
}

#[test]
fn scopes_claims_and_addresses() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ trusted_proxies: [127.0.0.1] }}
auth: {{ c: {{ jwt: {{ secret: '{SECRET}' }} }} }}
routes:
  - {{ path: /all, auth: c, require: {{ scopes_all: [read, write] }}, to: 'http://{origin}' }}
  - {{ path: /any, auth: c, require: {{ scopes_any: [read, write] }}, to: 'http://{origin}' }}
  - {{ path: /claims, auth: c, require: {{ claims: {{ plan: [gold, silver], realm.roles: {{ contains: boss }}, verified: true }} }}, to: 'http://{origin}' }}
  - {{ path: /ip, ip: {{ allow: [10.0.0.0/8, 2001:db8::/32], deny: [10.6.6.6] }}, to: 'http://{origin}' }}
  - {{ path: /texts, auth: c, respond: {{ body: '${{identity}} ${{claim.plan}} ${{claim.realm.roles}} ${{claim.none}}.' }} }}
"
    ));
    let mut client = gateway.connect();
    let mut ask = |path: &str, fields: &[(&str, &str)]| {
        let answer = client.request("GET", path, fields, b"");
        (if answer.status == 200 { answer.text() } else { answer.code() }, answer)
    };
    for (path, claims, expected) in [
        ("/all", json!({ "scope": "write read" }), ""),
        ("/all", json!({ "scope": ["write", "read"] }), ""),
        ("/all", json!({ "scp": ["write"], "scope": "read" }), ""),
        ("/all", json!({ "scope": "write" }), "forbidden_scope"),
        ("/all", json!({}), "forbidden_scope"),
        ("/any", json!({ "scp": "write" }), ""),
        ("/any", json!({ "scope": "reads" }), "forbidden_scope"),
        ("/claims", json!({ "plan": "silver", "realm": { "roles": ["cook", "boss"] }, "verified": true }), ""),
        ("/claims", json!({ "plan": "silver", "realm": { "roles": ["cook"] }, "verified": true }), "forbidden_claim"),
        ("/claims", json!({ "plan": "free", "realm": { "roles": ["boss"] }, "verified": true }), "forbidden_claim"),
        ("/claims", json!({ "plan": "gold", "realm": { "roles": ["boss"] }, "verified": "no" }), "forbidden_claim"),
    ] {
        let (code, answer) = ask(path, &[("Authorization", &bearer(claims.clone()))]);
        match expected {
            "" => assert_eq!(answer.status, 200, "{path} {claims}"),
            expected => assert_eq!((answer.status, &*code), (403, expected), "{path} {claims}"),
        }
    }
    let (_, answer) = ask("/all", &[("Authorization", &bearer(json!({})))]);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"insufficient_scope\", scope=\"read write\""));
    // The operator reads who it was that may not.
    let id = answer.header("x-request-id").expect("an id");
    let lines = gateway.access_log(12);
    let line = lines.iter().find(|line| line["request_id"] == id).expect("a line");
    assert_eq!((&line["identity"], &line["auth"]), (&"ada".into(), &"c".into()), "{line}");
    for (client, code) in [
        ("10.1.2.3", None),
        ("::ffff:10.1.2.3", None),
        ("2001:db8::1", None),
        ("10.6.6.6", Some("forbidden_ip")),
        ("::ffff:10.6.6.6", Some("forbidden_ip")),
        ("192.0.2.1", Some("forbidden_ip")),
    ] {
        let (said, answer) = ask("/ip", &[("X-Forwarded-For", client)]);
        assert_eq!((answer.status, code.map_or("", |code| code)), if code.is_some() { (403, &*said) } else { (200, "") }, "{client}");
    }
    let (text, _) = ask("/texts", &[("Authorization", &bearer(json!({ "plan": "gold", "realm": { "roles": ["a", "b"] } })))]);
    assert_eq!(text, "ada gold a b .");
}

#[test]
fn explain_tells_what_is_asked_and_what_a_token_finds() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth: {{ one: {{ jwt: {{ secret: '{SECRET}', issuer: one }} }}, two: {{ jwt: {{ secret: '{SECRET}', issuer: two }} }} }}
routes:
  - {{ path: /a, auth: [one, two], ip: {{ deny: 10.0.0.1 }}, require: {{ scopes_all: [read] }}, cors: {{ origins: '*' }}, respond: {{}} }}
  - {{ path: /b, respond: {{}} }}
"
    )
    .replace("deny: 10.0.0.1", "deny: [10.0.0.1]");
    std::fs::write(file.path(), text).expect("a file");
    let explain = |path: &str, more: &[&str]| {
        let mut command = crate::kit::frontdesk();
        command.args(["explain", "--json", "-c"]).arg(file.path()).args(["GET", path]).args(more);
        let output = crate::kit::run(&mut command);
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    let of = |claims: Value| format!("Authorization: {}", bearer(claims));
    let told = explain("/a", &["-H", &of(json!({ "iss": "two", "scope": "read" }))]);
    assert_eq!(told["auth"]["methods"], json!(["one", "two"]));
    assert_eq!(told["auth"]["requires"], json!(["all scopes of read", "no address of 10.0.0.1/32"]));
    assert_eq!((&told["auth"]["verdict"], &told["outcome"]["answered"]["status"]), (&json!("two: ada"), &json!(200)));
    for (claims, verdict) in [
        (json!({ "iss": "two" }), "two: forbidden_scope"),
        (json!({ "iss": "one", "scope": "read", "exp": 1 }), "one: token_expired"),
        (json!({ "iss": "three" }), "one: token_issuer"),
    ] {
        let told = explain("/a", &["-H", &of(claims)]);
        assert_eq!(told["auth"]["verdict"], verdict);
        assert!(verdict.ends_with(told["outcome"]["refused"]["code"].as_str().expect("a code")), "{told}");
    }
    assert_eq!(explain("/a", &[])["auth"]["verdict"], "unauthenticated");
    assert_eq!(explain("/a", &["--client-ip", "10.0.0.1"])["auth"]["verdict"], "forbidden_ip");
    assert!(explain("/b", &[])["auth"].is_null());
    let mut command = crate::kit::frontdesk();
    command.args(["explain", "-c"]).arg(file.path()).args(["GET", "/a", "-H", &of(json!({ "iss": "one" }))]);
    let told = String::from_utf8_lossy(&crate::kit::run(&mut command).stdout).into_owned();
    assert!(
        told.contains("it asks for all scopes of read, no address of 10.0.0.1/32, one of one, two\n  and finds  one: forbidden_scope\n"),
        "{told}"
    );
}

#[test]
fn a_name_gets_the_same_version_from_any_address() {
    let (a, b) = (Origin::fixed("a"), Origin::fixed("b"));
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ trusted_proxies: [127.0.0.1] }}
auth: {{ c: {{ jwt: {{ secret: '{SECRET}' }} }} }}
services: {{ a: {{ endpoints: ['{}'] }}, b: {{ endpoints: ['{}'] }} }}
routes: [{{ path: /, auth: c, to: [{{ service: a, weight: 1 }}, {{ service: b, weight: 1 }}] }}]
",
        a, b
    ));
    let mut client = gateway.connect();
    let mut versions = std::collections::HashSet::new();
    for name in ["ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal", "ida", "joe"] {
        let field = bearer(json!({ "sub": name }));
        let mut of = |address: &str| client.request("GET", "/", &[("Authorization", &field), ("X-Forwarded-For", address)], b"").text();
        let first = of("192.0.2.1");
        for n in 2..8 {
            assert_eq!(of(&format!("198.51.100.{n}")), first);
        }
        versions.insert(first);
    }
    assert_eq!(versions.len(), 2);
    eventually("the log", || (gateway.access_log(70).len() == 70).then_some(()));
}
