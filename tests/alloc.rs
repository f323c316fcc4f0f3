//! Finding a route allocates nothing, nor does a limit, and a key takes little. A program of its own, since it brings its own allocator, which counts.

use allocation_counter::measure;
use frontdesk::config::load;
use frontdesk::config::problem::Problems;
use frontdesk::config::source::Sources;
use frontdesk::limit::{Caller, Set};
use frontdesk::observe::Metrics;
use frontdesk::route::criteria::{Header, Parameter, Test};
use frontdesk::route::expression::Expression;
use frontdesk::route::host::HostPattern;
use frontdesk::route::pattern::Pattern;
use frontdesk::route::{Outcome, PathRule, Query, Rule, Table};
use frontdesk::snapshot::{Meta, Snapshot, State};
use frontdesk::types::{ListenerId, RouteId};
use http::{HeaderMap, HeaderValue, Method};

fn rule(id: usize, host: HostPattern, path: PathRule) -> Rule {
    Rule {
        id: RouteId(id as u32),
        hosts: vec![host],
        path,
        methods: vec![],
        headers: vec![],
        query: vec![],
        listeners: vec![],
        has_cors: false,
    }
}

fn pattern(text: &str) -> PathRule {
    PathRule::Pattern(Pattern::parse(text).expect("a pattern"))
}

fn matches(text: &str) -> Test {
    Test::Matches(Expression::parse(text).expect("an expression"))
}

/// A thousand routes on each of three kinds of host, and some that ask for more.
fn table() -> Table {
    let hosts = ["shop.example.com", "*.example.com"].map(|host| HostPattern::parse(host).expect("a host"));
    let mut rules = Vec::new();
    for host in hosts.iter().chain(&[HostPattern::Any]) {
        for n in 0..1_000 {
            rules.push(rule(rules.len(), host.clone(), pattern(&format!("/api/{n}/{}", ["items", "{a}/{b}/{c}", "*"][n % 3]))));
        }
    }
    for version in ["1", "2"] {
        let mut asking = rule(rules.len(), HostPattern::Any, pattern("/beta/*"));
        asking.methods = vec![Method::PUT];
        asking.headers = vec![
            Header { name: "x-version".parse().expect("a name"), test: Test::Is(version.into()) },
            Header { name: "x-kind".parse().expect("a name"), test: matches("a,b+") },
        ];
        asking.query = vec![Parameter { name: "a b".into(), test: matches("c d") }];
        rules.push(asking);
    }
    let expression = Expression::parse("/files/(?<year>[0-9]{4})/(?<name>.*)").expect("an expression");
    rules.push(rule(rules.len(), HostPattern::Any, PathRule::Expression(expression)));
    Table::new(rules)
}

#[test]
fn finding_a_route_allocates_nothing() {
    assert_eq!(measure(|| drop(std::hint::black_box(Box::new(1)))).count_total, 1, "it does count");
    let table = table();
    let mut headers = HeaderMap::new();
    for (name, value) in [("x-version", "2"), ("x-kind", "a"), ("x-kind", "bb"), ("origin", "o"), ("access-control-request-method", "PUT")]
    {
        headers.append(name, HeaderValue::from_static(value));
    }
    for (method, host, path, captures) in [
        (Method::GET, "shop.example.com", "/api/300/items", 0),
        (Method::GET, "Shop.Example.COM", "/api/301/x/y/z", 3),
        (Method::GET, "a.b.c.example.com", "/api/302/x/y/z", 1),
        (Method::GET, "other", "/api/302/x/y/z", 1),
        (Method::PUT, "other", "/beta/x", 1),
        (Method::OPTIONS, "other", "/beta/x", 1),
        (Method::GET, "a.example.com", "/files/2026/a/b", 2),
    ] {
        let parameters = "x=1&a+b=c%20d";
        let query = Query { listener: ListenerId(0), host, path, parameters, method: &method, headers: &headers };
        // An expression makes its working memory when a thread uses it for the first time.
        let first = table.find(&query);
        let mut found = None;
        let counted = measure(|| found = Some(table.find(&query)));
        let (Some(Outcome::Found(found)), Outcome::Found(first)) = (found, first) else { panic!("{method} {host}{path}: no route") };
        assert_eq!((found.captures.len(), &found), (captures, &first), "{method} {host}{path}");
        assert_eq!(counted.count_total, 0, "{method} {host}{path}: {counted:?}");
    }
}

#[test]
fn picking_an_endpoint_allocates_nothing() {
    for balance in ["round_robin", "least_request", "random", "{ hash: client_ip }"] {
        for endpoints in [1, 3, 1_000] {
            let addresses: Vec<String> = (0..endpoints).map(|n| format!("'10.0.{}.{}:80'", n / 250, n % 250)).collect();
            let text = format!(
                "listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{}], balance: {balance}, slow_start: 30s }} }}
routes: [{{ path: /, to: s }}]
",
                addresses.join(", ")
            );
            let problems = Problems::default();
            let state = State::dry(Metrics::new().expect("metrics"));
            let raw = load::read(&mut Sources::new("frontdesk.yaml", text), &problems).expect("a configuration");
            let snapshot = Snapshot::build(&raw, Meta::default(), &state, &problems).expect("a snapshot");
            let pool = &snapshot.services[0].service.pool;
            // The first of a thread may set up what it works with.
            drop(pool.pick(&[]));
            let counted = measure(|| (0..100).for_each(|_| drop(pool.pick(&[]))));
            assert_eq!(counted.count_total, 0, "{balance} of {endpoints}: {counted:?}");
        }
    }
}

#[test]
fn a_limit_allocates_nothing_and_a_key_takes_at_most_a_hundred_bytes() {
    let text = "listeners: [{ bind: 127.0.0.1:0 }]
rate_limits: { each: { rate: 1000/1h, by: client_ip }, all: { rate: 10000000/s, by: global } }
routes: [{ path: /, rate_limits: [each, all], respond: {} }]
";
    let (headers, problems) = (HeaderMap::new(), Problems::default());
    let state = State::dry(Metrics::new().expect("metrics"));
    let raw = load::read(&mut Sources::new("frontdesk.yaml", text), &problems).expect("a configuration");
    let snapshot = Snapshot::build(&raw, Meta::default(), &state, &problems).expect("a snapshot");
    let set = &snapshot.routes[0].limits.as_ref().expect("limits").set;
    let ask = |set: &Set, n: u32| {
        let client_ip = std::net::IpAddr::from(n.to_be_bytes());
        set.decide(&Caller { identity: None, claim: &|_| None, client_ip, headers: &headers }).map(|verdict| verdict.refused).ok().flatten()
    };
    ask(set, 1);
    let counted = measure(|| assert_eq!(ask(set, 1), None));
    assert_eq!(counted.count_total, 0, "{counted:?}");
    // The tables double, so the worst is right behind a doubling.
    let (mut total, mut worst) = (0, 0.0f64);
    for n in 0..200u32 {
        total += measure(|| (n * 1_000..(n + 1) * 1_000).for_each(|n| assert_eq!(ask(set, n), None))).bytes_current;
        let kept = state.limits.store.kept();
        if kept > 50_000 {
            worst = worst.max(total as f64 / kept as f64);
        }
    }
    println!("{worst:.1} bytes a key at the worst");
    assert!(worst <= 100.0, "{worst} bytes a key");
}
