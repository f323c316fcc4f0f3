//! What happened? The access log, the error log and the metrics.
//!
//! This room only watches: nothing here can refuse or delay a request. Every buffer has a bound, and what it had to drop
//! is counted.

mod carried;
mod common;
pub mod error_log;
mod histogram;
mod lines;
mod metrics;
mod record;
mod refusals;

pub use lines::{Lines, Logs};
pub use metrics::{CacheMetrics, LimitMetrics, Metrics, RouteMetrics, ServiceMetrics};
pub use record::{Record, mask};
pub use refusals::{Refusals, Refused};

use crate::config::raw;
use std::io;
use std::sync::Arc;

/// The access log of one snapshot.
#[derive(Debug)]
pub struct AccessLog {
    lines: Arc<Lines>,
    format: raw::AccessFormat,
    sample: f64,
    redact: Vec<String>,
}

impl AccessLog {
    /// Opens the log, or goes on with the one that is open.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn open(raw: &raw::AccessLog, logs: &Logs) -> io::Result<AccessLog> {
        Ok(AccessLog { lines: logs.open(&raw.path.0)?, format: raw.format, sample: raw.sample.0, redact: raw.redact.clone() })
    }

    /// Writes a line, or drops it when the disk is too slow or the sample leaves it out.
    pub fn write(&self, record: &Record<'_>) {
        if self.sample >= 1.0 || fastrand::f64() < self.sample {
            self.lines.append(|out| match self.format {
                raw::AccessFormat::Json => record.json(out),
                raw::AccessFormat::Combined => record.common(out, true),
                raw::AccessFormat::Common => record.common(out, false),
            });
        }
    }

    /// The names of query parameters whose values are masked.
    pub fn redact(&self) -> &[String] {
        &self.redact
    }
}
