//! The process: listeners, signals, reloads and the end. Nothing here knows what a request is.

mod accept;
mod control;
mod guard;
mod handover;
mod http1;
mod http2;
mod loading;
mod notify;
mod ordering;
mod probe;
mod proxied;
mod proxy;
pub mod proxy_header;
mod refuse;
mod reload;
mod renewal;
mod requests;
mod socket;
mod sockets;
mod spare;
mod stream;
mod upgrade;

pub use loading::{Failure, Origin, Report, check, compare, inspect, rehearse};

use crate::admin::{Admin, Order, Process};
use crate::limit::SWEEP_EVERY;
use crate::observe::{Metrics, error_log};
use crate::proxy::Gateway;
use crate::snapshot::{Snapshot, State};
use crate::types::ListenerId;
use crate::upstream::keepalive::Keepalive;
use crate::upstream::system_authorities;
use accept::Listeners;
use arc_swap::ArcSwap;
use control::{Asked, Control};
use guard::Counter;
use handover::{Offer, Predecessor};
use loading::Loaded;
use pingora::apps::HttpServerOptions;
use pingora::connectors::http::Connector;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::server::configuration::ServerConf;
use proxy::Proxy;
use reload::Status;
use requests::Requests;
use sockets::Inherited;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use upgrade::{Program, Successor};

/// Tries that Pingora allows in all: how many there are is decided by `upstream::retry`.
const RETRIES_MAX: usize = 16;
/// How long readiness waits for the first keys of issuers.
const FIRST_KEYS: Duration = Duration::from_secs(10);
/// How long a new process waits for each word of the old one.
const OLD_ONE: Duration = Duration::from_secs(30);
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
    listeners: Listeners<Requests<Proxy>>,
    admin_listeners: Listeners<Admin>,
    admin_connections: Arc<Counter>,
    status: Arc<Status>,
    /// Makes connections of our own to services, such as for health checks.
    asking: Arc<Connector>,
    keepalive: Keepalive,
    /// Look after the services of the snapshot that runs.
    keepers: Mutex<JoinSet<()>>,
    program: Program,
    inherited: Mutex<Inherited>,
    /// Ends when the process has whose place this one has taken.
    predecessor: Mutex<Option<oneshot::Receiver<()>>>,
}

/// Why a process ends.
enum End {
    Drain,
    Stop,
    /// Another process serves.
    Replaced(Successor),
}

/// Runs a gateway until it is told to end.
///
/// # Errors
/// Says why it could not start, ready to be printed.
pub fn run(origin: Origin) -> Result<ExitCode, Failure> {
    let program = Program::own().map_err(|e| Failure::Other(format!("this program can't be found: {e}")))?;
    let met = Predecessor::meet(OLD_ONE).map_err(|e| Failure::Other(format!("no place to take: {e}")))?;
    let (predecessor, offer) = met.map_or((None, Offer::default()), |(predecessor, offer)| (Some(Arc::new(predecessor)), offer));
    let outcome = run_after(predecessor.clone(), origin, program, offer);
    if let (Err(failure), Some(predecessor)) = (&outcome, &predecessor) {
        predecessor.failed(&failure.to_string());
    }
    outcome
}

/// Runs with what `predecessor` and systemd have handed over.
fn run_after(predecessor: Option<Arc<Predecessor>>, origin: Origin, program: Program, offer: Offer) -> Result<ExitCode, Failure> {
    let mut inherited = Inherited::new(offer.sockets);
    inherited.systemd.extend(notify::sockets());
    let metrics = Metrics::new().map_err(|e| Failure::Other(format!("metrics: {e}")))?;
    let state = Arc::new(State::new(metrics));
    offer.state.iter().for_each(|section| upgrade::take(&state, section));
    let loaded = loading::load(&origin, &state, 1)?;
    state.endpoints.let_go();
    error_log::install(&loaded.raw.log).map_err(|e| Failure::Other(format!("log {}: {e}", loaded.raw.log.path.0)))?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = loaded.raw.server.threads.map_or(cores, |threads| threads.usize());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::Other(format!("threads: {e}")))?;
    let code = runtime.block_on(async {
        let start = Start { origin, program, threads, inherited };
        let (server, orders) = Server::start(start, state.clone(), loaded)?;
        let control = Control::new(orders).map_err(|e| Failure::Other(format!("signals: {e}")))?;
        tokio::spawn(state.issuers.clone().keep_fresh());
        match predecessor {
            Some(predecessor) => server.take_place(&predecessor).await?,
            None => server.let_in(),
        }
        Ok(server.serve(control).await)
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    state.logs.finish();
    code
}

/// What a server begins with.
struct Start {
    origin: Origin,
    program: Program,
    threads: usize,
    inherited: Inherited,
}

/// Forgets the keys of limits that have rested, for as long as the process runs.
async fn keep_limits(state: Arc<State>, snapshot: Arc<ArcSwap<Snapshot>>) {
    let mut ticks = interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        let snapshot = snapshot.load();
        state.limits.store.set_max(snapshot.server.limit_keys_max);
        state.cache.store.set_max(snapshot.cache_memory);
        state.limits.store.sweep();
        if let Some(shared) = &snapshot.shared {
            shared.leases.sweep(state.limits.store.now_ns());
        }
    }
}

impl Server {
    /// Binds everything; clients are not let in yet. What the operator orders comes out of the receiver.
    fn start(start: Start, state: Arc<State>, loaded: Loaded) -> Result<(Server, Receiver<Order>), Failure> {
        let Start { origin, program, threads, mut inherited } = start;
        let bound = loading::bind(&loaded, &mut inherited, |_| false)?;
        // Of those that have no listener any more, none is kept.
        inherited.handed.clear();
        let (raw, snapshot) = (&loaded.raw, Arc::new(ArcSwap::new(loaded.snapshot.clone())));
        let services = raw.services.0.iter().filter_map(|(_, service)| service.as_ref());
        let kept = services.map(|service| service.keepalive.connections.usize() * service.endpoints.len().max(1));
        let conf = Arc::new(ServerConf {
            threads,
            upstream_keepalive_pool_size: kept.sum::<usize>().max(128),
            max_retries: RETRIES_MAX,
            ca_file: system_authorities(),
            ..Default::default()
        });
        let options = ConnectorOptions::from_server_conf(&conf);
        let asking = Arc::new(Connector::new(Some(options.clone())));
        let keepalive = Keepalive::new(TransportConnector::new(Some(options.clone())));
        tokio::spawn(keepalive.sweep());
        let gateway = Gateway {
            snapshot: snapshot.clone(),
            metrics: state.metrics.clone(),
            tunnels: TransportConnector::new(Some(options.clone())),
            calls: Connector::new_custom(Some(options.clone()), keepalive.clone()),
            copies: asking.clone(),
        };
        let mut http_options = HttpServerOptions::default();
        // Or Pingora would refuse it in a way of its own, before anything is counted or logged.
        http_options.allow_connect_method_proxying = true;
        let proxy = proxy::build(&conf, gateway, keepalive.clone(), http_options);
        let proxy = proxy.map_err(|e| Failure::Other(format!("the proxy can't be set up on 127.0.0.1: {e}")))?;
        tokio::spawn(keep_limits(state.clone(), snapshot.clone()));
        let requests = Arc::new(Requests::new(proxy, snapshot.clone(), state.metrics.clone()));
        let connections = Counter::new(0, Some(state.metrics.clone()));
        let admin_connections = Counter::new(ADMIN_CONNECTIONS_MAX, None);
        let times = reload::times(raw);
        let status = Arc::new(Status::default());
        let (sender, orders) = control::orders();
        let admin = Arc::new(Admin::new(snapshot.clone(), state.clone(), status.clone(), sender));
        let server = Server {
            origin,
            listeners: Listeners::new(requests, connections.clone(), times),
            admin_listeners: Listeners::new(admin, admin_connections.clone(), times),
            admin_connections,
            state,
            snapshot,
            connections,
            connections_fit: sockets::connections_that_fit(),
            status,
            asking,
            keepalive,
            keepers: Mutex::default(),
            program,
            inherited: Mutex::new(inherited),
            predecessor: Mutex::default(),
        };
        server.state.limits.store.set_max(server.snapshot.load().server.limit_keys_max);
        server.state.cache.store.set_max(server.snapshot.load().cache_memory);
        server.apply(loaded, bound).map_err(|e| Failure::Other(format!("can't listen: {e}")))?;
        Ok((server, orders))
    }

    fn inherited(&self) -> MutexGuard<'_, Inherited> {
        self.inherited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keepers(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn let_in(&self) {
        self.admin_listeners.let_in();
        self.listeners.let_in();
    }

    /// Waits for what others have to say before requests can be judged; answers whether all keys are there.
    async fn first_answers(&self) -> bool {
        if let Some(shared) = self.snapshot.load_full().shared.as_ref() {
            let _ = timeout(FIRST_STORE, shared.first_try()).await;
        }
        timeout(FIRST_KEYS, self.state.issuers.first_keys()).await.is_ok()
    }

    /// Waits to be asked for something, and does it.
    async fn serve(self, mut control: Control) -> ExitCode {
        let mut becoming = Box::pin(self.first_answers());
        let mut is_ready = self.status.is_ready();
        let alive = tokio::spawn(notify::keep_alive());
        tokio::spawn(renewal::keep_certificates(self.state.clone(), self.snapshot.clone()));
        let ordering = tokio::spawn(ordering::keep_ordering(self.snapshot.clone()));
        let end = loop {
            let asked = tokio::select! {
                biased;
                got = &mut becoming, if !is_ready => {
                    is_ready = true;
                    self.become_ready(got);
                    continue;
                }
                asked = control.next() => asked,
            };
            if let Some(end) = self.carry_out(asked, &mut control).await {
                break end;
            }
        };
        match end {
            End::Stop => notify::stopping(),
            End::Drain => tokio::select! {
                () = self.drain() => {}
                () = control.stop(|| self.reopen()) => log::info!("stopping at once"),
            },
            End::Replaced(mut successor) => {
                // It is the other process that has to show that it lives.
                alive.abort();
                ordering.abort();
                tokio::select! {
                    () = self.finish(&mut successor) => {}
                    // Whoever ends the service ends the new process too: what is in flight here is finished all the same.
                    () = control.stop_twice(|| self.reopen()) => log::info!("stopping at once"),
                }
                self.say_the_last(&mut successor).await;
            }
        }
        ExitCode::SUCCESS
    }

    /// Does what is asked; says so when that is the end.
    async fn carry_out(&self, asked: Asked, control: &mut Control) -> Option<End> {
        match asked {
            Asked::Reload(asker) => {
                let outcome = self.reload().await;
                // Whoever asked may have gone.
                asker.map(|asker| asker.send(outcome));
                None
            }
            Asked::Upgrade(asker) => {
                let outcome = tokio::select! {
                    outcome = self.upgrade() => outcome,
                    // The new process is ended along with the attempt.
                    end = control.end() => return Some(end),
                };
                let (told, successor) = match outcome {
                    Ok(mut successor) => {
                        // Whoever asks again after the answer meets the new process.
                        self.make_room(&mut successor).await;
                        (Ok(successor.pid), Some(successor))
                    }
                    Err(why) => (Err(why), None),
                };
                asker.map(|asker| asker.send(told));
                successor.map(End::Replaced)
            }
            Asked::Reopen => {
                self.reopen();
                None
            }
            Asked::Stop => Some(End::Stop),
            Asked::Drain => Some(End::Drain),
        }
    }

    fn reopen(&self) {
        self.state.logs.reopen();
        error_log::reopen();
        log::info!("logs reopened");
    }

    fn become_ready(&self, has_keys: bool) {
        if !has_keys {
            log::warn!("some issuers have no keys yet: their tokens are answered 503");
        }
        self.status.set_ready(true);
        notify::ready("serving");
        log::info!("ready: {} routes, {} services", self.snapshot.load().routes.len(), self.snapshot.load().services.len());
    }

    /// Stops accepting, and lets what is in flight finish.
    async fn drain(&self) {
        let (delay, limit) = self.status.drain_times();
        log::info!("draining: {} connections", self.connections.live());
        notify::stopping();
        self.status.set_ready(false);
        sleep(delay).await;
        self.wind_down(limit).await;
    }

    /// Ends as soon as nothing is in flight.
    async fn wind_down(&self, limit: Duration) {
        self.listeners.remove_all(limit);
        if timeout(limit, self.connections.drained()).await.is_err() {
            log::warn!("{} connections were still open after {limit:?}", self.connections.live());
        }
        if let Some(shared) = self.snapshot.load_full().shared.as_ref() {
            // Other gateways may need what this one has taken ahead.
            shared.give_all_back().await;
        }
        log::info!("done");
    }
}
