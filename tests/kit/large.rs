//! Bodies that are too large to be held, and sides that are slower than the other.

use super::{Gate, PATIENCE, scale};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

pub static LARGE: LazyLock<usize> = LazyLock::new(|| scale(64 << 20, 200 << 20));
const PIECE: usize = 64 << 10;
const PERIOD: usize = 251;

fn pattern() -> Vec<u8> {
    (0..PERIOD as u8).cycle().take(PIECE + PERIOD).collect()
}

/// Writes a body of [`LARGE`] bytes, and opens the gate when nobody has taken any for a while.
pub fn pour(mut to: &TcpStream, is_stuck: &Gate) -> io::Result<()> {
    let (pattern, begun, mut at) = (pattern(), Instant::now(), 0);
    to.set_write_timeout(Some(Duration::from_millis(300)))?;
    while at < *LARGE {
        match to.write(&pattern[at % PERIOD..][..(*LARGE - at).min(PIECE)]) {
            Ok(n) => at += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock && begun.elapsed() < 3 * *PATIENCE => is_stuck.open(),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads that body and compares it.
pub fn drink(from: &mut impl Read) -> io::Result<()> {
    let (pattern, mut piece, mut at) = (pattern(), vec![0; PIECE], 0);
    while at < *LARGE {
        let n = from.read(&mut piece)?;
        if n == 0 || piece[..n] != pattern[at % PERIOD..][..n] {
            return Err(ErrorKind::InvalidData.into());
        }
        at += n;
    }
    Ok(())
}
