//! TLS clients that trust everybody, and tell whom they met.

use super::PATIENCE;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme, StreamOwned};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

pub type Secure = StreamOwned<ClientConnection, TcpStream>;

/// Shakes hands, with a name to be asked for and the protocols that are spoken.
pub fn secure(address: SocketAddr, name: &str, protocols: &[&str]) -> io::Result<Secure> {
    secure_and_send(address, name, protocols, b"")
}

/// The same, and sends these bytes in one segment with the last of the handshake.
pub fn secure_and_send(address: SocketAddr, name: &str, protocols: &[&str], first: &[u8]) -> io::Result<Secure> {
    secure_to(TcpStream::connect(address)?, name, protocols, first)
}

/// The same over a connection that is there already.
pub fn secure_to(mut tcp: TcpStream, name: &str, protocols: &[&str], first: &[u8]) -> io::Result<Secure> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("versions");
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody::new(provider))).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_string()).expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    connection.writer().write_all(first)?;
    tcp.set_read_timeout(Some(*PATIENCE))?;
    tcp.set_write_timeout(Some(*PATIENCE))?;
    tcp.set_nodelay(true)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp)?;
    }
    Ok(StreamOwned::new(connection, tcp))
}

/// The certificate that the other side has shown.
pub fn shown(stream: &Secure) -> CertificateDer<'static> {
    stream.conn.peer_certificates().expect("certificates")[0].clone().into_owned()
}

/// Somebody who comes again, and remembers sessions.
pub struct Visitor {
    config: Arc<ClientConfig>,
    stapled: Arc<Mutex<Vec<u8>>>,
}

impl Visitor {
    /// Who speaks only this version, `1.2` or `1.3`.
    pub fn new(version: &str) -> Visitor {
        let provider = Arc::new(ring::default_provider());
        let versions: &[&rustls::SupportedProtocolVersion] =
            if version == "1.2" { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).expect("versions");
        let anybody = Anybody::new(provider);
        let stapled = anybody.stapled.clone();
        Visitor { config: Arc::new(builder.dangerous().with_custom_certificate_verifier(Arc::new(anybody)).with_no_client_auth()), stapled }
    }

    /// Comes, asks for something, and takes what is given along; how they shook hands.
    #[track_caller]
    pub fn visit(&self, address: SocketAddr) -> HandshakeKind {
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(self.config.clone(), name).expect("a client");
        let tcp = TcpStream::connect(address).expect("a connection");
        tcp.set_read_timeout(Some(*PATIENCE)).expect("a timeout");
        let mut stream = StreamOwned::new(connection, tcp);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("to send");
        let mut answer = Vec::new();
        let _ = io::Read::read_to_end(&mut stream, &mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        stream.conn.handshake_kind().expect("a handshake")
    }

    /// What was stapled to the certificate, the last time that it was shown.
    pub fn stapled(&self) -> Vec<u8> {
        self.stapled.lock().expect("bytes").clone()
    }
}

#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
    stapled: Arc<Mutex<Vec<u8>>>,
}

impl Anybody {
    fn new(provider: Arc<CryptoProvider>) -> Anybody {
        Anybody { provider, stapled: Arc::default() }
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        stapled: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.stapled.lock().expect("bytes") = stapled.to_vec();
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
