//! `services`.

use super::{Breaker, Ejection, Fallback, FilePath, HealthCheck, Retries, SrvName};
use crate::config::scalar::HostPort;
use crate::config::schema::{self, Parts};
use crate::config::shape::{Bound, Node, Number, Patience, Shape, choice, record};
use serde_json::{Value as Json, json};
use serde_yaml::Value;
use std::time::Duration;

record! {
    pub struct Service {
        endpoints: Vec<Option<Endpoint>> = Vec::new(),
        /// Instead of or beside them: a name and a port, resolved again and again.
        dns: Option<HostPort> = None,
        /// Likewise: a name whose SRV records say hosts, ports, priorities and weights.
        srv: Option<SrvName> = None,
        /// Likewise: a file with a list like `endpoints`, read again when it changes.
        endpoints_file: Option<FilePath> = None,
        protocol: Protocol = Protocol::Http1,
        /// What Host becomes; the client's Host is kept when absent.
        host: Option<String> = None,
        /// TLS towards the service; plaintext when absent.
        tls: Option<ServiceTls> = None,
        balance: Balance = Balance::LeastRequest,
        timeouts: Timeouts = Timeouts::default(),
        keepalive: Keepalive = Keepalive::default(),
        /// Requests at once, over all routes.
        max_in_flight: Option<Number<1, 10_000_000>> = None,
        /// Those above it that wait, before 503.
        queue: Option<Queue> = None,
        retries: Retries = Retries::default(),
        ejection: Ejection = Ejection::default(),
        /// How long an endpoint that is back, or new, takes to come up to its full share.
        slow_start: Option<Duration> = None,
        /// Brings a client back to the endpoint that it has been to. Off when absent.
        sticky: Option<Sticky> = None,
        /// Asks endpoints whether they are well. Off when absent.
        health_check: Option<HealthCheck> = None,
        /// Leaves a service alone that fails as a whole. Off when absent.
        breaker: Option<Breaker> = None,
        /// What clients get while it is left alone, or has no endpoint: a service, `stale`, or `{ respond: … }`; 503 when absent.
        fallback: Option<Fallback> = None,
    }
}

record! {
    pub struct Queue {
        size: Number<1, 1_000_000>,
        /// How long one may wait.
        timeout: Duration = Duration::from_secs(1),
    }
}

choice! {
    pub enum Protocol { "http1" => Http1, "h2" => H2, "h2c" => H2c, }
}

/// `host:port`, or a map with more.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: HostPort,
    pub weight: u32,
    pub zone: Option<String>,
}

impl Shape for Endpoint {
    fn read(node: &Node<'_>) -> Option<Self> {
        if !matches!(node.value, Value::Mapping(_)) {
            return HostPort::read(node).map(|address| Endpoint { address, weight: 1, zone: None });
        }
        let map = node.map()?;
        let address = map.required("address");
        let weight: Number<1, 1_000> = map.optional("weight", || Number(1));
        let zone: Option<String> = map.optional("zone", || None);
        map.finish();
        Some(Endpoint { address: address?, weight: u32::try_from(weight.0).ok()?, zone })
    }

    fn schema(parts: &mut Parts) -> Json {
        let address = HostPort::schema(parts);
        let map = schema::record(parts, "Endpoint", &["A copy of the service."], |parts, fields| {
            fields.add::<HostPort>(parts, "address", &["Its host and port."], None);
            fields.add(parts, "weight", &["Its share of the requests, relative to the others'."], Some(Number::<1, 1_000>(1)));
            fields.add::<Option<String>>(
                parts,
                "zone",
                &["Where it stands: those of the gateway's own `server.zone` go first."],
                Some(None),
            );
        });
        json!({ "anyOf": [address, map] })
    }
}

record! {
    pub struct ServiceTls {
        /// A PEM file with the authorities that are trusted; the system's when absent.
        ca: Option<FilePath> = None,
        /// The name that is asked for and verified; the endpoint's host when absent.
        sni: Option<String> = None,
        /// A client certificate, a PEM file.
        cert: Option<FilePath> = None,
        /// Its key, a PEM file.
        key: Option<FilePath> = None,
        verify: bool = true,
    }
}

/// How an endpoint is chosen among those that are well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    LeastRequest,
    Random,
    Hash(HashBy),
}

/// What requests have in common that go to the same endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    ClientIp,
    Identity,
    Header(http::HeaderName),
    Cookie(String),
}

impl Shape for Balance {
    fn read(node: &Node<'_>) -> Option<Self> {
        if matches!(node.value, Value::Mapping(_)) {
            let map = node.map()?;
            let by = map.required("hash").map(Balance::Hash);
            map.finish();
            return by;
        }
        match node.word(&["least_request", "round_robin", "random"])?.as_str() {
            "round_robin" => Some(Balance::RoundRobin),
            "random" => Some(Balance::Random),
            _ => Some(Balance::LeastRequest),
        }
    }

    fn schema(parts: &mut Parts) -> Json {
        let words = schema::words(&["least_request", "round_robin", "random"]);
        let hash = json!({ "type": "object", "properties": { "hash": HashBy::schema(parts) }, "required": ["hash"], "additionalProperties": false });
        json!({ "anyOf": [words, hash] })
    }

    fn written(&self) -> Option<Json> {
        match self {
            Balance::LeastRequest => Some("least_request".into()),
            Balance::RoundRobin => Some("round_robin".into()),
            Balance::Random => Some("random".into()),
            Balance::Hash(_) => None,
        }
    }
}

fn hash_by(text: &str) -> Result<HashBy, String> {
    match (text, text.split_once(':')) {
        ("client_ip", _) => Ok(HashBy::ClientIp),
        ("identity", _) => Ok(HashBy::Identity),
        (_, Some(("header", name))) => name.parse().map(HashBy::Header).map_err(|_| format!("`{name}` is not a header field's name")),
        (_, Some(("cookie", name))) if !name.is_empty() => Ok(HashBy::Cookie(name.to_string())),
        _ => Err(format!("`{text}` is not something to hash")),
    }
}

impl Shape for HashBy {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("one of client_ip, identity, header:NAME and cookie:NAME", "client_ip", hash_by)
    }

    fn schema(_: &mut Parts) -> Json {
        schema::text("^(client_ip|identity|header:.+|cookie:.+)$", "client_ip")
    }
}

record! {
    /// A cookie that brings a client back to its endpoint.
    pub struct Sticky {
        /// Its name; `fd_` and the service's when absent.
        cookie: Option<String> = None,
        /// How long it lasts.
        ttl: Duration = Duration::from_secs(3_600),
    }
}

record! {
    /// How long a service, or a route's part of it, may take.
    #[derive(Default)]
    pub struct Timeouts {
        connect: Option<Patience> = None,
        /// Silence of the service while we wait for it.
        read: Option<Patience> = None,
        /// Without taking what we send.
        write: Option<Patience> = None,
        /// From the request's head to the answer's, attempts and backoff included; or `none`.
        total: Option<Bound> = None,
    }
}

record! {
    /// Connections to the service that are kept for the next request.
    pub struct Keepalive {
        idle: Duration = Keepalive::default().idle,
        connections: Number<0, 1_000_000> = Keepalive::default().connections,
        /// How often a service that speaks HTTP/2 is sent a PING; one that doesn't answer it within 5 s is left. Not at all when
        /// absent: gRPC servers by default take more than one in 5 minutes for an attack.
        ping: Bound = Bound(None),
    }
}

impl Default for Keepalive {
    fn default() -> Self {
        Keepalive { idle: Duration::from_secs(60), connections: Number(128), ping: Bound(None) }
    }
}
