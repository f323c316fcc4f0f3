//! One version of the configuration, with every cross-reference resolved: raw parts in, an immutable [`Snapshot`] out.
//!
//! A snapshot is data. What outlives it (counters, open logs, what is known of endpoints) is in [`State`], beside it.

mod action;
mod bodies;
mod caches;
mod limits;
mod listeners;
mod routes;
mod services;
mod warnings;

pub use action::{Action, Composition, Forward};
pub use bodies::BodyRule;
pub use caches::RouteCache;
pub use limits::{LimitEntry, RouteLimits};
pub use listeners::check_admin;
pub use warnings::{advise, near_its_end, past_its_end};

use crate::auth::cors::Cors;
use crate::auth::{Access, Failures, Issuers, Methods, unmapped};
use crate::cache::{Bulletin, Cache, Rule};
use crate::compose::Line;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, Config};
use crate::config::scalar::Bind;
use crate::config::secret::Hidden;
use crate::limit::{Buffers, Cap, Counts, Flood, Held, Limits, Load, Overload, Shared};
use crate::observe::{AccessLog, Logs, Metrics, Refusals, RouteMetrics, ServiceMetrics};
use crate::route::Table;
use crate::shape::answer::Respond;
use crate::shape::compress::Compress;
use crate::shape::headers::HeaderEdits;
use crate::shape::rewrite::Rewrite;
use crate::tls::acme::Acme;
use crate::tls::{Termination, TicketSecret};
use crate::types::{Carried, ListenerId};
use crate::upstream::{Service, States, Timeouts};
use ipnet::IpNet;
use prometheus::IntCounter;
use services::Services;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use std::time::SystemTime;
use tokio::sync::Semaphore;

/// What lives longer than a snapshot.
#[derive(Debug)]
pub struct State {
    pub metrics: Arc<Metrics>,
    pub logs: Logs,
    pub limits: Limits,
    /// Answers that are kept.
    pub cache: &'static Cache,
    /// What gateways tell each other of them, and the store that it is written to.
    bulletin: Mutex<(Weak<Shared>, Weak<Bulletin>)>,
    counts: Counts,
    load: Arc<Load>,
    /// Bodies that are held in memory.
    pub buffers: Arc<Buffers>,
    /// Whose keys are known.
    pub issuers: Arc<Issuers>,
    failures: Arc<Failures>,
    /// The last that were refused.
    pub refusals: Arc<Refusals>,
    tickets: TicketSecret,
    pub endpoints: States,
    /// The numbers of listeners, by address and, of those with the same (port 0), their order.
    listeners: Mutex<HashMap<(Bind, usize), ListenerId>>,
}

impl State {
    pub fn new(metrics: Arc<Metrics>) -> State {
        let logs = Logs::new(metrics.log_dropped.clone());
        State {
            metrics,
            logs,
            limits: Limits::default(),
            cache: Cache::new(),
            bulletin: Mutex::default(),
            counts: Counts::default(),
            load: Arc::default(),
            buffers: Arc::default(),
            issuers: Arc::default(),
            failures: Arc::default(),
            refusals: Arc::default(),
            tickets: TicketSecret::default(),
            endpoints: States::default(),
            listeners: Mutex::default(),
        }
    }

    /// What goes along into the process that takes the place of this one.
    pub fn carried(&self) -> Vec<&dyn Carried> {
        vec![&self.limits, &*self.metrics, &self.tickets, &self.endpoints]
    }

    /// What gateways of this store tell each other; it goes on for as long as the store is the same.
    fn bulletin(&self, shared: &Arc<Shared>) -> Arc<Bulletin> {
        let mut known = self.bulletin.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bulletin) = known.1.upgrade().filter(|_| std::ptr::eq(known.0.as_ptr(), &**shared)) {
            return bulletin;
        }
        let bulletin = Arc::new(Bulletin::new(shared.client().clone()));
        *known = (Arc::downgrade(shared), Arc::downgrade(&bulletin));
        bulletin
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
    /// What is not told of it.
    pub hidden: Hidden,
}

#[derive(Debug)]
pub struct Snapshot {
    pub meta: Meta,
    pub loaded_at: SystemTime,
    pub server: Server,
    pub listeners: Vec<Listener>,
    /// Certificates that are ordered, and whose challenges are answered.
    pub acme: Vec<Arc<Acme>>,
    pub table: Table,
    pub routes: Vec<Route>,
    pub services: Vec<Arc<ServiceEntry>>,
    pub limits: Vec<LimitEntry>,
    /// What limits of several gateways are counted in.
    pub shared: Option<Arc<Shared>>,
    /// Ways to recognise who comes.
    pub methods: Methods,
    pub caches: Vec<Arc<Rule>>,
    /// Where they keep answers.
    pub cache: &'static Cache,
    /// Other gateways, where there are any: what is purged here is told to them.
    pub bulletin: Option<Arc<Bulletin>>,
    /// The most that these take, in bytes.
    pub cache_memory: usize,
    /// Who was refused, and how often.
    pub failures: Arc<Failures>,
    pub refusals: Arc<Refusals>,
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
    /// At once on one HTTP/2 connection.
    pub streams_max: u32,
    /// How long such a connection may rest.
    pub streams_idle: Duration,
    /// The guard before everything else, if there is one.
    pub flood: Option<Flood>,
    /// What sheds what services can't answer in time, if anything.
    pub overload: Option<Overload>,
    /// Keys of all rate limits together.
    pub limit_keys_max: usize,
    /// Bodies that are held in memory, and how many bytes may be.
    pub buffers: Arc<Buffers>,
    pub buffers_max: u64,
}

impl Server {
    /// Begins to hold a body in memory.
    pub fn hold(&self) -> Held {
        self.buffers.hold()
    }
}

#[derive(Debug)]
pub struct Listener {
    pub id: ListenerId,
    pub name: Option<Arc<str>>,
    pub bind: Bind,
    pub tls: Option<Arc<Termination>>,
    /// Trusted proxies say by the PROXY protocol for whom they speak.
    pub is_proxied: bool,
}

#[derive(Debug)]
pub struct ServiceEntry {
    pub service: Arc<Service>,
    /// What clients get while nothing can be sent to it.
    pub fallback: Option<Fallback>,
    /// How many requests may be with it at once, if there is a bound.
    pub cap: Option<Cap>,
    pub metrics: ServiceMetrics,
}

impl ServiceEntry {
    /// As those see it who send something to it.
    pub fn line(&self, timeouts: &Timeouts) -> Line<'_> {
        Line { service: &self.service, metrics: &self.metrics, cap: self.cap.as_ref(), timeouts: *timeouts }
    }
}

/// A service that gets copies of requests.
#[derive(Clone, Debug)]
pub struct Mirror {
    pub entry: Arc<ServiceEntry>,
    /// Of the requests.
    pub percent: u64,
    pub timeouts: Timeouts,
    /// So many copies at once.
    pub places: Arc<Semaphore>,
    pub sent: IntCounter,
    pub failed: IntCounter,
    pub dropped: IntCounter,
}

/// What takes the place of a service.
#[derive(Debug)]
pub enum Fallback {
    /// Another one, by its place in the snapshot.
    Service(usize),
    Respond(Respond),
}

#[derive(Debug)]
pub struct Route {
    pub name: Arc<str>,
    /// Methods, hosts, path and the rest, for people.
    pub asks: Box<str>,
    pub action: Action,
    /// Who may come.
    pub access: Access,
    /// Which pages of other origins may ask.
    pub cors: Option<Cors>,
    /// Codings of its answers.
    pub compress: Option<Compress>,
    /// Another target for the service.
    pub rewrite: Option<Rewrite>,
    /// Who gets copies of its requests.
    pub mirror: Option<Mirror>,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// What becomes of JSON bodies, if anything.
    pub request_body: Option<BodyRule>,
    pub response_body: Option<BodyRule>,
    /// `None` is without limit.
    pub body_bytes_max: Option<u64>,
    /// Bytes a second; 0 is none.
    pub body_rate_min: u64,
    /// What its answers are kept by, if they are.
    pub cache: Option<RouteCache>,
    /// What its requests have to pass, if anything.
    pub limits: Option<RouteLimits>,
    /// How many may be in flight at once, if there is a bound.
    pub cap: Option<Cap>,
    pub priority: u64,
    pub metrics: RouteMetrics,
}

impl Snapshot {
    /// Builds the rooms from their raw parts. `None` means that `problems` says why.
    pub fn build(raw: &Config, meta: Meta, state: &State, problems: &Problems) -> Option<Snapshot> {
        let root = At::root();
        let listeners = listeners::listeners(raw, state, &root.key("listeners"), problems);
        let services = Services::build(raw, state, &root.key("services"), problems);
        let shared = raw.redis.as_ref().and_then(|redis| state.limits.shared(redis, &root.key("redis"), problems));
        let limits = limits::Limits::build(raw, shared.as_ref(), state, &root.key("rate_limits"), problems);
        let caches = caches::Caches::build(raw, &root.key("caches"), problems);
        let methods = Methods::build(&raw.auth, &state.issuers, &root.key("auth"), problems);
        listeners::check_client_auth(raw, &root.key("auth"), problems);
        let named = routes::Named { listeners: &listeners, services: &services, limits: &limits, caches: &caches, methods: &methods };
        // First, so that each is said where it stands and not by the routes that have it.
        let defaults_at = root.key("defaults");
        Access::check_defaults(&raw.defaults, &methods, &defaults_at, problems);
        limits.check_defaults(&raw.defaults.rate_limits, &defaults_at.key("rate_limits"), problems);
        let build = routes::Build::new(raw, state, named, problems);
        let routes = build.routes(&root.key("routes"));
        let access_log = access_log(raw, &methods, state, &root.key("access_log"), problems);
        check_log(&raw.log, state, &root.key("log"), problems);
        if let Some(admin @ raw::Admin { bind: Bind::Tcp(address), .. }) = &raw.admin {
            listeners::check_admin(admin, *address, &root.key("admin"), problems);
        }
        let overload = overload(raw, state, &root.key("server").key("overload"), problems);
        let (table, routes, url_services) = routes?;
        let acme = listeners::ordered(&listeners, &root.key("listeners"), problems);
        warnings::warn(raw, &listeners, &services, problems);
        let services = services.all.into_iter().map(|(_, entry)| entry).collect::<Option<Vec<_>>>()?;
        problems.is_empty().then_some(())?;
        Some(Snapshot {
            meta,
            loaded_at: SystemTime::now(),
            server: Server {
                trusted_proxies: raw.server.trusted_proxies.iter().map(|network| unmapped(network.0)).collect(),
                timeouts: raw.server.timeouts.clone(),
                limits: raw.server.limits.clone(),
                streams_max: u32::try_from(raw.server.http2.max_concurrent_streams.0).unwrap_or(u32::MAX),
                streams_idle: raw.server.http2.idle_timeout.0,
                flood: raw.server.flood.as_ref().map(|flood| Flood::new(flood.rate)),
                overload,
                limit_keys_max: raw.server.limit_keys_max.usize(),
                buffers: state.buffers.clone(),
                buffers_max: raw.server.buffers.0,
            },
            acme: acme?,
            listeners: listeners.into_iter().collect::<Option<_>>()?,
            table,
            routes,
            services: services.into_iter().chain(url_services).collect(),
            limits: limits.into_entries()?,
            bulletin: shared.as_ref().filter(|_| !raw.caches.0.is_empty()).map(|shared| state.bulletin(shared)),
            shared,
            methods,
            caches: caches.into_rules()?,
            cache: state.cache,
            cache_memory: usize::try_from(raw.cache_store.memory.0).unwrap_or(usize::MAX),
            failures: state.failures.clone(),
            refusals: state.refusals.clone(),
            access_log: access_log?,
            no_route: state.metrics.route(""),
        })
    }
}

/// The outer `None` means that a problem was reported.
fn access_log(raw: &Config, methods: &Methods, state: &State, at: &At<'_>, problems: &Problems) -> Option<Option<AccessLog>> {
    let Some(log) = &raw.access_log else { return Some(None) };
    let redact = log.redact.iter().cloned().chain(methods.secret_parameters()).collect();
    let log = &raw::AccessLog { redact, ..log.clone() };
    let opened = AccessLog::open(log, &state.logs).map_err(|e| format!("can't open `{}`: {e}", log.path.0));
    let fix = "correct the path, or let this user write it";
    problems.ok(opened, &at.key("path"), "requests could not be written down", fix).map(Some)
}

/// The error log is opened when the process begins: by then it is too late to say where it is wrong.
fn check_log(raw: &raw::Log, state: &State, at: &At<'_>, problems: &Problems) {
    let opened = state.logs.probe(&raw.path.0).map_err(|e| format!("can't open `{}`: {e}", raw.path.0));
    let fix = "correct the path, or let this user write it; `stderr` and `stdout` always work";
    problems.ok(opened, &at.key("path"), "what goes wrong could not be written down", fix);
}

fn overload(raw: &Config, state: &State, at: &At<'_>, problems: &Problems) -> Option<Overload> {
    let target = raw.server.overload.as_ref()?.target;
    if target.is_zero() {
        let fix = "write what most answers should come within, such as `50ms`";
        return problems.at(&at.key("target"), "a target of no time at all", "every answer would be late", fix);
    }
    let priorities = raw.routes.iter().flatten().map(|route| route.priority.0).collect();
    Some(Overload::new(&state.load, target, priorities))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use crate::config::source::Sources;

    fn problems(text: &str) -> Vec<String> {
        let mut sources = Sources::new("f.yaml", text);
        let problems = Problems::default();
        let state = State::new(Metrics::new().expect("metrics"));
        let built = load::read(&mut sources, &problems).and_then(|raw| Snapshot::build(&raw, Meta::default(), &state, &problems));
        assert_eq!(built.is_none(), !problems.is_empty());
        problems.into_parts().0.iter().map(|p| p.render(&sources).lines().next().unwrap_or_default().to_string()).collect()
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
                "f.yaml:10:5: a route that leads nowhere",
                "f.yaml:11:5: a route that does more than one thing",
                "f.yaml:12:13: the path `e` does not begin with a slash",
                "f.yaml:13:33: `x` is neither a path nor a URL",
                "f.yaml:9:5: two routes match the same requests",
                "f.yaml:3:16: the admin listener on 0.0.0.0:9 needs a token",
            ]
        );
    }

    #[test]
    fn routes_that_can_never_match_name_the_other_one() {
        let text = "
listeners: [{ bind: 127.0.0.1:1 }]
routes:
  - { path: /a, methods: [GET, PUT], respond: {} }
  - { path: /a, methods: PUT, respond: {} }
  - { path_regex: '/b+', headers: { X-A: 1 }, respond: {} }
  - { name: all, path: /*, respond: {} }
  - { path: /a, headers: { X-B: { regex: b }, X-A: 1 }, query: { q: { present: true } }, respond: {} }
  - { path: /a, headers: { X-A: 1, X-B: { regex: b } }, query: { q: { present: true } }, respond: {} }
";
        assert_eq!(
            problems(text),
            [
                "f.yaml:5:5: this route can never match: `GET,PUT /a` comes before it and leaves it no request",
                "f.yaml:6:5: this route can never match: `all` comes before it and leaves it no request",
                "f.yaml:9:5: two routes match the same requests",
            ]
        );
    }

    #[test]
    fn weights_matches_and_rewrites_have_a_form() {
        let text = "
listeners: [{ bind: 127.0.0.1:1 }]
services: { a: { endpoints: [10.0.0.1:1] }, b: { endpoints: [10.0.0.2:1] } }
routes:
  - { path: /a, to: [{ service: a, weight: 0 }, { service: b, weight: 0 }] }
  - { path: /b, to: [] }
  - { path: /c, to: [{ weight: 1 }, { service: b, weight: 2000000 }] }
  - { path: /d, to: a, headers: { X: { present: false }, Y: { regex: a, present: true }, Z: {}, W: true } }
";
        assert_eq!(
            problems(text),
            [
                "f.yaml:5:21: no service has a weight above 0",
                "f.yaml:6:21: no service has a weight above 0",
                "f.yaml:7:22: `to[0]` has no `service`",
                "f.yaml:7:59: `weight` is 2000000",
                "f.yaml:8:38: `present` is false",
                "f.yaml:8:61: both `regex` and `present`",
                "f.yaml:8:93: `Z` must be a value, or `{ regex: … }`, or `{ present: true }`, not a map",
                "f.yaml:8:100: `W` must be a value, or `{ regex: … }`, or `{ present: true }`, not a bare true or false",
            ]
        );
        let text = "
listeners: [{ bind: 127.0.0.1:1 }]
services: { a: { endpoints: [10.0.0.1:1] } }
routes:
  - { path: /a, to: [{ service: a, weight: 1 }, { service: c }] }
  - { path: /b, respond: {}, request: { query: { remove: [a] } } }
  - { path: '/c/{id}', to: a, request: { path: '{id}', query: { set: { a: '${nope}' } } } }
";
        assert_eq!(
            problems(text),
            [
                "f.yaml:5:60: no service is named `c`",
                "f.yaml:6:39: a rewrite of a request that is sent to no service",
                "f.yaml:7:48: the path `{id}` does not begin with a slash",
                "f.yaml:7:75: `${nope}` is not known here",
            ]
        );
    }

    #[test]
    fn shape_and_meaning_come_together_and_nothing_twice() {
        let text = "
listeners: [{ name: a, bind: nowhere }, { bind: 127.0.0.1:1, nam: b }]
server: { threads: many, drain_timeout: 5 }
services:
  broken: { endpoints: 5 }
  half: { endpoints: [x, 10.0.0.1:1], protocol: h2 }
routes:
  - { path: /a, to: broken, listener: a }
  - { path: /b, too: half, listener: b }
  - { path: /c, to: \"${UNSET}\" }
  - { path: [1], to: half }
  - { path: x, to: nobody, host: [], body_bytes: 1MB }
  - { path: \"/${UNSET}\", host: \"${UNSET}\", redirect: {} }
  - { pth: /d, respond: { status: 99 } }
  - { path: /e, to: half, mirror: {} }
  - { path: /f, compose: {} }
";
        assert_eq!(
            problems(text),
            [
                "f.yaml:10:21: the environment variable `UNSET` is not set",
                "f.yaml:13:13: the environment variable `UNSET` is not set",
                "f.yaml:13:32: the environment variable `UNSET` is not set",
                "f.yaml:2:30: `nowhere` is not an address with a port",
                "f.yaml:2:62: unknown key `nam`",
                "f.yaml:3:20: `threads` must be a whole number, not a text",
                "f.yaml:3:41: `5` has no unit",
                "f.yaml:5:24: `endpoints` must be a list, not a number",
                "f.yaml:6:23: `x` has no port",
                "f.yaml:9:17: unknown key `too`",
                "f.yaml:11:13: `path` must be a text, not a list",
                "f.yaml:12:34: `host` is an empty list",
                "f.yaml:12:50: `1MB` has a unit that is not binary",
                "f.yaml:13:54: `redirect` has no `to`",
                "f.yaml:14:35: `status` is 99",
                "f.yaml:14:7: unknown key `pth`",
                "f.yaml:15:35: `mirror` has no `to`",
                "f.yaml:16:26: `compose` has no `calls`",
                "f.yaml:6:9: `protocol: h2` needs TLS",
                "f.yaml:12:13: the path `x` does not begin with a slash",
                "f.yaml:12:20: no service is named `nobody`",
            ]
        );
    }

    #[test]
    fn a_certificate_that_has_expired_is_a_warning() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new(vec!["old.example".to_string()]).expect("a name");
        parameters.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let [cert_file, key_file] = ["a.pem", "a.key"].map(|name| folder.path().join(name));
        std::fs::write(&cert_file, certificate.pem()).expect("a file");
        std::fs::write(&key_file, key.serialize_pem()).expect("a file");
        let pair = format!("{{ cert: {}, key: {} }}", cert_file.display(), key_file.display());
        let text =
            format!("listeners: [{{ bind: 127.0.0.1:1, tls: {{ certificates: [{pair}] }} }}]\nroutes: [{{ path: /, respond: {{}} }}]");
        let problems = Problems::default();
        let raw = load::read(&mut Sources::new("f", text), &problems).expect("a configuration");
        Snapshot::build(&raw, Meta::default(), &State::new(Metrics::new().expect("metrics")), &problems).expect("a snapshot");
        let warnings: Vec<String> = problems.into_parts().1.into_iter().map(|warning| warning.what).collect();
        assert_eq!(warnings, ["the certificate of `old.example` has expired"]);
    }

    #[test]
    fn a_listener_keeps_its_number() {
        let state = State::new(Metrics::new().expect("metrics"));
        let build = |text: &str| {
            let problems = Problems::default();
            let raw = load::read(&mut Sources::new("f", text), &problems).expect("a configuration");
            let snapshot = Snapshot::build(&raw, Meta::default(), &state, &problems).expect("a snapshot");
            snapshot.listeners.iter().map(|listener| listener.id.0).collect::<Vec<_>>()
        };
        let routes = "routes: [{ path: /, respond: {} }]";
        assert_eq!(build(&format!("listeners: [{{ bind: 127.0.0.1:1 }}, {{ bind: 127.0.0.1:2 }}]\n{routes}")), [0, 1]);
        assert_eq!(build(&format!("listeners: [{{ bind: 127.0.0.1:2 }}, {{ bind: 127.0.0.1:3 }}]\n{routes}")), [1, 2]);
    }
}
