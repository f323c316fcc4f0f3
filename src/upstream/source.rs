//! Where a service's endpoints come from, beside those with an address of their own: names, SRV records, a file.

use super::endpoint::Endpoint;
use super::names::{Answered, Names, literal};
use crate::config::load;
use crate::config::raw;
use crate::config::scalar::HostPort;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Names of a file that are asked for at once.
const AT_ONCE_MAX: usize = 32;
/// A file without names holds until it changes.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// An endpoint as it is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub address: SocketAddr,
    /// As it was written, for TLS.
    pub host: Arc<str>,
    pub weight: u32,
    /// It stands in another zone than the gateway.
    pub is_far: bool,
    /// Those with the lowest are picked as long as one of them is well.
    pub priority: u16,
}

impl Member {
    pub fn is(&self, endpoint: &Endpoint) -> bool {
        let Endpoint { address, host, weight, is_far, priority, .. } = endpoint;
        (&self.address, &self.host, &self.weight, &self.is_far, &self.priority) == (address, host, weight, is_far, priority)
    }
}

#[derive(Clone, Debug)]
pub enum Source {
    /// The addresses of a name.
    Name { name: HostPort, weight: u32, is_far: bool },
    /// What a name's SRV records point at.
    Srv(String),
    /// A list of endpoints; the gateway's own zone.
    File { path: String, zone: Option<String> },
}

/// For log, metrics and `/status`; what is known of a source is kept by it.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Name { name, .. } => write!(f, "dns:{name}"),
            Source::Srv(name) => write!(f, "srv:{name}"),
            Source::File { path, .. } => write!(f, "file:{path}"),
        }
    }
}

/// What of a file changes when its content does, whether it was written to or replaced. `None` when it is not there.
pub type Stamp = Option<(u64, u64, i64, i64)>;

impl Source {
    /// Of a service: of its endpoints, those without an IP address, then those that are beside them.
    pub fn all(raw: &raw::Service, zone: Option<&str>) -> Vec<Source> {
        let named = raw.endpoints.iter().flatten().filter(|endpoint| literal(&endpoint.address).is_none());
        named.map(|endpoint| Source::of_endpoint(endpoint, zone)).chain(Source::others(raw, zone)).collect()
    }

    /// Those that are beside its endpoints.
    pub fn others(raw: &raw::Service, zone: Option<&str>) -> Vec<Source> {
        let dns = raw.dns.iter().map(|name| Source::Name { name: name.clone(), weight: 1, is_far: false });
        let srv = raw.srv.iter().map(|name| Source::Srv(name.0.clone()));
        let file = raw.endpoints_file.iter().map(|path| Source::File { path: path.0.clone(), zone: zone.map(str::to_string) });
        dns.chain(srv).chain(file).collect()
    }

    pub fn of_endpoint(endpoint: &raw::Endpoint, zone: Option<&str>) -> Source {
        Source::Name { name: endpoint.address.clone(), weight: endpoint.weight, is_far: is_far(endpoint, zone) }
    }

    /// What it says now.
    ///
    /// # Errors
    /// It says nothing, or nothing that can be used.
    pub async fn ask(&self, names: &Names) -> Result<Answered<Vec<Member>>, String> {
        match self {
            Source::Name { name, weight, is_far } => {
                let Answered { found, lasts } = names.addresses(name).await?;
                let host: Arc<str> = name.host.as_str().into();
                let member = |address| Member { address, host: host.clone(), weight: *weight, is_far: *is_far, priority: 0 };
                Ok(Answered { found: found.into_iter().map(member).collect(), lasts })
            }
            Source::Srv(name) => {
                let Answered { found, lasts } = names.targets(name).await?;
                let has_weights = found.iter().any(|target| target.weight > 0) && found.iter().any(|target| target.weight == 0);
                let member = |target: super::names::Target| {
                    let weight = srv_weight(target.weight, has_weights);
                    let host = target.host;
                    let of = move |address| Member { address, host: host.clone(), weight, is_far: false, priority: target.priority };
                    target.addresses.into_iter().map(of)
                };
                Ok(Answered { found: found.into_iter().flat_map(member).collect(), lasts })
            }
            Source::File { path, zone } => {
                let (path, zone) = (path.clone(), zone.as_deref());
                let read = tokio::task::spawn_blocking(move || listed(&path)).await.map_err(|e| e.to_string())??;
                resolved(read, zone, names).await
            }
        }
    }

    /// As it is configured now: what was heard may be from before a reload.
    pub fn dressed(&self, mut member: Member) -> Member {
        if let Source::Name { weight, is_far, .. } = self {
            (member.weight, member.is_far) = (*weight, *is_far);
        }
        member
    }

    /// Of the file, where it is one; what changes with time alone has none.
    pub fn stamp(&self) -> Stamp {
        let Source::File { path, .. } = self else { return None };
        let found = std::fs::metadata(path).ok()?;
        Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    }

    pub fn is_file(&self) -> bool {
        matches!(self, Source::File { .. })
    }
}

pub fn is_far(endpoint: &raw::Endpoint, zone: Option<&str>) -> bool {
    zone.zip(endpoint.zone.as_deref()).is_some_and(|(own, other)| own != other)
}

/// RFC 2782: "records with weight 0 should have a very small chance of being selected" in the presence of others.
fn srv_weight(weight: u16, is_mixed: bool) -> u32 {
    match (weight, is_mixed) {
        (0, _) => 1,
        (_, true) => u32::from(weight) * 100,
        (_, false) => u32::from(weight),
    }
}

/// The endpoints that a file lists, in the words of `endpoints`.
fn listed(path: &str) -> Result<Vec<raw::Endpoint>, String> {
    let file = load::read_file(Path::new(path)).map_err(|e| e.to_string())?;
    let read = load::part::<Vec<Option<raw::Endpoint>>>("line", &file.text)?;
    Ok(read.into_iter().flatten().collect())
}

async fn resolved(read: Vec<raw::Endpoint>, zone: Option<&str>, names: &Names) -> Result<Answered<Vec<Member>>, String> {
    let asked = stream::iter(read).map(|endpoint: raw::Endpoint| async move {
        let name = &endpoint.address;
        let Answered { found, lasts } = match literal(name) {
            Some(address) => Answered { found: vec![address], lasts: FOREVER },
            None => names.addresses(name).await.map_err(|e| format!("`{name}`: {e}"))?,
        };
        let (host, is_far): (Arc<str>, bool) = (name.host.as_str().into(), is_far(&endpoint, zone));
        let member = move |address| Member { address, host: host.clone(), weight: endpoint.weight, is_far, priority: 0 };
        Ok::<_, String>((found.into_iter().map(member).collect::<Vec<_>>(), lasts))
    });
    let answers: Vec<_> = asked.buffered(AT_ONCE_MAX).try_collect().await?;
    let lasts = answers.iter().map(|(_, lasts)| *lasts).min().unwrap_or(FOREVER);
    let (mut found, mut known): (Vec<Member>, HashSet<SocketAddr>) = Default::default();
    for member in answers.into_iter().flat_map(|(found, _)| found) {
        if !known.insert(member.address) {
            return Err(format!("{} is named twice", member.address));
        }
        found.push(member);
    }
    Ok(Answered { found, lasts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_srv_records_keep_their_proportions() {
        assert_eq!([0, 1, 7].map(|weight| srv_weight(weight, true)), [1, 100, 700]);
        assert_eq!([1, 7].map(|weight| srv_weight(weight, false)), [1, 7]);
        assert_eq!(srv_weight(0, false), 1);
    }

    #[test]
    fn a_list_says_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("endpoints.yaml");
        let listed = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            listed(path.to_str().expect("a path")).map(|all| all.len())
        };
        assert_eq!(listed("- 10.0.0.1:80\n- { address: orders:80, weight: 2 }\n"), Ok(2));
        assert_eq!(listed("[]"), Ok(0));
        for (text, expected) in [
            ("", "must be a list"),
            ("- 10.0.0.1", "line:1:3: `10.0.0.1` has no port"),
            ("- 10.0.0.1:80\n- { address: a:1, wait: 2 }", "line:2:"),
            ("a: b", "must be a list"),
            ("[", "line:"),
        ] {
            assert!(listed(text).is_err_and(|e| e.contains(expected)), "{text}: {:?}", listed(text));
        }
    }
}
