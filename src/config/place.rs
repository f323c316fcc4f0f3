//! Places in a YAML file: paths of keys and indices, and the lines and columns they stand at.

use super::problem::Place;
use saphyr_parser::{Event, Parser, ScanError, Span};
use std::cell::OnceCell;
use std::collections::HashMap;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Key(String),
    Index(usize),
}

pub type Path = Vec<Step>;

/// A path that is built while walking down, without allocating: only a problem asks for the whole of it.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Borrowed<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Borrowed<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    pub fn root() -> At<'static> {
        At { parent: None, step: Borrowed::Root }
    }
    pub fn key(&'a self, key: &'a str) -> At<'a> {
        At { parent: Some(self), step: Borrowed::Key(key) }
    }
    pub fn index(&'a self, index: usize) -> At<'a> {
        At { parent: Some(self), step: Borrowed::Index(index) }
    }
    pub fn path(&self) -> Path {
        let mut path = self.parent.map(At::path).unwrap_or_default();
        match self.step {
            Borrowed::Root => {}
            Borrowed::Key(key) => path.push(Step::Key(key.to_string())),
            Borrowed::Index(index) => path.push(Step::Index(index)),
        }
        path
    }
    /// The last key of the path, for messages.
    pub fn name(&self) -> &'a str {
        match (self.step, self.parent) {
            (Borrowed::Key(key), _) => key,
            (_, Some(parent)) => parent.name(),
            _ => "the file",
        }
    }
}

/// A line and a column in characters, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// The text of a configuration, which finds the position of a path when it is asked for one.
#[derive(Debug)]
pub struct Source {
    name: String,
    text: String,
    marks: OnceCell<Marks>,
}

impl Source {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Source { name: name.into(), text: text.into(), marks: OnceCell::new() }
    }
    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn text(&self) -> &str {
        &self.text
    }
    pub fn line(&self, number: usize) -> &str {
        self.text.lines().nth(number.saturating_sub(1)).unwrap_or_default()
    }

    /// The position of a place, or of the nearest thing around it that has one.
    pub fn position(&self, place: &Place) -> Option<Position> {
        let (path, of_key) = match place {
            Place::File => return None,
            Place::Position(line, column) => return Some(Position { line: *line, column: *column }),
            Place::Key(path) => (path, true),
            Place::Value(path) => (path, false),
        };
        let marks = self.marks.get_or_init(|| Marks::read(&self.text));
        let found = (0..=path.len()).rev().find_map(|n| marks.0.get(&path[..n]).map(|mark| (n, mark)));
        found.map(|(n, mark)| if of_key && n == path.len() { mark.key } else { mark.value })
    }
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    key: Position,
    value: Position,
}

/// The positions of all nodes of the first document.
#[derive(Debug, Default)]
struct Marks(HashMap<Path, Mark>);

/// A collection that is being read.
enum Open {
    Sequence(usize),
    /// Between a key and its value, the key and where it stands.
    Mapping(Option<(String, Position)>),
}

impl Marks {
    fn read(text: &str) -> Marks {
        let mut marks = Marks::default();
        // What can't be parsed has been reported by then: the positions before it still serve.
        let _ = marks.walk(text);
        marks
    }

    fn walk(&mut self, text: &str) -> Result<(), ScanError> {
        let (mut open, mut path): (Vec<Open>, Path) = (Vec::new(), Vec::new());
        for event in Parser::new_from_str(text) {
            let (event, span) = event?;
            let here = position(span);
            match event {
                Event::Scalar(value, ..) => {
                    if let Some(Open::Mapping(key @ None)) = open.last_mut() {
                        *key = Some((value.into_owned(), here));
                    } else {
                        self.begin(&mut open, &mut path, here);
                        path.pop();
                    }
                }
                Event::Alias(_) => {
                    if let Some(Open::Mapping(key @ None)) = open.last_mut() {
                        *key = Some((String::new(), here));
                    } else {
                        self.begin(&mut open, &mut path, here);
                        path.pop();
                    }
                }
                Event::SequenceStart(..) => {
                    self.begin(&mut open, &mut path, here);
                    open.push(Open::Sequence(0));
                }
                Event::MappingStart(..) => {
                    self.begin(&mut open, &mut path, here);
                    open.push(Open::Mapping(None));
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    open.pop();
                    path.pop();
                }
                Event::DocumentEnd => break,
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes where a node begins, and makes it the end of the path.
    fn begin(&mut self, open: &mut [Open], path: &mut Path, here: Position) {
        let key = match open.last_mut() {
            None => {
                self.0.insert(Path::new(), Mark { key: here, value: here });
                return;
            }
            Some(Open::Sequence(next)) => {
                path.push(Step::Index(*next));
                *next += 1;
                here
            }
            Some(Open::Mapping(key)) => {
                let (name, at) = key.take().unwrap_or((String::new(), here));
                path.push(Step::Key(name));
                at
            }
        };
        self.0.entry(path.clone()).or_insert(Mark { key, value: here });
    }
}

fn position(span: Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, path: Path) -> Option<(usize, usize)> {
        Source::new("f", text).position(&Place::Value(path)).map(|p| (p.line, p.column))
    }
    fn key(name: &str) -> Step {
        Step::Key(name.to_string())
    }

    #[test]
    fn finds_values_in_block_and_flow_style() {
        let text = "listeners:\n  - bind: 1.2.3.4:80\n  - { bind: x, tls: { certificates: [a, b] } }\nroutes: []\n";
        assert_eq!(at(text, vec![key("listeners"), Step::Index(0), key("bind")]), Some((2, 11)));
        assert_eq!(at(text, vec![key("listeners"), Step::Index(1), key("tls"), key("certificates"), Step::Index(1)]), Some((3, 41)));
        assert_eq!(at(text, vec![key("routes")]), Some((4, 9)));
    }

    #[test]
    fn what_is_missing_is_placed_at_what_it_is_missing_from() {
        assert_eq!(at("a:\n  b: 1\n", vec![key("a"), key("c")]), Some((2, 3)));
        assert_eq!(at("- 1\n", vec![key("a")]), Some((1, 1)));
    }
}
