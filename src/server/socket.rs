//! Sockets of both kinds, TCP and Unix: those that listen, and those of clients.

use socket2::SockRef;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Who is at the other end of a Unix socket: somebody on this machine.
pub const LOCAL_PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that listens, known to the runtime.
pub enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    /// The kernel is asked of what kind it is.
    ///
    /// # Errors
    /// It is of another kind, or can't be registered with the runtime.
    pub fn adopt(socket: OwnedFd) -> io::Result<(Listening, Address)> {
        let address = SockRef::from(&socket).local_addr()?;
        if let Some(tcp) = address.as_socket() {
            return Ok((Listening::Tcp(TcpListener::from_std(socket.into())?), Address::Tcp(tcp)));
        }
        if address.is_unix() {
            let path = address.as_pathname().map(PathBuf::from).unwrap_or_default();
            return Ok((Listening::Unix(UnixListener::from_std(socket.into())?), Address::Unix(path)));
        }
        Err(io::Error::new(ErrorKind::InvalidInput, "neither TCP nor a Unix socket"))
    }

    /// The next client.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Listening::Tcp(listener) => listener.accept().await.map(|(tcp, peer)| (Socket::Tcp(tcp), peer)),
            Listening::Unix(listener) => listener.accept().await.map(|(unix, _)| (Socket::Unix(unix), LOCAL_PEER)),
        }
    }

    /// Accepts and closes at once; says whether somebody was there.
    pub fn turn_away(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Listening::Tcp(listener) => matches!(listener.poll_accept(cx), Poll::Ready(Ok(_))),
            Listening::Unix(listener) => matches!(listener.poll_accept(cx), Poll::Ready(Ok(_))),
        }
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listening::Tcp(listener) => listener.as_fd(),
            Listening::Unix(listener) => listener.as_fd(),
        }
    }
}

/// A client's socket.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(tcp) => tcp.as_fd(),
            Socket::Unix(unix) => unix.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Socket::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, slices),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Socket::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}
