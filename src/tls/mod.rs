//! Certificates of the listeners, chosen by SNI, behind rustls configurations of our own.
//!
//! This room turns files into an [`Acceptor`]; the handshake itself is the server's.

mod certificates;
mod client;

pub use client::describe;

use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{ListenerTls, TlsVersion};
use certificates::Certificates;
use pingora::listeners::tls::Acceptor;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use std::sync::Arc;

/// What a TLS listener shakes hands with.
pub struct Termination {
    pub acceptor: Acceptor,
    certificates: Arc<Certificates>,
    /// The first name of each certificate, and the Unix time at which it expires.
    pub expiries: Vec<(String, i64)>,
}

impl std::fmt::Debug for Termination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Termination").field("expiries", &self.expiries).finish_non_exhaustive()
    }
}

/// What was agreed upon with a client.
#[derive(Debug)]
pub struct Agreed {
    certificates: Arc<Certificates>,
    sni: Box<str>,
}

impl Agreed {
    /// Whether `host` has to be asked for on another connection.
    pub fn is_misdirected(&self, host: &str) -> bool {
        self.certificates.is_misdirected(&self.sni, host)
    }
}

impl Termination {
    /// What follows from the name that a client asked for; `None` when nothing does.
    pub fn agreed(&self, sni: Option<&str>) -> Option<Agreed> {
        let sni = sni.filter(|_| !self.certificates.is_single())?;
        Some(Agreed { certificates: self.certificates.clone(), sni: sni.into() })
    }

    /// Reads the certificates of `tls`. `None` means that a problem was reported.
    pub fn build(raw: &ListenerTls, at: &At<'_>, problems: &Problems) -> Option<Termination> {
        let certificates = Arc::new(Certificates::load(&raw.certificates, &at.key("certificates"), problems)?);
        let expiries = certificates.expiries().collect();
        let versions: &[&SupportedProtocolVersion] = match raw.min_version {
            TlsVersion::V12 => &[&version::TLS13, &version::TLS12],
            TlsVersion::V13 => &[&version::TLS13],
        };
        let unusable = |e: rustls::Error| {
            let (why, fix) = ("the listener could not shake hands", "report this as a bug");
            problems.at(at, format!("TLS can't be set up: {e}"), why, fix)
        };
        let provider = Arc::new(ring::default_provider());
        let verifier = raw.client_auth.as_ref().map(|raw| client::verifier(raw, &provider, &at.key("client_auth"), problems));
        let builder = match ServerConfig::builder_with_provider(provider).with_protocol_versions(versions) {
            Ok(builder) => builder,
            Err(e) => return unusable(e),
        };
        let builder = match verifier.map_or(Some(None), |verifier| verifier.map(Some))? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(certificates.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Tickets of one listener are good for that listener only: one that crossed to another would carry its trust along.
        match ring::Ticketer::new() {
            Ok(ticketer) => config.ticketer = ticketer,
            Err(e) => return unusable(e),
        }
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Some(Termination { acceptor: Acceptor::from_server_config(Arc::new(config)), certificates, expiries })
    }
}
