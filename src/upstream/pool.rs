//! A service's endpoints, and the choice among them.

use super::balance::Balancer;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use crate::config::scalar::HostPort;
use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// One copy of a service.
#[derive(Debug)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// The host as it was written, for TLS.
    pub host: Arc<str>,
    /// The address as a text, for log and metrics.
    pub label: Arc<str>,
    pub weight: u32,
    pub state: Arc<EndpointState>,
}

/// What is known of an endpoint for as long as it is configured.
#[derive(Debug, Default)]
pub struct EndpointState {
    in_flight: AtomicUsize,
}

impl EndpointState {
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }
}

/// The states of all endpoints, by service and address. Snapshots share them; those of endpoints that are gone are
/// dropped with the last snapshot that had them.
#[derive(Debug, Default)]
pub struct States(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    states: HashMap<(String, SocketAddr), std::sync::Weak<EndpointState>>,
    /// How many there may be before those that are gone are looked for.
    prune_at: usize,
}

impl States {
    fn of(&self, service: &str, address: SocketAddr) -> Arc<EndpointState> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.states.len() >= known.prune_at {
            known.states.retain(|_, state| state.strong_count() > 0);
            known.prune_at = known.states.len().max(32) * 2;
        }
        let slot = known.states.entry((service.to_string(), address)).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let state = Arc::default();
            *slot = Arc::downgrade(&state);
            state
        })
    }
}

#[derive(Debug)]
pub struct Pool {
    endpoints: Vec<Arc<Endpoint>>,
    balancer: Balancer,
}

impl Pool {
    /// Resolves and sets up the endpoints. `None` means that a problem was reported.
    pub fn build(
        service: &str,
        raw: &[Option<raw::Endpoint>],
        balance: raw::Balance,
        at: &At<'_>,
        states: &States,
        problems: &Problems,
    ) -> Option<Pool> {
        if raw.is_empty() {
            return problems.at(
                at,
                "a service without endpoints",
                "nothing can be sent to it",
                "name at least one, such as `10.0.0.11:8000`",
            );
        }
        let (mut endpoints, mut known): (Vec<Arc<Endpoint>>, HashSet<SocketAddr>) = Default::default();
        let mut all_resolved = true;
        for (index, raw) in raw.iter().enumerate() {
            let at = at.index(index);
            let Some((raw, addresses)) = raw.as_ref().and_then(|raw| Some((raw, resolve(&raw.address, &at, problems)?))) else {
                all_resolved = false;
                continue;
            };
            for address in addresses {
                if !known.insert(address) {
                    return problems.at(
                        &at,
                        format!("{address} is named twice"),
                        "it would get twice its share",
                        "remove one, or give it a `weight`",
                    );
                }
                endpoints.push(Arc::new(Endpoint {
                    address,
                    host: raw.address.host.as_str().into(),
                    label: address.to_string().into(),
                    weight: raw.weight,
                    state: states.of(service, address),
                }));
            }
        }
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        all_resolved.then(|| Pool { balancer: Balancer::new(balance, &weights), endpoints })
    }

    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Picks an endpoint that is not among the `tried` ones, or any of them when all were. Counts it as in flight until
    /// the answer is dropped.
    pub fn pick(&self, tried: &[SocketAddr]) -> Picked {
        let index = self.balancer.pick(&self.endpoints, |endpoint| !tried.contains(&endpoint.address));
        let endpoint = self.endpoints[index].clone();
        endpoint.state.in_flight.fetch_add(1, Relaxed);
        Picked { endpoint, index }
    }
}

/// A name's addresses: those of IPv4 if it has any, since services that listen on one family mostly listen on that.
fn resolve(address: &HostPort, at: &At<'_>, problems: &Problems) -> Option<Vec<SocketAddr>> {
    match (address.host.as_str(), address.port).to_socket_addrs() {
        Ok(found) => {
            let mut all: Vec<SocketAddr> = found.collect();
            if all.iter().any(SocketAddr::is_ipv4) {
                all.retain(SocketAddr::is_ipv4);
            }
            all.sort_unstable();
            all.dedup();
            Some(all)
        }
        Err(e) => problems.at(
            at,
            format!("`{}` can't be resolved: {e}", address.host),
            "requests would have nowhere to go",
            "correct the name, or write an IP address",
        ),
    }
}

/// An endpoint that one attempt uses.
#[derive(Debug)]
pub struct Picked {
    endpoint: Arc<Endpoint>,
    index: usize,
}

impl Picked {
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Its place in the pool.
    pub fn index(&self) -> usize {
        self.index
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.state.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(states: &States, addresses: &[&str]) -> Option<Pool> {
        let raw: Vec<_> = addresses.iter().map(|a| Some(raw::Endpoint { address: a.parse().expect("an address"), weight: 1 })).collect();
        Pool::build("s", &raw, raw::Balance::LeastRequest, &At::root(), states, &Problems::default())
    }

    #[test]
    fn another_endpoint_for_the_second_try_while_there_is_one() {
        let pool = pool(&States::default(), &["10.0.0.1:1", "10.0.0.2:1"]).expect("a pool");
        let first = pool.pick(&[]).endpoint().address;
        for _ in 0..50 {
            let second = pool.pick(&[first]).endpoint().address;
            assert_ne!(second, first);
            pool.pick(&[first, second]);
        }
    }

    #[test]
    fn counts_what_is_in_flight_across_snapshots() {
        let states = States::default();
        let old = pool(&states, &["10.0.0.1:1"]).expect("a pool");
        let held = old.pick(&[]);
        let new = pool(&states, &["10.0.0.1:1", "10.0.0.2:1"]).expect("a pool");
        assert_eq!(new.endpoints().iter().map(|e| e.state.in_flight()).collect::<Vec<_>>(), [1, 0]);
        drop(held);
        assert_eq!(new.endpoints()[0].state.in_flight(), 0);
    }

    #[test]
    fn nothing_and_the_same_twice_are_problems() {
        assert!(pool(&States::default(), &[]).is_none());
        assert!(pool(&States::default(), &["10.0.0.1:1", "10.0.0.1:1"]).is_none());
    }
}
