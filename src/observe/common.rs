//! The formats of NCSA and Apache: `common`, and `combined` with referer and user agent.

use super::Record;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::SystemTime;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Record<'_> {
    /// `client - identity [time] "request" status bytes`, and `"referer" "user agent"` where it is combined. What is not there is
    /// `-`; the status of a client that was gone is 000. Writing to memory can't fail.
    pub fn common(&self, out: &mut Vec<u8>, is_combined: bool) {
        let _ = write!(out, "{} - ", self.client_ip);
        match self.identity {
            "" => out.push(b'-'),
            identity => bare(out, identity),
        }
        out.extend_from_slice(b" [");
        time(out, self.time);
        out.extend_from_slice(b"] \"");
        match self.method {
            "" => out.push(b'-'),
            method => {
                quoted(out, method);
                out.push(b' ');
                quoted(out, &self.path);
                out.push(b' ');
                out.extend_from_slice(if self.protocol == "HTTP/2" { b"HTTP/2.0" } else { self.protocol.as_bytes() });
            }
        }
        let _ = write!(out, "\" {:03} {}", self.status, self.bytes_out);
        if is_combined {
            for text in [&self.referer, &self.user_agent] {
                out.extend_from_slice(b" \"");
                match &**text {
                    "" => out.push(b'-'),
                    text => quoted(out, text),
                }
                out.push(b'"');
            }
        }
    }
}

/// A client's text between quotes, escaped as Apache does it.
fn quoted(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..b' ' | 0x7f => drop(write!(out, "\\x{byte:02x}")),
            _ => out.push(byte),
        }
    }
}

/// A text that no quotes keep together.
fn bare(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            0..=b' ' | b'"' | b'%' | b'\\' | 0x7f => drop(write!(out, "%{byte:02X}")),
            _ => out.push(byte),
        }
    }
}

/// `25/Nov/2026:19:40:00 +0000`. It is the same for all lines of a second.
fn time(out: &mut Vec<u8>, time: SystemTime) {
    thread_local!(static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) });
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since {
            (*second, *text) = (since, shown(time));
        }
        out.extend_from_slice(text.as_bytes());
    });
}

fn shown(time: SystemTime) -> String {
    let whole = humantime::format_rfc3339_seconds(time).to_string();
    let (date, clock) = whole.split_once('T').unwrap_or_default();
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let month = month.parse().ok().and_then(|month: usize| MONTHS.get(month.checked_sub(1)?)).unwrap_or(&MONTHS[0]);
    let mut text = String::with_capacity(26);
    let _ = write!(text, "{day}/{month}/{year}:{} +0000", clock.trim_end_matches('Z'));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn line(record: &Record<'_>, is_combined: bool) -> String {
        let mut out = Vec::new();
        record.common(&mut out, is_combined);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn lines_are_as_apache_writes_them() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(971_186_136);
        let record = Record {
            client_ip: [10, 0, 0, 1].into(),
            identity: "frank \"x\"",
            method: "GET",
            path: "/a\"b\n?c".into(),
            status: 200,
            bytes_out: 2326,
            protocol: "HTTP/1.0",
            user_agent: "me \\ \"you\"".into(),
            ..Record::nothing(time)
        };
        let common = "10.0.0.1 - frank%20%22x%22 [10/Oct/2000:13:55:36 +0000] \"GET /a\\\"b\\x0a?c HTTP/1.0\" 200 2326";
        assert_eq!(line(&record, false), common);
        assert_eq!(line(&record, true), format!("{common} \"-\" \"me \\\\ \\\"you\\\"\""));
        let nothing = Record { status: 0, ..Record::nothing(SystemTime::UNIX_EPOCH) };
        assert_eq!(line(&nothing, true), "0.0.0.0 - - [01/Jan/1970:00:00:00 +0000] \"-\" 000 0 \"-\" \"-\"");
    }
}
