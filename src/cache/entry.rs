//! An answer that is kept, or about to be.

use super::fill::Fill;
use super::fresh::Terms;
use super::key::Key;
use bytes::Bytes;
use http::header::{AGE, CONNECTION, CONTENT_LENGTH, DATE, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::ResponseHeader;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What an entry takes besides its body, its head and its texts: itself, its places in the maps and in the queue.
const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<Told>() + 160;
/// A field's places in a header map, beside its texts.
const FIELD_BYTES: usize = 112;
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
    pub head: ResponseHeader,
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
    pub fn new(key: Key, variance: Option<[u8; 16]>, mut head: ResponseHeader, told: Arc<Told>, body: Body) -> Entry {
        tidy(&mut head, &told.terms);
        let length = match &body {
            Body::Whole(_, length) => {
                // Its length is known now, though it may have come in chunks.
                if !matches!(head.status.as_u16(), 204) {
                    let _ = head.insert_header(CONTENT_LENGTH, *length);
                }
                *length
            }
            Body::Coming(_) => 0,
        };
        let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES).sum::<usize>();
        let texts = told.url.len() + told.tags.iter().map(|tag| tag.len() + size_of::<Box<str>>()).sum::<usize>();
        Entry {
            key,
            variance,
            head,
            told,
            body,
            weight: ENTRY_BYTES + length + fields + texts,
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

/// RFC 9111, 3.1 and RFC 9110, 7.6.1: what is stored is the answer, not how it came.
fn tidy(head: &mut ResponseHeader, terms: &Terms) {
    let nominated: Vec<HeaderName> = nominated(&head.headers).collect();
    let of_connection = [CONNECTION, TRANSFER_ENCODING, TE, TRAILER, UPGRADE, AGE];
    let named = ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization"];
    for name in of_connection.iter().chain(&nominated).chain(&terms.withheld) {
        head.remove_header(name);
    }
    named.into_iter().for_each(|name| drop(head.remove_header(name)));
    if !head.headers.contains_key(DATE) {
        // RFC 9110, 6.6.1: without a date it was made when it came.
        let _ = head.insert_header(DATE, httpdate::fmt_http_date(terms.received));
    }
}

fn nominated(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> + '_ {
    let values = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    values.flat_map(|value| value.split(|b| *b == b',')).filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
}

/// RFC 9111, 3.2: a stored head with what a 304 says anew. What describes the body stays, since the body does; so do cookies, which
/// were for whoever asked.
pub fn renewed(stored: &ResponseHeader, anew: &HeaderMap, received: SystemTime) -> ResponseHeader {
    let mut head = stored.clone();
    let dropped: Vec<HeaderName> = nominated(anew).collect();
    let stays = |name: &HeaderName| {
        matches!(
            name.as_str(),
            "content-length" | "content-encoding" | "content-range" | "content-type" | "keep-alive" | "proxy-connection"
        ) || [CONNECTION, TRANSFER_ENCODING, TE, TRAILER, UPGRADE, SET_COOKIE].contains(name)
            || dropped.contains(name)
    };
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
