//! Signed tokens.

use crate::kit::{Client, Gateway, Origin, SECRET, Signer, base64url, eventually, frontdesk, hs256, in_seconds, run, token};
use serde_json::{Value, json};

/// A gateway whose route `/` asks for a token as `jwt` says.
fn with(jwt: &str, origin: &Origin) -> Gateway {
    Gateway::start(&yaml(jwt, origin))
}

fn yaml(jwt: &str, origin: &Origin) -> String {
    format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth: {{ customers: {{ jwt: {jwt} }} }}
routes: [{{ name: r, path: /*, auth: [customers], to: 'http://{origin}' }}]
"
    )
}

fn shared() -> String {
    format!("{{ secret: '{SECRET}' }}")
}

/// The status of a request with a token, and the refusal's code.
#[track_caller]
fn ask(client: &mut Client, token: &str) -> (u16, String) {
    let answer = client.request("GET", "/x", &[("Authorization", &format!("Bearer {token}"))], b"");
    (answer.status, if answer.status == 200 { String::new() } else { answer.code() })
}

#[test]
fn a_token_says_who_it_is_and_ends_here() {
    let origin = Origin::echo();
    let gateway =
        with(&format!("{{ secret: '{SECRET}', claims_to_headers: {{ sub: X-User-Id, scope: X-Scopes, org.name: X-Org }} }}"), &origin);
    let good = token(json!({ "scope": "a b", "org": { "name": "Acme" } }));
    let bearer = format!("bEARER {good}");
    let sent = [("Authorization", &*bearer), ("x-USER_id", "root"), ("X-User-Id", "root"), ("X_Org", "evil"), ("X-Other", "1")];
    for _ in 0..2 {
        let answer = gateway.connect().request("GET", "/x?y=1", &sent, b"");
        let seen = answer.json()["headers"].clone();
        assert_eq!(
            (answer.status, &seen["x-user-id"], &seen["x-scopes"], &seen["x-org"]),
            (200, &json!(["ada"]), &json!(["a b"]), &json!(["Acme"]))
        );
        assert!(
            seen["authorization"].is_null() && seen["x-user_id"].is_null() && seen["x_org"].is_null() && seen["x-other"] == json!(["1"]),
            "{seen}"
        );
    }
    let line = &gateway.access_log(2)[1];
    assert_eq!((&line["identity"], &line["auth"]), (&json!("ada"), &json!("customers")));
}

#[test]
fn without_a_token_nothing_reaches_the_service() {
    let origin = Origin::echo();
    let gateway = with(&shared(), &origin);
    let mut client = gateway.connect();
    for (method, body) in [("GET", &b""[..]), ("HEAD", b""), ("POST", b"body"), ("OPTIONS", b"")] {
        let answer = client.request(method, "/x", &[], body);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer realm=\"customers\"")), "{method}");
    }
    let answer = client.request("GET", "/x", &[("Authorization", "Basic YTpi")], b"");
    assert_eq!((answer.status, answer.code()), (401, "unauthenticated".into()));
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    assert_eq!(gateway.connect().request("GET", "/x", &upgrade, b"").status, 401);
    let answer = gateway.connect().request("POST", "/x", &[("Content-Type", "application/grpc")], b"abc");
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("16")));
    assert_eq!(origin.seen().len(), 0);
    let line = &gateway.access_log(7)[0];
    assert_eq!((&line["code"], &line["identity"], &line["auth"]), (&json!("unauthenticated"), &json!(""), &json!("")));
    assert!(gateway.metric("frontdesk_refusals_total{code=\"unauthenticated\",route=\"r\"}") >= 6.0);
}

#[test]
fn http2_passes_the_same_check() {
    let origin = Origin::echo();
    let gateway = with(&shared(), &origin);
    let url = format!("http://{}/x", gateway.address());
    let code = |more: &[&str]| {
        let arguments = [&["--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_code} %{http_version}"], more, &[&*url]].concat();
        crate::kit::curl(&arguments)
    };
    assert_eq!(code(&[]), "401 2");
    assert_eq!(code(&["-H", &format!("Authorization: Bearer {}", token(json!({})))]), "200 2");
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn each_fault_has_its_code() {
    let origin = Origin::echo();
    let jwt = format!(
        "{{ secret: '{SECRET}', issuer: https://i.example, audience: [orders, menus], algorithms: HS256, require_claims: [exp, org], leeway: 10s }}"
    );
    let gateway = with(&jwt, &origin);
    let mut client = gateway.connect();
    let good = json!({ "iss": "https://i.example", "aud": "orders", "org": 1 });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        token(claims)
    };
    let header = |header: &str| {
        hs256(SECRET, header, &json!({ "exp": in_seconds(60), "iss": "https://i.example", "aud": "menus", "org": 1 }).to_string())
    };
    let payload = |payload: &str| hs256(SECRET, r#"{"alg":"HS256"}"#, payload);
    let right = token(good.clone());
    let (head, signature) = right.rsplit_once('.').expect("a token");
    let (first, body) = head.split_once('.').expect("a token");
    let other = base64url(r#"{"sub":"root"}"#);
    let none = base64url(r#"{"alg":"none"}"#);
    for (token, code) in [
        (right.clone(), ""),
        (header(r#"{"alg":"HS256"}"#), ""),
        (header(r#"{"alg":"HS256","kid":"any"}"#), ""),
        (with("aud", json!(["x", "menus"])), ""),
        (with("exp", json!(in_seconds(-5))), ""),
        (with("exp", json!(in_seconds(100) as f64 + 0.5)), ""),
        (with("nbf", json!(in_seconds(5))), ""),
        (with("exp", json!(in_seconds(-11))), "token_expired"),
        (with("exp", json!(-1)), "token_expired"),
        (with("nbf", json!(in_seconds(60))), "token_not_yet_valid"),
        (with("iss", json!("https://i.example/")), "token_issuer"),
        (with("iss", Value::Null), "token_issuer"),
        (with("aud", json!("other")), "token_audience"),
        (with("aud", json!([])), "token_audience"),
        (with("aud", Value::Null), "token_audience"),
        (with("exp", Value::Null), "token_claim_missing"),
        (with("org", Value::Null), "token_claim_missing"),
        (with("exp", json!("1999999999")), "token_malformed"),
        (with("nbf", json!(true)), "token_malformed"),
        (with("iat", json!("now")), "token_malformed"),
        (with("aud", json!(7)), "token_malformed"),
        (with("sub", json!(7)), "token_malformed"),
        (payload(r#"{"exp":1,"exp":9999999999}"#), "token_malformed"),
        (payload("[]"), "token_malformed"),
        (header(r#"{"alg":"HS256","crit":["b64"],"b64":true}"#), "token_malformed"),
        (header(r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}"#), "token_malformed"),
        (header(r#"{"alg":"HS256","jku":"http://127.0.0.1/"}"#), "token_malformed"),
        (header(r#"{"alg":"HS256","x5u":"http://127.0.0.1/"}"#), "token_malformed"),
        (header(r#"{"alg":"HS256","alg":"HS256"}"#), "token_malformed"),
        (header(r#"{"alg":"HS512"}"#), "token_algorithm"),
        (header(r#"{"alg":"hs256"}"#), "token_algorithm"),
        (header(r#"{"alg":"RS256"}"#), "token_algorithm"),
        (format!("{none}.{body}."), "token_algorithm"),
        (format!("{none}.{body}.{signature}"), "token_algorithm"),
        (format!("{first}.{body}."), "token_malformed"),
        (format!("{first}.{body}"), "token_malformed"),
        (format!("{right}="), "token_malformed"),
        (format!("{right}.x"), "token_malformed"),
        (String::new(), "token_malformed"),
        (format!("{first}.{other}.{signature}"), "token_signature"),
        (format!("{first}.{body}.{}", base64url("x".repeat(32))), "token_signature"),
        (hs256(&SECRET.replace('a', "b"), r#"{"alg":"HS256"}"#, "{}"), "token_signature"),
        ("a".repeat((16 << 10) + 1), "token_too_large"),
    ] {
        let status = if code.is_empty() { 200 } else { 401 };
        assert_eq!(ask(&mut client, &token), (status, code.to_string()), "{token}");
    }
    let answer = client.request("GET", "/x", &[("Authorization", &format!("Bearer {}", with("exp", json!(1))))], b"");
    let challenge = "Bearer realm=\"customers\", error=\"invalid_token\", error_description=\"The token has expired\"";
    assert_eq!(answer.header("www-authenticate"), Some(challenge));
    let twice = [("Authorization", &*format!("Bearer {right}")), ("Authorization", "Basic YTpi")];
    assert_eq!(client.request("GET", "/x", &twice, b"").code(), "token_malformed");
}

#[test]
fn every_algorithm_from_a_pem_file_and_from_a_set() {
    let origin = Origin::echo();
    let folder = tempfile::tempdir().expect("a folder");
    let families: [(&str, &[&str]); 5] = [
        ("RS256", &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        ("ES256", &["ES256"]),
        ("ES384", &["ES384"]),
        ("EdDSA", &["EdDSA"]),
        ("HS256", &["HS256", "HS384", "HS512"]),
    ];
    let signers: Vec<Signer> = families.iter().map(|(family, _)| Signer::new(folder.path(), family, family)).collect();
    let public = &signers[..4];
    let keys: Vec<Value> = public.iter().zip(&families).map(|(signer, (family, _))| signer.jwk(family)).collect();
    std::fs::write(folder.path().join("jwks.json"), json!({ "keys": keys }).to_string()).expect("the set");
    std::fs::write(folder.path().join("secrets.json"), json!({ "keys": [signers[4].jwk("s")] }).to_string()).expect("the set");
    let mut text = String::from(
        "listeners: [{ bind: 127.0.0.1:0 }]\nauth:\n  set: { jwt: { jwks: DIR/jwks.json } }\n  secrets: { jwt: { jwks: DIR/secrets.json } }\n",
    );
    // The older form of RSA keys too, as `openssl rsa -RSAPublicKey_out` writes it.
    let older = ["rsa", "-pubin", "-in", "RS256.pem", "-RSAPublicKey_out", "-out", "older.pem"];
    assert!(run(std::process::Command::new("openssl").current_dir(folder.path()).args(older)).status.success());
    text += "  older: { jwt: { public_key: DIR/older.pem } }\n";
    let mut routes = format!("routes:\n  - {{ path: /older, auth: older, to: 'http://{origin}' }}\n");
    for (family, _) in &families {
        let key = if *family == "HS256" { format!("secret: '{SECRET}'") } else { format!("public_key: DIR/{family}.pem") };
        text += &format!("  {}: {{ jwt: {{ {key} }} }}\n", family.to_lowercase());
        routes += &format!("  - {{ path: /{family}, auth: {}, to: 'http://{origin}' }}\n", family.to_lowercase());
    }
    routes += &format!(
        "  - {{ path: /set, auth: set, to: 'http://{origin}' }}\n  - {{ path: /secrets, auth: secrets, to: 'http://{origin}' }}\n"
    );
    let gateway = Gateway::start_in(folder, &(text + &routes));
    let mut client = gateway.connect();
    let claims = json!({ "sub": "ada", "exp": in_seconds(60) });
    let mut ask = |path: &str, token: &str| {
        let answer = client.request("GET", path, &[("Authorization", &format!("Bearer {token}"))], b"");
        if answer.status == 200 { "in".to_string() } else { answer.code() }
    };
    for (signer, (family, algorithms)) in signers.iter().zip(&families) {
        for algorithm in *algorithms {
            let (set, kid) = if *family == "HS256" { ("/secrets", "s") } else { ("/set", *family) };
            assert_eq!(ask(&format!("/{family}"), &signer.sign(algorithm, None, &claims)), "in", "{algorithm}");
            assert_eq!(ask(set, &signer.sign(algorithm, Some(kid), &claims)), "in", "{algorithm} by kid");
            assert_eq!(ask(set, &signer.sign(algorithm, None, &claims)), "in", "{algorithm} without kid");
            assert_eq!(ask(set, &signer.sign(algorithm, Some("x"), &claims)), "token_key_unknown", "{algorithm}");
            for (other, _) in families.iter().filter(|(other, _)| other != family) {
                assert_eq!(ask(&format!("/{other}"), &signer.sign(algorithm, None, &claims)), "token_algorithm", "{algorithm} at {other}");
            }
        }
    }
    // What everybody may read is no secret: HS256 with the public key's text.
    let pem = std::fs::read_to_string(gateway.file("RS256.pem")).expect("the key");
    assert_eq!(ask("/RS256", &hs256(&pem, r#"{"alg":"HS256"}"#, &claims.to_string())), "token_algorithm");
    assert_eq!(ask("/older", &signers[0].sign("PS256", None, &claims)), "in");
    let wrong = signers[0].sign("RS256", Some("ES256"), &claims);
    assert_eq!(ask("/set", &wrong), "token_algorithm");
}

#[test]
fn tokens_come_in_cookies_parameters_and_other_fields_and_are_forwarded_when_told() {
    let origin = Origin::echo();
    let yaml = format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth:
  cookie: {{ jwt: {{ secret: '{SECRET}', from: {{ cookie: session }} }} }}
  query: {{ jwt: {{ secret: '{SECRET}', from: {{ query: access_token }} }} }}
  field: {{ jwt: {{ secret: '{SECRET}', from: {{ header: X-Token }} }} }}
  kept: {{ jwt: {{ secret: '{SECRET}', forward_token: true }} }}
routes:
  - {{ path: /cookie, auth: cookie, to: 'http://{origin}' }}
  - {{ path: /query, auth: query, to: 'http://{origin}' }}
  - {{ path: /field, auth: field, to: 'http://{origin}' }}
  - {{ path: /kept, auth: kept, to: 'http://{origin}' }}
"
    );
    let gateway = Gateway::start(&yaml);
    let good = token(json!({}));
    let mut client = gateway.connect();
    let mut ask = |target: &str, field: (&str, &str)| client.request("GET", target, &[field], b"");
    let answer = ask("/cookie", ("Cookie", &format!("a=b; session={good}; c=d")));
    assert_eq!((answer.status, &answer.json()["headers"]["cookie"]), (200, &json!(["a=b; c=d"])));
    let answer = ask(&format!("/query?a=1&access_token={good}&b=2"), ("X", "y"));
    assert_eq!((answer.status, &answer.json()["target"]), (200, &json!("/query?a=1&b=2")));
    let answer = ask("/field", ("X-Token", &good));
    assert_eq!((answer.status, &answer.json()["headers"]["x-token"]), (200, &Value::Null));
    let bearer = format!("Bearer {good}");
    let answer = ask("/kept", ("Authorization", &bearer));
    assert_eq!((answer.status, &answer.json()["headers"]["authorization"]), (200, &json!([bearer])));
    assert_eq!(ask(&format!("/query?access_token={good}&access_token={good}"), ("X", "y")).code(), "token_malformed");
    let log = std::fs::read_to_string(gateway.file("access.log")).unwrap_or_default();
    gateway.access_log(5);
    assert!(!log.contains(&good) && !std::fs::read_to_string(gateway.file("access.log")).expect("the log").contains(&good));
    assert!(!gateway.ask("/config").text().contains(SECRET));
}

#[test]
fn a_token_that_was_remembered_expires_all_the_same() {
    let origin = Origin::echo();
    let gateway = with(&format!("{{ secret: '{SECRET}', leeway: 0s }}"), &origin);
    let mut client = gateway.connect();
    let short = token(json!({ "exp": in_seconds(2) }));
    assert_eq!(ask(&mut client, &short).0, 200);
    crate::kit::eventually("the token's end", || (ask(&mut client, &short) == (401, "token_expired".to_string())).then_some(()));
}

#[test]
fn another_key_after_a_reload_takes_the_old_tokens_along() {
    let origin = Origin::echo();
    let gateway = with(&shared(), &origin);
    let good = token(json!({}));
    assert_eq!(ask(&mut gateway.connect(), &good).0, 200);
    assert!(gateway.reload(&yaml(&shared().replace("sixty", "Sixty"), &origin)));
    assert_eq!(ask(&mut gateway.connect(), &good), (401, "token_signature".to_string()));
}

/// No change to a token lets it in.
#[test]
fn files_of_keys_are_read_again_when_they_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (Signer::new(folder.path(), "old", "ES256"), Signer::new(folder.path(), "new", "ES256"));
    let set = |signer: &Signer| json!({ "keys": [signer.jwk("k")] }).to_string();
    let pem = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("a key");
    let texts = [(set(&old), set(&new), "set.json"), (pem("old.pem"), pem("new.pem"), "key.pem")];
    texts.iter().for_each(|(before, _, file)| std::fs::write(folder.path().join(file), before).expect("a file"));
    let gateway = Gateway::start_in(
        folder,
        "
listeners: [{ bind: 127.0.0.1:0 }]
auth: { set: { jwt: { jwks: DIR/set.json } }, key: { jwt: { public_key: DIR/key.pem } } }
routes: [{ path: /set.json, auth: set, respond: {} }, { path: /key.pem, auth: key, respond: {} }]
",
    );
    let claims = json!({ "exp": in_seconds(600) });
    let [by_old, by_new] = [&old, &new].map(|signer| format!("Bearer {}", signer.sign("ES256", Some("k"), &claims)));
    let ask = |file: &str, token: &str| gateway.connect().request("GET", &format!("/{file}"), &[("Authorization", token)], b"").status;
    for (_, after, file) in &texts {
        assert_eq!([ask(file, &by_old), ask(file, &by_new)], [200, 401], "{file}");
        std::fs::write(gateway.file(file), after).expect("a file");
        eventually("the new key", || (ask(file, &by_new) == 200).then_some(()));
        // What was remembered of a token goes with its key.
        assert_eq!(ask(file, &by_old), 401, "{file}");
        std::fs::write(gateway.file(file), "nothing").expect("a file");
        eventually("a line in the log", || {
            assert_eq!(ask(file, &by_new), 200, "{file}");
            gateway.log().iter().any(|line| line.contains(&format!("{file}: not read again"))).then_some(())
        });
    }
}

#[test]
fn thousands_of_mutated_tokens_stay_outside() {
    let origin = Origin::echo();
    let gateway = with(&shared(), &origin);
    let mut client = gateway.connect();
    let good = token(json!({ "scope": "a" }));
    assert_eq!(ask(&mut client, &good).0, 200);
    let mut random = fastrand::Rng::with_seed(7);
    let alphabet: Vec<char> = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/".chars().collect();
    for n in 0..2_000 {
        let mut text: Vec<char> = good.chars().collect();
        let at = random.usize(..text.len());
        match n % 4 {
            0 => text[at] = alphabet[random.usize(..alphabet.len())],
            1 => drop(text.remove(at)),
            2 => text.insert(at, alphabet[random.usize(..alphabet.len())]),
            _ => text.swap(at, (at + 1) % good.len()),
        }
        let text: String = text.into_iter().collect();
        if text != good {
            assert_eq!(ask(&mut client, &text).0, 401, "{text}");
        }
    }
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn what_is_wrong_with_a_method_is_said_with_its_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("not.pem"), "nothing").expect("a file");
    std::fs::write(folder.path().join("empty.json"), "{\"keys\":[]}").expect("a file");
    let text = "
listeners: [{ bind: 127.0.0.1:1 }]
auth:
  anonymous: { jwt: { secret: 0123456789abcdef0123456789abcdef } }
  a: { jwt: { secret: brief } }
  b: { jwt: { public_key: DIR/not.pem } }
  c: { jwt: { jwks: DIR/empty.json } }
  d: { jwt: {} }
  e: { jwt: { secret: 0123456789abcdef0123456789abcdef, public_key: x } }
  f: { jwt: { secret: 0123456789abcdef0123456789abcdef, algorithms: [RS256] } }
  g: {}
  h: { jwt: { secret: 0123456789abcdef0123456789abcdef, from: { cookie: a, query: b } } }
  i: { jwt: { secret: 0123456789abcdef0123456789abcdef, algorithms: [none] } }
  k: { api_key: { header: X-Key, keys: DIR/no.yaml } }
routes:
  - { path: /a, auth: [a, nobody], respond: {} }
  - { path: /b, auth: [], respond: {} }
  - { path: /c, require: { scopes_all: x }, respond: {} }
";
    std::fs::write(folder.path().join("f.yaml"), text.replace("DIR", &folder.path().display().to_string())).expect("a file");
    let output = run(frontdesk().args(["check", "-c"]).arg(folder.path().join("f.yaml")));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for what in [
        ":4:3: `anonymous` is everybody",
        ":5:23: a secret of 5 bytes is too short",
        "not.pem`: it has neither a public key nor a certificate",
        "empty.json`: it has no key for signatures",
        ":8:13: a token without keys",
        ":9:13: keys from more than one place",
        "no key is for RS256",
        ":11:6: `g` has no ways to recognise somebody",
        "a credential in more than one place",
        "`none` is not known here",
        "can't read `",
        "no method of `auth` is named `nobody`",
        "`auth` is an empty list",
        "it asks for scopes or claims, but for nobody who could have them",
    ] {
        assert!(said.contains(what), "{what} is not in\n{said}");
    }
    assert!(!said.contains("0123456789abcdef0123456789abcdef,") || !output.status.success(), "{said}");
}
