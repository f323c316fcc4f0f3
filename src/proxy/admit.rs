//! Who is it, and may they? The one place where a request meets `auth`: before anything is answered or sent on.

use super::exchange::{Exchange, authority};
use crate::auth::{self, Denied, Head, Method, Outcome, Request, Verdict};
use crate::snapshot::Action;
use crate::types::{Identity, Refusal};
use pingora::http::RequestHeader;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// A credential that takes longer.
pub struct Ask {
    method: Arc<Method>,
    credential: String,
}

/// Lets a request in or not.
///
/// # Errors
/// It is refused.
pub async fn admit(head: &RequestHeader, exchange: &mut Exchange) -> Result<(), Refusal> {
    let mut waited = Duration::ZERO;
    let admitted = match check(head, exchange) {
        Ok(None) => return Ok(()),
        Ok(Some(ask)) => {
            if ask.method.is_dear() {
                waited = exchange.snapshot.failures.owed(exchange.origin.client_ip);
            }
            Box::pin(finish(ask, waited, head, exchange)).await
        }
        Err(refusal) => Err(refusal),
    };
    if let (Err(refusal), Some(method)) = (&admitted, &exchange.auth)
        && refusal.status() == 401
        && exchange.relayed.is_none()
    {
        let wait = exchange.snapshot.failures.failed(exchange.origin.client_ip, method.cost()).saturating_sub(waited);
        if !wait.is_zero() {
            Box::pin(tokio::time::sleep(wait)).await;
        }
    }
    admitted
}

/// The same without waiting for anything.
///
/// # Errors
/// It is refused.
pub fn check(head: &RequestHeader, exchange: &mut Exchange) -> Result<Option<Ask>, Refusal> {
    let Some(access) = exchange.route().map(|route| &route.access).filter(|access| !access.is_open()) else { return Ok(None) };
    let request = Request {
        headers: &head.headers,
        query: head.uri.query().unwrap_or_default(),
        client: exchange.origin.client_ip,
        certificate: exchange.connection().and_then(|connection| connection.certificate()),
        now: auth::now(),
    };
    let verdict = access.check(&request);
    take(exchange, verdict)
}

/// The same for somebody who comes with a token of these claims, as if its signature were right.
///
/// # Errors
/// It is refused.
pub fn assume(claims: &Map<String, Value>, head: &RequestHeader, exchange: &mut Exchange) -> Result<Option<Ask>, Refusal> {
    let client = exchange.origin.client_ip;
    match exchange.route().and_then(|route| route.access.assume(claims, client, auth::now())) {
        Some(verdict) => take(exchange, verdict),
        None => check(head, exchange),
    }
}

fn take(exchange: &mut Exchange, verdict: Verdict) -> Result<Option<Ask>, Refusal> {
    exchange.auth = verdict.by.clone();
    match (settle(exchange, verdict.outcome)?, verdict.by) {
        (None, _) => Ok(None),
        (Some(credential), Some(method)) => Ok(Some(Ask { method, credential })),
        (Some(_), None) => Err(Refusal::Internal("a credential without a method")),
    }
}

/// Notes who it is; the credential of somebody of whom that is not known yet.
fn settle(exchange: &mut Exchange, outcome: Outcome) -> Result<Option<String>, Refusal> {
    match outcome {
        Outcome::Admitted(identity) => {
            recognise(exchange, identity);
            Ok(None)
        }
        Outcome::Forbidden(identity, refusal) => {
            // The log is to say whom.
            exchange.identity = Some(identity);
            Err(refusal)
        }
        Outcome::Refused(refusal) => Err(refusal),
        Outcome::Ask(credential) => Ok(Some(credential)),
    }
}

async fn finish(ask: Ask, wait: Duration, head: &RequestHeader, exchange: &mut Exchange) -> Result<(), Refusal> {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    let found = {
        let scheme = if exchange.is_tls() { "https" } else { "http" };
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let (host, client) = (authority(head), exchange.origin.client_ip);
        ask.method.ask(&ask.credential, &Head { method: &head.method, scheme, host, target, headers: &head.headers, client }).await
    };
    let found = match found {
        Ok(identity) => Ok(identity),
        Err(Denied::Refused(refusal)) => Err(refusal),
        Err(Denied::Relayed(answered)) => {
            exchange.relayed = Some(answered);
            return Err(Refusal::Unauthenticated);
        }
    };
    let outcome = exchange.route().map(|route| route.access.finish(found));
    match outcome.map(|outcome| settle(exchange, outcome)).transpose()?.flatten() {
        None => Ok(()),
        Some(_) => Err(Refusal::Internal("a credential that was asked twice")),
    }
}

/// Whoever has a name gets the same version of a service from any address.
fn recognise(exchange: &mut Exchange, identity: Option<Arc<Identity>>) {
    if let Some(identity) = &identity
        && !identity.name.is_empty()
        && let Some(Action::Forward(forward)) = exchange.route().map(|route| &route.action)
    {
        exchange.choice = forward.choose_for(&identity.name);
    }
    exchange.identity = identity;
}
