//! What is known of services and endpoints, on its way into the process that takes the place of this one.
//!
//! Times are those of the machine's monotonic clock, which both processes read.

use super::States;
use super::breaker::Breaker;
use super::endpoint::EndpointState;
use super::states::{Budget, ServiceState};
use crate::types::Carried;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(Deserialize)]
struct Known {
    secret: [u8; 32],
    services: Vec<OfService>,
}

#[derive(Deserialize)]
struct OfService {
    name: String,
    /// What the service's name last stood for.
    found: Vec<SocketAddr>,
    budget: Budget,
    breaker: Breaker,
    endpoints: Vec<(SocketAddr, EndpointState)>,
}

impl Carried for States {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn version(&self) -> u32 {
        1
    }

    fn give(&self) -> Vec<u8> {
        let of_service = |(name, state): (String, Arc<ServiceState>)| {
            let endpoints: Vec<Value> = state.all().iter().map(|(address, state)| json!([address, **state])).collect();
            let found = state.last_found().clone();
            json!({ "name": name, "found": found, "budget": state.budget, "breaker": state.breaker, "endpoints": endpoints })
        };
        let services: Vec<Value> = self.all().into_iter().map(of_service).collect();
        json!({ "secret": self.secret(), "services": services }).to_string().into_bytes()
    }

    fn take(&self, bytes: &[u8]) {
        let Ok(Known { secret, services }) = serde_json::from_slice(bytes) else { return };
        self.set_secret(secret);
        for OfService { name, found, budget, breaker, endpoints } in services {
            self.expect(name, ServiceState::known(found, budget, breaker), endpoints);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{pool_of, read};
    use super::super::{Admitted, Endpoint, breaker};
    use super::*;
    use crate::config::raw;
    use std::time::Duration;

    const POOL: &str = "{ endpoints: ['10.0.0.1:1', '10.0.0.2:1', '10.0.0.3:1', '10.0.0.4:1'], slow_start: 1h, ejection: { consecutive_failures: 1, base: 1h } }";

    #[test]
    fn what_is_known_of_endpoints_goes_along() {
        let (old, new) = (States::default(), States::default());
        let pool = pool_of(&old, POOL).expect("a pool");
        let endpoints = pool.set().endpoints.clone();
        endpoints[0].state.set_drained(true);
        endpoints[1].state.set_ill(true);
        endpoints[2].eject(Duration::from_secs(3_600));
        let in_flight = pool.pick(&[]);
        new.take(&old.give());
        new.take(b"nonsense");
        let standings = |states: &States| {
            let pool = pool_of(states, &POOL.replace("'10.0.0.4:1'", "'10.0.0.4:1', '10.0.0.5:1'")).expect("a pool");
            let told = |endpoint: &Arc<Endpoint>| (endpoint.standing().name(), endpoint.state.ejections());
            let told: Vec<_> = pool.set().endpoints.iter().map(told).collect();
            assert!(pool.set().endpoints.iter().all(|endpoint| endpoint.state.in_flight() == 0));
            told
        };
        // The last one is new beside those that are known.
        let known = [("drained", 0), ("ill", 0), ("ejected", 1), ("up", 0), ("warming", 0)];
        assert_eq!(standings(&new), known);
        assert_eq!((in_flight.is_some(), new.secret()), (true, old.secret()));
        // What no configuration has any more is forgotten.
        let third = States::default();
        third.take(&old.give());
        third.let_go();
        assert_eq!(standings(&third), [("up", 0); 5]);
    }

    #[test]
    fn a_breaker_stays_open_and_counts_on() {
        let (old, new) = (States::default(), States::default());
        let breaker = "{ error_percent: 50, min_requests: 4, open: 1h, window: 1h }";
        let limits = breaker::Limits::new(&read::<raw::Breaker>(breaker));
        let end = |states: &States, times: usize| {
            let (state, name) = (states.service("s"), Arc::from("s"));
            let admitted = || Admitted::new(&state, &limits, &name);
            (0..times).for_each(|_| admitted().expect("let through").end(true, Duration::ZERO));
            admitted().is_err()
        };
        let held = old.service("s");
        assert!(!end(&old, 3));
        new.take(&old.give());
        assert!(end(&new, 1));
        let third = States::default();
        third.take(&new.give());
        assert!(end(&third, 0));
        drop(held);
    }
}
