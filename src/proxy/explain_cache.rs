//! What the cache of a route would do with a request: whether it answers, why not, and under which key it looks.

use super::caching::is_personal;
use super::caching::key::{is_elsewhere, key_of, variance};
use super::exchange::Exchange;
use crate::cache::Rule;
use crate::cache::asked::{Asked, Use};
use crate::cache::entry::Entry;
use http::Method;
use pingora::http::RequestHeader;
use serde::Serialize;
use std::sync::Arc;
use std::time::SystemTime;

#[derive(Debug, Serialize)]
pub struct Cached {
    pub cache: String,
    /// What tells answers apart, in words.
    pub by: String,
    /// The begin of the key's hash: two requests with the same get the same answer, but for its variants. Each process has its own.
    pub key: String,
    /// `hit`, `stale`, `expired`, `miss` or `bypass`, as the log would have it.
    pub status: &'static str,
    pub why: String,
    /// What is kept under the key, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// What an answer has to say to be kept, beside what RFC 9111 asks of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub struct Kept {
    pub age_seconds: u64,
    /// For so long yet; below 0 for how long no more.
    pub fresh_seconds: i64,
    pub bytes: usize,
    pub tags: Vec<String>,
    pub vary: Vec<String>,
}

/// `None` where the route keeps nothing.
pub fn cached(head: &RequestHeader, exchange: &Exchange) -> Option<Cached> {
    let rule = exchange.route()?.cache.as_ref()?.rule.clone();
    let key = key_of(exchange, head, &rule);
    let asked = Asked::of(&head.headers);
    let entry = exchange.snapshot.cache.store.find_for(key, |names| variance(names, exchange, head));
    let now = SystemTime::now();
    let (status, why) = verdict(head, &asked, entry.as_deref(), exchange, now);
    Some(Cached {
        cache: rule.name.to_string(),
        by: by(&rule),
        key: format!("{:016x}", (key.family >> 64) as u64),
        status,
        why,
        kept: entry.map(|entry| kept(&entry, now)),
        condition: is_personal(exchange, &rule, &head.headers)
            .then_some("only answers that say public, s-maxage or must-revalidate are kept, since this one is for whoever asks"),
    })
}

fn by(rule: &Rule) -> String {
    let vary = rule.vary.iter().map(|name| format!("field {name}"));
    std::iter::once(rule.key.text()).chain(vary).collect::<Vec<_>>().join(", ")
}

fn verdict(head: &RequestHeader, asked: &Asked, entry: Option<&Entry>, exchange: &Exchange, now: SystemTime) -> (&'static str, String) {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return ("bypass", format!("only GET and HEAD are answered from memory, not {}", head.method));
    }
    if exchange.is_long_lived {
        return ("bypass", "gRPC is never kept".to_string());
    }
    if asked.no_store() {
        return ("bypass", "the request says no-store".to_string());
    }
    if is_elsewhere(exchange, head) {
        return ("bypass", "a trusted proxy tells the service of another URL than the key has".to_string());
    }
    let Some(entry) = entry else { return ("miss", "nothing is kept under this key".to_string()) };
    let (terms, fresh_until) = (entry.terms(), entry.fresh_until());
    let passed = now.duration_since(fresh_until).ok();
    match (asked.admits(&terms, fresh_until, now), passed) {
        (Use::Ask, _) => ("expired", "the request wants the service to be asked".to_string()),
        (Use::Take, _) => ("stale", "it is stale, and the request takes that".to_string()),
        (Use::AsIs, None) => ("hit", "it is fresh".to_string()),
        (Use::AsIs, Some(passed)) if passed <= terms.stale_while_revalidate => {
            ("stale", "it is stale, and is given while a new one is fetched behind it".to_string())
        }
        (Use::AsIs, Some(passed)) => {
            let stands_in = passed <= terms.stale_if_error && !terms.stale_if_error.is_zero();
            let more = if stands_in { "; it stands in should that fail" } else { "" };
            ("expired", format!("it is stale, so the service is asked{more}"))
        }
    }
}

fn kept(entry: &Arc<Entry>, now: SystemTime) -> Kept {
    Kept {
        age_seconds: entry.terms().age(now).as_secs(),
        fresh_seconds: entry.seconds_left(now),
        bytes: entry.weight,
        tags: entry.tags().iter().map(ToString::to_string).collect(),
        vary: entry.vary().iter().map(ToString::to_string).collect(),
    }
}
