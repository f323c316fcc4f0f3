//! Listening sockets: bound here, or handed to us by an older process or by systemd.

use super::handover::Slot;
use crate::config::scalar::Bind;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// What may wait in the kernel for a client that takes it slowly, beyond what is under way to it.
const UNSENT_BYTES: u32 = 128 << 10;

/// A socket that is bound, but not listened to yet: a reload binds all before it changes anything.
pub struct Bound {
    pub socket: OwnedFd,
    /// Of a Unix socket of our own, which goes with it.
    pub file: Option<SocketFile>,
}

/// The file of a Unix socket; removed when dropped, if it is ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    is_ours: bool,
}

impl SocketFile {
    pub fn new(path: PathBuf) -> SocketFile {
        SocketFile { path, is_ours: true }
    }

    /// Whether it goes with us: while two processes share a socket, it is that one's which serves on if the other fails.
    pub fn set_ours(&mut self, is_ours: bool) {
        self.is_ours = is_ours;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Sockets that others have opened for us.
#[derive(Default)]
pub struct Inherited {
    /// Of the process whose place we take.
    pub handed: HashMap<Slot, OwnedFd>,
    /// Of systemd, by their names. They stay open, so that a listener can be taken away by a reload and come back.
    pub systemd: Vec<(String, OwnedFd)>,
}

impl Inherited {
    /// What a process hands over: systemd's sockets among its own.
    pub fn new(handed: Vec<(Slot, OwnedFd)>) -> Inherited {
        let (mut all, mut systemd) = (HashMap::new(), Vec::new());
        for (slot, socket) in handed {
            match &slot.bind {
                Bind::Systemd(name) => systemd.push((name.clone(), socket)),
                _ => drop(all.insert(slot, socket)),
            }
        }
        Inherited { handed: all, systemd }
    }

    /// Where a socket of systemd's listens, if that is by TCP.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        let (_, socket) = self.systemd.iter().find(|(known, _)| known == name)?;
        SockRef::from(socket).local_addr().ok()?.as_socket()
    }

    /// The socket for a slot: one that was handed over, or a new one.
    ///
    /// # Errors
    /// Those of the system, such as an address that is in use; a name that systemd has no socket for.
    pub fn open(&mut self, slot: &Slot) -> io::Result<Bound> {
        if let Bind::Systemd(name) = &slot.bind {
            let socket = self.systemd.iter().filter(|(known, _)| known == name).nth(slot.nth);
            let Some((_, socket)) = socket else {
                return Err(io::Error::new(ErrorKind::NotFound, format!("systemd has handed over no socket named `{name}`")));
            };
            return Ok(Bound { socket: adopt(socket.try_clone()?)?, file: None });
        }
        let handed = self.handed.remove(slot);
        // Of a socket that was handed over it is still the older process's.
        let is_ours = handed.is_none();
        let socket = handed.map_or_else(|| bind(slot), adopt)?;
        let file = match &slot.bind {
            Bind::Unix(path) => Some(SocketFile { path: path.into(), is_ours }),
            _ => None,
        };
        Ok(Bound { socket, file })
    }
}

/// A descriptor from elsewhere is believed only after asking the kernel: it must listen.
fn adopt(socket: OwnedFd) -> io::Result<OwnedFd> {
    if !getsockopt(&socket, sockopt::AcceptConn)? {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a listening socket"));
    }
    prepare(socket)
}

/// Binds and listens. A failure is an error at once: Pingora tries for 30 s, then panics inside its task.
fn bind(slot: &Slot) -> io::Result<OwnedFd> {
    match &slot.bind {
        Bind::Tcp(address) => bind_tcp(*address),
        // Whoever may enter the folder may connect to a listener; the admin's is its owner's alone.
        Bind::Unix(path) => bind_unix(Path::new(path), if slot.is_admin { 0o600 } else { 0o666 }),
        Bind::Systemd(_) => Err(ErrorKind::NotFound.into()),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    prepare(socket.into())
}

/// A file that nobody listens on is in the way, and removed.
///
/// # Errors
/// Those of the system; `AddrInUse` when somebody listens there, or when the file is something else.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    if let Ok(found) = fs::symlink_metadata(path) {
        let is_stale = found.file_type().is_socket() && UnixStream::connect(path).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
        if !is_stale {
            return Err(ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Before it listens, nobody can connect.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
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
fn prepare(socket: OwnedFd) -> io::Result<OwnedFd> {
    let options = SockRef::from(&socket);
    options.set_nonblocking(true)?;
    options.set_cloexec(true)?;
    if options.local_addr()?.as_socket().is_some() {
        options.set_tcp_nodelay(true)?;
        options.set_tcp_notsent_lowat(UNSENT_BYTES)?;
        // A client whose machine is gone is found out, also where neither side says anything for long.
        options.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)))?;
    }
    Ok(socket)
}
