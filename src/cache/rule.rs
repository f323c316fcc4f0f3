//! One of `caches`, as it is built.

use super::fresh::Policy;
use super::key::Parts;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use http::HeaderName;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Rule {
    pub name: Arc<str>,
    pub policy: Policy,
    /// The share by which a `ttl` may be shortened.
    pub jitter: f64,
    pub body_bytes_max: usize,
    pub key: Parts,
    /// Request fields that tell answers apart in addition.
    pub vary: Box<[HeaderName]>,
    /// The field that names tags.
    pub tags: Option<HeaderName>,
    pub collapse_timeout: Duration,
}

impl Rule {
    /// `None` when `problems` says why.
    pub fn build(name: &str, raw: &raw::Cache, memory: u64, at: &At<'_>, problems: &Problems) -> Option<Rule> {
        let statuses: Vec<Option<(u16, Duration)>> = raw
            .status_ttl
            .0
            .iter()
            .map(|(status, ttl)| Some((self::status(status, &at.key("status_ttl").key(status), problems)?, *ttl)))
            .collect();
        let key_at = at.key("key");
        let key = match raw.key.contains(&raw::CacheKey::Path) {
            true => Some(Parts::new(&raw.key)),
            false if !problems.is_sound(&key_at) => None,
            false => problems.at(&key_at, "a key without the path", "all paths of a route would get one answer", "add `path`"),
        };
        // One answer must fit, and leave room for others.
        if raw.body_bytes_max.0 > memory / 2 {
            let what = format!("`body_bytes_max` of `{name}` is more than half of what there is");
            let fix = format!("keep it below {} bytes, or raise `cache_store.memory`", memory / 2);
            return problems.at(&at.key("body_bytes_max"), what, "one answer would drive out all others", fix);
        }
        Some(Rule {
            name: name.into(),
            policy: Policy {
                ttl: raw.ttl,
                status_ttl: statuses.into_iter().collect::<Option<_>>()?,
                stale_while_revalidate: raw.stale_while_revalidate.unwrap_or_default(),
                stale_if_error: raw.stale_if_error.unwrap_or_default(),
                takes_cookies: raw.set_cookie,
            },
            jitter: raw.jitter.0,
            body_bytes_max: usize::try_from(raw.body_bytes_max.0).unwrap_or(usize::MAX),
            key: key?,
            vary: raw.vary.iter().map(|field| field.0.clone()).collect(),
            tags: raw.tags.as_ref().map(|field| field.0.clone()),
            collapse_timeout: raw.collapse_timeout,
        })
    }
}

fn status(text: &str, at: &At<'_>, problems: &Problems) -> Option<u16> {
    match text.parse() {
        Ok(206 | 304) => problems.at(at, format!("answers with {text} are never kept"), "they are parts of others", "remove it"),
        Ok(status @ 200..=599) => Some(status),
        _ => problems.at(at, format!("`{text}` is not a status"), "no answer has it", "write a number from 200 to 599"),
    }
}
