//! A real DNS server, as a process of its own: dnsmasq.

use super::eventually;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

/// Nothing else listens there on these addresses.
const PORT: u16 = 10_053;

pub struct Dns {
    child: Option<Child>,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Dns {
    /// Knows these lines of dnsmasq's configuration, such as `host-record=a.test,127.0.0.1,1` (the last is the time to live) and
    /// `srv-host=_http._tcp.a.test,a.test,8080,10,5`; of other names below `test.` it says that there are none.
    #[track_caller]
    pub fn start(records: &[&str]) -> Dns {
        static STARTED: AtomicU8 = AtomicU8::new(0);
        // An address of this process alone, since a port that is given back may be taken by another test.
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let own = 64 | (STARTED.fetch_add(1, Ordering::Relaxed) % 2) << 5 | (a & 31);
        let address = SocketAddr::from(([127, own, b, c.max(1)], PORT));
        let mut dns = Dns { child: None, folder: tempfile::tempdir().expect("a folder"), address };
        dns.restart(records);
        dns
    }

    /// Knows others from now on.
    #[track_caller]
    pub fn restart(&mut self, records: &[&str]) {
        self.stop();
        let (file, ip) = (self.folder.path().join("dnsmasq.conf"), self.address.ip());
        let own = format!("port={PORT}\nlisten-address={ip}\nbind-interfaces\nno-resolv\nno-hosts\nkeep-in-foreground\nlocal=/test/\n");
        std::fs::write(&file, format!("{own}{}\n", records.join("\n"))).expect("the configuration");
        let user = super::run(Command::new("id").arg("-un")).stdout;
        let child = Command::new("dnsmasq")
            .arg(format!("--conf-file={}", file.display()))
            .args(["--pid-file=", "--log-facility=-"])
            .arg(format!("--user={}", String::from_utf8_lossy(&user).trim()))
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("dnsmasq can't be run ({e}); ./dev test installs it"));
        self.child = Some(child);
        eventually("the DNS server", || TcpStream::connect(self.address).ok());
    }

    /// Says nothing any more.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}
