//! Rewrites of headers and texts: pure, no I/O, `http` types only.

pub mod answer;
pub mod body;
pub mod compress;
pub mod decode;
pub mod encode;
pub mod forward;
pub mod headers;
pub mod json;
pub mod keep;
pub mod path;
pub mod rewrite;
pub mod schema;
pub mod template;
pub mod tree;
pub mod validator;
