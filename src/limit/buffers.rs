//! How much of bodies is held in memory, all requests together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The bytes that are held now, and how many may be.
#[derive(Debug)]
pub struct Buffers {
    held: AtomicU64,
    max: AtomicU64,
}

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Default for Buffers {
    fn default() -> Self {
        Buffers { held: AtomicU64::new(0), max: AtomicU64::new(u64::MAX) }
    }
}

impl Buffers {
    pub fn set_max(&self, bytes: u64) {
        self.max.store(bytes, Relaxed);
    }

    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    pub fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    /// Begins to hold something, of no size yet.
    pub fn hold(self: &Arc<Self>) -> Held {
        Held { buffers: self.clone(), bytes: 0 }
    }
}

/// A part of what is held; its drop gives it back, whatever way the request ends.
#[derive(Debug)]
pub struct Held {
    buffers: Arc<Buffers>,
    bytes: u64,
}

impl Held {
    /// Holds so many bytes more.
    ///
    /// # Errors
    /// All requests together would hold too much; nothing is taken then.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        let (bytes, max) = (bytes as u64, self.buffers.max());
        let more = |held: u64| held.checked_add(bytes).filter(|held| *held <= max);
        self.buffers.held.fetch_update(Relaxed, Relaxed, more).map_err(|_| Full)?;
        self.bytes += bytes;
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.buffers.held.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let buffers = Arc::new(Buffers::default());
        buffers.set_max(10);
        let (mut one, mut other) = (buffers.hold(), buffers.hold());
        assert_eq!((one.grow(6), other.grow(5), other.grow(4), one.grow(1)), (Ok(()), Err(Full), Ok(()), Err(Full)));
        assert_eq!(buffers.held(), 10);
        drop(one);
        assert_eq!((buffers.held(), other.grow(6), other.bytes()), (4, Ok(()), 10));
        drop(other);
        assert_eq!(buffers.held(), 0);
    }
}
