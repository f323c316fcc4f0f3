//! What the operator asks of a running gateway: health, status, metrics, configuration; and what it is told to do.
//!
//! This room reads; what changes the process belongs to `server`, which is told by way of an [`Order`].

mod status;

use crate::proxy::explain::{self, Question};
use crate::proxy::forget::{self, Wanted};
use crate::shape::template::decode_parameter;
use crate::snapshot::{Snapshot, State};
use crate::types::ListenerId;
use crate::upstream::{Endpoint, Finding};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Method, Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use subtle::ConstantTimeEq;
use tokio::sync::{mpsc, oneshot};

/// What `server` tells of the process.
pub trait Process: Send + Sync {
    fn is_ready(&self) -> bool;
    fn token(&self) -> Option<String>;
    /// Why the last reload failed, if it did.
    fn last_error(&self) -> Option<String>;
    /// Where a listener listens, with the port that was chosen for 0.
    fn address(&self, listener: ListenerId) -> Option<String>;
}

/// What the process is told to do.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration again. The answer is the version that runs now, or why the old one goes on.
    Reload(oneshot::Sender<Result<u64, String>>),
    /// Start the program anew and have it take over. The answer is the new process's number, or why this one serves on.
    Upgrade(oneshot::Sender<Result<u32, String>>),
    /// Stop accepting, let what is in flight finish, end.
    Drain,
    /// End at once.
    Stop,
}

pub struct Admin {
    snapshot: Arc<ArcSwap<Snapshot>>,
    state: Arc<State>,
    process: Arc<dyn Process>,
    orders: mpsc::Sender<Order>,
}

impl Admin {
    pub fn new(snapshot: Arc<ArcSwap<Snapshot>>, state: Arc<State>, process: Arc<dyn Process>, orders: mpsc::Sender<Order>) -> Admin {
        Admin { snapshot, state, process, orders }
    }

    async fn answer(&self, session: &mut ServerSession) -> Answer {
        let head = session.req_header();
        let path = head.uri.path();
        let Some(allowed) = allowed(path) else {
            let known = [READ, TOLD].concat().join(" ");
            return self.refused(session).unwrap_or_else(|| Answer::text(StatusCode::NOT_FOUND, &format!("served here: {known}\n")));
        };
        if !allowed.contains(&head.method) {
            return Answer { allow: Some(allowed), ..Answer::text(StatusCode::METHOD_NOT_ALLOWED, "this method is not served here\n") };
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
            "/metrics" => {
                Answer::new(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.state.metrics.scrape(|| self.measure()))
            }
            "/config" => Answer::new(StatusCode::OK, "application/yaml", self.snapshot.load().meta.shown.clone()),
            "/explain" => self.explain(head.uri.query().unwrap_or_default()),
            "/routes" => Answer::json(StatusCode::OK, &json!(explain::routes(&self.snapshot.load()))),
            "/refusals" => self.refusals(head.uri.query().unwrap_or_default()),
            "/" => Answer::new(StatusCode::OK, "text/html; charset=utf-8", include_str!("dashboard.html").to_string()),
            "/endpoint" => self.endpoint(head.uri.query().unwrap_or_default()),
            "/purge" => self.purge(session).await,
            "/reload" => self.reload().await,
            "/upgrade" => self.upgrade().await,
            "/drain" => self.tell(Order::Drain, "draining\n").await,
            "/stop" => self.tell(Order::Stop, "stopping\n").await,
            _ => Answer::json(StatusCode::OK, &status::json(&self.snapshot.load(), &self.state, &*self.process)),
        }
    }

    /// What is not counted by itself, as it stands now.
    fn measure(&self) {
        let keys = &self.state.limits.store;
        let kept = self.state.cache.store.size();
        self.state.metrics.cache_kept(kept.bytes, kept.entries, kept.evicted);
        self.state.metrics.limit_keys(keys.kept(), keys.dropped());
        if let Some(shared) = &self.snapshot.load().shared {
            let told = shared.told();
            self.state.metrics.store(told.is_up, told.questions, told.failures);
        }
        if let Some(bulletin) = &self.snapshot.load().bulletin {
            let counts = bulletin.counts();
            self.state.metrics.purges(counts.sent.load(Relaxed), counts.heard.load(Relaxed), counts.missed.load(Relaxed));
        }
        self.state.metrics.keys(self.snapshot.load().methods.issuers().into_iter().filter_map(|told| Some((told.url, told.age?))));
        let snapshot = self.snapshot.load();
        self.state.metrics.endpoints(snapshot.services.iter().flat_map(|entry| {
            let told = |endpoint: &Arc<Endpoint>| (&*entry.service.name, endpoint.label.to_string(), endpoint.standing().is_up());
            entry.service.pool.set().endpoints.iter().map(told).collect::<Vec<_>>()
        }));
        self.state.metrics.sources(snapshot.services.iter().flat_map(|entry| {
            let told = |told: Finding| (&*entry.service.name, told.source, told.problem.is_none(), told.failures);
            entry.service.told().into_iter().map(told)
        }));
        let breakers = snapshot.services.iter().filter_map(|entry| Some((&*entry.service.name, entry.service.is_open()?)));
        self.state.metrics.breakers(breakers);
    }

    /// What would become of a request: `method`, `url`, `header` (any number), `listener`, `client_ip`.
    fn explain(&self, query: &str) -> Answer {
        let pairs = parameters(query);
        let all = |name: &'static str| pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| &**value);
        let one = |name| all(name).next();
        let question = Question::parse(
            one("method").unwrap_or("GET"),
            one("url").unwrap_or_default(),
            all("header"),
            one("listener"),
            one("client_ip"),
        );
        match question.and_then(|question| explain::shown(&self.snapshot.load(), &question)) {
            Ok(explanation) => Answer::json(StatusCode::OK, &explanation),
            Err(what) => Answer::text(StatusCode::BAD_REQUEST, &format!("{what}\n")),
        }
    }

    /// The last that were refused, newest first; `id` and `limit` choose among them.
    fn refusals(&self, query: &str) -> Answer {
        let pairs = parameters(query);
        let one = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| &**value);
        let limit = match one("limit").map(|limit| limit.parse()) {
            None => usize::MAX,
            Some(Ok(limit)) => limit,
            Some(Err(_)) => return Answer::text(StatusCode::BAD_REQUEST, "`limit` is not a number\n"),
        };
        let (kept, missed) = self.state.refusals.bounds();
        let refusals = self.state.refusals.newest(one("id"), limit);
        Answer::json(StatusCode::OK, &json!({ "kept": kept, "missed": missed, "refusals": refusals }))
    }

    /// Takes an endpoint out, or back in: `service`, `address`, `state` (`drained` or `up`). Lasts as long as the endpoint is configured.
    fn endpoint(&self, query: &str) -> Answer {
        let pairs = parameters(query);
        let one = |name: &str| pairs.iter().find(|(known, _)| known == name).map_or("", |(_, value)| &**value);
        let is_drained = match one("state") {
            "drained" => true,
            "up" => false,
            _ => return Answer::text(StatusCode::BAD_REQUEST, "`state` is drained or up\n"),
        };
        let (snapshot, service, address) = (self.snapshot.load(), one("service"), one("address"));
        let entry = snapshot.services.iter().find(|entry| &*entry.service.name == service);
        let found = entry.zip(address.parse().ok()).is_some_and(|(entry, address)| entry.service.pool.drain(address, is_drained));
        match found {
            true => {
                log::info!("{address} of {service} is {}", one("state"));
                Answer::json(StatusCode::OK, &json!({ "service": service, "address": address, "state": one("state") }))
            }
            false => Answer::text(StatusCode::NOT_FOUND, &format!("no endpoint {address} of a service {service}: /status shows them\n")),
        }
    }

    /// Forgets answers: `url`, `prefix`, `tag` or `all`, and `soft`, as parameters or as a JSON body.
    async fn purge(&self, session: &mut ServerSession) -> Answer {
        let query = session.req_header().uri.query().unwrap_or_default().to_string();
        let mut wanted = Wanted::default();
        for (name, value) in query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "true"))) {
            let (name, value) = (decode_parameter(name), decode_parameter(value).into_owned());
            if !want(&mut wanted, &name, Some(value.clone()).filter(|value| !value.is_empty()), value == "true") {
                return Answer::json(StatusCode::BAD_REQUEST, &json!({ "error": format!("unknown parameter `{name}`") }));
            }
        }
        let body = if query.is_empty() { body(session).await } else { Value::Null };
        for (name, value) in body.as_object().into_iter().flatten() {
            if !want(&mut wanted, name, value.as_str().map(str::to_string), value == &Value::Bool(true)) {
                return Answer::json(StatusCode::BAD_REQUEST, &json!({ "error": format!("unknown key `{name}`") }));
            }
        }
        match forget::purge_everywhere(&self.snapshot.load_full(), &wanted).await {
            Ok((purged, None)) => Answer::json(StatusCode::OK, &json!({ "purged": purged })),
            Ok((purged, Some(is_told))) => Answer::json(StatusCode::OK, &json!({ "purged": purged, "told": is_told })),
            Err(error) => Answer::json(StatusCode::BAD_REQUEST, &json!({ "error": error })),
        }
    }

    async fn reload(&self) -> Answer {
        let (asker, outcome) = oneshot::channel();
        let told = self.orders.send(Order::Reload(asker)).await.is_ok();
        match outcome.await {
            Ok(Ok(version)) => Answer::json(StatusCode::OK, &json!({ "version": version })),
            Ok(Err(error)) => {
                Answer::json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "version": self.snapshot.load().meta.version, "error": error }))
            }
            Err(_) => {
                Answer::json(StatusCode::CONFLICT, &json!({ "error": if told { "the gateway is draining" } else { "the gateway ends" } }))
            }
        }
    }

    async fn upgrade(&self) -> Answer {
        let (asker, outcome) = oneshot::channel();
        // A refusal is seen by the silence.
        let _ = self.orders.send(Order::Upgrade(asker)).await;
        match outcome.await {
            Ok(Ok(pid)) => Answer::json(StatusCode::OK, &json!({ "pid": pid, "old_pid": std::process::id() })),
            Ok(Err(error)) => Answer::json(StatusCode::UNPROCESSABLE_ENTITY, &json!({ "pid": std::process::id(), "error": error })),
            Err(_) => Answer::json(StatusCode::CONFLICT, &json!({ "error": "the gateway ends" })),
        }
    }

    async fn tell(&self, order: Order, said: &str) -> Answer {
        match self.orders.send(order).await {
            Ok(()) => Answer::text(StatusCode::ACCEPTED, said),
            Err(_) => Answer::text(StatusCode::CONFLICT, "the gateway ends\n"),
        }
    }

    /// Without a token, a request needs a loopback Host: a web page that points its own name at this machine has not.
    fn refused(&self, session: &ServerSession) -> Option<Answer> {
        let field = |name| session.get_header(name).and_then(|value| value.to_str().ok());
        if session.req_header().method == Method::POST
            && field(ORIGIN).is_some_and(|origin| origin.split_once("://").map(|(_, host)| host) != field(HOST))
        {
            return Some(Answer::text(StatusCode::FORBIDDEN, "a page of another origin can't do this\n"));
        }
        let Some(token) = self.process.token() else {
            let host = field(HOST).unwrap_or_default();
            return (!is_loopback(host)).then(|| Answer::text(StatusCode::FORBIDDEN, "the Host is not this machine's loopback name\n"));
        };
        let given = session.get_header(AUTHORIZATION).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let is_right = given
            .split_at_checked(7)
            .is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(token.as_bytes())));
        (!is_right).then(|| Answer::text(StatusCode::UNAUTHORIZED, "a token is needed\n"))
    }
}

/// Notes what is to be forgotten; whether the name is known.
fn want(wanted: &mut Wanted, name: &str, text: Option<String>, is_set: bool) -> bool {
    match name {
        "url" => wanted.url = text,
        "prefix" => wanted.prefix = text,
        "tag" => wanted.tag = text,
        "all" => wanted.all = is_set,
        "soft" => wanted.soft = is_set,
        _ => return false,
    }
    true
}

/// What of a JSON body is read.
const BODY_BYTES_MAX: usize = 64 << 10;

/// A JSON body; null where there is none that could be read.
async fn body(session: &mut ServerSession) -> Value {
    let mut bytes = Vec::new();
    while let Ok(Some(more)) = session.read_request_body().await {
        bytes.extend_from_slice(&more);
        if bytes.len() > BODY_BYTES_MAX {
            return Value::Null;
        }
    }
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

fn is_loopback(host: &str) -> bool {
    let name = crate::route::host::name(host);
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The dashboard is one page that fetches nothing from elsewhere; nothing else here is a page.
const POLICY: &str =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";

/// The parameters of a query, decoded.
fn parameters(query: &str) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode_parameter(name), decode_parameter(value))).collect()
}

/// What can be read.
const READ: &[&str] = &["/healthz", "/readyz", "/metrics", "/status", "/config", "/routes", "/explain", "/refusals", "/"];
/// What can be told.
const TOLD: &[&str] = &["/endpoint", "/purge", "/reload", "/upgrade", "/drain", "/stop"];

fn allowed(path: &str) -> Option<&'static [Method]> {
    match path {
        _ if READ.contains(&path) => Some(&[Method::GET, Method::HEAD]),
        _ if TOLD.contains(&path) => Some(&[Method::POST]),
        _ => None,
    }
}

struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: String,
    /// The methods that are served.
    allow: Option<&'static [Method]>,
}

impl Answer {
    fn new(status: StatusCode, kind: &'static str, body: String) -> Answer {
        Answer { status, kind, body, allow: None }
    }
    fn json(status: StatusCode, body: &Value) -> Answer {
        Answer::new(status, "application/json", format!("{body:#}\n"))
    }
    fn text(status: StatusCode, body: &str) -> Answer {
        Answer::new(status, "text/plain; charset=utf-8", body.to_string())
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let answer = self.answer(session).await;
        let mut response = Response::builder()
            .status(answer.status)
            .header(CONTENT_TYPE, answer.kind)
            .header(CONTENT_LENGTH, answer.body.len())
            .header(CACHE_CONTROL, "no-store")
            .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
            .header(X_FRAME_OPTIONS, "DENY")
            .header(CONTENT_SECURITY_POLICY, POLICY);
        if let Some(allow) = answer.allow {
            response = response.header(ALLOW, allow.iter().map(Method::as_str).collect::<Vec<_>>().join(", "));
        }
        if answer.status == StatusCode::UNAUTHORIZED {
            response = response.header(WWW_AUTHENTICATE, "Bearer");
        }
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
