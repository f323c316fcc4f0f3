//! Nothing that lets somebody in is to be read anywhere.

use crate::kit::{Client, Gateway, H2Client, Origin, SECRET, answer, base64url, frontdesk, run, run_async, token};
use http::Method;
use serde_json::json;

const ADMIN: &str = "the-token-of-the-operator";
const OWN: &str = "the-gateways-own-secret-of-some-length";
const CLIENT: &str = "the-secret-of-the-client";
const PASSWORD: &str = "correct-horse-battery";
const KEY: &str = "a-key-that-nobody-knows";
const OPAQUE: &str = "an-opaque-token";

fn yaml(origin: &Origin, issuer: &Origin) -> String {
    format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
admin: {{ bind: 127.0.0.1:0, token: {ADMIN} }}
server: {{ secret: {OWN} }}
log: {{ level: debug }}
access_log: {{ path: DIR/access.log, redact: [token, password] }}
auth:
  field: {{ jwt: {{ secret: '{SECRET}' }} }}
  query: {{ jwt: {{ secret: '{SECRET}', from: {{ query: access_token }} }} }}
  cookie: {{ jwt: {{ secret: '{SECRET}', from: {{ cookie: session }} }} }}
  keys: {{ api_key: {{ header: X-Api-Key, keys: DIR/keys.yaml }} }}
  key_query: {{ api_key: {{ query: api_key, keys: DIR/keys.yaml }} }}
  staff: {{ basic: {{ users: DIR/users.yaml, realm: staff }} }}
  asked: {{ introspection: {{ url: 'http://{issuer}/introspect', client_id: gw, client_secret: {CLIENT} }} }}
  checked: {{ forward: {{ url: 'http://{issuer}/check', send: [Authorization] }} }}
services: {{ s: {{ endpoints: ['{origin}'], sticky: {{ cookie: fd }} }} }}
routes:
  - {{ path: /field, auth: field, to: s }}
  - {{ path: /query, auth: query, to: s }}
  - {{ path: /cookie, auth: cookie, to: s }}
  - {{ path: /keys, auth: keys, to: s }}
  - {{ path: /key_query, auth: key_query, to: s }}
  - {{ path: /staff, auth: staff, to: s }}
  - {{ path: /asked, auth: asked, to: s }}
  - {{ path: /checked, auth: checked, to: s }}
  - {{ path: /narrow, auth: field, require: {{ scopes_all: [write] }}, to: s }}
"
    )
}

#[test]
fn secrets_and_tokens_appear_nowhere() {
    // Closes in the midst of it, so that errors are written too.
    let origin = Origin::scripted(|_, _| Ok(false));
    let issuer = Origin::new(|_| answer(500, &[], b""));
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("keys.yaml"), "[]").expect("the keys");
    std::fs::write(folder.path().join("users.yaml"), "[]").expect("the users");
    let gateway = Gateway::start_in(folder, &yaml(&origin, &issuer));
    let good = token(json!({}));
    let (signed, signature) = good.rsplit_once('.').expect("a signature");
    let forged = format!("{signed}.{}", base64url("forged and therefore wrong"));
    let basic = base64url(format!("ada:{PASSWORD}"));
    let mut answers = String::new();
    for token in [&*good, &forged, &signed[..40], OPAQUE] {
        let (bearer, cookie, query) = (format!("Bearer {token}"), format!("session={token}"), format!("access_token={token}"));
        let requests = [
            ("/field", vec![("Authorization", &*bearer)]),
            ("/narrow", vec![("Authorization", &bearer)]),
            ("/asked", vec![("Authorization", &bearer)]),
            ("/checked", vec![("Authorization", &bearer)]),
            ("/staff", vec![("Authorization", &bearer)]),
            ("/cookie", vec![("Cookie", &cookie)]),
            ("/keys", vec![("X-Api-Key", KEY)]),
            ("/nowhere", vec![("Authorization", &bearer), ("Cookie", &cookie)]),
            // What can't be read is said with its reason.
            ("/field", vec![("Authorization", &bearer), ("Content-Length", "x")]),
            ("/field\u{1}", vec![("Authorization", &bearer)]),
        ];
        for (path, fields) in &requests {
            for target in [path.to_string(), format!("{path}?{query}&api_key={KEY}")] {
                let mut client = gateway.connect();
                client.send(crate::kit::head("GET", &target, fields, 0));
                answers.push_str(&String::from_utf8_lossy(&client.answer().body));
            }
        }
        for target in [format!("/query?{query}"), format!("/key_query?api_key={KEY}"), format!("/old?token={token}&password={PASSWORD}")] {
            answers.push_str(&gateway.get(&target).text());
        }
        run_async(async {
            let client = H2Client::connect(gateway.address()).await;
            for path in ["/field", "/asked", "/nowhere"] {
                let fields = [("authorization", &*bearer), ("cookie", &*cookie)];
                let told = client.request(Method::GET, &format!("{path}?{query}"), &fields, b"").await;
                answers.push_str(&String::from_utf8_lossy(&told.body));
            }
        });
    }
    let staff = [("Authorization", &*format!("Basic {basic}"))];
    answers.push_str(&gateway.connect().request("GET", "/staff", &staff, b"").text());
    let operator = format!("Bearer {ADMIN}");
    for target in ["/config", "/status", "/metrics", "/refusals", "/", "/explain?method=GET&url=/field", "/nowhere"] {
        for authorization in [&*operator, "Bearer a-guess-of-somebody"] {
            let fields = [("Host", "localhost"), ("Authorization", authorization)];
            answers.push_str(&Client::connect(gateway.admin()).request("GET", target, &fields, b"").text());
        }
    }
    // What a reload says of a file that is wrong.
    assert!(!gateway.reload(&yaml(&origin, &issuer).replace("realm: staff", "realm: [staff]")));
    assert!(!gateway.reload(&yaml(&origin, &issuer).replace("client_id: gw,", "client_id: gw, client_secrt: x,")));
    let checked = run(frontdesk().args(["check", "-c"]).arg(gateway.file("frontdesk.yaml")));
    answers.push_str(&String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()));
    gateway.access_log(90);
    let log = std::fs::read_to_string(gateway.file("access.log")).expect("the log");
    for (place, text) in [("an answer", answers), ("the error log", gateway.log().join("\n")), ("the access log", log)] {
        assert!(!text.is_empty(), "{place} is empty");
        for secret in [ADMIN, OWN, CLIENT, PASSWORD, KEY, OPAQUE, SECRET, &basic, signature, signed, &signed[..40], "a-guess-of-somebody"] {
            let at = text.find(secret).map(|at| &text[text[..at].rfind('\n').unwrap_or(0)..(at + secret.len() + 80).min(text.len())]);
            assert!(at.is_none(), "{secret} in {place}: {at:?}");
        }
    }
}

#[test]
fn what_a_route_adds_for_its_service_is_not_told() {
    const FROM_FILE: &str = "what the file & nobody else has";
    let origin = Origin::echo();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("up"), FROM_FILE).expect("a file");
    let yaml = format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: ['{origin}'] }} }}
routes:
  - path: /*
    request:
      headers: {{ set: {{ Authorization: 'Bearer ${{file:up}}', X-Up: 'so ${{file:up}}', X-Plain: plain, X-Partner-Key: {KEY} }} }}
      query: {{ set: {{ api_key: {OPAQUE}, up: '${{file:up}}', src: gw }} }}
    response: {{ headers: {{ set: {{ Set-Cookie: 'a={PASSWORD}' }} }} }}
    to: s
"
    );
    let gateway = Gateway::start_in(folder, &yaml);
    let sent = gateway.get("/a?key=1").json();
    assert_eq!(sent["target"], format!("/a?key=1&api_key={OPAQUE}&up=what%20the%20file%20%26%20nobody%20else%20has&src=gw"));
    let file = gateway.file("frontdesk.yaml").display().to_string();
    let said = |arguments: &[&str]| {
        let output = run(frontdesk().args(arguments).args(["-c", &file]));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    for (place, text) in [
        ("/config", gateway.ask("/config").text()),
        ("/explain", gateway.ask("/explain?method=GET&url=/a").text()),
        ("explain", said(&["explain", "GET", "/a?key=1"])),
        ("explain --json", said(&["explain", "--json", "GET", "/a"])),
    ] {
        for secret in [FROM_FILE, "nobody%20else", KEY, OPAQUE, PASSWORD] {
            assert!(!text.contains(secret), "{secret} in {place}: {text}");
        }
        assert!(text.contains("***") && text.contains("plain") && text.contains("gw"), "{place}: {text}");
    }
    // Tests compare what is sent, and tell what may be told.
    let text = std::fs::read_to_string(&file).expect("a file");
    let test = |src: &str| {
        let path = format!("/a?api_key={OPAQUE}&up=what%20the%20file%20%26%20nobody%20else%20has&src={src}");
        let expected = format!("tests: [{{ request: GET /a, expect: {{ upstream_path: '{path}' }} }}]\n");
        std::fs::write(&file, format!("{text}{expected}")).expect("a file");
        said(&["test"])
    };
    assert!(test("gw").contains("1 test passed"));
    let failed = test("other");
    assert!(failed.contains("upstream_path is `/a?api_key=***&up=***&src=gw`"), "{failed}");
}
