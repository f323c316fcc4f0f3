//! One answer from several services: a graph of calls, and what is made of what they find.
//!
//! [`Plan`] is what the configuration says. [`gather`] makes the calls through the same pools and connectors as any request, each
//! as soon as what it needs is there; [`Plan::compose`] makes the answer. Who asks, and what goes along with each call, is told by
//! a [`Desk`].

mod answer;
mod call;
mod outcome;
mod plan;
mod run;

pub use answer::Conflict;
pub use call::{Draft, Line};
pub use outcome::{Failed, Found, Kept, Known, Outcome, Results};
pub use plan::{Call, Plan, Rule, Shown};
pub use run::{Desk, gather};
