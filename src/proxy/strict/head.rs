//! The head of an HTTP/1 request, read as strictly as RFC 9112 says it must be, from the raw bytes and as they come.
//!
//! Whatever two readers could understand in two ways is refused here, before Pingora mends it and before it is routed: that is
//! what request smuggling is made of.

use crate::config::raw::ServerLimits;
use crate::types::Refusal;
use std::ops::Range;

/// How a request's body ends (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    #[default]
    Empty,
    /// Behind so many bytes.
    Length(u64),
    Chunked,
}

/// A head that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Its bytes among those that came.
    pub range: Range<usize>,
    pub framing: Framing,
}

/// Reads one head, line by line, as far as it has come.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// Where the head begins: behind an empty line, at most.
    begin: usize,
    /// Where the line begins that is not whole yet.
    line: usize,
    /// The request line has been read.
    has_begun: bool,
    fields: usize,
    field_bytes: usize,
    is_old: bool,
    /// Of the target in absolute form.
    authority: Option<Range<usize>>,
    host: Option<Range<usize>>,
    length: Option<u64>,
    is_chunked: bool,
}

/// The room that a request line needs beside its target: a method, two spaces and a version.
const LINE_BYTES: u64 = 64;

fn bad<T>(what: &'static str) -> Result<T, Refusal> {
    Err(Refusal::BadRequest(what))
}

/// Without what no URI has (RFC 3986, 2), as far as no reader of them takes it.
fn is_readable(target: &[u8]) -> bool {
    let (path, query) = target.split_at(memchr::memchr(b'?', target).unwrap_or(target.len()));
    let has = |part: &[u8], odd: u8| part.iter().any(|byte| is_control(*byte) || matches!(*byte, b'#' | b'<' | b'>') || *byte == odd);
    !has(path, b'`') && !has(query, b'"')
}

impl HeadReader {
    /// Looks at `bytes`, which begin as they did at the last call, for the lines that have come in addition. `None` when
    /// there have to be more.
    ///
    /// # Errors
    /// What the client has to be told, as soon as it is certain.
    pub fn advance(&mut self, bytes: &[u8], limits: &ServerLimits) -> Result<Option<Whole>, Refusal> {
        while let Some(end) = memchr::memchr(b'\n', &bytes[self.line..]).map(|n| self.line + n) {
            let range = self.line..end.saturating_sub(1).max(self.line);
            if bytes.get(range.end) != Some(&b'\r') {
                return bad("A line does not end in CR LF.");
            }
            self.line = end + 1;
            match (self.has_begun, range.is_empty()) {
                (false, true) if self.begin == 0 => self.begin = self.line, // RFC 9112, 2.2
                (false, _) => self.request_line(bytes, range, limits)?,
                (true, false) => self.field(bytes, range, limits)?,
                (true, true) => return self.end(bytes).map(Some),
            }
        }
        self.begun(&bytes[self.line..], limits).map(|()| None)
    }

    /// What is certain about a line that is not whole.
    fn begun(&self, line: &[u8], limits: &ServerLimits) -> Result<(), Refusal> {
        if self.has_begun {
            return self.within_limits(line.len(), limits);
        }
        if line.first().is_some_and(|first| !is_token(*first) && *first != b'\r') {
            return bad("The request does not begin with a method.");
        }
        match line.len() as u64 > limits.uri_bytes.0 + LINE_BYTES {
            true => Err(Refusal::UriTooLong),
            false => Ok(()),
        }
    }

    fn within_limits(&self, more: usize, limits: &ServerLimits) -> Result<(), Refusal> {
        let is_small = (self.field_bytes + more) as u64 <= limits.header_bytes.0 && self.fields <= limits.header_count.usize();
        is_small.then_some(()).ok_or(Refusal::HeaderTooLarge)
    }

    fn request_line(&mut self, bytes: &[u8], range: Range<usize>, limits: &ServerLimits) -> Result<(), Refusal> {
        self.has_begun = true;
        let line = &bytes[range.clone()];
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return bad("The request line is not a method, a target and a version.");
        };
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
            return bad("The method has an illegal character.");
        }
        self.is_old = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return bad("The version is not served."),
        };
        if target.len() as u64 > limits.uri_bytes.0 {
            return Err(Refusal::UriTooLong);
        }
        // Without a way out of the loop it is found out many bytes at a time.
        let is_odd = |byte: u8| is_control(byte) | matches!(byte, b'#' | b'<' | b'>' | b'`' | b'"');
        if target.iter().fold(false, |found, byte| found | is_odd(*byte)) && !is_readable(target) {
            return bad("The target has an illegal character.");
        }
        self.authority = authority(method, target)?.map(|authority| {
            let begin = range.start + method.len() + 1;
            begin + authority.start..begin + authority.end
        });
        Ok(())
    }

    fn field(&mut self, bytes: &[u8], range: Range<usize>, limits: &ServerLimits) -> Result<(), Refusal> {
        let line = &bytes[range.clone()];
        self.fields += 1;
        self.field_bytes += line.len() + 2;
        self.within_limits(0, limits)?;
        let Some(colon) = memchr::memchr(b':', line) else { return bad("A field has no colon.") };
        let name = &line[..colon];
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return bad("A field is folded over several lines.");
        }
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return bad("A field's name has an illegal character.");
        }
        if line[colon + 1..].iter().fold(false, |found, byte| found | (is_control(*byte) & (*byte != b'\t'))) {
            return bad("A field's value has a control character.");
        }
        let value = line[colon + 1..].trim_ascii();
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if self.host.is_some() || !is_host(value) {
                    return bad("Host is doubled or is not a host.");
                }
                // Where the value stands is found from its end: only blanks can follow it.
                let end = range.start + line.trim_ascii_end().len().max(colon + 1);
                self.host = Some(end - value.len()..end);
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let is_number = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
                let number = std::str::from_utf8(value).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
                if self.length.is_some() || number.is_none() {
                    return bad("Content-Length is doubled or is not a number.");
                }
                self.length = number;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return bad("Transfer-Encoding is doubled or is not `chunked`.");
                }
                self.is_chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// What only the whole head shows.
    fn end(&self, bytes: &[u8]) -> Result<Whole, Refusal> {
        if self.host.is_none() && !self.is_old {
            return bad("Host is missing.");
        }
        // RFC 9112, 3.2.2: they have to be the same, and Pingora asks for the same case too.
        if let (Some(authority), Some(host)) = (&self.authority, &self.host)
            && bytes[authority.clone()] != bytes[host.clone()]
        {
            return bad("The target's authority and Host differ.");
        }
        if self.is_chunked && (self.is_old || self.length.is_some()) {
            return bad("Transfer-Encoding stands beside Content-Length or in HTTP/1.0.");
        }
        let framing = match self.length {
            _ if self.is_chunked => Framing::Chunked,
            None | Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
        };
        Ok(Whole { range: self.begin..self.line, framing })
    }
}

/// The authority of a target in absolute form; none in origin form. Other forms are not served by a gateway (RFC 9112, 3.2).
fn authority(method: &[u8], target: &[u8]) -> Result<Option<Range<usize>>, Refusal> {
    match target.first() {
        Some(b'/') => return Ok(None),
        Some(b'*') if target.len() == 1 && method == b"OPTIONS" => return Ok(None),
        _ => {}
    }
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme.as_bytes())));
    let Some(scheme) = scheme else { return bad("The target is neither a path nor a URL.") };
    let rest = &target[scheme.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    match end > 0 && is_host(&rest[..end]) {
        true => Ok(Some(scheme.len()..scheme.len() + end)),
        false => bad("The target's authority is not a host."),
    }
}

/// RFC 9112, 3.2: a host, and a port behind it. An empty one is legal.
pub fn is_host(value: &[u8]) -> bool {
    let (name, port) = match value {
        [b'[', rest @ ..] => match memchr::memchr(b']', rest) {
            Some(end) if rest[..end].iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) => {
                (&rest[..0], &rest[end + 1..])
            }
            _ => return false,
        },
        _ => value.split_at(memchr::memchr(b':', value).unwrap_or(value.len())),
    };
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte);
    let is_port = |port: &[u8]| port.len() <= 6 && port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit);
    // RFC 3986, 2.1.
    let is_encoded = |at: usize| name.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    name.iter().all(legal) && memchr::memchr_iter(b'%', name).all(is_encoded) && (port.is_empty() || is_port(port))
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let marks = b"!#$%&'*+-.^_`|~";
        let mut n = 0;
        while n < marks.len() {
            table[marks[n] as usize] = true;
            n += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

fn is_control(byte: u8) -> bool {
    byte < b' ' || byte == 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> ServerLimits {
        ServerLimits::default()
    }

    fn read(text: &str) -> Result<Option<Whole>, Refusal> {
        HeadReader::default().advance(text.as_bytes(), &limits())
    }

    /// A head with these lines behind `Host: h`.
    fn with(lines: &str) -> Result<Option<Whole>, Refusal> {
        read(&format!("POST /x HTTP/1.1\r\nHost: h\r\n{lines}\r\n"))
    }

    #[test]
    fn a_head_is_whole_with_its_empty_line() {
        let text = "GET /x?y HTTP/1.1\r\nHost: h:80\r\nX-A:  b \r\n\r\n";
        assert_eq!(read(&format!("{text}more")), Ok(Some(Whole { range: 0..text.len(), framing: Framing::Empty })));
        assert_eq!(read(&format!("\r\n{text}")), Ok(Some(Whole { range: 2..text.len() + 2, framing: Framing::Empty })));
        for end in 0..text.len() {
            assert_eq!(read(&text[..end]), Ok(None), "{:?}", &text[..end]);
        }
    }

    #[test]
    fn the_body_ends_as_the_head_says() {
        for (lines, framing) in [
            ("", Framing::Empty),
            ("Content-Length: 0\r\n", Framing::Empty),
            ("content-length:7\r\n", Framing::Length(7)),
            ("Transfer-Encoding: CHUNKED\r\n", Framing::Chunked),
        ] {
            assert_eq!(with(lines).map(|whole| whole.map(|whole| whole.framing)), Ok(Some(framing)), "{lines:?}");
        }
    }

    #[test]
    fn what_could_be_understood_in_two_ways_is_refused() {
        for lines in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding:\x0bchunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            " Transfer-Encoding: chunked\r\n",
            "X: a\r\n b\r\n",
            "X: a\nY: b\r\n",
            "X: a\rY: b\r\n",
            "X: a\0\r\n",
            "X\r\n",
            ": x\r\n",
            "X Y: z\r\n",
            "Host: h\r\n",
            "Höst: h\r\n",
        ] {
            assert!(matches!(with(lines), Err(Refusal::BadRequest(_))), "{lines:?}");
        }
    }

    #[test]
    fn request_lines() {
        for line in [
            "GET  /x HTTP/1.1",
            "GET /x  HTTP/1.1",
            " GET /x HTTP/1.1",
            "GET /x y HTTP/1.1",
            "GET /x",
            "GET /x HTTP/2.0",
            "GET /x HTTP/1.2",
            "GET /x http/1.1",
            "G{T /x HTTP/1.1",
            "GET x HTTP/1.1",
            "GET * HTTP/1.1",
            "GET /x#y HTTP/1.1",
            "GET /\t HTTP/1.1",
            "GET ftp://h/ HTTP/1.1",
            "GET http://other/ HTTP/1.1",
            "GET http://H/ HTTP/1.1",
            "GET http:///x HTTP/1.1",
            "GET http://u@h/ HTTP/1.1",
            "CONNECT h:443 HTTP/1.1",
            "\u{16}\u{3}\u{1}",
        ] {
            assert!(matches!(read(&format!("{line}\r\nHost: h\r\n\r\n")), Err(Refusal::BadRequest(_))), "{line}");
        }
        for line in ["OPTIONS * HTTP/1.1", "GET http://h/x HTTP/1.1", "GET HTTP://h?x HTTP/1.1", "purge /x HTTP/1.1", "GET /é HTTP/1.0"] {
            assert!(read(&format!("{line}\r\nHost: h\r\n\r\n")).is_ok_and(|whole| whole.is_some()), "{line}");
        }
    }

    #[test]
    fn hosts() {
        for host in ["h", "h:80", "[::1]", "[::1]:80", "10.0.0.1:1", "", "a_b.example"] {
            assert!(read(&format!("GET / HTTP/1.1\r\nHost:\t{host} \r\n\r\n")).is_ok_and(|whole| whole.is_some()), "{host}");
        }
        for host in ["a b", "a,b", "a/b", "a?b", "a\\b", "é", "h:x", "h:123456", "[::1", "[x]", "u@h", "h:80:80"] {
            assert!(read(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).is_err(), "{host}");
        }
        assert!(read("GET / HTTP/1.1\r\n\r\n").is_err());
        assert!(read("GET / HTTP/1.0\r\n\r\n").is_ok_and(|whole| whole.is_some()));
        assert!(read("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_whole() {
        let long = "a".repeat(9 << 10);
        assert_eq!(read(&format!("GET /{long}")), Err(Refusal::UriTooLong));
        assert_eq!(read(&format!("GET /{long} HTTP/1.1\r\n")), Err(Refusal::UriTooLong));
        let long = "a".repeat(33 << 10);
        assert_eq!(read(&format!("GET / HTTP/1.1\r\nX: {long}")), Err(Refusal::HeaderTooLarge));
        let many = "X: y\r\n".repeat(101);
        assert_eq!(read(&format!("GET / HTTP/1.1\r\n{many}")), Err(Refusal::HeaderTooLarge));
    }

    proptest! {
        #[test]
        fn however_it_comes_it_is_read_alike(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "(\r\n)?(GET|P|) ?(/|http://h/|\\*|)[a-z ]{0,3} HTTP/1\\.[019](\r\n|\n)((Host: h|Content-Length: [0-9]{1,2}|Transfer-Encoding: chunked|X:\t?[ -~]{0,5})(\r\n|\n|\r)){0,4}(\r\n)?.{0,3}".prop_map(String::into_bytes),
        ], cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let at_once = HeadReader::default().advance(&bytes, &limits());
            let mut reader = HeadReader::default();
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
            ends.sort_unstable();
            let mut in_parts = Ok(None);
            for end in ends {
                in_parts = reader.advance(&bytes[..end], &limits());
                if !matches!(in_parts, Ok(None)) {
                    break;
                }
            }
            // What comes in parts may be refused for what is seen first.
            let told = |read: Result<Option<Whole>, Refusal>| read.map_err(|refusal| refusal.code());
            prop_assert_eq!(told(at_once), told(in_parts));
        }
    }
}
