//! One call: the attempts at a service, over the same pools and connectors as any request.

use super::line::Line;
use super::outcome::{Failed, Found, read};
use super::plan::Call;
use super::run::Desk;
use crate::auth::Answered;
use crate::limit::Held;
use crate::shape::decode::{Broken, Coded};
use crate::types::{Refusal, content_length};
use crate::upstream::keepalive;
use crate::upstream::retry::{self, Failure};
use crate::upstream::{Admitted, Picked, final_head};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_ENCODING;
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
    /// Those among them that met a connection that had been kept for too long.
    stale: usize,
    tried: Vec<SocketAddr>,
    picked: Option<Picked>,
    was_stale: bool,
    started: Option<Instant>,
    /// By the service's breaker, if there is one.
    admitted: Option<Admitted>,
}

/// Makes a call within `limit`, and answers how many attempts it took.
pub(super) async fn make(desk: &dyn Desk, call: &Call, draft: &Draft<'_>, limit: Duration) -> (Result<Found, Failed>, usize) {
    let line = desk.line(draft.call);
    let limit = line.timeouts.total.map_or(limit, |total| total.min(limit));
    let mut tries = Tries::default();
    let made = match desk.head(draft) {
        Ok(head) => pingora_timeout::timeout(limit, enter(Try { desk, call, draft, line, head }, &mut tries)).await,
        Err(_) => Ok(Err(Failed::Unusable("bad_target"))),
    };
    let found = made.unwrap_or_else(|_| {
        if let Some(picked) = &tries.picked {
            line.failed(picked.endpoint(), Failure::Timeout, true);
        }
        if tries.count > 0 {
            tries.end_admission(true);
        }
        Err(Failed::Refused(Refusal::UpstreamTimeout))
    });
    (found, tries.count)
}

/// Waits for a place at the service, where there are only so many, and tries as often as may be.
async fn enter(attempt: Try<'_>, tries: &mut Tries) -> Result<Found, Failed> {
    let full = || Failed::Refused(Refusal::TooManyInFlight);
    let line = attempt.line;
    tries.admitted = line.service.admit().map_err(|seconds| Failed::Refused(Refusal::BreakerOpen(seconds)))?;
    let _pass = match line.cap {
        None => None,
        Some(cap) => Some(cap.pass().await.ok_or_else(full)?),
    };
    line.service.begin();
    loop {
        tries.count += 1;
        if tries.count > 1 {
            line.metrics.retries.inc();
        }
        let picked = line.service.pool.pick(&tries.tried).ok_or(Failed::Refused(Refusal::NoEndpoint))?;
        let peer = line.service.kept_peer(&picked, &line.timeouts);
        (tries.picked, tries.started) = (Some(picked), Some(Instant::now()));
        let (failure, while_connecting, is_reused) = match attempt.desk.connector().get_http_session(&*peer).await {
            Err(e) => (Failure::of(&e), true, false),
            Ok((session, is_reused)) => {
                let is_reused = is_reused || keepalive::is_reused(session.digest());
                match attempt.within(session, &*peer, tries).await {
                    Ok(Asked::Found(found)) => return found,
                    Ok(Asked::Rejected(failure)) => (failure, false, false),
                    Err(e) => (Failure::of(&e.into_up()), false, is_reused),
                }
            }
        };
        let may = match failure {
            // It was counted when its head came.
            Failure::Status(_) => true,
            failure => tries.failed(&attempt, failure, while_connecting, is_reused),
        };
        if !may {
            if failure.is_endpoints() {
                tries.end_admission(true);
            }
            return Err(Failed::Refused(failure.refusal()));
        }
        let pause = line.service.retries.pause(tries.count - tries.stale);
        let was_stale = std::mem::take(&mut tries.was_stale);
        // What became of it is counted, whatever comes now.
        let before = tries.picked.take().filter(|_| !was_stale);
        tries.tried.extend(before.map(|picked| picked.endpoint().address));
        if !pause.is_zero() && !was_stale {
            tokio::time::sleep(pause).await;
        }
    }
}

impl Tries {
    /// Tells the service's breaker, if there is one, what became of the call.
    fn end_admission(&mut self, is_error: bool) {
        if let Some(admitted) = self.admitted.take() {
            admitted.end(is_error, self.elapsed());
        }
    }

    /// Since this attempt began.
    fn elapsed(&self) -> Duration {
        self.started.map(|at| at.elapsed()).unwrap_or_default()
    }

    /// As for any request, see `proxy::attempt`; a call's body is always there to be sent again.
    fn failed(&mut self, attempt: &Try<'_>, failure: Failure, while_connecting: bool, is_reused: bool) -> bool {
        // A connection that the service closed while it rested is no failure of the service; twice in a row it is.
        let could_be_stale = is_reused && failure == Failure::Reset && attempt.draft.method.is_idempotent();
        let is_stale = could_be_stale && self.stale == 0;
        self.was_stale = is_stale;
        self.stale += usize::from(is_stale);
        if let Some(picked) = &self.picked {
            attempt.line.failed(picked.endpoint(), failure, !is_stale);
            log::warn!("the call `{}` at {}: {}", attempt.call.name, picked.endpoint().label, failure.name());
        }
        is_stale || self.may_go_on(attempt, failure, while_connecting)
    }

    fn may_go_on(&self, attempt: &Try<'_>, failure: Failure, while_connecting: bool) -> bool {
        let (method, headers) = (attempt.draft.method, &attempt.head.headers);
        let attempts = self.count.saturating_sub(self.stale);
        let failed = retry::Failed { failure, while_connecting, method, headers, attempts, is_replayable: true };
        attempt.line.may_retry(&failed)
    }
}

/// The attempts of one call.
struct Try<'a> {
    desk: &'a dyn Desk,
    call: &'a Call,
    draft: &'a Draft<'a>,
    line: Line<'a>,
    head: RequestHeader,
}

/// What an attempt came to that had no error of the connection.
enum Asked {
    Found(Result<Found, Failed>),
    /// An answer that is a failure, and another attempt may be made.
    Rejected(Failure),
}

impl Try<'_> {
    /// One attempt, within the time for one.
    async fn within<P: Peer + Send + Sync + 'static>(&self, session: HttpSession, peer: &P, tries: &mut Tries) -> Result<Asked> {
        match self.line.service.retries.per_try {
            None => self.ask(session, peer, tries).await,
            Some(limit) => match pingora_timeout::timeout(limit, self.ask(session, peer, tries)).await {
                Ok(asked) => asked,
                Err(_) => Error::e_explain(ErrorType::ReadTimedout, "an attempt took too long"),
            },
        }
    }

    /// Sends the call and reads what comes.
    async fn ask<P: Peer + Send + Sync + 'static>(&self, mut session: HttpSession, peer: &P, tries: &mut Tries) -> Result<Asked> {
        session.set_read_timeout(Some(self.line.timeouts.read));
        session.set_write_timeout(Some(self.line.timeouts.write));
        send(&mut session, Box::new(self.head.clone()), self.draft.body.clone()).await?;
        let mut head = final_head(&mut session, INTERIM_MAX).await?;
        // Whether a body may follow that the head leaves no room for.
        let leaves_more = self.desk.accept(&mut head)?;
        let (rejected, took) = (Failure::of_status(head.status.as_u16()), tries.elapsed());
        if let Some(picked) = &tries.picked {
            self.line.answered(picked.endpoint(), rejected, took);
        }
        if let Some(failure) = rejected
            && tries.may_go_on(self, failure, false)
        {
            session.shutdown().await;
            return Ok(Asked::Rejected(failure));
        }
        tries.end_admission(head.status.is_server_error());
        let is_passed_on = matches!(self.call.rule, super::Rule::Required { passes: true });
        let max = if head.status.is_success() || is_passed_on { self.call.body_bytes_max } else { DRAIN_BYTES_MAX };
        let mut held = self.desk.hold();
        let body = match body(&mut session, &head, max, &mut held).await? {
            Ok(body) => body,
            Err(failed) => {
                session.shutdown().await;
                // What is too much of a failure changes nothing about it.
                return Ok(Asked::Found(Err(if head.status.is_success() { failed } else { failure(head, Bytes::new()) })));
            }
        };
        match leaves_more {
            true => session.shutdown().await,
            false => self.desk.connector().release_http_session(session, peer, peer.idle_timeout()).await,
        }
        if !head.status.is_success() {
            return Ok(Asked::Found(Err(failure(head, body))));
        }
        let body = decoded(body, &head, max, &mut held).and_then(|body| read(body).ok_or(Failed::Unusable("not_json")));
        let kept = self.desk.kept(&head, took).map(Box::new);
        Ok(Asked::Found(body.map(|body| Found { status: head.status.as_u16(), headers: head.headers.clone(), body, held, kept })))
    }
}

/// The body out of its coding, which nobody asked for.
fn decoded(body: Bytes, head: &ResponseHeader, max: u64, held: &mut Held) -> Result<Bytes, Failed> {
    let coding = Coded::of(head.headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes)).ok_or(Failed::Unusable("not_json"))?;
    let Some(coding) = coding else { return Ok(body) };
    let decoded = coding.decode(&body, max).map_err(|broken| match broken {
        Broken::TooLarge => Failed::Unusable("too_large"),
        Broken::Malformed => Failed::Unusable("not_json"),
    })?;
    held.grow(decoded.len()).map_err(|_| Failed::Refused(Refusal::Overloaded))?;
    Ok(decoded.into())
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

/// The whole body. The inner error is a body that is too large, or one too many.
async fn body(session: &mut HttpSession, head: &ResponseHeader, max: u64, held: &mut Held) -> Result<Result<Bytes, Failed>> {
    let announced = content_length(&head.headers);
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
