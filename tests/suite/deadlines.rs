//! Clients and services that take too long.
