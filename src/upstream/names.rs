//! What DNS says of names, and for how long it holds.
//!
//! Asked are the servers of `server.dns`, else those of the system, behind its files. What only the system's own way knows
//! (modules of its name service) is asked of that, which tells of no times to live.

use crate::config::scalar::HostPort;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::lookup_host;
use tokio::time::timeout;

/// Between two questions, whatever a record says.
const LASTS_MIN: Duration = Duration::from_secs(1);
const LASTS_MAX: Duration = Duration::from_secs(300);
/// How long the word of the system's own way is taken to hold.
const LASTS_UNTOLD: Duration = Duration::from_secs(5);
/// How long an answer may take, all servers and tries together.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one server may take for it.
const PATIENCE_ONE: Duration = Duration::from_secs(2);

/// Whom to ask.
#[derive(Debug)]
pub struct Names {
    servers: Vec<SocketAddr>,
    /// Made by the first that asks; `None` where the system names no servers.
    resolver: OnceLock<Option<TokioResolver>>,
}

/// A port of a host, as an SRV record names it (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub host: Arc<str>,
    pub addresses: Vec<SocketAddr>,
    /// The lowest goes first.
    pub priority: u16,
    pub weight: u16,
}

/// An answer, and how long it holds.
#[derive(Debug)]
pub struct Answered<T> {
    pub found: T,
    pub lasts: Duration,
}

impl Names {
    /// Of these servers; of the system's when there are none.
    pub fn new(servers: &[SocketAddr]) -> Names {
        Names { servers: servers.to_vec(), resolver: OnceLock::new() }
    }

    /// Another one to ask the same, for a runtime of its own: connections to servers belong to one.
    pub fn again(&self) -> Names {
        Names::new(&self.servers)
    }

    /// The addresses of a name, sorted; never none. Those of IPv4 if there are any, since services that listen on one family
    /// mostly listen on that.
    ///
    /// # Errors
    /// Why there are none, for people.
    pub async fn addresses(&self, name: &HostPort) -> Result<Answered<Vec<SocketAddr>>, String> {
        let why = match timeout(PATIENCE, self.of_servers(name)).await {
            Ok(Ok(answered)) => return Ok(answered),
            Ok(Err(why)) => why,
            Err(_) => SILENCE.to_string(),
        };
        if !self.servers.is_empty() {
            return Err(why);
        }
        let found = timeout(PATIENCE, lookup_host((name.host.as_str(), name.port))).await;
        match found.ok().and_then(Result::ok).map(preferred).filter(|found| !found.is_empty()) {
            Some(found) => Ok(Answered { found, lasts: LASTS_UNTOLD }),
            None => Err(why),
        }
    }

    async fn of_servers(&self, name: &HostPort) -> Result<Answered<Vec<SocketAddr>>, String> {
        let answer = self.resolver()?.lookup_ip(name.host.as_str()).await.map_err(|e| said(&e))?;
        let found = preferred(answer.iter().map(|ip| SocketAddr::new(ip, name.port)));
        match found.is_empty() {
            true => Err("it has no address".to_string()),
            false => Ok(Answered { found, lasts: lasts(answer.valid_until()) }),
        }
    }

    /// The hosts that offer a service by its SRV records, with their addresses. Those whose addresses can't be found are left
    /// out as long as there are others.
    ///
    /// # Errors
    /// Why there are none, for people.
    pub async fn targets(&self, name: &str) -> Result<Answered<Vec<Target>>, String> {
        let answer = timeout(PATIENCE, self.resolver()?.lookup(name, RecordType::SRV)).await;
        let answer = answer.map_err(|_| SILENCE)?.map_err(|e| said(&e))?;
        let records = answer.answers().iter().filter_map(|record| match &record.data {
            // A root as the target: "decidedly not available at this domain" (RFC 2782).
            RData::SRV(record) if !record.target.is_root() => Some(record.clone()),
            _ => None,
        });
        let asked = records.map(|record| async move {
            let host = record.target.to_ascii();
            let host = HostPort { host: host.trim_end_matches('.').to_string(), port: record.port };
            let found = self.addresses(&host).await;
            (Target { host: host.host.into(), addresses: Vec::new(), priority: record.priority, weight: record.weight }, found)
        });
        let (mut all, mut least, mut why) = (Vec::new(), lasts(answer.valid_until()), "it has no target".to_string());
        for (target, found) in futures_util::future::join_all(asked).await {
            match found {
                Ok(Answered { found, lasts }) => {
                    least = least.min(lasts);
                    all.push(Target { addresses: found, ..target });
                }
                Err(e) => {
                    why = format!("`{}`: {e}", target.host);
                    least = LASTS_MIN.max(least.min(LASTS_UNTOLD));
                }
            }
        }
        all.sort_by(|a, b| (a.priority, &a.addresses).cmp(&(b.priority, &b.addresses)));
        if all.is_empty() { Err(why) } else { Ok(Answered { found: all, lasts: least }) }
    }

    fn resolver(&self) -> Result<&TokioResolver, String> {
        let resolver = self.resolver.get_or_init(|| match self.build() {
            Ok(resolver) => Some(resolver),
            Err(e) => {
                log::warn!("/etc/resolv.conf is of no use: {e}");
                None
            }
        });
        resolver.as_ref().ok_or_else(|| "the system names no name server".to_string())
    }

    fn build(&self) -> Result<TokioResolver, NetError> {
        let mut builder = match self.servers.is_empty() {
            true => TokioResolver::builder_tokio()?,
            false => {
                let servers = self.servers.iter().map(|address| server(*address)).collect();
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options: &mut ResolverOpts = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        options.timeout = options.timeout.min(PATIENCE_ONE);
        // Who asks here keeps the answer for as long as it holds.
        options.cache_size = 0;
        builder.build()
    }
}

const SILENCE: &str = "no name server answers";

/// An error for people.
fn said(e: &NetError) -> String {
    match e {
        NetError::Timeout | NetError::NoConnections => SILENCE.to_string(),
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
            "there is no such name".to_string()
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) => format!("it has no {} record", none.query.query_type()),
        other => other.to_string(),
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    // One server may know nothing of a name that the next one knows.
    NameServerConfig::new(address.ip(), false, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
}

fn lasts(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).clamp(LASTS_MIN, LASTS_MAX)
}

fn preferred(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = found.collect();
    if all.iter().any(SocketAddr::is_ipv4) {
        all.retain(SocketAddr::is_ipv4);
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// The address that a host is written as, if it is one.
pub fn literal(name: &HostPort) -> Option<SocketAddr> {
    name.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, name.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_neither_for_no_time_nor_for_days() {
        let now = Instant::now();
        assert_eq!(lasts(now), LASTS_MIN);
        assert_eq!(lasts(now + Duration::from_secs(86_400)), LASTS_MAX);
        assert!((29..=30).contains(&lasts(now + Duration::from_secs(30)).as_secs()));
    }

    #[test]
    fn addresses_of_ipv4_go_before_others() {
        let all = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect::<Vec<SocketAddr>>();
        assert_eq!(
            preferred(all(&["[::1]:80", "10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"]).into_iter()),
            all(&["10.0.0.1:80", "10.0.0.2:80"])
        );
        assert_eq!(preferred(all(&["[::2]:80", "[::1]:80"]).into_iter()), all(&["[::1]:80", "[::2]:80"]));
    }
}
