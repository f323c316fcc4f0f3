//! The certificates of one listener, by the names that stand in them.

use super::acme::Acme;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{CertificatePair, FilePath};
use ring::digest::{Context, SHA256};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;
use x509_parser::asn1_rs::{Enumerated, Sequence};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

#[derive(Debug)]
pub struct Certificates {
    /// Names in small letters; a wildcard under what is behind its star, with the dot.
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// For who asks for no name, or one that stands in none.
    default: Vec<Arc<CertifiedKey>>,
    /// SHA-256 of all leaves, in their order.
    hash: [u8; 32],
    /// Of those that others have signed for us.
    expiries: Vec<(String, i64)>,
    is_single: bool,
}

/// What is read of one certificate.
struct Read {
    key: Arc<CertifiedKey>,
    leaf: Leaf,
    /// It stands in for one that has yet to come.
    stands_in: bool,
}

/// What stands in a certificate.
#[derive(Debug)]
pub struct Leaf {
    /// DNS names in small letters.
    pub names: Vec<String>,
    /// In Unix time, as the end.
    pub begins: i64,
    pub expires: i64,
}

impl Certificates {
    /// `at` is the place of the whole part. The one of `acme` comes last, and may have yet to come.
    pub fn load(raw: &[CertificatePair], acme: Option<&Acme>, at: &At<'_>, problems: &Problems) -> Option<Certificates> {
        let pairs_at = at.key("certificates");
        let named = raw.iter().enumerate().map(|(i, pair)| read(pair, &pairs_at.index(i), problems));
        let all: Vec<Option<Read>> = named.chain(acme.map(|acme| ordered(acme, &at.key("acme"), problems))).collect();
        let all: Vec<Read> = all.into_iter().collect::<Option<_>>()?;
        let Some(first) = all.first() else {
            // What could not be read was said.
            problems.is_sound(&pairs_at).then_some(())?;
            let fix = "name at least one `cert` with its `key`, or `acme`";
            return problems.at(&pairs_at, "TLS without a certificate", "no handshake could succeed", fix);
        };
        let default = all.iter().filter(|other| other.leaf.names == first.leaf.names).map(|read| read.key.clone()).collect();
        let mut hash = Context::new(&SHA256);
        all.iter().flat_map(|read| read.key.cert.first()).for_each(|leaf| hash.update(leaf));
        let (mut by_name, mut expiries) = (HashMap::<String, Vec<Arc<CertifiedKey>>>::new(), Vec::new());
        let is_single = all.len() == 1;
        for (index, Read { key, leaf, stands_in }) in all.into_iter().enumerate() {
            let file = || raw.get(index).map(|pair| pair.cert.0.clone()).unwrap_or_default();
            expiries.extend((!stands_in).then(|| (leaf.names.first().cloned().unwrap_or_else(file), leaf.expires)));
            for name in leaf.names {
                // Of several with one name, the first is shown that the client can verify.
                by_name.entry(name.strip_prefix('*').unwrap_or(&name).to_string()).or_default().push(key.clone());
            }
        }
        let hash = first_bytes(hash.finish().as_ref());
        Some(Certificates { by_name, default, hash, expiries, is_single })
    }

    pub fn expiries(&self) -> impl Iterator<Item = (String, i64)> + '_ {
        self.expiries.iter().cloned()
    }

    /// A hash of these certificates and of what is trusted beside them.
    pub fn trust(&self, clients: Option<[u8; 32]>) -> [u8; 32] {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.hash);
        hash.update(&[u8::from(clients.is_some())]);
        hash.update(&clients.unwrap_or_default());
        first_bytes(hash.finish().as_ref())
    }

    fn find(&self, name: &str) -> &[Arc<CertifiedKey>] {
        self.named(name).unwrap_or(&self.default)
    }

    fn named(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let name = name.to_ascii_lowercase();
        // A wildcard covers one label (RFC 6125, 6.4.3).
        let wildcard = name.find('.').and_then(|dot| self.by_name.get(&name[dot..]));
        self.by_name.get(&name).or(wildcard).map(Vec::as_slice)
    }

    /// There is but one, so nothing can be asked for under the wrong one.
    pub fn is_single(&self) -> bool {
        self.is_single
    }

    /// Whether `host` is asked for on a connection that was opened for `sni`, though there is another certificate for it
    /// (RFC 9110, 15.5.20). A host that stands in none is for the routes to judge.
    pub fn is_misdirected(&self, sni: &str, host: &str) -> bool {
        !host.eq_ignore_ascii_case(sni)
            && self.named(host).is_some_and(|own| !self.find(sni).iter().any(|shown| own.iter().any(|own| Arc::ptr_eq(own, shown))))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fitting = hello.server_name().map_or(&*self.default, |name| self.find(name));
        let is_usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        fitting.iter().find(is_usable).or(fitting.first()).cloned()
    }
}

fn read(pair: &CertificatePair, at: &At<'_>, problems: &Problems) -> Option<Read> {
    let (cert_at, key_at) = (at.key("cert"), at.key("key"));
    let chain = CertificateDer::pem_file_iter(&pair.cert.0).and_then(|found| found.collect::<Result<Vec<_>, _>>());
    let chain = match chain {
        Ok(chain) if !chain.is_empty() => Some(chain),
        Ok(_) => problem(&cert_at, format!("`{}` has no certificate", pair.cert.0), "name a PEM file with the chain", problems),
        Err(e) => {
            problem(&cert_at, format!("can't read certificates from `{}`: {e}", pair.cert.0), "name a PEM file with the chain", problems)
        }
    };
    let key = match PrivateKeyDer::from_pem_file(&pair.key.0) {
        Ok(key) => Some(key),
        Err(e) => {
            problem(&key_at, format!("can't read a private key from `{}`: {e}", pair.key.0), "name a PEM file with the key", problems)
        }
    };
    let (chain, key) = (chain?, key?);
    let Some(leaf) = describe(&chain[0]) else {
        return problem(&cert_at, format!("`{}` can't be parsed", pair.cert.0), "make the certificate anew", problems);
    };
    let mut key = match any_supported_type(&key) {
        Ok(key) => CertifiedKey::new(chain, key),
        Err(e) => return problem(&key_at, format!("`{}` can't be used: {e}", pair.key.0), "use an RSA, ECDSA or Ed25519 key", problems),
    };
    if let Err(e) = key.keys_match() {
        let what = format!("`{}` is not the key of `{}`: {e}", pair.key.0, pair.cert.0);
        return problem(&key_at, what, "name the key that the certificate was made for", problems);
    }
    if let Some(path) = &pair.ocsp {
        key.ocsp = Some(read_ocsp(&path.0, &at.key("ocsp"), problems)?);
    }
    Some(Read { key: Arc::new(key), leaf, stands_in: false })
}

/// What an authority has signed, or what stands in for it until then.
fn ordered(acme: &Acme, at: &At<'_>, problems: &Problems) -> Option<Read> {
    let path = acme.store.certificate();
    if path.exists() {
        let file = FilePath(path.display().to_string());
        return read(&CertificatePair { cert: file.clone(), key: file, ocsp: None }, at, problems);
    }
    let made = acme.stand_in().map_err(|e| e.to_string()).and_then(|(chain, key)| {
        let key = any_supported_type(&key).map_err(|e| e.to_string())?;
        let leaf = describe(&chain[0]).ok_or("it can't be parsed")?;
        Ok(Read { key: Arc::new(CertifiedKey::new(chain, key)), leaf, stands_in: true })
    });
    let made = made.map_err(|why| format!("no certificate could be made for the time being: {why}"));
    problems.ok(made, &at.key("domains"), "the listener could not shake hands", "correct the domains")
}

/// The authority's word that a certificate is good (RFC 6960), which is shown along with it.
fn read_ocsp(path: &str, at: &At<'_>, problems: &Problems) -> Option<Vec<u8>> {
    let fix = "write it by `openssl ocsp … -respout FILE`, or remove `ocsp`";
    let read = std::fs::read(path).map_err(|e| format!("can't read `{path}`: {e}")).and_then(|bytes| {
        is_good_answer(&bytes).then_some(bytes).ok_or_else(|| format!("`{path}` is no OCSP response in DER, or not a successful one"))
    });
    problems.ok(read, at, "clients could not be shown that the certificate is good", fix)
}

/// Of an OCSPResponse, whether an answer stands behind its status, which is 0 where there is one (RFC 6960, 4.2.1).
fn is_good_answer(der: &[u8]) -> bool {
    let Ok((&[], answer)) = Sequence::from_der(der) else { return false };
    Enumerated::from_der(&answer.content).is_ok_and(|(answer, status)| status.0 == 0 && !answer.is_empty())
}

fn first_bytes(digest: &[u8]) -> [u8; 32] {
    digest.first_chunk().copied().unwrap_or_default()
}

fn problem<T>(at: &At<'_>, what: String, fix: &str, problems: &Problems) -> Option<T> {
    problems.at(at, what, "the listener could not shake hands", fix)
}

/// The DNS names in a certificate, and its time.
pub fn describe(der: &CertificateDer<'_>) -> Option<Leaf> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    let names = alternatives.map(|names| names.value.general_names.iter().filter_map(dns).collect()).unwrap_or_default();
    let validity = certificate.validity();
    Some(Leaf { names, begins: validity.not_before.timestamp(), expires: validity.not_after.timestamp() })
}

#[cfg(test)]
mod tests {
    use super::*;
    fn pair(folder: &std::path::Path, file: &str, names: &[&str]) -> CertificatePair {
        let made = rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("a certificate");
        let (cert, key) = (folder.join(format!("{file}.pem")), folder.join(format!("{file}.key")));
        std::fs::write(&cert, made.cert.pem()).expect("a file");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        CertificatePair { cert: FilePath(cert.display().to_string()), key: FilePath(key.display().to_string()), ocsp: None }
    }

    #[test]
    fn names_choose_and_the_first_is_the_default() {
        let folder = tempfile::tempdir().expect("a folder");
        let raw = [pair(folder.path(), "a", &["a.example"]), pair(folder.path(), "b", &["*.b.example", "b.example"])];
        let certificates = Certificates::load(&raw, None, &At::root(), &Problems::default()).expect("certificates");
        let is_b = |name: &str| !Arc::ptr_eq(&certificates.find(name)[0], &certificates.default[0]);
        let found: Vec<bool> = ["a.example", "B.example", "x.b.example", "x.y.b.example", "other"].into_iter().map(is_b).collect();
        assert_eq!(found, [false, true, true, false, false]);
        assert!(certificates.expiries().all(|(_, at)| at > 1_700_000_000));
    }

    #[test]
    fn a_key_of_another_certificate_is_a_problem() {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, b) = (pair(folder.path(), "a", &["a"]), pair(folder.path(), "b", &["b"]));
        let problems = Problems::default();
        let mixed = CertificatePair { cert: a.cert, key: b.key, ocsp: None };
        let absent = CertificatePair { cert: FilePath("/no/cert".into()), key: FilePath("/no/key".into()), ocsp: None };
        assert!(Certificates::load(&[mixed, absent], None, &At::root(), &problems).is_none());
        assert_eq!(problems.count(), 3);
    }
}
