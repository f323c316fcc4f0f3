//! `/status`: the running gateway as JSON.

use super::Process;
use crate::auth::Told;
use crate::cache::Counts;
use crate::limit::{Cap, StoreTold};
use crate::snapshot::{LimitEntry, Route, ServiceEntry, Snapshot, State};
use crate::upstream::Endpoint;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub fn json(snapshot: &Snapshot, state: &State, process: &dyn Process) -> Value {
    let listener = |listener: &crate::snapshot::Listener| {
        json!({
            "name": listener.name.as_deref(),
            "bind": listener.bind.to_string(),
            "address": process.address(listener.id),
            "tls": listener.tls.is_some(),
            "certificates": listener.tls.as_ref().map(|tls| tls.now().expiries.iter().map(certificate).collect::<Vec<_>>()),
        })
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "ready": process.is_ready(),
        "snapshot": {
            "version": snapshot.meta.version,
            "hash": snapshot.meta.hash,
            "loaded_at": humantime::format_rfc3339_seconds(snapshot.loaded_at).to_string(),
            "last_error": process.last_error(),
        },
        "issuers": snapshot.methods.issuers().into_iter().map(issuer).collect::<Vec<_>>(),
        "connections": state.metrics.connections.get(),
        "in_flight": state.metrics.in_flight.get(),
        "listeners": snapshot.listeners.iter().map(listener).collect::<Vec<_>>(),
        "routes": snapshot.routes.iter().map(|route| &*route.name).collect::<Vec<_>>(),
        "services": snapshot.services.iter().map(service).collect::<Vec<_>>(),
        "caps": snapshot.routes.iter().filter_map(|route| Some(json!({ "route": &*route.name, "cap": cap(route.cap.as_ref()?) }))).collect::<Vec<_>>(),
        "overload": snapshot.server.overload.as_ref().map(|overload| json!({ "waiting": overload.inside(), "bound": overload.bound() })),
        "cache": cache(snapshot, state),
        "limits": snapshot.limits.iter().map(limit).collect::<Vec<_>>(),
        "store": snapshot.shared.as_ref().map(|shared| store(shared.told())),
        "limit_keys": {
            "kept": state.limits.store.kept(),
            "max": snapshot.server.limit_keys_max,
            "dropped": state.limits.store.dropped(),
        },
    })
}

fn certificate((name, expires): &(String, i64)) -> Value {
    let at = u64::try_from(*expires).map(|seconds| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
    json!({ "name": name, "expires": at.map(|at| humantime::format_rfc3339_seconds(at).to_string()).ok() })
}

/// What is kept, and what it was good for by route.
fn cache(snapshot: &Snapshot, state: &State) -> Value {
    let size = state.cache.store.size();
    let route = |route: &Route| {
        let cache = route.cache.as_ref()?;
        let counts: Vec<(&str, u64)> = cache.metrics.counts().collect();
        let all: u64 = counts.iter().map(|(_, count)| count).sum();
        let given: u64 = counts.iter().filter(|(status, _)| matches!(*status, "hit" | "stale")).map(|(_, count)| count).sum();
        let ratio = (all > 0).then(|| (given as f64 / all as f64 * 1000.0).round() / 1000.0);
        let counts: serde_json::Map<String, Value> = counts.into_iter().map(|(status, count)| (status.to_string(), count.into())).collect();
        Some(json!({ "route": &*route.name, "cache": &*cache.rule.name, "hit_ratio": ratio, "requests": counts }))
    };
    json!({
        "bytes": size.bytes,
        "bytes_max": size.bytes_max,
        "entries": size.entries,
        "in_flight_bytes": size.in_flight_bytes,
        "evicted": size.evicted,
        "gateways": snapshot.bulletin.as_ref().map(|bulletin| bulletin_counts(bulletin.counts())),
        "routes": snapshot.routes.iter().filter_map(route).collect::<Vec<_>>(),
    })
}

/// What gateways tell each other of their caches.
fn bulletin_counts(counts: &Counts) -> Value {
    json!({
        "up": counts.is_up.load(Relaxed),
        "purges_sent": counts.sent.load(Relaxed),
        "purges_heard": counts.heard.load(Relaxed),
        "missed": counts.missed.load(Relaxed),
    })
}

fn issuer(told: Told) -> Value {
    json!({ "url": told.url, "age_seconds": told.age.map(|age| age.as_secs()), "error": told.error })
}

fn store(told: StoreTold) -> Value {
    json!({
        "name": told.name,
        "up": told.is_up,
        "last_error": told.last_error,
        "questions": told.questions,
        "failures": told.failures,
        "leases": told.leases,
    })
}

fn service(entry: &Arc<ServiceEntry>) -> Value {
    let cap = entry.cap.as_ref().map(cap);
    let set = entry.service.pool.set();
    let breaker = entry.service.is_open().map(|is_open| if is_open { "open" } else { "closed" });
    json!({ "name": &*entry.service.name, "cap": cap, "breaker": breaker, "endpoints": set.endpoints.iter().map(endpoint).collect::<Vec<_>>() })
}

fn endpoint(endpoint: &Arc<Endpoint>) -> Value {
    json!({
        "address": &*endpoint.label,
        "weight": endpoint.weight,
        "in_flight": endpoint.state.in_flight(),
        "state": endpoint.standing().name(),
        "ejections": endpoint.state.ejections(),
    })
}

fn cap(cap: &Cap) -> Value {
    json!({ "in_flight": cap.inside(), "waiting": cap.waiting(), "max": cap.max() })
}

/// Keys that are shown of each limit.
const NEAREST: usize = 5;

fn limit(entry: &LimitEntry) -> Value {
    let limit = &entry.limit;
    let (keys, nearest) = limit.nearest(NEAREST);
    let near = |near: &crate::limit::Near| json!({ "key": near.key, "left": near.left, "reset_seconds": near.reset });
    json!({
        "name": &*limit.name,
        "rate": limit.rate_text(),
        "by": limit.by_text(),
        "mode": if limit.is_shadow { "shadow" } else { "enforce" },
        "allowed": entry.metrics.allowed.get(),
        "refused": entry.metrics.refused.get(),
        "keys": keys,
        "shared": limit.sharing.as_ref().map(|sharing| json!({
            "exact": sharing.is_exact,
            "held": limit.held(),
            "alone": entry.metrics.alone.get(),
            "overshoot": limit.overshoot().unwrap_or(0),
        })),
        // By the hash that `explain` shows too: what a key is of may be secret.
        "nearest": nearest.iter().map(near).collect::<Vec<_>>(),
    })
}
