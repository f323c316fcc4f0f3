//! Values of the kinds that all parts have: texts, numbers, times, lists, maps by name.

use super::scalar;
use super::schema::{self, Parts};
use super::shape::{Node, Shape};
use serde_json::{Value as Json, json};
use serde_yaml::Value;
use std::time::Duration;

impl Shape for String {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.text("a text", "\"…\"")
    }
    fn schema(_: &mut Parts) -> Json {
        json!({ "type": ["string", "number"] })
    }
    fn written(&self) -> Option<Json> {
        Some(json!(self))
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
    fn schema(_: &mut Parts) -> Json {
        schema::or_text(json!({}), "boolean", "^(true|false)$")
    }
    fn written(&self) -> Option<Json> {
        Some(json!(self))
    }
}
impl Shape for Duration {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("a duration", "5s", scalar::duration)
    }
    fn schema(_: &mut Parts) -> Json {
        schema::or_text(json!({ "maximum": 0, "minimum": 0, "examples": ["250ms", "5s", "2m"] }), "integer", "^([0-9]+(ms|s|m|h|d)|0)$")
    }
    fn written(&self) -> Option<Json> {
        let ms = self.as_millis();
        Some(if ms.is_multiple_of(1_000) { json!(format!("{}s", ms / 1_000)) } else { json!(format!("{ms}ms")) })
    }
}

/// How long something may take: more than no time at all, or everything would be late at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(pub Duration);
impl Shape for Patience {
    fn read(node: &Node<'_>) -> Option<Self> {
        patience(node, "write how long it may take, such as `5s`").map(Patience)
    }
    fn schema(_: &mut Parts) -> Json {
        schema::text("^0*[1-9][0-9]*(ms|s|m|h|d)$", "5s")
    }
    fn written(&self) -> Option<Json> {
        self.0.written()
    }
}

fn patience(node: &Node<'_>, fix: &str) -> Option<Duration> {
    let time = Duration::read(node)?;
    if time.is_zero() {
        let why = "all that is waited for would be late at once";
        return node.problem(format!("`{}` is no time at all", node.at.name()), why, fix);
    }
    Some(time)
}

/// The same, or `none`: as long as it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound(pub Option<Duration>);
impl Shape for Bound {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value {
            Value::String(text) if text == "none" => Some(Bound(None)),
            _ => patience(node, "write how long it may take, such as `5s`, or `none`").map(|time| Bound(Some(time))),
        }
    }
    fn schema(parts: &mut Parts) -> Json {
        json!({ "anyOf": [Patience::schema(parts), { "const": "none" }] })
    }
    fn written(&self) -> Option<Json> {
        self.0.map_or(Some("none".into()), |time| time.written())
    }
}

/// What can't be read is `None`: the part around it goes on without it.
impl<T: Shape> Shape for Option<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        Some(T::read(node))
    }
    fn schema(parts: &mut Parts) -> Json {
        T::schema(parts)
    }
    fn written(&self) -> Option<Json> {
        self.as_ref().and_then(T::written)
    }
}
impl<T: Shape> Shape for Vec<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.list()
    }
    fn schema(parts: &mut Parts) -> Json {
        json!({ "type": "array", "items": T::schema(parts) })
    }
    fn written(&self) -> Option<Json> {
        self.iter().map(T::written).collect::<Option<Vec<_>>>().map(Json::Array)
    }
}
impl<T: Shape> Shape for Box<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        T::read(node).map(Box::new)
    }
    fn schema(parts: &mut Parts) -> Json {
        T::schema(parts)
    }
    fn written(&self) -> Option<Json> {
        (**self).written()
    }
}

/// A number of bytes, `MIN` or more, written as a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size<const MIN: u64 = 0>(pub u64);
impl<const MIN: u64> Shape for Size<MIN> {
    fn read(node: &Node<'_>) -> Option<Self> {
        let size = node.parsed("a size", "64KiB", scalar::size)?;
        if size < MIN {
            let what = format!("`{}` is {size}", node.at.name());
            return node.problem(what, "every request would be too large", "write a size such as `32KiB`");
        }
        Some(Size(size))
    }
    fn schema(_: &mut Parts) -> Json {
        let form = if MIN == 0 { "^[0-9]+(B|KiB|MiB|GiB)?$" } else { "^0*[1-9][0-9]*(B|KiB|MiB|GiB)?$" };
        schema::or_text(json!({ "minimum": MIN, "examples": ["64KiB", "10MiB"] }), "integer", form)
    }
    fn written(&self) -> Option<Json> {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = units.iter().find(|(shift, _)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        Some(unit.map_or(json!(self.0), |(shift, unit)| json!(format!("{}{unit}", self.0 >> shift))))
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<const MIN: u64, const MAX: u64>(pub u64);
impl<const MIN: u64, const MAX: u64> Shape for Number<MIN, MAX> {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.number(MIN, MAX).map(Number)
    }
    fn schema(_: &mut Parts) -> Json {
        schema::or_text(json!({ "minimum": MIN, "maximum": MAX }), "integer", "^[0-9]+$")
    }
    fn written(&self) -> Option<Json> {
        Some(json!(self.0))
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
            None if node.value.is_number() => {
                let fix = "write one from 0.0, nothing, to 1.0, all";
                node.problem(format!("`{}` is not from 0.0 to 1.0", node.at.name()), "it is a share of the whole", fix)
            }
            None => node.expected("a number from 0.0 to 1.0", "0.1"),
        }
    }
    fn schema(_: &mut Parts) -> Json {
        schema::or_text(json!({ "minimum": 0, "maximum": 1 }), "number", "^(0|1|[01]?\\.[0-9]+)$")
    }
    fn written(&self) -> Option<Json> {
        Some(json!(self.0))
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
    fn schema(parts: &mut Parts) -> Json {
        let one = T::schema(parts);
        json!({ "anyOf": [one, { "type": "array", "minItems": 1, "items": one }] })
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
                // The parser has said that it is none.
                _ => continue,
            };
            let at = node.at.key(&name);
            let part = T::read(&Node { value, at: &at, problems: node.problems });
            read.extend(part.map(|part| (name, part)));
        }
        Some(Named(read))
    }
    fn schema(parts: &mut Parts) -> Json {
        json!({ "type": "object", "additionalProperties": T::schema(parts) })
    }
    fn written(&self) -> Option<Json> {
        self.0.is_empty().then(|| json!({}))
    }
}
