//! Bodies that are held until they are whole, in bytes that are counted.

use super::deadline::Phase;
use super::exchange::Exchange;
use super::pace::Pace;
use crate::limit::Held;
use crate::shape::decode::{Broken, Coded};
use crate::types::Refusal;
use bytes::{Bytes, BytesMut};
use http::header::EXPECT;
use pingora::prelude::*;
use std::sync::Arc;

/// A body as far as it has come.
pub struct Collected {
    bytes: BytesMut,
    held: Held,
    /// It may be no larger, in its coding or out of it.
    max: u64,
    /// It comes in this coding.
    coded: Option<Coded>,
}

impl Collected {
    pub fn new(exchange: &Exchange, max: u64, coded: Option<Coded>) -> Collected {
        Collected { bytes: BytesMut::new(), held: exchange.snapshot.server.hold(), max, coded }
    }

    /// The same with another bound beside its own.
    pub fn at_most(self, max: Option<u64>) -> Collected {
        Collected { max: self.max.min(max.unwrap_or(u64::MAX)), ..self }
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// It is too large, or all bodies together are.
    pub fn add(&mut self, data: &[u8]) -> Result<(), Refusal> {
        if self.bytes.len() as u64 + data.len() as u64 > self.max {
            return Err(Refusal::BodyTooLarge);
        }
        self.held.grow(data.len()).map_err(|_| Refusal::Overloaded)?;
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// It comes again from its first byte.
    pub fn clear(&mut self, exchange: &Exchange) {
        self.bytes.clear();
        self.held = exchange.snapshot.server.hold();
    }

    /// The whole body, out of its coding. It stays counted for as long as this lives.
    ///
    /// # Errors
    /// It is not in its coding, or too large out of it.
    pub fn whole(&mut self) -> Result<Bytes, Refusal> {
        let body = std::mem::take(&mut self.bytes).freeze();
        let Some(coded) = self.coded else { return Ok(body) };
        let decoded = coded.decode(&body, self.max).map_err(|broken| match broken {
            Broken::TooLarge => Refusal::BodyTooLarge,
            Broken::Malformed => Refusal::BodyInvalid(Arc::default()),
        })?;
        self.held.grow(decoded.len()).map_err(|_| Refusal::Overloaded)?;
        Ok(decoded.into())
    }
}

/// Reads the request's body to its end.
///
/// # Errors
/// The outer one is of the client's connection.
pub async fn read(session: &mut Session, exchange: &Exchange, collected: &mut Collected) -> Result<Result<(), Refusal>> {
    ask(session, exchange).await?;
    let timeout = exchange.snapshot.server.timeouts.request_body.0;
    let rate_min = exchange.route().filter(|_| exchange.is_h2).map_or(0, |route| route.body_rate_min);
    let mut pace = Pace::default();
    loop {
        pace.wait();
        // Over HTTP/1 Pingora's own read timeout sees to it.
        exchange.deadline.enter(Phase::Body, exchange.is_h2.then_some(timeout));
        let Some(data) = session.downstream_session.read_request_body().await? else { break };
        if let Err(refusal) = collected.add(&data) {
            return Ok(Err(refusal));
        }
        if pace.go_on(data.len()) < rate_min {
            return Ok(Err(Refusal::RequestTimeout));
        }
    }
    exchange.deadline.enter(Phase::Busy, None);
    Ok(Ok(()))
}

/// Tells a client that waits for it that its body is wanted (RFC 9110, 10.1.1).
///
/// # Errors
/// It is gone.
async fn ask(session: &mut Session, exchange: &Exchange) -> Result<()> {
    if exchange.is_h2 || session.get_header(EXPECT).is_none() || session.is_body_done() {
        return Ok(());
    }
    // Pingora would take the interim answer for one that ends the connection.
    session.set_close_on_response_before_downstream_finish(false);
    session.downstream_session.write_continue_response().await?;
    session.set_close_on_response_before_downstream_finish(true);
    Ok(())
}
