//! The terms of an answer as they are kept.

use super::fresh::Terms;
use std::time::{Duration, UNIX_EPOCH};

/// A third of the room that [`Terms`] take, to the millisecond. What was withheld is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    received_ms: u64,
    lifetime_ms: u64,
    initial_age_ms: u64,
    stale_while_revalidate_ms: u32,
    stale_if_error_ms: u32,
    must_revalidate: bool,
}

impl Times {
    pub fn new(terms: &Terms) -> Times {
        Times {
            received_ms: ms(terms.received.duration_since(UNIX_EPOCH).unwrap_or_default()),
            lifetime_ms: ms(terms.lifetime),
            initial_age_ms: ms(terms.initial_age),
            stale_while_revalidate_ms: window_ms(terms.stale_while_revalidate),
            stale_if_error_ms: window_ms(terms.stale_if_error),
            must_revalidate: terms.must_revalidate,
        }
    }

    pub fn terms(&self) -> Terms {
        Terms {
            received: UNIX_EPOCH + Duration::from_millis(self.received_ms),
            lifetime: Duration::from_millis(self.lifetime_ms),
            initial_age: Duration::from_millis(self.initial_age_ms),
            stale_while_revalidate: Duration::from_millis(self.stale_while_revalidate_ms.into()),
            stale_if_error: Duration::from_millis(self.stale_if_error_ms.into()),
            must_revalidate: self.must_revalidate,
            withheld: Box::default(),
        }
    }
}

/// A window, 49 days at most: what is in memory is rarely stale for so long, and there are many of them.
fn window_ms(window: Duration) -> u32 {
    u32::try_from(window.as_millis()).unwrap_or(u32::MAX)
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
            stale_while_revalidate: Duration::from_millis(800),
            stale_if_error: Duration::from_secs(u64::MAX),
            must_revalidate: true,
            withheld: Box::default(),
        };
        let back = Times::new(&terms).terms();
        assert_eq!(back, Terms { stale_if_error: Duration::from_millis(u32::MAX.into()), ..terms });
        let endless = Times::new(&Terms { lifetime: Duration::MAX, ..back }).terms();
        assert!(endless.fresh_until() > endless.received + Duration::from_secs(1 << 34));
    }
}
