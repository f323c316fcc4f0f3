//! Cookies that bring a client back to its endpoint. They are signed, name the endpoint by a keyed hash, and end.

use super::endpoint::Endpoint;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use crate::types::cookies;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use ring::hmac;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use subtle::ConstantTimeEq;

/// What is signed with: the first signs, all verify.
#[derive(Clone, Debug)]
pub struct Keys {
    keys: Arc<[hmac::Key]>,
    /// Made by this process, and lost with it.
    pub is_own: bool,
}

impl Keys {
    /// The keys of `server.secret`, or else one of this process alone.
    pub fn new(secrets: &[raw::Secret], own: &[u8]) -> Keys {
        let key = |secret: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, secret);
        match secrets.is_empty() {
            true => Keys { keys: [key(own)].into(), is_own: true },
            false => Keys { keys: secrets.iter().map(|secret| key(secret.0.as_bytes())).collect(), is_own: false },
        }
    }
}

/// An endpoint as a cookie names it.
pub type Id = [u8; ID_BYTES];

const ID_BYTES: usize = 8;
const TIME_BYTES: usize = 8;
const MAC_BYTES: usize = 16;

#[derive(Debug)]
pub struct Sticky {
    cookie: String,
    ttl: Duration,
    service: Arc<str>,
    keys: Keys,
}

/// The endpoints of a moment, by their ids under each key.
#[derive(Debug)]
pub struct Ids(Vec<HashMap<Id, usize>>);

impl Sticky {
    /// `None` means that a problem was reported.
    pub fn build(raw: &raw::Sticky, service: &str, keys: &Keys, at: &At<'_>, problems: &Problems) -> Option<Sticky> {
        let cookie = raw.cookie.clone().unwrap_or_else(|| format!("fd_{}", service.replace('-', "_")));
        // RFC 6265, 4.1.1.
        let is_token = !cookie.is_empty() && cookie.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        if !is_token {
            let what = format!("`{cookie}` is not a cookie's name");
            return problems.at(&at.key("cookie"), what, "browsers would not send it", "use letters, digits, `-` and `_`");
        }
        if keys.is_own {
            let why = "after a restart, and at another gateway, clients would be strangers";
            problems.warn(at, "sticky cookies without `server.secret`", why, "add `server: { secret: … }`, the same on every gateway");
        }
        Some(Sticky { cookie, ttl: raw.ttl, service: service.into(), keys: keys.clone() })
    }

    pub fn ids(&self, endpoints: &[Arc<Endpoint>]) -> Ids {
        let of_key = |key| endpoints.iter().enumerate().map(|(place, endpoint)| (self.id(key, endpoint), place)).collect();
        Ids(self.keys.keys.iter().map(of_key).collect())
    }

    /// The place of the endpoint that a client has been to, as long as its cookie lasts.
    pub fn place(&self, headers: &HeaderMap, ids: &Ids) -> Option<usize> {
        let mut own = cookies(headers).filter(|(name, _)| *name == self.cookie).filter_map(|(_, value)| self.read(value, ids));
        own.next()
    }

    fn read(&self, value: &str, ids: &Ids) -> Option<usize> {
        let bytes = URL_SAFE_NO_PAD.decode(value).ok().filter(|bytes| bytes.len() == ID_BYTES + TIME_BYTES + MAC_BYTES)?;
        let (said, mac) = bytes.split_at(ID_BYTES + TIME_BYTES);
        let (id, time) = said.split_at(ID_BYTES);
        if u64::from_be_bytes(time.try_into().ok()?) < now() {
            return None;
        }
        let signed = self.keys.keys.iter().position(|key| bool::from(self.mac(key, said).ct_eq(mac)))?;
        ids.0.get(signed)?.get(id).copied()
    }

    /// The field that brings a client back to this endpoint.
    pub fn field(&self, endpoint: &Endpoint, is_tls: bool) -> Option<HeaderValue> {
        let key = self.keys.keys.first()?;
        let ends = now() + self.ttl.as_secs();
        let said = [&self.id(key, endpoint)[..], &ends.to_be_bytes()].concat();
        let value = URL_SAFE_NO_PAD.encode([&said[..], &self.mac(key, &said)].concat());
        let secure = if is_tls { "; Secure" } else { "" };
        let (cookie, age) = (&self.cookie, self.ttl.as_secs());
        HeaderValue::try_from(format!("{cookie}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}")).ok()
    }

    fn id(&self, key: &hmac::Key, endpoint: &Endpoint) -> Id {
        first(&self.sign(key, b"endpoint", endpoint.label.as_bytes()))
    }

    fn mac(&self, key: &hmac::Key, said: &[u8]) -> [u8; MAC_BYTES] {
        first(&self.sign(key, b"cookie", said))
    }

    fn sign(&self, key: &hmac::Key, what: &[u8], said: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(key);
        // A service's name has no zero in it.
        [what, b"\0", self.service.as_bytes(), b"\0", said].iter().for_each(|part| context.update(part));
        context.sign()
    }
}

fn first<const N: usize>(tag: &hmac::Tag) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&tag.as_ref()[..N]);
    out
}

/// Seconds of Unix time.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use proptest::prelude::*;

    fn sticky(service: &str, secrets: &[&str], ttl: u64) -> Sticky {
        let secrets: Vec<_> = secrets.iter().map(|secret| raw::Secret(secret.to_string())).collect();
        let (raw, problems) = (raw::Sticky { cookie: None, ttl: Duration::from_secs(ttl) }, Problems::default());
        Sticky::build(&raw, service, &Keys::new(&secrets, b"own"), &At::root(), &problems).expect("sticky")
    }

    fn endpoints() -> Vec<Arc<Endpoint>> {
        testing::pool("{ endpoints: ['10.0.0.1:1', '10.0.0.2:1'] }").set().endpoints.clone()
    }

    /// What the cookie that `from` sets means to `to`.
    fn place(from: &Sticky, to: &Sticky, change: impl Fn(String) -> String) -> Option<usize> {
        let endpoints = endpoints();
        let field = from.field(&endpoints[1], true).expect("a field");
        let pair = field.to_str().expect("a text").split(';').next().expect("a pair").to_string();
        let headers =
            [(http::header::COOKIE, HeaderValue::try_from(format!("a=b; {}", change(pair))).expect("a value"))].into_iter().collect();
        to.place(&headers, &to.ids(&endpoints))
    }

    #[test]
    fn a_cookie_leads_back_wherever_the_secret_is_known() {
        let ours = sticky("s", &["new", "old"], 60);
        let same = |pair: String| pair;
        assert_eq!(place(&ours, &ours, same), Some(1));
        assert_eq!(place(&sticky("s", &["old"], 60), &ours, same), Some(1));
        for stranger in [sticky("s", &["other"], 60), sticky("t", &["new"], 60), sticky("s", &[], 60)] {
            assert_eq!(place(&stranger, &ours, |pair| pair.replace("fd_t", "fd_s")), None);
        }
        let field = ours.field(&endpoints()[0], false).expect("a field");
        let text = field.to_str().expect("a text");
        assert!(text.starts_with("fd_s=") && text.ends_with("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax"), "{text}");
    }

    #[test]
    fn a_cookie_that_was_changed_or_is_over_says_nothing() {
        let ours = sticky("s", &["secret"], 60);
        assert_eq!(place(&ours, &ours, |pair| pair[..pair.len() - 1].to_string()), None);
        assert_eq!(place(&ours, &ours, |pair| pair.replacen("=A", "=B", 1).replacen('=', "=A", 1)), None);
        let over = URL_SAFE_NO_PAD.encode({
            let key = &ours.keys.keys[0];
            let said = [&ours.id(key, &endpoints()[1])[..], &1u64.to_be_bytes()].concat();
            [&said[..], &ours.mac(key, &said)].concat()
        });
        assert_eq!(place(&ours, &ours, |_| format!("fd_s={over}")), None);
    }

    proptest! {
        #[test]
        fn anything_may_come_as_a_cookie(value in "[ -~]{0,80}") {
            let ours = sticky("s", &["secret"], 60);
            prop_assert_eq!(place(&ours, &ours, |_| format!("fd_s={value}")), None);
        }
    }
}
