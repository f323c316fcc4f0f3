//! The terms of an answer as they are kept.

use super::fresh::Terms;
use std::time::{Duration, UNIX_EPOCH};

/// A third of the room that [`Terms`] take: to the millisecond, and windows to the second. What was withheld is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    received_ms: u64,
    lifetime_ms: u64,
    initial_age_ms: u64,
    stale_while_revalidate_s: u32,
    stale_if_error_s: u32,
    must_revalidate: bool,
}

impl Times {
    pub fn new(terms: &Terms) -> Times {
        Times {
            received_ms: ms(terms.received.duration_since(UNIX_EPOCH).unwrap_or_default()),
            lifetime_ms: ms(terms.lifetime),
            initial_age_ms: ms(terms.initial_age),
            stale_while_revalidate_s: seconds(terms.stale_while_revalidate),
            stale_if_error_s: seconds(terms.stale_if_error),
            must_revalidate: terms.must_revalidate,
        }
    }

    pub fn terms(&self) -> Terms {
        let window = |seconds: u32| Duration::from_secs(seconds.into());
        Terms {
            received: UNIX_EPOCH + Duration::from_millis(self.received_ms),
            lifetime: Duration::from_millis(self.lifetime_ms),
            initial_age: Duration::from_millis(self.initial_age_ms),
            stale_while_revalidate: window(self.stale_while_revalidate_s),
            stale_if_error: window(self.stale_if_error_s),
            must_revalidate: self.must_revalidate,
            withheld: Box::default(),
        }
    }
}

/// A window in whole seconds, as long as can be told.
pub fn seconds(window: Duration) -> u32 {
    u32::try_from(window.as_secs()).unwrap_or(u32::MAX)
}

/// Lifetimes beyond a thousand years are as good as that: what comes of them is still a time.
fn ms(time: Duration) -> u64 {
    const MAX: Duration = Duration::from_secs(1_000 * 366 * 86_400);
    time.min(MAX).as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_come_back() {
        let terms = Terms {
            received: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            lifetime: Duration::from_millis(59_999),
            initial_age: Duration::from_millis(7),
            stale_while_revalidate: Duration::from_secs(5),
            stale_if_error: Duration::from_secs(u64::MAX),
            must_revalidate: true,
            withheld: Box::default(),
        };
        let back = Times::new(&terms).terms();
        assert_eq!(back, Terms { stale_if_error: Duration::from_secs(u32::MAX.into()), ..terms });
        let endless = Times::new(&Terms { lifetime: Duration::MAX, ..back }).terms();
        assert!(endless.fresh_until() > endless.received + Duration::from_secs(1 << 34));
    }
}
