//! Pingora's proxy, with the connections to services that we keep.
//!
//! Pingora 0.9 builds a proxy with a connector of another's only within a `Service`, which shows it to nothing but the connections
//! that it accepts. So it accepts one, on loopback, and is dropped.

use crate::proxy::Gateway;
use crate::upstream::keepalive::Keepalive;
use pingora::apps::HttpServerOptions;
use pingora::proxy::{HttpProxy, ProcessCustomSession, ProxyServiceBuilder};
use pingora::server::Fds;
use pingora::server::configuration::ServerConf;
use pingora::services::Service;
use std::future::ready;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc::channel;
use tokio::sync::watch;
use tokio::time::timeout;

pub type Proxy = HttpProxy<Gateway, Keepalive>;

/// Loopback answers at once, or never.
const PATIENCE: Duration = Duration::from_secs(10);

/// # Errors
/// There is no loopback address to be had.
pub fn build(conf: &Arc<ServerConf>, gateway: Gateway, keepalive: Keepalive, mut options: HttpServerOptions) -> io::Result<Arc<Proxy>> {
    let (give, mut given) = channel(1);
    // Whoever it is that connects, the proxy is given to us.
    let on_connection: ProcessCustomSession<Gateway, Keepalive> = Arc::new(move |proxy, _, _| {
        let _ = give.try_send(proxy);
        Box::pin(ready(None))
    });
    options.force_custom = true;
    let mut service = ProxyServiceBuilder::new(conf, gateway).custom(keepalive, on_connection).server_options(options).build();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let mut sockets = Fds::new();
    sockets.add(address.to_string(), listener.into_raw_fd());
    service.add_tcp(&address.to_string());
    let meeting = async move {
        let (_running, shutdown) = watch::channel(false);
        let serving = service.start_service(Some(Arc::new(sockets.into())), shutdown, 1);
        let asking = async {
            let _connection = TcpStream::connect(address).await?;
            given.recv().await.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof))
        };
        tokio::select! {
            () = serving => Err(ErrorKind::UnexpectedEof.into()),
            proxy = timeout(PATIENCE, asking) => proxy?,
        }
    };
    // On a runtime of its own, with which all that was begun ends, and which another one's thread can't wait for.
    let met = thread::spawn(move || Builder::new_current_thread().enable_all().build()?.block_on(meeting));
    met.join().unwrap_or_else(|_| Err(io::Error::other("Pingora gave no proxy")))
}
