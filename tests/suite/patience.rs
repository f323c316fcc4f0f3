//! How long services that speak HTTP/2 may take, and how long gRPC clients wait.

use crate::kit::{Gateway, H2Client, H2Origin, Origin, h2_head, run_async};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request};
use std::fmt::Display;
use std::future::pending;
use std::time::{Duration, Instant};

/// Reads nothing and never answers.
async fn silent(request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let _held = (request, respond);
    pending().await
}

fn gateway(endpoints: &[&dyn Display], service: &str) -> Gateway {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
services: {{ s: {{ endpoints: [{}], protocol: h2c, balance: round_robin, {service} }} }}
routes: [{{ path: /*, to: s }}]
",
        endpoints.join(", ")
    ))
}

#[test]
fn the_total_bounds_a_service_that_speaks_http2() {
    let origin = H2Origin::new(silent);
    let gateway = gateway(&[&origin], "timeouts: { total: 300ms }");
    let (started, answer) = (Instant::now(), gateway.get("/"));
    assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_timeout"));
    assert!((290..10_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    let answer = run_async(async { H2Client::connect(gateway.address()).await.get("/").await });
    assert_eq!((answer.status, answer.json()["code"].as_str()), (504, Some("upstream_timeout")));
}

#[test]
fn an_attempt_at_one_is_given_up_for_the_next() {
    let good = H2Origin::new(|_, mut respond| async move {
        respond.send_response(h2_head(200, &[]), false)?.send_data(Bytes::from_static(b"good"), true)
    });
    let gateway = gateway(&[&H2Origin::new(silent), &good], "retries: { per_try: 1s }");
    assert_eq!(gateway.get("/").text(), "good");
    assert_eq!(gateway.get("/").text(), "good");
    // The second request went to the good one at once, or after another attempt.
    let lines = gateway.access_log(2);
    assert!(lines.iter().any(|line| line["attempts"] == 2), "{lines:?}");
}

#[test]
fn events_of_one_may_rest_longer_than_the_total() {
    let origin = H2Origin::new(|_, mut respond| async move {
        let mut events = respond.send_response(h2_head(200, &[("content-type", "text/event-stream")]), false)?;
        events.send_data(Bytes::from_static(b"data: 1\n\n"), false)?;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        events.send_data(Bytes::from_static(b"data: 2\n\n"), true)
    });
    let gateway = gateway(&[&origin], "timeouts: { total: 1s }");
    let answer = gateway.connect().request("GET", "/", &[("Accept", "text/event-stream")], b"");
    assert_eq!(answer.text(), "data: 1\n\ndata: 2\n\n");
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

#[test]
fn a_grpc_timeout_goes_on_less_what_has_gone() {
    let origin = H2Origin::new(|request, mut respond| async move {
        let told = request.headers().get("grpc-timeout").and_then(|value| value.to_str().ok()).unwrap_or("none").to_string();
        respond.send_response(h2_head(200, &[GRPC, ("x-told", &told), ("grpc-status", "0")]), true).map(drop)
    });
    let gateway = gateway(&[&origin], "");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        for (sent, most) in [(None, None), (Some("5S"), Some(5_000)), (Some("3000000u"), Some(3_000)), (Some("soon"), None)] {
            let fields: Vec<_> = [GRPC].into_iter().chain(sent.map(|sent| ("grpc-timeout", sent))).collect();
            let answer = client.request(Method::POST, "/a.B/C", &fields, b"").await;
            let told = answer.header("x-told").expect("what was told");
            match most {
                Some(most) => {
                    let left: u64 = told.strip_suffix('m').expect("milliseconds").parse().expect("a number");
                    assert!(left <= most && left > 0, "{told}");
                }
                // What can't be read is the service's to judge.
                None => assert_eq!(told, sent.unwrap_or("none")),
            }
        }
    });
}

#[test]
fn a_grpc_client_that_gives_up_is_told_so_and_the_service_not_blamed() {
    let (origin, other) = (H2Origin::new(silent), Origin::fixed("never asked"));
    let gateway = gateway(&[&origin, &other], "ejection: { consecutive_failures: 1, base: 1h }, breaker: { min_requests: 1, open: 1h }");
    // The first goes to the first.
    let (started, answer) = (
        Instant::now(),
        run_async(async {
            let client = H2Client::connect(gateway.address()).await;
            client.request(Method::POST, "/a.B/C", &[GRPC, ("grpc-timeout", "200m")], b"").await
        }),
    );
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("4")));
    assert!((190..10_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    let service = gateway.ask("/status").json()["services"][0].clone();
    assert_eq!((&service["breaker"], &service["endpoints"][0]["state"]), (&"closed".into(), &"up".into()));
}
