//! The watch over a request's deadline: one lazy timer, which is set back only when something is due earlier.

use crate::proxy::deadline::{Deadline, Expired, now};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// The furthest that the timer is set ahead. Most requests are over by then, and the next one finds it running: it is looked
/// at when it fires, and touched once in so long on a busy connection.
const AHEAD_MAX: u64 = 5_000;

/// Runs `work` until it is done; `None` when a deadline passed that ends it.
pub async fn over<T>(deadline: &Deadline, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut timer = Timer::default();
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if timer.poll(cx, deadline).is_pending() {
                return Poll::Pending;
            }
            match deadline.expire() {
                // The work is polled once more: it reads, or it waits for the cut to be seen.
                Expired::No | Expired::Reread | Expired::UpstreamCut => {}
                Expired::Drop => return Poll::Ready(None),
            }
        }
    })
    .await
}

#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When it fires, in `now`'s time.
    fires: u64,
}

impl Timer {
    /// Ready when the deadline has passed.
    fn poll(&mut self, cx: &mut Context<'_>, deadline: &Deadline) -> Poll<()> {
        loop {
            let due = deadline.due();
            if due == 0 {
                return Poll::Pending;
            }
            if self.sleep.is_none() || due < self.fires {
                self.set(due);
            }
            let Some(sleep) = &mut self.sleep else { return Poll::Pending };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let due = deadline.due();
            if due != 0 && now() >= due {
                self.fires = 0;
                self.sleep = None;
                return Poll::Ready(());
            }
            match due {
                0 => self.sleep = None,
                due => self.set(due),
            }
        }
    }

    fn set(&mut self, due: u64) {
        let now = now();
        // The coarse clock may lag behind by a tick: a timer that fires a little late fires once.
        let ahead = due.saturating_sub(now).clamp(1, AHEAD_MAX);
        self.fires = now + ahead;
        let ahead = Duration::from_millis(ahead + 1);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(Instant::now() + ahead),
            None => self.sleep = Some(Box::pin(sleep(ahead))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::deadline::Phase;

    #[tokio::test]
    async fn ends_what_is_late_and_nothing_else() {
        let deadline = Deadline::default();
        let late = over(&deadline, async {
            deadline.enter(Phase::Body, Some(Duration::from_millis(20)));
            std::future::pending::<()>().await;
        });
        assert_eq!(late.await, None);
        let prompt = over(&deadline, async {
            deadline.enter(Phase::Body, Some(Duration::from_secs(60)));
            7
        });
        assert_eq!(prompt.await, Some(7));
    }

    #[tokio::test]
    async fn a_deadline_that_is_moved_nearer_counts() {
        let deadline = Deadline::default();
        let started = std::time::Instant::now();
        let late = over(&deadline, async {
            deadline.enter(Phase::Body, Some(Duration::from_secs(60)));
            tokio::task::yield_now().await;
            deadline.enter(Phase::Body, Some(Duration::from_millis(20)));
            std::future::pending::<()>().await;
        });
        assert_eq!(late.await, None);
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn one_that_is_moved_away_does_not() {
        let deadline = Deadline::default();
        let work = over(&deadline, async {
            deadline.enter(Phase::Body, Some(Duration::from_millis(10)));
            tokio::task::yield_now().await;
            deadline.enter(Phase::Busy, None);
            tokio::time::sleep(Duration::from_millis(60)).await;
            1
        });
        assert_eq!(work.await, Some(1));
    }
}
