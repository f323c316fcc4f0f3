//! Certificates of the listeners, chosen by SNI, behind rustls configurations of our own.
//!
//! This room turns files into an [`Acceptor`], and does so again when they change; the handshake itself is the server's.

pub mod acme;
mod certificates;
mod client;
mod files;
mod tickets;

pub use client::describe;
pub use tickets::{Roots, TicketSecret};

use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{ListenerTls, TlsVersion};
use acme::Acme;
use arc_swap::{ArcSwap, Guard};
use certificates::Certificates;
use files::Files;
use pingora::listeners::tls::Acceptor;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use std::sync::{Arc, Mutex, PoisonError};
use tickets::Tickets;

/// What a TLS listener shakes hands with, as its files say.
#[derive(Debug)]
pub struct Termination {
    raw: ListenerTls,
    /// What is ordered of an authority, if anything.
    pub acme: Option<Arc<Acme>>,
    roots: Roots,
    built: ArcSwap<Built>,
    files: Mutex<Files>,
}

/// One reading of the files.
pub struct Built {
    pub acceptor: Acceptor,
    certificates: Arc<Certificates>,
    /// The first name of each certificate, and the Unix time at which it expires.
    pub expiries: Vec<(String, i64)>,
    /// The Unix time by which the first list of revoked clients has to be renewed, if there is one.
    pub lists_end: Option<i64>,
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Built").field("expiries", &self.expiries).finish_non_exhaustive()
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
    /// Reads the files of `tls`. `None` means that a problem was reported.
    pub fn build(raw: &ListenerTls, roots: Roots, at: &At<'_>, problems: &Problems) -> Option<Termination> {
        // Looked at before they are read: what changes in between is read once more.
        let acme = match &raw.acme {
            Some(raw) => Some(Arc::new(Acme::build(raw, &at.key("acme"), problems)?)),
            None => None,
        };
        let files = Files::of(raw, acme.as_deref());
        let built = Built::read(raw, acme.as_deref(), &roots, at, problems)?;
        Some(Termination { raw: raw.clone(), acme, roots, built: ArcSwap::from_pointee(built), files: Mutex::new(files) })
    }

    /// What handshakes from now on are made with.
    pub fn now(&self) -> Guard<Arc<Built>> {
        self.built.load()
    }

    /// Reads the files again if they have changed; says whether they are used.
    ///
    /// # Errors
    /// Why they are not used. Those that were read before are used on, and these are not tried again until they change.
    pub fn refresh(&self) -> Result<bool, String> {
        let mut known = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Files::of(&self.raw, self.acme.as_deref());
        if now == *known {
            return Ok(false);
        }
        *known = now;
        let problems = Problems::default();
        match Built::read(&self.raw, self.acme.as_deref(), &self.roots, &At::root(), &problems) {
            Some(built) => {
                self.built.store(Arc::new(built));
                Ok(true)
            }
            None => Err(problems.into_parts().0.into_iter().map(|problem| problem.what).collect::<Vec<_>>().join("; ")),
        }
    }
}

impl Built {
    /// What follows from the name that a client asked for; `None` when nothing does.
    pub fn agreed(&self, sni: Option<&str>) -> Option<Agreed> {
        let sni = sni.filter(|_| !self.certificates.is_single())?;
        Some(Agreed { certificates: self.certificates.clone(), sni: sni.into() })
    }

    fn read(raw: &ListenerTls, acme: Option<&Acme>, roots: &Roots, at: &At<'_>, problems: &Problems) -> Option<Built> {
        let certificates = Certificates::load(&raw.certificates, acme, at, problems).map(Arc::new);
        let versions: &[&SupportedProtocolVersion] = match raw.min_version {
            TlsVersion::V12 => &[&version::TLS13, &version::TLS12],
            TlsVersion::V13 => &[&version::TLS13],
        };
        let unusable = |e: rustls::Error| {
            let (why, fix) = ("the listener could not shake hands", "report this as a bug");
            problems.at(at, format!("TLS can't be set up: {e}"), why, fix)
        };
        let provider = Arc::new(ring::default_provider());
        let clients = raw.client_auth.as_ref().map(|raw| client::Clients::read(raw, &provider, &at.key("client_auth"), problems));
        let clients = clients.map_or(Some(None), |clients| clients.map(Some));
        let (certificates, clients) = (certificates?, clients?);
        let builder = match ServerConfig::builder_with_provider(provider).with_protocol_versions(versions) {
            Ok(builder) => builder,
            Err(e) => return unusable(e),
        };
        let lists_end = clients.as_ref().and_then(|clients| clients.lists_end);
        let trust = certificates.trust(clients.as_ref().map(|clients| clients.trust));
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(clients.verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(certificates.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = Arc::new(Tickets::new(roots.clone(), trust));
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let expiries = certificates.expiries().collect();
        Some(Built { acceptor: Acceptor::from_server_config(Arc::new(config)), certificates, expiries, lists_end })
    }
}
