//! Another service says who it is: a 2xx lets in, any other answer is the client's, and no answer is a no.

use super::credential::header;
use super::fetch::Answered;
use super::issuer::{Issuers, is_url};
use super::jwt::ToHeaders;
use super::{Denied, Head};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::auth as raw;
use crate::types::{Identity, Refusal};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Forward {
    name: Arc<str>,
    url: String,
    /// The client's fields that it gets.
    pub send: Vec<HeaderName>,
    /// Fields of its answer that services get: each is a claim of its own name.
    pub copy: ToHeaders,
    identity: Option<HeaderName>,
    timeout: Duration,
    issuers: Arc<Issuers>,
}

impl Forward {
    /// `None` means that a problem was reported.
    pub fn build(raw: &raw::ForwardAuth, name: &Arc<str>, issuers: &Arc<Issuers>, at: &At<'_>, problems: &Problems) -> Option<Forward> {
        let fields = |list: &[String], key: &str| {
            let at = at.key(key);
            let read: Vec<_> = list.iter().enumerate().map(|(i, name)| header(name, &at.index(i), problems)).collect();
            read.into_iter().collect::<Option<Vec<_>>>()
        };
        let (send, copy) = (fields(&raw.send, "send"), fields(&raw.copy, "copy"));
        let identity = raw.identity.as_ref().map(|name| header(name, &at.key("identity"), problems));
        if !is_url(&raw.url) {
            let fix = "write an http or https URL, such as `http://127.0.0.1:7000/check`";
            return problems.at(&at.key("url"), "what is asked is not a URL", "nobody could be asked", fix);
        }
        Some(Forward {
            name: name.clone(),
            url: raw.url.clone(),
            send: send?,
            copy: copy?.into_iter().map(|name| (name.to_string(), name)).collect(),
            identity: identity.map_or(Some(None), |name| name.map(Some))?,
            timeout: raw.timeout.0,
            issuers: issuers.clone(),
        })
    }

    /// # Errors
    /// Its own answer, or `auth_unavailable`.
    pub async fn ask(&self, head: &Head<'_>) -> Result<Arc<Identity>, Denied> {
        let mut fields = HeaderMap::new();
        for name in &self.send {
            for value in head.headers.get_all(name) {
                fields.append(name, value.clone());
            }
        }
        let about = [
            ("x-forwarded-method", head.method.as_str()),
            ("x-forwarded-uri", head.target),
            ("x-forwarded-host", head.host),
            ("x-forwarded-proto", head.scheme),
            ("x-forwarded-for", &head.client.to_string()),
        ];
        for (name, text) in about {
            if let Ok(value) = HeaderValue::from_str(text) {
                fields.insert(HeaderName::from_static(name), value);
            }
        }
        let answered = self.issuers.client.ask(self.timeout, |client| client.get(&self.url).headers(fields)).await.map_err(|why| {
            log::warn!("forward auth {}: {why}", self.name);
            Denied::Refused(Refusal::AuthUnavailable)
        })?;
        match answered.status.is_success() {
            true => Ok(Arc::new(self.identity(&answered))),
            false => Err(Denied::Relayed(Box::new(answered))),
        }
    }

    fn identity(&self, answered: &Answered) -> Identity {
        let text = |name: &HeaderName| answered.headers.get(name).and_then(|value| value.to_str().ok());
        let named = self.copy.iter().map(|(_, name)| name).chain(&self.identity);
        let claims: Map<String, Value> = named.filter_map(|name| Some((name.to_string(), text(name)?.into()))).collect();
        let name = self.identity.as_ref().and_then(text).unwrap_or_default();
        Identity { name: name.into(), method: self.name.clone(), claims }
    }
}
