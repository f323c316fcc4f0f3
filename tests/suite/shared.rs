//! Limits that several gateways share in a store, and what becomes of them while it is away.

use crate::kit::{Gateway, Redis, certificate, eventually, frontdesk, run, scale};
use serde_json::json;
use std::time::{Duration, Instant};

const LISTENERS: &str = "listeners: [{ bind: 127.0.0.1:0 }]\n";

/// A gateway whose `/x` is limited.
fn gateway(url: &str, limit: &str) -> Gateway {
    Gateway::start(&yaml(url, limit))
}

fn yaml(url: &str, limit: &str) -> String {
    format!(
        "{LISTENERS}redis: {{ url: \"{url}\" }}\nrate_limits: {{ few: {{ {limit} }} }}\nroutes: [{{ path: /x, rate_limits: [few], respond: {{}} }}]\n"
    )
}

/// Asks the gateways in turn until so many requests have passed; what comes late on a loaded machine is refused, and asked again.
fn pass(gateways: &[&Gateway], wanted: usize) {
    let mut clients: Vec<_> = gateways.iter().map(|gateway| gateway.connect()).collect();
    let mut passed = 0;
    eventually("requests that pass", || {
        for client in &mut clients {
            passed += usize::from(passed < wanted && client.get("/x").status == 200);
        }
        (passed == wanted).then_some(())
    });
}

/// None of these passes.
fn none_passes(gateways: &[&Gateway], times: usize) {
    for gateway in gateways {
        let mut client = gateway.connect();
        (0..times).for_each(|_| assert_eq!(client.get("/x").status, 429));
    }
}

#[test]
fn gateways_count_together() {
    for how in ["exact: false", "exact: true"] {
        let redis = Redis::start();
        let limit = format!("rate: 12/1h, by: global, shared: true, when_store_is_down: refuse, {how}");
        let [a, b] = [(); 2].map(|()| gateway(&redis.url(), &limit));
        pass(&[&a, &b], 6);
        pass(&[&b], 6);
        none_passes(&[&a, &b], 5);
        let refused = a.get("/x");
        assert_eq!(refused.code(), "rate_limited");
        assert_eq!(refused.header("ratelimit-policy"), Some("\"few\";q=12;w=3600"));
        assert!(refused.header("ratelimit").is_some_and(|told| told.starts_with("\"few\";r=0;t=3")), "{refused:?}");
        assert!(
            refused.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok_and(|s| (1..=300).contains(&s))),
            "{refused:?}"
        );
        // Others that are limited in the same store are not concerned.
        let other = gateway(&redis.url(), &limit.replace("12/1h", "13/1h"));
        pass(&[&other], 13);
    }
}

#[test]
fn keys_are_told_apart_and_expire_in_the_store() {
    let redis = Redis::start();
    let text = yaml(&redis.url(), "rate: 2/500ms, by: client_ip, shared: true, when_store_is_down: refuse");
    let gateway = Gateway::start(&format!("server: {{ trusted_proxies: [127.0.0.1] }}\n{text}"));
    let ask = |ip: &str| gateway.connect().request("GET", "/x", &[("X-Forwarded-For", ip)], b"").status;
    for ip in ["10.0.0.1", "10.0.0.2"] {
        eventually("a request that passes", || (ask(ip) == 200).then_some(()));
    }
    let keys = redis.ask("KEYS *");
    assert!(keys.contains("frontdesk:") && !keys.contains("10.0.0"), "{keys}");
    eventually("an empty store", || redis.ask("DBSIZE").starts_with(":0").then_some(()));
}

#[test]
fn a_refusal_by_another_limit_costs_nothing() {
    let redis = Redis::start();
    for how in ["shared: true", "shared: true, exact: true"] {
        let gateway = Gateway::start(&format!(
            "{LISTENERS}redis: {{ url: \"{}\" }}
rate_limits:
  wide: {{ rate: 20/1h, {how}, when_store_is_down: refuse }}
  narrow: {{ rate: 2/1h, by: 'header:X-User' }}
routes:
  - {{ path: /both, rate_limits: [wide, narrow], respond: {{}} }}
  - {{ path: /x, rate_limits: [wide], respond: {{}} }}
",
            redis.url()
        ));
        // Otherwise the second round would go on where the first one was.
        redis.ask("FLUSHALL");
        let mut client = gateway.connect();
        let mut both = |user: &str| client.request("GET", "/both", &[("X-User", user)], b"").status;
        let mut passed = 0;
        eventually("two that pass", || {
            passed += usize::from(both("a") == 200);
            (passed == 2).then_some(())
        });
        assert_eq!([0; 30].map(|_| both("a")), [429; 30]);
        pass(&[&gateway], 18);
        none_passes(&[&gateway], 2);
    }
}

/// What got through is within what `check` says, and at least nine tenths of the limit.
#[test]
fn three_gateways_under_load_keep_to_the_limit() {
    let redis = Redis::start();
    let limit = "rate: 300/s, burst: 150, by: global, shared: true, nodes: 3, when_store_is_down: refuse";
    let gateways = [(); 3].map(|()| gateway(&redis.url(), limit));
    let seconds = scale(3, 30) as u64;
    let started = Instant::now();
    std::thread::scope(|scope| {
        for gateway in &gateways {
            scope.spawn(move || {
                let mut client = gateway.connect();
                while started.elapsed() < Duration::from_secs(seconds) {
                    client.get("/x");
                }
            });
        }
    });
    let took = started.elapsed().as_secs_f64();
    let sum = |name: &str| gateways.iter().map(|gateway| gateway.metric(name)).sum::<f64>();
    let passed = sum("frontdesk_limit_total{decision=\"allowed\",limit=\"few\",mode=\"enforce\"}");
    let alone = sum("frontdesk_limit_alone_total{limit=\"few\"}");
    // Three times 150 / (10 x 3).
    let most = 150.0 + 300.0 * took + 15.0;
    // On a loaded machine an answer may be late, and the request is refused.
    assert!(passed <= most && passed + alone >= 0.9 * (150.0 + 300.0 * took), "{passed} of {most}, {alone} late");
    let asked = gateways.iter().map(|gateway| gateway.metric("frontdesk_store_questions_total")).sum::<f64>();
    let all = passed + sum("frontdesk_limit_total{decision=\"refused\",limit=\"few\",mode=\"enforce\"}");
    println!("{passed} of {most} passed, {all} requests, {asked} calls, {alone} late");
}

#[test]
fn a_store_that_dies_is_done_without_and_found_again() {
    let mut redis = Redis::start();
    let gateway = gateway(&redis.url(), "rate: 40/1h, by: global, shared: true, nodes: 4");
    pass(&[&gateway], 5);
    // On a loaded machine an answer may be late, and the request is counted here.
    let late = gateway.metric("frontdesk_limit_alone_total{limit=\"few\"}") as usize;
    redis.kill();
    gateway.wait_for_log("is away, they are decided without it");
    let mut client = gateway.connect();
    let passed = (0..40).filter(|_| client.get("/x").status == 200).count();
    assert_eq!(passed, 10 - late, "a quarter of it");
    assert!(gateway.metric("frontdesk_limit_alone_total{limit=\"few\"}") >= 40.0);
    assert_eq!((gateway.metric("frontdesk_store_up"), gateway.metric("frontdesk_store_failures_total")), (0.0, 1.0));
    assert_eq!(gateway.ask("/readyz").status, 200);
    let told = gateway.ask("/status").json();
    assert!(told["store"]["up"] == false && told["store"]["last_error"].is_string(), "{told:#}");
    redis.restart();
    eventually("the store's return", || (gateway.metric("frontdesk_store_up") == 1.0).then_some(()));
    // It is empty, so all is there again.
    pass(&[&gateway], 40);
    assert_eq!(gateway.log().iter().filter(|line| line.contains("is away")).count(), 1, "one line");
    let told = gateway.ask("/status").json();
    assert_eq!((&told["store"]["up"], &told["limits"][0]["shared"]["exact"]), (&json!(true), &json!(false)));
}

#[test]
fn an_empty_bucket_is_full_when_the_store_comes_back_empty() {
    let mut redis = Redis::start();
    let gateway = gateway(&redis.url(), "rate: 10/1h, by: global, shared: true, when_store_is_down: refuse");
    pass(&[&gateway], 10);
    none_passes(&[&gateway], 2);
    // Some looks later nothing is held of it any more: it is known for its emptiness alone.
    let asked = || gateway.ask("/status").json()["store"]["questions"].as_u64().expect("a number");
    let before = asked();
    eventually("two looks", || (asked() >= before + 2).then_some(()));
    redis.kill();
    gateway.wait_for_log("is away");
    redis.restart();
    eventually("the store's return", || (gateway.metric("frontdesk_store_up") == 1.0).then_some(()));
    pass(&[&gateway], 10);
    none_passes(&[&gateway], 2);
}

#[test]
fn a_store_that_is_silent_holds_nobody_up() {
    for how in ["exact: false", "exact: true"] {
        let redis = Redis::start();
        let gateway = gateway(&redis.url(), &format!("rate: 1000/1h, by: 'header:X-Key', shared: true, when_store_is_down: allow, {how}"));
        redis.signal("STOP");
        let started = Instant::now();
        let mut client = gateway.connect();
        // Each is of a key that nothing is known of.
        let answers: Vec<_> = (0..100).map(|n| client.request("GET", "/x", &[("X-Key", &n.to_string())], b"").status).collect();
        assert_eq!(answers, [200; 100]);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        gateway.wait_for_log("is away");
        redis.signal("CONT");
        eventually("the store's return", || (gateway.metric("frontdesk_store_up") == 1.0).then_some(()));
    }
}

#[test]
fn a_store_that_refuses_to_be_written_is_come_back_to_less_and_less_often() {
    let redis = Redis::start();
    // A replica, whose master is nowhere: it takes connections, and answers the script with READONLY.
    assert!(redis.ask("REPLICAOF 127.0.0.1 1").starts_with("+OK"));
    let gateway = gateway(&redis.url(), "rate: 1000/1h, by: global, shared: true, when_store_is_down: allow");
    let mut client = gateway.connect();
    let mut lost = || {
        assert_eq!(client.get("/x").status, 200);
        gateway.metric("frontdesk_store_failures_total")
    };
    let first = eventually("a loss", || Some(lost()).filter(|lost| *lost >= 1.0));
    let began = Instant::now();
    eventually("five more", || (lost() >= first + 5.0).then_some(()));
    // At least the halves of 100, 200, 400 and 800 ms; the pause before those may be over by now.
    assert!(began.elapsed() >= Duration::from_millis(750), "{:?}", began.elapsed());
    redis.ask("REPLICAOF NO ONE");
    eventually("the store's return", || {
        client.get("/x");
        (gateway.metric("frontdesk_store_up") == 1.0 && redis.ask("KEYS *").contains("frontdesk:")).then_some(())
    });
}

#[test]
fn without_a_store_it_is_allowed_or_refused_as_configured() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("unix:{}/nothing.sock", folder.path().display());
    for exact in [false, true] {
        let statuses = |when: &str| {
            let gateway = gateway(&url, &format!("rate: 2/1h, shared: true, exact: {exact}, when_store_is_down: {when}"));
            let mut client = gateway.connect();
            let answers = [0; 4].map(|_| client.get("/x"));
            let told = [answers[0].header("retry-after"), answers[0].header("ratelimit")];
            assert!(when != "refuse" || told == [Some("1"), Some("\"few\";r=0;t=1")], "{:?}", answers[0]);
            answers.map(|answer| answer.status)
        };
        assert_eq!(statuses("allow"), [200; 4]);
        assert_eq!(statuses("refuse"), [429; 4]);
        assert_eq!(statuses("local"), [200, 200, 429, 429]);
    }
}

#[test]
fn with_a_password_and_with_a_wrong_one() {
    let redis = Redis::start_with(tempfile::tempdir().expect("a folder"), &["--requirepass", "a-secret"]);
    let limit = "rate: 3/1h, shared: true, when_store_is_down: refuse";
    let right = gateway(&format!("{}?pass=a-secret", redis.url()), limit);
    pass(&[&right], 3);
    none_passes(&[&right], 1);
    let wrong = gateway(&format!("{}?pass=a-guess", redis.url()), limit);
    none_passes(&[&wrong], 1);
    wrong.wait_for_log("is away");
    for gateway in [&right, &wrong] {
        let shown = [gateway.ask("/status").text(), gateway.ask("/config").text(), gateway.log().join("\n")].concat();
        assert!(!shown.contains("a-secret") && !shown.contains("a-guess"), "{shown}");
    }
}

#[test]
fn over_tls() {
    let (redis, port) = Redis::start_on_port(|_, port| {
        let folder = tempfile::tempdir().expect("a folder");
        certificate(folder.path(), "redis", &["localhost"]);
        let arguments = ["--port", "0", "--tls-port", &port.to_string(), "--tls-cert-file", "redis.pem", "--tls-key-file", "redis.key"];
        let more = ["--tls-auth-clients", "no", "--tls-ca-cert-file", "redis.pem"];
        let arguments = arguments.into_iter().chain(more).map(ToString::to_string).collect();
        (folder, arguments)
    });
    let ca = redis.folder().join("redis.pem").display().to_string();
    let text = yaml(&format!("rediss://localhost:{port}"), "rate: 3/1h, shared: true, when_store_is_down: refuse");
    let gateway = Gateway::start(&text.replace("\" }\nrate_limits", &format!("\", ca: {ca} }}\nrate_limits")));
    pass(&[&gateway], 3);
    none_passes(&[&gateway], 1);
    let stranger = self::gateway(&format!("rediss://localhost:{port}"), "rate: 3/1h, shared: true, when_store_is_down: refuse");
    none_passes(&[&stranger], 1);
}

#[test]
fn a_reload_goes_on_with_the_store_and_may_change_it() {
    let (one, other) = (Redis::start(), Redis::start());
    let limit = "rate: 4/1h, shared: true, when_store_is_down: refuse";
    let gateway = gateway(&one.url(), limit);
    pass(&[&gateway], 4);
    assert!(gateway.reload(&format!("# again\n{}", yaml(&one.url(), limit))));
    none_passes(&[&gateway], 2);
    assert!(gateway.reload(&yaml(&other.url(), limit)));
    pass(&[&gateway], 4);
    assert!(gateway.reload(&yaml(&one.url(), limit).replace("shared: true, ", "")));
    pass(&[&gateway], 4);
}

#[test]
fn what_a_gateway_holds_is_given_back_at_its_end() {
    let redis = Redis::start();
    let limit = "rate: 200/1h, by: global, shared: true, when_store_is_down: refuse";
    let mut leaving = gateway(&redis.url(), limit);
    let staying = gateway(&redis.url(), limit);
    // Some requests in a row, until more is held than is needed.
    let (mut client, mut passed) = (leaving.connect(), 0);
    eventually("a lease", || {
        passed += usize::from(client.get("/x").status == 200);
        (leaving.ask("/status").json()["limits"][0]["shared"]["held"].as_u64()? > 1 || passed == 100).then_some(())
    });
    leaving.signal("TERM");
    drop(client);
    assert!(leaving.wait().success());
    pass(&[&staying], 190 - passed);
    // What it holds itself goes back when it rests.
    eventually("nothing held", || (staying.ask("/status").json()["limits"][0]["shared"]["held"] == 0).then_some(()));
    let last = gateway(&redis.url(), limit);
    pass(&[&last], 10);
    none_passes(&[&staying, &last], 2);
}

#[test]
fn check_says_what_sharing_costs_and_lacks() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("f.yaml");
    let check = |text: &str| {
        std::fs::write(&file, text).expect("a file");
        let output = run(frontdesk().args(["check", "-c"]).arg(&file));
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (is_good, said) = check(&yaml("redis://10.0.0.1", "rate: 1000/1s, shared: true, nodes: 3"));
    assert!(is_good && said.contains("`few` may let through 99 more than its burst and rate, with 3 gateways"), "{said}");
    let (is_good, said) = check(&yaml("redis://10.0.0.1", "rate: 1000/1s, shared: true, exact: true"));
    assert!(is_good && !said.contains("more than its burst"), "{said}");
    let lacking = format!(
        "{LISTENERS}rate_limits: {{ few: {{ rate: 1/s, shared: true }}, many: {{ rate: 1/s, exact: true, when_store_is_down: panic }}, all: {{ rate: 1/s, exact: true }} }}
routes: [{{ path: /x, rate_limits: [few, many, all], respond: {{}} }}]
"
    );
    let (is_good, said) = check(&lacking);
    assert!(
        !is_good && ["there is no store to share `few` in", "`panic`", "`exact` without `shared`"].iter().all(|what| said.contains(what)),
        "{said}"
    );
    let (is_good, said) = check(&yaml("http://a-secret", "rate: 1/s, shared: true"));
    assert!(!is_good && said.contains("`url` can't be used") && !said.contains("a-secret") && !said.contains("no store"), "{said}");
}
