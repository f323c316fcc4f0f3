//! Connections above the cap: on plaintext they are told so, on TLS closed.

use super::socket::Socket;
use crate::proxy::respond::Bare;
use crate::types::Refusal;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Refusals that may be under way at once; above that, connections are closed without a word.
const AT_ONCE_MAX: usize = 256;
/// How long a client may take to hear of it.
const LINGER: Duration = Duration::from_secs(1);

pub struct Refuser(Arc<Semaphore>);

impl Default for Refuser {
    fn default() -> Self {
        Refuser(Arc::new(Semaphore::new(AT_ONCE_MAX)))
    }
}

impl Refuser {
    pub fn refuse(&self, mut socket: Socket, is_tls: bool) {
        if is_tls {
            return;
        }
        let Ok(permit) = self.0.clone().try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _permit = permit;
            let _ = timeout(LINGER, async {
                socket.write_all(&Bare::new(&Refusal::Overloaded).bytes).await?;
                socket.shutdown().await?;
                // Closing before the request was read would reset the connection, and take the answer with it.
                let mut sink = [0; 1024];
                while socket.read(&mut sink).await? > 0 {}
                std::io::Result::Ok(())
            })
            .await;
        });
    }
}
