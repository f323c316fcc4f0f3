//! Who fetches what others wait for.

use super::key::Key;
use super::store::Store;
use http::Extensions;
use pingora::cache::CacheKey;
use pingora::cache::key::CacheHashKey;
use pingora::cache::lock::{CacheKeyLock, CacheLock, LockStatus, Locked, WritePermit};
use std::time::Duration;

/// Pingora's lock, which looks at the store again before anybody's turn begins: between a look and a turn, another one's may have
/// ended, and what it fetched would be fetched twice.
pub struct Turns {
    lock: CacheLock,
    store: &'static Store,
}

impl Turns {
    pub fn new(store: &'static Store, max: Duration) -> Turns {
        Turns { lock: CacheLock::new(max), store }
    }
}

impl CacheKeyLock for Turns {
    fn lock(&self, key: &CacheKey, stale_writer: bool) -> Locked {
        let locked = self.lock.lock(key, stale_writer);
        // Whoever has found something stale asks about that, whatever it is by now.
        if stale_writer || !locked.is_write() || self.store.find(Key::of(key), key.variance_bin()).is_none() {
            return locked;
        }
        if let Locked::Write(permit) = locked {
            self.lock.release(key, permit, LockStatus::Done);
        }
        // A wait that is over as it begins: then it is looked for again.
        let (mut over, stub) = WritePermit::new(Duration::ZERO, false, Extensions::new());
        over.unlock(LockStatus::Done);
        Locked::Read(stub.read_lock())
    }

    fn release(&self, key: &CacheKey, permit: WritePermit, reason: LockStatus) {
        self.lock.release(key, permit, reason);
    }
}
