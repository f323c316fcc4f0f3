//! Who comes, and may they? Each route asks [`Access`], which answers at once where nothing has to be asked of anybody else.
//!
//! This room reads heads and keys. It never writes an answer, and never says anything of a credential but what is wrong with it.

mod access;
pub mod api_key;
pub mod basic;
pub mod cors;
mod credential;
mod crypto;
mod fetch;
mod issuer;
mod json;
mod jwt;
mod keys;
mod lists;
mod remembered;
mod require;
mod token;

pub use access::{ANONYMOUS, Access, Outcome, Verdict};
pub use issuer::{Issuers, Told};

use crate::config::place::At;
use crate::config::problem::{Place as Position, Problem, Problems};
use crate::config::raw::auth as raw;
use crate::config::shape::Named;
use crate::types::{Identity, Refusal};
use api_key::ApiKeys;
use basic::Basic;
use credential::{Found, Place};
use http::{HeaderMap, HeaderName};
use jwt::Jwt;
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
    /// In Unix time.
    pub now: f64,
}

/// The time, as tokens have it.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// One way to recognise somebody.
#[derive(Debug)]
pub struct Method {
    pub name: Arc<str>,
    scheme: Scheme,
}

#[derive(Debug)]
enum Scheme {
    Jwt(Jwt),
    ApiKey(ApiKeys),
    Basic(Basic),
}

/// What is known of a credential without waiting.
enum Answer {
    Known(Result<Arc<Identity>, Refusal>),
    /// It has to be asked: [`Method::ask`].
    Ask,
}

impl Method {
    fn build(name: &str, raw: &raw::Method, issuers: &Arc<Issuers>, at: &At<'_>, problems: &Problems) -> Option<Method> {
        let name: Arc<str> = name.into();
        let keys = [("jwt", raw.jwt.is_some()), ("api_key", raw.api_key.is_some()), ("basic", raw.basic.is_some())];
        if keys.iter().any(|(key, _)| !problems.is_read(&at.key(key))) {
            return None;
        }
        let count = keys.iter().filter(|(_, given)| *given).count();
        if count != 1 {
            let what = format!("`{name}` has {} ways to recognise somebody", if count == 0 { "no" } else { "several" });
            let fix = "give it one of `jwt`, `api_key` and `basic`; a route's `auth` may name several methods";
            return match count == 0 && !problems.is_sound(at) {
                true => None,
                false => problems.at(at, what, "a method is one way", fix),
            };
        }
        let scheme = if let Some(raw) = &raw.jwt {
            Scheme::Jwt(Jwt::build(raw, &name, issuers, &at.key("jwt"), problems)?)
        } else if let Some(raw) = &raw.api_key {
            Scheme::ApiKey(ApiKeys::build(raw, &name, &at.key("api_key"), problems)?)
        } else {
            Scheme::Basic(Basic::build(raw.basic.as_ref()?, &name, &at.key("basic"), problems)?)
        };
        Some(Method { name, scheme })
    }

    /// Where its credential is.
    fn place(&self) -> Option<&Place> {
        match &self.scheme {
            Scheme::Jwt(jwt) => Some(&jwt.place),
            Scheme::ApiKey(keys) => Some(&keys.place),
            Scheme::Basic(basic) => Some(&basic.place),
        }
    }

    fn find<'a>(&self, request: &Request<'a>) -> Found<'a> {
        self.place().map_or(Found::Nothing, |place| place.find(request.headers, request.query))
    }

    fn check(&self, credential: &str, request: &Request<'_>) -> Answer {
        match &self.scheme {
            Scheme::ApiKey(keys) => Answer::Known(keys.check(credential, request.now)),
            Scheme::Basic(basic) => basic.recall(credential).map_or(Answer::Ask, |identity| Answer::Known(Ok(identity))),
            // Tokens are `Access::token`'s, which chooses among several methods.
            Scheme::Jwt(_) => Answer::Known(Err(Refusal::Unauthenticated)),
        }
    }

    /// Finds out what takes longer.
    ///
    /// # Errors
    /// Who shows it is refused.
    pub async fn ask(&self, credential: &str) -> Result<Arc<Identity>, Refusal> {
        match &self.scheme {
            Scheme::Jwt(jwt) => jwt.ask(credential, now()).await,
            Scheme::Basic(basic) => basic.check(credential).await,
            Scheme::ApiKey(_) => Err(Refusal::Unauthenticated),
        }
    }

    /// What somebody is told who shows two credentials for one, or one that is not a text.
    fn unclear(&self) -> Refusal {
        match &self.scheme {
            Scheme::Jwt(_) => Refusal::TokenMalformed,
            Scheme::ApiKey(_) => Refusal::KeyUnknown,
            Scheme::Basic(_) => Refusal::Unauthenticated,
        }
    }

    /// Whether services get the credential too.
    fn forwards(&self) -> bool {
        match &self.scheme {
            Scheme::Jwt(jwt) => jwt.forwards,
            Scheme::ApiKey(_) | Scheme::Basic(_) => false,
        }
    }

    /// Fields that services get of who is recognised, by claim.
    fn to_headers(&self) -> &[(String, HeaderName)] {
        match &self.scheme {
            Scheme::Jwt(jwt) => &jwt.to_headers,
            Scheme::ApiKey(_) | Scheme::Basic(_) => &[],
        }
    }

    fn is_bearer(&self) -> bool {
        matches!(self.scheme, Scheme::Jwt(_))
    }

    fn challenge(&self, refusal: Option<&Refusal>) -> String {
        let realm = &self.name;
        match (&self.scheme, refusal) {
            (Scheme::Basic(basic), _) => format!("Basic realm=\"{}\", charset=\"UTF-8\"", basic.realm),
            (Scheme::ApiKey(_), _) => format!("ApiKey realm=\"{realm}\""),
            (Scheme::Jwt(_), None | Some(Refusal::Unauthenticated)) => format!("Bearer realm=\"{realm}\""),
            (Scheme::Jwt(_), Some(refusal)) => {
                format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{}\"", refusal.title())
            }
        }
    }

    /// The fields that services get of somebody, with their values.
    pub fn headers<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = (&'a HeaderName, http::HeaderValue)> {
        self.to_headers().iter().filter_map(|(claim, name)| {
            let value = http::HeaderValue::from_str(&identity.claim_text(claim)?).ok()?;
            Some((name, value))
        })
    }
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
        methods
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

    /// Query parameters that hold credentials, which no log may have.
    pub fn secret_parameters(&self) -> impl Iterator<Item = String> {
        let places = self.all.iter().filter_map(|(_, method)| method.as_ref()?.place());
        places.filter_map(|place| if let Place::Query(name) = place { Some(name.to_string()) } else { None })
    }

    /// Whether a field is one that only the gateway sets, however a client writes it: services may read `_` as `-`.
    pub fn is_own(&self, name: &HeaderName) -> bool {
        let same = |a: u8, b: u8| a == b || (a == b'_' && b == b'-') || (a == b'-' && b == b'_');
        let name = name.as_str().as_bytes();
        self.own.iter().any(|own| own.as_str().len() == name.len() && own.as_str().bytes().zip(name).all(|(a, b)| same(a, *b)))
    }

    pub fn has_own(&self) -> bool {
        !self.own.is_empty()
    }
}
