//! One request and its answer: what the hooks hand on to each other.

use super::account::{self, Begun};
use super::caching::{Behalf, Caching};
use super::connection::{Connection, InFlight};
use super::deadline::{self, Deadline};
use super::mirror::Copied;
use super::pace::Pace;
use super::shaped::Outbound;
use super::shaping::Inbound;
use super::tunnel::Carried;
use crate::auth::{Answered, Method};
use crate::limit::{Pass, Verdict, Waits};
use crate::observe::RouteMetrics;
use crate::route::{Captures, host};
use crate::shape::answer::Respond;
use crate::shape::encode::Encoder;
use crate::shape::forward::{NO_ID, Origin, Trace};
use crate::shape::json;
use crate::shape::template::{Value, Values, Variable, decode_parameter, write_plain};
use crate::snapshot::{Action, Fallback, Route, ServiceEntry, Snapshot};
use crate::types::{Identity, Refusal, RouteId};
use crate::upstream::{Admitted, Picked, Timeouts};
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use pingora::http::RequestHeader;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Of a request whose connection is not known yet, and which nobody watches.
static NOBODY_WAITS: LazyLock<Arc<Deadline>> = LazyLock::new(Arc::default);

pub struct Exchange {
    pub snapshot: Arc<Snapshot>,
    pub started: Instant,
    /// Where the connection and its deadline are known: always, but for requests of Pingora's own making.
    pub in_flight: Option<InFlight>,
    pub deadline: Arc<Deadline>,
    pub origin: Origin,
    pub id: HeaderValue,
    pub trace: Trace,
    /// The version of TLS; empty on plaintext.
    pub tls: &'static str,
    /// The client speaks HTTP/2.
    pub is_h2: bool,
    /// It failed at the service and was answered in whole: its connection is fit for another request.
    pub goes_on: bool,
    pub route: Option<RouteId>,
    /// Until the request is written down.
    pub begun: Option<Begun>,
    /// Who was recognised.
    pub identity: Option<Arc<Identity>>,
    /// The method that decided who may come.
    pub auth: Option<Arc<Method>>,
    /// Another service's answer, which takes the place of a refusal.
    pub relayed: Option<Box<Answered>>,
    /// Which of the route's services gets the request.
    pub choice: usize,
    /// For the route's mirror, if it has one.
    pub copied: Option<Box<Copied>>,
    /// The service that takes the place of the route's own.
    pub detour: Option<Box<(Arc<ServiceEntry>, Timeouts)>>,
    /// Byte ranges of the normalised path.
    pub captures: Captures,
    /// What the route's limits said.
    pub verdict: Option<Verdict>,
    /// Where the route has a cap, and where the service has one.
    pub pass_of_route: Option<Pass>,
    pub pass_of_service: Option<Pass>,
    /// The service would not have it, which is said when the cache has nothing either.
    pub turned_away: Option<Refusal>,
    /// When a gRPC client gives up, in `deadline::now()`'s time; 0 for never.
    pub grpc_due: u64,
    /// Counted as waiting for its service, where overload is watched.
    pub waits: Option<Waits>,
    pub refusal: Option<Refusal>,
    /// One of a flood, which is not written down.
    pub is_flood: bool,
    /// gRPC, an event stream or a tunnel: either side may be silent for long.
    pub is_long_lived: bool,
    pub body: Body,
    pub attempt: Attempt,
    /// What the cache has to do with it, where the route has one.
    pub caching: Option<Box<Caching>>,
    /// What came of asking the store without Pingora's cache, see `hit` and `compose::kept`; in the words of log and metrics.
    pub at_store: Option<&'static str>,
    /// It serves nobody who waits; on whose behalf it began.
    pub on_behalf_of: Option<Behalf>,
    /// Bodies that are held until they are whole, where the route changes them.
    pub body_in: Option<Box<Inbound>>,
    pub body_out: Option<Box<Outbound>>,
    /// Codes the answer's body.
    pub encoder: Option<Encoder>,
    /// What a WebSocket tunnel carried.
    pub tunnel: Option<Carried>,
}

/// The request's body, as far as it has come. Begins anew with each attempt.
#[derive(Default)]
pub struct Body {
    pub bytes: u64,
    pub is_done: bool,
    pub pace: Pace,
}

/// The attempts at a service.
#[derive(Default)]
pub struct Attempt {
    pub picked: Option<Picked>,
    /// By the service's breaker, if there is one.
    pub admitted: Option<Admitted>,
    /// The breaker was asked, and said yes.
    pub has_asked: bool,
    pub tried: Vec<SocketAddr>,
    pub count: usize,
    pub started: Option<Instant>,
    /// In `deadline::now()`'s time; 0 for never. All attempts share it.
    pub total_due: u64,
    /// When the head of this attempt's answer is due, likewise.
    pub due: u64,
    /// Before the next one.
    pub pause: Option<Duration>,
    /// Its answer is a failure that the client does not get to see.
    pub is_rejected: bool,
    /// The head of the final answer is here.
    pub is_answered: bool,
    /// A body may follow that its head leaves no room for.
    pub leaves_more: bool,
    /// What became of it is counted.
    pub is_counted: bool,
    /// Its connection was used before.
    pub is_reused: bool,
    pub interim: u32,
    /// The last one may have met a connection that had been kept too long.
    pub was_stale: bool,
    /// How many did.
    pub stale: usize,
    /// From the first attempt to the end of the answer.
    pub upstream: Duration,
}

impl Attempt {
    /// Until the head of its answer is due; `None` is without end.
    pub fn left(&self) -> Option<Duration> {
        (self.due > 0).then(|| Duration::from_millis(self.due.saturating_sub(deadline::now()).max(1)))
    }

    /// Since this attempt began.
    pub fn elapsed(&self) -> Duration {
        self.started.map(|at| at.elapsed()).unwrap_or_default()
    }
}

/// Ended by its hooks, it has been written down.
impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(begun) = self.begun.take() {
            account::abandoned(self, &begun);
        }
    }
}

impl Exchange {
    pub fn new(snapshot: Arc<Snapshot>) -> Exchange {
        let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Exchange {
            snapshot,
            started: Instant::now(),
            in_flight: None,
            deadline: NOBODY_WAITS.clone(),
            origin: Origin { client_ip: nobody, peer_ip: nobody, is_trusted: false },
            id: NO_ID,
            trace: Trace::NONE,
            tls: "",
            is_h2: false,
            goes_on: false,
            route: None,
            begun: None,
            identity: None,
            auth: None,
            relayed: None,
            choice: 0,
            copied: None,
            detour: None,
            captures: Captures::new(),
            verdict: None,
            pass_of_route: None,
            pass_of_service: None,
            turned_away: None,
            grpc_due: 0,
            waits: None,
            refusal: None,
            is_flood: false,
            is_long_lived: false,
            body: Body::default(),
            attempt: Attempt::default(),
            caching: None,
            at_store: None,
            on_behalf_of: None,
            body_in: None,
            body_out: None,
            encoder: None,
            tunnel: None,
        }
    }

    pub fn connection(&self) -> Option<&Arc<Connection>> {
        self.in_flight.as_ref().map(InFlight::connection)
    }

    pub fn route(&self) -> Option<&Route> {
        self.route.and_then(|id| self.snapshot.routes.get(id.0 as usize))
    }

    /// The route's service, when it forwards, or the one that takes its place.
    pub fn service(&self) -> Option<(&Arc<ServiceEntry>, &Timeouts)> {
        if let Some(detour) = &self.detour {
            return Some((&detour.0, &detour.1));
        }
        match &self.route()?.action {
            Action::Forward(forward) => forward.get(self.choice),
            Action::Redirect(_) | Action::Respond(_) | Action::Compose(_) => None,
        }
    }

    /// The answer that takes the place of a refusal because of a service to which nothing can be sent.
    pub fn fallback(&self, refusal: &Refusal) -> Option<&Respond> {
        let is_for_it = matches!(refusal, Refusal::BreakerOpen(_) | Refusal::NoEndpoint);
        match &self.service().filter(|_| is_for_it)?.0.fallback {
            Some(Fallback::Respond(respond)) => Some(respond),
            Some(Fallback::Service(_)) | None => None,
        }
    }

    pub fn is_tls(&self) -> bool {
        !self.tls.is_empty()
    }

    /// What the one who was recognised is called; nothing when nobody was.
    pub fn identity_name(&self) -> &str {
        self.identity.as_ref().map_or("", |identity| &identity.name)
    }

    /// The request's id.
    pub fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// The route's metrics, or those of requests without one.
    pub fn metrics(&self) -> &RouteMetrics {
        self.route().map_or(&self.snapshot.no_route, |route| &route.metrics)
    }
}

/// The host of a request, with its port: `:authority` or the Host field.
pub fn authority(head: &RequestHeader) -> &str {
    let from_field = || head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    head.uri.authority().map(http::uri::Authority::as_str).or_else(from_field).unwrap_or_default()
}

/// Path and query; empty where a target has neither.
pub fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("", PathAndQuery::as_str)
}

/// An exchange with its head, which templates take their values from.
pub struct Seen<'a> {
    pub exchange: &'a Exchange,
    pub head: &'a RequestHeader,
}

impl Values for Seen<'_> {
    fn value(&self, variable: &Variable) -> Value<'_> {
        let path = self.head.uri.path();
        let captured = |index: usize| self.exchange.captures.get(index).and_then(|(from, to)| path.get(*from..*to)).unwrap_or_default();
        let plain = |text: &'_ str| Value::Plain(Cow::Owned(text.to_string()));
        match variable {
            Variable::Route => plain(self.exchange.route().map_or("", |route| &route.name)),
            Variable::ClientIp => plain(&self.exchange.origin.client_ip.to_string()),
            Variable::Identity => plain(self.exchange.identity_name()),
            Variable::Claim(path) => {
                let identity = self.exchange.identity.as_ref();
                Value::Plain(identity.and_then(|identity| identity.claim_text(path)).unwrap_or_default())
            }
            Variable::RequestId => plain(self.exchange.id()),
            // Without its port, which is seldom that of the place a redirect leads to. It is checked: it can stand in a URL as it is.
            Variable::Host => Value::Path(host::name(authority(self.head)).into()),
            Variable::Path => Value::Path(path.into()),
            Variable::Rest => Value::Path(captured(self.exchange.captures.len().saturating_sub(1)).into()),
            Variable::Capture(index) => Value::Path(captured(*index).into()),
            Variable::Query(name) => Value::Plain(query(self.head.uri.query().unwrap_or_default(), name)),
            // Those that compose have values of their own for them.
            Variable::Call(..) | Variable::Item(_) | Variable::Body(_) => Value::Plain(Cow::Borrowed("")),
            Variable::Header(name) => {
                let field = self.head.headers.get(name);
                Value::Plain(field.map_or(Cow::Borrowed(""), |value| String::from_utf8_lossy(value.as_bytes())))
            }
        }
    }

    fn json(&self, variable: &Variable, out: &mut Vec<u8>) {
        match variable {
            Variable::Claim(path) => {
                let claim = self.exchange.identity.as_ref().and_then(|identity| identity.claim(path));
                out.extend_from_slice(claim.map_or_else(|| json::NULL.to_string(), ToString::to_string).as_bytes());
            }
            other => write_plain(&self.value(other), out),
        }
    }
}

/// The first parameter of that name, decoded.
fn query<'a>(query: &'a str, name: &str) -> Cow<'a, str> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut named = pairs.filter(|(key, _)| decode_parameter(key) == name);
    named.next().map_or(Cow::Borrowed(""), |(_, value)| decode_parameter(value))
}

/// Puts a normalised target in place.
pub fn set_target(head: &mut RequestHeader, target: &str) -> Result<(), http::Error> {
    let mut parts = head.uri.clone().into_parts();
    parts.path_and_query = Some(target.parse()?);
    head.set_uri(http::Uri::from_parts(parts)?);
    Ok(())
}
