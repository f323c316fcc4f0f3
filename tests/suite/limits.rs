//! Rates: who is let through, who is refused, and what both are told.

use crate::kit::{Client, Gateway, Origin, frontdesk, run};
use serde_json::json;
use std::time::Instant;

const LISTENERS: &str = "listeners: [{ bind: 127.0.0.1:0 }]\n";

/// A gateway with these limits, and routes that answer by themselves with `/NAME` limited by NAME.
fn gateway(limits: &[(&str, &str)]) -> Gateway {
    Gateway::start(&yaml(limits))
}

fn yaml(limits: &[(&str, &str)]) -> String {
    let named: String = limits.iter().map(|(name, limit)| format!("  {name}: {limit}\n")).collect();
    let routes: String =
        limits.iter().map(|(name, _)| format!("  - {{ name: {name}, path: /{name}, rate_limits: [{name}], respond: {{}} }}\n")).collect();
    format!("{LISTENERS}rate_limits:\n{named}routes:\n{routes}  - {{ path: /free, respond: {{}} }}\n")
}

#[test]
fn the_burst_passes_and_then_the_rate() {
    let gateway = gateway(&[("few", "{ rate: 2/10s, burst: 3, by: client_ip }")]);
    let mut client = gateway.connect();
    for (left, reset) in [(2, 5), (1, 10), (0, 15)] {
        let answer = client.get("/few");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), Some("\"few\";q=3;w=15"));
        assert_eq!(answer.header("ratelimit"), Some(&*format!("\"few\";r={left};t={reset}")));
        assert_eq!(answer.header("x-ratelimit-limit"), None);
    }
    let refused = client.get("/few");
    assert_eq!((refused.status, refused.code()), (429, "rate_limited".to_string()));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"few\";q=3;w=15"));
    assert_eq!(refused.header("ratelimit"), Some("\"few\";r=0;t=15"));
    assert_eq!(client.get("/free").header("ratelimit"), None, "the connection goes on, and other routes know nothing of it");
    let lines = gateway.access_log(5);
    let told: Vec<_> = lines.iter().map(|line| (line["limit"].as_str(), line["code"].as_str(), line["route"].as_str())).collect();
    // Lines of one moment may stand in any order.
    let of = |line| told.iter().filter(|told| **told == line).count();
    assert_eq!(of((Some(""), Some(""), Some("few"))), 3, "{told:?}");
    assert_eq!(of((Some("few"), Some("rate_limited"), Some("few"))), 1, "{told:?}");
    let count = |decision| gateway.metric(&format!("frontdesk_limit_total{{decision=\"{decision}\",limit=\"few\",mode=\"enforce\"}}"));
    assert_eq!((count("allowed"), count("refused"), gateway.metric("frontdesk_limit_keys")), (3.0, 1.0, 1.0));
    assert_eq!(gateway.metric("frontdesk_refusals_total{code=\"rate_limited\",route=\"few\"}"), 1.0);
}

#[test]
fn another_try_after_retry_after_passes() {
    let gateway = gateway(&[("few", "{ rate: 1/1s, by: client_ip }")]);
    let mut client = gateway.connect();
    assert_eq!(client.get("/few").status, 200);
    let refused = client.get("/few");
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(client.get("/few").status, 200);
}

#[test]
fn every_kind_of_answer_of_a_limited_route_tells() {
    let origin = Origin::fixed("x");
    let gateway = Gateway::start(&format!(
        "{LISTENERS}rate_limits: {{ some: {{ rate: 9/h }} }}
routes:
  - {{ path: /to/*, rate_limits: [some], to: 'http://{origin}' }}
  - {{ path: /dead, rate_limits: [some], to: 'http://{}' }}
  - {{ path: /redirect, rate_limits: [some], redirect: {{ to: /x }} }}
  - {{ path: /respond, rate_limits: [some], respond: {{ status: 204 }} }}
  - {{ path: /small, rate_limits: [some], body_bytes: 1, to: 'http://{origin}' }}
",
        crate::kit::dead_address()
    ));
    let mut left = 9;
    for (method, target, body, status) in [
        ("GET", "/to/x", &b""[..], 200),
        ("HEAD", "/to/x", b"", 200),
        ("GET", "/dead", b"", 502),
        ("GET", "/redirect", b"", 302),
        ("GET", "/respond", b"", 204),
        ("POST", "/small", b"12", 413),
    ] {
        left -= 1;
        let answer = gateway.connect().request(method, target, &[], body);
        assert_eq!(answer.status, status, "{target}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"some\";q=9;w=3600"), "{target}");
        assert!(answer.header("ratelimit").is_some_and(|told| told.starts_with(&format!("\"some\";r={left};t="))), "{target}: {answer:?}");
    }
}

#[test]
fn one_name_is_one_limit_however_many_routes_use_it() {
    let gateway = Gateway::start(&format!(
        "{LISTENERS}rate_limits: {{ shared: {{ rate: 2/h }}, each: {{ rate: 1/h, by: [client_ip, route] }} }}
routes:
  - {{ path: /a, rate_limits: [shared], respond: {{}} }}
  - {{ path: /b, rate_limits: [shared], respond: {{}} }}
  - {{ path: /c, rate_limits: [each], respond: {{}} }}
  - {{ path: /d, rate_limits: [each], respond: {{}} }}
"
    ));
    assert_eq!(["/a", "/b", "/a", "/b"].map(|target| gateway.get(target).status), [200, 200, 429, 429]);
    assert_eq!(["/c", "/d", "/c", "/d"].map(|target| gateway.get(target).status), [200, 200, 429, 429]);
}

#[test]
fn several_limits_are_all_tried_and_a_refusal_charges_none() {
    let gateway = Gateway::start(&format!(
        "{LISTENERS}rate_limits: {{ wide: {{ rate: 9/h }}, narrow: {{ rate: 2/h, by: 'header:X-User', legacy_headers: true }} }}
routes:
  - {{ path: /both, rate_limits: [wide, narrow], respond: {{}} }}
  - {{ path: /wide, rate_limits: [wide], respond: {{}} }}
"
    ));
    let ask = |user: &str| gateway.connect().request("GET", "/both", &[("X-User", user)], b"");
    assert_eq!(["a", "a", "a", "a", "b"].map(|user| ask(user).status), [200, 200, 429, 429, 200]);
    let refused = ask("a");
    assert!(refused.header("ratelimit").is_some_and(|told| told.starts_with("\"narrow\";r=0;t=") && told.contains(", \"wide\";r=6;t=")));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"narrow\";q=2;w=3600, \"wide\";q=9;w=3600"));
    let legacy = ["limit", "remaining"].map(|name| refused.header(&format!("x-ratelimit-{name}")));
    assert_eq!(legacy, [Some("2"), Some("0")]);
    assert!(refused.header("x-ratelimit-reset").is_some_and(|reset| reset.parse::<u64>().is_ok_and(|reset| reset > 3500)));
    // Three passed so far.
    assert!(gateway.get("/wide").header("ratelimit").is_some_and(|told| told.starts_with("\"wide\";r=5;t=")));
}

#[test]
fn clients_are_told_apart_by_their_address() {
    let yaml = "server: { trusted_proxies: [127.0.0.1] }\n".to_string() + &yaml(&[("few", "{ rate: 1/h, by: identity }")]);
    let gateway = Gateway::start(&yaml);
    let ask = |ip: &str| gateway.connect().request("GET", "/few", &[("X-Forwarded-For", ip)], b"").status;
    assert_eq!(["10.0.0.1", "10.0.0.2", "10.0.0.1"].map(ask), [200, 200, 429]);
    assert_eq!(["::ffff:10.0.0.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(ask), [429, 200, 429, 200]);
}

#[test]
fn a_shadow_counts_and_marks_and_lets_pass() {
    let gateway = gateway(&[("trial", "{ rate: 1/h, mode: shadow }")]);
    // Of one connection, so that they are written down in their order.
    let mut client = gateway.connect();
    let answers = [(); 2].map(|()| client.request("GET", "/trial", &[], b""));
    assert_eq!(answers.each_ref().map(|answer| (answer.status, answer.header("ratelimit"))), [(200, None), (200, None)]);
    assert_eq!(gateway.access_log(2).iter().map(|line| line["limit"].as_str()).collect::<Vec<_>>(), [Some(""), Some("trial (shadow)")]);
    let count = |decision| gateway.metric(&format!("frontdesk_limit_total{{decision=\"{decision}\",limit=\"trial\",mode=\"shadow\"}}"));
    assert_eq!((count("allowed"), count("refused")), (1.0, 1.0));
}

#[test]
fn buckets_live_across_reloads_while_their_limit_is_unchanged() {
    let with = |limits: &[(&str, &str)]| format!("# {}\n{}", limits.len(), yaml(limits));
    let gateway = Gateway::start(&with(&[("few", "{ rate: 1/h, by: [client_ip, route] }")]));
    assert_eq!((gateway.get("/few").status, gateway.get("/few").status), (200, 429));
    assert!(gateway.reload(&with(&[("new", "{ rate: 1/h }"), ("few", "{ rate: 1/h, by: [client_ip, route] }")])));
    assert_eq!((gateway.get("/few").status, gateway.get("/new").status), (429, 200));
    assert!(gateway.reload(&with(&[("few", "{ rate: 2/h, by: [client_ip, route] }")])));
    assert_eq!(gateway.get("/few").status, 200, "another rate begins anew");
}

#[test]
fn no_more_passes_than_burst_and_rate_allow_under_load() {
    let gateway = gateway(&[("many", "{ rate: 500/s, burst: 200, by: global }")]);
    let url = format!("http://{}/many", gateway.address());
    let started = Instant::now();
    let printed = crate::kit::wrk(&url, 3);
    let passed = gateway.metric("frontdesk_limit_total{decision=\"allowed\",limit=\"many\",mode=\"enforce\"}");
    // What was on its way when the client ended still counts, so the clock is read behind the count.
    let most = 200.0 + 500.0 * started.elapsed().as_secs_f64();
    assert!(passed <= most && passed >= 1_690.0, "{passed} of {most}: {printed}");
    assert!(printed.contains("Non-2xx"), "{printed}");
}

#[test]
fn over_http2_and_for_websockets_and_grpc() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "{LISTENERS}rate_limits: {{ few: {{ rate: 1/h }}, ws: {{ rate: 1/h }} }}
routes: [{{ path: /few, rate_limits: [few], to: 'http://{origin}' }}, {{ path: /ws, rate_limits: [ws], to: 'http://{origin}' }}]
"
    ));
    let client = gateway.connect().request("GET", "/few", &[], b"");
    assert_eq!(client.status, 200);
    let grpc = gateway.connect().request("POST", "/few", &[("Content-Type", "application/grpc")], b"");
    assert_eq!((grpc.status, grpc.header("grpc-status"), grpc.header("grpc-message")), (200, Some("14"), Some("rate_limited")));
    assert!(grpc.header("ratelimit").is_some());
    let printed = crate::kit::curl(&["--http2-prior-knowledge", "-i", &format!("http://{}/few", gateway.address())]);
    assert!(
        printed.starts_with("HTTP/2 429") && printed.contains("retry-after: 3600") && printed.contains("ratelimit: \"few\";r=0"),
        "{printed}"
    );
    let shake = |client: &mut Client| client.request("GET", "/ws", crate::kit::HANDSHAKE, b"").status;
    assert_eq!((shake(&mut gateway.connect()), shake(&mut gateway.connect())), (200, 429));
}

#[test]
fn the_status_names_keys_by_the_hash_that_explain_shows() {
    let gateway = gateway(&[("few", "{ rate: 2/h, by: 'header:X-Secret' }")]);
    let ask = |secret: &str| gateway.connect().request("GET", "/few", &[("X-Secret", secret)], b"").status;
    assert_eq!(["a-secret", "a-secret", "a-secret", "other"].map(ask), [200, 200, 429, 200]);
    let status = gateway.ask("/status");
    assert!(!status.text().contains("a-secret"));
    let limit = &status.json()["limits"][0];
    assert_eq!((&limit["name"], &limit["keys"], &limit["refused"]), (&json!("few"), &json!(2), &json!(1)));
    assert_eq!(limit["nearest"][0]["left"], 0);
    let explained = gateway.ask("/explain?url=/few&header=X-Secret:%20a-secret").json();
    assert_eq!(explained["limits"][0]["key"], limit["nearest"][0]["key"]);
    assert_eq!((&explained["limits"][0]["verdict"], &explained["limits"][0]["by"]), (&json!("refused"), &json!("header x-secret")));
    assert_eq!(explained["outcome"]["refused"]["code"], "rate_limited");
    assert_eq!(gateway.ask("/status").json()["limits"][0]["refused"], 1, "to explain is not to ask");
}

#[test]
fn above_the_most_keys_the_longest_idle_go_first() {
    let yaml = "server: { limit_keys_max: 3, trusted_proxies: [127.0.0.1] }\n".to_string() + &yaml(&[("few", "{ rate: 1/h }")]);
    let gateway = Gateway::start(&yaml);
    let mut client = gateway.connect();
    let mut ask = |ip: &str| {
        std::thread::sleep(std::time::Duration::from_millis(5)); // idleness is told apart by milliseconds
        client.request("GET", "/few", &[("X-Forwarded-For", ip)], b"").status
    };
    assert_eq!(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1", "10.0.0.4"].map(&mut ask), [200, 200, 200, 429, 200]);
    assert_eq!(["10.0.0.1", "10.0.0.3", "10.0.0.2"].map(&mut ask), [429, 429, 200], "the second was forgotten");
    assert_eq!((gateway.metric("frontdesk_limit_keys"), gateway.metric("frontdesk_limit_keys_dropped_total")), (3.0, 2.0));
}

#[test]
fn problems_of_limits_come_all_at_once() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = "listeners: [{ bind: 127.0.0.1:0 }]
rate_limits:
  per_customer: { rate: 100/1m, burst: 20, by: identity, cost: 21 }
  often: { rate: 0/s, by: nobody }
  Big: { rate: 1/h, mode: watch }
  slow: { rate: 1/366d, burst: 3, by: [client_ip, client_ip] }
  slower: { rate: { claim: plan, values: { gold: 1/366d }, otherwise: 2/366d }, burst: 3 }
  late: { rate: 1/s, shared: true }
routes:
  - { path: /a, rate_limits: [per_custmer, often], respond: {} }
  - { path: /b, rate_limits: [often, often], respond: {} }
";
    std::fs::write(file.path(), text).expect("a file");
    let output = run(frontdesk().args(["check", "-c"]).arg(file.path()));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for what in [
        "`0/s` lets nothing through",
        "`nobody` is not something to count by",
        "`watch` is not known here",
        "there is no store to share `late` in",
        "a request of `per_customer` costs 21, and there are never more than 20",
        "`Big` is not a limit's name",
        "`client_ip` is named twice",
        "a burst of 3 at 1/1year",
        "no limit is named `per_custmer`",
        "did you mean `per_customer`?",
        "`often` is named twice",
    ] {
        assert!(said.contains(what), "{what} is not in\n{said}");
    }
}

#[test]
fn a_key_that_only_the_client_chooses_is_warned_of() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(
        file.path(),
        yaml(&[("a", "{ rate: 1/s, by: 'header:X-Key' }"), ("b", "{ rate: 1/s, by: ['header:X-Key', client_ip] }")]),
    )
    .expect("a file");
    let output = run(frontdesk().args(["check", "-c"]).arg(file.path()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("only the client chooses what `a` counts by") && !said.contains("`b`"), "{said}");
}

#[test]
fn a_flood_is_refused_before_everything_else() {
    let gateway = Gateway::start(&format!("server: {{ flood: {{ rate: 5/1h }} }}\n{}", yaml(&[("few", "{ rate: 1/h }")])));
    let mut client = gateway.connect();
    assert_eq!([0; 5].map(|_| client.get("/free").status), [200; 5]);
    for (method, target) in [("GET", "/free"), ("HEAD", "/free"), ("GET", "/few"), ("GET", "/nowhere")] {
        let refused = client.request(method, target, &[], b"");
        assert_eq!((refused.status, refused.header("retry-after"), refused.body.len()), (429, Some("1"), 0), "{method} {target}");
        assert_eq!((refused.header("ratelimit"), refused.header("x-request-id")), (None, None));
    }
    // The rest of a body is not read, and another connection fares no better.
    assert_eq!(client.request("POST", "/free", &[], b"a body").status, 429);
    assert_eq!(gateway.get("/free").status, 429);
    let printed = crate::kit::curl(&["--http2-prior-knowledge", "-i", &format!("http://{}/free", gateway.address())]);
    assert!(printed.starts_with("HTTP/2 429"), "{printed}");
    // A client that wants no more than one answer sees its end.
    for last in ["GET /free HTTP/1.0\r\n\r\n", "GET /free HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n"] {
        let mut client = gateway.connect();
        client.send(last);
        assert_eq!(client.answer().status, 429);
        client.wait_for_close();
    }
    assert_eq!(gateway.metric("frontdesk_flood_refused_total"), 9.0);
    assert_eq!(gateway.access_log(5).len(), 5, "they are in no log");
    assert_eq!(gateway.metric("frontdesk_refusals_total{code=\"no_route\",route=\"\"}"), 0.0);
}

#[test]
fn a_proxy_that_is_trusted_is_not_taken_for_its_clients() {
    let yaml = yaml(&[("few", "{ rate: 1/h }")]);
    let gateway = Gateway::start(&format!("server: {{ flood: {{ rate: 2/1h }}, trusted_proxies: [127.0.0.1] }}\n{yaml}"));
    let mut client = gateway.connect();
    let mut ask = |ip: &str| client.request("GET", "/free", &[("X-Forwarded-For", ip)], b"").status;
    assert_eq!(["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.1"].map(&mut ask), [200, 200, 200, 429]);
    assert_eq!(gateway.connect().request("GET", "/free", &[("X-Forwarded-For", "10.0.0.2")], b"").status, 200);
}
