//! What the process is asked to do, by signals and by the admin listener.

use super::End;
use crate::admin::Order;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

/// Orders that wait while one is carried out; more are refused.
const ORDERS_MAX: usize = 16;

/// What is asked.
pub enum Asked {
    /// The outcome is told to whoever waits for it.
    Reload(Option<oneshot::Sender<Result<u64, String>>>),
    /// Start another process in place of this one; its number, or why there is none.
    Upgrade(Option<oneshot::Sender<Result<u32, String>>>),
    /// Open the logs anew.
    Reopen,
    Drain,
    /// Without waiting for anything.
    Stop,
}

impl From<Order> for Asked {
    fn from(order: Order) -> Asked {
        match order {
            Order::Reload(outcome) => Asked::Reload(Some(outcome)),
            Order::Upgrade(outcome) => Asked::Upgrade(Some(outcome)),
            Order::Drain => Asked::Drain,
            Order::Stop => Asked::Stop,
        }
    }
}

/// Everything that can ask.
pub struct Control {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    upgrade: Signal,
    orders: Receiver<Order>,
}

/// Where orders are put, and where they come out.
pub fn orders() -> (Sender<Order>, Receiver<Order>) {
    channel(ORDERS_MAX)
}

impl Control {
    /// # Errors
    /// Signals can't be received.
    pub fn new(orders: Receiver<Order>) -> io::Result<Control> {
        Ok(Control {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
            orders,
        })
    }

    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload(None),
            _ = self.terminate.recv() => Asked::Drain,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.reopen.recv() => Asked::Reopen,
            _ = self.upgrade.recv() => Asked::Upgrade(None),
            Some(order) = self.orders.recv() => order.into(),
        }
    }

    /// Only a signal to end; orders wait.
    pub async fn end(&mut self) -> End {
        tokio::select! {
            _ = self.terminate.recv() => End::Drain,
            _ = self.interrupt.recv() => End::Stop,
        }
    }

    /// While draining, a second signal to end is meant. A reload would come to nothing: its sender is told so by the silence. The logs are opened anew
    /// all the same.
    pub async fn stop(&mut self, reopen: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.reopen.recv() => reopen(),
                Some(order) = self.orders.recv() => if matches!(order, Order::Stop) { return },
            }
        }
    }

    /// The same where the first signal was meant for the process that has taken the place of this one as well.
    pub async fn stop_twice(&mut self, reopen: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return self.stop(reopen).await,
                _ = self.interrupt.recv() => return,
                _ = self.reopen.recv() => reopen(),
            }
        }
    }
}
