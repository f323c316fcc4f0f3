//! The answer that is made of what the calls found.

use super::outcome::Results;
use super::plan::{Plan, called};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, OnConflict};
use crate::shape::json::{NULL, Node, write_text};
use crate::shape::template::{Names, Values, Variable};
use crate::shape::tree::Tree;
use std::borrow::Cow;
use std::fmt::Write as _;

/// Two bodies have the same key, and none of them is to win.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict;

#[derive(Debug)]
pub(super) enum Answer {
    /// Each call's body under its name.
    Named,
    Tree(Tree),
    /// The bodies of these calls in one map.
    Merged(Box<[usize]>, OnConflict),
}

impl Answer {
    pub fn build(raw: &raw::Compose, names: Names<'_>, fix: &str, at: &At<'_>, problems: &Problems) -> Option<Answer> {
        let merge_at = at.key("merge");
        let body_at = at.key("body");
        match (&raw.body, &raw.merge) {
            (Some(_), Some(_)) => {
                problems.clash(&merge_at, &body_at, "`merge` beside `body`", "there is one answer", "remove one of the two")
            }
            (Some(body), None) => {
                if raw.report && body.0.get("errors").is_some() {
                    let why = "`report` puts a list of that name there";
                    return problems.at(&body_at.key("errors"), "a key `errors` beside `report: true`", why, "give it another name");
                }
                Tree::build(&body.0, names, fix, &body_at, problems).map(Answer::Tree)
            }
            (None, Some(merge)) => merged(merge, names, &merge_at, problems).map(|calls| Answer::Merged(calls, raw.on_conflict)),
            (None, None) if raw.report && names.calls.contains(&"errors") => {
                let why = "`report` puts a list of that name beside it";
                problems.at(&at.key("calls").key("errors"), "a call named `errors` beside `report: true`", why, "give it another name")
            }
            (None, None) => Some(Answer::Named),
        }
    }

    pub fn variables(&self) -> Vec<&Variable> {
        match self {
            Answer::Tree(tree) => tree.variables(),
            Answer::Named | Answer::Merged(..) => Vec::new(),
        }
    }

    pub fn uses(&self, call: usize) -> bool {
        match self {
            Answer::Named => true,
            Answer::Tree(tree) => tree.variables().into_iter().any(|variable| called(variable) == Some(call)),
            Answer::Merged(calls, _) => calls.contains(&call),
        }
    }
}

fn merged(merge: &[raw::Name], names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<Box<[usize]>> {
    let place = |(index, name): (usize, &raw::Name)| {
        let at = at.index(index);
        if merge[..index].contains(name) {
            return problems.at(&at, format!("`{}` is named twice", name.0), "it would be merged with itself", "remove one of the two");
        }
        let place = names.calls.iter().position(|call| **call == name.0);
        place.or_else(|| {
            let fix = problems.remedy(&name.0, names.calls.iter().copied());
            problems.at(&at, format!("no call is named `{}`", name.0), "there would be nothing to merge", fix)
        })
    };
    let places: Vec<_> = merge.iter().enumerate().map(place).collect();
    places.into_iter().collect()
}

impl Plan {
    /// The answer's body; `values` are those of the request and of the calls.
    ///
    /// # Errors
    /// Keys that collide.
    pub fn compose(&self, results: &Results<'_>, values: &dyn Values) -> Result<Vec<u8>, Conflict> {
        let mut out = Vec::new();
        match &self.answer {
            Answer::Tree(tree) => tree.write(values, &mut out),
            Answer::Named => {
                let members = self.calls.iter().enumerate().map(|(index, call)| (Cow::Borrowed(&*call.name), text(results.body(index))));
                Node::Object(members.collect()).write(&mut out);
            }
            Answer::Merged(calls, on_conflict) => {
                let mut whole = Vec::new();
                for index in calls {
                    let mut node = text(results.body(*index));
                    node.open();
                    let members = match node {
                        Node::Object(members) => members,
                        node if node.is_null() => continue,
                        // What is no map has no keys of its own.
                        node => vec![(Cow::Borrowed(&*self.calls[*index].name), node)],
                    };
                    merge(&mut whole, members, *on_conflict)?;
                }
                Node::Object(whole).write(&mut out);
            }
        }
        if self.report && !results.is_complete() {
            self.add_errors(results, &mut out);
        }
        Ok(out)
    }

    /// Lists what failed, in an answer that is a map.
    fn add_errors(&self, results: &Results<'_>, out: &mut Vec<u8>) {
        if out.first() != Some(&b'{') || out.pop() != Some(b'}') {
            return;
        }
        out.extend_from_slice(if out.len() > 1 { b",\"errors\":[" } else { b"\"errors\":[" });
        let mut separator = "";
        for (call, failed) in self.calls.iter().enumerate().filter_map(|(index, call)| Some((call, results.get(index)?))) {
            let Some((status, code)) = failed.lack() else { continue };
            out.extend_from_slice(separator.as_bytes());
            out.extend_from_slice(b"{\"name\":");
            write_text(&call.name, out);
            let mut rest = format!(",\"status\":{status},\"ms\":{}", failed.took.as_millis());
            if let Some(code) = code {
                let _ = write!(rest, ",\"code\":\"{code}\"");
            }
            rest.push('}');
            out.extend_from_slice(rest.as_bytes());
            separator = ",";
        }
        out.extend_from_slice(b"]}");
    }

    /// Server-Timing (W3C): how long each call took.
    pub fn timing(&self, results: &Results<'_>) -> String {
        let mut out = String::new();
        for (call, outcome) in self.calls.iter().enumerate().filter_map(|(index, call)| Some((call, results.get(index)?))) {
            let separator = if out.is_empty() { "" } else { ", " };
            let _ = write!(out, "{separator}{};dur={:.1}", call.name, outcome.took.as_secs_f64() * 1_000.0);
            if let Some((status, _)) = outcome.lack() {
                let _ = write!(out, ";desc=\"{status}\"");
            }
        }
        out
    }
}

fn text(body: Option<&str>) -> Node<'_> {
    Node::Text(Cow::Borrowed(body.unwrap_or(NULL)))
}

type Members<'a> = Vec<(Cow<'a, str>, Node<'a>)>;

/// Puts members into a map.
fn merge<'a>(whole: &mut Members<'a>, members: Members<'a>, on_conflict: OnConflict) -> Result<(), Conflict> {
    for (name, mut node) in members {
        let Some((_, there)) = whole.iter_mut().find(|(known, _)| *known == name) else {
            whole.push((name, node));
            continue;
        };
        match on_conflict {
            OnConflict::Error => return Err(Conflict),
            OnConflict::First => {}
            OnConflict::Last => *there = node,
            OnConflict::Deep => {
                there.open();
                node.open();
                match (there, node) {
                    (Node::Object(whole), Node::Object(members)) => merge(whole, members, on_conflict)?,
                    (there, node) => *there = node,
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(bodies: &[&'static str], on_conflict: OnConflict) -> Result<String, Conflict> {
        let mut whole = Vec::new();
        for body in bodies {
            let mut node = text(Some(body));
            node.open();
            let Node::Object(members) = node else { panic!("a map") };
            merge(&mut whole, members, on_conflict)?;
        }
        let mut out = Vec::new();
        Node::Object(whole).write(&mut out);
        Ok(String::from_utf8(out).expect("a text"))
    }

    #[test]
    fn keys_that_collide() {
        let bodies = [r#"{"a":1,"m":{"x":1.10,"y":[1]}}"#, r#"{"b":2,"m":{"y":[2],"z":{}}}"#];
        for (on_conflict, whole) in [
            (OnConflict::Error, Err(Conflict)),
            (OnConflict::First, Ok(r#"{"a":1,"m":{"x":1.10,"y":[1]},"b":2}"#)),
            (OnConflict::Last, Ok(r#"{"a":1,"m":{"y":[2],"z":{}},"b":2}"#)),
            (OnConflict::Deep, Ok(r#"{"a":1,"m":{"x":1.10,"y":[2],"z":{}},"b":2}"#)),
        ] {
            assert_eq!(merged(&bodies, on_conflict), whole.map(str::to_string), "{on_conflict:?}");
        }
        assert_eq!(merged(&[r#"{"a":1}"#, r#"{"b":2}"#], OnConflict::Error), Ok(r#"{"a":1,"b":2}"#.to_string()));
    }
}
