//! What the client is told: `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10), and X-RateLimit-*.

use super::set::{Set, Verdict};
use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

pub const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEGACY: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// The fields of an answer. Lists of structured fields (RFC 9651), the tightest limit first: of the policy `q` the burst and `w`
/// the seconds in which it is there again; of where the client stands `r` what is left and `t` the seconds until all is.
pub struct Fields<'a> {
    pub set: &'a Set,
    pub verdict: &'a Verdict,
}

impl Fields<'_> {
    /// Puts them in place of what a service may have said in the same words.
    pub fn write(&self, headers: &mut HeaderMap) {
        let (mut policies, mut standings) = (BytesMut::with_capacity(64), BytesMut::with_capacity(64));
        let mut legacy = None;
        for standing in &self.verdict.standings {
            let limit = &self.set.limits()[usize::from(standing.place)];
            // Nobody is to go by a limit that is only being tried.
            if limit.is_shadow {
                continue;
            }
            let (policy, (left, reset, _)) = (self.set.policy(standing), self.set.told(standing));
            for list in [&mut policies, &mut standings] {
                if !list.is_empty() {
                    list.put_slice(b", ");
                }
            }
            policies.put_slice(policy.field.as_bytes());
            standings.put_u8(b'"');
            standings.put_slice(limit.name.as_bytes());
            standings.put_slice(b"\";r=");
            number(&mut standings, left);
            standings.put_slice(b";t=");
            number(&mut standings, reset);
            if limit.has_legacy_fields && legacy.is_none() {
                legacy = Some([policy.pace.burst(), left, reset]);
            }
        }
        // Names and numbers are always legal.
        let mut insert = |name, value: BytesMut| HeaderValue::from_maybe_shared(value.freeze()).map(|value| headers.insert(name, value));
        if !policies.is_empty() {
            let _ = insert(RATE_LIMIT_POLICY, policies);
            let _ = insert(RATE_LIMIT, standings);
        }
        for (name, value) in LEGACY.into_iter().zip(legacy.into_iter().flatten()) {
            headers.insert(name, value.into());
        }
    }
}

fn number(out: &mut BytesMut, value: u64) {
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
}
