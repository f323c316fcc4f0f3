//! What a head may look like. Pingora is lenient where RFC 9112 says MUST.

pub mod chunked;
pub mod head;

use crate::config::raw::ServerLimits;
use crate::types::{Refusal, content_length};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;

/// A service's head: HTTP/2 has no bound of its own below 16 MiB.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Interim answers (1xx) that a service may send before its answer.
pub const INTERIM_MAX: u32 = 100;

/// Holds the head of an HTTP/2 request against the limits, and against what services over HTTP/1 could misunderstand (RFC 9113,
/// 8.2 and 8.3). HTTP/1 has [`head::HeadReader`].
pub fn http2(head: &RequestHeader, limits: &ServerLimits) -> Result<(), Refusal> {
    let bad = |what| Err(Refusal::BadRequest(what));
    let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    if target.len() as u64 > limits.uri_bytes.0 {
        return Err(Refusal::UriTooLong);
    }
    // RFC 9113, 8.3.1. A query alone would be taken for one behind a `/`, and sent on as it is.
    if !(target.starts_with('/') || target == "*" && head.method == Method::OPTIONS) {
        return bad("The :path does not begin with a slash.");
    }
    if size(&head.headers) as u64 > limits.header_bytes.0 || head.headers.len() > limits.header_count.usize() {
        return Err(Refusal::HeaderTooLarge);
    }
    if !is_length_clear(&head.headers) {
        return bad("Content-Length is doubled or is not a number.");
    }
    let mut hosts = head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let (host, authority) = (hosts.next(), head.uri.authority().map(|authority| authority.as_str().as_bytes()));
    let Some(named) = authority.or(host) else { return bad("There is no :authority.") };
    if hosts.next().is_some() || !head::is_host(named) || host.is_some_and(|host| !host.eq_ignore_ascii_case(named)) {
        return bad("Host is doubled, is not a host, or differs from :authority.");
    }
    Ok(())
}

/// Bytes of the fields as HTTP/1 writes them: each with its colon, space and line end.
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// No Content-Length, or one that is a number.
fn is_length_clear(headers: &HeaderMap) -> bool {
    let is_number = |length: &HeaderValue| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    lengths.next().is_none_or(is_number) && lengths.next().is_none()
}

/// Nothing follows an answer's head (RFC 9112, 6.3): no body filter will hear of its end. For the cache Pingora makes a GET of a HEAD.
pub fn is_head_only(session: &Session, head: &ResponseHeader) -> bool {
    let is_head = session.req_header().method == Method::HEAD && !session.cache.enabled();
    is_head || matches!(head.status.as_u16(), 204 | 304) || content_length(&head.headers) == Some(0)
}

/// Refuses an answer whose framing a client can't trust, and mends what says nothing. Whether the service may send a body where none can
/// be (RFC 9110, 15.4.5: a 304 may tell how long it would be, and some send it).
pub fn response(head: &mut ResponseHeader) -> Result<bool> {
    let bad = |why: &'static str| Err(Error::explain(ErrorType::InvalidHTTPHeader, why).into_up());
    if head.status == 101 {
        return bad("a 101 that nobody asked for");
    }
    if size(&head.headers) > ANSWER_BYTES_MAX {
        return bad("a head that is too large");
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    let is_chunked = coding.is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if codings.next().is_some() || coding.is_some() != is_chunked {
        return bad("an unknown or doubled Transfer-Encoding");
    }
    if is_chunked && head.version == Version::HTTP_10 {
        return bad("a Transfer-Encoding in HTTP/1.0");
    }
    if !is_length_clear(&head.headers) {
        return bad("a Content-Length that is doubled or not a number");
    }
    // RFC 9112, 2.3: the version is the sender's own.
    if head.version != Version::HTTP_2 {
        head.set_version(Version::HTTP_11);
    }
    let has_none = head.status == 204 || head.status.is_informational();
    if !has_none && head.status != 304 {
        return Ok(false);
    }
    let is_announced = is_chunked || content_length(&head.headers).is_some_and(|length| length > 0);
    if has_none && is_announced {
        return bad("a body where there is none");
    }
    if has_none {
        head.remove_header(&CONTENT_LENGTH);
    }
    Ok(is_announced)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a request over HTTP/2 with this URI and these fields: a status, or 0.
    fn asked(uri: &str, fields: &[(&'static str, &str)]) -> u16 {
        let mut request = http::Request::get(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let head = RequestHeader::from(request.body(()).expect("a request").into_parts().0);
        http2(&head, &ServerLimits::default()).map_or_else(|refusal| refusal.status(), |()| 0)
    }

    #[test]
    fn requests_over_http2_have_one_host_and_one_length() {
        let long = "x".repeat(40 << 10);
        for (uri, fields, status) in [
            ("http://h/", &[][..], 0),
            ("http://h:80/x?y", &[("host", "h:80"), ("content-length", "5")], 0),
            ("/x", &[("host", "h")], 0),
            ("/x", &[], 400),
            ("http://h/", &[("host", "other")], 400),
            ("http://h/", &[("host", "h"), ("host", "h")], 400),
            ("http://user@h/", &[], 400),
            ("http://h/", &[("content-length", "5"), ("content-length", "5")], 400),
            ("http://h/", &[("content-length", "5, 5")], 400),
            ("http://h/", &[("content-length", "+5")], 400),
            ("http://h/", &[("content-length", "")], 400),
            ("*", &[("host", "h")], 400),
            (&format!("http://h/{}", &long[..9 << 10]), &[], 414),
            ("http://h/", &[("x", &long)], 431),
            ("http://h/", &[("x", "1"); 101], 431),
        ] {
            assert_eq!(asked(uri, fields), status, "{} {fields:?}", &uri[..uri.len().min(40)]);
        }
    }

    #[test]
    fn answers_that_can_not_be_framed_are_refused_and_those_that_may_leave_more_are_known() {
        let said = |status: u16, fields: &[(&'static str, &str)]| {
            let mut head = ResponseHeader::build(status, None).expect("a head");
            for (name, value) in fields {
                head.append_header(*name, *value).expect("a field");
            }
            response(&mut head).ok().map(|leaves_more| (leaves_more, head.headers.contains_key(CONTENT_LENGTH)))
        };
        let (length, none, chunked) = (("content-length", "5"), ("content-length", "0"), ("transfer-encoding", "chunked"));
        for (status, fields, expected) in [
            (200, &[length][..], Some((false, true))),
            (200, &[chunked], Some((false, false))),
            (304, &[length], Some((true, true))),
            (304, &[chunked], Some((true, false))),
            (304, &[none], Some((false, true))),
            (204, &[none], Some((false, false))),
            (204, &[], Some((false, false))),
            (204, &[length], None),
            (204, &[chunked], None),
            (103, &[length], None),
            (101, &[], None),
            (200, &[length, length], None),
            (200, &[("content-length", "5x")], None),
            (200, &[("transfer-encoding", "gzip, chunked")], None),
            (200, &[chunked, chunked], None),
        ] {
            assert_eq!(said(status, fields), expected, "{status} {fields:?}");
        }
    }
}
