//! Tokens that say nothing by themselves: their issuer is asked (RFC 7662), once for a token at a time, and what it says is
//! remembered for a while, a no as well as a yes.

use super::credential::Place;
use super::flights::Flights;
use super::issuer::{Issuers, is_url};
use super::jwt::{ToHeaders, to_headers};
use super::remembered::Remembered;
use super::token;
use crate::config::json;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::auth as raw;
use crate::types::{Identity, Refusal};
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

const TOKENS_MAX: usize = 32_768;
/// Tokens that are asked about at once: an endpoint that is slow is not to be buried.
const AT_ONCE: usize = 128;
/// What a form writes otherwise; what need not be is left to issuers that don't decode it.
const IN_FORMS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');

pub struct Introspection {
    name: Arc<str>,
    pub place: Place,
    url: String,
    /// Who we are there, as it is sent: RFC 6749, 2.3.1 has it written as in a form before Basic.
    client: Option<(String, Option<String>)>,
    ttl: f64,
    timeout: Duration,
    pub to_headers: ToHeaders,
    pub forwards: bool,
    remembered: Remembered<Known>,
    /// Tokens that are being asked about.
    flights: Flights,
    permits: Semaphore,
    issuers: Arc<Issuers>,
}

impl std::fmt::Debug for Introspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Introspection").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Known {
    result: Result<Arc<Identity>, Refusal>,
    /// In Unix time.
    until: f64,
}

impl Introspection {
    /// `None` means that a problem was reported.
    pub fn build(raw: &raw::Introspection, name: &Arc<str>, issuers: &Arc<Issuers>, at: &At<'_>, problems: &Problems) -> Option<Self> {
        let to_headers = to_headers(&raw.claims_to_headers, &at.key("claims_to_headers"), problems);
        let place = Place::build(&raw.from, &at.key("from"), problems);
        if !is_url(&raw.url) {
            let fix = "write an http or https URL, such as `https://issuer.example/introspect`";
            return problems.at(&at.key("url"), "the issuer's address is not a URL", "nobody could be asked", fix);
        }
        let encoded = |text: &str| utf8_percent_encode(text, IN_FORMS).to_string();
        Some(Introspection {
            name: name.clone(),
            place: place?,
            url: raw.url.clone(),
            client: raw.client_id.as_ref().map(|id| (encoded(id), raw.client_secret.as_ref().map(|secret| encoded(&secret.0)))),
            ttl: raw.cache_ttl.as_secs_f64(),
            timeout: raw.timeout.0,
            to_headers: to_headers?,
            forwards: raw.forward_token,
            remembered: Remembered::new(TOKENS_MAX),
            flights: Flights::default(),
            permits: Semaphore::new(AT_ONCE),
            issuers: issuers.clone(),
        })
    }

    /// What is remembered of a token.
    pub fn recall(&self, token: &str, now: f64) -> Option<Result<Arc<Identity>, Refusal>> {
        if token.is_empty() {
            return Some(Err(Refusal::TokenMalformed));
        }
        if token.len() > token::BYTES_MAX {
            return Some(Err(Refusal::TokenTooLarge));
        }
        let known = self.remembered.get(token)?;
        (now < known.until).then_some(known.result)
    }

    /// Asks about a token that is not remembered.
    ///
    /// # Errors
    /// `token_inactive`, or `auth_unavailable` when there is no answer: it is never let in for that.
    pub async fn ask(&self, token: &str, now: f64) -> Result<Arc<Identity>, Refusal> {
        self.flights.found(token, || self.recall(token, now), self.ask_now(token, now)).await
    }

    async fn ask_now(&self, token: &str, now: f64) -> Result<Arc<Identity>, Refusal> {
        let body = format!("token={}&token_type_hint=access_token", utf8_percent_encode(token, NON_ALPHANUMERIC));
        let asked = self.issuers.client.ask(self.timeout, |client| {
            let request =
                client.post(&self.url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").header(ACCEPT, "application/json");
            match &self.client {
                Some((id, secret)) => request.basic_auth(id, secret.as_ref()).body(body),
                None => request.body(body),
            }
        });
        let asked = async {
            let permit = timeout(self.timeout, self.permits.acquire()).await;
            let _permit = permit.map_err(|_| "too many tokens are asked about".to_string())?;
            asked.await
        };
        let answer = match asked.await {
            Ok(answered) if answered.status == StatusCode::OK => json::object(&answered.body).ok_or("its answer can't be read".to_string()),
            Ok(answered) => Err(format!("it answers {}", answered.status.as_u16())),
            Err(why) => Err(why),
        };
        let claims = answer.map_err(|why| {
            log::warn!("introspection {}: {why}", self.name);
            Refusal::AuthUnavailable
        })?;
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or(f64::INFINITY);
        let name = ["sub", "username", "client_id"].iter().find_map(|name| claims.get(*name).and_then(Value::as_str));
        let name: Arc<str> = name.unwrap_or_default().into();
        let result = match claims.get("active") == Some(&Value::Bool(true)) && now < expires {
            true => Ok(Arc::new(Identity { name, method: self.name.clone(), claims })),
            false => Err(Refusal::TokenInactive),
        };
        let until = if result.is_ok() { expires.min(now + self.ttl) } else { now + self.ttl };
        self.remembered.insert(token, Known { result: result.clone(), until });
        result
    }
}
