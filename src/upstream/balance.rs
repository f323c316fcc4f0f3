//! Ways to choose among endpoints: smooth weighted round robin, least request as power of two choices, at random, by a key.

use super::endpoint::Endpoint;
use super::ring::Ring;
use crate::config::raw;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[derive(Debug)]
pub enum Balancer {
    /// The whole cycle, worked out at load, so that a pick is one addition.
    RoundRobin {
        cycle: Box<[u32]>,
        next: AtomicUsize,
    },
    /// The sums of the weights up to and with each endpoint.
    LeastRequest {
        sums: Box<[u32]>,
    },
    /// Likewise.
    Random {
        sums: Box<[u32]>,
    },
    Hash(Ring),
}

impl Balancer {
    pub fn new(kind: &raw::Balance, endpoints: &[Arc<Endpoint>]) -> Balancer {
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        let sums = || {
            let sums = weights.iter().scan(0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            });
            sums.collect()
        };
        match kind {
            raw::Balance::RoundRobin => Balancer::RoundRobin { cycle: smooth_cycle(&weights), next: AtomicUsize::new(0) },
            raw::Balance::LeastRequest => Balancer::LeastRequest { sums: sums() },
            raw::Balance::Random => Balancer::Random { sums: sums() },
            raw::Balance::Hash(_) => Balancer::Hash(Ring::new(endpoints)),
        }
    }

    /// The index of an endpoint that `fits`.
    pub fn pick(&self, endpoints: &[Arc<Endpoint>], fits: &Fits<'_>, key: Option<u64>) -> Option<usize> {
        match self {
            _ if endpoints.is_empty() => None,
            _ if endpoints.len() == 1 => fits(&endpoints[0]).then_some(0),
            Balancer::RoundRobin { cycle, next } => {
                let mut turns = (0..cycle.len()).map(|_| cycle[next.fetch_add(1, Relaxed) % cycle.len()] as usize);
                turns.find(|turn| fits(&endpoints[*turn]))
            }
            Balancer::LeastRequest { sums } => least_request(sums, endpoints, fits),
            Balancer::Random { sums } => Draw { sums, endpoints, fits }.one(None),
            Balancer::Hash(ring) => ring.pick(endpoints, fits, key.unwrap_or_else(|| fastrand::u64(..))),
        }
    }
}

/// Whether an endpoint may be chosen.
pub type Fits<'a> = dyn Fn(&Endpoint) -> bool + 'a;

/// One that takes this many times longer to answer than another is slow, and waited for only when the other is busy.
const SLOW: u32 = 3;
/// In microseconds: below it nobody is slow.
const SLOW_MIN: u32 = 2_000;

/// Draws two by weight and takes the one with less in flight for its weight; the first one when they are equal, so that
/// an idle pool still follows its weights. Where one is much slower, what is in flight there counts for as much more.
fn least_request(sums: &[u32], endpoints: &[Arc<Endpoint>], fits: &Fits<'_>) -> Option<usize> {
    let draw = Draw { sums, endpoints, fits };
    let first = draw.one(None)?;
    let Some(second) = draw.one(Some(first)) else { return Some(first) };
    let (a, b) = (&*endpoints[first], &*endpoints[second]);
    let (slow_a, slow_b) = slowness(a, b);
    // load / weight, compared without a division
    let load = |endpoint: &Endpoint, slow: u64, other: u64| match slow > other {
        true => (endpoint.state.in_flight() as u64 + 1) * slow,
        false => endpoint.state.in_flight() as u64,
    };
    let is_less = load(b, slow_b, slow_a) * u64::from(a.weight) < load(a, slow_a, slow_b) * u64::from(b.weight);
    Some(if is_less { second } else { first })
}

/// Draws by weight.
struct Draw<'a> {
    /// Of the weights up to and with each endpoint.
    sums: &'a [u32],
    endpoints: &'a [Arc<Endpoint>],
    fits: &'a Fits<'a>,
}

impl Draw<'_> {
    /// One that fits, and is not the `other`.
    fn one(&self, other: Option<usize>) -> Option<usize> {
        // With few endpoints that fit, draws may miss them: then they are searched in order from where the draw fell.
        const DRAWS: usize = 4;
        let total = self.sums.last().copied().unwrap_or(1).max(1);
        let draw = || {
            let point = fastrand::u32(..total);
            self.sums.partition_point(|sum| *sum <= point)
        };
        let wanted = |index: usize| Some(index) != other && (self.fits)(&self.endpoints[index]);
        let last = draw();
        std::iter::once(last).chain((1..DRAWS).map(|_| draw())).find(|index| wanted(*index)).or_else(|| {
            let n = self.endpoints.len();
            (0..n).map(|step| (last + step) % n).find(|index| wanted(*index))
        })
    }
}

/// How many times slower than the other each of two is; one is 1.
fn slowness(a: &Endpoint, b: &Endpoint) -> (u64, u64) {
    let is_slow = |own: u32, other: u32| own > SLOW_MIN && own / SLOW > other;
    let (la, lb) = (a.state.latency(), b.state.latency());
    // The common case has to be cheap: the clock is asked only when there is a difference.
    if la == 0 || lb == 0 || !(is_slow(la, lb) || is_slow(lb, la)) {
        return (1, 1);
    }
    match (a.state.latency_now(), b.state.latency_now()) {
        (Some(la), Some(lb)) if is_slow(la, lb) => (u64::from(la / lb.max(1)), 1),
        (Some(la), Some(lb)) if is_slow(lb, la) => (1, u64::from(lb / la.max(1))),
        _ => (1, 1),
    }
}

/// Turns of a cycle times endpoints: what working one out may cost.
const STEPS_MAX: u64 = 4_000_000;
/// Turns that no cycle has more of, but for those of more endpoints.
const TURNS_MAX: u64 = 65_536;

/// The weights without what they have in common, and coarser where their cycle would be too long: SRV records know 65,535 of
/// each. Nobody loses all turns.
fn reduced(weights: &[u32]) -> Vec<i64> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let weights = || weights.iter().map(|weight| u64::from(weight / divisor));
    let (total, count) = (weights().sum::<u64>(), weights().count().max(1) as u64);
    let turns = (STEPS_MAX / count).min(TURNS_MAX).max(count);
    let coarse = |weight: u64| if total > turns { (weight * turns / total).max(1) } else { weight };
    weights().map(|weight| coarse(weight) as i64).collect()
}

/// nginx's smooth weighted round robin, run for one whole cycle: each turn everybody gains their weight, the richest is
/// chosen and pays the total. `{5, 1, 1}` gives a a b a c a a.
fn smooth_cycle(weights: &[u32]) -> Box<[u32]> {
    let weights = reduced(weights);
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
    use super::super::pool::Pool;
    use super::super::testing;
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn pool(kind: &str, weights: &[u32]) -> Pool {
        let endpoints = weights.iter().enumerate().map(|(i, weight)| format!("{{ address: '10.0.0.{i}:80', weight: {weight} }}"));
        testing::pool(&format!("{{ endpoints: [{}], balance: {kind} }}", endpoints.collect::<Vec<_>>().join(", ")))
    }
    fn index(pool: &Pool, tried: &[std::net::SocketAddr]) -> usize {
        let address = pool.pick(tried).expect("an endpoint").endpoint().address;
        pool.set().endpoints.iter().position(|endpoint| endpoint.address == address).expect("one of them")
    }

    #[test]
    fn round_robin_is_smooth() {
        assert_eq!(*smooth_cycle(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(*smooth_cycle(&[20, 10]), [0, 1, 0]);
        let pool = pool("round_robin", &[1, 2]);
        assert_eq!((0..6).map(|_| index(&pool, &[])).collect::<Vec<_>>(), [1, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn a_cycle_of_large_weights_is_coarse_but_fair() {
        assert_eq!(smooth_cycle(&[600, 300]).len(), 3);
        let cycle = smooth_cycle(&[65_535, 32_768, 1]);
        let share = |n: u32| cycle.iter().filter(|turn| **turn == n).count() as f64 / cycle.len() as f64;
        assert!(cycle.len() < 70_000 && (share(0) - 0.6667).abs() < 0.001 && share(2) > 0.0, "{} {}", cycle.len(), share(0));
        let many: Vec<u32> = (1..=1_000).collect();
        let cycle = smooth_cycle(&many);
        assert!(cycle.len() < 6_000 && (0..1_000).all(|n| cycle.contains(&n)), "{}", cycle.len());
    }

    #[test]
    fn least_request_prefers_the_idle_one() {
        let pool = pool("least_request", &[1, 1]);
        let held = pool.pick(&[]).expect("an endpoint");
        for _ in 0..100 {
            assert_ne!(pool.pick(&[]).expect("an endpoint").endpoint().address, held.endpoint().address);
        }
    }

    #[test]
    fn an_idle_pool_follows_its_weights() {
        let pool = pool("least_request", &[1, 3]);
        let rounds = 20_000;
        let heavy = (0..rounds).filter(|_| index(&pool, &[]) == 1).count() as f64;
        // 0.75 of 20,000 with a standard deviation of 61: six of them
        assert!((heavy - 0.75 * f64::from(rounds)).abs() < 370.0, "{heavy}");
    }

    #[test]
    fn random_follows_the_weights_whatever_is_in_flight() {
        let pool = pool("random", &[1, 3]);
        let picked: Vec<_> = (0..4_000).filter_map(|_| pool.pick(&[])).collect();
        let heavy = pool.set().endpoints[1].state.in_flight();
        // 3,000 with a standard deviation of 27.
        assert!(heavy.abs_diff(3_000) < 165, "{heavy}");
        drop(picked);
    }

    #[test]
    fn an_idle_pool_of_many_follows_them_too() {
        let weights = [1, 2, 3, 4, 5, 5];
        let pool = pool("least_request", &weights);
        let (mut counts, rounds) = ([0; 6], 20_000.0);
        (0..20_000).for_each(|_| counts[index(&pool, &[])] += 1);
        for (count, weight) in counts.iter().zip(weights) {
            let expected = rounds * f64::from(weight) / 20.0;
            // Six standard deviations of at most 61.
            assert!((f64::from(*count) - expected).abs() < 370.0, "{counts:?}");
        }
    }

    #[test]
    fn least_request_leaves_one_alone_that_is_much_slower() {
        let pool = pool("least_request", &[1, 1, 1]);
        for (endpoint, ms) in pool.set().endpoints.iter().zip([10, 12, 100]) {
            pool.succeeded(endpoint, Duration::from_millis(ms));
        }
        let mut counts = [0; 3];
        (0..3_000).for_each(|_| counts[index(&pool, &[])] += 1);
        // Those that are alike share alike.
        assert!(counts[2] == 0 && counts[0] > 1_200 && counts[1] > 1_200, "{counts:?}");
        // It is not left alone when the others are busy.
        let _held: Vec<_> = (0..40).map(|_| pool.pick(&[])).collect();
        let slow = pool.set().endpoints[2].state.in_flight();
        assert!((1..8).contains(&slow), "{slow}");
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
        fn what_was_tried_is_left_alone(weights in prop::collection::vec(1u32..9, 2..6), kind in 0..4) {
            let pool = pool(["round_robin", "least_request", "random", "{ hash: client_ip }"][kind as usize], &weights);
            let tried: Vec<_> = pool.set().endpoints[1..].iter().map(|endpoint| endpoint.address).collect();
            prop_assert_eq!(index(&pool, &tried), 0);
        }
    }
}
