//! Caches by name, and those of routes.

use super::State;
use crate::cache::Rule;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, Config};
use crate::config::shape::remedy;
use crate::observe::CacheMetrics;
use std::sync::Arc;

/// What a route's answers are kept by, and what is counted of it.
#[derive(Debug)]
pub struct RouteCache {
    pub rule: Arc<Rule>,
    pub metrics: CacheMetrics,
}

/// All that are configured; those that could not be built have their own problem.
pub(super) struct Caches {
    all: Vec<(String, Option<Arc<Rule>>)>,
}

impl Caches {
    pub fn build(raw: &Config, at: &At<'_>, problems: &Problems) -> Caches {
        let memory = raw.cache_store.memory.0;
        let build = |(name, raw): &(String, Option<raw::Cache>)| {
            let rule = raw.as_ref().and_then(|raw| Rule::build(name, raw, memory, &at.key(name), problems));
            (name.clone(), rule.map(Arc::new))
        };
        Caches { all: raw.caches.0.iter().map(build).collect() }
    }

    /// The cache of a route; the inner `None` when it has none.
    pub fn of_route(&self, raw: &raw::Route, route: &str, state: &State, at: &At<'_>, problems: &Problems) -> Option<Option<RouteCache>> {
        let Some(name) = &raw.cache else { return Some(None) };
        if raw.to.is_none() && problems.is_sound(&at.key("to")) {
            let why = "only what a service answers is kept";
            return problems.at(&at.key("cache"), "a cache on a route that asks no service", why, "remove it, or add `to:`");
        }
        match self.all.iter().find(|(known, _)| *known == name.0) {
            Some((_, rule)) => rule.clone().map(|rule| Some(RouteCache { rule, metrics: state.metrics.cache(route) })),
            None if !problems.is_read(&At::root().key("caches")) => None,
            None => {
                let known: Vec<&str> = self.all.iter().map(|(name, _)| name.as_str()).collect();
                let what = format!("no cache is named `{}`", name.0);
                problems.at(&at.key("cache"), what, "every request would go to the service", remedy(&name.0, &known))
            }
        }
    }

    pub fn into_rules(self) -> Option<Vec<Arc<Rule>>> {
        self.all.into_iter().map(|(_, rule)| rule).collect()
    }
}
