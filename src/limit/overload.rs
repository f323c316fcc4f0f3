//! Adaptive concurrency: how many requests may wait for services at once, learnt from how long they wait.
//!
//! Every tenth of a second the bound is set anew. Where more than one in ten of the answers came later than the target, it falls
//! in proportion to how late they were, from what was really in flight (a gradient); else, where it was in the way, it rises by a
//! twentieth. By Little's law the bound then settles where the services answer in time. A request is measured against those of its own
//! priority and above, and one of a lower priority against a smaller share of the bound: so the lowest is shed first, and nobody is
//! shed for what is below him.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_millis(100);
/// Answers that say something.
const ENOUGH: u64 = 10;
/// Priorities that are told apart; those below the last are one.
const RANKS: usize = 6;
const BOUND_MIN: usize = 4;
const BOUND_MAX: usize = 100_000;
/// Before anything is known.
const BOUND_FIRST: usize = 1_000;
/// One answer in so many may be late.
const LATE: u64 = 10;

/// What is known of the load. It outlives reloads.
#[derive(Debug)]
pub struct Load {
    bound: AtomicUsize,
    /// By rank, the highest priority first.
    inside: [AtomicUsize; RANKS],
    seen: Seen,
    since: Mutex<Instant>,
}

/// Of the window that runs.
#[derive(Debug, Default)]
struct Seen {
    answers: AtomicU64,
    late: AtomicU64,
    micros: AtomicU64,
    /// The most that were in flight.
    peak: AtomicUsize,
    shed: AtomicU64,
}

impl Default for Load {
    fn default() -> Self {
        let bound = AtomicUsize::new(BOUND_FIRST);
        Load { bound, inside: Default::default(), seen: Seen::default(), since: Mutex::new(Instant::now()) }
    }
}

/// The guard of one configuration.
#[derive(Debug)]
pub struct Overload {
    load: Arc<Load>,
    target: Duration,
    /// Of the routes, the highest first.
    priorities: Box<[u64]>,
}

/// A request that waits for a service.
#[derive(Debug)]
pub struct Waits {
    load: Arc<Load>,
    rank: usize,
    target: Duration,
    since: Instant,
}

impl Overload {
    pub fn new(load: &Arc<Load>, target: Duration, mut priorities: Vec<u64>) -> Overload {
        priorities.sort_unstable_by(|a, b| b.cmp(a));
        priorities.dedup();
        Overload { load: load.clone(), target, priorities: priorities.into() }
    }

    /// How many priorities are above.
    fn rank(&self, priority: u64) -> usize {
        let above = self.priorities.iter().position(|known| *known <= priority).unwrap_or(self.priorities.len());
        above.min(RANKS - 1)
    }

    /// `None` when the request is to be shed.
    pub fn enter(&self, priority: u64) -> Option<Waits> {
        let (load, rank) = (&self.load, self.rank(priority));
        // A tenth less for each priority that is above.
        let max = (load.bound.load(Relaxed) * (10 - rank) / 10).max(1);
        load.inside[rank].fetch_add(1, Relaxed);
        // Dropped again when it is one too many.
        let waits = Waits { load: load.clone(), rank, target: self.target, since: Instant::now() };
        if load.inside(rank) > max {
            load.seen.shed.fetch_add(1, Relaxed);
            return None;
        }
        load.seen.peak.fetch_max(self.inside(), Relaxed);
        Some(waits)
    }

    pub fn bound(&self) -> usize {
        self.load.bound.load(Relaxed)
    }

    pub fn inside(&self) -> usize {
        self.load.inside(RANKS - 1)
    }
}

impl Waits {
    /// All of the request is with the service: what the client took to send it is not the service's.
    pub fn sent(&mut self) {
        self.since = Instant::now();
    }

    /// The service has answered, or failed to.
    pub fn answered(self) {
        let now = Instant::now();
        self.load.seen.note(now.saturating_duration_since(self.since), self.target);
        self.load.learn(self.target, now);
    }
}

/// Without an answer the client has left, which says nothing of the service.
impl Drop for Waits {
    fn drop(&mut self) {
        self.load.inside[self.rank].fetch_sub(1, Relaxed);
    }
}

impl Seen {
    fn note(&self, took: Duration, target: Duration) {
        self.answers.fetch_add(1, Relaxed);
        self.late.fetch_add(u64::from(took > target), Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Load {
    /// Of this rank and those above.
    fn inside(&self, rank: usize) -> usize {
        self.inside[..=rank].iter().map(|inside| inside.load(Relaxed)).sum()
    }

    /// Sets the bound anew once a window is over. Whoever finds somebody else at it goes on.
    fn learn(&self, target: Duration, now: Instant) {
        let Ok(mut since) = self.since.try_lock() else { return };
        if now.saturating_duration_since(*since) < WINDOW || self.seen.answers.load(Relaxed) < ENOUGH {
            return;
        }
        *since = now;
        let take = |count: &AtomicU64| count.swap(0, Relaxed);
        let (answers, late, shed) = (take(&self.seen.answers), take(&self.seen.late), take(&self.seen.shed));
        let mean = Duration::from_micros(take(&self.seen.micros) / answers.max(1));
        let peak = self.seen.peak.swap(self.inside(RANKS - 1), Relaxed);
        self.bound.store(next(self.bound.load(Relaxed), peak, answers, late, shed, mean, target), Relaxed);
    }
}

/// The bound after a window.
fn next(bound: usize, peak: usize, answers: u64, late: u64, shed: u64, mean: Duration, target: Duration) -> usize {
    let bound = match late * LATE > answers {
        true => {
            let slower = (target.as_secs_f64() / mean.as_secs_f64().max(f64::EPSILON)).clamp(0.5, 0.95);
            (bound.min(peak) as f64 * slower) as usize
        }
        // It says nothing of a bound that nobody came near.
        false if shed > 0 || peak * 2 >= bound => bound + (bound / 20).max(1),
        false => bound,
    };
    bound.clamp(BOUND_MIN, BOUND_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(50);

    /// A service that answers so many at once in 10 ms, and of more each later by its place in the queue.
    fn settle(mut bound: usize, capacity: usize, offered: usize) -> Vec<usize> {
        let step = |_| {
            let inside = offered.min(bound);
            let mean = Duration::from_millis(10 * inside.div_ceil(capacity) as u64);
            let late = if mean > TARGET { 100 } else { 0 };
            bound = next(bound, inside, 100, late, (offered > bound).into(), mean, TARGET);
            bound
        };
        (0..200).map(step).collect()
    }

    #[test]
    fn the_bound_settles_where_answers_come_in_time() {
        let bounds = settle(BOUND_FIRST, 10, 400);
        // Five times ten in 50 ms; it is there within two seconds, and stays near.
        assert!(bounds[20..].iter().all(|bound| (40..=53).contains(bound)), "{bounds:?}");
        let bounds = settle(BOUND_MIN, 10, 400);
        assert!(bounds[80..].iter().all(|bound| (40..=53).contains(bound)), "{bounds:?}");
        assert!(settle(BOUND_FIRST, 10, 20).iter().all(|bound| *bound == BOUND_FIRST), "nobody comes near it");
    }

    #[test]
    fn the_lowest_priority_is_shed_first() {
        let load = Arc::new(Load::default());
        load.bound.store(10, Relaxed);
        let overload = Overload::new(&load, TARGET, vec![5, 1, 9, 5]);
        let enter = |priority| std::iter::from_fn(|| overload.enter(priority)).collect::<Vec<_>>();
        let low = enter(1);
        assert_eq!((low.len(), enter(0).len()), (8, 0), "a tenth less for each that is above");
        let (middle, high) = (enter(5), enter(9));
        assert_eq!((middle.len(), high.len(), overload.inside()), (9, 10, 27), "what is below is in nobody's way");
        drop(low);
        assert_eq!((enter(1).len(), enter(5).len()), (0, 0), "what is above is");
        high.into_iter().for_each(Waits::answered);
        drop(middle);
        assert_eq!(overload.inside(), 0);
    }
}
