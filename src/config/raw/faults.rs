//! What a service's faults lead to: another attempt, an endpoint that rests.

use super::words::Method;
use crate::config::schema::{self, Parts};
use crate::config::shape::{Node, Number, OneOrMany, Shape, choice, record};
use serde_json::Value as Json;
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
        per_try: Option<Duration> = None,
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
            per_try: None,
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
        /// For how long; it doubles with each time.
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
