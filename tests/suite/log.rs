//! The access log, the error log and the metrics.

use crate::kit::{Client, Gateway, Origin, answer, certificate, dead_address, eventually, frontdesk, head, run, secure, until_gone};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// The contract's fields.
const FIELDS: &str = "time request_id trace_id client_ip method host path route service endpoint status code identity auth limit cache \
    attempts bytes_in bytes_out duration_ms upstream_ms gateway_ms protocol tls user_agent referer";

fn with(more: &str, to: &str) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{to}] }} }}
routes:
  - {{ name: through, path: /s/*, to: s }}
  - {{ name: moved, path: /old/*, redirect: {{ status: 308, to: '/new/${{rest}}' }} }}
  - {{ name: fixed, path: /fixed, methods: [GET], respond: {{ body: fixed }} }}
{more}
"
    ))
}

/// Holds the named fields of a line against what they should be.
#[track_caller]
fn assert_fields(line: &Value, expected: &Value) {
    for (name, value) in expected.as_object().expect("a map") {
        assert_eq!(&line[name], value, "{name} in {line}");
    }
}

#[test]
fn the_formats_of_apache() {
    let origin = Origin::fixed("an answer");
    for (format, end) in [("combined", " \"http://else.where/\" \"tester \\\"1\\\"\""), ("common", "")] {
        let gateway = with(&format!("access_log: {{ path: DIR/access.log, format: {format}, redact: [token] }}"), &origin.to_string());
        let fields = [("User-Agent", "tester \"1\""), ("Referer", "http://else.where/")];
        gateway.connect().request("GET", "/s/x?token=a", &fields, b"");
        let line = eventually("a line", || fs::read_to_string(gateway.file("access.log")).ok().filter(|text| text.ends_with('\n')));
        let (begin, rest) = line.trim_end().split_once(" [").expect("a time");
        assert_eq!(begin, "127.0.0.1 - -");
        let (time, rest) = rest.split_once("] ").expect("the time's end");
        assert!(time.len() == 26 && time.ends_with(" +0000"), "{line}");
        assert_eq!(rest, format!("\"GET /s/x?token=*** HTTP/1.1\" 200 9{end}"));
    }
}

#[test]
fn a_request_that_was_served_by_a_service() {
    let origin = Origin::new(|_| answer(201, &[], b"an answer"));
    let gateway = with("", &origin.to_string());
    let fields = [("Host", "api.test:8080"), ("User-Agent", "tester/1"), ("Referer", "http://else.where/")];
    let answer = gateway.connect().request("POST", "/s/x%20y?a=b", &fields, b"12345");
    let line = &gateway.access_log(1)[0];
    let mut known: Vec<&str> = FIELDS.split_whitespace().collect();
    known.sort_unstable();
    assert_eq!(line.as_object().expect("a map").keys().collect::<Vec<_>>(), known);
    assert_fields(
        line,
        &json!({
            "request_id": answer.header("x-request-id"), "client_ip": "127.0.0.1", "method": "POST", "host": "api.test:8080",
            "path": "/s/x%20y?a=b", "route": "through", "service": "s", "endpoint": origin.to_string(), "status": 201, "code": "",
            "identity": "", "auth": "", "limit": "", "cache": "", "attempts": 1, "bytes_in": 5, "bytes_out": 9,
            "protocol": "HTTP/1.1", "tls": "", "user_agent": "tester/1", "referer": "http://else.where/",
        }),
    );
    let seen = &origin.seen()[0];
    assert!(seen.header("traceparent").is_some_and(|trace| trace.contains(line["trace_id"].as_str().expect("a text"))), "{line}");
    assert_eq!(seen.header("x-request-id"), line["request_id"].as_str());
    let [total, upstream, own] = ["duration_ms", "upstream_ms", "gateway_ms"].map(|name| line[name].as_f64().expect("a number"));
    assert!(upstream > 0.0 && own > 0.0 && (total - upstream - own).abs() < 0.01, "{line}");
    assert!(humantime::parse_rfc3339(line["time"].as_str().expect("a text")).is_ok(), "{line}");
}

#[test]
fn requests_that_were_answered_by_the_gateway() {
    let gateway = with("", &dead_address().to_string());
    for (method, target, expected) in [
        ("GET", "/nowhere", json!({ "status": 404, "code": "no_route", "route": "", "service": "", "endpoint": "", "attempts": 0 })),
        ("POST", "/fixed", json!({ "status": 405, "code": "method_not_allowed", "route": "" })),
        ("GET", "/old/x", json!({ "status": 308, "code": "", "route": "moved", "service": "", "bytes_out": 0 })),
        ("GET", "/fixed", json!({ "status": 200, "code": "", "route": "fixed", "bytes_out": 5, "upstream_ms": 0.0 })),
        ("GET", "/s/x", json!({ "status": 502, "code": "upstream_connect", "route": "through", "service": "s", "attempts": 2 })),
    ] {
        let lines = gateway.access_log(0).len();
        let answer = gateway.connect().request(method, target, &[], b"");
        let line = gateway.access_log(lines + 1).remove(lines);
        assert_fields(&line, &expected);
        assert_fields(&line, &json!({ "method": method, "path": target, "request_id": answer.header("x-request-id") }));
    }
}

#[test]
fn the_version_of_tls_is_written_down() {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path(), "a", &["a.example"]);
    let gateway = Gateway::start_in(
        folder,
        "
listeners: [{ bind: 127.0.0.1:0, tls: { certificates: [{ cert: DIR/a.pem, key: DIR/a.key }] } }]
routes: [{ path: /*, respond: {} }]
",
    );
    let mut client = secure(gateway.address(), "a.example", &["http/1.1"]).expect("a handshake");
    client.write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n").expect("to send");
    assert_fields(&gateway.access_log(1)[0], &json!({ "tls": "TLSv1.3", "protocol": "HTTP/1.0" }));
}

#[test]
fn what_a_client_sends_can_not_break_a_line() {
    let gateway = with("", &dead_address().to_string());
    let nasty = "a\"b\\c\tq\u{e9}";
    gateway.connect().request("GET", "/fixed?%0A%22", &[("User-Agent", nasty)], b"");
    assert_fields(&gateway.access_log(1)[0], &json!({ "user_agent": nasty, "path": "/fixed?%0A%22" }));
}

#[test]
fn values_of_parameters_that_are_named_are_masked() {
    let gateway = with("access_log: { path: DIR/access.log, redact: [token, password] }", &dead_address().to_string());
    let referer = ("Referer", "https://else.where/x?token=secret-4&y");
    gateway.connect().request("GET", "/fixed?a=1&token=secret-1&Password=secret-2&%74oken=secret-3&tokens=shown", &[referer], b"");
    gateway.get("/fixed?access_token=secret-5");
    let lines = gateway.access_log(2);
    let is_first = |line: &&Value| line["referer"] != "";
    let first = lines.iter().find(is_first).expect("the first");
    assert_fields(
        first,
        &json!({ "path": "/fixed?a=1&token=***&Password=***&%74oken=***&tokens=shown", "referer": "https://else.where/x?token=***&y" }),
    );
    // RFC 6750's, whoever it is for.
    assert_eq!(lines.iter().find(|line| !is_first(line)).expect("the second")["path"], "/fixed?access_token=***");
    assert!(!fs::read_to_string(gateway.file("access.log")).expect("the log").contains("secret"));
}

#[test]
fn the_sample_decides_how_much_is_written() {
    for (sample, lines) in [("0.0", 0), ("1.0", 50)] {
        let mut gateway = with(&format!("access_log: {{ path: DIR/access.log, sample: {sample} }}"), &dead_address().to_string());
        let mut client = gateway.connect();
        (0..50).for_each(|_| assert_eq!(client.get("/fixed").status, 200));
        drop(client);
        gateway.signal("TERM");
        assert!(gateway.wait().success());
        // What was still in memory has been written by now.
        assert_eq!(fs::read_to_string(gateway.file("access.log")).expect("the log").lines().count(), lines, "{sample}");
    }
}

#[test]
fn the_file_is_opened_anew_when_asked_for() {
    let gateway = with("", &dead_address().to_string());
    gateway.get("/fixed?1");
    gateway.access_log(1);
    fs::rename(gateway.file("access.log"), gateway.file("access.log.1")).expect("to rename");
    gateway.get("/fixed?2");
    eventually("a line in the old file", || {
        (fs::read_to_string(gateway.file("access.log.1")).expect("the old log").lines().count() == 2).then_some(())
    });
    gateway.signal("USR1");
    eventually("the new file", || gateway.file("access.log").exists().then_some(()));
    gateway.get("/fixed?3");
    assert_eq!(gateway.access_log(1)[0]["path"], "/fixed?3");
}

#[test]
fn a_full_disk_drops_lines_and_counts_them_and_requests_are_served() {
    let gateway = with("access_log: { path: /dev/full }", &dead_address().to_string());
    let mut client = gateway.connect();
    (0..20).for_each(|_| assert_eq!(client.get("/fixed").status, 200));
    eventually("the count", || (gateway.metric("frontdesk_log_dropped_total") == 20.0).then_some(()));
}

#[test]
fn requests_are_counted_by_route_method_and_status() {
    let origin = Origin::echo();
    let gateway = with("", &origin.to_string());
    let mut client = gateway.connect();
    for (method, target) in
        [("GET", "/s/1"), ("GET", "/s/2"), ("BREW", "/s/3"), ("PUT", "/fixed"), ("GET", "/unknown/4"), ("GET", "/old/5")]
    {
        client.request(method, target, &[], b"");
    }
    drop(client);
    gateway.wait_until_idle();
    let text = gateway.ask("/metrics").text();
    for (line, value) in [
        ("frontdesk_requests_total{method=\"GET\",route=\"through\",status=\"200\"}", 2),
        ("frontdesk_requests_total{method=\"OTHER\",route=\"through\",status=\"200\"}", 1),
        ("frontdesk_requests_total{method=\"PUT\",route=\"\",status=\"405\"}", 1),
        ("frontdesk_requests_total{method=\"GET\",route=\"\",status=\"404\"}", 1),
        ("frontdesk_requests_total{method=\"GET\",route=\"moved\",status=\"308\"}", 1),
        ("frontdesk_request_seconds_count{route=\"through\"}", 3),
        ("frontdesk_request_seconds_bucket{route=\"through\",le=\"+Inf\"}", 3),
        ("frontdesk_gateway_seconds_count{route=\"through\"}", 3),
        ("frontdesk_upstream_seconds_count{service=\"s\"}", 3),
        (&format!("frontdesk_upstream_requests_total{{endpoint=\"{origin}\",outcome=\"ok\",service=\"s\"}}"), 3),
        ("frontdesk_refusals_total{code=\"no_route\",route=\"\"}", 1),
        ("frontdesk_refusals_total{code=\"method_not_allowed\",route=\"\"}", 1),
        ("frontdesk_connections", 0),
        ("frontdesk_in_flight", 0),
    ] {
        assert!(text.lines().any(|known| known == format!("{line} {value}")), "{line} {value} is not in\n{text}");
    }
    assert!(!text.contains("unknown/4") && !text.contains("BREW"), "{text}");
}

#[test]
fn what_is_open_and_in_flight_is_counted() {
    let origin = Origin::scripted(|_, stream| until_gone(stream).map(|()| false));
    let gateway = with("", &origin.to_string());
    let (mut busy, _resting) = (gateway.connect(), gateway.connect());
    busy.send(head("GET", "/s/x", &[], 0));
    origin.wait_for(1);
    eventually("both", || (gateway.metric("frontdesk_connections") == 2.0).then_some(()));
    assert_eq!(gateway.metric("frontdesk_in_flight"), 1.0);
    assert_eq!(gateway.ask("/status").json()["services"][0]["endpoints"][0]["in_flight"], 1);
}

#[test]
fn failed_attempts_are_counted_by_what_became_of_them() {
    let (dead, origin) = (dead_address(), Origin::scripted(|_, _| Ok(false)));
    for (endpoint, outcome, code) in [(dead, "connect", "upstream_connect"), (origin.address(), "reset", "upstream_reset")] {
        let gateway = with("", &endpoint.to_string());
        let answer = gateway.get("/s/x");
        assert_eq!(answer.code(), code);
        let name = format!("frontdesk_upstream_requests_total{{endpoint=\"{endpoint}\",outcome=\"{outcome}\",service=\"s\"}}");
        assert_eq!((gateway.metric(&name), gateway.metric("frontdesk_retries_total{service=\"s\"}")), (2.0, 1.0));
        assert_eq!(gateway.metric(&format!("frontdesk_refusals_total{{code=\"{code}\",route=\"through\"}}")), 1.0);
        // The client is not told which endpoint; the operator finds the request in both logs.
        assert!(!answer.text().contains(&endpoint.to_string()), "{answer:?}");
        gateway.wait_for_log(answer.header("x-request-id").expect("an id"));
    }
}

#[test]
fn what_can_not_be_parsed_is_counted_and_written_down_with_its_peer() {
    let gateway = with("", &dead_address().to_string());
    let mut client = gateway.connect();
    client.send("no request at all\r\n\r\n");
    assert_eq!(client.answer().status, 400);
    eventually("the count", || (gateway.metric("frontdesk_refusals_total{code=\"bad_request\",route=\"\"}") == 1.0).then_some(()));
    gateway.wait_for_log(&client.stream().local_addr().expect("an address").to_string());
}

#[test]
fn a_refusal_of_what_can_not_be_parsed_can_be_found_by_its_id() {
    let gateway = with("", &dead_address().to_string());
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\n\r\n");
    let answer = client.answer();
    let id = answer.header("x-request-id").expect("an id");
    assert_eq!(
        (answer.status, answer.json()["request_id"].as_str(), answer.header("via"), answer.header("cache-control")),
        (400, Some(id), Some("1.1 frontdesk"), Some("no-store"))
    );
    assert!(httpdate::parse_http_date(answer.header("date").expect("a date")).is_ok());
    assert_fields(&gateway.access_log(1)[0], &json!({ "request_id": id, "bytes_out": answer.body.len(), "protocol": "HTTP/1.1" }));
    let told = gateway.ask(&format!("/refusals?id={id}")).text();
    assert!(told.contains("Host is missing."), "{told}");
}

#[test]
fn the_access_log_may_go_to_standard_error() {
    let gateway = with("access_log: { path: stderr }", &dead_address().to_string());
    let answer = gateway.get("/fixed");
    let line = gateway.wait_for_log(answer.header("x-request-id").expect("an id"));
    assert!(line.contains("\"path\":\"/fixed\""), "{line}");
}

#[test]
fn the_level_decides_what_the_error_log_says() {
    for (level, says) in [("debug", true), ("info", false)] {
        let folder = tempfile::tempdir().expect("a folder");
        certificate(folder.path(), "a", &["a.example"]);
        let yaml = format!(
            "
listeners: [{{ bind: 127.0.0.1:0, tls: {{ certificates: [{{ cert: DIR/a.pem, key: DIR/a.key }}] }} }}]
log: {{ level: {level} }}
routes: [{{ path: /*, respond: {{}} }}]
"
        );
        let gateway = Gateway::start_in(folder, &yaml);
        let mut client = Client::connect(gateway.address());
        client.send("GET / HTTP/1.1\r\n\r\n");
        client.read_to_end();
        gateway.wait_until_idle();
        if says {
            gateway.wait_for_log("TLS handshake");
        }
        assert_eq!(gateway.log().iter().any(|line| line.contains("TLS handshake")), says, "{level}");
    }
}

#[test]
fn a_client_that_is_gone_is_written_down_and_the_service_not_blamed() {
    let origin = Origin::scripted(|_, stream| until_gone(stream).map(|()| false));
    let gateway = with("", &origin.to_string());
    let mut client = gateway.connect();
    client.send(head("GET", "/s/x", &[], 0));
    origin.wait_for(1);
    drop(client);
    let line = &gateway.access_log(1)[0];
    assert_fields(line, &json!({ "status": 499, "code": "", "route": "through", "path": "/s/x", "bytes_out": 0, "attempts": 1 }));
    // It was the service that was waited for.
    let [upstream, own] = ["upstream_ms", "gateway_ms"].map(|name| line[name].as_f64().expect("a number"));
    assert!(upstream > 0.0 && upstream > own, "{line}");
    assert!(!gateway.log().iter().any(|line| line.contains("WARN")));
    let failed = |outcome: &str| {
        gateway.metric(&format!("frontdesk_upstream_requests_total{{endpoint=\"{origin}\",outcome=\"{outcome}\",service=\"s\"}}"))
    };
    assert_eq!(["timeout", "reset", "protocol", "connect", "cancelled"].map(failed), [0.0, 0.0, 0.0, 0.0, 1.0]);
}

/// A gateway whose error log is a file.
struct Quiet(Child, TempDir);

impl Quiet {
    fn start(log: &str, rust_log: Option<&str>) -> Quiet {
        let folder = tempfile::tempdir().expect("a folder");
        let (yaml, path) = (folder.path().join("frontdesk.yaml"), folder.path().join("error.log"));
        let text = "listeners: [{ bind: 127.0.0.1:0 }]\nroutes: [{ path: /*, respond: {} }]\n";
        fs::write(&yaml, format!("{text}log: {{ path: {}, {log} }}\n", path.display())).expect("a file");
        let mut command = frontdesk();
        command.args(["run", "-c"]).arg(&yaml).stderr(Stdio::null()).envs(rust_log.map(|filter| ("RUST_LOG", filter)));
        let quiet = Quiet(command.spawn().expect("the gateway"), folder);
        quiet.wait_for("error.log", "ready: ");
        quiet
    }

    fn wait_for(&self, file: &str, text: &str) -> String {
        let read = || fs::read_to_string(self.1.path().join(file)).unwrap_or_default();
        eventually(&format!("{text:?} in {file}"), || Some(read()).filter(|all| all.contains(text) && all.ends_with('\n')))
    }

    fn signal(&self, name: &str) {
        assert!(run(Command::new("kill").args([format!("-{name}"), self.0.id().to_string()])).status.success());
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_error_log_can_be_json_in_a_file() {
    let quiet = Quiet::start("format: json", None);
    for line in quiet.wait_for("error.log", "ready: ").lines() {
        let line: Value = serde_json::from_str(line).expect("a JSON");
        assert_eq!((&line["level"], line["target"].is_string(), line["message"].is_string()), (&"INFO".into(), true, true), "{line}");
        assert!(humantime::parse_rfc3339(line["time"].as_str().expect("a text")).is_ok(), "{line}");
    }
}

#[test]
fn rust_log_wins_over_the_level() {
    Quiet::start("level: error", Some("info"));
}

#[test]
fn the_error_log_is_opened_anew_too() {
    let quiet = Quiet::start("level: info", None);
    fs::rename(quiet.1.path().join("error.log"), quiet.1.path().join("error.log.1")).expect("to rename");
    quiet.signal("USR1");
    eventually("the new file", || quiet.1.path().join("error.log").exists().then_some(()));
    quiet.signal("HUP");
    quiet.wait_for("error.log", "reloaded: version 2");
}
