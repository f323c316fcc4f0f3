//! Two gateways behind a real HAProxy: one is killed, drained, upgraded, and clients that try once more see nothing of it.

use crate::kit::{Client, Gateway, eventually, frontdesk, kill, run};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// HAProxy in front of two gateways, each with its admin listener, which is asked whether it is ready.
struct Balancer {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Balancer {
    fn start(gateways: &[Gateway; 2]) -> Balancer {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = |name: &str, gateway: &Gateway| {
            let (address, admin) = (gateway.address(), gateway.admin());
            format!("  server {name} {address} check addr {} port {}\n", admin.ip(), admin.port())
        };
        let text = format!(
            "
global
  maxconn 500
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout check 5s
  retries 2
  option redispatch
frontend all
  bind fd@3
  default_backend gateways
backend gateways
  balance roundrobin
  option httpchk
  http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host localhost
  default-server inter 50ms fall 1 rise 1
{}{}",
            server("a", &gateways[0]),
            server("b", &gateways[1])
        );
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<&0 </dev/null; exec haproxy -db -f \"$1\"", "sh"]).arg(file);
        let child = command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell");
        let balancer = Balancer { child, address, _folder: folder };
        eventually("haproxy (./dev test installs it)", || balancer.try_get().filter(|answer| answer.len() == 1));
        balancer
    }

    /// One request on a connection of its own; `None` when it came to nothing.
    fn try_get(&self) -> Option<String> {
        let stream = Client::try_connect(self.address)?;
        let mut client = Client::over(stream);
        client.try_send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
        client.try_answer("GET").ok().filter(|answer| answer.status == 200).map(|answer| answer.text())
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A gateway that says who it is. The addresses are nobody else's, so that it can come back on them.
fn gateway(name: &str, [listener, admin]: [SocketAddr; 2]) -> Gateway {
    Gateway::start(&format!(
        "
listeners: [{{ bind: '{listener}' }}]
admin: {{ bind: '{admin}' }}
server: {{ drain_delay: 1500ms }}
routes: [{{ path: /*, respond: {{ body: {name} }} }}]
"
    ))
}

fn own(n: u8) -> [SocketAddr; 2] {
    [0, 1].map(|_| SocketAddr::from(([127, 77, n, 1], 0)))
}

/// What clients have seen.
#[derive(Default)]
struct Seen {
    served: Mutex<[usize; 2]>,
    retried: AtomicUsize,
    failed: AtomicUsize,
}

impl Seen {
    fn served(&self) -> [usize; 2] {
        *self.served.lock().expect("counts")
    }

    /// Waits until both, or only that one, have served some more.
    fn wait_for(&self, wanted: [bool; 2]) {
        let before = self.served();
        let has_more = |n: usize| self.served()[n] >= before[n] + 20;
        eventually("more answers", || (0..2).all(|n| !wanted[n] || has_more(n)).then_some(()));
    }
}

#[test]
fn clients_that_try_once_more_see_nothing() {
    let [a, b] = ["a", "b"].map(|name| gateway(name, own(name.as_bytes()[0])));
    let addresses = [&a, &b].map(|gateway| [gateway.address(), gateway.admin()]);
    let mut gateways = [a, b];
    let balancer = Balancer::start(&gateways);
    let (seen, has_ended) = (Seen::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !has_ended.load(Ordering::Relaxed) {
                    let first = balancer.try_get();
                    seen.retried.fetch_add(usize::from(first.is_none()), Ordering::Relaxed);
                    match first.or_else(|| balancer.try_get()).as_deref() {
                        Some("a") => seen.served.lock().expect("counts")[0] += 1,
                        Some("b") => seen.served.lock().expect("counts")[1] += 1,
                        _ => drop(seen.failed.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            seen.wait_for([true, true]);
            // One is gone from one moment to the next, and comes back.
            assert!(kill("KILL", gateways[0].pid()));
            gateways[0].wait();
            seen.wait_for([false, true]);
            gateways[0] = gateway("a", addresses[0]);
            seen.wait_for([true, true]);
            // The other is drained, which nobody has to try again for.
            let before = seen.retried.load(Ordering::Relaxed);
            let admin = format!("http://{}", gateways[1].admin());
            assert!(run(frontdesk().args(["drain", "--admin", &admin])).status.success());
            gateways[1].wait();
            seen.wait_for([true, false]);
            gateways[1] = gateway("b", addresses[1]);
            seen.wait_for([true, true]);
            // And one after the other is upgraded.
            for gateway in &gateways {
                assert_eq!(gateway.upgrade().0, 0);
                seen.wait_for([true, true]);
            }
            assert_eq!(seen.retried.load(Ordering::Relaxed), before);
        }));
        has_ended.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(seen.failed.load(Ordering::Relaxed), 0, "{:?} tries more", seen.retried);
}
