//! What tests are written with.
//!
//! ```ignore
//! let origin = Origin::echo();
//! let gateway = Gateway::start(&format!("
//! listeners: [{{ bind: 127.0.0.1:0 }}]
//! routes: [{{ path: /*, to: http://{origin} }}]
//! "));
//! let answer = gateway.get("/x");
//! assert_eq!((answer.status, answer.json()["target"].as_str()), (200, Some("/x")));
//! ```
//!
//! Nothing here sleeps for a fixed time: [`eventually`] waits for the thing itself.
#![allow(dead_code, unused_imports)] // each test uses its part

mod acme;
mod client;
mod dns;
mod gateway;
mod h2;
mod large;
mod origin;
mod pace;
mod redis;
mod secure;
mod tls_origin;
mod tokens;
mod websocket;

pub use acme::Authority;
pub use client::{Answer, Client, head};
pub use dns::Dns;
pub use gateway::{Gateway, kill, run_to_end};
pub use h2::{H2Client, H2Origin, all, h2_head, piece, run_async, whole};
pub use large::{LARGE, drink, pour};
pub use origin::{Origin, Request, Stream, answer, read_head, read_request};
pub use pace::{Gate, busy, rest, steadily, until_gone};
pub use redis::Redis;
pub use secure::{Secure, Visitor, secure, secure_and_send, secure_to, shown};
pub use tls_origin::TlsOrigin;
pub use tokens::{SECRET, Signer, base64url, hs256, in_seconds, token};
pub use websocket::{ACCEPTED, HANDSHAKE, echoes, websocket};

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How much of something: the usual, or much more in a soak (`./dev soak`, which sets FRONTDESK_SOAK).
pub fn scale(usual: usize, soak: usize) -> usize {
    if std::env::var_os("FRONTDESK_SOAK").is_some() { soak } else { usual }
}

/// Longer than anything takes on a loaded machine: reaching it is a failure.
pub static PATIENCE: LazyLock<Duration> = LazyLock::new(|| Duration::from_secs(scale(20, 120) as u64));

/// Waits until `condition` is some value.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < *PATIENCE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program under test.
pub fn frontdesk() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frontdesk"));
    command.env_remove("RUST_LOG");
    command
}

/// Runs curl, which must succeed, and answers what it printed.
#[track_caller]
pub fn curl(arguments: &[&str]) -> String {
    let output = run(Command::new("curl").args(["--silent", "--show-error", "--max-time", "20", "--noproxy", "*"]).args(arguments));
    assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Puts load on a URL with wrk for so many seconds, and answers what it printed. It calls an answer late after its usual 2 s
/// in a soak only: other tests share the machine with each other.
#[track_caller]
pub fn wrk(url: &str, seconds: usize) -> String {
    let mut command = Command::new("wrk");
    command.args(["-t2", "-c64"]).arg(format!("-d{seconds}s"));
    if scale(0, 1) == 0 {
        command.args(["--timeout", "20s"]);
    }
    let output = command.arg(url).output().unwrap_or_else(|e| panic!("wrk can't be run ({e}); ./dev test installs it"));
    assert!(output.status.success(), "wrk: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// A self-signed certificate for these names, as `cert.pem` and `key.pem` in a folder.
pub fn certificate(folder: &Path, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("a certificate");
    let (cert, key) = (folder.join(format!("{file}.pem")), folder.join(format!("{file}.key")));
    std::fs::write(&cert, made.cert.pem()).expect("the certificate");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("the key");
    (cert, key)
}

/// An address of this process alone: it may be bound again and again, since no other test can come upon it.
pub fn own_address() -> std::net::SocketAddr {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Below those that the system gives.
    let port = 10_000 + GIVEN.fetch_add(1, Ordering::Relaxed);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    std::net::SocketAddr::from(([127, 64 | (a & 63), b, c.max(1)], port))
}

/// An address that nobody listens on: it stays bound, so that nobody else gets it, and refuses connections.
pub fn dead_address() -> std::net::SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let address = socket.local_addr().expect("an address").as_socket().expect("an address");
    std::mem::forget(socket);
    address
}

/// An address that neither takes nor refuses connections, as long as this lives: its queue is full.
pub struct Stuck {
    listener: socket2::Socket,
    _queue: Vec<socket2::Socket>,
}

impl Stuck {
    pub fn new() -> Stuck {
        use socket2::{Domain, Socket, Type};
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        listener.listen(0).expect("to listen");
        let address = listener.local_addr().expect("an address");
        let mut queue = Vec::new();
        // The kernel takes one more than it was told to.
        for _ in 0..4 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("not to wait");
            let _ = socket.connect(&address);
            queue.push(socket);
        }
        Stuck { listener, _queue: queue }
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.listener.local_addr().expect("an address").as_socket().expect("an address")
    }
}
