//! A service behind the gateway: a thread a connection, scripted by a closure.

use super::PATIENCE;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A request as the service saw it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }
    /// The request as JSON: method, target, headers (a map of lists, names in small letters), body (a text).
    pub fn describe(&self) -> String {
        let mut headers = serde_json::Map::new();
        for (name, value) in &self.headers {
            let values = headers.entry(name.to_ascii_lowercase()).or_insert_with(|| serde_json::json!([]));
            values.as_array_mut().expect("a list").push(value.clone().into());
        }
        let body = String::from_utf8_lossy(&self.body);
        serde_json::json!({ "method": self.method, "target": self.target, "headers": headers, "body": body }).to_string()
    }
}

pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    connections: AtomicUsize,
    open: AtomicUsize,
    seen: Mutex<Vec<Request>>,
}

/// What a script may do with the connection besides answering.
pub type Stream = BufReader<TcpStream>;

impl Origin {
    /// Answers each request with what `script` returns, as bytes on the wire; the connection is kept.
    pub fn new(script: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Origin {
        Origin::scripted(move |request, stream| {
            stream.get_mut().write_all(&script(request))?;
            Ok(request.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")))
        })
    }

    /// Gives `script` each request and the bare connection; it says whether the connection is kept.
    pub fn scripted(script: impl Fn(&Request, &mut Stream) -> io::Result<bool> + Send + Sync + 'static) -> Origin {
        Origin::bare(each(script))
    }

    /// Gives `script` each connection.
    pub fn bare(script: impl Fn(&mut Stream, &Mutex<Vec<Request>>) -> io::Result<()> + Send + Sync + 'static) -> Origin {
        Origin::on(TcpListener::bind("127.0.0.1:0").expect("a port"), script)
    }

    /// Likewise, on a socket of the caller's.
    pub fn on(
        listener: TcpListener,
        script: impl Fn(&mut Stream, &Mutex<Vec<Request>>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Origin {
        // The queue of 128 that it has by itself overflows when hundreds connect at once.
        socket2::SockRef::from(&listener).listen(4096).expect("a longer queue");
        let address = listener.local_addr().expect("an address");
        let (shared, script) = (Arc::<Shared>::default(), Arc::new(script));
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if theirs.stop.load(Ordering::Acquire) {
                    return;
                }
                theirs.connections.fetch_add(1, Ordering::AcqRel);
                theirs.open.fetch_add(1, Ordering::AcqRel);
                let (script, shared) = (script.clone(), theirs.clone());
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    // A client that is gone is no concern of the origin's.
                    let _ = script(&mut BufReader::new(stream), &shared.seen);
                    shared.open.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Origin { address, shared }
    }

    /// Answers 200 with a description of the request.
    pub fn echo() -> Origin {
        Origin::new(|request| answer(200, &[("Content-Type", "application/json")], request.describe().as_bytes()))
    }

    /// Answers 200 with this text at another address than 127.0.0.1, and the same port as somebody there.
    pub fn fixed_at(address: impl Into<SocketAddr>, body: &'static str) -> Origin {
        let listener = TcpListener::bind(address.into()).expect("a port that only this process knows");
        Origin::on(listener, each(move |_, stream| stream.get_mut().write_all(&answer(200, &[], body.as_bytes())).map(|()| true)))
    }

    /// Answers 200 with this text.
    pub fn fixed(body: &'static str) -> Origin {
        Origin::new(move |_| answer(200, &[], body.as_bytes()))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// Connections that were made so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }
    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }
    /// Whether a request for this target has come.
    pub fn has_seen(&self, target: &str) -> bool {
        self.shared.seen.lock().expect("the requests").iter().any(|request| request.target == target)
    }
    /// The requests that came, in the order of their heads.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().expect("the requests").clone()
    }
}

/// Gives `script` each request of a connection.
fn each(
    script: impl Fn(&Request, &mut Stream) -> io::Result<bool> + Send + Sync + 'static,
) -> impl Fn(&mut Stream, &Mutex<Vec<Request>>) -> io::Result<()> + Send + Sync + 'static {
    move |stream, shared| {
        while let Some(request) = read_request(stream)? {
            shared.lock().expect("the requests").push(request.clone());
            if !script(&request, stream)? {
                break;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect_timeout(&self.address, *PATIENCE);
    }
}

/// An answer with a Content-Length, on the wire.
pub fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    [head.as_bytes(), b"\r\n", body].concat()
}

/// Reads a request with its body; `None` when the client has ended.
pub fn read_request<S: Read + Write>(stream: &mut BufReader<S>) -> io::Result<Option<Request>> {
    let Some(mut request) = read_head(stream)? else { return Ok(None) };
    if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if request.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = usize::from_str_radix(line(stream)?.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            let begin = request.body.len();
            request.body.resize(begin + size, 0);
            stream.read_exact(&mut request.body[begin..])?;
            if !line(stream)?.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().map_err(|_| io::ErrorKind::InvalidData)?];
        stream.read_exact(&mut request.body)?;
    }
    Ok(Some(request))
}

/// Reads a request's head and leaves the body where it is.
pub fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Request>> {
    if stream.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let first = line(stream)?;
    let mut parts = first.split(' ').map(str::to_string);
    let (method, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let line = line(stream)?;
        if line.is_empty() {
            return Ok(Some(Request { method, target, headers, body: Vec::new() }));
        }
        let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        headers.push((name.to_string(), value.trim().to_string()));
    }
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.strip_suffix("\r\n").map(str::to_string).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
