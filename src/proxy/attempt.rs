//! The attempts at a service: which endpoint, until when, and what became of it.

use super::deadline::{self, Phase, ms};
use super::exchange::Exchange;
use super::respond;
use crate::snapshot::ServiceEntry;
use crate::types::Refusal;
use crate::upstream::retry::{self, Failure};
use crate::upstream::{Picked, Timeouts};
use pingora::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Exchange {
    /// Picks an endpoint for another attempt.
    pub fn next_peer(&mut self, entry: &Arc<ServiceEntry>, timeouts: &Timeouts) -> HttpPeer {
        let attempt = &mut self.attempt;
        attempt.count += 1;
        match attempt.count {
            1 => attempt.total_due = timeouts.total.map_or(0, |total| deadline::now() + ms(total)),
            _ => entry.metrics.retries.inc(),
        }
        // Only a second attempt has something to avoid.
        attempt.tried.extend(attempt.picked.as_ref().map(|picked| picked.endpoint().address));
        let picked = entry.service.pool.pick(&attempt.tried);
        (attempt.started, attempt.is_answered, attempt.interim) = (Some(Instant::now()), false, 0);
        let mut timeouts = *timeouts;
        if attempt.total_due > 0 {
            let left = attempt.total_due.saturating_sub(deadline::now()).max(1);
            timeouts.connect = timeouts.connect.min(Duration::from_millis(left));
        }
        self.deadline.enter(Phase::Connect, Some(deadline::LOOK));
        let attempt = &mut self.attempt;
        let peer = entry.service.peer(&picked, &timeouts);
        attempt.picked = Some(picked);
        peer
    }

    /// The endpoint of this attempt, for log and metrics.
    pub fn endpoint_label(&self) -> &str {
        self.attempt.picked.as_ref().map_or("", |picked| &picked.endpoint().label)
    }

    /// Its place in the pool.
    pub fn endpoint_index(&self) -> usize {
        self.attempt.picked.as_ref().map_or(usize::MAX, Picked::index)
    }

    /// Waits for whoever owes us something next: the client its body, else the service its answer.
    pub fn await_upstream(&mut self) {
        let Some((entry, timeouts)) = self.service() else { return };
        let body_timeout = self.snapshot.server.timeouts.request_body;
        if self.is_long_lived || (entry.service.is_h2 && self.body.is_done) {
            return self.deadline.enter(Phase::Busy, None);
        }
        if !self.body.is_done {
            // Over HTTP/1 Pingora's own read timeout sees to it, and answers 408.
            let body_timeout = self.is_h2.then_some(body_timeout);
            return self.deadline.enter(Phase::Body, body_timeout);
        }
        let silence = deadline::now() + ms(timeouts.read);
        let due = match (self.attempt.is_answered, self.attempt.total_due) {
            (true, _) | (_, 0) => silence,
            (false, total) => silence.min(total),
        };
        self.deadline.enter_until(Phase::Upstream, due);
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
    pub fn answered(&mut self) {
        self.attempt.is_answered = true;
        let took = self.attempt.elapsed();
        if let Some((entry, _)) = self.service() {
            entry.metrics.answered(self.endpoint_index(), took);
        }
        self.attempt.upstream = took;
        if let Some(waits) = self.waits.take() {
            waits.answered();
        }
        self.await_upstream();
    }

    /// All of the answer is here.
    pub fn upstream_done(&mut self) {
        self.attempt.upstream = self.attempt.elapsed();
        self.deadline.set_upstream(None);
        match self.body.is_done {
            true => self.deadline.enter(Phase::Busy, None),
            false => self.await_upstream(),
        }
    }

    /// An attempt failed: says whether another may be made.
    pub fn failed(&mut self, session: &Session, mut e: Box<Error>, while_connecting: bool, is_reused: bool) -> Box<Error> {
        self.deadline.set_upstream(None);
        let is_late = self.deadline.upstream_was_late();
        e.set_retry(false);
        if !(retry::is_upstream(&e) || while_connecting) {
            return e;
        }
        let failure = if is_late { Failure::Timeout } else { Failure::of(&e) };
        if let Some((entry, _)) = self.service() {
            entry.metrics.failed(self.endpoint_label(), failure.name());
        }
        let is_replayable = !session.as_ref().retry_buffer_truncated();
        let method = &session.req_header().method;
        // A connection that the service closed while it rested is no failure of the service.
        let could_be_stale = is_reused && failure == Failure::Reset && is_replayable && method.is_idempotent();
        // Twice in a row it is the service's own doing.
        let is_stale = could_be_stale && !std::mem::replace(&mut self.attempt.was_stale, could_be_stale);
        let may = is_stale || retry::may_retry(failure, while_connecting, method, self.attempt.count, is_replayable);
        let in_time = self.attempt.total_due == 0 || deadline::now() < self.attempt.total_due;
        e.set_retry(may && in_time && !respond::has_begun(session) && !is_late);
        self.attempt.upstream = self.attempt.elapsed();
        if let Some(waits) = self.waits.take_if(|_| !e.retry()) {
            waits.answered();
        }
        self.deadline.enter(Phase::Busy, None);
        e
    }
}
