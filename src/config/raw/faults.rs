//! What a service's faults lead to: another attempt, an endpoint that rests.

use super::words::Method;
use crate::config::schema::{self, Parts};
use crate::config::shape::{Bound, Node, Number, OneOrMany, Shape, choice, record};
use serde_json::{Value as Json, json};
use serde_yaml::Value;
use std::time::Duration;

record! {
    /// When a failed attempt is made again, at another endpoint.
    pub struct Retries {
        /// All tries, the first included.
        attempts: Number<1, 10> = Retries::default().attempts,
        /// What they are made after.
        when: OneOrMany<RetryOn> = Retries::default().when,
        /// Whose requests may be sent twice. What was never sent may be always.
        methods: OneOrMany<RetryMethods> = Retries::default().methods,
        /// Of the service's requests, how many there may be beside the first ten.
        budget_percent: Number<0, 1_000> = Retries::default().budget_percent,
        /// The longest pause before the first of them; it doubles with each, and what is waited is a random part of it.
        backoff: Duration = Retries::default().backoff,
        /// From an attempt's begin to the head of its answer. One that takes longer is given up for the next.
        per_try: Bound = Bound(None),
    }
}

impl Default for Retries {
    fn default() -> Self {
        Retries {
            attempts: Number(2),
            when: OneOrMany(vec![RetryOn::Connect, RetryOn::Reset]),
            methods: OneOrMany(vec![RetryMethods::Safe]),
            budget_percent: Number(20),
            backoff: Duration::from_millis(25),
            per_try: Bound(None),
        }
    }
}

choice! {
    pub enum RetryOn {
        /// No connection could be made.
        "connect" => Connect,
        /// It broke before an answer.
        "reset" => Reset,
        /// That status, and an answer that can't be read.
        "502" => BadGateway,
        "503" => Unavailable,
        /// That status, and no answer within `timeouts.read`.
        "504" => Timeout,
    }
}

/// Requests that may be sent twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryMethods {
    /// RFC 9110, 9.2.1.
    Safe,
    /// RFC 9110, 9.2.2.
    Idempotent,
    /// Those with the header field Idempotency-Key.
    IdempotencyKey,
    All,
    Method(http::Method),
}

impl Shape for RetryMethods {
    fn read(node: &Node<'_>) -> Option<Self> {
        let wanted = "one of safe, idempotent, idempotency_key and all, or a method in capitals";
        node.parsed(wanted, "idempotent", |text| match text {
            "safe" => Ok(RetryMethods::Safe),
            "idempotent" => Ok(RetryMethods::Idempotent),
            "idempotency_key" => Ok(RetryMethods::IdempotencyKey),
            "all" => Ok(RetryMethods::All),
            _ => Method::parse(text).map(|method| RetryMethods::Method(method.0)),
        })
    }

    fn schema(_: &mut Parts) -> Json {
        schema::text("^(safe|idempotent|idempotency_key|all|[A-Z-]+)$", "idempotent")
    }
}

record! {
    /// When an endpoint that fails is left alone for a while.
    pub struct Ejection {
        /// Connections that fail, resets, timeouts, 502 to 504, in a row.
        consecutive_failures: Number<1, 1_000_000> = Ejection::default().consecutive_failures,
        /// For how long; twice as long each time that it fails right after its return.
        base: Duration = Ejection::default().base,
        /// How many of the endpoints may be away at once, rounded down; 0 is none. The last one never is.
        max_percent: Number<0, 100> = Ejection::default().max_percent,
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Ejection { consecutive_failures: Number(5), base: Duration::from_secs(10), max_percent: Number(50) }
    }
}

record! {
    /// Asks endpoints whether they are well. One of `path`, `tcp` and `grpc`.
    pub struct HealthCheck {
        /// Asked for with GET.
        path: Option<String> = None,
        /// Whether a connection can be made is all that is asked.
        tcp: bool = false,
        /// A service's name, asked about by grpc.health.v1; empty is the server as a whole.
        grpc: Option<String> = None,
        /// What the answer's status may be; 200 to 299 when absent.
        status: Option<OneOrMany<Number<100, 599>>> = None,
        /// What Host is; the service's, else the endpoint's.
        host: Option<String> = None,
        /// What has to be in the answer's body.
        body: Option<String> = None,
        interval: Duration = Duration::from_secs(5),
        timeout: Duration = Duration::from_secs(1),
        /// So many good answers in a row make one well.
        rise: Number<1, 1_000> = Number(2),
        /// So many bad ones make it ill.
        fall: Number<1, 1_000> = Number(3),
    }
}

record! {
    /// When a service as a whole is left alone.
    pub struct Breaker {
        /// Of the requests within `window`: failures, and answers from 500 up.
        error_percent: Number<1, 100> = Number(50),
        /// With fewer requests nothing is concluded.
        min_requests: Number<1, 1_000_000> = Number(20),
        window: Duration = Duration::from_secs(10),
        /// How long nothing is sent, until one request may try again.
        open: Duration = Duration::from_secs(5),
        /// An answer that takes longer is an error too.
        slow: Bound = Bound(None),
    }
}

/// What a client gets while a service is left alone, or has no endpoint.
#[derive(Clone, Debug)]
pub enum Fallback {
    Service(String),
    Respond(super::Respond),
    /// What the route's cache still has, by its `stale_if_error`.
    Stale,
}

impl Shape for Fallback {
    fn read(node: &Node<'_>) -> Option<Self> {
        let Value::Mapping(entries) = node.value else {
            let name = node.text("a service, `stale`, or `{ respond: … }`", "orders-backup")?;
            return Some(if name == "stale" { Fallback::Stale } else { Fallback::Service(name) });
        };
        if !["to", "service", "respond"].iter().any(|key| entries.contains_key(key)) {
            return super::Respond::read(node).map(Fallback::Respond);
        }
        let map = node.map()?;
        let service = map.read::<String>("to").or_else(|| map.read("service"));
        let respond = map.read::<super::Respond>("respond");
        map.finish();
        match (service, respond) {
            (Some(name), None) => name.map(Fallback::Service),
            (None, Some(respond)) => respond.map(Fallback::Respond),
            _ => node.problem("a fallback that does two things", "only one answer can be given", "keep one of `to` and `respond`"),
        }
    }

    fn schema(parts: &mut Parts) -> Json {
        let (respond, name) = (super::Respond::schema(parts), String::schema(parts));
        let one = |key: &str, kind: &Json| json!({ "type": "object", "properties": { key: kind }, "required": [key], "additionalProperties": false });
        json!({ "anyOf": [name, respond, one("respond", &respond), one("to", &name), one("service", &name)] })
    }
}
