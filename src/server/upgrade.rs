//! Another process in place of this one: started, met, waited for. Until it serves, this one does.

use super::handover::{Offer, Section, Slot, VARIABLE, offer};
use super::loading::{admin_slot, slots};
use super::sockets::{SocketFile, bind_unix};
use super::{ADMIN, Server};
use crate::config::scalar::Bind;
use crate::types::Carried;
use nix::unistd::geteuid;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// What of the environment is this process's own.
const OWN: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// To be asked before anything else: the path is where the program lay at the start, and where its successor is looked for.
    ///
    /// # Errors
    /// The system does not say.
    pub fn own() -> io::Result<Program> {
        let running = std::env::current_exe()?;
        let mut arguments = std::env::args_os();
        // As it was called, where that leads to it: a link that points to another version by then is followed to that one.
        let called = arguments.next().map(PathBuf::from).filter(|called| called.components().count() > 1);
        let called = called.and_then(|called| std::path::absolute(called).ok());
        let is_own = |called: &PathBuf| fs::canonicalize(called).is_ok_and(|path| path == running);
        Ok(Program { path: called.filter(is_own).unwrap_or(running), arguments: arguments.collect() })
    }

    fn start(&self, meeting: &Path) -> io::Result<Child> {
        let mut command = Command::new(&self.path);
        for variable in OWN {
            command.env_remove(variable);
        }
        // Whatever goes wrong from here on, it ends.
        command.args(&self.arguments).env(VARIABLE, meeting).kill_on_drop(true).spawn()
    }
}

/// Where the new process is met.
struct Meeting {
    listener: UnixListener,
    path: PathBuf,
    _file: SocketFile,
    /// Made for this meeting only.
    _folder: Option<OwnFolder>,
}

struct OwnFolder(PathBuf);

impl Drop for OwnFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

impl Meeting {
    fn open(configured: Option<&Path>) -> io::Result<Meeting> {
        let (path, folder) = match (configured, std::env::var_os("RUNTIME_DIRECTORY")) {
            (Some(path), _) => (path.to_path_buf(), None),
            // Of several, which are parted by colons, the first.
            (None, Some(folders)) => {
                let folder = folders.to_string_lossy().split(':').next().unwrap_or_default().to_string();
                (Path::new(&folder).join("upgrade.sock"), None)
            }
            (None, None) => {
                let folder = std::env::temp_dir().join(format!("frontdesk-{}-{:016x}", std::process::id(), fastrand::u64(..)));
                DirBuilder::new().mode(0o700).create(&folder)?;
                (folder.join("upgrade.sock"), Some(OwnFolder(folder)))
            }
        };
        prepare_folder(path.parent().unwrap_or(Path::new(".")))?;
        let socket = bind_unix(&path, 0o600)?;
        let file = SocketFile::new(path.clone());
        Ok(Meeting { listener: UnixListener::from_std(socket.into())?, path, _file: file, _folder: folder })
    }

    /// The first who comes as the user that we are.
    async fn accept(&self) -> io::Result<std::os::unix::net::UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            if uid == geteuid().as_raw() {
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            log::warn!("user {uid} may not take the place of this process");
        }
    }
}

/// Makes the folder of the socket if need be. In one where others may put files they could put their own in its place.
fn prepare_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = fs::metadata(folder)?;
    let (is_for_others, is_sticky) = (found.mode() & 0o022 != 0, found.mode() & 0o1000 != 0);
    let is_foreign = found.uid() != geteuid().as_raw() && found.uid() != 0;
    match (is_for_others && !is_sticky) || is_foreign {
        true => Err(io::Error::other(format!("others may write to {}: chmod it to 0700", folder.display()))),
        false => Ok(()),
    }
}

impl Server {
    /// Starts this program anew, from where it lies now, and has it take over. Answers the new process's number; after that this
    /// one has but to finish.
    ///
    /// # Errors
    /// Why there is no new process. This one serves on.
    pub(super) async fn upgrade(&self) -> Result<u32, String> {
        let outcome = self.try_upgrade().await;
        match &outcome {
            Ok(pid) => log::info!("upgraded: process {pid} has taken over from {}", std::process::id()),
            Err(why) => log::error!("not upgraded, process {} serves on: {why}", std::process::id()),
        }
        outcome
    }

    async fn try_upgrade(&self) -> Result<u32, String> {
        let (path, limit) = self.status.upgrade_terms();
        let meeting = Meeting::open(path.as_deref()).map_err(|e| format!("the upgrade socket can't be opened: {e}"))?;
        let offer = self.offer().map_err(|e| format!("sockets can't be handed over: {e}"))?;
        let program = self.program.path.display();
        let mut child = self.program.start(&meeting.path).map_err(|e| format!("{program} can't be started: {e}"))?;
        let pid = child.id().unwrap_or(0);
        let met = timeout(limit, meet(&meeting, &mut child, offer, limit)).await;
        let failed = match met {
            Ok(Ok(())) => {
                // From now on it is nobody's child.
                std::mem::forget(child);
                return Ok(pid);
            }
            Ok(Err(why)) => why,
            Err(_) => format!("it was not ready within {limit:?}"),
        };
        // Also when it was not to be killed: it must not take the place later.
        let _ = child.kill().await;
        Err(format!("process {pid} ({program}): {failed}"))
    }

    /// The sockets that listen, and what is to be remembered.
    fn offer(&self) -> io::Result<Offer> {
        let mut open = self.listeners.sockets()?;
        let listeners = slots(&self.snapshot.load()).into_iter().filter_map(|(slot, id)| Some((slot, open.remove(&id)?)));
        let mut sockets: Vec<_> = listeners.collect();
        if let (Some(bind), Some(socket)) = (self.status.admin_bind(), self.admin_listeners.sockets()?.remove(&ADMIN)) {
            sockets.push((admin_slot(&bind), socket));
        }
        // Those of systemd go as they came, also where none listens now.
        sockets.retain(|(slot, _)| !matches!(slot.bind, Bind::Systemd(_)));
        for (name, socket) in &self.inherited().systemd {
            sockets.push((Slot { bind: Bind::Systemd(name.clone()), nth: 0, is_admin: false }, socket.try_clone()?));
        }
        let section = |room: &dyn Carried| Section { name: room.name().into(), version: room.version(), bytes: room.give() };
        Ok(Offer { sockets, state: self.state.carried().into_iter().map(section).collect() })
    }
}

async fn meet(meeting: &Meeting, child: &mut Child, all: Offer, limit: Duration) -> Result<(), String> {
    let stream = tokio::select! {
        stream = meeting.accept() => stream.map_err(|e| e.to_string())?,
        status = child.wait() => return Err(ended(status)),
    };
    let bounded = stream.set_read_timeout(Some(limit)).and_then(|()| stream.set_write_timeout(Some(limit)));
    bounded.map_err(|e| e.to_string())?;
    tokio::task::spawn_blocking(move || offer(&stream, all)).await.map_err(|e| e.to_string())?
}

fn ended(status: io::Result<std::process::ExitStatus>) -> String {
    match status {
        Ok(status) => format!("it ended at once with {status}; what it wrote to stderr says why"),
        Err(e) => e.to_string(),
    }
}
