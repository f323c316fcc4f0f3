//! What a service manager is told, and what it hands over.

use crate::kit::{Client, Gateway, PATIENCE, eventually, frontdesk, kill, run};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

const FIXED: &str = "listeners: [{ bind: 127.0.0.1:0 }]\nroutes: [{ path: /*, respond: { body: fixed } }]\n";

/// A gateway that has somebody to tell, and what it says.
fn told(variables: &[(&str, &str)]) -> (Gateway, UnixDatagram) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(*PATIENCE)).expect("a timeout");
    let path = path.display().to_string();
    let variables = [&[("NOTIFY_SOCKET", path.as_str())], variables].concat();
    (Gateway::start_with(folder, FIXED, &variables), socket)
}

/// Waits for a message that has this line, and answers all of it.
fn hear(socket: &UnixDatagram, line: &str) -> Vec<String> {
    let mut room = [0; 4096];
    loop {
        let read = socket.recv(&mut room).unwrap_or_else(|e| panic!("{line}: {e}"));
        let lines: Vec<String> = String::from_utf8_lossy(&room[..read]).lines().map(str::to_string).collect();
        if lines.iter().any(|found| found == line) {
            return lines;
        }
    }
}

#[test]
fn it_hears_of_readiness_reloads_and_the_end() {
    let (mut gateway, socket) = told(&[]);
    let lines = hear(&socket, "READY=1");
    assert!(lines.contains(&format!("MAINPID={}", gateway.pid())), "{lines:?}");
    gateway.signal("HUP");
    let lines = hear(&socket, "RELOADING=1");
    assert!(lines.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{lines:?}");
    hear(&socket, "READY=1");
    gateway.rewrite("nonsense: 1\n");
    gateway.signal("HUP");
    hear(&socket, "RELOADING=1");
    // Its configuration goes on, so it does not fail.
    hear(&socket, "READY=1");
    gateway.signal("TERM");
    hear(&socket, "STOPPING=1");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn an_upgrade_names_the_new_process() {
    let (mut gateway, socket) = told(&[]);
    hear(&socket, "READY=1");
    assert_eq!(gateway.upgrade().0, 0);
    let new = gateway.successor(0);
    hear(&socket, &format!("MAINPID={new}"));
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(kill("TERM", new));
    // The old one has said nothing of an end.
    hear(&socket, "STOPPING=1");
}

#[test]
fn it_shows_that_it_lives_where_that_is_asked_for() {
    let (gateway, socket) = told(&[("WATCHDOG_USEC", "200000")]);
    for _ in 0..3 {
        hear(&socket, "WATCHDOG=1");
    }
    // The next process too, also where the first was named.
    assert_eq!(gateway.upgrade().0, 0);
    hear(&socket, &format!("MAINPID={}", gateway.successor(0)));
    for _ in 0..3 {
        hear(&socket, "WATCHDOG=1");
    }
}

/// A gateway that is started with a socket that is open already.
fn activated(yaml: &str, name: &str) -> (Gateway, std::net::SocketAddr) {
    activated_at("127.0.0.1:0", yaml, name)
}

fn activated_at(address: &str, yaml: &str, name: &str) -> (Gateway, std::net::SocketAddr) {
    let listener = TcpListener::bind(address).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let mut command = Command::new("sh");
    let script = format!("exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name} exec \"$@\"");
    command.args(["-c", &script, "sh"]).arg(frontdesk().get_program()).stdin(OwnedFd::from(listener));
    command.env_remove("RUST_LOG");
    (Gateway::start_by(command, tempfile::tempdir().expect("a folder"), yaml), address)
}

#[test]
fn a_socket_that_is_open_already_is_taken_by_its_name() {
    let yaml = "listeners: [{ bind: \"systemd:web\" }]\nroutes: [{ path: /*, respond: { body: fixed } }]\n";
    let (gateway, address) = activated(yaml, "web");
    assert_eq!(Client::connect(address).get("/").text(), "fixed");
    assert_eq!(gateway.ask("/status").json()["listeners"][0]["address"], address.to_string());
    // It goes along, and comes back when a reload takes it away and another wants it again.
    assert_eq!(gateway.upgrade().0, 0);
    assert_eq!(Client::connect(address).get("/").text(), "fixed");
    let reload = |yaml: &str| {
        gateway.rewrite(yaml);
        crate::kit::run(frontdesk().args(["reload", "--admin", &format!("http://{}", gateway.admin())])).status.success()
    };
    assert!(reload(FIXED) && reload(yaml));
    assert_eq!(Client::connect(address).get("/").text(), "fixed");
}

#[test]
fn the_admin_listener_may_be_such_a_socket() {
    let (gateway, address) = activated(&format!("{FIXED}admin: {{ bind: \"systemd:admin\" }}\n"), "admin");
    let status = Client::connect(address).request("GET", "/status", &[("Host", "localhost")], b"").json();
    assert_eq!(status["pid"], gateway.pid());
}

#[test]
fn one_that_others_can_reach_needs_a_token_and_a_reload_without_it_changes_nothing() {
    // All addresses are reached by way of loopback as well.
    let admin = |token: &str| format!("admin: {{ bind: \"systemd:admin\"{token} }}\n");
    let (gateway, address) = activated_at("0.0.0.0:0", &format!("{FIXED}{}", admin(", token: secret")), "admin");
    let version = || {
        let fields = [("Host", "localhost"), ("Authorization", "Bearer secret")];
        let client = &mut Client::connect(([127, 0, 0, 1], address.port()).into());
        client.request("GET", "/status", &fields, b"").json()["snapshot"]["version"].clone()
    };
    let before = version();
    let changed = FIXED.replace("fixed", "changed");
    assert!(!gateway.reload(&format!("{changed}{}", admin(""))));
    gateway.wait_for_log(&format!("the admin listener on 0.0.0.0:{} needs a token", address.port()));
    assert_eq!((version(), gateway.get("/").text()), (before, "fixed".to_string()));
    // Nor where there was none before.
    assert!(gateway.reload(&format!("{FIXED}admin: {{ bind: 127.0.0.1:0 }}\n")));
    assert!(!gateway.reload(&format!("{changed}{}", admin(""))));
    assert_eq!(gateway.get("/").text(), "fixed");
}

#[test]
fn a_name_that_nothing_was_handed_over_by_is_a_problem() {
    let gateway = Gateway::start(FIXED);
    assert!(!gateway.reload("listeners: [{ bind: \"systemd:web\" }]\nroutes: [{ path: /*, respond: {} }]\n"));
    eventually("the reason", || gateway.log().iter().any(|line| line.contains("no socket named `web`")).then_some(()));
}

#[test]
fn the_shipped_units_and_scripts_are_well_formed() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for script in ["postinst", "prerm", "postrm"] {
        assert!(run(Command::new("sh").arg("-n").arg(shipped.join("debian").join(script))).status.success(), "{script}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let unit = std::fs::read_to_string(shipped.join("frontdesk.service")).expect("the unit");
    let unit = unit.replace("/usr/bin/frontdesk", env!("CARGO_BIN_EXE_frontdesk"));
    std::fs::write(folder.path().join("frontdesk.service"), unit).expect("a file");
    std::fs::copy(shipped.join("frontdesk.socket"), folder.path().join("frontdesk.socket")).expect("a copy");
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify").args(["frontdesk.service", "frontdesk.socket"].map(|name| folder.path().join(name)));
    match verify.output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(e) => eprintln!("systemd-analyze can't be run, the units are NOT verified: {e}"),
    }
}
