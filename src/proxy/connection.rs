//! What is known of a client's connection, shared between its stream, the hooks of its requests, and the drain.
//!
//! It travels as `proxy_digest.user_data` of every session's digest: the one public place for data of our own that works for
//! HTTP/1 and HTTP/2, plaintext and TLS.

use super::deadline::{Deadline, Phase};
use super::watch::{self, Timer};
use crate::shape::forward::unmap;
use crate::types::ListenerId;
use http::HeaderValue;
use pingora::protocols::Digest;
use pingora::server::ShutdownWatch;
use prometheus::IntGauge;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// A TLS alert with its record.
const FAREWELL_BYTES_MAX: usize = 64;

#[derive(Debug)]
pub struct Connection {
    pub listener: ListenerId,
    pub peer: SocketAddr,
    /// Of the connection while it speaks HTTP/1. Over HTTP/2 each request has one of its own.
    pub deadline: Arc<Deadline>,
    /// The listener's, so that a request that is in flight already can say "close" too.
    closing: ShutdownWatch,
    requests: AtomicUsize,
    /// Bytes of the current request, as far as they were read. Only the connection's own task writes this and the next.
    read: AtomicU64,
    /// Bytes of its head, when it has no body.
    head: AtomicU64,
    was_answered: AtomicBool,
    is_lingering: AtomicBool,
    /// Left by one request to the next.
    timer: Mutex<Timer>,
    /// The peer's address as the fields of a head have it.
    peer_text: HeaderValue,
}

impl Connection {
    pub fn new(listener: ListenerId, peer: SocketAddr, closing: ShutdownWatch) -> Connection {
        let peer_text = HeaderValue::try_from(unmap(peer.ip()).to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Connection {
            listener,
            peer,
            deadline: Arc::default(),
            closing,
            requests: AtomicUsize::new(0),
            read: AtomicU64::new(0),
            head: AtomicU64::new(0),
            was_answered: AtomicBool::new(false),
            is_lingering: AtomicBool::new(false),
            timer: Mutex::default(),
            peer_text,
        }
    }

    pub fn of(digest: &Digest) -> Option<&Arc<Connection>> {
        digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }

    /// Serves `work` under the connection's own deadline.
    pub async fn watch<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let slot = || self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut timer = std::mem::take(&mut *slot());
        let done = watch::over(&self.deadline, &mut timer, work).await;
        *slot() = timer;
        done
    }

    /// The stream has read so many bytes.
    pub fn has_read(&self, bytes: usize) {
        self.read.store(self.read.load(Relaxed) + bytes as u64, Relaxed);
    }

    /// The stream has so many bytes to write. An answer in the middle of a head is Pingora's, to a head that it can't read;
    /// it takes no hook. A farewell within TLS is shorter.
    pub fn writes(&self, bytes: usize) {
        if bytes > FAREWELL_BYTES_MAX && self.deadline.phase() == Phase::Head {
            self.was_answered.store(true, Relaxed);
        }
    }

    /// A head was answered before it became a request.
    pub fn was_answered(&self) -> bool {
        self.was_answered.load(Relaxed)
    }

    /// The connection ends before the client has said all: what it still says is to be read, since closing on it would reset the
    /// connection and take the answer along.
    pub fn set_lingering(&self) {
        self.is_lingering.store(true, Relaxed);
    }

    pub fn is_lingering(&self) -> bool {
        self.is_lingering.load(Relaxed)
    }

    /// A request has begun; `head_bytes` is its size when there is no body behind it.
    pub fn has_begun(&self, head_bytes: Option<usize>) {
        self.head.store(head_bytes.unwrap_or(0) as u64, Relaxed);
    }

    /// The next request is about to be waited for: says whether nothing of it can have been read yet.
    pub fn rests(&self) -> bool {
        let (read, head) = (self.read.load(Relaxed), self.head.load(Relaxed));
        self.read.store(0, Relaxed);
        self.head.store(0, Relaxed);
        read > 0 && read == head
    }

    pub fn peer_text(&self) -> &HeaderValue {
        &self.peer_text
    }

    pub fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// No request is being served, and no byte of a next one was read: it may be closed without losing anything.
    pub fn is_idle(&self) -> bool {
        self.requests.load(Relaxed) == 0 && self.deadline.phase() == Phase::Idle
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
