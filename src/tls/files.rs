//! Whether files have changed.

use crate::config::raw::ListenerTls;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// What of a file changes when its content does, whether it was written to, replaced, or linked anew. `None` when it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The files that a listener's TLS rests on, as they were when they were looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct Files(Vec<Stamp>);

impl Files {
    pub fn of(raw: &ListenerTls) -> Files {
        let pairs = raw.certificates.iter().flat_map(|pair| [Some(&pair.cert), Some(&pair.key), pair.ocsp.as_ref()]);
        let clients = raw.client_auth.iter().flat_map(|clients| [Some(&clients.ca), clients.crl.as_ref()]);
        Files(pairs.chain(clients).flatten().map(|path| stamp(&path.0)).collect())
    }
}

fn stamp(path: &str) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}
