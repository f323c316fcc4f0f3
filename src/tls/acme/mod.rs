//! Certificates from an authority (ACME, RFC 8555), which has domains proved by asking this gateway for a file (HTTP-01, 8.3).
//!
//! All that there is lies in a folder (`store`), so that gateways that share it share the account, the certificates and the
//! answers to challenges. Whoever holds its lock orders; the others find the certificate there, as they do any file that changes.

mod order;
mod store;

pub use store::Store;

use super::certificates::Leaf;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use store::Failed;

/// Where the folder is when nobody says: in systemd's STATE_DIRECTORY, else here.
const STATE: &str = "/var/lib/frontdesk";
/// What challenges are asked for by (RFC 8555, 8.3).
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";
/// Behind a failure the next try waits so long, and twice as long behind the next, up to the other one: authorities count them.
const PAUSE: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(6 * 3600);

/// A certificate that is ordered and renewed.
#[derive(Debug)]
pub struct Acme {
    /// In small letters; the certificate is filed under the first.
    pub domains: Vec<String>,
    email: Option<String>,
    directory: String,
    /// A PEM file with the authorities that are trusted when the directory is asked, beside the system's.
    ca: Option<PathBuf>,
    pub store: Store,
}

/// What has become of a look at a certificate.
#[derive(Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is good for so much longer, until it is to be renewed.
    Good(Duration),
    /// Another gateway orders it now, or the last failure is too fresh.
    Waits,
    /// A new one has come.
    Renewed,
}

impl Acme {
    /// `None` means that a problem was reported. Nothing is made yet.
    pub fn build(raw: &raw::Acme, at: &At<'_>, problems: &Problems) -> Option<Acme> {
        let domains: Vec<String> = raw.domains.0.iter().map(|domain| domain.to_ascii_lowercase()).collect();
        let why = "the authority would not sign for it";
        for (index, domain) in domains.iter().enumerate() {
            let legal = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            let (domains_at, fix) = (at.key("domains"), "write each name out, such as `www.example.com`");
            let at = domains_at.index(index);
            if domain.starts_with("*.") {
                return problems.at(&at, format!("`{domain}` can't be proved by HTTP-01"), why, fix);
            }
            if !domain.split('.').all(legal) || domain.parse::<std::net::Ipv4Addr>().is_ok() {
                return problems.at(&at, format!("`{domain}` is not a domain"), why, fix);
            }
        }
        let directory: Option<http::Uri> = raw.directory.parse().ok();
        let is_own = |uri: &http::Uri| uri.host().is_some_and(|host| host == "127.0.0.1" || host == "[::1]" || host == "localhost");
        let is_safe = |uri: &http::Uri| uri.scheme_str() == Some("https") || uri.scheme_str() == Some("http") && is_own(uri);
        if !directory.as_ref().is_some_and(is_safe) {
            let (what, why) = (format!("`{}` is not an https URL", raw.directory), "whoever is in between could order certificates");
            return problems.at(&at.key("directory"), what, why, "write the authority's directory, as its documentation has it");
        }
        let store = raw.store.as_ref().map(|path| path.0.clone().into());
        Some(Acme {
            store: Store::new(store.unwrap_or_else(default_store), &raw.directory, domains.first()?),
            domains,
            email: raw.email.clone(),
            directory: raw.directory.clone(),
            ca: raw.ca.as_ref().map(|path| path.0.clone().into()),
        })
    }

    /// What is shown while there is no certificate: of ours alone, so that a listener shakes hands, and its checks pass, from the
    /// beginning. Nobody who looks at certificates goes on with it.
    pub fn stand_in(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rcgen::Error> {
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(self.domains.clone())?.self_signed(&key)?;
        Ok((vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// How long the certificate that is there is good without being renewed: for two thirds of its time, and a little of it more.
    fn left(&self, leaf: Option<&Leaf>, jitter: f64, now: SystemTime) -> Duration {
        let Some(leaf) = leaf.filter(|leaf| self.domains.iter().all(|domain| leaf.names.contains(domain))) else { return Duration::ZERO };
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
        let lasts = (leaf.expires - leaf.begins).max(0) as f64;
        Duration::try_from_secs_f64(leaf.begins as f64 + lasts * (2.0 / 3.0 + jitter / 30.0) - now).unwrap_or_default()
    }

    /// Orders the certificate if it is time, which takes up to minutes. `jitter`, from 0 to 1, is the caller's own: of several
    /// gateways the one with the least goes first. May block on the disk.
    ///
    /// # Errors
    /// Why there is no new one, which is also noted in the store.
    pub async fn renew(&self, jitter: f64) -> Result<Looked, String> {
        let left = || self.left(self.store.leaf().as_ref(), jitter, SystemTime::now());
        let now_left = left();
        if !now_left.is_zero() {
            return Ok(Looked::Good(now_left));
        }
        if self.store.failed().is_some_and(|failed| failed.until > SystemTime::now()) {
            return Ok(Looked::Waits);
        }
        let Some(_lock) = self.store.lock().map_err(|e| format!("{}: {e}", self.store.folder().display()))? else {
            return Ok(Looked::Waits);
        };
        // Whoever had the lock may have done it.
        let now_left = left();
        if !now_left.is_zero() {
            return Ok(Looked::Good(now_left));
        }
        match order::order(self).await {
            Ok(()) => {
                self.store.set_failed(None);
                Ok(Looked::Renewed)
            }
            Err(why) => {
                let times = self.store.failed().map_or(0, |failed| failed.times).saturating_add(1);
                let pause = PAUSE.saturating_mul(1 << (times - 1).min(16)).min(PAUSE_MAX);
                self.store.set_failed(Some(Failed { times, until: SystemTime::now() + pause }));
                Err(format!("{why}; the next try is in {}", humantime::format_duration(pause)))
            }
        }
    }
}

fn default_store() -> PathBuf {
    let of_systemd = std::env::var("STATE_DIRECTORY").ok();
    let first = of_systemd.as_deref().and_then(|folders| folders.split(':').next()).filter(|folder| !folder.is_empty());
    PathBuf::from(first.unwrap_or(STATE)).join("acme")
}

/// The token of a challenge that a path asks for: such as could be a file's name and no other's.
pub fn token(path: &str) -> Option<&str> {
    path.strip_prefix(WELL_KNOWN).filter(|token| is_token(token))
}

fn is_token(text: &str) -> bool {
    // Base64url (RFC 8555, 8.3).
    matches!(text.len(), 1..=128) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::FilePath;
    use crate::config::shape::OneOrMany;

    fn build(domains: &[&str], directory: &str) -> Result<Acme, String> {
        let raw = raw::Acme {
            domains: OneOrMany(domains.iter().map(ToString::to_string).collect()),
            email: None,
            directory: directory.into(),
            store: Some(FilePath("/nowhere".into())),
            ca: None,
        };
        let problems = Problems::default();
        Acme::build(&raw, &At::root(), &problems).ok_or_else(|| problems.into_parts().0.remove(0).what)
    }

    #[test]
    fn domains_have_to_be_provable_and_the_directory_safe() {
        let good = "https://acme.example/directory";
        assert_eq!(build(&["A.example", "b.a.example"], good).expect("good").domains, ["a.example", "b.a.example"]);
        assert!(build(&["a.example"], "http://127.0.0.1:14000/dir").is_ok());
        for (domain, directory) in [
            ("*.a.example", good),
            ("", good),
            ("a..b", good),
            ("../x", good),
            ("10.0.0.1", good),
            ("a.example", "http://acme.example/directory"),
            ("a.example", "ftp://127.0.0.1/"),
            ("a.example", "nonsense"),
        ] {
            assert!(build(&[domain], directory).is_err(), "{domain} {directory}");
        }
    }

    #[test]
    fn it_is_renewed_in_the_last_third_of_its_time_and_when_a_name_is_missing() {
        let acme = build(&["a.example"], "https://acme.example/").expect("good");
        let leaf = |names: &[&str]| Leaf { names: names.iter().map(ToString::to_string).collect(), begins: 1_000_000, expires: 1_090_000 };
        let left = |leaf: Option<&Leaf>, jitter, now| acme.left(leaf, jitter, SystemTime::UNIX_EPOCH + Duration::from_secs(now)).as_secs();
        let good = leaf(&["a.example", "b.example"]);
        assert_eq!([left(Some(&good), 0.0, 1_000_000), left(Some(&good), 1.0, 1_000_000)], [60_000, 63_000]);
        assert_eq!([left(Some(&good), 0.0, 1_060_000), left(Some(&good), 0.0, 2_000_000)], [0, 0]);
        assert_eq!([left(Some(&leaf(&["b.example"])), 0.0, 1_000_000), left(None, 0.0, 1_000_000)], [0, 0]);
    }

    #[test]
    fn only_what_is_a_token_is_looked_for() {
        assert_eq!(token("/.well-known/acme-challenge/aZ0-_"), Some("aZ0-_"));
        let long = format!("/.well-known/acme-challenge/{}", "a".repeat(129));
        for path in ["/.well-known/acme-challenge/", "/.well-known/acme-challenge/../x", "/.well-known/acme-challenge/a/b", "/x", &long] {
            assert_eq!(token(path), None, "{path}");
        }
    }
}
