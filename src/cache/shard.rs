//! A part of the store: entries by their key, and the order in which they make room for others.
//!
//! The order is S3-FIFO (Yang et al., SOSP 2023): what is new waits in a small queue, and only what is asked for again there goes to
//! the main one, so that a scan drives out nothing but itself. What was driven out of the small queue is remembered for a while, and
//! goes to the main one at once when it comes back.

use super::entry::{Body, Entry};
use super::key::Key;
use super::page::Page;
use crate::types::Pass;
use hashbrown::HashTable;
use hashbrown::hash_table;
use http::HeaderName;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

/// The small queue's share is one in so many.
const SMALL_SHARE: usize = 10;

/// On lines of the processor's caches of its own: two threads at two shards don't fight for one.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Shard {
    pages: HashTable<Page>,
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
    /// The pages that were purged last, with the number of the purge.
    purged: VecDeque<(u64, u128)>,
}

/// Purged pages that are remembered.
const PURGED_MAX: usize = 512;

#[derive(Debug, Default)]
struct Queue {
    /// Those that have gone meanwhile stay in line until it is their turn.
    line: VecDeque<Weak<Entry>>,
    listed: usize,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, entry: &Arc<Entry>) {
        // A line of those that have gone would grow for ever where answers are replaced and none is driven out.
        if self.line.len() > 2 * self.listed + 64 {
            self.line.retain(|entry| entry.upgrade().is_some_and(|entry| entry.is_listed.load(Relaxed)));
        }
        self.line.push_back(Arc::downgrade(entry));
        self.listed += 1;
        self.bytes += entry.weight;
    }

    fn forget(&mut self, entry: &Entry) {
        self.listed = self.listed.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(entry.weight);
    }

    /// The next in line that can be found still.
    fn pop(&mut self) -> Option<Arc<Entry>> {
        loop {
            let entry = self.line.pop_front()?.upgrade();
            if let Some(entry) = entry.filter(|entry| entry.is_listed.load(Relaxed)) {
                self.forget(&entry);
                return Some(entry);
            }
        }
    }
}

/// Who was driven out of the small queue.
#[derive(Debug, Default)]
struct Ghosts {
    line: VecDeque<u64>,
    known: HashSet<u64, BuildHasherDefault<Pass>>,
}

impl Ghosts {
    fn add(&mut self, family: u128, max: usize) {
        if self.known.insert(family as u64) {
            self.line.push_back(family as u64);
        }
        while self.line.len() > max.max(16) {
            if let Some(oldest) = self.line.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    fn take(&mut self, family: u128) -> bool {
        // Its place in line is left to run out.
        self.known.remove(&(family as u64))
    }
}

/// A page's number is one already. The store chooses shards by its other half.
fn hash(page: u128) -> u64 {
    page as u64
}

impl Shard {
    fn page(&self, page: u128) -> Option<&Page> {
        self.pages.find(hash(page), |known| known.id() == page)
    }

    /// The newest variant, or the one that is meant.
    pub fn find(&self, key: Key, variance: Option<[u8; 16]>) -> Option<Arc<Entry>> {
        let can_serve = |entry: &&Arc<Entry>| match &entry.body {
            Body::One(_) | Body::Many(..) => true,
            Body::Coming(fill) => fill.is_open(),
        };
        let mut variants = self.page(key.page)?.family(key.family).iter().filter(can_serve);
        match variance {
            None => variants.next().cloned(),
            wanted => variants.find(|entry| entry.variance() == wanted).cloned(),
        }
    }

    /// The variance of the variant that a request matches, by what each goes by.
    pub fn matching(&self, key: Key, of: impl Fn(&[HeaderName]) -> [u8; 16]) -> Option<[u8; 16]> {
        let variants = self.page(key.page)?.family(key.family).iter();
        variants
            .filter(|entry| !entry.vary().is_empty())
            .map(|entry| (entry.variance(), of(entry.vary())))
            .find_map(|(known, wanted)| known.filter(|known| *known == wanted))
    }

    /// Puts an answer where it can be found. One that is whole takes the place of its older self; answers how many bytes it took.
    pub fn insert(&mut self, entry: &Arc<Entry>) -> isize {
        let mut change = 0;
        if entry.is_whole() {
            let is_older_self = |other: &Entry| other.is_whole() && (other.variance() == entry.variance() || entry.variance().is_none());
            change -= self.remove(entry.key, is_older_self) as isize;
        }
        entry.is_listed.store(true, Relaxed);
        let page = entry.key.page;
        let oldest = match self.pages.entry(hash(page), |known| known.id() == page, |known| hash(known.id())) {
            hash_table::Entry::Vacant(place) => {
                place.insert(Page::One(entry.clone()));
                None
            }
            hash_table::Entry::Occupied(mut page) => page.get_mut().add(entry),
        };
        if let Some(oldest) = oldest {
            change -= self.unlist(&oldest) as isize;
        }
        if entry.is_whole() {
            let is_main = self.ghosts.take(entry.key.family);
            entry.is_main.store(is_main, Relaxed);
            if is_main { &mut self.main } else { &mut self.small }.push(entry);
            change += entry.weight as isize;
        }
        change
    }

    /// Takes out what is meant of an answer's variants; answers how many bytes it took.
    pub fn remove(&mut self, key: Key, is_meant: impl Fn(&Entry) -> bool) -> usize {
        let Ok(place) = self.pages.find_entry(hash(key.page), |page| page.id() == key.page) else { return 0 };
        let (page, place) = place.remove();
        let (left, gone) = page.without(key.family, is_meant);
        if let Some(left) = left {
            place.insert(left);
        }
        gone.iter().map(|entry| self.unlist(entry)).sum()
    }

    fn unlist(&mut self, entry: &Entry) -> usize {
        if !entry.is_listed.swap(false, Relaxed) || !entry.is_whole() {
            return 0;
        }
        if entry.is_main.load(Relaxed) { &mut self.main } else { &mut self.small }.forget(entry);
        entry.weight
    }

    /// Drives one out. Answers how many bytes it took; `None` when nothing is left.
    pub fn evict(&mut self) -> Option<usize> {
        loop {
            let is_small = self.main.listed == 0 || self.small.bytes * SMALL_SHARE > self.small.bytes + self.main.bytes;
            let popped = if is_small { self.small.pop() } else { self.main.pop() };
            let Some(entry) = popped else {
                if self.small.listed == 0 && self.main.listed == 0 {
                    return None;
                }
                continue;
            };
            // It is in no queue now.
            if entry.spend() {
                entry.is_main.store(true, Relaxed);
                self.main.push(&entry);
                continue;
            }
            entry.is_listed.store(false, Relaxed);
            self.remove(entry.key, |other| std::ptr::eq(other, &*entry));
            if is_small {
                self.ghosts.add(entry.key.family, self.small.listed + self.main.listed);
            }
            return Some(entry.weight);
        }
    }

    /// What of a page is kept or coming.
    pub fn of_page(&self, page: u128) -> Vec<Arc<Entry>> {
        self.page(page).map_or_else(Vec::new, |page| page.all().cloned().collect())
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.pages.iter().flat_map(Page::all)
    }

    /// Remembers that a page was purged, for answers that were asked for before.
    pub fn note_purged(&mut self, purge: u64, page: u128) {
        if self.purged.len() >= PURGED_MAX {
            self.purged.pop_front();
        }
        self.purged.push_back((purge, page));
    }

    /// Whether a page was purged after `since`, or may have been.
    pub fn was_purged(&self, page: u128, since: u64) -> bool {
        let is_forgotten = self.purged.len() >= PURGED_MAX && self.purged.front().is_some_and(|(oldest, _)| *oldest > since);
        is_forgotten || self.purged.iter().rev().take_while(|(purge, _)| *purge > since).any(|(_, known)| *known == page)
    }

    pub fn len(&self) -> usize {
        self.small.listed + self.main.listed
    }
}
