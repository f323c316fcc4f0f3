//! The buckets of all limits, by key: a map in shards, each behind a lock that is held for one look-up, or for making room.
//!
//! A key is 128 bits of a keyed hash of what it stands for, so that nothing is built to find a bucket and nobody who does not know
//! the process's own secret can find two that meet. A bucket that is full is as good as none, and is forgotten within half a
//! minute; above the most that are kept the longest idle go first, which is counted.

use super::pace::Pace;
use siphasher::sip128::SipHasher13;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

const SHARDS: usize = 256;
/// Buckets that are looked at, at least, to find the longest idle.
const CANDIDATES: usize = 64;
/// Of those looked at, this share goes at once: to look again for each new key would cost too much.
const SHARE: usize = 16;
/// All shards are swept in so many steps.
pub const SWEEPS: usize = 32;

/// A key's 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub [u64; 2]);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[1]);
    }
}

/// Keys are hashes already.
#[derive(Default)]
pub(super) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

#[derive(Debug)]
struct Bucket {
    word: AtomicU64,
    /// When it was asked for, in 2^20 ns; wraps after seven weeks.
    seen: AtomicU32,
    policy: u32,
}

type Shard = HashMap<Key, Bucket, BuildHasherDefault<AsItIs>>;

/// The name of a pace for as long as the process runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PolicyId(u32);

impl PolicyId {
    pub fn number(self) -> u32 {
        self.0
    }

    pub fn feed(self, hasher: &mut impl Hasher) {
        hasher.write_u32(self.0);
    }
}

#[derive(Debug)]
pub struct Store {
    shards: Box<[RwLock<Shard>]>,
    secret: OnceLock<(u64, u64)>,
    began: Instant,
    len: AtomicUsize,
    max: AtomicUsize,
    /// Buckets that had to go before they were full.
    dropped: AtomicU64,
    /// Those that buckets may be of.
    policies: Mutex<(u32, HashMap<u32, Pace>)>,
    /// Buckets of policies that are still to come, by number. Those of others go with the first sweep.
    expected: Mutex<HashMap<u32, Vec<Owed>>>,
    next_sweep: AtomicUsize,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            secret: OnceLock::new(),
            began: Instant::now(),
            len: AtomicUsize::new(0),
            max: AtomicUsize::new(1_000_000),
            dropped: AtomicU64::new(0),
            policies: Mutex::default(),
            expected: Mutex::default(),
            next_sweep: AtomicUsize::new(0),
        }
    }
}

/// What is owed of a bucket, in its pace's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    pub key: Key,
    pub policy: u32,
    pub debt: u64,
}

/// A bucket that has little left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near {
    /// The begin of the key's hash.
    pub key: String,
    pub left: u64,
    /// Seconds until it is full.
    pub reset: u64,
}

impl Store {
    /// Nanoseconds since the process began, by a clock that never goes back.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// For what a key is made of.
    pub fn hasher(&self) -> SipHasher13 {
        let (a, b) = self.secret();
        SipHasher13::new_with_keys(a, b)
    }

    fn secret(&self) -> (u64, u64) {
        let random = || RandomState::new().hash_one(0);
        *self.secret.get_or_init(|| (random(), random()))
    }

    /// When its time begins.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Keys that are kept at most.
    pub fn max(&self) -> usize {
        self.max.load(Relaxed)
    }

    pub fn set_max(&self, max: usize) {
        self.max.store(max, Relaxed);
    }

    /// Keys that are kept.
    pub fn kept(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Keys that were forgotten to make room, though they had not rested.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// With a number of its own, or the one that it had in another process: then its buckets are there at once.
    pub fn add_policy(&self, pace: Pace, number: Option<u32>) -> PolicyId {
        let mut policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let number = number.unwrap_or_else(|| {
            policies.0 += 1;
            policies.0
        });
        policies.1.insert(number, pace);
        drop(policies);
        let owed = self.expected.lock().unwrap_or_else(PoisonError::into_inner).remove(&number).unwrap_or_default();
        let now_ns = self.now_ns();
        for Owed { key, debt, .. } in owed {
            self.with_new(key, PolicyId(number), now_ns, |word| word.store(pace.owing(debt, now_ns), Relaxed));
        }
        PolicyId(number)
    }

    /// The secret, and the last number that a policy was given.
    pub fn identity(&self) -> ((u64, u64), u32) {
        (self.secret(), self.policies.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// What is owed of each bucket.
    pub fn each(&self, mut what: impl FnMut(Owed)) {
        let policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        let now_ns = self.now_ns();
        for place in 0..SHARDS {
            for (key, bucket) in self.read(place).iter() {
                let Some(pace) = policies.get(&bucket.policy) else { continue };
                what(Owed { key: *key, policy: bucket.policy, debt: pace.debt(bucket.word.load(Relaxed), now_ns) });
            }
        }
    }

    /// Takes over the identity of another process's store, and what is owed there. To be called before anything is hashed; says
    /// whether it was.
    pub fn become_like(&self, secret: (u64, u64), last: u32, owed: impl Iterator<Item = Owed>) -> bool {
        let is_fresh = self.secret.set(secret).is_ok();
        if is_fresh {
            self.policies.lock().unwrap_or_else(PoisonError::into_inner).0 = last;
            let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
            owed.for_each(|owed| expected.entry(owed.policy).or_default().push(owed));
        }
        is_fresh
    }

    /// Its buckets go with the next sweep.
    pub fn remove_policy(&self, id: PolicyId) {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&id.0);
    }

    fn place(key: Key) -> usize {
        (key.0[0] % SHARDS as u64) as usize
    }

    fn read(&self, shard: usize) -> RwLockReadGuard<'_, Shard> {
        self.shards[shard].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, shard: usize) -> RwLockWriteGuard<'_, Shard> {
        self.shards[shard].write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the bucket of a key, if there is one.
    pub fn with<T>(&self, key: Key, now_ns: u64, what: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
        let shard = self.read(Self::place(key));
        let bucket = shard.get(&key)?;
        touch(bucket, now_ns);
        Some(what(&bucket.word))
    }

    /// Does something with the bucket of a key, which is made if need be.
    pub fn with_new<T>(&self, key: Key, policy: PolicyId, now_ns: u64, what: impl Fn(&AtomicU64) -> T) -> T {
        if let Some(done) = self.with(key, now_ns, &what) {
            return done;
        }
        let place = Self::place(key);
        // Counted before it is there, so that together there are never more than may be.
        if self.len.fetch_add(1, Relaxed) >= self.max.load(Relaxed) {
            self.make_room(place, now_ns);
        }
        let mut shard = self.write(place);
        let before = shard.len();
        let fresh = || Bucket { word: AtomicU64::new(0), seen: AtomicU32::new(tick(now_ns)), policy: policy.0 };
        let bucket = shard.entry(key).or_insert_with(fresh);
        let done = what(&bucket.word);
        if shard.len() == before {
            self.len.fetch_sub(1, Relaxed);
        }
        done
    }

    /// Forgets the longest idle of a shard and, if it has few, of those after it.
    fn make_room(&self, place: usize, now_ns: u64) {
        let mut candidates: Vec<(u32, usize, Key)> = Vec::new();
        for place in (0..SHARDS).map(|n| (place + n) % SHARDS) {
            let idle = |bucket: &Bucket| u32::MAX - tick(now_ns).wrapping_sub(bucket.seen.load(Relaxed));
            candidates.extend(self.read(place).iter().map(|(key, bucket)| (idle(bucket), place, *key)));
            if candidates.len() >= CANDIDATES {
                break;
            }
        }
        let most = self.kept().saturating_sub(self.max.load(Relaxed));
        let leaving = (candidates.len() / SHARE).max(most.min(CANDIDATES)).max(1).min(candidates.len());
        if leaving < candidates.len() {
            candidates.select_nth_unstable(leaving);
        }
        for (_, place, key) in candidates.drain(..leaving) {
            if self.write(place).remove(&key).is_some() {
                self.len.fetch_sub(1, Relaxed);
                self.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// Forgets what is full, and what no limit asks for any more, in a part of the shards. To be called once a second.
    pub fn sweep(&self) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        let step = self.next_sweep.fetch_add(1, Relaxed) % SWEEPS;
        let now_ns = self.now_ns();
        for place in (step..SHARDS).step_by(SWEEPS) {
            let mut shard = self.write(place);
            let before = shard.len();
            shard.retain(|_, bucket| policies.get(&bucket.policy).is_some_and(|pace| !pace.is_full(*bucket.word.get_mut(), now_ns)));
            let after = shard.len();
            if shard.capacity() > 4 * after {
                shard.shrink_to(2 * after);
            }
            self.len.fetch_sub(before - after, Relaxed);
        }
    }

    /// How many keys a policy has, and those that have the least left, by their hash.
    pub fn nearest(&self, policies: &[(PolicyId, Pace)], most: usize) -> (usize, Vec<Near>) {
        let (now_ns, mut count) = (self.now_ns(), 0);
        let mut nearest: Vec<(u64, Key, Near)> = Vec::new();
        for place in 0..SHARDS {
            for (key, bucket) in self.read(place).iter() {
                let Some((_, pace)) = policies.iter().find(|(id, _)| id.0 == bucket.policy) else { continue };
                count += 1;
                let debt = pace.debt(bucket.word.load(Relaxed), now_ns);
                let left = pace.left(debt);
                if debt > 0 && (nearest.len() < most || nearest.last().is_some_and(|(last, ..)| left < *last)) {
                    let near = Near { key: key.to_string(), left, reset: pace.until_full(debt) };
                    let at = nearest.partition_point(|(known, ..)| *known <= left);
                    nearest.insert(at, (left, *key, near));
                    nearest.truncate(most);
                }
            }
        }
        (count, nearest.into_iter().map(|(_, _, near)| near).collect())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0[0])
    }
}

fn tick(now_ns: u64) -> u32 {
    (now_ns >> 20) as u32
}

fn touch(bucket: &Bucket, now_ns: u64) {
    let now = tick(now_ns);
    // Written once a millisecond at most: a busy key's line is not fought for more than it has to be.
    if bucket.seen.load(Relaxed) != now {
        bucket.seen.store(now, Relaxed);
    }
}

/// How often [`Store::sweep`] is to be called.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: &str, burst: u64) -> Pace {
        Pace::new(rate.parse().expect("a rate"), burst, 1).expect("a pace")
    }

    fn key(n: u64) -> Key {
        Key([n, n])
    }

    const MS: u64 = 1 << 20;

    fn charge(store: &Store, n: u64, policy: PolicyId, pace: Pace, now_ns: u64) -> bool {
        store.with_new(key(n), policy, now_ns, |word| pace.charge(word, now_ns).is_ok())
    }

    #[test]
    fn the_longest_idle_go_first_and_are_counted() {
        let (store, pace) = (Store::default(), pace("1/h", 1));
        let policy = store.add_policy(pace, None);
        store.set_max(10);
        for n in 0..10 {
            assert!(charge(&store, n * 7, policy, pace, n * MS));
        }
        assert!(!charge(&store, 0, policy, pace, 20 * MS), "refused, and not idle any more");
        assert!(charge(&store, 1_000, policy, pace, 30 * MS));
        assert_eq!((store.kept(), store.dropped()), (10, 1));
        assert!(!charge(&store, 0, policy, pace, 40 * MS), "still known");
        assert!(charge(&store, 7, policy, pace, 40 * MS), "forgotten");
        assert_eq!((store.kept(), store.dropped()), (10, 2));
        store.set_max(3);
        assert!(charge(&store, 2_000, policy, pace, 50 * MS));
        assert_eq!(store.kept(), 3);
    }

    #[test]
    fn never_more_than_may_be_by_any_number_of_threads() {
        let (store, pace) = (Store::default(), pace("1/h", 1));
        let policy = store.add_policy(pace, None);
        store.set_max(1_000);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..20_000 {
                        let mixed = (thread * 20_000 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        charge(store, mixed, policy, pace, n * MS);
                        assert!(store.kept() <= 1_004, "{}", store.kept());
                    }
                });
            }
        });
        let kept: usize = (0..SHARDS).map(|place| store.read(place).len()).sum();
        assert!(kept == store.kept() && (900..=1_000).contains(&kept), "{kept} {}", store.kept());
        assert_eq!(store.dropped(), 80_000 - kept as u64);
    }

    #[test]
    fn what_is_full_or_nobodys_is_forgotten() {
        let (store, quick, slow) = (Store::default(), pace("1000/s", 1), pace("1/h", 2));
        let (a, b, c) = (store.add_policy(quick, None), store.add_policy(slow, None), store.add_policy(slow, None));
        for n in 0..300 {
            charge(&store, n, a, quick, 0);
            charge(&store, n + 1_000, b, slow, store.now_ns());
            charge(&store, n + 2_000, c, slow, store.now_ns());
        }
        charge(&store, 1_000, b, slow, store.now_ns());
        let (count, nearest) = store.nearest(&[(b, slow)], 2);
        assert_eq!((count, nearest.len(), nearest[0].left, nearest[1].left), (300, 2, 0, 1));
        assert_eq!(nearest[0].key, "00000000000003e8");
        store.remove_policy(c);
        // What was charged to `a` is used up.
        while store.now_ns() < 5 * MS {
            std::thread::yield_now();
        }
        (0..SWEEPS).for_each(|_| store.sweep());
        assert_eq!((store.kept(), store.dropped()), (300, 0));
        assert_eq!(store.nearest(&[(a, quick), (c, slow)], 2).0, 0);
    }
}
