//! Signals, drain and the end.
