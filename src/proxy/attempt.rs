//! The attempts at a service: which endpoint, until when, and what became of it.

use super::deadline::{self, Phase, ms};
use super::exchange::{Attempt, Exchange};
use super::{limits, respond, strict};
use crate::compose::Line;
use crate::config::raw::HashBy;
use crate::snapshot::{Action, Fallback, ServiceEntry};
use crate::types::{Refusal, cookies};
use crate::upstream::retry::{self, Failed, Failure};
use crate::upstream::{Endpoint, Timeouts, Wanted, of_address, of_name};
use http::HeaderValue;
use http::header::{ACCEPT, SET_COOKIE};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{HttpPeer, Session};
use pingora::{Error, ErrorType};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Exchange {
    /// Picks an endpoint for another attempt.
    ///
    /// # Errors
    /// There is none to be picked.
    pub fn next_peer(&mut self, entry: &Arc<ServiceEntry>, timeouts: &Timeouts, head: &RequestHeader) -> Result<Box<HttpPeer>, Refusal> {
        let key = entry.service.hash_by.as_ref().map(|by| self.key(by, head));
        let attempt = &mut self.attempt;
        attempt.count += 1;
        match attempt.count {
            1 => {
                // What either side may be silent in for long has no other end than its client's.
                let total = timeouts.total.filter(|_| !self.is_long_lived).map_or(0, |total| deadline::now() + ms(total));
                attempt.total_due = earliest(total, self.grpc_due);
                entry.service.begin();
            }
            _ => {
                entry.metrics.retries.inc();
                self.deadline.forget();
            }
        }
        if attempt.total_due > 0 && attempt.total_due <= deadline::now() {
            return Err(Refusal::UpstreamTimeout);
        }
        // Only a second attempt has something to avoid, unless it follows one that met a stale connection.
        let was_stale = std::mem::take(&mut attempt.was_stale);
        let before = attempt.picked.take().filter(|_| !was_stale);
        attempt.tried.extend(before.map(|picked| picked.endpoint().address));
        let picked = {
            let pool = &entry.service.pool;
            let wanted = Wanted { tried: &attempt.tried, key, cookies: pool.is_sticky().then_some(&head.headers) };
            pool.pick_for(&wanted).ok_or(Refusal::NoEndpoint)?
        };
        (attempt.started, attempt.is_counted, attempt.is_answered, attempt.interim) = (Some(Instant::now()), false, false, 0);
        let mut timeouts = *timeouts;
        let try_due = entry.service.retries.per_try.filter(|_| !self.is_long_lived).map_or(0, |per_try| deadline::now() + ms(per_try));
        attempt.due = earliest(attempt.total_due, try_due);
        if let Some(left) = attempt.left() {
            timeouts.connect = timeouts.connect.min(left);
        }
        self.deadline.enter(Phase::Connect, Some(deadline::LOOK));
        let peer = entry.service.kept_peer(&picked, &timeouts);
        self.attempt.picked = Some(picked);
        Ok(peer)
    }

    /// The hash of what a request has in common with others; of the client's address where it has not what is asked for.
    fn key(&self, by: &HashBy, head: &RequestHeader) -> u64 {
        let value = match by {
            HashBy::ClientIp => None,
            HashBy::Identity => Some(self.identity_name().as_bytes()),
            HashBy::Header(name) => head.headers.get(name).map(HeaderValue::as_bytes),
            HashBy::Cookie(name) => cookies(&head.headers).find(|(known, _)| known == name).map(|(_, value)| value.as_bytes()),
        };
        value.filter(|value| !value.is_empty()).map_or_else(|| of_address(self.origin.client_ip), of_name)
    }

    /// What brings the client back to the endpoint that has answered, where that is wanted.
    pub fn stick(&self, head: &mut ResponseHeader) -> pingora::Result<()> {
        let Some((entry, picked)) = self.service().map(|(entry, _)| entry).zip(self.attempt.picked.as_ref()) else { return Ok(()) };
        match entry.service.pool.cookie(picked, self.is_tls()) {
            Some(field) => head.append_header(SET_COOKIE, field).map(drop),
            None => Ok(()),
        }
    }

    /// Asks the service's breaker and takes a place at it, once; goes to the service that takes its place if there is one.
    ///
    /// # Errors
    /// Nothing is sent to it now.
    pub async fn enter_service(&mut self) -> Result<(), Refusal> {
        while !self.attempt.has_asked {
            let Some((entry, _)) = self.service() else { return Ok(()) };
            match entry.service.admit().map_err(Refusal::BreakerOpen) {
                Ok(admitted) => (self.attempt.admitted, self.attempt.has_asked) = (admitted, true),
                Err(refusal) if self.fall_back(&refusal) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        limits::enter_service(self).await
    }

    /// Goes to the service that takes the place of one to which nothing can be sent, if there is one.
    pub fn fall_back(&mut self, refusal: &Refusal) -> bool {
        let is_for_it = matches!(refusal, Refusal::BreakerOpen(_) | Refusal::NoEndpoint) && self.detour.is_none();
        let Some((entry, _)) = self.service().filter(|_| is_for_it) else { return false };
        let Some(Fallback::Service(place)) = entry.fallback else { return false };
        let Some(Action::Forward(forward)) = self.route().map(|route| &route.action) else { return false };
        let Some(other) = self.snapshot.services.get(place) else { return false };
        self.detour = Some(Box::new((other.clone(), forward.timeouts(&other.service))));
        self.attempt = Attempt::default();
        // It takes none where it does not go.
        self.pass_of_service = None;
        true
    }

    /// How long a service that shares its connection may be silent, where Pingora sees to it. One wait of that kind holds for the
    /// head and for each piece of the body alike; what is due is the head, so a body has to come without longer pauses.
    pub fn silence(&self, read: Duration, head: &RequestHeader) -> Option<Duration> {
        let left = self.attempt.left();
        let wants_events = || head.headers.get(ACCEPT).is_some_and(|kinds| kinds.as_bytes().starts_with(b"text/event-stream"));
        match (self.is_long_lived, left) {
            (true, left) => left,
            (false, Some(left)) if !wants_events() => Some(read.min(left)),
            (false, _) => Some(read),
        }
    }

    /// Waits for a while before another attempt, where one has failed.
    pub async fn pause(&mut self) {
        if let Some(pause) = self.attempt.pause.take() {
            self.deadline.enter(Phase::Connect, Some(deadline::LOOK));
            Box::pin(tokio::time::sleep(pause)).await;
        }
    }

    /// The endpoint of this attempt, for log and metrics.
    pub fn endpoint_label(&self) -> &str {
        self.attempt.picked.as_ref().map_or("", |picked| &picked.endpoint().label)
    }

    /// Waits for whoever owes us something next: the client its body, else the service its answer.
    pub fn await_upstream(&mut self) {
        let Some((entry, timeouts)) = self.service() else { return };
        let body_timeout = self.snapshot.server.timeouts.request_body.0;
        if self.is_long_lived || (entry.service.is_h2 && self.body.is_done) {
            return self.deadline.enter(Phase::Busy, None);
        }
        if !self.body.is_done {
            // Over HTTP/1 Pingora's own read timeout sees to it, and answers 408.
            let body_timeout = self.is_h2.then_some(body_timeout);
            return self.deadline.enter(Phase::Body, body_timeout);
        }
        let silence = deadline::now() + ms(timeouts.read);
        let due = match (self.attempt.is_answered, self.attempt.due) {
            (true, _) | (_, 0) => silence,
            (false, due) => silence.min(due),
        };
        self.deadline.enter_until(Phase::Upstream, due);
    }

    /// An answer that is not the last one.
    ///
    /// # Errors
    /// There were too many of them.
    pub fn interim(&mut self) -> Result<(), Box<Error>> {
        self.attempt.interim += 1;
        match self.attempt.interim > strict::INTERIM_MAX {
            true => Err(Error::explain(ErrorType::InvalidHTTPHeader, "interim answers without end").into_up()),
            false => Ok(()),
        }
    }

    /// More of the client's body is here.
    ///
    /// # Errors
    /// It is larger than the route allows, or drips. Over HTTP/1 that is seen where it is read.
    pub fn take_in(&mut self, bytes: usize, is_end: bool) -> Result<(), Refusal> {
        self.body.bytes += bytes as u64;
        self.body.is_done = is_end;
        if let Some(waits) = self.waits.as_mut().filter(|_| is_end) {
            waits.sent();
        }
        let pace = if self.is_h2 { self.body.pace.go_on(bytes) } else { u64::MAX };
        let bounds = self.route().map(|route| (route.body_bytes_max, route.body_rate_min));
        let Some((max, rate_min)) = bounds.filter(|_| !self.is_long_lived) else { return Ok(()) };
        if max.is_some_and(|max| self.body.bytes > max) {
            return Err(Refusal::BodyTooLarge);
        }
        if pace < rate_min && !is_end {
            return Err(Refusal::RequestTimeout);
        }
        self.body.pace.wait();
        Ok(())
    }

    /// The head of the answer is here.
    ///
    /// # Errors
    /// It is a failure, and another attempt is to be made.
    pub fn answered(&mut self, session: &Session, status: u16) -> Result<(), Box<Error>> {
        let failure = Failure::of_status(status);
        self.count_answer(failure);
        if let Some(failure) = failure
            && self.may_go_on(session, failure, false)
        {
            self.attempt.is_rejected = true;
            return Err(Error::explain(ErrorType::HTTPStatus(status), "answered with a failure").into_up());
        }
        self.settle(status);
        Ok(())
    }

    /// The head of a failure is here, in whose stead something else is given.
    pub fn stood_in(&mut self, status: u16) {
        self.count_answer(Failure::of_status(status));
        self.settle(status);
    }

    /// No other attempt follows.
    fn settle(&mut self, status: u16) {
        self.attempt.is_answered = true;
        self.end_admission(status >= 500);
        if let Some(waits) = self.waits.take() {
            waits.answered();
        }
        self.await_upstream();
    }

    /// What the answer says of the endpoint.
    pub fn count_answer(&mut self, failure: Option<Failure>) {
        let took = self.attempt.elapsed();
        (self.attempt.upstream, self.attempt.is_counted) = (took, true);
        if let Some((line, endpoint)) = self.line() {
            line.answered(endpoint, failure, took);
        }
    }

    /// The service, and the endpoint of this attempt.
    fn line(&self) -> Option<(Line<'_>, &Endpoint)> {
        let (entry, timeouts) = self.service()?;
        let endpoint: &Endpoint = self.attempt.picked.as_ref()?.endpoint();
        Some((entry.line(timeouts), endpoint))
    }

    /// All of the answer is here.
    pub fn upstream_done(&mut self) {
        self.attempt.upstream = self.attempt.elapsed();
        // A service that answers before it has heard all may take the rest for another request: it gets no more of it, nor is its connection
        // used again. The same where bytes that are no answer may follow.
        if !self.body.is_done || self.attempt.leaves_more {
            self.deadline.cut_upstream();
        }
        self.deadline.set_upstream(None);
        match self.body.is_done {
            true => self.deadline.enter(Phase::Busy, None),
            false => self.await_upstream(),
        }
    }

    /// An attempt failed: says whether another may be made.
    pub fn failed(&mut self, session: &Session, mut e: Box<Error>, while_connecting: bool) -> Box<Error> {
        self.deadline.set_upstream(None);
        let is_late = self.deadline.upstream_was_late();
        if std::mem::take(&mut self.attempt.is_rejected) {
            // That was decided, and counted, when its head came.
            e.set_retry(true);
            return e;
        }
        e.set_retry(false);
        if !(retry::is_upstream(&e) || while_connecting) {
            return e;
        }
        let failure = if is_late { Failure::Timeout } else { Failure::of(&e) };
        let is_replayable = !session.as_ref().retry_buffer_truncated();
        let method = &session.req_header().method;
        // A connection that the service closed while it rested is no failure of the service.
        let could_be_stale =
            !while_connecting && self.attempt.is_reused && failure == Failure::Reset && is_replayable && method.is_idempotent();
        // Twice in a row it is the service's own doing.
        let is_stale = could_be_stale && self.attempt.stale == 0 && !respond::has_begun(session);
        self.attempt.was_stale = is_stale;
        self.attempt.stale += usize::from(is_stale);
        let is_to_blame = !is_stale && !self.is_impatience(failure);
        self.count_failure(failure, is_to_blame);
        let may = is_stale || self.may_go_on(session, failure, while_connecting);
        e.set_retry(may);
        self.attempt.upstream = self.attempt.elapsed();
        if !may && is_to_blame && failure.is_endpoints() {
            self.end_admission(true);
        }
        if let Some(waits) = self.waits.take_if(|_| !may) {
            waits.answered();
        }
        self.deadline.enter(Phase::Busy, None);
        e
    }

    /// The request is over: a service that nothing is known of yet was waited for until now, and the client was not to wait longer.
    pub fn give_up(&mut self) {
        if self.attempt.started.is_some() && !self.attempt.is_counted {
            self.attempt.upstream = self.attempt.elapsed();
            if let Some((line, endpoint)) = self.line() {
                line.given_up(endpoint);
            }
        }
    }

    /// Tells the service's breaker, if there is one, what became of the request.
    pub fn end_admission(&mut self, is_error: bool) {
        if let Some(admitted) = self.attempt.admitted.take() {
            admitted.end(is_error, self.attempt.upstream);
        }
    }

    /// What a failure says of the endpoint.
    pub fn count_failure(&mut self, failure: Failure, is_to_blame: bool) {
        self.attempt.is_counted = true;
        if let Some((line, endpoint)) = self.line() {
            line.failed(endpoint, failure, is_to_blame);
        }
    }

    /// The client gave the service no more time: that says nothing of the service.
    fn is_impatience(&self, failure: Failure) -> bool {
        // A clock tells the time to a few milliseconds.
        const TICK: u64 = 10;
        failure == Failure::Timeout && self.grpc_due > 0 && deadline::now() + TICK >= self.grpc_due
    }

    /// Whether another attempt may be made after a failure; the pause before it is noted.
    pub fn may_go_on(&mut self, session: &Session, failure: Failure, while_connecting: bool) -> bool {
        let Some((entry, timeouts)) = self.service() else { return false };
        let head = session.req_header();
        let attempts = self.attempt.count.saturating_sub(self.attempt.stale);
        let failed = Failed {
            failure,
            while_connecting,
            method: &head.method,
            headers: &head.headers,
            attempts,
            is_replayable: !session.as_ref().retry_buffer_truncated(),
        };
        let retries = &entry.service.retries;
        let pause = retries.pause(attempts);
        let total_due = self.attempt.total_due;
        let is_in_time = total_due == 0 || deadline::now() + ms(pause) < total_due;
        let may = !respond::has_begun(session) && is_in_time && entry.line(timeouts).may_retry(&failed);
        self.attempt.pause = (may && !pause.is_zero()).then_some(pause);
        may
    }
}

/// The earlier of two points in `deadline::now()`'s time; 0 is never.
fn earliest(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, due) | (due, 0) => due,
        _ => a.min(b),
    }
}
