//! Connections to services that rest until the next request, over HTTP/1.
//!
//! Pingora's own pool gives each connection that rests a task which reads from it, and asks the kernel for the peer's address before
//! each use: a fourteenth of what a small request costs. Here a connection rests without a task. Whether it is still good is
//! looked at when it is taken, and now and then: what the kernel has told of it is known without asking.
//!
//! Pingora makes a session of any stream that a connector of ours gives it. When the exchange is over and the connection may be kept, it
//! asks the stream with a read of one byte whether the service has ended it or said more; see `is_question`. This stream answers
//! that question for itself, then says that it has ended, so that Pingora drops it, and rests until it is taken again.

use super::backlog::{Backlog, READ_BYTES_MIN, Waits};
use super::clock::{ms, now};
use async_trait::async_trait;
use futures_util::FutureExt;
use pingora::Result;
use pingora::connectors::TransportConnector;
use pingora::connectors::http::custom::{Connection, Connector};
use pingora::http::ResponseHeader;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{CustomALPN, SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest, UniqueID,
};
use pingora::upstreams::peer::{HttpPeer, Peer};
use std::any::Any;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;

/// Parts of the store, so that threads seldom meet at one.
const SHARDS: usize = 32;
/// How often connections that rest are looked through.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// What a peer speaks whose connections come by way of [`Keepalive`]. No handshake tells it: see `make`.
pub(super) static PROTOCOL: LazyLock<ALPN> = LazyLock::new(|| ALPN::Custom(CustomALPN::new(b"keepalive".to_vec())));

/// The connection of an exchange was used before, and may have been ended by the service meanwhile.
pub fn is_reused(digest: Option<&Digest>) -> bool {
    let told = digest.and_then(|digest| digest.proxy_digest.as_ref()).and_then(|told| told.user_data.as_ref());
    told.is_some_and(|data| data.is::<Reused>())
}

/// Makes connections, and keeps them.
#[derive(Clone)]
pub struct Keepalive {
    making: Arc<TransportConnector>,
    resting: Arc<Resting>,
}

impl Keepalive {
    pub fn new(making: TransportConnector) -> Keepalive {
        Keepalive { making: Arc::new(making), resting: Arc::default() }
    }

    /// How many bytes all answers that wait for their clients may take in memory, as near as their sizes are known: what is read of them at
    /// once becomes less the more there are.
    pub fn set_waiting_max(&self, bytes: u64) {
        self.resting.backlog.set_bytes_max(bytes);
    }

    /// A new connection, on which HTTP/1.1 is agreed upon where there is TLS.
    async fn make<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Result<Stream> {
        match (peer as &dyn Any).downcast_ref::<HttpPeer>().filter(|peer| peer.tls()) {
            Some(peer) => {
                let mut peer = peer.clone();
                peer.options.alpn = ALPN::H1;
                self.making.new_stream(&peer).await
            }
            None => self.making.new_stream(peer).await,
        }
    }

    /// Closes what has rested too long or was ended by the service, for as long as it is polled.
    pub fn sweep(&self) -> impl Future<Output = ()> + Send + 'static {
        let resting = self.resting.clone();
        async move {
            let mut ticks = tokio::time::interval(SWEEP_EVERY);
            loop {
                ticks.tick().await;
                resting.sweep();
            }
        }
    }
}

#[async_trait]
impl Connector for Keepalive {
    type Session = ();

    async fn get_http_session<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Result<(Connection<()>, bool)> {
        let key = Key(peer.reuse_hash(), peer.address().clone());
        let (io, is_reused) = match self.resting.take(&key) {
            Some(io) => (io, true),
            // Boxed, or each request would move the room that connecting needs.
            None => (Box::pin(self.make(peer)).await?, false),
        };
        let max = peer.get_peer_options().map_or(0, |options| options.max_h2_streams);
        let stream = KeptStream {
            io: Some(io),
            is_reused,
            is_answered: false,
            is_stuck: false,
            is_spoiled: false,
            is_fit: false,
            waits: None,
            key,
            idle: peer.idle_timeout().map_or(u64::MAX, ms),
            max,
            resting: self.resting.clone(),
        };
        Ok((Connection::Stream(Box::new(stream)), is_reused))
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, _: &P) -> Option<()> {
        None
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(&self, (): (), _: &P, _: Option<Duration>) {}
}

/// Connections that rest, by peer.
#[derive(Debug, Default)]
struct Resting {
    shards: [Mutex<Vec<Lane>>; SHARDS],
    backlog: Arc<Backlog>,
}

/// Those of one peer; the last one that was used is behind.
#[derive(Debug)]
struct Lane {
    key: Key,
    idle: VecDeque<Idle>,
}

/// A peer: the hash of all that makes its connections its own, and its address, since hashes may collide.
#[derive(Clone, Debug, PartialEq)]
struct Key(u64, SocketAddr);

#[derive(Debug)]
struct Idle {
    io: Stream,
    /// In [`now`]'s time.
    until: u64,
}

impl Resting {
    fn shard(&self, key: &Key) -> MutexGuard<'_, Vec<Lane>> {
        self.shards[key.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that has rested the shortest, as far as it is still good.
    fn take(&self, key: &Key) -> Option<Stream> {
        loop {
            let mut idle = self.shard(key).iter_mut().find(|lane| lane.key == *key)?.idle.pop_back()?;
            // Outside the lock: to close one takes a while.
            if idle.is_good(now()) {
                return Some(idle.io);
            }
        }
    }

    fn put(&self, key: &Key, max: usize, idle: Idle) {
        let mut shard = self.shard(key);
        let at = shard.iter().position(|lane| lane.key == *key).unwrap_or_else(|| {
            shard.push(Lane { key: key.clone(), idle: VecDeque::new() });
            shard.len() - 1
        });
        let lane = &mut shard[at].idle;
        lane.push_back(idle);
        let one_too_many = if lane.len() > max { lane.pop_front() } else { None };
        drop(shard);
        drop(one_too_many);
    }

    fn sweep(&self) {
        let now = now();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain_mut(|lane| {
                lane.idle.retain_mut(|idle| idle.is_good(now));
                !lane.idle.is_empty()
            });
        }
    }
}

impl Idle {
    fn is_good(&mut self, now: u64) -> bool {
        now < self.until && is_quiet(&mut self.io)
    }
}

/// The service has neither ended the connection nor said more than it was asked. Costs no system call where nothing has come.
fn is_quiet(io: &mut Stream) -> bool {
    // Unconstrained, or a task that has done much would be told that nothing is there.
    unconstrained(io.read(&mut [0])).now_or_never().is_none()
}

/// Pingora's question whether a connection may rest: a read into one byte on the stack. All other reads are into buffers that are yet
/// to be filled, however little room they have.
fn is_question(buf: &ReadBuf<'_>) -> bool {
    buf.capacity() == 1 && buf.initialized().len() == 1
}

/// An interim answer to `Expect`, alone: the service asks for the body, which is no answer to it.
fn is_continue(read: &[u8]) -> bool {
    read.starts_with(b"HTTP/1.1 100 ") && memchr::memmem::find(read, b"\r\n\r\n") == Some(read.len() - 4)
}

/// Marks a connection that was used before, where the hooks can see it.
#[derive(Debug)]
struct Reused;

static REUSED: LazyLock<Arc<ProxyDigest>> = LazyLock::new(|| {
    let no_head = ResponseHeader::from(http::Response::new(()).into_parts().0);
    Arc::new(ProxyDigest::new(Box::new(no_head), Some(Box::new(Reused))))
});

/// A connection while an exchange uses it.
#[derive(Debug)]
struct KeptStream {
    /// `None` once it rests.
    io: Option<Stream>,
    is_reused: bool,
    /// Some of the answer was read.
    is_answered: bool,
    /// What was to be written last did not fit, and nobody has tried again.
    is_stuck: bool,
    /// More of the request was written behind the begin of the answer: a service that did not wait for it may take it for the next one.
    is_spoiled: bool,
    /// The exchange is over, and nothing is left of it on the wire.
    is_fit: bool,
    /// From a piece of the answer to the wish for the next one.
    waits: Option<Waits>,
    key: Key,
    /// How long it may rest, in milliseconds.
    idle: u64,
    /// How many of its peer may.
    max: usize,
    resting: Arc<Resting>,
}

impl KeptStream {
    fn io(&mut self) -> io::Result<&mut Stream> {
        self.io.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Notes what became of an attempt to write.
    fn wrote(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.is_stuck = polled.is_pending();
        self.is_spoiled |= self.is_answered && matches!(polled, Poll::Ready(Ok(1..)));
        polled
    }

    /// Pingora never reads while it writes, but goes on to read once it has given up writing: there may be an early answer. Where there is
    /// none, none will come.
    fn poll_answer(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let begin = buf.filled().len();
        let is_stuck = self.is_stuck;
        match Pin::new(self.io()?).poll_read(cx, buf) {
            Poll::Pending if is_stuck => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            polled => {
                self.is_answered |= polled.is_ready() && !is_continue(&buf.filled()[begin..]);
                polled
            }
        }
    }
}

impl Drop for KeptStream {
    fn drop(&mut self) {
        if let Some(io) = self.io.take().filter(|_| self.is_fit) {
            self.resting.put(&self.key, self.max, Idle { io, until: now().saturating_add(self.idle) });
        }
    }
}

impl AsyncRead for KeptStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        me.waits = None;
        if is_question(buf) {
            let polled = Pin::new(me.io()?).poll_read(cx, buf);
            me.is_fit = polled.is_pending() && !me.is_spoiled;
            return if polled.is_pending() { Poll::Ready(Ok(())) } else { polled };
        }
        let (max, before) = (me.resting.backlog.read_max(), buf.filled().len());
        if max >= buf.remaining() {
            ready!(me.poll_answer(cx, buf))?;
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(max));
            ready!(me.poll_answer(cx, &mut part))?;
            let read = part.filled().len();
            buf.advance(read);
        }
        // Small answers are many and hold little: they are spared what all threads count on.
        let is_large = buf.filled().len() - before >= READ_BYTES_MIN;
        me.waits = is_large.then(|| me.resting.backlog.enter());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for KeptStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(self.io()?).poll_write(cx, buf);
        self.wrote(polled)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(self.io()?).poll_write_vectored(cx, slices);
        self.wrote(polled)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(|io| io.is_write_vectored())
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(self.io()?).poll_flush(cx);
        self.is_stuck = polled.is_pending();
        polled
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io()?).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for KeptStream {
    async fn shutdown(&mut self) {
        if let Some(io) = &mut self.io {
            io.shutdown().await;
        }
    }
}
impl UniqueID for KeptStream {
    fn id(&self) -> i32 {
        self.io.as_ref().map_or(-1, |io| io.id())
    }
}
impl Ssl for KeptStream {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.io.as_ref()?.get_ssl()
    }
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.io.as_ref()?.get_ssl_digest()
    }
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.io.as_ref()?.selected_alpn_proto()
    }
}
impl Peek for KeptStream {}
impl GetTimingDigest for KeptStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.io.as_ref().map_or_else(Vec::new, |io| io.get_timing_digest())
    }
}
impl GetProxyDigest for KeptStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.is_reused.then(|| REUSED.clone())
    }
}
impl GetSocketDigest for KeptStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.as_ref()?.get_socket_digest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::MaybeUninit;

    #[test]
    fn only_pingoras_question_is_taken_for_one() {
        assert!(is_question(&ReadBuf::new(&mut [0])));
        assert!(!is_question(&ReadBuf::new(&mut [0; 2])));
        // A buffer in which there is room for one more byte.
        assert!(!is_question(&ReadBuf::uninit(&mut [MaybeUninit::uninit()])));
    }
}
