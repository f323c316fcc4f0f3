//! Who may use a route: the order in which credentials decide.

use super::credential::Found;
use super::jwt::Jwt;
use super::method::{Method, Scheme};
use super::require::{Addresses, Require};
use super::token::Compact;
use super::{Answer, Methods, Request};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw;
use crate::config::shape::{OneOrMany, remedy};
use crate::types::{Identity, Refusal};
use http::{HeaderMap, HeaderName, Uri};
use std::net::IpAddr;
use std::sync::Arc;

/// The name for everybody.
pub const ANONYMOUS: &str = "anonymous";

/// What a route asks of who comes.
#[derive(Debug, Default)]
pub struct Access {
    /// Any of them; without one it is open.
    methods: Vec<Arc<Method>>,
    /// Who shows nothing may come too.
    anonymous: bool,
    require: Require,
    addresses: Addresses,
}

/// What becomes of a request.
pub struct Verdict {
    /// The method that decided.
    pub by: Option<Arc<Method>>,
    pub outcome: Outcome,
}

pub enum Outcome {
    /// Nobody in particular where there is no identity.
    Admitted(Option<Arc<Identity>>),
    Refused(Refusal),
    /// It is known who it is, but not this one.
    Forbidden(Arc<Identity>, Refusal),
    /// It takes longer: `Method::ask`, then [`Access::finish`].
    Ask(String),
}

/// The methods that are named, and a problem for each that there is not.
fn find(auth: Option<&OneOrMany<raw::Name>>, methods: &Methods, at: &At<'_>, problems: &Problems) -> Vec<Option<Arc<Method>>> {
    let names = auth.into_iter().flat_map(|names| names.0.iter()).enumerate();
    let one = |(index, name): (usize, &raw::Name)| match methods.get(&name.0) {
        Some(method) => method.clone(),
        None if !problems.is_read(&At::root().key("auth")) => None,
        // Said already: many routes have the same defaults.
        None if !problems.is_sound(&at.index(index)) => None,
        None => {
            let what = format!("no method of `auth` is named `{}`", name.0);
            problems.at(&at.index(index), what, "nobody could be recognised by it", remedy(&name.0, &methods.names()))
        }
    };
    names.filter(|(_, name)| name.0 != ANONYMOUS).map(one).collect()
}

impl Access {
    /// What route `raw` asks. `None` means that a problem was reported.
    ///
    /// What the route does not say itself, `defaults` say.
    pub fn build(raw: &raw::Route, defaults: &raw::Defaults, methods: &Methods, at: &At<'_>, problems: &Problems) -> Option<Access> {
        let (root, is_own) = (At::root(), raw.auth.is_some());
        let defaults_at = root.key("defaults");
        let names_at = if is_own { at.key("auth") } else { defaults_at.key("auth") };
        let auth = raw.auth.as_ref().or(defaults.auth.as_ref());
        let found = find(auth, methods, &names_at, problems);
        let require = Require::build(&raw.require);
        let is_known = auth.iter().any(|names| names.0.iter().any(|name| name.0 != ANONYMOUS));
        if !require.is_empty() && !is_known && problems.is_sound(&names_at) {
            let what = "it asks for scopes or claims, but for nobody who could have them";
            let fix = "add `auth:` with a method, or remove `require`";
            return problems.at(&at.key("require"), what, "every request would be refused", fix);
        }
        Some(Access {
            methods: found.into_iter().collect::<Option<_>>()?,
            anonymous: auth.iter().any(|names| names.0.iter().any(|name| name.0 == ANONYMOUS)),
            require,
            addresses: Addresses::build(&raw.ip),
        })
    }

    /// Looks up the names of `defaults`, which no route may come to.
    pub fn check_defaults(defaults: &raw::Defaults, methods: &Methods, at: &At<'_>, problems: &Problems) {
        find(defaults.auth.as_ref(), methods, &at.key("auth"), problems);
    }

    pub(super) fn methods(&self) -> &[Arc<Method>] {
        &self.methods
    }

    pub(super) fn require(&self) -> &Require {
        &self.require
    }

    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    pub(super) fn admits(&self, client: IpAddr) -> bool {
        self.addresses.admit(client)
    }

    /// Everybody may come, and nobody is recognised.
    pub fn is_open(&self) -> bool {
        self.methods.is_empty() && self.addresses.is_empty()
    }

    /// Some of those who come are recognised.
    pub fn recognises(&self) -> bool {
        !self.methods.is_empty()
    }

    /// Decides without waiting for anything.
    pub fn check(&self, request: &Request<'_>) -> Verdict {
        let refused = |by: Option<&Arc<Method>>, refusal| Verdict { by: by.cloned(), outcome: Outcome::Refused(refusal) };
        if !self.admits(request.client) {
            return refused(None, Refusal::ForbiddenIp);
        }
        let found = self.methods.iter().map(|method| (method, method.find(request)));
        let Some((method, found)) = found.into_iter().find(|(_, found)| *found != Found::Nothing) else {
            return match self.methods.is_empty() || (self.anonymous && self.require.is_empty()) {
                true => Verdict { by: None, outcome: Outcome::Admitted(None) },
                false => refused(None, Refusal::Unauthenticated),
            };
        };
        let Found::One(credential) = found else { return refused(Some(method), method.unclear()) };
        let (method, answer) = match &method.scheme {
            Scheme::Jwt(jwt) => self.token(method, jwt, &credential, request),
            _ => (method, method.check(&credential, request)),
        };
        let outcome = match answer {
            Answer::Known(result) => self.finish(result),
            Answer::Ask => Outcome::Ask(credential.into_owned()),
        };
        Verdict { by: Some(method.clone()), outcome }
    }

    /// Among several methods for tokens in one place, the token's issuer chooses. Nothing else of it is believed for that.
    fn token<'a>(&'a self, first: &'a Arc<Method>, jwt: &Jwt, token: &str, request: &Request<'_>) -> (&'a Arc<Method>, Answer) {
        let of_jwt = |method: &'a Arc<Method>| match &method.scheme {
            Scheme::Jwt(other) if other.place == jwt.place => Some((method, other)),
            _ => None,
        };
        let candidates = || self.methods.iter().filter_map(of_jwt);
        if let Some((method, known)) = candidates().find_map(|(method, jwt)| Some((method, jwt.recall(token, request.now)?))) {
            return (method, Answer::Known(Ok(known)));
        }
        let compact = match Compact::parse(token) {
            Ok(compact) => compact,
            Err(refusal) => return (first, Answer::Known(Err(refusal))),
        };
        let (method, jwt) = match candidates().count() {
            1 => (first, jwt),
            _ => {
                let claims = match compact.claims() {
                    Ok(claims) => claims,
                    Err(refusal) => return (first, Answer::Known(Err(refusal))),
                };
                let issuer = claims.get("iss").and_then(serde_json::Value::as_str);
                let is_for = |strictly: bool| candidates().find(|(_, jwt)| jwt.is_for(issuer) == Some(strictly));
                match is_for(true).or_else(|| is_for(false)) {
                    Some(chosen) => chosen,
                    None => return (first, Answer::Known(Err(Refusal::TokenIssuer))),
                }
            }
        };
        (method, jwt.check(&compact, token, request.now))
    }

    /// What is left to be asked of somebody who was recognised.
    pub fn finish(&self, result: Result<Arc<Identity>, Refusal>) -> Outcome {
        match result.map(|identity| (self.require.check(&identity), identity)) {
            Ok((Ok(()), identity)) => Outcome::Admitted(Some(identity)),
            Ok((Err(refusal), identity)) => Outcome::Forbidden(identity, refusal),
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    /// Takes all credentials of the route's methods out of a request that goes on, but for the one that `by` lets through.
    pub fn remove_credentials(&self, by: Option<&Arc<Method>>, headers: &mut HeaderMap, uri: &mut Uri) {
        let kept = by.filter(|method| method.forwards()).and_then(|method| method.place());
        for place in self.methods.iter().filter_map(|method| method.place()).filter(|place| Some(*place) != kept) {
            place.remove(headers, uri);
        }
    }

    /// The field of the credential that services get too, if they do.
    pub fn forwarded<'a>(&self, by: Option<&'a Arc<Method>>) -> Option<&'a HeaderName> {
        by.filter(|method| method.forwards()).and_then(|method| method.place()?.field())
    }

    /// The WWW-Authenticate fields of a refusal (RFC 9110, 11.6.1; RFC 6750, 3; RFC 7617, 2).
    pub fn challenges(&self, refusal: &Refusal, by: Option<&Arc<Method>>) -> Vec<String> {
        match refusal.status() {
            401 => {
                let is_by = |method: &Arc<Method>| by.is_some_and(|by| Arc::ptr_eq(by, method));
                let mut all: Vec<String> = self.methods.iter().map(|method| method.challenge(is_by(method).then_some(refusal))).collect();
                all.dedup();
                all
            }
            403 if *refusal == Refusal::ForbiddenScope && by.is_some_and(|by| by.is_bearer()) => {
                vec![format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", self.require.scopes().replace(['"', '\\'], ""))]
            }
            _ => Vec::new(),
        }
    }

    /// Scopes, claims and addresses, for people.
    pub fn requires(&self) -> Vec<String> {
        self.require.shown().chain(self.addresses.shown()).collect()
    }

    /// What it asks, for people: the methods.
    pub fn asks(&self) -> Vec<&str> {
        let names = self.methods.iter().map(|method| &*method.name);
        names.chain(self.anonymous.then_some(ANONYMOUS)).collect()
    }
}
