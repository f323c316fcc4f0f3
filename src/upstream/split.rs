//! The choice among the services of a route, by weight: the same client always gets the same one.

use std::net::IpAddr;

/// Shares of all clients, from 0 upwards. There is at least one with a weight.
#[derive(Clone, Debug)]
pub struct Split {
    /// The sums of the weights up to and with each service.
    sums: Box<[u64]>,
}

impl Split {
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Split {
        let sums = weights.into_iter().scan(0, |sum, weight| {
            *sum += u64::from(weight);
            Some(*sum)
        });
        Split { sums: sums.collect() }
    }

    /// The weights, in their order.
    pub fn weights(&self) -> impl Iterator<Item = u64> {
        self.sums.iter().scan(0, |before, sum| Some(sum - std::mem::replace(before, *sum)))
    }

    /// The place of a client's service.
    ///
    /// It depends on nothing but the address and the weights, so gateways agree, also with themselves after a restart, and a client
    /// meets the new version of all services or of none where their routes have the same weights. A client is a point on a line
    /// that the weights cut up, so only those between the old and the new cut change sides when the weights do.
    pub fn choose(&self, client: IpAddr) -> usize {
        self.at(of_address(client))
    }

    /// The place of somebody's service, whatever address they come from.
    pub fn choose_for(&self, name: &str) -> usize {
        self.at(of_name(name.as_bytes()))
    }

    fn at(&self, hash: u64) -> usize {
        let (1.., Some(total)) = (self.sums.len().saturating_sub(1), self.sums.last()) else { return 0 };
        let point = (u128::from(hash) * u128::from(*total)) >> 64;
        self.sums.partition_point(|sum| u128::from(*sum) <= point)
    }
}

/// A name as a number from all of 64 bits.
pub fn of_name(name: &[u8]) -> u64 {
    // FNV-1a, 64 bits (RFC 9923), whose high bits are poor by themselves.
    mix(name.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)))
}

/// An address as a number from all of 64 bits.
pub fn of_address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => mix(u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let [high, low] = [v6.to_bits() >> 64, v6.to_bits()].map(|half| half as u64);
            mix(mix(high) ^ low)
        }
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): each bit of the
/// input decides each bit of the output.
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// How many of 10,000 neighbours each service gets.
    fn shares(weights: &[u32], client: impl Fn(u32) -> IpAddr) -> Vec<usize> {
        let split = Split::new(weights.iter().copied());
        let mut counts = vec![0; weights.len()];
        (0..10_000).for_each(|n| counts[split.choose(client(n))] += 1);
        counts
    }

    #[test]
    fn each_gets_its_share_of_the_clients() {
        let v4 = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n));
        let v6 = |n: u32| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(n)));
        let networks = |n: u32| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + (u128::from(n) << 64) + 1));
        for client in [&v4 as &dyn Fn(u32) -> IpAddr, &v6, &networks] {
            for weights in [&[95, 5][..], &[1, 1, 2], &[1_000_000, 1_000_000], &[0, 1], &[7, 0, 3, 0], &[1]] {
                let total: u32 = weights.iter().sum();
                for (count, weight) in shares(weights, client).into_iter().zip(weights) {
                    let expected = 10_000.0 * f64::from(*weight) / f64::from(total);
                    // Six standard deviations of at most 50.
                    assert!((count as f64 - expected).abs() < 300.0, "{weights:?}: {count} of {expected}");
                    assert!(*weight > 0 || count == 0, "{weights:?}: {count}");
                }
            }
        }
    }

    #[test]
    fn names_have_shares_too() {
        let split = Split::new([90, 10]);
        let second = (0..10_000).filter(|n| split.choose_for(&format!("user-{n}")) == 1).count();
        assert!((700..1_300).contains(&second), "{second}");
        assert_eq!(split.choose_for("ada"), split.choose_for("ada"));
    }

    #[test]
    fn few_clients_change_sides_with_the_weights() {
        let (old, new) = (Split::new([95, 5]), Split::new([90, 10]));
        for n in 0..10_000 {
            let client = IpAddr::V4(Ipv4Addr::from_bits(n));
            assert!(new.choose(client) >= old.choose(client), "{client}");
        }
    }

    #[test]
    fn a_choice_stays_the_same_across_versions() {
        let split = Split::new([1; 1_000]);
        for (client, choice) in [("192.0.2.1", 585), ("2001:db8::1", 304)] {
            assert_eq!(split.choose(client.parse().expect("an address")), choice, "{client}");
        }
    }
}
