//! The clock of what is counted in milliseconds.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Milliseconds of the coarse monotonic clock, never 0: good to a few of them, at a tenth of the price of the fine one.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE);
    time.map_or(1, |t| (t.tv_sec().unsigned_abs() * 1000 + t.tv_nsec().unsigned_abs() / 1_000_000).max(1))
}

/// A duration in [`now`]'s milliseconds; one without end stays far from overflow.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}
