//! Counting of live connections against the cap.
//!
//! Pingora's `connection_filter` sees an accept but never a close. The guard lives inside the stream, hence exactly as long
//! as the socket does, whatever TLS or HTTP layer owns it at the moment.

use crate::observe::Metrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::Notify;

/// Live connections of the process.
#[derive(Debug)]
pub struct Counter {
    live: AtomicUsize,
    max: AtomicUsize,
    metrics: Option<Arc<Metrics>>,
    empty: Notify,
    /// Of them those whose clients take nothing at the moment.
    stalled: AtomicUsize,
}

impl Counter {
    /// `metrics` are those of the clients' connections; the admin's are not counted there.
    pub fn new(max: usize, metrics: Option<Arc<Metrics>>) -> Arc<Self> {
        Arc::new(Counter {
            live: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            metrics,
            empty: Notify::new(),
            stalled: AtomicUsize::new(0),
        })
    }

    /// `None` when the cap is reached.
    pub fn enter(self: &Arc<Self>) -> Option<Guard> {
        let live = self.live.fetch_add(1, Relaxed);
        let guard = Guard(self.clone());
        let is_refused = live >= self.max.load(Relaxed);
        if let Some(metrics) = &self.metrics {
            metrics.connections.inc();
            metrics.connections_refused.inc_by(is_refused.into());
        }
        (!is_refused).then_some(guard)
    }

    pub fn live(&self) -> usize {
        self.live.load(Relaxed)
    }

    pub fn set_max(&self, max: usize) {
        self.max.store(max, Relaxed);
    }

    /// Resolves once no connection is left.
    pub async fn drained(&self) {
        loop {
            let gone = self.empty.notified();
            if self.live() == 0 {
                return;
            }
            gone.await;
        }
    }
}

/// Held while a client takes nothing.
#[derive(Debug)]
pub struct Stall(Arc<Counter>);

impl Drop for Stall {
    fn drop(&mut self) {
        self.0.stalled.fetch_sub(1, Relaxed);
    }
}

/// Held by the connection; its drop is the close.
#[derive(Debug)]
pub struct Guard(Arc<Counter>);

impl Guard {
    /// A client takes nothing from now on. Answers how many others there are of whom that is true.
    pub fn stall(&self) -> (Stall, usize) {
        (Stall(self.0.clone()), self.0.stalled.fetch_add(1, Relaxed))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(metrics) = &self.0.metrics {
            metrics.connections.dec();
        }
        if self.0.live.fetch_sub(1, Relaxed) == 1 {
            self.0.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds_where_nobody_counts() {
        let counter = Counter::new(1, None);
        let only = counter.enter();
        assert!(only.is_some() && counter.enter().is_none());
        drop(only);
        assert!(counter.enter().is_some());
    }

    #[tokio::test]
    async fn the_cap_holds_and_the_last_one_wakes_the_drain() {
        let metrics = Metrics::new().expect("metrics");
        let counter = Counter::new(2, Some(metrics.clone()));
        let (a, b) = (counter.enter(), counter.enter());
        assert!(a.is_some() && b.is_some() && counter.enter().is_none());
        assert_eq!((counter.live(), metrics.connections.get(), metrics.connections_refused.get()), (2, 2, 1));
        drop(a);
        let waiting = tokio::spawn({
            let counter = counter.clone();
            async move { counter.drained().await }
        });
        drop(b);
        waiting.await.expect("the drain");
        assert_eq!((counter.live(), metrics.connections.get()), (0, 0));
    }
}
