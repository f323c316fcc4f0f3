//! WebSocket tunnels (RFC 6455 over RFC 9110, 7.8), outside Pingora's proxy loop.
//!
//! Pingora's loop learns of "the request has no body" and of the service's 101 in one unordered `select!`; when the 101 is
//! first, it ends the tunnel right behind it. No hook lies between the two, so tunnels are carried here, over the two bare
//! streams, each direction on its own: a side that stops reading holds up nothing but what is sent to it.

use super::connection::is_hung_up;
use super::deadline::{self, Phase};
use super::exchange::{Exchange, Seen};
use super::steps::is_event_stream;
use super::{forward, strict};
use crate::shape::headers::{HOP_BY_HOP, nominated};
use crate::snapshot::ServiceEntry;
use crate::types::Refusal;
use crate::upstream::Timeouts;
use crate::upstream::retry::{Failure, is_upstream};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Version};
use pingora::connectors::TransportConnector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::protocols::http::v1::client::HttpSession as Upstream;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::{ALPN, Stream};
use std::future::Future;
use std::io::Cursor;
use std::os::fd::RawFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

/// Of one direction.
const BUFFER_BYTES: usize = 8 << 10;

/// What a tunnel carried, for the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    /// From the client.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// A WebSocket handshake: the one upgrade that is let through. None where the bodies of answers are changed: what a service says instead of
/// shaking hands would pass as it is.
pub fn is_wanted(session: &mut Session, exchange: &Exchange) -> bool {
    if !session.req_header().headers.contains_key(UPGRADE) || exchange.route().is_some_and(|route| route.response_body.is_some()) {
        return false;
    }
    let is_empty = session.is_body_empty();
    let head = session.req_header();
    let is_websocket = head.headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
    // RFC 9110, 7.8: without it the client, or a proxy before us, wants none.
    let is_nominated = is_websocket && nominated(&head.headers).contains(&UPGRADE);
    is_nominated && is_empty && head.method == Method::GET && head.version == Version::HTTP_11
}

/// Connects, shakes hands and carries bytes until both sides have ended.
///
/// # Errors
/// The outer one is of an answer in the tunnel's stead that broke off; the inner one is what the client has to be told.
pub async fn serve(
    connector: &TransportConnector,
    entry: &Arc<ServiceEntry>,
    timeouts: &Timeouts,
    session: &mut Session,
    exchange: &mut Exchange,
) -> Result<Result<(), Refusal>> {
    let mut upstream = match connect(connector, entry, timeouts, session, exchange).await {
        Ok(upstream) => upstream,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let Ok(head) = handshake(session.req_header(), exchange, entry) else {
        return Ok(Err(Refusal::BadRequest("The handshake can't be sent on.")));
    };
    let answered = tokio::time::timeout(timeouts.read, async {
        upstream.write_request_header(Box::new(head)).await?;
        answer(&mut upstream).await
    });
    let client = session.downstream_session.as_http1().map(|client| client.stream().id());
    let answered = tokio::select! {
        answered = answered => answered,
        () = gone(client) => {
            session.set_keepalive(None);
            return Ok(Ok(()));
        }
    };
    let (head, ends) = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => return Ok(Err(failed(exchange, Failure::of(&e)))),
        Err(_) => return Ok(Err(failed(exchange, Failure::Timeout))),
    };
    exchange.count_answer(Failure::of_status(head.status.as_u16()));
    exchange.end_admission(head.status.is_server_error());
    session.set_keepalive(None);
    if !upstream.was_upgraded() {
        // The service does not want to: its answer is passed on, and the connection ends with it.
        upstream.read_timeout = Some(timeouts.read).filter(|_| !is_event_stream(&head));
        let passed = tokio::select! {
            passed = decline(&mut upstream, session, exchange, head, ends) => passed,
            () = gone(client) => Ok(()),
        };
        return passed.map(Ok).inspect_err(|e| {
            if is_upstream(e) {
                exchange.count_failure(Failure::of(e), true);
            }
        });
    }
    if accept(session, exchange, head).await.is_ok() {
        let early = leftover(&mut upstream);
        if let Some(connection) = exchange.connection() {
            connection.set_tunnel();
        }
        let Some(client) = take_stream(session).await else { return Ok(Ok(())) };
        exchange.tunnel = Some(carry(client, upstream.into_inner(), early, timeouts.read).await);
        // What happens within it is between the two sides.
        exchange.attempt.upstream = exchange.attempt.elapsed();
    }
    Ok(Ok(()))
}

fn failed(exchange: &mut Exchange, failure: Failure) -> Refusal {
    exchange.count_failure(failure, true);
    exchange.end_admission(true);
    failure.refusal()
}

async fn connect(
    connector: &TransportConnector,
    entry: &Arc<ServiceEntry>,
    timeouts: &Timeouts,
    session: &Session,
    exchange: &mut Exchange,
) -> Result<Upstream, Refusal> {
    loop {
        exchange.pause().await;
        let mut peer = exchange.next_peer(entry, timeouts, session.req_header())?;
        peer.options.alpn = ALPN::H1;
        match connector.new_stream(&*peer).await {
            Ok(stream) => {
                // From here on it is this task that looks after the client.
                exchange.deadline.enter(Phase::Busy, None);
                let mut upstream = Upstream::new_with_options(stream, &*peer);
                (upstream.read_timeout, upstream.write_timeout) = (None, Some(timeouts.write));
                return Ok(upstream);
            }
            // It may speak nothing but HTTP/2, which is no fault of it.
            Err(e) if entry.service.is_h2 => {
                exchange.end_admission(false);
                return Err(Failure::of(&e).refusal());
            }
            Err(e) => {
                let failure = Failure::of(&e);
                if !exchange.may_go_on(session, failure, true) {
                    return Err(failed(exchange, failure));
                }
                exchange.count_failure(failure, true);
            }
        }
    }
}

/// The head that goes to the service.
fn handshake(request: &RequestHeader, exchange: &Exchange, entry: &ServiceEntry) -> Result<RequestHeader> {
    let mut head = request.clone();
    for name in nominated(&head.headers).iter().chain(&HOP_BY_HOP) {
        head.remove_header(name);
    }
    forward::to_upstream(&mut head, request, exchange, entry.service.host.as_ref())?;
    if let Some(route) = exchange.route() {
        forward::apply_to_request(&mut head, &route.request_headers, &Seen { exchange, head: request })?;
    }
    head.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"))?;
    head.insert_header(UPGRADE, HeaderValue::from_static("websocket"))?;
    Ok(head)
}

/// Resolves when the client has gone. Its bytes are left where they are: they may be the tunnel's first.
async fn gone(client: Option<RawFd>) {
    let Some(socket) = client else { return std::future::pending().await };
    loop {
        tokio::time::sleep(deadline::LOOK).await;
        if is_hung_up(socket) {
            return;
        }
    }
}

/// The final head, and whether nothing follows it.
async fn answer(upstream: &mut Upstream) -> Result<(Box<ResponseHeader>, bool)> {
    for _ in 0..strict::INTERIM_MAX {
        match upstream.read_response_task().await? {
            HttpTask::Header(head, _) if head.status.is_informational() && head.status != 101 => {}
            HttpTask::Header(head, _) if head.status == 101 && upstream.was_upgraded() => return Ok((head, false)),
            HttpTask::Header(mut head, ends) => {
                strict::response(&mut head)?;
                return Ok((head, ends));
            }
            HttpTask::Failed(e) => return Err(e),
            _ => break,
        }
    }
    Error::e_explain(ErrorType::InvalidHTTPHeader, "no answer to the handshake")
}

/// Tells the client that the tunnel is open.
async fn accept(session: &mut Session, exchange: &Exchange, mut head: Box<ResponseHeader>) -> Result<()> {
    to_client(session, exchange, &mut head)?;
    head.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"))?;
    head.insert_header(UPGRADE, HeaderValue::from_static("websocket"))?;
    session.write_response_header(head, false).await
}

fn to_client(session: &Session, exchange: &Exchange, head: &mut ResponseHeader) -> Result<()> {
    forward::to_client(head, session.req_header(), exchange)?;
    exchange.stick(head)?;
    match exchange.route() {
        Some(route) => forward::apply(head, &route.response_headers, &Seen { exchange, head: session.req_header() }),
        None => Ok(()),
    }
}

async fn decline(
    upstream: &mut Upstream,
    session: &mut Session,
    exchange: &Exchange,
    mut head: Box<ResponseHeader>,
    mut ends: bool,
) -> Result<()> {
    to_client(session, exchange, &mut head)?;
    let is_framed = head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING);
    if !ends && !is_framed && !matches!(head.status.as_u16(), 204 | 304) {
        head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    session.write_response_header(head, ends).await.map_err(|e| e.into_down())?;
    while !ends {
        match upstream.read_response_task().await.map_err(|e| e.into_up())? {
            HttpTask::Body(data, last) => {
                session.write_response_body(data, last).await.map_err(|e| e.into_down())?;
                ends = last;
            }
            HttpTask::Failed(e) => return Err(e.into_up()),
            _ => break,
        }
    }
    Ok(())
}

/// What a future has ready now; one that has nothing is dropped, and with Pingora's readers loses nothing.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// What the service sent along with its 101.
fn leftover(upstream: &mut Upstream) -> Vec<Bytes> {
    let mut early = Vec::new();
    while let Some(Ok(HttpTask::UpgradedBody(Some(data), ends))) = now(upstream.read_response_task()) {
        early.push(data);
        if ends {
            break;
        }
    }
    early
}

/// Takes the client's stream out of the session, which gets a stand-in that has the same head and ends with it. What the client
/// has sent ahead waits in the stream.
async fn take_stream(session: &mut Session) -> Option<Stream> {
    let mut stand_in = ServerSession::new_http1(Box::new(Cursor::new(session.to_h1_raw().to_vec())));
    stand_in.read_request().await.ok()?;
    stand_in.set_keepalive(None);
    match std::mem::replace(&mut *session.downstream_session, stand_in) {
        ServerSession::H1(session) => Some(session.into_inner()),
        ServerSession::H2(_) | ServerSession::Subrequest(_) | ServerSession::Custom(_) => None,
    }
}

/// Carries bytes both ways until both sides have ended, one broke, or neither said anything for `idle`.
async fn carry(client: Stream, service: Stream, early: Vec<Bytes>, idle: Duration) -> Carried {
    let (client_read, client_write) = tokio::io::split(client);
    let (service_read, service_write) = tokio::io::split(service);
    let moved = AtomicU64::new(deadline::now());
    let (bytes_in, bytes_out) = (AtomicU64::new(0), AtomicU64::new(0));
    let inward = pump(client_read, service_write, Vec::new(), &bytes_in, &moved);
    let outward = pump(service_read, client_write, early, &bytes_out, &moved);
    tokio::select! {
        // A side that broke takes the other with it; one that has only ended lets the other finish.
        _ = async { tokio::try_join!(inward, outward) } => {}
        () = silent(&moved, idle) => {}
    }
    Carried { bytes_in: bytes_in.load(Relaxed), bytes_out: bytes_out.load(Relaxed) }
}

async fn pump(
    mut from: ReadHalf<Stream>,
    mut to: WriteHalf<Stream>,
    first: Vec<Bytes>,
    bytes: &AtomicU64,
    moved: &AtomicU64,
) -> std::io::Result<()> {
    for data in first {
        to.write_all(&data).await?;
        bytes.fetch_add(data.len() as u64, Relaxed);
    }
    to.flush().await?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let n = from.read(&mut buffer).await?;
        moved.store(deadline::now(), Relaxed);
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
        bytes.fetch_add(n as u64, Relaxed);
        moved.store(deadline::now(), Relaxed);
    }
}

/// Resolves when nothing has moved for `idle`.
async fn silent(moved: &AtomicU64, idle: Duration) {
    loop {
        let due = moved.load(Relaxed) + deadline::ms(idle);
        let now = deadline::now();
        if now >= due {
            return;
        }
        tokio::time::sleep(Duration::from_millis(due - now)).await;
    }
}
