//! `/status`: the running gateway as JSON.

use super::Process;
use crate::auth::Told;
use crate::observe::Metrics;
use crate::snapshot::{ServiceEntry, Snapshot};
use serde_json::{Value, json};
use std::sync::Arc;

pub fn json(snapshot: &Snapshot, metrics: &Metrics, process: &dyn Process) -> Value {
    let listener = |listener: &crate::snapshot::Listener| {
        json!({
            "name": listener.name.as_deref(),
            "bind": listener.bind.to_string(),
            "address": process.address(listener.id).map(|address| address.to_string()),
            "tls": listener.tls.is_some(),
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
        "connections": metrics.connections.get(),
        "in_flight": metrics.in_flight.get(),
        "listeners": snapshot.listeners.iter().map(listener).collect::<Vec<_>>(),
        "routes": snapshot.routes.iter().map(|route| &*route.name).collect::<Vec<_>>(),
        "services": snapshot.services.iter().map(service).collect::<Vec<_>>(),
    })
}

fn issuer(told: Told) -> Value {
    json!({ "url": told.url, "age_seconds": told.age.map(|age| age.as_secs()), "error": told.error })
}

fn service(entry: &Arc<ServiceEntry>) -> Value {
    let endpoints = entry.service.pool.endpoints().iter();
    let endpoint = |endpoint: &Arc<crate::upstream::Endpoint>| json!({ "address": &*endpoint.label, "weight": endpoint.weight, "in_flight": endpoint.state.in_flight() });
    json!({ "name": &*entry.service.name, "endpoints": endpoints.map(endpoint).collect::<Vec<_>>() })
}
