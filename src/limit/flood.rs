//! The coarse guard before everything else: so many requests of one client address, in constant memory.
//!
//! It is an estimate (a count-min sketch, `pingora_limits::rate`), which counts too much rather than too little, and whose
//! interval has edges: a ceiling far above any honest client, not a limit. What is refused is counted on.

use crate::config::scalar::Rate;
use pingora_limits::rate;
use std::net::IpAddr;

/// Four rows: what an address is charged too much is about a three-thousandth of all requests of an interval, one address in fifty.
const ROWS: usize = 4;
const SLOTS: usize = 8192;

pub struct Flood {
    seen: rate::Rate,
    /// In one interval.
    max: isize,
}

impl Flood {
    pub fn new(rate: Rate) -> Flood {
        let seen = rate::Rate::new_with_estimator_config(rate.period, ROWS, SLOTS);
        Flood { seen, max: isize::try_from(rate.count).unwrap_or(isize::MAX) }
    }

    /// Counts a request of this client, and says whether it is one too many. IPv6 by /64.
    pub fn is_over(&self, client: IpAddr) -> bool {
        let network = match client {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64 | 1 << 63,
        };
        self.seen.observe(&network, 1) > self.max
    }
}

impl std::fmt::Debug for Flood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flood").field("max", &self.max).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_ceiling() {
        let flood = Flood::new("100/1h".parse().expect("a rate"));
        let over = |client: &str, times| (0..times).filter(|_| flood.is_over(client.parse().expect("an address"))).count();
        assert_eq!((over("10.0.0.1", 150), over("10.0.0.2", 100)), (50, 0));
        assert_eq!((over("2001:db8::1", 60), over("2001:db8::2", 60), over("2001:db8:0:1::1", 100)), (0, 20, 0));
    }
}
