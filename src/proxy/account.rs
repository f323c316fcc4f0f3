//! The end of a request: it is counted and written down.

use super::caching::told;
use super::connection::Connection;
use super::deadline::Phase;
use super::exchange::{Exchange, authority, target};
use super::limits;
use super::respond::Bare;
use crate::observe::{AccessLog, Record, mask};
use crate::shape::forward::unmap;
use crate::snapshot::Snapshot;
use crate::types::Refusal;
use http::header::{HOST, REFERER, USER_AGENT};
use http::uri::Authority;
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use pingora::http::RequestHeader;
use pingora::prelude::*;
use std::borrow::Cow;
use std::time::{Duration, SystemTime};

/// What never became a request: there is a peer, a reason and perhaps our answer, and nothing else that could be believed.
pub fn unread(snapshot: &Snapshot, connection: &Connection, refusal: &Refusal, answer: Option<&Bare>, protocol: &'static str) {
    log::info!("{}: {}: {}", connection.peer, refusal.code(), refusal.detail());
    snapshot.no_route.refused(refusal);
    // Counted as OTHER.
    let unknown = Method::from_bytes(b"-").unwrap_or_default();
    snapshot.no_route.answered(&unknown, refusal.status(), Duration::ZERO, Duration::ZERO);
    let record = Record {
        request_id: answer.and_then(|answer| answer.id.to_str().ok()).unwrap_or_default(),
        client_ip: unmap(connection.peer.ip()),
        status: refusal.status(),
        code: refusal.code(),
        bytes_out: answer.map_or(0, |answer| answer.body_bytes as u64),
        protocol,
        ..Record::nothing(SystemTime::now())
    };
    snapshot.refusals.add(&record, &refusal.detail());
    if let Some(log) = &snapshot.access_log {
        log.write(&record);
    }
}

pub fn finish(session: &mut Session, exchange: &mut Exchange) {
    exchange.begun = None;
    if exchange.is_flood || exchange.is_background() {
        return;
    }
    let head = session.req_header();
    let status = match (&exchange.tunnel, session.response_written()) {
        (Some(_), _) => 101,
        (None, Some(head)) if !head.status.is_informational() => head.status.as_u16(),
        _ => GONE,
    };
    let cache = told::outcome(session, exchange);
    let times = count(exchange, &head.method, status, cache);
    // Over HTTP/1 nobody asks for it.
    if status == GONE
        && let Some(connection) = exchange.connection()
    {
        connection.takes_back(times.0);
    }
    let bytes = match &exchange.tunnel {
        Some(carried) => (carried.bytes_in, carried.bytes_out),
        None => (session.body_bytes_read() as u64, session.body_bytes_sent() as u64),
    };
    let field = |name| head.headers.get(name);
    let told = Told {
        method: &head.method,
        uri: &head.uri,
        host: authority(head),
        version: head.version,
        user_agent: field(USER_AGENT),
        referer: field(REFERER),
    };
    write(exchange, &told, Outcome { status, cache, bytes, times });
}

/// In place of the status of an answer that there was not, since the client had gone: what others call it too.
const GONE: u16 = 499;

/// A request that has a route, as far as it is to be written down. Its future may be dropped: by a deadline, when its client goes
/// while a service is being connected to, with its connection. No hook is called then, and its head is gone.
pub struct Begun {
    method: Method,
    /// Of the answer, once that has begun.
    status: Option<u16>,
    /// Where there is a log.
    head: Option<Remembered>,
}

struct Remembered {
    uri: Uri,
    host: Option<HeaderValue>,
    version: Version,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
}

impl Begun {
    pub fn new(head: &RequestHeader, snapshot: &Snapshot) -> Begun {
        let field = |name| head.headers.get(name).cloned();
        let remember = |_| Remembered {
            uri: head.uri.clone(),
            host: field(HOST),
            version: head.version,
            user_agent: field(USER_AGENT),
            referer: field(REFERER),
        };
        Begun { method: head.method.clone(), status: None, head: snapshot.access_log.as_ref().map(remember) }
    }
}

/// A head goes to the client. An interim one may stand for an answer that waits for its body.
pub fn begins(exchange: &mut Exchange, status: StatusCode) {
    if let Some(begun) = exchange.begun.as_mut().filter(|_| !status.is_informational()) {
        begun.status = Some(status.as_u16());
    }
}

/// The end of a request whose future was dropped.
pub fn abandoned(exchange: &mut Exchange, begun: &Begun) {
    let deadline = &exchange.deadline;
    // Over HTTP/1 Pingora sees to a body that is late.
    let late = match deadline.phase() {
        Phase::Body if exchange.is_h2 && deadline.due() == 0 => Some(Refusal::RequestTimeout),
        _ if deadline.upstream_was_late() => Some(Refusal::UpstreamTimeout),
        _ => None,
    };
    exchange.refusal = exchange.refusal.take().or(late);
    let status = begun.status.or(exchange.refusal.as_ref().map(Refusal::status)).unwrap_or(GONE);
    let times = count(exchange, &begun.method, status, "");
    if let Some(refusal) = &exchange.refusal {
        exchange.metrics().refused(refusal);
    }
    let Some(head) = &begun.head else { return };
    let host = head.host.as_ref().and_then(|host| host.to_str().ok());
    let told = Told {
        method: &begun.method,
        uri: &head.uri,
        host: head.uri.authority().map(Authority::as_str).or(host).unwrap_or_default(),
        version: head.version,
        user_agent: head.user_agent.as_ref(),
        referer: head.referer.as_ref(),
    };
    write(exchange, &told, Outcome { status, cache: "", bytes: (exchange.body.bytes, 0), times });
}

/// How long it took: all of it, the service, and the rest.
type Times = (Duration, Duration, Duration);

fn count(exchange: &mut Exchange, method: &Method, status: u16, cache: &'static str) -> Times {
    exchange.give_up();
    let total = exchange.started.elapsed();
    let upstream = exchange.attempt.upstream.min(total);
    let gateway = total - upstream;
    exchange.metrics().answered(method, status, total, gateway);
    if let Some(route) = exchange.route().and_then(|route| route.cache.as_ref()) {
        route.metrics.count(cache);
    }
    (total, upstream, gateway)
}

/// What the client has told.
struct Told<'a> {
    method: &'a Method,
    uri: &'a Uri,
    host: &'a str,
    version: Version,
    user_agent: Option<&'a HeaderValue>,
    referer: Option<&'a HeaderValue>,
}

struct Outcome {
    status: u16,
    cache: &'static str,
    /// In and out.
    bytes: (u64, u64),
    times: Times,
}

/// Writes a request down.
fn write(exchange: &Exchange, told: &Told<'_>, outcome: Outcome) {
    let log = exchange.snapshot.access_log.as_ref();
    if log.is_none() && exchange.refusal.is_none() {
        return;
    }
    let peer = exchange.connection().and_then(|connection| connection.peer_text().to_str().ok());
    let record = Record {
        time: SystemTime::now(),
        request_id: exchange.id(),
        trace_id: exchange.trace.trace_id(),
        client_ip: exchange.origin.client_ip,
        client_ip_text: peer.filter(|_| exchange.origin.client_ip == exchange.origin.peer_ip),
        method: told.method.as_str(),
        host: told.host,
        // Without a log nobody has said which parameters are secret.
        path: log.map_or_else(|| told.uri.path().into(), |log| mask(target(told.uri).into(), log.redact())),
        route: exchange.route().map_or("", |route| &route.name),
        service: exchange.service().map_or("", |(entry, _)| &entry.service.name),
        endpoint: exchange.endpoint_label(),
        status: outcome.status,
        code: exchange.refusal.as_ref().map_or("", |refusal| refusal.code()),
        identity: exchange.identity_name(),
        auth: exchange.auth.as_ref().map_or("", |method| &method.name),
        limit: limits::logged(exchange),
        cache: outcome.cache,
        attempts: exchange.attempt.count,
        bytes_in: outcome.bytes.0,
        bytes_out: outcome.bytes.1,
        duration: outcome.times.0,
        upstream: outcome.times.1,
        gateway: outcome.times.2,
        protocol: protocol(told.version),
        tls: exchange.tls,
        user_agent: told.user_agent.map_or(Cow::Borrowed(""), text),
        referer: told.referer.map_or(Cow::Borrowed(""), |value| mask(text(value), log.map_or(&[], AccessLog::redact))),
    };
    if let Some(refusal) = &exchange.refusal {
        exchange.snapshot.refusals.add(&record, &refusal.detail());
    }
    if let Some(log) = log {
        log.write(&record);
    }
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
