//! One copy of a service, and what is known of it: whether it may be picked, and how fast it answers.

use super::clock::{ms, now};
use prometheus::IntCounter;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// One copy of a service.
#[derive(Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// The host as it was written, for TLS.
    pub host: Arc<str>,
    /// The address as a text, for log and metrics.
    pub label: Arc<str>,
    pub weight: u32,
    /// It stands in another zone than the gateway.
    pub is_far: bool,
    /// Those with the lowest are picked as long as one of them is well.
    pub priority: u16,
    /// How long it takes to come up to its full share once it is back, in milliseconds; 0 is at once.
    pub slow_start: u64,
    pub state: Arc<EndpointState>,
    /// Counts its answers; made when the first one comes.
    pub answered: OnceLock<IntCounter>,
}

/// What is known of an endpoint for as long as it is configured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct EndpointState {
    #[serde(skip)]
    in_flight: AtomicUsize,
    /// Why it is not simply to be picked: none of the reasons below when 0.
    reasons: AtomicU8,
    /// In a row.
    failures: AtomicU32,
    ejected_until: AtomicU64,
    /// How often it was ejected without having stayed for long in between.
    ejected_in_row: AtomicU32,
    ejections: AtomicU64,
    /// When it came back, or was new.
    warms_since: AtomicU64,
    /// Time of the last sample in `now`'s lower 32 bits, and below it the moving average in microseconds; 0 for none.
    latency: AtomicU64,
    /// Good checks in a row, or bad ones below 0.
    checks: AtomicI64,
    /// When the next check is due, in `now`'s time; 0 when nobody has said.
    check_due: AtomicU64,
    #[serde(skip)]
    is_being_checked: AtomicBool,
}

/// It fails its checks.
const ILL: u8 = 1;
/// The operator has taken it out.
const DRAINED: u8 = 2;
/// It has failed too often in a row.
const EJECTED: u8 = 4;
/// It is back, and gets its share little by little.
const WARMING: u8 = 8;

/// The least share of one that has just come back.
const WARMTH_MIN: f64 = 0.05;
/// An ejection is at most this many doublings longer than the first.
const DOUBLINGS_MAX: u32 = 5;
/// The share of a new sample in the average, as a power of two.
const SAMPLE_SHIFT: u32 = 3;
/// After so many milliseconds a measured time says nothing any more.
const LATENCY_AGE_MAX: u32 = 5_000;

/// What the operator is told of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Up,
    Warming,
    Ill,
    Ejected,
    Drained,
}

impl Standing {
    pub fn name(self) -> &'static str {
        match self {
            Standing::Up => "up",
            Standing::Warming => "warming",
            Standing::Ill => "ill",
            Standing::Ejected => "ejected",
            Standing::Drained => "drained",
        }
    }

    /// Whether requests are sent to it.
    pub fn is_up(self) -> bool {
        matches!(self, Standing::Up | Standing::Warming)
    }
}

impl Endpoint {
    /// It may be picked now, and takes its turn: one that warms up leaves those to others that want more warmth, from 0 to 1, than it has.
    pub fn takes_its_turn(&self, warmth: f64) -> bool {
        self.state.reasons.load(Relaxed) == 0 || self.is_usable() && self.is_warm_enough(warmth)
    }

    /// It may be picked.
    pub fn is_usable(&self) -> bool {
        self.standing().is_up()
    }

    pub fn is_drained(&self) -> bool {
        self.state.has(DRAINED)
    }

    pub fn is_ill(&self) -> bool {
        self.state.has(ILL)
    }

    pub fn standing(&self) -> Standing {
        let state = &*self.state;
        let reasons = state.reasons.load(Relaxed);
        match reasons {
            0 => Standing::Up,
            _ if reasons & DRAINED > 0 => Standing::Drained,
            _ if reasons & ILL > 0 => Standing::Ill,
            _ if reasons & EJECTED > 0 && now() < state.ejected_until.load(Relaxed) => Standing::Ejected,
            _ if reasons & EJECTED > 0 => {
                if state.clear(EJECTED) {
                    log::info!("{} is tried again", self.label);
                    self.warm_up();
                }
                Standing::Warming
            }
            _ => Standing::Warming,
        }
    }

    fn is_warm_enough(&self, warmth: f64) -> bool {
        let state = &*self.state;
        if !state.has(WARMING) {
            return true;
        }
        let warm = now().saturating_sub(state.warms_since.load(Relaxed)) as f64 / self.slow_start.max(1) as f64;
        if warm >= 1.0 {
            state.clear(WARMING);
        }
        warmth < warm.max(WARMTH_MIN)
    }

    /// It begins to come up, where that is wanted.
    pub fn warm_up(&self) {
        if self.slow_start > 0 {
            self.state.warms_since.store(now(), Relaxed);
            self.state.set(WARMING);
        }
    }

    /// Takes it out for a while: `base`, and twice as long each time that it did not stay for as long as it had been away.
    /// Answers how long, in milliseconds.
    pub fn eject(&self, base: Duration) -> u64 {
        let (state, now) = (&*self.state, now());
        let last_until = state.ejected_until.load(Relaxed);
        let in_row = state.ejected_in_row.load(Relaxed);
        let away = |in_row: u32| ms(base) << in_row.saturating_sub(1).min(DOUBLINGS_MAX);
        let in_row = if last_until > 0 && now < last_until + away(in_row) { in_row + 1 } else { 1 };
        state.ejected_in_row.store(in_row, Relaxed);
        state.ejected_until.store(now + away(in_row), Relaxed);
        state.ejections.fetch_add(1, Relaxed);
        state.set(EJECTED);
        away(in_row)
    }
}

impl EndpointState {
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// How often it was ejected since it is known.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    pub fn set_drained(&self, is_drained: bool) {
        if is_drained {
            self.set(DRAINED);
        } else {
            self.clear(DRAINED);
        }
    }

    pub fn set_ill(&self, is_ill: bool) {
        if is_ill {
            self.set(ILL);
        } else {
            self.clear(ILL);
        }
    }

    /// When it is to be checked; at `first` if that was never said.
    pub(super) fn check_due(&self, first: u64) -> u64 {
        if self.check_due.load(Relaxed) == 0 {
            self.check_due.store(first, Relaxed);
        }
        self.check_due.load(Relaxed)
    }

    pub(super) fn set_check_due(&self, due: u64) {
        self.check_due.store(due, Relaxed);
    }

    /// Whether nobody else checks it now.
    pub(super) fn begin_check(&self) -> bool {
        !self.is_being_checked.swap(true, Relaxed)
    }

    pub(super) fn end_check(&self) {
        self.is_being_checked.store(false, Relaxed);
    }

    /// Takes a check's outcome in: so many good ones in a row make it well, so many bad ones ill. Answers whether that changes.
    pub(super) fn checked(&self, is_good: bool, rise: u32, fall: u32) -> bool {
        let before = self.checks.load(Relaxed);
        let in_row = if is_good { before.max(0) + 1 } else { before.min(0) - 1 };
        self.checks.store(in_row, Relaxed);
        match (is_good, self.has(ILL)) {
            (true, true) if in_row >= i64::from(rise) => self.clear(ILL),
            (false, false) if -in_row >= i64::from(fall) => {
                self.set(ILL);
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.has(EJECTED) && now() < self.ejected_until.load(Relaxed)
    }

    /// Counts a failure, and answers how many there were in a row.
    pub(super) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Relaxed).saturating_add(1)
    }

    pub(super) fn succeeded(&self) {
        if self.failures.load(Relaxed) > 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Takes an answer's time into the average. Of two at once one may be lost.
    pub(super) fn took(&self, took: Duration) {
        let time = now() as u32;
        let sample = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let average = match self.latency_at(time) {
            None => sample,
            Some(old) => ((u64::from(old) * ((1 << SAMPLE_SHIFT) - 1) + u64::from(sample)) >> SAMPLE_SHIFT).max(1) as u32,
        };
        self.latency.store(u64::from(time) << 32 | u64::from(average), Relaxed);
    }

    /// The average as it was written, however old it is; 0 for none.
    pub(super) fn latency(&self) -> u32 {
        self.latency.load(Relaxed) as u32
    }

    /// The average in microseconds, while it says something.
    pub(super) fn latency_now(&self) -> Option<u32> {
        self.latency_at(now() as u32)
    }

    fn latency_at(&self, time: u32) -> Option<u32> {
        let known = self.latency.load(Relaxed);
        let is_fresh = time.wrapping_sub((known >> 32) as u32) <= LATENCY_AGE_MAX;
        (known > 0 && is_fresh).then_some(known as u32)
    }

    fn has(&self, reason: u8) -> bool {
        self.reasons.load(Relaxed) & reason > 0
    }

    fn set(&self, reason: u8) {
        self.reasons.fetch_or(reason, Relaxed);
    }

    /// Whether it was there.
    fn clear(&self, reason: u8) -> bool {
        self.reasons.fetch_and(!reason, Relaxed) & reason > 0
    }
}
