//! A request that nobody sends: what somebody asks about.

use super::exchange::target;
use crate::snapshot::Snapshot;
use crate::types::ListenerId;
use http::header::HOST;
use http::{HeaderName, HeaderValue, Method, Uri};
use pingora::http::RequestHeader;
use serde_json::{Map, Value};
use std::net::{IpAddr, Ipv4Addr};

/// A request that somebody asks about.
#[derive(Clone, Debug)]
pub struct Question {
    pub method: Method,
    /// With a host, or a path alone.
    pub url: Uri,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The listener it comes in by; the first when `None`.
    pub listener: Option<String>,
    pub client_ip: IpAddr,
    /// It comes with a token of these claims, whose signature is right.
    pub claims: Option<Map<String, Value>>,
}

impl Question {
    /// Reads a question as it is typed. Header fields are `Name: value`; the client is this machine unless it is named.
    ///
    /// # Errors
    /// What of it can't be understood.
    pub fn parse<'a>(
        method: &str,
        url: &str,
        headers: impl IntoIterator<Item = &'a str>,
        listener: Option<&str>,
        client_ip: Option<&str>,
    ) -> Result<Question, String> {
        let header = |text: &str| {
            let (name, value) = text.split_once(':')?;
            Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
        };
        let url: Uri = url.parse().map_err(|_| format!("`{url}` is not a URL"))?;
        if url.path_and_query().is_none() {
            return Err(format!("`{url}` is neither a URL such as https://api.example.com/orders/7 nor a path"));
        }
        let headers =
            headers.into_iter().map(|text| header(text).ok_or_else(|| format!("`{text}` is not a header field such as `X-Beta: 1`")));
        Ok(Question {
            method: method.to_ascii_uppercase().parse().map_err(|_| format!("`{method}` is not a method"))?,
            headers: headers.collect::<Result<_, _>>()?,
            listener: listener.map(str::to_string),
            client_ip: match client_ip {
                None => IpAddr::V4(Ipv4Addr::LOCALHOST),
                Some(text) => text.parse().map_err(|_| format!("`{text}` is not an address"))?,
            },
            url,
            claims: None,
        })
    }
}

/// Its head as it would come in.
///
/// # Errors
/// What of it is not a head.
pub fn head(question: &Question) -> Result<RequestHeader, String> {
    let build = || {
        let mut head = RequestHeader::build_no_case(question.method.clone(), target(&question.url).as_bytes(), None)?;
        if let Some(authority) = question.url.authority() {
            head.insert_header(HOST, authority.as_str())?;
        }
        for (name, value) in &question.headers {
            head.append_header(name.clone(), value.clone())?;
        }
        if !head.headers.contains_key(HOST) {
            head.insert_header(HOST, "")?;
        }
        pingora::Result::Ok(head)
    };
    build().map_err(|e: Box<pingora::Error>| e.to_string())
}

/// The same as bytes.
pub fn raw(head: &RequestHeader) -> Vec<u8> {
    let mut raw = format!("{} {} HTTP/1.1\r\n", head.method, target(&head.uri)).into_bytes();
    for (name, value) in &head.headers {
        raw.extend_from_slice(name.as_str().as_bytes());
        raw.extend_from_slice(b": ");
        raw.extend_from_slice(value.as_bytes());
        raw.extend_from_slice(b"\r\n");
    }
    raw.extend_from_slice(b"\r\n");
    raw
}

/// The listener it comes in by, and its name.
///
/// # Errors
/// There is none of that name.
pub fn listener(snapshot: &Snapshot, question: &Question) -> Result<(ListenerId, String), String> {
    let found = match &question.listener {
        None => snapshot.listeners.first(),
        Some(name) => snapshot.listeners.iter().find(|listener| listener.name.as_deref() == Some(name)),
    };
    let shown =
        |listener: &crate::snapshot::Listener| listener.name.as_ref().map_or_else(|| listener.bind.to_string(), ToString::to_string);
    found
        .map(|listener| (listener.id, shown(listener)))
        .ok_or_else(|| format!("no listener is named `{}`", question.listener.as_deref().unwrap_or_default()))
}
