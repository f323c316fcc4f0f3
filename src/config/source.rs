//! The files of a configuration: the main one and those that it includes, and where in them a path leads.
//!
//! The parts of all files are one configuration by the time they are walked, so a path is one of that: the sources know which
//! file each route and each named part came from.

use super::marks::{Marks, Span};
use super::place::{Path, Step};
use super::problem::Place;
use super::secret::Hidden;
use std::collections::HashMap;
use std::path::PathBuf;

/// One file.
#[derive(Debug)]
pub struct File {
    pub name: String,
    pub text: String,
    pub marks: Marks,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl File {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> File {
        let text: String = text.into();
        // Windows editors put a mark in front, which is no part of the first key.
        let text = text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text);
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        File { name: name.into(), text, marks: Marks::default(), lines }
    }

    /// A line by its number, from 1.
    pub fn line(&self, number: usize) -> &str {
        let begin = self.lines.get(number.saturating_sub(1)).copied().unwrap_or(self.text.len());
        self.text[begin..].lines().next().unwrap_or_default()
    }
}

/// All files of a configuration; the first is the main one.
#[derive(Debug)]
pub struct Sources {
    files: Vec<File>,
    /// For each file that has routes, the number of its first one.
    routes: Vec<(usize, usize)>,
    /// The file of each section that the main file has not, and of each part that is not in the main file.
    parts: HashMap<Path, usize>,
    hidden: Hidden,
}

impl Sources {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Sources {
        Sources { files: vec![File::new(name, text)], routes: Vec::new(), parts: HashMap::new(), hidden: Hidden::default() }
    }

    /// Forgets what was included.
    pub(super) fn reset(&mut self) {
        self.files.truncate(1);
        self.routes.clear();
        self.parts.clear();
        self.hidden = Hidden::default();
    }

    pub fn name(&self) -> &str {
        &self.files[0].name
    }

    pub fn files(&self) -> &[File] {
        &self.files
    }

    pub(super) fn set_marks(&mut self, file: usize, marks: Marks) {
        self.files[file].marks = marks;
    }

    pub(super) fn add(&mut self, file: File) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    /// The routes from `first` on are those of `file`.
    pub(super) fn routes_from(&mut self, first: usize, file: usize) {
        self.routes.push((first, file));
    }

    /// A section, or a part of one, is in `file`.
    pub(super) fn is_in(&mut self, path: Path, file: usize) {
        self.parts.entry(path).or_insert(file);
    }

    pub(super) fn hide(&mut self, texts: &[String]) {
        self.hidden = Hidden::new(texts);
    }

    /// What nobody is shown.
    pub fn hidden(&self) -> &Hidden {
        &self.hidden
    }

    /// The file and the place in it that a place of the whole configuration is.
    pub fn find(&self, place: &Place) -> (&File, Option<Span>) {
        let (path, of_key) = match place {
            Place::File(file) => return (&self.files[*file], None),
            Place::Exact(file, span) => return (&self.files[*file], Some(*span)),
            Place::Key(path) => (path, true),
            Place::Value(path) => (path, false),
        };
        let (file, inside) = self.origin(path);
        let file = &self.files[file];
        (file, file.marks.find(&inside, of_key))
    }

    /// The folder of the file in which a path is; empty where that is the working directory.
    pub(super) fn folder(&self, path: &[Step]) -> PathBuf {
        let (file, _) = self.origin(path);
        std::path::Path::new(&self.files[file].name).parent().map(std::path::Path::to_path_buf).unwrap_or_default()
    }

    /// The number of the file in which a path is, and what the path is there.
    fn origin(&self, path: &[Step]) -> (usize, Path) {
        let mut inside = path.to_vec();
        if let [Step::Key(section), Step::Index(index), ..] = path
            && section == "routes"
        {
            let next = self.routes.partition_point(|(first, _)| first <= index);
            let (first, file) = next.checked_sub(1).map_or((0, 0), |last| self.routes[last]);
            inside[1] = Step::Index(index - first);
            return (file, inside);
        }
        let file = (1..=path.len().min(2)).rev().find_map(|end| self.parts.get(&path[..end]));
        (file.copied().unwrap_or(0), inside)
    }
}
