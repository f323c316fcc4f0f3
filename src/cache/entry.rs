//! An answer that is kept, or about to be.

use super::fill::Fill;
use super::fresh::Terms;
use super::head::Head;
use super::key::Key;
use super::times::Times;
use crate::types::fields::{HOP_BY_HOP, nominated};
use bytes::Bytes;
use http::header::{AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pingora::http::ResponseHeader;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What an entry takes besides its body and its texts: itself, its places in the table and in the queue, and what shares its text and
/// its body; measured by benches/cache.rs.
const ENTRY_BYTES: usize = size_of::<Entry>() + 16 + 130;
/// Above it, an answer is used as often as can be.
const USES_MAX: u8 = 3;

/// What is known of an answer that is about to be kept, besides itself.
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
    pub head: Head,
    times: Times,
    /// What most have not.
    rare: Option<Box<Rare>>,
    pub body: Body,
    pub weight: usize,
    uses: AtomicU8,
    /// It can be found.
    pub(super) is_listed: AtomicBool,
    /// It has been used before, and stays longer.
    pub(super) is_main: AtomicBool,
    is_renewing: AtomicBool,
    /// When it was purged softly, in seconds of Unix time; 0 for never.
    expired_s: AtomicU32,
}

#[derive(Debug)]
struct Rare {
    variance: Option<[u8; 16]>,
    vary: Box<[HeaderName]>,
    tags: Box<[Box<str>]>,
}

#[derive(Clone, Debug)]
pub enum Body {
    /// Whole, in one piece.
    One(Bytes),
    /// Whole, with its length.
    Many(Arc<[Bytes]>, usize),
    Coming(Arc<Fill>),
}

impl Body {
    pub fn whole(chunks: Vec<Bytes>) -> Body {
        match <[Bytes; 1]>::try_from(chunks) {
            Ok([one]) => Body::One(one),
            Err(none) if none.is_empty() => Body::One(Bytes::new()),
            Err(many) => {
                let length = many.iter().map(Bytes::len).sum();
                Body::Many(many.into(), length)
            }
        }
    }

    /// All that has come of it, when that is all; its pieces are none of them empty, unless it is.
    pub fn chunks(&self) -> Option<&[Bytes]> {
        match self {
            Body::One(one) => Some(slice::from_ref(one)),
            Body::Many(many, _) => Some(many),
            Body::Coming(_) => None,
        }
    }

    /// Of one that is whole.
    pub fn length(&self) -> Option<usize> {
        match self {
            Body::One(one) => Some(one.len()),
            Body::Many(_, length) => Some(*length),
            Body::Coming(_) => None,
        }
    }

    fn footprint(&self) -> usize {
        self.chunks().map_or(0, |chunks| chunks.iter().map(|chunk| footprint(chunk.len())).sum())
    }
}

/// What so many bytes take of memory. Allocators keep blocks of some sizes only: four between a power of two and the next. Of what
/// they have, they leave a part unused, of large blocks more: by benches/cache.rs.
fn footprint(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 8).max(16);
    let block = bytes.next_multiple_of(step);
    block + block / if block > 16 << 10 { 6 } else { 9 }
}

impl Entry {
    /// `head` is the service's; what concerns its connection or nobody but the first client is left out.
    pub fn new(key: Key, variance: Option<[u8; 16]>, head: ResponseHeader, told: &Told, body: Body) -> Entry {
        let head = tidy(head, told, body.length());
        let is_rare = variance.is_some() || !told.vary.is_empty() || !told.tags.is_empty();
        let rare = is_rare.then(|| Box::new(Rare { variance, vary: told.vary.clone(), tags: told.tags.clone() }));
        let texts = told.tags.iter().map(|tag| tag.len() + size_of::<Box<str>>()).sum::<usize>();
        let rare_bytes = rare.as_ref().map_or(0, |rare| size_of::<Rare>() + size_of_val(&*rare.vary) + texts);
        Entry {
            key,
            weight: ENTRY_BYTES + body.footprint() + footprint(head.bytes()) + rare_bytes,
            head,
            times: Times::new(&told.terms),
            rare,
            body,
            uses: AtomicU8::new(0),
            is_listed: AtomicBool::new(false),
            is_main: AtomicBool::new(false),
            is_renewing: AtomicBool::new(false),
            expired_s: AtomicU32::new(0),
        }
    }

    /// What its variant goes by; `None` where there is but one.
    pub fn variance(&self) -> Option<[u8; 16]> {
        self.rare.as_ref()?.variance
    }

    /// What its Vary names.
    pub fn vary(&self) -> &[HeaderName] {
        self.rare.as_ref().map_or(&[], |rare| &rare.vary)
    }

    pub fn tags(&self) -> &[Box<str>] {
        self.rare.as_ref().map_or(&[], |rare| &rare.tags)
    }

    /// But for what was withheld.
    pub fn terms(&self) -> Terms {
        self.times.terms()
    }

    /// Until when it is fresh, by its own terms and by what was purged softly.
    pub fn fresh_until(&self) -> SystemTime {
        let own = self.terms().fresh_until();
        match self.expired_s.load(Relaxed) {
            0 => own,
            seconds => own.min(UNIX_EPOCH + Duration::from_secs(seconds.into())),
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
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // A moment ago, so that it is stale at once.
        self.expired_s.store(u32::try_from(seconds).unwrap_or(u32::MAX).max(1), Relaxed);
    }

    pub fn is_whole(&self) -> bool {
        self.body.length().is_some()
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
fn tidy(head: ResponseHeader, Told { terms, url, .. }: &Told, length: Option<usize>) -> Head {
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
    Head::new(parts.status, parts.version, reason.as_deref(), &parts.headers, url)
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
