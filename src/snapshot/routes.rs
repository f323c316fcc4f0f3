//! Routes with their references resolved, and the table that matches them.

use super::{Action, Listener, Route, ServiceEntry, Services, State, entry};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, Config};
use crate::route::host::HostPattern;
use crate::route::pattern::{Pattern, Segment};
use crate::route::{Rule, Table};
use crate::shape::answer::{Redirect, Respond};
use crate::shape::headers::HeaderEdits;
use crate::shape::template::Names;
use crate::types::{ListenerId, RouteId};
use crate::upstream::Service;
use std::collections::HashMap;
use std::sync::Arc;

/// What the routes are built from.
pub(super) struct Build<'a> {
    pub raw: &'a Config,
    pub state: &'a State,
    pub listeners: &'a [Option<Listener>],
    pub services: &'a Services,
    pub problems: &'a Problems,
    /// None of them has a name that could not be read.
    are_listeners_known: bool,
}

impl<'a> Build<'a> {
    pub fn new(
        raw: &'a Config,
        state: &'a State,
        listeners: &'a [Option<Listener>],
        services: &'a Services,
        problems: &'a Problems,
    ) -> Build<'a> {
        let root = At::root();
        let at = root.key("listeners");
        let is_known = |(index, raw): (usize, &Option<_>)| raw.is_some() && problems.is_read(&at.index(index).key("name"));
        let are_listeners_known = problems.is_read(&at) && raw.listeners.iter().enumerate().all(is_known);
        Build { raw, state, listeners, services, problems, are_listeners_known }
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
        let (mut names, mut seen) = (HashMap::new(), HashMap::new());
        for (index, route) in raw.iter().enumerate() {
            // One that could not be read has its own problem.
            let (at, Some(route)) = (routes_at.index(index), route) else { continue };
            let id = RouteId(u32::try_from(index).ok()?);
            let rule = self.rule(route, id, &at);
            let Some(rule) = rule else {
                // Where it leads does not depend on what it matches, but for the names in templates.
                if route.redirect.is_none() && route.respond.is_none() {
                    self.action(route, Names::default(), &mut by_url, &at);
                }
                continue;
            };
            let name = route.name.as_ref().map_or_else(|| describe(route), |name| name.0.clone());
            if route.name.is_some()
                && let Some(first) = names.insert(name.clone(), index)
            {
                let (what, why) = (format!("two routes are named `{name}`"), "log and metrics could not tell them apart");
                let first = routes_at.index(first);
                let _: Option<()> = self.problems.clash(&at.key("name"), &first.key("name"), what, why, "rename one of the two");
            }
            let is_sound = ["listener", "host", "path", "methods"].iter().all(|key| self.problems.is_sound(&at.key(key)));
            if is_sound && let Some(first) = seen.insert(identity(&rule), index) {
                let (what, why) = ("two routes match the same requests", "this one would never be taken");
                let fix = "remove one of the two, or let them differ";
                let _: Option<()> = self.problems.clash(&at, &routes_at.index(first), what, why, fix);
            }
            let names = rule.path.names();
            let names = Names { captures: &names, has_rest: rule.path.has_rest() };
            routes.push(self.route(route, name.as_str().into(), names, &mut by_url, &at));
            rules.push(rule);
        }
        let routes = routes.into_iter().collect::<Option<Vec<_>>>()?;
        self.problems.is_empty().then(|| (Table::new(rules), routes, by_url.into_values().collect()))
    }

    fn rule(&self, raw: &raw::Route, id: RouteId, at: &At<'_>) -> Option<Rule> {
        let fix = "write a path such as `/orders/{id}/*`";
        let path = self.problems.ok(Pattern::parse(&raw.path), &at.key("path"), "no request could match it", fix);
        let host_at = at.key("host");
        let host = |(index, text): (usize, &String)| {
            let fix = "write a host such as `api.example.com` or `*.example.com`";
            self.problems.ok(HostPattern::parse(text), &host_at.index(index), "no request could match it", fix)
        };
        let hosts = raw.host.as_ref().map_or_else(|| vec![Some(HostPattern::Any)], |hosts| hosts.0.iter().enumerate().map(host).collect());
        let listener_at = at.key("listener");
        let listener = |(index, name): (usize, &raw::Name)| self.listener(name, &listener_at.index(index));
        let listeners: Vec<_> = raw.listener.iter().flat_map(|names| names.0.iter().enumerate()).map(listener).collect();
        Some(Rule {
            id,
            hosts: hosts.into_iter().collect::<Option<_>>()?,
            path: path?,
            methods: raw.methods.iter().flat_map(|methods| methods.0.iter().map(|method| method.0.clone())).collect(),
            listeners: listeners.into_iter().collect::<Option<_>>()?,
        })
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

    fn route(
        &self,
        raw: &raw::Route,
        name: Arc<str>,
        names: Names<'_>,
        by_url: &mut HashMap<String, Arc<ServiceEntry>>,
        at: &At<'_>,
    ) -> Option<Route> {
        let action = self.action(raw, names, by_url, at);
        let request_headers = HeaderEdits::build(&raw.request.headers, names, &at.key("request"), self.problems);
        let response_headers = HeaderEdits::build(&raw.response.headers, names, &at.key("response"), self.problems);
        let body_bytes = raw.body_bytes.unwrap_or(self.raw.server.limits.body_bytes).0;
        Some(Route {
            metrics: self.state.metrics.route(&name),
            name,
            action: action?,
            request_headers: request_headers?,
            response_headers: response_headers?,
            body_bytes_max: (body_bytes > 0).then_some(body_bytes),
        })
    }

    fn action(&self, raw: &raw::Route, names: Names<'_>, by_url: &mut HashMap<String, Arc<ServiceEntry>>, at: &At<'_>) -> Option<Action> {
        match (&raw.to, &raw.redirect, &raw.respond) {
            (Some(to), None, None) => {
                let entry = self.target(to, by_url, &at.key("to"))?;
                let timeouts = entry.service.timeouts.or(&self.raw.defaults.timeouts).or(&raw.timeouts);
                Some(Action::Forward(entry, timeouts))
            }
            (None, Some(redirect), None) => Redirect::build(redirect, names, &at.key("redirect"), self.problems).map(Action::Redirect),
            (None, None, Some(respond)) => Respond::build(respond, names, &at.key("respond"), self.problems).map(Action::Respond),
            (None, None, None) if !["to", "redirect", "respond", "compose"].iter().all(|key| self.problems.is_sound(&at.key(key))) => None,
            (None, None, None) => {
                let fix = "add `to:` with a service or a URL, `redirect:` or `respond:`";
                self.problems.at(at, "a route that leads nowhere", "there would be no answer to give", fix)
            }
            _ => self.problems.at(
                at,
                "a route that does more than one thing",
                "only one answer can be given",
                "keep one of `to`, `redirect` and `respond`",
            ),
        }
    }

    fn target(&self, to: &raw::To, by_url: &mut HashMap<String, Arc<ServiceEntry>>, at: &At<'_>) -> Option<Arc<ServiceEntry>> {
        match to {
            raw::To::Service(name) => match self.services.get(name) {
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
            raw::To::Url(url) => {
                let service = Service::of_url(url, at, &self.state.endpoints, self.problems)?;
                Some(by_url.entry(service.name.to_string()).or_insert_with(|| entry(service, self.state)).clone())
            }
        }
    }
}

/// What a route without a name is called: its methods, hosts and path, as they were typed.
fn describe(raw: &raw::Route) -> String {
    let methods = raw.methods.iter().flat_map(|methods| methods.0.iter().map(|method| method.0.as_str())).collect::<Vec<_>>().join(",");
    let hosts = raw.host.as_ref().map(|hosts| hosts.0.join(",")).unwrap_or_default();
    let space = if methods.is_empty() { "" } else { " " };
    format!("{methods}{space}{hosts}{}", raw.path)
}

/// Two routes with the same identity match the same requests.
fn identity(rule: &Rule) -> String {
    let mut rule = rule.clone();
    rule.id = RouteId(0);
    rule.hosts.sort();
    rule.listeners.sort();
    rule.methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    // The name of a capture decides nothing.
    for segment in &mut rule.path.segments {
        if let Segment::Capture(name) = segment {
            *name = "".into();
        }
    }
    format!("{rule:?}")
}
