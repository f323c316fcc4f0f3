//! Another process in place of the one that runs: nobody notices, and one that fails costs nothing.

use crate::kit::{
    Client, Gate, Gateway, H2Client, Origin, answer, certificate, curl, echoes, eventually, frontdesk, head, kill, run_async, scale,
    secure, whole, wrk,
};
use http::Method;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const FIXED: &str = "listeners: [{ bind: 127.0.0.1:0 }]\nroutes: [{ path: /*, respond: { body: old } }]\n";

/// The process that answers.
fn pid(gateway: &Gateway) -> u64 {
    gateway.ask("/status").json()["pid"].as_u64().expect("a process")
}

/// A gateway that was started by a link, which can be bent to something else.
fn linked(yaml: &str) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder");
    let link = folder.path().join("frontdesk");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_frontdesk"), &link).expect("a link");
    let mut command = Command::new(link);
    command.env_remove("RUST_LOG");
    Gateway::start_by(command, folder, yaml)
}

/// Puts a script in the program's place.
fn replace(gateway: &Gateway, script: &str) {
    let new = gateway.file("new");
    std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).expect("a script");
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).expect("a mode");
    std::fs::rename(new, gateway.file("frontdesk")).expect("the program");
}

#[test]
fn a_new_process_serves_the_file_as_it_is_by_then_and_the_old_one_ends() {
    let mut gateway = Gateway::start(FIXED);
    let (old, address, admin) = (gateway.pid(), gateway.address(), gateway.admin());
    gateway.rewrite(&FIXED.replace("old", "new"));
    let (code, said, _) = gateway.upgrade();
    let new = gateway.successor(0);
    assert_eq!((code, said), (0, format!("upgraded: process {new} has taken over from {old}\n")));
    assert_eq!(gateway.wait().code(), Some(0));
    assert_eq!((pid(&gateway), gateway.get("/").text()), (u64::from(new), "new".to_string()));
    assert_eq!((gateway.address(), gateway.admin(), gateway.ask("/readyz").status), (address, admin, 200));
    // And again, by a signal.
    assert!(kill("USR2", new));
    let newer = gateway.successor(1);
    eventually("its answer", || (pid(&gateway) == u64::from(newer)).then_some(()));
    assert_eq!(gateway.get("/").text(), "new");
    // It ends as any other does.
    assert!(kill("TERM", newer));
    eventually("its end", || Client::try_connect(address).is_none().then_some(()));
}

#[test]
fn under_load_no_request_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path(), "tls", &["localhost"]);
    let origin = Origin::echo();
    let yaml = format!(
        "
listeners:
  - {{ name: plain, bind: 127.0.0.1:0 }}
  - {{ name: tls, bind: 127.0.0.1:0, tls: {{ certificates: [{{ cert: DIR/tls.pem, key: DIR/tls.key }}] }} }}
routes: [{{ path: /fixed, respond: {{ body: fixed }} }}, {{ path: /*, to: http://{origin} }}]
"
    );
    let gateway = Gateway::start_in(folder, &yaml);
    let (plain, tls) = (gateway.address_of("plain"), gateway.address_of("tls"));
    let seconds = scale(4, 30);
    let has_ended = AtomicBool::new(false);
    let printed = std::thread::scope(|scope| {
        let urls = [format!("http://{plain}/fixed"), format!("https://{tls}/fixed"), format!("http://{plain}/proxied")];
        let load: Vec<_> = urls.map(|url| scope.spawn(move || wrk(&url, seconds))).into();
        let fresh = scope.spawn(|| {
            let mut served = 0;
            while !has_ended.load(Ordering::Relaxed) {
                assert_eq!(Client::connect(plain).request("GET", "/fixed", &[("Connection", "close")], b"").text(), "fixed");
                served += 1;
            }
            served
        });
        let outcomes: Vec<i32> = (0..scale(3, 10)).map(|_| gateway.upgrade().0).collect();
        let printed: Vec<_> = load.into_iter().map(|load| load.join().expect("wrk")).collect();
        has_ended.store(true, Ordering::Relaxed);
        assert!(fresh.join().expect("new connections") > 10);
        assert!(outcomes.iter().all(|code| *code == 0), "{outcomes:?}");
        printed
    });
    for printed in printed {
        // wrk names errors only if there are some.
        assert!(printed.contains("Requests/sec") && !printed.contains("errors") && !printed.contains("Non-2xx"), "{printed}");
    }
}

#[test]
fn a_file_that_is_wrong_by_then_is_said_and_the_old_one_serves_on() {
    let gateway = Gateway::start(FIXED);
    gateway.rewrite(&FIXED.replace("path: /*", "path: x"));
    let (code, said, why) = gateway.upgrade();
    assert_eq!((code, said), (1, String::new()));
    assert!(why.contains("frontdesk.yaml:2:18: the path `x` does not begin with a slash"), "{why}");
    assert!(why.ends_with("not upgraded: the gateway serves on as it is\n"), "{why}");
    assert_eq!((pid(&gateway), gateway.get("/").text(), gateway.ask("/readyz").status), (gateway.pid().into(), "old".to_string(), 200));
    gateway.rewrite(FIXED);
    assert_eq!(gateway.upgrade().0, 0);
    assert_eq!(gateway.get("/").text(), "old");
}

#[test]
fn a_socket_file_stays_when_the_new_process_fails_behind_it() {
    let yaml = |more: &str| {
        format!("listeners: [{{ name: file, bind: \"unix:DIR/http.sock\" }}{more}]\nroutes: [{{ path: /*, respond: {{ body: old }} }}]\n")
    };
    let gateway = Gateway::start(&yaml(""));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    gateway.rewrite(&yaml(&format!(", {{ name: taken, bind: '{address}' }}")));
    let (code, _, why) = gateway.upgrade();
    assert!(code == 1 && why.contains(&address), "{code} {why}");
    let socket = gateway.file("http.sock").display().to_string();
    assert_eq!(curl(&["--unix-socket", &socket, "http://localhost/"]), "old");
    // Nobody is in the way any more.
    drop(taken);
    assert_eq!(gateway.upgrade().0, 0);
    assert_eq!(curl(&["--unix-socket", &socket, "http://localhost/"]), "old");
}

#[test]
fn a_program_that_dies_hangs_or_is_gone_costs_nothing() {
    let gateway = linked(&format!("{FIXED}server: {{ upgrade_timeout: 1s, upgrade_socket: DIR/run/upgrade.sock }}\n"));
    let mut kept = gateway.connect();
    for (script, why) in [("exit 3", "exit status: 3"), ("exec sleep 60", "not ready within 1s"), ("kill -9 $$", "signal: 9")] {
        replace(&gateway, script);
        let (code, _, said) = gateway.upgrade();
        assert!(code == 1 && said.contains(why), "{script}: {said}");
        assert_eq!((pid(&gateway), kept.get("/").text()), (gateway.pid().into(), "old".to_string()));
    }
    std::fs::remove_file(gateway.file("frontdesk")).expect("the program");
    let (code, _, said) = gateway.upgrade();
    assert!(code == 1 && said.contains("can't be started"), "{said}");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_frontdesk"), gateway.file("frontdesk")).expect("a link");
    assert_eq!(gateway.upgrade().0, 0);
    assert_eq!(gateway.get("/").text(), "old");
    assert!(!gateway.file("run/upgrade.sock").exists());
}

#[test]
fn only_the_own_user_is_met_in_a_folder_of_its_own() {
    let yaml = format!("{FIXED}server: {{ upgrade_timeout: 1h, upgrade_socket: DIR/run/upgrade.sock }}\n");
    let mut gateway = linked(&yaml);
    replace(&gateway, "exec sleep 3600");
    gateway.signal("USR2");
    let socket = gateway.file("run/upgrade.sock");
    let mode = |path: &Path| std::fs::metadata(path).ok().map(|found| found.permissions().mode() & 0o777);
    eventually("the socket", || (mode(&socket) == Some(0o600)).then_some(()));
    assert_eq!(mode(&gateway.file("run")), Some(0o700));
    // Whoever ends the gateway ends the attempt.
    gateway.signal("TERM");
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    let gateway = Gateway::start(&format!("{FIXED}server: {{ upgrade_socket: DIR/open/upgrade.sock }}\n"));
    std::fs::create_dir(gateway.file("open")).expect("a folder");
    std::fs::set_permissions(gateway.file("open"), PermissionsExt::from_mode(0o777)).expect("a mode");
    let (code, _, why) = gateway.upgrade();
    assert!(code == 1 && why.contains("others may write to"), "{why}");
}

#[test]
fn what_is_in_flight_is_finished_by_the_old_process() {
    let gate = Gate::default();
    let theirs = gate.clone();
    let origin = Origin::new(move |_| {
        theirs.wait();
        answer(200, &[], b"done")
    });
    let (echo, tunnels) = (Origin::echo(), Origin::websocket_echo());
    let mut gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ drain_timeout: 60s }}
routes:
  - {{ path: /held, to: http://{origin} }}
  - {{ path: /echo, to: http://{echo} }}
  - {{ path: /*, to: http://{tunnels} }}
"
    ));
    let mut request = gateway.connect();
    request.send(head("GET", "/held", &[], 0));
    origin.wait_for(1);
    let mut upload = gateway.connect();
    upload.send(head("POST", "/echo", &[], 6) + "abc");
    eventually("both", || (gateway.ask("/status").json()["in_flight"] == 2).then_some(()));
    let mut socket = gateway.websocket();
    echoes(&mut socket, "before");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let (stream, _) = client.begin(Method::GET, "/held", &[], true).await;
        let stream = tokio::spawn(whole(stream));
        while origin.seen().len() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(gateway.upgrade().0, 0);
        while client.is_open().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        gate.open();
        assert_eq!(stream.await.expect("the stream").expect("an answer").body, b"done");
    });
    let answer = request.answer();
    assert_eq!((answer.text(), answer.header("connection")), ("done".to_string(), Some("close")));
    upload.send("def");
    assert_eq!(upload.answer().json()["body"], "abcdef");
    echoes(&mut socket, "after");
    // The first signal to end is meant for the new process.
    gateway.signal("TERM");
    echoes(&mut socket, "still there");
    drop(socket);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_tunnel_is_ended_at_the_timeout() {
    let tunnels = Origin::websocket_echo();
    let yaml = format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]\nserver: {{ drain_timeout: 700ms }}\nroutes: [{{ path: /*, to: http://{tunnels} }}]\n"
    );
    let mut gateway = Gateway::start(&yaml);
    let mut socket = gateway.websocket();
    echoes(&mut socket, "before");
    let began = std::time::Instant::now();
    assert_eq!(gateway.upgrade().0, 0);
    assert!(socket.read().is_err());
    assert!(began.elapsed() >= std::time::Duration::from_millis(650));
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn limits_and_counters_go_on() {
    let yaml = "
listeners: [{ bind: 127.0.0.1:0 }]
rate_limits: { few: { rate: 3/1h, by: client_ip } }
routes: [{ name: one, path: /*, rate_limits: [few], respond: { body: fixed } }]
";
    let gateway = Gateway::start(yaml);
    assert_eq!([(); 4].map(|()| gateway.get("/").status), [200, 200, 200, 429]);
    let count = |status: u16| gateway.metric(&format!("frontdesk_requests_total{{method=\"GET\",route=\"one\",status=\"{status}\"}}"));
    eventually("the counts", || (count(200) == 3.0 && count(429) == 1.0).then_some(()));
    assert_eq!(gateway.upgrade().0, 0);
    assert_eq!((count(200), count(429)), (3.0, 1.0));
    assert_eq!(gateway.get("/").status, 429);
    eventually("the next count", || (count(429) == 2.0).then_some(()));
}

#[test]
fn what_is_measured_or_followed_goes_on_too() {
    let service = Origin::new(|_| answer(200, &[], &[b'x'; 10_000]));
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ limit_keys_max: 16 }}
rate_limits: {{ each: {{ rate: 1000/1s, by: 'header:X-Key' }} }}
caches: {{ all: {{ ttl: 60s, body_bytes_max: 20KiB }} }}
cache_store: {{ memory: 100KiB }}
routes:
  - {{ name: kept, path: /kept/*, cache: all, to: 'http://{service}' }}
  - {{ name: keyed, path: /*, rate_limits: [each], respond: {{}} }}
"
    ));
    let round = || {
        let mut client = gateway.connect();
        for n in 0..100 {
            client.get(&format!("/kept/{n}"));
            client.request("GET", "/", &[("X-Key", &n.to_string())], b"");
        }
    };
    let totals = || {
        let count = |name: &str| gateway.metric(name);
        [
            count("frontdesk_cache_evicted_total"),
            count("frontdesk_limit_keys_dropped_total"),
            count("frontdesk_request_seconds_count{route=\"kept\"}"),
            count("frontdesk_upstream_seconds_count{service=\"http://SERVICE\"}".replace("SERVICE", &service.to_string()).as_str()),
        ]
    };
    round();
    let before = eventually("the counts", || Some(totals()).filter(|totals| totals[2] == 100.0 && totals[0] > 0.0 && totals[1] > 0.0));
    let sum = gateway.metric("frontdesk_request_seconds_sum{route=\"kept\"}");
    assert_eq!(gateway.upgrade().0, 0);
    assert_eq!(totals(), before);
    assert_eq!(gateway.metric("frontdesk_request_seconds_sum{route=\"kept\"}"), sum);
    round();
    // Nothing stands still, though what is followed has begun anew.
    eventually("more", || totals().iter().zip(&before).all(|(now, before)| now > before).then_some(()));
}

#[test]
fn scrapes_see_no_gap_and_no_counter_that_falls() {
    let gateway = Gateway::start(&FIXED.replace("{ path", "{ name: r, path"));
    let (address, admin, has_ended) = (gateway.address(), gateway.admin(), AtomicBool::new(false));
    let scrape = || {
        let text = Client::connect(admin).request("GET", "/metrics", &[("Host", "localhost"), ("Connection", "close")], b"").text();
        let count = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or(0.0);
        [
            count("frontdesk_requests_total{method=\"GET\",route=\"r\",status=\"200\"}"),
            count("frontdesk_request_seconds_count{route=\"r\"}"),
            count("frontdesk_request_seconds_sum{route=\"r\"}"),
        ]
    };
    let sent = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut sent = 0;
                    while !has_ended.load(Ordering::Relaxed) {
                        let mut client = Client::connect(address);
                        // Until it is told to go elsewhere.
                        loop {
                            sent += 1;
                            let answer = client.get("/");
                            assert_eq!(answer.status, 200);
                            if answer.header("connection") == Some("close") || sent % 50 == 0 {
                                break;
                            }
                        }
                    }
                    sent
                })
            })
            .collect();
        let scraper = scope.spawn(|| {
            let mut before = [0.0; 3];
            while !has_ended.load(Ordering::Relaxed) {
                let now = scrape();
                assert!(now.iter().zip(&before).all(|(now, before)| now >= before), "{now:?} after {before:?}");
                before = now;
            }
        });
        let outcomes: Vec<i32> = (0..scale(3, 20)).map(|_| gateway.upgrade().0).collect();
        has_ended.store(true, Ordering::Relaxed);
        let sent: u32 = clients.into_iter().map(|client| client.join().expect("a client")).sum();
        scraper.join().expect("the scraper");
        assert!(outcomes.iter().all(|code| *code == 0), "{outcomes:?}");
        f64::from(sent)
    });
    // None is missing, and none is counted twice.
    eventually("all of them", || (scrape()[0] == sent && scrape()[1] == sent).then_some(()));
}

#[test]
fn whoever_is_killed_the_other_one_serves() {
    let tunnels = Origin::websocket_echo();
    let gateway = Gateway::start(&format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]\nserver: {{ drain_timeout: 1h }}\nroutes: [{{ path: /chat, to: http://{tunnels} }}, {{ path: /*, respond: {{ body: fixed }} }}]\n"
    ));
    let mut socket = gateway.websocket();
    echoes(&mut socket, "before");
    assert_eq!(gateway.upgrade().0, 0);
    // The old one finishes its tunnel, and is killed at it.
    assert!(kill("KILL", gateway.pid()));
    assert!(socket.read().is_err());
    assert_eq!((gateway.get("/").text(), pid(&gateway)), ("fixed".to_string(), u64::from(gateway.successor(0))));
    // It hands on all the same.
    assert_eq!(gateway.upgrade().0, 0);
    assert_eq!(gateway.get("/").text(), "fixed");
}

#[test]
fn what_the_old_process_still_counts_arrives() {
    let gate = Gate::default();
    let theirs = gate.clone();
    let origin = Origin::new(move |_| {
        theirs.wait();
        answer(200, &[], b"done")
    });
    let mut gateway =
        Gateway::start(&format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ name: r, path: /*, to: http://{origin} }}]\n"));
    let mut request = gateway.connect();
    request.send(head("GET", "/", &[], 0));
    origin.wait_for(1);
    assert_eq!(gateway.upgrade().0, 0);
    let count = || gateway.metric("frontdesk_requests_total{method=\"GET\",route=\"r\",status=\"200\"}");
    assert_eq!(count(), 0.0);
    gate.open();
    assert_eq!(request.answer().text(), "done");
    eventually("the count", || (count() == 1.0).then_some(()));
    assert_eq!(gateway.metric("frontdesk_request_seconds_count{route=\"r\"}"), 1.0);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn what_is_known_of_services_goes_along() {
    let failing = Origin::new(|_| answer(502, &[], b"ill"));
    let (drained, good) = (Origin::fixed("drained"), Origin::fixed("good"));
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services:
  some: {{ endpoints: [{failing}, {drained}, {good}], balance: round_robin, retries: {{ attempts: 1 }}, ejection: {{ consecutive_failures: 2, base: 1h, max_percent: 100 }} }}
  broken: {{ endpoints: [{failing}], retries: {{ attempts: 1 }}, breaker: {{ min_requests: 3, open: 1h }} }}
  sticky: {{ endpoints: [{drained}, {good}], sticky: {{ cookie: place }} }}
routes:
  - {{ path: /some, to: some }}
  - {{ path: /broken, to: broken }}
  - {{ path: /sticky, to: sticky }}
"
    ));
    let admin = format!("http://{}", gateway.admin());
    let told = crate::kit::run(frontdesk().args(["endpoint", "drain", "some", &drained.to_string(), "--admin", &admin]));
    assert!(told.status.success());
    (0..10).for_each(|_| drop(gateway.get("/some")));
    (0..3).for_each(|_| drop(gateway.get("/broken")));
    let stuck = gateway.get("/sticky");
    let cookie = stuck.header("set-cookie").expect("a cookie").split(';').next().expect("a pair").to_string();
    let states = || {
        let status = gateway.ask("/status").json();
        let endpoints = status["services"][0]["endpoints"].as_array().expect("endpoints").clone();
        let told: Vec<_> = endpoints.iter().map(|known| (known["state"].clone(), known["ejections"].clone())).collect();
        (told, status["services"][1]["breaker"].clone())
    };
    let ejections = || gateway.metric(&format!("frontdesk_ejections_total{{endpoint=\"{failing}\",service=\"some\"}}"));
    let before = states();
    assert_eq!((before.0[0].0.as_str(), before.0[1].0.as_str(), before.1.as_str()), (Some("ejected"), Some("drained"), Some("open")));
    for _ in 0..2 {
        assert_eq!(gateway.upgrade().0, 0);
        assert_eq!((states(), ejections()), (before.clone(), 1.0));
        assert!((0..10).all(|_| gateway.get("/some").text() == "good"));
        assert_eq!(gateway.get("/broken").code(), "breaker_open");
        let again = gateway.connect().request("GET", "/sticky", &[("Cookie", &cookie)], b"");
        assert_eq!((again.text(), again.header("set-cookie")), (stuck.text(), None));
    }
}

#[test]
fn many_listeners_go_along_and_some_come_and_go() {
    let listeners = |range: std::ops::Range<usize>| {
        let all: Vec<String> = range.map(|n| format!("{{ name: l{n}, bind: \"127.0.0.{}:0\" }}", n + 1)).collect();
        format!("listeners: [{}]\nroutes: [{{ path: /*, respond: {{ body: fixed }} }}]\n", all.join(", "))
    };
    let gateway = Gateway::start(&listeners(0..250));
    // The log names the first twenty only.
    let addresses = || -> HashMap<String, SocketAddr> {
        let status = gateway.ask("/status").json();
        let listed = status["listeners"].as_array().expect("listeners").iter();
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_string();
        listed.map(|listener| (text(&listener["name"]), text(&listener["address"]).parse().expect("an address"))).collect()
    };
    let before = addresses();
    gateway.rewrite(&listeners(1..251));
    assert_eq!(gateway.upgrade().0, 0);
    let after = addresses();
    for n in [1, 100, 249, 250] {
        let name = format!("l{n}");
        assert!(before.get(&name).is_none_or(|address| *address == after[&name]), "{name}");
        assert_eq!(Client::connect(after[&name]).get("/").text(), "fixed");
    }
    eventually("the first one's end", || Client::try_connect(before["l0"]).is_none().then_some(()));
}

#[test]
fn listeners_that_ask_for_certificates_are_tried_too() {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path(), "tls", &["localhost"]);
    let yaml = "
listeners:
  - bind: 127.0.0.1:0
    tls: { min_version: \"1.3\", certificates: [{ cert: DIR/tls.pem, key: DIR/tls.key }], client_auth: { ca: DIR/tls.pem, mode: required } }
routes: [{ path: /*, respond: { body: fixed } }]
";
    let gateway = Gateway::start_in(folder, yaml);
    assert_eq!(gateway.upgrade().0, 0);
    assert!(secure(gateway.address(), "localhost", &[]).is_ok());
}

#[test]
fn without_a_gateway_the_command_says_so() {
    let dead = crate::kit::dead_address();
    let output = crate::kit::run(frontdesk().args(["upgrade", "--admin", &format!("http://{dead}")]));
    assert_eq!(output.status.code(), Some(1));
}
