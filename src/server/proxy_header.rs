//! The header by which a proxy tells whom it speaks for: the PROXY protocol of HAProxy, versions 1 and 2, as a pure function of the
//! bytes so far.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most that a header takes: 16 bytes and what its length says.
pub const BYTES_MAX: usize = 16 + u16::MAX as usize;
/// Of version 1, with its line break.
const LINE_MAX: usize = 107;
const V1: &[u8] = b"PROXY ";
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a proxy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client. `None` when the proxy speaks for itself (LOCAL, such as a health check), or does not know (UNKNOWN).
    pub client: Option<SocketAddr>,
    /// Bytes of the header; what follows is the client's.
    pub length: usize,
}

/// Not a header. What is wrong with it is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// `None` when more bytes are needed.
///
/// # Errors
/// What is no header: it has to be there, since whoever could leave it out could forge it.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let is_begin = |of: &[u8]| of.starts_with(&bytes[..bytes.len().min(of.len())]);
    match (is_begin(V1), is_begin(V2)) {
        (true, _) if bytes.len() >= V1.len() => v1(bytes),
        (_, true) if bytes.len() >= V2.len() => v2(bytes),
        (false, false) => Err(Malformed("There is no PROXY header.")),
        _ => Ok(None),
    }
}

fn v1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(end) = bytes.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() >= LINE_MAX { Err(Malformed("The PROXY header is a line without end.")) } else { Ok(None) };
    };
    let line = bytes[V1.len()..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or(Malformed("The PROXY header is a line that is none."))?;
    let length = end + 1;
    // Whatever follows UNKNOWN is to be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(Some(Header { client: None, length }));
    }
    let fields: Vec<&str> = line.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = fields[..] else {
        return Err(Malformed("The PROXY header has another number of fields than five."));
    };
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
        _ => None,
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    match (address(source), address(destination), port(source_port), port(destination_port)) {
        (Some(ip), Some(_), Some(port), Some(_)) => Ok(Some(Header { client: Some(SocketAddr::new(ip, port)), length })),
        _ => Err(Malformed("The PROXY header has an address that is none.")),
    }
}

fn v2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<16>() else { return Ok(None) };
    let [.., version_and_command, family, high, low] = *fixed;
    let body = usize::from(u16::from_be_bytes([high, low]));
    let (version, command) = (version_and_command >> 4, version_and_command & 15);
    if version != 2 || command > 1 {
        return Err(Malformed("The PROXY header has another version, or an unknown command."));
    }
    let Some(body) = rest.get(..body) else { return Ok(None) };
    // What follows the addresses (TLVs) is not needed.
    let client = match (command, family) {
        (0, _) | (_, 0x00 | 0x31) => None,
        (_, 0x11) => Some(addresses::<4>(body).ok_or(Malformed("The PROXY header is too short for its addresses."))?),
        (_, 0x21) => Some(addresses::<16>(body).ok_or(Malformed("The PROXY header is too short for its addresses."))?),
        _ => return Err(Malformed("The PROXY header has a family that is no stream.")),
    };
    Ok(Some(Header { client, length: 16 + body.len() }))
}

/// The source of two addresses and their ports.
fn addresses<const N: usize>(body: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body.split_first_chunk::<N>()?;
    let ports = rest.get(N..N + 4)?;
    Some(SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes([ports[0], ports[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn two(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("a length").to_be_bytes();
        [V2.as_slice(), &[0x20 | command, family], &length, body].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 4, 87, 1, 187];

    #[test]
    fn both_versions() {
        let tlv = [IPV4.as_slice(), &[4, 0, 0]].concat();
        let six = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 16], &[4, 87, 1, 187]].concat();
        for (bytes, client) in [
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 1111 443\r\n".to_vec(), Some("192.0.2.1:1111")),
            (b"PROXY TCP6 2001:db8::1 ::1 1111 443\r\n".to_vec(), Some("[2001:db8::1]:1111")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ff:: :: 1 2\r\n".to_vec(), None),
            (two(1, 0x11, &IPV4), Some("192.0.2.1:1111")),
            (two(1, 0x11, &tlv), Some("192.0.2.1:1111")),
            (two(1, 0x21, &six), Some("[2001:db8::1]:1111")),
            (two(0, 0x11, &IPV4), None),
            (two(0, 0, &[]), None),
            (two(1, 0x31, &[0; 216]), None),
        ] {
            let header = Header { client: client.map(|client| client.parse().expect("an address")), length: bytes.len() };
            assert_eq!(parse(&[&bytes, &b"GET / HTTP/1.1\r\n"[..]].concat()), Ok(Some(header)), "{bytes:?}");
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{bytes:?} {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_header() {
        for bytes in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXY\tTCP4".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1111\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1111 99999\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 ::1 1 443\r\n".to_vec(),
            b"PROXY TCP5 192.0.2.1 198.51.100.2 1111 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 1111 443\n".to_vec(),
            [b"PROXY ".as_slice(), &[b'x'; 101]].concat(),
            two(1, 0x11, &IPV4[..11]),
            two(1, 0x12, &IPV4),
            two(2, 0x11, &IPV4),
            [V2.as_slice(), &[0x11, 0x11, 0, 12], &IPV4].concat(),
        ] {
            assert!(parse(&bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        /// Whatever comes: no panic, a length that is there, and an answer that more bytes don't change.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), begin in 0..3usize, more in proptest::collection::vec(any::<u8>(), 0..50)) {
            let bytes = [[&b""[..], V1, V2][begin], &bytes].concat();
            match parse(&bytes) {
                Ok(Some(header)) => {
                    prop_assert!(header.length <= bytes.len() && header.length <= BYTES_MAX);
                    prop_assert_eq!(parse(&[bytes, more].concat()), Ok(Some(header)));
                }
                Err(e) => prop_assert_eq!(parse(&[bytes, more].concat()), Err(e)),
                Ok(None) => {}
            }
        }

        /// What is written is read.
        #[test]
        fn any_address(ip in any::<Ipv4Addr>(), six in any::<Ipv6Addr>(), port in any::<u16>()) {
            let line = format!("PROXY TCP4 {ip} 10.0.0.1 {port} 1\r\nPROXY TCP4 6.6.6.6 6.6.6.6 6 6\r\n");
            prop_assert_eq!(parse(line.as_bytes()).map(|header| header.and_then(|header| header.client)), Ok(Some((ip, port).into())));
            let line = format!("PROXY TCP6 {six} ::1 {port} 1\r\n");
            prop_assert_eq!(parse(line.as_bytes()).map(|header| header.and_then(|header| header.client)), Ok(Some((six, port).into())));
        }
    }
}
