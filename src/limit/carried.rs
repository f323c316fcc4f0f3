//! Buckets on their way into the process that takes the place of this one.
//!
//! The secret goes along, so that keys are the same, and the numbers of policies by the names and texts of their limits. Of a bucket
//! what is owed is handed over, since the clocks of the two processes began at different times.

use super::named::Limits;
use super::store::{Key, Owed};
use crate::types::Carried;

/// By name and configuration of a limit: the numbers of its policies.
pub type Numbers = Vec<((String, String), Vec<u32>)>;

/// Bytes of a bucket: key, policy, debt.
const BUCKET_BYTES: usize = 16 + 4 + 8;

impl Carried for Limits {
    fn name(&self) -> &'static str {
        "limits"
    }

    fn version(&self) -> u32 {
        1
    }

    /// The length of the JSON (4 bytes, big-endian), the JSON, then the buckets.
    fn give(&self) -> Vec<u8> {
        let (secret, last) = self.store.identity();
        let head = serde_json::json!([secret, last, self.numbers()]).to_string();
        let mut bytes = Vec::with_capacity(head.len() + self.store.kept() * BUCKET_BYTES + 4);
        bytes.extend_from_slice(&u32::try_from(head.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(head.as_bytes());
        self.store.each(|Owed { key, policy, debt }| {
            key.0.iter().for_each(|half| bytes.extend_from_slice(&half.to_be_bytes()));
            bytes.extend_from_slice(&policy.to_be_bytes());
            bytes.extend_from_slice(&debt.to_be_bytes());
        });
        bytes
    }

    fn take(&self, bytes: &[u8]) {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return };
        let Some((head, buckets)) = rest.split_at_checked(u32::from_be_bytes(*length) as usize) else { return };
        let Ok((secret, last, numbers)) = serde_json::from_slice::<((u64, u64), u32, Numbers)>(head) else { return };
        let read = |bucket: &[u8]| {
            let (half, rest) = bucket.split_first_chunk()?;
            let (other, rest) = rest.split_first_chunk()?;
            let (policy, rest) = rest.split_first_chunk()?;
            let key = Key([u64::from_be_bytes(*half), u64::from_be_bytes(*other)]);
            Some(Owed { key, policy: u32::from_be_bytes(*policy), debt: u64::from_be_bytes(*rest.first_chunk()?) })
        };
        if self.store.become_like(secret, last, buckets.chunks_exact(BUCKET_BYTES).filter_map(read)) {
            self.expect(numbers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::place::At;
    use crate::config::problem::Problems;
    use crate::limit::{Caller, Set};
    use http::HeaderMap;
    use std::net::IpAddr;

    /// A set of two limits, the first of them named.
    fn set(limits: &Limits, first: &str) -> Set {
        let build = |(name, text): (&str, &str)| {
            let problems = Problems::default();
            let value = serde_yaml::from_str(text).expect("a value");
            let at = At::root();
            let node = crate::config::shape::Node { value: &value, at: &at, problems: &problems };
            let raw = <crate::config::raw::RateLimit as crate::config::shape::Shape>::read(&node).expect("a limit");
            limits.build(name, &raw, None, &at, &problems).expect("a limit")
        };
        let all = [(first, "{ rate: 3/1h, by: client_ip }"), ("other", "{ rate: 100/1h, by: route }")].map(build);
        Set::new(all.to_vec(), &"route".into(), &limits.store).expect("limits")
    }

    fn left(set: &Set) -> Vec<bool> {
        let caller = Caller { identity: None, claim: &|_| None, client_ip: IpAddr::from([10, 0, 0, 1]), headers: &HeaderMap::new() };
        (0..4).map(|_| set.decide(&caller).is_ok_and(|verdict| verdict.refused.is_none())).collect()
    }

    #[test]
    fn who_has_nothing_left_has_nothing_left_with_the_next_process() {
        let old = Limits::default();
        let used = set(&old, "a");
        assert_eq!(left(&used), [true, true, true, false]);
        let bytes = old.give();
        let new = Limits::default();
        new.take(&bytes);
        // Another limit that comes first must not get a number that is taken.
        let other = set(&new, "b");
        assert_eq!(left(&other), [true, true, true, false]);
        let used = set(&new, "a");
        assert_eq!(left(&used), [false; 4]);
        assert_eq!(new.store.kept(), 3);
        // And on to a third one.
        let third = Limits::default();
        third.take(&new.give());
        assert_eq!(left(&set(&third, "a")), [false; 4]);
    }

    #[test]
    fn what_can_not_be_read_is_left() {
        let old = Limits::default();
        let set_of_old = set(&old, "a");
        left(&set_of_old);
        let bytes = old.give();
        for cut in 0..bytes.len() {
            Limits::default().take(&bytes[..cut]);
        }
        let fresh = Limits::default();
        fresh.take(b"\0\0\0\x02[]");
        assert_eq!(left(&set(&fresh, "a")), [true, true, true, false]);
    }
}
