//! The story of a request: Pingora's hooks, in the order in which they are called. Control flow only; what is done stands in
//! the rooms that are called.

pub mod account;
mod admit;
mod arrive;
mod attempt;
mod caching;
mod challenge;
mod collect;
mod compose;
mod compress;
pub mod connection;
pub mod deadline;
mod depart;
pub mod difference;
mod exchange;
pub mod explain;
mod explain_cache;
pub mod forget;
mod forward;
mod grpc;
mod hit;
mod limits;
mod loosened;
mod mirror;
pub mod pace;
pub mod question;
pub mod rehearse;
pub mod respond;
mod shaped;
mod shaping;
mod steps;
pub mod strict;
mod tunnel;
pub mod watch;

pub use exchange::Exchange;

use crate::observe::Metrics;
use crate::snapshot::Snapshot;
use crate::upstream::keepalive::{self, Keepalive};
use crate::upstream::retry;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::cache::key::HashBinary;
use pingora::cache::{CacheKey, CacheMeta, ForcedFreshness, HitHandler, RespCacheable};
use pingora::connectors::TransportConnector;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::prelude::*;
use pingora::protocols::Digest;
use pingora::proxy::FailToProxy;
use std::os::fd::RawFd;
use std::sync::Arc;
use steps::{decline, fail, is_preflight, preflight, refuse};

/// The gateway as Pingora sees it.
pub struct Gateway {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub metrics: Arc<Metrics>,
    /// Connections of tunnels, which are never reused.
    pub tunnels: TransportConnector,
    /// Connections of the calls that are composed, and of copies.
    pub calls: Connector<Keepalive>,
    pub copies: Arc<Connector>,
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
        if exchange.is_background() {
            return Ok(false);
        }
        if challenge::is_one(session, exchange) && Box::pin(challenge::answer(session, exchange)).await? {
            return Ok(true);
        }
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

    fn allow_spawning_subrequest(&self, _: &Session, exchange: &Box<Exchange>) -> bool {
        !exchange.snapshot.caches.is_empty()
    }

    fn request_cache_filter(&self, session: &mut Session, exchange: &mut Box<Exchange>) -> Result<()> {
        caching::begin(session, exchange);
        Ok(())
    }

    fn cache_key_callback(&self, _: &Session, exchange: &mut Box<Exchange>) -> Result<CacheKey> {
        caching::key::key(exchange)
    }

    fn cache_vary_filter(&self, meta: &CacheMeta, exchange: &mut Box<Exchange>, head: &RequestHeader) -> Option<HashBinary> {
        caching::key::vary(meta, exchange, head)
    }

    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        _: &CacheMeta,
        found: &mut HitHandler,
        _: bool,
        exchange: &mut Box<Exchange>,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(caching::found(session, found, exchange))
    }

    /// Behind the cache, which needs no service for what it has.
    async fn proxy_upstream_filter(&self, session: &mut Session, exchange: &mut Box<Exchange>) -> Result<bool> {
        match self.ask(session.cache.enabled(), exchange).await {
            Ok(()) => Ok(true),
            Err(refusal) => Box::pin(decline(session, exchange, refusal)).await.map(|_| false),
        }
    }

    fn response_cache_filter(&self, session: &Session, head: &ResponseHeader, exchange: &mut Box<Exchange>) -> Result<RespCacheable> {
        Ok(caching::keep(session, head, exchange))
    }

    fn should_serve_stale(&self, _: &mut Session, exchange: &mut Box<Exchange>, error: Option<&Error>) -> bool {
        caching::stands_in(exchange, error)
    }

    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Box<Exchange>) -> Result<Box<HttpPeer>> {
        let peer = match self.peer(session.req_header(), exchange).await {
            Ok(peer) => peer,
            Err(refusal) => return refuse(exchange, refusal),
        };
        steps::begin_attempt(session, exchange);
        Ok(peer)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        is_reused: bool,
        _peer: &HttpPeer,
        socket: RawFd,
        digest: Option<&Digest>,
        exchange: &mut Box<Exchange>,
    ) -> Result<()> {
        let is_shared = exchange.service().is_none_or(|(entry, _)| entry.service.is_h2);
        exchange.deadline.set_upstream((!is_shared).then_some(socket));
        exchange.attempt.is_reused = is_reused || keepalive::is_reused(digest);
        exchange.await_upstream();
        Ok(())
    }

    async fn upstream_request_filter(&self, session: &mut Session, head: &mut RequestHeader, exchange: &mut Box<Exchange>) -> Result<()> {
        depart::depart(session, head, exchange).await.map(|()| mirror::begin(session.req_header(), head, exchange))
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Box<Exchange>,
    ) -> Result<()> {
        // An empty last chunk would end a chunked body twice, and spoil the connection.
        body.take_if(|body| end && body.is_empty());
        if let Err(refusal) = exchange.take_in(body.as_ref().map_or(0, Bytes::len), end) {
            return refuse(exchange, refusal);
        }
        exchange.await_upstream();
        shaping::request(body, end, session.req_header(), exchange).map(|()| mirror::take(exchange, body.as_ref()))
    }

    async fn upstream_response_filter(&self, session: &mut Session, head: &mut ResponseHeader, exchange: &mut Box<Exchange>) -> Result<()> {
        exchange.attempt.leaves_more = strict::response(head)?;
        if head.status.is_informational() {
            exchange.interim()?;
            return caching::interim(session, head, exchange).await;
        }
        exchange.is_long_lived |= steps::is_event_stream(head);
        exchange.answered(session, head.status.as_u16())?;
        caching::answered(session, head, exchange);
        if strict::is_head_only(session, head) {
            exchange.upstream_done();
        }
        Ok(())
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
        caching::told::tell(session, head, exchange)?;
        steps::finish_head(session, head, exchange)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Box<Exchange>,
    ) -> Result<Option<std::time::Duration>> {
        let end = end || caching::is_end(session, body, exchange);
        shaped::go_on(body, end, session.req_header(), exchange)?;
        compress::go_on(body, end, exchange).map(|()| None)
    }

    async fn response_trailer_filter(
        &self,
        session: &mut Session,
        _: &mut http::HeaderMap,
        exchange: &mut Box<Exchange>,
    ) -> Result<Option<Bytes>> {
        let mut body = None;
        let is_held = shaped::end(&mut body, session.req_header(), exchange)?;
        compress::go_on(&mut body, true, exchange).map(|()| body.or(is_held.then(Bytes::new)))
    }

    fn fail_to_connect(&self, session: &mut Session, _: &HttpPeer, exchange: &mut Box<Exchange>, e: Box<Error>) -> Box<Error> {
        exchange.failed(session, e, true)
    }

    fn error_while_proxy(&self, _: &HttpPeer, session: &mut Session, e: Box<Error>, exchange: &mut Box<Exchange>, _: bool) -> Box<Error> {
        let e = exchange.failed(session, e, false);
        if e.retry() {
            caching::again(session);
        }
        e
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, exchange: &mut Box<Exchange>) -> FailToProxy {
        fail(session, e, exchange).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Box<Exchange>) {
        exchange.deadline.set_upstream(None);
        shaped::finish(session, exchange, error.is_some()).await;
        account::finish(session, exchange);
        mirror::send(exchange, &self.copies);
        if exchange.goes_on {
            Box::pin(respond::go_on(session, exchange)).await;
        } else if !exchange.is_h2 && exchange.attempt.is_answered && !session.as_mut().is_body_done() {
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
