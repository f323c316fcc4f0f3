//! What was found right is remembered, so that a token costs its signature once. Bounded, in shards, by a keyed hash: neither a
//! credential nor what could be mistaken for one is kept.

use crate::types::Pass;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};

/// As many as the upper bits tell apart: a map goes by the lower ones.
const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 5;

/// Of a credential: 128 bits of SipHash under a random key.
type Fingerprint = u128;
type Known<T> = HashMap<Fingerprint, T, BuildHasherDefault<Pass>>;

/// Values by credential. When a shard is full, what has not been used since it was last full is forgotten.
pub struct Remembered<T> {
    shards: Box<[Mutex<Shard<T>>]>,
    /// Nothing has been fed to it but its key.
    hasher: SipHasher13,
    /// In one generation of one shard.
    entries_max: usize,
}

struct Shard<T> {
    young: Known<T>,
    old: Known<T>,
}

impl<T> std::fmt::Debug for Remembered<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remembered").finish_non_exhaustive()
    }
}

impl<T: Clone> Remembered<T> {
    /// Room for about so many.
    pub fn new(entries: usize) -> Remembered<T> {
        let shard = || Mutex::new(Shard { young: Known::default(), old: Known::default() });
        let random = || RandomState::new().hash_one(0);
        Remembered {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: SipHasher13::new_with_keys(random(), random()),
            entries_max: (entries / SHARDS / 2).max(1),
        }
    }

    pub fn get(&self, credential: &str) -> Option<T> {
        let fingerprint = self.fingerprint(credential);
        let mut shard = self.shard(fingerprint);
        if let Some(known) = shard.young.get(&fingerprint) {
            return Some(known.clone());
        }
        let known = shard.old.remove(&fingerprint)?;
        self.put(&mut shard, fingerprint, known.clone());
        Some(known)
    }

    pub fn insert(&self, credential: &str, value: T) {
        let fingerprint = self.fingerprint(credential);
        self.put(&mut self.shard(fingerprint), fingerprint, value);
    }

    pub fn remove(&self, credential: &str) {
        let fingerprint = self.fingerprint(credential);
        let mut shard = self.shard(fingerprint);
        shard.young.remove(&fingerprint);
        shard.old.remove(&fingerprint);
    }

    fn put(&self, shard: &mut Shard<T>, fingerprint: Fingerprint, value: T) {
        if shard.young.len() >= self.entries_max {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(fingerprint, value);
    }

    fn fingerprint(&self, credential: &str) -> Fingerprint {
        let mut hasher = self.hasher;
        hasher.write(credential.as_bytes());
        hasher.finish128().as_u128()
    }

    fn shard(&self, fingerprint: Fingerprint) -> std::sync::MutexGuard<'_, Shard<T>> {
        self.shards[(fingerprint >> (u128::BITS - SHARD_BITS)) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_forgets_what_is_not_used_and_stays_bounded() {
        let remembered = Remembered::new(1_000);
        remembered.insert("used", 0);
        for n in 0..100_000 {
            remembered.insert(&format!("flood {n}"), n);
            assert_eq!(remembered.get("used"), Some(0));
        }
        assert_eq!(remembered.get("flood 7"), None);
        assert_eq!(remembered.get("flood 99999"), Some(99_999));
        let kept: usize = remembered.shards.iter().map(|shard| shard.lock().expect("a shard")).map(|s| s.young.len() + s.old.len()).sum();
        assert!(kept <= 1_000 + SHARDS, "{kept}");
        remembered.remove("used");
        assert_eq!(remembered.get("used"), None);
    }
}
