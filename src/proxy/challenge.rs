//! What an authority asks for, to see that a domain leads here (RFC 8555, 8.3). It goes before every route: whatever the
//! configuration says of the domain, such as a redirect to https, its certificate depends on it.

use super::exchange::Exchange;
use super::respond;
use crate::tls::acme;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use pingora::http::ResponseHeader;
use pingora::prelude::*;

pub fn is_one(session: &Session, exchange: &Exchange) -> bool {
    let head = session.req_header();
    !exchange.snapshot.acme.is_empty() && head.method == Method::GET && acme::token(head.uri.path()).is_some()
}

/// Answers with what the gateway that orders has put into the store, whichever that is; `false` when there is no such thing. Then
/// somebody behind us may know.
pub async fn answer(session: &mut Session, exchange: &Exchange) -> Result<bool> {
    let Some(token) = acme::token(session.req_header().uri.path()).map(str::to_string) else { return Ok(false) };
    let snapshot = exchange.snapshot.clone();
    // The folder may be another machine's.
    let found = tokio::task::spawn_blocking(move || snapshot.acme.iter().find_map(|acme| acme.store.answer(&token))).await;
    match found {
        Ok(Some(answer)) => {
            let mut head = ResponseHeader::build(StatusCode::OK, Some(4))?;
            head.insert_header(CONTENT_TYPE, "application/octet-stream")?;
            respond::send(session, exchange, head, answer.into()).await.map(|()| true)
        }
        _ => Ok(false),
    }
}
