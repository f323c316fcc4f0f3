//! The walk along the configuration that collects every problem of shape.
//!
//! A derive stops at the first mistake, so each typed part reads itself from a [`Node`]: it reports what is wrong where it
//! stands and answers `None`, and its neighbours go on reading. `record!` and `choice!` declare a part once.
//!
//! What could be read is given meaning even so: an optional key whose value can't be read falls to its default, and an
//! `Option` is always read, as `None` at worst, so that a list of them keeps a hole where an item was. Only a required key makes
//! its whole part unreadable.

pub(crate) use super::declare::{choice, record};
use super::place::At;
use super::problem::{Place, Problem, Problems};
use super::schema::Parts;
use super::substitute::literal;
pub use super::values::{Bound, Named, Number, OneOrMany, Patience, Share, Size};
use serde_yaml::{Mapping, Value};
use std::cell::RefCell;

/// A value, where it stands, and where to report.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    pub value: &'a Value,
    pub at: &'a At<'a>,
    pub problems: &'a Problems,
}

/// What can be read from a node.
pub trait Shape: Sized {
    /// `None` means that a problem was reported.
    fn read(node: &Node<'_>) -> Option<Self>;

    /// The JSON Schema of what is read. Parts with a name are put among `parts` and referred to.
    fn schema(_parts: &mut Parts) -> serde_json::Value {
        serde_json::json!({})
    }

    /// The value as one would type it, where that is short: defaults are shown so.
    fn written(&self) -> Option<serde_json::Value> {
        None
    }
}

impl Node<'_> {
    pub fn problem<T>(&self, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Option<T> {
        self.problems.unread(self.at, what, why, fix);
        None
    }

    /// Something else stands here than what is `wanted`, such as "a duration".
    pub fn expected<T>(&self, wanted: &str, example: &str) -> Option<T> {
        let what = format!("{} must be {wanted}, not {}", self.at.label(), kind(self.value));
        self.problem(what, "a value of another kind can't be understood", format!("write {wanted}, such as `{example}`"))
    }

    /// A text that is no template.
    pub fn text(&self, wanted: &str, example: &str) -> Option<String> {
        self.written(wanted, example).map(|text| literal(&text))
    }

    /// A text as it is written. A bare number is taken as one; a bare true or false is not, since YAML may have made it out of `yes`
    /// or `no`.
    pub fn written(&self, wanted: &str, example: &str) -> Option<String> {
        match self.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => self.expected(wanted, example),
        }
    }

    /// A text with a form of its own.
    pub fn parsed<T>(&self, wanted: &str, example: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(wanted, example)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(what) => self.problem(what, format!("`{}` needs {wanted}", self.at.name()), format!("write {wanted}, such as `{example}`")),
        }
    }

    /// One of `words`.
    pub fn word(&self, words: &[&str]) -> Option<String> {
        let text = self.text("one of the words that are known here", words[0])?;
        let (name, all) = (self.at.name(), words.join(", "));
        match text.as_str() {
            word if words.contains(&word) => Some(text),
            word => {
                let fix = nearest(word, words).map_or("write one of them".to_string(), |meant| format!("did you mean `{meant}`?"));
                self.problem(format!("`{word}` is not known here"), format!("`{name}` is one of {all}"), fix)
            }
        }
    }

    /// A number within bounds. A text that is one is taken: it may come from an environment variable.
    pub(super) fn number(&self, min: u64, max: u64) -> Option<u64> {
        let number = match self.value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if (min..=max).contains(&number) => Some(number),
            Some(number) => self.problem(
                format!("`{}` is {number}", self.at.name()),
                format!("it must be from {min} to {max}"),
                format!("write a number from {min} to {max}"),
            ),
            None if self.value.is_number() => {
                let fix = format!("write a whole number from {min} to {max}");
                self.problem(format!("`{}` is no whole number from 0 up", self.at.name()), "parts of one can't be counted", fix)
            }
            None => self.expected("a whole number", &min.max(1).to_string()),
        }
    }

    pub fn map(&self) -> Option<Map<'_>> {
        match self.value {
            Value::Mapping(entries) => Some(Map { node: *self, entries, asked: RefCell::default(), missing: RefCell::default() }),
            _ => self.expected("a map", "key: value"),
        }
    }

    /// Reads each item of a list; all their problems are reported before the answer is `None`.
    pub fn list<T: Shape>(&self) -> Option<Vec<T>> {
        let Value::Sequence(items) = self.value else { return self.expected("a list", "[a, b]") };
        let read: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(index, value)| T::read(&Node { value, at: &self.at.index(index), problems: self.problems }))
            .collect();
        read.into_iter().collect()
    }
}

/// What a value is, for messages; never the value itself, which may be a secret.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a bare true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a map",
        Value::Tagged(_) => "a tagged value",
    }
}

/// A map that remembers which keys were asked for, so that the others are known to be strangers.
pub struct Map<'a> {
    node: Node<'a>,
    pub(super) entries: &'a Mapping,
    asked: RefCell<Vec<&'static str>>,
    missing: RefCell<Vec<&'static str>>,
}

impl Map<'_> {
    /// Reads what stands under `key`; the outer `None` means that there is nothing.
    pub fn read<T: Shape>(&self, key: &'static str) -> Option<Option<T>> {
        self.asked.borrow_mut().push(key);
        let value = self.entries.get(key)?;
        Some(T::read(&Node { value, at: &self.node.at.key(key), problems: self.node.problems }))
    }

    /// Reads what can't be left out.
    pub fn required<T: Shape>(&self, key: &'static str) -> Option<T> {
        self.read(key).unwrap_or_else(|| {
            self.missing.borrow_mut().push(key);
            None
        })
    }

    /// Reads what may be left out, and then, or when it can't be read, is what `default` makes.
    pub fn optional<T: Shape>(&self, key: &'static str, default: impl FnOnce() -> T) -> T {
        self.read(key).flatten().unwrap_or_else(default)
    }

    /// Reports the keys that nobody asked for, and those that are missing: leaving one out silently would open what it was meant
    /// to close. The part is read all the same, so that what else is wrong comes along.
    pub fn finish(&self) {
        let (asked, mut missing) = (self.asked.borrow(), self.missing.borrow_mut());
        let report = |place, what, why: &str, fix| self.node.problems.add(Problem::new(place, what, why, fix));
        for key in self.entries.keys() {
            let Some(name) = key.as_str() else {
                let place = Place::Value(self.node.at.path());
                report(place, "a key that is not a text".to_string(), "keys are names", "put the key in quotes".to_string());
                continue;
            };
            if asked.contains(&name) {
                continue;
            }
            let place = Place::Key(self.node.at.key(name).path());
            // What was meant is not missing.
            if let Some(meant) = nearest(name, &asked).filter(|meant| !self.entries.contains_key(meant)) {
                missing.retain(|key| *key != meant);
                self.node.problems.excuse(&self.node.at.key(meant));
            }
            report(place, format!("unknown key `{name}`"), "a key that is not understood would have no effect", remedy(name, &asked));
        }
        for key in missing.iter() {
            let what = format!("{} has no `{key}`", self.node.at.label());
            report(Place::Value(self.node.at.path()), what, "there is no default for it", format!("add `{key}:`"));
        }
    }
}

/// "did you mean", or the list of what is known.
pub fn remedy(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if known.is_empty() => "remove it".to_string(),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// The known name that is a slip of the finger away from `name`.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Of numbers, such as statuses, a digit is no slip: whoever wrote 500 did not mean 502.
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let lower = name.to_ascii_lowercase().replace('-', "_");
    let scored = known.iter().map(|k| (strsim::damerau_levenshtein(&lower, &k.to_ascii_lowercase()), *k));
    scored.filter(|(distance, k)| *distance <= 1 + k.len() / 4).min().map(|(_, k)| k)
}
