//! A real redis-server, as a process of its own.

use super::{PATIENCE, eventually};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub struct Redis {
    child: Child,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Redis {
    /// On a unix socket, which nobody else can have: see [`Redis::url`].
    #[track_caller]
    pub fn start() -> Redis {
        Redis::start_with(tempfile::tempdir().expect("a folder"), &[])
    }

    /// The same with arguments of its own, in a folder that may have files already.
    #[track_caller]
    pub fn start_with(folder: tempfile::TempDir, arguments: &[&str]) -> Redis {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let child = spawn(folder.path(), &arguments);
        let mut redis = Redis { child, folder, arguments };
        redis.wait_until_there();
        redis
    }

    /// The same on a port besides: `arguments` are made of it. Somebody else may take a free port first; then another is tried.
    #[track_caller]
    pub fn start_on_port(arguments: impl Fn(&Path, u16) -> (tempfile::TempDir, Vec<String>)) -> (Redis, u16) {
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
            let (folder, arguments) = arguments(Path::new(""), port);
            let child = spawn(folder.path(), &arguments);
            let mut redis = Redis { child, folder, arguments };
            let is_there = eventually("the redis-server or its end", || match redis.child.try_wait().expect("the redis-server") {
                Some(_) => Some(false),
                None => (redis.answers() && TcpStream::connect(("127.0.0.1", port)).is_ok()).then_some(true),
            });
            if is_there {
                return (redis, port);
            }
        }
        panic!("no port for a redis-server");
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn url(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    fn answers(&self) -> bool {
        self.try_ask("PING").is_some()
    }

    #[track_caller]
    fn wait_until_there(&mut self) {
        eventually("the redis-server", || {
            let ended = self.child.try_wait().expect("the redis-server");
            assert!(ended.is_none(), "redis-server has ended: {ended:?}");
            self.answers().then_some(())
        });
    }

    fn try_ask(&self, command: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(*PATIENCE)).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut answer = vec![0; 65_536];
        let length = stream.read(&mut answer).ok().filter(|length| *length > 0)?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    /// The answer to a short command.
    #[track_caller]
    pub fn ask(&self, command: &str) -> String {
        self.try_ask(command).expect("an answer of the redis-server")
    }

    /// Sends a signal by its short name.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().expect("kill").success());
    }

    /// Ends it without a word.
    #[track_caller]
    pub fn kill(&mut self) {
        self.child.kill().expect("the redis-server");
        self.child.wait().expect("the redis-server");
    }

    /// Starts it again, empty.
    #[track_caller]
    pub fn restart(&mut self) {
        self.child = spawn(self.folder.path(), &self.arguments);
        self.wait_until_there();
    }
}

#[track_caller]
fn spawn(folder: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.current_dir(folder).args(["--unixsocket", "redis.sock", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    if !arguments.iter().any(|argument| argument.ends_with("port")) {
        command.args(["--port", "0"]);
    }
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|e| panic!("redis-server can't be run ({e}); ./dev test installs it"))
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
