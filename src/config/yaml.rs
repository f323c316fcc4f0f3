//! From a file's text to a value and the places in it.
//!
//! One parse gives both, so they can't disagree. It goes on behind a key that is there twice; it ends at a mistake of syntax,
//! and at what is nested or multiplied beyond all that a configuration needs.

use super::marks::{Below, Id, Marks, Position, Span};
use super::place::At;
use super::problem::{Place, Problem, Problems};
use super::syntax::{self, UNCLOSED};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};
use serde_yaml::value::{Tag as ValueTag, TaggedValue};
use serde_yaml::{Mapping, Number, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// How deep a file may be nested. The walks are recursive.
const DEPTH_MAX: usize = 64;
/// How many nodes aliases and `<<` may add in all: a page of nested ones could stand for more than fits in memory.
const COPIES_MAX: usize = 500_000;

/// Reads one file. `None` means that it could not be read any further, and that `problems` says why.
pub(super) fn read(text: &str, file: usize, problems: &Problems) -> (Option<Value>, Marks) {
    let mut loader = Loader { file, problems, marks: Marks::default(), open: Vec::new(), anchors: HashMap::new(), copies: 0 };
    let value = loader.read(text);
    (value, loader.marks)
}

/// A node with what is known of it.
#[derive(Clone)]
struct Node {
    value: Value,
    id: Id,
    /// How many nodes it is, itself included.
    size: usize,
    /// How deep it is nested.
    height: usize,
}

/// A collection that is being read.
struct Open {
    node: Node,
    anchor: usize,
    tag: Option<String>,
    /// Of a map: the key whose value comes next, and what is to be merged.
    key: Option<Key>,
    merges: Vec<(Span, Node)>,
}

enum Key {
    Named(Value, String, Span),
    Merge(Span),
    /// One that has a problem; its value is left out.
    Skipped,
}

struct Loader<'a> {
    file: usize,
    problems: &'a Problems,
    marks: Marks,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    copies: usize,
}

impl Loader<'_> {
    fn problem(&self, span: Span, what: impl Into<String>, why: &str, fix: impl Into<String>) {
        self.problems.add(Problem::new(Place::Exact(self.file, span), what, why, fix));
    }

    fn read(&mut self, text: &str) -> Option<Value> {
        let mut root = None;
        for event in Parser::new_from_str(text) {
            let (event, span) = match event {
                Ok((event, span)) => (event, self::span(&span)),
                Err(e) => {
                    self.syntax(&e, text);
                    return None;
                }
            };
            let done = match event {
                Event::Scalar(text, style, anchor, tag) => Some(self.scalar(&text, style, anchor, tag.as_deref(), span)),
                Event::Alias(anchor) => Some(self.alias(anchor, span)?),
                Event::SequenceStart(anchor, tag) => self.begin(Value::Sequence(Vec::new()), anchor, tag, span)?,
                Event::MappingStart(anchor, tag) => self.begin(Value::Mapping(Mapping::new()), anchor, tag, span)?,
                Event::SequenceEnd | Event::MappingEnd => Some(self.end()?),
                Event::DocumentStart(_) if root.is_some() => {
                    self.problem(span, "a second document", "only the first would be read", "remove the `---`, or what follows it");
                    return root;
                }
                _ => None,
            };
            if let Some(node) = done {
                match self.open.is_empty() {
                    true => {
                        self.marks.root = Some(node.id);
                        root = Some(node.value);
                    }
                    false => self.attach(node),
                }
            }
        }
        root.or(Some(Value::Null))
    }

    fn syntax(&self, e: &ScanError, text: &str) {
        let (mut what, mut fix) = syntax::explain(e.info());
        let position = Position { line: e.marker().line().max(1), column: e.marker().col() + 1 };
        let mut span = Span { position, width: 1 };
        // At the end it is the bracket that was not closed that has to be found.
        let is_end = e.marker().line() > text.trim_end().lines().count();
        if let Some(open) = self.open.last().filter(|_| is_end || what == UNCLOSED) {
            span = self.marks.spots[open.node.id].value;
            (what, fix) = (UNCLOSED.to_string(), "close it; what is within is indented further than its key");
        }
        self.problem(span, what, "the file can't be read any further", fix);
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, anchor: usize, tag: Option<&Tag>, mut span: Span) -> Node {
        let value = match (tag, style) {
            (None, ScalarStyle::Plain) => resolve(text),
            (None, _) => Value::from(text),
            (Some(tag), _) if tag.is_yaml_core_schema() && tag.suffix == "str" => Value::from(text),
            (Some(tag), _) => tagged(&tag.to_string(), Value::from(text)),
        };
        // Nothing at all stands where the next thing begins: its key is the better place.
        if let (Value::Null, 0, Some(Key::Named(_, _, key))) = (&value, span.width, self.open.last().and_then(|open| open.key.as_ref())) {
            span = *key;
        }
        let node = Node { value, id: self.marks.add(span, Below::Nothing), size: 1, height: 1 };
        self.remember(anchor, &node);
        node
    }

    fn remember(&mut self, anchor: usize, node: &Node) {
        if anchor > 0 {
            self.copies += node.size;
            self.anchors.insert(anchor, node.clone());
        }
    }

    /// A copy of what an anchor names.
    fn alias(&mut self, anchor: usize, span: Span) -> Option<Node> {
        let Some(node) = self.anchors.get(&anchor) else {
            self.problem(span, "an alias within what it stands for", "it would have no end", "name another anchor");
            return None;
        };
        self.copies += node.size;
        let (id, height) = (node.id, node.height);
        self.check_bounds(height, span)?;
        let node = self.anchors[&anchor].clone();
        let target = self.marks.spots[id].same_as.unwrap_or(id);
        let id = self.marks.add(span, Below::Nothing);
        self.marks.spots[id].same_as = Some(target);
        Some(Node { id, ..node })
    }

    fn check_bounds(&self, height: usize, span: Span) -> Option<()> {
        if self.open.len() + height > DEPTH_MAX {
            let fix = "no key of a configuration is as deep as that: look for brackets that are not closed";
            self.problem(span, format!("more than {DEPTH_MAX} levels of nesting"), "the file can't be read any further", fix);
            return None;
        }
        if self.copies > COPIES_MAX {
            let fix = "write out what is meant, or point fewer aliases at each other";
            let what = format!("the aliases stand for more than {COPIES_MAX} values");
            self.problem(span, what, "the file can't be read any further", fix);
            return None;
        }
        Some(())
    }

    /// Opens a collection. The inner answer is always `None`: nothing is done yet.
    fn begin(&mut self, value: Value, anchor: usize, tag: Option<Cow<'_, Tag>>, span: Span) -> Option<Option<Node>> {
        self.check_bounds(1, span)?;
        // Of what is in brackets, the first one is underlined.
        let span = Span { width: span.width.min(1), ..span };
        let below = if value.is_sequence() { Below::Items(Vec::new()) } else { Below::Entries(HashMap::new()) };
        let tag = tag.filter(|tag| !tag.is_yaml_core_schema()).map(|tag| tag.to_string());
        let node = Node { value, id: self.marks.add(span, below), size: 1, height: 1 };
        self.open.push(Open { node, anchor, tag, key: None, merges: Vec::new() });
        Some(None)
    }

    /// Closes a collection.
    fn end(&mut self) -> Option<Node> {
        let Open { mut node, anchor, tag, merges, .. } = self.open.pop()?;
        for (span, merged) in merges {
            self.merge(&mut node, &merged, span);
            self.check_bounds(node.height, span)?;
        }
        if let Some(tag) = tag {
            node.value = tagged(&tag, node.value);
        }
        self.remember(anchor, &node);
        Some(node)
    }

    /// Adds what `from` has and `into` has not.
    fn merge(&mut self, into: &mut Node, from: &Node, span: Span) {
        let (Value::Mapping(entries), from_value) = (&mut into.value, &from.value) else { return };
        let sources: Vec<(&Value, Id)> = match (from_value, self.marks.below(from.id)) {
            (Value::Sequence(maps), Below::Items(ids)) => maps.iter().zip(ids.iter().copied()).collect(),
            (map, _) => vec![(map, from.id)],
        };
        for (source, id) in sources {
            let Value::Mapping(source) = source else {
                self.problem(span, "`<<` needs a map, or a list of maps", "nothing else can be merged", "point it at an anchor of a map");
                continue;
            };
            self.copies += source.len();
            let Below::Entries(ids) = self.marks.below(id) else { continue };
            let mut added = Vec::new();
            for (key, value) in source {
                if !entries.contains_key(key) {
                    entries.insert(key.clone(), value.clone());
                    let name = text(key);
                    added.extend(ids.get(&name).map(|id| (name, *id)));
                }
            }
            into.size += from.size;
            into.height = into.height.max(from.height);
            if let Below::Entries(own) = &mut self.marks.spots[into.id].below {
                own.extend(added);
            }
        }
    }

    /// Puts a node where it belongs in the collection that is open.
    fn attach(&mut self, mut node: Node) {
        let Some(open) = self.open.last_mut() else { return };
        open.node.size += node.size;
        open.node.height = open.node.height.max(node.height + 1);
        let (parent, span) = (open.node.id, self.marks.spots[node.id].value);
        let Value::Mapping(entries) = &mut open.node.value else {
            if let (Value::Sequence(items), Below::Items(ids)) = (&mut open.node.value, &mut self.marks.spots[parent].below) {
                items.push(node.value);
                ids.push(node.id);
            }
            return;
        };
        match open.key.take() {
            None => {
                // Of a key it is the spelling that counts.
                let key = bare(&mut node.value).unwrap_or(node.value);
                // A block begins at its first key, which is what is underlined of it.
                if entries.is_empty() && self.marks.spots[parent].value.position == span.position {
                    self.marks.spots[parent].value = span;
                }
                open.key = Some(match key {
                    Value::String(text) if text == "<<" => Key::Merge(span),
                    key @ (Value::String(_) | Value::Number(_)) => Key::Named(key.clone(), text(&key), span),
                    _ => Key::Skipped,
                });
                if matches!(open.key, Some(Key::Skipped)) {
                    self.problem(span, "a key that is not a text", "keys are names", "put the key in quotes");
                }
            }
            Some(Key::Skipped) => {}
            Some(Key::Merge(at)) => open.merges.push((at, node)),
            Some(Key::Named(key, name, at)) => {
                let first = match self.marks.below(parent) {
                    Below::Entries(ids) => ids.get(&name).and_then(|first| self.marks.spots[*first].key),
                    _ => None,
                };
                if let Some(first) = first {
                    let problem = Problem::new(
                        Place::Exact(self.file, at),
                        format!("`{name}` is here twice"),
                        "only one of them could count",
                        "remove one of the two",
                    );
                    return self.problems.add(problem.and(Place::Exact(self.file, first)));
                }
                if let Below::Entries(ids) = &mut self.marks.spots[parent].below {
                    ids.insert(name, node.id);
                }
                self.marks.spots[node.id].key = Some(at);
                entries.insert(key, node.value);
            }
        }
    }
}

fn tagged(tag: &str, value: Value) -> Value {
    Value::Tagged(Box::new(TaggedValue { tag: ValueTag::new(tag), value }))
}

/// A key as a text.
fn text(key: &Value) -> String {
    match key {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

/// Tags a number that is not written as we would write it, such as `1.50`: whether a text, a number or JSON is wanted, only its
/// place says. No file can have this tag.
const BARE: &str = "a number as it is written";

/// What a plain scalar is (YAML 1.2, core schema). Of numbers that we would write otherwise, those that JSON has are tagged; the others
/// are texts, so that a name such as `007` keeps its form.
fn resolve(text: &str) -> Value {
    let same = |number: Number| (number.to_string() == text).then_some(Value::Number(number));
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            let whole = text.parse::<u64>().map(Number::from).or_else(|_| text.parse::<i64>().map(Number::from));
            let number = whole.ok().or_else(|| text.parse::<f64>().ok().map(Number::from));
            number.and_then(same).unwrap_or_else(|| match serde_json::from_str::<serde_json::Number>(text) {
                Ok(_) => tagged(BARE, Value::from(text)),
                Err(_) => Value::from(text),
            })
        }
        _ => Value::from(text),
    }
}

/// The text of a number that is tagged.
fn bare(value: &mut Value) -> Option<Value> {
    match value {
        Value::Tagged(tagged) if tagged.tag == BARE => Some(std::mem::take(&mut tagged.value)),
        _ => None,
    }
}

/// Makes texts of the numbers that are tagged; `problems` remembers which they are. Whoever wants a number takes a text that is one.
pub(super) fn settle(value: &mut Value, at: &At<'_>, problems: &Problems) {
    if let Some(text) = bare(value) {
        problems.note_number(at);
        *value = text;
    }
    match value {
        Value::Sequence(items) => items.iter_mut().enumerate().for_each(|(index, item)| settle(item, &at.index(index), problems)),
        Value::Mapping(entries) => entries.iter_mut().for_each(|(key, entry)| settle(entry, &at.key(&text(key)), problems)),
        _ => {}
    }
}

fn span(span: &saphyr_parser::Span) -> Span {
    let (start, end) = (span.start, span.end);
    // What goes on over several lines is underlined to the end of the first: no line is as long as this.
    let width = if end.line() > start.line() { usize::MAX } else { end.col().saturating_sub(start.col()) };
    Span { position: Position { line: start.line().max(1), column: start.col() + 1 }, width }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::place::Step;
    use std::fmt::Write as _;

    fn parse(text: &str) -> (Option<Value>, Marks, Vec<String>) {
        let problems = Problems::default();
        let (value, marks) = read(text, 0, &problems);
        let shown = problems.into_parts().0.into_iter().map(|problem| match problem.place {
            Place::Exact(_, span) => format!("{}:{}: {}", span.position.line, span.position.column, problem.what),
            _ => problem.what,
        });
        (value, marks, shown.collect())
    }

    fn at(marks: &Marks, path: &str) -> (usize, usize, usize) {
        let step = |step: &str| step.parse().map_or_else(|_| Step::Key(step.to_string()), Step::Index);
        let path: Vec<Step> = path.split('.').filter(|step| !step.is_empty()).map(step).collect();
        let span = marks.find(&path, false).expect("a place");
        (span.position.line, span.position.column, span.width)
    }

    #[test]
    fn values_are_those_of_the_reference() {
        for text in [
            "a: 1\nb: [x, 'y', \"z\\n\", ~, true, 1.5, -3]\nc:\n  - d: |\n      text\n  - e: >-\n      f\n",
            "x: &a { k: 1 }\ny: *a\nz: { <<: *a, l: 2 }\nw: { <<: [*a, { m: 3 }] }\n",
            include_str!("../../conf/food-delivery.yaml"),
        ] {
            let mut reference: Value = serde_yaml::from_str(text).expect("YAML");
            reference.apply_merge().expect("merged");
            assert_eq!(parse(text).0, Some(reference), "{text}");
        }
        for (text, value) in [
            ("1.10", tagged(BARE, Value::from("1.10"))),
            ("010", Value::from("010")),
            ("0x1F", Value::from("0x1F")),
            ("80", Value::from(80)),
            ("!!str 80", Value::from("80")),
        ] {
            assert_eq!(parse(text).0, Some(value), "{text}");
        }
    }

    #[test]
    fn finds_values_in_block_and_flow_style() {
        let text = "listeners:\n  - bind: 1.2.3.4:80\n  - { bind: x, tls: { certificates: [a, b] } }\nroutes: []\nempty:\nlast: 1\n";
        let marks = parse(text).1;
        for (path, place) in [
            ("listeners.0.bind", (2, 11, 10)),
            ("listeners.1.tls.certificates.1", (3, 41, 1)),
            ("routes", (4, 9, 1)),
            ("empty", (5, 1, 5)),
            ("listeners.0.absent", (2, 5, 4)),
            ("absent", (1, 1, 1)),
        ] {
            assert_eq!(at(&marks, path), place, "{path}");
        }
    }

    #[test]
    fn aliases_and_merged_keys_lead_to_what_they_stand_for() {
        let text = "x: &base\n  path: /x\n  to: { a: 1 }\ny:\n  - *base\n  - { <<: *base, path: /y }\n  - { <<: [{ q: 5 }, *base] }\n";
        let marks = parse(text).1;
        for (path, place) in [
            ("y.0", (5, 5, 5)),
            ("y.0.path", (2, 9, 2)),
            ("y.1.path", (6, 24, 2)),
            ("y.1.to.a", (3, 12, 1)),
            ("y.2.q", (7, 17, 1)),
            ("y.2.to", (3, 7, 1)),
        ] {
            assert_eq!(at(&marks, path), place, "{path}");
        }
    }

    #[test]
    fn keys_that_are_there_twice_are_all_found() {
        let (value, _, problems) = parse("a: 1\nb: { c: 1, c: 2 }\na: 3\n");
        assert_eq!(problems, ["2:12: `c` is here twice", "3:1: `a` is here twice"]);
        assert_eq!(value, serde_yaml::from_str("a: 1\nb: { c: 1 }").ok());
    }

    #[test]
    fn what_is_nested_or_multiplied_without_measure_ends_soon() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_string();
        for n in 1..40 {
            let last = n - 1;
            writeln!(laughs, "a{n}: &a{n} [*a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}, *a{last}]").expect("to write");
        }
        let deep = |piece: &str| piece.repeat(200_000);
        let merged = (1..3_000).fold("a0: &a0 { k: 1 }\n".to_string(), |mut text, n| {
            writeln!(text, "a{n}: &a{n} {{ <<: *a{}, k{n}: [*a{}] }}", n - 1, n - 1).expect("to write");
            text
        });
        for text in [laughs, deep("["), deep("{a: "), deep("- "), deep("? "), deep("&a ["), deep("[]: "), merged, "&a [*a]".to_string()] {
            let started = std::time::Instant::now();
            let (_, _, problems) = parse(&text);
            assert!(!problems.is_empty(), "{}", &text[..20.min(text.len())]);
            assert!(started.elapsed().as_secs() < 2, "{:?} for {}", started.elapsed(), &text[..20.min(text.len())]);
        }
    }
}
