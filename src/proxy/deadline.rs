//! When what is being waited for is due. Hooks say what a request waits for; the server's watch sees to it that it ends.
//!
//! Pingora has no deadline for a whole head, for a body over HTTP/2, or for a service that drips, and its read timeout
//! also runs while the client uploads. So there is one deadline a request, set by the hooks, and one lazy timer.

pub use crate::upstream::clock::{ms, now};
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use std::future::Future;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// No byte of a request yet.
    Idle,
    /// Some of a request head, not all.
    Head,
    /// A request is in progress, and what it waits for is bounded elsewhere.
    Busy,
    /// The client owes us more of its body.
    Body,
    /// The service owes us more of its answer.
    Upstream,
    /// A connection to the service is being made. Pingora does not look at the client meanwhile, so we do, now and then.
    Connect,
}

/// What is to be done about a deadline that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// Not passed after all, or only the moment to look at the client again.
    No,
    /// The service's connection was cut, which wakes the exchange.
    UpstreamCut,
    /// Whatever is going on is to be dropped.
    Drop,
}

/// How often it is seen whether the client still waits: for a connection to a service, and for the answer to a handshake.
pub const LOOK: Duration = Duration::from_millis(200);

tokio::task_local! {
    static OF_TASK: Arc<Deadline>;
}

/// The deadline of the request that this task serves, when it has one of its own: over HTTP/2 many share a connection.
pub fn of_task() -> Option<Arc<Deadline>> {
    OF_TASK.try_with(Arc::clone).ok()
}

/// Serves one request of an HTTP/2 connection under a deadline of its own.
pub async fn within<T>(deadline: Arc<Deadline>, request: impl Future<Output = T>) -> T {
    OF_TASK.scope(deadline, request).await
}

/// One deadline, shared between hooks, stream and watch.
#[derive(Debug)]
pub struct Deadline {
    phase: AtomicU8,
    /// In [`now`]'s milliseconds; 0 for never.
    due: AtomicU64,
    /// The socket to the service, while only this exchange uses it; -1 for none.
    upstream: AtomicI32,
    upstream_was_late: AtomicBool,
}

impl Default for Deadline {
    fn default() -> Self {
        Deadline {
            phase: AtomicU8::new(Phase::Idle as u8),
            due: AtomicU64::new(0),
            upstream: AtomicI32::new(-1),
            upstream_was_late: AtomicBool::new(false),
        }
    }
}

impl Deadline {
    /// Waits for something else from now on, for `within` at most; `None` is without end.
    pub fn enter(&self, phase: Phase, within: Option<Duration>) {
        self.enter_until(phase, within.map_or(0, |within| now() + ms(within)));
    }

    /// The same with a point in [`now`]'s time; 0 for never.
    pub fn enter_until(&self, phase: Phase, due: u64) {
        self.due.store(due, Relaxed);
        self.phase.store(phase as u8, Relaxed);
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Busy,
            3 => Phase::Body,
            4 => Phase::Upstream,
            _ => Phase::Connect,
        }
    }

    /// 0 for never.
    pub fn due(&self) -> u64 {
        self.due.load(Relaxed)
    }

    /// The socket that may be cut when the service is late; `None` when there is none of this exchange alone.
    pub fn set_upstream(&self, socket: Option<RawFd>) {
        self.upstream.store(socket.unwrap_or(-1), Relaxed);
    }

    /// Ends the connection to the service, if it is this exchange's alone. To be called within the task that holds it: the descriptor is still
    /// that connection's.
    pub fn cut_upstream(&self) -> bool {
        match self.upstream.swap(-1, Relaxed) {
            -1 => false,
            socket => shutdown(socket, Shutdown::Both).is_ok(),
        }
    }

    /// Something of the service waits in its socket.
    fn is_unread(&self) -> bool {
        match self.upstream.load(Relaxed) {
            -1 => false,
            socket => matches!(recv(socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT), Ok(1..)),
        }
    }

    pub fn upstream_was_late(&self) -> bool {
        self.upstream_was_late.load(Relaxed)
    }

    /// Called when a request begins: the deadline of a connection serves one after another.
    pub fn forget(&self) {
        self.set_upstream(None);
        self.upstream_was_late.store(false, Relaxed);
    }

    /// To be called when `due` may have passed.
    pub fn expire(&self) -> Expired {
        let due = self.due();
        if due == 0 || now() < due {
            return Expired::No;
        }
        self.due.store(0, Relaxed);
        match self.phase() {
            Phase::Connect => {
                self.due.store(now() + ms(LOOK), Relaxed);
                Expired::No
            }
            // It has said more, which nobody reads yet since the client is slow to take what came before.
            Phase::Upstream if self.is_unread() => {
                self.due.store(now() + ms(LOOK), Relaxed);
                Expired::No
            }
            Phase::Upstream => {
                self.upstream_was_late.store(true, Relaxed);
                if self.cut_upstream() { Expired::UpstreamCut } else { Expired::Drop }
            }
            Phase::Idle | Phase::Head | Phase::Busy | Phase::Body => Expired::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn each_phase_ends_in_its_way() {
        let deadline = Deadline::default();
        assert_eq!(deadline.expire(), Expired::No);
        for phase in [Phase::Idle, Phase::Head, Phase::Body] {
            deadline.enter(phase, Some(Duration::from_secs(60)));
            assert_eq!((deadline.phase(), deadline.expire()), (phase, Expired::No));
            deadline.enter_until(phase, 1);
            assert_eq!(deadline.expire(), Expired::Drop);
            assert_eq!(deadline.due(), 0);
        }
        assert!(!deadline.upstream_was_late());
        deadline.enter_until(Phase::Connect, 1);
        assert_eq!((deadline.phase(), deadline.expire()), (Phase::Connect, Expired::No));
        assert!(deadline.due() > 1, "it is looked at again");
    }

    #[test]
    fn a_late_service_is_cut_off() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        let deadline = Deadline::default();
        deadline.set_upstream(Some(ours.as_raw_fd()));
        // Not while nobody has read what it said.
        theirs.write_all(b"x").expect("to write");
        deadline.enter_until(Phase::Upstream, 1);
        assert_eq!((deadline.expire(), deadline.upstream_was_late()), (Expired::No, false));
        assert!(deadline.due() > 1, "it is looked at again");
        ours.read_exact(&mut [0]).expect("a byte");
        deadline.enter_until(Phase::Upstream, 1);
        assert_eq!(deadline.expire(), Expired::UpstreamCut);
        assert_eq!(theirs.read(&mut [0]).expect("the end"), 0);
        deadline.enter_until(Phase::Upstream, 1);
        assert_eq!(deadline.expire(), Expired::Drop);
        assert!(deadline.upstream_was_late());
        deadline.forget();
        assert!(!deadline.upstream_was_late());
    }
}
