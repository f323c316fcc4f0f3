//! Between Pingora's connections and its requests: each request runs under its deadline.

use super::stream::ClientStream;
use crate::observe::RouteMetrics;
use crate::proxy::connection::Connection;
use crate::proxy::deadline::{Deadline, Phase, within};
use crate::proxy::watch::{self, Timer};
use crate::types::Refusal;
use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
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
        self.keepalive_ms.store(u64::try_from(keepalive.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// The client's stream itself. Under TLS, what was read may lie there already, deciphered.
fn plain(session: &ServerSession) -> Option<&ClientStream> {
    session.as_http1()?.stream().as_any().downcast_ref()
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Requests<A> {
    async fn process_new_http(self: &Arc<Self>, session: ServerSession, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        let Some(connection) = session.digest().and_then(Connection::of).cloned() else {
            return self.app.process_new_http(session, shutdown).await;
        };
        if session.is_http2() {
            let deadline = Arc::<Deadline>::default();
            deadline.enter(Phase::Busy, None);
            let request = within(deadline.clone(), self.app.process_new_http(session, shutdown));
            return watch::over(&deadline, &mut Timer::default(), request).await.flatten();
        }
        // Of the first request bytes may be here already, and its deadline is set.
        if !matches!(connection.deadline.phase(), Phase::Head | Phase::Idle) {
            connection.deadline.enter(Phase::Idle, Some(Duration::from_millis(self.keepalive_ms.load(Relaxed))));
            // What serves a request takes some 20 KiB: a connection that rests is spared them.
            if let Some(stream) = plain(&session).filter(|_| connection.rests()) {
                connection.watch(stream.readable()).await?;
            }
        }
        let served = connection.watch(self.app.process_new_http(session, shutdown)).await.flatten();
        self.account(&connection);
        served
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.max_concurrent_streams(self.streams_max.load(Relaxed)).data_frame_budget(SMALL_FRAMES_BYTES);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.app.server_options()
    }

    async fn http_cleanup(&self) {
        self.app.http_cleanup().await;
    }
}
