//! A gateway as a process of its own.

use super::{Answer, Client, PATIENCE, eventually, frontdesk};
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub struct Gateway {
    child: Child,
    folder: tempfile::TempDir,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Gateway {
    /// Starts a gateway from a YAML and waits until it is ready. `DIR` in the text becomes a folder of this gateway's own; an
    /// admin listener and an access log (`DIR/access.log`) are added unless the text has them.
    #[track_caller]
    pub fn start(yaml: &str) -> Gateway {
        let folder = tempfile::tempdir().expect("a folder");
        Gateway::start_in(folder, yaml)
    }

    /// The same in a folder that has files already, such as certificates.
    #[track_caller]
    pub fn start_in(folder: tempfile::TempDir, yaml: &str) -> Gateway {
        Gateway::start_with(folder, yaml, &[])
    }

    /// The same with variables in its environment.
    #[track_caller]
    pub fn start_with(folder: tempfile::TempDir, yaml: &str, variables: &[(&str, &str)]) -> Gateway {
        let mut command = frontdesk();
        command.envs(variables.iter().copied());
        Gateway::start_by(command, folder, yaml)
    }

    /// The same by another command, such as a link to the program.
    #[track_caller]
    pub fn start_by(mut command: Command, folder: tempfile::TempDir, yaml: &str) -> Gateway {
        std::fs::write(folder.path().join("frontdesk.yaml"), complete(yaml, folder.path())).expect("the configuration");
        let mut child = command
            .args(["run", "-c"])
            .arg(folder.path().join("frontdesk.yaml"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stderr, collected) = (child.stderr.take().expect("a pipe"), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                collected.lock().expect("the lines").push(line);
            }
        });
        let mut gateway = Gateway { child, folder, lines };
        eventually("the gateway's readiness", || {
            if let Some(status) = gateway.child.try_wait().expect("the gateway") {
                panic!("the gateway ended with {status}: {:#?}", gateway.log());
            }
            gateway.log().iter().any(|line| line.contains("ready: ")).then_some(())
        });
        gateway
    }

    /// The gateway's folder, which `DIR` stands for.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What it has written to its error log.
    pub fn log(&self) -> Vec<String> {
        self.lines.lock().expect("the lines").clone()
    }

    /// Waits for a line in the error log.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) -> String {
        eventually(&format!("{text:?} in the log"), || self.log().into_iter().find(|line| line.contains(text)))
    }

    /// The addresses of all listeners, by name; those without one are `unnamed`. The last one wins.
    pub fn addresses(&self) -> HashMap<String, SocketAddr> {
        let parse = |line: String| {
            let (address, name) = line.split_once("listening on ")?.1.split_once(" (")?;
            Some((name.trim_end_matches(')').to_string(), address.parse().ok()?))
        };
        self.log().into_iter().filter_map(parse).collect()
    }

    /// The only listener, or the one that is named.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        *self.addresses().values().next().expect("a listener")
    }

    #[track_caller]
    pub fn address_of(&self, name: &str) -> SocketAddr {
        *self.addresses().get(name).unwrap_or_else(|| panic!("no listener {name}"))
    }

    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        let line = self.wait_for_log("admin on ");
        line.split_once("admin on ").expect("an address").1.trim().parse().expect("an address")
    }

    /// A connection to the only listener.
    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Answer {
        self.connect().request("GET", target, &[], b"")
    }

    /// Asks the admin listener.
    #[track_caller]
    pub fn ask(&self, target: &str) -> Answer {
        Client::connect(self.admin()).request("GET", target, &[("Host", "localhost")], b"")
    }

    /// The value of a metric by its name and labels, as they are written; 0 when it is not there yet.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.ask("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Waits for the access log to have this many lines, and answers them.
    #[track_caller]
    pub fn access_log(&self, at_least: usize) -> Vec<serde_json::Value> {
        eventually(&format!("{at_least} lines in the access log"), || {
            let text = std::fs::read_to_string(self.file("access.log")).unwrap_or_default();
            let lines: Vec<_> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (lines.len() >= at_least).then_some(lines)
        })
    }

    /// Writes another configuration, for a reload.
    pub fn rewrite(&self, yaml: &str) {
        let new = self.file("frontdesk.yaml.new");
        std::fs::write(&new, complete(yaml, self.folder())).expect("the configuration");
        std::fs::rename(new, self.file("frontdesk.yaml")).expect("the configuration");
    }

    /// Reloads and waits for the outcome: whether it was taken.
    #[track_caller]
    pub fn reload(&self, yaml: &str) -> bool {
        let outcomes = || (self.count("reloaded: version"), self.count("not reloaded"));
        let before = outcomes();
        self.rewrite(yaml);
        self.signal("HUP");
        let after = eventually("the reload's outcome", || (outcomes() != before).then(outcomes));
        after.0 > before.0
    }

    fn count(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.contains(text)).count()
    }

    /// Sends a signal by its short name.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        assert!(kill(name, self.child.id()));
    }

    /// Has it upgraded by the command; its exit code, what it says, and what it complains of.
    #[track_caller]
    pub fn upgrade(&self) -> (i32, String, String) {
        let before = self.successors().len();
        let output = super::run(frontdesk().args(["upgrade", "--admin", &format!("http://{}", self.admin())]));
        if output.status.success() {
            // Or it would outlive the test.
            eventually("word of the next process", || (self.successors().len() > before).then_some(()));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
    }

    /// The processes that have taken its place, one after the other, as far as it has said so.
    fn successors(&self) -> Vec<u32> {
        let pid = |line: &String| line.split_once("upgraded: process ")?.1.split(' ').next()?.parse().ok();
        self.log().iter().filter_map(pid).collect()
    }

    /// The one of that number, counted from 0.
    #[track_caller]
    pub fn successor(&self, n: usize) -> u32 {
        eventually("the next process", || self.successors().get(n).copied())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the process to end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the gateway's end", || self.child.try_wait().expect("the gateway"))
    }

    /// Waits until nothing is open or in flight any more, so that what a test has ended leaves nothing behind.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        eventually("an idle gateway", || {
            let status = self.ask("/status").json();
            let pools = status["services"].as_array().cloned().unwrap_or_default();
            let endpoints = pools.iter().flat_map(|service| service["endpoints"].as_array().cloned().unwrap_or_default());
            let busy: u64 = endpoints.map(|endpoint| endpoint["in_flight"].as_u64().unwrap_or(1)).sum();
            let waiting = status["overload"]["waiting"].as_u64().unwrap_or(0);
            let entries = pools.iter().chain(status["caps"].as_array().into_iter().flatten());
            let inside: u64 = entries.map(|entry| entry["cap"]["in_flight"].as_u64().unwrap_or(0)).sum();
            (status["connections"] == 0 && status["in_flight"] == 0 && busy == 0 && inside + waiting == 0).then_some(())
        });
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// The most that it ever was.
    pub fn peak_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, kind: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process");
        let line = status.lines().find_map(|line| line.strip_prefix(kind)).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

/// Sends a signal by its short name; says whether there was such a process.
pub fn kill(signal: &str, pid: u32) -> bool {
    let output = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).output();
    output.expect("kill").status.success()
}

fn complete(yaml: &str, folder: &Path) -> String {
    let mut text = yaml.replace("DIR", &folder.display().to_string());
    if !text.contains("admin:") {
        text.push_str("\nadmin: { bind: 127.0.0.1:0 }\n");
    }
    if !text.contains("access_log:") {
        text.push_str(&format!("\naccess_log: {{ path: {}/access.log }}\n", folder.display()));
    }
    text
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Whoever was started by now has said so.
        for pid in self.successors() {
            kill("KILL", pid);
        }
        if std::thread::panicking() {
            eprintln!("the gateway's log: {:#?}", self.log());
        }
    }
}

/// Runs a gateway that is expected to end by itself, and answers its exit code and what it wrote to stderr.
#[track_caller]
pub fn run_to_end(arguments: &[&str]) -> (Option<i32>, String) {
    let started = Instant::now();
    let output = super::run(frontdesk().args(arguments).stdin(Stdio::null()));
    assert!(started.elapsed() < *PATIENCE, "took {:?}", started.elapsed());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
