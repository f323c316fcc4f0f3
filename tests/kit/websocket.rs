//! WebSockets: a service that echoes, and clients over any stream.

use super::{Client, Gateway, Origin, Stream, read_head};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// The fields of a handshake.
pub const HANDSHAKE: &[(&str, &str)] = &[
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// The answer to it, on the wire.
pub const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A service's side of a tunnel: what was read ahead of time counts.
struct Duplex<'a>(&'a mut Stream);
impl Read for Duplex<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}
impl Write for Duplex<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}

impl Origin {
    /// Sends each message back, until the client closes.
    pub fn websocket_echo() -> Origin {
        Origin::bare(|stream, seen| {
            let Some(request) = read_head(stream)? else { return Ok(()) };
            let accept = derive_accept_key(request.header("sec-websocket-key").unwrap_or_default().as_bytes());
            seen.lock().expect("the requests").push(request);
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.get_mut().write_all(head.as_bytes())?;
            let mut socket = WebSocket::from_raw_socket(Duplex(stream), Role::Server, None);
            while let Ok(message) = socket.read() {
                if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Accepts every handshake, and gives `script` the bare connection behind it.
    pub fn tunnel(script: impl Fn(&mut Stream) -> io::Result<()> + Send + Sync + 'static) -> Origin {
        Origin::scripted(move |_, stream| {
            stream.get_mut().write_all(ACCEPTED.as_bytes())?;
            script(stream).map(|()| false)
        })
    }
}

/// Shakes hands over a stream.
pub fn websocket<S: Read + Write>(stream: S) -> tungstenite::Result<WebSocket<S>> {
    tungstenite::client("ws://test/chat?room=1", stream).map(|(socket, _)| socket).map_err(|e| match e {
        tungstenite::HandshakeError::Failure(e) => e,
        tungstenite::HandshakeError::Interrupted(_) => io::Error::from(io::ErrorKind::TimedOut).into(),
    })
}

/// Sends a text and waits for it to come back.
#[track_caller]
pub fn echoes<S: Read + Write>(socket: &mut WebSocket<S>, text: &str) {
    socket.send(Message::text(text)).expect("to send");
    assert_eq!(socket.read().expect("an echo"), Message::text(text));
}

impl Gateway {
    #[track_caller]
    pub fn websocket(&self) -> WebSocket<TcpStream> {
        websocket(self.connect().into_stream()).expect("a handshake")
    }

    /// A bare connection behind a handshake.
    #[track_caller]
    pub fn tunnel(&self) -> Client {
        let mut client = self.connect();
        let answer = client.request("GET", "/", HANDSHAKE, b"");
        assert_eq!(answer.status, 101, "{answer:?}");
        client
    }
}
