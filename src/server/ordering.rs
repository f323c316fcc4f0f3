//! Certificates that are ordered from an authority: looked at from time to time, and renewed when it is time.

use crate::snapshot::Snapshot;
use crate::tls::acme::Looked;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::sleep;

/// Between two looks: what another gateway orders is waited for, and a reload may want another certificate.
const LOOK: Duration = Duration::from_secs(2);

/// Keeps what the running configuration wants ordered, for as long as it is polled. The files are found by those who use them.
pub async fn keep_ordering(snapshot: Arc<ArcSwap<Snapshot>>) {
    // This process's own, so that of several gateways one goes first.
    let jitter = fastrand::f64();
    loop {
        for acme in snapshot.load_full().acme.clone() {
            let (handle, ours) = (Handle::current(), acme.clone());
            // The disk may be slow, or another machine's.
            let looked = tokio::task::spawn_blocking(move || handle.block_on(ours.renew(jitter))).await;
            let names = acme.domains.join(", ");
            match looked {
                Ok(Ok(Looked::Renewed)) => log::info!("a certificate of {names} has come"),
                Ok(Err(why)) => log::error!("no certificate of {names}: {why}"),
                Ok(Ok(Looked::Good(_) | Looked::Waits)) | Err(_) => {}
            }
        }
        sleep(LOOK).await;
    }
}
