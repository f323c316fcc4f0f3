//! JSON bodies that a route changes on their way: they are held until they are whole.
//!
//! A request's body whose length is announced, and small enough for Pingora to keep it for another attempt, is read ahead, so that
//! the service gets its new length; any other goes on in chunks. An answer's head is gone before its body is here: what is known to
//! be too large by its head is answered 502, and what turns out to be no JSON breaks off, so that no client takes it for whole.

use super::exchange::{Exchange, Seen};
use super::{forward, refuse};
use crate::limit::Held;
use crate::shape::body::is_json_type;
use crate::shape::validator::{DIGESTS, other_bytes};
use crate::snapshot::{BodyRule, Route};
use crate::types::{Refusal, content_length};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, IF_RANGE, RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;

/// What Pingora keeps of a body for another attempt.
const KEPT_BYTES_MAX: u64 = 64 << 10;
/// A body as far as it has come.
pub struct Collected {
    bytes: BytesMut,
    held: Held,
    max: u64,
    /// It was read ahead, and is changed already.
    ready: Option<Bytes>,
}

impl Collected {
    fn new(exchange: &Exchange, max: u64) -> Box<Collected> {
        Box::new(Collected { bytes: BytesMut::new(), held: exchange.snapshot.server.hold(), max, ready: None })
    }

    fn add(&mut self, data: &[u8]) -> Result<(), Refusal> {
        if self.bytes.len() as u64 + data.len() as u64 > self.max {
            return Err(Refusal::BodyTooLarge);
        }
        self.held.grow(data.len()).map_err(|_| Refusal::Overloaded)?;
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

fn changes(exchange: &Exchange, rule: impl Fn(&Route) -> Option<&BodyRule>, body: &[u8], head: &RequestHeader) -> Option<Bytes> {
    let rule = exchange.route().and_then(rule)?;
    rule.edits.apply(body, &Seen { exchange, head }).ok().map(Bytes::from)
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| is_json_type(kind.as_bytes()))
}

fn is_coded(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Sees whether the request's body is to be changed, and reads it ahead where that can be.
///
/// # Errors
/// The outer one is of the client's connection.
pub async fn begin(session: &mut Session, exchange: &mut Exchange) -> Result<Result<(), Refusal>> {
    let Some(rule) = exchange.route().and_then(|route| route.request_body.as_ref()) else { return Ok(Ok(())) };
    if !is_json(&session.req_header().headers) || session.is_body_empty() {
        return Ok(Ok(()));
    }
    if is_coded(&session.req_header().headers) {
        return Ok(Err(Refusal::BodyInvalid));
    }
    let mut collected = Collected::new(exchange, rule.body_bytes_max);
    let announced = content_length(&session.req_header().headers);
    if announced.is_some_and(|length| length > collected.max) {
        return Ok(Err(Refusal::BodyTooLarge));
    }
    if announced.is_some_and(|length| length <= KEPT_BYTES_MAX) {
        ask(session, exchange).await?;
        session.as_mut().enable_retry_buffering();
        while let Some(data) = session.downstream_session.read_request_body().await? {
            if let Err(refusal) = collected.add(&data) {
                return Ok(Err(refusal));
            }
        }
        collected.ready = changes(exchange, |route| route.request_body.as_ref(), &collected.bytes, session.req_header());
        if collected.ready.is_none() {
            return Ok(Err(Refusal::BodyInvalid));
        }
    }
    exchange.body_in = Some(collected);
    Ok(Ok(()))
}

/// Tells a client that waits for it that its body is wanted (RFC 9110, 10.1.1).
///
/// # Errors
/// It is gone.
pub async fn ask(session: &mut Session, exchange: &Exchange) -> Result<()> {
    if exchange.is_h2 || session.get_header(EXPECT).is_none() || session.is_body_done() {
        return Ok(());
    }
    // Pingora would take the interim answer for one that ends the connection.
    session.set_close_on_response_before_downstream_finish(false);
    session.downstream_session.write_continue_response().await?;
    session.set_close_on_response_before_downstream_finish(true);
    Ok(())
}

/// Another attempt begins: what it sends comes again from the first byte.
pub fn again(exchange: &mut Exchange) {
    if let Some(collected) = exchange.body_in.as_mut().filter(|collected| collected.ready.is_none()) {
        collected.bytes.clear();
        collected.held = exchange.snapshot.server.hold();
    }
}

/// The head of the request as its service gets it.
///
/// # Errors
/// None in practice.
pub fn depart(head: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    let Some(route) = exchange.route() else { return Ok(()) };
    if let Some(collected) = &exchange.body_in {
        DIGESTS.iter().for_each(|name| drop(head.remove_header(name)));
        match &collected.ready {
            Some(body) => {
                head.remove_header(&EXPECT);
                head.insert_header(CONTENT_LENGTH, body.len())?;
                head.remove_header(&TRANSFER_ENCODING);
            }
            None => {
                head.remove_header(&CONTENT_LENGTH);
                if exchange.service().is_some_and(|(entry, _)| !entry.service.is_h2) {
                    head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
                }
            }
        }
    }
    if route.response_body.is_some() {
        // A whole answer that can be read is wanted.
        [ACCEPT_ENCODING, RANGE, IF_RANGE].iter().for_each(|name| drop(head.remove_header(name)));
    }
    Ok(())
}

/// More of the request's body: it goes on when it is whole.
///
/// # Errors
/// The request is refused.
pub fn request(body: &mut Option<Bytes>, end: bool, head: &RequestHeader, exchange: &mut Exchange) -> Result<()> {
    let Some(collected) = &mut exchange.body_in else { return Ok(()) };
    if let Some(ready) = &collected.ready {
        *body = end.then(|| ready.clone());
        return Ok(());
    }
    if let Some(data) = body.take()
        && let Err(refusal) = collected.add(&data)
    {
        return refuse(exchange, refusal);
    }
    if !end {
        // Nothing yet, which is not the end.
        *body = Some(Bytes::new());
        return Ok(());
    }
    let whole = std::mem::take(&mut collected.bytes);
    *body = changes(exchange, |route| route.request_body.as_ref(), &whole, head);
    match body {
        Some(_) => Ok(()),
        None => refuse(exchange, Refusal::BodyInvalid),
    }
}

/// The head of an answer whose body is to be changed.
///
/// # Errors
/// It can't be.
pub fn answer(head: &mut ResponseHeader, request: &RequestHeader, exchange: &mut Exchange) -> Result<()> {
    let Some(rule) = exchange.route().and_then(|route| route.response_body.as_ref()) else { return Ok(()) };
    let is_unchanged = head.status == StatusCode::NOT_MODIFIED;
    if !is_unchanged && (!head.status.is_success() || !is_json(&head.headers) || matches!(head.status.as_u16(), 204 | 205)) {
        return Ok(());
    }
    forward::edit(head, |_, headers| other_bytes(headers))?;
    let length = head.remove_header(&CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if is_unchanged || request.method == Method::HEAD {
        return Ok(());
    }
    if head.status == StatusCode::PARTIAL_CONTENT || is_coded(&head.headers) || length.is_some_and(|length| length > rule.body_bytes_max) {
        return refuse(exchange, Refusal::UpstreamProtocol);
    }
    let collected = Collected::new(exchange, rule.body_bytes_max);
    exchange.body_out = Some(collected);
    match request.version {
        Version::HTTP_2 => Ok(()),
        _ => head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
    }
}

/// More of an answer's body: it goes on when it is whole.
///
/// # Errors
/// It breaks off.
pub fn answer_body(body: &mut Option<Bytes>, end: bool, head: &RequestHeader, exchange: &mut Exchange) -> Result<()> {
    let Some(collected) = &mut exchange.body_out else { return Ok(()) };
    if let Some(data) = body.take()
        && let Err(refusal) = collected.add(&data)
    {
        return broken(exchange, if refusal == Refusal::BodyTooLarge { Refusal::UpstreamProtocol } else { refusal });
    }
    if !end {
        return Ok(());
    }
    let whole = std::mem::take(&mut collected.bytes);
    exchange.body_out = None;
    if whole.is_empty() {
        return Ok(());
    }
    *body = changes(exchange, |route| route.response_body.as_ref(), &whole, head);
    match body {
        Some(_) => Ok(()),
        None => broken(exchange, Refusal::UpstreamProtocol),
    }
}

fn broken(exchange: &mut Exchange, refusal: Refusal) -> Result<()> {
    log::warn!("{}: an answer at {} can't be changed: it breaks off", exchange.id(), exchange.endpoint_label());
    exchange.refusal = Some(refusal);
    exchange.body_out = None;
    Err(Error::explain(ErrorType::InternalError, "an answer that can't be changed"))
}
