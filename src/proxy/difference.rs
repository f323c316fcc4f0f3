//! Two configurations beside each other: which requests change hands, and what is looser than before.
//!
//! Requests are made of what the routes of both ask for, and each is asked of both tables: whatever a route says, what counts is
//! who takes the request in the end.

use super::explain::leads_to;
use super::loosened::loosened;
use super::question::{Question, head, listener};
use super::steps;
use crate::auth::cors::Cors;
use crate::config::raw::{self, Config};
use crate::route::{Outcome, sample};
use crate::shape::template::encode_parameter;
use crate::snapshot::{Route, Snapshot};
use http::Method;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// A configuration, as it is typed and as it is built.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub raw: &'a Config,
    pub snapshot: &'a Snapshot,
}

#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Requests that somebody else takes now, or that are treated in another way.
    pub changes: Vec<Change>,
    /// What is looser in parts that several routes use.
    pub looser: Vec<String>,
    /// Something is looser than before.
    pub is_looser: bool,
}

#[derive(Debug, Serialize)]
pub struct Change {
    /// Examples, all of which fare the same.
    pub requests: Vec<String>,
    pub old: Option<Owner>,
    pub new: Option<Owner>,
    pub looser: Vec<String>,
}

/// Who takes a request, and what is asked of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    pub route: String,
    pub leads_to: String,
    pub auth: String,
    pub limits: String,
}

/// Compares them.
pub fn compare(old: Side<'_>, new: Side<'_>) -> Comparison {
    let mut changes: Vec<Change> = Vec::new();
    let mut seen = BTreeSet::new();
    for question in questions(old.raw).into_iter().chain(questions(new.raw)) {
        let shown = shown(&question);
        if !seen.insert(shown.clone()) {
            continue;
        }
        let (before, after) = (taker(old.snapshot, &question), taker(new.snapshot, &question));
        let looser = before.zip(after).map(|(before, after)| looser(before, after)).unwrap_or_default();
        let (old, new) = (before.map(owner), after.map(owner));
        if old == new && looser.is_empty() {
            continue;
        }
        let is_alike = |change: &&mut Change| change.old == old && change.new == new && change.looser == looser;
        match changes.iter_mut().find(is_alike) {
            Some(change) => change.requests.push(shown),
            None => changes.push(Change { requests: vec![shown], old, new, looser }),
        }
    }
    let looser = loosened(old, new);
    let is_looser = !looser.is_empty() || changes.iter().any(|change| !change.looser.is_empty());
    Comparison { changes, looser, is_looser }
}

/// Requests that the routes of a configuration ask for.
fn questions(raw: &Config) -> Vec<Question> {
    raw.routes.iter().flatten().flat_map(of_route).collect()
}

fn of_route(route: &raw::Route) -> Vec<Question> {
    let paths = match (&route.path, &route.path_regex) {
        (Some(path), _) => sample::of_pattern(path),
        (None, Some(expression)) => sample::of_expression(expression).into_iter().collect(),
        (None, None) => Vec::new(),
    };
    let hosts: Vec<String> = match &route.host {
        Some(hosts) => hosts.0.iter().map(|host| sample::of_host(host)).collect(),
        None => vec!["any-host.example".to_string()],
    };
    let methods: Vec<Method> = match &route.methods {
        Some(methods) => methods.0.iter().map(|method| method.0.clone()).collect(),
        None => vec![Method::GET],
    };
    let listeners: Vec<Option<String>> = match &route.listener {
        Some(names) => names.0.iter().map(|name| Some(name.0.clone())).collect(),
        None => vec![None],
    };
    let value = |wanted: &raw::Match| match wanted {
        raw::Match::Is(text) => text.clone(),
        raw::Match::Regex(text) => sample::of_expression(text).unwrap_or_default(),
        raw::Match::Present => "anything".to_string(),
    };
    let query: Vec<String> =
        route.query.0.iter().map(|(name, wanted)| format!("{}={}", encode_parameter(name), encode_parameter(&value(wanted)))).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let headers: Vec<_> =
        route.headers.0.iter().filter_map(|(name, wanted)| Some((name.parse().ok()?, value(wanted).parse().ok()?))).collect();
    let mut questions = Vec::new();
    for (listener, host) in listeners.iter().flat_map(|listener| hosts.iter().map(move |host| (listener, host))) {
        for (method, path) in methods.iter().flat_map(|method| paths.iter().map(move |path| (method, path))) {
            questions.extend(format!("https://{host}{path}{query}").parse().ok().map(|url| Question {
                method: method.clone(),
                url,
                headers: headers.clone(),
                listener: listener.clone(),
                client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
                claims: None,
            }));
        }
    }
    questions
}

fn shown(question: &Question) -> String {
    let fields = question.headers.iter().map(|(name, value)| format!(", {name}: {}", value.to_str().unwrap_or_default()));
    let by = question.listener.iter().map(|listener| format!(" by listener {listener}"));
    format!("{} {}{}", question.method, question.url, fields.chain(by).collect::<String>())
}

/// The route that takes a request, if any. A listener that is not there takes none.
fn taker<'s>(snapshot: &'s Snapshot, question: &Question) -> Option<&'s Route> {
    let mut head = head(question).ok()?;
    let (listener, _) = listener(snapshot, question).ok()?;
    steps::normalise(&mut head).ok()?;
    match snapshot.table.find(&steps::query(&head, listener)) {
        Outcome::Found(found) => snapshot.routes.get(found.id.0 as usize),
        Outcome::MethodNotAllowed(_) | Outcome::Nothing => None,
    }
}

fn owner(route: &Route) -> Owner {
    let access = &route.access;
    let auth = match access.is_open() {
        true => "open".to_string(),
        false => {
            let asks = Some(access.asks().join(", ")).filter(|asks| !asks.is_empty());
            asks.into_iter().chain(access.requires()).collect::<Vec<_>>().join("; ")
        }
    };
    let names: Vec<&str> = route.limits.iter().flat_map(|limits| limits.set.limits()).map(|limit| &*limit.name).collect();
    let limits = if names.is_empty() { "none".to_string() } else { names.join(", ") };
    Owner { route: route.name.to_string(), leads_to: leads_to(route), auth, limits }
}

/// What a request has to pass no longer.
fn looser(old: &Route, new: &Route) -> Vec<String> {
    let mut looser = old.access.looser(&new.access);
    let limits = |route: &Route| route.limits.as_ref().map(|limits| limits.set.limits().to_vec()).unwrap_or_default();
    let (before, after) = (limits(old), limits(new));
    for limit in &before {
        // One that is called otherwise may do as well.
        if after.iter().any(|other| limit.looser(other).is_none()) {
            continue;
        }
        looser.push(match after.iter().find(|other| other.name == limit.name).and_then(|other| limit.looser(other)) {
            Some(what) => format!("limit `{}` {what}", limit.name),
            None => format!("limit `{}` is gone", limit.name),
        });
    }
    let max = |route: &Route| route.cap.as_ref().map(crate::limit::Cap::max);
    looser.extend(Cors::looser(old.cors.as_ref(), new.cors.as_ref()));
    looser.extend(raised("max_in_flight", max(old), max(new)));
    looser.extend(raised("body_bytes", old.body_bytes_max, new.body_bytes_max));
    looser
}

/// `None` is no bound at all.
pub(super) fn raised<T: Ord + std::fmt::Display>(what: &str, old: Option<T>, new: Option<T>) -> Option<String> {
    match (old, new) {
        (Some(old), None) => Some(format!("`{what}` was {old} and has no bound")),
        (Some(old), Some(new)) if new > old => Some(format!("`{what}` was {old} and is {new}")),
        _ => None,
    }
}
