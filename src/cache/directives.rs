//! Cache-Control and its kin (RFC 9111, 5.2; RFC 9213): what is said of caching, read so that what can't be understood keeps an
//! answer out of the cache rather than in it.

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

/// RFC 9111, 1.2.2: what overflows is this, or more.
const SECONDS_MAX: u64 = 1 << 31;

/// Directives of a request or of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Directives {
    pub no_store: bool,
    pub no_cache: Scope,
    pub private: Scope,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub only_if_cached: bool,
    pub max_age: Option<Duration>,
    pub s_maxage: Option<Duration>,
    pub min_fresh: Option<Duration>,
    /// Without an argument, without end.
    pub max_stale: Option<Duration>,
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
}

/// What a directive is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scope {
    #[default]
    Nothing,
    Fields(Vec<HeaderName>),
    All,
}

impl Scope {
    fn add(&mut self, argument: Option<&str>) {
        let names = argument.map(|names| names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::parse).collect());
        match (names, &mut *self) {
            (_, Scope::All) => {}
            // A list that can't be read may mean anything.
            (None | Some(Err(_)), _) => *self = Scope::All,
            (Some(Ok(names)), Scope::Fields(known)) => known.extend::<Vec<HeaderName>>(names),
            (Some(Ok(names)), Scope::Nothing) => *self = Scope::Fields(names),
        }
    }

    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Scope::Fields(names) => names,
            Scope::Nothing | Scope::All => &[],
        }
    }
}

impl Directives {
    /// Of a request. Pragma counts where there is no Cache-Control (RFC 9111, 5.4).
    pub fn of_request(headers: &HeaderMap) -> Directives {
        if headers.contains_key(CACHE_CONTROL) {
            return Directives::read(headers.get_all(CACHE_CONTROL));
        }
        let is_asked = headers.get_all(PRAGMA).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
        let mut asked = is_asked.filter(|word| word.trim_ascii().eq_ignore_ascii_case(b"no-cache"));
        Directives { no_cache: asked.next().map_or(Scope::Nothing, |_| Scope::All), ..Directives::default() }
    }

    /// Reads all fields of the name as one list.
    pub fn read<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Directives {
        let mut read = Directives::default();
        for value in values {
            match value.to_str() {
                Ok(text) => members(text, |name, argument| read.take(name, argument)),
                Err(_) => read.doubt(),
            }
        }
        read
    }

    fn take(&mut self, name: &str, argument: Argument<'_>) {
        let seconds = |slot: &mut Option<Duration>| {
            let seconds = argument.seconds();
            // RFC 9111, 4.2.1: of values that contradict each other none is believed.
            *slot = Some(match *slot {
                Some(known) if known != seconds => Duration::ZERO,
                _ => seconds,
            });
        };
        match_ignore_case(name, |name| match name {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache.add(argument.text()),
            "private" => self.private.add(argument.text()),
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => seconds(&mut self.max_age),
            "s-maxage" => seconds(&mut self.s_maxage),
            "min-fresh" => seconds(&mut self.min_fresh),
            "max-stale" if argument == Argument::None => self.max_stale = Some(Duration::from_secs(SECONDS_MAX)),
            "max-stale" => seconds(&mut self.max_stale),
            "stale-while-revalidate" => seconds(&mut self.stale_while_revalidate),
            "stale-if-error" => seconds(&mut self.stale_if_error),
            _ => {}
        });
    }

    /// Something could not be read at all: nothing is fresh.
    fn doubt(&mut self) {
        self.no_cache = Scope::All;
    }
}

/// RFC 9213: a field for caches of our kind, a dictionary (RFC 9651, 3.2), which replaces Cache-Control and Expires where it can be
/// read. `None` when there is none, or it can't.
pub fn targeted(headers: &HeaderMap, name: &HeaderName) -> Option<Directives> {
    let mut lines = headers.get_all(name).iter().peekable();
    lines.peek()?;
    let (mut read, mut is_empty) = (Directives::default(), true);
    for line in lines {
        let mut is_sound = true;
        let text = line.to_str().ok()?;
        members(text, |name, argument| {
            is_empty = false;
            let is_key = name.bytes().enumerate().all(|(at, b)| match b {
                b'a'..=b'z' | b'*' => true,
                b'0'..=b'9' | b'_' | b'-' | b'.' => at > 0,
                _ => false,
            });
            is_sound &= is_key && !matches!(argument, Argument::Broken);
            let argument = match argument {
                // Parameters say nothing of what we know.
                Argument::Token(text) => Argument::Token(text.split(';').next().unwrap_or_default()),
                other => other,
            };
            // In a dictionary what comes last counts.
            read.forget(name);
            // RFC 9213, 2.1: a value of another type than the directive's is ignored with it.
            let is_said = !matches!(argument, Argument::Token("?0") | Argument::Quoted(_));
            if is_said {
                read.take(name, if argument == Argument::Token("?1") { Argument::None } else { argument });
            }
        });
        if !is_sound {
            return None;
        }
    }
    (!is_empty).then_some(read)
}

impl Directives {
    fn forget(&mut self, name: &str) {
        match name {
            "max-age" => self.max_age = None,
            "s-maxage" => self.s_maxage = None,
            "stale-while-revalidate" => self.stale_while_revalidate = None,
            "stale-if-error" => self.stale_if_error = None,
            _ => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Argument<'a> {
    None,
    Token(&'a str),
    Quoted(&'a str),
    /// A quote without its end.
    Broken,
}

impl<'a> Argument<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Argument::Token(text) | Argument::Quoted(text) => Some(text),
            Argument::None | Argument::Broken => None,
        }
    }

    fn seconds(self) -> Duration {
        self.text().map_or(Duration::ZERO, delta_seconds)
    }
}

/// RFC 9111, 1.2.2. What is not a number of seconds is none of them.
pub fn delta_seconds(text: &str) -> Duration {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    Duration::from_secs(if is_number { text.parse().map_or(SECONDS_MAX, |seconds: u64| seconds.min(SECONDS_MAX)) } else { 0 })
}

/// The members of a list, each with its argument.
fn members<'a>(text: &'a str, mut each: impl FnMut(&'a str, Argument<'a>)) {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return;
        }
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let name = rest[..end].trim_end_matches([' ', '\t']);
        rest = &rest[end..];
        let Some(value) = rest.strip_prefix('=') else {
            each(name, Argument::None);
            continue;
        };
        if let Some(quoted) = value.strip_prefix('"') {
            match quoted.find('"') {
                Some(close) => {
                    each(name, Argument::Quoted(&quoted[..close]));
                    let behind = &quoted[close + 1..];
                    rest = &behind[behind.find(',').unwrap_or(behind.len())..];
                }
                None => return each(name, Argument::Broken),
            }
        } else {
            let end = value.find(',').unwrap_or(value.len());
            each(name, Argument::Token(value[..end].trim_end_matches([' ', '\t'])));
            rest = &value[end..];
        }
    }
}

/// Names have no case.
fn match_ignore_case(name: &str, then: impl FnOnce(&str)) {
    match name.bytes().any(|b| b.is_ascii_uppercase()) {
        true => then(&name.to_ascii_lowercase()),
        false => then(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> Directives {
        let values: Vec<HeaderValue> = lines.iter().map(|line| HeaderValue::from_bytes(line.as_bytes()).expect("a value")).collect();
        Directives::read(&values)
    }

    #[test]
    fn what_is_said() {
        let seconds = |n| Some(Duration::from_secs(n));
        let told = read(&["MAX-AGE=60 , public", "s-maxage=\"10\", x=\"no-store, private\", stale-if-error = 5"]);
        assert_eq!((told.max_age, told.s_maxage, told.public, told.no_store), (seconds(60), seconds(10), true, false));
        assert_eq!(told.private, Scope::Nothing);
        assert_eq!(read(&["max-age=99999999999999999999"]).max_age, seconds(1 << 31));
        assert_eq!(read(&["max-stale"]).max_stale, seconds(1 << 31));
        assert_eq!(read(&["no-cache"]).no_cache, Scope::All);
        assert_eq!(read(&["no-cache=\"a, B\", no-cache=c"]).no_cache.fields().len(), 3);
        assert_eq!(read(&["private=\"a\", private"]).private, Scope::All);
    }

    #[test]
    fn what_is_malformed_or_contradictory_fails_closed() {
        for line in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=\"5", "max-age=5s", "max-age=5, max-age=6", "max-age='5'"]
        {
            assert_eq!(read(&[line]).max_age, Some(Duration::ZERO), "{line}");
        }
        assert_eq!(read(&["max-age=5", "max-age=5"]).max_age, Some(Duration::from_secs(5)));
        for line in ["no-cache=\"a b\"", "no-cache=\"a", "private=\"\u{e9}\""] {
            let told = read(&[line]);
            assert!(told.no_cache == Scope::All || told.private == Scope::All, "{line}: {told:?}");
        }
    }

    #[test]
    fn a_targeted_field_counts_where_it_can_be_read() {
        let name = HeaderName::from_static("cdn-cache-control");
        let of = |line: &'static str| targeted(&HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(line))]), &name);
        assert_eq!(of("max-age=10, max-age=20;x").and_then(|told| told.max_age), Some(Duration::from_secs(20)));
        assert!(of("no-store").is_some_and(|told| told.no_store) && of("no-store=?0").is_some_and(|told| !told.no_store));
        assert_eq!((of(""), of("MAX-AGE=10"), of("max-age=\"10")), (None, None, None));
        assert_eq!(of("max-age=\"10\"").map(|told| told.max_age), Some(None));
    }

    proptest! {
        /// Whatever stands there, reading it ends, and what says no-store keeps saying it.
        #[test]
        fn any_text_is_read(text in "[ -~]{0,60}") {
            read(&[&text]);
            prop_assert!(read(&["no-store", &text]).no_store);
        }
    }
}
