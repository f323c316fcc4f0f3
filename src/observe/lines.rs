//! Lines that are written to a file by a thread of their own.
//!
//! A request appends to a buffer in memory and never waits for the disk: the writer takes the buffers whole. When it can't
//! keep up, a full buffer drops lines and counts them.

use prometheus::IntCounter;
use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

/// Buffers, so that threads seldom meet at one.
const SHARDS: usize = 16;
/// Bytes that one buffer may hold before lines are dropped.
const SHARD_BYTES_MAX: usize = 1 << 20;
/// How long lines are gathered before they are written: a wake-up and a write for many lines instead of for each.
const GATHER: Duration = Duration::from_millis(10);

/// The logs that are open, by path, so that a reload goes on with the same writer.
#[derive(Debug)]
pub struct Logs {
    open: Mutex<HashMap<String, Weak<Lines>>>,
    dropped: IntCounter,
    /// Nothing is opened: a configuration is only looked at.
    is_dry: bool,
}

impl Logs {
    pub fn new(dropped: IntCounter) -> Logs {
        Logs { open: Mutex::default(), dropped, is_dry: false }
    }

    /// For a configuration that is only looked at: whether a log could be opened, without making a file.
    pub fn dry(dropped: IntCounter) -> Logs {
        Logs { is_dry: true, ..Logs::new(dropped) }
    }

    /// # Errors
    /// Those of opening the file.
    pub fn open(&self, path: &str) -> io::Result<Arc<Lines>> {
        let mut open = lock(&self.open);
        open.retain(|_, lines| lines.strong_count() > 0);
        if let Some(lines) = open.get(path).and_then(Weak::upgrade) {
            return Ok(lines);
        }
        let lines = Arc::new(Lines::open(if self.is_dry { dry(path)? } else { path }, self.dropped.clone())?);
        open.insert(path.to_string(), Arc::downgrade(&lines));
        Ok(lines)
    }

    /// Whether the error log, which others write, could be opened.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn probe(&self, path: &str) -> io::Result<()> {
        match path {
            "stderr" | "stdout" => Ok(()),
            path if self.is_dry => dry(path).map(drop),
            path => OpenOptions::new().create(true).append(true).open(path).map(drop),
        }
    }

    /// Writes what is left, before the process ends.
    pub fn finish(&self) {
        let open: Vec<Arc<Lines>> = lock(&self.open).values().filter_map(Weak::upgrade).collect();
        open.iter().for_each(|lines| lines.finish());
    }

    /// Opens the files anew, for logrotate.
    pub fn reopen(&self) {
        for lines in lock(&self.open).values().filter_map(Weak::upgrade) {
            lines.shared.reopen.store(true, Ordering::Release);
            lines.thread.unpark();
        }
    }
}

/// What is opened in place of a log that is only looked at.
fn dry(path: &str) -> io::Result<&'static str> {
    let path = Path::new(path);
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) if !path.exists() => folder.metadata().map(|_| "/dev/null"),
        _ => Ok("/dev/null"),
    }
}

/// One log.
#[derive(Debug)]
pub struct Lines {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    thread: Thread,
}

#[derive(Debug)]
struct Shared {
    shards: [Mutex<Vec<u8>>; SHARDS],
    dropped: IntCounter,
    /// Somebody has asked the writer to look.
    awake: AtomicBool,
    reopen: AtomicBool,
    stop: AtomicBool,
}

/// A panic while a buffer is locked leaves whole lines or none: the data is good either way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    fn open(path: &str, dropped: IntCounter) -> io::Result<Lines> {
        let sink = Sink::open(path)?;
        let shared = Arc::new(Shared {
            shards: Default::default(),
            dropped,
            awake: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        let writer = thread::Builder::new().name("access-log".to_string()).spawn(move || run(&theirs, sink))?;
        let thread = writer.thread().clone();
        Ok(Lines { shared, writer: Mutex::new(Some(writer)), thread })
    }

    /// Appends one line, which `write` fills in without the line feed.
    pub fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        thread_local!(static SHARD: Cell<Option<usize>> = const { Cell::new(None) });
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let shard = SHARD.with(|shard| {
            let mine = shard.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
            shard.set(Some(mine));
            mine
        });
        {
            let mut buffer = lock(&self.shared.shards[shard]);
            if buffer.len() >= SHARD_BYTES_MAX {
                self.shared.dropped.inc();
                return;
            }
            write(&mut buffer);
            buffer.push(b'\n');
        }
        if !self.shared.awake.load(Ordering::Relaxed) && !self.shared.awake.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

impl Lines {
    /// Writes what is left and ends the writer; lines after that are dropped with the buffers.
    fn finish(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
        if let Some(writer) = lock(&self.writer).take() {
            let _ = writer.join();
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.finish();
    }
}

fn run(shared: &Shared, mut sink: Sink) {
    let mut spare = Vec::new();
    loop {
        let stop = shared.stop.load(Ordering::Acquire);
        if !stop && !shared.awake.load(Ordering::Acquire) && !shared.reopen.load(Ordering::Acquire) {
            thread::park();
            continue;
        }
        if !stop {
            thread::park_timeout(GATHER);
        }
        if shared.reopen.swap(false, Ordering::AcqRel) {
            sink.reopen();
        }
        shared.awake.store(false, Ordering::Release);
        for shard in &shared.shards {
            {
                // What nobody writes to is left alone: else a few large buffers would wander through all shards, each cold when
                // its turn comes.
                let mut lines = lock(shard);
                if lines.is_empty() {
                    continue;
                }
                std::mem::swap(&mut *lines, &mut spare);
            }
            if sink.write(&spare).is_err() {
                shared.dropped.inc_by(spare.iter().filter(|byte| **byte == b'\n').count() as u64);
            }
            spare.clear();
        }
        if stop {
            return;
        }
    }
}

enum Sink {
    Stdout,
    Stderr,
    File(File, String),
}

impl Sink {
    fn open(path: &str) -> io::Result<Sink> {
        match path {
            "stdout" => Ok(Sink::Stdout),
            "stderr" => Ok(Sink::Stderr),
            path => Ok(Sink::File(OpenOptions::new().create(true).append(true).open(path)?, path.to_string())),
        }
    }

    /// A file that can't be opened anew goes on as it was.
    fn reopen(&mut self) {
        let Sink::File(_, path) = self else { return };
        match Sink::open(path) {
            Ok(new) => *self = new,
            Err(e) => log::error!("access log {path}: can't reopen: {e}"),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stdout => io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush()),
            Sink::Stderr => io::stderr().lock().write_all(bytes),
            Sink::File(file, _) => file.write_all(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs() -> (Logs, IntCounter) {
        let dropped = IntCounter::new("dropped", "dropped").expect("a counter");
        (Logs::new(dropped.clone()), dropped)
    }

    #[test]
    fn all_lines_are_written_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log").display().to_string();
        let (logs, dropped) = logs();
        let lines = logs.open(&path).expect("a log");
        thread::scope(|scope| {
            for worker in 0..4 {
                let lines = &lines;
                scope.spawn(move || (0..1000).for_each(|i| lines.append(|out| out.extend(format!("{worker}-{i}").bytes()))));
            }
        });
        drop(lines);
        let mut seen: Vec<String> = std::fs::read_to_string(&path).expect("the log").lines().map(str::to_string).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((seen.len(), dropped.get()), (4000, 0));
    }

    #[test]
    fn a_full_buffer_drops_and_counts() {
        let (logs, dropped) = logs();
        let lines = logs.open("/dev/full").expect("a log");
        let line = vec![b'x'; 1 << 16];
        (0..64).for_each(|_| lines.append(|out| out.extend(&line)));
        drop(lines);
        // Some were dropped at the full buffer, the others when the disk took none: all are counted.
        assert_eq!(dropped.get(), 64);
    }

    #[test]
    fn reopens_for_logrotate() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let (logs, _) = logs();
        let lines = logs.open(&path.display().to_string()).expect("a log");
        lines.append(|out| out.extend(b"old"));
        while std::fs::read(&path).expect("the log").is_empty() {
            thread::yield_now();
        }
        std::fs::rename(&path, &moved).expect("a rename");
        logs.reopen();
        lines.append(|out| out.extend(b"new"));
        drop(lines);
        assert_eq!(std::fs::read_to_string(&path).expect("the new log"), "new\n");
        assert_eq!(std::fs::read_to_string(&moved).expect("the old log"), "old\n");
    }
}
