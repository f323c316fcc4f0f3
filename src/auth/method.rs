//! One way to recognise somebody: a closed set, each answered without waiting where nobody else has to be asked.

use super::api_key::ApiKeys;
use super::basic::Basic;
use super::credential::{Found, Place};
use super::forward::Forward;
use super::introspection::Introspection;
use super::issuer::Issuers;
use super::jwt::Jwt;
use super::mtls::Mtls;
use super::{Answer, Denied, Head, Request, now};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::auth as raw;
use crate::types::{Identity, Refusal};
use http::{HeaderName, HeaderValue};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Method {
    pub name: Arc<str>,
    pub(super) scheme: Scheme,
}

#[derive(Debug)]
pub(super) enum Scheme {
    Jwt(Jwt),
    ApiKey(ApiKeys),
    Basic(Basic),
    Introspection(Introspection),
    Forward(Forward),
    Mtls(Mtls),
}

impl Method {
    pub(super) fn build(name: &str, raw: &raw::Method, issuers: &Arc<Issuers>, at: &At<'_>, problems: &Problems) -> Option<Method> {
        let name: Arc<str> = name.into();
        let keys = [
            ("jwt", raw.jwt.is_some()),
            ("api_key", raw.api_key.is_some()),
            ("basic", raw.basic.is_some()),
            ("introspection", raw.introspection.is_some()),
            ("forward", raw.forward.is_some()),
            ("mtls", raw.mtls.is_some()),
        ];
        let count = keys.iter().filter(|(_, given)| *given).count();
        if count != 1 {
            let what = format!("`{name}` has {} ways to recognise somebody", if count == 0 { "no" } else { "several" });
            let fix = "give it one of `jwt`, `api_key`, `basic`, `introspection`, `forward` and `mtls`; a route's `auth` may name several methods";
            return match count == 0 && !problems.is_sound(at) {
                true => None,
                false => problems.at(at, what, "a method is one way", fix),
            };
        }
        let scheme = match (&raw.jwt, &raw.api_key, &raw.basic, &raw.introspection, &raw.forward, &raw.mtls) {
            (Some(raw), ..) => Scheme::Jwt(Jwt::build(raw, &name, issuers, &at.key("jwt"), problems)?),
            (_, Some(raw), ..) => Scheme::ApiKey(ApiKeys::build(raw, &name, &at.key("api_key"), problems)?),
            (_, _, Some(raw), ..) => Scheme::Basic(Basic::build(raw, &name, &at.key("basic"), problems)?),
            (.., Some(raw), _, _) => Scheme::Introspection(Introspection::build(raw, &name, issuers, &at.key("introspection"), problems)?),
            (.., Some(raw), _) => Scheme::Forward(Forward::build(raw, &name, issuers, &at.key("forward"), problems)?),
            (.., raw) => Scheme::Mtls(Mtls::build(raw.as_ref()?, &name)),
        };
        Some(Method { name, scheme })
    }

    /// Where its credential is; nothing for one that judges the whole head.
    pub(super) fn place(&self) -> Option<&Place> {
        match &self.scheme {
            Scheme::Jwt(jwt) => Some(&jwt.place),
            Scheme::ApiKey(keys) => Some(&keys.place),
            Scheme::Basic(basic) => Some(&basic.place),
            Scheme::Introspection(introspection) => Some(&introspection.place),
            Scheme::Forward(_) | Scheme::Mtls(_) => None,
        }
    }

    /// The fields in which it looks for credentials.
    pub(super) fn reads(&self) -> impl Iterator<Item = &HeaderName> {
        let sent: &[HeaderName] = match &self.scheme {
            Scheme::Forward(forward) => &forward.send,
            Scheme::Jwt(_) | Scheme::ApiKey(_) | Scheme::Basic(_) | Scheme::Introspection(_) | Scheme::Mtls(_) => &[],
        };
        self.place().and_then(Place::field).into_iter().chain(sent)
    }

    /// What judges the whole head always has something to judge.
    pub(super) fn find<'a>(&self, request: &Request<'a>) -> Found<'a> {
        match (self.place(), &self.scheme) {
            (Some(place), _) => place.find(request.headers, request.query),
            (None, Scheme::Mtls(_)) => request.certificate.map_or(Found::Nothing, |shown| Found::One(shown.fingerprint.as_str().into())),
            (None, _) => Found::One("".into()),
        }
    }

    pub(super) fn check(&self, credential: &str, request: &Request<'_>) -> Answer {
        match &self.scheme {
            Scheme::ApiKey(keys) => Answer::Known(keys.check(credential, request.now)),
            Scheme::Basic(basic) => basic.recall(credential).map_or(Answer::Ask, |identity| Answer::Known(Ok(identity))),
            Scheme::Introspection(introspection) => introspection.recall(credential, request.now).map_or(Answer::Ask, Answer::Known),
            Scheme::Forward(_) => Answer::Ask,
            Scheme::Mtls(mtls) => {
                Answer::Known(request.certificate.ok_or(Refusal::Unauthenticated).and_then(|shown| mtls.check(shown, request.now)))
            }
            // Tokens are `Access::token`'s, which chooses among several methods.
            Scheme::Jwt(_) => Answer::Known(Err(Refusal::Unauthenticated)),
        }
    }

    /// Finds out what takes longer.
    ///
    /// # Errors
    /// Who shows it does not get in.
    pub async fn ask(&self, credential: &str, head: &Head<'_>) -> Result<Arc<Identity>, Denied> {
        let found = match &self.scheme {
            Scheme::Jwt(jwt) => jwt.ask(credential, now()).await,
            Scheme::Basic(basic) => basic.check(credential, head.client).await,
            Scheme::Introspection(introspection) => introspection.ask(credential, now()).await,
            Scheme::Forward(forward) => return forward.ask(head).await,
            Scheme::ApiKey(_) | Scheme::Mtls(_) => Err(Refusal::Unauthenticated),
        };
        found.map_err(Denied::Refused)
    }

    /// What somebody is told who shows two credentials for one, or one that is not a text.
    pub(super) fn unclear(&self) -> Refusal {
        match &self.scheme {
            Scheme::Jwt(_) | Scheme::Introspection(_) => Refusal::TokenMalformed,
            Scheme::ApiKey(_) => Refusal::KeyUnknown,
            Scheme::Basic(_) | Scheme::Forward(_) | Scheme::Mtls(_) => Refusal::Unauthenticated,
        }
    }

    /// How long a failure is to be rested from: the easier it is guessed, the longer.
    pub fn cost(&self) -> Duration {
        Duration::from_millis(match &self.scheme {
            Scheme::Basic(_) => 1_000,
            Scheme::ApiKey(_) => 100,
            Scheme::Jwt(_) | Scheme::Introspection(_) | Scheme::Forward(_) | Scheme::Mtls(_) => 10,
        })
    }

    /// Whether it takes so much to find out that who has failed before waits for it first: otherwise guesses would take what all
    /// others need.
    pub fn is_dear(&self) -> bool {
        matches!(self.scheme, Scheme::Basic(_))
    }

    /// Whether services get the credential too.
    pub(super) fn forwards(&self) -> bool {
        match &self.scheme {
            Scheme::Jwt(jwt) => jwt.forwards,
            Scheme::Introspection(introspection) => introspection.forwards,
            Scheme::Forward(_) => true,
            Scheme::ApiKey(_) | Scheme::Basic(_) | Scheme::Mtls(_) => false,
        }
    }

    /// Fields that services get of who is recognised, by claim.
    pub(super) fn to_headers(&self) -> &[(String, HeaderName)] {
        match &self.scheme {
            Scheme::Jwt(jwt) => &jwt.to_headers,
            Scheme::Introspection(introspection) => &introspection.to_headers,
            Scheme::Forward(forward) => &forward.copy,
            Scheme::ApiKey(_) | Scheme::Basic(_) | Scheme::Mtls(_) => &[],
        }
    }

    pub(super) fn is_bearer(&self) -> bool {
        matches!(self.scheme, Scheme::Jwt(_) | Scheme::Introspection(_))
    }

    pub(super) fn challenge(&self, refusal: Option<&Refusal>) -> String {
        let realm = &self.name;
        match (&self.scheme, refusal) {
            (Scheme::Basic(basic), _) => format!("Basic realm=\"{}\", charset=\"UTF-8\"", basic.realm),
            (Scheme::Mtls(_), _) => format!("Certificate realm=\"{realm}\""),
            (Scheme::ApiKey(_), _) => format!("ApiKey realm=\"{realm}\""),
            (_, None | Some(Refusal::Unauthenticated)) => format!("Bearer realm=\"{realm}\""),
            (Scheme::Jwt(_) | Scheme::Introspection(_) | Scheme::Forward(_), Some(refusal)) => {
                format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{}\"", refusal.title())
            }
        }
    }

    /// The fields that services get of somebody, with their values.
    pub fn headers<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = (&'a HeaderName, HeaderValue)> {
        self.to_headers().iter().filter_map(|(claim, name)| {
            let value = HeaderValue::from_str(&identity.claim_text(claim)?).ok()?;
            Some((name, value))
        })
    }
}
