//! The watch over a request's deadline: one lazy timer, which is set back only when something is due earlier.

use super::deadline::{Deadline, Expired, Phase, now};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

/// The furthest that the timer is set ahead. Most requests are over by then, and the next one of the connection finds it
/// running: it is looked at when it fires, and touched once in so long on a busy connection.
const AHEAD_MAX: u64 = 5_000;

/// Runs `work` until it is done; `None` when a deadline passed that ends it, or when the client has gone where that is not seen
/// by the work itself: while it connects. `gone` tells of that, and is polled only then.
pub async fn over<T>(deadline: &Deadline, timer: &mut Timer, gone: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut gone) = (pin!(work), pin!(gone));
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if deadline.phase() == Phase::Connect && gone.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            if timer.poll(cx, deadline).is_pending() {
                return Poll::Pending;
            }
            match deadline.expire() {
                // The work is polled once more, since it waits for the cut to be seen, and so is `gone` while it connects.
                Expired::No | Expired::UpstreamCut => {}
                Expired::Drop => return Poll::Ready(None),
            }
        }
    })
    .await
}

/// A timer that one request leaves to the next.
#[derive(Default)]
pub struct Timer {
    sleep: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    /// When it fires, in `now`'s time.
    fires: u64,
    /// It knows whom to wake: the connection's task, which is the same for all its requests.
    is_asked: bool,
}

thread_local!(static SPARE: RefCell<Vec<Timer>> = const { RefCell::new(Vec::new()) });
/// Timers that a thread keeps.
const SPARE_MAX: usize = 256;

/// A timer for one request of many at once, which goes on to whoever is next: to set a new one costs ten times more than to
/// ask one that runs already.
pub struct Borrowed(pub Timer);

impl Borrowed {
    pub fn take() -> Borrowed {
        let spare = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        // It has to be told anew whom to wake.
        Borrowed(Timer { is_asked: false, ..spare })
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let timer = std::mem::take(&mut self.0);
        // A thread that ends has none any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if timer.sleep.is_some() && spare.len() < SPARE_MAX {
                spare.push(timer);
            }
        });
    }
}

impl std::fmt::Debug for Timer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timer").field("fires", &self.fires).finish_non_exhaustive()
    }
}

impl Timer {
    /// Ready when the deadline has passed.
    fn poll(&mut self, cx: &mut Context<'_>, deadline: &Deadline) -> Poll<()> {
        loop {
            let due = deadline.due();
            if due == 0 {
                return Poll::Pending;
            }
            let sleep = match &mut self.sleep {
                // It wakes this task by itself: until then there is no need to ask it.
                Some(_) if due >= self.fires && self.is_asked && now() < self.fires => return Poll::Pending,
                Some(sleep) if due >= self.fires => sleep,
                _ if now() >= due => return Poll::Ready(()),
                _ => self.set(due),
            };
            if sleep.as_mut().poll(cx).is_pending() {
                self.is_asked = true;
                return Poll::Pending;
            }
            self.sleep = None;
            if now() >= deadline.due() && deadline.due() != 0 {
                return Poll::Ready(());
            }
        }
    }

    fn set(&mut self, due: u64) -> &mut Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        let now = now();
        let ahead = due.saturating_sub(now).clamp(1, AHEAD_MAX);
        (self.fires, self.is_asked) = (now + ahead, false);
        // Pingora's timers are good to 10 ms and cost a tenth of tokio's. The coarse clock may lag behind by a tick.
        self.sleep.insert(Box::pin(pingora_timeout::sleep(Duration::from_millis(ahead + 4))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn watched<T>(deadline: &Deadline, work: impl Future<Output = T>) -> Option<T> {
        over(deadline, &mut Timer::default(), std::future::pending(), work).await
    }

    #[tokio::test]
    async fn ends_what_is_late_and_nothing_else() {
        let deadline = Deadline::default();
        let late = watched(&deadline, async {
            deadline.enter(Phase::Body, Some(Duration::from_millis(20)));
            std::future::pending::<()>().await;
        });
        assert_eq!(late.await, None);
        let prompt = watched(&deadline, async {
            deadline.enter(Phase::Body, Some(Duration::from_secs(60)));
            7
        });
        assert_eq!(prompt.await, Some(7));
    }

    #[tokio::test]
    async fn a_deadline_that_is_moved_nearer_counts() {
        let deadline = Deadline::default();
        let started = std::time::Instant::now();
        let late = watched(&deadline, async {
            deadline.enter(Phase::Body, Some(Duration::from_secs(60)));
            tokio::task::yield_now().await;
            deadline.enter(Phase::Body, Some(Duration::from_millis(20)));
            std::future::pending::<()>().await;
        });
        assert_eq!(late.await, None);
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn one_that_has_passed_when_it_is_set_counts_at_once() {
        let deadline = Deadline::default();
        deadline.enter_until(Phase::Body, 1);
        assert_eq!(watched(&deadline, std::future::pending::<()>()).await, None);
    }

    #[tokio::test]
    async fn one_that_is_moved_away_does_not() {
        let deadline = Deadline::default();
        let work = watched(&deadline, async {
            deadline.enter(Phase::Body, Some(Duration::from_millis(10)));
            tokio::task::yield_now().await;
            deadline.enter(Phase::Busy, None);
            tokio::time::sleep(Duration::from_millis(60)).await;
            1
        });
        assert_eq!(work.await, Some(1));
    }
}
