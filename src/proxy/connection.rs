//! What is known of a client's connection, shared between its stream, the hooks of its requests, and the drain.
//!
//! It travels as `proxy_digest.user_data` of every session's digest: the one public place for data of our own that works for
//! HTTP/1 and HTTP/2, plaintext and TLS.

use super::deadline::{Deadline, Phase};
use super::watch::{self, Timer};
use crate::shape::forward::unmap;
use crate::tls::Agreed;
use crate::types::{Certificate, ListenerId};
use http::HeaderValue;
use pingora::protocols::Digest;
use pingora::server::ShutdownWatch;
use prometheus::IntGauge;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

#[derive(Debug)]
pub struct Connection {
    pub listener: ListenerId,
    pub peer: SocketAddr,
    /// Of the connection while it speaks HTTP/1. Over HTTP/2 each request has one of its own.
    pub deadline: Arc<Deadline>,
    /// The listener's, so that a request that is in flight already can say "close" too.
    closing: ShutdownWatch,
    requests: AtomicUsize,
    /// Set once TLS is agreed upon, where something follows from it.
    agreed: OnceLock<Agreed>,
    /// What the client showed in the handshake.
    certificate: OnceLock<Certificate>,
    is_lingering: AtomicBool,
    is_malformed: AtomicBool,
    is_tunnel: AtomicBool,
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
            agreed: OnceLock::new(),
            certificate: OnceLock::new(),
            is_lingering: AtomicBool::new(false),
            is_malformed: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
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

    /// The request's body is not framed as it says.
    pub fn set_malformed(&self) {
        self.is_malformed.store(true, Relaxed);
    }

    pub fn is_malformed(&self) -> bool {
        self.is_malformed.load(Relaxed)
    }

    /// From now on its bytes are a tunnel's.
    pub fn set_tunnel(&self) {
        self.is_tunnel.store(true, Relaxed);
    }

    pub fn is_tunnel(&self) -> bool {
        self.is_tunnel.load(Relaxed)
    }

    /// The connection ends before the client has said all: what it still says is to be read, since closing on it would reset the
    /// connection and take the answer along.
    pub fn set_lingering(&self) {
        self.is_lingering.store(true, Relaxed);
    }

    pub fn is_lingering(&self) -> bool {
        self.is_lingering.load(Relaxed)
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
