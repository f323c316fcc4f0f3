//! A request whose answer is made of several services' answers.

use super::connection::is_hung_up;
use super::deadline::{LOOK, Phase};
use super::exchange::{Exchange, Seen};
use super::steps::{decline, fits};
use super::{Gateway, forward, limits, respond, shaping, strict};
use crate::compose::{Conflict, Desk, Draft, Failed, Known, Line, Results, Rule, gather};
use crate::limit::Held;
use crate::shape::json;
use crate::shape::template::Values;
use crate::snapshot::{Action, Composition};
use crate::types::Refusal;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method};
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use pingora::protocols::http::ServerSession;
use std::time::Instant;

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
        let mut held = exchange.snapshot.server.hold();
        let body = match composition.plan.needs_body {
            false => None,
            true => match body(session, exchange, &mut held).await? {
                Ok(body) => Some(body),
                Err(refusal) => return decline(session, exchange, refusal).await,
            },
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
            Some(Ok(())) => answer(session, exchange, composition, &results).await,
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

/// The request's JSON body, whole.
async fn body(session: &mut Session, exchange: &Exchange, held: &mut Held) -> Result<Result<Bytes, Refusal>> {
    let max = exchange.route().and_then(|route| route.body_bytes_max);
    if !fits(session, max) {
        return Ok(Err(Refusal::BodyTooLarge));
    }
    shaping::ask(session, exchange).await?;
    let timeout = exchange.snapshot.server.timeouts.request_body;
    let mut whole = BytesMut::new();
    loop {
        // Over HTTP/1 Pingora's own read timeout sees to it.
        exchange.deadline.enter(Phase::Body, exchange.is_h2.then_some(timeout));
        let Some(data) = session.downstream_session.read_request_body().await? else { break };
        if max.is_some_and(|max| held.bytes() + data.len() as u64 > max) {
            return Ok(Err(Refusal::BodyTooLarge));
        }
        if held.grow(data.len()).is_err() {
            return Ok(Err(Refusal::Overloaded));
        }
        whole.extend_from_slice(&data);
    }
    exchange.deadline.enter(Phase::Busy, None);
    if whole.trim_ascii().is_empty() {
        return Ok(Ok(Bytes::from_static(json::NULL.as_bytes())));
    }
    Ok(if json::is_json(&whole) { Ok(whole.freeze()) } else { Err(Refusal::BodyInvalid) })
}

async fn answer(session: &mut Session, exchange: &mut Exchange, composition: &Composition, results: &Results<'_>) -> Result<bool> {
    let plan = &composition.plan;
    let (head, body) = {
        let known = Known { request: &Seen { exchange, head: session.req_header() }, results, item: None };
        let mut head = ResponseHeader::build(plan.status, Some(8))?;
        head.insert_header(CONTENT_TYPE, JSON)?;
        head.insert_header(SERVER_TIMING, plan.timing(results))?;
        if !results.is_complete() {
            head.insert_header(COMPLETE, HeaderValue::from_static("false"))?;
        }
        if let Some(route) = exchange.route() {
            forward::apply(&mut head, &route.response_headers, &known)?;
        }
        let rule = exchange.route().and_then(|route| route.response_body.as_ref());
        let shaped = |body: Vec<u8>| match rule {
            // What is made here is JSON.
            Some(rule) => rule.edits.apply(&body, &known).map_err(|_| Conflict),
            None => Ok(body),
        };
        (head, plan.compose(results, &known).and_then(shaped))
    };
    match body {
        Ok(body) => respond::send(session, exchange, head, body.into()).await.map(|()| true),
        Err(_) => {
            log::warn!("{}: two of the answers have the same key, and `on_conflict` is `error`", exchange.id());
            decline(session, exchange, Refusal::ComposeFailed).await
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
        Line { service: &entry.service, metrics: &entry.metrics, cap: entry.cap.as_ref(), timeouts: *timeouts }
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
            true => forward::authority_of_host(&mut head)?,
            false if !service.is_kept_alive => head.insert_header(CONNECTION, HeaderValue::from_static("close"))?,
            false => {}
        }
        Ok(head)
    }

    fn accept(&self, head: &mut ResponseHeader) -> Result<()> {
        strict::response(head)
    }

    fn connector(&self) -> &Connector {
        &self.gateway.calls
    }

    fn hold(&self) -> Held {
        self.exchange.snapshot.server.hold()
    }
}
