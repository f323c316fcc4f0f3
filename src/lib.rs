//! Frontdesk, an API gateway on Pingora. ARCHITECTURE.md is the map of these rooms.

pub mod admin; // health, status, metrics, configuration
pub mod auth; // who comes, and may they?
pub mod cache; // can we avoid asking?
pub mod cli; // the commands
pub mod compose; // one answer from several services
pub mod config; // YAML in, raw parts or problems out
pub mod limit; // how much?
pub mod observe; // access log, error log, metrics
pub mod proxy; // the story of a request: Pingora's hooks
pub mod route; // which route?
pub mod server; // listeners, signals, reload, drain
pub mod shape; // headers and texts: pure
pub mod snapshot; // one version of the configuration, resolved
pub mod tls; // certificates by SNI
pub mod types; // nouns that rooms share
pub mod upstream; // services, pools, peers, retries
