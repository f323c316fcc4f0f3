//! Clients that come by way of a proxy: whom it speaks for is read before anything else.

use super::proxy_header::{BYTES_MAX, Malformed, parse};
use super::socket::Socket;
use crate::shape::forward::unmap;
use ipnet::IpNet;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncReadExt;

/// Read at once.
const READ_BYTES: usize = 512;

/// Proxies whose header is taken; from all others no header is expected, and one that comes is no request.
#[derive(Clone, Debug)]
pub struct Proxies(pub Arc<[IpNet]>);

impl Proxies {
    pub fn has(&self, peer: SocketAddr) -> bool {
        let ip = unmap(peer.ip());
        self.0.iter().any(|network| network.contains(&ip))
    }
}

/// Why it is not known for whom a proxy speaks.
#[derive(Debug)]
pub enum Unheard {
    /// What came is no header.
    Malformed(&'static str),
    /// The proxy has gone, or it can't be read from it.
    Lost(io::Error),
}

impl From<io::Error> for Unheard {
    fn from(e: io::Error) -> Unheard {
        Unheard::Lost(e)
    }
}

/// Reads the header. Answers for whom the proxy speaks, if for anybody, and the bytes that came behind it.
///
/// # Errors
/// Those of reading, and what is wrong with what was read.
pub async fn read_header(socket: &mut Socket) -> Result<(Option<SocketAddr>, Vec<u8>), Unheard> {
    let mut bytes = Vec::new();
    loop {
        let begin = bytes.len();
        bytes.resize(begin + READ_BYTES.min(BYTES_MAX + READ_BYTES - begin), 0);
        let read = socket.read(&mut bytes[begin..]).await?;
        bytes.truncate(begin + read);
        match parse(&bytes) {
            Ok(Some(header)) => {
                bytes.drain(..header.length);
                return Ok((header.client, bytes));
            }
            Ok(None) if read == 0 => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
            Ok(None) => {}
            Err(Malformed(what)) => return Err(Unheard::Malformed(what)),
        }
    }
}
