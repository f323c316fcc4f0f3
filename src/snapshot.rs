//! One version of the configuration, with every cross-reference resolved: raw parts in, an immutable [`Snapshot`] out.
//!
//! A snapshot is data. What outlives it (counters, open logs, what is known of endpoints) is in [`State`], beside it.

use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, Config};
use crate::config::scalar::Bind;
use crate::config::shape::remedy;
use crate::observe::{AccessLog, Logs, Metrics, RouteMetrics, ServiceMetrics};
use crate::route::host::HostPattern;
use crate::route::pattern::Pattern;
use crate::route::{Rule, Table};
use crate::shape::answer::{Redirect, Respond};
use crate::shape::headers::HeaderEdits;
use crate::shape::template::Names;
use crate::tls::Termination;
use crate::types::{ListenerId, RouteId};
use crate::upstream::{Service, States, Timeouts};
use ipnet::IpNet;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// What lives longer than a snapshot.
#[derive(Debug)]
pub struct State {
    pub metrics: Arc<Metrics>,
    pub logs: Logs,
    endpoints: States,
    /// The numbers of listeners, by address and, of those with the same (port 0), their order.
    listeners: Mutex<HashMap<(Bind, usize), ListenerId>>,
}

impl State {
    pub fn new(metrics: Arc<Metrics>) -> State {
        let logs = Logs::new(metrics.log_dropped.clone());
        State { metrics, logs, endpoints: States::default(), listeners: Mutex::default() }
    }

    /// For a configuration that is only looked at: nothing is opened or made.
    pub fn dry(metrics: Arc<Metrics>) -> State {
        State { logs: Logs::dry(metrics.log_dropped.clone()), ..State::new(metrics) }
    }

    /// The same address keeps its number across reloads, so that a connection knows its listener for as long as it lives.
    fn listener_id(&self, bind: &Bind, nth: usize) -> ListenerId {
        let mut known = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let next = ListenerId(u32::try_from(known.len()).unwrap_or(u32::MAX));
        *known.entry((bind.clone(), nth)).or_insert(next)
    }
}

/// Where a snapshot comes from.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// Counts from 1, one more with each reload.
    pub version: u64,
    /// Of the text, for telling versions apart.
    pub hash: String,
    /// The configuration as it is read, secrets masked.
    pub shown: String,
}

#[derive(Debug)]
pub struct Snapshot {
    pub meta: Meta,
    pub loaded_at: SystemTime,
    pub server: Server,
    pub listeners: Vec<Listener>,
    pub table: Table,
    pub routes: Vec<Route>,
    pub services: Vec<Arc<ServiceEntry>>,
    pub access_log: Option<AccessLog>,
    /// Requests that no route takes.
    pub no_route: RouteMetrics,
}

/// What concerns every request.
#[derive(Debug)]
pub struct Server {
    pub trusted_proxies: Vec<IpNet>,
    pub timeouts: raw::ServerTimeouts,
    pub limits: raw::ServerLimits,
}

#[derive(Debug)]
pub struct Listener {
    pub id: ListenerId,
    pub name: Option<Arc<str>>,
    pub bind: Bind,
    pub tls: Option<Arc<Termination>>,
}

#[derive(Debug)]
pub struct ServiceEntry {
    pub service: Service,
    pub metrics: ServiceMetrics,
}

#[derive(Debug)]
pub struct Route {
    pub name: Arc<str>,
    pub action: Action,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// `None` is without limit.
    pub body_bytes_max: Option<u64>,
    pub metrics: RouteMetrics,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Action {
    Forward(Arc<ServiceEntry>, Timeouts),
    Redirect(Redirect),
    Respond(Respond),
}

impl Snapshot {
    /// Builds the rooms from their raw parts. `None` means that `problems` says why.
    pub fn build(raw: &Config, meta: Meta, state: &State, problems: &Problems) -> Option<Snapshot> {
        let root = At::root();
        let listeners = listeners(&raw.listeners, state, &root.key("listeners"), problems);
        let services = services(raw, state, &root.key("services"), problems);
        let build = Build { raw, state, listeners: &listeners, services: &services, problems };
        let routes = build.routes(&root.key("routes"));
        let access_log = match &raw.access_log {
            None => Some(None),
            Some(log) => {
                let opened = AccessLog::open(log, &state.logs).map_err(|e| format!("can't open `{}`: {e}", log.path.0));
                let fix = "correct the path, or let this user write it";
                problems.ok(opened, &root.key("access_log").key("path"), "requests could not be written down", fix).map(Some)
            }
        };
        if let Some(admin) = &raw.admin {
            check_admin(admin, &root.key("admin"), problems);
        }
        let (table, routes, url_services) = routes?;
        let services = services.into_iter().map(|(_, entry)| entry).collect::<Option<Vec<_>>>()?;
        problems.is_empty().then_some(())?;
        Some(Snapshot {
            meta,
            loaded_at: SystemTime::now(),
            server: Server {
                trusted_proxies: raw.server.trusted_proxies.iter().map(|network| network.0).collect(),
                timeouts: raw.server.timeouts.clone(),
                limits: raw.server.limits.clone(),
            },
            listeners: listeners.into_iter().collect::<Option<_>>()?,
            table,
            routes,
            services: services.into_iter().chain(url_services).collect(),
            access_log: access_log?,
            no_route: state.metrics.route(""),
        })
    }
}

fn check_admin(admin: &raw::Admin, at: &At<'_>, problems: &Problems) {
    let at = at.key("bind");
    match &admin.bind {
        Bind::Tcp(address) if !address.ip().is_loopback() && admin.token.is_none() => {
            let fix = "bind it to 127.0.0.1, or set `token:`";
            let _: Option<()> =
                problems.at(&at, format!("the admin listener on {address} needs a token"), "anybody could drain the gateway", fix);
        }
        bind => check_bind(bind, &at, problems),
    }
}

/// Addresses of kinds that are not served yet.
fn check_bind(bind: &Bind, at: &At<'_>, problems: &Problems) {
    if !matches!(bind, Bind::Tcp(_)) {
        let what = format!("`{bind}` is not supported by this version yet");
        let _: Option<()> = problems.at(at, what, "nobody could connect", "write an address with a port");
    }
}

fn listeners(raw: &[raw::Listener], state: &State, at: &At<'_>, problems: &Problems) -> Vec<Option<Listener>> {
    if raw.is_empty() {
        let _: Option<()> = problems.at(at, "no listener", "no request could come in", "add one, such as `- bind: 0.0.0.0:8080`");
    }
    let build = |(index, raw_listener): (usize, &raw::Listener)| {
        let at = at.index(index);
        let before = &raw[..index];
        let nth = before.iter().filter(|other| other.bind == raw_listener.bind).count();
        let any_port = matches!(raw_listener.bind, Bind::Tcp(address) if address.port() == 0);
        if nth > 0 && !any_port {
            return problems.at(
                &at.key("bind"),
                format!("{} is bound twice", raw_listener.bind),
                "only one can have it",
                "remove one of the two",
            );
        }
        if let Some(name) = raw_listener.name.as_ref().filter(|name| before.iter().any(|other| other.name.as_ref() == Some(name))) {
            let what = format!("two listeners are named `{}`", name.0);
            return problems.at(&at.key("name"), what, "routes could mean either", "rename one of the two");
        }
        check_bind(&raw_listener.bind, &at.key("bind"), problems);
        let tls = raw_listener.tls.as_ref().map(|tls| Termination::build(tls, &at.key("tls"), problems));
        Some(Listener {
            id: state.listener_id(&raw_listener.bind, nth),
            name: raw_listener.name.as_ref().map(|name| name.0.as_str().into()),
            bind: raw_listener.bind.clone(),
            tls: tls.map_or(Some(None), |built| built.map(|tls| Some(Arc::new(tls))))?,
        })
    };
    raw.iter().enumerate().map(build).collect()
}

type Services = Vec<(String, Option<Arc<ServiceEntry>>)>;

fn services(raw: &Config, state: &State, at: &At<'_>, problems: &Problems) -> Services {
    let build = |(name, raw): &(String, raw::Service)| {
        let at = at.key(name);
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || !name.bytes().all(legal) {
            let what = format!("`{name}` is not a service's name");
            let _: Option<()> = problems.at(&at, what, "`to` tells names from URLs", "use small letters, digits and `-`");
        }
        let service = Service::build(name, raw, &at, &state.endpoints, problems);
        (name.clone(), service.map(|service| entry(service, state)))
    };
    raw.services.0.iter().map(build).collect()
}

fn entry(service: Service, state: &State) -> Arc<ServiceEntry> {
    let labels: Vec<&str> = service.pool.endpoints().iter().map(|endpoint| &*endpoint.label).collect();
    let metrics = state.metrics.service(&service.name, &labels);
    Arc::new(ServiceEntry { service, metrics })
}

/// What the routes are built from.
struct Build<'a> {
    raw: &'a Config,
    state: &'a State,
    listeners: &'a [Option<Listener>],
    services: &'a Services,
    problems: &'a Problems,
}

impl Build<'_> {
    /// The table, the routes, and the services that routes name by URL.
    fn routes(&self, at: &At<'_>) -> Option<(Table, Vec<Route>, Vec<Arc<ServiceEntry>>)> {
        let raw = &self.raw.routes;
        if raw.is_empty() {
            return self.problems.at(
                at,
                "no route",
                "every request would be answered 404",
                "add one, such as `- { path: /*, to: orders }`",
            );
        }
        let (mut rules, mut routes, mut by_url) = (Vec::new(), Vec::new(), HashMap::new());
        let (mut names, mut seen) = (HashMap::new(), HashMap::new());
        for (index, route) in raw.iter().enumerate() {
            let at = at.index(index);
            let id = RouteId(u32::try_from(index).ok()?);
            let rule = self.rule(route, id, &at);
            let Some(rule) = rule else { continue };
            let name = route.name.as_ref().map_or_else(|| describe(route), |name| name.0.clone());
            if route.name.is_some()
                && let Some(first) = names.insert(name.clone(), index)
            {
                let what = format!("route {} has this name too", first + 1);
                let _: Option<()> =
                    self.problems.at(&at.key("name"), what, "log and metrics could not tell them apart", "rename one of the two");
            }
            if let Some(first) = seen.insert(identity(&rule), index) {
                let what = format!("route {} matches the same requests", first + 1);
                let _: Option<()> =
                    self.problems.at(&at, what, "this one would never be taken", "remove one of the two, or let them differ");
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
        let names: Vec<&str> =
            self.raw.listeners.iter().filter_map(|listener| listener.name.as_ref()).map(|name| name.0.as_str()).collect();
        let position = self.raw.listeners.iter().position(|listener| listener.name.as_ref() == Some(name));
        match position {
            // One that could not be built has its own problem.
            Some(position) => self.listeners[position].as_ref().map(|listener| listener.id),
            None => {
                self.problems.at(at, format!("no listener is named `{}`", name.0), "the route could never match", remedy(&name.0, &names))
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
                let timeouts = entry.service.timeouts.or(&raw.timeouts);
                Some(Action::Forward(entry, timeouts))
            }
            (None, Some(redirect), None) => Redirect::build(redirect, names, &at.key("redirect"), self.problems).map(Action::Redirect),
            (None, None, Some(respond)) => Respond::build(respond, names, &at.key("respond"), self.problems).map(Action::Respond),
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
            raw::To::Service(name) => match self.services.iter().find(|(known, _)| known == name) {
                // One that could not be built has its own problem.
                Some((_, entry)) => entry.clone(),
                None => {
                    let names: Vec<&str> = self.services.iter().map(|(name, _)| name.as_str()).collect();
                    self.problems.at(at, format!("no service is named `{name}`"), "requests would have nowhere to go", remedy(name, &names))
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
        if let crate::route::pattern::Segment::Capture(name) = segment {
            *name = "".into();
        }
    }
    format!("{rule:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use crate::config::place::Source;

    fn problems(text: &str) -> Vec<String> {
        let source = Source::new("f.yaml", text);
        let problems = Problems::default();
        let state = State::new(Metrics::new().expect("metrics"));
        let built = load::read(&source, &problems).and_then(|raw| Snapshot::build(&raw, Meta::default(), &state, &problems));
        assert_eq!(built.is_none(), !problems.is_empty());
        problems.into_parts().0.iter().map(|p| p.render(&source).lines().next().unwrap_or_default().to_string()).collect()
    }

    #[test]
    fn all_problems_of_meaning_come_at_once() {
        let text = "
listeners: [{ name: a, bind: 127.0.0.1:1 }, { name: a, bind: 127.0.0.1:2 }, { bind: 127.0.0.1:1 }]
admin: { bind: 0.0.0.0:9 }
services: { orders: { endpoints: [10.0.0.1:1] } }
routes:
  - { path: \"/a/{x}\", to: order }
  - { path: \"/a/{y}\", to: orders, listener: b }
  - { path: /b, to: orders }
  - { path: /b, to: orders, name: n }
  - { path: /c }
  - { path: /d, to: orders, respond: {} }
  - { path: e, redirect: { to: x } }
  - { path: /f, redirect: { to: x } }
";
        assert_eq!(
            problems(text),
            [
                "f.yaml:2:53: two listeners are named `a`",
                "f.yaml:2:85: 127.0.0.1:1 is bound twice",
                "f.yaml:6:27: no service is named `order`",
                "f.yaml:7:45: no listener is named `b`",
                "f.yaml:9:5: route 3 matches the same requests",
                "f.yaml:10:5: a route that leads nowhere",
                "f.yaml:11:5: a route that does more than one thing",
                "f.yaml:12:13: the path `e` does not begin with a slash",
                "f.yaml:13:33: `x` is neither a path nor a URL",
                "f.yaml:3:16: the admin listener on 0.0.0.0:9 needs a token",
            ]
        );
    }

    #[test]
    fn a_listener_keeps_its_number() {
        let state = State::new(Metrics::new().expect("metrics"));
        let build = |text: &str| {
            let problems = Problems::default();
            let raw = load::read(&Source::new("f", text), &problems).expect("a configuration");
            let snapshot = Snapshot::build(&raw, Meta::default(), &state, &problems).expect("a snapshot");
            snapshot.listeners.iter().map(|listener| listener.id.0).collect::<Vec<_>>()
        };
        let routes = "routes: [{ path: /, respond: {} }]";
        assert_eq!(build(&format!("listeners: [{{ bind: 127.0.0.1:1 }}, {{ bind: 127.0.0.1:2 }}]\n{routes}")), [0, 1]);
        assert_eq!(build(&format!("listeners: [{{ bind: 127.0.0.1:2 }}, {{ bind: 127.0.0.1:3 }}]\n{routes}")), [1, 2]);
    }
}
