//! The folder that gateways share.
//!
//! ```text
//! store/DIRECTORY/             one for each authority, so that one for trials gets into no other's way
//!   account.json               whom the authority knows
//!   DOMAIN.pem                 key and chain in one file, so that they never mix
//!   DOMAIN.failed              how often in a row it came to nothing, and until when to wait
//!   challenges/TOKEN           what the authority is to be answered
//!   lock                       held (flock) by whoever orders
//! ```
//!
//! Files are put in place whole, and only their owner may read them.

use super::super::certificates::{Leaf, describe};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    folder: PathBuf,
    domain: String,
}

/// What came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// In a row.
    pub times: u32,
    /// Nobody tries before.
    pub until: SystemTime,
}

/// The answer to a challenge, for as long as it may be asked for.
#[derive(Debug)]
pub struct Answer(PathBuf);

impl Drop for Answer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Store {
    pub fn new(folder: PathBuf, directory: &str, domain: &str) -> Store {
        let (_, place) = directory.split_once("://").unwrap_or(("", directory));
        let legal = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
        Store { folder: folder.join(place.trim_matches('/').chars().map(legal).collect::<String>()), domain: domain.to_string() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Key and chain.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.domain))
    }

    /// What stands in the certificate that is there.
    pub fn leaf(&self) -> Option<Leaf> {
        describe(&CertificateDer::from_pem_file(self.certificate()).ok()?)
    }

    pub fn set_certificate(&self, key: &str, chain: &str) -> io::Result<()> {
        self.put(&self.certificate(), format!("{key}{chain}").as_bytes())
    }

    pub fn account(&self) -> Option<Vec<u8>> {
        fs::read(self.folder.join("account.json")).ok()
    }

    pub fn set_account(&self, account: Option<&[u8]>) -> io::Result<()> {
        let path = self.folder.join("account.json");
        account.map_or_else(|| fs::remove_file(&path), |account| self.put(&path, account))
    }

    pub fn failed(&self) -> Option<Failed> {
        serde_json::from_slice(&fs::read(self.failed_file()).ok()?).ok()
    }

    /// What can't be noted is tried again sooner.
    pub fn set_failed(&self, failed: Option<Failed>) {
        let _ = match failed.map(|failed| serde_json::to_vec(&failed)) {
            Some(Ok(failed)) => self.put(&self.failed_file(), &failed),
            _ => fs::remove_file(self.failed_file()),
        };
    }

    fn failed_file(&self) -> PathBuf {
        self.folder.join(format!("{}.failed", self.domain))
    }

    /// The answer to a challenge, if there is one. The token has been looked at.
    pub fn answer(&self, token: &str) -> Option<String> {
        fs::read_to_string(self.folder.join("challenges").join(token)).ok()
    }

    pub fn set_answer(&self, token: &str, answer: &str) -> io::Result<Answer> {
        let path = self.folder.join("challenges").join(token);
        self.put(&path, answer.as_bytes()).map(|()| Answer(path))
    }

    /// `None` while somebody else has it. It goes with the process, however that ends.
    pub fn lock(&self) -> io::Result<Option<File>> {
        make_folder(&self.folder)?;
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(self.folder.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// Puts a file in place whole.
    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.folder);
        make_folder(folder)?;
        let new = folder.join(format!(".new-{:016x}", fastrand::u64(..)));
        let written = (|| {
            let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, path)
        })();
        written.inspect_err(|_| drop(fs::remove_file(&new)))
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    #[test]
    fn one_has_the_lock_and_files_are_the_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path().join("acme"), "https://acme.example:14000/dir/", "a.example");
        assert_eq!(store.folder(), folder.path().join("acme/acme.example_14000_dir"));
        let held = store.lock().expect("a lock");
        assert!(held.is_some() && store.lock().expect("a look").is_none());
        drop(held);
        assert!(store.lock().expect("a lock").is_some());
        let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        store.set_certificate("key\n", "chain\n").expect("a file");
        assert_eq!((mode(store.folder()), mode(&store.certificate())), (0o700, 0o600));
        assert_eq!((fs::read_to_string(store.certificate()).expect("a file").as_str(), store.leaf().is_none()), ("key\nchain\n", true));
        let answer = store.set_answer("token", "token.print").expect("an answer");
        assert_eq!(store.answer("token").as_deref(), Some("token.print"));
        drop(answer);
        assert_eq!(store.answer("token"), None);
        let failed = Failed { times: 2, until: SystemTime::UNIX_EPOCH + Duration::from_secs(7) };
        store.set_failed(Some(failed));
        assert_eq!(store.failed(), Some(failed));
        store.set_failed(None);
        assert_eq!(store.failed(), None);
    }
}
