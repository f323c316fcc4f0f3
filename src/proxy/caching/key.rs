//! What an answer is found under: its URL, its route, who asks, and the fields that it goes by.

use crate::cache::Rule;
use crate::cache::entry::{Entry, Told};
use crate::cache::key::{Key, Url, Who, variance as variance_of};
use crate::proxy::exchange::{Exchange, authority};
use crate::shape::forward::X_FORWARDED_PROTO;
use http::{HeaderName, HeaderValue};
use pingora::cache::key::HashBinary;
use pingora::cache::{CacheKey, CacheMeta};
use pingora::http::RequestHeader;
use pingora::prelude::*;
use std::sync::Arc;

/// The URL of a request, as its client has it: a proxy before us that is trusted says whether that is over TLS.
pub fn url<'a>(exchange: &Exchange, head: &'a RequestHeader) -> Url<'a> {
    let told = exchange.origin.is_trusted.then(|| head.headers.get(X_FORWARDED_PROTO)).flatten();
    let is_tls = told.map_or(exchange.is_tls(), |told| first(told).eq_ignore_ascii_case(b"https"));
    Url { is_tls, authority: authority(head), path: head.uri.path(), query: head.uri.query() }
}

/// A trusted proxy tells the service of another URL than the one that the key has, or of what no key has: what it makes of that, such as links, is
/// not for others.
pub fn is_elsewhere(exchange: &Exchange, head: &RequestHeader) -> bool {
    let url = url(exchange, head);
    exchange.origin.is_trusted && head.headers.iter().any(|(name, value)| tells_else(name.as_str(), value, &url))
}

fn tells_else(name: &str, value: &HeaderValue, url: &Url<'_>) -> bool {
    let is_host = |told: &[u8]| told.eq_ignore_ascii_case(url.authority.as_bytes());
    let (scheme, port) = if url.is_tls { ("https", "443") } else { ("http", "80") };
    match name {
        "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-server" | "x-forwarded-by" => false,
        // Of several proxies each adds its own.
        "x-forwarded-host" => !value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).all(is_host),
        "x-forwarded-scheme" => !value.as_bytes().eq_ignore_ascii_case(scheme.as_bytes()),
        "x-forwarded-ssl" => !value.as_bytes().eq_ignore_ascii_case(if url.is_tls { b"on" } else { b"off" }),
        "x-forwarded-port" => {
            let own = url.authority.rsplit_once(':').map_or(port, |(_, own)| own);
            ![own, port].iter().any(|port| port.as_bytes() == value.as_bytes())
        }
        // The first proxy's word is what services go by (RFC 7239, 4).
        "forwarded" => first(value).split(|byte| *byte == b';').map(<[u8]>::trim_ascii).any(|pair| {
            let (name, told) = pair.split_at(pair.iter().position(|byte| *byte == b'=').map_or(pair.len(), |at| at + 1));
            let told = told.strip_prefix(b"\"").and_then(|told| told.strip_suffix(b"\"")).unwrap_or(told);
            match &name.to_ascii_lowercase()[..] {
                b"host=" => !is_host(told),
                b"proto=" => !told.eq_ignore_ascii_case(scheme.as_bytes()),
                _ => false,
            }
        }),
        _ => name.starts_with("x-forwarded-"),
    }
}

/// Of a list.
fn first(value: &HeaderValue) -> &[u8] {
    value.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii()
}

fn who(exchange: &Exchange) -> Option<Who<'_>> {
    exchange.identity.as_ref().map(|identity| Who { method: &identity.method, name: &identity.name })
}

/// What the answer to a request is found under.
pub fn key_of(exchange: &Exchange, head: &RequestHeader, rule: &Rule) -> Key {
    let seed = &exchange.snapshot.cache.store.seed;
    let page = rule.key.page(&url(exchange, head), seed);
    let route = exchange.route().map_or("", |route| &*route.name);
    let family = |fields: &[HeaderName]| rule.key.family(page, route, who(exchange), fields, &head.headers, seed);
    let own = exchange.route().and_then(|route| route.cache.as_ref()).map_or(&[][..], |cache| &cache.vary[..]);
    let family = if own.is_empty() { family(&rule.vary[..]) } else { family(&[&rule.vary[..], own].concat()) };
    Key { page, family }
}

/// The same for Pingora.
///
/// # Errors
/// None in practice: it is asked for only when there is one.
pub fn key(exchange: &Exchange) -> Result<CacheKey> {
    let caching = exchange.caching.as_ref().or_err(ErrorType::InternalError, "a cache without a key")?;
    Ok(caching.key.to_pingora())
}

/// What tells variants apart, for one that goes by these fields.
pub fn variance(names: &[HeaderName], exchange: &Exchange, head: &RequestHeader) -> HashBinary {
    // Fields that the gateway sets by who asks are not in the client's head.
    let is_by_who = names.iter().any(|name| exchange.snapshot.methods.is_own(name));
    variance_of(names, &head.headers, who(exchange).filter(|_| is_by_who), &exchange.snapshot.cache.store.seed)
}

/// What tells the variant apart that a request wants; `None` where there is but one.
pub fn vary(meta: &CacheMeta, exchange: &Exchange, head: &RequestHeader) -> Option<HashBinary> {
    let extensions = meta.extensions();
    let coming = extensions.get::<Arc<Told>>().map(|told| &told.vary[..]);
    let names = coming.or_else(|| extensions.get::<Arc<Entry>>().map(|entry| entry.vary())).filter(|names| !names.is_empty())?;
    let own = variance(names, exchange, head);
    let caching = exchange.caching.as_ref()?;
    if meta.variance().is_none_or(|known| known == own) {
        return Some(own);
    }
    // Others may go by other fields.
    let store = exchange.snapshot.cache.store;
    store.matching(caching.key, |names| variance(names, exchange, head)).or(Some(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trusted_proxy_may_tell_what_the_key_has() {
        let url = Url { is_tls: true, authority: "shop.example:8443", path: "/", query: None };
        for (name, value, is_else) in [
            ("accept", "x", false),
            ("x-forwarded-for", "10.0.0.1", false),
            ("x-forwarded-host", "Shop.Example:8443", false),
            ("x-forwarded-host", "shop.example", true),
            ("x-forwarded-host", "shop.example:8443, shop.example:8443", false),
            ("x-forwarded-host", "evil.example, shop.example:8443", true),
            ("x-forwarded-scheme", "https", false),
            ("x-forwarded-ssl", "on", false),
            ("x-forwarded-ssl", "off", true),
            ("x-forwarded-port", "8443", false),
            ("x-forwarded-port", "443", false),
            ("x-forwarded-port", "80", true),
            ("x-forwarded-prefix", "/a", true),
            ("forwarded", "for=10.0.0.1", false),
            ("forwarded", "for=10.0.0.1; Host=\"shop.example:8443\";proto=HTTPS, for=10.0.0.2;host=b;proto=http", false),
            ("forwarded", "host=evil.example", true),
            ("forwarded", "for=10.0.0.1;proto=http", true),
        ] {
            assert_eq!(tells_else(name, &HeaderValue::from_static(value), &url), is_else, "{name}: {value}");
        }
    }
}
