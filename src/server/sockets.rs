//! Listening sockets.

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// Binds and listens. A failure is an error at once: Pingora tries for 30 s, then panics inside its task.
///
/// # Errors
/// Those of the system, such as an address that is in use.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    prepare(socket.into())
}

/// Options of a listening socket are inherited by what is accepted (Linux), which saves a system call each time.
fn prepare(listener: TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    let socket = SockRef::from(&listener);
    socket.set_cloexec(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(listener)
}
