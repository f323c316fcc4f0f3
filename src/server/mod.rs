//! The process: listeners, signals, reloads and the end. Nothing here knows what a request is.

mod accept;
mod control;
mod guard;
mod http1;
mod loading;
mod refuse;
mod reload;
mod requests;
mod sockets;
mod stream;

pub use loading::{Failure, Origin, Report, check, inspect, rehearse};

use crate::admin::{Admin, Order};
use crate::limit::SWEEP_EVERY;
use crate::observe::{Metrics, error_log};
use crate::proxy::Gateway;
use crate::snapshot::{Snapshot, State};
use crate::types::ListenerId;
use crate::upstream::system_authorities;
use accept::Listeners;
use arc_swap::ArcSwap;
use control::{Asked, Control};
use guard::Counter;
use loading::Loaded;
use pingora::apps::HttpServerOptions;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use reload::Status;
use requests::{Connections, Requests};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::time::{interval, sleep, timeout};

/// Tries that Pingora allows in all: how many there are is decided by `upstream::retry`.
const RETRIES_MAX: usize = 16;
/// How long readiness waits for the first keys of issuers.
const FIRST_KEYS: Duration = Duration::from_secs(10);
/// How long readiness waits for the first try to reach the store of shared limits, whatever comes of it.
const FIRST_STORE: Duration = Duration::from_secs(1);
/// The admin listener's number among its own.
const ADMIN: ListenerId = ListenerId(0);
/// Connections of the admin listener.
const ADMIN_CONNECTIONS_MAX: usize = 1_000;

/// A running gateway.
struct Server {
    origin: Origin,
    state: Arc<State>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    connections: Arc<Counter>,
    /// As many as there are descriptors for.
    connections_fit: usize,
    listeners: Listeners<Connections<HttpProxy<Gateway>>>,
    admin_listeners: Listeners<Admin>,
    status: Arc<Status>,
}

/// Runs a gateway until it is told to end.
///
/// # Errors
/// Says why it could not start, ready to be printed.
pub fn run(origin: Origin) -> Result<ExitCode, Failure> {
    let metrics = Metrics::new().map_err(|e| Failure::Other(format!("metrics: {e}")))?;
    let state = Arc::new(State::new(metrics));
    let loaded = loading::load(&origin, &state, 1)?;
    error_log::install(&loaded.raw.log).map_err(|e| Failure::Other(format!("log {}: {e}", loaded.raw.log.path.0)))?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = loaded.raw.server.threads.map_or(cores, |threads| threads.usize());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::Other(format!("threads: {e}")))?;
    let code = runtime.block_on(async {
        let (server, orders) = Server::start(origin, state.clone(), loaded, threads)?;
        let control = Control::new(orders).map_err(|e| Failure::Other(format!("signals: {e}")))?;
        Ok(server.serve(control).await)
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    state.logs.finish();
    code
}

/// Forgets the keys of limits that have rested, for as long as the process runs.
async fn keep_limits(state: Arc<State>, snapshot: Arc<ArcSwap<Snapshot>>) {
    let mut ticks = interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        let snapshot = snapshot.load();
        state.limits.store.set_max(snapshot.server.limit_keys_max);
        state.limits.store.sweep();
        if let Some(shared) = &snapshot.shared {
            shared.leases.sweep(state.limits.store.now_ns());
        }
    }
}

impl Server {
    /// Binds everything and begins to accept. What the operator orders comes out of the receiver.
    fn start(origin: Origin, state: Arc<State>, loaded: Loaded, threads: usize) -> Result<(Server, Receiver<Order>), Failure> {
        let bound = loading::bind(&loaded, |_| false)?;
        let (raw, snapshot) = (&loaded.raw, Arc::new(ArcSwap::new(loaded.snapshot.clone())));
        let services = raw.services.0.iter().filter_map(|(_, service)| service.as_ref());
        let kept = services.map(|service| service.keepalive.connections.usize() * service.endpoints.len());
        let conf = Arc::new(ServerConf {
            threads,
            upstream_keepalive_pool_size: kept.sum::<usize>().max(128),
            max_retries: RETRIES_MAX,
            ca_file: system_authorities(),
            ..Default::default()
        });
        let gateway = Gateway {
            snapshot: snapshot.clone(),
            metrics: state.metrics.clone(),
            tunnels: TransportConnector::new(Some(ConnectorOptions::from_server_conf(&conf))),
        };
        let mut proxy = HttpProxy::new(gateway, conf);
        proxy.handle_init_modules();
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(raw.server.http2.idle_timeout);
        proxy.server_options = Some(options);
        tokio::spawn(keep_limits(state.clone(), snapshot.clone()));
        let requests = Arc::new(Requests::new(Arc::new(proxy), snapshot.clone(), state.metrics.clone()));
        let connections = Counter::new(0, Some(state.metrics.clone()));
        let times = reload::times(raw);
        let status = Arc::new(Status::default());
        let (sender, orders) = control::orders();
        let admin = Arc::new(Admin::new(snapshot.clone(), state.clone(), status.clone(), sender));
        let server = Server {
            origin,
            listeners: Listeners::new(Arc::new(Connections(requests)), connections.clone(), times),
            admin_listeners: Listeners::new(admin, Counter::new(ADMIN_CONNECTIONS_MAX, None), times),
            state,
            snapshot,
            connections,
            connections_fit: sockets::connections_that_fit(),
            status,
        };
        server.state.limits.store.set_max(server.snapshot.load().server.limit_keys_max);
        server.apply(loaded, bound).map_err(|e| Failure::Other(format!("can't listen: {e}")))?;
        Ok((server, orders))
    }

    /// Waits to be asked for something, and does it.
    async fn serve(self, mut control: Control) -> ExitCode {
        tokio::spawn(self.state.issuers.clone().keep_fresh());
        let mut becoming = Box::pin(async {
            if let Some(shared) = self.snapshot.load_full().shared.as_ref() {
                let _ = timeout(FIRST_STORE, shared.first_try()).await;
            }
            timeout(FIRST_KEYS, self.state.issuers.first_keys()).await
        });
        let mut is_ready = false;
        loop {
            let asked = tokio::select! {
                biased;
                got = &mut becoming, if !is_ready => {
                    is_ready = true;
                    self.become_ready(got.is_ok());
                    continue;
                }
                asked = control.next() => asked,
            };
            match asked {
                Asked::Reload(asker) => {
                    let outcome = self.reload().await;
                    // Whoever asked may have gone.
                    asker.map(|asker| asker.send(outcome));
                }
                Asked::Reopen => {
                    self.state.logs.reopen();
                    error_log::reopen();
                    log::info!("logs reopened");
                }
                Asked::Stop => return ExitCode::SUCCESS,
                Asked::Drain => break,
            }
        }
        tokio::select! {
            () = self.drain() => {}
            () = control.stop() => log::info!("stopping at once"),
        }
        ExitCode::SUCCESS
    }

    fn become_ready(&self, has_keys: bool) {
        if !has_keys {
            log::warn!("some issuers have no keys yet: their tokens are answered 503");
        }
        self.status.set_ready(true);
        log::info!("ready: {} routes, {} services", self.snapshot.load().routes.len(), self.snapshot.load().services.len());
    }

    /// Lets what is in flight finish, and ends as soon as nothing is.
    async fn drain(&self) {
        let (delay, limit) = self.status.drain_times();
        log::info!("draining: {} connections", self.connections.live());
        self.status.set_ready(false);
        sleep(delay).await;
        self.listeners.remove_all(limit);
        if timeout(limit, self.connections.drained()).await.is_err() {
            log::warn!("{} connections were still open after {limit:?}", self.connections.live());
        }
        log::info!("done");
    }
}
