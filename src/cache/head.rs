//! A head as it is kept. A map of fields takes a hundred bytes for each beside its texts, and answers of one service have the same
//! fields: so their names are kept once for all of them, and the values of one answer lie in one text.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use pingora::http::ResponseHeader;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Lists of names that are shared; those that nobody uses any more make room, and when there are more still, each has its own.
const LISTS_MAX: usize = 4_096;

static LISTS: LazyLock<Mutex<HashSet<Arc<[HeaderName]>>>> = LazyLock::new(Mutex::default);

#[derive(Clone, Debug)]
pub struct Head {
    pub status: StatusCode,
    version: Version,
    /// Where it is not the usual one.
    reason: Option<Box<str>>,
    names: Arc<[HeaderName]>,
    /// Where each value ends (4 bytes, native order), then the values.
    text: Bytes,
}

impl Head {
    pub fn new(status: StatusCode, version: Version, reason: Option<&str>, headers: &HeaderMap) -> Head {
        let names = shared(&headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
        let start = names.len() * size_of::<u32>();
        let mut text = Vec::with_capacity(start + headers.values().map(HeaderValue::len).sum::<usize>());
        let mut end = start;
        for value in headers.values() {
            end += value.len();
            // A head is at most some 64 KiB.
            text.extend_from_slice(&u32::try_from(end).unwrap_or(u32::MAX).to_ne_bytes());
        }
        headers.values().for_each(|value| text.extend_from_slice(value.as_bytes()));
        let reason = reason.filter(|reason| Some(*reason) != status.canonical_reason()).map(Box::from);
        Head { status, version, reason, names, text: text.into() }
    }

    /// As it is sent, with room for so many fields more.
    pub fn build(&self, more: usize) -> ResponseHeader {
        let mut parts = http::Response::new(()).into_parts().0;
        (parts.status, parts.version) = (self.status, self.version);
        parts.headers = HeaderMap::with_capacity(self.names.len() + more);
        let (ends, _) = self.text.as_chunks::<4>();
        let mut begin = self.names.len() * size_of::<u32>();
        for (name, end) in self.names.iter().zip(ends) {
            let end = u32::from_ne_bytes(*end) as usize;
            // It was a value, so it is one.
            if let Ok(value) = HeaderValue::from_maybe_shared(self.text.slice(begin..end)) {
                parts.headers.append(name, value);
            }
            begin = end;
        }
        let mut head = ResponseHeader::from(parts);
        if let Some(reason) = &self.reason {
            // It came, so it can be told.
            let _ = head.set_reason_phrase(Some(reason));
        }
        head
    }

    /// What it takes beside its own place.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.reason.as_ref().map_or(0, |reason| reason.len())
    }
}

/// The list of these names that others have too.
fn shared(names: &[HeaderName]) -> Arc<[HeaderName]> {
    let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lists.get(names) {
        return known.clone();
    }
    let own: Arc<[HeaderName]> = names.into();
    if lists.len() >= LISTS_MAX {
        lists.retain(|list| Arc::strong_count(list) > 1);
    }
    if lists.len() < LISTS_MAX {
        lists.insert(own.clone());
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
        fn a_head_comes_back_as_it_was(fields in prop::collection::vec(("[a-c]{1,2}|etag|vary", "[ -~]{0,20}"), 0..8), status in 200u16..600) {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                let value: HeaderValue = value.parse().expect("a value");
                headers.append(name.parse::<HeaderName>().expect("a name"), value);
            }
            let status = StatusCode::from_u16(status).expect("a status");
            let built = Head::new(status, Version::HTTP_11, Some("Odd"), &headers).build(3);
            prop_assert_eq!((built.status, &built.headers, built.get_reason_phrase()), (status, &headers, Some("Odd")));
        }
    }

    #[test]
    fn names_are_kept_once() {
        let headers = HeaderMap::from_iter([("x-once".parse().expect("a name"), HeaderValue::from_static("1"))]);
        let [one, other] = [1, 2].map(|_| Head::new(StatusCode::OK, Version::HTTP_11, Some("OK"), &headers));
        assert!(Arc::ptr_eq(&one.names, &other.names) && one.reason.is_none());
        assert_eq!(one.bytes(), 5);
    }
}
