//! Certificates that are renewed while the process runs: their files are looked at, and read again when they have changed.

use crate::snapshot::{Listener, Snapshot, State, near_its_end, past_its_end};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{MissedTickBehavior, interval};

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two words about a certificate that ends soon: a day.
const LOOKS_A_WORD: u64 = 86_400;

/// Keeps the certificates of all listeners as their files are, for as long as the process runs.
pub async fn keep_certificates(state: Arc<State>, snapshot: Arc<ArcSwap<Snapshot>>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for look in 0.. {
        ticks.tick().await;
        let now = snapshot.load_full();
        let looked = now.clone();
        // The disk may be slow.
        let has_changed = tokio::task::spawn_blocking(move || refresh(&looked)).await.unwrap_or(false);
        if has_changed {
            state.metrics.certificates(expiries(&now).iter().map(|(name, at)| (name.as_str(), *at)));
        }
        if look % LOOKS_A_WORD == LOOKS_A_WORD - 1 {
            let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let words = expiries(&now).into_iter().filter_map(|(name, expires)| near_its_end(&name, expires, unix));
            words.chain(now.listeners.iter().filter_map(overdue)).for_each(|word| log::warn!("{word}"));
        }
    }
}

/// Says whether anything is used that was not before.
fn refresh(snapshot: &Snapshot) -> bool {
    let mut has_changed = false;
    for listener in &snapshot.listeners {
        match listener.tls.as_ref().map(|tls| tls.refresh()) {
            Some(Ok(true)) => {
                has_changed = true;
                log::info!("certificates of {} read anew", listener.bind);
                if let Some(word) = overdue(listener) {
                    log::warn!("{word}");
                }
            }
            Some(Err(why)) => log::error!("certificates of {} have changed but can't be used, the old ones go on: {why}", listener.bind),
            Some(Ok(false)) | None => {}
        }
    }
    has_changed
}

/// What is to be said of the lists of revoked certificates that a listener goes by.
fn overdue(listener: &Listener) -> Option<String> {
    let ends = listener.tls.as_ref()?.now().lists_end?;
    let word = past_its_end(ends, SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default())?;
    Some(format!("{}: {word}", listener.bind))
}

/// The first name of each certificate, and the Unix time at which it expires.
pub fn expiries(snapshot: &Snapshot) -> Vec<(String, i64)> {
    snapshot.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| tls.now().expiries.clone()).collect()
}
