//! JSON bodies of answers that a route changes on their way: they are held until they are whole, and so are their heads. So what
//! can't be changed is answered 502, and what can has its length.
//!
//! Pingora writes a head before it reads the body. It is given an interim one instead, which it leaves out, and no body; the answer is
//! written when it is done. What comes from memory is an exception: its head goes at once, for its body has been here before.

use super::collect::Collected;
use super::deadline::Phase;
use super::exchange::{Exchange, Seen};
use super::shaping::{coded, is_json};
use super::{account, caching, forward, refuse, respond};
use crate::shape::json::is_json as is_json_text;
use crate::shape::validator::other_bytes;
use crate::snapshot::BodyRule;
use crate::types::{Refusal, content_length};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method, StatusCode, Version};
use pingora::cache::CachePhase;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;
use std::sync::Arc;

/// An answer as far as it has come.
pub struct Outbound {
    collected: Collected,
    /// What waits for the body.
    head: Option<Box<ResponseHeader>>,
    /// What the body has become.
    made: Option<Bytes>,
}

/// The head of an answer whose body is to be changed.
///
/// # Errors
/// It can't be.
pub fn begin(session: &mut Session, head: &mut ResponseHeader, exchange: &mut Exchange) -> Result<()> {
    let Some(rule) = exchange.route().and_then(|route| route.response_body.as_ref()) else { return Ok(()) };
    let is_unchanged = head.status == StatusCode::NOT_MODIFIED;
    if exchange.is_background() || (!is_unchanged && !has_body(head)) {
        return Ok(());
    }
    if !can_be_changed(rule, head) {
        return refuse(exchange, Refusal::UpstreamProtocol);
    }
    if !rule.reads() || (!is_unchanged && !is_json(&head.headers)) {
        return Ok(());
    }
    let (max, coding) = (rule.body_bytes_max, coded(&head.headers));
    forward::edit(head, |_, headers| {
        other_bytes(headers);
        [CONTENT_LENGTH, CONTENT_ENCODING].iter().for_each(|name| drop(headers.remove(name)));
    })?;
    let request = session.req_header();
    if is_unchanged || request.method == Method::HEAD {
        return Ok(());
    }
    let Some(coding) = coding else { return refuse(exchange, Refusal::UpstreamProtocol) };
    let mut outbound = Outbound { collected: Collected::new(exchange, max, coding), head: None, made: None };
    if is_from_memory(session) {
        if request.version != Version::HTTP_2 {
            head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
        }
    } else {
        session.as_mut().set_ignore_info_resp(true);
        let mut real = std::mem::replace(head, ResponseHeader::build(StatusCode::EARLY_HINTS, None)?);
        real.remove_header(&TRANSFER_ENCODING);
        // What Pingora does to the one that it gets.
        real.set_version(Version::HTTP_11);
        outbound.head = Some(Box::new(real));
    }
    exchange.body_out = Some(Box::new(outbound));
    Ok(())
}

fn has_body(head: &ResponseHeader) -> bool {
    head.status.is_success() && !matches!(head.status.as_u16(), 204 | 205)
}

/// Whether an answer can be what a route makes of it, as far as its head tells.
pub fn can_be_changed(rule: &BodyRule, head: &ResponseHeader) -> bool {
    let length = content_length(&head.headers);
    let is_whole = || head.status != StatusCode::PARTIAL_CONTENT && length.is_none_or(|length| length <= rule.body_bytes_max);
    match is_json(&head.headers) {
        _ if !has_body(head) => true,
        true => !rule.reads() || (is_whole() && coded(&head.headers).is_some()),
        false => !rule.refuses_others || length == Some(0),
    }
}

fn is_from_memory(session: &Session) -> bool {
    matches!(session.cache.phase(), CachePhase::Hit | CachePhase::Stale | CachePhase::StaleUpdating)
}

/// More of an answer's body: it goes on when it is whole.
///
/// # Errors
/// It is answered otherwise; what has begun breaks off, so that no client takes it for whole.
pub fn go_on(body: &mut Option<Bytes>, end: bool, head: &RequestHeader, exchange: &mut Exchange) -> Result<()> {
    if exchange.body_out.as_ref().is_none_or(|outbound| outbound.made.is_some()) {
        return Ok(());
    }
    let Some(mut outbound) = exchange.body_out.take() else { return Ok(()) };
    let added = body.take().map_or(Ok(()), |data| outbound.collected.add(&data));
    let made = match end {
        false => added.map(|()| None),
        true => added.and_then(|()| made(&mut outbound, head, exchange)).map(Some),
    };
    match made {
        Ok(None) => {}
        Ok(made) if outbound.head.is_some() => outbound.made = made,
        Ok(made) => {
            *body = made.filter(|made| !made.is_empty());
            return Ok(());
        }
        Err(refusal) => {
            log::warn!("{}: an answer at {} can't be changed", exchange.id(), exchange.endpoint_label());
            if matches!(refusal, Refusal::BodyInvalid(_) | Refusal::BodyTooLarge) {
                caching::forget_page(exchange);
            }
            return refuse(exchange, if refusal == Refusal::Overloaded { refusal } else { Refusal::UpstreamProtocol });
        }
    }
    exchange.body_out = Some(outbound);
    Ok(())
}

fn made(outbound: &mut Outbound, head: &RequestHeader, exchange: &Exchange) -> Result<Bytes, Refusal> {
    let whole = outbound.collected.whole()?;
    match exchange.route().and_then(|route| route.response_body.as_ref()) {
        Some(rule) if !whole.is_empty() => rule.apply(whole.clone(), &Seen { exchange, head }).map_err(|_| match is_json_text(&whole) {
            // It is the client's part in it that leaves no room.
            true => Refusal::UpstreamProtocol,
            false => Refusal::BodyInvalid(Arc::default()),
        }),
        _ => Ok(whole),
    }
}

/// The body ended with trailers. Whether its head still waits: the trailers have nowhere to go then.
///
/// # Errors
/// As for a piece of it.
pub fn end(body: &mut Option<Bytes>, head: &RequestHeader, exchange: &mut Exchange) -> Result<bool> {
    go_on(body, true, head, exchange).map(|()| exchange.body_out.as_ref().is_some_and(|outbound| outbound.head.is_some()))
}

/// Writes an answer that waited for its body, if there is one. `is_broken` says that Pingora gave up: whoever was to be told is told
/// by now.
pub async fn finish(session: &mut Session, exchange: &mut Exchange, is_broken: bool) {
    if exchange.body_out.is_some() {
        // Boxed, or every request would move the room that it needs.
        Box::pin(send(session, exchange, is_broken)).await;
    }
}

async fn send(session: &mut Session, exchange: &mut Exchange, is_broken: bool) {
    let Some(Outbound { head: Some(head), made, collected }) = exchange.body_out.take().map(|outbound| *outbound) else { return };
    if is_broken || respond::has_begun(session) {
        return;
    }
    exchange.deadline.enter(Phase::Busy, None);
    let sent = match &exchange.refusal {
        Some(refusal) => respond::refusal(session, exchange, refusal).await,
        None => {
            account::begins(exchange, head.status);
            respond::deliver(session, exchange, *head, made.unwrap_or_default()).await
        }
    };
    drop(collected);
    if let Err(e) = sent {
        log::debug!("{}: {e}", exchange.id());
        session.set_keepalive(None);
    }
}
