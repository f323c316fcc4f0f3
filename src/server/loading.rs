//! From a configuration's origin to a snapshot and its sockets, or to everything that is wrong with it.

use super::accept::Bound;
use super::sockets;
use crate::config::load;
use crate::config::place::{At, Source};
use crate::config::problem::{Problem, Problems};
use crate::config::raw::Config;
use crate::config::scalar::Bind;
use crate::snapshot::{Meta, Snapshot, State};
use crate::types::ListenerId;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
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
    Problems(Source, Vec<Problem>),
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Other(text) => f.write_str(text),
            Failure::Problems(source, problems) => {
                for problem in problems {
                    writeln!(f, "{}", problem.render(source))?;
                }
                let s = if problems.len() == 1 { "" } else { "s" };
                write!(f, "{} problem{s} in {}", problems.len(), source.name())
            }
        }
    }
}

/// A configuration that can be run.
pub struct Loaded {
    pub source: Source,
    pub raw: Config,
    pub snapshot: Arc<Snapshot>,
    pub warnings: Vec<Problem>,
}

fn source(origin: &Origin) -> Result<Source, Failure> {
    match origin {
        Origin::Text(name, text) => Ok(Source::new(name, text)),
        Origin::File(path) => {
            let text = std::fs::read(path).map_err(|e| Failure::Other(format!("{}: {e}", path.display())))?;
            let text = String::from_utf8(text).map_err(|_| Failure::Other(format!("{}: the file is not UTF-8", path.display())))?;
            Ok(Source::new(path.display().to_string(), text))
        }
    }
}

/// Reads and builds. May wait for DNS.
pub fn load(origin: &Origin, state: &State, version: u64) -> Result<Loaded, Failure> {
    let source = source(origin)?;
    let problems = Problems::default();
    let built = load::parse(&source, &problems).and_then(|value| {
        let raw = load::walk(&value, &problems)?;
        let mut hasher = DefaultHasher::new();
        source.text().hash(&mut hasher);
        let meta = Meta { version, hash: format!("{:016x}", hasher.finish()), shown: load::show(&value) };
        let snapshot = Snapshot::build(&raw, meta, state, &problems)?;
        Some((raw, snapshot))
    });
    let (errors, warnings) = problems.into_parts();
    match built {
        Some((raw, snapshot)) if errors.is_empty() => Ok(Loaded { source, raw, snapshot: Arc::new(snapshot), warnings }),
        _ => Err(Failure::Problems(source, errors)),
    }
}

/// All that is wrong with a configuration, without running it; the warnings, ready to be printed, when nothing is.
///
/// # Errors
/// The problems.
pub fn check(origin: &Origin) -> Result<Vec<String>, Failure> {
    let metrics = crate::observe::Metrics::new().map_err(|e| Failure::Other(e.to_string()))?;
    let loaded = load(origin, &State::dry(metrics), 1)?;
    Ok(loaded.warnings.iter().map(|warning| warning.render(&loaded.source)).collect())
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
pub fn bind(loaded: &Loaded, is_open: impl Fn(Option<ListenerId>) -> bool) -> Result<Sockets, Failure> {
    let problems = Problems::default();
    let root = At::root();
    let (listeners_at, admin_at) = (root.key("listeners"), root.key("admin"));
    let mut sockets = Sockets::default();
    for (index, listener) in loaded.snapshot.listeners.iter().enumerate() {
        let Bind::Tcp(address) = listener.bind else { continue };
        if !is_open(Some(listener.id)) {
            let bound = try_bind(address, &listeners_at.index(index).key("bind"), &problems);
            sockets.listeners.extend(bound.map(|bound| (listener.id, bound)));
        }
    }
    if let Some(Bind::Tcp(address)) = loaded.raw.admin.as_ref().map(|admin| &admin.bind).filter(|_| !is_open(None)) {
        sockets.admin = try_bind(*address, &admin_at.key("bind"), &problems);
    }
    match problems.into_parts() {
        (errors, _) if errors.is_empty() => Ok(sockets),
        (errors, _) => Err(Failure::Problems(Source::new(loaded.source.name(), loaded.source.text()), errors)),
    }
}

fn try_bind(address: SocketAddr, at: &At<'_>, problems: &Problems) -> Option<Bound> {
    let fix = |e: &io::Error| match e.kind() {
        io::ErrorKind::AddrInUse => "stop what listens there (`ss -ltnp` shows it), or choose another port",
        io::ErrorKind::PermissionDenied => "give the process CAP_NET_BIND_SERVICE, or choose a port from 1024 up",
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine (`ip address` shows them)",
        _ => "choose another address",
    };
    sockets::bind(address)
        .map(Bound)
        .map_or_else(|e| problems.at(at, format!("can't listen on {address}: {e}"), "nobody could connect", fix(&e)), Some)
}
