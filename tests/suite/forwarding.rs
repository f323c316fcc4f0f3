//! Heads on their way to services and back.
