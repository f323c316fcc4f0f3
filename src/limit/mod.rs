//! How much? Rates by key: buckets, the decision about one request, and what the client is told of it.
//!
//! This room owns the counting. It knows nothing of routes or of who a client is: it is told, see [`Caller`]. A decision
//! waits for nobody and allocates only where a key is new. State that outlives a reload is in [`Limits`].

mod fields;
mod key;
mod limit;
mod pace;
mod set;
mod store;

pub use fields::Fields;
pub use key::Caller;
pub use limit::{Limit, Limits};
pub use set::{Set, Standing, Verdict};
pub use store::{Near, SWEEP_EVERY, Store};
