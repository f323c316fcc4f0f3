//! Between Pingora's connections and its requests: each request runs under its deadline.

use crate::proxy::connection::Connection;
use crate::proxy::deadline::{Deadline, Phase, within};
use crate::proxy::watch::{self, Timer};
use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::server::ShutdownWatch;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Overhead of tiny DATA frames not yet read that h2 accepts: with its own default of 25,600 it ends a gRPC stream of a
/// thousand small messages.
const SMALL_FRAMES_BYTES: usize = 1 << 20;

/// Wraps an application, which is Pingora's proxy.
pub struct Requests<A> {
    app: Arc<A>,
    /// Milliseconds that a connection may rest between requests; a reload changes them.
    keepalive_ms: AtomicU64,
    streams_max: AtomicU32,
}

impl<A> Requests<A> {
    pub fn new(app: Arc<A>) -> Requests<A> {
        Requests { app, keepalive_ms: AtomicU64::new(60_000), streams_max: AtomicU32::new(100) }
    }

    /// Streams at once of one HTTP/2 connection.
    pub fn set_http2(&self, streams_max: usize) {
        self.streams_max.store(u32::try_from(streams_max).unwrap_or(u32::MAX), Relaxed);
    }

    pub fn set_keepalive(&self, keepalive: Duration) {
        self.keepalive_ms.store(u64::try_from(keepalive.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }
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
        // The first bytes of a head may be here already, read while looking for HTTP/2.
        if connection.deadline.phase() != Phase::Head {
            connection.deadline.enter(Phase::Idle, Some(Duration::from_millis(self.keepalive_ms.load(Relaxed))));
        }
        connection.watch(self.app.process_new_http(session, shutdown)).await.flatten()
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
