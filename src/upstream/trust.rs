//! Certificates towards services: whom we trust, and who we are.

use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{FilePath, ServiceTls};
use pingora::protocols::tls::CaType;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The file that Pingora is to read authorities from: `None` for the system's, and one without any when the system has none
/// that can be read, since Pingora panics then.
pub fn system_authorities() -> Option<String> {
    let mut store = pingora::tls::RootCertStore::empty();
    match pingora::tls::load_platform_certs_incl_env_into_store(&mut store) {
        Ok(()) => None,
        Err(e) => {
            log::warn!("the system's certificate authorities can't be read, so services with `tls` need `ca`: {e}");
            Some("/dev/null".to_string())
        }
    }
}

/// The authorities of `tls.ca`; `Some(None)` when the system's are trusted. `None` means that a problem was reported.
pub fn authorities(tls: &ServiceTls, at: &At<'_>, problems: &Problems) -> Option<Option<Arc<CaType>>> {
    let Some(file) = &tls.ca else { return Some(None) };
    let found = certificates(file, &at.key("ca"), problems)?;
    let wrapped: Vec<WrappedX509> = found.into_iter().map(|der| WrappedX509::new(der, parse_x509)).collect();
    Some(Some(Arc::from(wrapped)))
}

/// The client certificate of `tls.cert` and `tls.key`; `Some(None)` without one. `None` means that a problem was reported.
pub fn identity(tls: &ServiceTls, at: &At<'_>, problems: &Problems) -> Option<Option<Arc<CertKey>>> {
    let (cert, key) = match (&tls.cert, &tls.key) {
        (None, None) => return Some(None),
        (Some(cert), Some(key)) => (cert, key),
        _ => return problems.at(at, "`cert` and `key` go together", "one is of no use without the other", "name both, or neither"),
    };
    let chain = certificates(cert, &at.key("cert"), problems);
    let key = match PrivateKeyDer::from_pem_file(&key.0) {
        Ok(key) => Some(key.secret_der().to_vec()),
        Err(e) => {
            let what = format!("can't read a private key from `{}`: {e}", key.0);
            problems.at(&at.key("key"), what, "the service would not know us", "name a PEM file with a private key")
        }
    };
    Some(Some(Arc::new(CertKey::new(chain?, key?))))
}

/// The certificates of a PEM file, at least one, each of which can be parsed: Pingora panics on those that can't.
fn certificates(file: &FilePath, at: &At<'_>, problems: &Problems) -> Option<Vec<Vec<u8>>> {
    let read = CertificateDer::pem_file_iter(&file.0).and_then(|found| found.collect::<Result<Vec<_>, _>>());
    let problem = |what: String| problems.at(at, what, "the connection could not be trusted", "name a PEM file with certificates");
    match read {
        Err(e) => problem(format!("can't read certificates from `{}`: {e}", file.0)),
        Ok(found) if found.is_empty() => problem(format!("`{}` has no certificate", file.0)),
        Ok(found) => match found.iter().find(|der| X509Certificate::from_der(der).is_err()) {
            Some(_) => problem(format!("`{}` has a certificate that can't be parsed", file.0)),
            None => Some(found.into_iter().map(|der| der.to_vec()).collect()),
        },
    }
}
