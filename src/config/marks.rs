//! Where each node of a YAML file stands.
//!
//! The nodes form a tree beside the values, so that a path leads to a place through aliases and merged keys too.

use super::place::Step;
use std::collections::HashMap;

/// A line and a column in characters, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// What is underlined: a word on one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub position: Position,
    /// In characters.
    pub width: usize,
}

/// The number of a node.
pub(super) type Id = usize;

#[derive(Debug)]
pub(super) struct Spot {
    pub key: Option<Span>,
    pub value: Span,
    /// For an alias: what it stands for.
    pub same_as: Option<Id>,
    pub below: Below,
}

#[derive(Debug)]
pub(super) enum Below {
    Nothing,
    Items(Vec<Id>),
    Entries(HashMap<String, Id>),
}

/// The places of all nodes of a file.
#[derive(Debug, Default)]
pub struct Marks {
    pub(super) spots: Vec<Spot>,
    pub(super) root: Option<Id>,
}

impl Marks {
    pub(super) fn add(&mut self, value: Span, below: Below) -> Id {
        self.spots.push(Spot { key: None, value, same_as: None, below });
        self.spots.len() - 1
    }

    /// What is below a node, or below what it is an alias of.
    pub(super) fn below(&self, id: Id) -> &Below {
        &self.spots[self.spots[id].same_as.unwrap_or(id)].below
    }

    /// Where a path leads, or the nearest thing around it; its key when that is asked for and it has one.
    pub fn find(&self, path: &[Step], of_key: bool) -> Option<Span> {
        let mut id = self.root?;
        for step in path {
            let next = match (self.below(id), step) {
                (Below::Items(items), Step::Index(index)) => items.get(*index),
                (Below::Entries(entries), Step::Key(key)) => entries.get(key),
                // What may be one or a list is named by an index, whichever it is.
                _ => None,
            };
            let Some(next) = next else {
                let span = self.spots[id].value;
                // Of the file itself only the beginning: its first key has nothing to do with it.
                return Some(if Some(id) == self.root { Span { width: 1, ..span } } else { span });
            };
            id = *next;
        }
        let spot = &self.spots[id];
        Some(if of_key { spot.key.unwrap_or(spot.value) } else { spot.value })
    }
}
