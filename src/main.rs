//! The command. What it does stands in the library.

// Linked for its `malloc`, which takes the C library's place, and with it that of `std`'s allocator. As a global allocator the crate
// asks for a place of a given alignment each time, which costs three times the instructions.
use mimalloc as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    frontdesk::cli::main()
}
