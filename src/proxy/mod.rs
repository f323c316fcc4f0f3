//! The story of a request: Pingora's hooks, in the order in which they are called. Control flow only; what is done stands in
//! the rooms that are called.

pub mod account;
mod admit;
mod arrive;
mod attempt;
mod compose;
mod compress;
pub mod connection;
pub mod deadline;
mod depart;
mod exchange;
pub mod explain;
mod forward;
mod limits;
mod mirror;
pub mod pace;
pub mod respond;
mod shaping;
mod steps;
pub mod strict;
mod tunnel;
pub mod watch;

pub use exchange::Exchange;

use crate::observe::Metrics;
use crate::snapshot::Snapshot;
use crate::types::Refusal;
use crate::upstream::retry;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use exchange::Seen;
use http::Version;
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use pingora::connectors::TransportConnector;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::prelude::*;
use pingora::protocols::Digest;
use pingora::proxy::FailToProxy;
use pingora::upstreams::peer::HttpUpstreamRequestPolicy;
use std::os::fd::RawFd;
use std::sync::Arc;
use steps::{decline, is_preflight, preflight, refusal};

/// The gateway as Pingora sees it.
pub struct Gateway {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub metrics: Arc<Metrics>,
    /// Connections of tunnels, which are never reused.
    pub tunnels: TransportConnector,
    /// Connections of the calls that are composed.
    pub calls: Connector,
    /// Connections of copies.
    pub copies: Arc<Connector>,
}

/// Refuses: the answer is written by `fail_to_proxy`.
fn refuse<T>(exchange: &mut Exchange, refusal: Refusal) -> Result<T> {
    let status = refusal.status();
    exchange.refusal = Some(refusal);
    Err(Error::explain(ErrorType::HTTPStatus(status), "refused").into_down())
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed, since Pingora moves it several times, and the futures around it with it.
    type CTX = Box<Exchange>;

    fn new_ctx(&self) -> Box<Exchange> {
        Box::new(Exchange::new(self.snapshot.load_full()))
    }

    /// No modules: what Pingora adds by default costs some and is not used.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, exchange: &mut Box<Exchange>) -> Result<()> {
        self.arrive(session, exchange)
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Box<Exchange>) -> Result<bool> {
        // What answers here is boxed, or every request would move the room that it needs.
        if let Err(refusal) = self.route(session, exchange) {
            return Box::pin(decline(session, exchange, refusal)).await;
        }
        if is_preflight(session.req_header(), exchange) {
            return Box::pin(preflight(session, exchange)).await;
        }
        let entered = match admit::admit(session.req_header(), exchange).await {
            Ok(()) => limits::enter(exchange, &session.req_header().headers).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = entered {
            return Box::pin(decline(session, exchange, refusal)).await;
        }
        self.lead(session, exchange).await
    }

    /// Behind the cache, which needs no service for what it has.
    async fn proxy_upstream_filter(&self, session: &mut Session, exchange: &mut Box<Exchange>) -> Result<bool> {
        match exchange.ask_breaker() {
            Ok(()) => Ok(true),
            // What is stale may be served then, which is decided behind a failed attempt.
            Err(_) if session.cache.enabled() => Ok(true),
            Err(refusal) => Box::pin(decline(session, exchange, refusal)).await.map(|_| false),
        }
    }

    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Box<Exchange>) -> Result<Box<HttpPeer>> {
        let (mut peer, entry, timeouts) = match self.peer(session.req_header(), exchange).await {
            Ok(found) => found,
            Err(refusal) => return refuse(exchange, refusal),
        };
        // Silence is ours to bound, see `deadline`; of a connection that several exchanges share it is Pingora's.
        peer.options.read_timeout = (entry.service.is_h2 && !exchange.is_long_lived).then_some(timeouts.read);
        if forward::is_end_to_end(&session.req_header().headers) {
            // What ends here is not there: Pingora would look for each of a dozen names.
            peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
        }
        exchange.body = exchange::Body { is_done: session.is_body_done(), ..Default::default() };
        exchange.body.pace.wait();
        shaping::again(exchange);
        Ok(Box::new(peer))
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        socket: RawFd,
        _digest: Option<&Digest>,
        exchange: &mut Box<Exchange>,
    ) -> Result<()> {
        let is_shared = exchange.service().is_none_or(|(entry, _)| entry.service.is_h2);
        exchange.deadline.set_upstream((!is_shared).then_some(socket));
        exchange.await_upstream();
        Ok(())
    }

    async fn upstream_request_filter(&self, session: &mut Session, head: &mut RequestHeader, exchange: &mut Box<Exchange>) -> Result<()> {
        depart::depart(session, head, exchange).await?;
        mirror::begin(session.req_header(), head, exchange);
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Box<Exchange>,
    ) -> Result<()> {
        // An empty last chunk would end a chunked body twice, and spoil the connection.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        if let Err(refusal) = exchange.take_in(body.as_ref().map_or(0, Bytes::len), end) {
            return refuse(exchange, refusal);
        }
        exchange.await_upstream();
        shaping::request(body, end, session.req_header(), exchange)?;
        mirror::take(exchange, body.as_ref());
        Ok(())
    }

    async fn upstream_response_filter(&self, session: &mut Session, head: &mut ResponseHeader, exchange: &mut Box<Exchange>) -> Result<()> {
        strict::response(head)?;
        if head.status.is_informational() {
            exchange.attempt.interim += 1;
            if exchange.attempt.interim > strict::INTERIM_MAX {
                return Err(Error::explain(ErrorType::InvalidHTTPHeader, "interim answers without end").into_up());
            }
            return Ok(());
        }
        if head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            exchange.is_long_lived = true;
        }
        exchange.answered(session, head.status.as_u16())
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Box<Exchange>,
    ) -> Result<Option<std::time::Duration>> {
        match end {
            true => exchange.upstream_done(),
            false => exchange.await_upstream(),
        }
        Ok(None)
    }

    async fn response_filter(&self, session: &mut Session, head: &mut ResponseHeader, exchange: &mut Box<Exchange>) -> Result<()> {
        if head.status.is_informational() {
            return Ok(());
        }
        forward::to_client(head, session.req_header(), exchange)?;
        exchange.stick(head)?;
        if let Some(route) = exchange.route() {
            forward::apply(head, &route.response_headers, &Seen { exchange, head: session.req_header() })?;
        }
        shaping::answer(head, session.req_header(), exchange)?;
        compress::begin(head, session.req_header(), exchange)?;
        // RFC 9112, 6.1: an old client knows no chunks, so the end of the connection is the end of the body.
        let is_old = session.req_header().version == Version::HTTP_10 && head.remove_header(&TRANSFER_ENCODING).is_some();
        if is_old || exchange.connection().is_some_and(|connection| connection.is_closing()) {
            session.set_keepalive(None);
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Box<Exchange>,
    ) -> Result<Option<std::time::Duration>> {
        shaping::answer_body(body, end, session.req_header(), exchange)?;
        compress::go_on(body, end, exchange).map(|()| None)
    }

    async fn response_trailer_filter(
        &self,
        session: &mut Session,
        _: &mut http::HeaderMap,
        exchange: &mut Box<Exchange>,
    ) -> Result<Option<Bytes>> {
        let mut body = None;
        shaping::answer_body(&mut body, true, session.req_header(), exchange)?;
        compress::go_on(&mut body, true, exchange).map(|()| body)
    }

    fn fail_to_connect(&self, session: &mut Session, _: &HttpPeer, exchange: &mut Box<Exchange>, e: Box<Error>) -> Box<Error> {
        exchange.failed(session, e, true, false)
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        e: Box<Error>,
        exchange: &mut Box<Exchange>,
        reused: bool,
    ) -> Box<Error> {
        exchange.failed(session, e, false, reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, exchange: &mut Box<Exchange>) -> FailToProxy {
        let refusal = exchange.refusal.take().or_else(|| refusal(e, exchange));
        let Some(refusal) = refusal else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        if e.esource() != &ErrorSource::Downstream {
            session.set_keepalive(None);
        }
        // A client that is gone by now is told nothing.
        let _ = respond::refusal(session, exchange, &refusal).await;
        if exchange.connection().is_some_and(|connection| connection.is_lingering()) {
            session.downstream_session.shutdown().await; // which waits for the client to end
        }
        let error_code = refusal.status();
        exchange.refusal = Some(refusal);
        FailToProxy { error_code, can_reuse_downstream: e.esource() == &ErrorSource::Downstream }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, exchange: &mut Box<Exchange>) {
        account::finish(session, exchange);
        mirror::send(exchange, &self.copies);
        if !exchange.is_h2 && exchange.attempt.is_answered && !session.as_mut().is_body_done() {
            // The service has answered before it heard all: the client must get to read that.
            Box::pin(respond::linger(session, exchange)).await;
        }
    }

    fn suppress_error_log(&self, _: &Session, exchange: &Box<Exchange>, e: &Error) -> bool {
        if retry::is_upstream(e) {
            log::warn!("{} at {}: {}", exchange.id(), exchange.endpoint_label(), respond::said(e));
        }
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Box<Exchange>, _: &Error, _: pingora::proxy::ProxyWarnLogContext) -> bool {
        true
    }
}
