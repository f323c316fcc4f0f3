//! Caches by name, and those of routes.

use super::{Action, BodyRule, Route, State};
use crate::cache::Rule;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, Config};
use crate::config::shape::remedy;
use crate::observe::CacheMetrics;
use crate::shape::rewrite::Rewrite;
use crate::shape::template::Variable;
use http::{HeaderName, Method};
use std::sync::Arc;

/// What a route's answers are kept by, and what is counted of it.
#[derive(Debug)]
pub struct RouteCache {
    pub rule: Arc<Rule>,
    /// Request fields that a composed answer goes by, beside those of the rule.
    pub vary: Box<[HeaderName]>,
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
        if raw.to.is_none() && raw.compose.is_none() && problems.is_sound(&at.key("to")) {
            let why = "only what a service answers is kept";
            return problems.at(&at.key("cache"), "a cache on a route that asks no service", why, "remove it, or add `to:`");
        }
        match self.all.iter().find(|(known, _)| *known == name.0) {
            Some((_, rule)) => {
                rule.clone().map(|rule| Some(RouteCache { rule, vary: Box::default(), metrics: state.metrics.cache(route) }))
            }
            None if !problems.is_read(&At::root().key("caches")) => None,
            None => {
                let known: Vec<&str> = self.all.iter().map(|(name, _)| name.as_str()).collect();
                let what = format!("no cache is named `{}`", name.0);
                problems.at(&at.key("cache"), what, "every request would go to the service", remedy(&name.0, &known))
            }
        }
    }

    /// What an answer goes by is to be a part of its key, or one client would get what was made for another: all that is put into a composed
    /// one, and into the target that a service is asked for. `None` means that a problem was reported.
    pub fn settle(route: &mut Route, at: &At<'_>, problems: &Problems) -> Option<()> {
        let Some(cache) = &mut route.cache else { return Some(()) };
        let cache_at = at.key("cache");
        let problem = |what: String, fix: &str| problems.at(&cache_at, what, "a client would get what was made for another", fix);
        let mut vary: Vec<HeaderName> = Vec::new();
        let mut variables: Vec<&Variable> = route.rewrite.iter().flat_map(Rewrite::variables).collect();
        if let Action::Compose(composition) = &route.action {
            let plan = &composition.plan;
            if let Some(call) = plan.calls.iter().find(|call| !matches!(call.method, Method::GET | Method::HEAD)) {
                let what = format!("a cache on a route whose call `{}` is a {}", call.name, call.method);
                let (why, fix) = ("it would not be made each time", "remove the cache, or let the call be a GET");
                return problems.clash(&cache_at, &at.key("compose"), what, why, fix);
            }
            vary.extend(plan.passed().cloned());
            variables.extend(plan.variables());
            variables.extend(route.response_body.iter().flat_map(BodyRule::variables));
            variables.extend(route.request_headers.variables().chain(route.response_headers.variables()));
        }
        for variable in variables {
            match variable {
                Variable::Header(name) => vary.push(name.clone()),
                Variable::ClientIp => return problem("a kept answer that goes by `${client_ip}`".to_string(), "remove one of the two"),
                Variable::RequestId => return problem("a kept answer that goes by `${request_id}`".to_string(), "remove one of the two"),
                Variable::Identity | Variable::Claim(_) if !cache.rule.key.identity => {
                    let fix = "add `identity` to the `key` of the cache";
                    return problem("a kept answer that goes by who asks, in a cache that does not".to_string(), fix);
                }
                Variable::Query(name) if !cache.rule.key.query => {
                    let fix = "add `query` to the `key` of the cache";
                    return problem(format!("a kept answer that goes by `${{query.{name}}}`, in a cache that does not"), fix);
                }
                Variable::Host if !cache.rule.key.host => {
                    let fix = "add `host` to the `key` of the cache";
                    return problem("a kept answer that goes by `${host}`, in a cache that does not".to_string(), fix);
                }
                Variable::Route | Variable::Identity | Variable::Claim(_) | Variable::Host | Variable::Path | Variable::Rest => {}
                Variable::Query(_) | Variable::Capture(_) | Variable::Call(..) | Variable::Item(_) | Variable::Body(_) => {}
            }
        }
        vary.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        vary.dedup();
        cache.vary = vary.into();
        Some(())
    }

    pub fn into_rules(self) -> Option<Vec<Arc<Rule>>> {
        self.all.into_iter().map(|(_, rule)| rule).collect()
    }
}
