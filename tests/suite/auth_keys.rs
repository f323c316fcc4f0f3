//! API keys and passwords: the commands that make entries, and the gateway that reads them.

use crate::kit::{Gateway, H2Client, Origin, eventually, frontdesk, run_async};
use base64::Engine;
use http::Method;
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs a command with a line on its standard input, and answers what it printed.
#[track_caller]
fn made(arguments: &[&str], input: &str) -> String {
    let mut child = frontdesk().args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the command");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("to write");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("a text")
}

/// A new key, and its entry.
fn new_key(arguments: &[&str]) -> (String, String) {
    let text = made(&[&["hash-key"], arguments].concat(), "");
    let (comment, entry) = text.split_once('\n').expect("two lines");
    (comment.rsplit(' ').next().expect("a key").to_string(), entry.to_string())
}

#[test]
fn entries_are_made_for_machines_too() {
    let json = |arguments: &[&str], input| serde_json::from_str::<serde_json::Value>(&made(arguments, input)).expect("JSON");
    let new = json(&["hash-key", "shop", "--scope", "read", "--json"], "");
    assert_eq!((&new["entry"]["id"], &new["entry"]["scopes"][0]), (&"shop".into(), &"read".into()));
    // The same key has the same hash.
    let again = json(&["hash-key", "shop", "--stdin", "--json"], new["key"].as_str().expect("a key"));
    assert_eq!((&again["entry"]["hash"], again.get("key")), (&new["entry"]["hash"], None));
    let ada = json(&["hash-password", "ada", "--json"], "correct horse");
    assert!(ada["entry"]["hash"].as_str().is_some_and(|hash| hash.starts_with("$argon2id$")), "{ada}");
}

#[test]
fn keys_open_a_route_and_end_here() {
    let origin = Origin::echo();
    let folder = tempfile::tempdir().expect("a folder");
    let (first, first_entry) = new_key(&["shop", "--scope", "orders.write"]);
    let (second, second_entry) = new_key(&["shop"]);
    let (old, old_entry) = new_key(&["old", "--expires", "2020-01-01"]);
    let own = made(&["hash-key", "legacy", "--stdin"], "a-long-key-of-another-maker\n");
    assert!(!own.contains("another") && own.lines().count() == 1, "{own}");
    let like_it = made(&["hash-key", "like-it", "--stdin"], "a-long-key-that-begins-alike");
    let file = folder.path().join("keys.yaml");
    std::fs::write(&file, [&*first_entry, &second_entry, &old_entry, &own, &like_it].concat()).expect("the keys");
    let gateway = Gateway::start_in(
        folder,
        &format!(
            "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth:
  field: {{ api_key: {{ header: X-Api-Key, keys: DIR/keys.yaml }} }}
  query: {{ api_key: {{ query: key, keys: DIR/keys.yaml }} }}
  cookie: {{ api_key: {{ cookie: key, keys: DIR/keys.yaml }} }}
routes:
  - {{ path: /field, auth: field, to: 'http://{origin}' }}
  - {{ path: /write, auth: field, require: {{ scopes_all: orders.write }}, to: 'http://{origin}' }}
  - {{ path: /query, auth: query, to: 'http://{origin}' }}
  - {{ path: /cookie, auth: cookie, to: 'http://{origin}' }}
"
        ),
    );
    let ask = |target: &str, fields: &[(&str, &str)]| gateway.connect().request("GET", target, fields, b"");
    for key in [&*first, &second, "a-long-key-of-another-maker", "a-long-key-that-begins-alike"] {
        let answer = ask("/field", &[("X-Api-Key", key)]);
        assert_eq!((answer.status, &answer.json()["headers"]["x-api-key"]), (200, &Value::Null));
    }
    let answer = ask(&format!("/query?a=1&key={first}"), &[]);
    assert_eq!((answer.status, &answer.json()["target"]), (200, &json!("/query?a=1")));
    let answer = ask("/cookie", &[("Cookie", &format!("key={first}"))]);
    assert_eq!((answer.status, &answer.json()["headers"]["cookie"]), (200, &Value::Null));
    // One that is no ASCII is no reason to overlook the others, nor to pass on what ends here; nor are several fields.
    let answer = ask("/cookie", &[("Cookie", &format!("name=é; key={first}; a=b"))]);
    assert_eq!((answer.status, &answer.json()["headers"]["cookie"]), (200, &json!(["name=é; a=b"])));
    let answer = ask("/cookie", &[("Cookie", "name=é"), ("Cookie", &format!("key={first}"))]);
    assert_eq!((answer.status, &answer.json()["headers"]["cookie"]), (200, &json!(["name=é"])));
    let answer = run_async(async {
        let (client, key) = (H2Client::connect(gateway.address()).await, format!("key={first}"));
        client.request(Method::GET, "/cookie", &[("cookie", "a=b"), ("cookie", &key), ("cookie", "c=d")], b"").await
    });
    assert_eq!((answer.status, &answer.json()["headers"]["cookie"]), (200, &json!(["a=b; c=d"])));
    assert_eq!(ask("/write", &[("X-Api-Key", &first)]).status, 200);
    assert_eq!(ask("/write", &[("X-Api-Key", &second)]).code(), "forbidden_scope");
    assert_eq!(ask("/field", &[("X-Api-Key", &old)]).code(), "key_expired");
    let seen = origin.seen().len();
    let refused = ask("/field", &[("X-Api-Key", &format!("{first}x"))]);
    assert_eq!(
        (refused.status, refused.code(), refused.header("www-authenticate")),
        (401, "key_unknown".into(), Some("ApiKey realm=\"field\""))
    );
    for (fields, code) in [
        (&[("X-Api-Key", "")][..], "key_unknown"),
        (&[("X-Api-Key", "a-long-key-that-nobody-has")], "key_unknown"),
        (&[("X-Api-Key", &*first), ("X-Api-Key", &*first)], "key_unknown"),
        (&[("X-Other", &*first)], "unauthenticated"),
    ] {
        assert_eq!(ask("/field", fields).code(), code, "{fields:?}");
    }
    assert_eq!(origin.seen().len(), seen);
    // The file changes while the gateway runs: one key goes, one comes.
    let (third, third_entry) = new_key(&["third"]);
    std::fs::write(&file, [&*first_entry, &third_entry].concat()).expect("the keys");
    eventually("the new keys", || (ask("/field", &[("X-Api-Key", &third)]).status == 200).then_some(()));
    assert_eq!(ask("/field", &[("X-Api-Key", &second)]).code(), "key_unknown");
    // One that can't be read leaves what was there.
    std::fs::write(&file, "- { id: x }\n").expect("the keys");
    eventually("a line in the log", || {
        ask("/field", &[("X-Api-Key", &third)]);
        gateway.log().iter().any(|line| line.contains("not read again")).then_some(())
    });
    assert_eq!(ask("/field", &[("X-Api-Key", &third)]).status, 200);
    // One that lists nobody takes the last key away, and is no mistake.
    for nobody in ["", "# revoked\n"] {
        std::fs::write(&file, &third_entry).expect("the keys");
        eventually("a key", || (ask("/field", &[("X-Api-Key", &third)]).status == 200).then_some(()));
        std::fs::write(&file, nobody).expect("the keys");
        eventually("no key", || (ask("/field", &[("X-Api-Key", &third)]).status == 401).then_some(()));
    }
    let lines = gateway.access_log(5);
    assert_eq!((&lines[0]["identity"], &lines[0]["auth"]), (&json!("shop"), &json!("field")));
    assert!(!lines.iter().any(|line| line.to_string().contains(&first)), "{lines:?}");
}

#[test]
fn names_and_passwords() {
    let origin = Origin::echo();
    let folder = tempfile::tempdir().expect("a folder");
    let ada = made(&["hash-password", "ada"], "correct horse\n");
    assert!(ada.starts_with("- {\"hash\":\"$argon2id$") && !ada.contains("horse"), "{ada}");
    std::fs::write(folder.path().join("users.yaml"), &ada).expect("the users");
    let gateway = Gateway::start_in(
        folder,
        &format!(
            "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth: {{ staff: {{ basic: {{ users: DIR/users.yaml, realm: the staff }} }} }}
routes: [{{ path: /*, auth: staff, to: 'http://{origin}', request: {{ headers: {{ set: {{ X-Who: '${{identity}}' }} }} }} }}]
"
        ),
    );
    let of = |text: &str| format!("bASIC {}", base64::engine::general_purpose::STANDARD.encode(text));
    let ask = |field: &str| gateway.connect().request("GET", "/", &[("Authorization", field)], b"");
    for _ in 0..2 {
        let answer = ask(&of("ada:correct horse"));
        let seen = &answer.json()["headers"];
        assert_eq!((answer.status, &seen["x-who"], &seen["authorization"]), (200, &json!(["ada"]), &Value::Null));
    }
    let started = std::time::Instant::now();
    for wrong in [of("ada:wrong"), of("bob:correct horse"), of("ada"), of(""), "Basic !".into(), "Basic".into(), "Bearer x".into()] {
        let answer = ask(&wrong);
        assert_eq!((answer.status, answer.code()), (401, "unauthenticated".to_string()), "{wrong}");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"the staff\", charset=\"UTF-8\""));
    }
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
    assert_eq!(origin.seen().len(), 2);
    // Whoever fails on is told later and later; whoever gets in is not.
    let wait = eventually("a refusal that waits", || {
        let started = std::time::Instant::now();
        assert_eq!(ask(&of("ada:guess")).status, 401);
        (started.elapsed().as_millis() >= 900).then(|| started.elapsed())
    });
    let started = std::time::Instant::now();
    assert_eq!(ask(&of("ada:correct horse")).status, 200);
    assert!(started.elapsed() < wait, "{:?}", started.elapsed());
    // Another password, and the remembered one is forgotten.
    std::fs::write(gateway.file("users.yaml"), made(&["hash-password", "ada"], "another")).expect("the users");
    eventually("the new password", || (ask(&of("ada:another")).status == 200).then_some(()));
    assert_eq!(ask(&of("ada:correct horse")).status, 401);
    std::fs::write(gateway.file("users.yaml"), "").expect("the users");
    eventually("no user", || (ask(&of("ada:another")).status == 401).then_some(()));
}

#[test]
fn a_scope_that_is_taken_from_a_user_is_gone_for_one_who_is_remembered_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let entry = made(&["hash-password", "ada"], "correct horse");
    let with = |scope: &str| entry.replace("- {", &format!("- {{\"scopes\":[{scope}],"));
    std::fs::write(folder.path().join("users.yaml"), with("\"orders.write\"")).expect("the users");
    let gateway = Gateway::start_in(
        folder,
        "
listeners: [{ bind: 127.0.0.1:0 }]
auth: { staff: { basic: { users: DIR/users.yaml } } }
routes: [{ path: /*, auth: staff, require: { scopes_all: orders.write }, respond: {} }]
",
    );
    let field = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("ada:correct horse"));
    let ask = || gateway.connect().request("GET", "/", &[("Authorization", &field)], b"");
    assert_eq!(ask().status, 200);
    std::fs::write(gateway.file("users.yaml"), with("")).expect("the users");
    eventually("a user without the scope", || (ask().status == 403).then_some(()));
    assert_eq!(ask().code(), "forbidden_scope");
    std::fs::write(gateway.file("users.yaml"), with("\"orders.write\"")).expect("the users");
    eventually("the scope again", || (ask().status == 200).then_some(()));
}

#[test]
fn who_guesses_from_one_address_keeps_nobody_else_out() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("users.yaml"), made(&["hash-password", "ada"], "correct horse")).expect("the users");
    let gateway = Gateway::start_in(
        folder,
        "
listeners: [{ bind: 127.0.0.1:0 }]
server: { trusted_proxies: [127.0.0.1] }
auth: { staff: { basic: { users: DIR/users.yaml } } }
routes: [{ path: /*, auth: staff, respond: {} }]
",
    );
    let ask = |ip: &str, password: &str| {
        let field = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("ada:{password}")));
        gateway.connect().request("GET", "/", &[("X-Forwarded-For", ip), ("Authorization", &field)], b"").status
    };
    // More than may wait for their turn, all at once.
    let (guesses, told) = (100, AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for n in 0..guesses {
            let (ask, told) = (&ask, &told);
            scope.spawn(move || {
                let status = ask("10.0.0.1", &format!("guess {n}"));
                assert!([401, 503].contains(&status), "{status}");
                told.fetch_add(1, Ordering::Relaxed);
            });
        }
        // A password is hashed once; the wrong ones are few enough to be told at once.
        assert_eq!(ask("10.0.0.2", "correct horse"), 200);
        for n in 0..8 {
            assert_eq!(ask("10.0.0.2", &format!("mistyped {n}")), 401);
        }
        eventually("answers to all guesses", || (told.load(Ordering::Relaxed) == guesses).then_some(()));
    });
}

#[test]
fn defaults_hold_for_every_route_and_whoever_is_recognised_counts_as_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let ((shop, shop_entry), (cook, cook_entry)) = (new_key(&["shop"]), new_key(&["cook"]));
    std::fs::write(folder.path().join("keys.yaml"), shop_entry + &cook_entry).expect("the keys");
    let gateway = Gateway::start_in(
        folder,
        "
listeners: [{ bind: 127.0.0.1:0 }]
auth: { partners: { api_key: { header: X-Api-Key, keys: DIR/keys.yaml } } }
rate_limits: { each: { rate: 2/1h, by: identity }, other: { rate: 1/1h, by: identity } }
defaults: { auth: [partners], rate_limits: [each] }
routes:
  - { path: /x, respond: { body: '${identity}' } }
  - { path: /own, rate_limits: [other], respond: {} }
  - { path: /free, rate_limits: [], respond: {} }
  - { path: /open, auth: [anonymous], respond: {} }
",
    );
    let ask = |target: &str, key: &str| gateway.connect().request("GET", target, &[("X-Api-Key", key)], b"");
    assert_eq!(gateway.get("/x").status, 401);
    assert_eq!((ask("/x", &shop).text(), ask("/x", &shop).status), ("shop".to_string(), 200));
    let refused = ask("/x", &shop);
    assert_eq!((refused.status, refused.code()), (429, "rate_limited".to_string()));
    assert_eq!(ask("/x", &cook).text(), "cook");
    // A refusal for want of a key is charged to nobody; who comes without a name counts by address.
    assert_eq!([gateway.get("/open").status, gateway.get("/open").status, gateway.get("/open").status], [200, 200, 429]);
    assert_eq!([ask("/own", &shop).status, ask("/own", &shop).status, ask("/own", &cook).status], [200, 429, 200]);
    assert_eq!([0; 4].map(|_| ask("/free", &shop).status), [200; 4]);
    let line = gateway.access_log(15).into_iter().find(|line| line["status"] == 429 && line["path"] == "/x").expect("a line");
    assert_eq!((&line["identity"], &line["limit"], &line["auth"]), (&json!("shop"), &json!("each"), &json!("partners")));
}
