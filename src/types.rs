//! Nouns that several rooms share.

pub mod fields;

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, COOKIE};
use serde::Serialize;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::hash::Hasher;
use std::sync::Arc;

/// A route's place in its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub u32);

/// A listener's place in its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u32);

/// What a room remembers, in a form that goes along when another process takes the place of this one.
pub trait Carried {
    fn name(&self) -> &'static str;
    /// Of the form: what has another version is not taken.
    fn version(&self) -> u32;
    fn give(&self) -> Vec<u8>;
    /// What has come since the last time that something was given, while this process finishes what it has begun; `None` where
    /// there is nothing, or nothing can be added to what was given.
    fn give_more(&self) -> Option<Vec<u8>> {
        None
    }
    /// First before anything is built from the configuration, then whatever comes later. What can't be read is left.
    fn take(&self, bytes: &[u8]);
}

/// Who was recognised, by what, and what is known of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// What they are called: a token's `sub`, a key's `id`, a user's name.
    pub name: Arc<str>,
    /// The method of `auth` that recognised them.
    pub method: Arc<str>,
    pub claims: Map<String, Value>,
}

impl Identity {
    /// A claim by its name or, where there is none of that name, by its path: `realm_access.roles`.
    pub fn claim(&self, path: &str) -> Option<&Value> {
        claim(&self.claims, path)
    }

    /// A claim as a text; lists are joined by spaces, as scopes are.
    pub fn claim_text(&self, path: &str) -> Option<Cow<'_, str>> {
        self.claim(path).map(text)
    }

    /// What a token may be used for: `scope` as a text (RFC 8693, 4.2) or a list, `scp` likewise.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        let values = ["scope", "scp"].into_iter().filter_map(|name| self.claims.get(name));
        let texts = values.flat_map(|value| match value {
            Value::Array(items) => &items[..],
            one => std::slice::from_ref(one),
        });
        texts.filter_map(Value::as_str).flat_map(str::split_ascii_whitespace)
    }
}

fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    claims.get(path).or_else(|| {
        // Names may have dots themselves.
        path.match_indices('.').find_map(|(dot, _)| claim(claims.get(&path[..dot])?.as_object()?, &path[dot + 1..]))
    })
}

fn text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        Value::Null => Cow::Borrowed(""),
        Value::Array(items) => Cow::Owned(items.iter().map(text).collect::<Vec<_>>().join(" ")),
        other => Cow::Owned(other.to_string()),
    }
}

/// Something that is wrong with a JSON body, as RFC 9457, 3 shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flaw {
    pub detail: String,
    /// Where: a JSON Pointer as a fragment (RFC 6901, 6), `#` for the whole.
    pub pointer: String,
}

/// What a client's certificate says, which was verified in the handshake.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// `CN=billing` and so on, in their order.
    pub subject: Vec<String>,
    /// Subject alternative names.
    pub names: Vec<String>,
    /// SHA-256 of the whole, in hexadecimal digits.
    pub fingerprint: String,
    /// In Unix time.
    pub expires: f64,
}

macro_rules! refusals {
    ($( $(#[$doc:meta])* $variant:ident $(($payload:ty))? => $status:literal $code:literal $title:literal, )*) => {
        /// A deliberate no. The code is stable: clients, log and metrics know it by that.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Refusal { $( $(#[$doc])* $variant $(($payload))?, )* }

        impl Refusal {
            /// Every code, in the order of the variants.
            pub const CODES: &'static [&'static str] = &[$($code),*];

            pub fn status(&self) -> u16 {
                match self { $( refusals!(@pattern $variant $($payload)?) => $status, )* }
            }
            pub fn code(&self) -> &'static str {
                match self { $( refusals!(@pattern $variant $($payload)?) => $code, )* }
            }
            pub fn title(&self) -> &'static str {
                match self { $( refusals!(@pattern $variant $($payload)?) => $title, )* }
            }
        }
    };
    (@pattern $variant:ident $payload:ty) => { Refusal::$variant(_) };
    (@pattern $variant:ident) => { Refusal::$variant };
}

refusals! {
    /// What of it could not be understood.
    BadRequest(&'static str) => 400 "bad_request" "Bad Request",

    Unauthenticated => 401 "unauthenticated" "Credentials are missing",
    TokenMalformed => 401 "token_malformed" "The token can't be read",
    TokenSignature => 401 "token_signature" "The token's signature is wrong",
    TokenExpired => 401 "token_expired" "The token has expired",
    TokenNotYetValid => 401 "token_not_yet_valid" "The token is not valid yet",
    TokenIssuer => 401 "token_issuer" "The token's issuer is not known here",
    TokenAudience => 401 "token_audience" "The token is meant for somebody else",
    TokenAlgorithm => 401 "token_algorithm" "The token's algorithm is not allowed",
    TokenKeyUnknown => 401 "token_key_unknown" "The token's key is not known",
    TokenClaimMissing => 401 "token_claim_missing" "The token lacks a claim",
    TokenInactive => 401 "token_inactive" "The token is not active",
    TokenTooLarge => 401 "token_too_large" "The token is too large",
    KeyUnknown => 401 "key_unknown" "The key is not known",
    KeyExpired => 401 "key_expired" "The key has expired",

    ForbiddenScope => 403 "forbidden_scope" "A scope is missing",
    ForbiddenClaim => 403 "forbidden_claim" "A claim does not allow it",
    ForbiddenIp => 403 "forbidden_ip" "The address is not allowed",

    NoRoute => 404 "no_route" "Nothing is routed here",
    /// The methods that are, as the Allow field wants them.
    MethodNotAllowed(Arc<str>) => 405 "method_not_allowed" "The method is not allowed here",
    RequestTimeout => 408 "request_timeout" "The request took too long",
    BodyTooLarge => 413 "body_too_large" "The body is too large",
    UriTooLong => 414 "uri_too_long" "The URI is too long",
    Misdirected => 421 "misdirected" "The host is not served on this connection",
    /// What is wrong with it, where that is known; nothing when it is not JSON.
    BodyInvalid(Arc<[Flaw]>) => 422 "body_invalid" "The body is not as it has to be",
    /// Seconds until another try makes sense.
    RateLimited(u32) => 429 "rate_limited" "Too many requests",
    HeaderTooLarge => 431 "header_too_large" "The header is too large",

    /// What the log says of it.
    Internal(&'static str) => 500 "internal" "The gateway failed",
    UpstreamConnect => 502 "upstream_connect" "The service can't be reached",
    UpstreamReset => 502 "upstream_reset" "The service broke off",
    UpstreamProtocol => 502 "upstream_protocol" "The service's answer can't be read",
    ComposeFailed => 502 "compose_failed" "A part of the answer failed",
    AuthUnavailable => 503 "auth_unavailable" "Credentials can't be checked now",
    TooManyInFlight => 503 "too_many_in_flight" "Too many requests at once",
    Overloaded => 503 "overloaded" "The gateway is overloaded",
    NoEndpoint => 503 "no_endpoint" "No copy of the service is available",
    /// Seconds until another try makes sense.
    BreakerOpen(u32) => 503 "breaker_open" "The service is resting",
    NotCached => 504 "not_cached" "Nothing is kept, and the service was not to be asked",
    UpstreamTimeout => 504 "upstream_timeout" "The service took too long",
}

impl Refusal {
    /// One sentence for the client; never an endpoint, a file or a secret.
    pub fn detail(&self) -> Cow<'static, str> {
        match self {
            Refusal::BadRequest(what) => Cow::Borrowed(what),
            Refusal::MethodNotAllowed(allow) => Cow::Owned(format!("Allowed here: {allow}.")),
            Refusal::RateLimited(1) => Cow::Borrowed("Another try makes sense in 1 second."),
            Refusal::RateLimited(seconds) => Cow::Owned(format!("Another try makes sense in {seconds} seconds.")),
            Refusal::NoRoute => Cow::Borrowed("No route matches this host and path."),
            Refusal::BodyInvalid(flaws) => match flaws.first() {
                None => Cow::Borrowed("The body is not JSON, or is none that can be read here."),
                Some(Flaw { detail, pointer }) => Cow::Owned(format!("At {pointer}: {detail}.")),
            },
            other => Cow::Borrowed(other.title()),
        }
    }

    /// Seconds after which another try makes sense, for 429 and 503.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Refusal::RateLimited(seconds) | Refusal::BreakerOpen(seconds) => Some(*seconds),
            other => (other.status() == 503).then_some(1),
        }
    }
}

/// How long a body is said to be, in bytes; `None` also where that can't be read.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// All pairs of the Cookie fields (RFC 6265, 5.4), as they are: one that is no text is no reason to overlook the others.
pub fn cookie_pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

/// The name and the value of such a pair.
pub fn cookie(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((pair[..equals].trim_ascii_end(), pair[equals + 1..].trim_ascii_start()))
}

/// Names and values of all cookies that are texts.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let texts = |(name, value)| Some((str::from_utf8(name).ok()?, str::from_utf8(value).ok()?));
    cookie_pairs(headers).filter_map(cookie).filter_map(texts)
}

/// Of keys that are keyed hashes already: their lower half.
#[derive(Debug, Default)]
pub struct Pass(u64);

impl Hasher for Pass {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0.rotate_left(8) ^ u64::from(*b));
    }
    fn write_u128(&mut self, n: u128) {
        self.0 = n as u64;
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_found_by_name_and_by_path() {
        let claims = serde_json::json!({
            "plan": "gold", "n": 7, "a": { "b.c": { "d": [1, "x"] }, "b": {} }, "https://x.example/y": true, "scope": "a b", "scp": ["c"],
        });
        let Value::Object(claims) = claims else { panic!("a map") };
        let identity = Identity { name: "n".into(), method: "m".into(), claims };
        for (path, text) in [
            ("plan", Some("gold")),
            ("n", Some("7")),
            ("a.b.c.d", Some("1 x")),
            ("https://x.example/y", Some("true")),
            ("a.b.d", None),
            ("plan.x", None),
            ("", None),
        ] {
            assert_eq!(identity.claim_text(path).as_deref(), text, "{path}");
        }
        assert_eq!(identity.scopes().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn a_cookie_that_is_no_text_hides_no_other() {
        let mut headers = HeaderMap::new();
        for line in [&b"a=b; name=\xff\xfe;c = d ; ;alone; \xff=1"[..], "e=f=g; é=ü".as_bytes()] {
            headers.append(COOKIE, http::HeaderValue::from_bytes(line).expect("a value"));
        }
        assert_eq!(cookies(&headers).collect::<Vec<_>>(), [("a", "b"), ("c", "d"), ("e", "f=g"), ("é", "ü")]);
        assert_eq!(cookie_pairs(&headers).count(), 7);
    }

    #[test]
    fn codes_are_told_apart() {
        let mut codes = Refusal::CODES.to_vec();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Refusal::CODES.len());
        let refusal = Refusal::MethodNotAllowed("GET, HEAD".into());
        assert_eq!((refusal.status(), refusal.code()), (405, "method_not_allowed"));
        assert_eq!(refusal.detail(), "Allowed here: GET, HEAD.");
        assert_eq!(
            (Refusal::BreakerOpen(3).retry_after(), Refusal::NoEndpoint.retry_after(), Refusal::RateLimited(7).retry_after()),
            (Some(3), Some(1), Some(7))
        );
    }
}
