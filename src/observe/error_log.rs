//! The error log: env_logger behind a limit for each place that logs, so that a flood of failures is no flood of lines.

use crate::config::raw::{Log as Settings, LogFormat, LogLevel};
use env_logger::Target;
use log::{LevelFilter, Log, Metadata, Record};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// Lines that one place in the code may write in a second.
const LINES_MAX: u64 = 20;
/// Places that are told apart; others share a slot by chance and with it the limit.
const SLOTS: usize = 512;

/// Installs the log of the process. `RUST_LOG` wins over the level that is set.
///
/// # Errors
/// Those of opening the file.
pub fn install(settings: &Settings) -> io::Result<()> {
    let mut builder = env_logger::Builder::new();
    // Pingora and h2 speak of every connection that breaks: what matters of it, we say ourselves.
    builder.filter_level(level(settings.level)).filter_module("pingora", LevelFilter::Error).filter_module("h2", LevelFilter::Error);
    builder.filter_module("pingora_proxy", LevelFilter::Error).filter_module("pingora_core", LevelFilter::Error);
    builder.parse_default_env();
    builder.target(match settings.path.0.as_str() {
        "stderr" => Target::Stderr,
        "stdout" => Target::Stdout,
        path => Target::Pipe(Box::new(LogFile::open(path)?)),
    });
    if settings.format == LogFormat::Json {
        builder.format(|out, record| {
            let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
            let (level, target, message) = (record.level().as_str(), record.target(), record.args().to_string());
            writeln!(out, "{}", serde_json::json!({ "time": time, "level": level, "target": target, "message": message }))
        });
    }
    let inner = builder.build();
    log::set_max_level(inner.filter());
    // A second installation, as in tests of one process, keeps the first.
    let _ = log::set_boxed_logger(Box::new(Limited { inner, slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }));
    Ok(())
}

/// Opens the log's file anew with the next line, for logrotate.
pub fn reopen() {
    GENERATION.fetch_add(1, Relaxed);
}

static GENERATION: AtomicU64 = AtomicU64::new(0);

struct LogFile {
    path: String,
    file: File,
    generation: u64,
}

impl LogFile {
    fn open(path: &str) -> io::Result<LogFile> {
        let generation = GENERATION.load(Relaxed);
        Ok(LogFile { path: path.to_string(), file: OpenOptions::new().create(true).append(true).open(path)?, generation })
    }
}

impl io::Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.generation != GENERATION.load(Relaxed) {
            self.generation = GENERATION.load(Relaxed);
            // A file that can't be opened anew goes on as it was.
            if let Ok(new) = LogFile::open(&self.path) {
                *self = new;
            }
        }
        self.file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    }
}

struct Limited {
    inner: env_logger::Logger,
    /// A second of the clock above, the lines in it below.
    slots: Box<[AtomicU64]>,
}

impl Limited {
    /// Whether a line of this place may be written in this second, and how many of the last one were left out.
    fn admit(&self, line: Option<u32>, module: &str, second: u64) -> (bool, u64) {
        let hash = module.bytes().fold(u64::from(line.unwrap_or(0)), |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let slot = &self.slots[usize::try_from(hash % SLOTS as u64).unwrap_or(0)];
        let next = |old: u64| if old >> 32 == second & 0xffff_ffff { old + 1 } else { second << 32 | 1 };
        let old = slot.fetch_update(Relaxed, Relaxed, |old| Some(next(old))).unwrap_or(0);
        let now = next(old);
        let left_out = if now & 0xffff_ffff == 1 { (old & 0xffff_ffff).saturating_sub(LINES_MAX) } else { 0 };
        (now & 0xffff_ffff <= LINES_MAX, left_out)
    }
}

impl Log for Limited {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.inner.matches(record) {
            return;
        }
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (admitted, left_out) = self.admit(record.line(), record.module_path().unwrap_or_default(), second);
        if left_out > 0 {
            let text = format_args!("{left_out} more lines like the next one were left out");
            self.inner.log(&Record::builder().level(record.level()).target(record.target()).args(text).build());
        }
        if admitted {
            self.inner.log(record);
        }
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_limited_and_says_how_much_was_left_out() {
        let inner = env_logger::Builder::new().build();
        let limited = Limited { inner, slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() };
        let admitted = (0..50).filter(|_| limited.admit(Some(7), "m", 100).0).count();
        assert_eq!(admitted as u64, LINES_MAX);
        assert_eq!(limited.admit(Some(7), "m", 101), (true, 50 - LINES_MAX));
        assert_eq!(limited.admit(Some(7), "m", 101), (true, 0));
    }
}
