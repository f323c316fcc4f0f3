//! Where answers lie: in memory, within a bound. It outlives reloads.

use super::entry::{Body, Entry};
use super::fill::{Fill, InFlight};
use super::key::{Key, Seed};
use super::purge::{How, Purge};
use super::shard::Shard;
use http::HeaderName;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

const SHARDS: usize = 32;
/// What is coming may take one part in so many of the bound, beside what is kept.
const IN_FLIGHT_SHARE: usize = 4;
/// Purges of prefixes, tags and all that are remembered.
const PURGES_MAX: usize = 256;

#[derive(Debug)]
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    pub seed: Seed,
    bytes: AtomicUsize,
    max: AtomicUsize,
    evicted: AtomicU64,
    in_flight: Arc<InFlight>,
    /// Counts purges, so that an answer that was asked for before one is known.
    purges: AtomicU64,
    recent: Mutex<VecDeque<(u64, Purge)>>,
    coming: Mutex<HashMap<u64, Arc<Entry>>>,
    next_id: AtomicU64,
}

/// What is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub bytes: usize,
    pub bytes_max: usize,
    pub entries: usize,
    pub in_flight_bytes: usize,
    pub evicted: u64,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            seed: Seed::default(),
            bytes: AtomicUsize::new(0),
            max: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            in_flight: Arc::default(),
            purges: AtomicU64::new(0),
            recent: Mutex::default(),
            coming: Mutex::default(),
            next_id: AtomicU64::new(0),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    fn shard_of(&self, page: u128) -> usize {
        // Maps within a shard go by the low bits.
        (page >> 96) as usize % self.shards.len()
    }

    fn shard(&self, page: u128) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.shard_of(page)])
    }

    /// Sets the bound, and keeps to it at once.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Relaxed);
        self.in_flight.max.store(max / IN_FLIGHT_SHARE, Relaxed);
        self.make_room(0);
    }

    /// The newest variant, or the one that is meant.
    pub fn find(&self, key: Key, variance: Option<[u8; 16]>) -> Option<Arc<Entry>> {
        let found = self.shard(key.page).find(key, variance)?;
        found.touch();
        Some(found)
    }

    /// The variant that a request matches, which is not used thereby.
    pub fn find_for(&self, key: Key, of: impl Fn(&[HeaderName]) -> [u8; 16]) -> Option<Arc<Entry>> {
        let shard = self.shard(key.page);
        match shard.matching(key, of) {
            Some(variance) => shard.find(key, Some(variance)),
            None => shard.find(key, None).filter(|entry| entry.vary().is_empty()),
        }
    }

    /// The variance of the variant that a request matches.
    pub fn matching(&self, key: Key, of: impl Fn(&[HeaderName]) -> [u8; 16]) -> Option<[u8; 16]> {
        self.shard(key.page).matching(key, of)
    }

    /// There is room for another answer that comes.
    pub fn has_room(&self) -> bool {
        self.in_flight.bytes.load(Relaxed) < self.in_flight.max.load(Relaxed)
    }

    /// For an answer that comes.
    pub(super) fn fill(&self, bytes_max: usize) -> Arc<Fill> {
        Arc::new(Fill::new(bytes_max, self.in_flight.clone()))
    }

    /// Begins to keep an answer that is coming, unless it was purged `since` it was asked for; its number.
    pub(super) fn begin(&self, entry: &Arc<Entry>, since: u64) -> u64 {
        let id = self.next_id.fetch_add(1, Relaxed);
        lock(&self.coming).insert(id, entry.clone());
        let mut shard = self.shard(entry.key.page);
        // What was asked for before a purge may be what was purged.
        if !shard.was_purged(entry.key.page, since) && !self.was_purged(entry, since) {
            self.change(shard.insert(entry));
        }
        id
    }

    pub(super) fn coming(&self, id: u64) -> Option<Arc<Entry>> {
        lock(&self.coming).get(&id).cloned()
    }

    /// All has come: `whole` takes the place of what was coming, unless that was purged meanwhile.
    pub(super) fn finish(&self, id: u64, whole: Option<Entry>) {
        let Some(coming) = lock(&self.coming).remove(&id) else { return };
        let start = self.shard_of(coming.key.page);
        {
            let mut shard = lock(&self.shards[start]);
            let is_wanted = coming.is_listed.load(Relaxed);
            shard.remove(coming.key, |entry| std::ptr::eq(entry, &*coming));
            if let Some(whole) = whole.filter(|_| is_wanted) {
                self.change(shard.insert(&Arc::new(whole)));
            }
        }
        self.make_room(start);
    }

    /// Keeps an answer that is there as a whole, unless it was purged `since` it was asked for.
    pub fn keep(&self, whole: Entry, since: u64) {
        let start = self.shard_of(whole.key.page);
        {
            let mut shard = lock(&self.shards[start]);
            if !shard.was_purged(whole.key.page, since) && !self.was_purged(&whole, since) {
                self.change(shard.insert(&Arc::new(whole)));
            }
        }
        self.make_room(start);
    }

    /// Puts another head before a body that is kept, unless that has gone, or was purged `since` it was asked about: then it stays stale.
    pub(super) fn renew(&self, old: &Arc<Entry>, new: Entry, since: u64) {
        let start = self.shard_of(old.key.page);
        {
            let mut shard = lock(&self.shards[start]);
            if old.is_listed.load(Relaxed) && !shard.was_purged(new.key.page, since) && !self.was_purged(&new, since) {
                self.change(shard.insert(&Arc::new(new)));
            }
        }
        self.make_room(start);
    }

    fn change(&self, bytes: isize) {
        match usize::try_from(bytes) {
            Ok(more) => self.bytes.fetch_add(more, Relaxed),
            Err(_) => self.bytes.fetch_sub(bytes.unsigned_abs(), Relaxed),
        };
    }

    /// Drives out until the bound is kept: one of each shard in turn, so that all age alike.
    fn make_room(&self, start: usize) {
        let mut at = start;
        let mut idle = 0;
        while self.bytes.load(Relaxed) > self.max.load(Relaxed) && idle < self.shards.len() {
            match lock(&self.shards[at]).evict() {
                Some(freed) => {
                    self.bytes.fetch_sub(freed, Relaxed);
                    self.evicted.fetch_add(1, Relaxed);
                    idle = 0;
                }
                None => idle += 1,
            }
            at = (at + 1) % self.shards.len();
        }
    }

    /// The number of the last purge: an answer that is asked for now is not older than that.
    pub fn purges(&self) -> u64 {
        self.purges.load(Relaxed)
    }

    /// Whether a purge of more than a page came after the entry was asked for, or may have come.
    fn was_purged(&self, entry: &Entry, since: u64) -> bool {
        let recent = lock(&self.recent);
        let is_forgotten = recent.len() >= PURGES_MAX && recent.front().is_some_and(|(oldest, _)| *oldest > since);
        is_forgotten || recent.iter().rev().take_while(|(purge, _)| *purge > since).any(|(_, purge)| purge.matches(entry))
    }

    /// Forgets what is meant, and what is coming of it; how many answers that were.
    pub fn purge(&self, purge: &Purge, how: How) -> usize {
        let number = self.purges.fetch_add(1, Relaxed) + 1;
        if let Purge::Pages(pages) = purge {
            return pages.iter().map(|page| self.purge_page(*page, number, how)).sum();
        }
        {
            let mut recent = lock(&self.recent);
            if recent.len() >= PURGES_MAX {
                recent.pop_front();
            }
            recent.push_back((number, purge.clone()));
        }
        let of_shard = |shard: &Mutex<Shard>| {
            let mut shard = lock(shard);
            let meant: Vec<Arc<Entry>> = shard.all().filter(|entry| purge.matches(entry)).cloned().collect();
            self.forget(&mut shard, &meant, how)
        };
        self.shards.iter().map(of_shard).sum()
    }

    fn purge_page(&self, page: u128, number: u64, how: How) -> usize {
        let mut shard = self.shard(page);
        shard.note_purged(number, page);
        let meant = shard.of_page(page);
        self.forget(&mut shard, &meant, how)
    }

    fn forget(&self, shard: &mut Shard, meant: &[Arc<Entry>], how: How) -> usize {
        let now = SystemTime::now();
        for entry in meant {
            match (how, &entry.body) {
                (How::Soft, Body::One(_) | Body::Many(..)) => entry.expire(now),
                // What is coming is old before it is here.
                _ => self.change(-(shard.remove(entry.key, |other| std::ptr::eq(other, &**entry)) as isize)),
            }
        }
        meant.len()
    }

    pub fn size(&self) -> Size {
        Size {
            bytes: self.bytes.load(Relaxed),
            bytes_max: self.max.load(Relaxed),
            entries: self.shards.iter().map(|shard| lock(shard).len()).sum(),
            in_flight_bytes: self.in_flight.bytes.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
        }
    }
}
