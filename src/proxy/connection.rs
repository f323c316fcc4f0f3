//! What is known of a client's connection, shared between its stream, the hooks of its requests, and the drain.
//!
//! It travels as `proxy_digest.user_data` of every session's digest: the one public place for data of our own that works for
//! HTTP/1 and HTTP/2, plaintext and TLS.

use super::deadline::{Deadline, Phase, ms, now};
use super::watch::{self, Timer};
use crate::shape::forward::unmap;
use crate::tls::Agreed;
use crate::types::{Certificate, ListenerId};
use http::HeaderValue;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use pingora::protocols::{Digest, Stream};
use pingora::server::ShutdownWatch;
use prometheus::IntGauge;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;

/// How long a client that was refused in the middle of its body may go on with it.
pub const LINGER: Duration = Duration::from_secs(5);
/// A request that was asked so shortly before was taken back at once.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Streams of a connection behind which it is judged.
const OPENED_MIN: u32 = 500;

/// What came over HTTP/2.
#[derive(Debug, Default)]
struct Streams {
    opened: AtomicU32,
    taken_back: AtomicU32,
    /// Those that are requests in progress.
    open: AtomicUsize,
    /// When the last one was done, or the first could begin; in `now`'s time.
    rests_since: AtomicU64,
}

#[derive(Debug)]
pub struct Connection {
    pub listener: ListenerId,
    pub peer: SocketAddr,
    /// Of the connection while it speaks HTTP/1. Over HTTP/2 each request has one of its own.
    pub deadline: Arc<Deadline>,
    closing: ShutdownWatch,
    /// The request that is being served is the last one.
    is_last: AtomicBool,
    requests: AtomicUsize,
    /// Set once TLS is agreed upon, where something follows from it.
    agreed: OnceLock<Agreed>,
    /// The client's socket, while it is open; -1 afterwards.
    socket: AtomicI32,
    /// What the client showed in the handshake.
    certificate: OnceLock<Certificate>,
    /// How long it lingers, in milliseconds.
    lingering: AtomicU64,
    fault: AtomicU8,
    /// Bytes a second that the request's body has to come with; 0 is none.
    body_rate: AtomicU64,
    is_tunnel: AtomicBool,
    is_broken_off: AtomicBool,
    is_h2: AtomicBool,
    streams: Streams,
    /// Woken when the stream is dropped.
    gone: Notify,
    /// Left by one request to the next.
    timer: Mutex<Timer>,
    /// The peer's address as the fields of a head have it.
    peer_text: HeaderValue,
    /// The stream, from a request that failed and was answered to the next one.
    left: Mutex<Option<Stream>>,
}

impl Connection {
    pub fn new(listener: ListenerId, peer: SocketAddr, closing: ShutdownWatch) -> Connection {
        let peer_text = HeaderValue::try_from(unmap(peer.ip()).to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Connection {
            listener,
            peer,
            deadline: Arc::default(),
            closing,
            is_last: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            agreed: OnceLock::new(),
            socket: AtomicI32::new(-1),
            certificate: OnceLock::new(),
            lingering: AtomicU64::new(0),
            fault: AtomicU8::new(Fault::None as u8),
            body_rate: AtomicU64::new(0),
            is_tunnel: AtomicBool::new(false),
            is_broken_off: AtomicBool::new(false),
            is_h2: AtomicBool::new(false),
            streams: Streams::default(),
            gone: Notify::new(),
            timer: Mutex::default(),
            peer_text,
            left: Mutex::default(),
        }
    }

    pub fn of(digest: &Digest) -> Option<&Arc<Connection>> {
        digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }

    /// Serves `work` under the connection's own deadline.
    pub async fn watch<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let slot = || self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut timer = std::mem::take(&mut *slot());
        let ended = poll_fn(|_| if self.has_ended() { Poll::Ready(()) } else { Poll::Pending });
        let done = watch::over(&self.deadline, &mut timer, ended, work).await;
        *slot() = timer;
        done
    }

    /// Leaves the stream for the next request.
    pub fn leave(&self, stream: Stream) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }

    /// The stream that the last request has left.
    pub fn take_left(&self) -> Option<Stream> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Told by the stream when it is made and when it is dropped.
    pub fn set_socket(&self, socket: Option<RawFd>) {
        self.socket.store(socket.unwrap_or(-1), Relaxed);
        if socket.is_none() {
            self.gone.notify_waiters();
        }
    }

    /// Resolves once the client's stream is gone.
    pub async fn has_gone(&self) {
        let gone = self.gone.notified();
        if self.socket.load(Relaxed) >= 0 {
            gone.await;
        }
    }

    /// The client has ended its side, and nothing it sent before waits to be read. To be asked by the task that holds the stream:
    /// the descriptor is its own.
    fn has_ended(&self) -> bool {
        let socket = self.socket.load(Relaxed);
        socket < 0 || is_hung_up(socket)
    }

    pub fn set_agreed(&self, agreed: Agreed) {
        let _ = self.agreed.set(agreed);
    }

    pub fn set_certificate(&self, certificate: Certificate) {
        let _ = self.certificate.set(certificate);
    }

    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.get()
    }

    /// A host that belongs to another TLS connection.
    pub fn is_misdirected(&self, host: &str) -> bool {
        self.agreed.get().is_some_and(|agreed| agreed.is_misdirected(host))
    }

    /// What is wrong with the request's body.
    pub fn set_fault(&self, fault: Fault) {
        self.fault.store(fault as u8, Relaxed);
    }

    pub fn fault(&self) -> Fault {
        match self.fault.load(Relaxed) {
            0 => Fault::None,
            1 => Fault::Malformed,
            _ => Fault::Slow,
        }
    }

    pub fn set_body_rate(&self, rate: u64) {
        self.body_rate.store(rate, Relaxed);
    }

    pub fn body_rate(&self) -> u64 {
        self.body_rate.load(Relaxed)
    }

    /// From now on its bytes are a tunnel's.
    pub fn set_tunnel(&self) {
        self.is_tunnel.store(true, Relaxed);
    }

    pub fn is_tunnel(&self) -> bool {
        self.is_tunnel.load(Relaxed)
    }

    /// The answer is not whole, and nothing in it says so: the end of the connection is to be a reset, not an end.
    pub fn break_off(&self) {
        self.is_broken_off.store(true, Relaxed);
    }

    pub fn is_broken_off(&self) -> bool {
        self.is_broken_off.load(Relaxed)
    }

    /// From now on its bytes are those of HTTP/2, by which many requests share them.
    pub fn set_h2(&self) {
        self.is_h2.store(true, Relaxed);
    }

    pub fn is_h2(&self) -> bool {
        self.is_h2.load(Relaxed)
    }

    /// Over HTTP/2 a request may begin, and none has.
    pub fn rest(&self) {
        self.streams.rests_since.store(now(), Relaxed);
    }

    /// A stream was opened, and is a request in progress until the answer is dropped.
    pub fn open(self: &Arc<Self>) -> Open {
        self.streams.opened.fetch_add(1, Relaxed);
        self.streams.open.fetch_add(1, Relaxed);
        Open(self.clone())
    }

    /// The client has taken a request back before it was answered, so long after it was asked.
    pub fn takes_back(&self, after: Duration) {
        if after < AT_ONCE {
            self.streams.taken_back.fetch_add(1, Relaxed);
        }
    }

    /// Most of what was asked over HTTP/2 was taken back at once, as clients do that want to have work done for nothing (CVE-2023-44487). Envoy
    /// has the same bounds.
    pub fn is_wasteful(&self) -> bool {
        let opened = self.streams.opened.load(Relaxed);
        opened >= OPENED_MIN && self.streams.taken_back.load(Relaxed) > opened / 2
    }

    /// For how long no request has been in progress over HTTP/2; `None` while one is.
    pub fn rested(&self) -> Option<Duration> {
        let is_at_rest = self.streams.open.load(Acquire) == 0;
        is_at_rest.then(|| Duration::from_millis(now().saturating_sub(self.streams.rests_since.load(Relaxed))))
    }

    /// The connection ends before the client has said all: what it still says is to be read for so long, since closing on it would reset the
    /// connection and take the answer along.
    pub fn set_lingering(&self, within: Duration) {
        self.lingering.store(ms(within), Relaxed);
    }

    pub fn is_lingering(&self) -> bool {
        !self.lingering().is_zero()
    }

    pub fn lingering(&self) -> Duration {
        Duration::from_millis(self.lingering.load(Relaxed))
    }

    pub fn peer_text(&self) -> &HeaderValue {
        &self.peer_text
    }

    /// The listener's, so that a request that is in flight already can say "close" too.
    pub fn closing(&self) -> &ShutdownWatch {
        &self.closing
    }

    /// The client is told with the answer to its request that the connection ends.
    pub fn is_closing(&self) -> bool {
        self.is_last.load(Relaxed) || *self.closing.borrow()
    }

    /// No request comes behind this one. Of HTTP/1 only.
    pub fn end_with_this(&self) {
        self.is_last.store(true, Relaxed);
    }

    /// Requests that are being served.
    pub fn in_flight(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// No request is being served, and no byte of a next one was read: it may be closed without losing anything. Of HTTP/2 that is known where it
    /// is served: what was answered may still be on its way.
    pub fn is_idle(&self) -> bool {
        !self.is_h2() && self.requests.load(Relaxed) == 0 && self.deadline.phase() == Phase::Idle
    }
}

/// Whether the other side of a socket has shut down its half, and all it sent before has been read. Bytes that wait stay where they
/// are.
pub fn is_hung_up(socket: RawFd) -> bool {
    let peeked = recv(socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    !matches!(peeked, Ok(1..) | Err(Errno::EAGAIN | Errno::EINTR))
}

/// Why a request's body can't be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    None,
    /// It is not framed as it says.
    Malformed,
    /// It drips.
    Slow,
}

/// A stream of HTTP/2 that is open.
#[derive(Debug)]
pub struct Open(Arc<Connection>);

impl Open {
    pub fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.rest();
        self.0.streams.open.fetch_sub(1, Release);
    }
}

/// Counts a request for as long as it is served.
#[derive(Debug)]
pub struct InFlight(Arc<Connection>, IntGauge);

impl InFlight {
    pub fn new(connection: Arc<Connection>, gauge: IntGauge) -> InFlight {
        connection.requests.fetch_add(1, Relaxed);
        gauge.inc();
        InFlight(connection, gauge)
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
        self.1.dec();
    }
}
