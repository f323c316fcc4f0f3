//! The client's stream, which Pingora gets in place of one of its own.
//!
//! `protocols::IO` has a blanket implementation over public traits, so any stream will do. An own one holds the guard and
//! the connection's data, keeps no buffer while it rests, notes when a head begins, and bounds a client that takes nothing.

use super::guard::Guard;
use crate::proxy::connection::Connection;
use crate::proxy::deadline::Phase;
use crate::proxy::respond;
use crate::types::Refusal;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// Reads smaller than this go through a buffer of this size; larger ones straight to the socket.
const READ_BYTES: usize = 4096;
/// As Pingora's default: one segment, so that a head and a small body leave in one write.
const WRITE_BYTES: usize = 1460;
/// How long a client that was refused in the middle of its body may go on with it.
const LINGER: Duration = Duration::from_secs(5);
/// RFC 9113, 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
static LATE_HEAD: LazyLock<Bytes> = LazyLock::new(|| respond::bare(&Refusal::RequestTimeout));

/// How long parts of a connection may take, as they were when it was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub request_header: Duration,
    pub client_write: Duration,
}

pub struct ClientStream {
    tcp: TcpStream,
    read: Vec<u8>,
    read_at: usize,
    written: Vec<u8>,
    written_at: usize,
    socket: Arc<SocketDigest>,
    digest: Arc<ProxyDigest>,
    established: SystemTime,
    connection: Arc<Connection>,
    limits: Limits,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    is_h2c: bool,
    is_tls: bool,
    _guard: Guard,
}

impl std::fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientStream({})", self.connection.peer)
    }
}

impl ClientStream {
    /// # Errors
    /// None in practice: 200 is a status, which the digest wants for a head that nobody reads.
    pub fn new(tcp: TcpStream, connection: Arc<Connection>, limits: Limits, guard: Guard) -> pingora::Result<Self> {
        let socket = SocketDigest::from_raw_fd(tcp.as_raw_fd());
        let _ = socket.peer_addr.set(Some(connection.peer.into()));
        let no_head = Box::new(ResponseHeader::build_no_case(200, Some(0))?);
        Ok(ClientStream {
            tcp,
            read: Vec::new(),
            read_at: 0,
            written: Vec::new(),
            written_at: 0,
            socket: Arc::new(socket),
            digest: Arc::new(ProxyDigest::new(no_head, Some(Box::new(connection.clone())))),
            established: SystemTime::now(),
            connection,
            limits,
            stalled: None,
            is_h2c: false,
            is_tls: false,
            _guard: guard,
        })
    }

    /// Looks for the HTTP/2 preface without waiting for all of it when the first bytes differ.
    ///
    /// # Errors
    /// Those of reading, and the end of the stream.
    pub async fn look_for_h2c(&mut self) -> io::Result<()> {
        loop {
            let have = &self.read[self.read_at..];
            if have.len() >= PREFACE.len() || !PREFACE.starts_with(have) {
                self.is_h2c = have.starts_with(PREFACE);
                return Ok(());
            }
            if poll_fn(|cx| self.poll_more(cx)).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Resolves when the client has sent something, or has gone.
    pub async fn readable(&self) {
        // An error is found again by whoever reads.
        let _ = poll_fn(|cx| self.tcp.poll_read_ready(cx)).await;
    }

    pub fn is_h2c(&self) -> bool {
        self.is_h2c
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.connection.deadline.head_was_late() {
            true => Poll::Ready(Err(self.refuse_late_head(cx))),
            false => self.poll_fill(cx, None),
        }
    }

    /// What is read and written from now on is enciphered.
    pub fn begin_tls(&mut self) {
        self.is_tls = true;
    }

    /// Reads into room on the stack, so that a connection that waits holds no buffer; what `out` has no room for (or all of
    /// it without `out`) is kept.
    fn poll_fill(&mut self, cx: &mut Context<'_>, out: Option<&mut ReadBuf<'_>>) -> Poll<io::Result<usize>> {
        let mut room = [std::mem::MaybeUninit::<u8>::uninit(); READ_BYTES];
        let mut got = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut got))?;
        self.has_read(got.filled().len());
        let (now, later) = match out {
            Some(out) => {
                let (now, later) = got.filled().split_at(got.filled().len().min(out.remaining()));
                out.put_slice(now);
                (now.len(), later)
            }
            None => (0, got.filled()),
        };
        self.read.extend_from_slice(later);
        Poll::Ready(Ok(now + later.len()))
    }

    /// The first byte behind a rest begins a head.
    fn has_read(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.connection.has_read(bytes);
        let deadline = &self.connection.deadline;
        if deadline.phase() == Phase::Idle {
            deadline.enter(Phase::Head, Some(self.limits.request_header));
        }
    }

    /// A head that was not whole in time is answered as far as that goes: the connection is closed in any case. Within TLS
    /// nothing can be said from here.
    fn refuse_late_head(&mut self, cx: &mut Context<'_>) -> io::Error {
        if !self.is_h2c && !self.is_tls {
            let _ = Pin::new(&mut self.tcp).poll_write(cx, &LATE_HEAD);
        }
        io::Error::new(ErrorKind::TimedOut, "request head")
    }

    fn has_written(&mut self) {
        self.stalled = None;
    }

    fn poll_stalled<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.limits.client_write)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client takes nothing")))
    }

    /// Sends the buffer, then gives its memory back: a connection that rests holds none.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written_at < self.written.len() {
            match Pin::new(&mut self.tcp).poll_write(cx, &self.written[self.written_at..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.written_at += n;
                    self.has_written();
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return self.poll_stalled(cx),
            }
        }
        (self.written, self.written_at) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Reads on and throws away, until the client has ended or has had its time.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut sink = [0; READ_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut sink);
            let read = Pin::new(&mut self.tcp).poll_read(cx, &mut buffer);
            let has_ended = read.is_ready() && buffer.filled().is_empty();
            if has_ended || timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            ready!(read)?;
        }
    }

    /// Small writes are gathered; a large one goes straight to the socket behind them.
    fn poll_put(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        self.connection.writes(total);
        if total < WRITE_BYTES {
            if self.written.len() + total > WRITE_BYTES {
                ready!(self.poll_drain(cx))?;
            }
            if self.written.capacity() == 0 {
                self.written.reserve_exact(WRITE_BYTES);
            }
            slices.iter().for_each(|slice| self.written.extend_from_slice(slice));
            return Poll::Ready(Ok(total));
        }
        ready!(self.poll_drain(cx))?;
        let sent = match slices {
            [one] => Pin::new(&mut self.tcp).poll_write(cx, one),
            many => Pin::new(&mut self.tcp).poll_write_vectored(cx, many),
        };
        match sent {
            Poll::Pending => self.poll_stalled(cx),
            done => {
                self.has_written();
                done
            }
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.connection.deadline.head_was_late() {
            return Poll::Ready(Err(me.refuse_late_head(cx)));
        }
        if me.read_at == me.read.len() {
            let before = buf.filled().len();
            let is_small = buf.remaining() < READ_BYTES;
            let read = match is_small {
                true => me.poll_fill(cx, Some(buf)).map_ok(drop),
                false => Pin::new(&mut me.tcp).poll_read(cx, buf),
            };
            if read.is_pending() {
                // Who waits for the client has no more to say for now: what was gathered must not wait along.
                if let Poll::Ready(Err(e)) = me.poll_drain(cx) {
                    return Poll::Ready(Err(e));
                }
                return Poll::Pending;
            }
            if !is_small {
                me.has_read(buf.filled().len() - before);
            }
            return read;
        }
        let n = buf.remaining().min(me.read.len() - me.read_at);
        buf.put_slice(&me.read[me.read_at..me.read_at + n]);
        me.read_at += n;
        if me.read_at == me.read.len() {
            (me.read, me.read_at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_put(cx, &[IoSlice::new(buf)])
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_put(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
        match self.connection.is_lingering() {
            true => self.poll_linger(cx),
            false => Poll::Ready(Ok(())),
        }
    }
}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}
impl UniqueID for ClientStream {
    fn id(&self) -> i32 {
        self.tcp.as_raw_fd()
    }
}
impl Ssl for ClientStream {
    /// With the preface seen we say that h2 was negotiated, so that h2c is a setting of the listener and not of Pingora's
    /// whole proxy.
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.is_h2c.then_some(ALPN::H2)
    }
}
impl Peek for ClientStream {}
impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.established, establishment_duration: None, offload_wait_duration: None })]
    }
}
impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}
impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}
