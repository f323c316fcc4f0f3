//! What a request asks of a cache (RFC 9111, 5.2.1).

use super::directives::{Directives, Scope};
use super::fresh::Terms;
use http::HeaderMap;
use http::header::{CACHE_CONTROL, PRAGMA};
use std::time::{Duration, SystemTime};

/// What a request asks for; nothing, mostly.
#[derive(Clone, Debug, Default)]
pub struct Asked(Option<Box<Directives>>);

/// How an answer that is kept may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// As its own freshness has it.
    AsIs,
    /// Only after asking the service.
    Ask,
    /// As fresh, though it is stale: the client takes it.
    Take,
}

impl Asked {
    pub fn of(headers: &HeaderMap) -> Asked {
        let says = headers.contains_key(CACHE_CONTROL) || headers.contains_key(PRAGMA);
        Asked(says.then(|| Box::new(Directives::of_request(headers))))
    }

    /// Nothing of this exchange is to be kept.
    pub fn no_store(&self) -> bool {
        self.0.as_ref().is_some_and(|asked| asked.no_store)
    }

    /// Whoever asks does not want the service to be asked.
    pub fn only_if_cached(&self) -> bool {
        self.0.as_ref().is_some_and(|asked| asked.only_if_cached)
    }

    /// How an answer may serve that is fresh until `fresh_until`.
    pub fn admits(&self, terms: &Terms, fresh_until: SystemTime, now: SystemTime) -> Use {
        let Some(asked) = &self.0 else { return Use::AsIs };
        let age = terms.age(now);
        let left = fresh_until.duration_since(now).unwrap_or_default();
        if asked.no_cache != Scope::Nothing || asked.min_fresh.is_some_and(|wanted| left < wanted) {
            return Use::Ask;
        }
        let staleness = now.duration_since(fresh_until).unwrap_or_default();
        let is_taken = asked.max_stale.is_some_and(|max| staleness <= max) && !terms.must_revalidate;
        if asked.max_age.is_some_and(|max| age > max || max == Duration::ZERO) && !(is_taken && asked.max_age != Some(Duration::ZERO)) {
            return Use::Ask;
        }
        match is_taken && !staleness.is_zero() {
            true => Use::Take,
            false => Use::AsIs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_a_client_may_ask() {
        let received = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let second = Duration::from_secs(1);
        let terms = |must_revalidate| Terms {
            received,
            lifetime: 60 * second,
            initial_age: Duration::ZERO,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            must_revalidate,
            withheld: Box::new([]),
        };
        for (said, age, lax, strict) in [
            ("", 30, Use::AsIs, Use::AsIs),
            ("no-cache", 30, Use::Ask, Use::Ask),
            ("max-age=0", 0, Use::Ask, Use::Ask),
            ("max-age=29", 30, Use::Ask, Use::Ask),
            ("max-age=30", 30, Use::AsIs, Use::AsIs),
            ("min-fresh=30", 30, Use::AsIs, Use::AsIs),
            ("min-fresh=31", 30, Use::Ask, Use::Ask),
            ("max-stale", 300, Use::Take, Use::AsIs),
            ("max-stale=9", 65, Use::Take, Use::AsIs),
            ("max-stale=4", 65, Use::AsIs, Use::AsIs),
            ("max-stale=9", 30, Use::AsIs, Use::AsIs),
        ] {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(said))]);
            for (must, expected) in [(false, lax), (true, strict)] {
                let terms = terms(must);
                let got = Asked::of(&headers).admits(&terms, terms.fresh_until(), received + age * second);
                assert_eq!(got, expected, "{said} at {age}");
            }
        }
        let pragma = HeaderMap::from_iter([(PRAGMA, HeaderValue::from_static("no-cache"))]);
        assert_eq!(Asked::of(&pragma).admits(&terms(false), received + 60 * second, received), Use::Ask);
        assert_eq!(Asked::of(&HeaderMap::new()).admits(&terms(false), received, received), Use::AsIs);
    }
}
