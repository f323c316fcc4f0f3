//! Who waits for whom: services that hold back, clients that take their time.

use super::{Origin, PATIENCE, Stream, eventually};
use std::io::{self, BufRead};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Holds whoever waits at it until it is opened.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().expect("the gate") = true;
        self.0.1.notify_all();
    }

    /// Waits like [`Gate::wait`]; an error when it was never opened.
    pub fn pass(&self) -> io::Result<()> {
        self.wait();
        if *self.0.0.lock().expect("the gate") { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    pub fn wait(&self) {
        let closed = self.0.0.lock().expect("the gate");
        drop(self.0.1.wait_timeout_while(closed, *PATIENCE, |open| !*open).expect("the gate"));
    }
}

/// Takes CPU time with so many threads, until the answer is dropped.
#[must_use]
pub fn busy(threads: usize) -> impl Drop {
    struct Busy(Arc<AtomicBool>);
    impl Drop for Busy {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = Arc::<AtomicBool>::default();
    for _ in 0..threads {
        let stop = stop.clone();
        std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {});
    }
    Busy(stop)
}

/// Does something several times with a pause before each: somebody who is slow, but not silent.
pub fn steadily(times: usize, pause: Duration, mut what: impl FnMut(usize)) {
    for i in 0..times {
        std::thread::sleep(pause);
        what(i);
    }
}

impl Origin {
    /// Waits until this many requests have come.
    #[track_caller]
    pub fn wait_for(&self, requests: usize) {
        eventually("the requests at the service", || (self.seen().len() >= requests).then_some(()));
    }
}

/// Rests for so long, unless the other side ends before: then it is an error.
pub fn rest(stream: &mut Stream, pause: Duration) -> io::Result<()> {
    stream.get_ref().set_read_timeout(Some(pause))?;
    let ended = match stream.fill_buf() {
        Ok(bytes) => Err(if bytes.is_empty() { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData }.into()),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(()),
        Err(e) => Err(e),
    };
    stream.get_ref().set_read_timeout(None)?;
    ended
}

/// Waits until the other side ends.
pub fn until_gone(stream: &mut Stream) -> io::Result<()> {
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionReset;
    io::copy(stream, &mut io::sink()).map(drop).or_else(|e| if gone(&e) { Ok(()) } else { Err(e) })
}
