//! What is counted of one service, by those who send something to it.

use super::histogram::Histogram;
use prometheus::{IntCounter, IntCounterVec};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct ServiceMetrics {
    pub(super) name: Arc<str>,
    pub(super) seconds: Histogram,
    pub(super) attempts: IntCounterVec,
    pub(super) ejections: IntCounterVec,
    pub retries: IntCounter,
    pub(super) not_retried: IntCounterVec,
}

impl ServiceMetrics {
    /// An attempt was answered after `took`, with whatever status.
    pub fn answered(&self, took: Duration) {
        self.seconds.observe(took);
    }

    /// The counter of an endpoint's answers, to be kept with the endpoint.
    pub fn ok(&self, endpoint: &str) -> IntCounter {
        self.attempts.with_label_values(&[&*self.name, endpoint, "ok"])
    }

    /// Another attempt was called for, but not made; `reason` is one of a fixed few.
    pub fn not_retried(&self, reason: &str) {
        self.not_retried.with_label_values(&[&*self.name, reason]).inc();
    }

    /// An attempt failed; `outcome` is one of a fixed few.
    pub fn failed(&self, endpoint: &str, outcome: &str) {
        self.attempts.with_label_values(&[&*self.name, endpoint, outcome]).inc();
    }

    /// An endpoint is left alone from now on.
    pub fn ejected(&self, endpoint: &str) {
        self.ejections.with_label_values(&[&*self.name, endpoint]).inc();
    }
}
