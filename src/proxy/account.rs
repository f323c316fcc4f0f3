//! The end of a request: it is counted and written down.

use super::connection::Connection;
use super::exchange::{Exchange, authority, target};
use super::{caching_told, limits};
use crate::observe::{Record, mask};
use crate::shape::forward::unmap;
use crate::snapshot::Snapshot;
use crate::types::Refusal;
use http::header::{REFERER, USER_AGENT};
use http::{HeaderValue, Method, Version};
use pingora::prelude::*;
use std::borrow::Cow;
use std::time::{Duration, SystemTime};

/// What never became a request: there is a peer and a reason, and nothing else that could be believed.
pub fn unread(snapshot: &Snapshot, connection: &Connection, refusal: &Refusal) {
    log::info!("{}: {}: {}", connection.peer, refusal.code(), refusal.detail());
    snapshot.no_route.refused(refusal);
    // Counted as OTHER.
    let unknown = Method::from_bytes(b"-").unwrap_or_default();
    snapshot.no_route.answered(&unknown, refusal.status(), Duration::ZERO, Duration::ZERO);
    let Some(log) = &snapshot.access_log else { return };
    log.write(&Record {
        client_ip: unmap(connection.peer.ip()),
        status: refusal.status(),
        code: refusal.code(),
        protocol: "HTTP/1",
        ..Record::nothing(SystemTime::now())
    });
}

pub fn finish(session: &mut Session, exchange: &mut Exchange) {
    if exchange.is_flood || exchange.is_background() {
        return;
    }
    let total = exchange.started.elapsed();
    let head = session.req_header();
    let status = match (&exchange.tunnel, session.response_written()) {
        (Some(_), _) => 101,
        (None, Some(head)) if !head.status.is_informational() => head.status.as_u16(),
        _ => 0,
    };
    let upstream = exchange.attempt.upstream.min(total);
    let gateway = total - upstream;
    exchange.metrics().answered(&head.method, status, total, gateway);
    let cache = caching_told::outcome(session, exchange);
    if let Some(route) = exchange.route().and_then(|route| route.cache.as_ref()) {
        route.metrics.count(cache);
    }
    let Some(log) = &exchange.snapshot.access_log else { return };
    let field = |name| head.headers.get(name).map_or(Cow::Borrowed(""), text);
    let target = target(&head.uri);
    let (bytes_in, bytes_out) = match &exchange.tunnel {
        Some(carried) => (carried.bytes_in, carried.bytes_out),
        None => (session.body_bytes_read() as u64, session.body_bytes_sent() as u64),
    };
    let peer = exchange.connection().and_then(|connection| connection.peer_text().to_str().ok());
    log.write(&Record {
        time: SystemTime::now(),
        request_id: exchange.id(),
        trace_id: exchange.trace.trace_id(),
        client_ip: exchange.origin.client_ip,
        client_ip_text: peer.filter(|_| exchange.origin.client_ip == exchange.origin.peer_ip),
        method: head.method.as_str(),
        host: authority(head),
        path: mask(target, log.redact()),
        route: exchange.route().map_or("", |route| &route.name),
        service: exchange.service().map_or("", |(entry, _)| &entry.service.name),
        endpoint: exchange.endpoint_label(),
        status,
        code: exchange.refusal.as_ref().map_or("", |refusal| refusal.code()),
        identity: exchange.identity_name(),
        auth: exchange.auth.as_ref().map_or("", |method| &method.name),
        limit: limits::logged(exchange),
        cache,
        attempts: exchange.attempt.count,
        bytes_in,
        bytes_out,
        duration: total,
        upstream,
        gateway,
        protocol: protocol(head.version),
        tls: exchange.tls,
        user_agent: field(USER_AGENT),
        referer: field(REFERER),
    });
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// A value as a text; what is not one is shown as far as it goes.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    value.to_str().map_or_else(|_| String::from_utf8_lossy(value.as_bytes()), Cow::Borrowed)
}
