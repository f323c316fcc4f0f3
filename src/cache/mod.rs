//! Can we avoid asking? Answers that are kept, by the rules of RFC 9111 and those of the configuration.
//!
//! `directives`, `fresh` and `asked` are the rules, pure; `store` is where answers lie; `storage` is what Pingora's cache sees of it;
//! `bulletin` is what gateways tell each other.

pub mod asked;
mod bulletin;
pub mod directives;
pub mod entry;
mod fill;
pub mod fresh;
mod head;
pub mod key;
mod page;
pub mod purge;
mod rule;
mod shard;
pub mod storage;
mod store;
mod times;
mod turns;

pub use bulletin::{Bulletin, Counts, Heard};
pub use entry::{Entry, Told};
pub use head::Head;
pub use rule::Rule;
pub use storage::entry_of;
pub use store::Store;
pub use turns::Turns;

use pingora::cache::predictor::Predictor;
use std::time::Duration;

/// Whoever fetches for others has so long; then another one may.
const FETCH_MAX: Duration = Duration::from_secs(60);
/// Keys whose answers could not be kept, in each of the predictor's shards.
const HOPELESS_MAX: usize = 1024;
/// A reason for not keeping an answer that says nothing of the next one.
pub const THIS_TIME: &str = "this time";

/// All that outlives snapshots. Pingora asks for it to live for ever.
pub struct Cache {
    pub store: &'static Store,
    /// Who fetches what others wait for.
    pub lock: Turns,
    /// What could not be kept lately, so that nobody waits for it.
    pub predictor: Predictor<16>,
}

impl Cache {
    pub fn new() -> &'static Cache {
        let store: &Store = Box::leak(Box::default());
        Box::leak(Box::new(Cache {
            store,
            lock: Turns::new(store, FETCH_MAX),
            predictor: Predictor::new(HOPELESS_MAX, Some(|reason| reason == THIS_TIME)),
        }))
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}
