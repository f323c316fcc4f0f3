//! Certificates of clients: who may sign them, and what is read of one.

use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{ClientAuth, ClientAuthMode};
use crate::types::Certificate;
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::net::IpAddr;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const WHY: &str = "no client could be recognised by its certificate";

/// What certificates are verified with. `None` means that a problem was reported.
pub fn verifier(raw: &ClientAuth, provider: &Arc<CryptoProvider>, at: &At<'_>, problems: &Problems) -> Option<Arc<dyn ClientCertVerifier>> {
    let (path, at) = (&raw.ca.0, at.key("ca"));
    let fix = "name a PEM file with the authority that signs your clients' certificates";
    let read = || -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        for found in CertificateDer::pem_file_iter(path).map_err(|e| format!("can't read certificates from `{path}`: {e}"))? {
            let certificate = found.map_err(|e| format!("can't read certificates from `{path}`: {e}"))?;
            roots.add(certificate).map_err(|e| format!("`{path}` has a certificate that can't be used: {e}"))?;
        }
        match roots.is_empty() {
            true => Err(format!("`{path}` has no certificate")),
            false => Ok(roots),
        }
    };
    let roots = problems.ok(read(), &at, WHY, fix)?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder = match raw.mode {
        ClientAuthMode::Optional => builder.allow_unauthenticated(),
        ClientAuthMode::Required => builder,
    };
    problems.ok(builder.build().map_err(|e| format!("`{path}` can't be used: {e}")), &at, WHY, fix)
}

/// What is read of a certificate that was verified.
pub fn describe(der: &[u8]) -> Option<Certificate> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let registry = x509_parser::objects::oid_registry();
    let attribute = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        let name = x509_parser::objects::oid2abbrev(attribute.attr_type(), registry).ok()?;
        Some(format!("{name}={}", attribute.as_str().ok()?))
    };
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some(name.to_string()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    };
    Some(Certificate {
        subject: parsed.subject().iter_attributes().filter_map(attribute).collect(),
        names: alternatives.map(|names| names.value.general_names.iter().filter_map(name).collect()).unwrap_or_default(),
        fingerprint: digest(&SHA256, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        expires: parsed.validity().not_after.timestamp() as f64,
    })
}
