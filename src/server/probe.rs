//! A listener is asked from within whether it serves, before it is given a client.

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Error, RootCertStore};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);
/// RFC 9113, 3.4: the preface and an empty SETTINGS. It is answered likewise, and is no request that would be counted or logged.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: u8 = 4;

/// # Errors
/// What is wrong with the listener.
pub async fn probe((stream, is_tls): (UnixStream, bool)) -> Result<(), String> {
    let asked = async {
        match is_tls {
            true => ask_tls(stream).await,
            false => ask_http(stream).await,
        }
    };
    match timeout(PATIENCE, asked).await {
        Ok(answered) => answered.map_err(|e| e.to_string()),
        Err(_) => Err("no answer".to_string()),
    }
}

async fn ask_http(mut stream: UnixStream) -> io::Result<()> {
    stream.write_all(PREFACE).await?;
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await?;
    match frame[3] {
        SETTINGS => Ok(()),
        _ => Err(io::Error::other("it does not answer as HTTP/2 does")),
    }
}

/// Shakes hands as somebody who trusts nobody: to be shown a certificate is the answer.
async fn ask_tls(mut stream: UnixStream) -> io::Result<()> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let name = ServerName::try_from("probe.invalid").map_err(io::Error::other)?;
    let mut client = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    loop {
        let mut out = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut out)?;
        }
        stream.write_all(&out).await?;
        let mut room = [0; 4096];
        let read = stream.read(&mut room).await?;
        if read == 0 {
            return Err(io::Error::other("it ends in the midst of the handshake"));
        }
        let mut read = &room[..read];
        while !read.is_empty() {
            client.read_tls(&mut read)?;
            match client.process_new_packets() {
                Ok(_) => {}
                Err(Error::InvalidCertificate(_)) => return Ok(()),
                Err(e) => return Err(io::Error::other(e)),
            }
        }
    }
}
