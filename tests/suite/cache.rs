//! Answers from memory: what is kept, for whom and for how long, and what clients, log and metrics are told.

use crate::kit::{self, Answer, Gateway, H2Client, Origin, Request, SECRET, eventually, run_async, token};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

const LISTENERS: &str = "listeners: [{ bind: 127.0.0.1:0 }]\n";

/// A gateway before this service, whose answers are kept by `rule`.
fn gateway(rule: &str, service: &Origin) -> Gateway {
    Gateway::start(&format!(
        "{LISTENERS}caches: {{ all: {rule} }}\nroutes: [{{ name: r, path: /*, cache: all, to: 'http://{service}' }}]\n"
    ))
}

/// A service that says how often it was asked, with these fields.
fn counting(fields: &'static [(&'static str, &'static str)]) -> Origin {
    let asked = AtomicUsize::new(0);
    Origin::new(move |_| kit::answer(200, fields, (asked.fetch_add(1, Relaxed) + 1).to_string().as_bytes()))
}

#[track_caller]
fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or_default()
}

#[test]
fn the_second_is_answered_from_memory() {
    let service = counting(&[]);
    let gateway = gateway("{ ttl: 60s }", &service);
    let mut client = gateway.connect();
    let first = client.get("/menus/1?x=1");
    assert_eq!((first.status, first.text().as_str(), status(&first)), (200, "1", "frontdesk; fwd=uri-miss; stored"));
    let second = client.get("/menus/1?x=1");
    assert_eq!((second.status, second.text().as_str(), second.header("age")), (200, "1", Some("0")));
    assert!(status(&second).starts_with("frontdesk; hit; ttl="), "{second:?}");
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    assert_eq!(second.header("content-length"), Some("1"));
    assert_eq!(client.get("/menus/1?x=2").text(), "2");
    assert_eq!(client.request("GET", "/menus/1?x=1", &[("Host", "other")], b"").text(), "3");
    assert_eq!(client.request("HEAD", "/menus/1?x=1", &[], b"").header("content-length"), Some("1"));
    let lines = gateway.access_log(5);
    let mut told: Vec<_> = lines.iter().map(|line| line["cache"].as_str().expect("a text")).collect();
    told.sort_unstable();
    assert_eq!(told, ["hit", "hit", "miss", "miss", "miss"]);
    assert_eq!(gateway.metric("frontdesk_cache_total{route=\"r\",status=\"hit\"}"), 2.0);
    assert_eq!(gateway.metric("frontdesk_cache_total{route=\"r\",status=\"miss\"}"), 3.0);
    assert!(gateway.metric("frontdesk_cache_bytes") > 3.0);
    assert_eq!(service.seen().len(), 3);
}

#[test]
fn what_the_service_says_comes_before_the_ttl() {
    for (said, is_kept) in [
        ("max-age=60", true),
        ("s-maxage=60, max-age=0", true),
        ("no-store", false),
        ("private, max-age=60", false),
        ("max-age=0", false),
        ("no-cache", false),
        ("max-age=60, no-cache", false),
    ] {
        let service = Origin::new(move |_| kit::answer(200, &[("Cache-Control", said)], b"x"));
        let gateway = gateway("{ ttl: 60s }", &service);
        let mut client = gateway.connect();
        client.get("/");
        let second = client.get("/");
        assert_eq!(status(&second).contains("; hit"), is_kept, "{said}: {second:?}");
        assert_eq!(service.seen().len(), if is_kept { 1 } else { 2 }, "{said}");
    }
}

#[test]
fn without_a_ttl_only_what_the_service_says_counts() {
    let silent = counting(&[]);
    let gateway = gateway("{}", &silent);
    let mut client = gateway.connect();
    assert_eq!((client.get("/").text(), client.get("/").text()), ("1".to_string(), "2".to_string()));
    let lines = gateway.access_log(2);
    assert!(lines.iter().any(|line| line["cache"] == "bypass"), "it is known by now that nothing is kept: {lines:?}");
}

#[test]
fn a_thousand_on_a_cold_key_are_one_request() {
    const CLIENTS: usize = 200;
    let gate = Arc::new(Mutex::new(()));
    let theirs = gate.clone();
    let service = Origin::new(move |_| {
        drop(theirs.lock());
        kit::answer(200, &[], b"once")
    });
    let gateway = gateway("{ ttl: 60s }", &service);
    let held = gate.lock().expect("the gate");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| gateway.connect()).collect();
    clients.iter_mut().for_each(|client| client.send("GET /cold HTTP/1.1\r\nHost: test\r\n\r\n"));
    eventually("all to wait", || (gateway.ask("/status").json()["in_flight"] == CLIENTS).then_some(()));
    drop(held);
    assert!(clients.iter_mut().all(|client| client.answer().text() == "once"));
    assert_eq!(service.seen().len(), 1);
}

#[test]
fn waiting_ends_and_then_each_asks_for_itself() {
    let gate = Arc::new(Mutex::new(()));
    let (theirs, asked) = (gate.clone(), AtomicUsize::new(0));
    let service = Origin::new(move |_| {
        if asked.fetch_add(1, Relaxed) == 0 {
            drop(theirs.lock());
        }
        kit::answer(200, &[], b"x")
    });
    let gateway = gateway("{ ttl: 60s, collapse_timeout: 200ms }", &service);
    let held = gate.lock().expect("the gate");
    let mut first = gateway.connect();
    first.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the first", || (service.seen().len() == 1).then_some(()));
    assert_eq!(gateway.get("/").text(), "x");
    drop(held);
    assert_eq!(first.answer().text(), "x");
}

/// A service that sends the first half of a body, and the rest when it is told to.
fn halves(first: usize, rest: usize, length: bool) -> (Origin, Arc<Mutex<()>>) {
    let gate = Arc::new(Mutex::new(()));
    let theirs = gate.clone();
    let service = Origin::scripted(move |_, stream| {
        let stream = stream.get_mut();
        match length {
            true => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", first + rest)?,
            false => write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{first:x}\r\n")?,
        }
        stream.write_all(&vec![b'a'; first])?;
        drop(theirs.lock());
        if length {
            stream.write_all(&vec![b'b'; rest])?;
        } else {
            write!(stream, "\r\n{rest:x}\r\n")?;
            stream.write_all(&vec![b'b'; rest])?;
            write!(stream, "\r\n0\r\n\r\n")?;
        }
        Ok(true)
    });
    (service, gate)
}

#[test]
fn what_is_coming_is_read_by_all_who_want_it() {
    let (service, gate) = halves(50_000, 50_000, true);
    let gateway = gateway("{ ttl: 60s }", &service);
    let held = gate.lock().expect("the gate");
    let mut clients: Vec<_> = (0..8).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    for client in &mut clients {
        // The head and half the body, long before the rest.
        let mut seen = Vec::new();
        while seen.iter().filter(|byte| **byte == b'a').count() < 40_000 {
            seen.extend(client.read(1_000));
        }
    }
    assert_eq!(service.seen().len(), 1);
    drop(held);
    let whole = eventually("the whole", || {
        let answer = gateway.get("/large");
        status(&answer).contains("hit").then_some(answer)
    });
    assert_eq!((whole.body.len(), whole.body.iter().filter(|byte| **byte == b'b').count()), (100_000, 50_000));
    assert_eq!(service.seen().len(), 1);
}

#[test]
fn what_breaks_off_is_never_taken_for_whole() {
    for fields in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let asked = AtomicUsize::new(0);
        let service = Origin::scripted(move |_, stream| {
            let body = if fields.starts_with('C') { "12345" } else { "5\r\n12345\r\n" };
            let good = if fields.starts_with('C') { "1234567890" } else { "5\r\n12345\r\n0\r\n\r\n" };
            let is_first = asked.fetch_add(1, Relaxed) == 0;
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{}", if is_first { body } else { good })?;
            Ok(!is_first)
        });
        let gateway = gateway("{ ttl: 60s }", &service);
        let mut broken = gateway.connect();
        broken.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        // It may be tried again where nothing has been sent on.
        assert!(
            broken.try_answer("GET").map_or(true, |answer| answer.body.len() == if fields.starts_with('C') { 10 } else { 5 }),
            "{fields}"
        );
        // Who comes while it breaks off may share its fate, but is never told that it was whole.
        let second = eventually("a whole answer", || {
            let mut client = gateway.connect();
            client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
            client.try_answer("GET").ok()
        });
        assert!(second.status == 200 && status(&second).contains("uri-miss"), "{fields}: {second:?}");
        assert!(status(&gateway.get("/")).contains("; hit"), "{fields}");
    }
}

#[test]
fn what_breaks_off_at_once_is_tried_again_or_broken_off() {
    let asked = AtomicUsize::new(0);
    let service = Origin::scripted(move |_, stream| {
        let is_good = asked.fetch_add(1, Relaxed) % 2 == 1;
        // In one piece, so that all of it and the end may be seen at once.
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", if is_good { "1234567890" } else { "12345" });
        stream.get_mut().write_all(answer.as_bytes()).map(|()| is_good)
    });
    let gateway = gateway("{ ttl: 60s }", &service);
    const TIMES: usize = 60;
    let whole = (0..TIMES).filter(|n| {
        let mut client = gateway.connect();
        client.send(format!("GET /{n} HTTP/1.1\r\nHost: test\r\n\r\n"));
        let said = client.try_answer("GET");
        said.is_ok_and(|answer| answer.text() == "1234567890")
    });
    let whole = whole.count();
    let lines = gateway.access_log(TIMES);
    // Nobody was sent away without a word, and no client was said to have gone.
    assert!(lines.iter().all(|line| line["status"] == 200), "{lines:?}");
    let of_attempts = |n: u64| lines.iter().filter(|line| line["attempts"] == n).count();
    assert_eq!((of_attempts(1) + of_attempts(2), gateway.log().iter().filter(|line| line.contains("panicked")).count()), (TIMES, 0));
    assert!(whole >= of_attempts(2), "{whole} whole of {} that were tried again", of_attempts(2));
}

#[test]
fn what_is_too_large_passes_and_is_not_kept() {
    for length in [true, false] {
        let (service, _) = halves(300_000, 1_500_000, length);
        let gateway = gateway("{ ttl: 60s, body_bytes_max: 100KiB }", &service);
        for _ in 0..2 {
            let answer = gateway.get("/");
            assert_eq!((answer.status, answer.body.len()), (200, 1_800_000), "{length}");
            assert!(!status(&answer).contains("hit"), "{length}: {}", status(&answer));
        }
        assert_eq!(gateway.metric("frontdesk_cache_entries"), 0.0);
        assert_eq!(service.seen().len(), 2);
    }
}

#[test]
fn answers_outlive_a_reload() {
    let service = counting(&[]);
    let yaml = |ttl: &str| {
        format!("{LISTENERS}caches: {{ all: {{ ttl: {ttl} }} }}\nroutes: [{{ name: r, path: /*, cache: all, to: 'http://{service}' }}]\n")
    };
    let gateway = Gateway::start(&yaml("60s"));
    assert_eq!(gateway.get("/").text(), "1");
    assert!(gateway.reload(&yaml("70s")));
    assert_eq!(gateway.get("/").text(), "1");
}

#[test]
fn memory_is_bounded() {
    let service = Origin::new(|_| kit::answer(200, &[], &[b'x'; 10_000]));
    let gateway = Gateway::start(&format!(
        "{LISTENERS}caches: {{ all: {{ ttl: 60s, body_bytes_max: 100KiB }} }}\ncache_store: {{ memory: 1MiB }}
routes: [{{ name: r, path: /*, cache: all, to: 'http://{service}' }}]\n"
    ));
    let mut client = gateway.connect();
    for n in 0..300 {
        client.get(&format!("/{n}"));
    }
    let (bytes, entries) = (gateway.metric("frontdesk_cache_bytes"), gateway.metric("frontdesk_cache_entries"));
    assert!(bytes <= f64::from(1 << 20) && entries > 60.0 && entries < 105.0, "{bytes} in {entries}");
    assert_eq!(gateway.metric("frontdesk_cache_evicted_total") + entries, 300.0);
}

#[test]
fn limits_and_headers_are_of_each_answer() {
    let service = counting(&[]);
    let gateway = Gateway::start(&format!(
        "{LISTENERS}rate_limits: {{ few: {{ rate: 2/1h, by: client_ip }} }}
caches: {{ all: {{ ttl: 60s }} }}
routes: [{{ path: /*, cache: all, rate_limits: [few], response: {{ headers: {{ set: {{ X-Id: '${{request_id}}' }} }} }}, to: 'http://{service}' }}]\n"
    ));
    let mut client = gateway.connect();
    let answers: Vec<Answer> = (0..3).map(|_| client.get("/")).collect();
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 429]);
    assert_eq!(answers[1].header("ratelimit"), Some("\"few\";r=0;t=3600"));
    assert_eq!(answers[1].header("x-id"), answers[1].header("x-request-id"));
    assert_eq!(service.seen().len(), 1);
}

#[test]
fn answers_behind_auth_are_for_whoever_asked_unless_they_say_otherwise() {
    let echo = |request: &Request| request.header("x-who").unwrap_or("nobody").to_string();
    let service = Origin::new(move |request| {
        let said = if request.target.starts_with("/public") { "public, max-age=60" } else { "max-age=60" };
        kit::answer(200, &[("Cache-Control", said)], echo(request).as_bytes())
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}auth: {{ customers: {{ jwt: {{ secret: '{SECRET}', algorithms: [HS256], claims_to_headers: {{ sub: X-Who }} }} }} }}
caches: {{ shared: {{}}, own: {{ key: [scheme, host, path, query, identity] }} }}
routes:
  - {{ path: /shared/*, auth: [customers], cache: shared, to: 'http://{service}' }}
  - {{ path: /public/*, auth: [customers], cache: shared, to: 'http://{service}' }}
  - {{ path: /own/*, auth: [customers], cache: own, to: 'http://{service}' }}
  - {{ path: /open/*, cache: shared, to: 'http://{service}' }}\n"
    ));
    let get = |target: &str, who: &str| {
        gateway.connect().request(
            "GET",
            target,
            &[("Authorization", &format!("Bearer {}", token(serde_json::json!({ "sub": who, "exp": kit::in_seconds(600) }))))],
            b"",
        )
    };
    let told = |target: &str, who: &str| {
        let answer = get(target, who);
        (answer.text(), status(&answer).contains("; hit"))
    };
    assert_eq!([told("/shared/a", "ann"), told("/shared/a", "bob")], [("ann".into(), false), ("bob".into(), false)]);
    assert_eq!([told("/public/a", "ann"), told("/public/a", "bob")], [("ann".into(), false), ("ann".into(), true)]);
    assert_eq!(gateway.get("/public/a").status, 401, "who may not come gets nothing from memory either");
    assert_eq!([told("/own/a", "ann"), told("/own/a", "bob")], [("ann".into(), false), ("bob".into(), false)]);
    assert_eq!([told("/own/a", "ann"), told("/own/a", "bob")], [("ann".into(), true), ("bob".into(), true)]);
    assert_eq!([told("/open/a", "ann"), told("/open/a", "ann")], [("nobody".into(), false), ("nobody".into(), false)], "RFC 9111, 3.5");
}

#[test]
fn what_nobody_in_particular_gets_is_not_given_to_those_who_are_recognised() {
    let service = Origin::new(|request| kit::answer(200, &[], request.header("x-who").unwrap_or("nobody").as_bytes()));
    let gateway = Gateway::start(&format!(
        "{LISTENERS}auth: {{ customers: {{ jwt: {{ secret: '{SECRET}', algorithms: [HS256], claims_to_headers: {{ sub: X-Who }} }} }} }}
caches: {{ shared: {{ ttl: 60s }}, own: {{ ttl: 60s, key: [scheme, host, path, query, identity] }} }}
defaults: {{ auth: [customers, anonymous] }}
routes:
  - {{ path: /shared, cache: shared, to: 'http://{service}' }}
  - {{ path: /own, cache: own, to: 'http://{service}' }}
  - {{ path: /composed, cache: shared, compose: {{ calls: {{ a: {{ to: 'http://{service}', path: / }} }}, body: x }} }}\n"
    ));
    let told = |target: &str, claims: Option<serde_json::Value>| {
        let bearer = claims.map(|claims| format!("Bearer {}", token(claims)));
        let fields: Vec<_> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
        let answer = gateway.connect().request("GET", target, &fields, b"");
        (answer.text(), status(&answer).contains("; hit"))
    };
    let exp = kit::in_seconds(600);
    let ann = || Some(serde_json::json!({ "sub": "ann", "exp": exp }));
    assert_eq!([told("/shared", None), told("/shared", None)], [("nobody".into(), false), ("nobody".into(), false)]);
    assert_eq!(told("/shared", ann()), ("ann".into(), false));
    assert_eq!([told("/own", None), told("/own", None)], [("nobody".into(), false), ("nobody".into(), true)]);
    assert_eq!([told("/own", ann()), told("/own", ann())], [("ann".into(), false), ("ann".into(), true)]);
    // Whoever has no name is not told from others by it.
    let nameless = || Some(serde_json::json!({ "sub": "", "exp": exp }));
    assert_eq!([told("/own", nameless()).1, told("/own", nameless()).1], [false, false]);
    assert_eq!([told("/composed", None).1, told("/composed", None).1], [false, false]);
}

#[test]
fn variants_are_told_apart() {
    let service = Origin::new(|request| {
        let language = request.header("accept-language").unwrap_or("none").to_string();
        kit::answer(200, &[("Vary", "Accept-Language"), ("Cache-Control", "max-age=60")], language.as_bytes())
    });
    let gateway = gateway("{}", &service);
    let mut client = gateway.connect();
    let mut get = |language: &str| client.request("GET", "/", &[("Accept-Language", language)], b"");
    for (language, told) in [
        ("de", "frontdesk; fwd=uri-miss; stored"),
        ("en", "frontdesk; fwd=vary-miss; stored"),
        ("fr", "frontdesk; fwd=vary-miss; stored"),
        ("de", "frontdesk; hit"),
        ("en", "frontdesk; hit"),
        ("FR", "frontdesk; hit"),
        ("de", "frontdesk; hit"),
    ] {
        let answer = get(language);
        assert_eq!(answer.text(), language.to_lowercase());
        assert!(status(&answer).starts_with(told), "{language}: {answer:?}");
    }
    assert_eq!(service.seen().len(), 3);
}

#[test]
fn an_answer_is_kept_for_those_who_ask_the_service_the_same() {
    // The service says what it goes by, and answers with that.
    let service = Origin::new(|request| {
        let accept = request.header("accept").unwrap_or("none").to_string();
        kit::answer(200, &[("Vary", "Accept"), ("Cache-Control", "max-age=60")], accept.as_bytes())
    });
    let gateway = gateway("{}", &service);
    let mut client = gateway.connect();
    // RFC 9110, 7.6.1: this one keeps the field from the service.
    let without = client.request("GET", "/", &[("Accept", "text/a"), ("Connection", "accept")], b"");
    assert_eq!(without.text(), "none");
    assert_eq!(client.request("GET", "/", &[("Accept", "text/a")], b"").text(), "text/a");
    assert_eq!(client.get("/").text(), "none");
    assert_eq!(service.seen().len(), 2);
}

#[test]
fn what_goes_by_fields_of_the_routes_making_is_not_kept() {
    let service = Origin::new(|request| {
        let user = request.header("x-user").unwrap_or("none").to_string();
        kit::answer(200, &[("Vary", "X-User"), ("Cache-Control", "max-age=60")], user.as_bytes())
    });
    for change in ["set: { X-User: '${header.X-Name}' }", "rename: { X-Name: X-User }"] {
        let gateway = Gateway::start(&format!(
            "{LISTENERS}caches: {{ c: {{}} }}\nroutes: [{{ path: /*, cache: c, to: 'http://{service}', request: {{ headers: {{ {change} }} }} }}]"
        ));
        for name in ["ada", "eve"] {
            assert_eq!(gateway.connect().request("GET", "/", &[("X-Name", name)], b"").text(), name, "{change}");
        }
    }
}

#[test]
fn what_a_target_is_made_of_is_in_the_key() {
    let service = Origin::new(|request| kit::answer(200, &[], request.target.as_bytes()));
    let gateway = Gateway::start(&format!(
        "{LISTENERS}caches: {{ c: {{ ttl: 60s }} }}
routes: [{{ path: /me, cache: c, to: 'http://{service}', request: {{ path: '/of/${{header.X-Name}}' }} }}]"
    ));
    for name in ["ada", "eve", "ada"] {
        assert_eq!(gateway.connect().request("GET", "/me", &[("X-Name", name)], b"").text(), format!("/of/{name}"));
    }
    assert_eq!(service.seen().len(), 2);
}

#[test]
fn what_a_trusted_proxy_says_of_the_url_tells_answers_apart() {
    let service = Origin::new(|request| {
        let told = ["x-forwarded-proto", "x-forwarded-host"].map(|name| request.header(name).unwrap_or("-"));
        kit::answer(200, &[], told.join(" ").as_bytes())
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}server: {{ trusted_proxies: [127.0.0.1] }}\ncaches: {{ c: {{ ttl: 60s }} }}
routes: [{{ path: /*, cache: c, to: 'http://{service}' }}]"
    ));
    let get = |fields: &[(&str, &str)]| gateway.connect().request("GET", "/", fields, b"").text();
    for _ in 0..2 {
        assert_eq!(get(&[("X-Forwarded-Proto", "http")]), "http test");
        assert_eq!(get(&[("X-Forwarded-Proto", "https")]), "https test");
        assert_eq!(get(&[]), "http test");
    }
    assert_eq!(service.seen().len(), 2);
    for host in ["evil.example", "other.example"] {
        assert_eq!(get(&[("X-Forwarded-Host", host)]), format!("http {host}"));
    }
    assert_eq!(get(&[("X-Forwarded-Host", "test")]), "http test");
    assert_eq!(service.seen().len(), 4);
}

#[test]
fn a_late_word_that_something_is_good_is_of_what_was_asked_about() {
    let gate = kit::Gate::default();
    let held = gate.clone();
    let asked = AtomicUsize::new(0);
    let service = Origin::new(move |request| {
        let fields = |tag: &'static str| [("Cache-Control", "no-cache"), ("ETag", tag)];
        match (asked.fetch_add(1, Relaxed), request.header("if-none-match")) {
            (0, _) => kit::answer(200, &fields("\"a\""), b"first"),
            (1, Some("\"a\"")) => {
                held.wait();
                kit::answer(304, &fields("\"a\""), b"")
            }
            (2, _) => kit::answer(200, &fields("\"b\""), b"second"),
            (_, Some("\"b\"")) => kit::answer(304, &fields("\"b\""), b""),
            _ => kit::answer(500, &[], b"it is asked about what is not kept any more"),
        }
    });
    let gateway = gateway("{}", &service);
    assert_eq!(gateway.get("/").text(), "first");
    let mut slow = gateway.connect();
    slow.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the question", || (service.seen().len() == 2).then_some(()));
    assert_eq!(gateway.get("/").text(), "second");
    gate.open();
    assert_eq!(slow.answer().text(), "first");
    let third = gateway.get("/");
    assert_eq!((third.status, third.text().as_str(), third.header("etag")), (200, "second", Some("\"b\"")));
}

#[test]
fn early_hints_leave_room_for_what_is_stale() {
    let is_down = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let theirs = is_down.clone();
    let service = Origin::new(move |_| {
        let last = match theirs.load(Relaxed) {
            false => kit::answer(200, &[("Cache-Control", "max-age=1")], b"good"),
            true => kit::answer(503, &[], b"bad"),
        };
        [&b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"[..], &last].concat()
    });
    let gateway = gateway("{ stale_if_error: 1h }", &service);
    assert_eq!(gateway.get("/").status, 200);
    is_down.store(true, Relaxed);
    eventually("it to be stale", || {
        let answer = gateway.get("/");
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "{answer:?}");
        status(&answer).contains("fwd-status=503").then_some(())
    });
}

#[test]
fn renewals_behind_clients_do_not_cut_off_one_another() {
    let gates = [kit::Gate::default(), kit::Gate::default()];
    let (held, asked) = (gates.clone(), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    let service = Origin::new(move |request| {
        let which = usize::from(request.target == "/slow");
        let fields = [("Cache-Control", "max-age=1"), ("ETag", "\"a\"")];
        if asked[which].fetch_add(1, Relaxed) == 0 {
            return kit::answer(200, &fields, b"old");
        }
        held[which].wait();
        match which {
            1 => kit::answer(200, &fields, b"new"),
            // Its length says that more could follow: the connection is not used again.
            _ => b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Length: 3\r\n\r\n".to_vec(),
        }
    });
    let gateway = gateway("{ stale_while_revalidate: 60s }", &service);
    for target in ["/slow", "/quick"] {
        assert_eq!(gateway.get(target).text(), "old");
    }
    let questions = |target: &str| service.seen().iter().filter(|request| request.target == target).count();
    for target in ["/quick", "/slow"] {
        eventually("a renewal", || (gateway.get(target).text() == "old" && questions(target) == 2).then_some(()));
    }
    gates[0].open();
    eventually("the end of one", || gateway.get("/quick").header("cache-status")?.contains("hit; ttl=5").then_some(()));
    gates[1].open();
    eventually("the other to come through", || (gateway.get("/slow").text() == "new").then_some(()));
    assert_eq!(questions("/slow"), 2);
}

#[test]
fn stale_answers_are_asked_about_and_renewed() {
    let service = Origin::new(|request| match request.header("if-none-match") {
        Some("\"v1\"") => kit::answer(304, &[("ETag", "\"v1\""), ("X-New", "2"), ("Cache-Control", "max-age=1")], b""),
        _ => kit::answer(200, &[("ETag", "\"v1\""), ("X-New", "1"), ("Cache-Control", "max-age=1")], b"body"),
    });
    let gateway = gateway("{}", &service);
    assert_eq!(gateway.get("/").header("x-new"), Some("1"));
    let renewed = eventually("it to be stale", || {
        let answer = gateway.get("/");
        (!status(&answer).contains("; hit")).then_some(answer)
    });
    assert_eq!((renewed.status, renewed.text().as_str(), renewed.header("x-new")), (200, "body", Some("2")));
    assert_eq!(status(&renewed), "frontdesk; fwd=stale; fwd-status=304; stored");
    let hit = gateway.get("/");
    assert!(status(&hit).contains("; hit") && hit.header("x-new") == Some("2"), "{hit:?}");
    assert_eq!(service.seen().len(), 2);
    eventually("the log", || gateway.access_log(3).iter().any(|line| line["cache"] == "revalidated").then_some(()));
}

#[test]
fn stale_while_revalidate_answers_at_once_and_asks_once() {
    let gate = Arc::new(Mutex::new(()));
    let (theirs, asked) = (gate.clone(), AtomicUsize::new(0));
    let service = Origin::new(move |_| {
        let n = asked.fetch_add(1, Relaxed) + 1;
        if n > 1 {
            drop(theirs.lock());
        }
        kit::answer(200, &[("Cache-Control", "max-age=1")], n.to_string().as_bytes())
    });
    let gateway = gateway("{ stale_while_revalidate: 60s }", &service);
    assert_eq!(gateway.get("/").text(), "1");
    let held = gate.lock().expect("the gate");
    eventually("it to be stale", || (gateway.access_log(1).last()?["cache"] == "stale" || gateway.get("/").text() != "1").then_some(()));
    for _ in 0..5 {
        let stale = gateway.get("/");
        assert!(stale.text() == "1" && status(&stale).starts_with("frontdesk; hit; ttl=-"), "{stale:?}");
    }
    eventually("the question", || (service.seen().len() == 2).then_some(()));
    let question = &service.seen()[1];
    assert_eq!(question.header("x-forwarded-proto"), Some("http"), "it is asked as the client's request was: {question:?}");
    drop(held);
    eventually("the new answer", || (gateway.get("/").text() != "1").then_some(()));
    // What happens behind is no request.
    let requests = || gateway.metric("frontdesk_requests_total{method=\"GET\",route=\"r\",status=\"200\"}") as usize;
    eventually("the log", || (gateway.access_log(1).len() == requests()).then_some(()));
    let lines = gateway.access_log(1);
    assert_eq!(lines.iter().filter(|line| line["attempts"] == 1).count(), 1, "only the first asked the service itself");
}

#[test]
fn stale_if_error_stands_in() {
    let is_down = Arc::new(Mutex::new(None::<u16>));
    let theirs = is_down.clone();
    let service = Origin::scripted(move |_, stream| {
        match *theirs.lock().expect("the state") {
            None => stream.get_mut().write_all(&kit::answer(200, &[("Cache-Control", "max-age=1")], b"good"))?,
            Some(0) => return Ok(false),
            Some(status) => stream.get_mut().write_all(&kit::answer(status, &[], b"bad"))?,
        }
        Ok(true)
    });
    let gateway = gateway("{ stale_if_error: 1h }", &service);
    for down in [503, 500, 0] {
        *is_down.lock().expect("the state") = None;
        let target = format!("/{down}");
        assert_eq!(gateway.get(&target).text(), "good");
        *is_down.lock().expect("the state") = Some(down);
        let stale = eventually("it to be stale", || {
            let answer = gateway.get(&target);
            assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "{down}: {answer:?}");
            status(&answer).contains("ttl=-").then_some(answer)
        });
        assert!(stale.header("age").is_some(), "{stale:?}");
        // RFC 9211: it was forwarded, hence no hit.
        let told =
            if down == 0 { "frontdesk; fwd=stale; ttl=-".to_string() } else { format!("frontdesk; fwd=stale; fwd-status={down}; ttl=-") };
        assert!(status(&stale).starts_with(&told), "{stale:?}");
    }
    assert!(gateway.access_log(1).iter().all(|line| line["code"] == ""));
}

#[test]
fn windows_of_less_than_a_second_are_windows() {
    for window in ["stale_while_revalidate: 900ms", "stale_if_error: 900ms"] {
        let asked = AtomicUsize::new(0);
        // It fails every second time, so that another look follows one that came too late.
        let service = Origin::new(move |_| {
            let is_good = window.starts_with("stale_while") || asked.fetch_add(1, Relaxed).is_multiple_of(2);
            kit::answer(if is_good { 200 } else { 503 }, &[], b"x")
        });
        let gateway = gateway(&format!("{{ ttl: 100ms, {window} }}"), &service);
        let mut client = gateway.connect();
        eventually(window, || status(&client.get("/")).contains("ttl=-").then_some(()));
    }
}

#[test]
fn what_is_stale_takes_the_place_of_a_service_that_is_left_alone() {
    let is_down = Arc::new(AtomicUsize::new(0));
    let theirs = is_down.clone();
    let service = Origin::new(move |_| match theirs.load(Relaxed) {
        0 => kit::answer(200, &[("Cache-Control", "max-age=1")], b"good"),
        _ => kit::answer(500, &[], b"bad"),
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}caches: {{ all: {{ stale_if_error: 1h }} }}
services: {{ s: {{ endpoints: ['{service}'], breaker: {{ min_requests: 2, open: 1h }}, fallback: stale }} }}
routes: [{{ path: /kept, cache: all, to: s }}, {{ path: /other, to: s }}]
"
    ));
    assert_eq!(gateway.get("/kept").text(), "good");
    is_down.store(1, Relaxed);
    eventually("the breaker", || (gateway.get("/other").status == 503).then_some(()));
    eventually("it to be stale", || {
        let answer = gateway.get("/kept");
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "{answer:?}");
        status(&answer).contains("ttl=-").then_some(())
    });
}

#[test]
fn ranges_and_conditions_are_answered_from_memory() {
    let modified = "Wed, 01 Jan 2025 00:00:00 GMT";
    let service = Origin::new(move |_| {
        kit::answer(200, &[("Cache-Control", "max-age=60"), ("ETag", "\"e\""), ("Last-Modified", modified)], b"0123456789")
    });
    let gateway = gateway("{}", &service);
    let mut client = gateway.connect();
    for (fields, status, body) in [
        (&[("Range", "bytes=2-4")][..], 206, "234"),
        (&[], 200, "0123456789"),
        (&[("Range", "bytes=0-1")], 206, "01"),
        (&[("Range", "bytes=-3")], 206, "789"),
        (&[("Range", "bytes=20-")], 416, ""),
        (&[("If-None-Match", "\"e\"")], 304, ""),
        (&[("If-None-Match", "\"x\", W/\"e\"")], 304, ""),
        (&[("If-None-Match", "\"x\"")], 200, "0123456789"),
        (&[("If-Modified-Since", modified)], 304, ""),
        (&[("If-Range", "\"x\""), ("Range", "bytes=0-1")], 200, "0123456789"),
        (&[("If-Range", "\"e\""), ("Range", "bytes=0-1")], 206, "01"),
    ] {
        let answer = client.request("GET", "/", fields, b"");
        assert_eq!((answer.status, answer.text().as_str()), (status, body), "{fields:?}: {answer:?}");
    }
    assert_eq!(service.seen().len(), 1);
    assert_eq!(service.seen()[0].header("range"), None, "the whole is asked for");
}

#[test]
fn what_clients_ask_is_heeded() {
    let service = counting(&[("Cache-Control", "max-age=60")]);
    let gateway = gateway("{}", &service);
    let mut client = gateway.connect();
    let cold = client.request("GET", "/", &[("Cache-Control", "only-if-cached")], b"");
    assert_eq!((cold.status, cold.code().as_str()), (504, "not_cached"));
    for (said, text) in [
        ("", "1"),
        ("only-if-cached", "1"),
        ("no-cache", "2"),
        ("max-age=0", "3"),
        ("max-age=60", "3"),
        ("min-fresh=120", "4"),
        ("no-store", "5"),
        ("", "4"),
    ] {
        assert_eq!(client.request("GET", "/", &[("Cache-Control", said)], b"").text(), text, "{said}");
    }
    assert_eq!(client.request("GET", "/", &[("Pragma", "no-cache")], b"").text(), "6");
}

#[test]
fn unsafe_requests_forget_what_they_change() {
    let asked = AtomicUsize::new(0);
    let service = Origin::new(move |request| {
        let n = asked.fetch_add(1, Relaxed).to_string();
        let status = if request.target == "/fails" && request.method == "POST" { 500 } else { 200 };
        kit::answer(status, &[("Cache-Control", "max-age=60"), ("Location", "/other")], n.as_bytes())
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}caches: {{ all: {{}} }}
routes:
  - {{ path: /*, methods: GET, cache: all, to: 'http://{service}' }}
  - {{ path: /*, to: 'http://{service}' }}\n"
    ));
    let mut client = gateway.connect();
    for target in ["/a", "/other", "/fails", "/else"] {
        client.get(target);
        assert!(status(&client.get(target)).contains("; hit"), "{target}");
    }
    for (method, target) in [("POST", "/fails"), ("OPTIONS", "/else"), ("DELETE", "/a")] {
        client.request(method, target, &[], b"");
    }
    for (target, is_kept) in [("/a", false), ("/other", false), ("/fails", true), ("/else", true)] {
        assert_eq!(status(&client.get(target)).contains("; hit"), is_kept, "{target}");
    }
}

#[test]
fn a_ttl_by_status_and_cookies_never() {
    let service = Origin::new(|request| match request.target.as_str() {
        "/missing" => kit::answer(404, &[], b"none"),
        "/broken" => kit::answer(500, &[], b"bad"),
        _ => kit::answer(200, &[("Set-Cookie", "a=b")], b"yours"),
    });
    let gateway = gateway("{ ttl: 60s, status_ttl: { 404: 5s } }", &service);
    let mut client = gateway.connect();
    for (target, is_kept) in [("/missing", true), ("/broken", false), ("/cookie", false)] {
        client.get(target);
        assert_eq!(status(&client.get(target)).contains("; hit"), is_kept, "{target}");
    }
}

#[test]
fn an_interim_answer_reaches_who_asked_and_is_not_kept() {
    for is_together in [true, false] {
        let gate = kit::Gate::default();
        let theirs = gate.clone();
        let service = Origin::scripted(move |_, stream| {
            let early = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n".to_vec();
            let last = kit::answer(200, &[("Cache-Control", "max-age=60")], b"page");
            let first = if is_together { [early, last.clone()].concat() } else { early };
            stream.get_mut().write_all(&first)?;
            if !is_together {
                theirs.wait();
                stream.get_mut().write_all(&last)?;
            }
            Ok(true)
        });
        let gateway = gateway("{}", &service);
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let early = client.next_answer("GET");
        assert_eq!((early.status, early.header("link")), (103, Some("</a.css>; rel=preload")), "{is_together}");
        gate.open();
        assert_eq!(client.next_answer("GET").text(), "page");
        let kept = client.get("/");
        assert!(kept.status == 200 && kept.header("link").is_none() && status(&kept).contains("; hit"), "{kept:?}");
    }
}

#[test]
fn http2_is_served_from_memory_too() {
    let service = counting(&[]);
    let gateway = gateway("{ ttl: 60s }", &service);
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        for told in ["frontdesk; fwd=uri-miss; stored", "frontdesk; hit; ttl=59"] {
            let answer = client.get("/x").await;
            assert_eq!((answer.header("cache-status"), &answer.body[..]), (Some(told), &b"1"[..]));
        }
    });
    assert_eq!(gateway.get("/x").status, 200);
}

#[test]
fn a_client_that_takes_its_time_holds_up_nobody() {
    const LENGTH: usize = 24 << 20;
    let service = Origin::new(|_| kit::answer(200, &[], &vec![b'x'; LENGTH]));
    let gateway = gateway("{ ttl: 60s, body_bytes_max: 32MiB }", &service);
    let mut slow = gateway.connect();
    slow.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the question", || (service.seen().len() == 1).then_some(()));
    // Far more than what sockets hold, of which the first client takes nothing.
    let other = gateway.get("/");
    assert_eq!((other.body.len(), service.seen().len()), (LENGTH, 1));
    assert_eq!(slow.answer().body.len(), LENGTH);
}

/// A gateway whose service names tags, with some answers kept.
fn kept(service: &Origin) -> Gateway {
    let gateway = gateway("{ ttl: 60s, tags: Cache-Tag }", service);
    for target in ["/menus/1", "/menus/1?x=1", "/menus/2", "/other"] {
        gateway.get(target);
        assert!(status(&gateway.get(target)).contains("; hit"), "{target}");
    }
    gateway
}

fn tagging() -> Origin {
    Origin::new(|request| {
        let tags = format!("all {}", request.target.trim_start_matches('/').replace('/', "-").split('?').next().unwrap_or_default());
        kit::answer(200, &[("Cache-Tag", &tags), ("ETag", "\"e\"")], b"x")
    })
}

#[track_caller]
fn purge(gateway: &Gateway, arguments: &[&str]) -> String {
    let admin = format!("http://{}", gateway.admin());
    let output = kit::run(kit::frontdesk().arg("purge").args(arguments).args(["--admin", &admin]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn answers_are_purged_by_url_prefix_tag_and_all() {
    let service = tagging();
    for (arguments, said, gone) in [
        (&["http://test/menus/1"][..], "purged 1 answer\n", &["/menus/1"][..]),
        (&["https://TEST/menus/x/../1?x=1"], "purged 1 answer\n", &["/menus/1?x=1"]),
        (&["--prefix", "http://test/menus/"], "purged 3 answers\n", &["/menus/1", "/menus/1?x=1", "/menus/2"]),
        (&["--prefix", "/menus/1"], "purged 2 answers\n", &["/menus/1", "/menus/1?x=1"]),
        (&["--tag", "menus-2"], "purged 1 answer\n", &["/menus/2"]),
        (&["--tag", "menus"], "purged 0 answers\n", &[]),
        (&["--all"], "purged 4 answers\n", &["/menus/1", "/menus/1?x=1", "/menus/2", "/other"]),
    ] {
        let gateway = kept(&service);
        assert_eq!(purge(&gateway, arguments), said, "{arguments:?}");
        for target in ["/menus/1", "/menus/1?x=1", "/menus/2", "/other"] {
            assert_eq!(status(&gateway.get(target)).contains("; hit"), !gone.contains(&target), "{arguments:?} {target}");
        }
    }
}

#[test]
fn a_soft_purge_is_not_undone_by_what_was_asked_before_it() {
    let gate = kit::Gate::default();
    let held = gate.clone();
    let asked = AtomicUsize::new(0);
    let service = Origin::new(move |_| {
        let fields = [("Cache-Control", "max-age=60"), ("ETag", "\"e\"")];
        match asked.fetch_add(1, Relaxed) {
            0 => kit::answer(200, &fields, b"old"),
            1 => {
                held.wait();
                kit::answer(304, &fields, b"")
            }
            _ => kit::answer(200, &[("Cache-Control", "max-age=60"), ("ETag", "\"f\"")], b"new"),
        }
    });
    let gateway = gateway("{}", &service);
    assert_eq!(gateway.get("/").text(), "old");
    let mut slow = gateway.connect();
    slow.send("GET / HTTP/1.1\r\nHost: test\r\nCache-Control: no-cache\r\n\r\n");
    eventually("the question", || (service.seen().len() == 2).then_some(()));
    purge(&gateway, &["http://test/", "--soft"]);
    gate.open();
    assert_eq!(slow.answer().text(), "old");
    assert_eq!(gateway.get("/").text(), "new");
}

#[test]
fn a_head_is_not_a_fetch_without_end() {
    // To HEAD the cache asks for the whole.
    let service = Origin::scripted(|request, stream| {
        if request.target == "/silent" {
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")?;
            return kit::until_gone(stream).map(|()| false);
        }
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let piece = [&b"10000\r\n"[..], &[b'x'; 1 << 16], b"\r\n"].concat();
        (0..4096).try_for_each(|_| stream.get_mut().write_all(&piece))?;
        stream.get_mut().write_all(b"0\r\n\r\n").map(|()| true)
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}caches: {{ all: {{ ttl: 60s, body_bytes_max: 1MiB }} }}
services: {{ s: {{ endpoints: ['{service}'], timeouts: {{ read: 500ms }} }} }}
routes: [{{ path: /*, cache: all, to: s }}]"
    ));
    for target in ["/large", "/silent"] {
        assert_eq!(gateway.connect().request("HEAD", target, &[], b"").status, 200, "{target}");
        gateway.wait_until_idle();
    }
    // The body is 256 MiB.
    assert!(gateway.peak_kib() < 128 << 10, "{} KiB", gateway.peak_kib());
}

#[test]
fn a_reload_may_make_what_is_kept_unfit() {
    let service = Origin::new(|_| kit::answer(200, &[("Content-Type", "text/plain"), ("Cache-Control", "max-age=60")], b"text"));
    let yaml = |more: &str| format!("{LISTENERS}caches: {{ c: {{}} }}\nroutes: [{{ path: /*, cache: c, to: 'http://{service}' {more} }}]");
    let gateway = Gateway::start(&yaml(""));
    assert_eq!(gateway.get("/").text(), "text");
    assert!(gateway.reload(&yaml(", response: { body: { other_types: refuse } }")));
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.code()), (502, "upstream_protocol".to_string()));
}

#[test]
fn a_soft_purge_leaves_answers_to_be_asked_about() {
    let service = Origin::new(|request| match request.header("if-none-match") {
        Some(_) => kit::answer(304, &[], b""),
        None => kit::answer(200, &[("ETag", "\"e\"")], b"x"),
    });
    let gateway = gateway("{ ttl: 60s }", &service);
    gateway.get("/");
    assert_eq!(purge(&gateway, &["http://test/", "--soft"]), "purged 1 answer\n");
    let asked = gateway.get("/");
    assert_eq!((asked.text().as_str(), status(&asked)), ("x", "frontdesk; fwd=stale; fwd-status=304; stored"));
    assert!(status(&gateway.get("/")).contains("; hit"));
}

#[test]
fn a_purge_reaches_what_is_coming() {
    for arguments in [&["http://test/large"][..], &["--tag", "t"], &["--all"]] {
        let gate = kit::Gate::default();
        let theirs = gate.clone();
        let asked = AtomicUsize::new(0);
        let service = Origin::scripted(move |_, stream| {
            let n = asked.fetch_add(1, Relaxed);
            write!(stream.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Tag: t\r\n\r\n{n}")?;
            if n == 0 {
                theirs.wait();
            }
            stream.get_mut().write_all(b".")?;
            Ok(true)
        });
        let gateway = gateway("{ ttl: 60s, tags: Cache-Tag }", &service);
        let mut first = gateway.connect();
        first.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
        // Its head is here, so it is coming.
        eventually("the head", || {
            let mut peeked = [0; 16];
            first.stream().peek(&mut peeked).is_ok_and(|n| n == 16).then_some(())
        });
        purge(&gateway, arguments);
        gate.open();
        assert_eq!(first.answer().text(), "0.");
        assert_eq!(gateway.get("/large").text(), "1.", "{arguments:?}: what was asked for before is not kept");
        assert_eq!(gateway.get("/large").text(), "1.");
    }
}

#[test]
fn a_purge_that_says_nothing_is_refused() {
    let service = tagging();
    let gateway = kept(&service);
    let admin = gateway.admin();
    let tell = |target: &str, body: &[u8]| kit::Client::connect(admin).request("POST", target, &[("Host", "localhost")], body);
    for (target, body) in [
        ("/purge", &b""[..]),
        ("/purge?url=/menus/1", b""),
        ("/purge?prefix=menus", b""),
        ("/purge?uri=x", b""),
        ("/purge", b"{\"urll\":1}"),
    ] {
        assert_eq!(tell(target, body).status, 400, "{target}");
    }
    assert_eq!(tell("/purge", b"{\"url\":\"http://test/menus/1\"}").json()["purged"], 1);
    assert_eq!(tell("/purge?tag=other&soft=true", b"").json()["purged"], 1);
    // A request is counted behind its answer.
    eventually("four hits", || {
        let told = &gateway.ask("/status").json()["cache"];
        let route = &told["routes"][0];
        (told["entries"] == 3 && route["requests"]["hit"] == 4 && route["hit_ratio"] == 0.5).then_some(())
    });
}

#[test]
fn bodies_that_are_changed_or_coded_are_kept_as_they_came() {
    let service = Origin::new(|request| match request.header("if-none-match") {
        Some(_) => kit::answer(304, &[], b""),
        None => {
            let padding = "x".repeat(2_000);
            let body = format!("{{\"id\":1,\"secret\":2,\"text\":\"{padding}\"}}");
            kit::answer(200, &[("Content-Type", "application/json"), ("ETag", "\"e\"")], body.as_bytes())
        }
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}caches: {{ all: {{ ttl: 60s }} }}
routes:
  - {{ path: /shaped, cache: all, response: {{ body: {{ json: {{ keep: [id] }} }} }}, to: 'http://{service}' }}
  - {{ path: /coded, cache: all, compress: [gzip], to: 'http://{service}' }}\n"
    ));
    // Missed, found, and asked about.
    for told in ["uri-miss", "hit", "fwd=stale"] {
        let shaped = gateway.get("/shaped");
        assert_eq!((shaped.status, shaped.json()), (200, serde_json::json!({ "id": 1 })), "{told}");
        assert!(status(&shaped).contains(told), "{told}: {shaped:?}");
        let coded = gateway.connect().request("GET", "/coded", &[("Accept-Encoding", "gzip")], b"");
        assert_eq!((coded.status, coded.header("content-encoding")), (200, Some("gzip")), "{told}");
        assert!(coded.body.len() > 20 && coded.body.len() < 500 && coded.body.starts_with(&[0x1f, 0x8b]), "{told}: {}", coded.body.len());
        // The end of a gzip is the length of what is in it.
        let length = coded.body.last_chunk::<4>().map(|last| u32::from_le_bytes(*last));
        assert_eq!(length, Some(2_029), "{told}");
        let plain = gateway.get("/coded");
        assert_eq!((plain.body.len(), plain.header("content-encoding")), (2_029, None), "{told}");
        if told == "hit" {
            purge(&gateway, &["--all", "--soft"]);
        }
    }
}

#[test]
fn many_variants_of_one_answer_leave_no_bytes_behind() {
    let service = counting(&[("Vary", "X-Client")]);
    let gateway = gateway("{ ttl: 60s }", &service);
    let mut client = gateway.connect();
    // More than are kept of one.
    for n in 0..100 {
        assert_eq!(client.request("GET", "/x", &[("X-Client", &n.to_string())], b"").status, 200);
    }
    let bytes = || gateway.metric("frontdesk_cache_bytes");
    assert!(bytes() > 0.0);
    purge(&gateway, &["--all"]);
    eventually("an empty cache", || (bytes() == 0.0).then_some(()));
}
