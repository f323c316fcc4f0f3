//! What the gateway tells of the client and of itself: X-Forwarded-*, Forwarded (RFC 7239), X-Request-Id and traceparent
//! (W3C Trace Context), each believed from trusted peers only.

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr};

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Whether a field is a claim about the client that only a trusted peer may make. Services that read fields as environment
/// variables don't tell `_` from `-` (RFC 3875, 4.1.18), so neither is told here.
pub fn is_claim(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name.as_bytes().first(), Some(b'x' | b'f'))
        && (is_alike(name.get(..12), "x-forwarded-") || is_alike(Some(name), "forwarded") || is_alike(Some(name), "x-real-ip"))
}

/// Whether a claim is appended to or set anew in any case; the others pass from a trusted peer as they are.
pub fn is_rewritten(name: &HeaderName) -> bool {
    let name = Some(name.as_str());
    [&X_FORWARDED_FOR, &X_FORWARDED_PROTO, &X_FORWARDED_HOST, &http::header::FORWARDED].iter().any(|ours| is_alike(name, ours.as_str()))
}

/// Whether a field is a look-alike of one that we set for every request: `x_request_id`.
pub fn is_look_alike(name: &HeaderName) -> bool {
    let name = name.as_str();
    is_alike(Some(name), X_REQUEST_ID.as_str()) && name.contains('_')
}

/// Whether a name is ours to services that don't tell `_` from `-`.
pub(super) fn is_alike(name: Option<&str>, ours: &str) -> bool {
    name.is_some_and(|name| {
        name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(|(theirs, ours)| theirs == ours || (theirs == b'_' && ours == b'-'))
    })
}

/// Who is at the other end of the connection, and whether it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The rightmost address that is not a trusted proxy's.
    pub client_ip: IpAddr,
    /// The peer's own address.
    pub peer_ip: IpAddr,
    pub is_trusted: bool,
}

impl Origin {
    pub fn of(peer: IpAddr, trusted: &[IpNet], headers: &HeaderMap) -> Origin {
        let peer_ip = unmap(peer);
        let is_trusted = is_in(trusted, peer_ip);
        let client_ip = if is_trusted { client_ip(headers, trusted, peer_ip) } else { peer_ip };
        Origin { client_ip, peer_ip, is_trusted }
    }
}

fn is_in(networks: &[IpNet], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&ip))
}

/// `::ffff:192.0.2.1` is 192.0.2.1: a dual-stack socket shows IPv4 clients that way.
pub fn unmap(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Walks X-Forwarded-For from the right, as far as the proxies are trusted.
fn client_ip(headers: &HeaderMap, trusted: &[IpNet], peer: IpAddr) -> IpAddr {
    let values: Vec<&[u8]> = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    let mut last = peer;
    for item in values.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
        // What can't be read can't be walked past: the last address that was understood counts. A client may have put bytes of any kind before it.
        let Some(ip) = std::str::from_utf8(item).ok().and_then(|text| address(text.trim())) else { return last };
        last = ip;
        if !is_in(trusted, ip) {
            break;
        }
    }
    last
}

/// An address with or without port and brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = |text: &str| text.parse::<IpAddr>().ok();
    let ip = bare(text)
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|a| a.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6))?;
    Some(unmap(ip))
}

/// The values to send on, made for one request.
#[derive(Debug)]
pub struct Forwarded {
    pub x_forwarded_for: HeaderValue,
    pub x_forwarded_proto: HeaderValue,
    pub x_forwarded_host: Option<HeaderValue>,
    pub forwarded: HeaderValue,
}

impl Forwarded {
    /// Appends to what a trusted peer said, or begins anew. `peer` is the peer's address as a text, `host` the Host as the
    /// client sent it.
    pub fn new(origin: &Origin, peer: &HeaderValue, is_tls: bool, host: Option<&HeaderValue>, headers: &HeaderMap) -> Option<Forwarded> {
        let before = |name: &HeaderName| origin.is_trusted.then(|| joined(headers, name)).flatten();
        let trusted = |name: &HeaderName| origin.is_trusted.then(|| headers.get(name).cloned()).flatten();
        let scheme = if is_tls { "https" } else { "http" };
        let x_forwarded_for = match before(&X_FORWARDED_FOR) {
            Some(chain) => HeaderValue::try_from([&chain[..], b", ", origin.peer_ip.to_string().as_bytes()].concat()).ok()?,
            None => peer.clone(),
        };
        let ip = peer.to_str().ok()?;
        let text = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        let mut forwarded: Vec<u8> = Vec::with_capacity(64 + ip.len() + text.len());
        if let Some(chain) = before(&http::header::FORWARDED) {
            forwarded.extend([&chain[..], b", "].concat());
        }
        let (open, close) = if origin.peer_ip.is_ipv6() { ("for=\"[", "]\"") } else { ("for=", "") };
        [open, ip, close].iter().for_each(|part| forwarded.extend_from_slice(part.as_bytes()));
        // A host with a port or brackets is not a token, so it is quoted; what would break the quotes is left out.
        if !text.is_empty() && !text.contains(['"', '\\']) {
            [";host=\"", text, "\""].iter().for_each(|part| forwarded.extend_from_slice(part.as_bytes()));
        }
        [";proto=", scheme].iter().for_each(|part| forwarded.extend_from_slice(part.as_bytes()));
        Some(Forwarded {
            x_forwarded_for,
            x_forwarded_proto: trusted(&X_FORWARDED_PROTO).unwrap_or(HeaderValue::from_static(scheme)),
            x_forwarded_host: trusted(&X_FORWARDED_HOST).or_else(|| host.cloned()).filter(|host| !host.is_empty()),
            forwarded: HeaderValue::try_from(forwarded).ok()?,
        })
    }
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    (!values.is_empty()).then(|| values.join(&b", "[..]))
}

/// The request's id: a trusted peer's when it is short and plain, else 32 random hexadecimal digits.
pub fn request_id(origin: &Origin, headers: &HeaderMap) -> HeaderValue {
    let is_plain = |value: &&HeaderValue| {
        let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=');
        (1..=128).contains(&value.len()) && value.as_bytes().iter().all(legal)
    };
    let theirs = origin.is_trusted.then(|| headers.get(X_REQUEST_ID)).flatten().filter(is_plain);
    theirs.cloned().unwrap_or_else(fresh_id)
}

/// 32 random hexadecimal digits.
pub fn fresh_id() -> HeaderValue {
    HeaderValue::from_bytes(&hex(fastrand::u128(1..))).unwrap_or(NO_ID)
}

/// Stands for an id that was not made yet.
pub const NO_ID: HeaderValue = HeaderValue::from_static("-");

/// The two digits of each byte.
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    table
};

fn hex(number: u128) -> [u8; 32] {
    let mut out = [0; 32];
    for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
        *pair = HEX[usize::from(byte)];
    }
    out
}

/// A trace context, version 00: `00-<trace id>-<parent id>-<flags>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    pub trace_id: [u8; 32],
    parent_id: [u8; 16],
    flags: [u8; 2],
    /// It began here.
    pub is_new: bool,
}

impl Trace {
    /// Stands for a trace that was not begun yet.
    pub const NONE: Trace = Trace { trace_id: [b'0'; 32], parent_id: [b'0'; 16], flags: *b"00", is_new: true };

    /// The client's trace; `None` where there is none or it is malformed.
    pub fn of(headers: &HeaderMap) -> Option<Trace> {
        headers.get(TRACEPARENT).and_then(|value| Trace::parse(value.as_bytes()))
    }

    /// Goes on with a trace under a parent of ours, or begins one.
    pub fn next(theirs: Option<Trace>) -> Trace {
        let mut parent_id = [0; 16];
        parent_id.copy_from_slice(&hex(u128::from(fastrand::u64(1..)))[16..]);
        match theirs {
            Some(trace) => Trace { parent_id, ..trace },
            None => Trace { trace_id: hex(fastrand::u128(1..)), parent_id, flags: *b"00", is_new: true },
        }
    }

    fn parse(text: &[u8]) -> Option<Trace> {
        let is_hex = |part: &[u8]| part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
        let is_zero = |part: &[u8]| part.iter().all(|b| *b == b'0');
        let (version, rest) = text.split_first_chunk::<2>()?;
        let (trace_id, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<32>()?;
        let (parent_id, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<16>()?;
        let (flags, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<2>()?;
        let well_formed = [&version[..], trace_id, parent_id, flags].into_iter().all(is_hex) && *version != *b"ff";
        // A later version may go on behind a dash; version 00 ends here.
        let ends = rest.is_empty() || (*version != *b"00" && rest[0] == b'-');
        (well_formed && ends && !is_zero(trace_id) && !is_zero(parent_id)).then_some(Trace {
            trace_id: *trace_id,
            parent_id: *parent_id,
            flags: *flags,
            is_new: false,
        })
    }

    pub fn header(&self) -> HeaderValue {
        let mut text = [b'-'; 55];
        text[..2].copy_from_slice(b"00");
        text[3..35].copy_from_slice(&self.trace_id);
        text[36..52].copy_from_slice(&self.parent_id);
        text[53..].copy_from_slice(&self.flags);
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
    }

    pub fn trace_id(&self) -> &str {
        std::str::from_utf8(&self.trace_id).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
        }
        map
    }
    fn origin(peer: &str, pairs: &[(&str, &str)]) -> Origin {
        let trusted = ["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")];
        Origin::of(peer.parse().expect("an address"), &trusted, &headers(pairs))
    }

    fn forwarded(peer: &str, is_tls: bool, host: &str, pairs: &[(&str, &str)]) -> Option<Forwarded> {
        let (peer_text, host) = (peer.parse().expect("a value"), host.parse().expect("a value"));
        Forwarded::new(&origin(peer, pairs), &peer_text, is_tls, Some(&host), &headers(pairs))
    }

    #[test]
    fn the_client_is_the_rightmost_untrusted_address() {
        for (peer, chain, client) in [
            ("192.0.2.1", "1.1.1.1", "192.0.2.1"),
            ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
            ("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("10.0.0.1", "6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "1.1.1.1:4711", "1.1.1.1"),
            ("fd00::1", "[2001:db8::1]:80", "2001:db8::1"),
            ("::ffff:10.0.0.1", "::ffff:1.1.1.1", "1.1.1.1"),
        ] {
            assert_eq!(origin(peer, &[("x-forwarded-for", chain)]).client_ip.to_string(), client, "{peer} {chain}");
        }
        assert_eq!(origin("10.0.0.1", &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.1.1.1")]).client_ip.to_string(), "1.1.1.1");
    }

    #[test]
    fn bytes_that_are_no_text_hide_nobody() {
        let mut headers = headers(&[]);
        headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(b"\xff, 203.0.113.9").expect("a value"));
        let trusted = ["10.0.0.0/8".parse().expect("a network")];
        let origin = Origin::of("10.0.0.1".parse().expect("an address"), &trusted, &headers);
        assert_eq!(origin.client_ip.to_string(), "203.0.113.9");
        let (peer, host) = (HeaderValue::from_static("10.0.0.1"), HeaderValue::from_static("a"));
        let forwarded = Forwarded::new(&origin, &peer, false, Some(&host), &headers).expect("values");
        assert_eq!(forwarded.x_forwarded_for.as_bytes(), b"\xff, 203.0.113.9, 10.0.0.1");
    }

    #[test]
    fn claims_are_appended_to_or_begun_anew() {
        let pairs = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "https"), ("forwarded", "for=1.1.1.1")];
        let trusted = forwarded("10.0.0.1", false, "a:80", &pairs).expect("values");
        assert_eq!(
            (trusted.x_forwarded_for, trusted.x_forwarded_proto),
            ("1.1.1.1, 10.0.0.1".parse().expect("v"), "https".parse().expect("v"))
        );
        assert_eq!(trusted.forwarded, "for=1.1.1.1, for=10.0.0.1;host=\"a:80\";proto=http");
        let anew = forwarded("2001:db8::9", true, "a", &pairs).expect("values");
        assert_eq!((anew.x_forwarded_for, anew.x_forwarded_proto), ("2001:db8::9".parse().expect("v"), "https".parse().expect("v")));
        assert_eq!(anew.forwarded, "for=\"[2001:db8::9]\";host=\"a\";proto=https");
    }

    #[test]
    fn request_ids_are_believed_from_trusted_peers_when_they_are_plain() {
        let id = |peer, value| request_id(&origin(peer, &[]), &headers(&[("x-request-id", value)]));
        assert_eq!(id("10.0.0.1", "abc-1"), "abc-1");
        let is_random = |id: HeaderValue| id.len() == 32 && id.as_bytes().iter().all(u8::is_ascii_hexdigit);
        assert!(is_random(id("10.0.0.1", "a b")) && is_random(id("192.0.2.1", "abc-1")));
    }

    #[test]
    fn traces_go_on() {
        let theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let next = Trace::next(Trace::of(&headers(&[("traceparent", theirs)]))).header();
        let next = next.to_str().expect("ASCII");
        assert_eq!((&next[..36], &next[52..]), (&theirs[..36], "-01"));
        assert_ne!(next, theirs);
        for bad in [
            "",
            "00-0-0-0",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            let fresh = Trace::next(Trace::of(&headers(&[("traceparent", bad)])));
            assert!(!bad.contains(fresh.trace_id()));
        }
    }

    proptest! {
        #[test]
        fn any_claim_gives_some_client_and_well_formed_fields(chain in "[ -~]{0,60}") {
            let pairs = [("x-forwarded-for", &*chain), ("forwarded", &*chain), ("traceparent", &*chain)];
            prop_assert!(forwarded("10.0.0.1", true, "h", &pairs).is_some());
            prop_assert_eq!(Trace::next(Trace::of(&headers(&pairs))).header().len(), 55);
        }
    }
}
