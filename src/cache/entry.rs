//! An answer that is kept, or about to be.

use super::fill::Fill;
use super::fresh::Terms;
use super::head::Head;
use super::key::Key;
use crate::types::fields::{HOP_BY_HOP, nominated};
use bytes::Bytes;
use http::header::{AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pingora::http::ResponseHeader;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What an entry takes besides its body, its head's and its own texts: itself, its places in the maps and in the queue, and what
/// shares its texts and its body; measured by benches/cache.rs.
const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<Told>() + 400;
/// Above it, an answer is used as often as can be.
const USES_MAX: u8 = 3;

/// What is known of an answer besides itself.
#[derive(Debug)]
pub struct Told {
    pub terms: Terms,
    /// What was asked for, as one types it.
    pub url: Box<str>,
    /// What its Vary names.
    pub vary: Box<[HeaderName]>,
    pub tags: Box<[Box<str>]>,
    /// It may be kept up to this size.
    pub body_bytes_max: usize,
    /// The last purge before it was asked for.
    pub since: u64,
}

#[derive(Debug)]
pub struct Entry {
    pub key: Key,
    /// What its variant goes by; `None` where there is but one.
    pub variance: Option<[u8; 16]>,
    pub head: Head,
    pub told: Arc<Told>,
    pub body: Body,
    pub weight: usize,
    uses: AtomicU8,
    /// It can be found.
    pub(super) is_listed: AtomicBool,
    /// It has been used before, and stays longer.
    pub(super) is_main: AtomicBool,
    is_renewing: AtomicBool,
    /// When it was purged softly, in milliseconds of Unix time; 0 for never.
    expired_ms: AtomicU64,
}

#[derive(Clone, Debug)]
pub enum Body {
    Whole(Arc<[Bytes]>, usize),
    Coming(Arc<Fill>),
}

impl Entry {
    /// `head` is the service's; what concerns its connection or nobody but the first client is left out.
    pub fn new(key: Key, variance: Option<[u8; 16]>, head: ResponseHeader, told: Arc<Told>, body: Body) -> Entry {
        let length = match &body {
            Body::Whole(_, length) => Some(*length),
            Body::Coming(_) => None,
        };
        let head = tidy(head, &told.terms, length);
        let texts = told.url.len() + told.tags.iter().map(|tag| tag.len() + size_of::<Box<str>>()).sum::<usize>();
        Entry {
            key,
            variance,
            weight: ENTRY_BYTES + length.unwrap_or(0) + head.bytes() + texts,
            head,
            told,
            body,
            uses: AtomicU8::new(0),
            is_listed: AtomicBool::new(false),
            is_main: AtomicBool::new(false),
            is_renewing: AtomicBool::new(false),
            expired_ms: AtomicU64::new(0),
        }
    }

    /// Until when it is fresh, by its own terms and by what was purged softly.
    pub fn fresh_until(&self) -> SystemTime {
        let own = self.told.terms.fresh_until();
        match self.expired_ms.load(Relaxed) {
            0 => own,
            ms => own.min(UNIX_EPOCH + Duration::from_millis(ms)),
        }
    }

    /// For how many seconds it is fresh yet: below 0 for how many it is no more.
    pub fn seconds_left(&self, now: SystemTime) -> i64 {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match self.fresh_until().duration_since(now) {
            Ok(left) => seconds(left),
            Err(past) => -seconds(past.duration()) - 1,
        }
    }

    /// From now on it is stale.
    pub fn expire(&self, now: SystemTime) {
        let ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        // A moment ago, so that it is stale at once.
        self.expired_ms.store(u64::try_from(ms).unwrap_or(u64::MAX).saturating_sub(1).max(1), Relaxed);
    }

    pub fn is_whole(&self) -> bool {
        matches!(self.body, Body::Whole(..))
    }

    /// Somebody is about to fetch it anew: the first of those who would, until that one ends.
    pub fn begin_renewal(&self) -> bool {
        !self.is_renewing.swap(true, Relaxed)
    }

    pub fn end_renewal(&self) {
        self.is_renewing.store(false, Relaxed);
    }

    /// It was asked for.
    pub fn touch(&self) {
        // Most are at their bound: to look is cheaper than to write.
        let uses = self.uses.load(Relaxed);
        if uses < USES_MAX {
            self.uses.store(uses + 1, Relaxed);
        }
    }

    /// Takes one use off; whether there was one.
    pub(super) fn spend(&self) -> bool {
        let uses = self.uses.load(Relaxed);
        self.uses.store(uses.saturating_sub(1), Relaxed);
        uses > 0
    }
}

/// Fields that are nobody's but the first client's connection, beside those that end at every hop.
const OF_FIRST: [HeaderName; 4] = [
    AGE,
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("proxy-authorization"),
];

/// RFC 9111, 3.1 and RFC 9110, 7.6.1: what is stored is the answer, not how it came.
fn tidy(head: ResponseHeader, terms: &Terms, length: Option<usize>) -> Head {
    let reason = head.get_reason_phrase().map(str::to_string);
    let mut parts = http::response::Parts::from(head);
    let nominated = nominated(&parts.headers);
    for name in HOP_BY_HOP.iter().chain(&OF_FIRST).chain(&nominated).chain(&terms.withheld) {
        parts.headers.remove(name);
    }
    if !parts.headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::from_maybe_shared(Bytes::from(httpdate::fmt_http_date(terms.received)))
    {
        // RFC 9110, 6.6.1: without a date it was made when it came.
        parts.headers.insert(DATE, date);
    }
    if let Some(length) = length.filter(|_| parts.status != StatusCode::NO_CONTENT) {
        // It is known now, though it may have come in chunks.
        parts.headers.insert(CONTENT_LENGTH, length.into());
    }
    Head::new(parts.status, parts.version, reason.as_deref(), &parts.headers)
}

/// Fields that describe the body.
const OF_BODY: [HeaderName; 4] = [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE];

/// RFC 9111, 3.2: a stored head with what a 304 says anew. What describes the body stays, since the body does; so do cookies, which
/// were for whoever asked.
pub fn renewed(stored: &ResponseHeader, anew: &HeaderMap, received: SystemTime) -> ResponseHeader {
    let mut head = stored.clone();
    let nominated = nominated(anew);
    let stays = |name: &HeaderName| OF_BODY.contains(name) || HOP_BY_HOP.contains(name) || *name == SET_COOKIE || nominated.contains(name);
    for name in anew.keys().filter(|name| !stays(name)) {
        head.remove_header(name);
        for value in anew.get_all(name) {
            // A value that came as one is one.
            let _ = head.append_header(name.clone(), value.clone());
        }
    }
    if !anew.contains_key(DATE) {
        // RFC 9110, 6.6.1: it was made when it came.
        let _ = head.insert_header(DATE, httpdate::fmt_http_date(received));
    }
    head
}
