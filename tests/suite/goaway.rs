//! Ends of HTTP/2 connections, which their clients are told (RFC 9113, 6.8).

use crate::kit::{Gateway, H2Client, H2Origin, all, h2_head, run_async, whole};
use h2::Reason;
use http::Method;
use std::future::poll_fn;
use std::sync::Arc;
use tokio::sync::Notify;

/// `/held` is answered to nobody, everything else at once; with word of what is held.
fn start(http2: &str) -> (Gateway, Arc<Notify>, Arc<Notify>) {
    let (asked, open) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begun, opened) = (asked.clone(), open.clone());
    let origin = H2Origin::new(move |request, mut respond| {
        let (begun, opened) = (begun.clone(), opened.clone());
        async move {
            if request.uri().path() == "/held" {
                begun.notify_one();
                tokio::select! {
                    reset = poll_fn(|cx| respond.poll_reset(cx)) => return reset.map(drop),
                    () = opened.notified() => {}
                }
            }
            all(&mut request.into_body()).await?;
            respond.send_response(h2_head(200, &[]), true).map(drop)
        }
    });
    let gateway = Gateway::start(&format!(
        "
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ http2: {{ {http2} }} }}
services: {{ s: {{ endpoints: [{origin}], protocol: h2c }} }}
routes: [{{ path: /*, to: s }}]
"
    ));
    (gateway, asked, open)
}

#[test]
fn a_client_that_takes_back_most_of_what_it_asks_is_told_to_calm_down() {
    let (gateway, asked, _) = start("");
    run_async(async {
        let (client, end) = H2Client::connect_watched(gateway.address(), b"").await;
        let mut taken_back = 0;
        while client.is_open().await {
            let (answer, mut request) = client.begin(Method::GET, "/held", &[], true).await;
            // It is being worked for when it is taken back.
            tokio::select! {
                () = asked.notified() => request.send_reset(Reason::CANCEL),
                answer = whole(answer) => {
                    answer.expect_err("an answer, in place of the end");
                    break;
                }
            }
            taken_back += 1;
            assert!(taken_back < 1000, "it goes on without end");
        }
        let end = end.await.expect("the client").expect_err("the end");
        assert_eq!((end.reason(), end.is_remote()), (Some(Reason::ENHANCE_YOUR_CALM), true), "{end}");
        assert!(taken_back >= 500, "ended behind {taken_back}");
    });
    assert_eq!(gateway.metric("frontdesk_http2_ended_total"), 1.0);
    gateway.wait_until_idle();
    let line = gateway.access_log(1).remove(0);
    assert_eq!((&line["status"], &line["code"]), (&499.into(), &"".into()), "{line}");
}

#[test]
fn one_that_takes_back_some_is_served_on() {
    let (gateway, asked, _) = start("");
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        for i in 0..600 {
            if i % 3 == 0 {
                let (_answer, mut request) = client.begin(Method::GET, "/held", &[], true).await;
                asked.notified().await;
                request.send_reset(Reason::CANCEL);
            } else {
                assert_eq!(client.get("/").await.status, 200);
            }
        }
        assert!(client.is_open().await);
    });
    assert_eq!(gateway.metric("frontdesk_http2_ended_total"), 0.0);
}

#[test]
fn one_that_is_refused_what_it_asks_is_served_on() {
    let (gateway, ..) = start("");
    let long = format!("/{}", "x".repeat(9_000));
    run_async(async {
        let client = H2Client::connect(gateway.address()).await;
        for _ in 0..600 {
            assert_eq!(client.get(&long).await.status, 414);
        }
    });
    assert_eq!(gateway.metric("frontdesk_http2_ended_total"), 0.0);
}

#[test]
fn one_that_rests_is_told_so_and_one_that_waits_is_not() {
    let (gateway, asked, open) = start("idle_timeout: 1s");
    run_async(async {
        let waiting = H2Client::connect(gateway.address()).await;
        let (answer, _request) = waiting.begin(Method::GET, "/held", &[], true).await;
        asked.notified().await;
        for _ in 0..2 {
            let (resting, end) = H2Client::connect_watched(gateway.address(), b"").await;
            assert_eq!(resting.get("/").await.status, 200);
            end.await.expect("the client").expect("an end without an error");
            assert!(!resting.is_open().await);
        }
        open.notify_one();
        assert_eq!(whole(answer).await.expect("an answer").status, 200);
    });
    assert_eq!(gateway.metric("frontdesk_http2_ended_total"), 0.0);
}

#[test]
fn one_that_sends_what_is_no_request_is_told_to_calm_down() {
    let (gateway, ..) = start("");
    run_async(async {
        let (client, end) = H2Client::connect_watched(gateway.address(), b"").await;
        let mut malformed = 0;
        while client.is_open().await && malformed < 100 {
            // What is called an authority twice, and not the same (RFC 9113, 8.3.1), is no request.
            let (answer, _request) = client.begin(Method::GET, "/", &[("host", "other")], true).await;
            if whole(answer).await.is_err() {
                break;
            }
            malformed += 1;
        }
        let end = end.await.expect("the client").expect_err("the end");
        assert_eq!((end.reason(), end.is_remote()), (Some(Reason::ENHANCE_YOUR_CALM), true), "{end}");
        assert!((16..64).contains(&malformed), "ended behind {malformed}");
    });
    assert_eq!(gateway.metric("frontdesk_http2_ended_total"), 1.0);
}
