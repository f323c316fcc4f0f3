//! Answers in the coding that client and route agree on. curl, which has decoders of its own, reads them.

use crate::kit::{Gateway, H2Client, Origin, answer, curl, head, run_async};
use http::Method;

/// Compressible, and larger than one piece.
fn text() -> String {
    (0..40_000).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

const TAGGED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\nDigest: x\r\nContent-Length: 1000\r\n\r\n";

/// Answers with `text`, in chunks where the target is /chunked, and with the fields that the query names.
fn origin() -> Origin {
    Origin::new(|request| {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let fields: Vec<(&str, &str)> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let has_kind = fields.iter().any(|(name, _)| *name == "content-type");
        let kind = (!has_kind).then_some(("Content-Type", "application/json"));
        let fields: Vec<_> = fields.into_iter().chain(kind).collect();
        match path {
            "/tagged" if request.method == "HEAD" => TAGGED.as_bytes().to_vec(),
            "/tagged" => [TAGGED.as_bytes(), &[b'x'; 1_000]].concat(),
            "/small" => answer(200, &fields, b"{}"),
            "/chunked" => {
                let mut out = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for piece in text().as_bytes().chunks(1_000) {
                    out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    out.extend_from_slice(piece);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\n\r\n");
                out
            }
            _ => answer(200, &fields, text().as_bytes()),
        }
    })
}

fn gateway(origin: &Origin) -> Gateway {
    let long = "abcdefgh".repeat(64);
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
routes:
  - {{ path: /*, compress: [zstd, br, gzip], to: http://{origin} }}
  - {{ path: /gzip, compress: gzip, to: http://{origin} }}
  - {{ path: /plain, to: http://{origin} }}
  - {{ path: /fixed, compress: [gzip], respond: {{ headers: {{ Content-Type: text/plain }}, body: {long} }} }}
"
    ))
}

#[test]
fn every_coding_arrives_whole() {
    let origin = origin();
    let gateway = gateway(&origin);
    for target in ["/x", "/chunked"] {
        for coding in ["zstd", "br", "gzip"] {
            for version in ["--http1.1", "--http2-prior-knowledge"] {
                let url = format!("http://{}{target}", gateway.address());
                let accept = format!("Accept-Encoding: {coding}");
                let got = curl(&[version, "--compressed", "-H", &accept, &url]);
                assert_eq!(got.len(), text().len(), "{target} {coding} {version}");
                assert_eq!(got, text(), "{target} {coding} {version}");
                let told = curl(&[version, "-H", &accept, "-o", "/dev/null", "-w", "%{size_download} %header{content-encoding}", &url]);
                let (size, named) = told.split_once(' ').expect("two figures");
                assert_eq!(named, coding);
                assert!(size.parse::<usize>().expect("a size") < text().len() / 3, "{target} {coding}: {size}");
            }
        }
    }
    gateway.wait_until_idle();
}

#[test]
fn the_head_is_that_of_the_coded_answer() {
    let origin = origin();
    let gateway = gateway(&origin);
    let mut client = gateway.connect();
    let target = "/tagged";
    for method in ["GET", "HEAD", "GET"] {
        client.send(head(method, target, &[("Accept-Encoding", "br;q=0.5, gzip")], 0));
        let coded = client.answer_to(method);
        assert_eq!((coded.header("content-encoding"), coded.header("etag")), (Some("gzip"), Some("W/\"a\"")), "{method}");
        assert_eq!((coded.header("vary"), coded.header("transfer-encoding")), (Some("Accept-Encoding"), Some("chunked")), "{method}");
        for gone in ["content-length", "accept-ranges", "digest"] {
            assert_eq!(coded.header(gone), None, "{method} {gone}");
        }
    }
    let plain = client.get(target);
    assert_eq!((plain.header("content-encoding"), plain.header("etag")), (None, Some("\"a\"")));
    assert_eq!((plain.header("vary"), plain.text().len()), (Some("Accept-Encoding"), 1_000));
}

#[test]
fn what_gains_nothing_passes_as_it_is() {
    let origin = origin();
    let gateway = gateway(&origin);
    let mut client = gateway.connect();
    for target in [
        "/small",
        "/plain",
        "/x?content-type=image/png",
        "/x?content-type=text/event-stream",
        "/x?content-encoding=br",
        "/x?cache-control=no-transform",
    ] {
        let answer = client.request("GET", target, &[("Accept-Encoding", "gzip, br, zstd")], b"");
        assert_ne!(answer.header("content-encoding"), Some("gzip"), "{target}");
        assert!(answer.header("content-length").is_some(), "{target}");
        assert_eq!(answer.header("vary"), None, "{target}");
    }
    let answer = client.request("GET", "/gzip", &[("Accept-Encoding", "br")], b"");
    assert_eq!((answer.header("content-encoding"), answer.text()), (None, text()));
}

#[test]
fn so_are_answers_of_the_gateway_itself() {
    let origin = origin();
    let gateway = gateway(&origin);
    let url = format!("http://{}/fixed", gateway.address());
    assert_eq!(curl(&["--compressed", "-H", "Accept-Encoding: gzip", &url]), "abcdefgh".repeat(64));
    let mut client = gateway.connect();
    let coded = client.request("GET", "/fixed", &[("Accept-Encoding", "gzip")], b"");
    assert_eq!(coded.header("content-encoding"), Some("gzip"));
    assert_eq!(coded.header("content-length"), Some(&*coded.body.len().to_string()));
    assert!(coded.body.len() < 200);
    assert_eq!(client.get("/fixed").text(), "abcdefgh".repeat(64));
}

#[test]
fn an_old_client_and_one_of_http2_get_theirs() {
    let origin = origin();
    let gateway = gateway(&origin);
    let url = format!("http://{}/x", gateway.address());
    assert_eq!(curl(&["--http1.0", "--compressed", "-H", "Accept-Encoding: gzip", &url]), text());
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let coded = client.request(Method::GET, "/x", &[("accept-encoding", "zstd")], b"").await;
        assert_eq!((coded.header("content-encoding"), coded.header("transfer-encoding")), (Some("zstd"), None));
        assert!(coded.body.len() < text().len() / 3);
    });
}
