//! What the operator asks of a running gateway: health, status, metrics, configuration.
//!
//! This room reads; what changes the process belongs to `server`, which is asked through [`Process`].

mod status;

use crate::observe::Metrics;
use crate::snapshot::Snapshot;
use crate::types::ListenerId;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use http::{Method, Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// What `server` tells of the process.
pub trait Process: Send + Sync {
    fn is_ready(&self) -> bool;
    fn token(&self) -> Option<String>;
    /// Why the last reload failed, if it did.
    fn last_error(&self) -> Option<String>;
    /// Where a listener listens, with the port that was chosen for 0.
    fn address(&self, listener: ListenerId) -> Option<SocketAddr>;
}

pub struct Admin {
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    process: Arc<dyn Process>,
}

impl Admin {
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>, process: Arc<dyn Process>) -> Admin {
        Admin { snapshot, metrics, process }
    }

    fn answer(&self, session: &ServerSession) -> Answer {
        let head = session.req_header();
        let path = head.uri.path();
        if head.method != Method::GET && head.method != Method::HEAD {
            return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n");
        }
        match path {
            "/healthz" => return Answer::text(StatusCode::OK, "ok\n"),
            "/readyz" if self.process.is_ready() => return Answer::text(StatusCode::OK, "ready\n"),
            "/readyz" => return Answer::text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            _ => {}
        }
        if let Some(refused) = self.refused(session) {
            return refused;
        }
        match path {
            "/metrics" => Answer::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.metrics.render()),
            "/status" => {
                let status = status::json(&self.snapshot.load(), &self.metrics, &*self.process);
                Answer::new(StatusCode::OK, "application/json", format!("{status:#}\n"))
            }
            "/config" => Answer::new(StatusCode::OK, "application/yaml", self.snapshot.load().meta.shown.clone()),
            _ => Answer::text(StatusCode::NOT_FOUND, "served here: /healthz /readyz /metrics /status /config\n"),
        }
    }

    /// Without a token, a request needs a loopback Host: a web page that points its own name at this machine has not.
    fn refused(&self, session: &ServerSession) -> Option<Answer> {
        let Some(token) = self.process.token() else {
            let host = session.get_header(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            return (!is_loopback(host)).then(|| Answer::text(StatusCode::FORBIDDEN, "the Host is not this machine's loopback name\n"));
        };
        let given = session.get_header(AUTHORIZATION).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let is_right = given
            .split_at_checked(7)
            .is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(token.as_bytes())));
        (!is_right).then(|| Answer::text(StatusCode::UNAUTHORIZED, "a token is needed\n"))
    }
}

fn is_loopback(host: &str) -> bool {
    let name = crate::route::host::name(host);
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn new(status: StatusCode, kind: &'static str, body: String) -> Answer {
        Answer { status, kind, body }
    }
    fn text(status: StatusCode, body: &str) -> Answer {
        Answer::new(status, "text/plain; charset=utf-8", body.to_string())
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let answer = self.answer(session);
        let mut response = Response::builder()
            .status(answer.status)
            .header(CONTENT_TYPE, answer.kind)
            .header(CONTENT_LENGTH, answer.body.len())
            .header(CACHE_CONTROL, "no-store");
        response = match answer.status {
            StatusCode::METHOD_NOT_ALLOWED => response.header(ALLOW, "GET, HEAD"),
            StatusCode::UNAUTHORIZED => response.header(WWW_AUTHENTICATE, "Bearer"),
            _ => response,
        };
        let body = if session.req_header().method == Method::HEAD { Vec::new() } else { answer.body.into_bytes() };
        // Every part above is well-formed, so this can't fail.
        response.body(body).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts() {
        for host in ["localhost", "LOCALHOST:9901", "127.0.0.1:9901", "127.1.2.3", "[::1]:9901", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "evil.example", "evil.example:9901", "10.0.0.1", "localhost.evil.example", "[2001:db8::1]"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
