//! Changes of a JSON body that a route makes, in this order: keep, remove, rename, move, set. A path goes through lists: what it
//! says of a member holds for each item.

use super::json::{NULL, Node, Wanted};
use super::keep::keep;
use super::path::Path;
use super::template::{FIX, Names, Values, Variable};
use super::tree::Tree;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use std::borrow::Cow;

/// What may be put into a body: through a list a value goes to each item, and a client chooses how many there are.
const ADDED_BYTES_MAX: usize = 4 << 20;

/// Compiled changes.
#[derive(Debug, Default)]
pub struct JsonEdits {
    keep: Option<Wanted>,
    edits: Vec<Edit>,
    /// What the edits open.
    wanted: Wanted,
}

#[derive(Debug)]
enum Edit {
    Remove(Path),
    Rename(Path, Box<str>),
    Move(Path, Path),
    Set(Path, Tree),
}

impl JsonEdits {
    /// `None` means that a problem was reported.
    pub fn build(raw: &raw::JsonChanges, names: Names<'_>, at: &At<'_>, problems: &Problems) -> Option<JsonEdits> {
        let path = |text: &str, at: &At<'_>| {
            let fix = "write names with dots between them, such as `customer.name`; a dot of a name is `\\.`";
            problems.ok(Path::parse(text), at, "it names no place", fix)
        };
        let (keep_at, remove_at, rename_at, move_at, set_at) =
            (at.key("keep"), at.key("remove"), at.key("rename"), at.key("move"), at.key("set"));
        let keep = raw.keep.as_ref().map(|keep| keep.iter().enumerate().map(|(i, text)| path(text, &keep_at.index(i))).collect::<Vec<_>>());
        let mut edits: Vec<Option<Edit>> =
            raw.remove.iter().enumerate().map(|(i, text)| path(text, &remove_at.index(i)).map(Edit::Remove)).collect();
        edits.extend(raw.rename.0.iter().map(|(from, to)| Some(Edit::Rename(path(from, &rename_at.key(from))?, to.as_str().into()))));
        edits.extend(raw.moved.0.iter().map(|(from, to)| {
            let at = move_at.key(from);
            Some(Edit::Move(path(from, &at)?, path(to, &at)?))
        }));
        edits.extend(raw.set.0.iter().map(|(place, value)| {
            let at = set_at.key(place);
            let tree = Tree::build(&value.0, names, FIX, &at, problems);
            Some(Edit::Set(path(place, &at)?, tree?))
        }));
        let edits: Vec<Edit> = edits.into_iter().collect::<Option<_>>()?;
        let mut wanted = Wanted::default();
        for edit in &edits {
            match edit {
                Edit::Remove(path) | Edit::Rename(path, _) | Edit::Set(path, _) => wanted.add(path.steps()),
                Edit::Move(from, to) => [from, to].iter().for_each(|path| wanted.add(path.steps())),
            }
        }
        let keep = keep.map(|keep| keep.into_iter().collect::<Option<Vec<_>>>());
        let keep = keep.map_or(Some(None), |keep| keep.map(Some))?.map(|paths| {
            let mut keep = Wanted::default();
            paths.iter().for_each(|path| keep.add(path.steps()));
            keep
        });
        Some(JsonEdits { keep, edits, wanted })
    }

    /// What is put into a body.
    pub fn variables(&self) -> Vec<&Variable> {
        let trees = self.edits.iter().filter_map(|edit| match edit {
            Edit::Set(_, tree) => Some(tree),
            Edit::Remove(_) | Edit::Rename(..) | Edit::Move(..) => None,
        });
        trees.flat_map(Tree::variables).collect()
    }

    /// The body with all changes.
    ///
    /// # Errors
    /// It is not JSON, is nested beyond all reason where it is changed, or would grow without measure.
    pub fn apply(&self, body: &[u8], values: &dyn Values) -> Result<Vec<u8>, serde_json::Error> {
        let mut node = match &self.keep {
            Some(wanted) if self.edits.is_empty() => return keep(body, wanted),
            Some(wanted) => Node::read(body, wanted, true)?.kept(wanted).unwrap_or(Node::Text(Cow::Borrowed(NULL))),
            None => Node::read(body, &self.wanted, false)?,
        };
        let mut room = Some(ADDED_BYTES_MAX);
        for edit in &self.edits {
            match edit {
                Edit::Remove(path) => drop(take(&mut node, path.steps())),
                Edit::Rename(path, to) => rename(&mut node, path.steps(), to),
                Edit::Move(from, to) => relocate(&mut node, from.steps(), to.steps(), &mut room),
                Edit::Set(path, tree) => {
                    let mut text = Vec::new();
                    tree.write(values, &mut text);
                    let value = Node::Text(String::from_utf8(text).unwrap_or_else(|_| NULL.into()).into());
                    put(&mut node, path.steps(), &value, value.size(), &mut room);
                }
            }
        }
        if room.is_none() {
            return Err(serde::de::Error::custom("more would be put in than there is room for"));
        }
        let mut out = Vec::with_capacity(body.len());
        node.write(&mut out);
        Ok(out)
    }
}

/// Takes out what stands at a path; what stands there in items of a list, as a list.
fn take<'a>(node: &mut Node<'a>, steps: &[Box<str>]) -> Option<Node<'a>> {
    let (first, rest) = steps.split_first()?;
    node.open();
    match node {
        Node::Text(_) => None,
        Node::Object(members) if rest.is_empty() => {
            let mut found = None;
            // Of several members of one name none stays.
            members.retain_mut(|(name, node)| {
                let is_meant = **name == **first;
                if is_meant {
                    found = Some(std::mem::replace(node, Node::Text(Cow::Borrowed(NULL))));
                }
                !is_meant
            });
            found
        }
        Node::Object(members) => {
            let mut found = None;
            for (_, node) in members.iter_mut().filter(|(name, _)| **name == **first) {
                found = take(node, rest).or(found);
            }
            found
        }
        Node::List(items) => {
            let found: Vec<_> = items.iter_mut().filter_map(|item| take(item, steps)).collect();
            (!found.is_empty()).then_some(Node::List(found))
        }
    }
}

fn rename(node: &mut Node<'_>, steps: &[Box<str>], to: &str) {
    let Some((first, rest)) = steps.split_first() else { return };
    node.open();
    match node {
        Node::Text(_) => {}
        Node::Object(members) if rest.is_empty() => {
            if members.iter().any(|(name, _)| **name == **first) && **first != *to {
                // Whatever had the new name gives way.
                members.retain(|(name, _)| **name != *to);
                members.iter_mut().filter(|(name, _)| **name == **first).for_each(|(name, _)| *name = Cow::Owned(to.to_string()));
            }
        }
        Node::Object(members) => {
            members.iter_mut().filter(|(name, _)| **name == **first).for_each(|(_, node)| rename(node, rest, to));
        }
        Node::List(items) => items.iter_mut().for_each(|item| rename(item, steps, to)),
    }
}

/// Within one item of a list where both paths lead through it.
fn relocate(node: &mut Node<'_>, from: &[Box<str>], to: &[Box<str>], room: &mut Option<usize>) {
    node.open();
    match node {
        Node::List(items) => items.iter_mut().for_each(|item| relocate(item, from, to, room)),
        Node::Object(members) if from.len() > 1 && to.len() > 1 && from[0] == to[0] => {
            members.iter_mut().filter(|(name, _)| **name == *from[0]).for_each(|(_, node)| relocate(node, &from[1..], &to[1..], room));
        }
        _ => {
            if let Some(found) = take(node, from) {
                put(node, to, &found, found.size(), room);
            }
        }
    }
}

/// Puts a value of so many bytes in place, with the maps that lead to it; what is no map gives way to one. `room` is for what may
/// be put in, and nothing once that was too little.
fn put<'a>(node: &mut Node<'a>, steps: &[Box<str>], value: &Node<'a>, size: usize, room: &mut Option<usize>) {
    let Some((first, rest)) = steps.split_first() else {
        *room = room.and_then(|room| room.checked_sub(size));
        if room.is_some() {
            *node = value.clone();
        }
        return;
    };
    if room.is_none() {
        return;
    }
    node.open();
    if let Node::List(items) = node {
        return items.iter_mut().for_each(|item| put(item, steps, value, size, room));
    }
    if matches!(node, Node::Text(_)) {
        *node = Node::Object(Vec::new());
    }
    if let Node::Object(members) = node {
        if !members.iter().any(|(name, _)| **name == **first) {
            *room = room.and_then(|room| room.checked_sub(first.len()));
            members.push((Cow::Owned(first.to_string()), Node::Text(Cow::Borrowed(NULL))));
        }
        members.iter_mut().filter(|(name, _)| **name == **first).for_each(|(_, node)| put(node, rest, value, size, room));
    }
}

/// Whether a Content-Type is JSON: `application/json` or anything with `+json` (RFC 6839, 3.1).
pub fn is_json_type(kind: &[u8]) -> bool {
    let kind = kind.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(b"application/json")
        || kind.len() > 5 && kind[kind.len() - 5..].eq_ignore_ascii_case(b"+json")
        || kind.eq_ignore_ascii_case(b"text/json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::json;
    use crate::shape::template::Value;
    use proptest::prelude::*;

    struct Ada;
    impl Values for Ada {
        fn value(&self, _: &Variable) -> Value<'_> {
            Value::Plain("Ada".into())
        }
    }

    fn edits(yaml: &str) -> JsonEdits {
        let problems = Problems::default();
        let value: serde_yaml::Value = serde_yaml::from_str(yaml).expect("YAML");
        let node = crate::config::shape::Node { value: &value, at: &At::root(), problems: &problems };
        let raw = crate::config::shape::Shape::read(&node).expect("changes");
        let edits = JsonEdits::build(&raw, Names::default(), &At::root(), &problems);
        edits.unwrap_or_else(|| panic!("{:?}", problems.into_parts().0))
    }

    fn shaped(yaml: &str, body: &str) -> String {
        String::from_utf8(edits(yaml).apply(body.as_bytes(), &Ada).expect("JSON")).expect("a text")
    }

    #[test]
    fn each_change() {
        for (changes, body, expected) in [
            ("{ keep: [id, total] }", r#"{"id":1.10,"x":[1],"total":{"a" : 2}}"#, r#"{"id":1.10,"total":{"a" : 2}}"#),
            ("{ keep: [a.b] }", r#"{"a":{"b":1,"c":2},"d":3}"#, r#"{"a":{"b":1}}"#),
            ("{ keep: [a.b, a] }", r#"{"a":{"b":1,"c":2},"d":3}"#, r#"{"a":{"b":1,"c":2}}"#),
            ("{ keep: [a.b] }", r#"{"a":5}"#, "{}"),
            ("{ keep: [id] }", r#"[{"id":1,"x":2},7,{"y":1}]"#, r#"[{"id":1},{}]"#),
            ("{ keep: [id] }", "5", "null"),
            ("{ keep: [] }", r#"{"a":1}"#, "null"),
            ("{ remove: [debug] }", r#"{"debug":1,"a":2,"debug":{}}"#, r#"{"a":2}"#),
            ("{ remove: [items.secret] }", r#"{"items":[{"secret":1,"a":1},[{"secret":2}],3]}"#, r#"{"items":[{"a":1},[{}],3]}"#),
            ("{ remove: [a.b.c] }", r#"{"a":1}"#, r#"{"a":1}"#),
            (r"{ remove: ['a\.b'] }", r#"{"a.b":1,"a":{"b":2}}"#, r#"{"a":{"b":2}}"#),
            ("{ remove: [ab] }", r#"{"\u0061b":1}"#, "{}"),
            ("{ rename: { qty: quantity } }", r#"{"quantity":0,"qty":1}"#, r#"{"quantity":1}"#),
            ("{ rename: { i.qty: quantity } }", r#"{"i":[{"qty":1},{"n":2}],"qty":3}"#, r#"{"i":[{"quantity":1},{"n":2}],"qty":3}"#),
            ("{ move: { a.b: c.d } }", r#"{"a":{"b":[1]},"c":7}"#, r#"{"a":{},"c":{"d":[1]}}"#),
            ("{ move: { i.p.amount: i.amount } }", r#"{"i":[{"p":{"amount":1}},{}]}"#, r#"{"i":[{"p":{},"amount":1},{}]}"#),
            ("{ move: { i.id: ids } }", r#"{"i":[{"id":1},{"id":2}]}"#, r#"{"i":[{},{}],"ids":[1,2]}"#),
            ("{ move: { no: where } }", r#"{"a":1}"#, r#"{"a":1}"#),
            ("{ set: { who: '${identity}', a.b: [1, { c: null }] } }", r#"{"a":1}"#, r#"{"a":{"b":[1,{"c":null}]},"who":"Ada"}"#),
            ("{ set: { n: 1 } }", r#"[{"n":0},{}]"#, r#"[{"n":1},{"n":1}]"#),
            (
                "{ keep: [a, d], remove: [a.x], rename: { a.y: z }, move: { a.z: b }, set: { d: 1 } }",
                r#"{"a":{"x":1,"y":2},"c":3}"#,
                r#"{"a":{},"b":2,"d":1}"#,
            ),
        ] {
            let mut expected = expected.to_string();
            if changes.contains("who:") {
                // In the order in which they are set.
                expected = r#"{"a":{"b":[1,{"c":null}]},"who":"Ada"}"#.to_string();
            }
            assert_eq!(shaped(changes, body), expected, "{changes} of {body}");
        }
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        let all = edits("{ keep: [a.b], remove: [c] }");
        for bad in ["", "{", "{}x", "{\"a\":}", "\u{feff}{}", "{\"a\":{\"b\":\"\\u12\"}}"] {
            assert!(all.apply(bad.as_bytes(), &Ada).is_err(), "{bad}");
        }
        assert!(all.apply(b"{\"a\":{\"b\":\"\xff\"}}", &Ada).is_err());
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(all.apply(deep.as_bytes(), &Ada).is_err(), "refused, and the stack is whole");
    }

    #[test]
    fn a_client_can_not_make_a_body_grow_without_measure() {
        let items = vec!["1"; 100_000].join(",");
        let large = "x".repeat(1_000);
        let body = format!("{{\"a\":[{items}],\"b\":\"{large}\"}}");
        for changes in
            ["{ move: { b: a.c } }".to_string(), format!("{{ set: {{ a.c: {large} }} }}"), format!("{{ set: {{ a.{large}: 1 }} }}")]
        {
            assert!(edits(&changes).apply(body.as_bytes(), &Ada).is_err(), "{changes}");
        }
        assert!(edits("{ set: { a.c: 1 } }").apply(body.as_bytes(), &Ada).is_ok());
    }

    #[test]
    fn kinds_of_content() {
        for (kind, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("+json", false),
            ("application/x-ndjson", false),
            ("text/html", false),
            ("", false),
        ] {
            assert_eq!(is_json_type(kind.as_bytes()), expected, "{kind}");
        }
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![Just(serde_json::Value::Null), any::<i64>().prop_map(Into::into), "[a-c\"\\\\é]{0,3}".prop_map(Into::into)];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Nothing of what was removed is left, and the rest is what it was.
        #[test]
        fn removed_is_gone(document in value()) {
            fn without(value: &serde_json::Value) -> serde_json::Value {
                match value {
                    serde_json::Value::Array(items) => items.iter().map(without).collect::<Vec<_>>().into(),
                    serde_json::Value::Object(members) => {
                        serde_json::Value::Object(members.iter().filter(|(name, _)| *name != "a").map(|(n, v)| (n.clone(), v.clone())).collect())
                    }
                    other => other.clone(),
                }
            }
            let shaped: serde_json::Value = serde_json::from_str(&shaped("{ remove: [a] }", &document.to_string())).expect("JSON");
            prop_assert_eq!(shaped, without(&document));
        }

        #[test]
        fn any_bytes_are_shaped_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(out) = edits("{ keep: [a.b], move: { a.b: c }, set: { d.e: 1 } }").apply(&bytes, &Ada) {
                prop_assert!(json::is_json(&out));
            }
        }

        #[test]
        fn what_is_found_is_what_a_tree_has(document in value(), path in "[a-c]|[a-c]\\.[a-c]") {
            let path = Path::parse(&path).expect("a path");
            let in_maps = |mut value: &serde_json::Value| {
                for step in path.steps() {
                    value = value.as_object()?.get(&**step)?;
                }
                Some(value.clone())
            };
            if let Some(expected) = in_maps(&document) {
                let found = json::find(document.to_string().as_bytes(), path.steps()).expect("it is there");
                prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&found).expect("JSON"), expected);
            }
        }
    }
}
