//! What works, but probably not as it was meant.

use super::Listener;
use super::routes::name;
use super::services::Services;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, Config};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long before its end a certificate is spoken of: most are renewed a month before.
const EXPIRY_NEAR: Duration = Duration::from_secs(14 * 86_400);

/// Warnings of a configuration whose routes have all been built.
pub(super) fn warn(raw: &Config, listeners: &[Option<Listener>], services: &Services, problems: &Problems) {
    let root = At::root();
    let (listeners_at, services_at) = (root.key("listeners"), root.key("services"));
    let named: HashSet<&str> =
        raw.routes.iter().flatten().flat_map(|route| &route.listener).flat_map(|names| &names.0).map(|name| name.0.as_str()).collect();
    let any = raw.routes.iter().flatten().any(|route| route.listener.is_none());
    for (index, listener) in listeners.iter().enumerate() {
        let (at, Some(listener)) = (listeners_at.index(index), listener) else { continue };
        if !any && !listener.name.as_deref().is_some_and(|name| named.contains(name)) {
            let what = format!("no route takes requests from {}", listener.bind);
            problems.warn(&at, what, "each would be answered 404", "add a route, or remove the listener");
        }
        expiries(listener, raw.listeners[index].as_ref(), &at, problems);
    }
    for (index, listener) in raw.listeners.iter().enumerate() {
        let asks = listener.as_ref().and_then(|listener| listener.tls.as_ref()).is_some_and(|tls| tls.acme.is_some());
        if asks && raw.listeners.iter().flatten().all(|listener| listener.tls.is_some()) {
            let (at, why) = (listeners_at.index(index), "the authority asks on port 80 by plain HTTP, and would find nobody");
            problems.warn(&at.key("tls").key("acme"), "no listener is without TLS", why, "add `{ bind: 0.0.0.0:80 }` to the listeners");
        }
    }
    let stands_in = |name: &str| {
        let of = |service: &raw::Service| matches!(&service.fallback, Some(raw::Fallback::Service(other)) if other == name);
        raw.services.0.iter().filter_map(|(_, service)| service.as_ref()).any(of)
    };
    for (name, entry) in &services.all {
        // Whoever points at it holds it.
        if entry.as_ref().is_some_and(|entry| Arc::strong_count(entry) == 1) && !stands_in(name) {
            problems.warn(&services_at.key(name), format!("no route leads to `{name}`"), "it has no requests", "add a route, or remove it");
        }
    }
    for (name, service) in &raw.services.0 {
        let tls = service.as_ref().and_then(|service| service.tls.as_ref());
        if tls.is_some_and(|tls| !tls.verify) {
            let at = services_at.key(name);
            let why = "whoever is between us and the service can read and change what is sent";
            problems.warn(&at.key("tls").key("verify"), format!("`{name}` is believed without proof"), why, "set `ca:` instead");
        }
    }
    let listens = raw.listeners.iter().enumerate();
    for (index, _) in listens.filter(|(_, listener)| listener.as_ref().is_some_and(|listener| listener.proxy_protocol)) {
        if raw.server.trusted_proxies.is_empty() {
            let why = "from an untrusted peer no PROXY header is taken, and there is nobody else";
            let at = listeners_at.index(index);
            problems.warn(&at.key("proxy_protocol"), "no proxy is trusted", why, "name the proxies in `server: { trusted_proxies: […] }`");
        }
    }
    let (server_at, proxies) = (root.key("server"), &raw.server.trusted_proxies);
    let proxies_at = server_at.key("trusted_proxies");
    for (index, _) in proxies.iter().enumerate().filter(|(_, network)| network.0.prefix_len() == 0) {
        let why = "each client could choose the address that it is logged and limited by";
        problems.warn(&proxies_at.index(index), "everybody is a trusted proxy", why, "name the proxies' own network");
    }
}

/// What `check` points out of routes that lead to services: nothing is wrong with them, if they are meant so.
pub fn advise(raw: &Config, problems: &Problems) {
    let leads = |route: &raw::Route| route.to.is_some() || route.compose.is_some();
    let unsaid = |is_unsaid: fn(&raw::Route) -> bool| {
        let routes = raw.routes.iter().enumerate().filter_map(|(index, route)| Some((index, route.as_ref()?)));
        routes.filter(|(_, route)| leads(route) && is_unsaid(route)).map(|(index, route)| (index, name(route))).collect::<Vec<_>>()
    };
    let say = |routes: Vec<(usize, String)>, without: &str, why: &str, fix: &str| {
        let Some((first, _)) = routes.first() else { return };
        let s = if routes.len() == 1 { "" } else { "s" };
        let names = routes.iter().map(|(_, name)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        problems.warn(&At::root().key("routes").index(*first), format!("route{s} without {without}: {names}"), why, fix);
    };
    if raw.defaults.auth.is_none() {
        let fix = "add `auth:`, or `auth: [anonymous]` where it is meant";
        say(unsaid(|route| route.auth.is_none()), "auth", "anybody may call the service behind it", fix);
    }
    if raw.defaults.rate_limits.is_empty() {
        let fix = "add `rate_limits:`, or `rate_limits: []` where it is meant";
        say(unsaid(|route| route.rate_limits.is_none()), "a limit", "one client may take all that the service can bear", fix);
    }
}

/// Those that are ordered are renewed by themselves.
fn expiries(listener: &Listener, raw: Option<&raw::Listener>, at: &At<'_>, problems: &Problems) {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let at = at.key("tls");
    if let Some(what) = listener.tls.as_ref().and_then(|tls| past_its_end(tls.now().lists_end?, now)) {
        let why = "whoever was locked out since then may come in";
        problems.warn(&at.key("client_auth").key("crl"), what, why, "renew it: a new file is read by itself");
    }
    let at = at.key("certificates");
    let named = raw.and_then(|raw| raw.tls.as_ref()).map_or(0, |tls| tls.certificates.len());
    let expiries = listener.tls.iter().flat_map(|tls| tls.now().expiries.clone()).take(named);
    for (index, (name, expires)) in expiries.enumerate() {
        if let Some(what) = near_its_end(&name, expires, now) {
            problems.warn(&at.index(index).key("cert"), what, "clients would turn away", "renew it: new files are read by themselves");
        }
    }
}

/// What is to be said of a certificate that ends soon. Both times are Unix times.
pub fn near_its_end(name: &str, expires: i64, now: Duration) -> Option<String> {
    let left = u64::try_from(expires).map_or(Duration::ZERO, Duration::from_secs).saturating_sub(now);
    match left.as_secs() / 86_400 {
        _ if left > EXPIRY_NEAR => None,
        _ if left.is_zero() => Some(format!("the certificate of `{name}` has expired")),
        days => Some(format!("the certificate of `{name}` expires in {days} days")),
    }
}

/// What is to be said of a list of revoked certificates that should have been renewed. Both times are Unix times.
pub fn past_its_end(ends: i64, now: Duration) -> Option<String> {
    let is_over = u64::try_from(ends).map_or(Duration::ZERO, Duration::from_secs) < now;
    is_over.then(|| "a list of revoked certificates is past its end".to_string())
}
