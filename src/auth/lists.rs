//! Files beside the configuration that say who may come, or by whose keys that is known: read when it is loaded, and again when they
//! change.

use crate::config::load;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::shape::{Node, Shape};
use arc_swap::{ArcSwap, Guard};
use ring::rand::{SecureRandom, SystemRandom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// Between two looks at whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);

type Parse<T> = Box<dyn Fn(&str) -> Result<T, String> + Send + Sync>;

/// What a file says.
pub struct Listed<T> {
    path: PathBuf,
    parse: Parse<T>,
    current: ArcSwap<T>,
    looked: Mutex<(Instant, Option<Stamp>)>,
}

/// What changes with a file: its time of change, its size and its number.
type Stamp = (SystemTime, u64, u64);

impl<T> std::fmt::Debug for Listed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listed").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<T> Listed<T> {
    /// `None` means that a problem was reported.
    pub fn read(path: &str, parse: Parse<T>, at: &At<'_>, fix: &str, problems: &Problems) -> Option<Listed<T>> {
        let stamp = stamp(Path::new(path));
        let text = std::fs::read_to_string(path).map_err(|e| format!("can't read `{path}`: {e}"));
        let list = text.and_then(|text| parse(&text).map_err(|e| format!("`{path}`: {e}")));
        let list = problems.ok(list, at, "nobody could be recognised", fix)?;
        Some(Listed { path: path.into(), parse, current: ArcSwap::from_pointee(list), looked: Mutex::new((Instant::now(), stamp)) })
    }

    #[cfg(test)]
    pub fn fixed(list: T, path: &Path) -> Listed<T> {
        let looked = Mutex::new((Instant::now(), stamp(path)));
        Listed { path: path.into(), parse: Box::new(|_| Err("fixed".to_string())), current: ArcSwap::from_pointee(list), looked }
    }

    /// What it says now. It is looked at once a second at most, by one request, and the others go on.
    pub fn load(&self) -> Guard<Arc<T>> {
        if let Ok(mut looked) = self.looked.try_lock()
            && looked.0.elapsed() >= LOOK
        {
            looked.0 = Instant::now();
            let stamp = stamp(&self.path);
            if stamp != looked.1 {
                looked.1 = stamp;
                self.reread();
            }
        }
        self.current.load()
    }

    pub fn load_full(&self) -> Arc<T> {
        Guard::into_inner(self.load())
    }

    fn reread(&self) {
        let text = std::fs::read_to_string(&self.path).map_err(|e| e.to_string());
        match text.and_then(|text| (self.parse)(&text)) {
            Ok(list) => {
                self.current.store(Arc::new(list));
                log::info!("{}: read again", self.path.display());
            }
            Err(e) => log::error!("{}: not read again, what it said goes on: {e}", self.path.display()),
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

/// A file with nothing in it, or with comments alone, lists nobody: whoever takes the last entry out means that.
struct Entries<T>(Vec<T>);

impl<T: Shape> Shape for Entries<T> {
    fn read(node: &Node<'_>) -> Option<Self> {
        if node.value.is_null() { Some(Entries(Vec::new())) } else { node.list().map(Entries) }
    }
}

/// Reads a list in YAML with the words of the configuration.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn entries<T: Shape>(text: &str) -> Result<Vec<T>, String> {
    load::part("line", text).map(|Entries(list)| list)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2));
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

/// # Errors
/// The system has no randomness.
pub fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system has no randomness".to_string())?;
    Ok(bytes)
}
