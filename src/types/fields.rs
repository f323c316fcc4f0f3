//! Header fields that end at this hop.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::Authority;
use http::{HeaderMap, HeaderName};

/// Fields that belong to one connection (RFC 9110, 7.6.1) or to the message's framing: they are the gateway's own.
pub const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// What says where a message goes and where it ends, which no list of the configuration may copy from elsewhere.
pub fn is_framing(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name) || [HOST, CONTENT_LENGTH].contains(name)
}

/// A host, and a port behind it where there is one, as HTTP/2 is told them in `:authority` (RFC 9113, 8.3.1). `None` of what can't stand
/// there, though some of it may be a Host field's value: nothing at all, and names with `%`.
pub fn authority(host: &[u8]) -> Option<Authority> {
    Authority::try_from(host).ok().filter(|authority| !authority.as_str().contains('@'))
}

/// The names that Connection fields nominate, which end at this hop like those above.
pub fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION);
    let names = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    // What says where a message goes or where it ends can't be nominated away: a broken-off answer would become a whole one.
    let stays = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING];
    names.filter_map(|name| name.trim().parse().ok()).filter(|name| !stays.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn an_authority_is_a_host_and_maybe_a_port() {
        for host in ["a", "shop.example:80", "[::1]", "[::1]:80", "a_b", "*"] {
            assert_eq!(authority(host.as_bytes()).map(|authority| authority.to_string()), Some(host.to_string()), "{host}");
        }
        for host in ["", "a b", "a%41", "a%zz", "a@b", "a/b", "[::1", "a:1:2"] {
            assert_eq!(authority(host.as_bytes()), None, "{host}");
        }
    }

    #[test]
    fn connection_nominates() {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::from_static("close, X-One , host,bad name,content-length"));
        headers.append("connection", HeaderValue::from_static("x-two"));
        assert_eq!(nominated(&headers), ["close", "x-one", "x-two"]);
    }
}
