//! JSON bodies that are changed on their way, and header fields that get another name.

use crate::kit::{Gateway, H2Client, H2Origin, Origin, all, answer, h2_head, run_async};
use serde_json::{Value, json};

const LISTENERS: &str = "listeners: [{ bind: 127.0.0.1:0 }]\n";
const JSON: (&str, &str) = ("Content-Type", "application/json");

fn shaping(origin: &str, route: &str, more: &str) -> Gateway {
    Gateway::start(&format!("{LISTENERS}{more}services: {{ s: {{ {origin} }} }}\nroutes: [{{ name: x, path: /*, to: s, {route} }}]"))
}

fn of(origin: &Origin) -> String {
    format!("endpoints: ['{origin}']")
}

fn chunked(kind: &str, pieces: &[&str]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
    pieces.iter().for_each(|piece| out.push_str(&format!("{:x}\r\n{piece}\r\n", piece.len())));
    (out + "0\r\n\r\n").into()
}

#[test]
fn answers_are_changed_and_their_fields_say_so() {
    let origin = Origin::new(|request| match request.target.as_str() {
        "/length" => answer(
            200,
            &[JSON, ("ETag", "\"a\""), ("Content-Digest", "sha-256=:x:"), ("Accept-Ranges", "bytes")],
            br#"{ "id" : 12345678901234567890123, "debug": {}, "total": 1.50 }"#,
        ),
        "/chunked" => chunked("application/problem+json; charset=utf-8", &["{\"id\":", "1,\"debug\":2", "}"]),
        "/list" => answer(200, &[JSON], br#"[{"id":1,"debug":1},{"id":2}]"#),
        "/html" => answer(200, &[("Content-Type", "text/html"), ("ETag", "\"a\"")], br#"{"id":1,"debug":2}"#),
        "/error" => answer(500, &[JSON], br#"{"debug":2}"#),
        "/empty" => answer(200, &[JSON], b""),
        "/none" => b"HTTP/1.1 204 No Content\r\nContent-Type: application/json\r\n\r\n".to_vec(),
        "/same" => b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n".to_vec(),
        _ => answer(404, &[], b""),
    });
    let gateway = shaping(&of(&origin), "response: { body: { json: { keep: [id, total], set: { by: '${route}' } } } }", "");
    let mut client = gateway.connect();
    let mut get = |path: &str| client.request("GET", path, &[("Accept-Encoding", "gzip"), ("Range", "bytes=0-1")], b"");
    let whole = get("/length");
    assert_eq!((whole.status, &*whole.text()), (200, r#"{"id":12345678901234567890123,"total":1.50,"by":"x"}"#));
    assert_eq!((whole.header("etag"), whole.header("content-digest"), whole.header("accept-ranges")), (Some("W/\"a\""), None, None));
    assert_eq!((whole.header("content-type"), whole.header("content-length")), (Some("application/json"), Some("52")));
    assert_eq!(get("/chunked").text(), r#"{"id":1,"by":"x"}"#);
    assert_eq!(get("/list").text(), r#"[{"id":1,"by":"x"},{"id":2,"by":"x"}]"#);
    let html = get("/html");
    assert_eq!((&*html.text(), html.header("etag")), (r#"{"id":1,"debug":2}"#, Some("\"a\"")));
    assert_eq!(get("/error").text(), r#"{"debug":2}"#);
    assert_eq!(get("/empty").text(), "");
    assert_eq!(get("/none").status, 204);
    assert_eq!((get("/same").header("etag"), get("/length").status), (Some("W/\"a\""), 200));
    let head = client.request("HEAD", "/length", &[], b"");
    assert_eq!((head.status, head.header("etag"), head.header("content-length")), (200, Some("W/\"a\""), None));
    assert!(origin.seen().iter().all(|request| request.header("accept-encoding").is_none() && request.header("range").is_none()));
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        assert_eq!(client.get("/chunked").await.json(), json!({ "id": 1, "by": "x" }));
        assert_eq!(client.get("/length").await.header("content-length"), Some("52"));
    });
}

#[test]
fn answers_of_http2_services_are_changed_however_they_end() {
    let origin = H2Origin::new(|request, mut respond| async move {
        let mut stream = respond.send_response(h2_head(200, &[("content-type", "application/json")]), false)?;
        stream.send_data("{\"a\":1,".into(), false)?;
        match request.uri().path() {
            "/data" => stream.send_data("\"b\":2}".into(), true),
            "/empty" => {
                stream.send_data("\"b\":2}".into(), false)?;
                // Behind a pause, so that the end comes by itself.
                tokio::task::yield_now().await;
                stream.send_data("".into(), true)
            }
            _ => {
                stream.send_data("\"b\":2}".into(), false)?;
                stream.send_trailers(http::HeaderMap::new())
            }
        }
    });
    let gateway = shaping(&format!("endpoints: ['{origin}'], protocol: h2c"), "response: { body: { json: { remove: [a] } } }", "");
    let mut client = gateway.connect();
    for path in ["/data", "/empty", "/trailers"] {
        assert_eq!(client.get(path).text(), r#"{"b":2}"#, "{path}");
    }
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        for path in ["/data", "/empty", "/trailers"] {
            assert_eq!(client.get(path).await.json(), json!({ "b": 2 }), "{path}");
        }
    });
}

#[test]
fn requests_are_changed_and_framed_anew() {
    let origin = Origin::echo();
    let changes = "request: { body: { json: { remove: [debug], rename: { qty: quantity }, set: { by: '${header.X-User}' } } } }";
    let gateway = shaping(&of(&origin), changes, "");
    let mut client = gateway.connect();
    let body = br#"{"qty": 2.50, "debug": {"a":[]}}"#;
    let shaped = r#"{"quantity":2.50,"by":"ada"}"#;
    let fields = [JSON, ("X-User", "ada"), ("Content-Digest", "sha-256=:x:")];
    let told = client.request("POST", "/a", &fields, body).json();
    assert_eq!((&told["body"], &told["headers"]["content-length"][0]), (&json!(shaped), &json!(shaped.len().to_string())));
    assert_eq!((&told["headers"]["content-digest"], &told["headers"]["transfer-encoding"]), (&json!(null), &json!(null)));
    client.send("PUT /b HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nX-User: ada\r\nTransfer-Encoding: chunked\r\n\r\n");
    let text = std::str::from_utf8(body).expect("a text");
    client.send(format!("5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n", &text[..5], text.len() - 5, &text[5..]));
    let told = client.answer().json();
    assert_eq!((&told["body"], &told["headers"]["content-length"]), (&json!(shaped), &json!(null)));
    client.send(format!("POST /c HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nX-User: ada\r\nContent-Length: {}\r\n\r\n", body.len()));
    assert_eq!(client.next_answer("POST").status, 100);
    client.send(body);
    assert_eq!(client.answer().json()["body"], shaped);
    // More than Pingora keeps.
    let large = json!({ "debug": "x".repeat(300 << 10), "text": "y".repeat(100 << 10) }).to_string();
    let told = client.request("POST", "/d", &[JSON], large.as_bytes()).json();
    let sent: Value = serde_json::from_str(told["body"].as_str().expect("a body")).expect("JSON");
    assert_eq!((sent["text"].as_str().map(str::len), sent.get("debug")), (Some(100 << 10), None));
    // Others pass as they are.
    let other = client.request("POST", "/e", &[("Content-Type", "text/plain")], body).json();
    assert_eq!(
        (other["body"].as_str().map(str::as_bytes), &other["headers"]["content-length"][0]),
        (Some(&body[..]), &json!(body.len().to_string()))
    );
    assert_eq!(client.request("GET", "/f", &[JSON], b"").json()["body"], "");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let told = client.request(http::Method::POST, "/h2", &[("content-type", "application/json"), ("x-user", "ada")], body).await.json();
        assert_eq!(told["body"], shaped);
    });
}

#[test]
fn requests_to_http2_services_are_changed_too() {
    let origin = H2Origin::new(|request, mut respond| async move {
        let (head, mut body) = request.into_parts();
        let body = all(&mut body).await?;
        let length = head.headers.get("content-length").and_then(|length| length.to_str().ok()).unwrap_or("none");
        let mut stream = respond.send_response(h2_head(200, &[("x-length", length)]), false)?;
        stream.send_data(body.into(), true)
    });
    let gateway = shaping(&format!("endpoints: ['{origin}'], protocol: h2c"), "request: { body: { json: { keep: [a] } } }", "");
    let mut client = gateway.connect();
    let small = client.request("POST", "/", &[JSON], br#"{"b":1,"a":2}"#);
    assert_eq!((&*small.text(), small.header("x-length")), (r#"{"a":2}"#, Some("7")));
    let large = json!({ "b": "x".repeat(200 << 10), "a": 1 }).to_string();
    let large = client.request("POST", "/", &[JSON], large.as_bytes());
    assert_eq!((&*large.text(), large.header("x-length")), (r#"{"a":1}"#, Some("none")));
}

#[test]
fn what_can_not_be_changed_is_refused() {
    let origin = Origin::new(|request| match request.target.as_str() {
        "/large" => answer(200, &[JSON], format!("\"{}\"", "x".repeat(100)).as_bytes()),
        "/chunked" => chunked("application/json", &["\"", &"x".repeat(100), "\""]),
        "/coded" => answer(200, &[JSON, ("Content-Encoding", "x-own")], b"..."),
        "/invalid" => chunked("application/json", &["{\"a\":"]),
        _ => answer(200, &[JSON], request.body.as_slice()),
    });
    let changes = "request: { body: { body_bytes_max: 50B, json: { remove: [a] } } }, response: { body: { body_bytes_max: 50B, json: { remove: [b] } } }";
    let gateway = shaping(&of(&origin), changes, "");
    let post = |fields: &[(&str, &str)], body: &[u8]| gateway.connect().request("POST", "/", fields, body);
    let large = format!("\"{}\"", "x".repeat(100));
    let refused = post(&[JSON], large.as_bytes());
    assert_eq!((refused.status, refused.code()), (413, "body_too_large".to_string()));
    let chunks = format!("64\r\n{}\r\n0\r\n\r\n", "x".repeat(100));
    assert_eq!(post(&[JSON, ("Transfer-Encoding", "chunked")], chunks.as_bytes()).status, 413);
    for (fields, body) in [
        (&[JSON][..], &b"{\"a\":"[..]),
        (&[JSON, ("Content-Encoding", "gzip")], b"{}"),
        (&[JSON, ("Transfer-Encoding", "chunked")], b"1\r\n{\r\n0\r\n\r\n"),
    ] {
        let refused = post(fields, body);
        assert_eq!((refused.status, refused.code()), (422, "body_invalid".to_string()), "{fields:?}");
    }
    for path in ["/large", "/coded", "/chunked", "/invalid"] {
        let refused = gateway.get(path);
        assert_eq!((refused.status, refused.code()), (502, "upstream_protocol".to_string()), "{path}");
    }
    assert_eq!(post(&[JSON], br#"{"a":1,"b":2,"c":3}"#).text(), r#"{"c":3}"#);
    gateway.wait_until_idle();
}

/// A body in its coding.
fn coded(coding: &str, body: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let done = |result: std::io::Result<Vec<u8>>| result.expect("to encode");
    match coding {
        "gzip" => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            done(gzip.write_all(body).and_then(|()| gzip.finish()))
        }
        "deflate" => {
            let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            done(zlib.write_all(body).and_then(|()| zlib.finish()))
        }
        "br" => {
            let mut brotli = brotli::CompressorWriter::new(Vec::new(), 4096, 4, 20);
            brotli.write_all(body).expect("to encode");
            brotli.into_inner()
        }
        _ => done(zstd::encode_all(body, 3)),
    }
}

#[test]
fn answers_come_out_of_their_coding_and_go_into_the_clients() {
    let origin = Origin::new(|request| {
        let coding = request.target.trim_start_matches('/');
        let body = json!({ "id": 1, "secret": "x".repeat(500), "text": "y".repeat(500) }).to_string();
        let fields =
            [JSON, ("Content-Encoding", coding), ("ETag", "\"a\""), ("Content-Digest", "sha-256=:x:"), ("Vary", "Accept-Encoding")];
        answer(200, &fields, &coded(coding, body.as_bytes()))
    });
    let gateway = shaping(&of(&origin), "compress: [gzip], response: { body: { json: { remove: [secret] } } }", "");
    let mut client = gateway.connect();
    for coding in ["gzip", "br", "zstd", "deflate"] {
        let plain = client.get(&format!("/{coding}"));
        assert_eq!((plain.status, &plain.json()["text"]), (200, &json!("y".repeat(500))), "{coding}");
        assert_eq!((plain.header("content-encoding"), plain.json().get("secret")), (None, None));
        assert_eq!(plain.header("content-length"), Some(&*plain.body.len().to_string()));
        assert_eq!((plain.header("etag"), plain.header("content-digest"), plain.all("vary").len()), (Some("W/\"a\""), None, 1));
        let anew = client.request("GET", &format!("/{coding}"), &[("Accept-Encoding", "gzip")], b"");
        assert_eq!((anew.header("content-encoding"), anew.header("vary")), (Some("gzip"), Some("Accept-Encoding")));
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&anew.body[..]), &mut text).expect("gzip");
        assert_eq!(text.as_bytes(), plain.body);
    }
    assert!(origin.seen().iter().all(|request| request.header("accept-encoding").is_none()), "nobody asks for a coding");
}

#[test]
fn a_bomb_is_a_bad_answer() {
    // The head comes first and alone, so that it is there before anybody knows.
    let origin = Origin::scripted(|request, stream| {
        use std::io::Write;
        let coding = request.target.trim_start_matches('/');
        let bomb = coded(coding, &[b' '; 8 << 20]);
        let stream = stream.get_mut();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
            bomb.len()
        )?;
        stream.flush()?;
        for piece in bomb.chunks(1000) {
            stream.write_all(piece)?;
        }
        Ok(true)
    });
    let gateway = shaping(&of(&origin), "response: { body: { json: { remove: [a] } } }", "");
    for coding in ["gzip", "br", "zstd", "deflate"] {
        let refused = gateway.get(&format!("/{coding}"));
        assert_eq!((refused.status, refused.code()), (502, "upstream_protocol".to_string()), "{coding}");
    }
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let refused = client.get("/gzip").await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (502, Some("upstream_protocol")));
    });
    assert!(gateway.peak_kib() < 200 << 10);
    assert_eq!(gateway.access_log(5)[0]["code"], "upstream_protocol");
}

#[test]
fn an_answer_that_breaks_off_is_a_bad_one_and_not_a_short_one() {
    let origin = Origin::scripted(|_, stream| {
        use std::io::Write;
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"a\":1}")?;
        Ok(false)
    });
    let gateway = shaping(&of(&origin), "response: { body: { json: { remove: [a] } } }", "");
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.code()), (502, "upstream_reset".to_string()));
}

#[test]
fn an_answer_that_falls_silent_is_a_late_one() {
    let origin = Origin::scripted(|_, stream| {
        use std::io::{Read, Write};
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"a\":1}")?;
        // Until the gateway goes.
        stream.get_mut().read(&mut [0]).map(|_| false)
    });
    let gateway = shaping(&format!("{}, timeouts: {{ read: 300ms }}", of(&origin)), "response: { body: { json: { remove: [a] } } }", "");
    let late = gateway.get("/");
    assert_eq!((late.status, late.code()), (504, "upstream_timeout".to_string()));
    assert_eq!(gateway.access_log(1)[0]["status"], 504);
}

#[test]
fn changed_answers_are_kept_as_they_came_and_changed_for_each() {
    let origin = Origin::new(|_| {
        let fields = [JSON, ("Cache-Control", "max-age=60"), ("ETag", "\"a\"")];
        answer(200, &fields, br#"{"a":1,"b":2}"#)
    });
    let changes = "cache: c, response: { body: { json: { remove: [a], set: { who: '${header.X-User}' } } } }";
    let gateway = shaping(&of(&origin), changes, "caches: { c: {} }\n");
    let mut client = gateway.connect();
    for user in ["ada", "eve", "bob"] {
        let changed = client.request("GET", "/", &[("X-User", user)], b"");
        assert_eq!((changed.status, changed.json()), (200, json!({ "b": 2, "who": user })));
        assert_eq!(changed.header("etag"), Some("W/\"a\""));
    }
    assert_eq!(origin.seen().len(), 1);
    let same = client.request("GET", "/", &[("If-None-Match", "W/\"a\"")], b"");
    assert_eq!((same.status, same.header("etag"), same.body.len()), (304, Some("W/\"a\""), 0));
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        assert_eq!(client.get("/").await.json(), json!({ "b": 2, "who": "" }));
    });
}

#[test]
fn what_can_not_be_changed_is_not_kept_either() {
    let origin = Origin::new(|request| match request.target.as_str() {
        "/text" => answer(200, &[("Content-Type", "text/plain"), ("Cache-Control", "max-age=60")], b"text"),
        "/large" => answer(200, &[JSON, ("Cache-Control", "max-age=60")], format!("[{}1]", "1,".repeat(1000)).as_bytes()),
        _ => answer(200, &[JSON, ("Cache-Control", "max-age=60")], b"{\"a\":"),
    });
    let changes = "cache: c, response: { body: { json: { remove: [a] }, other_types: refuse, body_bytes_max: 1KiB } }";
    let gateway = shaping(&of(&origin), changes, "caches: { c: {} }\n");
    for target in ["/text", "/large", "/broken"] {
        for n in 0..3 {
            let told = gateway.get(target);
            assert_eq!((told.status, told.code()), (502, "upstream_protocol".to_string()), "{target} {n}");
        }
    }
    assert_eq!(origin.seen().len(), 9);
}

#[test]
fn requests_come_out_of_their_coding_too() {
    let origin = Origin::echo();
    let gateway = shaping(&of(&origin), "request: { body: { json: { remove: [a] }, body_bytes_max: 1MiB } }", "");
    let mut client = gateway.connect();
    for coding in ["gzip", "br", "zstd", "deflate"] {
        let fields = [JSON, ("Content-Encoding", coding)];
        let told = client.request("POST", "/", &fields, &coded(coding, br#"{"a":1,"b":2}"#)).json();
        assert_eq!((&told["body"], &told["headers"]["content-encoding"]), (&json!(r#"{"b":2}"#), &json!(null)));
        let bomb = gateway.connect().request("POST", "/", &fields, &coded(coding, &[b' '; 2 << 20]));
        assert_eq!((bomb.status, bomb.code()), (413, "body_too_large".to_string()), "{coding}");
    }
    let unknown = client.request("POST", "/", &[JSON, ("Content-Encoding", "compress")], b"{}");
    assert_eq!((unknown.status, unknown.code()), (422, "body_invalid".to_string()));
}

#[test]
fn bodies_of_other_types_are_refused_where_that_is_told() {
    let origin = Origin::new(|request| match request.target.as_str() {
        "/html" => answer(200, &[("Content-Type", "text/html")], b"<p>"),
        "/none" => answer(204, &[], b""),
        _ => answer(200, &[JSON], b"{}"),
    });
    let gateway = Gateway::start(&format!(
        "{LISTENERS}routes:
  - {{ path: /answers/*, to: 'http://{origin}', request: {{ path: '/{{rest}}' }}, response: {{ body: {{ other_types: refuse }} }} }}
  - {{ path: /requests, to: 'http://{origin}', request: {{ body: {{ other_types: refuse }} }} }}
"
    ));
    assert_eq!(
        (gateway.get("/answers/html").status, gateway.get("/answers/none").status, gateway.get("/answers/json").text()),
        (502, 204, "{}".to_string())
    );
    for (kind, status) in [("text/plain", 422), ("application/json", 200), ("application/merge-patch+json", 200)] {
        assert_eq!(gateway.connect().request("POST", "/requests", &[("Content-Type", kind)], b"{}").status, status, "{kind}");
    }
    assert_eq!(gateway.get("/requests").status, 200);
}

#[test]
fn all_bodies_together_have_a_bound() {
    let origin = Origin::echo();
    let gateway = shaping(&of(&origin), "request: { body: { json: { remove: [a] } } }", "server: { buffers: 1KiB }\n");
    let body = json!({ "b": "x".repeat(2_000) }).to_string();
    let refused = gateway.connect().request("POST", "/", &[JSON], body.as_bytes());
    assert_eq!((refused.status, refused.code()), (503, "overloaded".to_string()));
    assert!(refused.header("retry-after").is_some());
    for _ in 0..20 {
        let body = json!({ "b": "x".repeat(600) }).to_string();
        assert_eq!(gateway.connect().request("POST", "/", &[JSON], body.as_bytes()).status, 200, "what was held is given back");
        // The client has the answer a moment before it is.
        gateway.wait_until_idle();
    }
}

#[test]
fn composed_answers_are_changed_and_fields_renamed() {
    let origin = Origin::new(|request| answer(200, &[("X-Old", "1"), ("X-Old", "2"), ("X-New", "0")], request.describe().as_bytes()));
    let gateway = Gateway::start(&format!(
        "{LISTENERS}routes:
  - {{ path: /x, response: {{ body: {{ json: {{ keep: [a.target], set: {{ status: '${{a.status}}' }} }} }} }}, compose: {{ calls: {{ a: {{ to: 'http://{origin}', path: /y }} }} }} }}
  - {{ path: /r, to: 'http://{origin}', request: {{ headers: {{ rename: {{ X-A: X-B }}, set: {{ X-C: '3' }} }} }}, response: {{ headers: {{ rename: {{ X-Old: X-New, X-None: X-C }} }} }} }}
"
    ));
    assert_eq!(gateway.get("/x").text(), r#"{"a":{"target":"/y"},"status":200}"#);
    let renamed = gateway.connect().request("GET", "/r", &[("X-A", "1"), ("X-A", "2"), ("X-B", "0")], b"");
    let headers = &renamed.json()["headers"];
    assert_eq!((&headers["x-b"], &headers["x-a"], &headers["x-c"]), (&json!(["1", "2"]), &json!(null), &json!(["3"])));
    assert_eq!((renamed.all("x-new"), renamed.all("x-old")), (vec!["1", "2"], vec![]));
}
