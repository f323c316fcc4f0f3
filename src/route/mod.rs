//! Which route does a request take?
//!
//! This room owns the match table, the order in which routes win, and the one normalisation of paths. It knows nothing of
//! what a route does: it answers with a number.

pub mod criteria;
pub mod explain;
pub mod expression;
pub mod host;
#[cfg(test)]
mod naive;
pub mod normalize;
pub mod pattern;
pub mod rank;
mod read;
mod rule;
pub mod sample;
pub mod shadow;
mod table;
#[cfg(test)]
mod testing;

pub use rule::{Criterion, PathRule, Query, Rule};
pub use table::{Captures, Found, Outcome, Table};
