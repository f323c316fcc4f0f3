//! What is known of services and their endpoints for as long as they are configured: snapshots share it.

use super::breaker::Breaker;
use super::clock::now;
use super::endpoint::EndpointState;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// The states of all services, by name. Those that no snapshot has any more are dropped with the last one that had them.
#[derive(Debug, Default)]
pub struct States {
    services: Mutex<HashMap<String, Weak<ServiceState>>>,
    /// Random, of this process and of those that take its place.
    secret: OnceLock<[u8; 32]>,
    /// What the process knew whose place this one takes, until the first snapshot has it.
    expected: Mutex<Vec<Held>>,
}

/// A service with its endpoints, all of which live as long as this does.
type Held = (Arc<ServiceState>, Vec<Arc<EndpointState>>);

impl States {
    /// What is signed with, where the configuration has nothing for it.
    pub fn secret(&self) -> &[u8; 32] {
        self.secret.get_or_init(|| {
            let mut secret = [0; 32];
            // Without randomness there is no TLS either.
            let _ = SystemRandom::new().fill(&mut secret);
            secret
        })
    }

    /// One that is in use already stays.
    pub(super) fn set_secret(&self, secret: [u8; 32]) {
        let _ = self.secret.set(secret);
    }

    /// Keeps what is known of a service and its endpoints, until [`States::let_go`].
    pub(super) fn expect(&self, name: String, service: ServiceState, endpoints: Vec<(SocketAddr, EndpointState)>) {
        let (service, endpoints): (_, Vec<_>) =
            (Arc::new(service), endpoints.into_iter().map(|(address, state)| (address, Arc::new(state))).collect());
        service.endpoints().extend(endpoints.iter().map(|(address, state)| (*address, Arc::downgrade(state))));
        self.services().insert(name, Arc::downgrade(&service));
        self.expected().push((service, endpoints.into_iter().map(|(_, state)| state).collect()));
    }

    /// A snapshot has by now what it wants of what was expected.
    pub fn let_go(&self) {
        self.expected().clear();
    }

    fn expected(&self) -> MutexGuard<'_, Vec<Held>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn services(&self) -> MutexGuard<'_, HashMap<String, Weak<ServiceState>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<(String, Arc<ServiceState>)> {
        self.services().iter().filter_map(|(name, state)| Some((name.clone(), state.upgrade()?))).collect()
    }

    pub(super) fn service(&self, name: &str) -> Arc<ServiceState> {
        let mut known = self.services();
        if let Some(state) = known.get(name).and_then(Weak::upgrade) {
            return state;
        }
        known.retain(|_, state| state.strong_count() > 0);
        let state = Arc::default();
        known.insert(name.to_string(), Arc::downgrade(&state));
        state
    }
}

/// What is known of a service.
#[derive(Debug, Default)]
pub struct ServiceState {
    endpoints: Mutex<HashMap<SocketAddr, Weak<EndpointState>>>,
    /// What the service's name last stood for.
    found: Mutex<Vec<SocketAddr>>,
    /// One decides at a time who may be ejected.
    deciding: Mutex<()>,
    pub(super) budget: Budget,
    pub(super) breaker: Breaker,
}

impl ServiceState {
    pub(super) fn known(found: Vec<SocketAddr>, budget: Budget, breaker: Breaker) -> ServiceState {
        ServiceState { found: Mutex::new(found), budget, breaker, ..ServiceState::default() }
    }

    fn endpoints(&self) -> MutexGuard<'_, HashMap<SocketAddr, Weak<EndpointState>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Vec<(SocketAddr, Arc<EndpointState>)> {
        self.endpoints().iter().filter_map(|(address, state)| Some((*address, state.upgrade()?))).collect()
    }

    /// The state of an endpoint, and whether it is new here beside others.
    pub(super) fn endpoint(&self, address: SocketAddr) -> (Arc<EndpointState>, bool) {
        let mut known = self.endpoints();
        if let Some(state) = known.get(&address).and_then(Weak::upgrade) {
            return (state, false);
        }
        known.retain(|_, state| state.strong_count() > 0);
        let state = Arc::default();
        known.insert(address, Arc::downgrade(&state));
        (state, true)
    }

    /// Somebody is known here already.
    pub(super) fn is_settled(&self) -> bool {
        self.endpoints().values().any(|state| state.strong_count() > 0)
    }

    pub(super) fn last_found(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn deciding(&self) -> MutexGuard<'_, ()> {
        self.deciding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many attempts beside the first of each request a service may be sent, so that its failure doesn't become a storm: so
/// many of a hundred requests, some at once, and one a second however few requests there are.
#[derive(Debug, Serialize, Deserialize)]
pub struct Budget {
    /// In hundredths of an attempt.
    left: AtomicI64,
    /// When the last one beyond it was given.
    given: AtomicU64,
}

const ONE: i64 = 100;
/// At the beginning.
const FIRST: i64 = 10 * ONE;
/// What may be saved up.
const MOST: i64 = 100 * ONE;
/// Between those that are given however little is left, in milliseconds.
const GIVEN_EVERY: u64 = 1_000;

impl Default for Budget {
    fn default() -> Self {
        Budget { left: AtomicI64::new(FIRST), given: AtomicU64::new(0) }
    }
}

impl Budget {
    /// A request comes, of which so many of a hundred may be tried again.
    pub(super) fn earn(&self, percent: u32) {
        if self.left.load(Relaxed) < MOST {
            self.left.fetch_add(i64::from(percent), Relaxed);
        }
    }

    /// Whether another attempt may be made.
    pub(super) fn spend(&self) -> bool {
        if self.left.fetch_sub(ONE, Relaxed) >= ONE {
            return true;
        }
        self.left.fetch_add(ONE, Relaxed);
        let (given, now) = (self.given.load(Relaxed), now());
        now >= given + GIVEN_EVERY && self.given.compare_exchange(given, now, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_cut_to_its_share() {
        let budget = Budget::default();
        let tried = (0..1_000).filter(|_| {
            budget.earn(20);
            budget.spend()
        });
        let tried = tried.count();
        // 10 at first, 200 of a thousand, and one that is given for each second that this takes.
        assert!((210..=215).contains(&tried), "{tried}");
    }

    #[test]
    fn what_is_saved_up_has_an_end() {
        let budget = Budget::default();
        (0..100_000).for_each(|_| budget.earn(20));
        let tried = (0..1_000).filter(|_| budget.spend()).count();
        assert!((100..=105).contains(&tried), "{tried}");
    }

    #[test]
    fn states_live_as_long_as_somebody_has_them() {
        let states = States::default();
        let address = "10.0.0.1:1".parse().expect("an address");
        let service = states.service("s");
        assert!(!service.is_settled());
        let (held, is_new) = service.endpoint(address);
        held.enter();
        assert!(is_new && service.is_settled());
        assert_eq!(states.service("s").endpoint(address).0.in_flight(), 1);
        drop(held);
        assert!(service.endpoint(address).1);
    }
}
