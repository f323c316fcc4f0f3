//! A request departs: its head as the service gets it.

use super::exchange::{Exchange, Seen};
use super::{forward, grpc, shaping};
use http::HeaderValue;
use http::header::{CONNECTION, EXPECT};
use pingora::http::RequestHeader;
use pingora::prelude::*;

/// `head` is what goes to the service, so far the client's own.
///
/// # Errors
/// A rewrite that can't be made, a host that the service can't be told, or a client that is gone.
pub async fn depart(session: &mut Session, head: &mut RequestHeader, exchange: &Exchange) -> Result<()> {
    let request = session.req_header();
    let service = exchange.service().map(|(entry, _)| &entry.service);
    forward::to_upstream(head, request, exchange, service.and_then(|service| service.host.as_ref()))?;
    if let Some(route) = exchange.route() {
        forward::apply_to_request(head, &route.request_headers, &Seen { exchange, head: request })?;
    }
    shaping::depart(head, exchange)?;
    if exchange.grpc_due > 0 {
        head.insert_header(grpc::GRPC_TIMEOUT, grpc::left(exchange.grpc_due))?;
    }
    if service.is_some_and(|service| service.is_h2) {
        // Pingora would say that it is the gateway's fault.
        forward::authority_of(head)?;
    }
    let waits = head.headers.contains_key(EXPECT) && service.is_some_and(|service| service.is_h2);
    if waits {
        // Pingora drops interim answers of HTTP/2 services: a client that waits for one gets it from us.
        head.remove_header(&EXPECT);
    }
    if service.is_some_and(|service| service.closes_behind(&head.method)) {
        head.insert_header(CONNECTION, HeaderValue::from_static("close"))?;
    }
    match waits && !exchange.is_h2 && !exchange.body.is_done {
        true => session.downstream_session.write_continue_response().await,
        false => Ok(()),
    }
}
