//! Heads on their way through: what is added, what is taken away.

use super::exchange::{Exchange, Seen};
use crate::shape::forward::{Forwarded, is_claim, is_rewritten};
use crate::shape::headers::{Edit, HeaderEdits, nominated};
use http::header::{CONNECTION, COOKIE, HOST, TRAILER};
use http::{HeaderName, HeaderValue, Version};
use pingora::http::{IntoCaseHeaderName, RequestHeader, ResponseHeader};
use pingora::prelude::*;
use std::borrow::Cow;

/// A head that can be edited: Pingora keeps the case of the names beside them, so its own methods have to be used.
pub trait Head {
    fn set(&mut self, name: impl IntoCaseHeaderName, value: HeaderValue) -> Result<()>;
    fn add(&mut self, name: impl IntoCaseHeaderName, value: HeaderValue) -> Result<()>;
    fn remove(&mut self, name: &HeaderName);
}

macro_rules! head {
    ($type:ty) => {
        impl Head for $type {
            fn set(&mut self, name: impl IntoCaseHeaderName, value: HeaderValue) -> Result<()> {
                self.insert_header(name, value)
            }
            fn add(&mut self, name: impl IntoCaseHeaderName, value: HeaderValue) -> Result<()> {
                self.append_header(name, value).map(drop)
            }
            fn remove(&mut self, name: &HeaderName) {
                self.remove_header(name);
            }
        }
    };
}
head!(RequestHeader);
head!(ResponseHeader);

/// Applies a route's changes.
pub fn apply(head: &mut impl Head, edits: &HeaderEdits, seen: &Seen<'_>) -> Result<()> {
    if edits.is_empty() {
        return Ok(());
    }
    for edit in edits.edits(seen) {
        match edit {
            Edit::Remove(name) => head.remove(name),
            Edit::Set(name, value) => head.set(name.clone(), value)?,
            Edit::Add(name, value) => head.add(name.clone(), value)?,
        }
    }
    Ok(())
}

/// What the service is told of the client and of us. `request` is the client's own head. Names are given as texts, which
/// Pingora keeps without a copy; a `HeaderName` it would write out and parse again.
pub fn to_upstream(head: &mut RequestHeader, request: &RequestHeader, exchange: &Exchange, host: Option<&HeaderValue>) -> Result<()> {
    drop_claims(head, exchange.origin.is_trusted);
    if let Some(connection) = exchange.connection() {
        let named = host_value(request);
        let forwarded = Forwarded::new(&exchange.origin, connection.peer_text(), exchange.is_tls, named.as_deref(), &request.headers);
        if let Some(forwarded) = forwarded {
            head.insert_header("X-Forwarded-For", forwarded.x_forwarded_for)?;
            head.insert_header("X-Forwarded-Proto", forwarded.x_forwarded_proto)?;
            if let Some(host) = forwarded.x_forwarded_host {
                head.insert_header("X-Forwarded-Host", host)?;
            }
            head.insert_header("Forwarded", forwarded.forwarded)?;
        }
    }
    head.append_header("Via", via(request.version))?;
    head.insert_header("X-Request-Id", exchange.id.clone())?;
    head.insert_header("traceparent", exchange.trace.header())?;
    if exchange.is_h2 {
        join_cookies(head)?;
    }
    if let Some(host) = host {
        head.insert_header(HOST, host.clone())?;
        if let Some(authority) = head.uri.authority().filter(|authority| authority.as_str().as_bytes() != host.as_bytes()) {
            log::trace!("host {authority} becomes {host:?}");
            set_authority(head, host)?;
        }
    }
    Ok(())
}

/// Takes away what an untrusted client claims of itself. Most requests claim nothing.
fn drop_claims(head: &mut RequestHeader, is_trusted: bool) {
    let is_dropped = |name: &&HeaderName| is_claim(name) && !(is_trusted && !is_rewritten(name));
    if !head.headers.keys().any(|name| is_dropped(&name)) {
        return;
    }
    let dropped: Vec<HeaderName> = head.headers.keys().filter(is_dropped).cloned().collect();
    dropped.iter().for_each(|name| drop(head.remove_header(name)));
}

/// RFC 9113, 8.2.3: over HTTP/2 a client may send cookies in crumbs, which are joined before they go on.
fn join_cookies(head: &mut RequestHeader) -> Result<()> {
    let crumbs: Vec<&[u8]> = head.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return Ok(());
    }
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).or_err(ErrorType::InvalidHTTPHeader, "cookies")?;
    head.insert_header("Cookie", joined)
}

/// The host as a field's value: the Host field's own, which is shared and not copied.
fn host_value(request: &RequestHeader) -> Option<Cow<'_, HeaderValue>> {
    match request.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok().map(Cow::Owned),
        None => request.headers.get(HOST).map(Cow::Borrowed),
    }
}

/// Over HTTP/2 the host stands in the URI.
fn set_authority(head: &mut RequestHeader, host: &HeaderValue) -> Result<()> {
    let mut parts = head.uri.clone().into_parts();
    parts.authority = host.to_str().ok().and_then(|host| host.parse().ok());
    if parts.authority.is_none() {
        return Ok(());
    }
    let uri = http::Uri::from_parts(parts).or_err(ErrorType::InternalError, "the host of a service")?;
    head.set_uri(uri);
    Ok(())
}

/// What every answer has, and what ends at this hop.
pub fn to_client(head: &mut ResponseHeader, request: &RequestHeader, exchange: &Exchange) -> Result<()> {
    if head.headers.iter().any(|(name, value)| ends_here(name) && !is_plain(name, value)) {
        let nominated = nominated(&head.headers);
        let own: Vec<HeaderName> = head.headers.keys().filter(|name| ends_here(name)).cloned().collect();
        nominated.iter().chain(&own).for_each(|name| drop(head.remove_header(name)));
    }
    head.append_header("Via", via(request.version))?;
    head.insert_header("X-Request-Id", exchange.id.clone())?;
    Ok(())
}

/// Fields of an answer that are about the connection it came on. Transfer-Encoding stays: Pingora frames by it.
fn ends_here(name: &HeaderName) -> bool {
    *name == CONNECTION || *name == TRAILER || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "upgrade" | "http2-settings")
}

/// The usual Connection field, which nominates nothing and which Pingora writes anew in any case.
fn is_plain(name: &HeaderName, value: &HeaderValue) -> bool {
    *name == CONNECTION && (value.as_bytes().eq_ignore_ascii_case(b"keep-alive") || value.as_bytes().eq_ignore_ascii_case(b"close"))
}

/// RFC 9110, 7.6.3: the version that was received, and our pseudonym.
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2 frontdesk",
        Version::HTTP_10 => "1.0 frontdesk",
        _ => "1.1 frontdesk",
    })
}
