//! HTTP/2 and gRPC, on both sides.

use crate::kit::{Gate, Gateway, H2Client, H2Origin, Origin, all, answer, curl, dead_address, h2_head, piece, run_async, whole};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Method};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

fn gateway(to: impl std::fmt::Display, service: &str) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{to}], {service} }} }}
routes: [{{ path: /*, to: s }}]
"
    ))
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| ((*name).parse().expect("a name"), (*value).parse().expect("a value"))).collect()
}

/// Answers with what came: method, URI, `te`, host and the body, and a trailer.
fn h2_echo() -> H2Origin {
    H2Origin::new(|request, mut respond| async move {
        let (head, mut body) = request.into_parts();
        let bytes = all(&mut body).await?;
        let field = |name| head.headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let seen = serde_json::json!({
            "method": head.method.as_str(), "uri": head.uri.to_string(), "te": field("te"), "host": field("host"),
            "via": field("via"), "body": String::from_utf8_lossy(&bytes), "trailers": body.trailers().await?.map(|fields| fields.len()),
        });
        let mut stream = respond.send_response(h2_head(200, &[("x-own", "1")]), false)?;
        stream.send_data(seen.to_string().into(), false)?;
        stream.send_trailers(trailers(&[("grpc-status", "0"), ("x-sum", "7")]))
    })
}

#[test]
fn a_plaintext_listener_speaks_http2_by_prior_knowledge() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    run_async(async {
        let answer = H2Client::connect(gateway.address()).await.get("/a?b=1").await;
        let echo = answer.json();
        assert_eq!((answer.status, &echo["target"], &echo["headers"]["host"][0]), (200, &"/a?b=1".into(), &"test".into()));
        assert_eq!((answer.header("via"), &echo["headers"]["via"][0]), (Some("2 frontdesk"), &"2 frontdesk".into()));
        for name in ["connection", "keep-alive", "transfer-encoding"] {
            assert_eq!(answer.header(name), None, "{name}");
        }
    });
    assert_eq!(gateway.access_log(1)[0]["protocol"], "HTTP/2");
    let url = format!("http://{}/x", gateway.address());
    assert!(curl(&["--http2-prior-knowledge", "-w", "%{http_version} %{http_code}", &url]).ends_with("2 200"));
    assert!(curl(&["-w", "%{http_version} %{http_code}", &url]).ends_with("1.1 200"));
}

#[test]
fn many_streams_of_one_connection_are_served_at_once() {
    const STREAMS: usize = 50;
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::new(move |request| {
        held.wait();
        answer(200, &[], request.target.as_bytes())
    });
    let gateway = gateway(&origin, "");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let mut answers = Vec::new();
        for i in 0..STREAMS {
            answers.push(client.begin(Method::GET, &format!("/{i}"), &[], true).await.0);
        }
        while origin.seen().len() < STREAMS {
            tokio::task::yield_now().await;
        }
        gate.open();
        for (i, answer) in answers.into_iter().enumerate() {
            assert_eq!(whole(answer).await.expect("an answer").body, format!("/{i}").into_bytes());
        }
    });
}

#[test]
fn a_body_over_http2_reaches_an_http1_service() {
    let origin = Origin::new(|request| {
        let framing = request.all("content-length").len() + request.all("transfer-encoding").len();
        answer(200, &[], format!("{framing} {}", request.body.len()).as_bytes())
    });
    let gateway = gateway(&origin, "");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        for bytes in [5, 60_000] {
            let body = vec![b'x'; bytes];
            let expected = format!("1 {bytes}").into_bytes();
            assert_eq!(client.request(Method::POST, "/", &[], &body).await.body, expected);
            assert_eq!(client.request(Method::POST, "/", &[("content-length", &bytes.to_string())], &body).await.body, expected);
        }
        // An empty frame ends the body: it must not spoil the connection to the service.
        let (answer, mut stream) = client.begin(Method::POST, "/", &[], false).await;
        stream.send_data("hello".into(), false).expect("to send");
        stream.send_data(Bytes::new(), true).expect("to send");
        assert_eq!(whole(answer).await.expect("an answer").body, b"1 5");
        assert_eq!(client.request(Method::POST, "/", &[], b"hello").await.body, b"1 5");
    });
}

#[test]
fn large_bodies_over_http2_arrive_whole() {
    let origin = Origin::new(|request| answer(200, &[], &request.body));
    let gateway = gateway(&origin, "");
    let folder = tempfile::tempdir().expect("a folder");
    let (sent, got) = (folder.path().join("sent"), folder.path().join("got"));
    let body: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(&sent, &body).expect("a file");
    let (data, url) = (format!("@{}", sent.display()), format!("http://{}/", gateway.address()));
    curl(&["--http2-prior-knowledge", "--data-binary", &data, "-o", got.to_str().expect("a path"), &url]);
    assert!(std::fs::read(got).expect("a file") == body);
}

#[test]
fn an_answer_that_breaks_off_resets_the_stream() {
    let origin = Origin::scripted(|_, stream| {
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
        Ok(false)
    });
    let gateway = gateway(&origin, "");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        for _ in 0..2 {
            let answer = client.begin(Method::GET, "/", &[], true).await.0;
            let error = whole(answer).await.expect_err("a broken answer");
            assert!(error.is_reset(), "{error}");
        }
    });
}

#[test]
fn a_service_may_speak_http2() {
    let origin = h2_echo();
    let gateway = gateway(&origin, "protocol: h2c");
    let answer = gateway.connect().request("POST", "/a?b", &[("Host", "shop.example")], b"hello");
    let echo = answer.json();
    assert_eq!((&echo["method"], &echo["body"], &echo["via"]), (&"POST".into(), &"hello".into(), &"1.1 frontdesk".into()));
    assert_eq!((&echo["uri"], answer.header("x-own")), (&"http://shop.example/a?b".into(), Some("1")));
}

#[test]
fn a_host_that_can_not_be_an_authority_is_the_clients_fault() {
    let origin = h2_echo();
    let gateway = gateway(&origin, "protocol: h2c");
    for host in ["", "a%41"] {
        let answer = gateway.connect().request("GET", "/a", &[("Host", host)], b"");
        assert_eq!((answer.status, answer.code()), (400, "bad_request".to_string()), "{host}");
    }
    assert_eq!(gateway.get("/a").status, 200);
}

#[test]
fn what_can_not_be_read_as_a_request_is_written_down_once_a_connection() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        for _ in 0..2 {
            assert_eq!(client.request(Method::GET, "/", &[("host", "test"), ("host", "test")], b"").await.status, 400);
        }
        assert_eq!(client.get("/").await.status, 200);
    });
    let lines = gateway.access_log(2);
    let told = |n: usize| (lines[n]["status"].as_u64(), lines[n]["code"].as_str(), lines[n]["protocol"].as_str());
    assert_eq!([told(0), told(1)], [(Some(400), Some("bad_request"), Some("HTTP/2")), (Some(200), Some(""), Some("HTTP/2"))]);
    assert_eq!(gateway.metric("frontdesk_refusals_total{code=\"bad_request\",route=\"\"}"), 1.0);
}

#[test]
fn the_host_of_an_http2_service_is_its_authority() {
    let origin = h2_echo();
    let gateway = gateway(&origin, "protocol: h2c, host: 'orders.internal:81'");
    for host in [&gateway.get("/a").json(), &run_async(async { H2Client::connect(gateway.address()).await.get("/a").await.json() })] {
        assert_eq!(host["uri"], "http://orders.internal:81/a");
        assert!(matches!(host["host"].as_str(), None | Some("orders.internal:81")), "{host}");
    }
}

#[test]
fn bodies_and_trailers_pass_between_http2_and_http2() {
    let origin = h2_echo();
    let gateway = gateway(&origin, "protocol: h2c");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let answer = client.request(Method::POST, "/s/m", &[GRPC, ("te", "trailers")], b"hello").await;
        let echo = answer.json();
        assert_eq!((&echo["body"], &echo["te"], &echo["uri"]), (&"hello".into(), &"trailers".into(), &"http://test/s/m".into()));
        assert_eq!((answer.trailer("grpc-status"), answer.trailer("x-sum")), (Some("0"), Some("7")));
    });
}

#[test]
fn each_side_of_a_grpc_stream_may_wait_for_the_other() {
    let origin = H2Origin::new(|request, mut respond| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(h2_head(200, &[GRPC]), false)?;
        while let Some(message) = piece(&mut body).await {
            stream.send_data([&b"re: "[..], &message?].concat().into(), false)?;
        }
        stream.send_trailers(trailers(&[("grpc-status", "0")]))
    });
    // Either side may rest for longer than a service may be silent otherwise.
    let gateway = gateway(&origin, "protocol: h2c, timeouts: { read: 100ms }");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let (answer, mut requests) = client.begin(Method::POST, "/s/m", &[GRPC, ("te", "trailers")], false).await;
        let mut answers = answer.await.expect("a head").into_body();
        for i in 0..5 {
            requests.send_data(format!("message {i}").into(), false).expect("to send");
            let message = piece(&mut answers).await.expect("a message").expect("a message");
            assert_eq!(message, format!("re: message {i}"));
            tokio::time::sleep(std::time::Duration::from_millis(if i == 2 { 300 } else { 0 })).await;
        }
        requests.send_data(Bytes::new(), true).expect("to send");
        assert!(piece(&mut answers).await.is_none());
        let trailers = answers.trailers().await.expect("trailers").expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
    });
    assert_eq!(gateway.access_log(1)[0]["status"], 200);
}

#[test]
fn cookie_crumbs_reach_an_http1_service_as_one_field() {
    let origin = Origin::echo();
    let gateway = gateway(&origin, "");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let echo = client.request(Method::GET, "/", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")], b"").await.json();
        assert_eq!(echo["headers"]["cookie"], serde_json::json!(["a=1; b=2; c=3"]));
    });
}

#[test]
fn grpc_clients_are_refused_in_their_own_words() {
    let gateway = Gateway::start(&format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]\nservices: {{ s: {{ endpoints: [{}], protocol: h2c }} }}\nroutes: [{{ path: /dead/*, to: s }}]",
        dead_address()
    ));
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        for (path, status, code) in [("/none/m", "12", "no_route"), ("/dead/m", "14", "upstream_connect")] {
            let answer = client.request(Method::POST, path, &[GRPC, ("te", "trailers")], b"\0\0\0\0\0").await;
            assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/grpc")), "{path}");
            assert_eq!((answer.header("grpc-status"), answer.header("grpc-message")), (Some(status), Some(code)), "{path}");
            assert!(answer.body.is_empty());
            // "Trailers only": the head itself ends the stream.
            let (answer, _) = client.begin(Method::POST, path, &[GRPC, ("te", "trailers")], true).await;
            let answer = answer.await.expect("an answer");
            assert!(answer.body().is_end_stream() && !answer.headers().contains_key("content-length"), "{path}");
        }
    });
    let codes: Vec<_> = gateway.access_log(4).iter().map(|line| line["code"].to_string()).collect();
    assert!(codes.contains(&"\"no_route\"".to_string()) && codes.contains(&"\"upstream_connect\"".to_string()), "{codes:?}");
}

#[test]
fn a_refusal_reaches_a_client_whose_body_nobody_wants() {
    let gateway = gateway(dead_address(), "");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        for i in 0..50 {
            let (answer, mut stream) = client.begin(Method::POST, "/", &[], false).await;
            stream.send_data("hello".into(), true).expect("to send");
            let answer = whole(answer).await.unwrap_or_else(|e| panic!("request {i}: {e}"));
            assert_eq!((answer.status, answer.json()["code"].as_str()), (502, Some("upstream_connect")));
        }
    });
}

#[test]
fn an_answer_without_a_body_ends_its_stream() {
    let gateway = gateway(dead_address(), "");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let answer = client.request(Method::HEAD, "/", &[], b"").await;
        assert_eq!((answer.status, answer.body.len()), (502, 0));
    });
}

#[test]
fn a_slow_service_behind_http2_is_timed_out() {
    let gate = Gate::default();
    let held = gate.clone();
    let slow = Origin::new(move |_| {
        held.wait();
        answer(200, &[], b"late")
    });
    let gateway = gateway(&slow, "timeouts: { read: 200ms }");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        for (method, body) in [(Method::POST, &b"hello"[..]), (Method::GET, b"")] {
            let answer = client.request(method, "/", &[], body).await;
            assert_eq!((answer.status, answer.json()["code"].as_str()), (504, Some("upstream_timeout")));
        }
    });
    gate.open();
}

#[test]
fn a_silent_http2_service_is_timed_out() {
    let origin = H2Origin::new(|request, respond| async move {
        std::future::pending::<()>().await;
        drop((request, respond));
        Ok(())
    });
    let gateway = gateway(&origin, "protocol: h2c, timeouts: { read: 200ms }");
    assert_eq!(gateway.get("/").code(), "upstream_timeout");
    assert_eq!(gateway.connect().request("POST", "/", &[], b"hello").code(), "upstream_timeout");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        assert_eq!(client.request(Method::POST, "/", &[], b"hello").await.json()["code"], "upstream_timeout");
    });
}

#[test]
fn an_http2_service_that_resets_its_stream_is_a_reset() {
    let origin = H2Origin::new(|_request, mut respond| async move {
        respond.send_reset(Reason::INTERNAL_ERROR);
        Ok(())
    });
    let gateway = gateway(&origin, "protocol: h2c");
    let answer = gateway.connect().request("POST", "/", &[], b"hello");
    assert_eq!((answer.status, answer.code()), (502, "upstream_reset".to_string()));
}

#[test]
fn a_request_that_an_http2_service_did_not_look_at_is_repeated_whatever_its_method() {
    let refusals = Arc::new(AtomicUsize::new(2));
    let left = refusals.clone();
    let origin = H2Origin::new(move |request, mut respond| {
        let left = left.clone();
        async move {
            let bytes = all(&mut request.into_body()).await?;
            if left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
                respond.send_reset(Reason::REFUSED_STREAM);
                return Ok(());
            }
            respond.send_response(h2_head(200, &[]), false)?.send_data(bytes.into(), true)
        }
    });
    let gateway = gateway(&origin, "protocol: h2c");
    let answer = gateway.connect().request("POST", "/x", &[], b"hello");
    assert_eq!((answer.status, answer.text()), (200, "hello".to_string()));
    assert_eq!(gateway.access_log(1)[0]["attempts"], 3);
    // There is an end to it.
    refusals.store(100, Relaxed);
    assert_eq!(gateway.connect().request("POST", "/x", &[], b"hello").code(), "upstream_reset");
    assert_eq!(gateway.access_log(2)[1]["attempts"], 4);
}

#[test]
fn a_client_that_waits_for_leave_gets_it_in_front_of_an_http2_service() {
    let origin = h2_echo();
    let gateway = gateway(&origin, "protocol: h2c");
    let mut client = gateway.connect();
    client.send(crate::kit::head("POST", "/x", &[("Expect", "100-continue")], 5));
    assert_eq!(client.next_answer("POST").status, 100);
    client.send("hello");
    assert_eq!(client.answer().json()["body"], "hello");
}

#[test]
fn a_client_that_does_not_read_holds_up_no_other_on_the_way_to_an_http2_service() {
    let origin = H2Origin::new(|request, mut respond| async move {
        let is_large = request.uri().path() == "/large";
        let body = if is_large { Bytes::from(vec![b'x'; 4 << 20]) } else { Bytes::from_static(b"small") };
        respond.send_response(h2_head(200, &[]), false)?.send_data(body, true)
    });
    let gateway = gateway(&origin, "protocol: h2c");
    let idle: Vec<_> = (0..6)
        .map(|_| {
            let mut client = gateway.connect();
            client.send(crate::kit::head("GET", "/large", &[], 0));
            client
        })
        .collect();
    (0..5).for_each(|_| assert_eq!(gateway.get("/small").text(), "small"));
    drop(idle);
    gateway.wait_until_idle();
}

#[test]
fn a_grpc_stream_of_many_small_messages_is_not_taken_for_an_attack() {
    const MESSAGES: usize = 5_000;
    let origin = H2Origin::new(|request, mut respond| async move {
        let got = all(&mut request.into_body()).await?.len();
        respond.send_response(h2_head(200, &[GRPC]), false)?.send_data(got.to_string().into(), true)
    });
    let gateway = gateway(&origin, "protocol: h2c");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let (answer, mut requests) = client.begin(Method::POST, "/s/m", &[GRPC], false).await;
        for _ in 0..MESSAGES {
            requests.send_data("message".into(), false).expect("to send");
            tokio::task::yield_now().await;
        }
        requests.send_data(Bytes::new(), true).expect("to send");
        assert_eq!(whole(answer).await.expect("an answer").body, (MESSAGES * 7).to_string().into_bytes());
    });
}

#[test]
fn a_service_that_answers_no_ping_is_left() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("a listener");
    let gateway = gateway(address, "protocol: h2c, keepalive: { ping: 1s }");
    run_async(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let client = H2Client::connect(gateway.address()).await;
        let next = async || {
            let (tcp, _) = listener.accept().await.expect("a connection");
            h2::server::handshake(tcp).await.expect("a handshake")
        };
        // The first connection falls silent behind its first answer, as that of a machine that hangs does.
        let mut hung = {
            let asking = client.clone();
            let mut asked = tokio::spawn(async move { asking.get("/1").await });
            let served = async {
                let mut connection = next().await;
                let (_, mut respond) = connection.accept().await.expect("a request").expect("a request");
                respond.send_response(h2_head(200, &[]), true).expect("to answer");
                connection
            };
            let mut connection = served.await;
            tokio::select! {
                _ = connection.accept() => panic!("a second request"),
                answer = &mut asked => assert_eq!(answer.expect("an answer").status, 200),
            }
            connection
        };
        let served = async {
            let mut connection = next().await;
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_response(h2_head(204, &[]), true).expect("to answer");
            }
        };
        let asked = client.get("/2");
        tokio::select! {
            () = served => panic!("the new connection has ended"),
            answer = asked => assert_eq!(answer.status, 204),
        }
        hung.abrupt_shutdown(Reason::NO_ERROR);
    });
}
