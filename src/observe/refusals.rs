//! The last refusals, for whoever asks why: a ring of a fixed size, newest last.

use super::Record;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// How many are kept.
const KEPT: usize = 1_000;
/// Bytes of a client's text that are kept.
const TEXT_MAX: usize = 512;

#[derive(Debug, Default)]
pub struct Refusals {
    ring: Mutex<VecDeque<Refused>>,
    /// Those that were not written down, because somebody was reading.
    missed: AtomicU64,
}

/// A request that was refused or failed, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Refused {
    pub time: String,
    pub request_id: String,
    pub status: u16,
    pub code: String,
    /// What the client was told.
    pub detail: String,
    pub client_ip: String,
    pub method: String,
    pub host: String,
    pub path: String,
    pub route: String,
    pub service: String,
    pub endpoint: String,
    pub attempts: usize,
    pub identity: String,
    pub auth: String,
    pub limit: String,
    pub duration_ms: f64,
}

impl Refusals {
    /// Never waits: while somebody reads, what comes is counted only.
    pub fn add(&self, record: &Record<'_>, detail: &str) {
        let Ok(mut ring) = self.ring.try_lock() else {
            self.missed.fetch_add(1, Relaxed);
            return;
        };
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        ring.push_back(Refused {
            time: humantime::format_rfc3339_millis(record.time).to_string(),
            request_id: short(record.request_id),
            status: record.status,
            code: record.code.to_string(),
            detail: detail.to_string(),
            client_ip: record.client_ip.to_string(),
            method: short(record.method),
            host: short(record.host),
            path: short(&record.path),
            route: record.route.to_string(),
            service: record.service.to_string(),
            endpoint: record.endpoint.to_string(),
            attempts: record.attempts,
            identity: short(record.identity),
            auth: record.auth.to_string(),
            limit: record.limit.to_string(),
            duration_ms: record.duration.as_secs_f64() * 1e3,
        });
    }

    /// The newest first, of one request where an id is given; at most so many.
    pub fn newest(&self, id: Option<&str>, most: usize) -> Vec<Refused> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |refused: &&Refused| id.is_none_or(|id| refused.request_id == id);
        ring.iter().rev().filter(fits).take(most).cloned().collect()
    }

    /// How many are kept at most, and how many were missed.
    pub fn bounds(&self) -> (usize, u64) {
        (KEPT, self.missed.load(Relaxed))
    }
}

/// As much of a client's text as is kept.
fn short(text: &str) -> String {
    match text.char_indices().take_while(|(at, _)| *at < TEXT_MAX).last() {
        Some((at, last)) if at + last.len_utf8() < text.len() => format!("{}…", &text[..at + last.len_utf8()]),
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn the_last_ones_are_kept_and_texts_are_bounded() {
        let refusals = Refusals::default();
        let long = "é".repeat(1_000);
        for n in 0..KEPT + 5 {
            let id = format!("id-{n}");
            let record = Record { request_id: &id, path: long.as_str().into(), ..Record::nothing(SystemTime::UNIX_EPOCH) };
            refusals.add(&record, "why");
        }
        let all = refusals.newest(None, usize::MAX);
        assert_eq!((all.len(), all[0].request_id.as_str(), all[KEPT - 1].request_id.as_str()), (KEPT, "id-1004", "id-5"));
        assert!(all[0].path.len() <= TEXT_MAX + 4 && all[0].path.ends_with('…'));
        assert_eq!(
            (refusals.newest(Some("id-7"), 9).len(), refusals.newest(Some("id-1"), 9).len(), refusals.newest(None, 3).len()),
            (1, 0, 3)
        );
    }

    #[test]
    fn nobody_waits_for_whoever_reads() {
        let refusals = Refusals::default();
        let reading = refusals.ring.lock().expect("the ring");
        refusals.add(&Record::nothing(SystemTime::UNIX_EPOCH), "why");
        drop(reading);
        assert_eq!((refusals.bounds().1, refusals.newest(None, 9).len()), (1, 0));
    }
}
