//! HTTP/2 without TLS on both sides, on the `h2` crate: a client for async tests, and a service scripted by an async closure.

use super::PATIENCE;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Small messages of a stream are not taken for an attack on the origin.
const SMALL_FRAMES_BYTES: usize = 16 << 20;

/// Runs a test's async part, which must end in time.
#[track_caller]
pub fn run_async<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(*PATIENCE, test).await }).expect("the end of the test")
}

/// A connection of a client. The gateway's host is `test`.
#[derive(Clone)]
pub struct H2Client(SendRequest<Bytes>);

/// An answer, read whole.
#[derive(Debug)]
pub struct H2Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl H2Client {
    pub async fn connect(address: SocketAddr) -> H2Client {
        H2Client::connect_behind(address, b"").await
    }

    /// The same, with bytes in front, such as a proxy's header.
    pub async fn connect_behind(address: SocketAddr, begin: &[u8]) -> H2Client {
        H2Client::connect_watched(address, begin).await.0
    }

    /// The same, and how the connection ends.
    pub async fn connect_watched(address: SocketAddr, begin: &[u8]) -> (H2Client, JoinHandle<Result<(), h2::Error>>) {
        let mut tcp = TcpStream::connect(address).await.expect("a connection");
        tcp.set_nodelay(true).expect("no delay");
        tokio::io::AsyncWriteExt::write_all(&mut tcp, begin).await.expect("to send");
        let mut builder = h2::client::Builder::new();
        let (sender, connection) = builder.data_frame_budget(SMALL_FRAMES_BYTES).handshake(tcp).await.expect("a handshake");
        (H2Client(sender), tokio::spawn(connection))
    }

    /// Begins a request. Its body may follow unless `ends`.
    pub async fn begin(&self, method: Method, path: &str, headers: &[(&str, &str)], ends: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::builder().method(method).uri(format!("http://test{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut sender = self.0.clone().ready().await.expect("a connection that is open");
        sender.send_request(request.body(()).expect("a request"), ends).expect("to send")
    }

    pub async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> H2Answer {
        let (answer, mut stream) = self.begin(method, path, headers, body.is_empty()).await;
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), true).expect("to send");
        }
        whole(answer).await.expect("an answer")
    }

    /// Whether another request may be sent: not behind a GOAWAY.
    pub async fn is_open(&self) -> bool {
        self.0.clone().ready().await.is_ok()
    }

    /// Asks where the connection may have come to its end: `None` when it takes no more requests, or has not taken this one (RFC 9113, 6.8):
    /// `h2` answers the PING behind a first GOAWAY before it sends what was asked meanwhile.
    pub async fn try_get(&self, path: &str) -> Option<Result<H2Answer, h2::Error>> {
        let request = Request::get(format!("http://test{path}")).body(()).expect("a request");
        let (answer, _) = self.0.clone().ready().await.ok()?.send_request(request, true).ok()?;
        match whole(answer).await {
            Err(e) if e.is_go_away() && e.is_remote() && e.reason() == Some(h2::Reason::NO_ERROR) => None,
            answered => Some(answered),
        }
    }

    pub async fn get(&self, path: &str) -> H2Answer {
        self.request(Method::GET, path, &[], b"").await
    }
}

impl H2Answer {
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Reads an answer to its end.
pub async fn whole(answer: ResponseFuture) -> Result<H2Answer, h2::Error> {
    let (head, mut body) = answer.await?.into_parts();
    let bytes = all(&mut body).await?;
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(H2Answer { status: head.status.as_u16(), headers: head.headers, body: bytes, trailers })
}

/// Reads a body to its end.
pub async fn all(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = piece(body).await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

/// Reads what comes next of a body, and makes room for more. Empty frames are skipped.
pub async fn piece(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    loop {
        let piece = body.data().await?;
        if let Ok(bytes) = &piece {
            let _ = body.flow_control().release_capacity(bytes.len());
        }
        if piece.as_ref().map_or(true, |bytes| !bytes.is_empty()) {
            return Some(piece);
        }
    }
}

/// A service that speaks h2c.
pub struct H2Origin(SocketAddr);

impl H2Origin {
    /// Gives `script` each request. What fails on its way is no concern of the origin's.
    pub fn new<F>(script: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + Clone + 'static) -> H2Origin
    where
        F: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("a listener");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                while let Ok((tcp, _)) = listener.accept().await {
                    tokio::spawn(serve(tcp, script.clone()));
                }
            });
        });
        H2Origin(address)
    }
}

async fn serve<F>(tcp: TcpStream, script: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F)
where
    F: Future<Output = Result<(), h2::Error>> + Send + 'static,
{
    let _ = tcp.set_nodelay(true);
    let mut builder = h2::server::Builder::new();
    let Ok(mut connection) = builder.data_frame_budget(SMALL_FRAMES_BYTES).handshake::<_, Bytes>(tcp).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(script(request, respond));
    }
}

impl fmt::Display for H2Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The head of an answer with these fields.
pub fn h2_head(status: u16, headers: &[(&str, &str)]) -> Response<()> {
    let builder = headers.iter().fold(Response::builder().status(status), |builder, (name, value)| builder.header(*name, *value));
    builder.body(()).expect("a head")
}
