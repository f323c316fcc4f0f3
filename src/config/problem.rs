//! A mistake in the configuration, as the operator reads it: where, what, why it matters, what to do.

use super::marks::Span;
use super::place::{At, Path, Step};
use super::render::SHOWN_MAX;
use super::shape::remedy;
use std::cell::RefCell;
use std::collections::HashSet;

/// Where a problem is. A path is of the whole configuration, and looked up only when the problem is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The key itself, such as one that is not known.
    Key(Path),
    /// What stands at a path.
    Value(Path),
    /// A place in one of the files, by its number.
    Exact(usize, Span),
    /// A file as a whole, by its number; 0 is the main one.
    File(usize),
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
    /// The other place, of two that can't both be.
    pub also: Option<Place>,
}

impl Problem {
    pub fn new(place: Place, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Problem { place, what: what.into(), why: why.into(), fix: fix.into(), also: None }
    }

    /// The same with the other of two places that it takes both of.
    #[must_use]
    pub fn and(self, other: Place) -> Self {
        Problem { also: Some(other), ..self }
    }
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
    /// Texts that are numbers in the file: no problem, but known by their places too.
    numbers: RefCell<HashSet<Path>>,
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

    /// What stands at `at` as a text is a number in the file.
    pub(super) fn note_number(&self, at: &At<'_>) {
        self.numbers.borrow_mut().insert(at.path());
    }

    pub(super) fn is_number(&self, at: &At<'_>) -> bool {
        let numbers = self.numbers.borrow();
        !numbers.is_empty() && numbers.contains(&at.path())
    }

    /// A problem for which the value at `at` could not be read.
    pub fn unread(&self, at: &At<'_>, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) {
        let path = at.path();
        self.add(Problem::new(Place::Value(path.clone()), what, why, fix));
        self.unread.borrow_mut().insert(path);
    }

    /// What stands at `at` is not known, for a reason that has a problem of its own: a key that was not understood, or a file
    /// that could not be read.
    pub fn excuse(&self, at: &At<'_>) {
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

    /// A problem that two places have together: `first` was there before.
    pub fn clash<T>(
        &self,
        at: &At<'_>,
        first: &At<'_>,
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Option<T> {
        self.add(Problem::new(Place::Value(at.path()), what, why, fix).and(Place::Value(first.path())));
        None
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

    /// "did you mean", or the list of what is known. Not for those that are never shown: it takes time.
    pub fn remedy<'a>(&self, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
        match self.count() > SHOWN_MAX {
            true => "name one that there is".to_string(),
            false => remedy(name, &known.into_iter().collect::<Vec<_>>()),
        }
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
