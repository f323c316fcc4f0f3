//! Paths of keys and indices in a configuration.

use super::source::Sources;
use std::path::PathBuf;

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
    /// Of these files, where it is known.
    Root(Option<&'a Sources>),
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    pub fn root() -> At<'static> {
        At { parent: None, step: Borrowed::Root(None) }
    }
    /// The root of a configuration that comes from these files.
    pub(super) fn root_of(sources: &'a Sources) -> At<'a> {
        At { parent: None, step: Borrowed::Root(Some(sources)) }
    }
    /// The folder of the file in which this stands, where it is known.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        self.sources().map(|sources| sources.folder(&self.path()))
    }
    fn sources(&self) -> Option<&'a Sources> {
        match (self.parent, self.step) {
            (Some(parent), _) => parent.sources(),
            (None, Borrowed::Root(sources)) => sources,
            (None, _) => None,
        }
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
            Borrowed::Root(_) => {}
            Borrowed::Key(key) => path.push(Step::Key(key.to_string())),
            Borrowed::Index(index) => path.push(Step::Index(index)),
        }
        path
    }
    /// The last key of the path in quotes, and of an item its number from 0, for messages.
    pub fn label(&self) -> String {
        match (self.step, self.parent) {
            (Borrowed::Index(index), Some(parent)) => format!("`{}[{index}]`", parent.name()),
            (Borrowed::Root(_), _) => "the file".to_string(),
            _ => format!("`{}`", self.name()),
        }
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
