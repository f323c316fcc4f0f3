//! Where to? Services, their pools of endpoints, and the peer of one attempt.
//!
//! This room owns the choice of an endpoint and what is counted of each. State that outlives a reload is kept by
//! service name and address in [`States`].

mod ask;
pub mod backlog;
mod balance;
mod breaker;
mod carried;
pub mod clock;
mod discover;
mod endpoint;
mod health;
pub mod keepalive;
mod names;
mod peer;
mod pool;
pub mod retry;
mod ring;
mod source;
mod split;
mod states;
mod sticky;
#[cfg(test)]
mod testing;
mod trust;

pub use split::{Split, of_address, of_name};
pub use sticky::Keys;
pub use trust::system_authorities;

pub use ask::{Answer, Request, final_head};
pub use breaker::Admitted;
pub use discover::Finding;
pub use endpoint::{Endpoint, EndpointState, Standing};
pub use names::Names;
pub use pool::{Picked, Pool, Set, Wanted};
pub use states::States;

use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use crate::types::fields::authority;
use http::{HeaderValue, Method};
use pingora::connectors::http::Connector;
use pingora::upstreams::peer::HttpPeer;
use source::Source;
use states::ServiceState;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sticky::Sticky;

/// A service as the routes see it.
#[derive(Debug)]
pub struct Service {
    /// Its name, or its URL when a route names that.
    pub name: Arc<str>,
    /// What Host becomes; the client's is kept when `None`.
    pub host: Option<HeaderValue>,
    pub timeouts: Timeouts,
    pub is_h2: bool,
    /// Connections are kept for the next request.
    pub is_kept_alive: bool,
    pub pool: Pool,
    pub retries: retry::Policy,
    /// What requests have in common that go to the same endpoint, where that is asked for.
    pub hash_by: Option<raw::HashBy>,
    checks: Option<health::Checks>,
    /// Whom to ask for its endpoints.
    names: Arc<Names>,
    breaker: Option<breaker::Limits>,
    template: peer::Template,
}

/// What came of a question of our own.
pub struct Asked {
    pub answer: Result<Answer, retry::Failure>,
    pub picked: Picked,
    pub took: Duration,
}

/// How long one exchange with a service may take; `None` is without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub read: Duration,
    pub write: Duration,
    /// From the request's head to the answer's.
    pub total: Option<Duration>,
}

impl Timeouts {
    const DEFAULT: Timeouts =
        Timeouts { connect: Duration::from_secs(2), read: Duration::from_secs(60), write: Duration::from_secs(30), total: None };

    /// What `raw` says, field by field, else what stands here.
    pub fn or(self, raw: &raw::Timeouts) -> Timeouts {
        Timeouts {
            connect: raw.connect.map_or(self.connect, |connect| connect.0),
            read: raw.read.map_or(self.read, |read| read.0),
            write: raw.write.map_or(self.write, |write| write.0),
            total: raw.total.map_or(self.total, |total| total.0),
        }
    }
}

/// What all services are built on.
pub struct Ground<'a> {
    /// What sticky cookies are signed with.
    pub keys: Keys,
    /// Where the gateway stands.
    pub zone: Option<&'a str>,
    pub names: Arc<Names>,
    pub states: &'a States,
}

impl Ground<'_> {
    /// Asks where the endpoints of these services are, as far as that is not known. What is heard is kept as long as the answer.
    pub fn survey<'a>(&self, services: impl Iterator<Item = (&'a str, &'a raw::Service)>) -> Surveyed {
        let asked: Vec<_> = services.map(|(name, raw)| (self.states.service(name), Source::all(raw, self.zone))).collect();
        discover::ask_first(&asked, &self.names);
        Surveyed(asked)
    }
}

/// Keeps what was heard until the services are built.
pub struct Surveyed(#[expect(dead_code, reason = "held only")] Vec<(Arc<ServiceState>, Vec<Source>)>);

impl Service {
    /// Builds a service that is named in the configuration, and whose endpoints were asked for. `None` means that a problem was
    /// reported.
    pub fn build(name: &str, raw: &raw::Service, ground: &Ground<'_>, at: &At<'_>, problems: &Problems) -> Option<Service> {
        let host = match &raw.host {
            None => Some(None),
            Some(host) => match HeaderValue::from_str(host).ok().filter(|_| authority(host.as_bytes()).is_some()) {
                None => problems.at(
                    &at.key("host"),
                    format!("`{host}` is not a host"),
                    "services are asked for it",
                    "write `name` or `name:port`",
                ),
                value => Some(value),
            },
        };
        let template = peer::Template::build(name, raw, at, problems);
        let sticky = match &raw.sticky {
            None => Some(None),
            Some(sticky) => Sticky::build(sticky, name, &ground.keys, &at.key("sticky"), problems).map(Some),
        };
        let is_sticky_sound = sticky.is_some();
        let pool = Pool::build(raw, sticky.flatten(), ground.zone, at, ground.states.service(name), problems);
        let checks =
            raw.health_check.as_ref().map(|raw_check| health::Checks::build(raw_check, raw.protocol, &at.key("health_check"), problems));
        Some(Service {
            checks: checks.map_or(Some(None), |checks| checks.map(Some))?,
            hash_by: match &raw.balance {
                raw::Balance::Hash(by) => Some(by.clone()),
                raw::Balance::RoundRobin | raw::Balance::LeastRequest | raw::Balance::Random => None,
            },
            breaker: raw.breaker.as_ref().map(breaker::Limits::new),
            name: name.into(),
            names: ground.names.clone(),
            host: host?,
            timeouts: Timeouts::DEFAULT.or(&raw.timeouts),
            is_h2: raw.protocol != raw::Protocol::Http1,
            is_kept_alive: raw.keepalive.connections.0 > 0,
            pool: pool.filter(|_| is_sticky_sound)?,
            retries: retry::Policy::new(&raw.retries),
            template: template?,
        })
    }

    /// Builds the service of a route that names a URL: one endpoint, and the URL's own host when it is https.
    pub fn of_url(
        url: &crate::config::scalar::Url,
        names: &Arc<Names>,
        at: &At<'_>,
        states: &States,
        problems: &Problems,
    ) -> Option<Service> {
        let scheme = if url.tls { "https" } else { "http" };
        let tls = raw::ServiceTls { ca: None, sni: None, cert: None, key: None, verify: true };
        let raw = raw::Service {
            endpoints: vec![Some(raw::Endpoint { address: url.address.clone(), weight: 1, zone: None })],
            protocol: raw::Protocol::Http1,
            host: url.tls.then(|| url.authority.clone()),
            tls: url.tls.then_some(tls),
            balance: raw::Balance::LeastRequest,
            timeouts: raw::Timeouts::default(),
            keepalive: raw::Keepalive::default(),
            max_in_flight: None,
            queue: None,
            retries: raw::Retries::default(),
            ejection: raw::Ejection::default(),
            slow_start: None,
            dns: None,
            srv: None,
            endpoints_file: None,
            sticky: None,
            health_check: None,
            breaker: None,
            fallback: None,
        };
        let name = format!("{scheme}://{}", url.authority);
        let ground = Ground { keys: Keys::new(&[], b""), zone: None, names: names.clone(), states };
        let _known = ground.survey(std::iter::once((&*name, &raw)));
        Service::build(&name, &raw, &ground, at, problems)
    }

    /// A request comes: it is counted for what may be tried again.
    pub fn begin(&self) {
        self.pool.state.budget.earn(self.retries.percent);
    }

    /// Lets a request through where there is a breaker.
    ///
    /// # Errors
    /// The service is left alone; the seconds until another try makes sense.
    pub fn admit(&self) -> Result<Option<Admitted>, u32> {
        self.breaker.as_ref().map(|limits| Admitted::new(&self.pool.state, limits, &self.name)).transpose()
    }

    /// Whether nothing is sent to it; `None` where there is no breaker.
    pub fn is_open(&self) -> Option<bool> {
        self.breaker.is_some().then(|| self.pool.state.breaker.is_open())
    }

    /// What those say that are asked for its endpoints.
    pub fn told(&self) -> Vec<Finding> {
        discover::told(self)
    }

    /// Looks after the endpoints for as long as it is polled.
    pub async fn keep(self: Arc<Self>, connector: Arc<Connector>) {
        tokio::join!(health::watch(self.clone(), connector), discover::watch(self));
    }

    /// Whether the service may be sent one more attempt now, which is counted.
    pub fn spend_retry(&self) -> bool {
        self.retries.percent > 0 && self.pool.state.budget.spend()
    }

    /// Whether a connection of HTTP/1 is to end behind a request: also where the answer may have a body that it must not have, which would be
    /// taken for the next one's.
    pub fn closes_behind(&self, method: &Method) -> bool {
        !self.is_h2 && (*method == Method::HEAD || !self.is_kept_alive)
    }

    /// Asks one of the endpoints something of our own, once, and tells the breaker what came of it; `None` where nobody was asked,
    /// since the service is left alone or has no endpoint.
    pub async fn ask(&self, connector: &Connector, timeouts: &Timeouts, request: Request, body_max: usize) -> Option<Asked> {
        let admitted = self.admit().ok()?;
        let picked = self.pool.pick(&[])?;
        let mut peer = self.peer(&picked, timeouts);
        peer.options.read_timeout = Some(timeouts.read);
        let started = Instant::now();
        let asked = ask::ask(connector, &peer, request, body_max);
        let answer = match tokio::time::timeout(timeouts.connect + timeouts.read, asked).await {
            Ok(answer) => answer.map_err(|e| retry::Failure::of(&e)),
            Err(_) => Err(retry::Failure::Timeout),
        };
        let took = started.elapsed();
        if let Some(admitted) = admitted {
            let is_error = answer.as_ref().map_or(true, |answer| answer.head.status.is_server_error());
            admitted.end(is_error, took);
        }
        Some(Asked { answer, picked, took })
    }

    /// The peer of one attempt.
    pub fn peer(&self, picked: &Picked, timeouts: &Timeouts) -> Box<HttpPeer> {
        self.peer_of(picked.endpoint(), timeouts)
    }

    /// The same; its connection comes from those that are kept, where that can be.
    pub fn kept_peer(&self, picked: &Picked, timeouts: &Timeouts) -> Box<HttpPeer> {
        self.template.kept_peer(picked.endpoint(), timeouts)
    }

    fn peer_of(&self, endpoint: &Endpoint, timeouts: &Timeouts) -> Box<HttpPeer> {
        self.template.peer(endpoint, timeouts)
    }
}
