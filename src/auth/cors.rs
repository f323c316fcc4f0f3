//! Pages of other origins (Fetch, 3.2): which may ask, and what they may see.

use super::credential::header;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use crate::config::shape::OneOrMany;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

#[derive(Debug)]
pub struct Cors {
    pub(super) origins: Vec<Origin>,
    /// What a preflight is told, when the origin is allowed.
    methods: HeaderValue,
    headers: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    pub(super) credentials: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Any,
    Exactly(String),
    /// `https://`, and `.example.com` with its port: any name in front of it.
    Below(String, String),
}

impl Cors {
    /// `None` means that a problem was reported.
    pub fn build(raw: &raw::auth::Cors, methods: Option<&OneOrMany<raw::Method>>, at: &At<'_>, problems: &Problems) -> Option<Cors> {
        let origins_at = at.key("origins");
        let origins: Vec<Option<Origin>> =
            raw.origins.0.iter().enumerate().map(|(i, text)| origin(text, &origins_at.index(i), problems)).collect();
        let names = |list: &[String], key: &str| {
            let at = at.key(key);
            let names: Vec<_> = list.iter().enumerate().map(|(i, name)| header(name, &at.index(i), problems)).collect();
            names.into_iter().collect::<Option<Vec<HeaderName>>>()
        };
        let (headers, expose) = (names(&raw.headers, "headers"), names(&raw.expose, "expose"));
        if raw.credentials && origins.contains(&Some(Origin::Any)) {
            let why = "every page of the web could act as your users; no browser does it for `*`";
            return problems.at(&origins_at, "every origin, with credentials", why, "name the origins, or remove `credentials: true`");
        }
        let allowed: Vec<&str> = match raw.methods.as_ref().or(methods) {
            Some(list) => list.0.iter().map(|method| method.0.as_str()).collect(),
            None => vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        };
        Some(Cors {
            origins: origins.into_iter().collect::<Option<_>>()?,
            methods: HeaderValue::from_str(&allowed.join(", ")).ok()?,
            headers: joined(&headers?),
            expose: joined(&expose?),
            max_age: raw.max_age.map(|age| age.as_secs().into()),
            credentials: raw.credentials,
        })
    }

    /// Whether a request is the question before another one (Fetch, 4.8).
    pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        *method == Method::OPTIONS && headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The fields of the answer to a preflight. Without those that allow something, a browser goes no further.
    pub fn preflight(&self, request: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = self.allowed(request);
        if !fields.is_empty() {
            fields.push((ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone()));
            fields.extend(self.headers.clone().map(|value| (ACCESS_CONTROL_ALLOW_HEADERS, value)));
            fields.extend(self.max_age.clone().map(|value| (ACCESS_CONTROL_MAX_AGE, value)));
        }
        fields.push((VARY, HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers")));
        fields
    }

    /// The fields of any other answer. They take the place of what a service says of it.
    pub fn answer(&self, request: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let mut fields = self.allowed(request);
        if !fields.is_empty() {
            fields.extend(self.expose.clone().map(|value| (ACCESS_CONTROL_EXPOSE_HEADERS, value)));
        }
        fields
    }

    fn allowed(&self, request: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let Some(origin) = request.get(ORIGIN) else { return Vec::new() };
        let allowed = match self.origins.contains(&Origin::Any) {
            true => HeaderValue::from_static("*"),
            false if origin.to_str().is_ok_and(|text| self.origins.iter().any(|known| known.allows(text))) => origin.clone(),
            false => return Vec::new(),
        };
        let mut fields = vec![(ACCESS_CONTROL_ALLOW_ORIGIN, allowed)];
        if self.credentials {
            fields.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        fields
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Any => f.write_str("*"),
            Origin::Exactly(own) => f.write_str(own),
            Origin::Below(scheme, rest) => write!(f, "{scheme}*{rest}"),
        }
    }
}

impl Origin {
    /// Each of the other's is one of its own.
    pub(super) fn covers(&self, other: &Origin) -> bool {
        match (self, other) {
            (Origin::Any, _) => true,
            (_, Origin::Any) => false,
            (own, Origin::Exactly(other)) => own.allows(other),
            (Origin::Exactly(_), Origin::Below(..)) => false,
            (Origin::Below(scheme, rest), Origin::Below(other, below)) => scheme == other && below.ends_with(rest.as_str()),
        }
    }

    fn allows(&self, origin: &str) -> bool {
        match self {
            Origin::Any => true,
            Origin::Exactly(own) => own == origin,
            Origin::Below(scheme, rest) => {
                let name = origin.strip_prefix(scheme.as_str()).and_then(|name| name.strip_suffix(rest.as_str()));
                name.is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.'))
            }
        }
    }
}

/// Browsers write origins in small letters and without a path (RFC 6454, 6.2).
fn origin(text: &str, at: &At<'_>, problems: &Problems) -> Option<Origin> {
    let fix = "write a scheme, a host and perhaps a port, such as `https://app.example.com`, `https://*.example.com`, or `*` for any";
    if text == "*" {
        return Some(Origin::Any);
    }
    let lower = text.to_ascii_lowercase();
    let is_host = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]_".contains(&b));
    match lower.split_once("://") {
        Some((scheme, host)) if is_host(host) && !scheme.is_empty() => Some(Origin::Exactly(lower)),
        Some((scheme, host)) if host.strip_prefix("*.").is_some_and(is_host) => {
            Some(Origin::Below(format!("{scheme}://"), host[1..].to_string()))
        }
        None if lower == "null" => problems.at(at, "`null` is no origin", "any page can have it, in a frame", "name the origins"),
        _ => problems.at(at, format!("`{text}` is not an origin"), "no browser would ever send it", fix),
    }
}

fn joined(names: &[HeaderName]) -> Option<HeaderValue> {
    let text = names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
    HeaderValue::from_str(&text).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let problems = Problems::default();
        let at = At::root();
        for (text, from, allowed) in [
            ("https://app.example.com", "https://app.example.com", true),
            ("https://App.example.com", "https://app.example.com", true),
            ("https://app.example.com", "http://app.example.com", false),
            ("https://app.example.com", "https://app.example.com.evil.example", false),
            ("http://localhost:3000", "http://localhost:3000", true),
            ("http://localhost:3000", "http://localhost:3001", false),
            ("https://*.example.com", "https://a.b.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://evil.example/.example.com", false),
            ("https://*.example.com", "https://evilexample.com", false),
            ("https://*.example.com", "http://a.example.com", false),
        ] {
            assert_eq!(origin(text, &at, &problems).expect("an origin").allows(from), allowed, "{text} {from}");
        }
        for bad in ["app.example.com", "https://app.example.com/", "https://", "null", "https://*", "https://a.*.b", "://x"] {
            assert_eq!(origin(bad, &at, &problems), None, "{bad}");
        }
    }
}
