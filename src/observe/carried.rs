//! Counters on their way into the process that takes the place of this one.

use super::metrics::{Counters, Metrics};
use crate::types::Carried;
use prometheus::proto::MetricType;
use std::collections::HashMap;

/// Counters go on where the old process's stood: a rate over them does not jump. Histograms begin anew.
impl Carried for Metrics {
    fn name(&self) -> &'static str {
        "counters"
    }

    fn version(&self) -> u32 {
        1
    }

    fn give(&self) -> Vec<u8> {
        let mut counters: Vec<Counted> = Vec::new();
        for family in self.gather().iter().filter(|family| family.get_field_type() == MetricType::COUNTER) {
            for metric in family.get_metric() {
                let labels = metric.get_label().iter().map(|label| (label.name().to_string(), label.value().to_string())).collect();
                counters.push((family.name().to_string(), labels, metric.get_counter().get_value() as u64));
            }
        }
        serde_json::to_vec(&counters).unwrap_or_default()
    }

    fn take(&self, bytes: &[u8]) {
        let counters: Vec<Counted> = serde_json::from_slice(bytes).unwrap_or_default();
        for (name, labels, value) in counters {
            let labels: HashMap<&str, &str> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            // A name or labels of another version are not this one's.
            let counter = match self.counters.iter().find(|(known, _)| *known == name) {
                Some((_, Counters::One(counter))) => Some(counter.clone()),
                Some((_, Counters::Many(family))) => family.get_metric_with(&labels).ok(),
                None => None,
            };
            counter.into_iter().for_each(|counter| counter.inc_by(value));
        }
    }
}

/// A counter's name, its labels, and where it stands.
type Counted = (String, Vec<(String, String)>, u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_and_what_can_not_be_read_is_left() {
        let (old, new) = (Metrics::new().expect("metrics"), Metrics::new().expect("metrics"));
        old.reloaded("ok");
        old.reloaded("ok");
        old.flood_refused.inc_by(7);
        new.reloaded("ok");
        new.take(&old.give());
        new.take(b"nonsense");
        new.take(br#"[["frontdesk_reloads_total", [["colour", "red"]], 1], ["unknown", [], 1]]"#);
        let text = new.render();
        for line in ["frontdesk_reloads_total{result=\"ok\"} 3", "frontdesk_flood_refused_total 7"] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
