//! Which coding an answer is sent in, and what that does to its head (RFC 9110, 8.4 and 12.5.3). The bytes are coded elsewhere.

use super::validator::other_bytes;
pub use crate::config::raw::Coding;
use crate::types::content_length;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};

/// A smaller body gains nothing worth its cost.
const BYTES_MIN: u64 = 256;
/// As registered with IANA.
fn name(coding: Coding) -> &'static str {
    match coding {
        Coding::Zstd => "zstd",
        Coding::Brotli => "br",
        Coding::Gzip => "gzip",
    }
}

fn is(coding: Coding, other: &str) -> bool {
    other.eq_ignore_ascii_case(name(coding)) || (coding == Coding::Gzip && other.eq_ignore_ascii_case("x-gzip"))
}

/// The codings of a route, the most wanted first.
#[derive(Clone, Debug)]
pub struct Compress(Vec<Coding>);

impl Compress {
    pub fn new(codings: Vec<Coding>) -> Compress {
        Compress(codings)
    }

    /// Changes the head of an answer that is worth it, and says in which coding its body has to be sent. An answer that would
    /// be another for another client says so.
    pub fn head(&self, request: &HeaderMap, status: StatusCode, head: &mut HeaderMap) -> Option<Coding> {
        if !is_worth_it(status, head) {
            return None;
        }
        vary(head);
        let coding = self.choose(request)?;
        head.remove(CONTENT_LENGTH);
        other_bytes(head);
        head.insert(CONTENT_ENCODING, HeaderValue::from_static(name(coding)));
        Some(coding)
    }

    /// The one that the client likes best; of several, the route's own order decides. Nothing without Accept-Encoding: such
    /// clients seldom understand one.
    fn choose(&self, request: &HeaderMap) -> Option<Coding> {
        let fields = request.get_all(ACCEPT_ENCODING);
        let texts = || fields.iter().filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(','));
        let quality = |is: &dyn Fn(&str) -> bool| texts().filter_map(parse).filter(|(name, _)| is(name)).map(|(_, q)| q).max();
        let any = quality(&|name| name == "*");
        let plain = quality(&|name| name.eq_ignore_ascii_case("identity"));
        let of = |coding: Coding| quality(&|other| is(coding, other)).or(any).unwrap_or(0);
        // `max_by_key` takes the last of several.
        let best = self.0.iter().rev().copied().max_by_key(|coding| of(*coding))?;
        (of(best) > 0 && plain.is_none_or(|plain| of(best) >= plain)).then_some(best)
    }
}

/// A coding and its quality, in thousandths. What can't be read is not there.
fn parse(item: &str) -> Option<(&str, u16)> {
    let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
    let weight = parameters.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case("q").then_some(value.trim())
    });
    let quality = match weight {
        None => 1000,
        Some(text) => {
            let value: f32 = text.parse().ok()?;
            (0.0..=1.0).contains(&value).then_some((value * 1000.0) as u16)?
        }
    };
    Some((name.trim(), quality)).filter(|(name, _)| !name.is_empty())
}

fn is_worth_it(status: StatusCode, head: &HeaderMap) -> bool {
    let has_body = !status.is_informational() && !matches!(status.as_u16(), 204 | 206 | 304);
    let length = content_length(head);
    let may_change = |field: &HeaderValue| !field.as_bytes().to_ascii_lowercase().windows(12).any(|part| part == b"no-transform");
    has_body
        && length.is_none_or(|length| length >= BYTES_MIN)
        && !head.contains_key(CONTENT_ENCODING)
        && !head.contains_key(CONTENT_RANGE)
        && head.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_some_and(is_text_like)
        && head.get_all(CACHE_CONTROL).iter().all(may_change)
}

/// Kinds of content that are not compressed by themselves. An event stream would be held up.
fn is_text_like(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some((family, name)) = kind.split_once('/') else { return false };
    match family {
        "text" => name != "event-stream",
        "application" => {
            matches!(
                name,
                "json" | "javascript" | "x-javascript" | "xml" | "wasm" | "graphql" | "x-ndjson" | "vnd.ms-fontobject" | "x-yaml" | "yaml"
            ) || name.ends_with("+json")
                || name.ends_with("+xml")
        }
        "image" => matches!(name, "svg+xml" | "bmp" | "x-icon" | "vnd.microsoft.icon"),
        "font" => matches!(name, "ttf" | "otf"),
        _ => false,
    }
}

fn vary(head: &mut HeaderMap) {
    let names = |field: &HeaderValue| {
        field.to_str().is_ok_and(|field| {
            field.split(',').map(str::trim).any(|name| name == "*" || name.eq_ignore_ascii_case(ACCEPT_ENCODING.as_str()))
        })
    };
    if !head.get_all(VARY).iter().any(names) {
        head.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"))).collect()
    }

    fn all() -> Compress {
        Compress::new(vec![Coding::Zstd, Coding::Brotli, Coding::Gzip])
    }

    #[test]
    fn the_client_chooses_and_then_the_route() {
        for (accepted, expected) in [
            ("gzip, br, zstd", Some(Coding::Zstd)),
            ("gzip, br", Some(Coding::Brotli)),
            ("GZIP", Some(Coding::Gzip)),
            ("x-gzip", Some(Coding::Gzip)),
            ("zstd;q=0.5, gzip;q=0.8", Some(Coding::Gzip)),
            ("zstd; q=0, br ;q=0.001", Some(Coding::Brotli)),
            ("*", Some(Coding::Zstd)),
            ("*;q=0.1, zstd;q=0", Some(Coding::Brotli)),
            ("identity", None),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=1", Some(Coding::Gzip)),
            ("gzip;q=0", None),
            ("gzip;q=2", None),
            ("gzip;q=x", None),
            ("deflate", None),
            ("", None),
        ] {
            assert_eq!(all().choose(&headers(&[("accept-encoding", accepted)])), expected, "{accepted}");
        }
        assert_eq!(all().choose(&HeaderMap::new()), None);
        let mut two = headers(&[("accept-encoding", "gzip;q=0.1")]);
        two.append("accept-encoding", "br".parse().expect("a value"));
        assert_eq!(all().choose(&two), Some(Coding::Brotli));
        let gzip = Compress::new(vec![Coding::Gzip]);
        assert_eq!(gzip.choose(&headers(&[("accept-encoding", "zstd, br, gzip;q=0.1")])), Some(Coding::Gzip));
    }

    #[test]
    fn what_gains_nothing_or_must_not_change_stays() {
        for (status, head) in [
            (200, &[("content-type", "image/png")][..]),
            (200, &[]),
            (200, &[("content-type", "text/event-stream")]),
            (200, &[("content-type", "application/json"), ("content-length", "255")]),
            (200, &[("content-type", "application/json"), ("content-encoding", "br")]),
            (200, &[("content-type", "application/json"), ("cache-control", "public, No-Transform")]),
            (206, &[("content-type", "application/json"), ("content-range", "bytes 0-1/2")]),
            (204, &[("content-type", "application/json")]),
            (304, &[("content-type", "application/json")]),
        ] {
            let mut head = headers(head);
            let before = head.clone();
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(all().head(&headers(&[("accept-encoding", "gzip")]), status, &mut head), None, "{before:?}");
            assert_eq!(head, before);
        }
    }

    #[test]
    fn the_head_tells_of_the_coding() {
        let whole = [
            ("content-type", "Application/Problem+JSON; charset=x"),
            ("content-length", "256"),
            ("etag", "\"a\""),
            ("digest", "x"),
            ("vary", "Origin"),
        ];
        let mut head = headers(&whole);
        let coding = all().head(&headers(&[("accept-encoding", "gzip")]), StatusCode::OK, &mut head);
        assert_eq!(coding, Some(Coding::Gzip));
        assert_eq!((&head["content-encoding"], &head["etag"]), (&"gzip".parse().expect("v"), &"W/\"a\"".parse().expect("v")));
        assert!(!head.contains_key("content-length") && !head.contains_key("digest"));
        assert_eq!(head.get_all("vary").iter().count(), 2);
        // The same for another client is another answer.
        let mut head = headers(&whole);
        assert_eq!(all().head(&HeaderMap::new(), StatusCode::OK, &mut head), None);
        assert!(head.get_all("vary").iter().any(|field| field == "Accept-Encoding") && head["etag"] == "\"a\"");
        let mut head = headers(&[("content-type", "text/plain"), ("vary", "accept-encoding"), ("etag", "bad")]);
        assert!(all().head(&headers(&[("accept-encoding", "br")]), StatusCode::OK, &mut head).is_some());
        assert!(head.get_all("vary").iter().count() == 1 && !head.contains_key("etag"));
    }

    proptest! {
        #[test]
        fn any_field_is_read(accepted in "[ -~]{0,60}") {
            let _ = all().choose(&headers(&[("accept-encoding", &accepted)]));
        }
    }
}
