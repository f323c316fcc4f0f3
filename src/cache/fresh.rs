//! May an answer be kept, and how long is it fresh? RFC 9111, 3 and 4.2, with the configuration's say where the service is silent.

use super::directives::{Directives, Scope, delta_seconds, targeted};
use http::header::{AGE, CACHE_CONTROL, DATE, ETAG, EXPIRES, LAST_MODIFIED, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderName, StatusCode};
use std::time::{Duration, SystemTime};

/// RFC 9111, 4.2.2: a heuristic is to be a modest share of the time since the answer last changed.
const HEURISTIC_SHARE: u32 = 10;
const HEURISTIC_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// What the configuration says.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub ttl: Option<Duration>,
    pub status_ttl: Box<[(u16, Duration)]>,
    pub stale_while_revalidate: Duration,
    pub stale_if_error: Duration,
    pub takes_cookies: bool,
}

/// An answer of a service, and what is known of how it came.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub received: SystemTime,
    /// From the request to the answer's head.
    pub delay: Duration,
    /// Only for whoever asked, unless it says otherwise: they were recognised, or showed credentials (RFC 9111, 3.5).
    pub is_personal: bool,
    /// How much of a `ttl` holds: 1 is all.
    pub share: f64,
}

/// Under which terms an answer is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    pub received: SystemTime,
    /// RFC 9111, 4.2.1.
    pub lifetime: Duration,
    /// RFC 9111, 4.2.3: the age that it had when it was received.
    pub initial_age: Duration,
    pub stale_while_revalidate: Duration,
    pub stale_if_error: Duration,
    /// Stale, it must not be given without asking, whatever the client would take.
    pub must_revalidate: bool,
    /// Fields that are given to nobody but the one who asked first.
    pub withheld: Box<[HeaderName]>,
}

impl Terms {
    /// How old it is.
    pub fn age(&self, now: SystemTime) -> Duration {
        self.initial_age + now.duration_since(self.received).unwrap_or_default()
    }

    /// Until when it is fresh. One that never is, was so before it came.
    pub fn fresh_until(&self) -> SystemTime {
        match self.lifetime.checked_sub(self.initial_age) {
            Some(left) if !left.is_zero() => self.received + left,
            _ => self.received - self.initial_age.saturating_sub(self.lifetime).max(Duration::from_millis(1)),
        }
    }

    /// Every use of it is asked for.
    pub fn is_never_fresh(&self) -> bool {
        self.lifetime <= self.initial_age
    }
}

impl Terms {
    /// Those of an answer that is made of this one and another: fresh for as long as both are, and as old as the older.
    pub fn with(self, other: Terms) -> Terms {
        let received = self.received.max(other.received);
        let until = self.fresh_until().min(other.fresh_until());
        let initial_age = self.age(received).max(other.age(received));
        Terms {
            received,
            lifetime: until.duration_since(received).map_or(Duration::ZERO, |left| initial_age + left),
            initial_age,
            stale_while_revalidate: self.stale_while_revalidate.min(other.stale_while_revalidate),
            stale_if_error: self.stale_if_error.min(other.stale_if_error),
            must_revalidate: self.must_revalidate || other.must_revalidate,
            withheld: [self.withheld, other.withheld].concat().into(),
        }
    }
}

/// Why an answer is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The answer to a part, or to a condition.
    Status,
    /// `no-store`, `private`, `Vary: *`.
    Forbidden,
    /// It sets cookies.
    Cookies,
    /// It is for whoever asked alone.
    Personal,
    /// It would never be fresh, and nothing tells whether it has changed.
    Useless,
}

impl Why {
    pub fn text(self) -> &'static str {
        match self {
            Why::Status => "its status",
            Why::Forbidden => "the service forbids it",
            Why::Cookies => "it sets cookies",
            Why::Personal => "it is for whoever asked alone",
            Why::Useless => "nothing says that it is fresh",
        }
    }
}

/// Whether an answer may be kept, and under which terms.
pub fn decide(answer: &Answer<'_>, policy: &Policy) -> Result<Terms, Why> {
    let headers = answer.headers;
    let own = targeted(headers, &CDN_CACHE_CONTROL);
    let is_targeted = own.is_some();
    let told = own.unwrap_or_else(|| Directives::read(headers.get_all(CACHE_CONTROL)));
    if !may_keep_status(answer.status, &told) {
        return Err(Why::Status);
    }
    // RFC 9111, 5.2.2.3: who understands the status passes over no-store.
    let no_store = told.no_store && !(told.must_understand && is_understood(answer.status));
    if no_store || told.private == Scope::All || varies_on_everything(headers) {
        return Err(Why::Forbidden);
    }
    if headers.contains_key(SET_COOKIE) && !policy.takes_cookies {
        return Err(Why::Cookies);
    }
    let is_for_all = told.public || told.s_maxage.is_some() || told.must_revalidate;
    if answer.is_personal && !is_for_all {
        return Err(Why::Personal);
    }
    let lifetime = lifetime(answer, &told, is_targeted, policy);
    let is_prohibited = told.must_revalidate || told.proxy_revalidate || told.s_maxage.is_some() || told.no_cache == Scope::All;
    // What the service says of stale answers holds even beside s-maxage; ours does not stand against it (RFC 9111, 4.2.4).
    let is_strict = told.must_revalidate || told.proxy_revalidate || told.no_cache == Scope::All;
    let window = |said: Option<Duration>, ours: Duration| match said {
        _ if is_strict => Duration::ZERO,
        Some(said) => said,
        None if is_prohibited => Duration::ZERO,
        None => ours,
    };
    let terms = Terms {
        received: answer.received,
        lifetime: if told.no_cache == Scope::All { Duration::ZERO } else { lifetime.unwrap_or_default() },
        initial_age: initial_age(answer),
        stale_while_revalidate: window(told.stale_while_revalidate, policy.stale_while_revalidate),
        stale_if_error: window(told.stale_if_error, policy.stale_if_error),
        must_revalidate: is_prohibited,
        withheld: told.no_cache.fields().iter().chain(told.private.fields()).cloned().collect(),
    };
    let has_window = !terms.stale_while_revalidate.is_zero() || !terms.stale_if_error.is_zero();
    let can_be_asked = lifetime.is_some() && (headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED) || has_window);
    match terms.is_never_fresh() && !can_be_asked {
        true => Err(Why::Useless),
        false => Ok(terms),
    }
}

/// RFC 9111, 3: final, and whole. Any other status needs to be said fresh.
fn may_keep_status(status: StatusCode, told: &Directives) -> bool {
    match status.as_u16() {
        ..200 | 206 | 304 => false,
        _ => !told.must_understand || is_understood(status),
    }
}

/// RFC 9110, 15.1: what may be fresh though nobody says so.
fn is_heuristic(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// What a plain `ttl` is meant for: that something is missing or broken is not to be remembered unless told so.
fn is_lasting(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308)
}

/// Those of RFC 9110 whose meaning has nothing to do with caching, or is known here.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=205 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

pub fn varies_on_everything(headers: &HeaderMap) -> bool {
    headers.get_all(VARY).iter().any(|value| value.as_bytes().split(|b| *b == b',').any(|name| name.trim_ascii() == b"*"))
}

/// RFC 9111, 4.2.1 and 4.2.2; `None` when nothing is said at all.
fn lifetime(answer: &Answer<'_>, told: &Directives, is_targeted: bool, policy: &Policy) -> Option<Duration> {
    let headers = answer.headers;
    if let Some(said) = told.s_maxage.or(told.max_age) {
        return Some(said);
    }
    let date = date_of(headers, &DATE).flatten().unwrap_or(answer.received);
    if !is_targeted && let Some(expires) = date_of(headers, &EXPIRES) {
        // RFC 9111, 5.3: what can't be read has passed.
        return Some(expires.and_then(|expires| expires.duration_since(date).ok()).unwrap_or_default());
    }
    if told.no_cache == Scope::All {
        return Some(Duration::ZERO);
    }
    let of_status = policy.status_ttl.iter().find(|(status, _)| *status == answer.status.as_u16()).map(|(_, ttl)| *ttl);
    if let Some(ttl) = of_status.or(policy.ttl.filter(|_| is_lasting(answer.status))) {
        return Some(ttl.mul_f64(answer.share));
    }
    let modified = date_of(headers, &LAST_MODIFIED).flatten().filter(|_| is_heuristic(answer.status) || told.public);
    if let Some(rested) = modified.and_then(|modified| date.duration_since(modified).ok()) {
        return Some((rested / HEURISTIC_SHARE).min(HEURISTIC_MAX));
    }
    // It may be kept, to be asked about.
    (told.public || told.must_revalidate || told.proxy_revalidate).then_some(Duration::ZERO)
}

/// RFC 9111, 4.2.3.
fn initial_age(answer: &Answer<'_>) -> Duration {
    let date = date_of(answer.headers, &DATE).flatten();
    let apparent = date.and_then(|date| answer.received.duration_since(date).ok()).unwrap_or_default();
    // Dates are whole seconds: one that has not passed is no age.
    let apparent = Duration::from_secs(apparent.as_secs());
    apparent.max(age_field(answer.headers) + answer.delay)
}

/// RFC 9111, 5.1: the first value counts; what is no number of seconds is not there.
fn age_field(headers: &HeaderMap) -> Duration {
    let text = headers.get(AGE).and_then(|value| value.to_str().ok()).and_then(|text| text.split(',').next()).map(str::trim);
    text.map_or(Duration::ZERO, delta_seconds)
}

/// A date: the outer `None` when there is none, the inner when it can't be read, or there are several.
fn date_of(headers: &HeaderMap, name: &HeaderName) -> Option<Option<SystemTime>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.any(|value| value != first) {
        return Some(None);
    }
    Some(first.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    const NOW: u64 = 1_700_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn date(seconds: u64) -> String {
        httpdate::fmt_http_date(at(seconds))
    }

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().expect("a name"), HeaderValue::from_str(value).expect("a value"));
        let mut map = HeaderMap::new();
        fields.iter().map(field).for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    #[test]
    fn an_answer_of_two_is_fresh_for_as_long_as_both_are() {
        let terms = |received, lifetime, age| Terms {
            received: at(received),
            lifetime: Duration::from_secs(lifetime),
            initial_age: Duration::from_secs(age),
            stale_while_revalidate: Duration::from_secs(lifetime),
            stale_if_error: Duration::ZERO,
            must_revalidate: age > 0,
            withheld: Box::new([]),
        };
        for (one, other, until, age) in [
            (terms(NOW, 60, 0), terms(NOW, 10, 0), 10, 0),
            (terms(NOW, 60, 55), terms(NOW, 10, 0), 5, 55),
            (terms(NOW - 5, 60, 0), terms(NOW, 300, 2), 55, 5),
        ] {
            for both in [one.clone().with(other.clone()), other.with(one)] {
                assert_eq!((both.fresh_until(), both.age(at(NOW))), (at(NOW + until), Duration::from_secs(age)));
                assert_eq!(both.stale_while_revalidate, Duration::from_secs(if until == 55 { 60 } else { 10 }));
            }
        }
        assert!(terms(NOW, 60, 0).with(terms(NOW, 10, 20)).is_never_fresh());
    }

    fn decided(status: u16, fields: &[(&str, &str)], policy: &Policy) -> Result<Terms, Why> {
        let headers = headers(fields);
        let status = StatusCode::from_u16(status).expect("a status");
        let answer = Answer { status, headers: &headers, received: at(NOW), delay: Duration::ZERO, is_personal: false, share: 1.0 };
        decide(&answer, policy)
    }

    #[track_caller]
    fn seconds(status: u16, fields: &[(&str, &str)], policy: &Policy) -> Result<u64, Why> {
        decided(status, fields, policy).map(|terms| terms.lifetime.as_secs())
    }

    #[test]
    fn what_the_service_says_comes_first() {
        let policy =
            Policy { ttl: Some(Duration::from_secs(9)), status_ttl: Box::new([(404, Duration::from_secs(3))]), ..Policy::default() };
        let cc = "cache-control";
        for (status, fields, expected) in [
            (200, &[(cc, "max-age=60")][..], Ok(60)),
            (200, &[(cc, "max-age=60, s-maxage=30")], Ok(30)),
            (200, &[(cc, "max-age=60"), ("cdn-cache-control", "max-age=5")], Ok(5)),
            (200, &[("expires", &date(NOW + 50)), ("date", &date(NOW))], Ok(50)),
            (200, &[("expires", &date(NOW + 50))], Ok(50)),
            (200, &[("expires", "0"), ("etag", "\"x\"")], Ok(0)),
            (200, &[("expires", "0")], Err(Why::Useless)),
            (200, &[], Ok(9)),
            (404, &[], Ok(3)),
            (500, &[], Err(Why::Useless)),
            (302, &[], Err(Why::Useless)),
            (302, &[(cc, "max-age=1")], Ok(1)),
            (206, &[(cc, "max-age=60")], Err(Why::Status)),
            (304, &[(cc, "max-age=60")], Err(Why::Status)),
            (200, &[(cc, "no-store, max-age=60")], Err(Why::Forbidden)),
            (200, &[(cc, "private, max-age=60")], Err(Why::Forbidden)),
            (200, &[(cc, "max-age=60"), ("vary", "a, *")], Err(Why::Forbidden)),
            (200, &[(cc, "max-age=60"), ("set-cookie", "a=b")], Err(Why::Cookies)),
            (200, &[(cc, "no-store, must-understand, max-age=60")], Ok(60)),
            (299, &[(cc, "no-store, must-understand, max-age=60")], Err(Why::Status)),
            (200, &[(cc, "no-cache"), ("etag", "\"x\"")], Ok(0)),
        ] {
            assert_eq!(seconds(status, fields, &policy), expected, "{status} {fields:?}");
        }
    }

    #[test]
    fn a_heuristic_is_a_tenth_and_a_day_at_most() {
        let policy = Policy::default();
        for (ago, lifetime) in [(100, 10), (1_000, 100), (100_000_000, 86_400)] {
            assert_eq!(seconds(200, &[("last-modified", &date(NOW - ago))], &policy), Ok(lifetime));
        }
        assert_eq!(seconds(200, &[("last-modified", &date(NOW + 9))], &policy), Err(Why::Useless));
        assert_eq!(seconds(403, &[("last-modified", &date(NOW - 100))], &policy), Err(Why::Useless));
    }

    #[test]
    fn credentials_keep_an_answer_to_who_showed_them() {
        let answer = |fields: &[(&str, &str)]| {
            let headers = headers(fields);
            let answer = Answer {
                status: StatusCode::OK,
                headers: &headers,
                received: at(NOW),
                delay: Duration::ZERO,
                is_personal: true,
                share: 1.0,
            };
            decide(&answer, &Policy { ttl: Some(Duration::from_secs(9)), ..Policy::default() }).is_ok()
        };
        assert!(!answer(&[]) && !answer(&[("cache-control", "max-age=60")]));
        for said in ["public", "public, max-age=60", "s-maxage=60", "must-revalidate, max-age=60"] {
            assert!(answer(&[("cache-control", said)]), "{said}");
        }
    }

    #[test]
    fn windows_are_the_services_then_ours_and_none_where_it_is_strict() {
        let second = Duration::from_secs(1);
        let policy = Policy { stale_while_revalidate: 7 * second, stale_if_error: 8 * second, ..Policy::default() };
        for (said, expected) in [
            ("max-age=60", (7, 8)),
            ("max-age=60, stale-while-revalidate=1, stale-if-error=2", (1, 2)),
            ("s-maxage=60", (0, 0)),
            ("s-maxage=60, stale-while-revalidate=1", (1, 0)),
            ("max-age=60, must-revalidate, stale-if-error=2", (0, 0)),
            ("max-age=60, proxy-revalidate", (0, 0)),
        ] {
            let terms = decided(200, &[("cache-control", said)], &policy).expect("kept");
            assert_eq!((terms.stale_while_revalidate.as_secs(), terms.stale_if_error.as_secs()), expected, "{said}");
        }
    }

    #[test]
    fn the_age_begins_where_it_was() {
        for (fields, age) in [
            (&[("age", "10")][..], 10),
            (&[("age", "10, 99")], 10),
            (&[("age", "-1")], 0),
            (&[("age", "1x")], 0),
            (&[("date", &date(NOW - 7))], 7),
            (&[("date", &date(NOW + 7)), ("age", "3")], 3),
            (&[("date", &date(NOW - 7)), ("age", "3")], 7),
        ] {
            let fields = [fields, &[("cache-control", "max-age=60")]].concat();
            let terms = decided(200, &fields, &Policy::default()).expect("kept");
            assert_eq!(terms.initial_age.as_secs(), age, "{fields:?}");
            assert_eq!(terms.fresh_until(), at(NOW + 60 - age));
        }
    }

    proptest! {
        /// The RFC's sums, written down as it has them.
        #[test]
        fn freshness_is_as_the_rfc_has_it(
            max_age in proptest::option::of(0u64..200), s_maxage in proptest::option::of(0u64..200),
            expires in proptest::option::of(0u64..400), dated in proptest::option::of(0u64..200), age in proptest::option::of(0u64..200),
            delay in 0u64..20, later in 0u64..300,
        ) {
            let mut fields = vec![("etag".to_string(), "\"x\"".to_string())];
            let said = [max_age.map(|n| format!("max-age={n}")), s_maxage.map(|n| format!("s-maxage={n}"))];
            fields.extend(said.into_iter().flatten().map(|said| ("cache-control".to_string(), said)));
            fields.extend(expires.map(|n| ("expires".to_string(), date(NOW - 200 + n))));
            fields.extend(dated.map(|n| ("date".to_string(), date(NOW - n))));
            fields.extend(age.map(|n| ("age".to_string(), n.to_string())));
            let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let headers = headers(&fields);
            let answer = Answer {
                status: StatusCode::OK, headers: &headers, received: at(NOW), delay: Duration::from_secs(delay), is_personal: false, share: 1.0,
            };
            let date_value = NOW - dated.unwrap_or(0);
            let lifetime = s_maxage.or(max_age).or(expires.map(|n| (NOW - 200 + n).saturating_sub(date_value)));
            let current_age = (NOW - date_value).max(age.unwrap_or(0) + delay) + later;
            match decide(&answer, &Policy::default()) {
                Err(why) => prop_assert!(lifetime.is_none() && why == Why::Useless),
                Ok(terms) => {
                    prop_assert_eq!(terms.age(at(NOW + later)).as_secs(), current_age);
                    prop_assert_eq!(at(NOW + later) < terms.fresh_until(), lifetime.expect("said") > current_age);
                }
            }
        }
    }
}
