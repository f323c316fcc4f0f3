//! When another endpoint may be tried, and what a failed attempt is called.

use crate::config::raw::{self, RetryMethods, RetryOn};
use crate::types::Refusal;
use http::{HeaderMap, Method};
use pingora::{Error, ErrorSource, ErrorType};
use std::time::Duration;

/// All tries of a request together where the service looks at none of them.
const UNPROCESSED_MAX: usize = 4;
/// A pause is at most this many doublings longer than the first.
const DOUBLINGS_MAX: u32 = 6;

/// How an attempt ended, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was sent.
    Connect,
    /// The connection broke.
    Reset,
    Timeout,
    /// An HTTP/2 service has said that it did not look at the request (RFC 9113, 8.7).
    Unprocessed,
    /// The answer could not be read.
    Protocol,
    /// The gateway itself had no descriptor, port or memory for a connection.
    Local,
    /// It was answered with 502, 503 or 504.
    Status(u16),
}

impl Failure {
    pub fn of(e: &Error) -> Failure {
        use ErrorType::{
            ConnectError, ConnectNoRoute, ConnectProxyFailure, ConnectRefused, ConnectTimedout, ConnectionClosed, ReadError, ReadTimedout,
            SocketError, TLSHandshakeFailure, TLSHandshakeTimedout, WriteError, WriteTimedout,
        };
        match e.etype() {
            _ if is_unprocessed(e) => Failure::Unprocessed,
            ConnectError
            | ConnectNoRoute
            | ConnectProxyFailure
            | ConnectRefused
            | SocketError
            | TLSHandshakeFailure
            | ErrorType::InvalidCert => Failure::Connect,
            ConnectTimedout | TLSHandshakeTimedout | ReadTimedout | WriteTimedout => Failure::Timeout,
            ConnectionClosed | ReadError | WriteError | ErrorType::H2Error => Failure::Reset,
            ErrorType::InternalError => Failure::Local,
            _ => Failure::Protocol,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Failure::Connect => "connect",
            Failure::Reset => "reset",
            Failure::Timeout => "timeout",
            Failure::Unprocessed => "unprocessed",
            Failure::Protocol => "protocol",
            Failure::Local => "local",
            Failure::Status(502) => "502",
            Failure::Status(503) => "503",
            Failure::Status(_) => "504",
        }
    }

    pub fn refusal(self) -> Refusal {
        match self {
            Failure::Connect => Refusal::UpstreamConnect,
            Failure::Reset | Failure::Unprocessed => Refusal::UpstreamReset,
            Failure::Timeout => Refusal::UpstreamTimeout,
            Failure::Protocol => Refusal::UpstreamProtocol,
            Failure::Local => Refusal::Overloaded,
            Failure::Status(_) => Refusal::UpstreamProtocol,
        }
    }

    /// An answer that is a failure of the service: 502 to 504.
    pub fn of_status(status: u16) -> Option<Failure> {
        matches!(status, 502..=504).then_some(Failure::Status(status))
    }

    /// The endpoint is to blame, and not the gateway, or a limit that HTTP/2 knows.
    pub fn is_endpoints(self) -> bool {
        !matches!(self, Failure::Local | Failure::Unprocessed)
    }
}

/// An attempt that failed.
#[derive(Debug)]
pub struct Failed<'a> {
    pub failure: Failure,
    pub while_connecting: bool,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// How many there were with this one, but for those that met a connection that had been kept for too long.
    pub attempts: usize,
    /// The whole body is still there.
    pub is_replayable: bool,
}

/// When a service's failures are tried again.
#[derive(Clone, Debug)]
pub struct Policy {
    attempts: usize,
    when: Vec<RetryOn>,
    methods: Vec<RetryMethods>,
    backoff: Duration,
    pub per_try: Option<Duration>,
    /// Of a hundred requests.
    pub(super) percent: u32,
}

impl Policy {
    pub fn new(raw: &raw::Retries) -> Policy {
        Policy {
            attempts: raw.attempts.usize(),
            when: raw.when.0.clone(),
            methods: raw.methods.0.clone(),
            backoff: raw.backoff,
            per_try: raw.per_try.0,
            percent: u32::try_from(raw.budget_percent.0).unwrap_or(0),
        }
    }

    /// Whether it may be tried again, as far as the service's budget allows it.
    pub fn may_retry(&self, failed: &Failed<'_>) -> bool {
        let on = |cause| self.when.contains(&cause);
        let may_repeat = || failed.is_replayable && self.may_repeat(failed.method, failed.headers);
        match failed.failure {
            Failure::Local => false,
            // Nobody has looked at it, whatever its method. A burst on a new connection may be refused more than once.
            Failure::Unprocessed => failed.attempts < UNPROCESSED_MAX && failed.is_replayable,
            _ if failed.attempts >= self.attempts => false,
            _ if failed.while_connecting => on(RetryOn::Connect),
            Failure::Connect | Failure::Reset => on(RetryOn::Reset) && may_repeat(),
            Failure::Timeout => (self.per_try.is_some() || on(RetryOn::Timeout)) && may_repeat(),
            Failure::Protocol | Failure::Status(502) => on(RetryOn::BadGateway) && may_repeat(),
            Failure::Status(503) => on(RetryOn::Unavailable) && may_repeat(),
            Failure::Status(_) => on(RetryOn::Timeout) && may_repeat(),
        }
    }

    /// A request that may be sent twice.
    fn may_repeat(&self, method: &Method, headers: &HeaderMap) -> bool {
        self.methods.iter().any(|methods| match methods {
            RetryMethods::Safe => method.is_safe(),
            RetryMethods::Idempotent => method.is_idempotent(),
            RetryMethods::IdempotencyKey => headers.contains_key("idempotency-key"),
            RetryMethods::All => true,
            RetryMethods::Method(one) => one == method,
        })
    }

    /// The pause before the next attempt, when so many were made: a random part of one that doubles each time, so that those
    /// that failed together don't come back together ("full jitter").
    pub fn pause(&self, attempts: usize) -> Duration {
        let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(DOUBLINGS_MAX);
        self.backoff.saturating_mul(1 << doublings).mul_f64(fastrand::f64())
    }
}

/// REFUSED_STREAM, or a GOAWAY that leaves this stream out: h2 tells the latter of no others.
fn is_unprocessed(e: &Error) -> bool {
    let mut cause = e.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static));
    while let Some(e) = cause {
        if let Some(e) = e.downcast_ref::<h2::Error>() {
            return e.is_remote() && (e.is_go_away() || (e.is_reset() && e.reason() == Some(h2::Reason::REFUSED_STREAM)));
        }
        cause = match e.downcast_ref::<Box<Error>>() {
            Some(e) => e.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static)),
            None => e.source(),
        };
    }
    false
}

/// Whether an error is the service's doing.
pub fn is_upstream(e: &Error) -> bool {
    *e.esource() == ErrorSource::Upstream
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::place::At;
    use crate::config::problem::Problems;
    use crate::config::shape::{Node, Shape};

    fn policy(yaml: &str) -> Policy {
        let value = serde_yaml::from_str(yaml).expect("YAML");
        let problems = Problems::default();
        let raw = raw::Retries::read(&Node { value: &value, at: &At::root(), problems: &problems }).expect("retries");
        assert!(problems.is_empty(), "{problems:?}");
        Policy::new(&raw)
    }

    #[track_caller]
    fn may(policy: &Policy, failure: Failure, method: &str, attempts: usize) -> bool {
        let (method, headers) = (&method.parse().expect("a method"), &HeaderMap::new());
        let while_connecting = failure == Failure::Connect;
        policy.may_retry(&Failed { failure, while_connecting, method, headers, attempts, is_replayable: true })
    }

    #[test]
    fn what_has_seen_nothing_is_retried_and_the_rest_when_it_is_safe() {
        let policy = policy("{}");
        for (failure, method, attempts, expected) in [
            (Failure::Connect, "POST", 1, true),
            (Failure::Connect, "POST", 2, false),
            (Failure::Reset, "POST", 1, false),
            (Failure::Reset, "PUT", 1, false),
            (Failure::Reset, "GET", 1, true),
            (Failure::Reset, "GET", 2, false),
            (Failure::Timeout, "GET", 1, false),
            (Failure::Protocol, "GET", 1, false),
            (Failure::Status(503), "GET", 1, false),
            (Failure::Unprocessed, "POST", 3, true),
            (Failure::Local, "GET", 1, false),
        ] {
            assert_eq!(may(&policy, failure, method, attempts), expected, "{failure:?} {method} {attempts}");
        }
        let (method, headers) = (&Method::GET, &HeaderMap::new());
        let large = Failed { failure: Failure::Reset, while_connecting: false, method, headers, attempts: 1, is_replayable: false };
        assert!(!policy.may_retry(&large));
    }

    #[test]
    fn more_is_retried_where_it_is_asked_for() {
        let policy = policy("{ attempts: 3, when: [503, 504], methods: [idempotent, PATCH, idempotency_key] }");
        for (failure, method, attempts, expected) in [
            (Failure::Connect, "GET", 1, false),
            (Failure::Status(503), "PUT", 2, true),
            (Failure::Status(503), "PUT", 3, false),
            (Failure::Status(503), "PATCH", 1, true),
            (Failure::Status(503), "POST", 1, false),
            (Failure::Status(502), "GET", 1, false),
            (Failure::Timeout, "GET", 1, true),
        ] {
            assert_eq!(may(&policy, failure, method, attempts), expected, "{failure:?} {method} {attempts}");
        }
        let headers: &HeaderMap = &[("idempotency-key".parse().expect("a name"), "7".parse().expect("a value"))].into_iter().collect();
        let (failure, method) = (Failure::Status(503), &Method::POST);
        assert!(policy.may_retry(&Failed { failure, while_connecting: false, method, headers, attempts: 1, is_replayable: true }));
    }

    #[test]
    fn pauses_are_random_and_grow() {
        let policy = policy("{ backoff: 100ms }");
        for (attempts, most) in [(1, 100), (2, 200), (3, 400), (100, 6_400)] {
            let pauses: Vec<u128> = (0..1_000).map(|_| policy.pause(attempts).as_millis()).collect();
            let (least, largest) = (pauses.iter().min(), pauses.iter().max());
            // The chance that none of a thousand falls into a tenth of the whole is 0.9^1000.
            assert!(least < Some(&(most / 10)) && largest > Some(&(most * 9 / 10)) && largest <= Some(&most), "{least:?} {largest:?}");
        }
    }
}
