//! Keys that an issuer publishes: rotation, outage, discovery.

use crate::kit::{Gateway, Origin, Signer, answer, dead_address, eventually, in_seconds};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// An issuer whose documents can be changed; nothing there is an outage.
struct Issuer {
    origin: Origin,
    keys: Arc<Mutex<Option<Value>>>,
}

impl Issuer {
    fn new() -> Issuer {
        Issuer::called("")
    }
    /// By another name than its own URL.
    fn called(other: &'static str) -> Issuer {
        let keys = Arc::new(Mutex::new(None));
        let (shared, own) = (keys.clone(), Arc::new(Mutex::new(String::new())));
        let name = own.clone();
        let origin = Origin::new(move |request| {
            let url = name.lock().expect("the name").clone();
            let issuer = if other.is_empty() { &*url } else { other };
            match (&*request.target, &*shared.lock().expect("the keys")) {
                (_, None) => answer(500, &[], b""),
                ("/.well-known/openid-configuration", Some(_)) => {
                    answer(200, &[], json!({ "issuer": issuer, "jwks_uri": format!("{url}/keys") }).to_string().as_bytes())
                }
                ("/keys", Some(keys)) => answer(200, &[], json!({ "keys": keys }).to_string().as_bytes()),
                _ => answer(404, &[], b""),
            }
        });
        *own.lock().expect("the name") = format!("http://{origin}");
        Issuer { origin, keys }
    }
    fn publish(&self, keys: &[(&Signer, &str)]) {
        *self.keys.lock().expect("the keys") = Some(keys.iter().map(|(signer, kid)| signer.jwk(kid)).collect());
    }
    fn fail(&self) {
        *self.keys.lock().expect("the keys") = None;
    }
    fn fetches(&self) -> usize {
        self.origin.seen().iter().filter(|request| request.target == "/keys").count()
    }
}

fn with(jwt: &str, more: &str) -> String {
    format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth: {{ c: {{ jwt: {jwt} }} }}
routes:
  - {{ path: /*, auth: c, respond: {{ body: in }} }}
  - {{ path: /open, respond: {{ body: {more} }} }}
"
    )
}

fn ask(gateway: &Gateway, token: &str) -> String {
    let answer = gateway.connect().request("GET", "/", &[("Authorization", &format!("Bearer {token}"))], b"");
    if answer.status == 200 { "in".to_string() } else { answer.code() }
}

#[test]
fn keys_rotate_and_go_on_while_the_issuer_is_down() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (Signer::new(folder.path(), "old", "ES256"), Signer::new(folder.path(), "new", "RS256"));
    let issuer = Issuer::new();
    issuer.publish(&[(&old, "old")]);
    let yaml = with(&format!("{{ jwks: 'http://{}/keys' }}", issuer.origin), "one");
    let gateway = Gateway::start(&yaml);
    assert_eq!(gateway.ask("/readyz").status, 200);
    let claims = json!({ "sub": "ada", "exp": in_seconds(600) });
    let (by_old, by_new) = (old.sign("ES256", Some("old"), &claims), new.sign("RS256", Some("new"), &claims));
    assert_eq!((&*ask(&gateway, &by_old), issuer.fetches()), ("in", 1));
    let status = gateway.ask("/status").json();
    assert!(status["issuers"][0]["age_seconds"].is_u64() && status["issuers"][0]["error"].is_null(), "{status}");
    assert!(gateway.ask("/metrics").text().contains("frontdesk_jwks_age_seconds{issuer=\"http://"));
    // The issuer is down: what is known goes on, what is not is refused.
    issuer.fail();
    eventually("an outage that is known", || {
        assert_eq!(ask(&gateway, &by_new), "token_key_unknown");
        assert_eq!(ask(&gateway, &by_old), "in");
        gateway.ask("/status").json()["issuers"][0]["error"].is_string().then_some(())
    });
    // It comes back with another key, which a token asks for; the old one is gone, and what it signed.
    issuer.publish(&[(&new, "new")]);
    eventually("the new key", || (ask(&gateway, &by_new) == "in").then_some(()));
    assert_eq!(ask(&gateway, &by_old), "token_key_unknown");
    // A flood of made-up names makes no flood of fetches.
    let before = issuer.fetches();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (gateway, new, claims) = (&gateway, &new, &claims);
            scope.spawn(move || {
                (0..25)
                    .for_each(|n| assert_eq!(ask(gateway, &new.sign("RS256", Some(&format!("{thread}-{n}")), claims)), "token_key_unknown"))
            });
        }
    });
    assert!(issuer.fetches() - before <= 3, "{}", issuer.fetches() - before);
    // Another configuration has the same keys without asking again.
    let before = issuer.fetches();
    assert!(gateway.reload(&yaml.replace("one", "two")));
    assert_eq!((&*ask(&gateway, &by_new), issuer.fetches()), ("in", before));
}

#[test]
fn discovery_names_the_keys_and_the_issuer() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = Signer::new(folder.path(), "key", "EdDSA");
    let issuer = Issuer::new();
    issuer.publish(&[(&key, "k")]);
    let url = format!("http://{}", issuer.origin);
    let gateway = Gateway::start(&with(&format!("{{ oidc: '{url}' }}"), "one"));
    let of = |issuer: &str| key.sign("EdDSA", Some("k"), &json!({ "iss": issuer, "exp": in_seconds(60) }));
    assert_eq!(ask(&gateway, &of(&url)), "in");
    assert_eq!(ask(&gateway, &of(&format!("{url}/"))), "in");
    assert_eq!(ask(&gateway, &of("http://other")), "token_issuer");
    // By another name than the URL that it is reached at, if the operator says so.
    let issuer = Issuer::called("https://public.example");
    issuer.publish(&[(&key, "k")]);
    let url = format!("http://{}", issuer.origin);
    let gateway = Gateway::start(&with(&format!("{{ oidc: '{url}', issuer: [https://public.example, http://old] }}"), "one"));
    assert_eq!([ask(&gateway, &of("https://public.example")), ask(&gateway, &of(&url))], ["in", "token_issuer"]);
}

#[test]
fn a_document_of_another_issuer_is_not_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = Signer::new(folder.path(), "key", "EdDSA");
    let issuer = Issuer::called("https://public.example");
    issuer.publish(&[(&key, "k")]);
    let more = ["", ", issuer: https://other.example"];
    let gateways = more.map(|more| {
        let yaml = with(&format!("{{ oidc: 'http://{}'{more} }}", issuer.origin), "one");
        std::thread::spawn(move || Gateway::start(&yaml))
    });
    for gateway in gateways.map(|gateway| gateway.join().expect("a gateway")) {
        gateway.wait_for_log("its configuration is another issuer's");
        let token = key.sign("EdDSA", Some("k"), &json!({ "iss": "https://public.example", "exp": in_seconds(60) }));
        assert_eq!(ask(&gateway, &token), "auth_unavailable");
    }
}

#[test]
fn a_key_that_is_new_right_after_the_start_is_fetched_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (Signer::new(folder.path(), "old", "ES256"), Signer::new(folder.path(), "new", "ES256"));
    let issuer = Issuer::new();
    issuer.publish(&[(&old, "old")]);
    let gateway = Gateway::start(&with(&format!("{{ jwks: 'http://{}/keys' }}", issuer.origin), "one"));
    issuer.publish(&[(&new, "new")]);
    let by_new = new.sign("ES256", Some("new"), &json!({ "exp": in_seconds(60) }));
    assert_eq!((&*ask(&gateway, &by_new), issuer.fetches()), ("in", 2));
}

#[test]
fn an_issuer_that_was_never_reached_is_unavailable_and_not_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = Signer::new(folder.path(), "key", "ES256");
    let yaml = with(&format!("{{ jwks: 'http://{}/keys' }}", dead_address()), "one");
    let started = std::time::Instant::now();
    let gateway = Gateway::start(&yaml);
    assert!(started.elapsed().as_secs() >= 9, "readiness waits for the keys: {:?}", started.elapsed());
    let answer = gateway.connect().request(
        "GET",
        "/",
        &[("Authorization", &format!("Bearer {}", key.sign("ES256", None, &json!({ "exp": in_seconds(60) }))))],
        b"",
    );
    assert_eq!((answer.status, answer.code(), answer.header("retry-after")), (503, "auth_unavailable".to_string(), Some("1")));
    assert_eq!(gateway.get("/open").status, 200);
    assert_eq!(gateway.get("/").code(), "unauthenticated");
}

#[test]
fn an_issuer_is_named_without_what_lets_the_gateway_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = Signer::new(folder.path(), "key", "ES256");
    let keys = json!({ "keys": [key.jwk("k")] }).to_string();
    let origin = Origin::new(move |_| answer(200, &[], keys.as_bytes()));
    let yaml = with(&format!("{{ jwks: 'http://me:pass-word@{origin}/keys?key=of-mine' }}"), "one");
    let gateway = Gateway::start(&yaml);
    let seen = origin.seen().pop().expect("a request");
    assert_eq!((&*seen.target, seen.header("authorization")), ("/keys?key=of-mine", Some("Basic bWU6cGFzcy13b3Jk")));
    gateway.wait_for_log(&format!("keys of http://{origin}/keys: here"));
    assert!(!gateway.reload(&yaml.replace("jwks: 'http:", "jwkss: 1, jwks: 'ftp:")));
    for (place, text) in [
        ("/config", gateway.ask("/config").text()),
        ("/status", gateway.ask("/status").text()),
        ("/metrics", gateway.ask("/metrics").text()),
        ("the error log", gateway.log().join("\n")),
    ] {
        assert!(text.contains(&format!("http://{origin}/keys")), "{place}: {text}");
        assert!(!text.contains("pass-word") && !text.contains("of-mine"), "{place}: {text}");
    }
}
