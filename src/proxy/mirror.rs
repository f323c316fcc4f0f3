//! Copies of requests for another service. Nobody reads its answers, and no client waits for it.

use super::exchange::{Exchange, authority, target};
use crate::limit::Cap;
use crate::shape::headers::HOP_BY_HOP;
use crate::snapshot::Mirror;
use crate::upstream::retry::Failure;
use crate::upstream::{Asked, Request};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT, HOST};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use std::sync::Arc;

/// A request with a larger body is not copied.
const BODY_MAX: usize = 64 << 10;
/// What is read of an answer, so that the service sees it taken.
const ANSWER_MAX: usize = 1 << 20;

/// A request as it went to the service.
#[derive(Debug)]
pub struct Copied {
    head: RequestHeader,
    /// The client's own.
    host: String,
    body: BytesMut,
    is_too_large: bool,
}

/// Notes the head of an attempt, if this request is one to be copied. A later attempt begins anew.
pub fn begin(client: &RequestHeader, sent: &RequestHeader, exchange: &mut Exchange) {
    let Some(mirror) = exchange.route().and_then(|route| route.mirror.as_ref()) else { return };
    let is_first = exchange.attempt.count == 1;
    let is_chosen = if is_first { fastrand::u64(..100) < mirror.percent } else { exchange.copied.is_some() };
    let is_copied = is_chosen && !exchange.is_long_lived;
    let copied = || Copied { head: sent.clone(), host: authority(client).to_string(), body: BytesMut::new(), is_too_large: false };
    exchange.copied = is_copied.then(|| Box::new(copied()));
}

/// Notes a piece of the body.
pub fn take(exchange: &mut Exchange, piece: Option<&Bytes>) {
    if let (Some(copied), Some(piece)) = (&mut exchange.copied, piece) {
        copied.is_too_large |= copied.body.len() + piece.len() > BODY_MAX;
        if !copied.is_too_large {
            copied.body.extend_from_slice(piece);
        }
    }
}

/// Sends the copy, once the request is over, on a task of its own.
pub fn send(exchange: &mut Exchange, connector: &Arc<Connector>) {
    let Some(copied) = exchange.copied.take() else { return };
    let Some(mirror) = exchange.route().and_then(|route| route.mirror.clone()) else { return };
    let place = mirror.places.clone().try_acquire_owned().ok().filter(|_| exchange.body.is_done && !copied.is_too_large);
    // Copies take places at their service as requests do, but don't queue for them.
    let pass = mirror.entry.cap.as_ref().map(Cap::enter);
    let (Some(place), None | Some(Some(_))) = (place, &pass) else { return mirror.dropped.inc() };
    let connector = connector.clone();
    tokio::spawn(async move {
        let _held = (place, pass);
        let request = request(*copied, &mirror);
        let line = mirror.entry.line(&mirror.timeouts);
        match line.service.ask(&connector, &mirror.timeouts, request, ANSWER_MAX).await {
            None => mirror.dropped.inc(),
            Some(Asked { answer: Ok(answer), picked, took }) => {
                line.answered(picked.endpoint(), Failure::of_status(answer.head.status.as_u16()), took);
                mirror.sent.inc();
            }
            Some(Asked { answer: Err(failure), picked, .. }) => {
                line.failed(picked.endpoint(), failure, true);
                mirror.failed.inc();
            }
        }
    });
}

fn request(copied: Copied, mirror: &Mirror) -> Request {
    let mut headers = copied.head.headers.clone();
    for name in HOP_BY_HOP.iter().chain(&[HOST, CONTENT_LENGTH, EXPECT]) {
        headers.remove(name);
    }
    let host = mirror.entry.service.host.as_ref().and_then(|host| host.to_str().ok()).map_or(copied.host, str::to_string);
    Request { method: copied.head.method.clone(), target: target(&copied.head.uri).to_string(), host, headers, body: copied.body.freeze() }
}
