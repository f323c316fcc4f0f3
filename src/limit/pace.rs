//! The arithmetic of one rate: the generic cell rate algorithm (ITU-T I.371, annex A) in one word.
//!
//! Time is counted in parts of a token, so that a token's worth of it is a whole number and nothing is lost to rounding: one
//! token is 2^shift units, and `shift` is as large as it may be with at most 2^26 units a second. A bucket is the moment, in
//! units, at which it will be full again (the theoretical arrival time), in the lower 54 bits, enough for seven years. The upper
//! 10 count how often it was found full and begun anew, so that a charge can be taken back exactly: see [`Pace::undo`]. A unit, at
//! most 30 ns, is how finely the clock is read: in any time T no more passes than burst + rate x (T + 30 ns).

use crate::config::scalar::Rate;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const UNITS_PER_SECOND_MAX: u128 = 1 << 26;
const TIME_BITS: u32 = 54;
const TIME: u64 = (1 << TIME_BITS) - 1;
/// A bucket that takes longer to fill would not fit beside seven years of running.
const FILL_MAX: Duration = Duration::from_secs(366 * 86_400);

const NANOS: u128 = 1_000_000_000;

/// A rate, its burst, and what a request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Units of a period, which is this many tokens.
    units: u64,
    period_ns: u64,
    shift: u32,
    burst: u64,
    cost: u64,
}

/// What a bucket was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// What is owed after it.
    pub debt: u64,
    /// Which filling it was taken from.
    filling: u64,
}

impl Pace {
    /// `burst` and `cost` in tokens.
    ///
    /// # Errors
    /// A bucket that would take more than a year to fill.
    pub fn new(rate: Rate, burst: u64, cost: u64) -> Result<Pace, String> {
        let period_ns = rate.period.as_nanos();
        if u128::from(burst) * period_ns > FILL_MAX.as_nanos() * u128::from(rate.count) {
            return Err(format!("a burst of {burst} at {rate} takes more than a year to be there again"));
        }
        // What a year of units allows, whatever the period.
        let fits = |shift: &u32| (u128::from(rate.count) << shift) * NANOS <= UNITS_PER_SECOND_MAX * period_ns;
        let shift = (0..TIME_BITS).rev().find(fits).unwrap_or(0);
        let narrow = |wide: u128| u64::try_from(wide).map_err(|_| format!("{rate} can't be counted"));
        Ok(Pace {
            units: narrow(u128::from(rate.count) << shift)?,
            period_ns: narrow(period_ns)?,
            shift,
            burst: narrow(u128::from(burst) << shift)?,
            cost: narrow(u128::from(cost) << shift)?,
        })
    }

    /// A moment, in nanoseconds since the process began, in units.
    fn at(&self, now_ns: u64) -> u64 {
        // At most 2^26 a second.
        (u128::from(now_ns) * u128::from(self.units) / u128::from(self.period_ns)) as u64 & TIME
    }

    /// What is owed, and whether one more request fits: then what will be.
    ///
    /// # Errors
    /// What is owed, when it does not fit.
    pub fn look(&self, word: u64, now_ns: u64) -> Result<u64, u64> {
        self.step(word, self.at(now_ns)).map(|(_, charge)| charge.debt)
    }

    /// The word after a charge at `now`.
    fn step(&self, word: u64, now: u64) -> Result<(u64, Charge), u64> {
        let (filling, full_at) = (word >> TIME_BITS, word & TIME);
        let (filling, base) = if full_at < now { (filling.wrapping_add(1) & (u64::MAX >> TIME_BITS), now) } else { (filling, full_at) };
        let debt = base - now;
        match debt + self.cost {
            after if after > self.burst => Err(debt),
            after => Ok(((filling << TIME_BITS) | (base + self.cost), Charge { debt: after, filling })),
        }
    }

    /// Takes what a request costs.
    ///
    /// # Errors
    /// What is owed, when there is not enough: then nothing is taken.
    pub fn charge(&self, word: &AtomicU64, now_ns: u64) -> Result<Charge, u64> {
        let now = self.at(now_ns);
        let mut seen = word.load(Relaxed);
        loop {
            let (next, charge) = self.step(seen, now)?;
            match word.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(charge),
                Err(changed) => seen = changed,
            }
        }
    }

    /// Gives back what a charge took, as if it had never been. Once the bucket was full and begun anew there is nothing left of
    /// the charge: to give it back then would let one request too many through.
    pub fn undo(&self, word: &AtomicU64, charge: Charge) {
        let back = |seen: u64| (seen >> TIME_BITS == charge.filling).then(|| seen - self.cost);
        // An error says that there was nothing to give back.
        let _ = word.fetch_update(Relaxed, Relaxed, back);
    }

    /// The bucket is as good as new: it may be forgotten.
    pub fn is_full(&self, word: u64, now_ns: u64) -> bool {
        word & TIME <= self.at(now_ns)
    }

    /// The word of a bucket of which this much is owed.
    pub fn owing(&self, debt: u64, now_ns: u64) -> u64 {
        (self.at(now_ns) + debt.min(self.burst)) & TIME
    }

    /// What is owed of a bucket.
    pub fn debt(&self, word: u64, now_ns: u64) -> u64 {
        (word & TIME).saturating_sub(self.at(now_ns))
    }

    /// What is owed when the bucket is full in so many nanoseconds.
    pub fn debt_of_ns(&self, ns: u64) -> u64 {
        self.at(ns)
    }

    /// Tokens that are left.
    pub fn left(&self, debt: u64) -> u64 {
        self.burst.saturating_sub(debt) >> self.shift
    }

    pub fn burst(&self) -> u64 {
        self.burst >> self.shift
    }

    /// Seconds until nothing is owed, rounded up.
    pub fn until_full(&self, debt: u64) -> u64 {
        self.seconds(debt)
    }

    /// Seconds until another request fits, rounded up; 0 when it does.
    pub fn until_fits(&self, debt: u64) -> u64 {
        self.seconds((debt + self.cost).saturating_sub(self.burst))
    }

    /// Seconds in which an empty bucket fills, rounded up.
    pub fn window(&self) -> u64 {
        self.seconds(self.burst)
    }

    fn seconds(&self, units: u64) -> u64 {
        let ns = u128::from(units) * u128::from(self.period_ns);
        u64::try_from(ns.div_ceil(u128::from(self.units) * NANOS)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pace(rate: &str, burst: u64, cost: u64) -> Pace {
        Pace::new(rate.parse().expect("a rate"), burst, cost).expect("a pace")
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_burst_at_once_then_the_rate() {
        let (pace, word) = (pace("1/6s", 3, 1), AtomicU64::new(0));
        let start = 77 * SECOND;
        let left: Vec<u64> = (0..3).map(|_| pace.left(pace.charge(&word, start).expect("a token").debt)).collect();
        assert_eq!(left, [2, 1, 0]);
        let debt = pace.charge(&word, start).expect_err("none is left");
        assert_eq!((pace.until_fits(debt), pace.until_full(debt), pace.left(debt)), (6, 18, 0));
        assert!(pace.charge(&word, start + 6 * SECOND - 30).is_err());
        assert!(pace.charge(&word, start + 6 * SECOND).is_ok(), "to the clock's unit");
        assert!(pace.charge(&word, start + 6 * SECOND).is_err());
        assert_eq!((pace.burst(), pace.window()), (3, 18));
        assert!(!pace.is_full(word.load(Relaxed), start + 24 * SECOND - 30) && pace.is_full(word.load(Relaxed), start + 24 * SECOND));
    }

    #[test]
    fn a_cost_takes_several() {
        let (pace, word) = (pace("10/s", 10, 4), AtomicU64::new(0));
        assert!(pace.charge(&word, 0).is_ok() && pace.charge(&word, 0).is_ok());
        let debt = pace.charge(&word, 0).expect_err("two are left");
        assert_eq!((pace.left(debt), pace.until_fits(debt)), (2, 1));
        assert!(pace.charge(&word, SECOND / 5).is_ok());
    }

    #[test]
    fn what_is_given_back_is_as_if_it_had_not_been_taken() {
        let (pace, word) = (pace("1/s", 2, 1), AtomicU64::new(0));
        let first = pace.charge(&word, 0).expect("a token");
        let second = pace.charge(&word, 0).expect("a token");
        pace.undo(&word, first);
        assert_eq!(pace.debt(word.load(Relaxed), 0), pace.debt(1 << pace.shift, 0));
        // The second's filling is over: nothing is left of it to give back.
        pace.charge(&word, 9 * SECOND).expect("a token");
        let before = word.load(Relaxed);
        pace.undo(&word, second);
        assert_eq!(word.load(Relaxed), before);
    }

    #[test]
    fn rates_of_any_size_fit() {
        for (rate, burst) in
            [("10000000/s", 10_000_000), ("1/366d", 1), ("999999/s", 1), ("7/3m", 1_000), ("1000000000/366d", 1_000_000_000)]
        {
            let pace = pace(rate, burst, 1);
            let seven_years = 7 * 365 * 86_400 * SECOND;
            assert!(pace.at(seven_years) < TIME - pace.burst, "{rate}");
            assert_eq!(pace.left(pace.charge(&AtomicU64::new(0), seven_years).expect("a token").debt), burst - 1, "{rate}");
        }
        assert!(Pace::new("1/366d".parse().expect("a rate"), 2, 1).is_err());
    }

    /// Tokens as a plain number that grows with time, in exact fractions: (numerator, denominator = period).
    struct Model {
        tokens: i128,
        last: u64,
    }

    proptest! {
        #[test]
        fn lets_through_what_a_plain_model_does(
            count in 1u64..2_000_000, period_ms in 1u64..100_000, burst in 1u64..50, cost in 1u64..5,
            steps in prop::collection::vec((0u64..3_000_000_000, 0u8..4), 1..200),
        ) {
            let cost = cost.min(burst);
            let rate = Rate { count, period: Duration::from_millis(period_ms) };
            prop_assume!(u128::from(count) * 1_000 <= 10_000_000 * u128::from(period_ms));
            let Ok(pace) = Pace::new(rate, burst, cost) else { return Ok(()) };
            let period = i128::from(period_ms) * 1_000_000;
            let full = i128::from(burst) * period;
            let mut model = Model { tokens: full, last: 0 };
            let (word, mut now, mut passed) = (AtomicU64::new(0), 0u64, 0i128);
            for (pause, kind) in steps {
                now += match kind { 0 => 0, 1 => pause % 1_000, 2 => pause % 10_000_000, _ => pause };
                model.tokens = full.min(model.tokens + i128::from(now - model.last) * i128::from(count));
                model.last = now;
                let asked = i128::from(cost) * period;
                let fits = model.tokens >= asked;
                let charged = pace.charge(&word, now);
                // The clock is read in units: a token comes up to one of them sooner or later, and that does not add up.
                let slack = (period >> pace.shift) + 1;
                prop_assert!(charged.is_err() || model.tokens + slack >= asked, "let through at {now}: {} of {asked}", model.tokens);
                prop_assert!(charged.is_ok() || model.tokens < asked + slack, "refused at {now}: {} of {asked}", model.tokens);
                prop_assert!(slack <= 30 * i128::from(count) + 1, "a unit is at most 30 ns");
                match charged {
                    Ok(_) => {
                        model.tokens -= asked;
                        passed += i128::from(cost);
                    }
                    // Both go on from the same.
                    Err(_) if fits => return Ok(()),
                    Err(debt) => {
                        let wait = pace.until_fits(debt);
                        let at = now + wait * SECOND;
                        prop_assert!(pace.look(word.load(Relaxed), at).is_ok(), "not after {wait} s");
                        prop_assert!(wait == 0 || pace.look(word.load(Relaxed), (at - SECOND).saturating_sub(100)).is_err(), "sooner than {wait} s");
                    }
                }
                prop_assert!(passed * period <= full + i128::from(now) * i128::from(count) + slack);
            }
        }
    }

    #[test]
    fn threads_together_get_no_more() {
        let (pace, word) = (pace("1000/s", 500, 1), AtomicU64::new(0));
        let started = std::time::Instant::now();
        let passed: u64 = std::thread::scope(|scope| {
            let ask = || {
                let mut passed = 0;
                while started.elapsed() < Duration::from_millis(500) {
                    let now = started.elapsed().as_nanos() as u64;
                    passed += u64::from(pace.charge(&word, now).is_ok());
                }
                passed
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread")).sum()
        });
        // What fell due while none of the threads had a turn is asked for at the end.
        let end = started.elapsed();
        let rest = std::iter::from_fn(|| pace.charge(&word, end.as_nanos() as u64).ok()).count() as u64;
        let most = 500 + end.as_millis() as u64;
        assert!(passed + rest <= most && passed + rest >= 990, "{passed} and {rest} of {most}");
    }
}
