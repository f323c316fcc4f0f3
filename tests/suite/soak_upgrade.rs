//! Upgrades and reloads one after the other, under all kinds of load at once: none of them is felt.
//!
//! `./dev soak upgrade` has 100 upgrades, 1,000 reloads and 200 WebSockets, and compares the latencies; otherwise it is a short one.
//! `./dev soak upgrade 20` has a fifth of them.

use crate::kit::{Client, Gateway, H2Client, Origin, Visitor, certificate, echoes, run, scale, websocket};
use rustls::HandshakeKind;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What wrk has seen.
#[derive(Debug)]
struct Wrk {
    requests: u64,
    p99_ms: f64,
    /// Errors of sockets, and answers that are none of 2xx and 3xx, as it prints them.
    errors: Vec<String>,
}

fn wrk(url: &str, connections: usize, seconds: usize, fields: &[&str]) -> Wrk {
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency", "--timeout", "20s", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    for field in fields {
        command.args(["-H", field]);
    }
    let output = run(command.arg(url));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let find = |label: &str| text.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim).unwrap_or_default();
    let p99_ms = find("99%");
    let (number, unit) = p99_ms.split_at(p99_ms.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(p99_ms.len()));
    let factor = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1_000.0,
        _ => panic!("{text}"),
    };
    let is_error = |line: &&str| line.contains("Socket errors") || line.contains("Non-2xx");
    let errors = text.lines().filter(is_error).map(|line| line.trim().to_string()).collect();
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in")?.0.parse().ok()).unwrap_or(0);
    Wrk { requests, p99_ms: number.parse::<f64>().expect("a number") * factor, errors }
}

/// HTTP/2 with four streams on each of four connections, which are made anew behind a GOAWAY: how many requests were answered. h2load
/// would count those as failed that it could not send any more.
fn streams(address: SocketAddr, seconds: usize) -> u64 {
    let until = Instant::now() + Duration::from_secs(seconds as u64);
    let stream = async |client: H2Client| {
        let mut answered = 0;
        while Instant::now() < until
            && let Some(answer) = client.try_get("/fixed").await
        {
            assert_eq!(answer.expect("an answer").status, 200);
            answered += 1;
        }
        answered
    };
    let connections = async || {
        let mut answered = 0;
        while Instant::now() < until {
            let client = H2Client::connect(address).await;
            let (a, b, c, d) = tokio::join!(stream(client.clone()), stream(client.clone()), stream(client.clone()), stream(client));
            answered += a + b + c + d;
        }
        answered
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (a, b, c, d) = runtime.block_on(async { tokio::join!(connections(), connections(), connections(), connections()) });
    a + b + c + d
}

/// What all clients together have seen for so many seconds.
fn load(plain: SocketAddr, seconds: usize) -> (Wrk, Wrk, u64) {
    let url = format!("http://{plain}/fixed");
    std::thread::scope(|scope| {
        let kept = scope.spawn(|| wrk(&url, 64, seconds, &[]));
        let fresh = scope.spawn(|| wrk(&url, 16, seconds, &["Connection: close"]));
        let streams = scope.spawn(|| streams(plain, seconds));
        (kept.join().expect("wrk"), fresh.join().expect("wrk"), streams.join().expect("streams"))
    })
}

#[test]
fn nobody_feels_upgrades_and_reloads() {
    let folder = tempfile::tempdir().expect("a folder");
    certificate(folder.path(), "tls", &["localhost"]);
    let tunnels = Origin::websocket_echo();
    let yaml = format!(
        "
listeners:
  - {{ name: plain, bind: 127.0.0.1:0 }}
  - {{ name: tls, bind: 127.0.0.1:0, tls: {{ certificates: [{{ cert: DIR/tls.pem, key: DIR/tls.key }}] }} }}
server: {{ drain_timeout: 5m }}
routes: [{{ path: /fixed, respond: {{ body: fixed }} }}, {{ listener: tls, path: /, respond: {{}} }}, {{ path: /chat, to: chat }}]
# Tunnels that say nothing all the while.
services: {{ chat: {{ endpoints: ['{tunnels}'], timeouts: {{ read: 10m }} }} }}
"
    );
    let gateway = Gateway::start_in(folder, &yaml);
    let (plain, tls, admin) = (gateway.address_of("plain"), gateway.address_of("tls"), gateway.admin());
    let visitor = Visitor::new("1.3");
    assert_eq!(visitor.visit(tls), HandshakeKind::Full);
    let mut sockets: Vec<_> = (0..scale(20, 200)).map(|_| websocket(Client::connect(plain).into_stream()).expect("a handshake")).collect();
    let percent = std::env::var("FRONTDESK_SOAK_PERCENT").map_or(100, |percent| percent.parse().expect("a number"));
    let share = |usual: usize, soak: usize| scale(usual, (soak * percent).div_ceil(100));
    let (upgrades, reloads, seconds) = (share(2, 100), share(20, 1_000), share(4, 100));
    let before = load(plain, scale(2, 10));
    let reload = || assert_eq!(Client::connect(admin).request("POST", "/reload", &[("Host", "localhost")], b"").status, 200);
    let has_ended = AtomicBool::new(false);
    let (during, done) = std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            let began = Instant::now();
            for upgrade in 0..upgrades {
                // Spread over the load but for its last tenth.
                let due = Duration::from_secs_f64(seconds as f64 * 0.9 / upgrades as f64 * upgrade as f64);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
                (0..reloads / upgrades).for_each(|_| reload());
                assert_eq!(gateway.upgrade().0, 0, "upgrade {upgrade}");
            }
            // Whether all of it was under load.
            has_ended.load(Ordering::Relaxed)
        });
        let during = load(plain, seconds);
        has_ended.store(true, Ordering::Relaxed);
        (during, !changes.join().expect("all changes"))
    });
    // Those that were open before all of it are so still, in the process that they began in.
    sockets.iter_mut().for_each(|socket| echoes(socket, "still there"));
    assert_eq!(visitor.visit(tls), HandshakeKind::Resumed);
    println!("{upgrades} upgrades, {reloads} reloads, all under load: {done}; before {before:?}; during {during:?}");
    for (kept, fresh, streams) in [&before, &during] {
        assert!(kept.requests > 0 && fresh.requests > 0 && kept.errors.is_empty() && fresh.errors.is_empty(), "{kept:?} {fresh:?}");
        assert!(*streams > 0, "no stream");
    }
    // Latencies are compared where nothing else runs.
    if scale(0, 1) == 1 {
        assert!(done && during.0.p99_ms <= 3.0 * before.0.p99_ms && during.1.p99_ms <= 3.0 * before.1.p99_ms, "{before:?} {during:?}");
    }
}
