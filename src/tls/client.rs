//! Certificates of clients: who may sign them, and what is read of one.

use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{ClientAuth, ClientAuthMode};
use crate::types::Certificate;
use ring::digest::{Context, SHA256, digest};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::net::IpAddr;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

const WHY: &str = "no client could be recognised by its certificate";

/// Who is believed to be who they say.
pub struct Clients {
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// A hash of the policy and of its files: of what a session that was agreed upon under it rests on.
    pub trust: [u8; 32],
    /// The Unix time by which the first of the lists has to be renewed.
    pub lists_end: Option<i64>,
}

impl Clients {
    /// `None` means that a problem was reported.
    pub fn read(raw: &ClientAuth, provider: &Arc<CryptoProvider>, at: &At<'_>, problems: &Problems) -> Option<Clients> {
        let (path, ca_at) = (&raw.ca.0, at.key("ca"));
        let fix = "name a PEM file with the authority that signs your clients' certificates";
        let mut hash = Context::new(&SHA256);
        hash.update(&[u8::from(raw.mode == ClientAuthMode::Required)]);
        let roots = problems.ok(read_roots(path, &mut hash), &ca_at, WHY, fix)?;
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let mut lists_end = None;
        if let Some(crl) = &raw.crl {
            let fix = "name a PEM file with a list of each authority, as `openssl ca -gencrl` writes it";
            let lists = problems.ok(read_lists(&crl.0, &mut hash), &at.key("crl"), "who was locked out could come in", fix)?;
            // One that is past its end is used on: it locks out more than none.
            lists_end = lists.iter().filter_map(|list| next_update(list)).min();
            // Of authorities between the root and the client, lists are hard to come by.
            builder = builder.with_crls(lists).only_check_end_entity_revocation();
        }
        let builder = match raw.mode {
            ClientAuthMode::Optional => builder.allow_unauthenticated(),
            ClientAuthMode::Required => builder,
        };
        let verifier = problems.ok(builder.build().map_err(|e| format!("`{path}` can't be used: {e}")), &ca_at, WHY, fix)?;
        Some(Clients { verifier, trust: hash.finish().as_ref().first_chunk().copied().unwrap_or_default(), lists_end })
    }
}

fn read_roots(path: &str, hash: &mut Context) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for found in CertificateDer::pem_file_iter(path).map_err(|e| format!("can't read certificates from `{path}`: {e}"))? {
        let certificate = found.map_err(|e| format!("can't read certificates from `{path}`: {e}"))?;
        hash.update(&certificate);
        roots.add(certificate).map_err(|e| format!("`{path}` has a certificate that can't be used: {e}"))?;
    }
    match roots.is_empty() {
        true => Err(format!("`{path}` has no certificate")),
        false => Ok(roots),
    }
}

fn read_lists(path: &str, hash: &mut Context) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let found = CertificateRevocationListDer::pem_file_iter(path).and_then(|found| found.collect::<Result<Vec<_>, _>>());
    let lists = found.map_err(|e| format!("can't read lists from `{path}`: {e}"))?;
    lists.iter().for_each(|list| hash.update(list));
    match lists.is_empty() {
        true => Err(format!("`{path}` has no list")),
        false => Ok(lists),
    }
}

/// When a list says that there will be another (RFC 5280, 5.1.2.5).
fn next_update(list: &[u8]) -> Option<i64> {
    let (_, parsed) = CertificateRevocationList::from_der(list).ok()?;
    parsed.next_update().map(|at| at.timestamp())
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
