//! Small values with a unit or a form of their own: each parser stands beside its type and says what it expects.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// Parses `250ms`, `5s`, `2m`, `1h`, `7d`, and `0`.
///
/// # Errors
/// Another form, or more than a year: a larger one is a slip, and sums of it would overflow.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("`{text}` is not a duration");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.parse::<f64>().is_ok() {
        return Err(format!("`{text}` has no unit"));
    }
    let (number, unit) = split_unit(text).ok_or_else(expected)?;
    let ms = match unit {
        "ms" => number,
        "s" => number.checked_mul(1_000).ok_or_else(expected)?,
        "m" => number.checked_mul(60_000).ok_or_else(expected)?,
        "h" => number.checked_mul(3_600_000).ok_or_else(expected)?,
        "d" => number.checked_mul(86_400_000).ok_or_else(expected)?,
        _ => return Err(expected()),
    };
    match ms {
        0..=31_622_400_000 => Ok(Duration::from_millis(ms)),
        _ => Err(format!("`{text}` is longer than a year")),
    }
}

/// Parses `64KiB`, `10MiB`, `1GiB`, `512B` and a plain number of bytes.
///
/// # Errors
/// Another form, or more than `u64` holds. `KB` and `MB` are refused: nobody agrees on what they are.
pub fn size(text: &str) -> Result<u64, String> {
    let expected = || format!("`{text}` is not a size");
    if let Ok(bytes) = text.parse() {
        return Ok(bytes);
    }
    let (number, unit) = split_unit(text).ok_or_else(expected)?;
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "KB" | "MB" | "GB" | "kB" | "K" | "M" | "G" => return Err(format!("`{text}` has a unit that is not binary")),
        _ => return Err(expected()),
    };
    number.checked_mul(1 << shift).ok_or_else(expected)
}

/// So many in so long: `100/1m`, `100/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// At least 1.
    pub count: u64,
    /// More than nothing.
    pub period: Duration,
}

/// More than any gateway serves, and as much as limits count exactly.
const PER_SECOND_MAX: u128 = 10_000_000;

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}` is not a rate");
        let (count, period) = text.split_once('/').ok_or_else(expected)?;
        let count: u64 = count.trim().parse().map_err(|_| expected())?;
        let period = period.trim();
        let period = match period.starts_with(|c: char| c.is_ascii_digit()) {
            true => duration(period),
            false => duration(&format!("1{period}")),
        };
        let period = period.map_err(|_| expected())?;
        match (count, period.as_nanos()) {
            (0, _) => Err(format!("`{text}` lets nothing through")),
            (_, 0) => Err(format!("`{text}` is in no time at all")),
            (_, ns) if u128::from(count) * 1_000_000_000 > PER_SECOND_MAX * ns => Err(format!("`{text}` is more than 10 million a second")),
            _ => Ok(Rate { count, period }),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, humantime::format_duration(self.period))
    }
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Where to listen: an address, a Unix socket's path, or a socket that systemd hands over.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bind {
    Tcp(SocketAddr),
    Unix(String),
    Systemd(String),
}

impl FromStr for Bind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text.strip_prefix("unix:"), text.strip_prefix("systemd:")) {
            (Some(""), _) | (_, Some("")) => Err(format!("`{text}` names nothing to bind")),
            (Some(path), _) => Ok(Bind::Unix(path.to_string())),
            (_, Some(name)) => Ok(Bind::Systemd(name.to_string())),
            _ => socket_address(text).map(Bind::Tcp),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => address.fmt(f),
            Bind::Unix(path) => write!(f, "unix:{path}"),
            Bind::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(_) => format!("`{text}` has no port"),
        Err(_) => format!("`{text}` is not an address with a port"),
    })
}

/// Host and port of an endpoint. A name is resolved by the pool, off the request's path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// An IP address without brackets, or a DNS name.
    pub host: String,
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(HostPort { host: address.ip().to_string(), port: address.port() });
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("`{text}` has no port"))?;
        let port: u16 = port.parse().map_err(|_| format!("`{port}` is not a port"))?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if host.is_empty() || host.len() > 253 || !host.bytes().all(legal) {
            return Err(format!("`{host}` is neither an IP address nor a host name"));
        }
        Ok(HostPort { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Who a URL says it comes from, and with what password.
pub(super) fn user_info(text: &str) -> Option<&str> {
    let rest = text.split_once("://")?.1;
    rest.rfind('@').map(|end| &rest[..end])
}

/// A URL that can be shown.
fn without_user_info(text: &str) -> String {
    user_info(text).map_or_else(|| text.to_string(), |info| text.replace(&format!("{info}@"), "***@"))
}

/// An upstream that is written as a URL: scheme, host, port, and no more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    pub tls: bool,
    pub address: HostPort,
    /// As it was written, for the Host of an https upstream.
    pub authority: String,
}

impl FromStr for Url {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(format!("`{}` is not an http or https URL", without_user_info(text))),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(format!("`{}` has more than scheme, host and port", without_user_info(text)));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let address = match has_port {
            true => authority.parse()?,
            false => format!("{authority}:{}", if tls { 443 } else { 80 }).parse()?,
        };
        Ok(Url { tls, address, authority: authority.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        for (text, ms) in [("250ms", 250), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000), ("7d", 604_800_000), ("0", 0), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["5", "s", "", "-5s", "1.5s", "5 s", "5S", "400d", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [("0", 0), ("512", 512), ("512B", 512), ("64KiB", 65_536), ("10MiB", 10_485_760), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["64KB", "KiB", "-1", "1.5MiB", "18446744073709551615GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_have_a_number_and_a_time() {
        for (text, count, ms) in [("100/1m", 100, 60_000), ("100/s", 100, 1_000), ("1/7d", 1, 604_800_000), ("5/250ms", 5, 250)] {
            assert_eq!(text.parse(), Ok(Rate { count, period: Duration::from_millis(ms) }), "{text}");
        }
        for text in ["100", "/s", "s/100", "0/s", "1/0s", "1/0", "-1/s", "1.5/s", "1/s/s", "100/x", "10000001/s", "99999999999999999999/s"]
        {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!("100/60s".parse::<Rate>().map(|rate| rate.to_string()), Ok("100/1m".to_string()));
    }

    #[test]
    fn urls_and_endpoints() {
        let url: Url = "https://api.example".parse().expect("a URL");
        assert_eq!((url.tls, url.address.to_string()), (true, "api.example:443".to_string()));
        let url: Url = "http://[::1]:3000/".parse().expect("a URL");
        assert_eq!(url.address.to_string(), "[::1]:3000");
        assert_eq!("http://[::1]".parse::<Url>().expect("a URL").address.to_string(), "[::1]:80");
        for text in ["ftp://x", "http://", "http://a/b", "http://user@a", "http://a:x", "http://a b"] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
        for (text, shown) in [("http://user:pass@a", "http://***@a"), ("ftp://u:p@ss@a", "ftp://***@a"), ("http://a/b", "http://a/b")] {
            let what = text.parse::<Url>().expect_err("no URL of a service");
            assert!(what.contains(&format!("`{shown}`")), "{what}");
        }
        assert!("10.0.0.1".parse::<HostPort>().is_err());
        assert!("a b:80".parse::<HostPort>().is_err());
    }

    #[test]
    fn binds() {
        assert_eq!("unix:/run/x".parse(), Ok(Bind::Unix("/run/x".into())));
        assert_eq!("systemd:web".parse(), Ok(Bind::Systemd("web".into())));
        assert_eq!("[::]:8443".parse(), Ok(Bind::Tcp("[::]:8443".parse().expect("an address"))));
        for text in ["8080", "127.0.0.1", "localhost:80", "unix:", ":80"] {
            assert!(text.parse::<Bind>().is_err(), "{text}");
        }
    }
}
