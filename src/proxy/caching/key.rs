//! What an answer is found under: its URL, its route, who asks, and the fields that it goes by.

use crate::cache::Rule;
use crate::cache::entry::{Entry, Told};
use crate::cache::key::{Key, Url, Who, variance as variance_of};
use crate::proxy::exchange::{Exchange, authority};
use crate::shape::forward::{X_FORWARDED_HOST, X_FORWARDED_PROTO};
use http::HeaderName;
use pingora::cache::key::HashBinary;
use pingora::cache::{CacheKey, CacheMeta};
use pingora::http::RequestHeader;
use pingora::prelude::*;
use std::sync::Arc;

/// The URL of a request, as its client has it: a proxy before us that is trusted says whether that is over TLS.
pub fn url<'a>(exchange: &Exchange, head: &'a RequestHeader) -> Url<'a> {
    let scheme = exchange.origin.is_trusted.then(|| head.headers.get(X_FORWARDED_PROTO)).flatten();
    let is_tls = scheme.map_or(exchange.is_tls(), |scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"));
    Url { is_tls, authority: authority(head), path: head.uri.path(), query: head.uri.query() }
}

/// The service is told of another host than the one that the key has: what it makes of that is not for others.
pub fn is_elsewhere(exchange: &Exchange, head: &RequestHeader) -> bool {
    let host = exchange.origin.is_trusted.then(|| head.headers.get(X_FORWARDED_HOST)).flatten();
    host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority(head).as_bytes()))
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
