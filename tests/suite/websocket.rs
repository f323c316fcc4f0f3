//! WebSocket tunnels, and upgrades that are none.

use crate::kit::{
    ACCEPTED, Client, Gateway, HANDSHAKE, Origin, PATIENCE, Stream, answer, busy, certificate, dead_address, echoes, eventually, head,
    read_head, rest, scale, secure, steadily, until_gone, websocket,
};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tungstenite::Message;

fn in_front_of(origin: &Origin) -> Gateway {
    in_front_of_with(origin, "")
}

fn in_front_of_with(origin: &Origin, more: &str) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ chat: {{ endpoints: [{origin}] {more} }} }}
routes: [{{ name: talk, path: /*, to: chat }}]
"
    ))
}

#[test]
fn messages_of_all_kinds_come_back() {
    let origin = Origin::websocket_echo();
    let gateway = in_front_of(&origin);
    let mut socket = gateway.websocket();
    echoes(&mut socket, "hello");
    for bytes in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        let message = Message::binary((0..bytes).map(|i| (i % 251) as u8).collect::<Vec<_>>());
        socket.send(message.clone()).expect("to send");
        assert!(socket.read().expect("an echo") == message, "{bytes} bytes");
    }
    socket.send(Message::Ping("are you there".into())).expect("to send");
    assert_eq!(socket.read().expect("a pong"), Message::Pong("are you there".into()));
    socket.close(None).expect("to close");
    assert!(socket.read().expect("an answer to the close").is_close());
    eventually("the end at the service", || (origin.open() == 0).then_some(()));
}

#[test]
fn the_service_is_told_of_the_client() {
    let origin = Origin::websocket_echo();
    in_front_of(&origin).websocket();
    let request = &origin.seen()[0];
    assert_eq!((&*request.method, &*request.target), ("GET", "/chat?room=1"));
    for (name, value) in [
        ("host", "test"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "test"),
        ("via", "1.1 frontdesk"),
    ] {
        assert_eq!(request.all(name), [value], "{name}");
    }
    for name in ["sec-websocket-key", "forwarded", "x-request-id", "traceparent"] {
        assert_eq!(request.all(name).len(), 1, "{name}");
    }
}

#[test]
fn the_client_is_told_of_the_gateway() {
    let origin = Origin::websocket_echo();
    let answer = in_front_of(&origin).connect().request("GET", "/", HANDSHAKE, b"");
    assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
    assert_eq!((answer.header("connection"), answer.header("upgrade")), (Some("Upgrade"), Some("websocket")));
    assert_eq!((answer.header("via"), answer.header("x-request-id").is_some()), (Some("1.1 frontdesk"), true));
}

#[test]
fn what_a_service_sends_along_with_its_101_arrives() {
    let origin = Origin::scripted(|_, stream| {
        stream.get_mut().write_all(format!("{ACCEPTED}right behind").as_bytes())?;
        rest(stream, *PATIENCE).map(|()| false)
    });
    let gateway = in_front_of(&origin);
    for _ in 0..50 {
        assert_eq!(gateway.tunnel().read(12), b"right behind");
    }
}

#[test]
fn what_a_client_sends_right_behind_its_handshake_arrives() {
    let origin = Origin::tunnel(|stream| {
        let mut early = [0; 12];
        stream.read_exact(&mut early)?;
        stream.get_mut().write_all(&early)
    });
    let gateway = in_front_of(&origin);
    for _ in 0..50 {
        let mut client = gateway.connect();
        client.send(format!("{}right behind", head("GET", "/", HANDSHAKE, 0)));
        assert_eq!(client.answer().status, 101);
        assert_eq!(client.read(12), b"right behind");
    }
}

const MUCH: usize = 8 << 20;

/// Sends much before it reads anything.
fn stubborn(stream: &mut Stream) -> io::Result<()> {
    stream.get_mut().write_all(&vec![1; MUCH])?;
    stream.read_exact(&mut vec![0; MUCH])
}

/// Sends much and reads at the same time.
fn supple(stream: &mut Stream) -> io::Result<()> {
    let mut writer = stream.get_ref().try_clone()?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || writer.write_all(&vec![1; MUCH]));
        stream.read_exact(&mut vec![0; MUCH])?;
        writing.join().expect("the writer")
    })
}

#[test]
fn a_side_that_does_not_read_yet_holds_up_nothing_but_what_is_sent_to_it() {
    let sides: [fn(&mut Stream) -> io::Result<()>; 2] = [stubborn, supple];
    for (client, service) in [(sides[0], sides[1]), (sides[1], sides[0])] {
        let origin = Origin::tunnel(service);
        let gateway = in_front_of(&origin);
        client(gateway.tunnel().reader()).expect("both directions");
    }
}

#[test]
fn a_client_that_has_ended_still_hears_the_rest() {
    let origin = Origin::tunnel(|stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.get_mut().write_all(&[b"got ", &*all].concat())
    });
    let gateway = in_front_of(&origin);
    let mut client = gateway.tunnel();
    client.send("all there is");
    client.end();
    assert_eq!(client.read_to_end(), b"got all there is");
    gateway.wait_until_idle();
}

#[test]
fn codes_and_reasons_of_a_close_pass_both_ways() {
    // 4001 "bye", masked, and 1013 "later" (RFC 6455, 5.5.1 and 7.4).
    const OURS: [u8; 11] = *b"\x88\x85\x01\x02\x03\x04\x0e\xa3\x61\x7d\x64";
    const THEIRS: &[u8] = b"\x88\x07\x03\xf5later";
    let (tell, heard) = channel();
    let origin = Origin::tunnel(move |stream| {
        let mut frame = [0; OURS.len()];
        stream.read_exact(&mut frame)?;
        let _ = tell.send(frame);
        stream.get_mut().write_all(THEIRS)
    });
    let gateway = in_front_of(&origin);
    let mut client = gateway.tunnel();
    client.send(OURS);
    assert_eq!(heard.recv_timeout(*PATIENCE).expect("a close"), OURS);
    assert_eq!(client.read_to_end(), THEIRS);
}

#[test]
fn a_service_that_has_ended_still_hears_the_rest() {
    let (heard, hearing) = channel();
    let origin = Origin::tunnel(move |stream| {
        stream.get_mut().write_all(b"that is all")?;
        stream.get_ref().shutdown(Shutdown::Write)?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        heard.send(all).map_err(io::Error::other)
    });
    let gateway = in_front_of(&origin);
    let mut client = gateway.tunnel();
    assert_eq!(client.read_to_end(), b"that is all");
    client.send("understood");
    client.end();
    assert_eq!(hearing.recv_timeout(*PATIENCE).expect("the rest"), b"understood");
    gateway.wait_until_idle();
}

#[test]
fn a_service_that_declines_is_passed_on() {
    for wire in [
        answer(403, &[("X-Why", "no")], b"not you"),
        b"HTTP/1.1 403 No\r\nX-Why: no\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nnot you\r\n0\r\n\r\n".to_vec(),
    ] {
        let origin = Origin::new(move |_| wire.clone());
        let answer = in_front_of(&origin).connect().request("GET", "/", HANDSHAKE, b"");
        assert_eq!((answer.status, answer.text()), (403, "not you".to_string()));
        assert_eq!((answer.header("x-why"), answer.header("upgrade")), (Some("no"), None));
    }
}

#[test]
fn a_service_that_declines_and_falls_silent_is_left() {
    let origin = Origin::scripted(|_, stream| {
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhal\r\n")?;
        until_gone(stream).map(|()| false)
    });
    let gateway = in_front_of_with(&origin, ", timeouts: { read: 300ms }");
    let mut client = gateway.connect();
    client.send(head("GET", "/", HANDSHAKE, 0));
    let told = String::from_utf8(client.read_to_end()).expect("a text");
    assert!(told.contains("hal") && !told.ends_with("0\r\n\r\n"), "broken off: {told:?}");
    assert_eq!(gateway.access_log(1)[0]["code"], "upstream_timeout");
    gateway.wait_until_idle();
}

#[test]
fn so_is_one_whose_client_has_gone() {
    let origin = Origin::scripted(|_, stream| {
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")?;
        until_gone(stream).map(|()| false)
    });
    let gateway = in_front_of(&origin);
    let mut client = gateway.connect();
    client.send(head("GET", "/", HANDSHAKE, 0));
    eventually("the question", || (origin.seen().len() == 1).then_some(()));
    client.reset();
    eventually("the end at the service", || (origin.open() == 0).then_some(()));
    gateway.wait_until_idle();
}

#[test]
fn what_a_route_takes_out_of_answers_is_not_had_by_a_handshake() {
    let origin = Origin::new(|_| answer(200, &[("Content-Type", "application/json")], br#"{"id":1,"secret":2}"#));
    let gateway = Gateway::start(&format!(
        "listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: /*, to: 'http://{origin}', response: {{ body: {{ json: {{ remove: [secret] }} }} }} }}]"
    ));
    let answer = gateway.connect().request("GET", "/", HANDSHAKE, b"");
    assert_eq!((answer.status, answer.text()), (200, r#"{"id":1}"#.to_string()));
}

#[test]
fn a_dead_service_is_said() {
    let gateway = Gateway::start(&format!("listeners: [{{ bind: 127.0.0.1:0 }}]\nroutes: [{{ path: /*, to: http://{} }}]", dead_address()));
    let answer = gateway.connect().request("GET", "/", HANDSHAKE, b"");
    assert_eq!((answer.status, answer.code()), (502, "upstream_connect".to_string()));
    gateway.wait_until_idle();
}

#[test]
fn a_service_that_does_not_answer_the_handshake_is_said() {
    let origin = Origin::scripted(|_, stream| rest(stream, *PATIENCE).map(|()| false));
    let answer = in_front_of_with(&origin, ", timeouts: { read: 300ms }").connect().request("GET", "/", HANDSHAKE, b"");
    assert_eq!((answer.status, answer.code()), (504, "upstream_timeout".to_string()));
}

#[test]
fn a_dead_endpoint_beside_a_live_one_is_passed_over() {
    let origin = Origin::websocket_echo();
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ chat: {{ endpoints: [{}, {origin}], balance: round_robin }} }}
routes: [{{ path: /*, to: chat }}]
",
        dead_address()
    ));
    (0..10).for_each(|i| echoes(&mut gateway.websocket(), &i.to_string()));
}

#[test]
fn other_upgrades_do_not_reach_the_service() {
    let origin = Origin::echo();
    let gateway = in_front_of(&origin);
    for protocol in ["h2c", "foo", "TLS/1.0", "websocket, foo"] {
        let fields = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", protocol), ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA")];
        let answer = gateway.connect().request("GET", "/x", &fields, b"");
        assert_eq!((answer.status, &answer.json()["target"]), (200, &"/x".into()), "{protocol}");
        let seen = &answer.json()["headers"];
        assert!(seen["upgrade"].is_null() && seen["http2-settings"].is_null(), "{protocol}: {seen}");
        assert!(!seen["connection"].to_string().to_lowercase().contains("upgrade"), "{protocol}: {seen}");
    }
    // RFC 9110, 7.8: one that the Connection field does not name is none.
    for connection in ["keep-alive", "Upgrades"] {
        let answer = gateway.connect().request("GET", "/x", &[&[("Connection", connection)], &HANDSHAKE[1..]].concat(), b"");
        assert_eq!((answer.status, &answer.json()["headers"]["upgrade"]), (200, &serde_json::Value::Null), "{connection}");
    }
    // RFC 6455, 4.1: a handshake is a GET.
    let answer = gateway.connect().request("POST", "/x", HANDSHAKE, b"a body");
    assert_eq!((answer.status, &answer.json()["body"]), (200, &"a body".into()));
    assert!(answer.json()["headers"]["upgrade"].is_null());
}

#[test]
fn silence_on_both_sides_ends_a_tunnel() {
    let origin = Origin::websocket_echo();
    let gateway = in_front_of_with(&origin, ", timeouts: { read: 300ms }");
    let mut client = gateway.tunnel();
    let started = Instant::now();
    client.wait_for_close();
    assert!(started.elapsed() >= Duration::from_millis(250));
    eventually("the end at the service", || (origin.open() == 0).then_some(()));
    gateway.wait_until_idle();
}

#[test]
fn a_tunnel_that_one_side_uses_is_not_ended() {
    let origin = Origin::tunnel(|stream| {
        steadily(15, Duration::from_millis(100), |_| drop(stream.get_mut().write_all(b".")));
        stream.read_exact(&mut [0; 15])
    });
    let gateway = in_front_of_with(&origin, ", timeouts: { read: 1s }");
    let mut client = gateway.tunnel();
    assert_eq!(client.read(15), b"...............");
    steadily(15, Duration::from_millis(100), |_| client.send("."));
    client.wait_for_close();
    gateway.wait_until_idle();
}

#[test]
fn a_tunnel_is_written_down_when_it_ends() {
    let origin = Origin::tunnel(|stream| {
        stream.read_exact(&mut [0; 5])?;
        stream.get_mut().write_all(b"12345678")
    });
    let gateway = in_front_of(&origin);
    let mut client = gateway.tunnel();
    client.send("12345");
    client.end();
    assert_eq!(client.read_to_end(), b"12345678");
    let line = &gateway.access_log(1)[0];
    assert_eq!((&line["status"], &line["bytes_in"], &line["bytes_out"]), (&101.into(), &5.into(), &8.into()), "{line}");
    assert_eq!((&line["route"], &line["service"], &line["endpoint"]), (&"talk".into(), &"chat".into(), &origin.to_string().into()));
    assert_eq!(gateway.metric("frontdesk_requests_total{method=\"GET\",route=\"talk\",status=\"101\"}"), 1.0);
}

fn over_tls_to(origin: &Origin) -> Gateway {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path(), "chat", &["chat.example"]);
    let yaml = format!(
        "
listeners: [{{ bind: 127.0.0.1:0, tls: {{ certificates: [{{ cert: DIR/chat.pem, key: DIR/chat.key }}] }} }}]
routes: [{{ path: /*, to: http://{origin} }}]
"
    );
    Gateway::start_in(folder, &yaml)
}

#[test]
fn over_tls() {
    let origin = Origin::websocket_echo();
    let gateway = over_tls_to(&origin);
    let mut socket = websocket(secure(gateway.address(), "chat.example", &["http/1.1"]).expect("a handshake")).expect("a handshake");
    echoes(&mut socket, "hello");
    echoes(&mut socket, &"x".repeat(1 << 20));
    assert_eq!(origin.seen()[0].header("x-forwarded-proto"), Some("https"));
    socket.close(None).expect("to close");
    assert!(socket.read().expect("an answer to the close").is_close());
    drop(socket);
    gateway.wait_until_idle();
}

#[test]
fn the_log_of_a_tunnel_over_tls_says_so() {
    let origin = Origin::websocket_echo();
    let gateway = over_tls_to(&origin);
    drop(websocket(secure(gateway.address(), "chat.example", &["http/1.1"]).expect("a handshake")).expect("a handshake"));
    let line = &gateway.access_log(1)[0];
    assert_eq!((&line["status"], &line["tls"]), (&101.into(), &"TLSv1.3".into()), "{line}");
}

#[test]
fn a_tunnel_survives_a_reload() {
    let origin = Origin::websocket_echo();
    let gateway = in_front_of(&origin);
    let mut socket = gateway.websocket();
    echoes(&mut socket, "before");
    assert!(gateway.reload("listeners: [{ bind: 127.0.0.1:0 }]\nroutes: [{ path: /*, respond: { body: none } }]\n"));
    assert_eq!(gateway.get("/").text(), "none");
    echoes(&mut socket, "after");
    assert_eq!(Client::connect(gateway.address()).request("GET", "/", HANDSHAKE, b"").status, 200);
}

#[test]
fn none_of_many_is_lost() {
    const CLIENTS: usize = 8;
    let each = scale(250, 12_500);
    // It keeps no requests: there would be too many.
    let origin = Origin::bare(|stream, _| {
        read_head(stream)?;
        stream.get_mut().write_all(ACCEPTED.as_bytes())?;
        let mut message = [0; 5];
        stream.read_exact(&mut message)?;
        stream.get_mut().write_all(&message)
    });
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ threads: 8 }}
services: {{ chat: {{ endpoints: [{origin}] }} }}
routes: [{{ name: talk, path: /*, to: chat }}]
"
    ));
    let _load = busy(scale(0, 2));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for i in 0..each {
                    let mut client = gateway.tunnel();
                    client.send("hello");
                    assert_eq!(client.read(5), b"hello");
                    // A client that ends first keeps its port for a minute, and there are fewer ports than tunnels.
                    if i % 2 == 0 { client.reset() } else { client.wait_for_close() }
                }
            });
        }
    });
    gateway.wait_until_idle();
    let tunnels = gateway.metric("frontdesk_requests_total{method=\"GET\",route=\"talk\",status=\"101\"}");
    assert_eq!(tunnels, (CLIENTS * each) as f64);
    eventually("the end at the service", || (origin.open() == 0).then_some(()));
}
