//! A mistake in the configuration, as the operator reads it: where, what, why it matters, what to do.

use super::place::{At, Path, Source, Step};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::Write as _;

/// Where a problem is. A position is looked up only when the problem is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The key itself, such as one that is not known.
    Key(Path),
    /// What stands at a path.
    Value(Path),
    /// A line and a column, both from 1: the YAML could not be parsed any further.
    Position(usize, usize),
    /// The file as a whole, or something outside it.
    File,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// What is wrong, without a full stop.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl Problem {
    pub fn new(place: Place, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Problem { place, what: what.into(), why: why.into(), fix: fix.into() }
    }

    /// `file:line:col: what`, the line with a caret below, the cause and the remedy.
    pub fn render(&self, source: &Source) -> String {
        let mut out = String::new();
        let name = source.name();
        let _ = match source.position(&self.place) {
            Some(position) => {
                let line = source.line(position.line);
                let margin = position.line.to_string().len();
                let caret = caret(line, position.column, &self.place);
                write!(
                    out,
                    "{name}:{}:{}: {}\n {:margin$} |\n {} | {line}\n {:margin$} | {caret}\n",
                    position.line, position.column, self.what, "", position.line, ""
                )
            }
            None => writeln!(out, "{name}: {}", self.what),
        };
        let _ = write!(out, "  why: {}\n  fix: {}\n", self.why, self.fix);
        out
    }
}

/// Spaces up to the column, then one caret under each character of the word there.
fn caret(line: &str, column: usize, place: &Place) -> String {
    let before = column.saturating_sub(1);
    let lead: String = line.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let rest: String = line.chars().skip(before).collect();
    let end = match (place, rest.chars().next()) {
        (Place::Key(_), _) => rest.find(':'),
        (_, Some(quote @ ('"' | '\''))) => rest[1..].find(quote).map(|at| at + 2),
        (_, Some('[' | '{')) => Some(1),
        _ => rest.find([',', '}', ']', '#']).or(rest.find(": ")),
    };
    let word = rest[..end.unwrap_or(rest.len())].trim_end();
    format!("{lead}{}", "^".repeat(word.chars().count().max(1)))
}

/// Collects the problems of all passes, so that they are shown together.
///
/// What could not be read is remembered: the passes after it go on without it, and report what is wrong elsewhere, but not what
/// only follows from it.
#[derive(Debug, Default)]
pub struct Problems {
    errors: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    /// Values that could not be read.
    unread: RefCell<HashSet<Path>>,
    /// Where a problem is, and all that is around it.
    touched: RefCell<HashSet<Path>>,
}

impl Problems {
    /// A problem, unless it stands at a value that could not be read: that has one already.
    pub fn add(&self, problem: Problem) {
        if let Place::Key(path) | Place::Value(path) = &problem.place {
            let is_value = matches!(problem.place, Place::Value(_));
            if is_value && self.is_unread(path) {
                return;
            }
            self.touch(path);
        }
        self.errors.borrow_mut().push(problem);
    }

    /// Notes that something is wrong at a path.
    fn touch(&self, path: &[Step]) {
        let mut touched = self.touched.borrow_mut();
        for end in (0..=path.len()).rev() {
            // What is around it is there already.
            if !touched.insert(path[..end].to_vec()) {
                break;
            }
        }
    }

    /// A problem for which the value at `at` could not be read.
    pub fn unread(&self, at: &At<'_>, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) {
        let path = at.path();
        self.add(Problem::new(Place::Value(path.clone()), what, why, fix));
        self.unread.borrow_mut().insert(path);
    }

    /// The value at `at` is there but under a name that was not understood, which has a problem of its own.
    pub fn misspelt(&self, at: &At<'_>) {
        self.touch(&at.path());
        self.unread.borrow_mut().insert(at.path());
    }

    /// One that may be one or a list has its items at indices, whichever it is.
    fn is_unread(&self, path: &[Step]) -> bool {
        let unread = self.unread.borrow();
        match path {
            [around @ .., Step::Index(_)] => unread.contains(path) || unread.contains(around),
            _ => unread.contains(path),
        }
    }

    /// What stands at `at` could be read, though perhaps not all of it.
    pub fn is_read(&self, at: &At<'_>) -> bool {
        !self.unread.borrow().contains(&at.path())
    }

    /// Nothing is known to be wrong at `at` or below: what is absent there is absent, and what is the same is the same.
    pub fn is_sound(&self, at: &At<'_>) -> bool {
        self.is_empty() || !self.touched.borrow().contains(&at.path())
    }

    /// A problem with what stands at `at`. Answers `None`, so that a reader may end with it.
    pub fn at<T>(&self, at: &At<'_>, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Option<T> {
        self.add(Problem::new(Place::Value(at.path()), what, why, fix));
        None
    }

    /// What a parser made, or a problem with what it says.
    pub fn ok<T>(&self, result: Result<T, String>, at: &At<'_>, why: &str, fix: &str) -> Option<T> {
        result.map_or_else(|what| self.at(at, what, why, fix), Some)
    }

    /// Something that works, but probably not as it was meant.
    pub fn warn(&self, at: &At<'_>, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) {
        self.warnings.borrow_mut().push(Problem::new(Place::Value(at.path()), what, why, fix));
    }

    pub fn count(&self) -> usize {
        self.errors.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.errors.borrow().is_empty()
    }

    /// The errors, then the warnings, each in the order in which they were found.
    pub fn into_parts(self) -> (Vec<Problem>, Vec<Problem>) {
        (self.errors.into_inner(), self.warnings.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_place_the_line_and_a_caret_under_the_word() {
        let source = Source::new("front.yaml", "a: 1\nserver:\n  thread: 4\n");
        let root = At::root();
        let server = root.key("server");
        let at = server.key("thread");
        let problem = Problem::new(Place::Key(at.path()), "unknown key `thread`", "it would be ignored", "did you mean `threads`?");
        assert_eq!(
            problem.render(&source),
            "front.yaml:3:3: unknown key `thread`\n   |\n 3 |   thread: 4\n   |   ^^^^^^\n  why: it would be ignored\n  fix: did you mean `threads`?\n"
        );
    }

    #[test]
    fn a_value_is_underlined_up_to_its_end() {
        let source = Source::new("f", "x: { a: \"b c\", d: e }\n");
        let root = At::root();
        let x = root.key("x");
        for (key, carets) in [("a", "^^^^^"), ("d", "^")] {
            let at = x.key(key);
            let shown = Problem::new(Place::Value(at.path()), "w", "y", "f").render(&source);
            let line = shown.lines().nth(3).unwrap_or_default();
            assert_eq!(line.trim_start_matches([' ', '|']), carets, "{shown}");
        }
    }
}
