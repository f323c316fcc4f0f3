//! Certificates that clients show in the handshake (RFC 8446, 4.4.2): the listener has verified them, here they get names.

use crate::config::raw::auth as raw;
use crate::types::{Certificate, Identity, Refusal};
use serde_json::{Map, Value};
use std::sync::Arc;

#[derive(Debug)]
pub struct Mtls {
    name: Arc<str>,
    /// Parts of a subject that all have to be there, and who it is.
    subjects: Vec<(Vec<String>, String)>,
    /// Alternative names, and who it is.
    sans: Vec<(String, String)>,
    /// SHA-256 in small hexadecimal digits, and who it is.
    fingerprints: Vec<(String, String)>,
}

impl Mtls {
    pub fn build(raw: &raw::Mtls, name: &Arc<str>) -> Mtls {
        let parts = |text: &str| text.split(',').map(|part| part.trim().to_string()).collect();
        let plain = |text: &str| text.replace(':', "").to_ascii_lowercase();
        Mtls {
            name: name.clone(),
            subjects: raw.subjects.0.iter().map(|(text, who)| (parts(text), who.clone())).collect(),
            sans: raw.sans.0.clone(),
            fingerprints: raw.fingerprints.0.iter().map(|(text, who)| (plain(text), who.clone())).collect(),
        }
    }

    /// # Errors
    /// `key_unknown` or `key_expired`.
    pub fn check(&self, certificate: &Certificate, now: f64) -> Result<Arc<Identity>, Refusal> {
        if now >= certificate.expires {
            return Err(Refusal::KeyExpired);
        }
        let by_print = self.fingerprints.iter().find(|(print, _)| *print == certificate.fingerprint).map(|(_, who)| who);
        let by_name = || self.sans.iter().find(|(name, _)| certificate.names.contains(name)).map(|(_, who)| who);
        let has_all = |parts: &[String]| parts.iter().all(|part| certificate.subject.contains(part));
        let by_subject = || self.subjects.iter().find(|(parts, _)| has_all(parts)).map(|(_, who)| who);
        let who = by_print.or_else(by_name).or_else(by_subject).ok_or(Refusal::KeyUnknown)?;
        let claims: Map<String, Value> = [
            ("sub", Value::from(who.as_str())),
            ("subject", certificate.subject.join(",").into()),
            ("san", certificate.names.clone().into()),
            ("fingerprint", certificate.fingerprint.as_str().into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_string(), value))
        .collect();
        Ok(Arc::new(Identity { name: who.as_str().into(), method: self.name.clone(), claims }))
    }
}
