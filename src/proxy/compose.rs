//! A request whose answer is made of several services' answers.

mod kept;

use super::collect::Collected;
use super::connection::is_hung_up;
use super::deadline::{LOOK, Phase};
use super::exchange::{Exchange, Seen};
use super::steps::{decline, fits};
use super::{Gateway, collect, forget, forward, limits, respond, shaping, strict};
use crate::compose::{Conflict, Desk, Draft, Failed, Kept, Known, Line, Plan, Results, Rule, gather};
use crate::limit::Held;
use crate::shape::json;
use crate::shape::template::Values;
use crate::snapshot::{Action, Composition};
use crate::types::Refusal;
use crate::upstream::keepalive::Keepalive;
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method};
use kept::Wanted;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Says that something of an answer is lacking.
const COMPLETE: HeaderName = HeaderName::from_static("x-frontdesk-complete");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Gateway {
    /// Makes the calls and answers with what becomes of them.
    pub(super) async fn compose(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        // It outlives a reload, and leaves the exchange free.
        let snapshot = exchange.snapshot.clone();
        let place = exchange.route.map_or(usize::MAX, |route| route.0 as usize);
        let Some(Action::Compose(composition)) = snapshot.routes.get(place).map(|route| &route.action) else { return Ok(false) };
        let wanted = Wanted::of(session, exchange);
        match wanted.as_ref().map(|wanted| wanted.find(exchange)) {
            Some(Ok(Some(entry))) => return kept::serve(session, exchange, &entry).await.map(|()| true),
            Some(Err(refusal)) => return decline(session, exchange, refusal).await,
            Some(Ok(None)) | None => {}
        }
        let (body, _held) = match body(session, exchange, composition.plan.needs_body).await? {
            Ok(body) => body.unzip(),
            Err(refusal) => return decline(session, exchange, refusal).await,
        };
        if let Err(refusal) = limits::wait(exchange) {
            return decline(session, exchange, refusal).await;
        }
        exchange.deadline.enter(Phase::Busy, None);
        let head = session.req_header().clone();
        let mut results = Results::new(&composition.plan.calls, body);
        let started = Instant::now();
        let gathered = {
            let asker = Asker { gateway: self, exchange, head: &head, composition, seen: Seen { exchange, head: &head } };
            tokio::select! {
                gathered = gather(&composition.plan, &asker, &mut results) => Some(gathered),
                () = gone(&mut session.downstream_session) => None,
            }
        };
        exchange.attempt.upstream = started.elapsed();
        exchange.attempt.count = results.attempts();
        if let Some(waits) = exchange.waits.take() {
            waits.answered();
        }
        match gathered {
            // What was under way is cancelled with it.
            None => {
                session.set_keepalive(None);
                Ok(true)
            }
            Some(Ok(())) => answer(session, exchange, composition, &results, wanted.as_ref()).await,
            Some(Err(call)) => fail(session, exchange, composition, results, call).await,
        }
    }
}

/// Resolves when the client has gone.
async fn gone(client: &mut ServerSession) {
    match client {
        ServerSession::H1(h1) => {
            let socket = h1.stream().id();
            loop {
                tokio::time::sleep(LOOK).await;
                if is_hung_up(socket) {
                    return;
                }
            }
        }
        ServerSession::H2(h2) => drop(h2.idle().await),
        ServerSession::Subrequest(_) | ServerSession::Custom(_) => std::future::pending().await,
    }
}

/// The request's JSON body, whole, where somebody looks at it; beside it what counts it.
async fn body(session: &mut Session, exchange: &Exchange, is_needed: bool) -> Result<Result<Option<(Bytes, Collected)>, Refusal>> {
    let Some(route) = exchange.route() else { return Ok(Ok(None)) };
    let looked_at = match route.request_body.as_ref().map(|rule| shaping::collected(session, exchange, rule)) {
        Some(Err(refusal)) => return Ok(Err(refusal)),
        Some(Ok(collected)) => collected,
        None => None,
    };
    let rule = route.request_body.as_ref().filter(|_| looked_at.is_some());
    let collected = looked_at.or_else(|| is_needed.then(|| Collected::new(exchange, u64::MAX, None)));
    let Some(mut collected) = collected.map(|collected| collected.at_most(route.body_bytes_max)) else { return Ok(Ok(None)) };
    if !fits(session, route.body_bytes_max) {
        return Ok(Err(Refusal::BodyTooLarge));
    }
    if let Err(refusal) = collect::read(session, exchange, &mut collected).await? {
        return Ok(Err(refusal));
    }
    let whole = match rule {
        Some(rule) => shaping::made(&mut collected, rule, exchange, session.req_header()),
        None => collected.whole(),
    };
    Ok(whole.and_then(|whole| match whole.trim_ascii().is_empty() {
        true => Ok(Some((Bytes::from_static(json::NULL.as_bytes()), collected))),
        false if json::is_json(&whole) => Ok(Some((whole, collected))),
        false => Err(Refusal::BodyInvalid(Arc::default())),
    }))
}

async fn answer(
    session: &mut Session,
    exchange: &mut Exchange,
    composition: &Composition,
    results: &Results<'_>,
    wanted: Option<&Wanted>,
) -> Result<bool> {
    let made = made(session.req_header(), exchange, &composition.plan, results)?;
    let Some((mut head, body)) = made else { return decline(session, exchange, Refusal::ComposeFailed).await };
    forget::changed(session, &head, exchange);
    kept::keep(&mut head, &body, results.kept(), wanted, session.req_header(), exchange)?;
    respond::send(session, exchange, head, body).await.map(|()| true)
}

/// The answer, where there is one to be made.
fn made(request: &RequestHeader, exchange: &Exchange, plan: &Plan, results: &Results<'_>) -> Result<Option<(ResponseHeader, Bytes)>> {
    let known = Known { request: &Seen { exchange, head: request }, results, item: None };
    let Some(status) = plan.status(&known) else {
        log::warn!("{}: what was to become the status is none", exchange.id());
        return Ok(None);
    };
    let mut head = ResponseHeader::build(status, Some(8))?;
    head.insert_header(SERVER_TIMING, plan.timing(results))?;
    if !results.is_complete() {
        head.insert_header(COMPLETE, HeaderValue::from_static("false"))?;
    }
    // RFC 9110, 15 leaves no room for a body.
    let is_bare = matches!(status.as_u16(), 204 | 205 | 304);
    if !is_bare {
        head.insert_header(CONTENT_TYPE, JSON)?;
    }
    let route = exchange.route();
    if let Some(route) = route {
        forward::apply(&mut head, &route.response_headers, &known)?;
    }
    if is_bare {
        return Ok(Some((head, Bytes::new())));
    }
    let shaped = |body: Vec<u8>| match route.and_then(|route| route.response_body.as_ref()) {
        // What is made here is JSON.
        Some(rule) => rule.apply(body.into(), &known).map_err(|_| Conflict),
        None => Ok(Bytes::from(body)),
    };
    match plan.compose(results, &known).and_then(shaped) {
        Ok(body) => Ok(Some((head, body))),
        Err(Conflict) => {
            log::warn!("{}: two of the answers have the same key, and `on_conflict` is `error`", exchange.id());
            Ok(None)
        }
    }
}

/// A required call has failed, and so does the answer.
async fn fail(
    session: &mut Session,
    exchange: &mut Exchange,
    composition: &Composition,
    mut results: Results<'_>,
    call: usize,
) -> Result<bool> {
    let passes = matches!(composition.plan.calls[call].rule, Rule::Required { passes: true });
    let refusal = match results.take(call).map(|outcome| outcome.found) {
        Some(Err(Failed::Answered(answered))) if passes => {
            exchange.relayed = Some(answered);
            Refusal::ComposeFailed
        }
        // Whoever asks may try again later, and is told so.
        Some(Err(Failed::Refused(refusal))) if passes && matches!(refusal.status(), 503 | 504) => refusal,
        _ => Refusal::ComposeFailed,
    };
    log::info!("{}: the call `{}` failed", exchange.id(), composition.plan.calls[call].name);
    decline(session, exchange, refusal).await
}

/// The gateway, as the calls of one request see it.
struct Asker<'a> {
    gateway: &'a Gateway,
    exchange: &'a Exchange,
    /// The client's own.
    head: &'a RequestHeader,
    composition: &'a Composition,
    seen: Seen<'a>,
}

impl Desk for Asker<'_> {
    fn values(&self) -> &dyn Values {
        &self.seen
    }

    fn line(&self, call: usize) -> Line<'_> {
        let (entry, timeouts) = self.composition.get(call);
        entry.line(timeouts)
    }

    fn head(&self, draft: &Draft<'_>) -> Result<RequestHeader> {
        let service = &self.composition.get(draft.call).0.service;
        let mut head = RequestHeader::build_no_case(draft.method.clone(), draft.target.as_bytes(), Some(16))?;
        if let Some(host) = forward::host_value(self.head) {
            head.insert_header(HOST, host.into_owned())?;
        }
        let access = self.exchange.route().map(|route| &route.access);
        let credential = access.and_then(|access| access.forwarded(self.exchange.auth.as_ref()));
        for name in draft.passed.iter().chain(credential) {
            for value in self.head.headers.get_all(name) {
                head.append_header(name.clone(), value.clone())?;
            }
        }
        if !head.headers.contains_key(ACCEPT) {
            head.insert_header(ACCEPT, JSON)?;
        }
        forward::to_upstream(&mut head, self.head, self.exchange, service.host.as_ref())?;
        if let Some(route) = self.exchange.route() {
            forward::apply_to_request(&mut head, &route.request_headers, &self.seen)?;
        }
        if draft.body.is_some() {
            head.insert_header(CONTENT_TYPE, JSON)?;
        }
        for (name, value) in &draft.headers {
            head.insert_header(name.clone(), value.clone())?;
        }
        let length = draft.body.as_ref().map(Bytes::len);
        // A method that is made to carry something says that it carries nothing (RFC 9110, 8.6).
        let is_bare = length.is_none() && matches!(*draft.method, Method::POST | Method::PUT | Method::PATCH);
        if let Some(length) = length.or(is_bare.then_some(0)) {
            head.insert_header(CONTENT_LENGTH, length)?;
        }
        match service.is_h2 {
            true => forward::move_host(&mut head)?,
            false if service.closes_behind(draft.method) => head.insert_header(CONNECTION, HeaderValue::from_static("close"))?,
            false => {}
        }
        Ok(head)
    }

    fn accept(&self, head: &mut ResponseHeader) -> Result<bool> {
        strict::response(head)
    }

    fn kept(&self, head: &ResponseHeader, delay: Duration) -> Option<Kept> {
        kept::terms(head, delay, self.head, self.exchange)
    }

    fn connector(&self) -> &Connector<Keepalive> {
        &self.gateway.calls
    }

    fn hold(&self) -> Held {
        self.exchange.snapshot.server.hold()
    }
}
