//! A head as it is kept. A map of fields takes a hundred bytes for each beside its texts, and answers of one service have the same
//! fields: so their names are kept once for all of them, and the values of one answer lie in one text, together with its URL.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use pingora::http::ResponseHeader;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Shapes that are shared; those that nobody uses any more make room, and when there are more still, each has its own.
const SHAPES_MAX: usize = 4_096;

static SHAPES: LazyLock<Mutex<HashSet<Arc<Shape>>>> = LazyLock::new(Mutex::default);

/// What many answers have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Shape {
    status: StatusCode,
    version: Version,
    /// Where it is not the usual one.
    reason: Option<Box<str>>,
    names: Box<[HeaderName]>,
}

/// A head, and the URL that it answers to.
#[derive(Clone, Debug)]
pub struct Head {
    shape: Arc<Shape>,
    /// Where each value ends (4 bytes, native order), then the values, then the URL.
    text: Bytes,
}

impl Head {
    pub fn new(status: StatusCode, version: Version, reason: Option<&str>, headers: &HeaderMap, url: &str) -> Head {
        let reason = reason.filter(|reason| Some(*reason) != status.canonical_reason()).map(Box::from);
        let shape = Shape { status, version, reason, names: headers.iter().map(|(name, _)| name.clone()).collect() };
        let start = shape.names.len() * size_of::<u32>();
        let mut text = Vec::with_capacity(start + headers.values().map(HeaderValue::len).sum::<usize>() + url.len());
        let mut end = start;
        for value in headers.values() {
            end += value.len();
            // A head is at most some 64 KiB.
            text.extend_from_slice(&u32::try_from(end).unwrap_or(u32::MAX).to_ne_bytes());
        }
        headers.values().for_each(|value| text.extend_from_slice(value.as_bytes()));
        text.extend_from_slice(url.as_bytes());
        Head { shape: shared(shape), text: text.into() }
    }

    pub fn status(&self) -> StatusCode {
        self.shape.status
    }

    /// As one types it.
    pub fn url(&self) -> &str {
        let values = self.shape.names.len() * size_of::<u32>();
        let (ends, _) = self.text[..values].as_chunks::<4>();
        let begin = ends.last().map_or(values, |end| u32::from_ne_bytes(*end) as usize);
        // It was text, so it is.
        std::str::from_utf8(&self.text[begin..]).unwrap_or_default()
    }

    /// As it is sent, with room for so many fields more.
    pub fn build(&self, more: usize) -> ResponseHeader {
        let Shape { status, version, reason, names } = &*self.shape;
        let mut parts = http::Response::new(()).into_parts().0;
        (parts.status, parts.version) = (*status, *version);
        parts.headers = HeaderMap::with_capacity(names.len() + more);
        let (ends, _) = self.text.as_chunks::<4>();
        let mut begin = names.len() * size_of::<u32>();
        for (name, end) in names.iter().zip(ends) {
            let end = u32::from_ne_bytes(*end) as usize;
            // It was a value, so it is one.
            if let Ok(value) = HeaderValue::from_maybe_shared(self.text.slice(begin..end)) {
                parts.headers.append(name, value);
            }
            begin = end;
        }
        let mut head = ResponseHeader::from(parts);
        if let Some(reason) = reason {
            // It came, so it can be told.
            let _ = head.set_reason_phrase(Some(reason));
        }
        head
    }

    /// What it takes beside its own place and its shape.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }
}

/// The one that others have too.
fn shared(shape: Shape) -> Arc<Shape> {
    let mut shapes = SHAPES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = shapes.get(&shape) {
        return known.clone();
    }
    let own = Arc::new(shape);
    if shapes.len() >= SHAPES_MAX {
        shapes.retain(|shape| Arc::strong_count(shape) > 1);
    }
    if shapes.len() < SHAPES_MAX {
        shapes.insert(own.clone());
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is kept is what came, in its order.
        #[test]
        fn a_head_comes_back_as_it_was(fields in prop::collection::vec(("[a-c]{1,2}|etag|vary", "[ -~]{0,20}"), 0..8), status in 200u16..600, url in "[ -~é]{0,20}") {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                let value: HeaderValue = value.parse().expect("a value");
                headers.append(name.parse::<HeaderName>().expect("a name"), value);
            }
            let status = StatusCode::from_u16(status).expect("a status");
            let head = Head::new(status, Version::HTTP_11, Some("Odd"), &headers, &url);
            prop_assert_eq!(head.url(), &url);
            let built = head.build(3);
            prop_assert_eq!((built.status, &built.headers, built.get_reason_phrase()), (status, &headers, Some("Odd")));
        }
    }

    #[test]
    fn shapes_are_kept_once() {
        let headers = HeaderMap::from_iter([("x-once".parse().expect("a name"), HeaderValue::from_static("1"))]);
        let [one, other] = [1, 2].map(|_| Head::new(StatusCode::OK, Version::HTTP_11, Some("OK"), &headers, "/u"));
        assert!(Arc::ptr_eq(&one.shape, &other.shape) && one.shape.reason.is_none());
        assert_eq!(one.bytes(), 7);
    }
}
