//! Which route does a request take?
//!
//! This room owns the match table, the order in which routes win, and the one normalisation of paths. It knows nothing of
//! what a route does: it answers with a number.

pub mod host;
pub mod normalize;
pub mod pattern;
pub mod table;

pub use table::{Captures, Found, Outcome, Query, Rule, Table};
