//! JSON bodies of requests that a route looks at and changes on their way: they are held until they are whole.
//!
//! One whose length is announced, and small enough for Pingora to keep it for another attempt, is read ahead, so that the service is
//! not asked in vain and gets its new length; any other goes on in chunks.

use super::collect::{self, Collected};
use super::exchange::{Exchange, Seen};
use super::refuse;
use crate::shape::body::is_json_type;
use crate::shape::decode::Coded;
use crate::shape::validator::DIGESTS;
use crate::snapshot::BodyRule;
use crate::types::{Flaw, Refusal, content_length};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, IF_RANGE, RANGE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method};
use pingora::http::RequestHeader;
use pingora::prelude::*;
use std::sync::Arc;

/// What Pingora keeps of a body for another attempt.
const KEPT_BYTES_MAX: u64 = 64 << 10;

/// A request's body as far as it has come.
pub struct Inbound {
    collected: Collected,
    /// It was read ahead, and is changed already.
    ready: Option<Bytes>,
}

pub fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| is_json_type(kind.as_bytes()))
}

/// How a body is coded; the outer `None` is for a coding that is not understood.
pub fn coded(headers: &HeaderMap) -> Option<Option<Coded>> {
    let mut fields = headers.get_all(CONTENT_ENCODING).iter();
    match (fields.next(), fields.next()) {
        (first, None) => Coded::of(first.map(HeaderValue::as_bytes)),
        (_, Some(_)) => None,
    }
}

fn invalid(said: &str) -> Refusal {
    Refusal::BodyInvalid(Arc::from([Flaw { detail: said.to_string(), pointer: "#".to_string() }]))
}

/// What holds the request's body until it is whole, where the route looks at it.
///
/// # Errors
/// A body of this kind is refused.
pub fn collected(session: &mut Session, exchange: &Exchange, rule: &BodyRule) -> Result<Option<Collected>, Refusal> {
    let head = session.req_header();
    let carries = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    let is_json = is_json(&head.headers);
    if session.is_body_empty() {
        return if rule.wants_one() && carries { Err(invalid("a JSON body is wanted")) } else { Ok(None) };
    }
    if !is_json && rule.refuses_others {
        return Err(invalid("it is wanted as application/json"));
    }
    if !is_json || !rule.reads() {
        return Ok(None);
    }
    let coded = coded(&session.req_header().headers).ok_or_else(|| invalid("its Content-Encoding is not understood"))?;
    match content_length(&session.req_header().headers) {
        Some(length) if length > rule.body_bytes_max => Err(Refusal::BodyTooLarge),
        _ => Ok(Some(Collected::new(exchange, rule.body_bytes_max, coded))),
    }
}

/// What becomes of the request's body, which is there as a whole.
///
/// # Errors
/// It is not as it has to be.
pub fn made(collected: &mut Collected, rule: &BodyRule, exchange: &Exchange, head: &RequestHeader) -> Result<Bytes, Refusal> {
    let body = collected.whole()?;
    rule.apply(body, &Seen { exchange, head }).map_err(Refusal::BodyInvalid)
}

/// Sees whether the request's body is to be looked at, and reads it ahead where that can be.
///
/// # Errors
/// The outer one is of the client's connection.
pub async fn begin(session: &mut Session, exchange: &mut Exchange) -> Result<Result<(), Refusal>> {
    let snapshot = exchange.snapshot.clone();
    let rule = exchange.route.and_then(|id| snapshot.routes.get(id.0 as usize)).and_then(|route| route.request_body.as_ref());
    let Some(rule) = rule.filter(|rule| !exchange.is_long_lived || rule.refuses_others) else { return Ok(Ok(())) };
    let mut collected = match collected(session, exchange, rule) {
        Ok(Some(collected)) => collected,
        Ok(None) => return Ok(Ok(())),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut ready = None;
    if content_length(&session.req_header().headers).is_some_and(|length| length <= KEPT_BYTES_MAX) {
        session.as_mut().enable_retry_buffering();
        if let Err(refusal) = collect::read(session, exchange, &mut collected).await? {
            return Ok(Err(refusal));
        }
        match made(&mut collected, rule, exchange, session.req_header()) {
            Ok(body) => ready = Some(body),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    exchange.body_in = Some(Box::new(Inbound { collected, ready }));
    Ok(Ok(()))
}

/// Another attempt begins: what it sends comes again from the first byte, and what it answers likewise.
pub fn again(exchange: &mut Exchange) {
    exchange.body_out = None;
    if let Some(mut inbound) = exchange.body_in.take() {
        if inbound.ready.is_none() {
            inbound.collected.clear(exchange);
        }
        exchange.body_in = Some(inbound);
    }
}

/// The head of the request as its service gets it.
///
/// # Errors
/// None in practice.
pub fn depart(head: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    let Some(route) = exchange.route() else { return Ok(()) };
    if let Some(inbound) = &exchange.body_in {
        DIGESTS.iter().chain([&CONTENT_ENCODING]).for_each(|name| drop(head.remove_header(name)));
        match &inbound.ready {
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
    if route.response_body.as_ref().is_some_and(BodyRule::reads) {
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
    let Some(mut inbound) = exchange.body_in.take() else { return Ok(()) };
    let gone_on = go_on(&mut inbound, body, end, head, exchange);
    exchange.body_in = Some(inbound);
    gone_on.or_else(|refusal| refuse(exchange, refusal))
}

fn go_on(inbound: &mut Inbound, body: &mut Option<Bytes>, end: bool, head: &RequestHeader, exchange: &Exchange) -> Result<(), Refusal> {
    if let Some(ready) = &inbound.ready {
        *body = end.then(|| ready.clone());
        return Ok(());
    }
    if let Some(data) = body.take() {
        inbound.collected.add(&data)?;
    }
    // Nothing yet is not the end.
    *body = Some(Bytes::new());
    if end && let Some(rule) = exchange.route().and_then(|route| route.request_body.as_ref()) {
        *body = Some(made(&mut inbound.collected, rule, exchange, head)?);
    }
    Ok(())
}
