//! The accept loops: listeners that come, change and go while the process runs.

use super::guard::{Counter, Guard};
use super::proxied::{Proxies, Unheard, read_header};
use super::refuse::Refuser;
use super::socket::{Address, LOCAL_PEER, Listening, Socket};
use super::sockets::{Bound, SocketFile};
use super::spare::{Spare, is_starved};
use super::stream::{ClientStream, Limits};
use crate::admin::Admin;
use crate::proxy::connection::Connection;
use crate::proxy::deadline::Phase;
use crate::tls::Termination;
use crate::types::{ListenerId, Refusal};
use arc_swap::ArcSwap;
use pingora::apps::ServerApp;
use pingora::protocols::tls::TlsRef;
use pingora::protocols::tls::server::handshake;
use pingora::protocols::{Ssl, Stream};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::Poll;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long connections that rest are left open once a listener closes, so that a request on its way is answered.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long to wait when the system has no room for another connection.
const STARVED: Duration = Duration::from_millis(50);

/// How long the parts of a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub stream: Limits,
    pub handshake: Duration,
    /// How long a client may take to begin.
    pub first: Duration,
}

/// How the clients of a listener are met.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    pub tls: Option<Arc<Termination>>,
    /// Those that say for whom they speak, where they are to.
    pub proxies: Option<Proxies>,
}

/// What stands behind a listener.
pub trait Door: ServerApp + Send + Sync + 'static {
    /// A connection ends before there was anybody to serve: it is counted and written down.
    fn unread(&self, connection: &Connection, refusal: &Refusal);
}

/// Its clients come by no proxy.
impl Door for Admin {
    fn unread(&self, _: &Connection, _: &Refusal) {}
}

/// How far the connections of a listener are to be wound down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wind {
    Run,
    /// Those that rest are closed.
    Idle,
    All,
}

struct Open<A> {
    address: Address,
    socket: Arc<Listening>,
    file: Option<SocketFile>,
    shared: Arc<Shared<A>>,
    stop: Sender<bool>,
    closing: Sender<bool>,
    wind: Sender<Wind>,
    task: JoinHandle<()>,
}

/// All listeners in front of one application.
pub struct Listeners<A> {
    app: Arc<A>,
    connections: Arc<Counter>,
    refuser: Arc<Refuser>,
    times: Arc<RwLock<Times>>,
    open: Mutex<HashMap<ListenerId, Open<A>>>,
    /// Whether clients are let in.
    gate: Sender<bool>,
}

/// What the connections of one listener have in common.
struct Shared<A> {
    app: Arc<A>,
    id: ListenerId,
    manner: ArcSwap<Manner>,
    times: Arc<RwLock<Times>>,
    connections: Arc<Counter>,
    refuser: Arc<Refuser>,
    gate: Receiver<bool>,
    closing: Receiver<bool>,
    wind: Receiver<Wind>,
}

impl<A: Door> Listeners<A> {
    pub fn new(app: Arc<A>, connections: Arc<Counter>, times: Times) -> Self {
        let times = Arc::new(RwLock::new(times));
        Listeners { app, connections, refuser: Arc::default(), times, open: Mutex::default(), gate: channel(false).0 }
    }

    /// Lets clients in, for good. Until then they wait in the kernel.
    pub fn let_in(&self) {
        self.gate.send_replace(true);
    }

    fn open(&self) -> MutexGuard<'_, HashMap<ListenerId, Open<A>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For connections from now on.
    pub fn set_times(&self, times: Times) {
        *self.times.write().unwrap_or_else(PoisonError::into_inner) = times;
    }

    pub fn is_open(&self, id: ListenerId) -> bool {
        self.open().contains_key(&id)
    }

    /// The addresses that are listened to, with the ports that were chosen for 0.
    pub fn addresses(&self) -> HashMap<ListenerId, Address> {
        self.open().iter().map(|(id, open)| (*id, open.address.clone())).collect()
    }

    /// Another descriptor of each socket, for a process that takes our place.
    ///
    /// # Errors
    /// There is no room for more descriptors.
    pub fn sockets(&self) -> io::Result<HashMap<ListenerId, OwnedFd>> {
        self.open().iter().map(|(id, open)| Ok((*id, open.socket.as_fd().try_clone_to_owned()?))).collect()
    }

    /// Accepts no more; once that is sure, it is done. What is open stays open.
    pub async fn stop_accepting(&self) {
        let loops: Vec<Sender<bool>> = self.open().values().map(|open| open.stop.clone()).collect();
        for stop in &loops {
            let _ = stop.send(true);
        }
        for stop in loops {
            stop.closed().await;
        }
    }

    /// Whether the files of Unix sockets are ours, or another process's.
    pub fn own_files(&self, are_ours: bool) {
        self.open().values_mut().filter_map(|open| open.file.as_mut()).for_each(|file| file.set_ours(are_ours));
    }

    /// A connection to a listener from within, as a client's would be served; and whether it has to be greeted by TLS. It needs
    /// no gate to be open.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn connect(&self, id: ListenerId) -> io::Result<(UnixStream, bool)> {
        let shared = self.open().get(&id).map(|open| open.shared.clone());
        let shared = shared.ok_or(io::ErrorKind::NotFound)?;
        let guard = shared.connections.enter().ok_or(io::ErrorKind::QuotaExceeded)?;
        let (ours, theirs) = UnixStream::pair()?;
        let manner = shared.manner.load_full();
        let is_tls = manner.tls.is_some();
        tokio::spawn(serve(Socket::Unix(theirs), LOCAL_PEER, Vec::new(), guard, shared));
        Ok((ours, is_tls))
    }

    /// Begins to accept on a socket that is bound.
    ///
    /// # Errors
    /// Those of registering the socket with the runtime.
    pub fn add(&self, id: ListenerId, bound: Bound, manner: Manner) -> io::Result<Address> {
        let (socket, address) = Listening::adopt(bound.socket)?;
        let socket = Arc::new(socket);
        let ((stop, stopped), (closing, is_closing), (wind, winds)) = (channel(false), channel(false), channel(Wind::Run));
        let shared = Arc::new(Shared {
            app: self.app.clone(),
            id,
            manner: ArcSwap::from_pointee(manner),
            times: self.times.clone(),
            connections: self.connections.clone(),
            refuser: self.refuser.clone(),
            gate: self.gate.subscribe(),
            closing: is_closing,
            wind: winds,
        });
        let task = tokio::spawn(accept(socket.clone(), shared.clone(), stopped));
        let open = Open { address: address.clone(), socket, file: bound.file, shared, stop, closing, wind, task };
        self.open().insert(id, open);
        Ok(address)
    }

    /// For clients from now on: other certificates, other proxies.
    pub fn set_manner(&self, id: ListenerId, manner: Manner) {
        if let Some(open) = self.open().get(&id) {
            open.shared.manner.store(Arc::new(manner));
        }
    }

    /// Closes the socket; connections get to finish: `Connection: close` or GOAWAY with the next answer, those that rest are
    /// closed soon, all of them after `limit`.
    pub fn remove(&self, id: ListenerId, limit: Duration) {
        let Some(Open { stop, closing, wind, task, .. }) = self.open().remove(&id) else { return };
        let _ = stop.send(true);
        let _ = closing.send(true);
        tokio::spawn(async move {
            let _ = task.await;
            sleep(PATIENCE.min(limit)).await;
            let _ = wind.send(Wind::Idle);
            sleep(limit.saturating_sub(PATIENCE)).await;
            let _ = wind.send(Wind::All);
        });
    }

    pub fn remove_all(&self, limit: Duration) {
        let ids: Vec<ListenerId> = self.open().keys().copied().collect();
        ids.into_iter().for_each(|id| self.remove(id, limit));
    }
}

async fn accept<A: Door>(listener: Arc<Listening>, shared: Arc<Shared<A>>, mut stop: Receiver<bool>) {
    let (mut spare, mut gate) = (Spare::new(), shared.gate.clone());
    tokio::select! {
        biased;
        _ = stop.changed() => return,
        _ = gate.wait_for(|is_open| *is_open) => {}
    }
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.changed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => match shared.connections.enter() {
                Some(guard) => welcome(socket, peer, guard, &shared),
                None => shared.refuser.refuse(socket, shared.manner.load().tls.is_some()),
            },
            Err(e) if is_starved(&e) => {
                if spare.shed(&listener) {
                    log::error!("no room for another connection: {e}; clients are turned away");
                }
                sleep(STARVED).await;
            }
            // Whoever was there has gone again.
            Err(_) => {}
        }
    }
}

/// Serves a client, once it is known who that is.
fn welcome<A: Door>(socket: Socket, peer: SocketAddr, guard: Guard, shared: &Arc<Shared<A>>) {
    let is_proxy = shared.manner.load().proxies.as_ref().is_some_and(|proxies| proxies.has(peer));
    match is_proxy {
        true => drop(tokio::spawn(serve_proxied(socket, peer, guard, shared.clone()))),
        false => drop(tokio::spawn(serve(socket, peer, Vec::new(), guard, shared.clone()))),
    }
}

/// A client that comes by way of a proxy, which says so first.
async fn serve_proxied<A: Door>(mut socket: Socket, peer: SocketAddr, guard: Guard, shared: Arc<Shared<A>>) {
    let limit = shared.times.read().unwrap_or_else(PoisonError::into_inner).handshake;
    let mut wind = shared.wind.clone();
    let header = tokio::select! {
        header = timeout(limit, read_header(&mut socket)) => header,
        // Nobody has asked for anything yet.
        _ = wind.changed() => return,
    };
    match header {
        Ok(Ok((client, behind))) => Box::pin(serve(socket, client.unwrap_or(peer), behind, guard, shared)).await,
        Ok(Err(Unheard::Malformed(what))) => {
            let connection = Connection::new(shared.id, peer, shared.closing.clone());
            shared.app.unread(&connection, &Refusal::BadRequest(what));
        }
        Ok(Err(Unheard::Lost(e))) => log::debug!("{peer}: no client by this proxy: {e}"),
        Err(_) => log::debug!("{peer}: the proxy does not say for whom it speaks"),
    }
}

/// One connection, from its first byte to its close. Of it, `begin` has been read already.
async fn serve<A: Door>(socket: Socket, peer: SocketAddr, begin: Vec<u8>, guard: Guard, shared: Arc<Shared<A>>) {
    let connection = Arc::new(Connection::new(shared.id, peer, shared.closing.clone()));
    let times = *shared.times.read().unwrap_or_else(PoisonError::into_inner);
    let Ok(stream) = ClientStream::new(socket, connection.clone(), times.stream, guard, begin) else { return };
    let mut wind = shared.wind.clone();
    let run = async {
        // Boxed, so that its room is free again while the connection lives.
        if let Some(stream) = Box::pin(greet(stream, &connection, &shared, &times)).await {
            shared.app.process_new(stream, &shared.closing).await;
        }
    };
    let mut run = pin!(run);
    loop {
        if is_done(&mut run, &mut wind).await {
            return;
        }
        let wind = *wind.borrow_and_update();
        if wind == Wind::All || (wind == Wind::Idle && connection.is_idle()) {
            return;
        }
    }
}

/// Runs until it is done, or until the listener is wound down further: then it is not done.
async fn is_done(run: &mut Pin<&mut impl Future<Output = ()>>, wind: &mut Receiver<Wind>) -> bool {
    tokio::select! {
        biased;
        () = run => true,
        () = changed(wind) => false,
    }
}

/// Resolves when there is news of the listener. To poll it again is a look at a number: a wake-up of the connection costs no more than that.
pub async fn changed<T>(news: &mut Receiver<T>) {
    let seen = news.clone();
    let mut changed = pin!(news.changed());
    let mut is_asked = false;
    poll_fn(|cx| {
        // Asked once, it wakes this task by itself. An error is the end of the listener, which does not come without a change.
        if is_asked && !seen.has_changed().unwrap_or(true) {
            return Poll::Pending;
        }
        is_asked = true;
        changed.as_mut().poll(cx).map(drop)
    })
    .await;
}

/// TLS, or a look for HTTP/2; `None` when there is nobody to talk to.
async fn greet<A>(mut stream: ClientStream, connection: &Connection, shared: &Shared<A>, times: &Times) -> Option<Stream> {
    let peer = connection.peer;
    let tls = shared.manner.load().tls.clone();
    if let Some(tls) = tls {
        let tls = tls.now().clone();
        return match timeout(times.handshake, handshake(&tls.acceptor, stream)).await {
            Ok(Ok(stream)) => {
                // The begin of a head may have come along with the handshake, unseen.
                connection.deadline.enter(Phase::Idle, Some(times.stream.request_header));
                if let Some(agreed) = tls.agreed(stream.get_ssl().and_then(TlsRef::server_name)) {
                    connection.set_agreed(agreed);
                }
                if let Some(certificate) = stream.get_ssl().and_then(TlsRef::peer_certificate_der).and_then(crate::tls::describe) {
                    connection.set_certificate(certificate);
                }
                Some(Box::new(stream))
            }
            Ok(Err(e)) => {
                log::debug!("{peer}: TLS handshake: {e}");
                None
            }
            Err(_) => {
                log::debug!("{peer}: TLS handshake took too long");
                None
            }
        };
    }
    match stream.has_begun() {
        true => connection.deadline.enter(Phase::Head, Some(times.stream.request_header)),
        false => connection.deadline.enter(Phase::Idle, Some(times.first)),
    }
    match connection.watch(stream.look_for_h2c()).await {
        Some(looked) => looked.ok()?,
        // What may yet become a preface is late all the same: it is refused as what it is so far.
        None if connection.deadline.phase() == Phase::Head => connection.deadline.enter_until(Phase::Head, 1),
        None => return None,
    }
    if stream.is_h2c() {
        connection.deadline.enter(Phase::Busy, None);
    }
    Some(Box::new(stream))
}
