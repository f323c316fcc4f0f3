//! Another process in place of this one: started, met, waited for. Until it serves, this one does.

use super::handover::{Offer, Predecessor, Section, Slot, VARIABLE, more, offer};
use super::loading::{Failure, admin_slot, slots};
use super::notify;
use super::probe::probe;
use super::sockets::{SocketFile, bind_unix};
use super::{ADMIN, Server};
use crate::config::scalar::Bind;
use crate::snapshot::State;
use crate::types::Carried;
use nix::unistd::geteuid;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, oneshot};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// What of the environment is this process's own.
const OWN: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// How long what was asked of the admin listener may take to be answered once another process has it.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often the new process hears of what is still counted here.
const TELL_EVERY: Duration = Duration::from_millis(250);

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
    async fn accept(&self) -> io::Result<UnixStream> {
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

/// What every room has to say.
fn sections(state: &State, said: impl Fn(&dyn Carried) -> Option<Vec<u8>>) -> Vec<Section> {
    let section = |room: &dyn Carried| Some(Section { name: room.name().into(), version: room.version(), bytes: said(room)? });
    state.carried().into_iter().filter_map(section).collect()
}

/// Gives a section to the room that it comes from; of another version, it is left.
pub fn take(state: &State, section: &Section) {
    let room = state.carried().into_iter().find(|room| room.name() == section.name && room.version() == section.version);
    room.into_iter().for_each(|room| room.take(&section.bytes));
}

/// The process that has taken the place of this one.
pub struct Successor {
    pub pid: u32,
    /// `None` once it can't be told any more.
    stream: Option<tokio::net::UnixStream>,
}

impl Successor {
    /// Tells it what has come since the last time.
    pub async fn tell(&mut self, state: &State) {
        let sections = sections(state, |room| room.give_more());
        self.send(&sections).await;
    }

    async fn send(&mut self, sections: &[Section]) {
        // Taken for as long as it is written to: what is given up half-way is not to be gone on with.
        let (Some(mut stream), Ok(bytes)) = (self.stream.take(), more(sections)) else { return };
        // It may have made room for another one by now: then there is nobody to tell.
        if let Ok(Ok(())) = timeout(LAST_WORDS, stream.write_all(&bytes)).await {
            self.stream = Some(stream);
        }
    }
}

impl Server {
    /// Takes the place of another process, once everything is there and has been tried.
    pub(super) async fn take_place(&self, predecessor: &Arc<Predecessor>) -> Result<(), Failure> {
        let has_keys = self.first_answers().await;
        for (slot, id) in slots(&self.snapshot.load()) {
            let connected = self.listeners.connect(id).map_err(|e| e.to_string());
            let asked = async { probe(connected?).await };
            asked.await.map_err(|why| Failure::Other(format!("the listener on {} does not serve: {why}", slot.bind)))?;
        }
        let left = |e: io::Error| Failure::Other(format!("process {} goes on: {e}", predecessor.pid));
        block_in_place(|| predecessor.ready()).map_err(left)?;
        self.listeners.own_files(true);
        self.admin_listeners.own_files(true);
        self.listeners.let_in();
        if let Err(e) = predecessor.serving() {
            log::warn!("process {} has gone by itself: {e}", predecessor.pid);
        }
        // Whoever scrapes must not see less here than was said there.
        let _ = timeout(LAST_WORDS, self.hear(predecessor.clone())).await;
        self.admin_listeners.let_in();
        log::info!("process {} has taken the place of {}", std::process::id(), predecessor.pid);
        self.become_ready(has_keys);
        Ok(())
    }

    /// Takes what the old process still counts, for as long as it is there; done once nothing is missing up to now.
    async fn hear(&self, predecessor: Arc<Predecessor>) {
        let (heard, state) = (Arc::new(Notify::new()), self.state.clone());
        let (said, (gone, is_gone)) = (heard.clone(), oneshot::channel());
        *self.predecessor.lock().unwrap_or_else(PoisonError::into_inner) = Some(is_gone);
        // A thread of its own, since it may last for as long as the old process has something to finish.
        std::thread::spawn(move || {
            predecessor.hear(|section| take(&state, &section), || said.notify_one());
            said.notify_one();
            drop(gone);
        });
        heard.notified().await;
    }

    /// Accepts no more, and tells the new process what it has not heard of.
    pub(super) async fn make_room(&self, successor: &mut Successor) {
        notify::replaced_by(successor.pid);
        self.admin_listeners.stop_accepting().await;
        self.state.metrics.give_way();
        successor.tell(&self.state).await;
        self.listeners.stop_accepting().await;
    }

    /// Lets what is in flight finish. Another process accepts already: nobody has to be told to stay away.
    pub(super) async fn finish(&self, successor: &mut Successor) {
        self.listeners.own_files(false);
        self.admin_listeners.own_files(false);
        // The other one looks after the endpoints now.
        self.keepers().abort_all();
        let (_, limit) = self.status.drain_times();
        log::info!("finishing: {} connections", self.connections.live());
        self.admin_listeners.remove_all(LAST_WORDS);
        let admin = async {
            // Who asked for the upgrade is to hear of it.
            let _ = timeout(LAST_WORDS, self.admin_connections.drained()).await;
        };
        let telling = async {
            let mut ticks = interval(TELL_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let sections = sections(&self.state, |room| room.give_more());
                if !sections.is_empty() {
                    successor.send(&sections).await;
                }
            }
        };
        tokio::select! {
            _ = async { tokio::join!(self.wind_down(limit), admin) } => {}
            () = telling => {}
        }
    }

    /// Tells what came last, that of a still older process included, if it ends soon.
    pub(super) async fn say_the_last(&self, successor: &mut Successor) {
        let predecessor = self.predecessor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(is_gone) = predecessor {
            let _ = timeout(LAST_WORDS, is_gone).await;
        }
        successor.tell(&self.state).await;
    }

    /// Starts this program anew, from where it lies now, and has it take over. After that this one has but to make room and to
    /// finish.
    ///
    /// # Errors
    /// Why there is no new process. This one serves on.
    pub(super) async fn upgrade(&self) -> Result<Successor, String> {
        let outcome = self.try_upgrade().await;
        match &outcome {
            Ok(Successor { pid, .. }) => log::info!("upgraded: process {pid} has taken over from {}", std::process::id()),
            Err(why) => log::error!("not upgraded, process {} serves on: {why}", std::process::id()),
        }
        outcome
    }

    async fn try_upgrade(&self) -> Result<Successor, String> {
        let (path, limit) = self.status.upgrade_terms();
        let meeting = Meeting::open(path.as_deref()).map_err(|e| format!("the upgrade socket can't be opened: {e}"))?;
        let offer = self.offer().await.map_err(|e| format!("sockets can't be handed over: {e}"))?;
        let program = self.program.path.display();
        let mut child = self.program.start(&meeting.path).map_err(|e| format!("{program} can't be started: {e}"))?;
        let pid = child.id().unwrap_or(0);
        let met = timeout(limit, meet(&meeting, &mut child, offer, limit)).await;
        let failed = match met {
            Ok(Ok(stream)) => {
                // From now on it is nobody's child.
                std::mem::forget(child);
                return Ok(Successor { pid, stream });
            }
            Ok(Err(why)) => why,
            Err(_) => format!("it was not ready within {limit:?}"),
        };
        // Also when it was not to be killed: it must not take the place later.
        let _ = child.kill().await;
        Err(format!("process {pid} ({program}): {failed}"))
    }

    /// The sockets that listen, and what is to be remembered.
    async fn offer(&self) -> io::Result<Offer> {
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
        let state = self.state.clone();
        // There may be a million buckets.
        let state = spawn_blocking(move || sections(&state, |room| Some(room.give()))).await?;
        Ok(Offer { sockets, state })
    }
}

async fn meet(meeting: &Meeting, child: &mut Child, all: Offer, limit: Duration) -> Result<Option<tokio::net::UnixStream>, String> {
    let stream = tokio::select! {
        stream = meeting.accept() => stream.map_err(|e| e.to_string())?,
        status = child.wait() => return Err(ended(status)),
    };
    let bounded = stream.set_read_timeout(Some(limit)).and_then(|()| stream.set_write_timeout(Some(limit)));
    bounded.map_err(|e| e.to_string())?;
    let stream = spawn_blocking(move || offer(&stream, all).map(|()| stream)).await.map_err(|e| e.to_string())??;
    // It serves by now: nothing that goes wrong here may end it.
    Ok(stream.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(stream)).ok())
}

fn ended(status: io::Result<std::process::ExitStatus>) -> String {
    match status {
        Ok(status) => format!("it ended at once with {status}; what it wrote to stderr says why"),
        Err(e) => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;

    #[test]
    fn what_has_another_name_or_version_is_left() {
        let metrics = || Metrics::new().expect("metrics");
        let (old, new) = (metrics(), State::new(metrics()));
        old.flood_refused.inc();
        let section = |name: &str, version| Section { name: name.into(), version, bytes: old.give() };
        take(&new, &section("metrics", old.version() + 1));
        take(&new, &section("unheard of", old.version()));
        assert_eq!(new.metrics.flood_refused.get(), 0);
        take(&new, &section("metrics", old.version()));
        assert_eq!(new.metrics.flood_refused.get(), 1);
    }
}
