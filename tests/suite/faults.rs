//! Endpoints that die, freeze, fail and misbehave while requests come: the short forms of `./dev soak faults`, which measures.

use crate::kit::{Answer, Client, Gateway, Origin, PATIENCE, Stream, answer, eventually, head, own_address, rest, until_gone};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

/// A process of its own, which can be killed and frozen: a gateway that answers by itself.
fn endpoint(address: SocketAddr) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ bind: '{address}' }}]
access_log: {{ path: DIR/access.log, sample: 0.0 }}
routes: [{{ path: /*, respond: {{ status: 200, body: ok }} }}]
"
    ))
}

/// Three of them, and a gateway before them.
struct Three {
    addresses: [SocketAddr; 3],
    endpoints: Vec<Gateway>,
    gateway: Gateway,
}

impl Three {
    fn start(service: &str) -> Three {
        let addresses = [(); 3].map(|()| own_address());
        let endpoints = addresses.map(endpoint).into();
        let [a, b, c] = addresses;
        let gateway = Gateway::start(&format!(
            "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: ['{a}', '{b}', '{c}'], {service} }} }}
routes: [{{ path: /*, to: s }}]
"
        ));
        Three { addresses, endpoints, gateway }
    }

    fn state(&self, n: usize) -> String {
        let status = self.gateway.ask("/status").json();
        status["services"][0]["endpoints"][n]["state"].as_str().unwrap_or_default().to_string()
    }
}

/// Clients that ask one after the other for as long as it lives.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(gateway: &Gateway, clients: usize) -> Load {
        let (stop, served, failed) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>)>::default();
        let address = gateway.address();
        let client = |_| {
            let (stop, served, failed) = (stop.clone(), served.clone(), failed.clone());
            spawn(move || {
                let mut client = Client::connect(address);
                while !stop.load(Ordering::Acquire) {
                    client.send(head("GET", "/", &[], 0));
                    match client.try_answer("GET") {
                        Ok(Answer { status: 200, .. }) => {
                            served.fetch_add(1, Ordering::AcqRel);
                        }
                        outcome => {
                            failed.lock().expect("the failures").push(format!("{outcome:?}"));
                            client = Client::connect(address);
                        }
                    }
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Load { stop, served, failed, clients }
    }

    /// Waits until so many more were served.
    fn go_on(&self, more: usize) {
        let wanted = self.served.load(Ordering::Acquire) + more;
        eventually("requests that are served", || (self.served.load(Ordering::Acquire) >= wanted).then_some(()));
    }

    /// Ends it; what failed.
    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Release);
        self.clients.into_iter().for_each(|client| client.join().expect("a client"));
        self.failed.lock().expect("the failures").clone()
    }
}

#[test]
fn one_that_is_killed_costs_no_client_anything() {
    let mut three = Three::start("balance: round_robin, ejection: { base: 1h }");
    let load = Load::on(&three.gateway, 4);
    load.go_on(200);
    three.endpoints[0].signal("KILL");
    three.endpoints[0].wait();
    load.go_on(600);
    assert_eq!(load.end(), Vec::<String>::new());
    assert_eq!(three.state(0), "ejected");
}

#[test]
fn one_that_is_frozen_is_left_alone_and_what_it_had_is_tried_again() {
    let three = Three::start("retries: { attempts: 3, when: [connect, reset, 504], per_try: 1s }, ejection: { consecutive_failures: 3 }");
    let load = Load::on(&three.gateway, 8);
    load.go_on(200);
    three.endpoints[0].signal("STOP");
    eventually("its ejection", || (three.state(0) == "ejected").then_some(()));
    load.go_on(200);
    let failed = load.end();
    three.endpoints[0].signal("CONT");
    assert_eq!(failed, Vec::<String>::new());
}

#[test]
fn a_restart_of_one_after_the_other_costs_no_client_anything() {
    let mut three = Three::start("balance: round_robin, ejection: { base: 100ms }");
    let load = Load::on(&three.gateway, 4);
    for n in 0..3 {
        load.go_on(100);
        three.endpoints[n].signal("TERM");
        three.endpoints[n].wait();
        three.endpoints[n] = endpoint(three.addresses[n]);
        eventually("its return", || three.state(n).eq("up").then_some(()));
    }
    load.go_on(100);
    assert_eq!(load.end(), Vec::<String>::new());
}

#[test]
fn when_all_were_gone_the_first_that_is_back_serves() {
    let mut three = Three::start("ejection: { consecutive_failures: 1, base: 1h }");
    assert_eq!(three.gateway.get("/").status, 200);
    for endpoint in &mut three.endpoints {
        endpoint.signal("KILL");
        endpoint.wait();
    }
    for _ in 0..10 {
        let refused = three.gateway.get("/");
        assert_eq!((refused.status, refused.code().as_str()), (502, "upstream_connect"));
    }
    // No more than half of them are left alone.
    three.endpoints = three.addresses.map(endpoint).into();
    eventually("the service's return", || (three.gateway.get("/").status == 200).then_some(()));
}

#[test]
fn one_that_fails_now_and_then_is_not_seen_by_clients() {
    let (asked, good, other) = (AtomicUsize::new(0), Origin::fixed("ok"), Origin::fixed("ok"));
    let bad = Origin::new(move |_| {
        let nth = asked.fetch_add(1, Ordering::AcqRel);
        if nth % 3 == 0 { answer(503, &[], b"") } else { answer(200, &[], b"ok") }
    });
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: ['{bad}', '{good}', '{other}'], retries: {{ when: [503], backoff: 1ms }} }} }}
routes: [{{ path: /*, to: s }}]
"
    ));
    let mut client = gateway.connect();
    let failed = (0..600).filter(|_| client.get("/").status != 200).count();
    assert_eq!(failed, 0);
}

#[test]
fn what_happens_to_one_service_another_does_not_feel() {
    let (silent, good) = (Origin::scripted(|_, stream| until_gone(stream).map(|()| false)), Origin::fixed("ok"));
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ threads: 1 }}
services: {{ ill: {{ endpoints: ['{silent}'] }}, s: {{ endpoints: ['{good}'] }} }}
routes: [{{ path: /ill, to: ill }}, {{ path: /*, to: s }}]
"
    ));
    let waiting: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = gateway.connect();
            client.send(head("GET", "/ill", &[], 0));
            client
        })
        .collect();
    silent.wait_for(100);
    let (mut client, started) = (gateway.connect(), Instant::now());
    assert!((0..200).all(|_| client.get("/").status == 200));
    assert!(started.elapsed() < *PATIENCE, "{:?}", started.elapsed());
    drop(waiting);
}

type Script = Box<dyn Fn(&mut Stream) -> io::Result<()> + Send + Sync>;

fn drip(stream: &mut Stream) -> io::Result<()> {
    stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
    loop {
        stream.get_mut().write_all(b"x")?;
        rest(stream, Duration::from_millis(50))?;
    }
}

fn reset(stream: &mut Stream) -> io::Result<()> {
    socket2::SockRef::from(stream.get_ref()).set_linger(Some(Duration::ZERO))
}

fn says(bytes: &'static [u8]) -> impl Fn(&mut Stream) -> io::Result<()> {
    move |stream| stream.get_mut().write_all(bytes)
}

/// A gateway before a service that does this for `/bad` and closes, and answers everything else.
fn behind(script: impl Fn(&mut Stream) -> io::Result<()> + Send + Sync + 'static) -> (Origin, Gateway) {
    let origin = Origin::scripted(move |request, stream| match request.target.as_str() {
        "/bad" => script(stream).map(|()| false),
        _ => stream.get_mut().write_all(&answer(200, &[], b"clean")).map(|()| true),
    });
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: ['{origin}'], timeouts: {{ read: 300ms, total: 500ms }}, retries: {{ attempts: 1 }} }} }}
routes: [{{ path: /*, to: s }}]
"
    ));
    (origin, gateway)
}

#[test]
fn each_way_to_fail_has_its_code_and_the_next_request_is_clean() {
    let cases: [(&str, Script, u16, &str); 7] = [
        ("says nothing", Box::new(until_gone), 504, "upstream_timeout"),
        ("drips its head", Box::new(drip), 504, "upstream_timeout"),
        ("ends at once", Box::new(|_| Ok(())), 502, "upstream_reset"),
        ("ends within its head", Box::new(says(b"HTTP/1.1 200 OK\r\nContent-Le")), 502, "upstream_reset"),
        ("resets", Box::new(reset), 502, "upstream_reset"),
        ("speaks garbage", Box::new(says(b"\x00\x01\x02 nonsense\r\n\r\n")), 502, "upstream_protocol"),
        ("speaks another protocol", Box::new(says(b"SSH-2.0-x\r\n")), 502, "upstream_protocol"),
    ];
    for (what, script, status, code) in cases {
        let (_origin, gateway) = behind(script);
        let mut client = gateway.connect();
        let (started, refused) = (Instant::now(), client.get("/bad"));
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{what}");
        assert!(started.elapsed() < *PATIENCE, "{what}: {:?}", started.elapsed());
        assert_eq!(gateway.get("/good").text(), "clean", "{what}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_seen_to_and_the_next_request_is_clean() {
    for (what, bytes) in [
        ("within its body", &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"[..]),
        ("within a chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"),
        ("between chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ("with a chunk that is none", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"),
    ] {
        let (_origin, gateway) = behind(says(bytes));
        let mut client = gateway.connect();
        client.send(head("GET", "/bad", &[], 0));
        let broken = client.try_answer("GET");
        assert!(broken.as_ref().map_or(true, |answer| answer.status == 502), "{what}: {broken:?}");
        assert_eq!(gateway.get("/good").text(), "clean", "{what}");
    }
}
