//! Several requests that show one credential at once: one finds out, and the others wait to hear of it.

use crate::types::{Identity, Refusal};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

type Found = Result<Arc<Identity>, Refusal>;
/// Held by the one that finds out, with what it came to last if that was nothing.
type Lock = tokio::sync::Mutex<Option<(Instant, Refusal)>>;

/// By credential.
#[derive(Debug, Default)]
pub struct Flights(Mutex<HashMap<String, Arc<Lock>>>);

impl Flights {
    /// Finds out by `find`, one at a time, unless those before have made it known to `recall`. Whoever has waited for a failure is not to wait once more,
    /// and shares it.
    ///
    /// # Errors
    /// As `find`.
    pub async fn found(&self, credential: &str, recall: impl Fn() -> Option<Found>, find: impl Future<Output = Found>) -> Found {
        let began = Instant::now();
        let lock = self.all().entry(credential.to_string()).or_default().clone();
        let flight = Flight { of: self, credential, lock };
        let mut failed = flight.lock.lock().await;
        if let Some(known) = recall() {
            return known;
        }
        if let Some((_, refusal)) = failed.as_ref().filter(|(at, _)| *at >= began) {
            return Err(refusal.clone());
        }
        let found = find.await;
        *failed = found.as_ref().err().map(|refusal| (Instant::now(), refusal.clone()));
        found
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Lock>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits to hear of a credential.
struct Flight<'a> {
    of: &'a Flights,
    credential: &'a str,
    lock: Arc<Lock>,
}

impl Drop for Flight<'_> {
    /// The last one turns off the light: one is here and one in the map.
    fn drop(&mut self) {
        let mut all = self.of.all();
        if Arc::strong_count(&self.lock) <= 2 {
            all.remove(self.credential);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn who_waits_shares_what_the_first_comes_to() {
        for failure in [Refusal::Unauthenticated, Refusal::AuthUnavailable] {
            let (flights, asked, gate) = (Flights::default(), AtomicUsize::new(0), Notify::new());
            let find = || async {
                asked.fetch_add(1, Relaxed);
                gate.notified().await;
                Err(failure.clone())
            };
            let one = || flights.found("a", || None, find());
            let open = async {
                tokio::task::yield_now().await;
                gate.notify_one();
            };
            let (a, b, c, ()) = tokio::join!(one(), one(), one(), open);
            assert_eq!((a, b, c), (Err(failure.clone()), Err(failure.clone()), Err(failure.clone())));
            assert_eq!(asked.load(Relaxed), 1);
            // Whoever comes behind finds out anew.
            gate.notify_one();
            assert_eq!(one().await, Err(failure.clone()));
            assert_eq!((asked.load(Relaxed), flights.all().len()), (2, 0));
        }
    }
}
