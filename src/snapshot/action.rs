//! What becomes of a route's requests: the services that get them, or an answer of the gateway's own.

use super::ServiceEntry;
use crate::compose::Plan;
use crate::config::raw;
use crate::shape::answer::{Redirect, Respond};
use crate::upstream::{Service, Split, Timeouts};
use std::net::IpAddr;
use std::sync::Arc;

/// What becomes of a request.
#[derive(Debug)]
pub enum Action {
    Forward(Forward),
    Redirect(Redirect),
    Respond(Respond),
    Compose(Box<Composition>),
}

/// Calls, and the service of each with the timeouts that the route leaves it.
#[derive(Debug)]
pub struct Composition {
    pub plan: Plan,
    pub(super) services: Box<[(Arc<ServiceEntry>, Timeouts)]>,
}

impl Composition {
    pub fn get(&self, call: usize) -> &(Arc<ServiceEntry>, Timeouts) {
        &self.services[call]
    }
}

/// The services of a route, each with the timeouts that the route leaves it, and the choice among them.
#[derive(Debug)]
pub struct Forward {
    pub(super) services: Box<[(Arc<ServiceEntry>, Timeouts)]>,
    pub(super) split: Split,
    /// What replaces the timeouts of whatever service, the latter the former.
    pub(super) timeouts: [raw::Timeouts; 2],
}

impl Forward {
    /// What the route leaves a service of its timeouts.
    pub fn timeouts(&self, service: &Service) -> Timeouts {
        self.timeouts.iter().fold(service.timeouts, Timeouts::or)
    }

    /// The place of the service that a client gets.
    pub fn choose(&self, client: IpAddr) -> usize {
        self.split.choose(client)
    }

    /// The services with their weights.
    pub fn weighted(&self) -> impl Iterator<Item = (&Arc<ServiceEntry>, u64)> {
        self.services.iter().map(|(entry, _)| entry).zip(self.split.weights())
    }

    /// The place of the service that somebody gets who is recognised.
    pub fn choose_for(&self, name: &str) -> usize {
        self.split.choose_for(name)
    }

    pub fn get(&self, place: usize) -> Option<(&Arc<ServiceEntry>, &Timeouts)> {
        self.services.get(place).map(|(entry, timeouts)| (entry, timeouts))
    }
}
