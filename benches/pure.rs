//! The pure parts that every request, or every reload, passes through: `cargo bench --bench pure [FILTER]`.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use frontdesk::config::load;
use frontdesk::config::place::At;
use frontdesk::config::problem::Problems;
use frontdesk::config::raw::{HeaderChanges, JsonChanges, Text};
use frontdesk::config::shape::Named;
use frontdesk::config::source::Sources;
use frontdesk::limit::{Caller, Set};
use frontdesk::observe::{Metrics, Record};
use frontdesk::route::host::HostPattern;
use frontdesk::route::pattern::Pattern;
use frontdesk::route::{PathRule, Query, Rule, Table, normalize};
use frontdesk::shape::body::JsonEdits;
use frontdesk::shape::forward::{Forwarded, Origin, TRACEPARENT, Trace, X_FORWARDED_FOR};
use frontdesk::shape::headers::HeaderEdits;
use frontdesk::shape::schema::Schema;
use frontdesk::shape::template::{Names, Target, Template, Value, Values, Variable};
use frontdesk::shape::tree::Tree;
use frontdesk::snapshot::{Meta, Snapshot, State};
use frontdesk::types::{ListenerId, RouteId};
use frontdesk::upstream::{Ground, Keys, Names as Resolver, Pool, Service, States};
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method};
use std::fmt::Write;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

fn rule(n: usize, host: HostPattern, path: &str) -> Rule {
    Rule {
        id: RouteId(n as u32),
        hosts: vec![host],
        path: PathRule::Pattern(Pattern::parse(path).expect("a pattern")),
        methods: vec![],
        headers: vec![],
        query: vec![],
        listeners: vec![],
        has_cors: false,
    }
}

/// Literal, capture and rest by turns, each below a segment of its own.
fn paths_of(routes: usize) -> Vec<Rule> {
    (0..routes).map(|n| rule(n, HostPattern::Any, &format!("/api/{n}/{}", ["items", "{id}", "*"][n % 3]))).collect()
}

/// A wildcard host for each route.
fn hosts_of(routes: usize) -> Vec<Rule> {
    (0..routes).map(|n| rule(n, HostPattern::parse(&format!("*.h{n}.example.com")).expect("a host"), "/api/*")).collect()
}

fn query<'a>(host: &'a str, path: &'a str, headers: &'a HeaderMap) -> Query<'a> {
    Query { listener: ListenerId(0), host, path, parameters: "", method: &Method::GET, headers }
}

fn find(c: &mut Criterion) {
    let headers = headers(&[]);
    let mut group = c.benchmark_group("route::Table::find");
    for routes in [10, 1_000, 100_000] {
        let table = Table::new(paths_of(routes));
        let middle = routes / 6 * 3;
        for (kind, path) in [
            ("literal", format!("/api/{middle}/items")),
            ("capture", format!("/api/{}/4711", middle + 1)),
            ("rest", format!("/api/{}/a/b/c", middle + 2)),
            ("none", format!("/api/{routes}/items")),
        ] {
            let query = query("shop.example", &path, &headers);
            group.bench_function(BenchmarkId::new(kind, routes), |b| b.iter(|| table.find(black_box(&query))));
        }
        let (table, host) = (Table::new(hosts_of(routes)), format!("a.b.h{middle}.example.com"));
        let query = query(&host, "/api/orders/4711", &headers);
        group.bench_function(BenchmarkId::new("wildcard host", routes), |b| b.iter(|| table.find(black_box(&query))));
    }
    group.finish();
    let mut group = c.benchmark_group("route::Table::new");
    group.sample_size(10);
    for routes in [1_000, 100_000] {
        let rules = paths_of(routes);
        group.bench_function(BenchmarkId::from_parameter(routes), |b| {
            b.iter_batched(|| rules.clone(), Table::new, BatchSize::PerIteration);
        });
    }
}

fn paths(c: &mut Criterion) {
    let mut group = c.benchmark_group("route::normalize::path");
    for (kind, path) in [
        ("clean", "/api/restaurants/4711/menu"),
        ("escapes", "/api/caf%c3%a9/%7euser/a%2fb"),
        ("dot segments", "/api/./restaurants/../orders/4711"),
    ] {
        group.bench_function(kind, |b| b.iter(|| normalize::path(black_box(path))));
    }
}

/// What the templates of one request ask for.
struct Request;

impl Values for Request {
    fn value(&self, variable: &Variable) -> Value<'_> {
        match variable {
            Variable::Rest | Variable::Path | Variable::Capture(_) => Value::Path("restaurants/4711/menu".into()),
            Variable::Host => Value::Plain("shop.example".into()),
            _ => Value::Plain("two words".into()),
        }
    }
}

/// A list of orders, about so many bytes.
fn orders(bytes: usize) -> Vec<u8> {
    let order = r#"{"id":4711,"customer":{"name":"Ada Lovelace","city":"London"},"total":18.50,"items":[{"name":"gnocchi","price":9.25}],"debug":{"trace":"0123456789abcdef"}}"#;
    format!("{{\"page\":1,\"items\":[{}]}}", vec![order; bytes / order.len()].join(",")).into()
}

fn bodies(c: &mut Criterion) {
    let edits = |changes: JsonChanges| JsonEdits::build(&changes, Names::default(), &At::root(), &Problems::default()).expect("changes");
    let list = |paths: &[&str]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
    let keep = |paths: &[&str]| edits(JsonChanges { keep: Some(list(paths)), ..Default::default() });
    let mut group = c.benchmark_group("shape::body::JsonEdits::apply");
    for bytes in [1 << 10, 1 << 20] {
        let body = orders(bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        for (kind, edits) in [
            ("keep a member", keep(&["page"])),
            ("keep two of each item", keep(&["items.id", "items.total"])),
            ("remove one of each item", edits(JsonChanges { remove: list(&["items.debug"]), ..Default::default() })),
        ] {
            group.bench_function(BenchmarkId::new(kind, bytes), |b| b.iter(|| edits.apply(black_box(&body), &Request).expect("JSON")));
        }
    }
}

/// What a schema is asked about each request.
fn schemas(c: &mut Criterion) {
    let schema = r#"{ "type": "object", "properties": { "page": { "type": "integer" }, "items": { "type": "array", "items": {
        "type": "object", "required": ["id", "total"], "properties": { "id": { "type": "integer" }, "total": { "type": "number", "minimum": 0 } } } } } }"#;
    let schema = Schema::parse(schema.as_bytes()).expect("a schema");
    let mut group = c.benchmark_group("shape::schema::Schema::check");
    for bytes in [1 << 10, 1 << 20] {
        let body = orders(bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| b.iter(|| schema.check(black_box(&body)).expect("no flaws")));
    }
}

/// The changes of header fields that a route makes to each request.
fn header_edits(c: &mut Criterion) {
    let named = |pairs: &[(&str, &str)]| Named(pairs.iter().map(|(name, text)| (name.to_string(), Text(text.to_string()))).collect());
    let raw = HeaderChanges {
        set: named(&[("X-Frame-Options", "DENY"), ("X-Host", "${host}")]),
        remove: vec!["Server".to_string()],
        ..Default::default()
    };
    let edits = HeaderEdits::build(&raw, Names::default(), &At::root(), &Problems::default()).expect("changes");
    c.bench_function("shape::headers::HeaderEdits::edits", |b| b.iter(|| edits.edits(black_box(&Request)).count()));
}

/// What is put together of composed calls.
fn trees(c: &mut Criterion) {
    let problems = Problems::default();
    let raw =
        serde_yaml::from_str("{ route: '${route}', greeting: 'Hello ${identity}', list: ['${host}', 1, true], fixed: { a: [1, 2, 3] } }")
            .expect("YAML");
    let tree = Tree::build(&raw, Names::default(), "", &At::root(), &problems).expect("a tree");
    let mut out = Vec::new();
    c.bench_function("shape::tree::Tree::write", |b| {
        b.iter(|| {
            out.clear();
            tree.write(black_box(&Request), &mut out);
            out.len()
        });
    });
}

fn templates(c: &mut Criterion) {
    let names = Names { captures: &["city"], has_rest: true, ..Default::default() };
    let redirect = Template::parse("https://${host}/${city}/${rest}?from=${query.from}", names).expect("a template");
    c.bench_function("shape::template::Template::render/redirect", |b| b.iter(|| redirect.render(black_box(&Request), Target::Path)));
}

/// The fields of a common request, and more.
fn headers(more: &[(http::HeaderName, &'static str)]) -> HeaderMap {
    let common = [(HOST, "shop.example"), (USER_AGENT, "curl/8.5.0"), (ACCEPT, "*/*")];
    common.iter().chain(more).map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
}

fn forwarding(c: &mut Criterion) {
    let trusted = ["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")];
    let proxied = headers(&[
        (X_FORWARDED_FOR, "203.0.113.7, 10.0.0.3, 10.0.0.2"),
        (TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]);
    let mut group = c.benchmark_group("shape::forward");
    for (kind, peer, headers) in [("direct", "192.0.2.1", headers(&[])), ("proxied", "10.0.0.1", proxied)] {
        let (ip, text): (IpAddr, _) = (peer.parse().expect("an address"), HeaderValue::from_static(peer));
        let (origin, host) = (Origin::of(ip, &trusted, &headers), headers.get(HOST));
        group.bench_function(BenchmarkId::new("Origin::of", kind), |b| b.iter(|| Origin::of(ip, &trusted, black_box(&headers))));
        group.bench_function(BenchmarkId::new("Forwarded::new", kind), |b| {
            b.iter(|| Forwarded::new(&origin, &text, true, host, black_box(&headers)));
        });
        group.bench_function(BenchmarkId::new("Trace::next", kind), |b| b.iter(|| Trace::next(Trace::of(black_box(&headers)))));
    }
}

fn record(c: &mut Criterion) {
    let record = Record {
        time: SystemTime::now(),
        request_id: "0af7651916cd43dd8448eb211c80319c",
        trace_id: "b7ad6b71692033310af7651916cd43dd",
        client_ip: IpAddr::from([203, 0, 113, 7]),
        client_ip_text: Some("203.0.113.7"),
        method: "GET",
        host: "shop.example",
        path: "/api/restaurants/4711/menu?lang=en".into(),
        route: "menu",
        service: "restaurants",
        endpoint: "10.0.0.11:8000",
        status: 200,
        code: "",
        identity: "",
        auth: "",
        limit: "".into(),
        cache: "",
        attempts: 1,
        bytes_in: 0,
        bytes_out: 5_120,
        duration: Duration::from_micros(1_234),
        upstream: Duration::from_micros(1_100),
        gateway: Duration::from_micros(134),
        protocol: "HTTP/1.1",
        tls: "",
        user_agent: "curl/8.5.0".into(),
        referer: "".into(),
    };
    let mut line = Vec::new();
    c.bench_function("observe::Record::json", |b| {
        b.iter(|| {
            line.clear();
            black_box(&record).json(&mut line);
            line.len()
        });
    });
}

fn picks(c: &mut Criterion) {
    let mut group = c.benchmark_group("upstream::Pool::pick");
    for endpoints in [1, 3, 1_000] {
        for balance in ["round_robin", "least_request", "random", "{ hash: client_ip }"] {
            let pool = pool(endpoints, balance);
            group.bench_function(BenchmarkId::new(balance, endpoints), |b| b.iter(|| drop(pool.pick(black_box(&[])))));
        }
    }
}

/// The pool of a service with so many endpoints.
fn pool(endpoints: usize, balance: &str) -> Pool {
    let addresses: Vec<String> = (0..endpoints).map(|n| format!("'10.0.{}.{}:80'", n / 250, n % 250)).collect();
    let text = format!("services: {{ s: {{ endpoints: [{}], balance: {balance} }} }}", addresses.join(", "));
    let problems = Problems::default();
    let raw = load::read(&mut Sources::new("frontdesk.yaml", text), &problems).expect("a configuration");
    let (_, service) = &raw.services.0[0];
    let (keys, states) = (Keys::new(&[], b""), States::default());
    let ground = Ground { keys, zone: None, names: Arc::new(Resolver::new(&[])), states: &states };
    let service = Service::build("s", service.as_ref().expect("a service"), &ground, &At::root(), &problems);
    service.expect("a service").pool
}

/// A configuration of so many routes to ten services.
fn configuration(routes: usize) -> String {
    let mut text = "listeners: [{ bind: 127.0.0.1:0 }]\nservices:\n".to_string();
    for n in 0..10 {
        let _ = writeln!(text, "  s{n}: {{ endpoints: [10.0.{n}.1:80, 10.0.{n}.2:80], timeouts: {{ read: 10s }} }}");
    }
    text.push_str("routes:\n");
    for n in 0..routes {
        let _ = writeln!(text, "  - {{ name: r{n}, path: \"/api/{n}/{{id}}\", methods: [GET, POST], to: s{} }}", n % 10);
    }
    text
}

fn loading(c: &mut Criterion) {
    let mut sources = Sources::new("frontdesk.yaml", configuration(1_000));
    let state = State::dry(Metrics::new().expect("metrics"));
    let problems = Problems::default();
    let raw = load::read(&mut sources, &problems).expect("a configuration");
    let build = || Snapshot::build(&raw, Meta::default(), &state, &problems).expect("a snapshot");
    let mut group = c.benchmark_group("1,000 routes");
    group.sample_size(20);
    group.bench_function("config::load::read", |b| b.iter(|| load::read(black_box(&mut sources), &problems)));
    group.bench_function("snapshot::Snapshot::build", |b| b.iter(build));
    assert!(problems.is_empty());
}

/// A decision about one request: one limit and two, by this many clients, with a second thread at it or not.
fn limits(c: &mut Criterion) {
    let text = "listeners: [{ bind: 127.0.0.1:0 }]
server: { limit_keys_max: 2000000 }
rate_limits: { each: { rate: 1000000/1h, by: client_ip }, all: { rate: 10000000/s, by: global } }
routes: [{ path: /one, rate_limits: [each], respond: {} }, { path: /two, rate_limits: [each, all], respond: {} }]
";
    let (headers, problems) = (headers(&[]), Problems::default());
    let state = State::dry(Metrics::new().expect("metrics"));
    let raw = load::read(&mut Sources::new("frontdesk.yaml", text), &problems).expect("a configuration");
    let snapshot = Snapshot::build(&raw, Meta::default(), &state, &problems).expect("a snapshot");
    state.limits.store.set_max(snapshot.server.limit_keys_max);
    let ask = |set: &Set, n: u32| {
        let client_ip = IpAddr::from(n.to_be_bytes());
        set.decide(&Caller { identity: None, claim: &|_| None, client_ip, headers: &headers })
    };
    let mut group = c.benchmark_group("limit::Set::decide");
    for (place, kind) in ["one", "two"].into_iter().enumerate() {
        let set = &snapshot.routes[place].limits.as_ref().expect("limits").set;
        for keys in [1, 1_000, 1_000_000u32] {
            (0..keys).for_each(|n| drop(ask(set, n)));
            for threads in [1, 2] {
                let stop = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    if threads == 2 {
                        scope.spawn(|| {
                            let mut n = 0;
                            while !stop.load(Relaxed) {
                                n = u32::wrapping_add(n, 7919);
                                let _ = ask(set, n % keys);
                            }
                        });
                    }
                    let mut n = 0;
                    group.bench_function(BenchmarkId::new(format!("{kind}, {threads} threads"), keys), |b| {
                        b.iter(|| {
                            n = u32::wrapping_add(n, 104_729);
                            ask(set, n % keys)
                        });
                    });
                    stop.store(true, Relaxed);
                });
            }
        }
    }
}

criterion_group!(benches, limits, find, paths, bodies, templates, forwarding, record, picks, loading, schemas, header_edits, trees);
criterion_main!(benches);
