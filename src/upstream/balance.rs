//! Ways to choose among endpoints: smooth weighted round robin, and least request as power of two choices.

use super::pool::Endpoint;
use crate::config::raw;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[derive(Debug)]
pub enum Balancer {
    /// The whole cycle, worked out at load, so that a pick is one addition.
    RoundRobin { cycle: Box<[u32]>, next: AtomicUsize },
    /// The sums of the weights up to and with each endpoint.
    LeastRequest { sums: Box<[u32]> },
}

impl Balancer {
    /// For endpoints of these weights, of which there is at least one.
    pub fn new(kind: raw::Balance, weights: &[u32]) -> Balancer {
        match kind {
            raw::Balance::RoundRobin => Balancer::RoundRobin { cycle: smooth_cycle(weights), next: AtomicUsize::new(0) },
            raw::Balance::LeastRequest => {
                let sums = weights.iter().scan(0, |sum, weight| {
                    *sum += weight;
                    Some(*sum)
                });
                Balancer::LeastRequest { sums: sums.collect() }
            }
        }
    }

    /// The index of an endpoint that `fits`, or of any when none does.
    pub fn pick(&self, endpoints: &[Arc<Endpoint>], fits: impl Fn(&Endpoint) -> bool) -> usize {
        match self {
            _ if endpoints.len() == 1 => 0,
            Balancer::RoundRobin { cycle, next } => {
                let turns = (0..cycle.len()).map(|_| cycle[next.fetch_add(1, Relaxed) % cycle.len()] as usize);
                let mut first = None;
                let found = turns.inspect(|turn| _ = first.get_or_insert(*turn)).find(|turn| fits(&endpoints[*turn]));
                found.or(first).unwrap_or(0)
            }
            Balancer::LeastRequest { sums } => least_request(sums, endpoints, fits),
        }
    }
}

/// Draws two by weight and takes the one with less in flight for its weight; the first one when they are equal, so that
/// an idle pool still follows its weights.
fn least_request(sums: &[u32], endpoints: &[Arc<Endpoint>], fits: impl Fn(&Endpoint) -> bool) -> usize {
    // With few endpoints that fit, draws may miss them: then they are searched in order from where the draw fell.
    const DRAWS: usize = 4;
    let total = sums.last().copied().unwrap_or(1);
    let draw = || sums.partition_point(|sum| *sum <= fastrand::u32(..total));
    let fitting = |other: Option<usize>| {
        let wanted = |index: usize| Some(index) != other && fits(&endpoints[index]);
        let last = draw();
        std::iter::once(last).chain((1..DRAWS).map(|_| draw())).find(|index| wanted(*index)).or_else(|| {
            let n = endpoints.len();
            (0..n).map(|step| (last + step) % n).find(|index| wanted(*index))
        })
    };
    let Some(first) = fitting(None) else { return draw() };
    let Some(second) = fitting(Some(first)) else { return first };
    let load = |index: usize| endpoints[index].state.in_flight() as u64;
    let weight = |index: usize| u64::from(endpoints[index].weight);
    // load / weight, compared without a division
    if load(second) * weight(first) < load(first) * weight(second) { second } else { first }
}

/// nginx's smooth weighted round robin, run for one whole cycle: each turn everybody gains their weight, the richest is
/// chosen and pays the total. `{5, 1, 1}` gives a a b a c a a.
fn smooth_cycle(weights: &[u32]) -> Box<[u32]> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / divisor)).collect();
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0; weights.len()];
    let turn = |_| {
        for (credit, weight) in credit.iter_mut().zip(&weights) {
            *credit += weight;
        }
        let richest = (0..credit.len()).max_by_key(|index| (credit[*index], std::cmp::Reverse(*index))).unwrap_or(0);
        credit[richest] -= total;
        u32::try_from(richest).unwrap_or(0)
    };
    (0..total).map(turn).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::super::pool::{Pool, States};
    use super::*;
    use crate::config::place::At;
    use crate::config::problem::Problems;
    use proptest::prelude::*;

    fn pool(kind: raw::Balance, weights: &[u32]) -> Pool {
        let endpoint = |(i, weight): (usize, &u32)| {
            Some(raw::Endpoint { address: format!("10.0.0.{i}:80").parse().expect("an address"), weight: *weight })
        };
        let raw: Vec<_> = weights.iter().enumerate().map(endpoint).collect();
        Pool::build("s", &raw, kind, &At::root(), &States::default(), &Problems::default()).expect("a pool")
    }
    fn index(pool: &Pool, tried: &[std::net::SocketAddr]) -> usize {
        let address = pool.pick(tried).endpoint().address;
        pool.endpoints().iter().position(|endpoint| endpoint.address == address).expect("one of them")
    }

    #[test]
    fn round_robin_is_smooth() {
        assert_eq!(*smooth_cycle(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(*smooth_cycle(&[20, 10]), [0, 1, 0]);
        let pool = pool(raw::Balance::RoundRobin, &[1, 2]);
        assert_eq!((0..6).map(|_| index(&pool, &[])).collect::<Vec<_>>(), [1, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn least_request_prefers_the_idle_one() {
        let pool = pool(raw::Balance::LeastRequest, &[1, 1]);
        let held = pool.pick(&[]);
        for _ in 0..100 {
            assert_ne!(pool.pick(&[]).endpoint().address, held.endpoint().address);
        }
    }

    #[test]
    fn an_idle_pool_follows_its_weights() {
        let pool = pool(raw::Balance::LeastRequest, &[1, 3]);
        let rounds = 20_000;
        let heavy = (0..rounds).filter(|_| index(&pool, &[]) == 1).count() as f64;
        // 0.75 of 20,000 with a standard deviation of 61: six of them
        assert!((heavy - 0.75 * f64::from(rounds)).abs() < 370.0, "{heavy}");
    }

    proptest! {
        #[test]
        fn a_cycle_gives_each_its_share(weights in prop::collection::vec(1u32..50, 1..8)) {
            let cycle = smooth_cycle(&weights);
            let divisor = weights.iter().copied().fold(0, gcd);
            for (index, weight) in weights.iter().enumerate() {
                let turns = cycle.iter().filter(|turn| **turn as usize == index).count();
                prop_assert_eq!(turns, (weight / divisor) as usize);
            }
        }

        #[test]
        fn what_was_tried_is_left_alone(weights in prop::collection::vec(1u32..9, 2..6), kind in 0..2) {
            let kind = if kind == 0 { raw::Balance::RoundRobin } else { raw::Balance::LeastRequest };
            let pool = pool(kind, &weights);
            let tried: Vec<_> = pool.endpoints()[1..].iter().map(|endpoint| endpoint.address).collect();
            prop_assert_eq!(index(&pool, &tried), 0);
        }
    }
}
