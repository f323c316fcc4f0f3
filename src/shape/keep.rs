//! JSON documents of which only some paths are kept: written down as they are read, in one pass and without a tree.

use super::json::{Key, NULL, Wanted, write_text};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// What of a document some path of `wanted` leads to; `null` when that is nothing. Items of lists are all looked into, and what is
/// kept stays as it is written.
///
/// # Errors
/// It is not one JSON value (RFC 8259), or is nested beyond all reason.
pub fn keep(text: &[u8], wanted: &Wanted) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let is_something = Keep { wanted, out: &mut out }.deserialize(&mut reader)?;
    reader.end()?;
    if !is_something {
        out.extend_from_slice(NULL.as_bytes());
    }
    Ok(out)
}

/// Writes a value down as far as it is wanted, and says whether that was anything.
struct Keep<'w, 'o> {
    wanted: &'w Wanted,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Keep<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        match self.wanted.is_whole {
            true => {
                let raw = <&'de RawValue as serde::Deserialize>::deserialize(deserializer)?;
                self.out.extend_from_slice(raw.get().as_bytes());
                Ok(true)
            }
            false if self.wanted.is_nothing() => deserializer.deserialize_ignored_any(IgnoredAny).map(|_| false),
            false => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Keep<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    // A path leads nowhere in what is neither map nor list.
    fn visit_bool<E: Error>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        self.out.push(b'{');
        let first = self.out.len();
        while let Some(name) = map.next_key_seed(Key)? {
            let Some(wanted) = self.wanted.get(&name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let before = self.out.len();
            if before > first {
                self.out.push(b',');
            }
            write_text(&name, self.out);
            self.out.push(b':');
            if !map.next_value_seed(Keep { wanted, out: self.out })? {
                self.out.truncate(before);
            }
        }
        self.out.push(b'}');
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        self.out.push(b'[');
        let first = self.out.len();
        loop {
            let before = self.out.len();
            if before > first {
                self.out.push(b',');
            }
            match list.next_element_seed(Keep { wanted: self.wanted, out: self.out })? {
                Some(true) => {}
                Some(false) => self.out.truncate(before),
                None => {
                    self.out.truncate(before);
                    break;
                }
            }
        }
        self.out.push(b']');
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::json::Node;
    use crate::shape::path::Path;
    use proptest::prelude::*;
    use serde_json::Value;

    fn wanted(paths: &[String]) -> Wanted {
        let mut wanted = Wanted::default();
        paths.iter().for_each(|path| wanted.add(Path::parse(path).expect("a path").steps()));
        wanted
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            "[a-c\"\\\\é\n]{0,3}".prop_map(Into::into)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[a-c\"]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// What the tree keeps, in the same bytes.
        #[test]
        fn the_same_as_with_a_tree(document in value(), paths in prop::collection::vec("[a-c](\\.[a-c]){0,2}", 0..4)) {
            let (text, wanted) = (document.to_string(), wanted(&paths));
            let tree = Node::read(text.as_bytes(), &wanted, true).expect("JSON").kept(&wanted).unwrap_or(Node::Text(NULL.into()));
            let mut expected = Vec::new();
            tree.write(&mut expected);
            prop_assert_eq!(keep(text.as_bytes(), &wanted).expect("JSON"), expected);
        }

        /// Whatever comes out of any bytes is JSON, and never more than went in, but for what escapes take.
        #[test]
        fn any_bytes_are_read(text in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "[\\[\\]{}\",:a-c0-9\\\\ ]{0,60}".prop_map(String::into_bytes),
        ]) {
            if let Ok(kept) = keep(&text, &wanted(&["a.b".to_string(), "c".to_string()])) {
                prop_assert!(serde_json::from_slice::<Value>(&kept).is_ok());
                prop_assert!(kept.len() <= 6 * text.len() + NULL.len());
            }
        }
    }
}
