//! The configuration as it was typed: bytes in, raw structs or problems out.
//!
//! This room owns YAML, positions and the wording of problems. It never opens a socket, resolves a name or compiles a
//! pattern: meaning is given by the rooms themselves, when `snapshot` builds them.

mod declare;
mod include;
pub mod json;
pub mod load;
pub mod marks;
pub mod place;
pub mod problem;
pub mod raw;
pub mod render;
pub mod scalar;
pub mod schema;
pub mod secret;
pub mod shape;
pub mod source;
mod substitute;
mod syntax;
mod values;
mod yaml;
