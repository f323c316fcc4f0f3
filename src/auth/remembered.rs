//! What was found right is remembered, so that a token costs its signature once. Bounded, in shards, by a keyed hash: neither a
//! credential nor what could be mistaken for one is kept.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

const SHARDS: usize = 32;

/// Of a credential: 128 bits of two SipHashes under random keys of this process.
type Fingerprint = u128;

/// Values by credential. When a shard is full, what has not been used since it was last full is forgotten.
pub struct Remembered<T> {
    shards: Box<[Mutex<Shard<T>>]>,
    hashers: [RandomState; 2],
    /// In one generation of one shard.
    entries_max: usize,
}

struct Shard<T> {
    young: HashMap<Fingerprint, T>,
    old: HashMap<Fingerprint, T>,
}

impl<T> std::fmt::Debug for Remembered<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remembered").finish_non_exhaustive()
    }
}

impl<T: Clone> Remembered<T> {
    /// Room for about so many.
    pub fn new(entries: usize) -> Remembered<T> {
        let shard = || Mutex::new(Shard { young: HashMap::new(), old: HashMap::new() });
        Remembered {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hashers: [RandomState::new(), RandomState::new()],
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
        let [high, low] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one(credential)));
        high << 64 | low
    }

    fn shard(&self, fingerprint: Fingerprint) -> std::sync::MutexGuard<'_, Shard<T>> {
        self.shards[(fingerprint % SHARDS as u128) as usize].lock().unwrap_or_else(PoisonError::into_inner)
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
