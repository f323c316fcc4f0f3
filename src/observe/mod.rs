//! What happened? The access log, the error log and the metrics.
//!
//! This room only watches: nothing here can refuse or delay a request. Every buffer has a bound, and what it had to drop
//! is counted.

mod carried;
pub mod error_log;
mod lines;
mod metrics;
mod record;

pub use lines::{Lines, Logs};
pub use metrics::{CacheMetrics, LimitMetrics, Metrics, RouteMetrics, ServiceMetrics};
pub use record::{Record, mask};

use crate::config::raw;
use std::io;
use std::sync::Arc;

/// The access log of one snapshot.
#[derive(Debug)]
pub struct AccessLog {
    lines: Arc<Lines>,
    sample: f64,
    redact: Vec<String>,
}

impl AccessLog {
    /// Opens the log, or goes on with the one that is open.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn open(raw: &raw::AccessLog, logs: &Logs) -> io::Result<AccessLog> {
        Ok(AccessLog { lines: logs.open(&raw.path.0)?, sample: raw.sample.0, redact: raw.redact.clone() })
    }

    /// Writes a line, or drops it when the disk is too slow or the sample leaves it out.
    pub fn write(&self, record: &Record<'_>) {
        if self.sample >= 1.0 || fastrand::f64() < self.sample {
            self.lines.append(|out| record.json(out));
        }
    }

    /// The names of query parameters whose values are masked.
    pub fn redact(&self) -> &[String] {
        &self.redact
    }
}
