//! Routes with their references resolved, and the table that matches them.

use super::caches::Caches;
use super::limits::Limits;
use super::services::{Services, entry};
use super::{Action, BodyRule, Composition, Forward, Listener, Mirror, Route, ServiceEntry, State};
use crate::auth::cors::Cors;
use crate::auth::{Access, Methods};
use crate::compose::Plan;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, Config};
use crate::limit::Of;
use crate::route::shadow::{self, Shadowed};
use crate::route::{Rule, Table};
use crate::shape::answer::{Redirect, Respond};
use crate::shape::compress::Compress;
use crate::shape::headers::HeaderEdits;
use crate::shape::rewrite::Rewrite;
use crate::shape::template::Names;
use crate::types::{ListenerId, RouteId};
use crate::upstream::{Service, Split};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What routes refer to by name.
pub(super) struct Named<'a> {
    pub listeners: &'a [Option<Listener>],
    pub services: &'a Services,
    pub limits: &'a Limits,
    pub caches: &'a Caches,
    pub methods: &'a Methods,
}

/// What the routes are built from.
pub(super) struct Build<'a> {
    pub raw: &'a Config,
    pub state: &'a State,
    pub listeners: &'a [Option<Listener>],
    pub services: &'a Services,
    pub limits: &'a Limits,
    pub caches: &'a Caches,
    pub methods: &'a Methods,
    pub problems: &'a Problems,
    /// None of them has a name that could not be read.
    are_listeners_known: bool,
}

impl<'a> Build<'a> {
    pub fn new(raw: &'a Config, state: &'a State, named: Named<'a>, problems: &'a Problems) -> Build<'a> {
        let Named { listeners, services, limits, caches, methods } = named;
        let root = At::root();
        let at = root.key("listeners");
        let is_known = |(index, raw): (usize, &Option<_>)| raw.is_some() && problems.is_read(&at.index(index).key("name"));
        let are_listeners_known = problems.is_read(&at) && raw.listeners.iter().enumerate().all(is_known);
        Build { raw, state, listeners, services, limits, caches, methods, problems, are_listeners_known }
    }

    /// The table, the routes, and the services that routes name by URL.
    pub fn routes(&self, routes_at: &At<'_>) -> Option<(Table, Vec<Route>, Vec<Arc<ServiceEntry>>)> {
        let raw = &self.raw.routes;
        if raw.is_empty() {
            return self.problems.at(
                routes_at,
                "no route",
                "every request would be answered 404",
                "add one, such as `- { path: /*, to: orders }`",
            );
        }
        let (mut rules, mut routes, mut by_url) = (Vec::new(), Vec::new(), HashMap::new());
        let mut names = HashMap::new();
        for (index, route) in raw.iter().enumerate() {
            // One that could not be read has its own problem.
            let (at, Some(route)) = (routes_at.index(index), route) else { continue };
            let id = RouteId(u32::try_from(index).ok()?);
            let Some(rule) = self.rule(route, id, &at) else {
                // Where it leads does not depend on what it matches, but for the names in templates.
                if route.redirect.is_none() && route.respond.is_none() && route.compose.is_none() {
                    self.action(route, Names::default(), &mut by_url, &at);
                }
                continue;
            };
            let name = name(route);
            if route.name.is_some()
                && let Some(first) = names.insert(name.clone(), index)
            {
                let (what, why) = (format!("two routes are named `{name}`"), "log and metrics could not tell them apart");
                let first = routes_at.index(first);
                let _: Option<()> = self.problems.clash(&at.key("name"), &first.key("name"), what, why, "rename one of the two");
            }
            let names = rule.path.names();
            let names = Names { captures: &names, has_rest: rule.path.has_rest(), ..Default::default() };
            routes.push(self.route(route, name.as_str().into(), names, &mut by_url, &at));
            rules.push(rule);
        }
        match self.problems.is_empty() {
            true => self.report_shadowed(&rules, routes_at),
            // A criterion that could not be read is not there, and a route would seem to ask for less than it does.
            false => {
                let sound: Vec<Rule> = rules.iter().filter(|rule| self.is_sound(rule, routes_at)).cloned().collect();
                self.report_shadowed(&sound, routes_at);
            }
        }
        let routes = routes.into_iter().collect::<Option<Vec<_>>>()?;
        self.problems.is_empty().then(|| (Table::new(rules), routes, by_url.into_values().collect()))
    }

    fn rule(&self, raw: &raw::Route, id: RouteId, at: &At<'_>) -> Option<Rule> {
        let listener_at = at.key("listener");
        let listener = |(index, name): (usize, &raw::Name)| self.listener(name, &listener_at.index(index));
        let listeners: Vec<_> = raw.listener.iter().flat_map(|names| names.0.iter().enumerate()).map(listener).collect();
        let listeners: Option<Vec<_>> = listeners.into_iter().collect();
        // Without its listeners a route is not built, but what else is wrong with it is said all the same.
        let rule = Rule::build(raw, id, listeners.clone().unwrap_or_default(), at, self.problems);
        listeners.and(rule)
    }

    fn is_sound(&self, rule: &Rule, at: &At<'_>) -> bool {
        let at = at.index(rule.id.0 as usize);
        ["listener", "host", "path", "path_regex", "methods", "headers", "query"].iter().all(|key| self.problems.is_sound(&at.key(key)))
    }

    /// Routes that can never match.
    fn report_shadowed(&self, rules: &[Rule], at: &At<'_>) {
        for Shadowed { id, by, is_same } in shadow::find(rules) {
            let first = at.index(by.0 as usize);
            let (what, fix) = match is_same {
                true => ("two routes match the same requests".to_string(), "remove one of the two, or let them differ"),
                false => {
                    let by = self.raw.routes.get(by.0 as usize).and_then(Option::as_ref).map(name).unwrap_or_default();
                    (
                        format!("this route can never match: `{by}` comes before it and leaves it no request"),
                        "remove it, ask for more in it (such as a header), or ask for more in the other one",
                    )
                }
            };
            let _: Option<()> = self.problems.clash(&at.index(id.0 as usize), &first, what, "this one would never be taken", fix);
        }
    }

    fn listener(&self, name: &raw::Name, at: &At<'_>) -> Option<ListenerId> {
        let name_of = |listener: &'_ Option<raw::Listener>| listener.as_ref().is_some_and(|listener| listener.name.as_ref() == Some(name));
        let position = self.raw.listeners.iter().position(name_of);
        match position {
            // One that could not be built has its own problem.
            Some(position) => self.listeners[position].as_ref().map(|listener| listener.id),
            // It may be one of those that could not be read.
            None if !self.are_listeners_known => None,
            None => {
                let mut names = self.raw.listeners.iter().flatten().filter_map(|listener| listener.name.as_ref()).peekable();
                let fix = match names.peek() {
                    None => format!("give a listener this name: `name: {}`", name.0),
                    Some(_) => self.problems.remedy(&name.0, names.map(|name| name.0.as_str())),
                };
                self.problems.at(at, format!("no listener is named `{}`", name.0), "the route could never match", fix)
            }
        }
    }

    fn route(&self, raw: &raw::Route, name: Arc<str>, names: Names<'_>, by_url: &mut Urls, at: &At<'_>) -> Option<Route> {
        let action = self.action(raw, names, by_url, at);
        let rewrite = self.rewrite(raw, names, &at.key("request"));
        let mirror = self.mirror(raw, &name, by_url, &at.key("mirror"));
        let request_headers = self.request_headers(raw, names, &at.key("request"));
        let calls = raw.compose.as_ref().map_or_else(Vec::new, |compose| Plan::names(compose));
        let response_names = Names { calls: &calls, ..names };
        let response_headers = HeaderEdits::build(&raw.response.headers, response_names, &at.key("response"), self.problems);
        let has_bodies = raw.to.is_some() || raw.compose.is_some();
        let (request_at, response_at) = (at.key("request"), at.key("response"));
        let request_body = BodyRule::of_request(&raw.request.body, names, has_bodies, &request_at.key("body"), self.problems);
        let response_body = BodyRule::of_answer(&raw.response.body, response_names, has_bodies, &response_at.key("body"), self.problems);
        let root = At::root();
        let limits = match &raw.rate_limits {
            Some(names) => self.limits.of_route(names, &name, self.state, &at.key("rate_limits"), self.problems),
            None => {
                let defaults = &self.raw.defaults.rate_limits;
                self.limits.of_route(defaults, &name, self.state, &root.key("defaults").key("rate_limits"), self.problems)
            }
        };
        let access = Access::build(raw, &self.raw.defaults, self.methods, at, self.problems);
        let cors = raw.cors.as_ref().map(|cors| Cors::build(cors, raw.methods.as_ref(), &at.key("cors"), self.problems));
        let cache = self.caches.of_route(raw, &name, self.state, at, self.problems);
        let body_bytes = raw.body_bytes.unwrap_or(self.raw.server.limits.body_bytes).0;
        let mut route = Route {
            limits: limits?,
            cache: cache?,
            priority: raw.priority.0,
            cap: raw.max_in_flight.map(|max| self.state.counts.cap(Of::Route(name.to_string()), max.usize(), None)),
            metrics: self.state.metrics.route(&name),
            name,
            asks: asks(raw).into(),
            action: action?,
            access: access?,
            cors: cors.map_or(Some(None), |cors| cors.map(Some))?,
            compress: raw.compress.as_ref().map(|codings| Compress::new(codings.0.clone())),
            rewrite: rewrite?,
            mirror: mirror?,
            request_headers: request_headers?,
            response_headers: response_headers?,
            request_body: request_body?,
            response_body: response_body?,
            body_bytes_max: (body_bytes > 0).then_some(body_bytes),
            body_rate_min: raw.body_rate.unwrap_or(self.raw.server.limits.body_rate).0,
        };
        Caches::settle(&mut route, at, self.problems).map(|()| route)
    }

    fn action(&self, raw: &raw::Route, names: Names<'_>, by_url: &mut Urls, at: &At<'_>) -> Option<Action> {
        match (&raw.to, &raw.redirect, &raw.respond, &raw.compose) {
            (Some(to), None, None, None) => self.forward(raw, to, by_url, &at.key("to")).map(Action::Forward),
            (None, Some(redirect), None, None) => {
                Redirect::build(redirect, names, &at.key("redirect"), self.problems).map(Action::Redirect)
            }
            (None, None, Some(respond), None) => Respond::build(respond, names, &at.key("respond"), self.problems).map(Action::Respond),
            (None, None, None, Some(compose)) => {
                self.compose(raw, compose, names, by_url, &at.key("compose")).map(|composition| Action::Compose(Box::new(composition)))
            }
            (None, None, None, None)
                if !["to", "redirect", "respond", "compose"].iter().all(|key| self.problems.is_sound(&at.key(key))) =>
            {
                None
            }
            (None, None, None, None) => {
                let fix = "add `to:` with a service or a URL, `redirect:`, `respond:` or `compose:`";
                self.problems.at(at, "a route that leads nowhere", "there would be no answer to give", fix)
            }
            _ => self.problems.at(
                at,
                "a route that does more than one thing",
                "only one answer can be given",
                "keep one of `to`, `redirect`, `respond` and `compose`",
            ),
        }
    }

    fn compose(&self, route: &raw::Route, raw: &raw::Compose, names: Names<'_>, by_url: &mut Urls, at: &At<'_>) -> Option<Composition> {
        let plan = Plan::build(raw, names, at, self.problems);
        let calls_at = at.key("calls");
        let service = |(name, call): &(String, Option<raw::Call>)| {
            let entry = self.target(&call.as_ref()?.to, by_url, &calls_at.key(name).key("to"))?;
            let timeouts = entry.service.timeouts.or(&self.raw.defaults.timeouts).or(&route.timeouts);
            Some((entry, timeouts))
        };
        let services: Vec<_> = raw.calls.0.iter().map(service).collect();
        Some(Composition { plan: plan?, services: services.into_iter().collect::<Option<_>>()? })
    }

    fn rewrite(&self, raw: &raw::Route, names: Names<'_>, at: &At<'_>) -> Option<Option<Rewrite>> {
        let rewrite = Rewrite::build(&raw.request, names, at, self.problems)?;
        if rewrite.is_some() && raw.to.is_none() {
            let why = "only a service gets the request";
            return self.problems.at(at, "a rewrite of a request that is sent to no service", why, "remove it, or add `to:`");
        }
        Some(rewrite)
    }

    fn request_headers(&self, raw: &raw::Route, names: Names<'_>, at: &At<'_>) -> Option<HeaderEdits> {
        let edits = HeaderEdits::build(&raw.request.headers, names, at, self.problems)?;
        if !edits.is_empty() && (raw.respond.is_some() || raw.redirect.is_some()) {
            let (what, why) = ("header changes of a request that is sent to no service", "only a service gets the request");
            return self.problems.at(&at.key("headers"), what, why, "remove them, or add `to:`");
        }
        Some(edits)
    }

    /// Who gets copies. The outer `None` means that a problem was reported.
    fn mirror(&self, raw: &raw::Route, name: &str, by_url: &mut Urls, at: &At<'_>) -> Option<Option<Mirror>> {
        let Some(mirror) = &raw.mirror else { return Some(None) };
        if raw.to.is_none() {
            return self.problems.at(
                at,
                "a mirror of requests that are sent to no service",
                "there is nothing to copy",
                "remove it, or add `to:`",
            );
        }
        let entry = self.target(&mirror.to, by_url, &at.key("to"))?;
        let counter = |outcome| self.state.metrics.mirror(name, outcome);
        Some(Some(Mirror {
            timeouts: entry.service.timeouts,
            entry,
            percent: mirror.percent.0,
            places: Arc::new(Semaphore::new(MIRRORED_MAX)),
            sent: counter("sent"),
            failed: counter("failed"),
            dropped: counter("dropped"),
        }))
    }

    fn forward(&self, raw: &raw::Route, to: &raw::To, by_url: &mut Urls, at: &At<'_>) -> Option<Forward> {
        let targets = to.0.iter().enumerate().map(|(index, portion)| match to.0.len() {
            1 => self.target(&portion.service, by_url, at),
            _ => self.target(&portion.service, by_url, &at.index(index).key("service")),
        });
        let entries: Vec<_> = targets.collect();
        let services = entries.into_iter().map(|entry| {
            let entry = entry?;
            let timeouts = entry.service.timeouts.or(&self.raw.defaults.timeouts).or(&raw.timeouts);
            Some((entry, timeouts))
        });
        let timeouts = [self.raw.defaults.timeouts.clone(), raw.timeouts.clone()];
        let split = Split::new(to.0.iter().map(|portion| portion.weight));
        Some(Forward { services: services.collect::<Option<_>>()?, split, timeouts })
    }

    fn target(&self, target: &raw::Target, by_url: &mut Urls, at: &At<'_>) -> Option<Arc<ServiceEntry>> {
        match target {
            raw::Target::Name(name) => match self.services.get(name) {
                // One that could not be built has its own problem.
                Some(entry) => entry.clone(),
                None if !self.problems.is_read(&At::root().key("services")) => None,
                None => {
                    let fix = match self.services.all.is_empty() {
                        true => "define it under `services:`, or write a URL such as `http://127.0.0.1:3000`".to_string(),
                        false => self.problems.remedy(name, self.services.names()),
                    };
                    self.problems.at(at, format!("no service is named `{name}`"), "requests would have nowhere to go", fix)
                }
            },
            raw::Target::Url(url) => {
                let key = (url.tls, url.authority.clone());
                if let Some(known) = by_url.get(&key) {
                    return Some(known.clone());
                }
                let built =
                    entry(Service::of_url(url, &self.services.resolver, at, &self.state.endpoints, self.problems)?, None, None, self.state);
                by_url.insert(key, built.clone());
                Some(built)
            }
        }
    }
}

/// Copies of one route's requests at once.
const MIRRORED_MAX: usize = 100;

/// The services that routes name by URL: whether by https, and the authority.
type Urls = HashMap<(bool, String), Arc<ServiceEntry>>;

/// A route's own name, or what it asks for, as it was typed.
pub(super) fn name(raw: &raw::Route) -> String {
    raw.name.as_ref().map_or_else(|| asks(raw), |name| name.0.clone())
}

/// What a route asks of a request, for people.
fn asks(raw: &raw::Route) -> String {
    let methods = raw.methods.iter().flat_map(|methods| methods.0.iter().map(|method| method.0.as_str())).collect::<Vec<_>>().join(",");
    let hosts = raw.host.as_ref().map(|hosts| hosts.0.join(",")).unwrap_or_default();
    let space = if methods.is_empty() { "" } else { " " };
    let path = raw.path.as_deref().or(raw.path_regex.as_deref()).unwrap_or_default();
    let mut name = format!("{methods}{space}{hosts}{path}");
    let wanted = |mark: &str, (key, wanted): &(String, raw::Match)| match wanted {
        raw::Match::Is(text) => format!(" {mark}{key}={text}"),
        raw::Match::Regex(text) => format!(" {mark}{key}=~{text}"),
        raw::Match::Present => format!(" {mark}{key}"),
    };
    name.extend(raw.headers.0.iter().map(|pair| wanted("", pair)));
    name.extend(raw.query.0.iter().map(|pair| wanted("?", pair)));
    name
}
