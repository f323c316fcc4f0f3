//! What an answer's head says of the bytes behind it, when these become others.

use http::header::{ACCEPT_RANGES, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields that say something of the bytes of a body (RFC 9530, and what came before it).
pub const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// The head of the same thing in other bytes: it has no digests of those that were, no ranges of them, and shares a weak validator
/// only (RFC 9110, 8.8.1). A tag that is none goes.
pub fn other_bytes(head: &mut HeaderMap) {
    DIGESTS.iter().chain([&ACCEPT_RANGES]).for_each(|name| drop(head.remove(name)));
    let weak = match head.get(ETAG).map(HeaderValue::as_bytes) {
        None | Some([b'W', b'/', ..]) => return,
        Some(strong @ [b'"', ..]) => HeaderValue::from_bytes(&[b"W/", strong].concat()).ok(),
        Some(_) => None,
    };
    match weak {
        Some(weak) => drop(head.insert(ETAG, weak)),
        None => drop(head.remove(ETAG)),
    }
}
