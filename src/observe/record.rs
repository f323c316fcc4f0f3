//! One line of the access log.

use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write as _;
use std::net::IpAddr;
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
    /// 0 when the client was gone before there was an answer.
    pub status: u16,
    /// The refusal's code.
    pub code: &'a str,
    pub identity: &'a str,
    pub auth: &'a str,
    pub limit: &'a str,
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
    /// Appends the record as one JSON object. It is written once a request, so its shape is fixed here and not found out by
    /// a serialiser each time; writing to memory can't fail.
    pub fn json(&self, out: &mut Vec<u8>) {
        out.reserve(LINE_BYTES);
        out.extend_from_slice(b"{\"time\":\"");
        time(out, self.time);
        out.push(b'"');
        word(out, "request_id", self.request_id);
        word(out, "trace_id", self.trace_id);
        match self.client_ip_text {
            Some(text) => word(out, "client_ip", text),
            None => drop(write!(out, ",\"client_ip\":\"{}\"", self.client_ip)),
        }
        word(out, "method", self.method);
        text(out, "host", self.host);
        text(out, "path", &self.path);
        text(out, "route", self.route);
        word(out, "service", self.service);
        word(out, "endpoint", self.endpoint);
        number(out, "status", self.status);
        word(out, "code", self.code);
        text(out, "identity", self.identity);
        text(out, "auth", self.auth);
        word(out, "limit", self.limit);
        word(out, "cache", self.cache);
        number(out, "attempts", self.attempts);
        number(out, "bytes_in", self.bytes_in);
        number(out, "bytes_out", self.bytes_out);
        milliseconds(out, "duration_ms", self.duration);
        milliseconds(out, "upstream_ms", self.upstream);
        milliseconds(out, "gateway_ms", self.gateway);
        word(out, "protocol", self.protocol);
        word(out, "tls", self.tls);
        text(out, "user_agent", &self.user_agent);
        text(out, "referer", &self.referer);
        out.push(b'}');
    }
}

#[inline(always)] // the name is known here, so that the three parts are one copy
fn key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, name);
    // Most texts have nothing to escape. Without a way out of the loop, it is done many bytes at a time.
    let needs_escape = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    match value.as_bytes().iter().fold(false, |found, byte| found | needs_escape(byte)) {
        false => quoted(out, value),
        true => drop(serde_json::to_writer(out, value)),
    }
}

/// A text that has nothing to escape: digits, our own words, names from the configuration.
fn word(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, name);
    quoted(out, value);
}

fn quoted(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
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

fn number(out: &mut Vec<u8>, name: &str, value: impl itoa::Integer) {
    key(out, name);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds to the microsecond: `1.234`.
fn milliseconds(out: &mut Vec<u8>, name: &str, value: Duration) {
    let micros = value.as_micros();
    number(out, name, micros / 1000);
    out.push(b'.');
    three_digits(out, (micros % 1000) as u32);
}

/// The path and query with the values of the parameters in `names` replaced by `***`.
pub fn mask<'a>(path_and_query: &'a str, names: &[String]) -> Cow<'a, str> {
    let Some((path, query)) = path_and_query.split_once('?').filter(|_| !names.is_empty()) else { return path_and_query.into() };
    let is_named = |pair: &str| {
        let name = percent_decode_str(pair.split('=').next().unwrap_or_default()).decode_utf8_lossy();
        names.iter().any(|known| known.eq_ignore_ascii_case(&name))
    };
    if !query.split('&').any(is_named) {
        return path_and_query.into();
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
        ] {
            assert_eq!(mask(from, &names), to);
        }
    }

    #[test]
    fn a_record_is_one_line_of_json() {
        let record = Record {
            time: SystemTime::UNIX_EPOCH,
            request_id: "id",
            trace_id: "",
            client_ip: IpAddr::from([127, 0, 0, 1]),
            client_ip_text: None,
            method: "GET",
            host: "h",
            path: "/a\n\"".into(),
            route: "r",
            service: "",
            endpoint: "",
            status: 200,
            code: "",
            identity: "",
            auth: "",
            limit: "",
            cache: "",
            attempts: 1,
            bytes_in: 0,
            bytes_out: 5,
            duration: Duration::from_micros(1234),
            upstream: Duration::ZERO,
            gateway: Duration::ZERO,
            protocol: "HTTP/1.1",
            tls: "",
            user_agent: "".into(),
            referer: "".into(),
        };
        let mut out = Vec::new();
        record.json(&mut out);
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(text.starts_with("{\"time\":\"1970-01-01T00:00:00.000Z\",\"request_id\":\"id\"") && !text.contains('\n'), "{text}");
        assert!(text.contains("\"duration_ms\":1.234,"), "{text}");
    }
}
