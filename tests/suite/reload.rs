//! Reloads: another configuration in place of the one that runs, all of it or nothing.

use crate::kit::{Client, Gate, Gateway, Origin, answer, certificate, eventually, head, read_head, scale, secure, shown, wrk};
use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn says(text: &str) -> String {
    format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: /*, respond: {{ body: {text} }} }}]\n")
}

fn snapshot(gateway: &Gateway) -> serde_json::Value {
    gateway.ask("/status").json()["snapshot"].clone()
}

#[test]
fn a_changed_file_is_taken() {
    let gateway = Gateway::start(&says("old"));
    let metrics = gateway.ask("/metrics").text();
    for result in ["ok", "failed"] {
        assert!(metrics.contains(&format!("frontdesk_reloads_total{{result=\"{result}\"}} 0\n")), "{metrics}");
    }
    let (mut kept, before) = (gateway.connect(), snapshot(&gateway));
    assert_eq!((kept.get("/").text(), &before["version"]), ("old".to_string(), &1.into()));
    assert!(gateway.reload(&says("new")));
    assert_eq!((kept.get("/").text(), gateway.get("/").text()), ("new".to_string(), "new".to_string()));
    let after = snapshot(&gateway);
    assert_eq!((&after["version"], &after["last_error"]), (&2.into(), &serde_json::Value::Null));
    assert_ne!(before["hash"], after["hash"]);
    assert_eq!(gateway.metric("frontdesk_reloads_total{result=\"ok\"}"), 1.0);
    let info = format!("frontdesk_snapshot_info{{hash=\"{}\",version=\"2\"}}", after["hash"].as_str().expect("a hash"));
    assert_eq!(gateway.metric(&info), 1.0);
}

#[test]
fn a_bad_file_leaves_the_old_one_running_and_says_why() {
    let gateway = Gateway::start(&says("old"));
    for (n, (bad, why)) in [
        (says("new") + "nonsense: 1\n", "unknown key `nonsense`"),
        (says("new").replace("respond: { body: new }", "to: nobody"), "no service is named `nobody`"),
        ("routes: [".to_string(), "frontdesk.yaml"),
        (String::new(), "no listener"),
        (says("new") + "access_log: { path: /no/such/folder/access.log }\n", "/no/such/folder/access.log"),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(!gateway.reload(&bad), "{bad}");
        gateway.wait_for_log(why);
        let status = snapshot(&gateway);
        assert!(status["last_error"].as_str().is_some_and(|error| error.contains(why)), "{status}");
        assert_eq!((&status["version"], gateway.get("/").text()), (&1.into(), "old".to_string()));
        assert_eq!(gateway.metric("frontdesk_reloads_total{result=\"failed\"}"), (n + 1) as f64);
    }
    assert_eq!(gateway.ask("/readyz").status, 200);
    // The next good one is taken, and the error forgotten.
    assert!(gateway.reload(&says("new")));
    assert_eq!((gateway.get("/").text(), &snapshot(&gateway)["last_error"]), ("new".to_string(), &serde_json::Value::Null));
}

#[test]
fn a_file_that_is_gone_leaves_the_old_one_running() {
    let gateway = Gateway::start(&says("old"));
    std::fs::remove_file(gateway.file("frontdesk.yaml")).expect("to remove");
    gateway.signal("HUP");
    gateway.wait_for_log("not reloaded");
    assert_eq!(gateway.get("/").text(), "old");
}

#[test]
fn one_bad_part_keeps_the_good_ones_from_taking_effect() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let gateway = Gateway::start(&says("old"));
    let listeners = gateway.addresses();
    for bad in [
        format!("{{ name: bad, bind: {} }}", taken.local_addr().expect("an address")),
        "{ name: bad, bind: 127.0.0.1:0, tls: { certificates: [{ cert: DIR/no.pem, key: DIR/no.key }] } }".to_string(),
    ] {
        let new = says("new").replace("}]\nroutes", &format!("}}, {{ name: good, bind: 127.0.0.1:0 }}, {bad}]\nroutes"))
            + "server: { max_connections: 1 }\nadmin: { bind: 127.0.0.1:0, token: secret }\n";
        assert!(!gateway.reload(&new), "{new}");
        let mut clients = [gateway.connect(), gateway.connect()];
        assert_eq!(clients.each_mut().map(|client| client.get("/").text()), ["old", "old"]);
        // No listener more, no token, no other version.
        assert_eq!(gateway.addresses(), listeners);
        let status = gateway.ask("/status").json();
        assert_eq!((&status["snapshot"]["version"], status["listeners"].as_array().map(Vec::len)), (&1.into(), Some(1)));
    }
}

#[test]
fn listeners_come_stay_and_go() {
    let (origin, gate) = held("done");
    let yaml = |listeners: &str| format!("listeners: [{listeners}]\nroutes: [{{ path: /*, to: http://{origin} }}]\n");
    let (one, two) = ("{ name: one, bind: 127.0.0.1:0 }", "{ name: two, bind: 127.0.0.1:0 }");
    let gateway = Gateway::start(&yaml(one));
    let first = gateway.address_of("one");
    assert!(gateway.reload(&yaml(&format!("{one}, {two}"))));
    let second = gateway.address_of("two");
    assert_eq!((gateway.address_of("one"), first == second), (first, false));
    let mut busy = Client::connect(second);
    busy.send(head("GET", "/x", &[], 0));
    origin.wait_for(1);
    assert!(gateway.reload(&yaml(one)));
    eventually("a refusal", || std::net::TcpStream::connect(second).is_err().then_some(()));
    gate.open();
    let answer = busy.answer();
    assert_eq!((answer.text(), answer.header("connection")), ("done".to_string(), Some("close")));
    busy.wait_for_close();
    assert_eq!(Client::connect(first).get("/x").text(), "done");
}

#[test]
fn connections_that_rest_end_with_their_listener() {
    let two = says("x").replace("}]\nroutes", "}, { name: two, bind: 127.0.0.1:0 }]\nroutes");
    let gateway = Gateway::start(&two);
    let (mut used, mut fresh) = (Client::connect(gateway.address_of("two")), Client::connect(gateway.address_of("two")));
    assert_eq!(used.get("/").text(), "x");
    assert!(gateway.reload(&says("x")));
    used.wait_for_close();
    fresh.wait_for_close();
    assert_eq!(Client::connect(gateway.address_of("unnamed")).get("/").text(), "x");
}

#[test]
fn a_certificate_is_replaced_for_new_handshakes() {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path(), "a", &["a.example"]);
    let yaml = says("x").replace(":0 }", ":0, tls: { certificates: [{ cert: DIR/a.pem, key: DIR/a.key }] } }");
    let gateway = Gateway::start_in(folder, &yaml);
    let mut old = secure(gateway.address(), "a.example", &["http/1.1"]).expect("a handshake");
    let before = shown(&old);
    assert_eq!(before, shown(&secure(gateway.address(), "a.example", &[]).expect("a handshake")));
    certificate(gateway.folder(), "a", &["a.example"]);
    assert!(gateway.reload(&yaml));
    assert_ne!(before, shown(&secure(gateway.address(), "a.example", &[]).expect("a handshake")));
    let expiry = gateway.metric("frontdesk_certificate_expiry_seconds{name=\"a.example\"}");
    assert!(expiry > std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time").as_secs_f64(), "{expiry}");
    // What was connected goes on.
    old.write_all(head("GET", "/", &[], 0).as_bytes()).expect("to send");
    let mut begin = [0; 12];
    std::io::Read::read_exact(&mut old, &mut begin).expect("an answer");
    assert_eq!(&begin, b"HTTP/1.1 200");
}

/// A service that answers once its gate is open.
fn held(body: &'static str) -> (Origin, Gate) {
    let gate = Gate::default();
    let theirs = gate.clone();
    let origin = Origin::new(move |_| {
        theirs.wait();
        answer(200, &[], body.as_bytes())
    });
    (origin, gate)
}

#[test]
fn a_request_ends_under_the_configuration_it_began_with() {
    let (origin, gate) = held("x");
    let yaml = |version: u32, timeout: &str| {
        format!(
            "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{origin}], timeouts: {{ read: {timeout} }} }} }}
routes: [{{ name: v{version}, path: /*, response: {{ headers: {{ set: {{ X-Version: '{version}' }} }} }}, to: s }}]
"
        )
    };
    let gateway = Gateway::start(&yaml(1, "1h"));
    let mut client = gateway.connect();
    client.send(head("GET", "/", &[], 0));
    origin.wait_for(1);
    assert!(gateway.reload(&yaml(2, "10s")));
    // What is known of an endpoint outlives the snapshot.
    let in_flight = || gateway.ask("/status").json()["services"][0]["endpoints"][0]["in_flight"].clone();
    assert_eq!(in_flight(), 1);
    gate.open();
    assert_eq!(client.answer().header("x-version"), Some("1"));
    assert_eq!(client.get("/").header("x-version"), Some("2"));
    drop(client);
    gateway.wait_until_idle();
    assert_eq!(in_flight(), 0);
    let routes: Vec<_> = gateway.access_log(2).into_iter().map(|line| line["route"].clone()).collect();
    assert_eq!(routes, ["v1", "v2"]);
}

#[test]
fn limits_and_timeouts_of_the_server_change_too() {
    let gateway = Gateway::start(&says("x"));
    assert!(gateway.reload(&(says("x") + "server: { max_connections: 1, timeouts: { request_header: 200ms } }\n")));
    let mut client = gateway.connect();
    client.send("GET / HT");
    let mut other = gateway.connect();
    assert_eq!((other.answer().status, client.answer().status), (503, 408));
}

#[test]
fn the_access_log_moves() {
    let gateway = Gateway::start(&says("x"));
    gateway.get("/1");
    gateway.access_log(1);
    assert!(gateway.reload(&(says("x") + "access_log: { path: DIR/other.log }\n")));
    gateway.get("/2");
    let lines = |name: &str| std::fs::read_to_string(gateway.file(name)).unwrap_or_default().lines().count();
    eventually("a line in the new log", || (lines("other.log") == 1).then_some(()));
    assert_eq!(lines("access.log"), 1);
}

#[test]
fn a_hundred_reloads_under_load_fail_no_request() {
    const RELOADS: u64 = 100;
    let origin = Origin::fixed("x");
    let yaml = |n: u64| {
        format!(
            "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{origin}] }} }}
routes: [{{ name: v{n}, path: /*, to: s }}, {{ path: /fixed, respond: {{ body: x }} }}]
"
        )
    };
    let gateway = Gateway::start(&yaml(1));
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut kept = gateway.connect();
                while !stop.load(Ordering::Relaxed) {
                    for target in ["/fixed", "/service"] {
                        assert_eq!(kept.get(target).text(), "x");
                    }
                    assert_eq!(gateway.get("/service").text(), "x");
                    served.fetch_add(3, Ordering::Relaxed);
                }
            });
        }
        for version in 2..=RELOADS + 1 {
            gateway.rewrite(&yaml(version));
            gateway.signal("HUP");
            eventually("the next version", || (snapshot(&gateway)["version"] == version).then_some(()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(served.load(Ordering::Relaxed) > 0);
    gateway.wait_until_idle();
    assert_eq!(gateway.metric("frontdesk_reloads_total{result=\"ok\"}"), RELOADS as f64);
    let statuses = gateway.access_log(served.load(Ordering::Relaxed)).into_iter().filter(|line| line["status"] != 200).count();
    assert_eq!(statuses, 0);
}

#[test]
fn reloads_under_constant_load_break_no_connection() {
    let (seconds, pause) = (scale(3, 60), Duration::from_millis(scale(100, 50) as u64));
    // It keeps no requests: there would be too many. Likewise the log.
    let origin = Origin::bare(|stream, _| {
        while read_head(stream)?.is_some() {
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")?;
        }
        Ok(())
    });
    // Two configurations by turns.
    let version = |reloads: u32| ["even", "odd"][reloads as usize % 2];
    let yaml = |reloads: u32| {
        format!(
            "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{origin}] }} }}
routes: [{{ path: /*, response: {{ headers: {{ set: {{ X-Version: {} }} }} }}, to: s }}]
access_log: {{ path: /dev/null }}
",
            version(reloads)
        )
    };
    let gateway = Gateway::start(&yaml(0));
    let url = format!("http://{}/", gateway.address());
    let mut reloads = 0;
    let report = std::thread::scope(|scope| {
        let load = scope.spawn(|| wrk(&url, seconds));
        let mut next = Instant::now() + pause;
        while !load.is_finished() {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            next += pause;
            // Asked of the admin listener: so many lines a second are not logged.
            gateway.rewrite(&yaml(reloads + 1));
            let answer = Client::connect(gateway.admin()).request("POST", "/reload", &[("Host", "localhost")], b"");
            assert_eq!(answer.status, 200, "reload {}: {}", reloads + 1, answer.text());
            reloads += 1;
        }
        load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    println!("{reloads} reloads; {report}");
    // wrk names errors only if there are some.
    assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
    let requests: usize = report.split(" requests in ").next().and_then(|text| text.split_whitespace().last()?.parse().ok()).unwrap_or(0);
    assert!(requests > 100 && reloads as usize >= scale(5, 1000), "{requests} requests, {reloads} reloads: {report}");
    assert_eq!(gateway.metric("frontdesk_reloads_total{result=\"ok\"}"), f64::from(reloads));
    assert_eq!(gateway.metric("frontdesk_reloads_total{result=\"failed\"}"), 0.0);
    assert_eq!(gateway.get("/").header("x-version"), Some(version(reloads)));
    gateway.wait_until_idle();
}
