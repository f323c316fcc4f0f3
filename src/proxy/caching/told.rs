//! What is told of the cache: to clients, to log and metrics.

use super::Caching;
use crate::cache::Entry;
use crate::cache::fresh::Why;
use crate::proxy::exchange::Exchange;
use crate::proxy::{caching, forward};
use bytes::Bytes;
use http::header::{ACCEPT_RANGES, AGE, HeaderName};
use http::{HeaderValue, Method, StatusCode};
use pingora::cache::{CachePhase, NoCacheReason};
use pingora::http::ResponseHeader;
use pingora::prelude::*;
use std::time::{Duration, SystemTime};

/// Fields that an answer from memory gets on its way to a client, about.
pub const FIELDS_MORE: usize = 8;
/// RFC 9211.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What Pingora is told of an answer that is not kept, and remembers of its key.
pub fn reason(why: Why) -> NoCacheReason {
    match why {
        Why::Forbidden | Why::Cookies | Why::Personal | Why::Useless => NoCacheReason::OriginNotCache,
        Why::Status => NoCacheReason::Custom(crate::cache::THIS_TIME),
    }
}

/// What a request came to, in the words of log and metrics; empty where there is no cache.
pub fn outcome(session: &Session, exchange: &Exchange) -> &'static str {
    if exchange.route().is_none_or(|route| route.cache.is_none()) || exchange.refusal.is_some() {
        return "";
    }
    if let Some(told) = exchange.at_store {
        return told;
    }
    match (session.cache.phase(), &exchange.caching) {
        (_, None) | (CachePhase::Bypass, _) => "bypass",
        // That nothing is kept of it was known.
        (CachePhase::Disabled(_), _) if session.cache.predicted_uncacheable_reason().is_some() => "bypass",
        (CachePhase::Hit, Some(caching)) if caching.is_stale => "stale",
        (CachePhase::Hit, _) => "hit",
        (CachePhase::Stale | CachePhase::StaleUpdating, _) => "stale",
        (CachePhase::Expired, _) => "expired",
        (CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_), _) => "revalidated",
        _ => "miss",
    }
}

/// Age (RFC 9111, 5.1) and Cache-Status (RFC 9211).
pub fn tell(session: &Session, head: &mut ResponseHeader, exchange: &Exchange) -> Result<()> {
    if exchange.route().is_none_or(|route| route.cache.is_none()) {
        return Ok(());
    }
    let now = SystemTime::now();
    let status = match &exchange.caching {
        None if !matches!(session.req_header().method, Method::GET | Method::HEAD) => "frontdesk; fwd=method".to_string(),
        None => "frontdesk; fwd=bypass".to_string(),
        Some(caching) => match session.cache.phase() {
            phase @ (CachePhase::Hit | CachePhase::Stale | CachePhase::StaleUpdating) => {
                let (age, left) = standing(caching, now);
                head.insert_header(AGE, age.as_secs())?;
                if phase == CachePhase::Hit { hit(left) } else { stood_in(session, caching, left) }
            }
            CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_) => {
                head.insert_header(AGE, caching.terms.as_ref().map_or(0, |terms| terms.age(now).as_secs()))?;
                format!("frontdesk; {}; fwd-status=304; stored", forwarded(session, caching))
            }
            CachePhase::Miss | CachePhase::Expired => format!("frontdesk; {}; stored", forwarded(session, caching)),
            CachePhase::Bypass => "frontdesk; fwd=bypass".to_string(),
            CachePhase::Disabled(_) if session.cache.predicted_uncacheable_reason().is_some() => "frontdesk; fwd=bypass".to_string(),
            _ => format!("frontdesk; {}", forwarded(session, caching)),
        },
    };
    // Caches before us may have said something already: ours comes last.
    head.append_header(CACHE_STATUS, caching::value(status)?).map(drop)
}

/// The Cache-Status of an answer from memory, by the seconds for which it is fresh yet.
pub fn hit(left: i64) -> String {
    format!("frontdesk; hit; ttl={left}")
}

/// The same where the service was asked and failed, and what is kept stands in.
fn stood_in(session: &Session, caching: &Caching, left: i64) -> String {
    let status = caching.failed.map_or(String::new(), |status| format!("; fwd-status={status}"));
    format!("frontdesk; {}{status}; ttl={left}", forwarded(session, caching))
}

/// The same for an answer from memory that is fresh.
pub fn tell_hit(head: &mut ResponseHeader, entry: &Entry, now: SystemTime) -> Result<()> {
    forward::edit(head, |_, headers| {
        if entry.head.status() == StatusCode::OK {
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        headers.insert(AGE, entry.terms().age(now).as_secs().into());
        let status = hit(entry.seconds_left(now));
        // Digits and words.
        headers.append(
            CACHE_STATUS,
            HeaderValue::from_maybe_shared(Bytes::from(status)).unwrap_or(HeaderValue::from_static("frontdesk; hit")),
        );
    })
}

/// The age of what was found, and for how many seconds it is fresh yet: below 0 for how many it is no more.
fn standing(caching: &Caching, now: SystemTime) -> (Duration, i64) {
    let Some(entry) = &caching.entry else { return (Duration::ZERO, 0) };
    (entry.terms().age(now), entry.seconds_left(now))
}

/// Why the service was asked.
fn forwarded(session: &Session, caching: &Caching) -> &'static str {
    match &caching.entry {
        Some(_) if caching.is_forced => "fwd=request",
        Some(_) => "fwd=stale",
        None if session.cache.maybe_cache_key().is_some_and(|key| key.get_variance_key().is_some()) => "fwd=vary-miss",
        None => "fwd=uri-miss",
    }
}
