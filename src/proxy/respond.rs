//! Answers of the gateway itself: refusals as problem+json (RFC 9457), for gRPC clients as grpc-status, and the fixed
//! answers of routes.

use super::connection::LINGER;
use super::exchange::{Exchange, Seen};
use super::{compress, forward};
use crate::auth::Answered;
use crate::auth::cors::Cors;
use crate::shape::answer::{Redirect, Respond};
use crate::shape::forward::fresh_id;
use crate::shape::headers::{HOP_BY_HOP, nominated};
use crate::types::{Flaw, Refusal, content_length};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use httpdate::fmt_http_date;
use pingora::http::ResponseHeader;
use pingora::prelude::*;
use pingora::protocols::http::ServerSession;
use serde::Serialize;
use std::io::Cursor;
use std::time::SystemTime;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Characters of an error that are logged.
const SAID_MAX: usize = 300;
/// A request body up to this size is read to its end, so that the connection can go on; behind a larger one it is closed.
const DRAIN_BYTES_MAX: u64 = 64 << 10;

/// Answers with a refusal, unless an answer has begun already.
pub async fn refusal(session: &mut Session, exchange: &Exchange, refusal: &Refusal) -> Result<()> {
    exchange.metrics().refused(refusal);
    if has_begun(session) {
        return Ok(());
    }
    if let Some(answered) = &exchange.relayed {
        return relay(session, exchange, answered).await;
    }
    if is_grpc(session) {
        return grpc(session, exchange, refusal).await;
    }
    if let Some(instead) = exchange.fallback(refusal) {
        return fixed(session, exchange, instead).await;
    }
    let mut head = ResponseHeader::build(refusal.status(), Some(8))?;
    head.insert_header(CONTENT_TYPE, "application/problem+json")?;
    head.insert_header(CACHE_CONTROL, "no-store")?;
    if let Some(seconds) = refusal.retry_after() {
        head.insert_header(RETRY_AFTER, seconds)?;
    }
    for challenge in exchange.route().map(|route| route.access.challenges(refusal, exchange.auth.as_ref())).unwrap_or_default() {
        head.append_header(WWW_AUTHENTICATE, challenge)?;
    }
    if let Refusal::MethodNotAllowed(allow) = refusal {
        head.insert_header(ALLOW, &**allow)?;
    }
    send(session, exchange, head, problem(refusal, exchange.id())).await
}

/// Passes on another service's answer, but for what belonged to its connection.
async fn relay(session: &mut Session, exchange: &Exchange, answered: &Answered) -> Result<()> {
    let mut head = ResponseHeader::build(answered.status, Some(8))?;
    let nominated = nominated(&answered.headers);
    let ends_here = |name: &HeaderName| HOP_BY_HOP.contains(name) || *name == CONTENT_LENGTH || nominated.contains(name);
    for (name, value) in answered.headers.iter().filter(|(name, _)| !ends_here(name)) {
        head.append_header(name.clone(), value.clone())?;
    }
    send(session, exchange, head, Bytes::copy_from_slice(&answered.body)).await
}

/// What a browser or a program reads: never an endpoint, a file or a secret.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[Flaw]>::is_empty")]
    errors: &'a [Flaw],
}

fn problem(refusal: &Refusal, request_id: &str) -> Bytes {
    let (title, status, code) = (refusal.title(), refusal.status(), refusal.code());
    let errors = match refusal {
        Refusal::BodyInvalid(flaws) => flaws,
        _ => &[][..],
    };
    let problem = Problem { r#type: "about:blank", title, status, detail: &refusal.detail(), code, request_id, errors };
    // Texts and a number can always be written.
    serde_json::to_vec(&problem).unwrap_or_default().into()
}

/// A refusal over HTTP/1.1 before there is a request to speak of; the connection ends with it.
pub struct Bare {
    pub id: HeaderValue,
    pub bytes: Bytes,
    /// How many of them are the body.
    pub body_bytes: usize,
}

impl Bare {
    pub fn new(refusal: &Refusal) -> Bare {
        let id = fresh_id();
        let text = id.to_str().unwrap_or_default();
        let body = problem(refusal, text);
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry = refusal.retry_after().map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
        let head = format!(
            "HTTP/1.1 {status}\r\nDate: {}\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\n{retry}Via: 1.1 frontdesk\r\n\
             X-Request-Id: {text}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            fmt_http_date(SystemTime::now()),
            body.len()
        );
        Bare { bytes: [head.as_bytes(), &body].concat().into(), body_bytes: body.len(), id }
    }
}

/// `application/grpc`, of any encoding; not gRPC-Web, which is another protocol.
pub fn is_grpc(session: &Session) -> bool {
    let kind = session.get_header(CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// "Trailers only": the status stands in the head.
async fn grpc(session: &mut Session, exchange: &Exchange, refusal: &Refusal) -> Result<()> {
    let mut head = ResponseHeader::build(StatusCode::OK, Some(8))?;
    head.insert_header(CONTENT_TYPE, "application/grpc")?;
    head.insert_header(GRPC_STATUS, grpc_status(refusal.status()))?;
    head.insert_header("grpc-message", refusal.code())?;
    send(session, exchange, head, Bytes::new()).await
}

/// The mapping of gRPC's documentation (http-grpc-status-mapping), with 408 and 413 added.
fn grpc_status(status: u16) -> &'static str {
    match status {
        400 | 431 => "13",
        401 => "16",
        403 => "7",
        404 | 405 => "12",
        408 | 504 => "4",
        413 => "8",
        429 | 502 | 503 => "14",
        _ => "2",
    }
}

/// Answers a preflight.
pub async fn preflight(session: &mut Session, exchange: &Exchange, cors: &Cors) -> Result<()> {
    let mut head = ResponseHeader::build(StatusCode::NO_CONTENT, Some(8))?;
    for (name, value) in cors.preflight(&session.req_header().headers) {
        head.insert_header(name, value)?;
    }
    send(session, exchange, head, Bytes::new()).await
}

/// Answers as `respond:` says.
pub async fn fixed(session: &mut Session, exchange: &Exchange, respond: &Respond) -> Result<()> {
    let mut head = ResponseHeader::build(respond.status, Some(8))?;
    let body = {
        let seen = Seen { exchange, head: session.req_header() };
        forward::apply(&mut head, &respond.headers, &seen)?;
        finish(&mut head, &seen)?;
        // The last word on its type is spoken now.
        let kind = head.headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
        respond.body(kind, &seen)
    };
    deliver(session, exchange, head, body).await
}

/// Answers as `redirect:` says.
pub async fn redirect(session: &mut Session, exchange: &Exchange, redirect: &Redirect) -> Result<()> {
    let mut head = ResponseHeader::build(redirect.status, Some(8))?;
    let seen = Seen { exchange, head: session.req_header() };
    let location = redirect.location(&seen, seen.head.uri.query());
    head.insert_header("Location", location)?;
    finish(&mut head, &seen)?;
    deliver(session, exchange, head, Bytes::new()).await
}

/// Gives an answer of the route's own what all answers have, and behind it what the route changes, as on an answer of a service.
fn finish(head: &mut ResponseHeader, seen: &Seen<'_>) -> Result<()> {
    forward::to_client(head, seen.head, seen.exchange)?;
    match seen.exchange.route() {
        Some(route) => forward::apply(head, &route.response_headers, seen),
        None => Ok(()),
    }
}

/// Sends a whole answer with what all answers have. Nothing here passes Pingora's response filters.
pub async fn send(session: &mut Session, exchange: &Exchange, mut head: ResponseHeader, body: Bytes) -> Result<()> {
    forward::to_client(&mut head, session.req_header(), exchange)?;
    deliver(session, exchange, head, body).await
}

/// Sends a whole answer whose head has all that it is to have, but what says how its body comes.
pub async fn deliver(session: &mut Session, exchange: &Exchange, mut head: ResponseHeader, body: Bytes) -> Result<()> {
    let body = compress::whole(&mut head, session.req_header(), exchange, body)?;
    // "Trailers only" has no length (gRPC over HTTP/2: clients of some languages refuse it otherwise).
    if !matches!(head.status.as_u16(), 204 | 304) && !head.headers.contains_key(GRPC_STATUS) {
        head.insert_header(CONTENT_LENGTH, body.len())?;
    }
    match is_soon_drained(session) && exchange.connection().is_some_and(|connection| !connection.is_closing()) {
        true => session.set_close_on_response_before_downstream_finish(false),
        false => {
            session.set_keepalive(None);
            if let Some(connection) = exchange.connection().filter(|_| !session.is_body_done()) {
                connection.set_lingering(LINGER);
            }
        }
    }
    if body.is_empty() || session.req_header().method == Method::HEAD {
        return match &mut *session.downstream_session {
            // Pingora's own way would end the stream with an empty DATA frame behind it.
            ServerSession::H2(h2) => h2.write_response_header(Box::new(head), true),
            _ => session.write_response_header(Box::new(head), true).await,
        };
    }
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(body), true).await
}

/// An error of the service, for the log. Pingora quotes heads that it can't read, which may hold secrets and are long.
pub fn said(e: &Error) -> String {
    match e.etype() {
        ErrorType::InvalidHTTPHeader => e.etype().as_str().to_string(),
        _ => e.to_string().chars().take(SAID_MAX).collect(),
    }
}

/// Ends a connection whose client is still sending, and reads on for a while: to close on what it sends would reset the connection
/// and take the answer along.
pub async fn linger(session: &mut Session, exchange: &Exchange) {
    session.set_keepalive(None);
    if let Some(connection) = exchange.connection().filter(|connection| !connection.is_lingering()) {
        connection.set_lingering(LINGER);
        session.downstream_session.shutdown().await;
    }
}

/// Leaves the client's connection to its next request: Pingora itself would close it behind one that failed at the service, and
/// while that is down each request would cost a handshake. The session ends with a stand-in.
pub async fn go_on(session: &mut Session, exchange: &Exchange) {
    let stand_in = ServerSession::new_http1(Box::new(Cursor::new(Vec::new())));
    let session = std::mem::replace(&mut *session.downstream_session, stand_in);
    // What can't go on is ended by this.
    if let (Ok(Some(left)), Some(connection)) = (session.finish().await, exchange.connection()) {
        connection.leave(left.into_parts().0);
    }
}

/// Whether a final answer has begun.
pub fn has_begun(session: &Session) -> bool {
    session.response_written().is_some_and(|head| !head.status.is_informational())
}

/// What the client has still to send is little enough to be read and thrown away. One that asked whether it may send its body
/// will not, and must not be waited for.
fn is_soon_drained(session: &mut Session) -> bool {
    let asked = session.get_header(EXPECT).is_some();
    session.is_body_done() || (!asked && content_length(&session.req_header().headers).is_some_and(|length| length <= DRAIN_BYTES_MAX))
}
