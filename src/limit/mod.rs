//! How much? Rates by key: buckets, the decision about one request, and what the client is told of it. And how many at once.
//!
//! This room owns the counting. It knows nothing of routes or of who a client is: it is told, see [`Caller`]. A decision
//! waits for nobody and allocates only where a key is new; only where gateways share a limit it may have to ask their store, see
//! [`Pending`]. State that outlives a reload is in [`Limits`].

mod buffers;
mod cap;
mod carried;
mod fields;
mod flood;
mod key;
mod lease;
mod named;
mod overload;
mod pace;
mod script;
mod set;
mod shared;
mod store;

pub use buffers::{Buffers, Full, Held};
pub use cap::{Cap, Counts, Of, Pass, Queue};
pub use fields::Fields;
pub use flood::Flood;
pub use key::{Caller, Who};
pub use named::{Limit, Limits};
pub use overload::{Load, Overload, Waits};
pub use set::{Pending, Set, Standing, Verdict};
pub use shared::{Shared, StoreTold};
pub use store::{Near, SWEEP_EVERY, Store};
