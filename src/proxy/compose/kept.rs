//! Composed answers in memory. They are whole before anybody gets them, so that Pingora's cache has no part in it: the store is asked
//! before the calls are made, and told when all of them are over and nothing is lacking.

use super::SERVER_TIMING;
use crate::cache::asked::{Asked, Use};
use crate::cache::entry::Body;
use crate::cache::fresh::{Answer, decide};
use crate::cache::key::Key;
use crate::cache::purge::tags;
use crate::cache::{Entry, Told};
use crate::compose::Kept;
use crate::proxy::caching;
use crate::proxy::caching::key::{is_elsewhere, key_of, url};
use crate::proxy::caching::told::{self, CACHE_STATUS, FIELDS_MORE};
use crate::proxy::exchange::Exchange;
use crate::proxy::respond;
use crate::snapshot::RouteCache;
use crate::types::Refusal;
use bytes::Bytes;
use http::Method;
use http::header::{AGE, CONTENT_LENGTH, DATE};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use std::sync::Arc;
use std::time::SystemTime;

/// An answer that may be in memory, and may go there.
pub struct Wanted {
    key: Key,
    asked: Asked,
    /// The last purge before the services were asked.
    since: u64,
}

impl Wanted {
    /// `None` when the route has no cache, or the request is of a kind that it does not serve.
    pub fn of(session: &mut Session, exchange: &mut Exchange) -> Option<Wanted> {
        exchange.route()?.cache.as_ref()?;
        exchange.at_store = Some("bypass");
        let is_plain = matches!(session.req_header().method, Method::GET | Method::HEAD) && session.is_body_empty();
        let head = session.req_header();
        let asked = Asked::of(&head.headers);
        if !is_plain || asked.no_store() || is_elsewhere(exchange, head) {
            return None;
        }
        let RouteCache { rule, .. } = exchange.route()?.cache.as_ref()?;
        let store = exchange.snapshot.cache.store;
        Some(Wanted { key: key_of(exchange, head, rule), asked, since: store.purges() })
    }

    /// What is in memory, and may serve.
    ///
    /// # Errors
    /// Nothing does, and the client does not want services to be asked.
    pub fn find(&self, exchange: &mut Exchange) -> Result<Option<Arc<Entry>>, Refusal> {
        let now = SystemTime::now();
        let found = exchange.snapshot.cache.store.find(self.key, None).filter(|entry| entry.is_whole());
        exchange.at_store = Some(if found.is_some() { "expired" } else { "miss" });
        let serves = found.filter(|entry| match self.asked.admits(&entry.terms(), entry.fresh_until(), now) {
            Use::AsIs => now < entry.fresh_until(),
            Use::Take => true,
            Use::Ask => false,
        });
        match serves {
            None if self.asked.only_if_cached() => Err(Refusal::NotCached),
            serves => Ok(serves),
        }
    }
}

/// Answers with what is in memory.
///
/// # Errors
/// The client is gone.
pub async fn serve(session: &mut Session, exchange: &mut Exchange, entry: &Entry) -> Result<()> {
    let now = SystemTime::now();
    let (mut head, left) = (entry.head.build(FIELDS_MORE), entry.seconds_left(now));
    exchange.at_store = Some(if left < 0 { "stale" } else { "hit" });
    head.remove_header(&CONTENT_LENGTH);
    head.insert_header(AGE, entry.terms().age(now).as_secs())?;
    head.append_header(CACHE_STATUS, caching::value(told::hit(left))?)?;
    let body = match entry.body.chunks().unwrap_or_default() {
        [one] => one.clone(),
        several => several.concat().into(),
    };
    respond::send(session, exchange, head, body).await
}

/// Whether the answer to a call may be kept, and under which terms.
pub fn terms(head: &ResponseHeader, delay: std::time::Duration, request: &RequestHeader, exchange: &Exchange) -> Option<Kept> {
    let RouteCache { rule, .. } = exchange.route()?.cache.as_ref()?;
    let headers = &head.headers;
    // The client's fields that calls go by are in the key. What the gateway sets itself is not, but for who asks.
    let goes_by = caching::vary_names(headers)?;
    if goes_by.iter().any(|name| exchange.snapshot.methods.is_own(name)) && !rule.key.identity {
        return None;
    }
    let answer = Answer {
        status: head.status,
        headers,
        received: SystemTime::now(),
        delay,
        is_personal: caching::is_personal(exchange, rule, &request.headers),
        share: 1.0 - fastrand::f64() * rule.jitter,
    };
    let terms = decide(&answer, &rule.policy).ok().filter(|terms| terms.withheld.is_empty())?;
    let values = rule.tags.iter().flat_map(|name| headers.get_all(name)).filter_map(|value| value.to_str().ok());
    Some(Kept { terms: Some(terms), tags: values.flat_map(tags).collect() })
}

/// Keeps an answer, where it may be, and says so.
///
/// # Errors
/// None in practice: a field that can't be set.
pub fn keep(
    head: &mut ResponseHeader,
    body: &Bytes,
    kept: Option<Kept>,
    wanted: Option<&Wanted>,
    request: &RequestHeader,
    exchange: &Exchange,
) -> Result<()> {
    let Some(RouteCache { rule, .. }) = exchange.route().and_then(|route| route.cache.as_ref()) else { return Ok(()) };
    let Some(wanted) = wanted else {
        let status = if matches!(request.method, Method::GET | Method::HEAD) { "fwd=bypass" } else { "fwd=method" };
        return head.append_header(CACHE_STATUS, caching::value(format!("frontdesk; {status}"))?).map(drop);
    };
    let forwarded = if exchange.at_store == Some("expired") { "fwd=stale" } else { "fwd=uri-miss" };
    let kept = kept.filter(|_| body.len() <= rule.body_bytes_max);
    let told = kept.and_then(|Kept { terms, tags }| {
        Some(Told {
            terms: terms.filter(|terms| !terms.is_never_fresh())?,
            url: url(exchange, request).to_string().into(),
            vary: Box::default(),
            tags: tags.into(),
            body_bytes_max: rule.body_bytes_max,
            since: wanted.since,
        })
    });
    let stored = if told.is_some() { "; stored" } else { "" };
    if let Some(told) = told {
        let mut own = head.clone();
        // What comes from memory has asked nobody.
        own.remove_header(&SERVER_TIMING);
        own.insert_header(DATE, httpdate::fmt_http_date(told.terms.received))?;
        let whole = Entry::new(wanted.key, None, own, &told, Body::One(body.clone()));
        exchange.snapshot.cache.store.keep(whole, told.since);
    }
    head.append_header(CACHE_STATUS, caching::value(format!("frontdesk; {forwarded}{stored}"))?).map(drop)
}
