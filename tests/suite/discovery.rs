//! Endpoints that are found by name, by SRV records, and in a file.

use crate::kit::{Dns, Gateway, Origin, eventually};
use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// Labels of a metric about a source of the service `s`.
fn metric(gateway: &Gateway, name: &str, source: &str) -> f64 {
    gateway.metric(&format!("frontdesk_discovery_{name}{{service=\"s\",source=\"{source}\"}}"))
}

fn addresses(gateway: &Gateway) -> Vec<String> {
    let status = gateway.ask("/status").json();
    let endpoints = status["services"][0]["endpoints"].as_array().cloned().unwrap_or_default();
    endpoints.iter().map(|endpoint| endpoint["address"].as_str().unwrap_or_default().to_string()).collect()
}

fn wait_for(gateway: &Gateway, expected: &[String]) {
    eventually(&format!("{expected:?}"), || (addresses(gateway) == expected).then_some(()));
}

/// The answers to so many requests, counted.
fn texts(gateway: &Gateway, requests: usize) -> HashMap<String, usize> {
    let (mut client, mut counts) = (gateway.connect(), HashMap::new());
    (0..requests).for_each(|_| *counts.entry(client.get("/").text()).or_insert(0) += 1);
    counts
}

fn yaml(dns: &Dns, service: &str) -> String {
    format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ dns: '{}' }}
services: {{ s: {service} }}
routes: [{{ path: /*, to: s }}]
",
        dns.address()
    )
}

#[test]
fn a_name_stands_for_its_addresses() {
    let origin = Origin::fixed("found");
    let port = origin.address().port();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ dns: 'localhost:{port}', host: orders.internal }} }}
routes: [{{ path: /*, to: s }}]
"
    ));
    assert_eq!(gateway.get("/").text(), "found");
    assert_eq!(origin.seen()[0].header("host"), Some("orders.internal"));
    assert_eq!(gateway.ask("/status").json()["services"][0]["endpoints"][0]["address"], format!("127.0.0.1:{port}"));
}

#[test]
fn addresses_may_be_beside_it() {
    let (a, b) = (Origin::fixed("a"), Origin::fixed("b"));
    let port = a.address().port();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: ['{b}'], dns: 'localhost:{port}', balance: round_robin }} }}
routes: [{{ path: /*, to: s }}]
"
    ));
    let mut client = gateway.connect();
    let mut texts = [client.get("/").text(), client.get("/").text()];
    texts.sort();
    assert_eq!(texts, ["a", "b"]);
}

#[test]
fn a_name_without_addresses_is_no_reason_not_to_start() {
    let mut dns = Dns::start(&[]);
    let origin = Origin::fixed("late");
    let port = origin.address().port();
    for service in [format!("{{ dns: 'late.test:{port}' }}"), "{ srv: _http._tcp.late.test }".to_string()] {
        let gateway = Gateway::start(&yaml(&dns, &service));
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.code().as_str()), (503, "no_endpoint"));
        assert!(answer.header("retry-after").is_some());
        let (host, srv) = ("host-record=late.test,127.0.0.1,1", format!("srv-host=_http._tcp.late.test,late.test,{port}"));
        dns.restart(&[host, &srv]);
        eventually("the name", || (gateway.get("/").text() == "late").then_some(()));
        dns.restart(&[]);
    }
}

#[test]
fn a_name_is_asked_for_again_when_its_time_is_over_and_what_was_said_goes_on_while_dns_fails() {
    let a = Origin::fixed("a");
    let port = a.address().port();
    let b = Origin::fixed_at(([127, 0, 0, 2], port), "b");
    let (of_a, of_b) = (format!("host-record=s.test,127.0.0.1,{}", 1), "host-record=s.test,127.0.0.2,1");
    let mut dns = Dns::start(&[&of_a]);
    let gateway = Gateway::start(&yaml(&dns, &format!("{{ dns: 's.test:{port}', balance: round_robin }}")));
    let (at_a, at_b) = (a.address().to_string(), b.address().to_string());
    wait_for(&gateway, std::slice::from_ref(&at_a));
    dns.restart(&[&of_a, of_b]);
    wait_for(&gateway, &[at_a, at_b.clone()]);
    assert_eq!(texts(&gateway, 4), HashMap::from([("a".to_string(), 2), ("b".to_string(), 2)]));
    let source = format!("dns:s.test:{port}");
    assert_eq!(metric(&gateway, "up", &source), 1.0);
    // A server that is not there, one that knows of no such name: nobody is taken away for that.
    for records in [None, Some([])] {
        let failures = metric(&gateway, "failures_total", &source);
        match records {
            None => dns.stop(),
            Some(records) => dns.restart(&records),
        }
        eventually("a failure", || (metric(&gateway, "failures_total", &source) > failures).then_some(()));
        assert_eq!((metric(&gateway, "up", &source), texts(&gateway, 4).len()), (0.0, 2));
        assert!(gateway.ask("/status").json()["services"][0]["sources"][0]["problem"].is_string());
    }
    gateway.wait_for_log("dns:s.test");
    dns.restart(&[of_b]);
    wait_for(&gateway, &[at_b]);
    let told = gateway.ask("/status").json()["services"][0]["sources"][0].clone();
    assert_eq!((told["source"].as_str(), &told["endpoints"], told["problem"].is_null()), (Some(source.as_str()), &1.into(), true));
    gateway.wait_for_log("answers again");
    assert_eq!(texts(&gateway, 3), HashMap::from([("b".to_string(), 3)]));
}

#[test]
fn an_answer_is_not_asked_for_while_it_holds() {
    let origin = Origin::fixed("a");
    let port = origin.address().port();
    let mut dns = Dns::start(&["host-record=s.test,127.0.0.1,3600", "host-record=other.test,127.0.0.1,1"]);
    let service = format!("{{ dns: 's.test:{port}', endpoints: ['other.test:{port}'] }}");
    let gateway = Gateway::start(&yaml(&dns, &service));
    dns.stop();
    let failures = |name: &str| metric(&gateway, "failures_total", &format!("dns:{name}.test:{port}"));
    eventually("the other's failure", || (failures("other") > 0.0).then_some(()));
    assert_eq!(failures("s"), 0.0);
    // Not even by a reload.
    assert!(gateway.reload(&yaml(&dns, &service)));
    assert_eq!((failures("s"), gateway.get("/").text().as_str()), (0.0, "a"));
}

#[test]
fn an_endpoint_with_a_name_follows_it_and_keeps_its_weight() {
    let a = Origin::fixed("a");
    let port = a.address().port();
    let (b, c) = (Origin::fixed_at(([127, 0, 0, 2], port), "b"), Origin::fixed("c"));
    let mut dns = Dns::start(&["host-record=s.test,127.0.0.1,1"]);
    let endpoints = format!("['{c}', {{ address: 's.test:{port}', weight: 3 }}]");
    let gateway = Gateway::start(&yaml(&dns, &format!("{{ endpoints: {endpoints}, balance: round_robin }}")));
    assert_eq!(texts(&gateway, 8), HashMap::from([("a".to_string(), 6), ("c".to_string(), 2)]));
    dns.restart(&["host-record=s.test,127.0.0.2,1"]);
    wait_for(&gateway, &[c.address().to_string(), b.address().to_string()]);
    assert_eq!(texts(&gateway, 8), HashMap::from([("b".to_string(), 6), ("c".to_string(), 2)]));
}

#[test]
fn srv_records_say_hosts_ports_priorities_and_weights() {
    let [a, b, spare] = ["a", "b", "spare"].map(Origin::fixed);
    let record = |origin: &Origin, host: &str, priority: u16, weight: u16| {
        format!("srv-host=_http._tcp.s.test,{host}.test,{},{priority},{weight}", origin.address().port())
    };
    let hosts = ["host-record=a.test,127.0.0.1,1", "host-record=b.test,127.0.0.1,1"];
    let (of_a, of_b, of_spare) = (record(&a, "a", 10, 30), record(&b, "b", 10, 10), record(&spare, "a", 20, 60_000));
    let mut dns = Dns::start(&[&of_a, &of_b, &of_spare, hosts[0], hosts[1]]);
    let gateway = Gateway::start(&yaml(&dns, "{ srv: _http._tcp.s.test, balance: round_robin }"));
    assert_eq!(texts(&gateway, 40), HashMap::from([("a".to_string(), 30), ("b".to_string(), 10)]));
    // Those of the lowest priority are out: the spare one is there for that.
    for origin in [&a, &b] {
        let target = format!("/endpoint?service=s&address={}&state=drained", origin.address());
        assert_eq!(crate::kit::Client::connect(gateway.admin()).request("POST", &target, &[("Host", "localhost")], b"").status, 200);
    }
    assert_eq!(texts(&gateway, 3), HashMap::from([("spare".to_string(), 3)]));
    // Who stays, stays as the operator has left it; a target without an address is left out.
    dns.restart(&[&of_a, &of_b, hosts[0]]);
    wait_for(&gateway, &[a.address().to_string()]);
    let status = gateway.ask("/status").json();
    assert_eq!(
        (&status["services"][0]["endpoints"][0]["state"], &status["services"][0]["endpoints"][0]["weight"]),
        (&"drained".into(), &30.into())
    );
}

/// Replaces a file as a whole, as those do who write such files.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("a file");
    fs::rename(new, path).expect("a file");
}

#[test]
fn a_file_lists_endpoints_and_is_read_again_when_it_changes() {
    let [a, b] = ["a", "b"].map(Origin::fixed);
    let address = |origin: &Origin| -> SocketAddr { origin.address() };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("endpoints.yaml");
    fs::write(&path, format!("- {}\n", address(&a))).expect("a file");
    let gateway = Gateway::start_in(
        folder,
        "
listeners: [{ bind: 127.0.0.1:0 }]
services: { s: { endpoints_file: DIR/endpoints.yaml, balance: round_robin } }
routes: [{ path: /*, to: s }]
",
    );
    assert_eq!(texts(&gateway, 3), HashMap::from([("a".to_string(), 3)]));
    replace(&path, &format!("- {}\n- {{ address: '{}', weight: 3 }}\n", address(&a), address(&b)));
    wait_for(&gateway, &[address(&a).to_string(), address(&b).to_string()]);
    let both = HashMap::from([("a".to_string(), 2), ("b".to_string(), 6)]);
    assert_eq!(texts(&gateway, 8), both);
    // What can't be used changes nothing, and is told.
    let source = format!("file:{}", path.display());
    for (bad, said) in
        [("", "must be a list"), ("- 10.0.0.1\n", "has no port"), ("- 127.0.0.1:1\n- 127.0.0.1:1\n", "named twice"), ("{", "line:")]
    {
        replace(&path, bad);
        let problem = || gateway.ask("/status").json()["services"][0]["sources"][0]["problem"].as_str().map(str::to_string);
        eventually(said, || problem().filter(|problem| problem.contains(said)));
        gateway.wait_for_log(said);
        assert_eq!((metric(&gateway, "up", &source), texts(&gateway, 8)), (0.0, both.clone()));
    }
    fs::remove_file(&path).expect("a file");
    eventually("a file that is gone", || gateway.log().iter().any(|line| line.contains("No such file")).then_some(()));
    assert_eq!(texts(&gateway, 8), both);
    replace(&path, &format!("- {}\n", address(&b)));
    wait_for(&gateway, &[address(&b).to_string()]);
    assert_eq!((metric(&gateway, "up", &source), texts(&gateway, 2)["b"]), (1.0, 2));
}
