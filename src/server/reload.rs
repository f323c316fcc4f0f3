//! Reloads: another snapshot in place of the one that runs, all of it or nothing.

use super::accept::{Manner, Times};
use super::loading::{self, Failure, Loaded, Sockets};
use super::notify;
use super::proxied::Proxies;
use super::renewal::expiries;
use super::socket::Address;
use super::sockets::Bound;
use super::stream::Limits;
use super::{ADMIN, Server};
use crate::admin;
use crate::config::raw::Config;
use crate::config::render::SHOWN_MAX;
use crate::config::scalar::Bind;
use crate::proxy::forget;
use crate::snapshot::{Listener, Snapshot};
use crate::types::ListenerId;
use crate::upstream::backlog::ANSWER_BYTES_MAX;
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// What the operator is shown of the process.
#[derive(Debug, Default)]
pub struct Status {
    is_ready: AtomicBool,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    last_error: Option<String>,
    admin: Option<(Bind, Address)>,
    token: Option<String>,
    listeners: Vec<(ListenerId, Address)>,
    drain_delay: Duration,
    drain_timeout: Duration,
    upgrade_socket: Option<PathBuf>,
    upgrade_timeout: Duration,
    threads: Option<u64>,
}

impl Status {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn set_ready(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Relaxed);
    }
    /// The delay before accepting stops, and the limit after it.
    pub fn drain_times(&self) -> (Duration, Duration) {
        let shown = self.shown();
        (shown.drain_delay, shown.drain_timeout)
    }
    /// Where another process is met, and how long it may take.
    pub fn upgrade_terms(&self) -> (Option<PathBuf>, Duration) {
        let shown = self.shown();
        (shown.upgrade_socket.clone(), shown.upgrade_timeout)
    }
    pub fn admin_bind(&self) -> Option<Bind> {
        self.shown().admin.as_ref().map(|(bind, _)| bind.clone())
    }
}

impl admin::Process for Status {
    fn is_ready(&self) -> bool {
        self.is_ready.load(Relaxed)
    }
    fn token(&self) -> Option<String> {
        self.shown().token.clone()
    }
    fn last_error(&self) -> Option<String> {
        self.shown().last_error.clone()
    }
    fn address(&self, listener: ListenerId) -> Option<String> {
        self.shown().listeners.iter().find(|(id, _)| *id == listener).map(|(_, address)| address.to_string())
    }
}

/// However few bytes may be held.
const STALLED_MAX_MIN: usize = 16;

/// The share of `server.buffers` by which it is reckoned how much may be read at once of answers that wait for their clients. They take
/// several times that: those that began to wait when there were few hold more, and each has some buffers besides.
const WAITING_SHARE: u64 = 16;

/// The times of connections that are accepted from now on.
pub fn times(raw: &Config) -> Times {
    let timeouts = &raw.server.timeouts;
    let stalled_max = usize::try_from(raw.server.buffers.0 / ANSWER_BYTES_MAX as u64).unwrap_or(usize::MAX).max(STALLED_MAX_MIN);
    Times {
        stream: Limits { request_header: timeouts.request_header.0, client_write: timeouts.client_write.0, stalled_max },
        handshake: timeouts.tls_handshake.0,
        // Before the first request there is nothing to keep alive.
        first: if timeouts.keepalive.is_zero() { timeouts.request_header.0 } else { timeouts.keepalive },
    }
}

fn manner(listener: &Listener, snapshot: &Snapshot) -> Manner {
    let proxies = || Proxies(snapshot.server.trusted_proxies.as_slice().into());
    Manner { tls: listener.tls.clone(), proxies: listener.is_proxied.then(proxies) }
}

impl Server {
    /// Reads the configuration again, and answers the version that runs. What is wrong with it is said, and the one that runs
    /// goes on.
    pub async fn reload(&self) -> Result<u64, String> {
        // Before it serves, that is said when it does.
        let is_ready = self.status.is_ready.load(Relaxed);
        if is_ready {
            notify::reloading();
        }
        let tried = self.try_reload().await;
        if is_ready {
            notify::ready(if tried.is_ok() { "serving" } else { "serving; the last reload failed" });
        }
        let failure = match tried {
            Ok(()) => {
                let version = self.snapshot.load().meta.version;
                self.state.metrics.reloaded("ok");
                self.status.shown().last_error = None;
                log::info!("reloaded: version {version}");
                return Ok(version);
            }
            Err(failure) => failure.to_string(),
        };
        self.state.metrics.reloaded("failed");
        log::error!("not reloaded, the configuration that runs goes on:\n{failure}");
        self.status.shown().last_error = Some(failure.clone());
        Err(failure)
    }

    async fn try_reload(&self) -> Result<(), Failure> {
        let (origin, state) = (self.origin.clone(), self.state.clone());
        let version = self.snapshot.load().meta.version + 1;
        // Names may have to be resolved, and certificates to be read.
        let loading = tokio::task::spawn_blocking(move || loading::load(&origin, &state, version));
        let loaded = loading.await.map_err(|e| Failure::Other(format!("loading: {e}")))??;
        let admin_is_open = {
            let shown = self.status.shown();
            let wanted = loaded.raw.admin.as_ref().map(|admin| &admin.bind);
            shown.admin.as_ref().map(|(bind, _)| bind) == wanted
        };
        let sockets = loading::bind(&loaded, &mut self.inherited(), |id| id.map_or(admin_is_open, |id| self.listeners.is_open(id)))?;
        self.apply(loaded, sockets).map_err(|e| Failure::Other(format!("can't listen: {e}")))
    }

    /// Puts a configuration in place. All that can fail in practice has been done by now.
    pub(super) fn apply(&self, loaded: Loaded, sockets: Sockets) -> io::Result<()> {
        let Loaded { raw, snapshot, sources, warnings } = loaded;
        for warning in warnings.iter().take(SHOWN_MAX) {
            log::warn!("{}", warning.render(&sources));
        }
        self.listeners.set_times(times(&raw));
        self.admin_listeners.set_times(times(&raw));
        let wanted = raw.server.max_connections.usize();
        if wanted > self.connections_fit {
            log::info!("max_connections is {wanted}, but there are descriptors for {} only: raise LimitNOFILE", self.connections_fit);
        }
        self.connections.set_max(wanted.min(self.connections_fit));
        self.state.buffers.set_max(snapshot.server.buffers_max);
        self.keepalive.set_waiting_max(snapshot.server.buffers_max / WAITING_SHARE);
        let old: HashSet<ListenerId> = self.listeners.addresses().into_keys().collect();
        if let Some(shared) = &snapshot.shared {
            shared.start();
        }
        if let Some(bulletin) = &snapshot.bulletin {
            let running = self.snapshot.clone();
            bulletin.start(move |heard| forget::hear(&running.load(), heard));
        }
        self.snapshot.store(snapshot.clone());
        for (id, bound) in sockets.listeners {
            let listener = snapshot.listeners.iter().find(|listener| listener.id == id);
            let manner = listener.map(|listener| manner(listener, &snapshot)).unwrap_or_default();
            let address = self.listeners.add(id, bound, manner)?;
            let name = listener.and_then(|listener| listener.name.as_deref()).unwrap_or("unnamed");
            log::info!("listening on {address} ({name})");
        }
        let new: HashSet<ListenerId> = snapshot.listeners.iter().map(|listener| listener.id).collect();
        for listener in snapshot.listeners.iter().filter(|listener| old.contains(&listener.id)) {
            self.listeners.set_manner(listener.id, manner(listener, &snapshot));
        }
        old.difference(&new).for_each(|id| self.listeners.remove(*id, raw.server.drain_timeout));
        self.apply_admin(&raw, sockets.admin)?;
        self.show(&raw);
        self.keep(&snapshot);
        let metrics = &self.state.metrics;
        metrics.snapshot(snapshot.meta.version, &snapshot.meta.hash);
        metrics.certificates(expiries(&snapshot).iter().map(|(name, at)| (name.as_str(), *at)));
        Ok(())
    }

    /// Looks after the services of this snapshot from now on, and no more after those of the one before.
    fn keep(&self, snapshot: &Snapshot) {
        let mut keepers = JoinSet::new();
        for entry in &snapshot.services {
            keepers.spawn(entry.service.clone().keep(self.asking.clone()));
        }
        *self.keepers() = keepers;
    }

    fn apply_admin(&self, raw: &Config, bound: Option<Bound>) -> io::Result<()> {
        let wanted = raw.admin.as_ref().map(|admin| &admin.bind);
        let is_kept = self.status.shown().admin.as_ref().map(|(bind, _)| bind) == wanted;
        if !is_kept {
            self.admin_listeners.remove(ADMIN, Duration::ZERO);
            self.status.shown().admin = None;
        }
        if let (Some(bind), Some(bound)) = (wanted, bound) {
            let address = self.admin_listeners.add(ADMIN, bound, Manner::default())?;
            log::info!("admin on {address}");
            self.status.shown().admin = Some((bind.clone(), address));
        }
        Ok(())
    }

    fn show(&self, raw: &Config) {
        let mut shown = self.status.shown();
        shown.listeners = self.listeners.addresses().into_iter().collect();
        shown.token = raw.admin.as_ref().and_then(|admin| admin.token.as_ref()).map(|token| token.0.clone());
        (shown.drain_delay, shown.drain_timeout) = (raw.server.drain_delay, raw.server.drain_timeout);
        shown.upgrade_socket = raw.server.upgrade_socket.as_ref().map(|path| path.0.clone().into());
        shown.upgrade_timeout = raw.server.upgrade_timeout.0;
        let threads = raw.server.threads.map(|threads| threads.0);
        if shown.threads.is_some() && shown.threads != threads {
            log::warn!("`threads` takes effect at the next start");
        }
        shown.threads = threads;
    }
}
