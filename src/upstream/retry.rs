//! When another endpoint may be tried, and what a failed attempt is called.

use crate::types::Refusal;
use http::Method;
use pingora::{Error, ErrorSource, ErrorType};

/// All tries of a request together, the first included.
pub const ATTEMPTS_MAX: usize = 2;

/// The same where the service looks at none of them.
pub const UNPROCESSED_MAX: usize = 4;

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
        }
    }

    pub fn refusal(self) -> Refusal {
        match self {
            Failure::Connect => Refusal::UpstreamConnect,
            Failure::Reset | Failure::Unprocessed => Refusal::UpstreamReset,
            Failure::Timeout => Refusal::UpstreamTimeout,
            Failure::Protocol => Refusal::UpstreamProtocol,
            Failure::Local => Refusal::Overloaded,
        }
    }
}

/// Whether a failure of the service may be tried again, now that `attempts` were made. `is_replayable` says that the
/// whole body is still there.
pub fn may_retry(failure: Failure, while_connecting: bool, method: &Method, attempts: usize, is_replayable: bool) -> bool {
    match failure {
        Failure::Local => false,
        // Nobody has looked at it, whatever its method. A burst on a new connection may be refused more than once.
        Failure::Unprocessed => attempts < UNPROCESSED_MAX && is_replayable,
        _ => attempts < ATTEMPTS_MAX && (while_connecting || (failure == Failure::Reset && is_safe(method) && is_replayable)),
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

/// RFC 9110, 9.2.1.
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// Whether an error is the service's doing.
pub fn is_upstream(e: &Error) -> bool {
    *e.esource() == ErrorSource::Upstream
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_seen_nothing_is_retried_and_the_rest_when_it_is_safe() {
        let post = Method::POST;
        for (failure, connecting, method, attempts, replayable, expected) in [
            (Failure::Connect, true, &post, 1, true, true),
            (Failure::Timeout, true, &post, 1, true, true),
            (Failure::Connect, true, &post, 2, true, false),
            (Failure::Reset, false, &post, 1, true, false),
            (Failure::Reset, false, &Method::GET, 1, true, true),
            (Failure::Reset, false, &Method::GET, 1, false, false),
            (Failure::Timeout, false, &Method::GET, 1, true, false),
        ] {
            assert_eq!(may_retry(failure, connecting, method, attempts, replayable), expected, "{failure:?} {method}");
        }
    }
}
