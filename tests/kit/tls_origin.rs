//! A service that speaks TLS: a thread a connection.

use super::{answer, read_request};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::fmt;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Answers 200 with a description of the request, as `Origin::echo` does.
pub struct TlsOrigin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl TlsOrigin {
    /// With a certificate and its key. Clients need a certificate that `clients` has signed, when that is given.
    pub fn echo((cert, key): &(impl AsRef<Path>, impl AsRef<Path>), clients: Option<&Path>) -> TlsOrigin {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(file).expect("a certificate")).expect("an authority");
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let chain = vec![CertificateDer::from_pem_file(cert).expect("a certificate")];
        let config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).expect("a key"));
        let mut config = config.expect("a pair");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let config = config.clone();
                counted.fetch_add(1, Relaxed);
                // A client that is gone, or trusts nobody, is no concern of the origin's.
                std::thread::spawn(move || drop(serve(tcp, config)));
            }
        });
        TlsOrigin { address, connections }
    }

    /// How many there have been.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

fn serve(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, tcp));
    while let Some(mut request) = read_request(&mut stream)? {
        let asked = stream.get_ref().conn.server_name().unwrap_or_default().to_string();
        request.headers.push(("Asked-For".to_string(), asked));
        let agreed = stream.get_ref().conn.alpn_protocol().unwrap_or_default();
        request.headers.push(("Agreed".to_string(), String::from_utf8_lossy(agreed).into_owned()));
        let bytes = answer(200, &[("Content-Type", "application/json")], request.describe().as_bytes());
        stream.get_mut().write_all(&bytes)?;
        stream.get_mut().flush()?;
    }
    Ok(())
}

impl fmt::Display for TlsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}
