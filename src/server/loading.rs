//! From a configuration's origin to a snapshot and its sockets, or to everything that is wrong with it.

use super::handover::Slot;
use super::sockets::{Bound, Inherited};
use crate::config::place::At;
use crate::config::problem::{Problem, Problems};
use crate::config::raw::Config;
use crate::config::scalar::Bind;
use crate::config::source::Sources;
use crate::config::{load, render};
use crate::proxy::difference::{self, Comparison, Side};
use crate::proxy::rehearse::{self, Difference, Rehearsed};
use crate::snapshot::{Meta, Snapshot, State, advise, check_admin};
use crate::types::ListenerId;
use serde_json::json;
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a configuration comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    File(PathBuf),
    /// A name for messages, and the text itself.
    Text(String, String),
}

/// Why a configuration is not used.
#[derive(Debug)]
pub enum Failure {
    Problems(Arc<Sources>, Vec<Problem>),
    /// A file that can't be read, and why.
    Unread(PathBuf, String),
    Other(String),
}

impl Failure {
    /// For machines, as `check` says it.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Failure::Problems(sources, problems) => {
                let problems: Vec<_> = problems.iter().map(|problem| problem.json(sources, "error")).collect();
                json!({ "file": sources.name(), "ok": false, "problems": problems })
            }
            Failure::Unread(path, _) => {
                let file = path.display().to_string();
                json!({ "file": file, "ok": false, "problems": [{ "severity": "error", "file": file, "what": self.to_string() }] })
            }
            Failure::Other(what) => json!({ "ok": false, "problems": [{ "severity": "error", "what": what }] }),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unread(path, why) => write!(f, "{}: {why}", path.display()),
            Failure::Other(text) => f.write_str(text),
            Failure::Problems(sources, problems) => {
                let s = if problems.len() == 1 { "" } else { "s" };
                write!(f, "{}{} problem{s} in {}", render::render(problems, sources, ""), problems.len(), sources.name())
            }
        }
    }
}

/// A configuration that can be run.
pub struct Loaded {
    pub sources: Arc<Sources>,
    pub raw: Config,
    pub snapshot: Arc<Snapshot>,
    pub warnings: Vec<Problem>,
}

fn sources(origin: &Origin) -> Result<Sources, Failure> {
    match origin {
        Origin::Text(name, text) => Ok(Sources::new(name, text)),
        Origin::File(path) => {
            let file = load::read_file(path).map_err(|e| Failure::Unread(path.clone(), e.to_string()))?;
            Ok(Sources::new(file.name, file.text))
        }
    }
}

/// All that was found in a configuration.
struct Found {
    sources: Arc<Sources>,
    built: Option<(Config, Snapshot)>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Reads and builds. May wait for DNS.
fn find(origin: &Origin, state: &State, version: u64) -> Result<Found, Failure> {
    let mut sources = sources(origin)?;
    let problems = Problems::default();
    let built = load::parse(&mut sources, &problems).and_then(|value| {
        let raw = load::walk(&value, &sources, &problems)?;
        let mut hasher = DefaultHasher::new();
        sources.files().iter().for_each(|file| file.text.hash(&mut hasher));
        let (shown, hidden) = (load::show(&value, &sources), sources.hidden().clone());
        let meta = Meta { version, hash: format!("{:016x}", hasher.finish()), shown, hidden };
        let snapshot = Snapshot::build(&raw, meta, state, &problems)?;
        Some((raw, snapshot))
    });
    let (mut errors, mut warnings) = problems.into_parts();
    render::sort(&mut errors, &sources);
    render::sort(&mut warnings, &sources);
    Ok(Found { sources: Arc::new(sources), built, errors, warnings })
}

/// A configuration to be run, or the problems because of which it can't be.
pub fn load(origin: &Origin, state: &State, version: u64) -> Result<Loaded, Failure> {
    let Found { sources, built, errors, warnings } = find(origin, state, version)?;
    match built {
        Some((raw, snapshot)) if errors.is_empty() => Ok(Loaded { sources, raw, snapshot: Arc::new(snapshot), warnings }),
        _ => Err(Failure::Problems(sources, errors)),
    }
}

/// What `check` has to say of a configuration, without running it.
#[derive(Debug)]
pub struct Report {
    sources: Arc<Sources>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.errors.is_empty()
    }

    /// For machines.
    pub fn json(&self) -> serde_json::Value {
        let errors = self.errors.iter().map(|problem| problem.json(&self.sources, "error"));
        let warnings = self.warnings.iter().map(|problem| problem.json(&self.sources, "warning"));
        json!({ "file": self.sources.name(), "ok": self.is_good(), "problems": errors.chain(warnings).collect::<Vec<_>>() })
    }
}

/// Warnings first, so that what has to be mended is at the end, where the eye is.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&render::render(&self.warnings, &self.sources, "warning: "))?;
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let warnings = count(self.warnings.len(), "warning");
        let name = self.sources.name();
        match (self.errors.len(), self.warnings.len()) {
            (0, 0) => write!(f, "{name}: ok"),
            (0, _) => write!(f, "{name}: ok, {warnings}"),
            (n, 0) => write!(f, "{}{} in {name}", render::render(&self.errors, &self.sources, ""), count(n, "problem")),
            (n, _) => write!(f, "{}{} and {warnings} in {name}", render::render(&self.errors, &self.sources, ""), count(n, "problem")),
        }
    }
}

/// All that is to be said of a configuration, without running it.
///
/// # Errors
/// It could not be read at all.
pub fn check(origin: &Origin) -> Result<Report, Failure> {
    let metrics = crate::observe::Metrics::new().map_err(|e| Failure::Other(e.to_string()))?;
    let Found { sources, built, mut errors, mut warnings } = find(origin, &State::dry(metrics), 1)?;
    if let Some((raw, snapshot)) = built.filter(|_| errors.is_empty()) {
        let advice = Problems::default();
        advise(&raw, &advice);
        warnings.extend(advice.into_parts().1);
        render::sort(&mut warnings, &sources);
        errors = failing(&raw, &Arc::new(snapshot));
        render::sort(&mut errors, &sources);
    }
    Ok(Report { sources, errors, warnings })
}

/// What would change from one configuration to the other.
///
/// # Errors
/// The problems because of which one of them can't be looked at.
pub fn compare(old: &Origin, new: &Origin) -> Result<Comparison, Failure> {
    let metrics = crate::observe::Metrics::new().map_err(|e| Failure::Other(e.to_string()))?;
    // One state, so that listeners of the same address are the same.
    let state = State::dry(metrics);
    let (old, new) = (load(old, &state, 1)?, load(new, &state, 2)?);
    let old = Side { raw: &old.raw, snapshot: &old.snapshot };
    Ok(difference::compare(old, Side { raw: &new.raw, snapshot: &new.snapshot }))
}

/// Runs a configuration's own tests.
///
/// # Errors
/// The problems because of which there is nothing to test.
pub fn rehearse(origin: &Origin) -> Result<Vec<Rehearsed>, Failure> {
    let metrics = crate::observe::Metrics::new().map_err(|e| Failure::Other(e.to_string()))?;
    let Loaded { raw, snapshot, .. } = load(origin, &State::dry(metrics), 1)?;
    Ok(raw.tests.iter().flatten().map(|test| rehearse::rehearse(&snapshot, test)).collect())
}

/// Tests that fail, as problems.
fn failing(raw: &Config, snapshot: &Arc<Snapshot>) -> Vec<Problem> {
    let (root, problems) = (At::root(), Problems::default());
    let tests_at = root.key("tests");
    for (index, test) in raw.tests.iter().enumerate() {
        let (at, Some(test)) = (tests_at.index(index), test) else { continue };
        let rehearsed = rehearse::rehearse(snapshot, test);
        let why = format!("the test `{}` fails", rehearsed.name);
        for Difference { key, expected, found } in rehearsed.differences {
            let shown = |text: &str| if text.is_empty() { "none".to_string() } else { format!("`{text}`") };
            let fix = "correct the configuration, or what is expected; `frontdesk explain` says how it comes about";
            let _: Option<()> = match key {
                "" => problems.at(&at, found, why.clone(), "correct the request"),
                key => {
                    let what = format!("`{key}` is {}, expected {}", shown(&found), shown(&expected));
                    problems.at(&at.key("expect").key(key), what, why.clone(), fix)
                }
            };
        }
    }
    problems.into_parts().0
}

/// A configuration as a snapshot that nothing runs.
///
/// # Errors
/// The problems.
pub fn inspect(origin: &Origin) -> Result<Arc<Snapshot>, Failure> {
    let metrics = crate::observe::Metrics::new().map_err(|e| Failure::Other(e.to_string()))?;
    Ok(load(origin, &State::dry(metrics), 1)?.snapshot)
}

/// The sockets of a configuration that are not open yet.
#[derive(Default)]
pub struct Sockets {
    pub listeners: Vec<(ListenerId, Bound)>,
    pub admin: Option<Bound>,
}

/// Binds all sockets that are missing, or none: those bound so far are closed again. `is_open` says of a listener, and with
/// `None` of the admin's, that it is open already.
pub fn bind(loaded: &Loaded, inherited: &mut Inherited, is_open: impl Fn(Option<ListenerId>) -> bool) -> Result<Sockets, Failure> {
    let problems = Problems::default();
    let root = At::root();
    let (listeners_at, admin_at) = (root.key("listeners"), root.key("admin"));
    let mut sockets = Sockets::default();
    for (index, (slot, id)) in slots(&loaded.snapshot).into_iter().enumerate() {
        if !is_open(Some(id)) {
            let bound = try_bind(&slot, inherited, &listeners_at.index(index).key("bind"), &problems);
            sockets.listeners.extend(bound.map(|bound| (id, bound)));
        }
    }
    if let Some(admin) = loaded.raw.admin.as_ref().filter(|_| !is_open(None)) {
        sockets.admin = try_bind(&admin_slot(&admin.bind), inherited, &admin_at.key("bind"), &problems);
    }
    // Where a socket of systemd's listens is known only now; its token may have gone since it was opened.
    if let Some(admin) = &loaded.raw.admin
        && let Bind::Systemd(name) = &admin.bind
        && let Some(address) = inherited.address(name)
    {
        check_admin(admin, address, &admin_at, &problems);
    }
    match problems.into_parts() {
        (errors, _) if errors.is_empty() => Ok(sockets),
        (errors, _) => Err(Failure::Problems(loaded.sources.clone(), errors)),
    }
}

/// The listeners by what they are known by to other processes, in their order.
pub fn slots(snapshot: &Snapshot) -> Vec<(Slot, ListenerId)> {
    let mut seen = HashMap::<&Bind, usize>::new();
    let mut slots = Vec::new();
    for listener in &snapshot.listeners {
        let count = seen.entry(&listener.bind).or_insert(0);
        slots.push((Slot { bind: listener.bind.clone(), nth: *count, is_admin: false }, listener.id));
        *count += 1;
    }
    slots
}

pub fn admin_slot(bind: &Bind) -> Slot {
    Slot { bind: bind.clone(), nth: 0, is_admin: true }
}

fn try_bind(slot: &Slot, inherited: &mut Inherited, at: &At<'_>, problems: &Problems) -> Option<Bound> {
    let fix = |e: &io::Error| match (e.kind(), &slot.bind) {
        (io::ErrorKind::AddrInUse, Bind::Unix(_)) => "stop what listens there, or choose another path",
        (io::ErrorKind::AddrInUse, _) => "stop what listens there (`ss -ltnp` shows it), or choose another port",
        (io::ErrorKind::NotFound, Bind::Systemd(_)) => "name it by `FileDescriptorName=` in the socket unit, and start it by that",
        (_, Bind::Unix(_)) => "choose a path in a folder that this user may write to",
        (io::ErrorKind::PermissionDenied, _) => "give the process CAP_NET_BIND_SERVICE, or choose a port from 1024 up",
        (io::ErrorKind::AddrNotAvailable, _) => "choose an address of this machine (`ip address` shows them)",
        _ => "choose another address",
    };
    let failed = |e: io::Error| problems.at(at, format!("can't listen on {}: {e}", slot.bind), "nobody could connect", fix(&e));
    inherited.open(slot).map_or_else(failed, Some)
}
