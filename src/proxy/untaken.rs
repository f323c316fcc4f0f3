//! Answers over HTTP/2 that wait for their clients.
//!
//! A client that opens streams and gives no window has the gateway hold up to some 640 KiB of each answer, and of streams a connection has
//! many. So what waits is counted, all connections together, and the patience with a client that takes nothing shrinks as
//! `server.buffers` fills, to a second. Over HTTP/1 the client's stream does the same by the number of those that take nothing.

use super::deadline::{Deadline, LOOK_TAKE, Phase};
use super::exchange::Exchange;
use crate::limit::Held;
use crate::snapshot::Server;
use std::time::Duration;

/// What a client may always take its time for.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// More than is on its way to a client that takes all.
const BEHIND_BYTES: u64 = 128 << 10;

/// What has come from the service and is not being written yet.
#[derive(Debug)]
pub struct Untaken {
    held: Held,
    /// The service has no more.
    is_whole: bool,
}

/// A piece has come from the service.
pub fn came(bytes: usize, is_end: bool, exchange: &mut Exchange) {
    if !exchange.is_h2 || exchange.is_background() {
        return;
    }
    let start = || Untaken { held: exchange.snapshot.server.untaken.hold(), is_whole: false };
    let untaken = exchange.untaken.get_or_insert_with(start);
    untaken.held.set(untaken.held.bytes() + bytes as u64);
    untaken.is_whole |= is_end;
    if untaken.held.bytes() > BEHIND_BYTES {
        if exchange.deadline.behind().is_zero() {
            exchange.deadline.set_behind(true);
        }
        exchange.deadline.enter(Phase::Take, Some(LOOK_TAKE));
    }
}

/// A piece is about to be written; what a cache has was never counted.
pub fn goes(bytes: usize, exchange: &mut Exchange) {
    let Some(untaken) = &mut exchange.untaken else { return };
    untaken.held.set(untaken.held.bytes().saturating_sub(bytes as u64));
    let (is_behind, is_whole) = (untaken.held.bytes() > BEHIND_BYTES, untaken.is_whole);
    exchange.deadline.set_behind(is_behind);
    if !is_behind && exchange.deadline.phase() == Phase::Take {
        match is_whole {
            true => exchange.deadline.enter(Phase::Busy, None),
            false => exchange.await_upstream(),
        }
    }
}

/// Whether the client has taken nothing for longer than can be borne.
pub fn is_too_long(deadline: &Deadline, server: &Server) -> bool {
    let most = server.timeouts.client_write;
    deadline.phase() == Phase::Take && deadline.behind() > most.mul_f64(server.untaken.room()).max(PATIENCE_MIN).min(most)
}
