//! Between Pingora's connections and its requests: each request runs under its deadline.

use super::stream::ClientStream;
use crate::observe::RouteMetrics;
use crate::proxy::connection::Connection;
use crate::proxy::deadline::{Deadline, Phase, ms, within};
use crate::proxy::watch::{self, Borrowed};
use crate::types::Refusal;
use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Overhead of tiny DATA frames not yet read that h2 accepts: with its own default of 25,600 it ends a gRPC stream of a
/// thousand small messages. About 17,000 frames, more than a window holds of the smallest gRPC messages.
const SMALL_FRAMES_BYTES: usize = 1 << 22;

/// Wraps an application, which is Pingora's proxy.
pub struct Requests<A> {
    app: Arc<A>,
    no_route: RouteMetrics,
    /// Milliseconds that a connection may rest between requests; a reload changes them.
    keepalive_ms: AtomicU64,
    streams_max: AtomicU32,
}

impl<A> Requests<A> {
    pub fn new(app: Arc<A>, no_route: RouteMetrics) -> Requests<A> {
        Requests { app, no_route, keepalive_ms: AtomicU64::new(60_000), streams_max: AtomicU32::new(100) }
    }

    /// What never became a request is counted and written down here.
    fn account(&self, connection: &Connection) {
        let refusal = match connection.deadline.phase() {
            _ if connection.deadline.head_was_late() => Refusal::RequestTimeout,
            Phase::Head if connection.was_answered() => Refusal::BadRequest("The request can't be read."),
            _ => return,
        };
        self.no_route.refused(&refusal);
        log::info!("{}: {}", connection.peer, refusal.code());
    }

    /// Streams at once of one HTTP/2 connection.
    pub fn set_http2(&self, streams_max: usize) {
        self.streams_max.store(u32::try_from(streams_max).unwrap_or(u32::MAX), Relaxed);
    }

    pub fn set_keepalive(&self, keepalive: Duration) {
        self.keepalive_ms.store(ms(keepalive), Relaxed);
    }
}

/// The client's stream itself. Under TLS, what was read may lie there already, deciphered.
fn plain(session: &ServerSession) -> Option<&ClientStream> {
    session.as_http1()?.stream().as_any().downcast_ref()
}

/// Each connection, from its first byte to its close. HTTP/1 is served here, one request after another, so that a request
/// costs no more than Pingora's own future; the streams of HTTP/2 come by way of [`Requests`].
pub struct Connections<A>(pub Arc<Requests<A>>);

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServerApp for Connections<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        match stream.selected_alpn_proto() {
            Some(ALPN::H2) => self.0.process_new(stream, shutdown).await,
            _ => self.0.serve_http1(stream, shutdown).await,
        }
    }
}

impl<A: HttpServerApp + Send + Sync + 'static> Requests<A> {
    /// `None` when the connection has ended, as it always does.
    async fn serve_http1(&self, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let mut session = ServerSession::new_http1(stream);
        let connection = session.digest().and_then(Connection::of).cloned()?;
        loop {
            self.rest(&session, &connection).await?;
            let served = connection.watch(self.app.process_new_http(session, shutdown)).await.flatten();
            self.account(&connection);
            let (stream, settings) = served?.consume();
            session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
        }
    }

    /// Waits for the next request; `None` when it took too long.
    async fn rest(&self, session: &ServerSession, connection: &Connection) -> Option<()> {
        // Of the first request bytes may be here already, and its deadline is set.
        if matches!(connection.deadline.phase(), Phase::Head | Phase::Idle) {
            return Some(());
        }
        connection.deadline.enter(Phase::Idle, Some(Duration::from_millis(self.keepalive_ms.load(Relaxed))));
        // What serves a request takes some 20 KiB: a connection that rests is spared them.
        match plain(session).filter(|_| connection.rests()) {
            Some(stream) => connection.watch(stream.readable()).await,
            None => Some(()),
        }
    }
}

/// The streams of HTTP/2 connections.
#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Requests<A> {
    async fn process_new_http(self: &Arc<Self>, session: ServerSession, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        let deadline = Arc::<Deadline>::default();
        deadline.enter(Phase::Busy, None);
        let request = within(deadline.clone(), self.app.process_new_http(session, shutdown));
        watch::over(&deadline, &mut Borrowed::take().0, request).await.flatten()
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.max_concurrent_streams(self.streams_max.load(Relaxed)).data_frame_budget(SMALL_FRAMES_BYTES);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.app.server_options()
    }
}
