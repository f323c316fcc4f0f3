//! An answer that is still coming: read by many while one writes, and never taken for whole before it is.

use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Of an answer that turned out too large to be kept, only so much is held for those who read it.
const WINDOW_BYTES: usize = 256 << 10;
/// Whoever it is fetched for is served by the task that writes, in turns: when so much has come of what is too large, and it has taken nothing meanwhile, nobody
/// reads for it any more. Its client has gone, or wants no body.
const OWN_LAG_BYTES: usize = 4 << 20;
/// Somebody who takes nothing for so long holds up the others no longer.
const LAG_MAX: Duration = Duration::from_secs(30);
/// What has not grown for so long is not joined any more: the client that it comes for may be taking its time.
const STALLED: Duration = Duration::from_secs(5);

/// What went wrong while reading or writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The service broke off.
    Aborted,
    /// The reader was left behind.
    LeftBehind,
    /// Nobody reads what is too large to be kept.
    NobodyReads,
}

/// Bytes of all answers that are coming.
#[derive(Debug, Default)]
pub struct InFlight {
    pub bytes: AtomicUsize,
    /// 0 before there is a bound.
    pub max: AtomicUsize,
}

/// The number of the reader for whom the answer is fetched.
const OWN: u64 = 0;

#[derive(Debug)]
pub struct Fill {
    state: Mutex<State>,
    changed: Notify,
    readers: AtomicU64,
    bytes_max: usize,
    in_flight: Arc<InFlight>,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    /// The place of the first chunk.
    base: usize,
    written: usize,
    end: End,
    /// Too large: it is passed on and not kept.
    is_passing: bool,
    /// Where each reader stands.
    positions: HashMap<u64, usize>,
    /// When it grew last.
    grown: Option<Instant>,
    /// Where the first reader stood, and how much had come, when it was last seen to take something.
    own: (usize, usize),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Coming,
    Whole,
    Aborted,
}

impl State {
    fn piece(&self, position: usize, end: usize) -> Option<Bytes> {
        piece(self.chunks.iter(), self.base, position, end)
    }

    /// Parts with the first reader where nobody reads for it.
    fn part_with_own(&mut self, bytes_max: usize) {
        let Some(position) = self.positions.get(&OWN).copied().filter(|_| self.written > bytes_max) else { return };
        if self.own.1 == 0 || self.own.0 != position {
            self.own = (position, self.written);
        } else if self.written - self.own.1 > OWN_LAG_BYTES {
            self.positions.remove(&OWN);
        }
    }

    /// Forgets what all have read.
    fn trim(&mut self) -> usize {
        let slowest = self.positions.values().copied().min().unwrap_or(self.written);
        let mut freed = 0;
        while let Some(first) = self.chunks.front().filter(|first| self.base + first.len() <= slowest) {
            self.base += first.len();
            freed += first.len();
            self.chunks.pop_front();
        }
        freed
    }
}

impl Fill {
    pub fn new(bytes_max: usize, in_flight: Arc<InFlight>) -> Fill {
        Fill { state: Mutex::default(), changed: Notify::new(), readers: AtomicU64::new(0), bytes_max, in_flight }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It may still be kept, and whoever comes now can read it from its begin.
    pub fn is_open(&self) -> bool {
        let state = self.state();
        !state.is_passing && state.end != End::Aborted && state.grown.is_none_or(|grown| grown.elapsed() < STALLED)
    }

    /// Adds bytes. Answers whether the whole may still be kept.
    ///
    /// # Errors
    /// Nobody is left to pass it on to.
    pub async fn write(&self, bytes: Bytes) -> Result<bool, Broken> {
        let is_passing = {
            let mut state = self.state();
            let held = self.in_flight.bytes.fetch_add(bytes.len(), Relaxed) + bytes.len();
            state.written += bytes.len();
            state.grown = Some(Instant::now());
            state.chunks.push_back(bytes);
            state.is_passing |= state.written > self.bytes_max || held > self.in_flight.max.load(Relaxed);
            state.is_passing
        };
        self.changed.notify_waiters();
        if !is_passing {
            return Ok(true);
        }
        self.state().part_with_own(self.bytes_max);
        // A reader that takes nothing at all holds up the rest only so long.
        if pingora_timeout::timeout(LAG_MAX, self.room()).await.is_err() {
            let mut state = self.state();
            let base = state.base;
            state.positions.retain(|id, position| *id == OWN || *position > base);
            self.free(state.trim());
        }
        match self.state().positions.is_empty() {
            true => Err(Broken::NobodyReads),
            false => Ok(false),
        }
    }

    /// Waits until no reader is further behind than the window, but for the first: it is served by the task that waits here, which takes
    /// turns between the two.
    async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                self.free(state.trim());
                let others = state.positions.iter().filter(|(id, _)| **id != OWN);
                if others.map(|(_, position)| state.written.saturating_sub(*position)).max().is_none_or(|behind| behind <= WINDOW_BYTES) {
                    return;
                }
            }
            changed.await;
        }
    }

    fn free(&self, bytes: usize) {
        self.in_flight.bytes.fetch_sub(bytes, Relaxed);
    }

    /// All has come: what is to be kept, unless it was too large or is not as long as it said.
    pub fn finish(&self, announced: Option<usize>) -> Option<Vec<Bytes>> {
        let whole = {
            let mut state = self.state();
            let is_whole = announced.is_none_or(|announced| announced == state.written);
            state.end = if is_whole { End::Whole } else { End::Aborted };
            (is_whole && !state.is_passing).then(|| whole(&state.chunks, state.written))
        };
        self.changed.notify_waiters();
        whole
    }

    /// It broke off.
    pub fn abort(&self) {
        let mut state = self.state();
        if state.end == End::Coming {
            state.end = End::Aborted;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Somebody begins to read: whoever it is fetched for, or another.
    pub fn join(&self, is_own: bool) -> u64 {
        let id = if is_own { OWN } else { self.readers.fetch_add(1, Relaxed) + 1 };
        self.state().positions.insert(id, 0);
        id
    }

    pub fn leave(&self, id: u64) {
        self.state().positions.remove(&id);
        self.changed.notify_waiters();
    }

    /// The next bytes from `position` on, which goes on behind them; `None` at the end.
    ///
    /// # Errors
    /// What was to come will not.
    pub async fn read(&self, id: u64, position: &mut usize, end: usize) -> Result<Option<Bytes>, Broken> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                let Some(known) = state.positions.get_mut(&id) else { return Err(Broken::LeftBehind) };
                *known = *position;
                if *position >= end {
                    return Ok(None);
                }
                let is_passing = state.is_passing;
                // Where much may wait, as much as possible goes at once.
                let next = if is_passing { joined(&state, *position, end) } else { state.piece(*position, end) };
                if let Some(bytes) = next {
                    *position += bytes.len();
                    drop(state);
                    if is_passing {
                        self.changed.notify_waiters();
                    }
                    return Ok(Some(bytes));
                }
                match state.end {
                    End::Coming => {}
                    End::Whole => return Ok(None),
                    End::Aborted => return Err(Broken::Aborted),
                }
            }
            changed.await;
        }
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        let held = self.state().chunks.iter().map(Bytes::len).sum();
        self.free(held);
    }
}

/// The bytes from `position` on, as far as they lie together; the first of the chunks begins at `base`.
pub fn piece<'a>(chunks: impl Iterator<Item = &'a Bytes>, base: usize, position: usize, end: usize) -> Option<Bytes> {
    let mut at = base;
    for chunk in chunks {
        if position < at + chunk.len() {
            let from = position.checked_sub(at)?;
            return Some(chunk.slice(from..chunk.len().min(end - at)));
        }
        at += chunk.len();
    }
    None
}

/// All that is there from `position` on, in one piece.
fn joined(state: &State, position: usize, end: usize) -> Option<Bytes> {
    let first = state.piece(position, end)?;
    let mut at = position + first.len();
    if at >= state.written.min(end) {
        return Some(first);
    }
    let mut all = Vec::with_capacity(state.written.min(end) - position);
    all.extend_from_slice(&first);
    while let Some(next) = state.piece(at, end).filter(|_| at < end) {
        at += next.len();
        all.extend_from_slice(&next);
    }
    Some(all.into())
}

/// Chunks of this size are kept. What comes is part of larger buffers, which keeping it would keep alive.
const CHUNK_BYTES: usize = 32 << 10;

fn whole(chunks: &VecDeque<Bytes>, length: usize) -> Vec<Bytes> {
    let mut out = Vec::with_capacity(length.div_ceil(CHUNK_BYTES));
    let mut open = Vec::with_capacity(length.min(CHUNK_BYTES));
    let mut left = length;
    for chunk in chunks {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES - open.len()));
            open.extend_from_slice(now);
            left -= now.len();
            rest = later;
            if open.len() == CHUNK_BYTES || left == 0 {
                out.push(Bytes::from(std::mem::replace(&mut open, Vec::with_capacity(left.min(CHUNK_BYTES)))));
            }
        }
    }
    out
}
