//! How fast a client sends a body: one that drips holds a connection, a stream and a service for as long as it likes.

use super::deadline::now;

/// How long a body is waited for before it has to keep a pace.
const GRACE_MS: u64 = 5_000;

/// How fast a body comes.
#[derive(Debug, Default)]
pub struct Pace {
    bytes: u64,
    /// Milliseconds that we have waited for the client. While a service takes its time, nobody waits for the client.
    waited: u64,
    /// Since when we wait, in `deadline::now`'s time.
    since: Option<u64>,
}

impl Pace {
    /// From now on the client is waited for.
    pub fn wait(&mut self) {
        self.since.get_or_insert_with(now);
    }

    /// So many bytes have come: answers the bytes a second so far.
    pub fn go_on(&mut self, bytes: usize) -> u64 {
        self.bytes += bytes as u64;
        if let Some(since) = self.since.take() {
            self.waited += now().saturating_sub(since);
        }
        match self.waited > GRACE_MS {
            true => self.bytes * 1000 / self.waited,
            false => u64::MAX,
        }
    }
}
