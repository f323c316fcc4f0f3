//! The store that several gateways share (Redis, Valkey), and the leases that are taken from it.
//!
//! A key's bucket is a word in the store, charged by one script and by the store's own clock. Requests spend what a task has taken
//! ahead for them, so that a request waits for the store only when nothing is known of its key yet, and never longer than
//! `PATIENCE`. While the store is away nobody waits: it is decided without it. Keys expire in the store by themselves.

use super::lease::{Lease, Leases};
use super::script::{Charged, Script, Want};
use crate::config::raw::Redis;
use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, TlsCertificates};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout, timeout_at};

/// How long a request waits for the store, at most.
pub const PATIENCE: Duration = Duration::from_millis(20);
/// A store that answers nothing for so long is away.
const SILENCE: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_secs(1);
/// Between tries to connect: the first, and the longest. Each is drawn from the upper half, so that gateways don't come together.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// What nobody has needed for so long is given back.
const REST: Duration = Duration::from_millis(250);
/// How often that is looked for. Where there is nothing to give back the store is asked whether it is there.
const LOOK: Duration = Duration::from_millis(250);
/// Keys that are charged at once.
const BATCH: usize = 128;
/// Keys that wait to be charged; above it a request is decided without the store.
const QUEUE: usize = 8_192;

/// One store.
#[derive(Debug)]
pub struct Shared {
    door: Arc<Door>,
    client: Client,
    pub leases: Arc<Leases>,
    queue: Sender<Arc<Lease>>,
    /// Until it is started.
    asked: Mutex<Option<(Client, Receiver<Arc<Lease>>)>>,
    is_tried: watch::Receiver<bool>,
}

/// What the task and requests both look at.
#[derive(Debug)]
struct Door {
    /// For people: without a password.
    name: String,
    script: Script,
    began: Instant,
    leases: Arc<Leases>,
    is_up: AtomicBool,
    connection: ArcSwapOption<MultiplexedConnection>,
    questions: AtomicU64,
    failures: AtomicU64,
    last_error: Mutex<Option<String>>,
    is_tried: watch::Sender<bool>,
}

/// A store for people.
#[derive(Debug)]
pub struct StoreTold {
    pub name: String,
    pub is_up: bool,
    pub last_error: Option<String>,
    /// Calls so far.
    pub questions: u64,
    /// How often it was lost.
    pub failures: u64,
    pub leases: usize,
}

impl Shared {
    /// `root_cert` is a PEM file's content.
    ///
    /// # Errors
    /// The address can't be understood.
    pub fn build(raw: &Redis, root_cert: Option<Vec<u8>>, began: Instant) -> Result<Shared, String> {
        // The message of the crate may quote the password.
        let url = match raw.url.0.strip_prefix("unix:") {
            Some(path) if !path.starts_with("//") => format!("unix://{path}"),
            _ => raw.url.0.clone(),
        };
        let unreadable = |_| "it is not an address such as redis://127.0.0.1:6379".to_string();
        let client = match root_cert {
            None => Client::open(url).map_err(unreadable)?,
            root_cert => Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert }).map_err(unreadable)?,
        };
        let (queue, asked) = mpsc::channel(QUEUE);
        let (tried, is_tried) = watch::channel(false);
        let leases = Arc::new(Leases::default());
        let door = Door {
            name: client.get_connection_info().addr().to_string(),
            script: Script::new(),
            began,
            leases: leases.clone(),
            is_up: AtomicBool::new(false),
            connection: ArcSwapOption::empty(),
            questions: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_error: Mutex::default(),
            is_tried: tried,
        };
        let asked = Mutex::new(Some((client.clone(), asked)));
        Ok(Shared { door: Arc::new(door), client, leases, queue, asked, is_tried })
    }

    /// How it is reached.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Begins to connect, if it has not begun. It ends when nobody holds the store any more.
    pub fn start(&self) {
        if let Some((client, asked)) = self.asked.lock().unwrap_or_else(PoisonError::into_inner).take() {
            tokio::spawn(self.door.clone().keep(client, asked));
        }
    }

    /// Waits until the first try to connect has succeeded or failed.
    pub async fn first_try(&self) {
        // An error means that the task has ended.
        let _ = self.is_tried.clone().wait_for(|is_tried| *is_tried).await;
    }

    pub fn is_up(&self) -> bool {
        self.door.is_up.load(Relaxed)
    }

    pub fn told(&self) -> StoreTold {
        StoreTold {
            name: self.door.name.clone(),
            is_up: self.is_up(),
            last_error: self.door.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            questions: self.door.questions.load(Relaxed),
            failures: self.door.failures.load(Relaxed),
            leases: self.leases.len(),
        }
    }

    /// Has more fetched, without waiting for it.
    pub fn fetch(&self, lease: &Arc<Lease>) {
        if lease.begin() && self.queue.try_send(lease.clone()).is_err() {
            lease.lost();
        }
    }

    /// Asks for a key and waits for the answer, until then; whether there was one.
    pub async fn ask(&self, lease: &Arc<Lease>, until: Instant) -> bool {
        let (_waiting, answered) = lease.wait();
        let mut answered = std::pin::pin!(answered);
        answered.as_mut().enable();
        self.fetch(lease);
        timeout_at(until.into(), answered).await.is_ok() && self.is_up()
    }

    /// Gives back all that is held, at the end of the process: what it can't by then is lost.
    pub async fn give_all_back(&self) {
        let Some(connection) = self.door.connection.load_full() else { return };
        let held: Vec<_> = self.leases.all().into_iter().map(|lease| (lease.rested(u64::MAX, Duration::ZERO), lease)).collect();
        let held: Vec<_> = held.into_iter().filter(|(tokens, _)| *tokens > 0).map(|(tokens, lease)| (lease, tokens)).collect();
        if let Err(e) = self.door.put_back(&connection, &held).await {
            log::warn!("shared limits: what is held could not be given back: {}", e.category());
        }
    }

    /// Charges these at once, or none of them: one call.
    pub async fn charge(&self, wants: &[Want<'_>], until: Instant) -> Option<Vec<Charged>> {
        let connection = self.door.connection.load_full()?;
        self.door.questions.fetch_add(1, Relaxed);
        timeout_at(until.into(), self.door.script.run((*connection).clone(), wants)).await.ok()?.ok()
    }
}

impl Door {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Connects, serves until the connection is lost, and again.
    async fn keep(self: Arc<Door>, client: Client, mut asked: Receiver<Arc<Lease>>) {
        let mut pause = BACKOFF.0;
        while !asked.is_closed() {
            let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(SILENCE));
            let lost = match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => {
                    self.rise(&connection);
                    let risen = Instant::now();
                    let lost = match self.serve(connection, &mut asked, &mut pause).await {
                        Ok(()) => return,
                        Err(e) => e,
                    };
                    if risen.elapsed() > BACKOFF.1 {
                        // It lasted, whether it was charged by way of here or not.
                        pause = BACKOFF.0;
                    }
                    lost
                }
                Err(e) => e,
            };
            self.fall(&lost);
            while let Ok(lease) = asked.try_recv() {
                lease.lost();
            }
            sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            pause = BACKOFF.1.min(pause * 2);
        }
    }

    fn rise(&self, connection: &MultiplexedConnection) {
        self.connection.store(Some(Arc::new(connection.clone())));
        self.is_up.store(true, Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.is_tried.send_replace(true);
        log::info!("shared limits: the store at {} is there", self.name);
    }

    fn fall(&self, e: &redis::RedisError) {
        self.connection.store(None);
        let was_up = self.is_up.swap(false, Relaxed);
        let was_tried = self.is_tried.send_replace(true);
        let said = match e.detail() {
            Some(detail) => format!("{}: {detail}", e.category()),
            None => e.to_string(),
        };
        if was_up || !was_tried {
            self.failures.fetch_add(1, Relaxed);
            log::warn!("shared limits: the store at {} is away, they are decided without it: {said}", self.name);
        }
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    }

    /// Charges what is asked for, many keys in one call, and gives back what rests. `Ok` when nobody can ask any more.
    ///
    /// A store that takes connections may yet refuse what is written: only one that has charged something is come back to at once.
    async fn serve(
        &self,
        connection: MultiplexedConnection,
        asked: &mut Receiver<Arc<Lease>>,
        pause: &mut Duration,
    ) -> redis::RedisResult<()> {
        // By where they are: each key has one.
        let mut held: HashMap<usize, Arc<Lease>> = HashMap::new();
        let mut batch = Vec::with_capacity(BATCH);
        let mut looks = interval(LOOK);
        let lost = loop {
            let is_look = tokio::select! {
                got = asked.recv_many(&mut batch, BATCH) => if got == 0 { return Ok(()) } else { false },
                _ = looks.tick() => true,
            };
            self.questions.fetch_add(1, Relaxed);
            let done = match is_look {
                true => self.give_back(&connection, &mut held).await,
                false => self.take(&connection, &batch).await,
            };
            held.extend(batch.drain(..).map(|lease| (Arc::as_ptr(&lease).addr(), lease)));
            match done {
                Ok(()) if is_look => {}
                Ok(()) => *pause = BACKOFF.0,
                Err(e) => break e,
            }
        };
        // Those that hold nothing too: the store may come back empty, and then there is more again.
        self.leases.lost();
        Err(lost)
    }

    async fn take(&self, connection: &MultiplexedConnection, batch: &[Arc<Lease>]) -> redis::RedisResult<()> {
        let now_ns = self.now_ns();
        let want = |lease: &'_ Arc<Lease>| lease.wanted(now_ns);
        let wanted: Vec<u32> = batch.iter().map(want).collect();
        let wants: Vec<Want<'_>> = batch
            .iter()
            .zip(&wanted)
            .map(|(lease, wanted)| Want { name: &lease.name, terms: lease.terms, wanted: *wanted, back: 0, must: false })
            .collect();
        let charged = self.within(connection, &wants).await?;
        let now_ns = self.now_ns();
        for ((lease, wanted), charged) in batch.iter().zip(wanted).zip(charged) {
            lease.answered(charged.granted, wanted, charged.owed_us, now_ns);
        }
        Ok(())
    }

    async fn give_back(&self, connection: &MultiplexedConnection, held: &mut HashMap<usize, Arc<Lease>>) -> redis::RedisResult<()> {
        let now_ns = self.now_ns();
        let rested: Vec<(Arc<Lease>, u32)> = held.values().map(|lease| (lease.clone(), lease.rested(now_ns, REST))).collect();
        held.retain(|_, lease| lease.tokens() > 0);
        let rested: Vec<_> = rested.into_iter().filter(|(_, tokens)| *tokens > 0).collect();
        if rested.is_empty() {
            let mut connection = connection.clone();
            let ping = redis::cmd("PING");
            return timed(ping.query_async(&mut connection)).await;
        }
        self.put_back(connection, &rested).await
    }

    /// Puts back what was taken from leases, many at once.
    async fn put_back(&self, connection: &MultiplexedConnection, taken: &[(Arc<Lease>, u32)]) -> redis::RedisResult<()> {
        for part in taken.chunks(BATCH) {
            let mut wants = Vec::with_capacity(part.len());
            for (lease, back) in part {
                wants.push(Want { name: &lease.name, terms: lease.terms, wanted: 0, back: *back, must: false });
            }
            self.within(connection, &wants).await?;
        }
        Ok(())
    }

    async fn within(&self, connection: &MultiplexedConnection, wants: &[Want<'_>]) -> redis::RedisResult<Vec<Charged>> {
        timed(self.script.run(connection.clone(), wants)).await
    }
}

/// The crate's own limit is for one answer, and a script may take several.
async fn timed<T>(asked: impl Future<Output = redis::RedisResult<T>>) -> redis::RedisResult<T> {
    timeout(SILENCE, asked).await.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}
