//! What one gateway holds of a key that several share: requests it was granted ahead, and until when there are no more.

use super::store::{AsItIs, Key, Near, PolicyId};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;

const SHARDS: usize = 64;
/// All shards are swept in so many steps.
const SWEEPS: usize = 8;
/// A key that nobody has asked for in so long is forgotten.
const IDLE_NS: u64 = 5_000_000_000;
/// What is taken ahead is what was spent in this time.
const AHEAD_NS: u64 = 100_000_000;
/// The least time over which the rate is looked at: one request right after another is no rate yet.
const LOOK_NS: u64 = 10_000_000;
/// An empty bucket is not asked again sooner, so that a flood of refusals is no flood of questions.
const REST_US: f64 = 10_000.0;

/// What the store is told of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Microseconds in which one more request fits.
    pub each_us: f64,
    /// Microseconds in which an empty bucket fills.
    pub room_us: f64,
    /// Requests that one gateway may hold.
    pub most: u32,
}

impl Terms {
    /// Requests that are held ahead are at most a tenth of the burst, of all gateways together; one each where that is less.
    pub fn new(period: Duration, count: u64, burst: u64, cost: u64, nodes: u64) -> Terms {
        let token_us = period.as_secs_f64() * 1e6 / count as f64;
        let most = burst / cost.max(1) / (10 * nodes.max(1));
        Terms { each_us: token_us * cost as f64, room_us: token_us * burst as f64, most: u32::try_from(most.max(1)).unwrap_or(u32::MAX) }
    }
}

/// One key of a shared limit.
#[derive(Debug)]
pub struct Lease {
    /// What the store calls it.
    pub name: Box<str>,
    pub terms: Terms,
    policy: PolicyId,
    tokens: AtomicU32,
    /// With so many left more are fetched.
    low: AtomicU32,
    /// Since the store was asked.
    spent: AtomicU32,
    waiting: AtomicU32,
    is_asked: AtomicBool,
    asked_ns: AtomicU64,
    /// Until then there are no more than are held.
    empty_until_ns: AtomicU64,
    /// When the bucket of all gateways is full, as far as is known.
    full_at_ns: AtomicU64,
    used_ns: AtomicU64,
    answered: Notify,
}

/// What a request finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There was one, and it is taken. `is_low` asks for more to be fetched ahead.
    Token { is_low: bool },
    /// There are none, and there is no use in asking.
    Empty,
    /// Only the store knows.
    Unknown,
}

/// Counts a request that waits for the store.
pub struct Waiting<'a>(&'a Lease);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Lease {
    fn new(name: Box<str>, policy: PolicyId, terms: Terms) -> Lease {
        Lease {
            name,
            terms,
            policy,
            tokens: AtomicU32::new(0),
            low: AtomicU32::new(0),
            spent: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            is_asked: AtomicBool::new(false),
            asked_ns: AtomicU64::new(0),
            empty_until_ns: AtomicU64::new(0),
            full_at_ns: AtomicU64::new(0),
            used_ns: AtomicU64::new(0),
            answered: Notify::new(),
        }
    }

    /// Requests that are held.
    pub fn tokens(&self) -> u32 {
        self.tokens.load(Relaxed)
    }

    /// What a request would find; it takes nothing.
    pub fn look(&self, now_ns: u64) -> Found {
        match self.tokens() {
            0 if now_ns < self.empty_until_ns.load(Relaxed) => Found::Empty,
            0 => Found::Unknown,
            _ => Found::Token { is_low: false },
        }
    }

    /// Takes one, if there is any.
    pub fn take(&self, now_ns: u64) -> Found {
        self.used_ns.store(now_ns, Relaxed);
        match self.tokens.fetch_update(Relaxed, Relaxed, |tokens| tokens.checked_sub(1)) {
            Err(_) => self.look(now_ns),
            Ok(before) => {
                self.spent.fetch_add(1, Relaxed);
                // Where one is all that may be held, each is fetched when it is needed: others may need it more.
                let is_low = self.terms.most > 1 && before - 1 <= self.low.load(Relaxed);
                Found::Token { is_low: is_low && now_ns >= self.empty_until_ns.load(Relaxed) }
            }
        }
    }

    /// Gives back what one request has taken.
    pub fn put_back(&self) {
        self.tokens.fetch_add(1, Relaxed);
        let _ = self.spent.fetch_update(Relaxed, Relaxed, |spent| spent.checked_sub(1));
    }

    /// Nanoseconds until all is there again, what is held counted as there.
    pub fn owed_ns(&self, now_ns: u64) -> u64 {
        let held = (f64::from(self.tokens()) * self.terms.each_us * 1e3) as u64;
        self.full_at_ns.load(Relaxed).saturating_sub(now_ns).saturating_sub(held)
    }

    /// Whether the caller is the one to ask the store.
    pub fn begin(&self) -> bool {
        !self.is_asked.swap(true, Relaxed)
    }

    pub fn wait(&self) -> (Waiting<'_>, tokio::sync::futures::Notified<'_>) {
        self.waiting.fetch_add(1, Relaxed);
        (Waiting(self), self.answered.notified())
    }

    /// How many more to ask for: what is spent in [`AHEAD_NS`] at the rate seen, and at least what is waited for.
    pub fn wanted(&self, now_ns: u64) -> u32 {
        let since = now_ns.saturating_sub(self.asked_ns.swap(now_ns, Relaxed)).max(LOOK_NS);
        let spent = u64::from(self.spent.swap(0, Relaxed));
        let ahead = u32::try_from((spent * AHEAD_NS).div_ceil(since)).unwrap_or(u32::MAX);
        let size = ahead.max(self.waiting.load(Relaxed)).clamp(1, self.terms.most);
        size.saturating_sub(self.tokens())
    }

    /// The store has answered: so many were granted of those wanted, and so much is owed.
    pub fn answered(&self, granted: u32, wanted: u32, owed_us: u64, now_ns: u64) {
        self.full_at_ns.store(now_ns + owed_us * 1_000, Relaxed);
        let rest_us = match granted < wanted {
            true => (owed_us as f64 + self.terms.each_us - self.terms.room_us).max(REST_US.min(self.terms.room_us / 4.0)),
            false => 0.0,
        };
        self.empty_until_ns.store(if rest_us > 0.0 { now_ns + (rest_us * 1e3) as u64 } else { 0 }, Relaxed);
        let held = self.tokens.fetch_add(granted, Relaxed) + granted;
        self.low.store(held / 2, Relaxed);
        self.finish();
    }

    /// The store is away: what was held is gone with it, lest it be spent a second time when it is back.
    pub fn lost(&self) {
        self.tokens.store(0, Relaxed);
        self.empty_until_ns.store(0, Relaxed);
        self.full_at_ns.store(0, Relaxed);
        self.finish();
    }

    fn finish(&self) {
        self.is_asked.store(false, Relaxed);
        self.answered.notify_waiters();
    }

    /// Takes what nobody has needed for that long, to be given back.
    pub fn rested(&self, now_ns: u64, rest: Duration) -> u32 {
        let idle = now_ns.saturating_sub(self.used_ns.load(Relaxed));
        if u128::from(idle) < rest.as_nanos() { 0 } else { self.tokens.swap(0, Relaxed) }
    }
}

type Shard = HashMap<Key, Arc<Lease>, BuildHasherDefault<AsItIs>>;

/// The leases of a gateway, by the key that the process itself uses.
#[derive(Debug)]
pub struct Leases {
    shards: Box<[RwLock<Shard>]>,
    len: AtomicUsize,
    next_sweep: AtomicUsize,
}

impl Default for Leases {
    fn default() -> Self {
        Leases { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), len: AtomicUsize::new(0), next_sweep: AtomicUsize::new(0) }
    }
}

impl Leases {
    fn shard(&self, key: Key) -> &RwLock<Shard> {
        &self.shards[(key.0[0] % SHARDS as u64) as usize]
    }

    /// The lease of a key, which is made if need be; `None` when there are too many already.
    pub fn of(&self, key: Key, policy: PolicyId, terms: Terms, max: usize, name: impl FnOnce() -> Box<str>) -> Option<Arc<Lease>> {
        let shard = self.shard(key);
        if let Some(lease) = shard.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Some(lease.clone());
        }
        if self.len() >= max {
            return None;
        }
        let fresh = Arc::new(Lease::new(name(), policy, terms));
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let before = shard.len();
        let lease = shard.entry(key).or_insert(fresh).clone();
        self.len.fetch_add(shard.len() - before, Relaxed);
        Some(lease)
    }

    pub fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub fn all(&self) -> Vec<Arc<Lease>> {
        self.shards
            .iter()
            .flat_map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// The store is away, for each of them.
    pub fn lost(&self) {
        for shard in &self.shards {
            shard.read().unwrap_or_else(PoisonError::into_inner).values().for_each(|lease| lease.lost());
        }
    }

    /// Forgets what has rested and holds nothing, in a part of the shards.
    pub fn sweep(&self, now_ns: u64) {
        let step = self.next_sweep.fetch_add(1, Relaxed) % SWEEPS;
        for shard in self.shards.iter().skip(step).step_by(SWEEPS) {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|_, lease| lease.tokens() > 0 || now_ns.saturating_sub(lease.used_ns.load(Relaxed)) < IDLE_NS);
            self.len.fetch_sub(before - shard.len(), Relaxed);
        }
    }

    /// How many keys these policies have, how many requests are held of them, and those with the least left.
    pub fn nearest(&self, policies: &[PolicyId], most: usize, now_ns: u64) -> (usize, u64, Vec<Near>) {
        let (mut keys, mut held, mut all) = (0, 0, Vec::new());
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            for (key, lease) in shard.iter().filter(|(_, lease)| policies.contains(&lease.policy)) {
                keys += 1;
                held += u64::from(lease.tokens());
                let (owed_us, terms) = (lease.owed_ns(now_ns) as f64 / 1e3, lease.terms);
                if owed_us > 0.0 {
                    let left = ((terms.room_us - owed_us) / terms.each_us).max(0.0) as u64;
                    all.push((left, *key, (owed_us / 1e6).ceil() as u64));
                }
            }
            all.sort_unstable();
            all.truncate(most);
        }
        (keys, held, all.into_iter().map(|(left, key, reset)| Near { key: key.to_string(), left, reset }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn lease(rate: (u64, u64), burst: u64, nodes: u64) -> Lease {
        let terms = Terms::new(Duration::from_millis(rate.1), rate.0, burst, 1, nodes);
        Lease::new("x".into(), PolicyId::default(), terms)
    }

    #[test]
    fn what_is_held_is_bounded_and_follows_the_rate() {
        let lease = lease((1_000, 1_000), 1_000, 2);
        assert_eq!(lease.terms.most, 50);
        assert_eq!((lease.take(0), lease.wanted(0)), (Found::Unknown, 1));
        lease.answered(1, 1, 1_000, 0);
        assert_eq!(lease.take(0), Found::Token { is_low: true });
        // One in a tenth of what is looked at: ten in what is taken ahead.
        assert_eq!(lease.wanted(MS), 10);
        lease.answered(10, 10, 11_000, MS);
        let taken = (0..20).filter(|_| matches!(lease.take(2 * MS), Found::Token { .. })).count();
        assert_eq!((taken, lease.wanted(3 * MS)), (10, 50), "and no more");
    }

    #[test]
    fn an_empty_bucket_is_asked_again_when_there_may_be_more() {
        let lease = lease((1, 1_000), 2, 1);
        lease.take(0);
        lease.answered(0, 1, 2_000_000, 0);
        assert_eq!((lease.take(999 * MS), lease.take(1_001 * MS)), (Found::Empty, Found::Unknown));
        assert_eq!(lease.owed_ns(500 * MS), 1_500 * MS);
        // Very quick ones rest a little all the same.
        let quick = self::lease((1_000_000, 1_000), 100_000, 1);
        quick.answered(0, 5, 100_000, 0);
        assert_eq!((quick.look(9 * MS), quick.look(11 * MS)), (Found::Empty, Found::Unknown));
    }

    #[test]
    fn what_rests_is_given_back_and_forgotten() {
        let leases = Leases::default();
        let (policy, terms) = (PolicyId::default(), Terms::new(Duration::from_secs(1), 10, 100, 1, 1));
        let of = |n: u64| leases.of(Key([n, n]), policy, terms, 2, || "x".into());
        let (a, b) = (of(1).expect("a lease"), of(2).expect("a lease"));
        assert!(of(3).is_none() && of(1).is_some());
        a.answered(5, 5, 500_000, 0);
        assert_eq!((a.rested(900 * MS, Duration::from_secs(1)), a.tokens()), (0, 5));
        (0..SWEEPS).for_each(|_| leases.sweep(IDLE_NS));
        assert_eq!(leases.len(), 1, "{b:?}");
        assert_eq!((a.rested(1_000 * MS, Duration::from_secs(1)), a.tokens()), (5, 0));
        (0..SWEEPS).for_each(|_| leases.sweep(IDLE_NS));
        assert_eq!(leases.len(), 0);
    }
}
