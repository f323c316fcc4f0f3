//! Steps of the story that need more than a line.

use super::account::Begun;
use super::connection::Fault;
use super::exchange::{self, Exchange, Seen, authority};
use super::{Gateway, account, caching, compress, forward, hit, limits, respond, shaped, shaping, tunnel};
use crate::auth::cors::Cors;
use crate::route::{Outcome, Query, host, normalize};
use crate::snapshot::{Action, Route};
use crate::types::{ListenerId, Refusal, content_length};
use crate::upstream::retry::Failure;
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use http::{Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorSource, ErrorType, HttpPeer, Session};
use pingora::proxy::FailToProxy;
use pingora::upstreams::peer::HttpUpstreamRequestPolicy;
use std::borrow::Cow;

impl Gateway {
    /// Answers here, or goes on to the route's service (`false`).
    pub(super) async fn lead(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<bool> {
        match exchange.route() {
            Some(Route { action: Action::Compose(_), body_rate_min, .. }) => {
                if let Some(connection) = exchange.connection() {
                    connection.set_body_rate(*body_rate_min);
                }
                Box::pin(self.compose(session, exchange)).await
            }
            Some(Route { action: Action::Forward(..), body_bytes_max, body_rate_min, request_body: route_body, .. }) => {
                if let Some(connection) = exchange.connection() {
                    connection.set_body_rate(if exchange.is_long_lived { 0 } else { *body_rate_min });
                }
                if !fits(session, *body_bytes_max) {
                    return refuse(exchange, Refusal::BodyTooLarge);
                }
                let held = if route_body.is_some() { Box::pin(shaping::begin(session, exchange)).await? } else { Ok(()) };
                if let Err(refusal) = held {
                    return Box::pin(decline(session, exchange, refusal)).await;
                }
                match tunnel::is_wanted(session, exchange) {
                    true => Box::pin(self.tunnel(session, exchange)).await,
                    // Who waits for the service is known when no cache has the answer, see `ask`.
                    false if exchange.route().is_some_and(|route| route.cache.is_some()) => {
                        // What is looked for, and kept, goes by what the service gets to see.
                        forward::drop_nominated(session.req_header_mut());
                        Box::pin(hit::answer(session, exchange)).await
                    }
                    false => Ok(false),
                }
            }
            route => match route.is_none_or(|route| fits(session, route.body_bytes_max)) {
                true => Box::pin(answer(session, exchange)).await,
                false => refuse(exchange, Refusal::BodyTooLarge),
            },
        }
    }

    /// Nothing was found: whether the service may be asked.
    pub(super) async fn ask(&self, is_cached: bool, exchange: &mut Exchange) -> Result<(), Refusal> {
        caching::ask(exchange)?;
        match exchange.enter_service().await {
            Ok(()) if exchange.is_background() => Ok(()),
            Ok(()) => limits::wait(exchange),
            // What is stale may be served then, which is decided behind a failed attempt.
            Err(refusal) if is_cached => {
                exchange.turned_away = Some(refusal);
                Ok(())
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Carries a WebSocket.
    pub(super) async fn tunnel(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<bool> {
        exchange.is_long_lived = true;
        loop {
            // Which may send it to another service.
            if let Err(refusal) = exchange.enter_service().await {
                return decline(session, exchange, refusal).await;
            }
            let Some((entry, timeouts)) = exchange.service().map(|(entry, timeouts)| (entry.clone(), *timeouts)) else { return Ok(false) };
            match tunnel::serve(&self.tunnels, &entry, &timeouts, session, exchange).await? {
                Ok(()) => return Ok(true),
                Err(refusal) if exchange.fall_back(&refusal) => {}
                Err(refusal) => return decline(session, exchange, refusal).await,
            }
        }
    }

    /// The peer of the next attempt.
    pub(super) async fn peer(&self, head: &RequestHeader, exchange: &mut Exchange) -> Result<Box<HttpPeer>, Refusal> {
        exchange.pause().await;
        if let Some(refusal) = exchange.turned_away.take() {
            return Err(refusal);
        }
        loop {
            exchange.enter_service().await?;
            let Some((entry, timeouts)) = exchange.service().map(|(entry, timeouts)| (entry.clone(), *timeouts)) else {
                return Err(Refusal::Internal("a request without a service came to its pool"));
            };
            match exchange.next_peer(&entry, &timeouts, head) {
                Ok(mut peer) => {
                    // Silence is ours to bound, see `deadline`. Of a connection that several exchanges share it is Pingora's, and where nobody waits.
                    let is_pingoras = entry.service.is_h2 || exchange.is_background();
                    peer.options.read_timeout = exchange.silence(timeouts.read, head).filter(|_| is_pingoras);
                    if forward::is_end_to_end(&head.headers) {
                        // What ends here is not there: Pingora would look for each of a dozen names.
                        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
                    }
                    return Ok(peer);
                }
                Err(refusal) if exchange.fall_back(&refusal) => {}
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// Normalises the path and finds the route.
    pub(super) fn route(&self, session: &mut Session, exchange: &mut Exchange) -> Result<(), Refusal> {
        if session.req_header().method == Method::CONNECT {
            return Err(Refusal::MethodNotAllowed(METHODS.into()));
        }
        normalise(session.req_header_mut())?;
        let connection = exchange.connection();
        let query = query(session.req_header(), connection.map_or(ListenerId(u32::MAX), |connection| connection.listener));
        if connection.is_some_and(|connection| connection.is_misdirected(query.host)) {
            return Err(Refusal::Misdirected);
        }
        let outcome = exchange.snapshot.table.find(&query);
        take(exchange, outcome)?;
        exchange.begun = Some(Begun::new(session.req_header(), &exchange.snapshot));
        Ok(())
    }
}

/// What a gateway that is no forward proxy allows to anybody.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The request's body begins anew with each attempt.
pub(super) fn begin_attempt(session: &mut Session, exchange: &mut Exchange) {
    exchange.body = exchange::Body { is_done: session.is_body_done(), ..Default::default() };
    exchange.body.pace.wait();
    shaping::again(exchange);
}

/// Puts a path in its normal form: what is matched is what is sent on.
pub(super) fn normalise(head: &mut RequestHeader) -> Result<(), Refusal> {
    let path = match normalize::path(head.uri.path()) {
        Ok(Cow::Borrowed(_)) => return Ok(()),
        Ok(Cow::Owned(path)) => path,
        Err(_) if head.method == Method::OPTIONS && head.uri.path() == "*" => return Ok(()),
        Err(what) => return Err(Refusal::BadRequest(what)),
    };
    let target = head.uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    exchange::set_target(head, &target).map_err(|_| Refusal::BadRequest("The path can't be read."))
}

/// What of a request decides its route.
pub(super) fn query(head: &RequestHeader, listener: ListenerId) -> Query<'_> {
    Query {
        listener,
        host: host::name(authority(head)),
        path: head.uri.path(),
        parameters: head.uri.query().unwrap_or_default(),
        method: &head.method,
        headers: &head.headers,
    }
}

/// Goes on with the route that was found.
pub(super) fn take(exchange: &mut Exchange, outcome: Outcome) -> Result<(), Refusal> {
    match outcome {
        Outcome::Found(found) => {
            (exchange.route, exchange.captures) = (Some(found.id), found.captures);
            if let Some(Action::Forward(forward)) = exchange.route().map(|route| &route.action) {
                exchange.choice = forward.choose(exchange.origin.client_ip);
            }
            // What only says that it is gRPC is held to the bounds of all others.
            exchange.is_long_lived &= exchange.service().is_some_and(|(entry, _)| entry.service.is_h2);
            Ok(())
        }
        Outcome::MethodNotAllowed(allow) => Err(Refusal::MethodNotAllowed(allow)),
        Outcome::Nothing => Err(Refusal::NoRoute),
    }
}

/// Refuses: the answer is written by `fail_to_proxy`.
pub(super) fn refuse<T>(exchange: &mut Exchange, refusal: Refusal) -> pingora::Result<T> {
    let status = refusal.status();
    exchange.refusal = Some(refusal);
    Err(Error::explain(ErrorType::HTTPStatus(status), "refused").into_down())
}

/// Refuses here and now: the connection goes on.
pub(super) async fn decline(session: &mut Session, exchange: &mut Exchange, refusal: Refusal) -> pingora::Result<bool> {
    respond::refusal(session, exchange, &refusal).await?;
    exchange.refusal = Some(refusal);
    Ok(true)
}

/// A question of a browser that the route answers by itself.
pub(super) fn is_preflight(head: &RequestHeader, exchange: &Exchange) -> bool {
    exchange.route().is_some_and(|route| route.cors.is_some()) && Cors::is_preflight(&head.method, &head.headers)
}

/// Answers it, whoever asks: a browser shows no credentials with it (Fetch, 4.8).
pub(super) async fn preflight(session: &mut Session, exchange: &Exchange) -> pingora::Result<bool> {
    match exchange.route().and_then(|route| route.cors.as_ref()) {
        Some(cors) => respond::preflight(session, exchange, cors).await.map(|()| true),
        None => Ok(false),
    }
}

/// Answers as the route says by itself.
pub(super) async fn answer(session: &mut Session, exchange: &Exchange) -> pingora::Result<bool> {
    match exchange.route().map(|route| &route.action) {
        Some(Action::Respond(fixed)) => respond::fixed(session, exchange, fixed).await.map(|()| true),
        Some(Action::Redirect(redirect)) => respond::redirect(session, exchange, redirect).await.map(|()| true),
        Some(Action::Forward(..) | Action::Compose(_)) | None => Ok(false),
    }
}

/// Whether the body is announced to be no larger than `max`.
pub(super) fn fits(session: &Session, max: Option<u64>) -> bool {
    max.is_none_or(|max| content_length(&session.req_header().headers).is_none_or(|length| length <= max))
}

/// An answer that goes on for as long as there is something to tell.
pub(super) fn is_event_stream(head: &ResponseHeader) -> bool {
    head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// Makes the head of an answer the client's.
pub(super) fn finish_head(session: &mut Session, head: &mut ResponseHeader, exchange: &mut Exchange) -> pingora::Result<()> {
    forward::to_client(head, session.req_header(), exchange)?;
    exchange.stick(head)?;
    if let Some(route) = exchange.route() {
        forward::apply(head, &route.response_headers, &Seen { exchange, head: session.req_header() })?;
    }
    shaped::begin(session, head, exchange)?;
    compress::begin(head, session.req_header(), exchange)?;
    account::begins(exchange, head.status);
    end_connection(session, head, exchange);
    Ok(())
}

/// The connection ends with this answer, where it has to.
fn end_connection(session: &mut Session, head: &mut ResponseHeader, exchange: &Exchange) {
    // RFC 9112, 6.1: an old client knows no chunks, so the end of the connection is the end of the body.
    let is_old = session.req_header().version == Version::HTTP_10 && head.remove_header(&TRANSFER_ENCODING).is_some();
    if is_old || exchange.connection().is_some_and(|connection| connection.is_closing()) {
        session.set_keepalive(None);
    }
}

/// The last word to a client whose request failed.
pub(super) async fn fail(session: &mut Session, e: &Error, exchange: &mut Exchange) -> FailToProxy {
    if exchange.is_background() {
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    }
    let refusal = exchange.refusal.take().or_else(|| refusal(e, exchange));
    let Some(refusal) = refusal else {
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    };
    let is_framed =
        e.esource() != &ErrorSource::Downstream && exchange.connection().is_none_or(|connection| connection.fault() == Fault::None);
    let can_go_on = is_framed && !exchange.is_h2 && !respond::has_begun(session);
    if let Some(connection) = exchange.connection()
        && session.req_header().version == Version::HTTP_10
        && respond::has_begun(session)
    {
        // Its body may end with the connection (RFC 9112, 6.3).
        connection.break_off();
    }
    // A client that is gone by now is told nothing.
    let is_told = respond::refusal(session, exchange, &refusal).await.is_ok();
    match exchange.connection().is_some_and(|connection| connection.is_lingering()) {
        true => session.downstream_session.shutdown().await, // which waits for the client to end
        false => exchange.goes_on = is_told && can_go_on,
    }
    let error_code = refusal.status();
    exchange.refusal = Some(refusal);
    FailToProxy { error_code, can_reuse_downstream: e.esource() == &ErrorSource::Downstream }
}

/// What the client is told of an error; `None` when it is gone.
fn refusal(e: &Error, exchange: &Exchange) -> Option<Refusal> {
    match exchange.connection().map_or(Fault::None, |connection| connection.fault()) {
        Fault::None => {}
        Fault::Malformed => return Some(Refusal::BadRequest("The body's chunks are malformed.")),
        Fault::Slow => return Some(Refusal::RequestTimeout),
    }
    match e.esource() {
        _ if exchange.deadline.upstream_was_late() => Some(Refusal::UpstreamTimeout),
        ErrorSource::Upstream => Some(Failure::of(e).refusal()),
        ErrorSource::Downstream => match e.etype() {
            ErrorType::ReadTimedout => Some(Refusal::RequestTimeout),
            // The last one is a stream that the client has reset.
            ErrorType::WriteError | ErrorType::WriteTimedout | ErrorType::ReadError | ErrorType::ConnectionClosed | ErrorType::H2Error => {
                None
            }
            _ => Some(Refusal::BadRequest("The request can't be read.")),
        },
        ErrorSource::Internal | ErrorSource::Unset => Some(Refusal::Internal("an error of the proxy loop")),
    }
}
