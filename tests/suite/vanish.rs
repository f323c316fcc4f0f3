//! Clients that vanish leave nothing behind.
