//! Answers over HTTP/2 that wait for their clients.
//!
//! A client that opens streams and gives no window has the gateway hold up to some 640 KiB of each answer, and of streams a connection has
//! many. So what waits is counted, all connections together, and the patience with a client that takes nothing shrinks as
//! `server.buffers` fills, to a second. Over HTTP/1 the client's stream does the same by the number of those that take nothing.

use super::exchange::Exchange;
use crate::limit::Held;
use pingora::prelude::Session;
use std::time::Duration;

/// What a client may always take its time for.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// What has come from the service and is not being written yet.
#[derive(Debug)]
pub struct Untaken(Held);

/// A piece has come from the service.
pub fn came(bytes: usize, exchange: &mut Exchange) {
    if exchange.is_h2 && !exchange.is_background() {
        let Untaken(held) = exchange.untaken.get_or_insert_with(|| Untaken(exchange.snapshot.server.untaken.hold()));
        held.set(held.bytes() + bytes as u64);
    }
}

/// A piece is about to be written; what a cache has was never counted.
pub fn goes(bytes: usize, session: &mut Session, exchange: &mut Exchange) {
    let Some(Untaken(held)) = &mut exchange.untaken else { return };
    held.set(held.bytes().saturating_sub(bytes as u64));
    let most = exchange.snapshot.server.timeouts.client_write;
    session.set_write_timeout(Some(most.mul_f64(held.room()).max(PATIENCE_MIN).min(most)));
}
