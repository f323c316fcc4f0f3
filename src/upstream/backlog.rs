//! How much is read ahead of answers that wait for their clients: less the more there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Read at once of an answer, as Pingora has it; and the least when many answers wait for their clients.
pub const READ_BYTES_MAX: usize = 64 << 10;
pub const READ_BYTES_MIN: usize = 4 << 10;
/// Pieces of an answer that Pingora has under way: eight on their way through its loop, and those being read and written.
const PIECES: usize = 10;
/// What is held at most of an answer that its client does not take.
pub const ANSWER_BYTES_MAX: usize = PIECES * READ_BYTES_MAX;

/// Answers of which something was read, and of which no more is wanted until a client has taken that.
#[derive(Debug, Default)]
pub struct Backlog {
    answers: AtomicUsize,
    bytes_max: AtomicUsize,
}

impl Backlog {
    pub fn set_bytes_max(&self, bytes: u64) {
        self.bytes_max.store(usize::try_from(bytes).unwrap_or(usize::MAX), Relaxed);
    }

    pub fn enter(self: &Arc<Self>) -> Waits {
        self.answers.fetch_add(1, Relaxed);
        Waits(self.clone())
    }

    /// How much may be read at once.
    pub fn read_max(&self) -> usize {
        let each = self.bytes_max.load(Relaxed) / PIECES / self.answers.load(Relaxed).max(1);
        each.clamp(READ_BYTES_MIN, READ_BYTES_MAX)
    }
}

/// One of them.
#[derive(Debug)]
pub struct Waits(Arc<Backlog>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.answers.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_answers_wait_the_less_is_read_at_once() {
        let backlog = Arc::new(Backlog::default());
        backlog.bytes_max.store(64 << 20, Relaxed);
        assert_eq!(backlog.read_max(), READ_BYTES_MAX);
        let waits: Vec<Waits> = (0..1000).map(|_| backlog.enter()).collect();
        assert!((READ_BYTES_MIN..READ_BYTES_MAX / 8).contains(&backlog.read_max()), "{}", backlog.read_max());
        drop(waits);
        assert_eq!((backlog.read_max(), backlog.answers.load(Relaxed)), (READ_BYTES_MAX, 0));
    }
}
