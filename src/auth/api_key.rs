//! API keys: `fd_PREFIX_SECRET`, of which the file has the prefix, to find the key by, and the hash of the secret.
//!
//! A secret of 256 random bits can't be guessed, so that one round of SHA-256 is enough: slow hashes are for passwords. It also is what
//! a key is looked up by: how long that takes tells something of a hash at most, from which no secret can be had.

use super::credential::Place;
use super::lists::{self, Listed};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::auth as raw;
use crate::types::{Identity, Refusal};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug)]
pub struct ApiKeys {
    pub place: Place,
    keys: Listed<Keys>,
}

/// By prefix and hash. Keys of other makers may all begin alike.
type Keys = HashMap<String, HashMap<[u8; 32], Key>>;

#[derive(Debug)]
pub struct Key {
    /// In Unix time.
    expires: f64,
    identity: Arc<Identity>,
}

impl ApiKeys {
    /// `None` means that a problem was reported.
    pub fn build(raw: &raw::ApiKey, name: &Arc<str>, at: &At<'_>, problems: &Problems) -> Option<ApiKeys> {
        let from = raw::From { header: raw.header.clone(), cookie: raw.cookie.clone(), query: raw.query.clone(), scheme: None };
        let place = match (&from.header, &from.cookie, &from.query) {
            (None, None, None) => {
                let fix = "add `header: X-Api-Key`, or `query:` or `cookie:`";
                problems.at(at, "a key without a place", "nobody could show one", fix)
            }
            _ => Place::build(&from, at, problems),
        };
        let method = name.clone();
        let parse = move |text: &str| lists::entries(text).and_then(|entries| index(&entries, &method));
        let fix = "write a list of entries as `frontdesk hash-key` prints them";
        let keys = Listed::read(&raw.keys.0, Box::new(parse), &at.key("keys"), fix, problems);
        Some(ApiKeys { place: place?, keys: keys? })
    }

    /// # Errors
    /// `key_unknown` or `key_expired`.
    pub fn check(&self, key: &str, now: f64) -> Result<Arc<Identity>, Refusal> {
        let keys = self.keys.load();
        let (prefix, secret) = split(key).ok_or(Refusal::KeyUnknown)?;
        let known = keys.get(prefix).and_then(|alike| alike.get(&hash(secret))).ok_or(Refusal::KeyUnknown)?;
        if now < known.expires { Ok(known.identity.clone()) } else { Err(Refusal::KeyExpired) }
    }
}

/// The prefix, and the secret behind it. Keys of other makers have no prefix: their first 8 characters stand for one.
fn split(key: &str) -> Option<(&str, &str)> {
    match key.strip_prefix("fd_").and_then(|rest| rest.split_once('_')) {
        Some((prefix, secret)) if !prefix.is_empty() && !secret.is_empty() => Some((prefix, secret)),
        _ => key.split_at_checked(8).filter(|(_, rest)| !rest.is_empty()),
    }
}

fn hash(secret: &str) -> [u8; 32] {
    digest(&SHA256, secret.as_bytes()).as_ref().try_into().unwrap_or_default()
}

/// What the file has of a key.
///
/// # Errors
/// It is too short to be one.
pub fn hashed(key: &str) -> Result<String, String> {
    let (prefix, secret) = split(key).filter(|(_, secret)| secret.len() >= 16).ok_or("the key is too short: it could be guessed")?;
    Ok(format!("{prefix}:{}", lists::hex(&hash(secret))))
}

/// A key that nobody has yet.
///
/// # Errors
/// The system has no randomness.
pub fn make() -> Result<String, String> {
    Ok(format!("fd_{}_{}", lists::hex(&lists::random::<4>()?), lists::hex(&lists::random::<32>()?)))
}

fn index(entries: &[raw::ApiKeyEntry], method: &Arc<str>) -> Result<Keys, String> {
    let mut keys = Keys::new();
    for entry in entries {
        let id = &entry.id;
        let (prefix, hash) = entry.hash.split_once(':').ok_or(format!("the hash of `{id}` is not `PREFIX:SHA-256`"))?;
        let hash = lists::unhex(hash).and_then(|hash| hash.try_into().ok()).ok_or(format!("the hash of `{id}` is not a SHA-256"))?;
        let expires = match &entry.expires {
            None => f64::INFINITY,
            Some(text) => moment(text).ok_or(format!("`{text}` of `{id}` is not a moment such as 2027-01-31T00:00:00Z"))?,
        };
        let mut claims: Map<String, Value> =
            entry.metadata.0.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))).collect();
        claims.insert("sub".into(), id.as_str().into());
        claims.insert("scope".into(), entry.scopes.clone().into());
        let identity = Arc::new(Identity { name: id.as_str().into(), method: method.clone(), claims });
        if let Some(twin) = keys.entry(prefix.to_string()).or_default().insert(hash, Key { expires, identity }) {
            return Err(format!("`{}` and `{id}` have the same key", twin.identity.name));
        }
    }
    Ok(keys)
}

/// In Unix time. A date alone is its beginning.
pub fn moment(text: &str) -> Option<f64> {
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_string() };
    let time: SystemTime = humantime::parse_rfc3339_weak(&whole).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_made_is_found_by_its_hash() {
        let (key, other) = (make().expect("a key"), make().expect("a key"));
        assert_ne!(key, other);
        let entry = |id: &str, key: &str, expires: &str| {
            format!(
                "- {{ id: {id}, hash: '{}', scopes: [a, b], expires: {expires}, metadata: {{ plan: gold }} }}\n",
                hashed(key).expect("a hash")
            )
        };
        let text = entry("shop", &key, "2100-01-01") + &entry("old", "legacy-key-that-is-long-enough", "2020-01-01T00:00:00Z");
        let keys = index(&lists::entries(&text).expect("entries"), &"partners".into()).expect("keys");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let all = ApiKeys { place: Place::Query("k".into()), keys: Listed::fixed(keys, file.path()) };
        let shop = all.check(&key, 1.7e9).expect("a holder");
        assert_eq!((&*shop.name, &*shop.method, shop.claim_text("plan").as_deref()), ("shop", "partners", Some("gold")));
        assert_eq!(shop.scopes().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(all.check("legacy-key-that-is-long-enough", 1.7e9), Err(Refusal::KeyExpired));
        let prefix = &key[..12];
        for wrong in [&*other, "", "fd_", "fd__", prefix, &format!("{prefix}{}", &other[12..]), &key[..key.len() - 1], &format!("{key}x")] {
            assert_eq!(all.check(wrong, 1.7e9), Err(Refusal::KeyUnknown), "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        for (text, what) in [
            ("a: b", "must be a list"),
            ("- { id: a }", "has no `hash`"),
            ("- { id: a, hash: x }", "not `PREFIX:SHA-256`"),
            ("- { id: a, hash: 'x:00' }", "not a SHA-256"),
            ("- { id: a, hash: 'x:00', scope: [b] }", "unknown key `scope`"),
            (&format!("- {{ id: a, hash: 'x:{0}' }}\n- {{ id: b, hash: 'x:{0}' }}", "00".repeat(32)), "`a` and `b` have the same key"),
        ] {
            let read = lists::entries(text).and_then(|entries| index(&entries, &"m".into()));
            assert!(read.as_ref().is_err_and(|why| why.contains(what)), "{text}: {read:?}");
        }
    }
}
