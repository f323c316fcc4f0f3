//! The client's stream, which Pingora gets in place of one of its own.
//!
//! `protocols::IO` has a blanket implementation over public traits, so any stream will do. An own one holds the guard and
//! the connection's data, looks for HTTP/2 on plaintext, gathers small writes, and bounds a client that takes nothing.

use super::guard::{Guard, Stall};
use super::socket::Socket;
use crate::proxy::connection::Connection;
use crate::proxy::deadline::Phase;
use async_trait::async_trait;
use futures_util::task::AtomicWaker;
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
};
use smallvec::SmallVec;
use socket2::SockRef;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep};

/// Read at once.
const READ_BYTES: usize = 4096;
/// As Pingora's default: one segment, so that a head and a small body leave in one write.
const WRITE_BYTES: usize = 1460;
/// Over HTTP/2: what is copied so that it leaves with others, and how much leaves at once.
const SMALL_BYTES: usize = 4096;
const GATHER_BYTES: usize = 16 << 10;
/// What a client may always take its time for.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// RFC 9113, 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long parts of a connection may take, as they were when it was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub request_header: Duration,
    pub client_write: Duration,
    /// With so many clients that take nothing at once, each has the least patience.
    pub stalled_max: usize,
}

impl Limits {
    /// How long a client may take nothing when so many others do: of each, part of an answer is held in memory, so that they are borne
    /// for shorter the more there are.
    fn patience(&self, stalled: usize) -> Duration {
        let left = self.stalled_max.saturating_sub(stalled) as f64 / self.stalled_max.max(1) as f64;
        self.client_write.mul_f64(left).max(PATIENCE_MIN).min(self.client_write)
    }
}

pub struct ClientStream {
    socket: Socket,
    /// What was read behind a proxy's header, or in the look for HTTP/2.
    looked: Vec<u8>,
    written: Vec<u8>,
    written_at: usize,
    socket_digest: Arc<SocketDigest>,
    digest: Arc<ProxyDigest>,
    established: SystemTime,
    connection: Arc<Connection>,
    limits: Limits,
    /// Runs while the client takes nothing, or has more to say than is heard.
    stalled: Option<Pin<Box<Sleep>>>,
    stall: Option<Stall>,
    is_h2c: bool,
    /// Over HTTP/2, once something was gathered.
    gather: Option<Arc<Gather>>,
    guard: Guard,
}

/// Answers of one HTTP/2 connection that leave together. To flush each would cost a system call for each, and HTTP/2 flushes behind every
/// piece of a body: so what is to be flushed waits until all tasks have run that can run now.
#[derive(Debug, Default)]
struct Gather {
    is_asked: AtomicBool,
    is_due: AtomicBool,
    connection: AtomicWaker,
}

impl Gather {
    /// Has the connection's task woken when the others have run.
    fn ask(self: &Arc<Self>, cx: &Context<'_>) {
        self.connection.register(cx.waker());
        if !self.is_asked.swap(true, Relaxed) {
            let waker = Waker::from(self.clone());
            // Polled once, it has its waker called then, whether it lives or not.
            let _ = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
        }
    }

    fn has_gone(&self) {
        self.is_due.store(false, Relaxed);
        self.is_asked.store(false, Relaxed);
    }
}

impl Wake for Gather {
    fn wake(self: Arc<Self>) {
        self.is_due.store(true, Relaxed);
        self.connection.wake();
    }
}

impl std::fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientStream({})", self.connection.peer)
    }
}

impl ClientStream {
    /// # Errors
    /// None in practice: 200 is a status, which the digest wants for a head that nobody reads.
    pub fn new(socket: Socket, connection: Arc<Connection>, limits: Limits, guard: Guard, begin: Vec<u8>) -> pingora::Result<Self> {
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        let _ = digest.peer_addr.set(Some(connection.peer.into()));
        connection.set_socket(Some(socket.as_raw_fd()));
        let no_head = Box::new(ResponseHeader::build_no_case(200, Some(0))?);
        Ok(ClientStream {
            socket,
            looked: begin,
            written: Vec::new(),
            written_at: 0,
            socket_digest: Arc::new(digest),
            digest: Arc::new(ProxyDigest::new(no_head, Some(Box::new(connection.clone())))),
            established: SystemTime::now(),
            connection,
            limits,
            stalled: None,
            stall: None,
            is_h2c: false,
            gather: None,
            guard,
        })
    }

    /// Looks for the HTTP/2 preface without waiting for all of it when the first bytes differ.
    ///
    /// # Errors
    /// Those of reading, and the end of the stream.
    pub async fn look_for_h2c(&mut self) -> io::Result<()> {
        loop {
            if self.looked.len() >= PREFACE.len() || !PREFACE.starts_with(&self.looked) {
                self.is_h2c = self.looked.starts_with(PREFACE);
                return Ok(());
            }
            if poll_fn(|cx| self.poll_look(cx)).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads by way of room on the stack: a client that says nothing costs no buffer.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = [MaybeUninit::<u8>::uninit(); READ_BYTES];
        let mut got = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut got))?;
        if self.looked.is_empty() {
            self.connection.deadline.enter(Phase::Head, Some(self.limits.request_header));
        }
        self.looked.extend_from_slice(got.filled());
        Poll::Ready(Ok(got.filled().len()))
    }

    /// Bytes of the client are here already.
    pub fn has_begun(&self) -> bool {
        !self.looked.is_empty()
    }

    pub fn is_h2c(&self) -> bool {
        self.is_h2c
    }

    fn has_written(&mut self) {
        (self.stalled, self.stall) = (None, None);
    }

    fn poll_stalled<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if self.stall.is_none() {
            let (stall, others) = self.guard.stall();
            self.stall = Some(stall);
            self.stalled = Some(Box::pin(sleep(self.limits.patience(others))));
        }
        let Some(timer) = &mut self.stalled else { return Poll::Pending };
        ready!(timer.as_mut().poll(cx));
        // What it does not take is thrown away with the connection, and not kept by the kernel until it gives up.
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client takes nothing")))
    }

    /// Sends the buffer, then gives its memory back: a connection that rests holds none.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written_at < self.written.len() {
            match Pin::new(&mut self.socket).poll_write(cx, &self.written[self.written_at..]) {
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

    /// Sends the buffer, over HTTP/2 along with what others have to say at this moment.
    fn poll_let_go(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.written.is_empty() || !self.connection.is_h2() {
            return self.poll_drain(cx);
        }
        let gather = self.gather.get_or_insert_default();
        if !gather.is_due.load(Relaxed) {
            gather.ask(cx);
            return Poll::Ready(Ok(()));
        }
        let gather = gather.clone();
        ready!(self.poll_drain(cx))?;
        gather.has_gone();
        Poll::Ready(Ok(()))
    }

    /// Reads on and throws away, until the client has ended or has had its time.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.connection.lingering())));
        let mut sink = [0; READ_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut sink);
            let read = Pin::new(&mut self.socket).poll_read(cx, &mut buffer);
            let has_ended = read.is_ready() && buffer.filled().is_empty();
            if has_ended || timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            ready!(read)?;
        }
    }

    /// Small writes are gathered; a large one goes straight to the socket, together with them.
    fn poll_put(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let (small, room) = if self.connection.is_h2() { (SMALL_BYTES, GATHER_BYTES) } else { (WRITE_BYTES, WRITE_BYTES) };
        if total < small {
            if self.written.len() + total > room {
                ready!(self.poll_drain(cx))?;
            }
            if self.written.capacity() == 0 {
                self.written.reserve_exact(WRITE_BYTES);
            }
            slices.iter().for_each(|slice| self.written.extend_from_slice(slice));
            return Poll::Ready(Ok(total));
        }
        loop {
            let gathered = self.written.len() - self.written_at;
            let sent = match slices {
                [one] if gathered == 0 => Pin::new(&mut self.socket).poll_write(cx, one),
                // A head and a large body leave in one write, too.
                many => {
                    let own = IoSlice::new(&self.written[self.written_at..]);
                    let all: SmallVec<[_; 8]> = std::iter::once(own).chain(many.iter().map(|slice| IoSlice::new(slice))).collect();
                    Pin::new(&mut self.socket).poll_write_vectored(cx, &all)
                }
            };
            match sent {
                Poll::Pending => return self.poll_stalled(cx),
                Poll::Ready(Ok(sent)) if sent > 0 && sent <= gathered => {
                    self.has_written();
                    self.written_at += sent;
                }
                done => {
                    self.has_written();
                    (self.written, self.written_at) = (Vec::new(), 0);
                    return done.map_ok(|sent| sent.saturating_sub(gathered));
                }
            }
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.connection.is_broken_off() {
            // A close becomes a reset.
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        }
        self.connection.set_socket(None);
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if !me.looked.is_empty() {
            let n = buf.remaining().min(me.looked.len());
            buf.put_slice(&me.looked[..n]);
            me.looked.drain(..n);
            if me.looked.is_empty() {
                me.looked = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut me.socket).poll_read(cx, buf);
        // Who waits for the client has no more to say for now: what was gathered must not wait along.
        if read.is_pending()
            && let Poll::Ready(Err(e)) = me.poll_let_go(cx)
        {
            return Poll::Ready(Err(e));
        }
        read
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
        self.poll_let_go(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if self.connection.is_broken_off() {
            // It ends with the socket.
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
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
        self.socket.as_raw_fd()
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
        Some(self.socket_digest.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::guard::Counter;
    use crate::server::socket::LOCAL_PEER;
    use crate::types::ListenerId;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use tokio::io::AsyncReadExt;
    use tokio::sync::{mpsc, watch};

    /// The gateway's end, and the client's.
    fn pair() -> (ClientStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).and(theirs.set_nonblocking(true)).expect("two sockets");
        let connection = Arc::new(Connection::new(ListenerId(0), LOCAL_PEER, watch::channel(false).1));
        connection.set_h2();
        let second = Duration::from_secs(1);
        let limits = Limits { request_header: second, client_write: second, stalled_max: 1 };
        let guard = Counter::new(1, None).enter().expect("room");
        let socket = Socket::Unix(tokio::net::UnixStream::from_std(ours).expect("a socket"));
        (ClientStream::new(socket, connection, limits, guard, Vec::new()).expect("a stream"), theirs)
    }

    /// What has been sent by now.
    fn sent(theirs: &mut UnixStream) -> String {
        let mut room = [0; 1024];
        let read = theirs.read(&mut room).unwrap_or_default();
        String::from_utf8_lossy(&room[..read]).into_owned()
    }

    #[tokio::test]
    async fn what_tasks_that_can_run_have_to_say_over_http2_leaves_together() {
        let (mut stream, mut theirs) = pair();
        // With room for one, each task runs once the connection has taken what the one before it had to say.
        let (say, mut said) = mpsc::channel(1);
        for answer in ["a", "b", "c"] {
            let say = say.clone();
            tokio::spawn(async move { say.send(answer).await });
        }
        drop(say);
        let connection = tokio::spawn(async move {
            let mut pieces = Vec::new();
            poll_fn(|cx| {
                let mut is_over = false;
                while let Poll::Ready(answer) = said.poll_recv(cx) {
                    let Some(answer) = answer else {
                        is_over = true;
                        break;
                    };
                    assert!(Pin::new(&mut stream).poll_write(cx, answer.as_bytes()).is_ready());
                }
                let flushed = Pin::new(&mut stream).poll_flush(cx);
                assert!(matches!(flushed, Poll::Ready(Ok(()))), "it holds nobody up");
                pieces.push(sent(&mut theirs));
                if is_over && stream.written.is_empty() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            pieces
        });
        let mut pieces = connection.await.expect("the connection's task");
        pieces.retain(|piece| !piece.is_empty());
        assert_eq!(pieces, ["abc"]);
    }

    #[tokio::test]
    async fn what_is_gathered_leaves_when_nothing_more_is_said() {
        let (mut stream, mut theirs) = pair();
        stream.write_all(b"a").await.expect("to write");
        stream.flush().await.expect("to flush");
        assert_eq!(sent(&mut theirs), "", "others may have something to say");
        // The connection's task goes on to listen.
        let mut heard = [0; 8];
        let mut listening = pin!(AsyncReadExt::read(&mut stream, &mut heard));
        while sent(&mut theirs).is_empty() {
            assert!(poll_fn(|cx| Poll::Ready(listening.as_mut().poll(cx))).await.is_pending());
            yield_now().await;
        }
        drop(theirs);
        assert_eq!(listening.await.expect("the end"), 0);
    }
}
