//! Failed attempts, slowed down for each client address in constant memory: a refusal comes the later, the more there were. Who
//! gets in does not wait, unless it takes much to find out that it is so: that begins the later too. Addresses that share a slot
//! share its rest.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const SLOTS: usize = 8_192;
/// What an address may fail at once, in the same measure as costs.
const BURST: Duration = Duration::from_secs(10);
/// No refusal waits longer.
const WAIT_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Failures {
    /// When each slot will have rested, in milliseconds since `began` (GCRA, ITU-T I.371).
    slots: Box<[AtomicU64]>,
    began: Instant,
    hasher: RandomState,
}

impl Default for Failures {
    fn default() -> Failures {
        Failures { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), began: Instant::now(), hasher: RandomState::new() }
    }
}

impl Failures {
    /// Notes a failure that is worth `cost` of rest, and answers how long its refusal has to wait.
    pub fn failed(&self, client: IpAddr, cost: Duration) -> Duration {
        self.failed_at(client, cost, self.began.elapsed())
    }

    /// How long another refusal would have to wait now, if it were worth nothing.
    pub fn owed(&self, client: IpAddr) -> Duration {
        self.owed_at(client, self.began.elapsed())
    }

    fn owed_at(&self, client: IpAddr, now: Duration) -> Duration {
        let rested = self.slot(client).load(Relaxed);
        Duration::from_millis(rested.saturating_sub(millis(now)).saturating_sub(millis(BURST)))
    }

    fn slot(&self, client: IpAddr) -> &AtomicU64 {
        &self.slots[(self.hasher.hash_one(group(client)) % SLOTS as u64) as usize]
    }

    fn failed_at(&self, client: IpAddr, cost: Duration, now: Duration) -> Duration {
        let (now, most) = (millis(now), millis(BURST + WAIT_MAX));
        let slot = self.slot(client);
        let add = |rested: u64| Some((rested.max(now) + millis(cost)).min(now + most));
        let rested = slot.fetch_update(Relaxed, Relaxed, add).ok().and_then(add).unwrap_or(now);
        Duration::from_millis((rested - now).saturating_sub(millis(BURST)))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A client of IPv6 has a whole /64.
pub(super) fn group(client: IpAddr) -> u128 {
    match client.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_are_free_and_then_one_a_second() {
        let failures = Failures::default();
        let (client, other) = ("2001:db8::1".parse().expect("an address"), "2001:db8::2:1".parse().expect("an address"));
        let cost = Duration::from_secs(1);
        let mut now = Duration::from_secs(100);
        for _ in 0..10 {
            assert_eq!((failures.failed_at(client, cost, now), failures.owed_at(client, now)), (Duration::ZERO, Duration::ZERO));
        }
        for n in 1..=5 {
            let wait = Duration::from_secs(n);
            assert_eq!((failures.failed_at(other, cost, now), failures.owed_at(client, now)), (wait, wait));
        }
        assert_eq!(failures.failed_at(client, cost, now), WAIT_MAX);
        assert_eq!(failures.owed_at(client, now + Duration::from_secs(4)), Duration::from_secs(1));
        now += Duration::from_secs(15);
        assert_eq!(failures.failed_at(client, cost, now), Duration::ZERO);
    }
}
