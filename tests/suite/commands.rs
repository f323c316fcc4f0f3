//! Commands that speak to a running gateway.

use crate::kit::{Gate, Gateway, Origin, Signer, answer, dead_address, frontdesk, head, run};
use std::path::Path;

const FIXED: &str = "listeners: [{ name: public, bind: 127.0.0.1:0 }]\nroutes: [{ path: /*, respond: { body: old } }]\n";

/// Exit code, what went to stdout and what to stderr.
fn tell(arguments: &[&str]) -> (i32, String, String) {
    let output = run(frontdesk().args(arguments));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
}

fn ask(gateway: &Gateway, command: &str) -> (i32, String, String) {
    tell(&[command, "--admin", &format!("http://{}", gateway.admin())])
}

#[test]
fn reload_reports_the_outcome_by_exit_code() {
    let gateway = Gateway::start(FIXED);
    gateway.rewrite(&FIXED.replace("old", "new"));
    assert_eq!(ask(&gateway, "reload"), (0, "reloaded: version 2 runs\n".to_string(), String::new()));
    assert_eq!(gateway.get("/").text(), "new");
    gateway.rewrite(&FIXED.replace("path: /*", "path: x"));
    let (code, out, why) = ask(&gateway, "reload");
    assert_eq!((code, out), (1, String::new()));
    assert!(why.contains("frontdesk.yaml:2:18: the path `x` does not begin with a slash"), "{why}");
    assert!(why.ends_with("not reloaded: version 2 goes on\n"), "{why}");
    assert_eq!(gateway.get("/").text(), "new");
}

#[test]
fn a_certificate_or_an_address_that_is_missing_is_reported_likewise() {
    let gateway = Gateway::start(FIXED);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    for (listener, why) in [
        (format!("{{ bind: {address} }}"), format!("can't listen on {address}")),
        ("{ bind: 127.0.0.1:0, tls: { certificates: [{ cert: DIR/no.pem, key: DIR/no.key }] } }".to_string(), "no.pem".to_string()),
    ] {
        gateway.rewrite(&FIXED.replace("}]\nroutes", &format!("}}, {listener}]\nroutes")));
        let (code, _, said) = ask(&gateway, "reload");
        assert!(code == 1 && said.contains(&why), "{said}");
        assert_eq!(gateway.get("/").text(), "old");
        let status = gateway.ask("/status").json();
        assert!(status["snapshot"]["last_error"].as_str().is_some_and(|error| error.contains(&why)), "{status}");
    }
}

#[test]
fn the_gateway_is_found_by_its_configuration_and_its_token() {
    let yaml = format!("{FIXED}admin: {{ bind: 127.0.0.1:0, token: '${{file:DIR/token}}' }}\n");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("token"), "a-long-secret\n").expect("a file");
    let gateway = Gateway::start_in(folder, &yaml);
    let admin = gateway.admin();
    // The same, with the port that the gateway was given.
    let (own, file) = (gateway.file("frontdesk.yaml"), gateway.file("named.yaml"));
    let name = || {
        std::fs::write(&file, std::fs::read_to_string(&own).expect("a file").replacen("127.0.0.1:0, token", &format!("{admin}, token"), 1))
    };
    name().expect("a file");
    let by_file = |command: &str| tell(&[command, "-c", &file.display().to_string()]);
    assert_eq!(by_file("reload").0, 0);
    let (code, text, _) = by_file("status");
    assert!(code == 0 && text.contains(&format!("process {}, ready", gateway.pid())) && text.contains("snapshot 2 "), "{text}");
    let address = format!("listener public: {} (plaintext)", gateway.address_of("public"));
    assert!(text.contains(&address), "{text}");
    // Without the token nothing is told; with it from the environment it is.
    let url = format!("http://{admin}");
    let (code, _, why) = tell(&["reload", "--admin", &url]);
    assert!(code == 1 && why.contains("a token is needed") && !why.contains("a-long-secret"), "{why}");
    let output = run(frontdesk().args(["status", "--json", "--admin", &url]).env("FRONTDESK_TOKEN", "a-long-secret"));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((output.status.code(), &status["snapshot"]["version"]), (Some(0), &2.into()));
    // A file that is wrong elsewhere still says where the gateway is.
    gateway.rewrite(&yaml.replace("/*", "x"));
    name().expect("a file");
    let (code, _, why) = by_file("reload");
    assert!(code == 1 && why.contains("version 2 goes on"), "{why}");
}

#[test]
fn a_gateway_that_is_not_there_or_can_not_be_asked_is_said() {
    let dead = dead_address();
    let (code, _, why) = tell(&["status", "--admin", &format!("http://{dead}")]);
    assert_eq!((code, why), (1, format!("the gateway at http://{dead}/ does not answer: Connection refused (os error 111)\n")));
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str, yaml: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, yaml).expect("a file");
        path
    };
    let without = |path: &Path| tell(&["reload", "-c", &path.display().to_string()]).2;
    assert!(without(&at("none.yaml", FIXED)).contains("has no `admin:`"));
    assert!(without(&at("bad.yaml", "admin: { bind: nowhere }")).contains("bad.yaml:1:16: `nowhere` is not an address with a port"));
    assert!(without(&folder.path().join("missing.yaml")).contains("No such file"));
    assert_eq!(tell(&["reload", "--admin", "not a url"]).0, 2);
}

/// A gateway before a service that answers once its gate is open.
fn held() -> (Origin, Gate, Gateway) {
    let gate = Gate::default();
    let theirs = gate.clone();
    let origin = Origin::new(move |_| {
        theirs.wait();
        answer(200, &[], b"done")
    });
    let yaml = format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: /*, to: http://{origin} }}]\n");
    (origin, gate, Gateway::start(&yaml))
}

#[test]
fn drain_waits_for_what_is_in_flight_and_for_the_end() {
    let (origin, gate, mut gateway) = held();
    let mut client = gateway.connect();
    client.send(head("GET", "/", &[], 0));
    origin.wait_for(1);
    let (admin, pid) = (format!("http://{}", gateway.admin()), gateway.pid());
    let drain = std::thread::spawn(move || tell(&["drain", "--admin", &admin]));
    gateway.wait_for_log("draining");
    let (code, _, why) = ask(&gateway, "reload");
    assert!(code == 1 && why.contains("the gateway is draining"), "{why}");
    assert!(!drain.is_finished());
    gate.open();
    assert_eq!(client.answer().text(), "done");
    assert_eq!(drain.join().expect("the command"), (0, format!("process {pid} has ended\n"), String::new()));
    assert!(gateway.wait().success());
}

#[test]
fn stop_waits_for_nothing() {
    let (origin, gate, mut gateway) = held();
    let mut client = gateway.connect();
    client.send(head("GET", "/", &[], 0));
    origin.wait_for(1);
    assert_eq!(ask(&gateway, "stop").0, 0);
    assert!(gateway.wait().success());
    gate.open();
}

#[test]
fn for_machines_what_fails_is_json_on_stdout() {
    let folder = tempfile::tempdir().expect("a folder");
    let [broken, good, missing] = ["broken.yaml", "good.yaml", "missing.yaml"].map(|name| folder.path().join(name).display().to_string());
    std::fs::write(&broken, FIXED.replace("respond", "respnd")).expect("a file");
    std::fs::write(&good, FIXED).expect("a file");
    let dead = format!("http://{}", dead_address());
    let gateway = Gateway::start(FIXED);
    gateway.rewrite(&FIXED.replace("path: /*", "path: x"));
    let admin = format!("http://{}", gateway.admin());
    let json = |arguments: &[&str], expected: i32| {
        let (code, out, why) = tell(&[arguments, &["--json"]].concat());
        assert_eq!((code, &*why), (expected, ""), "{arguments:?}: {out}");
        serde_json::from_str::<serde_json::Value>(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
    };
    for arguments in [&["test", "-c"][..], &["routes", "-c"], &["explain", "GET", "/", "-c"], &["diff", &good], &["check", "-c"]] {
        let said = json(&[arguments, &[&broken]].concat(), 1);
        assert_eq!((&said["ok"], &said["file"], &said["problems"][0]["line"]), (&false.into(), &(*broken).into(), &2.into()), "{said}");
        let said = json(&[arguments, &[&missing]].concat(), 1);
        assert!(said["problems"][0]["what"].as_str().is_some_and(|what| what.contains("No such file")), "{said}");
    }
    for command in [&["drain"][..], &["stop"], &["status"], &["reload"], &["upgrade"], &["why", "x"], &["purge", "--all"]] {
        let said = json(&[command, &["--admin", &dead]].concat(), 1);
        assert!(said["error"].as_str().is_some_and(|why| why.ends_with("does not answer: Connection refused (os error 111)")), "{said}");
    }
    for command in [&["why", "nope"][..], &["endpoint", "drain", "s", "127.0.0.1:1"]] {
        assert!(json(&[command, &["--admin", &admin]].concat(), 1)["error"].is_string());
    }
    let said = json(&["reload", "--admin", &admin], 1);
    assert!(said["version"] == 1 && said["error"].as_str().is_some_and(|why| why.contains("the path `x`")), "{said}");
    assert!(json(&["explain", "-c", &good, "GET", "not a url"], 2)["error"].is_string());
}

#[test]
fn the_status_shows_what_is_ill_and_what_is_kept() {
    let origin = Origin::new(|_| answer(200, &[("Cache-Control", "max-age=60")], b"x"));
    let (dead, other) = (dead_address(), dead_address());
    let folder = tempfile::tempdir().expect("a folder");
    let keys = format!("{{\"keys\":[{}]}}", Signer::new(folder.path(), "key", "ES256").jwk("k"));
    let issuer = Origin::new(move |_| answer(200, &[], keys.as_bytes()));
    std::fs::write(folder.path().join("endpoints.yaml"), format!("- {origin}\n- {other}\n")).expect("a file");
    let gateway = Gateway::start_in(
        folder,
        &format!(
            "
listeners: [{{ bind: 127.0.0.1:0 }}]
auth: {{ c: {{ jwt: {{ jwks: 'http://{issuer}/keys' }} }} }}
caches: {{ all: {{ }} }}
services:
  broken: {{ endpoints: ['{dead}'], max_in_flight: 9, retries: {{ attempts: 1 }}, breaker: {{ min_requests: 1, open: 1h }} }}
  well: {{ endpoints_file: endpoints.yaml, ejection: {{ consecutive_failures: 1, base: 1h }}, balance: round_robin }}
routes:
  - {{ path: /broken, to: broken }}
  - {{ name: kept, path: /kept/*, cache: all, max_in_flight: 8, to: well }}
  - {{ path: /in, auth: c, respond: {{}} }}
"
        ),
    );
    gateway.get("/broken");
    let status = || ask(&gateway, "status").1;
    let mut n = 0;
    crate::kit::eventually("an ejection", || {
        n += 1;
        gateway.get(&format!("/kept/{n}"));
        status().contains("ejected, ").then_some(())
    });
    let said = status();
    for line in [
        "service broken, breaker open, 0 in flight of at most 9, 0 waiting\n".to_string(),
        format!("  {dead}: up, weight 1, 0 in flight\n"),
        "service well\n".to_string(),
        format!("  {origin}: up, weight 1, 0 in flight\n"),
        format!("  {other}: ejected, weight 1, 0 in flight, ejected 1 time so far\n"),
        "endpoints.yaml: 2 found ".to_string(),
        "route kept: 0 in flight of at most 8, 0 waiting\n".to_string(),
        format!("issuer http://{issuer}/keys: keys "),
        "cache: ".to_string(),
        "  route kept by all: 0.0 percent hits\n".to_string(),
    ] {
        assert!(said.contains(&line), "{line:?} is not in\n{said}");
    }
}
