//! Listening sockets.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// What may wait in the kernel for a client that takes it slowly, beyond what is under way to it.
const UNSENT_BYTES: u32 = 128 << 10;

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

/// Descriptors that are kept for logs, files and the admin listener.
const RESERVE: u64 = 64;

/// Raises the limit of open descriptors as far as it may be, and answers how many clients' connections fit: each may need one
/// more to a service.
pub fn connections_that_fit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return usize::MAX };
    let limit = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(soft, |()| hard);
    usize::try_from((limit.saturating_sub(RESERVE) / 2).max(limit / 4)).unwrap_or(usize::MAX)
}

/// Options of a listening socket are inherited by what is accepted (Linux), which saves a system call each time.
fn prepare(listener: TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    let socket = SockRef::from(&listener);
    socket.set_cloexec(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    // A client whose machine is gone is found out, also where neither side says anything for long.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)))?;
    Ok(listener)
}
