pub mod config;
pub mod route;
pub mod types;
pub mod shape;
pub mod upstream;
pub mod observe;
pub mod snapshot;
pub mod tls;
