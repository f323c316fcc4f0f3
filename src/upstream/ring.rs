//! Consistent hashing: endpoints stand on a ring, each at many points, and a key belongs to the next one of them. When one comes
//! or goes, only its own share changes hands (Karger et al., 1997; "ketama").

use super::balance::Fits;
use super::endpoint::Endpoint;
use super::split::{mix, of_name};
use std::sync::Arc;

/// Points of an endpoint of average weight.
const POINTS: u64 = 160;
/// Points that are looked at for one that may be picked, before all endpoints are.
const STEPS_MAX: usize = 1_024;
/// Nobody is called overloaded with fewer requests in flight.
const LOAD_MIN: usize = 16;
/// Of the average, what one endpoint may have in flight (Mirrokni et al.: Consistent hashing with bounded loads, 2017).
const LOAD_PERCENT: u64 = 125;

#[derive(Debug)]
pub struct Ring {
    /// Sorted by their place.
    points: Box<[(u64, u32)]>,
    /// Where to begin, by the first bits of a key.
    begins: Box<[u32]>,
    shift: u32,
    weights: u64,
}

impl Ring {
    pub fn new(endpoints: &[Arc<Endpoint>]) -> Ring {
        let weights: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum::<u64>().max(1);
        let count = endpoints.len() as u64;
        let of_endpoint = |(index, endpoint): (u32, &Arc<Endpoint>)| {
            let points = (POINTS * count * u64::from(endpoint.weight) / weights).max(1);
            let name = of_name(endpoint.label.as_bytes());
            (0..points).map(move |point| (mix(name ^ mix(point)), index))
        };
        let mut points: Vec<(u64, u32)> = (0..).zip(endpoints).flat_map(of_endpoint).collect();
        points.sort_unstable();
        // About one point for each begin.
        let bits = points.len().next_power_of_two().trailing_zeros().max(1);
        let shift = u64::BITS - bits;
        let begins = (0..1u64 << bits).map(|first| points.partition_point(|(at, _)| *at < first << shift) as u32);
        Ring { begins: begins.collect(), points: points.into(), shift, weights }
    }

    /// The endpoint of a key: the first on the ring that fits and is not overloaded, or else that fits.
    pub fn pick(&self, endpoints: &[Arc<Endpoint>], fits: &Fits<'_>, key: u64) -> Option<usize> {
        let begin = *self.begins.get((key >> self.shift) as usize)? as usize;
        let begin = begin + self.points[begin..].iter().take_while(|(at, _)| *at < key).count();
        let n = self.points.len();
        let walk = || (0..n.min(STEPS_MAX)).map(|step| self.points[(begin + step) % n].1 as usize);
        let has_room = |index: &usize| fits(&endpoints[*index]) && !self.is_overloaded(&endpoints[*index], endpoints);
        let first = walk().next()?;
        walk()
            .find(has_room)
            .or_else(|| walk().find(|index| fits(&endpoints[*index])))
            .or_else(|| (0..endpoints.len()).map(|step| (first + step) % endpoints.len()).find(|index| fits(&endpoints[*index])))
    }

    fn is_overloaded(&self, endpoint: &Endpoint, endpoints: &[Arc<Endpoint>]) -> bool {
        let own = endpoint.state.in_flight();
        if own < LOAD_MIN {
            return false;
        }
        let all: usize = endpoints.iter().map(|endpoint| endpoint.state.in_flight()).sum();
        own as u64 * self.weights * 100 >= LOAD_PERCENT * all as u64 * u64::from(endpoint.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::{Pool, Wanted};
    use super::super::testing;
    use super::*;
    use std::collections::HashMap;
    use std::net::SocketAddr;

    fn pool(endpoints: impl Iterator<Item = (u8, u32)>) -> Pool {
        let endpoints: Vec<String> = endpoints.map(|(n, weight)| format!("{{ address: '10.0.0.{n}:80', weight: {weight} }}")).collect();
        testing::pool(&format!("{{ endpoints: [{}], balance: {{ hash: client_ip }} }}", endpoints.join(", ")))
    }

    fn of(pool: &Pool, key: u64) -> SocketAddr {
        let wanted = Wanted { key: Some(of_name(&key.to_be_bytes())), ..Wanted::default() };
        pool.pick_for(&wanted).expect("an endpoint").endpoint().address
    }

    #[test]
    fn a_key_stays_and_each_gets_its_share() {
        let pool = pool((1..=4).map(|n| (n, if n == 4 { 2 } else { 1 })));
        let mut counts = HashMap::<SocketAddr, u32>::new();
        for key in 0..10_000 {
            assert_eq!(of(&pool, key), of(&pool, key));
            *counts.entry(of(&pool, key)).or_default() += 1;
        }
        for (address, count) in &counts {
            let expected = if address.ip().to_string().ends_with('4') { 4_000 } else { 2_000 };
            // The points' spread: some 8 %, and three times that.
            assert!(count.abs_diff(expected) < expected / 4, "{counts:?}");
        }
    }

    #[test]
    fn few_keys_move_when_one_comes_or_goes() {
        let (nine, ten) = (pool((1..=9).map(|n| (n, 1))), pool((1..=10).map(|n| (n, 1))));
        let moved: Vec<u64> = (0..10_000).filter(|key| of(&nine, *key) != of(&ten, *key)).collect();
        assert!((700..1_400).contains(&moved.len()), "{}", moved.len());
        // Those that move go to the new one.
        assert!(moved.iter().all(|key| of(&ten, *key).ip().to_string() == "10.0.0.10"));
    }

    #[test]
    fn the_keys_of_one_that_is_out_are_spread_over_the_others() {
        let pool = pool((1..=5).map(|n| (n, 1)));
        let out = pool.set().endpoints[0].clone();
        let its: Vec<u64> = (0..5_000).filter(|key| of(&pool, *key) == out.address).collect();
        pool.drain(out.address, true);
        let mut counts = HashMap::<SocketAddr, u32>::new();
        its.iter().for_each(|key| *counts.entry(of(&pool, *key)).or_default() += 1);
        assert!(counts.len() == 4 && !counts.contains_key(&out.address), "{counts:?}");
        pool.drain(out.address, false);
        assert!(its.iter().all(|key| of(&pool, *key) == out.address));
    }

    #[test]
    fn nobody_drowns_in_one_key() {
        let pool = pool((1..=4).map(|n| (n, 1)));
        let wanted = Wanted { key: Some(7), ..Wanted::default() };
        let held: Vec<_> = (0..200).map(|_| pool.pick_for(&wanted).expect("an endpoint")).collect();
        let most = pool.set().endpoints.iter().map(|endpoint| endpoint.state.in_flight()).max();
        // A quarter more than an even share of 50.
        assert!(most <= Some(64), "{most:?}");
        drop(held);
    }
}
