//! The stream of an HTTP/1 connection, cut into requests before Pingora sees it.
//!
//! Heads are read here, strictly and under their deadline, and given to Pingora whole; of what follows, Pingora can read the
//! body and nothing more. So a head that can be understood in two ways never becomes a request, what a client sends ahead waits
//! for its turn, and a connection that rests holds neither a buffer nor the room that serving a request takes.

use crate::proxy::connection::{Connection, Fault};
use crate::proxy::deadline::Phase;
use crate::proxy::pace::Pace;
use crate::proxy::strict::chunked::{Chunks, Malformed};
use crate::proxy::strict::head::{Framing, HeadReader};
use crate::snapshot::Server;
use crate::types::Refusal;
use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest, UniqueID,
};
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read at once of what is not a body.
const READ_BYTES: usize = 4096;
/// What of the request is still to be read.
#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Chunks),
    Done,
}

#[derive(Debug)]
pub struct Http1 {
    io: Stream,
    connection: Arc<Connection>,
    /// Bytes that were read and not yet given on.
    ahead: BytesMut,
    body: Body,
    pace: Pace,
}

impl Http1 {
    pub fn new(io: Stream, connection: Arc<Connection>) -> Http1 {
        Http1 { io, connection, ahead: BytesMut::new(), body: Body::Done, pace: Pace::default() }
    }

    /// Reads the next request's head, whole; `None` when the client ends without one.
    ///
    /// # Errors
    /// What the client has to be told before it is closed.
    pub async fn head(&mut self, server: &Server) -> Result<Option<BytesMut>, Refusal> {
        if !self.is_whole() {
            // What is left of a body must never be taken for a request.
            return Ok(None);
        }
        let mut reader = HeadReader::default();
        let deadline = &self.connection.deadline.clone();
        loop {
            if !self.ahead.is_empty() {
                if deadline.phase() != Phase::Head {
                    deadline.enter(Phase::Head, Some(server.timeouts.request_header.0));
                }
                if let Some(whole) = reader.advance(&self.ahead, &server.limits)? {
                    self.body = match whole.framing {
                        Framing::Empty => Body::Done,
                        Framing::Length(length) => Body::Length(length),
                        Framing::Chunked => Body::Chunked(Chunks::default()),
                    };
                    self.pace = Pace::default();
                    self.ahead.advance(whole.range.start);
                    let length = whole.range.len();
                    // To split would make it shared: most heads come alone.
                    let is_alone = length == self.ahead.len();
                    return Ok(Some(if is_alone { std::mem::take(&mut self.ahead) } else { self.ahead.split_to(length) }));
                }
            }
            // The end, or an error, which is one too.
            if !matches!(poll_fn(|cx| self.poll_ahead(cx)).await, Ok(1..)) {
                return Ok(None);
            }
        }
    }

    /// The next request, or some of it, has been read already.
    pub fn has_more(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Nothing of the request's body is still to come.
    pub fn is_whole(&self) -> bool {
        matches!(self.body, Body::Done)
    }

    /// Reads by way of room on the stack, so that a connection that waits holds no buffer.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [MaybeUninit::<u8>::uninit(); READ_BYTES];
        let mut got = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut got))?;
        self.ahead.extend_from_slice(got.filled());
        Poll::Ready(Ok(got.filled().len()))
    }

    /// The body has come, and only the client's end is news. What it sends ahead is kept, and then no more is read.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.ahead.is_empty() && ready!(self.poll_ahead(cx))? == 0 {
            true => Poll::Ready(Ok(())),
            // Nobody is woken by the client any more: the request's end is what is waited for.
            false => Poll::Pending,
        }
    }

    /// Bytes that are here, or that come.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let taken = buf.remaining().min(self.ahead.len());
        buf.put_slice(&self.ahead[..taken]);
        self.ahead.advance(taken);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if matches!(self.body, Body::Done) {
            return self.poll_end(cx);
        }
        let begin = buf.filled().len();
        let Poll::Ready(done) = self.poll_bytes(cx, buf) else {
            self.pace.wait();
            return Poll::Pending;
        };
        done?;
        let read = &buf.filled()[begin..];
        let Ok(taken) = self.body.take(read) else {
            self.connection.set_fault(Fault::Malformed);
            return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, "the chunks are malformed")));
        };
        if self.pace.go_on(taken) < self.connection.body_rate() {
            self.connection.set_fault(Fault::Slow);
            return Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the body drips")));
        }
        // What follows the body is the next request's.
        if taken < read.len() {
            let mut rest = BytesMut::from(&read[taken..]);
            rest.extend_from_slice(&self.ahead);
            self.ahead = rest;
            buf.set_filled(begin + taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl Body {
    /// How many of these bytes belong to it.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let (taken, is_done) = match self {
            Body::Done => (0, true),
            Body::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                (taken, *left == 0)
            }
            Body::Chunked(chunks) => (chunks.advance(bytes)?, chunks.is_done()),
        };
        if is_done {
            *self = Body::Done;
        }
        Ok(taken)
    }
}

impl AsyncRead for Http1 {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.connection.is_tunnel() {
            true => self.poll_bytes(cx, buf),
            false => self.poll_body(cx, buf),
        }
    }
}

impl AsyncWrite for Http1 {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Http1 {
    async fn shutdown(&mut self) {
        self.io.shutdown().await;
    }
}
impl UniqueID for Http1 {
    fn id(&self) -> i32 {
        self.io.id()
    }
}
impl Ssl for Http1 {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.io.get_ssl()
    }
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.io.get_ssl_digest()
    }
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.io.selected_alpn_proto()
    }
}
impl Peek for Http1 {}
impl GetTimingDigest for Http1 {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.io.get_timing_digest()
    }
}
impl GetProxyDigest for Http1 {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.io.get_proxy_digest()
    }
}
impl GetSocketDigest for Http1 {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.get_socket_digest()
    }
}
