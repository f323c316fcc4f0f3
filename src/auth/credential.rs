//! Where in a request a credential is, and how it is taken out before the request goes on.

use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::auth as raw;
use crate::types::fields::is_framing;
use crate::types::{cookie, cookie_pairs};
use http::header::{AUTHORIZATION, COOKIE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A field, with the word that comes before the credential (RFC 9110, 11.4).
    Header(HeaderName, Option<Box<str>>),
    Cookie(Box<str>),
    Query(Box<str>),
}

/// What is there.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    Nothing,
    One(Cow<'a, str>),
    /// Several, or one that is not a text: nobody can say which was meant.
    Unclear,
}

impl Place {
    /// `Authorization: Bearer` unless it says otherwise. `None` means that a problem was reported.
    pub fn build(raw: &raw::From, at: &At<'_>, problems: &Problems) -> Option<Place> {
        match (&raw.header, &raw.cookie, &raw.query) {
            (None, None, None) => Some(Place::Header(AUTHORIZATION, Some(raw.scheme.as_deref().unwrap_or("Bearer").into()))),
            (Some(name), None, None) => {
                let name = header(name, &at.key("header"), problems)?;
                let usual = (name == AUTHORIZATION).then_some("Bearer");
                let scheme = raw.scheme.as_deref().or(usual).filter(|scheme| !scheme.is_empty());
                Some(Place::Header(name, scheme.map(Into::into)))
            }
            (None, Some(name), None) => Some(Place::Cookie(name.as_str().into())),
            (None, None, Some(name)) => Some(Place::Query(name.as_str().into())),
            _ => {
                let fix = "keep one of `header`, `cookie` and `query`";
                problems.at(at, "a credential in more than one place", "a client could send two", fix)
            }
        }
    }

    /// The field that it stands in, if it stands in one.
    pub fn field(&self) -> Option<&HeaderName> {
        match self {
            Place::Header(name, _) => Some(name),
            Place::Cookie(_) => Some(&COOKIE),
            Place::Query(_) => None,
        }
    }

    /// The credential in a request's fields and the query of its target.
    pub fn find<'a>(&self, headers: &'a HeaderMap, query: &'a str) -> Found<'a> {
        match self {
            Place::Header(name, scheme) => {
                let mut values = headers.get_all(name).iter();
                match (values.next(), values.next()) {
                    (None, _) => Found::Nothing,
                    (Some(_), Some(_)) => Found::Unclear,
                    (Some(value), None) if !value.as_bytes().is_ascii() => Found::Unclear,
                    (Some(value), None) => {
                        let value = value.as_bytes().trim_ascii();
                        let found = scheme.as_ref().map_or(Some(value), |scheme| behind(value, scheme));
                        found.and_then(|text| str::from_utf8(text).ok()).map_or(Found::Nothing, |text| Found::One(text.into()))
                    }
                }
            }
            Place::Cookie(name) => {
                let named = cookie_pairs(headers).filter_map(cookie).filter(|(key, _)| *key == name.as_bytes());
                let mut values = named.map(|(_, value)| value);
                match (values.next(), values.next()) {
                    (None, _) => Found::Nothing,
                    (Some(value), None) if value.is_ascii() => {
                        str::from_utf8(value).map_or(Found::Unclear, |text| Found::One(text.trim_matches('"').into()))
                    }
                    (Some(_), _) => Found::Unclear,
                }
            }
            Place::Query(name) => {
                let named = parameters(query).filter(|(key, _)| *key == **name);
                only(named.map(|(_, value)| percent_decode_str(value).decode_utf8_lossy()))
            }
        }
    }

    /// Takes it out of a request that goes on.
    pub fn remove(&self, headers: &mut HeaderMap, uri: &mut Uri) {
        match self {
            // A field with another word before it is not for us.
            Place::Header(name, Some(scheme)) => {
                let is_ours = |value: &HeaderValue| behind(value.as_bytes().trim_ascii(), scheme).is_some();
                if headers.get_all(name).iter().any(is_ours) {
                    headers.remove(name);
                }
            }
            Place::Header(name, None) => drop(headers.remove(name)),
            Place::Cookie(name) if cookie_pairs(headers).any(|pair| is_cookie(pair, name)) => {
                let kept: Vec<&[u8]> = cookie_pairs(headers).filter(|pair| !is_cookie(pair, name)).collect();
                // Parts of values that were good are good with `; ` between them.
                let kept = HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok().filter(|kept| !kept.is_empty());
                headers.remove(COOKIE);
                if let Some(kept) = kept {
                    headers.insert(COOKIE, kept);
                }
            }
            Place::Query(name) if parameters(uri.query().unwrap_or_default()).any(|(key, _)| key == **name) => {
                let kept: Vec<&str> = uri.query().unwrap_or_default().split('&').filter(|pair| decoded_name(pair) != **name).collect();
                let target = match kept.is_empty() {
                    true => uri.path().to_string(),
                    false => format!("{}?{}", uri.path(), kept.join("&")),
                };
                // A part of what could be parsed can be parsed.
                let mut parts = uri.clone().into_parts();
                parts.path_and_query = target.parse::<PathAndQuery>().ok();
                *uri = Uri::from_parts(parts).unwrap_or_default();
            }
            Place::Cookie(_) | Place::Query(_) => {}
        }
    }
}

/// A field's name, of the configuration.
pub fn header(name: &str, at: &At<'_>, problems: &Problems) -> Option<HeaderName> {
    let fix = "use letters, digits and `-`";
    let field = problems.ok(name.parse().map_err(|_| format!("`{name}` is not a header's name")), at, "it can't stand in a header", fix)?;
    match is_framing(&field) {
        true => {
            problems.at(at, format!("`{name}` can't be used here"), "it says where a message goes or where it ends", "name another field")
        }
        false => Some(field),
    }
}

/// What comes after the word, in any case of it.
fn behind<'a>(value: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let blank = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (word, rest) = value.split_at(blank);
    let blanks = rest.iter().take_while(|byte| **byte == b' ').count();
    word.eq_ignore_ascii_case(scheme.as_bytes()).then(|| &rest[blanks..])
}

fn is_cookie(pair: &[u8], name: &str) -> bool {
    cookie(pair).is_some_and(|(key, _)| key == name.as_bytes())
}

fn only<'a>(mut found: impl Iterator<Item = Cow<'a, str>>) -> Found<'a> {
    match (found.next(), found.next()) {
        (None, _) => Found::Nothing,
        (Some(one), None) => Found::One(one),
        (Some(_), Some(_)) => Found::Unclear,
    }
}

fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    query.split('&').map(|pair| (decoded_name(pair), pair.split_once('=').map_or("", |(_, value)| value)))
}

fn decoded_name(pair: &str) -> Cow<'_, str> {
    percent_decode_str(pair.split('=').next().unwrap_or_default()).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn one_is_found_and_two_are_unclear() {
        let (bearer, key) = (Place::Header(AUTHORIZATION, Some("Bearer".into())), Place::Header(HeaderName::from_static("x-key"), None));
        let (cookie, query) = (Place::Cookie("sid".into()), Place::Query("key".into()));
        for (place, headers, parameters, found) in [
            (&bearer, &[("authorization", "bEARER   a.b")][..], "", Found::One("a.b".into())),
            (&bearer, &[("authorization", "Basic x")], "", Found::Nothing),
            (&bearer, &[("authorization", "Bearer")], "", Found::One("".into())),
            (&bearer, &[("authorization", "Bearerx y")], "", Found::Nothing),
            (&bearer, &[("authorization", "Bearer a"), ("authorization", "Basic b")], "", Found::Unclear),
            (&bearer, &[], "", Found::Nothing),
            (&key, &[("x-key", " k ")], "", Found::One("k".into())),
            (&cookie, &[("cookie", "a=b; sid=x=y")], "", Found::One("x=y".into())),
            (&cookie, &[("cookie", "sid=1"), ("cookie", "sid=2")], "", Found::Unclear),
            (&cookie, &[("cookie", "xsid=1")], "", Found::Nothing),
            (&query, &[], "a=1&k%65y=%2B", Found::One("+".into())),
            (&query, &[], "key=1&key=2", Found::Unclear),
            (&query, &[], "", Found::Nothing),
        ] {
            assert_eq!(place.find(&fields(headers), parameters), found, "{place:?} {headers:?} {parameters}");
        }
    }

    #[test]
    fn what_is_no_text_is_unclear_whatever_stands_before_it() {
        let bearer = Place::Header(AUTHORIZATION, Some("Bearer".into()));
        for bytes in ["Bearer \u{e9}".as_bytes(), "Basic \u{e9}".as_bytes(), b"Bearer \xff"] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_bytes(bytes).expect("a value"))]);
            assert_eq!(bearer.find(&headers, ""), Found::Unclear, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_taken_out_leaves_the_rest() {
        let mut headers = fields(&[("cookie", "a=b; sid=x; c=d"), ("authorization", "Basic x"), ("x-key", "k")]);
        let mut uri: Uri = "/p?a=1&k%65y=2&b".parse().expect("a target");
        for place in [
            Place::Header(AUTHORIZATION, Some("Bearer".into())),
            Place::Header(HeaderName::from_static("x-key"), None),
            Place::Cookie("sid".into()),
            Place::Query("key".into()),
        ] {
            place.remove(&mut headers, &mut uri);
        }
        assert_eq!((headers.get("cookie"), uri.to_string()), (Some(&HeaderValue::from_static("a=b; c=d")), "/p?a=1&b".to_string()));
        assert!(headers.contains_key("authorization") && !headers.contains_key("x-key"));
        let mut headers = fields(&[("cookie", "sid=x")]);
        let mut uri: Uri = "http://h/p?key=2".parse().expect("a target");
        Place::Cookie("sid".into()).remove(&mut headers, &mut uri);
        Place::Query("key".into()).remove(&mut headers, &mut uri);
        assert!(headers.is_empty() && uri == "http://h/p", "{uri}");
    }

    #[test]
    fn a_cookie_is_found_and_taken_out_beside_what_is_no_text() {
        let place = Place::Cookie("sid".into());
        for (lines, found, left) in [
            (&b"name=\xff; sid=x; a = b; alone"[..], Found::One("x".into()), Some(&b"name=\xff; a = b; alone"[..])),
            (&b"name=\xff\nsid=x"[..], Found::One("x".into()), Some(&b"name=\xff"[..])),
            (&b"sid=x\nsid=\xff; a=b"[..], Found::Unclear, Some(&b"a=b"[..])),
            (&b"sid=\xff"[..], Found::Unclear, None),
            (&b"name=\xff\nsid"[..], Found::Nothing, Some(&b"name=\xff"[..])),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines.split(|byte| *byte == b'\n') {
                headers.append(COOKIE, HeaderValue::from_bytes(line).expect("a value"));
            }
            assert_eq!(place.find(&headers, ""), found, "{lines:?}");
            place.remove(&mut headers, &mut Uri::default());
            assert_eq!(headers.get(COOKIE).map(HeaderValue::as_bytes), left, "{lines:?}");
        }
    }
}
