//! What was counted, on its way into the process that takes the place of this one.

use super::histogram::Counts;
use super::metrics::{Counters, Metrics};
use crate::types::Carried;
use prometheus::core::Collector;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::PoisonError;

/// Where counters and histograms stand.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// By name and labels.
    counters: Vec<((String, Labels), u64)>,
    /// By name and the value of their one label.
    histograms: Vec<((String, String), Counts)>,
}

type Labels = Vec<(String, String)>;

impl Totals {
    fn of(metrics: &Metrics) -> Totals {
        let mut totals = Totals::default();
        for (name, counters) in &metrics.counters {
            let families = match counters {
                Counters::One(counter) => counter.collect(),
                Counters::Many(family) => family.collect(),
            };
            for metric in families.iter().flat_map(|family| family.get_metric()) {
                let labels = metric.get_label().iter().map(|label| (label.name().to_string(), label.value().to_string())).collect();
                totals.counters.push(((name.clone(), labels), metric.get_counter().get_value() as u64));
            }
        }
        for family in &metrics.histograms {
            let named = |value| (family.name().to_string(), value);
            totals.histograms.extend(family.all().into_iter().map(|(value, histogram)| (named(value), histogram.counts())));
        }
        totals
    }

    /// What is counted here and was not in `before`.
    fn since(&self, before: &Totals) -> Totals {
        let before_counters: HashMap<_, _> = before.counters.iter().map(|(key, count)| (key, *count)).collect();
        let before_histograms: HashMap<_, _> = before.histograms.iter().map(|(key, counts)| (key, counts)).collect();
        let counter = |(key, count): &((String, Labels), u64)| {
            let more = count.saturating_sub(before_counters.get(key).copied().unwrap_or(0));
            (more > 0).then(|| (key.clone(), more))
        };
        let histogram = |(key, (counts, sum)): &((String, String), Counts)| {
            let (mut counts, mut sum) = (counts.clone(), *sum);
            if let Some((before, before_sum)) = before_histograms.get(key) {
                counts.iter_mut().zip(before).for_each(|(count, before)| *count = count.saturating_sub(*before));
                sum = sum.saturating_sub(*before_sum);
            }
            counts.iter().any(|count| *count > 0).then(|| (key.clone(), (counts, sum)))
        };
        Totals {
            counters: self.counters.iter().filter_map(counter).collect(),
            histograms: self.histograms.iter().filter_map(histogram).collect(),
        }
    }
}

/// What is counted goes on where the old process stood, and what the old one still counts is added: a rate over it does not jump.
impl Carried for Metrics {
    fn name(&self) -> &'static str {
        "metrics"
    }

    fn version(&self) -> u32 {
        1
    }

    fn give(&self) -> Vec<u8> {
        let totals = Totals::of(self);
        let bytes = serde_json::to_vec(&totals).unwrap_or_default();
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = totals;
        bytes
    }

    fn give_more(&self) -> Option<Vec<u8>> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = Totals::of(self);
        let more = totals.since(&given);
        *given = totals;
        let is_nothing = more.counters.is_empty() && more.histograms.is_empty();
        if is_nothing { None } else { serde_json::to_vec(&more).ok() }
    }

    fn take(&self, bytes: &[u8]) {
        let Totals { counters, histograms } = serde_json::from_slice(bytes).unwrap_or_default();
        for ((name, labels), count) in counters {
            let labels: HashMap<&str, &str> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            // A name or labels of another version are not this one's.
            let counter = match self.counters.iter().find(|(known, _)| *known == name) {
                Some((_, Counters::One(counter))) => Some(counter.clone()),
                Some((_, Counters::Many(family))) => family.get_metric_with(&labels).ok(),
                None => None,
            };
            counter.into_iter().for_each(|counter| counter.inc_by(count));
        }
        for ((name, value), counts) in histograms {
            self.histograms.iter().filter(|family| family.name() == name).for_each(|family| family.of(&value).add(&counts));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use std::time::Duration;

    fn has(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.render();
        lines.iter().for_each(|line| assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}"));
    }

    #[test]
    fn what_was_counted_goes_on_and_what_can_not_be_read_is_left() {
        let (old, new) = (Metrics::new().expect("metrics"), Metrics::new().expect("metrics"));
        old.reloaded("ok");
        old.reloaded("ok");
        old.flood_refused.inc_by(7);
        old.cache_kept(0, 0, 4);
        old.route("r").answered(&Method::GET, 200, Duration::from_millis(2), Duration::from_millis(1));
        new.reloaded("ok");
        new.take(&old.give());
        new.take(b"nonsense");
        new.take(br#"{"counters":[[["frontdesk_reloads_total",[["colour","red"]]],1],[["unknown",[]],1]],"histograms":[]}"#);
        has(
            &new,
            &[
                "frontdesk_reloads_total{result=\"ok\"} 3",
                "frontdesk_flood_refused_total 7",
                "frontdesk_cache_evicted_total 4",
                "frontdesk_request_seconds_count{route=\"r\"} 1",
                "frontdesk_request_seconds_bucket{route=\"r\",le=\"0.001\"} 0",
                "frontdesk_request_seconds_sum{route=\"r\"} 0.002",
            ],
        );
    }

    #[test]
    fn what_comes_afterwards_is_added_once() {
        let (old, new) = (Metrics::new().expect("metrics"), Metrics::new().expect("metrics"));
        let answered = || old.route("r").answered(&Method::GET, 200, Duration::from_millis(2), Duration::from_millis(1));
        answered();
        new.take(&old.give());
        assert_eq!(old.give_more(), None);
        answered();
        answered();
        new.take(&old.give_more().expect("more"));
        assert_eq!(old.give_more(), None);
        has(
            &new,
            &[
                "frontdesk_requests_total{method=\"GET\",route=\"r\",status=\"200\"} 3",
                "frontdesk_request_seconds_count{route=\"r\"} 3",
                "frontdesk_gateway_seconds_sum{route=\"r\"} 0.003",
            ],
        );
    }
}
