//! How much? The one place where a request meets the limits of its route.

use super::deadline::{LOOK, Phase};
use super::exchange::Exchange;
use crate::limit::{Caller, Cap, Fields, Pass, Verdict, Who};
use crate::snapshot::RouteLimits;
use crate::types::Refusal;
use http::HeaderMap;
use std::borrow::Cow;

/// Whether a client has sent far too much. Over HTTP/1 the requests of peers that speak for nobody else never come so far, see
/// `server::requests`.
pub fn is_flood(exchange: &Exchange) -> bool {
    let is_counted = exchange.is_h2 || exchange.origin.is_trusted;
    is_counted && exchange.snapshot.server.flood.as_ref().is_some_and(|flood| flood.is_over(exchange.origin.client_ip))
}

/// Tries the limits of the request's route. What they say is told with the answer, whatever it is.
async fn limit(exchange: &mut Exchange, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(limits) = exchange.route().and_then(|route| route.limits.as_ref()) else { return Ok(()) };
    let verdict = match with_caller(exchange, headers, |caller| limits.set.decide(caller)) {
        Ok(verdict) => verdict,
        Err(pending) => Box::pin(limits.set.settle(pending)).await,
    };
    count(limits, &verdict);
    let outcome = outcome(&verdict);
    exchange.verdict = Some(verdict);
    outcome
}

/// What a verdict comes to.
pub fn outcome(verdict: &Verdict) -> Result<(), Refusal> {
    match verdict.refused {
        None => Ok(()),
        Some(seconds) => Err(Refusal::RateLimited(u32::try_from(seconds).unwrap_or(u32::MAX))),
    }
}

/// Goes in, unless too many have of late, or are inside; where there is a queue, after a while.
pub async fn enter(exchange: &mut Exchange, headers: &HeaderMap) -> Result<(), Refusal> {
    limit(exchange, headers).await?;
    if let Some(cap) = exchange.route().and_then(|route| route.cap.as_ref()) {
        exchange.pass_of_route = Some(pass(cap).await?);
    }
    Ok(())
}

/// Takes a place at the service, once: what the cache has needs none.
pub async fn enter_service(exchange: &mut Exchange) -> Result<(), Refusal> {
    if exchange.pass_of_service.is_some() {
        return Ok(());
    }
    let Some(cap) = exchange.service().and_then(|(entry, _)| entry.cap.as_ref()) else { return Ok(()) };
    let pass = match cap.enter() {
        Some(pass) => Some(pass),
        None if cap.has_queue() => {
            // Whoever has gone waits no longer.
            exchange.deadline.enter(Phase::Connect, Some(LOOK));
            let pass = Box::pin(cap.wait()).await;
            exchange.deadline.enter(Phase::Busy, None);
            pass
        }
        None => None,
    };
    exchange.pass_of_service = Some(pass.ok_or(Refusal::TooManyInFlight)?);
    Ok(())
}

/// Begins to wait for a service, unless too many do. What either side may be silent in for long is not counted.
pub fn wait(exchange: &mut Exchange) -> Result<(), Refusal> {
    if let (Some(overload), Some(route), false) = (&exchange.snapshot.server.overload, exchange.route(), exchange.is_long_lived) {
        exchange.waits = Some(overload.enter(route.priority).ok_or(Refusal::Overloaded)?);
    }
    Ok(())
}

async fn pass(cap: &Cap) -> Result<Pass, Refusal> {
    cap.pass().await.ok_or(Refusal::TooManyInFlight)
}

/// Answers with who is counted.
pub fn with_caller<T>(exchange: &Exchange, headers: &HeaderMap, ask: impl FnOnce(&Caller<'_>) -> T) -> T {
    let who = exchange.identity.as_deref();
    let claim = |name: &str| who.and_then(|who| who.claim_text(name));
    let identity = who.filter(|who| !who.name.is_empty()).map(|who| Who { method: &who.method, name: &who.name });
    ask(&Caller { identity, claim: &claim, client_ip: exchange.origin.client_ip, headers })
}

fn count(limits: &RouteLimits, verdict: &Verdict) {
    for standing in &verdict.standings {
        let metrics = &limits.entry(standing).metrics;
        if standing.is_alone {
            metrics.alone.inc();
        }
        match (standing.is_refused, verdict.refused) {
            (true, _) => metrics.refused.inc(),
            (false, None) => metrics.allowed.inc(),
            // Another limit refused: this one was neither charged nor asked.
            (false, Some(_)) => {}
        }
    }
}

/// What an answer tells of the limits.
pub fn tell(exchange: &Exchange, headers: &mut HeaderMap) {
    if let (Some(limits), Some(verdict)) = (exchange.route().and_then(|route| route.limits.as_ref()), &exchange.verdict) {
        Fields { set: &limits.set, verdict }.write(headers);
    }
}

/// What the log says: the limit that refused, or the one that would have.
pub fn logged(exchange: &Exchange) -> Cow<'_, str> {
    let of_route = exchange.route().and_then(|route| route.limits.as_ref()).zip(exchange.verdict.as_ref());
    let Some((limits, verdict)) = of_route else { return "".into() };
    let refused = |is_shadow| {
        let mut refused = verdict.standings.iter().filter(|standing| standing.is_refused).map(|standing| &limits.entry(standing).limit);
        refused.find(|limit| limit.is_shadow == is_shadow)
    };
    match (refused(false), refused(true)) {
        (Some(limit), _) => Cow::Borrowed(&limit.name),
        (None, Some(limit)) => format!("{} (shadow)", limit.name).into(),
        (None, None) => "".into(),
    }
}
