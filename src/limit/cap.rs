//! How many at once: an exact count of what is in flight, and a short queue before the door.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// The counts of all caps, by what they are of. Snapshots share them, so that a reload forgets nobody who is inside.
#[derive(Debug, Default)]
pub struct Counts(Mutex<HashMap<Of, Weak<Count>>>);

/// What a cap is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Of {
    Route(String),
    Service(String),
}

#[derive(Debug, Default)]
struct Count {
    inside: AtomicUsize,
    waiting: AtomicUsize,
    free: Notify,
}

/// So many at once.
#[derive(Debug)]
pub struct Cap {
    count: Arc<Count>,
    max: usize,
    queue: Option<Queue>,
}

/// Those that wait until somebody leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    pub size: usize,
    pub timeout: Duration,
}

/// Held by whoever is inside; its drop is the leaving, by whichever way out.
#[derive(Debug)]
pub struct Pass(Arc<Count>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, SeqCst);
        // Whoever comes after this look counts itself first and tries then, so it sees the place that is free now.
        if self.0.waiting.load(SeqCst) > 0 {
            self.0.free.notify_one();
        }
    }
}

/// Counts a request that waits.
struct Waiting<'a>(&'a Count);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

impl Counts {
    pub fn cap(&self, of: Of, max: usize, queue: Option<Queue>) -> Cap {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == known.capacity() {
            known.retain(|_, count| count.strong_count() > 0);
        }
        let slot = known.entry(of).or_default();
        let count = slot.upgrade().unwrap_or_default();
        *slot = Arc::downgrade(&count);
        Cap { count, max, queue }
    }
}

impl Cap {
    pub fn max(&self) -> usize {
        self.max
    }

    pub fn inside(&self) -> usize {
        self.count.inside.load(SeqCst)
    }

    pub fn waiting(&self) -> usize {
        self.count.waiting.load(SeqCst)
    }

    fn take(&self) -> Option<Pass> {
        let more = |inside| (inside < self.max).then_some(inside + 1);
        self.count.inside.fetch_update(SeqCst, SeqCst, more).ok().map(|_| Pass(self.count.clone()))
    }

    /// Goes in at once, unless it is full or others wait already.
    pub fn enter(&self) -> Option<Pass> {
        (self.waiting() == 0).then(|| self.take()).flatten()
    }

    /// Goes in, where there is a queue after a while. The wait is boxed: its room would be moved with each request.
    pub async fn pass(&self) -> Option<Pass> {
        match self.enter() {
            None if self.has_queue() => Box::pin(self.wait()).await,
            pass => pass,
        }
    }

    pub fn has_queue(&self) -> bool {
        self.queue.is_some()
    }

    /// Waits for a place, if the queue has room; `None` when it has not, or when it took too long.
    pub async fn wait(&self) -> Option<Pass> {
        let queue = self.queue?;
        let before = self.count.waiting.fetch_add(1, SeqCst);
        let _waiting = Waiting(&self.count);
        if before >= queue.size {
            return None;
        }
        let enter = async {
            loop {
                if let Some(pass) = self.take() {
                    return pass;
                }
                self.count.free.notified().await;
            }
        };
        timeout(queue.timeout, enter).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap(counts: &Counts, max: usize, size: usize, ms: u64) -> Cap {
        let queue = (size > 0).then_some(Queue { size, timeout: Duration::from_millis(ms) });
        counts.cap(Of::Route("r".into()), max, queue)
    }

    #[test]
    fn no_more_than_may_be_and_a_reload_forgets_nobody() {
        let counts = Counts::default();
        let old = cap(&counts, 2, 0, 0);
        let (a, b) = (old.enter(), old.enter());
        assert!(a.is_some() && b.is_some() && old.enter().is_none());
        let new = cap(&counts, 3, 0, 0);
        let c = new.enter();
        assert!(c.is_some() && new.enter().is_none());
        drop((a, b, c));
        assert_eq!((old.inside(), new.inside()), (0, 0));
        assert_eq!(counts.cap(Of::Service("r".into()), 1, None).inside(), 0);
    }

    #[tokio::test]
    async fn those_that_wait_go_in_one_by_one() {
        let counts = Counts::default();
        let cap = Arc::new(cap(&counts, 1, 2, 20_000));
        let inside = cap.enter().expect("a place");
        assert!(cap.enter().is_none());
        let wait = |cap: &Arc<Cap>| {
            tokio::spawn({
                let cap = cap.clone();
                async move { cap.wait().await }
            })
        };
        let (first, second) = (wait(&cap), wait(&cap));
        while cap.waiting() < 2 {
            tokio::task::yield_now().await;
        }
        assert!(cap.wait().await.is_none(), "the queue is full");
        drop(inside);
        let first = first.await.expect("a task").expect("a place");
        assert!(cap.enter().is_none(), "somebody waits longer");
        drop(first);
        drop(second.await.expect("a task").expect("a place"));
        assert_eq!((cap.inside(), cap.waiting()), (0, 0));
        assert!(cap.enter().is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn whoever_gives_up_is_not_counted_and_leaves_its_turn() {
        let counts = Counts::default();
        let cap = Arc::new(cap(&counts, 3, 1_000, 20_000));
        let tasks: Vec<_> = (0..400)
            .map(|n| {
                let cap = cap.clone();
                tokio::spawn(async move {
                    let patience = Duration::from_micros(if n % 3 == 0 { 50 * n } else { 20_000_000 });
                    let pass = timeout(patience, async {
                        match cap.enter() {
                            Some(pass) => Some(pass),
                            None => cap.wait().await,
                        }
                    })
                    .await;
                    assert!(cap.inside() <= 3);
                    tokio::time::sleep(Duration::from_micros(n % 7 * 100)).await;
                    pass.is_ok_and(|pass| pass.is_some()) || n % 3 == 0
                })
            })
            .collect();
        for task in tasks {
            assert!(task.await.expect("a task"));
        }
        assert_eq!((cap.inside(), cap.waiting()), (0, 0));
    }
}
