//! `services`.

use super::{Ejection, FilePath, Retries};
use crate::config::scalar::HostPort;
use crate::config::schema::{self, Parts};
use crate::config::shape::{Node, Number, Shape, choice, record};
use serde_json::{Value as Json, json};
use serde_yaml::Value;
use std::time::Duration;

record! {
    pub struct Service {
        endpoints: Vec<Option<Endpoint>>,
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
    }
    later ["dns", "srv", "sticky", "health_check", "breaker", "fallback", "endpoints_file", "zone"];
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
}

impl Shape for Endpoint {
    fn read(node: &Node<'_>) -> Option<Self> {
        if !matches!(node.value, Value::Mapping(_)) {
            return HostPort::read(node).map(|address| Endpoint { address, weight: 1 });
        }
        let map = node.map()?;
        let address = map.required("address");
        let weight: Number<1, 1_000> = map.optional("weight", || Number(1));
        map.finish(&["zone"]);
        Some(Endpoint { address: address?, weight: u32::try_from(weight.0).ok()? })
    }

    fn schema(parts: &mut Parts) -> Json {
        let address = HostPort::schema(parts);
        let map = schema::record(parts, "Endpoint", &["A copy of the service."], |parts, fields| {
            fields.add::<HostPort>(parts, "address", &["Its host and port."], None);
            fields.add(parts, "weight", &["Its share of the requests, relative to the others'."], Some(Number::<1, 1_000>(1)));
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

choice! {
    pub enum Balance {
        "round_robin" => RoundRobin,
        "least_request" => LeastRequest,
    }
    later ["random"];
}

record! {
    /// How long a service, or a route's part of it, may take.
    #[derive(Default)]
    pub struct Timeouts {
        connect: Option<Duration> = None,
        /// Silence of the service while we wait for it.
        read: Option<Duration> = None,
        /// Without taking what we send.
        write: Option<Duration> = None,
        /// From the request's head to the answer's, attempts and backoff included.
        total: Option<Duration> = None,
    }
}

record! {
    /// Connections to the service that are kept for the next request.
    pub struct Keepalive {
        idle: Duration = Keepalive::default().idle,
        connections: Number<0, 1_000_000> = Keepalive::default().connections,
        /// How often a service that speaks HTTP/2 is sent a PING; one that doesn't answer it within 5 s is left. Not at all when
        /// absent: gRPC servers by default take more than one in 5 minutes for an attack.
        ping: Option<Duration> = None,
    }
}

impl Default for Keepalive {
    fn default() -> Self {
        Keepalive { idle: Duration::from_secs(60), connections: Number(128), ping: None }
    }
}
