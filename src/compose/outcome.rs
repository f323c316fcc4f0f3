//! What became of the calls, and what templates find in it.

use super::plan::{Call, Rule};
use crate::auth::Answered;
use crate::cache::fresh::Terms;
use crate::limit::Held;
use crate::shape::json::{self, NULL, Node, Wanted, plain, write_text};
use crate::shape::path::Path;
use crate::shape::template::{Part, Value, Values, Variable};
use crate::types::Refusal;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use std::borrow::Cow;
use std::time::Duration;

/// What a call found: a JSON body, `null` where there was none.
#[derive(Debug)]
pub struct Found {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Keeps the body's size among what is held.
    pub held: Held,
    /// Whether it may be kept by a cache.
    pub kept: Option<Box<Kept>>,
}

/// Under which terms an answer may be kept, and what it is tagged with. Without terms when it has no part.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub terms: Option<Terms>,
    pub tags: Vec<Box<str>>,
}

impl Kept {
    /// Of an answer that has another part.
    pub fn with(mut self, other: Kept) -> Kept {
        self.tags.extend(other.tags);
        self.terms = match (self.terms, other.terms) {
            (Some(own), Some(other)) => Some(own.with(other)),
            (own, other) => own.or(other),
        };
        self
    }
}

/// Why there is nothing of a call.
#[derive(Debug)]
pub enum Failed {
    /// The service answered, but not with a 2xx.
    Answered(Box<Answered>),
    /// It was not reached, or gave no answer in time.
    Refused(Refusal),
    /// The answer is not JSON, or is too large.
    Unusable(&'static str),
    /// It needs an answer that did not come.
    Skipped,
}

/// A call that is over, one way or the other.
#[derive(Debug)]
pub struct Outcome {
    pub took: Duration,
    pub attempts: usize,
    pub found: Result<Found, Failed>,
    /// Of a call for each item: some of them failed, or were not asked for. The status of one that failed.
    pub lacks: Option<u16>,
}

impl Failed {
    pub fn status(&self) -> u16 {
        match self {
            Failed::Answered(answered) => answered.status.as_u16(),
            Failed::Refused(refusal) => refusal.status(),
            Failed::Unusable(_) | Failed::Skipped => Refusal::ComposeFailed.status(),
        }
    }

    /// What it is called where it is reported; a service's own answer has no name of ours.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Failed::Answered(_) => None,
            Failed::Refused(refusal) => Some(refusal.code()),
            Failed::Unusable(what) => Some(what),
            Failed::Skipped => Some("skipped"),
        }
    }
}

impl Outcome {
    /// The status and the name of what is lacking of it, if anything is.
    pub fn lack(&self) -> Option<(u16, Option<&'static str>)> {
        match (&self.found, self.lacks) {
            (Err(failed), _) => Some((failed.status(), failed.code())),
            (Ok(_), Some(status)) => Some((status, Some("incomplete"))),
            (Ok(_), None) => None,
        }
    }
}

/// The outcomes so far, by the calls' places.
#[derive(Debug)]
pub struct Results<'a> {
    calls: &'a [Call],
    outcomes: Vec<Option<Outcome>>,
    /// The request's own JSON body.
    body: Option<Bytes>,
}

impl<'a> Results<'a> {
    pub fn new(calls: &'a [Call], body: Option<Bytes>) -> Results<'a> {
        Results { calls, outcomes: calls.iter().map(|_| None).collect(), body }
    }

    pub fn get(&self, call: usize) -> Option<&Outcome> {
        self.outcomes.get(call)?.as_ref()
    }

    pub fn set(&mut self, call: usize, outcome: Outcome) {
        if let Some(slot) = self.outcomes.get_mut(call) {
            *slot = Some(outcome);
        }
    }

    pub fn take(&mut self, call: usize) -> Option<Outcome> {
        self.outcomes.get_mut(call)?.take()
    }

    pub fn is_over(&self, call: usize) -> bool {
        self.get(call).is_some()
    }

    /// Nothing is lacking.
    pub fn is_complete(&self) -> bool {
        self.outcomes.iter().flatten().all(|outcome| outcome.lack().is_none())
    }

    /// Whether an answer that is made of all this may be kept.
    pub fn kept(&self) -> Option<Kept> {
        let parts = self.outcomes.iter().map(|outcome| match &outcome.as_ref()?.found {
            Ok(found) => found.kept.as_deref().cloned(),
            Err(_) => None,
        });
        parts.into_iter().try_fold(Kept::default(), |whole, part| Some(whole.with(part?))).filter(|_| self.is_complete())
    }

    pub fn attempts(&self) -> usize {
        self.outcomes.iter().flatten().map(|outcome| outcome.attempts).sum()
    }

    /// A call's body, or what stands for it.
    pub fn body(&self, call: usize) -> Option<&str> {
        match (&self.get(call)?.found, &self.calls.get(call)?.rule) {
            (Ok(found), _) => std::str::from_utf8(&found.body).ok(),
            (Err(_), Rule::Optional { default }) => default.as_deref(),
            (Err(_), Rule::Required { .. }) => None,
        }
    }

    /// What stands at a path of a call's body, as it is written there. A default that is no map stands for whatever is looked for.
    fn at(&self, call: usize, path: &Path) -> Option<Cow<'_, str>> {
        let body = self.body(call)?;
        let is_default = self.get(call).is_some_and(|outcome| outcome.found.is_err());
        if path.is_root() || (is_default && !body.starts_with('{')) {
            return Some(Cow::Borrowed(body));
        }
        json::find(body.as_bytes(), path.steps()).map(Cow::Owned)
    }

    fn header(&self, call: usize, name: &http::HeaderName) -> Option<&HeaderValue> {
        match &self.get(call)?.found {
            Ok(found) => found.headers.get(name),
            Err(_) => None,
        }
    }

    fn status(&self, call: usize) -> Option<u16> {
        Some(match &self.get(call)?.found {
            Ok(found) => found.status,
            Err(failed) => failed.status(),
        })
    }

    fn of_request(&self, path: &Path) -> Option<Cow<'_, str>> {
        let body = self.body.as_ref()?;
        match path.is_root() {
            true => std::str::from_utf8(body).ok().map(Cow::Borrowed),
            false => json::find(body, path.steps()).map(Cow::Owned),
        }
    }

    /// The items of a list that was found, each as it is written; nothing where there is no list.
    pub fn items(&self, variable: &Variable) -> Vec<String> {
        let text = match variable {
            Variable::Call(call, Part::Body(path)) => self.at(*call, path),
            Variable::Body(path) => self.of_request(path),
            _ => None,
        };
        text.map_or_else(Vec::new, |text| items(&text))
    }
}

fn items(text: &str) -> Vec<String> {
    let mut node = Node::Text(Cow::Borrowed(text));
    node.open();
    let Node::List(items) = node else { return Vec::new() };
    let written = |item: &Node<'_>| {
        let mut out = Vec::new();
        item.write(&mut out);
        String::from_utf8(out).unwrap_or_default()
    };
    items.iter().map(written).collect()
}

/// The values of a request, of the calls that are over, and of the item that a call is made for.
pub struct Known<'a> {
    pub request: &'a dyn Values,
    pub results: &'a Results<'a>,
    pub item: Option<&'a str>,
}

impl Known<'_> {
    /// A value that is JSON already; the outer `None` is for what is none.
    fn text(&self, variable: &Variable) -> Option<Option<Cow<'_, str>>> {
        match variable {
            Variable::Call(call, Part::Body(path)) => Some(self.results.at(*call, path)),
            Variable::Call(call, Part::Status) => Some(self.results.status(*call).map(|status| Cow::Owned(status.to_string()))),
            Variable::Body(path) => Some(self.results.of_request(path)),
            Variable::Item(path) if path.is_root() => Some(self.item.map(Cow::Borrowed)),
            Variable::Item(path) => Some(self.item.and_then(|item| json::find(item.as_bytes(), path.steps())).map(Cow::Owned)),
            _ => None,
        }
    }
}

impl Values for Known<'_> {
    fn value(&self, variable: &Variable) -> Value<'_> {
        match (variable, self.text(variable)) {
            (_, Some(None)) => Value::Plain(Cow::Borrowed("")),
            (_, Some(Some(text))) if text.trim_start().starts_with('[') => {
                Value::List(items(&text).iter().map(|item| plain(item).into_owned()).collect())
            }
            (_, Some(Some(text))) => Value::Plain(Cow::Owned(plain(&text).into_owned())),
            (Variable::Call(call, Part::Header(name)), None) => {
                let value = self.results.header(*call, name);
                Value::Plain(value.map_or(Cow::Borrowed(""), |value| String::from_utf8_lossy(value.as_bytes())))
            }
            (_, None) => self.request.value(variable),
        }
    }

    fn json(&self, variable: &Variable, out: &mut Vec<u8>) {
        match (variable, self.text(variable)) {
            (_, Some(text)) => out.extend_from_slice(text.as_deref().unwrap_or(NULL).as_bytes()),
            (Variable::Call(call, Part::Header(name)), None) => match self.results.header(*call, name) {
                Some(value) => write_text(&String::from_utf8_lossy(value.as_bytes()), out),
                None => out.extend_from_slice(NULL.as_bytes()),
            },
            (_, None) => self.request.json(variable, out),
        }
    }
}

/// A body as JSON: nothing is `null`.
pub(super) fn read(body: Bytes) -> Option<Bytes> {
    if body.is_empty() {
        return Some(Bytes::from_static(NULL.as_bytes()));
    }
    let text = body.trim_ascii();
    // The whole is looked through once here, and only where something is asked for afterwards.
    Node::read(text, &Wanted::default(), false).ok()?;
    Some(body.slice_ref(text))
}
