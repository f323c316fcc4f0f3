//! Who comes, and may they? Each route asks [`Access`], which answers at once where nothing has to be asked of anybody else.
//!
//! This room reads heads and keys. It never writes an answer, and never says anything of a credential but what is wrong with it.

mod access;
pub mod api_key;
mod assumed;
pub mod basic;
pub mod cors;
pub mod credential;
mod crypto;
mod failures;
mod fetch;
mod flights;
mod forward;
mod introspection;
mod issuer;
mod jwt;
mod keys;
mod lists;
mod looser;
mod method;
mod mtls;
mod remembered;
mod require;
pub mod token;

pub use access::{ANONYMOUS, Access, Outcome, Verdict};
pub use failures::Failures;
pub use fetch::Answered;
pub use issuer::{Issuers, Told};
pub use method::Method;
pub use require::unmapped;

use crate::config::place::At;
use crate::config::problem::{Place as Position, Problem, Problems};
use crate::config::raw::auth as raw;
use crate::config::shape::Named;
use crate::types::{Certificate, Identity, Refusal};
use credential::Place;
use http::{HeaderMap, HeaderName};
use method::Scheme;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What of a request decides.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub headers: &'a HeaderMap,
    /// The part behind the `?`.
    pub query: &'a str,
    pub client: IpAddr,
    /// What the client showed in the handshake.
    pub certificate: Option<&'a Certificate>,
    /// In Unix time.
    pub now: f64,
}

/// The time, as tokens have it.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// What is known of a credential without waiting.
enum Answer {
    Known(Result<Arc<Identity>, Refusal>),
    /// It has to be asked: [`Method::ask`].
    Ask,
}

/// Why somebody does not get in.
#[derive(Debug)]
pub enum Denied {
    Refused(Refusal),
    /// Another service's answer is the client's.
    Relayed(Box<Answered>),
}

/// A head, for those who judge the whole of it.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub method: &'a http::Method,
    pub scheme: &'static str,
    pub host: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub headers: &'a HeaderMap,
    pub client: IpAddr,
}

/// All methods of a configuration, by name. Those that could not be built have their own problem.
#[derive(Debug, Default)]
pub struct Methods {
    all: Vec<(String, Option<Arc<Method>>)>,
    /// Fields that only the gateway may set.
    own: Vec<HeaderName>,
    issuers: Arc<Issuers>,
}

impl Methods {
    pub fn build(raw: &Named<Option<raw::Method>>, issuers: &Arc<Issuers>, at: &At<'_>, problems: &Problems) -> Methods {
        let mut methods = Methods { issuers: issuers.clone(), ..Methods::default() };
        for (name, raw) in &raw.0 {
            let at = at.key(name);
            let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
            let complain = |what: String, why: &str, fix: &str| problems.add(Problem::new(Position::Key(at.path()), what, why, fix));
            if name == ANONYMOUS {
                complain(format!("`{ANONYMOUS}` is everybody"), "a route that names it is open", "choose another name");
            } else if !(1..=64).contains(&name.len()) || !name.bytes().all(legal) {
                complain(format!("`{name}` is not a name"), "routes call it that", "use small letters, digits, `-` and `_`");
            }
            let method = raw.as_ref().and_then(|raw| Method::build(name, raw, issuers, &at, problems)).map(Arc::new);
            methods.own.extend(method.iter().flat_map(|method| method.to_headers().iter().map(|(_, field)| field.clone())));
            methods.all.push((name.clone(), method));
        }
        methods.check_own(at, problems);
        methods
    }

    /// What only the gateway sets is taken out of each request before a credential is looked for: nobody would find one there.
    fn check_own(&self, at: &At<'_>, problems: &Problems) {
        let methods = || self.all.iter().filter_map(|(name, method)| Some((name, method.as_ref()?)));
        for (name, method) in methods() {
            let (kind, list) = match &method.scheme {
                Scheme::Jwt(_) => ("jwt", "claims_to_headers"),
                Scheme::Introspection(_) => ("introspection", "claims_to_headers"),
                Scheme::Forward(_) => ("forward", "copy"),
                Scheme::ApiKey(_) | Scheme::Basic(_) | Scheme::Mtls(_) => continue,
            };
            let at = at.key(name);
            let at = at.key(kind);
            let at = at.key(list);
            for (nth, (claim, field)) in method.to_headers().iter().enumerate() {
                let reads = |other: &Method| other.reads().any(|read| is_alike(field, read));
                let Some((reader, other)) = methods().find(|(_, other)| reads(other)) else { continue };
                let at = if list == "copy" { at.index(nth) } else { at.key(claim) };
                let why = "what clients send in a field that the gateway sets is taken away, and the credential with it";
                let what = format!("`{reader}` looks for credentials in `{field}`");
                if matches!(other.scheme, Scheme::Forward(_)) {
                    // It may have others that it goes by.
                    problems.warn(&at, what, why, format!("name another field, or leave this one out of `send` of `{reader}`"));
                } else {
                    let _: Option<()> = problems.at(&at, what, why, format!("name another field, or have `{reader}` look elsewhere"));
                }
            }
        }
    }

    /// What is known of the issuers' keys.
    pub fn issuers(&self) -> Vec<Told> {
        self.issuers.told()
    }

    fn get(&self, name: &str) -> Option<&Option<Arc<Method>>> {
        self.all.iter().find(|(known, _)| known == name).map(|(_, method)| method)
    }

    fn names(&self) -> Vec<&str> {
        self.all.iter().map(|(name, _)| name.as_str()).chain([ANONYMOUS]).collect()
    }

    /// Query parameters that hold credentials, which no log may have: our methods', and RFC 6750's (2.3), which may be a service's.
    pub fn secret_parameters(&self) -> impl Iterator<Item = String> {
        let places = self.all.iter().filter_map(|(_, method)| method.as_ref()?.place());
        let names = places.filter_map(|place| if let Place::Query(name) = place { Some(name.to_string()) } else { None });
        names.chain(["access_token".to_string()])
    }

    /// Whether a field is one that only the gateway sets, however a client writes it: services may read `_` as `-`.
    pub fn is_own(&self, name: &HeaderName) -> bool {
        self.own.iter().any(|own| is_alike(own, name))
    }

    pub fn has_own(&self) -> bool {
        !self.own.is_empty()
    }
}

fn is_alike(own: &HeaderName, name: &HeaderName) -> bool {
    let same = |a: u8, b: u8| a == b || (a == b'_' && b == b'-') || (a == b'-' && b == b'_');
    let (own, name) = (own.as_str(), name.as_str());
    own.len() == name.len() && own.bytes().zip(name.bytes()).all(|(a, b)| same(a, b))
}
