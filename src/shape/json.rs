//! JSON documents that are looked into and changed in places. What nobody asks for stays the text that it was: numbers keep all
//! their digits, members their order, and a document costs one pass and no tree.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A document, opened as far as somebody looks into it.
#[derive(Clone, Debug)]
pub enum Node<'a> {
    /// A whole value as it is written: what was read, or what is put in.
    Text(Cow<'a, str>),
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
    List(Vec<Node<'a>>),
}

/// What of a document is to be opened: the names that paths have.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    names: Vec<(Box<str>, Wanted)>,
    /// A path ends here: all that is below belongs to it.
    pub(super) is_whole: bool,
}

impl Wanted {
    /// Adds a path.
    pub fn add(&mut self, steps: &[Box<str>]) {
        let Some((first, rest)) = steps.split_first() else {
            self.is_whole = true;
            return;
        };
        let index = self.names.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
            self.names.push((first.clone(), Wanted::default()));
            self.names.len() - 1
        });
        self.names[index].1.add(rest);
    }

    pub fn of(steps: &[Box<str>]) -> Wanted {
        let mut wanted = Wanted::default();
        wanted.add(steps);
        wanted
    }

    /// No path leads anywhere.
    pub(super) fn is_nothing(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Wanted> {
        self.names.iter().find(|(known, _)| **known == *name).map(|(_, wanted)| wanted)
    }
}

/// The text of nothing.
pub const NULL: &str = "null";

impl<'a> Node<'a> {
    /// Opens a document as far as `wanted` goes. `only` leaves out all members that no path of it leads to; items of lists are
    /// all taken.
    ///
    /// # Errors
    /// It is not one JSON value (RFC 8259), or is nested beyond all reason where it is opened.
    pub fn read(text: &'a [u8], wanted: &Wanted, only: bool) -> Result<Node<'a>, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        let node = Open { wanted, only }.deserialize(&mut reader)?;
        reader.end()?;
        Ok(node)
    }

    /// Opens one level more, where there is one.
    pub fn open(&mut self) {
        let Node::Text(text) = self else { return };
        if !text.trim_start().starts_with(['{', '[']) {
            return;
        }
        // Whatever is below is left as it is.
        let level = Open { wanted: &Wanted::default(), only: false };
        let opened = match text {
            Cow::Borrowed(text) => serde_json::Deserializer::from_str(text).deserialize_any(level).ok(),
            Cow::Owned(text) => serde_json::Deserializer::from_str(text).deserialize_any(level).ok().map(Node::into_owned),
        };
        if let Some(opened) = opened {
            *self = opened;
        }
    }

    fn into_owned<'b>(self) -> Node<'b> {
        match self {
            Node::Text(text) => Node::Text(Cow::Owned(text.into_owned())),
            Node::Object(members) => {
                Node::Object(members.into_iter().map(|(name, node)| (Cow::Owned(name.into_owned()), node.into_owned())).collect())
            }
            Node::List(items) => Node::List(items.into_iter().map(Node::into_owned).collect()),
        }
    }

    /// What stands at a path. Of a list a number takes that item, counted from 0, and a name takes what each item has of it.
    pub fn at(mut self, steps: &[Box<str>]) -> Option<Node<'a>> {
        let Some((first, rest)) = steps.split_first() else { return Some(self) };
        self.open();
        match self {
            Node::Text(_) => None,
            // Of several members of one name the last counts, as it does for most who read them.
            Node::Object(members) => members.into_iter().rev().find(|(name, _)| **name == **first)?.1.at(rest),
            Node::List(items) => match first.parse::<usize>() {
                Ok(index) => items.into_iter().nth(index)?.at(rest),
                Err(_) => Some(Node::List(items.into_iter().filter_map(|item| item.at(steps)).flat_map(flat).collect())),
            },
        }
    }

    /// The same without what no path of `wanted` leads to.
    pub fn kept(self, wanted: &Wanted) -> Option<Node<'a>> {
        if wanted.is_whole {
            return Some(self);
        }
        match self {
            Node::Text(_) => None,
            Node::Object(members) => {
                let kept = members.into_iter().filter_map(|(name, node)| {
                    let node = node.kept(wanted.get(&name)?)?;
                    Some((name, node))
                });
                Some(Node::Object(kept.collect()))
            }
            Node::List(items) => Some(Node::List(items.into_iter().filter_map(|item| item.kept(wanted)).collect())),
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Node::Text(text) if text.trim() == NULL)
    }

    /// About how many bytes it is, written down.
    pub fn size(&self) -> usize {
        match self {
            Node::Text(text) => text.len(),
            Node::Object(members) => members.iter().map(|(name, node)| name.len() + node.size() + 4).sum::<usize>() + 2,
            Node::List(items) => items.iter().map(|item| item.size() + 1).sum::<usize>() + 2,
        }
    }

    /// Writes it down.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Node::Text(text) => out.extend_from_slice(text.as_bytes()),
            Node::Object(members) => {
                out.push(b'{');
                for (index, (name, node)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_text(name, out);
                    out.push(b':');
                    node.write(out);
                }
                out.push(b'}');
            }
            Node::List(items) => {
                out.push(b'[');
                for (index, node) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    node.write(out);
                }
                out.push(b']');
            }
        }
    }
}

/// A list within a list that was looked into for a name has its items in line with the others.
fn flat(node: Node<'_>) -> Vec<Node<'_>> {
    match node {
        Node::List(items) => items,
        node => vec![node],
    }
}

/// What stands at a path of a document, as it is written there; `None` when nothing does, or when it is no document.
pub fn find(text: &[u8], steps: &[Box<str>]) -> Option<String> {
    let node = Node::read(text, &Wanted::of(steps), true).ok()?.at(steps)?;
    let mut out = Vec::new();
    node.write(&mut out);
    String::from_utf8(out).ok()
}

/// Whether it is one JSON value and nothing else.
pub fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok()
}

/// A text as JSON writes it.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    // A text can always be written into memory.
    let _ = serde_json::to_writer(out, text);
}

/// A value as a plain text: texts without their quotes, lists joined by commas, nothing for nothing.
pub fn plain(json: &str) -> Cow<'_, str> {
    match serde_json::from_str::<serde_json::Value>(json) {
        Ok(serde_json::Value::String(text)) => Cow::Owned(text),
        Ok(serde_json::Value::Null) => Cow::Borrowed(""),
        _ => Cow::Borrowed(json),
    }
}

/// Opens along paths.
struct Open<'w> {
    wanted: &'w Wanted,
    only: bool,
}

impl<'de> DeserializeSeed<'de> for Open<'_> {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        match self.wanted.names.is_empty() || (self.wanted.is_whole && self.only) {
            true => raw(deserializer),
            false => deserializer.deserialize_any(self),
        }
    }
}

fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Node<'de>, D::Error> {
    <&'de RawValue as serde::Deserialize>::deserialize(deserializer).map(|raw| Node::Text(Cow::Borrowed(raw.get())))
}

/// Leaves a value as it is written.
struct Raw;

impl<'de> DeserializeSeed<'de> for Raw {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        raw(deserializer)
    }
}

/// A member's name, borrowed where it has no escapes.
pub(super) struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_string()))
    }
}

impl<'de> Visitor<'de> for Open<'_> {
    type Value = Node<'de>;

    // Values that can't be opened, where a path goes on all the same, are written anew.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E: Error>(self, yes: bool) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Borrowed(if yes { "true" } else { "false" })))
    }
    fn visit_i64<E: Error>(self, number: i64) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Owned(number.to_string())))
    }
    fn visit_u64<E: Error>(self, number: u64) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Owned(number.to_string())))
    }
    fn visit_f64<E: Error>(self, number: f64) -> Result<Node<'de>, E> {
        serde_json::to_string(&number).map(|text| Node::Text(Cow::Owned(text))).map_err(E::custom)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Node<'de>, E> {
        serde_json::to_string(text).map(|text| Node::Text(Cow::Owned(text))).map_err(E::custom)
    }
    fn visit_unit<E: Error>(self) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Borrowed(NULL)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key_seed(Key)? {
            let node = match self.wanted.get(&name) {
                Some(wanted) => map.next_value_seed(Open { wanted, only: self.only })?,
                None if self.only => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                None => map.next_value_seed(Raw)?,
            };
            members.push((name, node));
        }
        Ok(Node::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node<'de>, A::Error> {
        let mut items = Vec::new();
        // A number takes one item of it, whatever that has below.
        let rest = match &self.wanted.names[..] {
            [(name, rest)] if name.parse::<usize>().is_ok() => rest,
            _ => self.wanted,
        };
        while let Some(node) = list.next_element_seed(Open { wanted: rest, only: self.only })? {
            items.push(node);
        }
        Ok(Node::List(items))
    }
}
