//! What would become of a request, and why: the steps that serve requests, without a service to send it to.

pub use super::explain_cache::Cached;
pub use super::question::Question;

use super::exchange::{Exchange, Seen, authority, target};
use super::question::{head, listener, raw};
use super::strict::head::HeadReader;
use super::{admit, explain_cache, forward, limits, steps};
use crate::compose::Shown;
use crate::route::Criterion;
use crate::route::explain::Verdict;
use crate::shape::forward::Origin;
use crate::snapshot::{Action, Forward, Route, Snapshot};
use crate::types::{Refusal, RouteId};
use crate::upstream::Endpoint;
use http::header::HOST;
use pingora::http::RequestHeader;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// What becomes of it.
#[derive(Debug, Serialize)]
pub struct Explanation {
    pub method: String,
    pub host: String,
    /// As it is matched.
    pub path: String,
    pub listener: String,
    pub client_ip: IpAddr,
    /// Routes whose path fits, in the order in which they win.
    pub candidates: Vec<Candidate>,
    /// Routes whose path does not fit.
    pub others: usize,
    /// What the route's limits say, the tightest first.
    pub limits: Vec<Limited>,
    /// What the route's cache, if it has one, would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cached>,
    /// What is asked of who comes; nothing where everybody may come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Checked>,
    /// Who is recognised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    pub outcome: Outcome,
}

#[derive(Debug, Serialize)]
pub struct Checked {
    /// Any of them.
    pub methods: Vec<String>,
    /// What they have to have, and from where they may come.
    pub requires: Vec<String>,
    /// The method that decided, and what it found.
    pub verdict: String,
}

#[derive(Debug, Serialize)]
pub struct Candidate {
    pub route: String,
    pub asks: String,
    /// `wins`, `outranked`, or what is in the way.
    pub verdict: String,
}

/// A limit and the key that the request counts under.
#[derive(Debug, Serialize)]
pub struct Limited {
    pub limit: String,
    pub rate: String,
    pub by: String,
    /// The begin of the key's hash, as `/status` shows it.
    pub key: String,
    pub left: u64,
    /// `passes`, `refused`, or `would be refused` by a shadow.
    pub verdict: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The gateway answers with a refusal.
    Refused {
        status: u16,
        code: &'static str,
        detail: String,
        route: Option<String>,
    },
    Forwarded(Forwarded),
    Redirected {
        route: String,
        status: u16,
        location: String,
    },
    Answered {
        route: String,
        status: u16,
    },
    Composed {
        route: String,
        /// For all calls together.
        timeout: String,
        calls: Vec<Shown>,
    },
}

#[derive(Debug, Serialize)]
pub struct Forwarded {
    pub route: String,
    pub service: String,
    /// The service's share of the route's clients, in percent.
    pub percent: f64,
    /// As the service gets it.
    pub path: String,
    /// The same without the credentials that the route sets.
    #[serde(skip)]
    pub shown: String,
    pub host: String,
    pub endpoints: Vec<String>,
    /// Each of them, and what is known of it: `up`, `warming`, `ill`, `ejected` or `drained`. A file alone knows of none that is not up.
    pub pool: Vec<Member>,
    /// `open` or `closed`, where the service has a breaker.
    pub breaker: Option<&'static str>,
    pub timeouts: String,
    pub body_bytes_max: Option<u64>,
    /// Fields that the route itself sets, adds or removes.
    pub headers: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Member {
    pub address: String,
    pub state: &'static str,
}

/// One route of the table, for people.
#[derive(Debug, Serialize)]
pub struct Listed {
    pub route: String,
    pub asks: String,
    pub leads_to: String,
}

/// All routes in the order in which they win.
pub fn routes(snapshot: &Snapshot) -> Vec<Listed> {
    let route = |id: RouteId| snapshot.routes.get(id.0 as usize);
    let listed = |route: &Route| Listed { route: route.name.to_string(), asks: route.asks.to_string(), leads_to: leads_to(route) };
    snapshot.table.in_order().into_iter().filter_map(route).map(listed).collect()
}

/// What a route does, in a word.
pub(super) fn leads_to(route: &Route) -> String {
    match &route.action {
        Action::Forward(forward) => {
            let services: Vec<_> = forward.weighted().map(|(entry, weight)| (&entry.service.name, weight)).collect();
            match services[..] {
                [(name, _)] => name.to_string(),
                _ => services.iter().map(|(name, weight)| format!("{name} ({weight})")).collect::<Vec<_>>().join(", "),
            }
        }
        Action::Redirect(redirect) => format!("redirect {}", redirect.status.as_u16()),
        Action::Compose(composition) => {
            let calls = composition.plan.calls.iter().enumerate();
            let mut services: Vec<&str> = calls.map(|(index, _)| &*composition.get(index).0.service.name).collect();
            services.sort_unstable();
            services.dedup();
            format!("compose of {}", services.join(", "))
        }
        Action::Respond(respond) => format!("respond {}", respond.status.as_u16()),
    }
}

/// Answers a question, without secrets.
///
/// # Errors
/// What of the question can't be understood.
pub fn shown(snapshot: &Arc<Snapshot>, question: &Question) -> Result<Value, String> {
    let explanation = explain(snapshot, question)?;
    let mut told = json!(explanation);
    if let Outcome::Forwarded(sent) = &explanation.outcome {
        told["outcome"]["forwarded"]["path"] = sent.shown.as_str().into();
    }
    snapshot.meta.hidden.mask(&mut told);
    Ok(told)
}

/// Answers a question as it is, for whoever compares.
///
/// # Errors
/// What of the question can't be understood.
pub fn explain(snapshot: &Arc<Snapshot>, question: &Question) -> Result<Explanation, String> {
    let mut head = head(question)?;
    let (listener, listener_name) = listener(snapshot, question)?;
    let mut exchange = Exchange::new(snapshot.clone());
    exchange.origin = Origin::of(question.client_ip, &snapshot.server.trusted_proxies, &head.headers);
    exchange.tls = if question.url.scheme_str() == Some("https") { "TLSv1.3" } else { "" };
    let strict = HeadReader::default().advance(&raw(&head), &snapshot.server.limits).map(drop);
    if !exchange.origin.is_trusted {
        forward::drop_claims(&mut head);
    }
    forward::drop_own(&mut head, &snapshot.methods);
    let read = strict.and_then(|()| steps::normalise(&mut head));
    let explained = snapshot.table.explain(&steps::query(&head, listener));
    let candidates = explained.candidates.iter().map(|candidate| {
        let route = &snapshot.routes[candidate.id.0 as usize];
        Candidate { route: route.name.to_string(), asks: route.asks.to_string(), verdict: verdict(&candidate.verdict) }
    });
    let (candidates, others) = match &read {
        Ok(()) => (candidates.collect(), explained.others),
        // It is refused before there is a route.
        Err(_) => (Vec::new(), 0),
    };
    let taken = read.and_then(|()| steps::take(&mut exchange, explained.outcome));
    let admitted = taken.and_then(|()| admit(&head, question.claims.as_ref(), &mut exchange));
    let (limits, within) = within(&head, &exchange);
    let cache = explain_cache::cached(&head, &exchange);
    Ok(Explanation {
        method: head.method.to_string(),
        host: authority(&head).to_string(),
        path: target(&head.uri).to_string(),
        listener: listener_name,
        client_ip: exchange.origin.client_ip,
        candidates,
        others,
        auth: checked(&exchange, &admitted),
        identity: exchange.identity.as_ref().map(|identity| identity.name.to_string()),
        limits,
        cache,
        outcome: match admitted.map(drop).and(within).and_then(|()| outcome(&head, &exchange)) {
            Ok(outcome) => outcome,
            Err(refusal) => refused(&refusal, exchange.route()),
        },
    })
}

/// What the limits would say now. A file alone knows of nobody who has asked before.
fn within(head: &RequestHeader, exchange: &Exchange) -> (Vec<Limited>, Result<(), Refusal>) {
    let Some(limits) = exchange.route().and_then(|route| route.limits.as_ref()) else { return (Vec::new(), Ok(())) };
    limits::with_caller(exchange, &head.headers, |caller| {
        let verdict = limits.set.look(caller);
        let limited = |standing: &crate::limit::Standing| {
            let limit = &limits.entry(standing).limit;
            let (key, by) = limits.set.shown(standing, caller);
            let verdict = match (standing.is_refused, limit.is_shadow) {
                (false, _) => "passes",
                (true, false) => "refused",
                (true, true) => "would be refused",
            };
            Limited { limit: limit.name.to_string(), rate: limit.rate_text(), by, key, left: limits.set.told(standing).0, verdict }
        };
        (verdict.standings.iter().map(limited).collect(), limits::outcome(&verdict))
    })
}

fn verdict(verdict: &Verdict<'_>) -> String {
    match verdict {
        Verdict::Won => "wins".to_string(),
        Verdict::Outranked => "outranked".to_string(),
        Verdict::Failed(Criterion::Host) => "another host".to_string(),
        Verdict::Failed(Criterion::Listener) => "another listener".to_string(),
        Verdict::Failed(Criterion::Header(name)) => format!("header {name}"),
        Verdict::Failed(Criterion::Query(name)) => format!("query {name}"),
        Verdict::Failed(Criterion::Method) => "another method".to_string(),
    }
}

/// Who it is, as far as nobody else has to be asked; a preflight is nobody's. The answer says whether somebody would be asked.
fn admit(head: &RequestHeader, claims: Option<&Map<String, Value>>, exchange: &mut Exchange) -> Result<bool, Refusal> {
    match steps::is_preflight(head, exchange) {
        true => Ok(false),
        false => match claims {
            Some(claims) => admit::assume(claims, head, exchange).map(|ask| ask.is_some()),
            None => admit::check(head, exchange).map(|ask| ask.is_some()),
        },
    }
}

fn checked(exchange: &Exchange, admitted: &Result<bool, Refusal>) -> Option<Checked> {
    let access = exchange.route().map(|route| &route.access).filter(|access| !access.is_open())?;
    let by = exchange.auth.as_ref().map(|method| format!("{}: ", method.name)).unwrap_or_default();
    let found = match (admitted, &exchange.identity) {
        (Err(refusal), _) => refusal.code().to_string(),
        (Ok(true), _) => "has to be asked when it comes".to_string(),
        (Ok(false), Some(identity)) => identity.name.to_string(),
        (Ok(false), None) => "lets everybody in".to_string(),
    };
    let methods = access.asks().into_iter().map(str::to_string).collect();
    Some(Checked { methods, requires: access.requires(), verdict: format!("{by}{found}") })
}

fn refused(refusal: &Refusal, route: Option<&Route>) -> Outcome {
    Outcome::Refused {
        status: refusal.status(),
        code: refusal.code(),
        detail: refusal.detail().into_owned(),
        route: route.map(|route| route.name.to_string()),
    }
}

/// What the winner does.
fn outcome(head: &RequestHeader, exchange: &Exchange) -> Result<Outcome, Refusal> {
    let Some(route) = exchange.route() else { return Err(Refusal::NoRoute) };
    let name = route.name.to_string();
    if steps::is_preflight(head, exchange) {
        return Ok(Outcome::Answered { route: name, status: 204 });
    }
    let seen = Seen { exchange, head };
    match &route.action {
        Action::Redirect(redirect) => {
            let location = redirect.location(&seen, head.uri.query());
            Ok(Outcome::Redirected { route: name, status: redirect.status.as_u16(), location })
        }
        Action::Compose(composition) => {
            let plan = &composition.plan;
            let service = |call| composition.get(call).0.service.name.to_string();
            Ok(Outcome::Composed { route: name, timeout: format!("{:?}", plan.timeout), calls: plan.shown(service) })
        }
        Action::Respond(respond) => Ok(Outcome::Answered { route: name, status: respond.status.as_u16() }),
        Action::Forward(weighted) => forwarded(route, weighted, &seen).map(Outcome::Forwarded),
    }
}

/// What a service would get, and which.
fn forwarded(route: &Route, weighted: &Forward, seen: &Seen<'_>) -> Result<Forwarded, Refusal> {
    let Seen { exchange, head } = seen;
    let Some((entry, timeouts)) = exchange.service() else { return Err(Refusal::NoEndpoint) };
    let service = &entry.service;
    let mut sent = (*head).clone();
    // The only thing that can go wrong is a target that a client has put together.
    forward::to_upstream(&mut sent, head, exchange, service.host.as_ref())
        .map_err(|_| Refusal::BadRequest("The target can't be rewritten."))?;
    let (all, own) = weighted
        .weighted()
        .enumerate()
        .fold((0, 0), |(all, own), (place, (_, weight))| (all + weight, if place == exchange.choice { weight } else { own }));
    let total = timeouts.total.map_or_else(|| "none".to_string(), |total| format!("{total:?}"));
    let path = target(&sent.uri).to_string();
    let hidden = &exchange.snapshot.meta.hidden;
    let set = service.pool.set();
    let member = |endpoint: &Arc<Endpoint>| Member { address: endpoint.label.to_string(), state: endpoint.standing().name() };
    Ok(Forwarded {
        route: route.name.to_string(),
        service: service.name.to_string(),
        percent: 100.0 * own as f64 / all.max(1) as f64,
        shown: route.rewrite.as_ref().map_or_else(|| path.clone(), |rewrite| rewrite.shown(&path, hidden)),
        path,
        host: sent.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_string(),
        endpoints: set.endpoints.iter().map(|endpoint| endpoint.label.to_string()).collect(),
        pool: set.endpoints.iter().map(member).collect(),
        breaker: service.is_open().map(|is_open| if is_open { "open" } else { "closed" }),
        timeouts: format!("connect {:?}, read {:?}, write {:?}, total {total}", timeouts.connect, timeouts.read, timeouts.write),
        body_bytes_max: route.body_bytes_max,
        headers: route.request_headers.edits(seen).map(|edit| edit.to_string()).collect(),
    })
}
