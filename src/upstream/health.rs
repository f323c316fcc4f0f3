//! Active checks: each endpoint is asked whether it is well, in its own time, and believed after several equal answers.

use super::ask::{self, Request};
use super::clock::{ms, now};
use super::endpoint::Endpoint;
use super::{Service, Timeouts};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, Protocol};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, header};
use pingora::connectors::http::Connector;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// What is looked at of an answer's body.
const BODY_MAX: usize = 64 << 10;
/// Checks of one service at once.
const AT_ONCE_MAX: usize = 64;
/// Between two looks at what is due, in milliseconds.
const REST_MIN: u64 = 5;
const REST_MAX: u64 = 1_000;

#[derive(Debug)]
pub struct Checks {
    kind: Kind,
    interval: Duration,
    timeout: Duration,
    rise: u32,
    fall: u32,
}

#[derive(Debug)]
enum Kind {
    Tcp,
    Http {
        path: String,
        host: Option<String>,
        status: Option<Vec<u16>>,
        body: Option<String>,
    },
    /// The message that asks.
    Grpc(Bytes),
}

impl Checks {
    /// `None` means that a problem was reported.
    pub fn build(raw: &raw::HealthCheck, protocol: Protocol, at: &At<'_>, problems: &Problems) -> Option<Checks> {
        let kind = match (&raw.path, raw.tcp, &raw.grpc) {
            (Some(path), false, None) => Kind::Http {
                path: target(path, &at.key("path"), problems)?,
                host: raw.host.clone(),
                status: raw.status.as_ref().map(|all| all.0.iter().filter_map(|one| u16::try_from(one.0).ok()).collect()),
                body: raw.body.clone(),
            },
            (None, true, None) => Kind::Tcp,
            (None, false, Some(_)) if protocol == Protocol::Http1 => {
                let fix = "add `protocol: h2c`, or `h2` with `tls`";
                return problems.at(&at.key("grpc"), "a gRPC check of a service that speaks HTTP/1", "gRPC needs HTTP/2", fix);
            }
            (None, false, Some(name)) => Kind::Grpc(question(name)),
            _ => {
                let fix = "keep one of `path: /healthz`, `tcp: true` and `grpc: NAME`";
                return problems.at(at, "a check has to ask for one thing", "it would not be known what well means", fix);
            }
        };
        if raw.interval.is_zero() || raw.timeout.is_zero() {
            return problems.at(at, "a check without time", "endpoints would be asked without end", "write an interval such as `5s`");
        }
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Some(Checks { kind, interval: raw.interval, timeout: raw.timeout, rise: count(raw.rise.0), fall: count(raw.fall.0) })
    }

    /// Asks once.
    async fn check(&self, service: &Service, endpoint: &Endpoint, connector: &Connector) -> Result<(), String> {
        let asked = async {
            match &self.kind {
                Kind::Tcp => TcpStream::connect(endpoint.address).await.map(drop).map_err(|e| e.to_string()),
                Kind::Http { path, host, status, body } => {
                    let request = self.request(service, endpoint, Method::GET, path, host.as_deref());
                    let answer = self.ask(service, endpoint, connector, request).await?;
                    let got = answer.head.status.as_u16();
                    let is_wanted = status.as_ref().map_or((200..300).contains(&got), |all| all.contains(&got));
                    let has_body = body.as_ref().is_none_or(|wanted| memchr::memmem::find(&answer.body, wanted.as_bytes()).is_some());
                    match (is_wanted, has_body) {
                        (true, true) => Ok(()),
                        (false, _) => Err(format!("it answered {got}")),
                        (true, false) => Err("its body is another one".to_string()),
                    }
                }
                Kind::Grpc(question) => {
                    let mut request = self.request(service, endpoint, Method::POST, "/grpc.health.v1.Health/Check", None);
                    request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                    request.headers.insert(header::TE, HeaderValue::from_static("trailers"));
                    request.body = question.clone();
                    let answer = self.ask(service, endpoint, connector, request).await?;
                    match is_serving(&answer.body) {
                        true => Ok(()),
                        false => Err("it does not serve".to_string()),
                    }
                }
            }
        };
        timeout(self.timeout, asked).await.unwrap_or_else(|_| Err("it did not answer in time".to_string()))
    }

    fn request(&self, service: &Service, endpoint: &Endpoint, method: Method, target: &str, host: Option<&str>) -> Request {
        let of_service = service.host.as_ref().and_then(|host| host.to_str().ok());
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("frontdesk-health-check"));
        let host = host.or(of_service).unwrap_or(&endpoint.label).to_string();
        Request { method, target: target.to_string(), host, headers, body: Bytes::new() }
    }

    async fn ask(&self, service: &Service, endpoint: &Endpoint, connector: &Connector, request: Request) -> Result<ask::Answer, String> {
        let timeouts = Timeouts { connect: self.timeout, read: self.timeout, write: self.timeout, total: None };
        let peer = service.peer_of(endpoint, &timeouts);
        ask::ask(connector, &peer, request, BODY_MAX).await.map_err(|e| e.etype().as_str().to_string())
    }
}

/// Checks a service's endpoints for as long as it is polled. Where nothing is checked, nobody is ill.
pub async fn watch(service: Arc<Service>, connector: Arc<Connector>) {
    let Some(checks) = &service.checks else {
        return service.pool.set().endpoints.iter().for_each(|endpoint| endpoint.state.set_ill(false));
    };
    let every = ms(checks.interval);
    let mut going = JoinSet::new();
    loop {
        let (set, now) = (service.pool.set(), now());
        let mut rest = REST_MAX;
        for (place, endpoint) in (0..).zip(&set.endpoints) {
            // Not all at the same moment.
            let mut due = endpoint.state.check_due(now + every * place / set.endpoints.len() as u64);
            if due > now + every {
                // It was said when checks were rarer.
                due = now + every;
                endpoint.state.set_check_due(due);
            }
            if due <= now && going.len() < AT_ONCE_MAX {
                endpoint.state.set_check_due(now + every);
                // One that answers slowly is not asked again meanwhile.
                if let Some(checking) = Checking::begin(endpoint) {
                    going.spawn(check(service.clone(), checking, connector.clone()));
                }
            }
            rest = rest.min(due.saturating_sub(now).max(REST_MIN));
        }
        tokio::select! {
            () = sleep(Duration::from_millis(rest)) => {}
            Some(_) = going.join_next() => {}
        }
    }
}

/// Held while an endpoint is being checked.
struct Checking(Arc<Endpoint>);

impl Checking {
    fn begin(endpoint: &Arc<Endpoint>) -> Option<Checking> {
        endpoint.state.begin_check().then(|| Checking(endpoint.clone()))
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        self.0.state.end_check();
    }
}

async fn check(service: Arc<Service>, checking: Checking, connector: Arc<Connector>) {
    let Some(checks) = &service.checks else { return };
    let endpoint = &checking.0;
    let outcome = checks.check(&service, endpoint, &connector).await;
    match (endpoint.state.checked(outcome.is_ok(), checks.rise, checks.fall), outcome) {
        (true, Ok(())) => {
            log::info!("{} of {} is well again", endpoint.label, service.name);
            endpoint.warm_up();
        }
        (true, Err(why)) => log::warn!("{} of {} is ill: {why}", endpoint.label, service.name),
        (false, _) => {}
    }
}

/// Where to ask.
fn target(path: &str, at: &At<'_>, problems: &Problems) -> Option<String> {
    let is_path = path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
    match is_path {
        true => Some(path.to_string()),
        false => problems.at(at, format!("`{path}` is not a path"), "endpoints are asked for it", "write a path such as `/healthz`"),
    }
}

/// A `HealthCheckRequest` as gRPC frames it (gRPC over HTTP/2, Length-Prefixed-Message).
fn question(service: &str) -> Bytes {
    let name = &service.as_bytes()[..service.len().min(127)];
    let mut message = BytesMut::new();
    if !name.is_empty() {
        // Field 1, a text, and its length in one byte.
        message.put_slice(&[0x0a, name.len() as u8]);
        message.put_slice(name);
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

/// A `HealthCheckResponse` whose status, field 1, is SERVING, which is 1.
fn is_serving(mut framed: &[u8]) -> bool {
    const FRAME: usize = 5;
    if framed.len() < FRAME || framed.get_u8() != 0 {
        return false;
    }
    let length = framed.get_u32() as usize;
    let mut message = framed.get(..length).unwrap_or_default();
    let mut is_serving = false;
    while message.len() >= 2 {
        let (key, value) = (message.get_u8(), message.get_u8());
        match (key, value) {
            (0x08, status @ 0..=0x7f) => is_serving = status == 1,
            // Any other field is none that there is.
            _ => return false,
        }
    }
    is_serving
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn grpc_is_framed() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        for bad in [&[][..], &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 8, 2], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 9, 8, 1], &[0, 0, 0]] {
            assert!(!is_serving(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_be_answered(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = is_serving(&bytes);
        }
    }
}
