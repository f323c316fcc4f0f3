//! Those whom somebody else knows: introspection and forward auth.

use crate::kit::{Gateway, Origin, answer, dead_address, in_seconds};
use base64::Engine;
use serde_json::{Value, json};
use std::io::BufRead;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn an_issuer_is_asked_once_for_a_token() {
    let origin = Origin::echo();
    let issuer = Origin::new(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let said = match body.as_str() {
            "token=good%2Dtoken&token_type_hint=access_token" => {
                std::thread::sleep(std::time::Duration::from_millis(200));
                json!({ "active": true, "sub": "ada", "scope": "a b", "exp": in_seconds(60) })
            }
            text if text.contains("old") => json!({ "active": true, "sub": "ada", "exp": in_seconds(-1) }),
            text if text.contains("strange") => return answer(200, &[], b"<html>"),
            text if text.contains("broken") => return answer(500, &[], b""),
            _ => json!({ "active": false }),
        };
        answer(200, &[("Content-Type", "application/json")], said.to_string().as_bytes())
    });
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth:
  sessions: {{ introspection: {{ url: 'http://{issuer}/introspect', client_id: 'a_b.c d:e', client_secret: 'hush-hush+%é', claims_to_headers: {{ sub: X-User }} }} }}
  gone: {{ introspection: {{ url: 'http://{}/' }} }}
routes:
  - {{ path: /, auth: sessions, to: 'http://{origin}' }}
  - {{ path: /c, auth: sessions, require: {{ scopes_all: c }}, to: 'http://{origin}' }}
  - {{ path: /gone, auth: gone, to: 'http://{origin}' }}
",
        dead_address()
    ));
    let ask = |path: &str, token: &str| {
        let answer = gateway.connect().request("GET", path, &[("Authorization", &bearer(token))], b"");
        (
            answer.status,
            if answer.status == 200 {
                answer.json()["headers"]["x-user"][0].as_str().unwrap_or_default().to_string()
            } else {
                answer.code()
            },
        )
    };
    let times = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert_eq!(ask("/", "good-token"), (200, "ada".into()));
                times.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!((times.into_inner(), issuer.seen().len()), (8, 1));
    // RFC 6749, 2.3.1: written as in a form, so that a colon of the name is not the one between the two.
    let basic = base64::engine::general_purpose::STANDARD.encode("a_b.c%20d%3Ae:hush-hush%2B%25%C3%A9");
    assert_eq!(issuer.seen()[0].header("authorization"), Some(&*format!("Basic {basic}")));
    assert_eq!(ask("/c", "good-token"), (403, "forbidden_scope".into()));
    for _ in 0..2 {
        assert_eq!(ask("/", "bad"), (401, "token_inactive".into()));
        assert_eq!(ask("/", "old"), (401, "token_inactive".into()));
    }
    assert_eq!(issuer.seen().len(), 3);
    for token in ["strange", "broken"] {
        assert_eq!(ask("/", token), (503, "auth_unavailable".into()), "{token}");
    }
    assert_eq!(ask("/gone", "good-token"), (503, "auth_unavailable".into()));
    assert_eq!(ask("/", ""), (401, "token_malformed".into()));
    assert_eq!(origin.seen().len(), 8);
    let all = gateway.log().join("\n") + &gateway.ask("/config").text() + &gateway.ask("/status").text();
    assert!(!all.contains("hush-hush") && !all.contains("good-token"), "{all}");
}

#[test]
fn who_waits_in_vain_for_the_answer_to_another_waits_once() {
    // It takes the question and says nothing.
    let issuer = Origin::scripted(|_, stream| stream.fill_buf().map(|_| false));
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth: {{ sessions: {{ introspection: {{ url: 'http://{issuer}/', timeout: 2s }} }} }}
routes: [{{ path: /, auth: sessions, respond: {{}} }}]
"
    ));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = gateway.connect().request("GET", "/", &[("Authorization", "Bearer opaque")], b"");
                assert_eq!((answer.status, answer.code()), (503, "auth_unavailable".into()));
            });
        }
    });
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    // On a loaded machine some may come when the first have been told.
    assert!((1..=2).contains(&issuer.seen().len()), "{:?}", issuer.seen());
}

#[test]
fn another_service_lets_in_or_answers_itself() {
    let origin = Origin::echo();
    let check = Origin::new(|request| match request.header("cookie") {
        Some("session=good") => answer(200, &[("X-User-Id", "ada"), ("X-Not-Copied", "1")], b""),
        None => answer(302, &[("Location", "https://login.example/"), ("Set-Cookie", "a=b")], b"go there"),
        _ => answer(403, &[("Content-Type", "text/plain")], b"no"),
    });
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth:
  legacy: {{ forward: {{ url: 'http://{check}/check', send: [Cookie], copy: [X-User-Id], identity: X-User-Id }} }}
  gone: {{ forward: {{ url: 'http://{}/', timeout: 500ms }} }}
routes:
  - {{ path: /*, auth: legacy, to: 'http://{origin}' }}
  - {{ path: /gone, auth: gone, to: 'http://{origin}' }}
",
        dead_address()
    ));
    let ask = |path: &str, fields: &[(&str, &str)]| gateway.connect().request("POST", path, fields, b"body");
    let told = ask("/a?b=c", &[("Cookie", "session=good"), ("X-User_Id", "root"), ("Authorization", "x")]);
    let seen = &told.json()["headers"];
    assert_eq!(
        (told.status, &seen["x-user-id"], &seen["x-user_id"], &seen["x-not-copied"]),
        (200, &json!(["ada"]), &Value::Null, &Value::Null)
    );
    assert_eq!((&seen["cookie"], told.json()["body"].as_str()), (&json!(["session=good"]), Some("body")));
    let asked = &check.seen()[0];
    assert_eq!(
        (asked.header("x-forwarded-method"), asked.header("x-forwarded-uri"), asked.header("authorization")),
        (Some("POST"), Some("/a?b=c"), None)
    );
    assert_eq!((&*asked.target, &*asked.method, asked.body.len()), ("/check", "GET", 0));
    let told = ask("/", &[]);
    assert_eq!(
        (told.status, told.header("location"), told.header("set-cookie"), &*told.text()),
        (302, Some("https://login.example/"), Some("a=b"), "go there")
    );
    let told = ask("/", &[("Cookie", "session=bad")]);
    assert_eq!((told.status, &*told.text()), (403, "no"));
    let told = ask("/gone", &[("Cookie", "session=good")]);
    assert_eq!((told.status, told.code()), (503, "auth_unavailable".into()));
    assert_eq!(origin.seen().len(), 1);
    let line = &gateway.access_log(4)[0];
    assert_eq!((&line["identity"], &line["auth"]), (&json!("ada"), &json!("legacy")));
}
