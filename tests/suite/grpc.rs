//! Calls of gRPC, and what services over HTTP/2 may do with their connections.

use crate::kit::{Gateway, H2Client, H2Origin, all, h2_head, piece, run_async, whole};
use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Method};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc+proto"), ("te", "trailers")];
const LARGE: usize = 4 << 20;

fn gateway(to: impl std::fmt::Display) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: ['{to}'], protocol: h2c }} }}
routes: [{{ path: /*, to: s }}]
"
    ))
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| ((*name).parse().expect("a name"), (*value).parse().expect("a value"))).collect()
}

#[test]
fn metadata_deadlines_and_errors_pass_as_they_are() {
    let origin = H2Origin::new(|request, mut respond| async move {
        let (head, mut body) = request.into_parts();
        let bytes = all(&mut body).await?;
        let told = |name| head.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default()).collect::<Vec<_>>().join("|");
        let seen = ["grpc-timeout", "grpc-encoding", "x-trace-bin", "user-agent"].map(told).join(" ");
        match head.uri.path() {
            "/s/error" => {
                // "Trailers only".
                let error = [GRPC[0], ("grpc-status", "9"), ("grpc-message", "not%20now"), ("x-detail-bin", "AAEC/w")];
                respond.send_response(h2_head(200, &error), true).map(drop)
            }
            "/s/large" => {
                let mut stream = respond.send_response(h2_head(200, &[GRPC[0]]), false)?;
                stream.send_data(bytes.into(), false)?;
                stream.send_trailers(fields(&[("grpc-status", "0")]))
            }
            _ => {
                let mut stream = respond.send_response(h2_head(200, &[GRPC[0], ("x-head-bin", "/+8"), ("x-head-bin", "AA")]), false)?;
                stream.send_data(seen.into(), false)?;
                stream.send_trailers(fields(&[("grpc-status", "5"), ("grpc-message", "gone"), ("x-tail-bin", "/w")]))
            }
        }
    });
    let gateway = gateway(&origin);
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let sent = [
            GRPC[0],
            GRPC[1],
            ("grpc-timeout", "250m"),
            ("grpc-encoding", "gzip"),
            ("x-trace-bin", "AAEC/w"),
            ("x-trace-bin", "/w"),
            ("user-agent", "me"),
        ];
        let answer = client.request(Method::POST, "/s/m", &sent, b"\0\0\0\0\0").await;
        let seen = String::from_utf8_lossy(&answer.body);
        let (timeout, others) = seen.split_once(' ').expect("four fields");
        assert_eq!(others, "gzip AAEC/w|/w me");
        // Less what has gone.
        let left: u64 = timeout.strip_suffix('m').and_then(|left| left.parse().ok()).expect("milliseconds");
        assert!((1..=250).contains(&left), "{timeout}");
        let heads: Vec<_> = answer.headers.get_all("x-head-bin").iter().map(|value| value.to_str().expect("a text")).collect();
        assert_eq!((heads, answer.header("content-type")), (vec!["/+8", "AA"], Some(GRPC[0].1)));
        let trailers = ["grpc-status", "grpc-message", "x-tail-bin"].map(|name| answer.trailer(name));
        assert_eq!(trailers, [Some("5"), Some("gone"), Some("/w")]);

        let (answer, _) = client.begin(Method::POST, "/s/error", &GRPC, true).await;
        let answer = answer.await.expect("an answer");
        let told =
            ["grpc-status", "grpc-message", "x-detail-bin"].map(|name| answer.headers().get(name).and_then(|value| value.to_str().ok()));
        assert_eq!(told, [Some("9"), Some("not%20now"), Some("AAEC/w")]);
        assert!(answer.body().is_end_stream(), "no longer trailers only");

        // A message above the gateway's bound for other bodies is none of its business either.
        let message = vec![7; LARGE];
        let answer = client.request(Method::POST, "/s/large", &GRPC, &message).await;
        assert!(answer.body == message && answer.trailer("grpc-status") == Some("0"));
    });
}

#[test]
fn a_call_that_one_side_cancels_is_cancelled_at_the_other() {
    let (begun, reset) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, heard) = (begun.clone(), reset.clone());
    let origin = H2Origin::new(move |request, mut respond| {
        let (begun, reset) = (told.clone(), heard.clone());
        async move {
            let mut stream = respond.send_response(h2_head(200, &[GRPC[0]]), false)?;
            stream.send_data("first".into(), false)?;
            if request.uri().path() == "/s/server" {
                let _ = piece(&mut request.into_body()).await;
                stream.send_reset(Reason::CANCEL);
                return Ok(());
            }
            begun.notify_one();
            poll_fn(|cx| stream.poll_reset(cx)).await?;
            reset.notify_one();
            Ok(())
        }
    });
    let gateway = gateway(&origin);
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        let (answer, mut requests) = client.begin(Method::POST, "/s/client", &GRPC, false).await;
        let mut messages = answer.await.expect("a head").into_body();
        assert_eq!(piece(&mut messages).await.expect("a message").expect("a message"), "first");
        begun.notified().await;
        requests.send_reset(Reason::CANCEL);
        reset.notified().await;

        let (answer, mut requests) = client.begin(Method::POST, "/s/server", &GRPC, false).await;
        let mut messages = answer.await.expect("a head").into_body();
        assert_eq!(piece(&mut messages).await.expect("a message").expect("a message"), "first");
        requests.send_data("go".into(), false).expect("to send");
        let end = piece(&mut messages).await;
        assert!(end.as_ref().is_some_and(|end| end.as_ref().is_err_and(h2::Error::is_reset)), "{end:?}");
        // Neither costs the connection.
        assert!(client.is_open().await);
    });
    gateway.wait_until_idle();
}

/// Takes one request over HTTP/2 and says that it was not looked at, for this connection ends.
async fn go_away(mut tcp: TcpStream) -> std::io::Result<()> {
    tcp.read_exact(&mut [0; 24]).await?;
    tcp.write_all(b"\0\0\0\x04\0\0\0\0\0").await?;
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        tcp.read_exact(&mut vec![0; length as usize]).await?;
        if head[3] == 1 {
            // GOAWAY, last stream 0, NO_ERROR (RFC 9113, 6.8).
            tcp.write_all(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0").await?;
            // The other side closes.
            return tcp.read_to_end(&mut Vec::new()).await.map(drop);
        }
    }
}

#[test]
fn what_a_connection_that_goes_away_did_not_look_at_is_sent_on_another() {
    run_async(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let gateway = gateway(listener.local_addr().expect("an address"));
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                if counted.fetch_add(1, Relaxed) == 0 {
                    tokio::spawn(go_away(tcp));
                    continue;
                }
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(tcp).await?;
                    while let Some(accepted) = connection.accept().await {
                        let (request, mut respond) = accepted?;
                        tokio::spawn(async move {
                            let bytes = all(&mut request.into_body()).await?;
                            respond.send_response(h2_head(200, &[]), false)?.send_data(Bytes::from(bytes), true)
                        });
                    }
                    Ok::<(), h2::Error>(())
                });
            }
        });
        let client = H2Client::connect(gateway.address()).await;
        // Safe whatever the method is: the service has said that it did nothing.
        let (answer, mut body) = client.begin(Method::POST, "/order", &[], false).await;
        body.send_data("once".into(), true).expect("to send");
        let answer = whole(answer).await.expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (200, &b"once"[..]));
        assert_eq!(connections.load(Relaxed), 2);
        assert_eq!(client.get("/again").await.status, 200);
        assert_eq!(connections.load(Relaxed), 2);
    });
}
