//! The calls of a plan, each as soon as what it needs is there.

use super::call::{self, Draft};
use super::line::Line;
use super::outcome::{Failed, Found, Kept, Known, Outcome, Results};
use super::plan::{Call, Plan, Rule};
use crate::limit::Held;
use crate::shape::headers::Edit;
use crate::shape::json::NULL;
use crate::shape::template::{Target, Values};
use crate::types::Refusal;
use crate::upstream::keepalive::Keepalive;
use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use http::HeaderMap;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use std::time::{Duration, Instant};

/// Who asks: what calls have in common.
pub trait Desk: Sync {
    /// Of the request.
    fn values(&self) -> &dyn Values;

    /// The service of a call, by the call's place.
    fn line(&self, call: usize) -> Line<'_>;

    /// The head of a call as its service gets it.
    ///
    /// # Errors
    /// What was put into it can't stand there.
    fn head(&self, draft: &Draft<'_>) -> pingora::Result<RequestHeader>;

    /// Looks at an answer's head, and mends what says nothing. Whether a body may follow that it leaves no room for.
    ///
    /// # Errors
    /// Its framing can't be trusted.
    fn accept(&self, head: &mut ResponseHeader) -> pingora::Result<bool>;

    /// Whether an answer may be kept by a cache, which came after so long.
    fn kept(&self, head: &ResponseHeader, delay: Duration) -> Option<Kept>;

    fn connector(&self) -> &Connector<Keepalive>;

    /// Begins to hold a body.
    fn hold(&self) -> Held;
}

/// A call that is over.
type Done = (usize, Outcome);

/// Makes all calls. What is dropped before it is done cancels those that are under way.
///
/// # Errors
/// The place of a required call that failed; `results` has its outcome.
pub async fn gather<'a>(plan: &'a Plan, desk: &'a dyn Desk, results: &mut Results<'_>) -> Result<(), usize> {
    let started = Instant::now();
    let mut running: FuturesUnordered<BoxFuture<'a, Done>> = FuturesUnordered::new();
    let mut is_begun = vec![false; plan.calls.len()];
    loop {
        // One that is skipped may be what another waits for.
        while let Some(next) = (0..plan.calls.len()).find(|call| !is_begun[*call] && is_ready(&plan.calls[*call], results)) {
            is_begun[next] = true;
            let left = plan.timeout.saturating_sub(started.elapsed());
            match begin(plan, desk, next, left, results) {
                Ok(future) => running.push(future),
                Err(failed) => settle(plan, results, next, skipped(failed))?,
            }
        }
        let Some((call, outcome)) = running.next().await else { return Ok(()) };
        settle(plan, results, call, outcome)?;
    }
}

fn is_ready(call: &Call, results: &Results<'_>) -> bool {
    call.needs.iter().all(|need| results.is_over(*need))
}

fn settle(plan: &Plan, results: &mut Results<'_>, call: usize, outcome: Outcome) -> Result<(), usize> {
    let is_fatal = outcome.found.is_err() && matches!(plan.calls[call].rule, Rule::Required { .. });
    results.set(call, outcome);
    if is_fatal { Err(call) } else { Ok(()) }
}

fn skipped(failed: Failed) -> Outcome {
    Outcome { took: Duration::ZERO, attempts: 0, found: Err(failed), lacks: None }
}

/// Puts the values into a call, and starts it with so much time left for all.
fn begin<'a>(
    plan: &'a Plan,
    desk: &'a dyn Desk,
    place: usize,
    left: Duration,
    results: &Results<'_>,
) -> Result<BoxFuture<'a, Done>, Failed> {
    let call = &plan.calls[place];
    if call.needs.iter().any(|need| results.body(*need).is_none()) {
        return Err(Failed::Skipped);
    }
    if left.is_zero() {
        return Err(Failed::Refused(Refusal::UpstreamTimeout));
    }
    let limit = call.timeout.map_or(left, |timeout| timeout.min(left));
    let Some(each) = &call.each else {
        let draft = draft(desk, call, place, results, None).ok_or(Failed::Unusable("bad_target"))?;
        return Ok(one(desk, call, draft, limit).map(move |outcome| (place, outcome)).boxed());
    };
    let mut items = results.items(&each.items);
    let is_cut = items.len() > each.items_max;
    items.truncate(each.items_max);
    let drafts: Vec<_> = items.iter().map(|item| draft(desk, call, place, results, Some(item))).collect();
    Ok(many(desk, call, drafts, each.parallel, is_cut, limit).map(move |outcome| (place, outcome)).boxed())
}

/// `None` when the values lead to no target that could be asked for.
fn draft<'a>(desk: &dyn Desk, call: &'a Call, place: usize, results: &Results<'_>, item: Option<&str>) -> Option<Draft<'a>> {
    let known = Known { request: desk.values(), results, item };
    let target = call.path.render(&known, Target::Path);
    let path = target.split('?').next().unwrap_or_default();
    // A service would read a dot segment as a way out of the folder that was meant, and two slashes as a host.
    if target.starts_with("//") || path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return None;
    }
    let fields = call.headers.edits(&known).filter_map(|edit| match edit {
        Edit::Set(name, value) | Edit::Add(name, value) => Some((name.clone(), value)),
        Edit::Remove(_) | Edit::Rename(..) => None,
    });
    let headers = fields.collect();
    let body = call.body.as_ref().map(|tree| {
        let mut out = Vec::new();
        tree.write(&known, &mut out);
        Bytes::from(out)
    });
    Some(Draft { call: place, method: &call.method, target, passed: &call.passed, headers, body })
}

async fn one(desk: &dyn Desk, call: &Call, draft: Draft<'_>, limit: Duration) -> Outcome {
    let started = Instant::now();
    let (found, attempts) = call::make(desk, call, &draft, limit).await;
    Outcome { took: started.elapsed(), attempts, found, lacks: None }
}

/// A call for each item: its body is the list of theirs, in the order of the items.
async fn many<'a>(
    desk: &'a dyn Desk,
    call: &'a Call,
    drafts: Vec<Option<Draft<'a>>>,
    parallel: usize,
    is_cut: bool,
    limit: Duration,
) -> Outcome {
    let started = Instant::now();
    let calls: Vec<BoxFuture<'a, _>> = drafts.into_iter().map(|draft| item(desk, call, draft, started + limit).boxed()).collect();
    let mut answers = stream::iter(calls).buffered(parallel);
    let (mut body, mut held, mut attempts) = (vec![b'['], desk.hold(), 0);
    let mut lacks = is_cut.then(|| Refusal::ComposeFailed.status());
    let mut kept = Some(Kept::default());
    while let Some((found, tries)) = answers.next().await {
        attempts += tries;
        if body.len() > 1 {
            body.push(b',');
        }
        let before = body.len();
        match (found, &call.rule) {
            (Ok(found), _) => {
                body.extend_from_slice(&found.body);
                kept = kept.zip(found.kept).map(|(whole, part)| whole.with(*part));
            }
            (Err(failed), Rule::Required { .. }) => {
                return Outcome { took: started.elapsed(), attempts, found: Err(failed), lacks: None };
            }
            (Err(failed), Rule::Optional { default }) => {
                lacks = Some(failed.status());
                body.extend_from_slice(default.as_deref().unwrap_or(NULL).as_bytes());
            }
        }
        if held.grow(body.len() - before).is_err() {
            let found = Err(Failed::Refused(Refusal::Overloaded));
            return Outcome { took: started.elapsed(), attempts, found, lacks: None };
        }
    }
    body.push(b']');
    let found = Found { status: 200, headers: HeaderMap::new(), body: body.into(), held, kept: kept.map(Box::new) };
    Outcome { took: started.elapsed(), attempts, found: Ok(found), lacks }
}

async fn item(desk: &dyn Desk, call: &Call, draft: Option<Draft<'_>>, due: Instant) -> (Result<Found, Failed>, usize) {
    match &draft {
        Some(draft) => call::make(desk, call, draft, due.saturating_duration_since(Instant::now())).await,
        None => (Err(Failed::Unusable("bad_target")), 0),
    }
}
