//! The yardstick: the least that Pingora can be, on its own `Server` and `Listeners`, in front of one upstream.
//!
//! `bare LISTEN UPSTREAM THREADS [TLS_LISTEN CERT KEY]`
//!
//! HTTP/1.1 and h2c on LISTEN, HTTP/1.1 and h2 on TLS_LISTEN. It checks, logs and counts nothing, so what
//! Frontdesk takes beyond it is Frontdesk's own.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use async_trait::async_trait;
use pingora::Result;
use pingora::apps::HttpServerOptions;
use pingora::listeners::tls::TlsSettings;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As small as Frontdesk's: Pingora's default of 64 KiB would make idle connections look dear.
const BUFFER_BYTES: usize = 4096;
/// Per thread; more than the load generators ever have in flight.
const UPSTREAM_KEEPALIVE: usize = 512;

struct Bare {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let mut peer = HttpPeer::new(self.upstream, false, String::new());
        peer.options.connection_timeout = Some(Duration::from_secs(2));
        peer.options.read_timeout = Some(Duration::from_secs(60));
        Ok(Box::new(peer))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (listen, upstream, threads, tls) = match words[..] {
        [listen, upstream, threads] => (listen, upstream, threads, None),
        [listen, upstream, threads, tls_listen, cert, key] => (listen, upstream, threads, Some((tls_listen, cert, key))),
        _ => {
            eprintln!("usage: bare LISTEN UPSTREAM THREADS [TLS_LISTEN CERT KEY]");
            return ExitCode::from(2);
        }
    };
    let upstream = upstream.parse().expect("UPSTREAM is ADDRESS:PORT");
    let threads = threads.parse().expect("THREADS is a number");

    let mut server = Server::new_with_opt_and_conf(
        None,
        ServerConf { threads, upstream_keepalive_pool_size: UPSTREAM_KEEPALIVE, ..ServerConf::default() },
    );
    server.bootstrap();

    let mut service = http_proxy_service(&server.configuration, Bare { upstream });
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    let proxy = service.app_logic_mut().expect("a service that has not started has its proxy");
    proxy.server_options = Some(options);

    service.add_listener(listener(listen));
    if let Some((tls_listen, cert, key)) = tls {
        let mut settings = TlsSettings::intermediate(cert, key).expect("CERT and KEY are PEM files");
        settings.enable_h2();
        service.add_listener(listener(tls_listen).tls(settings));
    }
    server.add_service(service);
    server.run_forever()
}

fn listener(address: &str) -> ListenerConfig {
    let buffers = L4BufferSettings::default().read(BUFFER_BYTES).write(BUFFER_BYTES);
    ListenerConfig::tcp(address).l4_buffer(buffers)
}
