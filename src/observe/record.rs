//! One line of the access log.

use percent_encoding::percent_decode_str;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// What is written down of a request. Empty texts stand for what it did not have.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    pub request_id: &'a str,
    pub trace_id: &'a str,
    pub client_ip: IpAddr,
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
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    #[serde(rename = "upstream_ms", serialize_with = "milliseconds")]
    pub upstream: Duration,
    #[serde(rename = "gateway_ms", serialize_with = "milliseconds")]
    pub gateway: Duration,
    pub protocol: &'a str,
    /// The version, or nothing on plaintext.
    pub tls: &'a str,
    pub user_agent: Cow<'a, str>,
    pub referer: Cow<'a, str>,
}

impl Record<'_> {
    /// Appends the record as one JSON object.
    pub fn json(&self, out: &mut Vec<u8>) {
        // Writing to memory can't fail, and no field can.
        let _ = serde_json::to_writer(out, self);
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

/// Milliseconds to the microsecond.
fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_micros() as f64 / 1000.0)
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
