//! A real DNS server, as a process of its own: dnsmasq.

use super::{eventually, own_address};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

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
        let mut dns = Dns { child: None, folder: tempfile::tempdir().expect("a folder"), address: own_address() };
        dns.restart(records);
        dns
    }

    /// Knows others from now on.
    #[track_caller]
    pub fn restart(&mut self, records: &[&str]) {
        self.stop();
        let (file, ip, port) = (self.folder.path().join("dnsmasq.conf"), self.address.ip(), self.address.port());
        let own = format!("port={port}\nlisten-address={ip}\nbind-interfaces\nno-resolv\nno-hosts\nkeep-in-foreground\nlocal=/test/\n");
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
