//! What is done when the system has no room for another connection.

use super::socket::Listening;
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// Connections that are turned away before the loop rests.
const SHED_AT_ONCE: usize = 1_000;
/// After so long without, that clients are turned away is news.
const NEWS: Duration = Duration::from_secs(10);

/// `accept` errors that mean "no room", where trying again at once would only burn CPU.
pub fn is_starved(e: &io::Error) -> bool {
    let errno = e.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

/// A descriptor to accept with when there is none left, so that those who wait are turned away and not left waiting.
pub struct Spare {
    file: Option<File>,
    /// When somebody was turned away last.
    shed: Option<Instant>,
}

impl Spare {
    pub fn new() -> Spare {
        Spare { file: File::open("/dev/null").ok(), shed: None }
    }

    /// Closes the connections that wait; says whether that is news.
    pub fn shed(&mut self, listener: &Listening) -> bool {
        let is_news = self.shed.is_none_or(|at| at.elapsed() > NEWS);
        self.shed = Some(Instant::now());
        for _ in 0..SHED_AT_ONCE {
            self.file = None;
            let is_shed = listener.turn_away(&mut Context::from_waker(Waker::noop()));
            self.file = File::open("/dev/null").ok();
            if !is_shed {
                break;
            }
        }
        is_news
    }
}
