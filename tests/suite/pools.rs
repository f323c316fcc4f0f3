//! Which endpoint, and what happens when one fails.
