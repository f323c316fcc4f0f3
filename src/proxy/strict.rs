//! What a head may look like. Pingora is lenient where RFC 9112 says MUST.

use crate::config::raw::ServerLimits;
use crate::types::Refusal;
use http::header::TRANSFER_ENCODING;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;

/// Interim answers (1xx) that a service may send before its answer.
pub const INTERIM_MAX: u32 = 100;

/// Holds a request's head against the limits. A field counts with its colon, space and line end.
pub fn within_limits(head: &RequestHeader, limits: &ServerLimits) -> Result<(), Refusal> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target as u64 > limits.uri_bytes.0 {
        return Err(Refusal::UriTooLong);
    }
    let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes as u64 > limits.header_bytes.0 || head.headers.len() > limits.header_count.usize() {
        return Err(Refusal::HeaderTooLarge);
    }
    Ok(())
}

/// Refuses an answer whose framing a client can't trust, and mends what says nothing.
pub fn response(head: &mut ResponseHeader) -> Result<()> {
    let bad = |why: &'static str| Err(Error::explain(ErrorType::InvalidHTTPHeader, why).into_up());
    if head.status == 101 {
        return bad("a 101 that nobody asked for");
    }
    let codings = head.headers.get_all(TRANSFER_ENCODING);
    if codings.iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return bad("an unknown Transfer-Encoding");
    }
    if head.status == 204 || head.status.is_informational() {
        head.remove_header(&http::header::CONTENT_LENGTH);
        head.remove_header(&TRANSFER_ENCODING);
    }
    Ok(())
}
