//! A service as those see it who send something to it, and what they say of it afterwards: one for requests and for calls.

use crate::limit::Cap;
use crate::observe::ServiceMetrics;
use crate::upstream::retry::{Failed, Failure};
use crate::upstream::{Endpoint, Service, Timeouts};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub service: &'a Service,
    pub metrics: &'a ServiceMetrics,
    pub cap: Option<&'a Cap>,
    pub timeouts: Timeouts,
}

impl Line<'_> {
    /// An attempt failed. It says nothing of the endpoint where that is not to blame.
    pub fn failed(&self, endpoint: &Endpoint, failure: Failure, is_to_blame: bool) {
        self.metrics.failed(&endpoint.label, failure.name());
        if is_to_blame && self.service.pool.failed(endpoint, failure) {
            self.metrics.ejected(&endpoint.label);
        }
    }

    /// The head of an answer is here; a `failure` where its status is one.
    pub fn answered(&self, endpoint: &Endpoint, failure: Option<Failure>, took: Duration) {
        self.metrics.answered(took);
        match failure {
            None => {
                endpoint.answered.get_or_init(|| self.metrics.ok(&endpoint.label)).inc();
                self.service.pool.succeeded(endpoint, took);
            }
            Some(failure) => self.failed(endpoint, failure, true),
        }
    }

    /// Nobody waits for the answer any more.
    pub fn given_up(&self, endpoint: &Endpoint) {
        self.metrics.failed(&endpoint.label, "cancelled");
    }

    /// Whether another attempt is made, which is counted, and so is what forbids one that the policy would make.
    pub fn may_retry(&self, failed: &Failed<'_>) -> bool {
        let retries = &self.service.retries;
        if !retries.may_retry(failed) {
            if !failed.is_replayable && retries.may_retry(&Failed { is_replayable: true, ..*failed }) {
                log::info!("{} is not tried again: more of the body was sent than is kept", self.service.name);
                self.metrics.not_retried("body");
            }
            return false;
        }
        let may = self.service.spend_retry();
        if !may {
            self.metrics.not_retried("budget");
        }
        may
    }
}
