//! Histograms whose counts can be handed on, which Prometheus's own can't be given.

use prometheus::Result;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper bounds of the buckets, in nanoseconds: 0.5 ms to 30 s.
const BOUNDS: [u64; 15] = {
    const US: u64 = 1_000;
    const MS: u64 = 1_000 * US;
    [
        500 * US,
        MS,
        2_500 * US,
        5 * MS,
        10 * MS,
        25 * MS,
        50 * MS,
        100 * MS,
        250 * MS,
        500 * MS,
        1_000 * MS,
        2_500 * MS,
        5_000 * MS,
        10_000 * MS,
        30_000 * MS,
    ]
};
const NS_PER_SECOND: f64 = 1e9;

/// Times, counted by how long they are.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    /// Those up to each bound and above the one before; the last of those above all.
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

/// The counts of each bucket and the sum in nanoseconds.
pub type Counts = (Vec<u64>, u64);

impl Histogram {
    pub fn observe(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Most are short: from the left it is one comparison or two.
        let bucket = BOUNDS.iter().position(|bound| ns <= *bound).unwrap_or(BOUNDS.len());
        self.0.counts[bucket].fetch_add(1, Relaxed);
        self.0.sum_ns.fetch_add(ns, Relaxed);
    }

    pub fn counts(&self) -> Counts {
        (self.0.counts.iter().map(|count| count.load(Relaxed)).collect(), self.0.sum_ns.load(Relaxed))
    }

    /// Adds what another process has counted; what has other buckets is left.
    pub fn add(&self, (counts, sum_ns): &Counts) {
        if counts.len() == self.0.counts.len() {
            for (own, more) in self.0.counts.iter().zip(counts) {
                own.fetch_add(*more, Relaxed);
            }
            self.0.sum_ns.fetch_add(*sum_ns, Relaxed);
        }
    }

    fn told(&self) -> proto::Histogram {
        let (counts, sum_ns) = self.counts();
        let (mut told, mut up_to, mut buckets) = (proto::Histogram::default(), 0, Vec::new());
        for (bound, count) in BOUNDS.iter().zip(&counts) {
            up_to += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound as f64 / NS_PER_SECOND);
            bucket.set_cumulative_count(up_to);
            buckets.push(bucket);
        }
        told.set_bucket(buckets);
        told.set_sample_count(counts.iter().sum());
        told.set_sample_sum(sum_ns as f64 / NS_PER_SECOND);
        told
    }
}

/// Histograms of one name, by the value of their label.
#[derive(Clone, Debug)]
pub struct Histograms(Arc<Family>);

#[derive(Debug)]
struct Family {
    desc: Desc,
    label: &'static str,
    by_value: Mutex<BTreeMap<String, Histogram>>,
}

impl Histograms {
    /// # Errors
    /// The name or the label has a form that Prometheus does not take.
    pub fn new(name: &str, help: &str, label: &'static str) -> Result<Histograms> {
        let desc = Desc::new(name.into(), help.into(), vec![label.into()], HashMap::new())?;
        Ok(Histograms(Arc::new(Family { desc, label, by_value: Mutex::default() })))
    }

    fn by_value(&self) -> MutexGuard<'_, BTreeMap<String, Histogram>> {
        self.0.by_value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn name(&self) -> &str {
        &self.0.desc.fq_name
    }

    /// The one of a label's value, which is there from now on.
    pub fn of(&self, value: &str) -> Histogram {
        self.by_value().entry(value.to_string()).or_default().clone()
    }

    pub fn all(&self) -> Vec<(String, Histogram)> {
        self.by_value().iter().map(|(value, histogram)| (value.clone(), histogram.clone())).collect()
    }
}

impl Collector for Histograms {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let told = |(value, histogram): (String, Histogram)| {
            let mut label = LabelPair::default();
            label.set_name(self.0.label.into());
            label.set_value(value);
            let mut metric = Metric::from_label(vec![label]);
            metric.set_histogram(histogram.told());
            metric
        };
        let mut family = MetricFamily::default();
        family.set_name(self.0.desc.fq_name.clone());
        family.set_help(self.0.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(self.all().into_iter().map(told).collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Encoder, Registry, TextEncoder};

    fn text(histograms: &Histograms) -> String {
        let (registry, mut out) = (Registry::new(), Vec::new());
        registry.register(Box::new(histograms.clone())).expect("a registry");
        TextEncoder::new().encode(&registry.gather(), &mut out).expect("a text");
        String::from_utf8(out).expect("a text")
    }

    #[test]
    fn times_fall_into_their_buckets_and_go_along() {
        let make = || Histograms::new("seconds", "Time.", "route").expect("histograms");
        let (old, new) = (make(), make());
        // On a bound is within it.
        [500, 501, 30_000_000, 31_000_000].into_iter().for_each(|us| old.of("a").observe(Duration::from_micros(us)));
        new.of("a").observe(Duration::from_micros(1));
        new.of("a").add(&old.of("a").counts());
        new.of("a").add(&(vec![1; 3], 7));
        let told = text(&new);
        for line in [
            "seconds_bucket{route=\"a\",le=\"0.0005\"} 2",
            "seconds_bucket{route=\"a\",le=\"0.001\"} 3",
            "seconds_bucket{route=\"a\",le=\"10\"} 3",
            "seconds_bucket{route=\"a\",le=\"30\"} 4",
            "seconds_bucket{route=\"a\",le=\"+Inf\"} 5",
            "seconds_count{route=\"a\"} 5",
            "seconds_sum{route=\"a\"} 61.001002",
        ] {
            assert!(told.lines().any(|found| found == line), "{line} is not in\n{told}");
        }
    }
}
