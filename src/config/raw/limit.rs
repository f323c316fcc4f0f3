//! `rate_limits`.

use super::words::{FilePath, Secret};
use crate::config::scalar::Rate;
use crate::config::schema::{self, Parts};
use crate::config::shape::{Named, Node, Number, OneOrMany, Shape, choice, record};
use serde_json::{Value as Json, json};
use serde_yaml::Value;
use std::time::Duration;

record! {
    /// How often somebody may ask.
    pub struct RateLimit {
        /// `100/1m`, or one for each plan.
        rate: Rates,
        /// How many at once after a rest; the number in `rate` when absent.
        burst: Option<Number<1, 1_000_000_000>> = None,
        /// Who counts as one.
        by: OneOrMany<By> = OneOrMany(vec![By::ClientIp]),
        /// What one request takes of it.
        cost: Number<1, 1_000_000_000> = Number(1),
        /// Answers have X-RateLimit-* too.
        legacy_headers: bool = false,
        mode: LimitMode = LimitMode::Enforce,
        /// All gateways of one `redis` count together.
        shared: bool = false,
        /// The store is asked for each request of a shared limit, instead of some ahead.
        exact: bool = false,
        /// What becomes of requests of a shared limit then.
        when_store_is_down: WhenDown = WhenDown::Local,
        /// How many gateways share it: what one of them may hold ahead, and its part of the limit when it is alone.
        nodes: Number<1, 10_000> = Number(1),
    }
}

choice! {
    pub enum WhenDown {
        /// Each gateway counts for itself, the limit divided by `nodes`.
        "local" => Local,
        "allow" => Allow,
        "refuse" => Refuse,
    }
}

record! {
    /// What several gateways share: Redis or Valkey.
    pub struct Redis {
        /// `redis://`, `rediss://` (TLS) or `unix:`, with user and password if need be.
        url: Secret,
        /// A PEM file with the authorities of its certificate; the system's when absent.
        ca: Option<FilePath> = None,
    }
}

choice! {
    pub enum LimitMode {
        "enforce" => Enforce,
        /// Counts what it would have refused, and lets it pass.
        "shadow" => Shadow,
    }
}

record! {
    /// What is refused before anything else is looked at.
    pub struct Flood {
        /// Of one client address.
        rate: Rate,
    }
}

record! {
    /// Adaptive concurrency towards services.
    pub struct Overload {
        /// What nine of ten answers are to come within.
        target: Duration,
    }
}

/// One rate, or a rate for each value of a claim.
#[derive(Clone, Debug)]
pub enum Rates {
    One(Rate),
    Plans(Plans),
}

record! {
    pub struct Plans {
        /// The claim that names the plan.
        claim: String,
        /// Rates by the claim's value.
        values: Named<Rate>,
        /// Where the claim is absent, or has another value.
        otherwise: Rate,
    }
}

impl Shape for Rates {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value {
            Value::Mapping(_) => Plans::read(node).map(Rates::Plans),
            _ => Rate::read(node).map(Rates::One),
        }
    }

    fn schema(parts: &mut Parts) -> Json {
        json!({ "anyOf": [Rate::schema(parts), Plans::schema(parts)] })
    }
}

impl Shape for Rate {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("a rate", "100/1m", str::parse)
    }

    fn schema(_: &mut Parts) -> Json {
        schema::text(r"^[0-9]+/([0-9]+)?(ms|s|m|h|d)$", "100/1m")
    }
}

/// What requests have in common that count together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    Identity,
    ClientIp,
    Header(http::HeaderName),
    Claim(String),
    Route,
    Global,
}

impl By {
    /// A word of the configuration.
    pub fn text(&self) -> String {
        match self {
            By::Identity => "identity".to_string(),
            By::ClientIp => "client_ip".to_string(),
            By::Header(name) => format!("header:{name}"),
            By::Claim(name) => format!("claim:{name}"),
            By::Route => "route".to_string(),
            By::Global => "global".to_string(),
        }
    }
}

fn by(text: &str) -> Result<By, String> {
    match (text, text.split_once(':')) {
        ("identity", _) => Ok(By::Identity),
        ("client_ip", _) => Ok(By::ClientIp),
        ("route", _) => Ok(By::Route),
        ("global", _) => Ok(By::Global),
        (_, Some(("header", name))) => name.parse().map(By::Header).map_err(|_| format!("`{name}` is not a header field's name")),
        (_, Some(("claim", name))) if !name.is_empty() => Ok(By::Claim(name.to_string())),
        _ => Err(format!("`{text}` is not something to count by")),
    }
}

impl Shape for By {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("one of identity, client_ip, header:NAME, claim:NAME, route, global", "client_ip", by)
    }

    fn schema(_: &mut Parts) -> Json {
        schema::text("^(identity|client_ip|route|global|header:.+|claim:.+)$", "client_ip")
    }
}
