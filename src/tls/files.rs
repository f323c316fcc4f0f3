//! Whether files have changed.

use super::acme::Acme;
use crate::config::raw::ListenerTls;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What of a file changes when its content does, whether it was written to, replaced, or linked anew. `None` when it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The files that a listener's TLS rests on, as they were when they were looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct Files(Vec<Stamp>);

impl Files {
    pub fn of(raw: &ListenerTls, acme: Option<&Acme>) -> Files {
        let pairs = raw.certificates.iter().flat_map(|pair| [Some(&pair.cert), Some(&pair.key), pair.ocsp.as_ref()]);
        let clients = raw.client_auth.iter().flat_map(|clients| [Some(&clients.ca), clients.crl.as_ref()]);
        let named = pairs.chain(clients).flatten().map(|path| Path::new(&path.0).to_path_buf());
        Files(named.chain(acme.map(|acme| acme.store.certificate())).map(|path| stamp(&path)).collect())
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}
