//! A client over a bare socket, for requests that no well-behaved client would send as well.

use super::PATIENCE;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

pub struct Client {
    stream: BufReader<TcpStream>,
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The fields behind a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    /// The only field of that name; panics when there are several.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.all(name);
        assert!(found.len() < 2, "{name}: {found:?}");
        found.first().copied()
    }
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
    /// The code of a refusal.
    #[track_caller]
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        self.json()["code"].as_str().unwrap_or_default().to_string()
    }
}

impl Client {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}")))
    }

    /// Over a connection that is there already.
    #[track_caller]
    pub fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(*PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(*PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Client { stream: BufReader::new(stream) }
    }

    /// `None` when nobody listens.
    pub fn try_connect(address: SocketAddr) -> Option<TcpStream> {
        TcpStream::connect(address).ok()
    }

    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("to send");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Sends a request with `Host: test` unless there is one, and a Content-Length when there is a body.
    #[track_caller]
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send(head(method, target, headers, body.len()));
        self.send(body);
        self.answer_to(method)
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Answer {
        self.request("GET", target, &[], b"")
    }

    /// Reads the final answer; interim ones before it are skipped.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Answer {
        loop {
            let answer = self.next_answer(method);
            if answer.status >= 200 || answer.status == 101 {
                return answer;
            }
        }
    }

    /// Reads one answer, an interim one too.
    #[track_caller]
    pub fn next_answer(&mut self, method: &str) -> Answer {
        self.try_answer(method).expect("an answer")
    }

    pub fn try_answer(&mut self, method: &str) -> io::Result<Answer> {
        let line = self.line()?;
        let status: u16 = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| bad(&line))?;
        let headers = self.fields()?;
        let mut answer = Answer { status, headers, body: Vec::new(), trailers: Vec::new() };
        if method == "HEAD" || status < 200 || matches!(status, 204 | 304) {
            return Ok(answer);
        }
        let length = answer.header("content-length").map(|length| length.parse().map_err(|_| bad(length)));
        if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(&line, 16).map_err(|_| bad(&line))?;
                if size == 0 {
                    break;
                }
                let begin = answer.body.len();
                answer.body.resize(begin + size, 0);
                self.stream.read_exact(&mut answer.body[begin..])?;
                self.line()?;
            }
            answer.trailers = self.fields()?;
        } else if let Some(length) = length {
            answer.body = vec![0; length?];
            self.stream.read_exact(&mut answer.body)?;
        } else {
            self.stream.read_to_end(&mut answer.body)?;
        }
        Ok(answer)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.strip_suffix("\r\n").map(str::to_string).ok_or_else(|| bad(&line))
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
            fields.push((name.to_string(), value.trim().to_string()));
        }
    }

    /// Reads so many bytes.
    #[track_caller]
    pub fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        self.stream.read_exact(&mut buffer).expect("to read");
        buffer
    }

    /// What comes from the other side, as it is.
    pub fn reader(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.stream
    }

    /// The bare socket; nothing may have been read ahead.
    #[track_caller]
    pub fn into_stream(self) -> TcpStream {
        assert!(self.stream.buffer().is_empty(), "bytes were read ahead");
        self.stream.into_inner()
    }

    /// Reads until the other side ends; a reset counts as an end.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.stream.read_to_end(&mut bytes);
        bytes
    }

    /// Whether the other side has closed, waited for until it has.
    #[track_caller]
    pub fn wait_for_close(&mut self) {
        match self.stream.fill_buf() {
            Ok(bytes) => assert!(bytes.is_empty(), "{:?}", String::from_utf8_lossy(bytes)),
            Err(e) => assert!(e.kind() == io::ErrorKind::ConnectionReset, "{e}"),
        }
    }

    /// Says that nothing more will be sent.
    pub fn end(&mut self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
    }

    /// Gives up with a reset instead of an end.
    pub fn reset(self) {
        let socket = socket2_linger(self.stream.into_inner());
        drop(socket);
    }
}

fn socket2_linger(stream: TcpStream) -> TcpStream {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
    stream
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

/// The head of a request.
pub fn head(method: &str, target: &str, headers: &[(&str, &str)], body: usize) -> String {
    let has = |name: &str| headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    if !has("host") {
        text.push_str("Host: test\r\n");
    }
    headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
    if body > 0 && !has("transfer-encoding") && !has("content-length") {
        text.push_str(&format!("Content-Length: {body}\r\n"));
    }
    text + "\r\n"
}
