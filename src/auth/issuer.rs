//! Keys that an issuer publishes: fetched before the gateway is ready, refreshed beside the requests, and fetched again when a token
//! names one that is not known. While the issuer is down, the keys that there are go on.

use super::fetch::Client;
use super::keys::Keys;
use crate::config::json;
use crate::config::secret::shown_url;
use arc_swap::ArcSwapOption;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::sleep;

/// For one document.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How old keys become before they are fetched anew.
const REFRESH: Duration = Duration::from_secs(300);
/// Between two tries while there are no keys yet, and between two looks at who is due.
const RETRY: Duration = Duration::from_secs(1);
/// Between two tries that tokens with unknown keys ask for, however many there are, and between two that fail.
const ASKED: Duration = Duration::from_secs(5);

/// Where the keys are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// The URL of the set.
    Jwks(String),
    /// The issuer's URL (OpenID Connect Discovery 1.0, 4), and the names that the operator knows it by.
    Oidc(String, Vec<String>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Source {
    pub fn url(&self) -> &str {
        match self {
            Source::Jwks(url) | Source::Oidc(url, _) => url,
        }
    }

    /// For people: a user, a password or a key in it lets the gateway in.
    fn shown(&self) -> String {
        shown_url(self.url())
    }
}

#[derive(Debug)]
pub struct Issuer {
    pub source: Source,
    keys: ArcSwapOption<Keys>,
    tried: Mutex<Tried>,
    /// Held by the one that fetches.
    flight: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Tried {
    last: Option<Instant>,
    /// When the last token with an unknown key had them fetched.
    asked: Option<Instant>,
    fetched: Option<Instant>,
    error: Option<String>,
}

/// What the operator is told of an issuer.
pub struct Told {
    /// Scheme, host and path.
    pub url: String,
    /// None when there are no keys yet.
    pub age: Option<Duration>,
    pub error: Option<String>,
}

impl Issuer {
    fn new(source: Source) -> Issuer {
        Issuer { source, keys: ArcSwapOption::empty(), tried: Mutex::default(), flight: tokio::sync::Mutex::new(()) }
    }

    /// Nothing when it has never been reached.
    pub fn keys(&self) -> Option<Arc<Keys>> {
        self.keys.load_full()
    }

    pub fn told(&self) -> Told {
        let tried = self.tried();
        Told { url: self.source.shown(), age: tried.fetched.map(|at| at.elapsed()), error: tried.error.clone() }
    }

    fn tried(&self) -> MutexGuard<'_, Tried> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a token with an unknown key is reason enough to ask the issuer.
    pub fn may_be_asked(&self) -> bool {
        self.tried().asked.is_none_or(|at| at.elapsed() >= ASKED)
    }

    fn is_due(&self) -> bool {
        let tried = self.tried();
        let rested = |rest: Duration| tried.last.is_none_or(|at| at.elapsed() >= rest);
        match tried.fetched {
            None => rested(RETRY),
            Some(at) => at.elapsed() >= REFRESH && rested(ASKED),
        }
    }

    /// Fetches the keys. Of those that want them at once, one goes and the others wait for it.
    async fn fetch(&self, client: &Client) {
        let began = Instant::now();
        let _flight = self.flight.lock().await;
        if self.tried().last.is_some_and(|at| at >= began) {
            return;
        }
        self.tried().last = Some(Instant::now());
        let fetched = self.fetch_now(client).await;
        let mut tried = self.tried();
        tried.last = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                if tried.fetched.is_none() || tried.error.is_some() {
                    log::info!("keys of {}: here", self.source.shown());
                }
                (tried.fetched, tried.error) = (Some(Instant::now()), None);
                self.keys.store(Some(Arc::new(keys)));
            }
            Err(why) => {
                if tried.error.as_ref() != Some(&why) {
                    log::warn!("keys of {}: {why}", self.source.shown());
                }
                tried.error = Some(why);
            }
        }
    }

    async fn fetch_now(&self, client: &Client) -> Result<Keys, String> {
        let url = match &self.source {
            Source::Jwks(url) => url.clone(),
            Source::Oidc(issuer, names) => {
                let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
                let document = json::object(&client.document(&url, TIMEOUT).await?).ok_or("its configuration can't be read")?;
                let text = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
                // Seen from within, an issuer may be at another URL than the one that it goes by.
                let is_own =
                    |said: &str| [issuer].into_iter().chain(names).any(|own| own.trim_end_matches('/') == said.trim_end_matches('/'));
                if !text("issuer").is_some_and(is_own) {
                    return Err("its configuration is another issuer's".to_string());
                }
                text("jwks_uri").filter(|url| is_url(url)).ok_or("its configuration has no `jwks_uri`")?.to_string()
            }
        };
        Keys::jwks(&client.document(&url, TIMEOUT).await?, false)
    }
}

/// Something that can be fetched.
pub fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && text.parse::<reqwest::Url>().is_ok())
}

/// What outlives a configuration: keys of the issuers that it shares with the next one.
#[derive(Debug, Default)]
pub struct Issuers {
    known: Mutex<HashMap<Source, Arc<Issuer>>>,
    /// Told when keys have come, and when issuers are forgotten.
    changed: Notify,
    pub client: Client,
}

impl Issuers {
    /// The issuer of a source, with the keys it has, if some configuration has named it before.
    pub fn get(&self, source: Source) -> Arc<Issuer> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|own, issuer| *own == source || Arc::strong_count(issuer) > 1);
        self.changed.notify_waiters();
        known.entry(source.clone()).or_insert_with(|| Arc::new(Issuer::new(source))).clone()
    }

    fn all(&self) -> Vec<Arc<Issuer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn told(&self) -> Vec<Told> {
        self.all().iter().map(|issuer| issuer.told()).collect()
    }

    /// Fetches the keys of one of them for a token whose key is unknown.
    pub async fn ask(&self, issuer: &Issuer) {
        issuer.tried().asked = Some(Instant::now());
        self.fetch(issuer).await;
    }

    async fn fetch(&self, issuer: &Issuer) {
        issuer.fetch(&self.client).await;
        self.changed.notify_waiters();
    }

    /// Waits until all have their first keys.
    pub async fn first_keys(&self) {
        loop {
            // Before the look, so that what changes behind it is not missed.
            let changed = self.changed.notified();
            if self.all().iter().all(|issuer| issuer.keys().is_some()) {
                return;
            }
            changed.await;
        }
    }

    /// Keeps all keys fresh, for as long as the process lives.
    pub async fn keep_fresh(self: Arc<Self>) {
        loop {
            for issuer in self.all().into_iter().filter(|issuer| issuer.is_due()) {
                let issuers = self.clone();
                tokio::spawn(async move { issuers.fetch(&issuer).await });
            }
            sleep(RETRY / 4).await;
        }
    }
}
