//! Rate limits by name, and those of each route.

use super::State;
use crate::config::place::At;
use crate::config::problem::{Place, Problem, Problems};
use crate::config::raw::{self, Config};
use crate::config::shape::remedy;
use crate::limit::{Limit, Set, Shared, Standing};
use crate::observe::LimitMetrics;
use std::sync::Arc;

/// A limit and what is counted of it.
#[derive(Clone, Debug)]
pub struct LimitEntry {
    pub limit: Arc<Limit>,
    pub metrics: LimitMetrics,
}

/// What a route's requests have to pass.
#[derive(Debug)]
pub struct RouteLimits {
    pub set: Set,
    /// In the set's order.
    entries: Box<[LimitEntry]>,
}

impl RouteLimits {
    pub fn entry(&self, standing: &Standing) -> &LimitEntry {
        &self.entries[usize::from(standing.place)]
    }
}

/// All that are configured; those that could not be built have their own problem.
pub(super) struct Limits {
    all: Vec<(String, Option<LimitEntry>)>,
}

impl Limits {
    pub fn build(raw: &Config, shared: Option<&Arc<Shared>>, state: &State, at: &At<'_>, problems: &Problems) -> Limits {
        let build = |(name, raw): &(String, Option<raw::RateLimit>)| {
            let at = at.key(name);
            let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
            if name.is_empty() || !name.bytes().all(legal) {
                let what = format!("`{name}` is not a limit's name");
                let fix = "use small letters, digits, `-` and `_`";
                problems.add(Problem::new(Place::Key(at.path()), what, "clients read it in RateLimit", fix));
            }
            let limit = raw.as_ref().and_then(|raw| state.limits.build(name, raw, shared, &at, problems));
            if let Some(raw) = raw {
                check_sharing(name, raw, limit.as_deref(), &at, problems);
            }
            if limit.as_ref().is_some_and(|limit| limit.is_chosen_by_client()) {
                let why = "whoever sends another value each time is never limited";
                problems.warn(
                    &at.key("by"),
                    format!("only the client chooses what `{name}` counts by"),
                    why,
                    "add `client_ip` to another limit",
                );
            }
            let entry = |limit: Arc<Limit>| LimitEntry { metrics: state.metrics.limit(name, limit.is_shadow), limit };
            (name.clone(), limit.map(entry))
        };
        Limits { all: raw.rate_limits.0.iter().map(build).collect() }
    }

    /// The limits of a route; the inner `None` when it has none.
    pub fn of_route(
        &self,
        names: &[raw::Name],
        route: &Arc<str>,
        state: &State,
        at: &At<'_>,
        problems: &Problems,
    ) -> Option<Option<RouteLimits>> {
        let one = |(index, name): (usize, &raw::Name)| {
            let at = at.index(index);
            if names[..index].contains(name) && problems.is_sound(&at) {
                let why = "one request would be charged twice";
                return problems.at(&at, format!("`{}` is named twice", name.0), why, "remove one of the two, or raise its `cost`");
            }
            self.find(name, &at, problems)
        };
        let entries: Vec<Option<LimitEntry>> = names.iter().enumerate().map(one).collect();
        let entries: Box<[LimitEntry]> = entries.into_iter().collect::<Option<_>>()?;
        let set = Set::new(entries.iter().map(|entry| entry.limit.clone()).collect(), route, &state.limits.store);
        Some(set.map(|set| RouteLimits { set, entries }))
    }

    /// Looks up the names of `defaults`, which no route may come to.
    pub fn check_defaults(&self, names: &[raw::Name], at: &At<'_>, problems: &Problems) {
        names.iter().enumerate().for_each(|(index, name)| drop(self.find(name, &at.index(index), problems)));
    }

    fn find(&self, name: &raw::Name, at: &At<'_>, problems: &Problems) -> Option<LimitEntry> {
        match self.all.iter().find(|(known, _)| *known == name.0) {
            // One that could not be built has its own problem.
            Some((_, entry)) => entry.clone(),
            None if !problems.is_read(&At::root().key("rate_limits")) => None,
            // Said already: many routes have the same defaults.
            None if !problems.is_sound(at) => None,
            None => {
                let known: Vec<&str> = self.all.iter().map(|(name, _)| name.as_str()).collect();
                let what = format!("no limit is named `{}`", name.0);
                problems.at(at, what, "requests would not be limited", remedy(&name.0, &known))
            }
        }
    }

    pub fn into_entries(self) -> Option<Vec<LimitEntry>> {
        self.all.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// What a limit that is shared needs, and what it costs.
fn check_sharing(name: &str, raw: &raw::RateLimit, limit: Option<&Limit>, at: &At<'_>, problems: &Problems) {
    let root = At::root();
    let redis = root.key("redis");
    if raw.exact && !raw.shared {
        let why = "a limit of one gateway is always exact";
        let _: Option<()> = problems.at(&at.key("exact"), "`exact` without `shared`", why, "add `shared: true`, or remove `exact`");
    }
    if raw.nodes.0 > 1 && !raw.shared {
        let why = "each gateway lets through the whole of the limit, not its part";
        problems.warn(&at.key("nodes"), "`nodes` without `shared`", why, "add `shared: true`, or remove `nodes` and lower `rate`");
    }
    let is_missing = limit.is_some_and(|limit| limit.sharing.is_none());
    if raw.shared && is_missing && problems.is_read(&redis) && problems.is_sound(&redis) {
        let fix = "add `redis: { url: \"redis://127.0.0.1:6379\" }`";
        let _: Option<()> =
            problems.at(&at.key("shared"), format!("there is no store to share `{name}` in"), "each gateway would count alone", fix);
    }
    if let Some(over) = limit.and_then(Limit::overshoot) {
        let (nodes, s) = (raw.nodes.0, if raw.nodes.0 == 1 { "" } else { "s" });
        let what = format!("`{name}` may let through {over} more than its burst and rate, with {nodes} gateway{s}");
        let why =
            "each holds some ahead, so that requests need not wait for the store; and as much as its burst each time the store is lost";
        let fix = "say in `nodes` how many gateways there are; `exact: true` asks for each request";
        problems.warn(&at.key("shared"), what, why, fix);
    }
}
