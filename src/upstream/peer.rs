//! The peer that Pingora is given for one attempt.

use super::Timeouts;
use super::endpoint::Endpoint;
use super::{keepalive, trust};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{Protocol, Service};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::tls::CaType;
use pingora::protocols::{ALPN, TcpKeepalive};
use pingora::upstreams::peer::{H1UpgradePolicy, HttpPeer, HttpUpstreamRequestPolicy};
use pingora::utils::tls::CertKey;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// Streams that one HTTP/2 connection to a service may carry at once.
const STREAMS_MAX: usize = 100;

/// Bytes that a service may send ahead on one stream, and that are held of an answer whose client takes nothing. What Envoy advises at the edge.
const STREAM_WINDOW: u32 = 64 << 10;
/// A service whose machine is gone is found out, also where nothing is sent for long.
const KEEPALIVE: TcpKeepalive = TcpKeepalive {
    idle: Duration::from_secs(60),
    interval: Duration::from_secs(10),
    count: 3,
    #[cfg(target_os = "linux")]
    user_timeout: Duration::from_secs(90),
};

/// What all peers of a service have in common.
#[derive(Debug)]
pub struct Template {
    peer: HttpPeer,
    /// The endpoint's host is the name to ask for.
    is_sni_of_endpoint: bool,
    /// Its connections are ours to keep.
    is_kept: bool,
}

impl Template {
    /// `None` means that a problem was reported.
    pub fn build(name: &str, raw: &Service, at: &At<'_>, problems: &Problems) -> Option<Template> {
        let at = at.key("tls");
        let (identity, authorities): (Option<Arc<CertKey>>, Option<Arc<CaType>>) = match &raw.tls {
            None => (None, None),
            Some(tls) => {
                let authorities = trust::authorities(tls, &at, problems);
                let identity = trust::identity(tls, &at, problems);
                (identity?, authorities?)
            }
        };
        match (raw.protocol, raw.tls.is_some()) {
            (Protocol::H2, false) => {
                let fix = "add `tls: {}`, or write `h2c` for HTTP/2 without TLS";
                return problems.at(&at, "`protocol: h2` needs TLS", "HTTP/2 is agreed upon within the TLS handshake", fix);
            }
            (Protocol::H2c, true) => {
                return problems.at(&at, "`protocol: h2c` is without TLS", "the two contradict each other", "write `h2`, or remove `tls`");
            }
            _ => {}
        }
        let sni = raw.tls.as_ref().and_then(|tls| tls.sni.clone());
        let is_sni_of_endpoint = raw.tls.is_some() && sni.is_none();
        let mut peer = HttpPeer::new((Ipv4Addr::UNSPECIFIED, 0), raw.tls.is_some(), sni.unwrap_or_default());
        let options = &mut peer.options;
        let is_http1 = raw.protocol == Protocol::Http1;
        options.alpn = if is_http1 { ALPN::H1 } else { ALPN::H2 };
        // Without streams, it says how many connections are kept, see `keepalive`.
        options.max_h2_streams = if is_http1 { raw.keepalive.connections.usize() } else { STREAMS_MAX };
        // One client that does not read must not use up what all streams of the connection share.
        options.h2_stream_window_size = Some(STREAM_WINDOW);
        options.h2_connection_window_size = Some(STREAM_WINDOW * STREAMS_MAX as u32);
        options.tcp_keepalive = Some(KEEPALIVE);
        options.idle_timeout = Some(raw.keepalive.idle);
        options.h2_ping_interval = raw.keepalive.ping.0;
        options.verify_cert = raw.tls.as_ref().is_none_or(|tls| tls.verify);
        options.verify_hostname = options.verify_cert;
        options.ca = authorities;
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy { h1_upgrade: H1UpgradePolicy::Deny, ..Default::default() };
        let mut hasher = DefaultHasher::new();
        (name, format!("{:?}{:?}", raw.tls, raw.protocol)).hash(&mut hasher);
        // The files may have others in them by now.
        let chain = identity.iter().flat_map(|found| found.intermediates().into_iter().chain([found.leaf()]));
        let authorities = options.ca.iter().flat_map(|found| found.iter());
        authorities.chain(chain).for_each(|found| found.borrow_raw_cert().hash(&mut hasher));
        identity.as_ref().map(|found| found.key()).hash(&mut hasher);
        // Keeps the connections of services apart that differ in more than the address.
        peer.group_key = hasher.finish();
        peer.client_cert_key = identity;
        Some(Template { peer, is_sni_of_endpoint, is_kept: is_http1 })
    }

    pub fn peer(&self, endpoint: &Endpoint, timeouts: &Timeouts) -> Box<HttpPeer> {
        let mut peer = Box::new(self.peer.clone());
        peer._address = SocketAddr::Inet(endpoint.address);
        if self.is_sni_of_endpoint {
            // Pingora verifies nothing when there is no name: an address is verified as one.
            peer.sni = endpoint.host.to_string();
        }
        peer.options.connection_timeout = Some(timeouts.connect);
        peer.options.total_connection_timeout = Some(timeouts.connect);
        peer.options.read_timeout = Some(timeouts.read);
        peer.options.write_timeout = Some(timeouts.write);
        peer
    }

    /// The same; its connection comes from those that are kept, where that can be.
    pub fn kept_peer(&self, endpoint: &Endpoint, timeouts: &Timeouts) -> Box<HttpPeer> {
        let mut peer = self.peer(endpoint, timeouts);
        if self.is_kept {
            peer.options.alpn = keepalive::PROTOCOL.clone();
        }
        peer
    }
}
