//! What the service manager is told (sd_notify), and what it hands over (socket activation). Without one, nothing.

use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::time::interval;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        log::warn!("the service manager can't be told: {e}");
    }
}

/// Clients are served, by this process.
pub fn ready(status: &str) {
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready, NotifyState::Status(status)]);
}

/// To be followed by [`ready`], whatever comes of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Another process serves from now on: it, not this one, is to be watched.
pub fn replaced_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// Says that the process is alive, where it has to, for as long as it runs: twice as often as is asked for. A runtime that hangs
/// does not.
pub async fn keep_alive() {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval((period / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// The sockets that were opened for this process, by name.
pub fn sockets() -> Vec<(String, OwnedFd)> {
    // Read first: the names go with the rest of the variables.
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut handed = ListenFd::from_env();
    let count = handed.len();
    let take = |nth: usize| {
        // sd_listen_fds_with_names(3)
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
        let socket = match handed.take_tcp_listener(nth) {
            Ok(tcp) => tcp.map(OwnedFd::from),
            // What is neither stays where it is.
            Err(_) => handed.take_unix_listener(nth).ok().flatten().map(OwnedFd::from),
        };
        Some((name.to_string(), socket?))
    };
    (0..count).filter_map(take).collect()
}
