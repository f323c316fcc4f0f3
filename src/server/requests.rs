//! Between Pingora's connections and its requests: each request runs under its deadline.

use super::accept::Door;
use super::http1::Http1;
use super::http2;
use crate::observe::Metrics;
use crate::proxy::account;
use crate::proxy::connection::{Connection, LINGER};
use crate::proxy::deadline::{Deadline, Phase, within};
use crate::proxy::respond::Bare;
use crate::proxy::watch::{self, Borrowed};
use crate::shape::forward::Origin;
use crate::snapshot::Snapshot;
use crate::types::Refusal;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::HeaderMap;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::HttpSession;
use pingora::protocols::{ALPN, Shutdown, Stream};
use pingora::server::ShutdownWatch;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

/// Wraps an application, which is Pingora's proxy.
pub struct Requests<A> {
    app: Arc<A>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
}

impl<A> Requests<A> {
    pub fn new(app: Arc<A>, snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>) -> Requests<A> {
        Requests { app, snapshot, metrics }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl<A: HttpServerApp + Send + Sync + 'static> Door for Requests<A> {
    fn unread(&self, connection: &Connection, refusal: &Refusal) {
        account::unread(&self.snapshot.load(), connection, refusal, None, "HTTP/1.1");
    }
}

/// Each connection, from its first byte to its close. HTTP/1 is served here, one request after another, so that a request
/// costs no more than Pingora's own future; HTTP/2 in [`http2::serve`].
#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServerApp for Requests<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let connection = stream.get_proxy_digest()?.user_data.as_ref()?.downcast_ref::<Arc<Connection>>()?.clone();
        match stream.selected_alpn_proto() {
            Some(ALPN::H2) => {
                // Boxed, or each connection of HTTP/1 would have the room that it needs.
                Box::pin(http2::serve(self, stream, &connection)).await;
                None
            }
            _ => self.serve_http1(stream, &connection, shutdown).await,
        }
    }
}

impl<A: HttpServerApp + Send + Sync + 'static> Requests<A> {
    /// `None` when the connection has ended, as it always does.
    async fn serve_http1(&self, stream: Stream, connection: &Arc<Connection>, shutdown: &ShutdownWatch) -> Option<Stream> {
        let mut stream = Box::new(Http1::new(stream, connection.clone()));
        let mut settings = None;
        loop {
            let snapshot = self.snapshot.load_full();
            // Of the first request bytes may be here already, and its deadline is set.
            if !matches!(connection.deadline.phase(), Phase::Head | Phase::Idle) {
                connection.deadline.enter(Phase::Idle, Some(snapshot.server.timeouts.keepalive));
            }
            let head = match connection.watch(stream.head(&snapshot.server)).await {
                Some(Ok(head)) => head?,
                None if connection.deadline.phase() == Phase::Idle => return None,
                refused => {
                    let refusal = refused.and_then(Result::err).unwrap_or(Refusal::RequestTimeout);
                    let answer = Bare::new(&refusal);
                    account::unread(&snapshot, connection, &refusal, Some(&answer), "HTTP/1.1");
                    refuse(*stream, connection, &answer.bytes).await;
                    return None;
                }
            };
            if is_flood(&snapshot, connection) {
                self.metrics.flood_refused.inc();
                if !stream.is_whole() || is_last(&head) {
                    // A body is not waited for.
                    refuse(*stream, connection, FLOOD).await;
                    return None;
                }
                connection.deadline.enter(Phase::Busy, None);
                stream.write_all(FLOOD).await.ok()?;
                continue;
            }
            if snapshot.server.timeouts.keepalive.is_zero() {
                connection.end_with_this();
            }
            drop(snapshot);
            let mut session = ServerSession::new_http1(stream);
            if let Some(settings) = settings.take() {
                HttpPersistentSettings::apply_to_session(settings, &mut session);
            }
            session.set_pipelined_prefix(head);
            let served = connection.watch(self.app.process_new_http(session, shutdown)).await.flatten();
            if connection.deadline.phase() == Phase::Head {
                // Pingora could not read it, and has said so by itself.
                account::unread(&self.snapshot.load(), connection, &Refusal::BadRequest("The request can't be read."), None, "HTTP/1.1");
            }
            let (next, kept) = match (served, connection.take_left()) {
                (Some(next), _) => next.consume(),
                (None, left) => (left?, None),
            };
            (stream, settings) = (next.into_any().downcast().ok()?, kept);
            if stream.has_more() {
                // Whoever sends many requests ahead is not served before all others.
                tokio::task::yield_now().await;
            }
        }
    }

    /// One request of an HTTP/2 connection, under a deadline of its own.
    pub async fn serve_stream(&self, stream: HttpSession, connection: &Connection) {
        let deadline = Arc::<Deadline>::default();
        deadline.enter(Phase::Busy, None);
        let request = self.app.process_new_http(ServerSession::new_http2(stream), connection.closing());
        watch::over(&deadline, &mut Borrowed::take().0, connection.has_gone(), within(deadline.clone(), request)).await;
    }
}

/// A request too many of its peer. One that is trusted speaks for others: those are counted once its fields are read, in
/// `proxy::limits`.
fn is_flood(snapshot: &Snapshot, connection: &Connection) -> bool {
    let Some(flood) = &snapshot.server.flood else { return false };
    let origin = Origin::of(connection.peer.ip(), &snapshot.server.trusted_proxies, &HeaderMap::new());
    !origin.is_trusted && flood.is_over(origin.client_ip)
}

/// Whether the client takes no more than one answer over the connection (RFC 9112, 9.3).
fn is_last(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n');
    let is_old = lines.next().is_some_and(|line| line.ends_with(b" HTTP/1.0\r"));
    let closes = |line: &[u8]| {
        let options = line.split_at_checked(11).filter(|(name, _)| name.eq_ignore_ascii_case(b"connection:")).map(|(_, options)| options);
        options.is_some_and(|options| options.split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close")))
    };
    is_old || lines.any(closes)
}

/// As cheap as an answer can be, and right for any method.
const FLOOD: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";

/// Answers a head that is none, or one too many. The client may be in the midst of sending, and is read on for a while: to close on what it sends
/// would reset the connection and take the answer along.
async fn refuse(mut stream: Http1, connection: &Connection, answer: &[u8]) {
    connection.deadline.enter(Phase::Busy, None);
    connection.set_lingering(LINGER);
    // A client that has gone is told nothing.
    if stream.write_all(answer).await.is_ok() {
        Shutdown::shutdown(&mut stream).await;
    }
}
