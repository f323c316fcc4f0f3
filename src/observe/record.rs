//! One line of the access log.

use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

/// Room for most lines.
const LINE_BYTES: usize = 640;

/// What is written down of a request. Empty texts stand for what it did not have.
#[derive(Debug)]
pub struct Record<'a> {
    pub time: SystemTime,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub client_ip: IpAddr,
    /// The same as a text, when it is at hand.
    pub client_ip_text: Option<&'a str>,
    pub method: &'a str,
    pub host: &'a str,
    /// With its query, in which values may be masked.
    pub path: Cow<'a, str>,
    pub route: &'a str,
    pub service: &'a str,
    pub endpoint: &'a str,
    /// 499 when the client was gone before there was an answer.
    pub status: u16,
    /// The refusal's code.
    pub code: &'a str,
    pub identity: &'a str,
    pub auth: &'a str,
    /// The limit that refused, or `… (shadow)` that would have.
    pub limit: Cow<'a, str>,
    pub cache: &'a str,
    pub attempts: usize,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    pub upstream: Duration,
    pub gateway: Duration,
    pub protocol: &'a str,
    /// The version, or nothing on plaintext.
    pub tls: &'a str,
    pub user_agent: Cow<'a, str>,
    pub referer: Cow<'a, str>,
}

impl Record<'_> {
    /// Of a request that nothing is known of.
    pub fn nothing(time: SystemTime) -> Self {
        let none = Duration::ZERO;
        Record {
            time,
            request_id: "",
            trace_id: "",
            client_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            client_ip_text: None,
            method: "",
            host: "",
            path: "".into(),
            route: "",
            service: "",
            endpoint: "",
            status: 0,
            code: "",
            identity: "",
            auth: "",
            limit: "".into(),
            cache: "",
            attempts: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration: none,
            upstream: none,
            gateway: none,
            protocol: "",
            tls: "",
            user_agent: "".into(),
            referer: "".into(),
        }
    }

    /// Appends the record as one JSON object. It is written once a request, so its shape is fixed here and not found out by
    /// a serialiser each time: what stands between two values is one piece. Writing to memory can't fail.
    pub fn json(&self, out: &mut Vec<u8>) {
        out.reserve(LINE_BYTES);
        self.json_who(out);
        self.json_what(out);
        self.json_how(out);
    }

    fn json_who(&self, out: &mut Vec<u8>) {
        plain(out, "{\"time\":\"");
        time(out, self.time);
        plain(out, "\",\"request_id\":\"");
        plain(out, self.request_id);
        plain(out, "\",\"trace_id\":\"");
        plain(out, self.trace_id);
        plain(out, "\",\"client_ip\":\"");
        match self.client_ip_text {
            Some(text) => plain(out, text),
            None => drop(write!(out, "{}", self.client_ip)),
        }
        plain(out, "\",\"method\":\"");
        plain(out, self.method);
        plain(out, "\",\"host\":\"");
        escaped(out, self.host);
        plain(out, "\",\"path\":\"");
        escaped(out, &self.path);
    }

    fn json_what(&self, out: &mut Vec<u8>) {
        plain(out, "\",\"route\":\"");
        escaped(out, self.route);
        plain(out, "\",\"service\":\"");
        plain(out, self.service);
        plain(out, "\",\"endpoint\":\"");
        plain(out, self.endpoint);
        plain(out, "\",\"status\":");
        number(out, self.status);
        plain(out, ",\"code\":\"");
        plain(out, self.code);
        plain(out, "\",\"identity\":\"");
        escaped(out, self.identity);
        plain(out, "\",\"auth\":\"");
        escaped(out, self.auth);
        plain(out, "\",\"limit\":\"");
        plain(out, &self.limit);
        plain(out, "\",\"cache\":\"");
        plain(out, self.cache);
    }

    fn json_how(&self, out: &mut Vec<u8>) {
        plain(out, "\",\"attempts\":");
        number(out, self.attempts);
        plain(out, ",\"bytes_in\":");
        number(out, self.bytes_in);
        plain(out, ",\"bytes_out\":");
        number(out, self.bytes_out);
        plain(out, ",\"duration_ms\":");
        milliseconds(out, self.duration);
        plain(out, ",\"upstream_ms\":");
        milliseconds(out, self.upstream);
        plain(out, ",\"gateway_ms\":");
        milliseconds(out, self.gateway);
        plain(out, ",\"protocol\":\"");
        plain(out, self.protocol);
        plain(out, "\",\"tls\":\"");
        plain(out, self.tls);
        plain(out, "\",\"user_agent\":\"");
        escaped(out, &self.user_agent);
        plain(out, "\",\"referer\":\"");
        escaped(out, &self.referer);
        plain(out, "\"}");
    }
}

/// A text that has nothing to escape: digits, our own words, names from the configuration.
fn plain(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// A client's text, without the quotes around it.
fn escaped(out: &mut Vec<u8>, text: &str) {
    // Most texts have nothing to escape. Without a way out of the loop, it is found out many bytes at a time.
    let needs_escape = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    if !text.as_bytes().iter().fold(false, |found, byte| found | needs_escape(byte)) {
        return plain(out, text);
    }
    if let Ok(quoted) = serde_json::to_vec(text) {
        out.extend_from_slice(&quoted[1..quoted.len() - 1]);
    }
}

fn number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds to the microsecond: `1.234`.
fn milliseconds(out: &mut Vec<u8>, value: Duration) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    number(out, micros / 1000);
    out.push(b'.');
    three_digits(out, (micros % 1000) as u32);
}

/// RFC 3339 with milliseconds. The part down to the seconds is the same for all lines of a second.
fn time(out: &mut Vec<u8>, time: SystemTime) {
    thread_local!(static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) });
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() {
            let whole = humantime::format_rfc3339_seconds(time).to_string();
            (*second, *text) = (since.as_secs(), whole.trim_end_matches('Z').to_string());
        }
        out.extend_from_slice(text.as_bytes());
    });
    out.push(b'.');
    three_digits(out, since.subsec_millis());
    out.push(b'Z');
}

fn three_digits(out: &mut Vec<u8>, n: u32) {
    let digit = |n: u32| b'0' + (n % 10) as u8;
    out.extend_from_slice(&[digit(n / 100), digit(n / 10), digit(n)]);
}

/// A path, or a whole URL, with the values of the parameters in `names` replaced by `***`.
pub fn mask<'a>(target: Cow<'a, str>, names: &[String]) -> Cow<'a, str> {
    let Some((path, query)) = target.split_once('?').filter(|_| !names.is_empty()) else { return target };
    let is_named = |pair: &str| {
        let name = percent_decode_str(pair.split('=').next().unwrap_or_default()).decode_utf8_lossy();
        names.iter().any(|known| known.eq_ignore_ascii_case(&name))
    };
    if !query.split('&').any(is_named) {
        return target;
    }
    let masked: Vec<String> = query
        .split('&')
        .map(|pair| match is_named(pair) {
            true => format!("{}=***", pair.split('=').next().unwrap_or_default()),
            false => pair.to_string(),
        })
        .collect();
    format!("{path}?{}", masked.join("&")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_named_parameters_are_masked() {
        let names = ["token".to_string(), "password".to_string()];
        for (from, to) in [
            ("/a?x=1", "/a?x=1"),
            ("/a?token=s&x=1", "/a?token=***&x=1"),
            ("/a?x=1&TOKEN=s=t&password", "/a?x=1&TOKEN=***&password=***"),
            ("/a?%74oken=s", "/a?%74oken=***"),
            ("/token=s", "/token=s"),
            ("https://h.example/a?token=s", "https://h.example/a?token=***"),
        ] {
            assert_eq!(mask(from.into(), &names), to);
        }
    }

    #[test]
    fn a_record_is_one_line_of_json() {
        let record = Record {
            request_id: "id",
            client_ip: IpAddr::from([127, 0, 0, 1]),
            path: "/a\n\"".into(),
            duration: Duration::from_micros(1234),
            ..Record::nothing(SystemTime::UNIX_EPOCH)
        };
        let mut out = Vec::new();
        record.json(&mut out);
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(text.starts_with("{\"time\":\"1970-01-01T00:00:00.000Z\",\"request_id\":\"id\"") && !text.contains('\n'), "{text}");
        assert!(text.contains("\"duration_ms\":1.234,"), "{text}");
    }
}
