//! Services by name, with what is counted of them.

use super::{Fallback, ServiceEntry, State};
use crate::config::place::At;
use crate::config::problem::{Place, Problem, Problems};
use crate::config::raw::{self, Config};
use crate::limit::{Cap, Of, Queue};
use crate::shape::answer::Respond;
use crate::shape::template::Names;
use crate::upstream::{Ground, Keys, Names as Resolver, Service};
use std::collections::HashMap;
use std::sync::Arc;

/// Services by name; those that could not be built have their own problem.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) all: Vec<(String, Option<Arc<ServiceEntry>>)>,
    by_name: HashMap<String, usize>,
    /// Who says where endpoints are.
    pub(super) resolver: Arc<Resolver>,
}

impl Services {
    pub(super) fn build(all: &Config, state: &State, at: &At<'_>, problems: &Problems) -> Services {
        let secrets = all.server.secret.as_ref().map(|secrets| &secrets.0[..]).unwrap_or_default();
        let zone = all.server.zone.as_deref();
        let servers: Vec<_> = all.server.dns.iter().flat_map(|servers| &servers.0).map(|server| server.0).collect();
        let names = Arc::new(Resolver::new(&servers));
        let keys = Keys::new(secrets, state.endpoints.secret());
        let ground = Ground { keys, zone, names: names.clone(), states: &state.endpoints };
        let mut services = Services { all: Vec::new(), by_name: HashMap::new(), resolver: names };
        let _known = ground.survey(all.services.0.iter().filter_map(|(name, raw)| Some((name.as_str(), raw.as_ref()?))));
        for (name, raw) in &all.services.0 {
            let at = at.key(name);
            let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if name.is_empty() || !name.bytes().all(legal) {
                let what = format!("`{name}` is not a service's name");
                problems.add(Problem::new(Place::Key(at.path()), what, "`to` tells names from URLs", "use small letters, digits and `-`"));
            }
            let service = raw.as_ref().and_then(|raw| Service::build(name, raw, &ground, &at, problems));
            services.by_name.insert(name.clone(), services.all.len());
            let cap = raw.as_ref().and_then(|raw| cap(name, raw, state, &at, problems));
            let fallback = raw.as_ref().and_then(|raw| fallback(name, raw, all, &at.key("fallback"), problems));
            services.all.push((name.clone(), service.map(|service| entry(service, cap, fallback, state))));
        }
        services
    }

    /// The outer `None` means that no service has this name.
    pub(super) fn get(&self, name: &str) -> Option<&Option<Arc<ServiceEntry>>> {
        self.by_name.get(name).map(|index| &self.all[*index].1)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|(name, _)| name.as_str())
    }
}

/// A service's bound on what it is given at once.
fn cap(name: &str, raw: &raw::Service, state: &State, at: &At<'_>, problems: &Problems) -> Option<Cap> {
    let Some(max) = raw.max_in_flight else {
        return match raw.queue.is_some() && problems.is_read(&at.key("max_in_flight")) {
            true => problems.at(&at.key("queue"), "a queue without `max_in_flight`", "nobody would ever wait in it", "add `max_in_flight`"),
            false => None,
        };
    };
    let queue = raw.queue.as_ref().map(|queue| Queue { size: queue.size.usize(), timeout: queue.timeout });
    Some(state.counts.cap(Of::Service(name.to_string()), max.usize(), queue))
}

/// What takes a service's place.
fn fallback(name: &str, raw: &raw::Service, all: &Config, at: &At<'_>, problems: &Problems) -> Option<Fallback> {
    match raw.fallback.as_ref()? {
        raw::Fallback::Respond(respond) => Respond::build(respond, Names::default(), at, problems).map(Fallback::Respond),
        raw::Fallback::Stale => check_stale(name, all, at, problems),
        raw::Fallback::Service(other) if other == name => {
            problems.at(at, "a service can't take its own place", "it is the one that fails", "name another service")
        }
        raw::Fallback::Service(other) => match all.services.0.iter().position(|(known, _)| known == other) {
            Some(place) => Some(Fallback::Service(place)),
            None => {
                let fix = problems.remedy(other, all.services.0.iter().map(|(name, _)| name.as_str()));
                problems.at(at, format!("no service is named `{other}`"), "nothing could take this one's place", fix)
            }
        },
    }
}

/// The caches of routes serve what is stale by themselves, also while the service is left alone. So there has to be one that may.
fn check_stale(name: &str, all: &Config, at: &At<'_>, problems: &Problems) -> Option<Fallback> {
    let root = At::root();
    let leads_here = |portion: &raw::Portion| matches!(&portion.service, raw::Target::Name(to) if to == name);
    let mut routes = all.routes.iter().flatten().filter(|route| route.to.as_ref().is_some_and(|to| to.0.iter().any(leads_here)));
    let serves_stale = |route: &raw::Route| {
        let cache = route.cache.as_ref().and_then(|cache| all.caches.0.iter().find(|(known, _)| *known == cache.0));
        // One that could not be read may be it.
        cache.is_some_and(|(_, cache)| cache.as_ref().is_none_or(|cache| cache.stale_if_error.is_some_and(|time| !time.is_zero())))
    };
    match routes.any(serves_stale) || !problems.is_sound(&root.key("caches")) || !problems.is_sound(&root.key("routes")) {
        true => None,
        false => {
            let what = format!("no route to `{name}` has a cache with `stale_if_error`");
            problems.at(at, what, "there would be nothing stale to serve", "add `cache:` to its route, and `stale_if_error` to that cache")
        }
    }
}

pub(super) fn entry(service: Service, cap: Option<Cap>, fallback: Option<Fallback>, state: &State) -> Arc<ServiceEntry> {
    let metrics = state.metrics.service(&service.name);
    Arc::new(ServiceEntry { service: Arc::new(service), cap, fallback, metrics })
}
