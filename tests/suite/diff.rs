//! What another configuration would change: `frontdesk diff`.

use crate::kit::{frontdesk, run};
use serde_json::{Value, json};

const OLD: &str = "
listeners: [{ bind: 127.0.0.1:8080 }]
auth:
  customers: { jwt: { secret: \"a-secret-that-is-only-for-this-example\", audience: [orders] } }
rate_limits: { few: { rate: 10/1m, by: client_ip }, many: { rate: 100/1m, by: [client_ip, route] } }
services: { orders: { endpoints: [10.0.0.1:80] }, web: { endpoints: [10.0.0.2:80] } }
routes:
  - { name: orders, path: \"/orders/{id}\", auth: [customers], require: { scopes_all: [read] }, rate_limits: [few, many], max_in_flight: 9, to: orders }
  - { name: inside, path: /inside/*, ip: { allow: [10.0.0.0/8], deny: [10.1.0.0/16] }, to: web }
  - { name: rest, path: /*, to: web }
";

fn diff(old: &str, new: &str, more: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let files = [("old.yaml", old), ("new.yaml", new)].map(|(name, text)| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("a file");
        file
    });
    let output = run(frontdesk().arg("diff").args(files).args(more));
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn the_same_changes_nothing() {
    assert_eq!(diff(OLD, OLD, &[]), (Some(0), "no request changes hands\n".to_string()));
    // Another order of routes that don't meet, and another service that nobody asks, change nothing either.
    let new =
        OLD.replace("  - { name: rest, path: /*, to: web }\n", "").replace("routes:\n", "routes:\n  - { name: rest, path: /*, to: web }\n");
    assert_eq!(diff(OLD, &new, &[]).0, Some(0));
}

#[test]
fn a_route_that_takes_requests_from_another_is_named_with_what_they_lose() {
    let new = OLD.replace("routes:\n", "routes:\n  - { name: special, path: /orders/7, to: web }\n");
    let (code, said) = diff(OLD, &new, &[]);
    assert_eq!(code, Some(1), "{said}");
    for what in [
        "GET https://any-host.example/orders/7\n",
        "route   orders  ->  special",
        "to      orders  ->  web",
        "auth    customers; all scopes of read  ->  open",
        "limits  few, many  ->  none",
        "LOOSER  nobody has to be recognised any more",
        "LOOSER  limit `few` is gone",
        "LOOSER  `max_in_flight` was 9 and has no bound",
        "1 change, 1 looser\n",
    ] {
        assert!(said.contains(what), "{what} is not in\n{said}");
    }
    // The other way round it is stricter, and changes hands all the same.
    let (code, said) = diff(&new, OLD, &[]);
    assert!(code == Some(0) && said.contains("route   special  ->  orders") && said.ends_with("1 change, none of them looser\n"), "{said}");
}

#[test]
fn what_is_looser_in_place_is_named() {
    for (old, new, what) in [
        ("auth: [customers], require: { scopes_all: [read] }, ", "", "nobody has to be recognised any more"),
        ("auth: [customers], require: { scopes_all: [read] }", "auth: [customers, anonymous]", "nobody has to be recognised any more"),
        (", require: { scopes_all: [read] }", "", "the scope `read` is not asked for any more"),
        ("max_in_flight: 9", "max_in_flight: 10", "`max_in_flight` was 9 and is 10"),
        ("rate_limits: [few, many]", "rate_limits: [many]", "limit `few` is gone"),
        ("rate: 10/1m", "rate: 11/1m", "limit `few` was 10/1m, burst 10 and is 11/1m, burst 11"),
        ("rate: 10/1m", "rate: 10/1m, burst: 20", "limit `few` was 10/1m, burst 10 and is 10/1m, burst 20"),
        ("by: client_ip }", "by: client_ip, mode: shadow }", "limit `few` only counts"),
        ("by: client_ip }", "by: [client_ip, 'header:X-Key'] }", "limit `few` counts by header:x-key too"),
        ("allow: [10.0.0.0/8]", "allow: [10.0.0.0/7]", "addresses of 10.0.0.0/7 may come too"),
        ("allow: [10.0.0.0/8], ", "", "any address may come"),
        (", deny: [10.1.0.0/16]", "", "10.1.0.0/16 is not denied any more"),
        (", audience: [orders]", "", "auth `customers`: `aud` is not checked any more"),
    ] {
        assert!(OLD.contains(old), "{old}");
        let changed = OLD.replacen(old, new, 1);
        let (code, said) = diff(OLD, &changed, &[]);
        assert!(code == Some(1) && said.contains(&format!("LOOSER  {what}")), "{what} is not in\n{said}");
        let (code, said) = diff(&changed, OLD, &[]);
        assert!(code == Some(0) && !said.contains("LOOSER"), "{what}: {said}");
    }
}

#[test]
fn what_stands_before_all_routes_or_behind_several_is_looked_at_too() {
    let old = "
listeners: [{ name: inside, bind: 127.0.0.1:8080 }, { name: public, bind: 127.0.0.1:8081 }, { bind: 127.0.0.1:8082 }]
server: { flood: { rate: 100/s }, trusted_proxies: [10.0.0.0/8] }
services: { web: { endpoints: [10.0.0.2:80], max_in_flight: 9 } }
routes:
  - { path: /in/*, listener: inside, to: web }
  - { path: /page, cors: { origins: [https://a.example, 'https://*.b.example'] }, to: web }
  - { path: /*, to: web }
";
    for (from, to, what) in [
        ("max_in_flight: 9", "max_in_flight: 10", "service `web`: `max_in_flight` was 9 and is 10"),
        (", max_in_flight: 9", "", "service `web`: `max_in_flight` was 9 and has no bound"),
        ("flood: { rate: 100/s }, ", "", "`server.flood` is gone"),
        ("100/s", "101/s", "`server.flood` was 100/1s and is 101/1s"),
        ("100/s", "300/4s", "`server.flood` was 100/1s and is 300/4s"),
        ("10.0.0.0/8", "10.0.0.0/7", "`server.trusted_proxies`: 10.0.0.0/7 is believed too"),
        ("[10.0.0.0/8]", "[10.0.0.0/8, 192.168.0.1]", "`server.trusted_proxies`: 192.168.0.1/32 is believed too"),
        ("https://a.example,", "https://a.example, https://c.example,", "pages of https://c.example may ask too"),
        ("[https://a.example, 'https://*.b.example']", "'*'", "pages of * may ask too"),
        ("https://*.b.example", "https://*.example", "pages of https://*.example may ask too"),
        ("b.example'] }", "b.example'], credentials: true }", "pages may ask with credentials"),
        ("cors: { origins: [https://a.example, 'https://*.b.example'] }, ", "", ""),
        ("listener: inside, ", "", "route `/in/*`: requests of listener public reach it too"),
        ("listener: inside, ", "", "route `/in/*`: requests of listener 127.0.0.1:8082 reach it too"),
        ("listener: inside", "listener: [inside, public]", "route `/in/*`: requests of listener public reach it too"),
    ] {
        assert!(old.contains(from), "{from}");
        let new = old.replacen(from, to, 1);
        let (code, said) = diff(old, &new, &[]);
        match what {
            "" => assert!(code == Some(0) && !said.contains("LOOSER"), "{from}: {said}"),
            _ => assert!(code == Some(1) && said.contains(&format!("LOOSER  {what}\n")), "{what} is not in\n{said}"),
        }
        // The other way round is as strict, but for a guard that is lower at once and higher in the long run.
        if !what.is_empty() && to != "300/4s" {
            let (code, said) = diff(&new, old, &[]);
            assert!(code == Some(0) && !said.contains("LOOSER"), "{what}: {said}");
        }
    }
}

#[test]
fn who_counts_by_less_is_stricter() {
    let by = |by: &str| OLD.replace("by: client_ip }", &format!("by: {by} }}"));
    for (loose, strict, what) in [
        ("client_ip", "global", "counts by client_ip too"),
        ("[client_ip, route]", "global", "counts by client_ip too"),
        ("[client_ip, route]", "client_ip", "counts by route too"),
        ("[identity, route]", "[global, identity]", "counts by route too"),
    ] {
        let (code, said) = diff(&by(loose), &by(strict), &[]);
        assert!(code == Some(0) && !said.contains("LOOSER"), "{loose} to {strict}: {said}");
        let (code, said) = diff(&by(strict), &by(loose), &[]);
        assert!(code == Some(1) && said.contains(&format!("LOOSER  limit `few` {what}")), "{strict} to {loose}: {said}");
    }
    assert_eq!(diff(&by("identity"), &by("[global, identity]"), &[]).0, Some(0));
}

#[test]
fn one_limit_may_take_the_place_of_another() {
    let renamed = OLD.replace("few", "fewer").replace("rate: 10/1m", "rate: 9/1m");
    let (code, said) = diff(OLD, &renamed, &[]);
    assert!(code == Some(0) && said.contains("limits  few, many  ->  fewer, many"), "{said}");
}

#[test]
fn methods_hosts_fields_and_expressions_have_their_own_requests() {
    let new = OLD.replace(
        "routes:\n",
        "routes:
  - { name: a, path: \"/orders/{id}\", methods: [DELETE], to: orders }
  - { name: b, host: '*.example.com', path: /*, to: orders }
  - { name: c, path: /*, headers: { X-Beta: { regex: '(on|off)' } }, query: { v: \"2\" }, to: orders }
  - { name: d, host: regex.example, path_regex: '/v[0-9]+/.*', to: orders }
",
    );
    let (code, said) = diff(OLD, &new, &["--json"]);
    let told: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &told["is_looser"]), (Some(1), &json!(true)), "DELETE is open now: {said}");
    let owner = |start: &str| {
        let all = told["changes"].as_array().expect("changes").iter();
        let mut found = all.filter(|change| {
            change["requests"].as_array().expect("requests").iter().any(|one| one.as_str().expect("a text").starts_with(start))
        });
        found.next().map(|change| (change["old"]["route"].clone(), change["new"]["route"].clone()))
    };
    assert_eq!(owner("DELETE https://any-host.example/orders/x-anything"), Some((json!("orders"), json!("a"))));
    assert_eq!(owner("GET https://x-anything.example.com/"), Some((json!("rest"), json!("b"))));
    assert_eq!(owner("GET https://any-host.example/?v=2, x-beta: on"), Some((json!("rest"), json!("c"))));
    assert_eq!(owner("GET https://regex.example/v"), Some((json!("rest"), json!("d"))));
}

#[test]
fn requests_that_nobody_takes_any_more_and_files_that_are_wrong() {
    let new = OLD.replace("  - { name: rest, path: /*, to: web }\n", "");
    let (code, said) = diff(OLD, &new, &[]);
    assert!(code == Some(0) && said.contains("route   rest  ->  nothing"), "{said}");
    let (code, said) = diff(OLD, "routes: 1", &[]);
    assert!(code == Some(1) && said.contains("new.yaml:1:9: `routes` must be a list"), "{said}");
    assert_eq!(run(frontdesk().args(["diff", "one.yaml"])).status.code(), Some(2));
}
