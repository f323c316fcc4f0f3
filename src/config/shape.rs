//! The walk along the configuration that collects every problem of shape.
//!
//! A derive stops at the first mistake, so each typed part reads itself from a [`Node`]: it reports what is wrong where it
//! stands and answers `None`, and its neighbours go on reading. `record!` and `choice!` declare a part once.
//!
//! What could be read is given meaning even so: an optional key whose value can't be read falls to its default, and an
//! `Option` is always read, as `None` at worst, so that a list of them keeps a hole where an item was. Only a required key makes
//! its whole part unreadable.

use super::place::At;
use super::problem::{Place, Problem, Problems};
use super::scalar;
use serde_yaml::{Mapping, Value};
use std::cell::RefCell;
use std::time::Duration;

/// A value, where it stands, and where to report.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    pub value: &'a Value,
    pub at: &'a At<'a>,
    pub problems: &'a Problems,
}

/// What can be read from a node. `None` means that a problem was reported.
pub trait Shape: Sized {
    fn read(node: &Node<'_>) -> Option<Self>;
}

impl Node<'_> {
    pub fn problem<T>(&self, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Option<T> {
        self.problems.unread(self.at, what, why, fix);
        None
    }

    /// Something else stands here than what is `wanted`, such as "a duration".
    pub fn expected<T>(&self, wanted: &str, example: &str) -> Option<T> {
        let what = format!("`{}` must be {wanted}, not {}", self.at.name(), kind(self.value));
        self.problem(what, "a value of another kind can't be understood", format!("write {wanted}, such as `{example}`"))
    }

    /// A text. A bare number is taken as one; a bare true or false is not, since YAML may have made it out of `yes` or `no`.
    pub fn text(&self, wanted: &str, example: &str) -> Option<String> {
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

    /// A number within bounds. A text that is one is taken: it may come from an environment variable.
    fn number(&self, min: u64, max: u64) -> Option<u64> {
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
fn kind(value: &Value) -> &'static str {
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
    entries: &'a Mapping,
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

    /// Reports the keys that nobody asked for, and those that are missing. `later` are keys of the contract that this version
    /// doesn't have yet: leaving one out silently would open what it was meant to close. The part is read all the same, so that
    /// what else is wrong comes along.
    pub fn finish(&self, later: &[&str]) {
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
            if later.contains(&name) {
                let what = format!("`{name}` is not supported by this version yet");
                report(place, what, "it would have no effect", "remove it".to_string());
                continue;
            }
            // What was meant is not missing.
            if let Some(meant) = nearest(name, &asked).filter(|meant| !self.entries.contains_key(meant)) {
                missing.retain(|key| *key != meant);
                self.node.problems.misspelt(&self.node.at.key(meant));
            }
            report(place, format!("unknown key `{name}`"), "a key that is not understood would have no effect", remedy(name, &asked));
        }
        for key in missing.iter() {
            let what = format!("`{}` has no `{key}`", self.node.at.name());
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
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase().replace('-', "_");
    let scored = known.iter().map(|k| (strsim::damerau_levenshtein(&lower, &k.to_ascii_lowercase()), *k));
    scored.filter(|(distance, k)| *distance <= 1 + k.len() / 4).min().map(|(_, k)| k)
}

impl Shape for String {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.text("a text", "\"…\"")
    }
}
impl Shape for bool {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value {
            Value::Bool(yes) => Some(*yes),
            Value::String(text) if text == "true" || text == "false" => Some(text == "true"),
            _ => node.expected("true or false", "true"),
        }
    }
}
impl Shape for Duration {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("a duration", "5s", scalar::duration)
    }
}
impl<T: Shape> Shape for Option<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        Some(T::read(node))
    }
}
impl<T: Shape> Shape for Vec<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.list()
    }
}
impl<T: Shape> Shape for Box<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        T::read(node).map(Box::new)
    }
}

/// A number of bytes, written as a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);
impl Shape for Size {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("a size", "64KiB", scalar::size).map(Size)
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<const MIN: u64, const MAX: u64>(pub u64);
impl<const MIN: u64, const MAX: u64> Shape for Number<MIN, MAX> {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.number(MIN, MAX).map(Number)
    }
}
impl<const MIN: u64, const MAX: u64> Number<MIN, MAX> {
    pub fn usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A share from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);
impl Shape for Share {
    fn read(node: &Node<'_>) -> Option<Self> {
        let number = match node.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        match number.filter(|n| (0.0..=1.0).contains(n)) {
            Some(share) => Some(Share(share)),
            None => node.expected("a number from 0.0 to 1.0", "0.1"),
        }
    }
}

/// One, or a list of at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMany<T>(pub Vec<T>);
impl<T: Shape> Shape for OneOrMany<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value {
            Value::Sequence(items) if items.is_empty() => {
                let what = format!("`{}` is an empty list", node.at.name());
                node.problem(what, "nothing could ever match it", "name at least one, or leave the key out")
            }
            Value::Sequence(_) => node.list().map(OneOrMany),
            _ => T::read(node).map(|one| OneOrMany(vec![one])),
        }
    }
}

/// A map from names to parts, in the order of the file.
#[derive(Clone, Debug)]
pub struct Named<T>(pub Vec<(String, T)>);
impl<T> Default for Named<T> {
    fn default() -> Self {
        Named(Vec::new())
    }
}
impl<T: Shape> Shape for Named<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        let map = node.map()?;
        let mut read = Vec::with_capacity(map.entries.len());
        for (key, value) in map.entries {
            let name = match key {
                Value::String(name) => name.clone(),
                Value::Number(number) => number.to_string(),
                _ => {
                    node.problems.at::<()>(node.at, "a name that is not a text", "names are texts", "put the name in quotes");
                    continue;
                }
            };
            let at = node.at.key(&name);
            let part = T::read(&Node { value, at: &at, problems: node.problems });
            read.push(part.map(|part| (name, part)));
        }
        read.into_iter().collect::<Option<Vec<_>>>().map(Named)
    }
}

/// Declares a part of the configuration: its keys, their types and defaults. A key without a default is required.
macro_rules! record {
    (
        $(#[$doc:meta])*
        pub struct $name:ident {
            $( $(#[$field_doc:meta])* $field:ident : $type:ty $(= $default:expr)?, )*
        }
        $(later $later:expr;)?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name { $( $(#[$field_doc])* pub $field: $type, )* }

        impl $crate::config::shape::Shape for $name {
            fn read(node: &$crate::config::shape::Node<'_>) -> Option<Self> {
                let map = node.map()?;
                $( let $field: Option<$type> = record!(@read map, $field $(, $default)?); )*
                #[allow(unused_mut, unused_assignments)]
                let mut later: &[&str] = &[];
                $( later = &$later; )?
                map.finish(later);
                Some($name { $( $field: $field?, )* })
            }
        }
    };
    (@read $map:ident, $field:ident) => { $map.required(stringify!($field)) };
    (@read $map:ident, $field:ident, $default:expr) => { Some($map.optional(stringify!($field), || $default)) };
}

/// Declares a closed set of words. `later` are words of the contract that this version doesn't have yet.
macro_rules! choice {
    (
        $(#[$doc:meta])*
        pub enum $name:ident { $( $(#[$variant_doc:meta])* $word:literal => $variant:ident, )* }
        $(later $later:expr;)?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[$variant_doc])* $variant, )* }

        impl $crate::config::shape::Shape for $name {
            fn read(node: &$crate::config::shape::Node<'_>) -> Option<Self> {
                let text = node.text("one of the words that are known here", [$($word),*][0])?;
                #[allow(unused_mut, unused_assignments)]
                let mut later: &[&str] = &[];
                $( later = &$later; )?
                match text.as_str() {
                    $( $word => Some($name::$variant), )*
                    word if later.contains(&word) => node.problem(
                        format!("`{word}` is not supported by this version yet"),
                        format!("`{}` would have no effect", node.at.name()),
                        format!("use one of {}", [$($word),*].join(", ")),
                    ),
                    word => node.problem(
                        format!("`{word}` is not known here"),
                        format!("`{}` is one of {}", node.at.name(), [$($word),*].join(", ")),
                        $crate::config::shape::remedy(word, &[$($word),*]),
                    ),
                }
            }
        }
    };
}
pub(crate) use {choice, record};
