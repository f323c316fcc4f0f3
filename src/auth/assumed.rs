//! A token that nobody has signed: for those who ask what would become of somebody with certain claims.

use super::access::{Access, Outcome, Verdict};
use super::jwt::Jwt;
use super::method::{Method, Scheme};
use crate::types::{Identity, Refusal};
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::sync::Arc;

/// How long such a token is good when it does not say.
const LIFE_SECONDS: f64 = 3_600.0;

impl Access {
    /// Decides about a token with these claims as if its signature were right. `iss`, `aud` and `exp` are as the method wants
    /// them where they are absent. `None` when the route knows no tokens: then it is of no use.
    pub fn assume(&self, claims: &Map<String, Value>, client: IpAddr, now: f64) -> Option<Verdict> {
        let of_jwt = |method: &'_ Arc<Method>| matches!(&method.scheme, Scheme::Jwt(_)).then(|| method.clone());
        let candidates: Vec<Arc<Method>> = self.methods().iter().filter_map(of_jwt).collect();
        let first = candidates.first()?.clone();
        if !self.admits(client) {
            return Some(Verdict { by: None, outcome: Outcome::Refused(Refusal::ForbiddenIp) });
        }
        let issuer = claims.get("iss").and_then(Value::as_str);
        let is_for = |method: &&Arc<Method>| match (&method.scheme, issuer) {
            (Scheme::Jwt(jwt), Some(_)) => jwt.is_for(issuer).is_some(),
            _ => true,
        };
        // One alone says itself what is wrong with the issuer.
        let chosen = match candidates.len() {
            1 => Some(first.clone()),
            _ => candidates.iter().find(is_for).cloned(),
        };
        let outcome = match chosen.as_ref().map(|method| (&method.scheme, method)) {
            Some((Scheme::Jwt(jwt), _)) => self.finish(jwt.assume(claims, now)),
            _ => Outcome::Refused(Refusal::TokenIssuer),
        };
        Some(Verdict { by: Some(chosen.unwrap_or(first)), outcome })
    }
}

impl Jwt {
    fn assume(&self, claims: &Map<String, Value>, now: f64) -> Result<Arc<Identity>, Refusal> {
        let mut claims = claims.clone();
        let (issuer, audience) = self.wants();
        let wanted = [("iss", issuer.map(Value::from)), ("aud", audience.map(Value::from)), ("exp", Some(Value::from(now + LIFE_SECONDS)))];
        for (name, value) in wanted {
            if let Some(value) = value.filter(|_| !claims.contains_key(name)) {
                claims.insert(name.to_string(), value);
            }
        }
        self.believe(claims, now).map(|(identity, _)| identity)
    }
}
