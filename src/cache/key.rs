//! What an answer is found under: 128 bits of a keyed hash, so that nothing is built to look for it. Each part goes in with its
//! length before it, so that no two requests run together.

use crate::config::raw::CacheKey;
use http::header::{ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE};
use http::{HeaderMap, HeaderName, HeaderValue};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::borrow::Cow;
use std::fmt;
use std::hash::Hasher;

/// The hash's own key, which is drawn anew by each process: nobody can choose requests that collide.
#[derive(Clone, Copy, Debug)]
pub struct Seed([u64; 2]);

impl Default for Seed {
    fn default() -> Self {
        Seed([fastrand::u64(..), fastrand::u64(..)])
    }
}

impl Seed {
    pub(super) fn hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

/// Where an answer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub page: u128,
    pub family: u128,
}

/// What was asked for, as far as keys go.
#[derive(Clone, Copy, Debug)]
pub struct Url<'a> {
    pub is_tls: bool,
    /// With its port, as it was sent.
    pub authority: &'a str,
    /// Normalised.
    pub path: &'a str,
    pub query: Option<&'a str>,
}

impl Url<'_> {
    fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }

    /// In small letters, and without the port that goes without saying.
    fn host(&self) -> Cow<'_, str> {
        let port = if self.is_tls { ":443" } else { ":80" };
        let host = self.authority.strip_suffix(port).unwrap_or(self.authority);
        match host.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        }
    }
}

/// As one types it.
impl fmt::Display for Url<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.host(), self.path)?;
        self.query.map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

/// Who asks, where that tells answers apart.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    pub method: &'a str,
    pub name: &'a str,
}

/// The parts of a key that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    scheme: bool,
    pub host: bool,
    path: bool,
    pub query: bool,
    pub identity: bool,
}

impl Parts {
    pub fn new(parts: &[CacheKey]) -> Parts {
        let has = |part| parts.contains(&part);
        Parts {
            scheme: has(CacheKey::Scheme),
            host: has(CacheKey::Host),
            path: has(CacheKey::Path),
            query: has(CacheKey::Query),
            identity: has(CacheKey::Identity),
        }
    }

    /// The page: what all answers to a URL have in common, whoever asks and by whichever route.
    pub fn page(&self, url: &Url<'_>, seed: &Seed) -> u128 {
        let mut hasher = seed.hasher();
        if self.scheme {
            feed(&mut hasher, 1, url.scheme().as_bytes());
        }
        if self.host {
            feed(&mut hasher, 2, url.host().as_bytes());
        }
        if self.path {
            feed(&mut hasher, 3, url.path.as_bytes());
        }
        if let (true, Some(query)) = (self.query, url.query) {
            feed(&mut hasher, 4, query.as_bytes());
        }
        finish(&hasher)
    }

    /// The page with all else that tells answers apart, but for Vary. Two routes never share.
    pub fn family(&self, page: u128, route: &str, who: Option<Who<'_>>, vary: &[HeaderName], headers: &HeaderMap, seed: &Seed) -> u128 {
        let mut hasher = seed.hasher();
        hasher.write(&page.to_ne_bytes());
        feed(&mut hasher, 5, route.as_bytes());
        if let (true, Some(who)) = (self.identity, who) {
            feed(&mut hasher, 6, who.method.as_bytes());
            feed(&mut hasher, 7, who.name.as_bytes());
        }
        vary.iter().for_each(|name| feed_field(&mut hasher, name, headers));
        finish(&hasher)
    }

    /// The parts in words, for people.
    pub fn text(&self) -> String {
        let parts = [(self.scheme, "scheme"), (self.host, "host"), (self.path, "path"), (self.query, "query"), (self.identity, "identity")];
        parts.iter().filter(|(is_in, _)| *is_in).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// What tells the variants of an answer apart: the request's fields that its Vary names (RFC 9111, 4.1). `who` stands for fields that
/// the gateway itself sets by who asks.
pub fn variance(names: &[HeaderName], headers: &HeaderMap, who: Option<Who<'_>>, seed: &Seed) -> [u8; 16] {
    let mut hasher = seed.hasher();
    names.iter().for_each(|name| feed_field(&mut hasher, name, headers));
    if let Some(who) = who {
        feed(&mut hasher, 6, who.method.as_bytes());
        feed(&mut hasher, 7, who.name.as_bytes());
    }
    finish(&hasher).to_ne_bytes()
}

/// A field with all its values, in which white space between members means nothing; that it is absent is a value too.
fn feed_field(hasher: &mut SipHasher13, name: &HeaderName, headers: &HeaderMap) {
    feed(hasher, 8, name.as_str().as_bytes());
    let has_case = ![ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name);
    let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    for member in values.flat_map(|value| value.split(|b| *b == b',')).map(<[u8]>::trim_ascii) {
        match has_case || !member.iter().any(u8::is_ascii_uppercase) {
            true => feed(hasher, 9, member),
            false => feed(hasher, 9, &member.to_ascii_lowercase()),
        }
    }
}

fn feed(hasher: &mut SipHasher13, kind: u8, bytes: &[u8]) {
    hasher.write_u8(kind);
    hasher.write_u64(bytes.len() as u64);
    hasher.write(bytes);
}

fn finish(hasher: &SipHasher13) -> u128 {
    hasher.finish128().as_u128()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [CacheKey; 4] = [CacheKey::Scheme, CacheKey::Host, CacheKey::Path, CacheKey::Query];

    fn url<'a>(authority: &'a str, path: &'a str, query: Option<&'a str>) -> Url<'a> {
        Url { is_tls: false, authority, path, query }
    }

    #[test]
    fn pages_are_told_apart() {
        let (seed, parts) = (Seed::default(), Parts::new(&ALL));
        let page = |url: &Url<'_>| parts.page(url, &seed);
        let all = [
            url("a", "/b", None),
            url("a", "/b", Some("")),
            url("a", "/b", Some("c")),
            url("a", "/bc", None),
            url("a/", "b", None),
            url("a:81", "/b", None),
            Url { is_tls: true, ..url("a", "/b", None) },
        ];
        for (n, one) in all.iter().enumerate() {
            for (m, other) in all.iter().enumerate() {
                assert_eq!(page(one) == page(other), n == m, "{one} and {other}");
            }
        }
        assert_eq!(page(&url("A:80", "/b", None)), page(&all[0]));
        let narrow = Parts::new(&[CacheKey::Path]);
        assert_eq!(narrow.page(&all[0], &seed), narrow.page(&url("z", "/b", Some("q")), &seed));
    }

    #[test]
    fn families_are_told_apart_by_route_and_by_who_asks() {
        let seed = Seed::default();
        let none = HeaderMap::new();
        let who = |method, name| Some(Who { method, name });
        let open = Parts::new(&ALL);
        let own = Parts::new(&[CacheKey::Path, CacheKey::Identity]);
        let family = |parts: Parts, route, who| parts.family(1, route, who, &[], &none, &seed);
        assert_eq!(family(open, "r", who("m", "a")), family(open, "r", who("m", "b")));
        assert_ne!(family(open, "r", None), family(open, "s", None));
        assert_ne!(family(own, "r", who("m", "a")), family(own, "r", who("m", "b")));
        assert_ne!(family(own, "r", who("m", "a")), family(own, "r", who("n", "a")));
        assert_ne!(family(own, "r", who("m", "a")), family(own, "r", None));
    }

    #[test]
    fn variants_go_by_what_values_mean() {
        let seed = Seed::default();
        let of = |name: &HeaderName, values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(name, HeaderValue::from_static(value));
            }
            variance(std::slice::from_ref(name), &headers, None, &seed)
        };
        let x = HeaderName::from_static("x-a");
        assert_eq!(of(&x, &["1, 2"]), of(&x, &["1", "2"]));
        assert_eq!(of(&ACCEPT_ENCODING, &["GZIP,br"]), of(&ACCEPT_ENCODING, &["gzip, br"]));
        for other in [&["1,3"][..], &["12"], &[], &[""], &["2, 1"]] {
            assert_ne!(of(&x, &["1, 2"]), of(&x, other), "{other:?}");
        }
        assert_ne!(of(&x, &[]), of(&x, &[""]));
        assert_ne!(of(&x, &["A"]), of(&x, &["a"]));
    }
}
