//! Endpoints by name: what DNS says now or, while it says nothing, the last that it said.

use super::Service;
use crate::config::scalar::HostPort;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};

/// Between two questions. The system's resolver is asked, so its files and caches hold, and it tells of no times to live.
const EVERY: Duration = Duration::from_secs(5);
/// The same while nothing has ever been said.
const EVERY_AT_FIRST: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_AT_START: Duration = Duration::from_secs(2);

/// Asks for a service's name for as long as it is polled.
pub async fn watch(service: Arc<Service>) {
    let Some(name) = service.pool.name() else { return };
    let mut is_known = true;
    loop {
        sleep(if service.pool.set().endpoints.is_empty() { EVERY_AT_FIRST } else { EVERY }).await;
        let found = timeout(PATIENCE, lookup_host((name.host.as_str(), name.port))).await;
        let found = found.ok().and_then(Result::ok).map(preferred).filter(|found| !found.is_empty());
        match &found {
            None if is_known => log::warn!("`{name}` of {} can't be resolved: what is known goes on", service.name),
            Some(_) if !is_known => log::info!("`{name}` of {} is resolved again", service.name),
            _ => {}
        }
        is_known = found.is_some();
        if let Some(found) = found
            && service.pool.found(&found)
        {
            log::info!("`{name}` of {} is {} endpoints now", service.name, found.len());
        }
    }
}

/// Those of IPv4 if there are any, since services that listen on one family mostly listen on that.
pub fn preferred(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = found.collect();
    if all.iter().any(SocketAddr::is_ipv4) {
        all.retain(SocketAddr::is_ipv4);
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Asks now, but waits no longer than a start may take.
pub fn resolve_soon(name: &HostPort) -> Option<Vec<SocketAddr>> {
    let (sender, answer) = channel();
    let name = name.clone();
    // The system's resolver can't be told to hurry.
    std::thread::spawn(move || sender.send(resolve(&name)));
    answer.recv_timeout(PATIENCE_AT_START).ok()?.ok()
}

/// Asks now, and waits for the answer.
///
/// # Errors
/// What the system's resolver says.
pub fn resolve(name: &HostPort) -> std::io::Result<Vec<SocketAddr>> {
    std::net::ToSocketAddrs::to_socket_addrs(&(name.host.as_str(), name.port)).map(preferred)
}
