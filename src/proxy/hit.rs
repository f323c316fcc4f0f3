//! A plain request whose answer is kept whole and fresh gets it at once. Pingora's way to a hit is made for more: it decides on
//! locks, ranges, conditions and staleness, and copies a head twice.

use super::caching::{key, told};
use super::exchange::Exchange;
use super::steps;
use crate::cache::Entry;
use http::Method;
use http::header::{CACHE_CONTROL, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, PRAGMA, RANGE};
use http::{HeaderMap, HeaderName};
use pingora::prelude::*;
use std::sync::Arc;
use std::time::SystemTime;

/// With one of these a request asks for more than the answer.
const ASKS_MORE: [HeaderName; 8] =
    [CACHE_CONTROL, PRAGMA, RANGE, IF_RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE];

/// Answers from memory if that is all there is to do; whether it has.
///
/// # Errors
/// The client is gone.
pub async fn answer(session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
    let Some(entry) = find(session, exchange) else { return Ok(false) };
    let Some(chunks) = entry.body.chunks().filter(|_| entry.body.length() != Some(0)) else { return Ok(false) };
    exchange.at_store = Some("hit");
    let mut head = entry.head.build(told::FIELDS_MORE);
    told::tell_hit(&mut head, &entry, SystemTime::now())?;
    steps::finish_head(session, &mut head, exchange)?;
    session.write_response_header(Box::new(head), false).await?;
    for (nth, chunk) in chunks.iter().enumerate() {
        session.write_response_body(Some(chunk.clone()), nth + 1 == chunks.len()).await?;
    }
    Ok(true)
}

fn find(session: &mut Session, exchange: &Exchange) -> Option<Arc<Entry>> {
    let route = exchange.route()?;
    let rule = &route.cache.as_ref()?.rule;
    let is_shaped = route.response_body.is_some() || route.compress.is_some();
    let head = session.req_header();
    if is_shaped || head.method != Method::GET || exchange.is_long_lived || asks_more(&head.headers) || key::is_elsewhere(exchange, head) {
        return None;
    }
    let key = key::key_of(exchange, head, rule);
    let entry = exchange.snapshot.cache.store.find_for(key, |names| key::variance(names, exchange, head))?;
    let is_ready = entry.is_whole() && !entry.head.status().is_informational() && SystemTime::now() < entry.fresh_until();
    (is_ready && session.as_mut().is_body_empty()).then(|| {
        entry.touch();
        entry
    })
}

fn asks_more(headers: &HeaderMap) -> bool {
    ASKS_MORE.iter().any(|name| headers.contains_key(name))
}
