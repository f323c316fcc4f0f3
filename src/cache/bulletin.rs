//! What gateways tell each other of their caches: a log in the store that they share (Redis, Valkey).
//!
//! Its notes are numbered, and every gateway reads on from the last one that it knows, so that one that was away hears afterwards
//! what was said meanwhile. The log is bounded: where it does not reach back so far, or is another log, something may have been
//! missed, which is told too. What is said while the store is away waits for its return.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

const LOG: &str = "frontdesk:purges";
/// Notes that the log keeps, about.
const KEPT: usize = 10_000;
/// Notes that wait to be written; above it, one that means everything takes their place.
const WAITING_MAX: usize = 1_024;
/// Notes that are written at once, and read at once.
const BATCH: usize = 256;
/// Who tells something waits so long to hear that it is written.
const PATIENCE: Duration = Duration::from_secs(1);
/// A store that answers nothing for so long is away.
const SILENCE: Duration = Duration::from_secs(1);
/// How long the store is waited for to have a note; then it is asked whether the log is still the same.
const LOOK: Duration = Duration::from_secs(1);
/// Between tries to connect: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The note that means everything.
const ALL: &str = "";

/// What others have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    Note(&'a str),
    /// More than can be known.
    Missed,
}

#[derive(Debug)]
pub struct Bulletin {
    notes: Sender<Note>,
    counts: Arc<Counts>,
    /// Until it is started.
    asked: Mutex<Option<(Client, Receiver<Note>)>>,
}

/// What is known of it.
#[derive(Debug, Default)]
pub struct Counts {
    pub is_up: AtomicBool,
    pub sent: AtomicU64,
    pub heard: AtomicU64,
    /// How often something may have been missed.
    pub missed: AtomicU64,
    /// More had to wait than may.
    is_behind: AtomicBool,
}

#[derive(Debug)]
struct Note {
    text: String,
    written: Option<oneshot::Sender<()>>,
}

impl Bulletin {
    pub fn new(client: Client) -> Bulletin {
        let (notes, waiting) = mpsc::channel(WAITING_MAX);
        Bulletin { notes, counts: Arc::default(), asked: Mutex::new(Some((client, waiting))) }
    }

    /// Begins to connect, if it has not begun. It ends when nobody holds the bulletin any more.
    pub fn start(&self, heard: impl Fn(Heard<'_>) + Send + Sync + 'static) {
        if let Some((client, waiting)) = self.asked.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Drawn anew by each process.
            let own = format!("{:016x}", fastrand::u64(..));
            let hears = Hears { own: own.clone(), heard: Box::new(heard), counts: self.counts.clone(), position: None };
            let writes = Writes { own, counts: self.counts.clone(), waiting, batch: Vec::new() };
            tokio::spawn(keep(client, hears, writes));
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Tells the others. Answers whether it is written already; if not, it will be when the store is there.
    pub async fn tell(&self, text: String) -> bool {
        let (written, is_written) = oneshot::channel();
        let is_waiting = self.notes.try_send(Note { text, written: Some(written) }).is_ok();
        if !is_waiting {
            self.counts.is_behind.store(true, Relaxed);
        }
        is_waiting && self.counts.is_up.load(Relaxed) && timeout(PATIENCE, is_written).await.is_ok_and(|written| written.is_ok())
    }

    /// The same where nobody waits for it.
    pub fn mention(&self, text: String) {
        if self.notes.try_send(Note { text, written: None }).is_err() {
            self.counts.is_behind.store(true, Relaxed);
        }
    }
}

/// Connects, until nobody can tell anything any more.
async fn keep(client: Client, mut hears: Hears, mut writes: Writes) {
    let mut pause = BACKOFF.0;
    while !writes.waiting.is_closed() {
        let lost = match connect(&client).await {
            Ok((reading, writing)) => {
                pause = BACKOFF.0;
                tokio::select! {
                    lost = hears.hear(reading) => lost,
                    done = writes.write(writing) => match done {
                        Ok(()) => return,
                        Err(lost) => lost,
                    },
                }
            }
            Err(lost) => lost,
        };
        if hears.counts.is_up.swap(false, Relaxed) {
            log::warn!("purges: other gateways are neither told nor heard until the store is back: {}", lost.category());
        }
        sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        pause = BACKOFF.1.min(pause * 2);
    }
}

/// One connection that waits for notes, and one that writes.
async fn connect(client: &Client) -> RedisResult<(MultiplexedConnection, MultiplexedConnection)> {
    let config = |silence| AsyncConnectionConfig::new().set_connection_timeout(Some(SILENCE)).set_response_timeout(Some(silence));
    let reading = client.get_multiplexed_async_connection_with_config(&config(LOOK + SILENCE)).await?;
    Ok((reading, client.get_multiplexed_async_connection_with_config(&config(SILENCE)).await?))
}

struct Writes {
    own: String,
    counts: Arc<Counts>,
    waiting: Receiver<Note>,
    /// Kept until it is written. What is written twice is heard twice, which changes nothing.
    batch: Vec<Note>,
}

impl Writes {
    /// `Ok` when nobody can tell anything any more.
    async fn write(&mut self, mut connection: MultiplexedConnection) -> RedisResult<()> {
        let script = redis::Script::new(include_str!("purges.lua"));
        loop {
            if self.batch.is_empty() && self.waiting.recv_many(&mut self.batch, BATCH).await == 0 {
                return Ok(());
            }
            if self.counts.is_behind.swap(false, Relaxed) {
                self.batch.push(Note { text: ALL.to_string(), written: None });
            }
            let mut call = script.prepare_invoke();
            call.key(LOG).arg(format!("{:016x}", fastrand::u64(..))).arg(&self.own).arg(KEPT);
            for note in &self.batch {
                call.arg(&note.text);
            }
            let _: u64 = call.invoke_async(&mut connection).await?;
            self.counts.sent.fetch_add(self.batch.len() as u64, Relaxed);
            // Whoever told it may have gone.
            for written in self.batch.drain(..).filter_map(|note| note.written) {
                let _ = written.send(());
            }
        }
    }
}

struct Hears {
    own: String,
    heard: Box<dyn Fn(Heard<'_>) + Send + Sync>,
    counts: Arc<Counts>,
    /// What is known of the log, if anything.
    position: Option<Position>,
}

/// How far a log is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Position {
    /// The log's name; empty while there is none.
    log: String,
    number: u64,
}

/// A note in the log, by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    at: Position,
    by: String,
    what: String,
}

/// As the store has it: an id, and names with their values.
type Entry = (String, Vec<String>);

impl Written {
    /// What is no note is of a log that nobody knows, and means everything.
    fn read((id, fields): Entry) -> Written {
        let number = id.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
        match <[String; 6]>::try_from(fields) {
            Ok([_, log, _, by, _, what]) => Written { at: Position { log, number }, by, what },
            Err(_) => Written { at: Position { log: format!("none {id}"), number }, by: String::new(), what: ALL.to_string() },
        }
    }
}

impl Position {
    /// Whether a note is the one after this.
    fn is_before(&self, next: &Position) -> bool {
        next.number == self.number + 1 && (self.log == next.log || self.log.is_empty())
    }

    /// Whether the newest note of a log, if it has any, is at this or behind it.
    fn leads_to(&self, newest: Option<&Position>) -> bool {
        match newest {
            None => self.log.is_empty(),
            Some(newest) => self.log.is_empty() || (self.log == newest.log && self.number <= newest.number),
        }
    }
}

impl Hears {
    /// Hears what is said until the connection is lost.
    async fn hear(&mut self, mut connection: MultiplexedConnection) -> RedisError {
        loop {
            if let Err(lost) = self.look(&mut connection).await {
                return lost;
            }
            self.counts.is_up.store(true, Relaxed);
            loop {
                match self.listen(&mut connection).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(lost) => return lost,
                }
            }
        }
    }

    /// Looks whether the log goes on from where it is known; if not, it is known from its end on.
    async fn look(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut ask = redis::cmd("XREVRANGE");
        let newest: Vec<Entry> = ask.arg(LOG).arg("+").arg("-").arg("COUNT").arg(1).query_async(connection).await?;
        let newest = newest.into_iter().next().map(|newest| Written::read(newest).at);
        if self.position.as_ref().is_none_or(|known| !known.leads_to(newest.as_ref())) {
            self.miss(newest.unwrap_or_default());
        }
        Ok(())
    }

    /// Waits for notes; whether there were any. What does not follow what is known has something missed before it.
    async fn listen(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<bool> {
        let from = self.position.as_ref().map_or(0, |known| known.number);
        let mut ask = redis::cmd("XREAD");
        ask.arg("BLOCK").arg(LOOK.as_millis() as u64).arg("COUNT").arg(BATCH).arg("STREAMS").arg(LOG).arg(format!("{from}-0"));
        let read: Option<Vec<(String, Vec<Entry>)>> = ask.query_async(connection).await?;
        let Some((_, entries)) = read.and_then(|logs| logs.into_iter().next()) else { return Ok(false) };
        for entry in entries {
            let written = Written::read(entry);
            if self.position.as_ref().is_none_or(|known| !known.is_before(&written.at)) {
                self.miss(written.at);
                continue;
            }
            if written.by != self.own {
                self.counts.heard.fetch_add(1, Relaxed);
                (self.heard)(if written.what == ALL { Heard::Missed } else { Heard::Note(&written.what) });
            }
            self.position = Some(written.at);
        }
        Ok(true)
    }

    fn miss(&mut self, newest: Position) {
        // Before anything was known there was nothing to be missed, or little.
        if self.position.replace(newest).is_some() {
            self.counts.missed.fetch_add(1, Relaxed);
            log::warn!("purges: some of other gateways may have been missed, all answers are forgotten");
        }
        (self.heard)(Heard::Missed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(log: &str, number: u64) -> Position {
        Position { log: log.to_string(), number }
    }

    #[test]
    fn a_log_goes_on_from_where_it_is_known_or_something_was_missed() {
        for (known, newest, leads) in [
            (at("", 0), None, true),
            (at("", 0), Some(at("a", 7)), true),
            (at("a", 7), Some(at("a", 7)), true),
            (at("a", 7), Some(at("a", 9)), true),
            (at("a", 7), Some(at("a", 6)), false),
            (at("a", 7), Some(at("b", 9)), false),
            (at("a", 7), None, false),
        ] {
            assert_eq!(known.leads_to(newest.as_ref()), leads, "{known:?} {newest:?}");
        }
        for (known, next, is_before) in [
            (at("", 0), at("a", 1), true),
            (at("", 0), at("a", 2), false),
            (at("a", 7), at("a", 8), true),
            (at("a", 7), at("a", 9), false),
            (at("a", 7), at("b", 8), false),
        ] {
            assert_eq!(known.is_before(&next), is_before, "{known:?} {next:?}");
        }
        let fields = |fields: &[&str]| ("12-0".to_string(), fields.iter().map(ToString::to_string).collect());
        let read = Written::read(fields(&["log", "a", "by", "b", "what", "c"]));
        assert_eq!(read, Written { at: at("a", 12), by: "b".into(), what: "c".into() });
        let odd = Written::read(fields(&["log", "a"]));
        assert!(!at("a", 11).is_before(&odd.at) && odd.at.number == 12, "{odd:?}");
    }
}
