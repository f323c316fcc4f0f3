//! Heads on their way through: what is added, what is taken away.

use super::exchange::{Exchange, Seen};
use super::limits;
use crate::auth::Methods;
use crate::auth::cors::Cors;
use crate::shape::forward::{
    Forwarded, TRACEPARENT, TRACESTATE, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REQUEST_ID, is_claim, is_look_alike,
    is_rewritten,
};
use crate::shape::headers::{Edit, HeaderEdits, nominated};
use crate::shape::rewrite::Rewrite;
use crate::shape::template::Values;
use crate::types::fields::authority;
use http::header::{CONNECTION, COOKIE, FORWARDED, HOST, TRAILER, UPGRADE, VIA};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use pingora::http::{IntoCaseHeaderName, RequestHeader, ResponseHeader};
use pingora::prelude::*;
use std::borrow::Cow;

/// The fields that a service gets in addition, and some room.
const FIELDS_ADDED: usize = 12;

/// A head that can be edited: Pingora keeps the case of the names beside them, so its own methods have to be used.
pub trait Head {
    fn set(&mut self, name: impl IntoCaseHeaderName, value: HeaderValue) -> Result<()>;
    fn add(&mut self, name: impl IntoCaseHeaderName, value: HeaderValue) -> Result<()>;
    fn remove(&mut self, name: &HeaderName);
    fn values(&self, name: &HeaderName) -> Vec<HeaderValue>;
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
            fn values(&self, name: &HeaderName) -> Vec<HeaderValue> {
                self.headers.get_all(name).iter().cloned().collect()
            }
        }
    };
}
head!(RequestHeader);
head!(ResponseHeader);

/// Applies a route's changes.
pub fn apply(head: &mut impl Head, edits: &HeaderEdits, values: &dyn Values) -> Result<()> {
    if edits.is_empty() {
        return Ok(());
    }
    edits.edits(values).try_for_each(|edit| {
        match edit {
            Edit::Remove(name) => head.remove(name),
            Edit::Rename(from, to) => {
                let values: Vec<HeaderValue> = head.values(from);
                if !values.is_empty() {
                    head.remove(from);
                    head.remove(to);
                    values.into_iter().try_for_each(|value| head.add(to.clone(), value))?;
                }
            }
            Edit::Set(name, value) => head.set(name.clone(), value)?,
            Edit::Add(name, value) => head.add(name.clone(), value)?,
        }
        Ok(())
    })
}

/// The same for what goes to a service, which may take `x_who` of the client for the `x-who` that the route sets.
pub fn apply_to_request(head: &mut RequestHeader, edits: &HeaderEdits, values: &dyn Values) -> Result<()> {
    if edits.is_empty() {
        return Ok(());
    }
    drop_fields(head, |name| edits.is_look_alike(name));
    apply(head, edits, values)
}

/// Takes a head's parts out, for changes that need no name to be written out and parsed again.
fn parts(head: &mut RequestHeader) -> Parts {
    let nothing = RequestHeader::from(http::Request::new(()).into_parts().0);
    std::mem::replace(head, nothing).into()
}

/// Forgets the case of a request's names, which decides nothing (RFC 9110, 5.1): keeping it costs a second map that Pingora
/// copies and edits beside the first.
pub fn forget_case(head: &mut RequestHeader) {
    if head.has_case() {
        *head = parts(head).into();
    }
}

/// What the service is told of the client and of us. `request` is the client's own head.
pub fn to_upstream(head: &mut RequestHeader, request: &RequestHeader, exchange: &Exchange, host: Option<&HeaderValue>) -> Result<()> {
    let ends_stream = head.send_end_stream();
    let mut parts = parts(head);
    let headers = &mut parts.headers;
    // What an untrusted peer claimed is gone already.
    if exchange.origin.is_trusted {
        remove(headers, is_rewritten);
    }
    // Of a Connection field only the plain one can still be there, see `is_end_to_end`. What is told of a trace that does not go on ends with it
    // (Trace Context, 3.3).
    remove(headers, |name| is_look_alike(name) || *name == CONNECTION || (exchange.trace.is_new && *name == TRACESTATE));
    headers.reserve(FIELDS_ADDED);
    if let Some(connection) = exchange.client() {
        let named = host_value(request);
        let forwarded = Forwarded::new(&exchange.origin, connection.peer_text(), exchange.is_tls(), named.as_deref(), &request.headers);
        if let Some(forwarded) = forwarded {
            headers.insert(X_FORWARDED_FOR, forwarded.x_forwarded_for);
            headers.insert(X_FORWARDED_PROTO, forwarded.x_forwarded_proto);
            if let Some(host) = forwarded.x_forwarded_host {
                headers.insert(X_FORWARDED_HOST, host);
            }
            headers.insert(FORWARDED, forwarded.forwarded);
        }
    }
    headers.append(VIA, via(request.version));
    headers.insert(X_REQUEST_ID, exchange.id.clone());
    headers.insert(TRACEPARENT, exchange.trace.header());
    if exchange.is_h2 {
        join_cookies(headers);
    }
    if request.version == Version::HTTP_10 && !headers.contains_key(HOST) {
        headers.insert(HOST, missing_host(request, exchange));
    }
    if let Some(host) = host {
        headers.insert(HOST, host.clone());
        parts.uri = with_authority(parts.uri, host)?;
    }
    credentials(&mut parts, exchange);
    if let Some(rewrite) = exchange.route().and_then(|route| route.rewrite.as_ref()) {
        parts.uri = rewritten(parts.uri, rewrite, &Seen { exchange, head: request })?;
    }
    *head = parts.into();
    // Over HTTP/2 to the service, whether the head ends the stream is Pingora's to say.
    head.set_send_end_stream(ends_stream.unwrap_or(true));
    Ok(())
}

/// Takes away what an untrusted client claims of itself, so that no route and no template believes it either. Most requests claim
/// nothing.
pub fn drop_claims(head: &mut RequestHeader) {
    drop_fields(head, is_claim);
}

/// Takes away the fields by which services are told who it is: only the gateway says that, whoever the client is.
pub fn drop_own(head: &mut RequestHeader, methods: &Methods) {
    if methods.has_own() {
        drop_fields(head, |name| methods.is_own(name));
    }
}

/// Takes away what a client's Connection fields nominate (RFC 9110, 7.6.1).
pub fn drop_nominated(head: &mut RequestHeader) {
    if head.headers.get_all(CONNECTION).iter().any(|value| !is_plain(&CONNECTION, value)) {
        let nominated = nominated(&head.headers);
        drop_fields(head, |name| nominated.contains(name));
    }
}

/// A head that has none of them stays as it is.
fn drop_fields(head: &mut RequestHeader, is_meant: impl Fn(&HeaderName) -> bool) {
    if head.headers.keys().any(&is_meant) {
        let mut parts = parts(head);
        remove(&mut parts.headers, is_meant);
        *head = parts.into();
    }
}

/// What was shown to the gateway ends here, and what it found out goes on.
fn credentials(parts: &mut Parts, exchange: &Exchange) {
    let Some(route) = exchange.route().filter(|route| !route.access.is_open()) else { return };
    route.access.remove_credentials(exchange.auth.as_ref(), &mut parts.headers, &mut parts.uri);
    if let (Some(method), Some(identity)) = (&exchange.auth, &exchange.identity) {
        method.headers(identity).for_each(|(name, value)| drop(parts.headers.insert(name, value)));
    }
}

fn remove(headers: &mut HeaderMap, is_meant: impl Fn(&HeaderName) -> bool) {
    if headers.keys().any(&is_meant) {
        let meant: Vec<HeaderName> = headers.keys().filter(|name| is_meant(name)).cloned().collect();
        meant.iter().for_each(|name| drop(headers.remove(name)));
    }
}

/// RFC 9113, 8.2.3: over HTTP/2 a client may send cookies in crumbs, which are joined before they go on.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        // Values that were good apart are good with `; ` between them.
        if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(COOKIE, joined);
        }
    }
}

/// The host as a field's value: the Host field's own, which is shared and not copied.
pub fn host_value(request: &RequestHeader) -> Option<Cow<'_, HeaderValue>> {
    match request.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok().map(Cow::Owned),
        None => request.headers.get(HOST).map(Cow::Borrowed),
    }
}

/// A Host for a request that may do without, but which goes on as HTTP/1.1, where it must not (RFC 9112, 3.2).
fn missing_host(request: &RequestHeader, exchange: &Exchange) -> HeaderValue {
    let named = host_value(request).map(Cow::into_owned);
    named.or_else(|| HeaderValue::from_str(exchange.endpoint_label()).ok()).unwrap_or(HeaderValue::from_static(""))
}

/// Over HTTP/2 the host stands in the URI.
fn with_authority(uri: http::Uri, host: &HeaderValue) -> Result<http::Uri> {
    let mut parts = uri.into_parts();
    if parts.authority.is_some() {
        parts.authority = authority(host.as_bytes());
    }
    http::Uri::from_parts(parts).or_err(ErrorType::InternalError, "the host of a service")
}

/// What a service that speaks HTTP/2 will be told of the host.
///
/// # Errors
/// It can't be told this one, which is the client's doing.
pub fn authority_of(head: &RequestHeader) -> Result<Authority> {
    let host = head.headers.get(HOST).and_then(|host| authority(host.as_bytes())).or_else(|| head.uri.authority().cloned());
    host.ok_or_else(|| Error::explain(ErrorType::InvalidHTTPHeader, "a host that is no :authority").into_down())
}

/// Moves the host to where HTTP/2 has it.
pub fn move_host(head: &mut RequestHeader) -> Result<()> {
    let mut parts = head.uri.clone().into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(authority_of(head)?);
    head.remove_header(&HOST);
    head.set_uri(http::Uri::from_parts(parts).or_err(ErrorType::InvalidHTTPHeader, "the host of a call")?);
    head.set_version(Version::HTTP_2);
    Ok(())
}

/// The target as the route has it. What can't be one is the client's doing.
fn rewritten(uri: http::Uri, rewrite: &Rewrite, seen: &Seen<'_>) -> Result<http::Uri> {
    let target = rewrite.target(uri.path(), uri.query(), seen);
    let target = target.and_then(|target| target.parse().ok());
    let refused = || Error::explain(ErrorType::InvalidHTTPHeader, "a target that can't be rewritten").into_down();
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(target.ok_or_else(refused)?);
    http::Uri::from_parts(parts).or_err(ErrorType::InternalError, "a rewritten target")
}

/// Whether a request's head has nothing that ends at this hop (RFC 9110, 7.6.1), but for a Connection field that nominates nothing.
pub fn is_end_to_end(headers: &HeaderMap) -> bool {
    let ends = |name: &HeaderName| {
        matches!(
            name.as_str(),
            "connection"
                | "keep-alive"
                | "proxy-connection"
                | "proxy-authenticate"
                | "proxy-authorization"
                | "te"
                | "trailer"
                | "transfer-encoding"
                | "upgrade"
                | "http2-settings"
        )
    };
    headers.iter().all(|(name, value)| !ends(name) || is_plain(name, value))
}

/// What every answer has, and what ends at this hop.
pub fn to_client(head: &mut ResponseHeader, request: &RequestHeader, exchange: &Exchange) -> Result<()> {
    edit(head, |status, headers| {
        if headers.iter().any(|(name, value)| ends_here(name) && !is_plain(name, value)) {
            let nominated = nominated(headers);
            let own: Vec<HeaderName> = headers.keys().filter(|name| ends_here(name)).cloned().collect();
            // RFC 9110, 15.5.22: with 426 it says what is wanted.
            let stays = |name: &&HeaderName| status == StatusCode::UPGRADE_REQUIRED && **name == UPGRADE;
            nominated.iter().chain(&own).filter(|name| !stays(name)).for_each(|name| drop(headers.remove(name)));
        }
        headers.reserve(FIELDS_ADDED);
        headers.append(VIA, via(request.version));
        if let Some(cors) = exchange.route().and_then(|route| route.cors.as_ref()) {
            pages(headers, cors, request);
        }
        let mut id = exchange.id.clone();
        // Over HTTP/2 a value that never comes again is kept out of the table of those that may.
        id.set_sensitive(exchange.is_h2);
        headers.insert(X_REQUEST_ID, id);
        limits::tell(exchange, headers);
    })
}

/// Changes an answer's fields in the map itself: Pingora's own methods write each name out and parse it again.
///
/// # Errors
/// None in practice: a reason phrase that came can be kept.
pub fn edit<T>(head: &mut ResponseHeader, change: impl FnOnce(StatusCode, &mut HeaderMap) -> T) -> Result<T> {
    let reason = custom_reason(head);
    let nothing = ResponseHeader::from(http::Response::new(()).into_parts().0);
    let mut parts: http::response::Parts = std::mem::replace(head, nothing).into();
    let changed = change(parts.status, &mut parts.headers);
    *head = parts.into();
    if let Some(reason) = reason {
        head.set_reason_phrase(Some(&reason))?;
    }
    Ok(changed)
}

/// What pages of other origins may do with an answer is the gateway's to say. A preflight has been told already.
fn pages(headers: &mut HeaderMap, cors: &Cors, request: &RequestHeader) {
    if Cors::is_preflight(&request.method, &request.headers) {
        return;
    }
    remove(headers, |name| name.as_str().starts_with("access-control-"));
    headers.extend(cors.answer(&request.headers));
    headers.append(http::header::VARY, HeaderValue::from_static("Origin"));
}

/// A reason phrase that is not the status's usual one.
fn custom_reason(head: &ResponseHeader) -> Option<String> {
    let reason = head.get_reason_phrase().filter(|reason| Some(*reason) != head.status.canonical_reason());
    reason.map(str::to_string)
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
