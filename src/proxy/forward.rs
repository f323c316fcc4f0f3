//! Heads on their way through: what is added, what is taken away.

use super::exchange::{Exchange, Seen, authority};
use crate::shape::forward::{CLAIMS, Forwarded, TRACEPARENT, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REQUEST_ID};
use crate::shape::headers::{Edit, HeaderEdits, nominated};
use http::header::{CONNECTION, FORWARDED, HOST, VIA};
use http::{HeaderName, HeaderValue, Version};
use pingora::http::{IntoCaseHeaderName, RequestHeader, ResponseHeader};
use pingora::prelude::*;

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

/// What the service is told of the client and of us. `request` is the client's own head.
pub fn to_upstream(head: &mut RequestHeader, request: &RequestHeader, exchange: &Exchange, host: Option<&HeaderValue>) -> Result<()> {
    for name in &CLAIMS {
        if head.headers.contains_key(name) && !(exchange.origin.is_trusted && keeps(name)) {
            head.remove_header(name);
        }
    }
    if let Some(forwarded) = Forwarded::new(&exchange.origin, exchange.is_tls, authority(request), &request.headers) {
        head.insert_header(X_FORWARDED_FOR, forwarded.x_forwarded_for)?;
        head.insert_header(X_FORWARDED_PROTO, forwarded.x_forwarded_proto)?;
        if let Some(host) = forwarded.x_forwarded_host {
            head.insert_header(X_FORWARDED_HOST, host)?;
        }
        head.insert_header(FORWARDED, forwarded.forwarded)?;
    }
    head.append_header(VIA, via(request.version))?;
    head.insert_header(X_REQUEST_ID, exchange.id.as_str())?;
    head.insert_header(TRACEPARENT, exchange.trace.header())?;
    if let Some(host) = host {
        head.insert_header(HOST, host.clone())?;
        if let Some(authority) = head.uri.authority().filter(|authority| authority.as_str().as_bytes() != host.as_bytes()) {
            log::trace!("host {authority} becomes {host:?}");
            set_authority(head, host)?;
        }
    }
    Ok(())
}

/// Claims that pass from a trusted peer as they are; the others are appended to or set anew.
fn keeps(name: &HeaderName) -> bool {
    !matches!(name.as_str(), "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "forwarded")
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
    if head.headers.contains_key(CONNECTION) {
        for name in nominated(&head.headers) {
            head.remove_header(&name);
        }
        head.remove_header(&CONNECTION);
    }
    for name in ["keep-alive", "proxy-connection", "upgrade", "http2-settings"] {
        if head.headers.contains_key(name) {
            head.remove_header(name);
        }
    }
    head.append_header(VIA, via(request.version))?;
    head.insert_header(X_REQUEST_ID, exchange.id.as_str())?;
    Ok(())
}

/// RFC 9110, 7.6.3: the version that was received, and our pseudonym.
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2 frontdesk",
        Version::HTTP_10 => "1.0 frontdesk",
        _ => "1.1 frontdesk",
    })
}
