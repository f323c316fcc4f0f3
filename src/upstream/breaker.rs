//! The breaker of a service as a whole: closed while enough requests succeed; open, so that a service that fails is left alone;
//! then one request at a time tries whether it is back.

use super::clock::{ms, now};
use super::states::ServiceState;
use crate::config::raw;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Parts of the window, each of which is forgotten as a whole.
const PARTS: usize = 10;

/// When a breaker opens.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    error_percent: u64,
    requests_min: u64,
    /// Milliseconds of one part of the window.
    part: u64,
    open: u64,
    slow: Option<Duration>,
}

impl Limits {
    pub fn new(raw: &raw::Breaker) -> Limits {
        Limits {
            error_percent: raw.error_percent.0,
            requests_min: raw.min_requests.0,
            part: (ms(raw.window) / PARTS as u64).max(1),
            open: ms(raw.open).max(1),
            slow: raw.slow.0,
        }
    }
}

/// What is known of a service's requests. Outlives reloads.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Breaker {
    /// When one may try, in `now`'s time; 0 while it is closed.
    opens: AtomicU64,
    /// Since when a request tries, in `now`'s time; 0 while none does.
    #[serde(skip)]
    tries: AtomicU64,
    window: Mutex<[Part; PARTS]>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Part {
    number: u64,
    all: u64,
    errors: u64,
}

impl Breaker {
    /// Nothing is sent to the service, or one request tries.
    pub fn is_open(&self) -> bool {
        self.opens.load(Relaxed) > 0
    }

    /// Lets a request through, or answers in how many seconds another try makes sense. One that tries has as long as the breaker is open: behind
    /// that another may, since the first may be held up by its own client.
    /// Answers the trial's number, if it is one.
    fn admit(&self, limits: &Limits, now: u64) -> Result<Option<u64>, u32> {
        let (opens, tries) = (self.opens.load(Relaxed), self.tries.load(Relaxed));
        match opens {
            0 => Ok(None),
            _ if now < opens => Err(u32::try_from((opens - now).div_ceil(1_000)).unwrap_or(u32::MAX)),
            _ if tries > 0 && now < tries + limits.open => Err(1),
            _ => self.tries.compare_exchange(tries, now, Relaxed, Relaxed).map(|_| Some(now)).map_err(|_| 1),
        }
    }

    /// Counts what became of a request. Answers whether the breaker opens with it.
    fn count(&self, limits: &Limits, is_error: bool, now: u64) -> bool {
        let number = now / limits.part;
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let part = &mut window[(number % PARTS as u64) as usize];
        if part.number != number {
            *part = Part { number, ..Part::default() };
        }
        part.all += 1;
        part.errors += u64::from(is_error);
        if !is_error || self.is_open() {
            return false;
        }
        let fresh = window.iter().filter(|part| part.number + PARTS as u64 > number);
        let (all, errors) = fresh.fold((0, 0), |(all, errors), part| (all + part.all, errors + part.errors));
        let opens = all >= limits.requests_min && errors * 100 >= limits.error_percent * all;
        if opens {
            *window = Default::default();
            self.opens.store(now + limits.open, Relaxed);
        }
        opens
    }

    /// What became of the request that tried; whether that decided. One that another has taken the place of may still say that the service is back,
    /// unless a later one has found out otherwise.
    fn tried(&self, trial: u64, limits: &Limits, is_error: bool, now: u64) -> bool {
        let opens = self.opens.load(Relaxed);
        let decides = self.tries.load(Relaxed) == trial || (!is_error && opens > 0 && trial >= opens);
        if decides {
            self.opens.store(if is_error { now + limits.open } else { 0 }, Relaxed);
            self.tries.store(0, Relaxed);
        }
        decides
    }

    /// It comes to nothing: another may try.
    fn abandoned(&self, trial: u64) {
        let _ = self.tries.compare_exchange(trial, 0, Relaxed, Relaxed);
    }
}

/// A request that the breaker let through. One that is dropped without an outcome, such as of a client that has gone, says
/// nothing of the service.
#[derive(Debug)]
pub struct Admitted {
    state: Arc<ServiceState>,
    limits: Limits,
    name: Arc<str>,
    /// Its number, if it tries whether the service is back.
    trial: Option<u64>,
    is_counted: bool,
}

impl Admitted {
    /// # Errors
    /// The seconds until another try makes sense.
    pub(super) fn new(state: &Arc<ServiceState>, limits: &Limits, name: &Arc<str>) -> Result<Admitted, u32> {
        let trial = state.breaker.admit(limits, now())?;
        Ok(Admitted { state: state.clone(), limits: *limits, name: name.clone(), trial, is_counted: false })
    }

    /// The service has answered, or failed to.
    pub fn end(mut self, is_error: bool, took: Duration) {
        let is_error = is_error || self.limits.slow.is_some_and(|slow| took > slow);
        let (breaker, name) = (&self.state.breaker, &self.name);
        match self.trial {
            Some(trial) if breaker.tried(trial, &self.limits, is_error, now()) => {
                log::info!("{name} was tried: {}", if is_error { "it fails still" } else { "it is back" });
            }
            _ if breaker.count(&self.limits, is_error, now()) => {
                log::warn!("{name} fails too often: nothing is sent to it for {} ms", self.limits.open);
            }
            _ => {}
        }
        self.is_counted = true;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(trial) = self.trial.filter(|_| !self.is_counted) {
            self.state.breaker.abandoned(trial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { error_percent: 50, requests_min: 4, part: 100, open: 5_000, slow: None };

    #[test]
    fn opens_with_enough_errors_among_enough_requests() {
        let breaker = Breaker::default();
        let opened = [true, true, true].map(|is_error| breaker.count(&LIMITS, is_error, 10_000));
        assert_eq!((opened, breaker.admit(&LIMITS, 10_000)), ([false; 3], Ok(None)));
        assert!(breaker.count(&LIMITS, true, 10_000));
        assert_eq!([breaker.admit(&LIMITS, 10_001), breaker.admit(&LIMITS, 14_999)], [Err(5), Err(1)]);
    }

    #[test]
    fn successes_weigh_against_them() {
        let breaker = Breaker::default();
        (0..6).for_each(|_| assert!(!breaker.count(&LIMITS, false, 10_000)));
        let opened: Vec<bool> = (0..6).map(|_| breaker.count(&LIMITS, true, 10_000)).collect();
        assert_eq!(opened, [false, false, false, false, false, true]);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let breaker = Breaker::default();
        (0..3).for_each(|_| assert!(!breaker.count(&LIMITS, true, 10_000)));
        assert!(!breaker.count(&LIMITS, true, 11_000));
        assert!((0..2).all(|_| !breaker.count(&LIMITS, true, 11_900)) && breaker.count(&LIMITS, true, 11_900));
    }

    #[test]
    fn one_at_a_time_tries_whether_it_is_back() {
        let breaker = Breaker::default();
        assert!((0..3).all(|_| !breaker.count(&LIMITS, true, 10_000)) && breaker.count(&LIMITS, true, 10_000));
        assert_eq!([breaker.admit(&LIMITS, 15_000), breaker.admit(&LIMITS, 15_000)], [Ok(Some(15_000)), Err(1)]);
        // One that comes to no end does not bar the way for ever.
        assert_eq!(
            [breaker.admit(&LIMITS, 19_999), breaker.admit(&LIMITS, 20_000), breaker.admit(&LIMITS, 20_001)],
            [Err(1), Ok(Some(20_000)), Err(1)]
        );
        // That the one before it fails decides nothing any more, and does not make room either.
        assert!(!breaker.tried(15_000, &LIMITS, true, 20_050));
        breaker.abandoned(15_000);
        assert_eq!(breaker.admit(&LIMITS, 20_050), Err(1));
        assert!(breaker.tried(20_000, &LIMITS, true, 15_100));
        assert_eq!(
            [breaker.admit(&LIMITS, 15_200), breaker.admit(&LIMITS, 20_100), breaker.admit(&LIMITS, 20_100)],
            [Err(5), Ok(Some(20_100)), Err(1)]
        );
        assert!(breaker.tried(20_100, &LIMITS, false, 20_200));
        assert_eq!([breaker.admit(&LIMITS, 20_200), breaker.admit(&LIMITS, 20_200)], [Ok(None), Ok(None)]);
        // A late success counts as long as no later trial has failed.
        let slow = Breaker::default();
        assert!((0..3).all(|_| !slow.count(&LIMITS, true, 10_000)) && slow.count(&LIMITS, true, 10_000));
        assert_eq!([slow.admit(&LIMITS, 15_000), slow.admit(&LIMITS, 20_000)], [Ok(Some(15_000)), Ok(Some(20_000))]);
        assert!(slow.tried(15_000, &LIMITS, false, 21_000));
        assert_eq!(slow.admit(&LIMITS, 21_000), Ok(None));
        // It begins anew.
        assert!((0..3).all(|_| !breaker.count(&LIMITS, true, 20_200)));
    }

    #[test]
    fn a_trial_that_comes_to_nothing_leaves_room_for_the_next() {
        let (state, name) = (Arc::new(ServiceState::default()), Arc::from("s"));
        state.breaker.opens.store(1, Relaxed);
        let trial = Admitted::new(&state, &LIMITS, &name).expect("let through");
        assert_eq!(Admitted::new(&state, &LIMITS, &name).err(), Some(1));
        drop(trial);
        Admitted::new(&state, &LIMITS, &name).expect("let through").end(false, Duration::ZERO);
        assert!(!state.breaker.is_open());
    }
}
