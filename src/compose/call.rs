//! One call: the attempts at a service, over the same pools and connectors as any request.

use super::outcome::{Failed, Found, read};
use super::plan::Call;
use super::run::Desk;
use crate::auth::Answered;
use crate::limit::{Cap, Held};
use crate::observe::ServiceMetrics;
use crate::types::Refusal;
use crate::upstream::retry::{self, Failure};
use crate::upstream::{Picked, Service, Timeouts};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderName, HeaderValue, Method};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::Peer;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Interim answers that a service may send before its answer.
const INTERIM_MAX: u32 = 100;
/// Of an answer that is a failure and is not passed on, for the connection's sake.
const DRAIN_BYTES_MAX: u64 = 64 << 10;

/// The service of a call.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub service: &'a Service,
    pub metrics: &'a ServiceMetrics,
    pub cap: Option<&'a Cap>,
    pub timeouts: Timeouts,
}

/// A call with its values put in.
#[derive(Debug)]
pub struct Draft<'a> {
    /// The call's place.
    pub call: usize,
    pub method: &'a Method,
    /// Path and query.
    pub target: String,
    /// Fields of the client that go along.
    pub passed: &'a [HeaderName],
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON.
    pub body: Option<Bytes>,
}

/// How far the attempts have come: what is dropped at a deadline leaves this behind.
#[derive(Debug, Default)]
struct Tries {
    count: usize,
    tried: Vec<SocketAddr>,
    picked: Option<Picked>,
    was_stale: bool,
}

/// Makes a call within `limit`, and answers how many attempts it took.
pub(super) async fn make(desk: &dyn Desk, call: &Call, draft: &Draft<'_>, limit: Duration) -> (Result<Found, Failed>, usize) {
    let line = desk.line(draft.call);
    let mut tries = Tries::default();
    let made = pingora_timeout::timeout(limit, enter(desk, call, draft, line, &mut tries)).await;
    let found = made.unwrap_or_else(|_| {
        if let Some(picked) = &tries.picked {
            line.metrics.failed(&picked.endpoint().label, Failure::Timeout.name());
        }
        Err(Failed::Refused(Refusal::UpstreamTimeout))
    });
    (found, tries.count)
}

/// Waits for a place at the service, where there are only so many.
async fn enter(desk: &dyn Desk, call: &Call, draft: &Draft<'_>, line: Line<'_>, tries: &mut Tries) -> Result<Found, Failed> {
    let full = || Failed::Refused(Refusal::TooManyInFlight);
    let _pass = match line.cap {
        None => None,
        Some(cap) => match cap.enter() {
            None if cap.has_queue() => Some(cap.wait().await.ok_or_else(full)?),
            pass => Some(pass.ok_or_else(full)?),
        },
    };
    loop {
        tries.count += 1;
        if tries.count > 1 {
            line.metrics.retries.inc();
        }
        tries.tried.extend(tries.picked.take().map(|picked| picked.endpoint().address));
        let picked = line.service.pool.pick(&tries.tried);
        let peer = line.service.peer(&picked, &line.timeouts);
        let tried = Try { desk, call, draft, line, index: picked.index() };
        let label = picked.endpoint().label.clone();
        tries.picked = Some(picked);
        let e = match desk.connector().get_http_session(&peer).await {
            Err(e) => Stumble { e: e.into_up(), while_connecting: true, is_reused: false },
            Ok((session, is_reused)) => match tried.ask(session, &peer).await {
                Ok(found) => {
                    tries.picked = None;
                    return found;
                }
                Err(e) => Stumble { e, while_connecting: false, is_reused },
            },
        };
        let failure = Failure::of(&e.e);
        line.metrics.failed(&label, failure.name());
        log::warn!("{} at {label}: {}", call.name, e.e.etype().as_str());
        if !e.may_retry(failure, draft.method, tries) {
            return Err(Failed::Refused(failure.refusal()));
        }
    }
}

/// An attempt that failed.
struct Stumble {
    e: Box<Error>,
    while_connecting: bool,
    is_reused: bool,
}

impl Stumble {
    /// As for any request: see `proxy::attempt`. A call's body is always there to be sent again.
    fn may_retry(&self, failure: Failure, method: &Method, tries: &mut Tries) -> bool {
        let could_be_stale = self.is_reused && failure == Failure::Reset && method.is_idempotent();
        let is_stale = could_be_stale && !std::mem::replace(&mut tries.was_stale, could_be_stale);
        is_stale || retry::may_retry(failure, self.while_connecting, method, tries.count, true)
    }
}

/// One attempt.
struct Try<'a> {
    desk: &'a dyn Desk,
    call: &'a Call,
    draft: &'a Draft<'a>,
    line: Line<'a>,
    /// The endpoint's place in the pool.
    index: usize,
}

impl Try<'_> {
    /// Sends the call and reads what comes. The outer error is one of the connection.
    async fn ask<P: Peer + Send + Sync + 'static>(&self, mut session: HttpSession, peer: &P) -> Result<Result<Found, Failed>> {
        let started = Instant::now();
        session.set_read_timeout(Some(self.line.timeouts.read));
        session.set_write_timeout(Some(self.line.timeouts.write));
        send(&mut session, Box::new(self.desk.head(self.draft)?), self.draft.body.clone()).await.map_err(|e| e.into_up())?;
        let head = answered(&mut session, self.desk).await.map_err(|e| e.into_up())?;
        self.line.metrics.answered(self.index, started.elapsed());
        let is_passed_on = matches!(self.call.rule, super::Rule::Required { passes: true });
        let max = if head.status.is_success() || is_passed_on { self.call.body_bytes_max } else { DRAIN_BYTES_MAX };
        let mut held = self.desk.hold();
        let body = match body(&mut session, &head, max, &mut held).await.map_err(|e| e.into_up())? {
            Ok(body) => body,
            Err(failed) => {
                session.shutdown().await;
                // What is too much of a failure changes nothing about it.
                return Ok(if head.status.is_success() { Err(failed) } else { Err(failure(head, Bytes::new())) });
            }
        };
        self.desk.connector().release_http_session(session, peer, peer.idle_timeout()).await;
        if !head.status.is_success() {
            return Ok(Err(failure(head, body)));
        }
        let is_coded = head.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding.as_bytes() != b"identity");
        let body = if is_coded { None } else { read(body) };
        Ok(match body {
            Some(body) => {
                let (status, headers) = (head.status.as_u16(), head.headers.clone());
                Ok(Found { status, headers, body, held })
            }
            None => Err(Failed::Unusable("not_json")),
        })
    }
}

fn failure(head: ResponseHeader, body: Bytes) -> Failed {
    Failed::Answered(Box::new(Answered { status: head.status, headers: head.headers.clone(), body: body.to_vec() }))
}

async fn send(session: &mut HttpSession, head: Box<RequestHeader>, body: Option<Bytes>) -> Result<()> {
    match session {
        HttpSession::H2(h2) => h2.write_request_header(head, body.is_none())?,
        _ => session.write_request_header(head).await?,
    }
    if let Some(body) = body {
        session.write_request_body(body, true).await?;
        session.finish_request_body().await?;
    }
    Ok(())
}

/// The final head.
async fn answered(session: &mut HttpSession, desk: &dyn Desk) -> Result<ResponseHeader> {
    for _ in 0..INTERIM_MAX {
        session.read_response_header().await?;
        match session.response_header() {
            Some(head) if head.status.is_informational() && head.status != 101 => {}
            Some(head) => {
                let mut head = head.clone();
                desk.accept(&mut head)?;
                return Ok(head);
            }
            None => break,
        }
    }
    Error::e_explain(ErrorType::InvalidHTTPHeader, "no answer to a call")
}

/// The whole body. The inner error is a body that is too large, or one too many.
async fn body(session: &mut HttpSession, head: &ResponseHeader, max: u64, held: &mut Held) -> Result<Result<Bytes, Failed>> {
    let announced = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > max) {
        return Ok(Err(Failed::Unusable("too_large")));
    }
    let mut whole: Option<BytesMut> = None;
    let mut first = Bytes::new();
    while let Some(data) = session.read_response_body().await? {
        if held.bytes() + data.len() as u64 > max {
            return Ok(Err(Failed::Unusable("too_large")));
        }
        if held.grow(data.len()).is_err() {
            return Ok(Err(Failed::Refused(Refusal::Overloaded)));
        }
        match &mut whole {
            Some(whole) => whole.extend_from_slice(&data),
            // Most come in one piece, which is not copied.
            None if first.is_empty() => first = data,
            None => {
                let mut both = BytesMut::with_capacity(announced.unwrap_or(0).try_into().unwrap_or(0).max(first.len() + data.len()));
                both.extend_from_slice(&first);
                both.extend_from_slice(&data);
                whole = Some(both);
            }
        }
    }
    Ok(Ok(whole.map_or(first, BytesMut::freeze)))
}
