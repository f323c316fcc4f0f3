//! Prometheus metrics. Handles are looked up once, when a snapshot is built or a status is first seen; after that a
//! request costs an atomic addition each. Labels are bounded: names from the configuration, never from a client.

use super::carried::Totals;
use super::histogram::{Histogram, Histograms};
use super::service::ServiceMetrics;
use crate::types::Refusal;
use http::Method;
use prometheus::core::Collector;
use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Unknown methods are counted as the last one.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "OTHER"];
/// From 100 up to 599 in one table, and 0 for what never had one.
const STATUSES: usize = 501;

/// A counter, or one for each set of labels.
#[derive(Debug)]
pub(super) enum Counters {
    One(IntCounter),
    Many(IntCounterVec),
}

/// A counter of what is counted elsewhere, where it may begin anew: with another store, in another process.
#[derive(Debug)]
struct Followed {
    counter: IntCounter,
    /// Where the other one stood. One scrape is answered at a time.
    last: AtomicU64,
}

impl Followed {
    fn follow(&self, source: u64) {
        let last = self.last.swap(source, Relaxed);
        self.counter.inc_by(source.checked_sub(last).unwrap_or(source));
    }
}

/// All families of the process. They outlive reloads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// All that only grow, by name.
    pub(super) counters: Vec<(String, Counters)>,
    pub(super) histograms: Vec<Histograms>,
    /// What scrapes are answered with once another process counts on.
    last: Mutex<Option<String>>,
    /// What was given to another process so far.
    pub(super) given: Mutex<Totals>,
    requests: IntCounterVec,
    request_seconds: Histograms,
    gateway_seconds: Histograms,
    upstream_seconds: Histograms,
    upstream_requests: IntCounterVec,
    retries: IntCounterVec,
    not_retried: IntCounterVec,
    endpoint_up: IntGaugeVec,
    ejections: IntCounterVec,
    discovery_up: IntGaugeVec,
    discovery_failures: IntCounterVec,
    breaker_open: IntGaugeVec,
    mirror: IntCounterVec,
    refusals: IntCounterVec,
    reloads: IntCounterVec,
    snapshot_info: IntGaugeVec,
    certificate_expiry: IntGaugeVec,
    jwks_age: IntGaugeVec,
    pub connections: IntGauge,
    pub connections_refused: IntCounter,
    pub in_flight: IntGauge,
    pub log_dropped: IntCounter,
    limit: IntCounterVec,
    cache: IntCounterVec,
    cache_bytes: IntGauge,
    cache_entries: IntGauge,
    cache_evicted: Followed,
    purges: [Followed; 3],
    limit_alone: IntCounterVec,
    pub store_up: IntGauge,
    store_failures: Followed,
    store_questions: Followed,
    pub flood_refused: IntCounter,
    pub http2_ended: IntCounter,
    pub limit_keys: IntGauge,
    limit_keys_dropped: Followed,
}

impl Metrics {
    /// # Errors
    /// None in practice: names and labels are fixed, and a registry of its own has no duplicates.
    pub fn new() -> prometheus::Result<Arc<Metrics>> {
        let registry = Registry::new();
        let all = RefCell::new(Vec::new());
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)?;
            all.borrow_mut().push((name.to_string(), Counters::Many(family.clone())));
            prometheus::Result::Ok(family)
        };
        let counter = |name: &str, help: &str| {
            let counter = register(&registry, IntCounter::new(name, help)?)?;
            all.borrow_mut().push((name.to_string(), Counters::One(counter.clone())));
            prometheus::Result::Ok(counter)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| register(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let followed = |name: &str, help: &str| counter(name, help).map(|counter| Followed { counter, last: AtomicU64::new(0) });
        let times = RefCell::new(Vec::new());
        let histograms = |name: &str, help: &str, label: &'static str| {
            let family = register(&registry, Histograms::new(name, help, label)?)?;
            times.borrow_mut().push(family.clone());
            prometheus::Result::Ok(family)
        };
        Ok(Arc::new(Metrics {
            requests: counters("frontdesk_requests_total", "Requests answered.", &["route", "method", "status"])?,
            request_seconds: histograms("frontdesk_request_seconds", "From a request's head to the end of its answer.", "route")?,
            gateway_seconds: histograms("frontdesk_gateway_seconds", "The same, less the time spent waiting for the service.", "route")?,
            upstream_seconds: histograms("frontdesk_upstream_seconds", "From an attempt's begin to the head of its answer.", "service")?,
            upstream_requests: counters("frontdesk_upstream_requests_total", "Attempts.", &["service", "endpoint", "outcome"])?,
            retries: counters("frontdesk_retries_total", "Attempts after the first.", &["service"])?,
            not_retried: counters("frontdesk_retries_refused_total", "Attempts called for, but not made.", &["service", "reason"])?,
            endpoint_up: gauges("frontdesk_endpoint_up", "Whether requests are sent to an endpoint.", &["service", "endpoint"])?,
            ejections: counters("frontdesk_ejections_total", "Endpoints left alone for a while.", &["service", "endpoint"])?,
            discovery_up: gauges("frontdesk_discovery_up", "Whether a source of endpoints answers.", &["service", "source"])?,
            discovery_failures: counters("frontdesk_discovery_failures_total", "Times that it did not.", &["service", "source"])?,
            mirror: counters("frontdesk_mirror_total", "Copies of requests.", &["route", "outcome"])?,
            breaker_open: gauges("frontdesk_breaker_open", "Whether a service is left alone.", &["service"])?,
            refusals: counters("frontdesk_refusals_total", "Requests that were refused or failed.", &["route", "code"])?,
            reloads: from_zero(counters("frontdesk_reloads_total", "Reloads.", &["result"])?, &["ok", "failed"]),
            snapshot_info: gauges("frontdesk_snapshot_info", "The configuration that is running.", &["version", "hash"])?,
            certificate_expiry: gauges("frontdesk_certificate_expiry_seconds", "When a certificate expires, in Unix time.", &["name"])?,
            jwks_age: gauges("frontdesk_jwks_age_seconds", "Since the keys of an issuer were last fetched.", &["issuer"])?,
            connections: register(&registry, IntGauge::new("frontdesk_connections", "Client connections that are open.")?)?,
            connections_refused: counter("frontdesk_connections_refused_total", "Connections above max_connections.")?,
            in_flight: register(&registry, IntGauge::new("frontdesk_in_flight", "Requests that are being served.")?)?,
            log_dropped: counter("frontdesk_log_dropped_total", "Log lines that were dropped.")?,
            limit: counters("frontdesk_limit_total", "Decisions of rate limits.", &["limit", "decision", "mode"])?,
            cache: counters("frontdesk_cache_total", "Requests of routes with a cache, by what it came to.", &["route", "status"])?,
            cache_bytes: register(&registry, IntGauge::new("frontdesk_cache_bytes", "What the answers take that are kept.")?)?,
            cache_entries: register(&registry, IntGauge::new("frontdesk_cache_entries", "Answers that are kept.")?)?,
            cache_evicted: followed("frontdesk_cache_evicted_total", "Answers that made room for others.")?,
            purges: [
                followed("frontdesk_purges_sent_total", "Purges that other gateways were told.")?,
                followed("frontdesk_purges_heard_total", "Purges of other gateways.")?,
                followed("frontdesk_purges_missed_total", "Times that all was forgotten, since purges may have been missed.")?,
            ],
            limit_alone: counters("frontdesk_limit_alone_total", "Decisions of shared limits without their store.", &["limit"])?,
            store_up: register(&registry, IntGauge::new("frontdesk_store_up", "Whether the store of shared limits answers.")?)?,
            store_failures: followed("frontdesk_store_failures_total", "How often the store of shared limits was lost.")?,
            store_questions: followed("frontdesk_store_questions_total", "Calls to the store of shared limits.")?,
            flood_refused: counter("frontdesk_flood_refused_total", "Requests above server.flood, which are in no log.")?,
            http2_ended: counter("frontdesk_http2_ended_total", "HTTP/2 connections that were ended for what their clients sent.")?,
            limit_keys: register(&registry, IntGauge::new("frontdesk_limit_keys", "Keys of rate limits that are kept.")?)?,
            limit_keys_dropped: followed("frontdesk_limit_keys_dropped_total", "Keys forgotten to make room.")?,
            counters: all.take(),
            histograms: times.take(),
            last: Mutex::default(),
            given: Mutex::default(),
            registry,
        }))
    }

    /// Answers one scrape at a time, since what is measured for it replaces what was measured for the one before.
    pub fn scrape(&self, measure: impl FnOnce()) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone().unwrap_or_else(|| {
            measure();
            self.render()
        })
    }

    /// From now on another process counts on: whoever still asks here is told no more than that one knows.
    pub fn give_way(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.render());
    }

    /// The text format of Prometheus, version 0.0.4.
    pub fn render(&self) -> String {
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err(e) => {
                log::error!("metrics can't be written: {e}");
                String::new()
            }
        }
    }

    /// The handles of a route; the empty name is for requests without one.
    pub fn route(self: &Arc<Self>, name: &str) -> RouteMetrics {
        RouteMetrics {
            metrics: self.clone(),
            name: name.into(),
            seconds: self.request_seconds.of(name),
            gateway_seconds: self.gateway_seconds.of(name),
            requests: Default::default(),
            refusals: OnceLock::new(),
        }
    }

    pub fn service(&self, name: &str) -> ServiceMetrics {
        ServiceMetrics {
            name: name.into(),
            seconds: self.upstream_seconds.of(name),
            attempts: self.upstream_requests.clone(),
            retries: self.retries.with_label_values(&[name]),
            not_retried: self.not_retried.clone(),
            ejections: self.ejections.clone(),
        }
    }

    /// Services' endpoints, and whether each is up; replaces what was said before.
    pub fn endpoints<'a>(&self, endpoints: impl Iterator<Item = (&'a str, String, bool)>) {
        self.endpoint_up.reset();
        for (service, endpoint, is_up) in endpoints {
            let labels = [service, &endpoint];
            self.endpoint_up.with_label_values(&labels).set(i64::from(is_up));
            // There from the beginning, so that the first one is seen as an increase.
            self.ejections.with_label_values(&labels);
        }
    }

    /// Where services' endpoints are asked for, whether each is answered, and how often it was not; replaces what was said before.
    pub fn sources<'a>(&self, sources: impl Iterator<Item = (&'a str, String, bool, u64)>) {
        self.discovery_up.reset();
        for (service, source, is_up, failures) in sources {
            let labels = [service, &source];
            self.discovery_up.with_label_values(&labels).set(i64::from(is_up));
            let counter = self.discovery_failures.with_label_values(&labels);
            counter.inc_by(failures.saturating_sub(counter.get()));
        }
    }

    /// The counter of a route's copies: `sent`, `failed` or `dropped`.
    pub fn mirror(&self, route: &str, outcome: &str) -> IntCounter {
        self.mirror.with_label_values(&[route, outcome])
    }

    /// Services with a breaker, and whether it is open; replaces what was said before.
    pub fn breakers<'a>(&self, breakers: impl Iterator<Item = (&'a str, bool)>) {
        self.breaker_open.reset();
        breakers.for_each(|(service, is_open)| self.breaker_open.with_label_values(&[service]).set(i64::from(is_open)));
    }

    /// How many keys there are, and how many were forgotten so far.
    pub fn limit_keys(&self, kept: usize, dropped: u64) {
        self.limit_keys.set(i64::try_from(kept).unwrap_or(i64::MAX));
        self.limit_keys_dropped.follow(dropped);
    }

    pub fn limit(&self, name: &str, is_shadow: bool) -> LimitMetrics {
        let mode = if is_shadow { "shadow" } else { "enforce" };
        let decision = |decision| self.limit.with_label_values(&[name, decision, mode]);
        let alone = self.limit_alone.with_label_values(&[name]);
        LimitMetrics { allowed: decision("allowed"), refused: decision("refused"), alone }
    }

    /// The store of shared limits; calls and failures so far.
    pub fn store(&self, is_up: bool, questions: u64, failures: u64) {
        self.store_up.set(i64::from(is_up));
        self.store_questions.follow(questions);
        self.store_failures.follow(failures);
    }

    /// What gateways have told each other so far.
    pub fn purges(&self, sent: u64, heard: u64, missed: u64) {
        self.purges.iter().zip([sent, heard, missed]).for_each(|(counter, so_far)| counter.follow(so_far));
    }

    pub fn cache(&self, route: &str) -> CacheMetrics {
        CacheMetrics { counters: CACHED.map(|status| self.cache.with_label_values(&[route, status])) }
    }

    /// What is kept, in bytes and answers, and how many made room so far.
    pub fn cache_kept(&self, bytes: usize, entries: usize, evicted: u64) {
        self.cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.cache_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.cache_evicted.follow(evicted);
    }

    pub fn reloaded(&self, result: &str) {
        self.reloads.with_label_values(&[result]).inc();
    }

    /// There is one snapshot at a time.
    pub fn snapshot(&self, version: u64, hash: &str) {
        self.snapshot_info.reset();
        self.snapshot_info.with_label_values(&[version.to_string().as_str(), hash]).set(1);
    }

    /// Issuers and the age of their keys; replaces what was said before.
    pub fn keys(&self, ages: impl Iterator<Item = (String, Duration)>) {
        self.jwks_age.reset();
        ages.for_each(|(issuer, age)| self.jwks_age.with_label_values(&[&issuer]).set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)));
    }

    /// Names and the Unix time at which each expires; replaces what was said before.
    pub fn certificates<'a>(&self, expiries: impl Iterator<Item = (&'a str, i64)>) {
        self.certificate_expiry.reset();
        expiries.for_each(|(name, at)| self.certificate_expiry.with_label_values(&[name]).set(at));
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, family: C) -> prometheus::Result<C> {
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

/// What is counted of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    metrics: Arc<Metrics>,
    name: Arc<str>,
    seconds: Histogram,
    gateway_seconds: Histogram,
    requests: [OnceLock<Box<[OnceLock<IntCounter>]>>; METHODS.len()],
    refusals: OnceLock<Box<[OnceLock<IntCounter>]>>,
}

impl RouteMetrics {
    /// Counts an answer and its times.
    pub fn answered(&self, method: &Method, status: u16, total: Duration, gateway: Duration) {
        self.count(method, status);
        self.seconds.observe(total);
        self.gateway_seconds.observe(gateway);
    }

    fn count(&self, method: &Method, status: u16) {
        let method = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1);
        let slot = usize::from(status.saturating_sub(99)).min(STATUSES - 1);
        let table = self.requests[method].get_or_init(|| slots(STATUSES));
        let make = || self.metrics.requests.with_label_values(&[&*self.name, METHODS[method], &status.to_string()]);
        table[slot].get_or_init(make).inc();
    }

    pub fn refused(&self, refusal: &Refusal) {
        let Some(code) = Refusal::CODES.iter().position(|code| *code == refusal.code()) else { return };
        let table = self.refusals.get_or_init(|| slots(Refusal::CODES.len()));
        table[code].get_or_init(|| self.metrics.refusals.with_label_values(&[&*self.name, refusal.code()])).inc();
    }
}

fn slots(n: usize) -> Box<[OnceLock<IntCounter>]> {
    (0..n).map(|_| OnceLock::new()).collect()
}

/// What is counted of one limit.
#[derive(Clone, Debug)]
pub struct LimitMetrics {
    pub allowed: IntCounter,
    pub refused: IntCounter,
    /// Those of a shared limit that were decided without its store.
    pub alone: IntCounter,
}

/// What a request of a route with a cache came to.
pub const CACHED: [&str; 6] = ["hit", "miss", "stale", "expired", "revalidated", "bypass"];

/// What is counted of one route's cache.
#[derive(Debug)]
pub struct CacheMetrics {
    counters: [IntCounter; CACHED.len()],
}

impl CacheMetrics {
    /// `status` is one of those words.
    pub fn count(&self, status: &str) {
        CACHED.iter().zip(&self.counters).filter(|(known, _)| **known == status).for_each(|(_, counter)| counter.inc());
    }

    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        CACHED.iter().zip(&self.counters).map(|(status, counter)| (*status, counter.get()))
    }
}

/// There from the beginning: what is not there can't be seen to rise.
fn from_zero(counters: IntCounterVec, values: &[&str]) -> IntCounterVec {
    values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_route_method_and_status() {
        let metrics = Metrics::new().expect("metrics");
        let route = metrics.route("orders");
        let ms = Duration::from_millis;
        route.answered(&Method::GET, 200, ms(3), ms(1));
        route.answered(&Method::GET, 200, ms(3), ms(1));
        route.answered(&Method::from_bytes(b"BREW").expect("a method"), 0, ms(3), ms(1));
        route.refused(&Refusal::RateLimited(1));
        let service = metrics.service("s");
        service.answered(ms(2));
        service.ok("10.0.0.1:1").inc();
        service.failed("10.0.0.1:1", "connect");
        let text = metrics.render();
        for line in [
            "frontdesk_requests_total{method=\"GET\",route=\"orders\",status=\"200\"} 2",
            "frontdesk_requests_total{method=\"OTHER\",route=\"orders\",status=\"0\"} 1",
            "frontdesk_request_seconds_count{route=\"orders\"} 3",
            "frontdesk_request_seconds_bucket{route=\"orders\",le=\"0.0025\"} 0",
            "frontdesk_refusals_total{code=\"rate_limited\",route=\"orders\"} 1",
            "frontdesk_upstream_requests_total{endpoint=\"10.0.0.1:1\",outcome=\"ok\",service=\"s\"} 1",
            "frontdesk_upstream_requests_total{endpoint=\"10.0.0.1:1\",outcome=\"connect\",service=\"s\"} 1",
            "frontdesk_connections 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_counted_elsewhere_is_followed_where_it_begins_anew() {
        let metrics = Metrics::new().expect("metrics");
        let seen = [5, 7, 7, 2, 3].map(|evicted| {
            metrics.cache_kept(0, 0, evicted);
            metrics.cache_evicted.counter.get()
        });
        assert_eq!(seen, [5, 7, 7, 9, 10]);
    }

    #[test]
    fn a_new_snapshot_replaces_the_old_one() {
        let metrics = Metrics::new().expect("metrics");
        metrics.snapshot(1, "a");
        metrics.snapshot(2, "b");
        let text = metrics.render();
        assert!(text.contains("frontdesk_snapshot_info{hash=\"b\",version=\"2\"} 1") && !text.contains("version=\"1\""), "{text}");
    }
}
