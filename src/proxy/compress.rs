//! Answers are compressed where the route and the client want it. Pingora's own filter knows no qualities.

use super::exchange::Exchange;
use super::forward;
use crate::shape::compress::Coding;
use crate::shape::encode::Encoder;
use bytes::Bytes;
use http::HeaderValue;
use http::header::TRANSFER_ENCODING;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::*;

/// Decides for an answer whose body follows in pieces, and changes its head.
///
/// # Errors
/// None in practice: a field that can't be set.
pub fn begin(head: &mut ResponseHeader, request: &RequestHeader, exchange: &mut Exchange) -> Result<()> {
    let Some(coding) = decide(head, request, exchange)? else { return Ok(()) };
    head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    if request.method != http::Method::HEAD {
        exchange.encoder = Some(Encoder::new(coding).or_err(ErrorType::InternalError, "no encoder")?);
    }
    Ok(())
}

/// The next piece.
///
/// # Errors
/// It can't be coded, and the answer has to be broken off.
pub fn go_on(body: &mut Option<Bytes>, is_end: bool, exchange: &mut Exchange) -> Result<()> {
    let Some(encoder) = &mut exchange.encoder else { return Ok(()) };
    let coded =
        encoder.encode(body.as_deref().unwrap_or_default(), is_end).or_err(ErrorType::InternalError, "a body that can't be coded")?;
    *body = (!coded.is_empty()).then_some(coded);
    Ok(())
}

/// An answer that is there as a whole.
///
/// # Errors
/// It can't be coded.
pub fn whole(head: &mut ResponseHeader, request: &RequestHeader, exchange: &Exchange, body: Bytes) -> Result<Bytes> {
    if body.is_empty() {
        return Ok(body);
    }
    // Its length is not in the head yet.
    head.insert_header(http::header::CONTENT_LENGTH, body.len())?;
    match decide(head, request, exchange)? {
        Some(coding) => {
            let coded = Encoder::new(coding).and_then(|mut encoder| encoder.encode(&body, true));
            coded.or_err(ErrorType::InternalError, "a body that can't be coded")
        }
        None => Ok(body),
    }
}

fn decide(head: &mut ResponseHeader, request: &RequestHeader, exchange: &Exchange) -> Result<Option<Coding>> {
    let route = exchange.route().and_then(|route| route.compress.as_ref()).filter(|_| !exchange.is_long_lived);
    let Some(compress) = route else { return Ok(None) };
    forward::edit(head, |status, headers| compress.head(&request.headers, status, headers))
}
