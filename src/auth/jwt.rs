//! Signed tokens (RFC 7519): whose, for whom, for how long.

use super::Answer;
use super::credential::{Place, header};
use super::issuer::{Issuer, Issuers, Source, is_url};
use super::keys::{KeyId, Keys};
use super::lists::Listed;
use super::remembered::Remembered;
use super::token::Compact;
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{Document, auth as raw};
use crate::config::secret::shown_url;
use crate::config::shape::Named;
use crate::types::{Identity, Refusal};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use http::HeaderName;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Tokens that are remembered for each method.
const TOKENS_MAX: usize = 32_768;

#[derive(Debug)]
pub struct Jwt {
    name: Arc<str>,
    pub place: Place,
    /// Empty for any.
    issuers: Vec<String>,
    /// Empty for any.
    audience: Vec<String>,
    /// Those that fit the keys when `None`.
    algorithms: Option<Vec<Algorithm>>,
    keys: Origin,
    leeway: f64,
    require: Vec<String>,
    pub to_headers: ToHeaders,
    pub forwards: bool,
    remembered: Remembered<Known>,
}

/// Where the keys come from.
#[derive(Debug)]
enum Origin {
    /// The configuration.
    Fixed(Arc<Keys>),
    /// A file beside it.
    File(Listed<Keys>),
    Issuer(Arc<Issuer>, Arc<Issuers>),
}

impl Origin {
    /// Nothing when the issuer has never been reached.
    fn keys(&self) -> Option<Arc<Keys>> {
        match self {
            Origin::Fixed(keys) => Some(keys.clone()),
            Origin::File(keys) => Some(keys.load_full()),
            Origin::Issuer(issuer, _) => issuer.keys(),
        }
    }
}

/// Fields that services get, by the claim they come from.
pub type ToHeaders = Vec<(String, HeaderName)>;

/// A token that was found right.
#[derive(Clone, Debug)]
struct Known {
    identity: Arc<Identity>,
    /// In Unix time.
    expires: f64,
    key: KeyId,
}

impl Jwt {
    /// `None` means that a problem was reported.
    pub fn build(raw: &raw::Jwt, name: &Arc<str>, issuers: &Arc<Issuers>, at: &At<'_>, problems: &Problems) -> Option<Jwt> {
        let algorithms = raw.algorithms.as_ref().map(|list| list.0.iter().map(|algorithm| named(*algorithm)).collect::<Vec<_>>());
        let keys = keys(raw, issuers, at, problems);
        // What an issuer publishes is its own business.
        let own = keys.as_ref().filter(|keys| !matches!(keys, Origin::Issuer(..))).and_then(Origin::keys);
        if let (Some(algorithms), Some(keys)) = (&algorithms, own)
            && let Some(useless) = algorithms.iter().find(|algorithm| !keys.algorithms().any(|fits| fits == **algorithm))
        {
            let what = format!("no key is for {useless:?}");
            let fix = "name algorithms that go with the keys; HS256, HS384 and HS512 need a secret of 32, 48 and 64 bytes";
            let _: Option<()> = problems.at(&at.key("algorithms"), what, "no token with it could ever be right", fix);
        }
        if raw.audience.is_none() && problems.is_sound(&at.key("audience")) {
            let why = "a token that was made for another service of the same issuer gets in";
            problems.warn(at, "`aud` is not checked", why, "add `audience:`");
        }
        if !raw.forward_token {
            let why = "the service behind it gets no Authorization";
            problems.warn(at, "the token is not forwarded", why, "add `forward_token: true` if it needs the token itself");
        }
        let to_headers = to_headers(&raw.claims_to_headers, &at.key("claims_to_headers"), problems);
        Some(Jwt {
            name: name.clone(),
            place: Place::build(&raw.from, &at.key("from"), problems)?,
            issuers: expected(raw),
            audience: raw.audience.iter().flat_map(|list| list.0.clone()).collect(),
            algorithms,
            keys: keys?,
            leeway: raw.leeway.as_secs_f64(),
            require: raw.require_claims.clone(),
            to_headers: to_headers?,
            forwards: raw.forward_token,
            remembered: Remembered::new(TOKENS_MAX),
        })
    }

    /// Whether this method is for tokens of that issuer; `Some(false)` when it is for any.
    pub fn is_for(&self, issuer: Option<&str>) -> Option<bool> {
        match self.issuers.is_empty() {
            true => Some(false),
            false => issuer.is_some_and(|issuer| self.issuers.iter().any(|own| own == issuer)).then_some(true),
        }
    }

    /// What is remembered of a token, if it is still good.
    pub fn recall(&self, token: &str, now: f64) -> Option<Arc<Identity>> {
        let known = self.remembered.get(token)?;
        // A key that is gone takes along what it signed.
        if now < known.expires && self.keys.keys().is_some_and(|keys| keys.contains(&known.key)) {
            return Some(known.identity);
        }
        self.remembered.remove(token);
        None
    }

    /// Checks a token that is not remembered. A key that is not known is reason to ask the issuer, now and then.
    pub(super) fn check(&self, token: &Compact<'_>, text: &str, now: f64) -> Answer {
        match (self.verify(token, text, now), &self.keys) {
            (Err(Refusal::TokenKeyUnknown), Origin::Issuer(issuer, _)) if issuer.may_be_asked() => Answer::Ask,
            (known, _) => Answer::Known(known),
        }
    }

    /// Checks a token once the issuer has been asked for its keys.
    ///
    /// # Errors
    /// Any of the `token_` refusals.
    pub async fn ask(&self, text: &str, now: f64) -> Result<Arc<Identity>, Refusal> {
        if let Origin::Issuer(issuer, issuers) = &self.keys {
            issuers.ask(issuer).await;
        }
        self.verify(&Compact::parse(text)?, text, now)
    }

    fn verify(&self, token: &Compact<'_>, text: &str, now: f64) -> Result<Arc<Identity>, Refusal> {
        let keys = self.keys.keys().ok_or(Refusal::AuthUnavailable)?;
        let key = keys.verify(token, self.algorithms.as_deref())?.id;
        let (identity, expires) = self.believe(token.claims()?, now)?;
        self.remembered.insert(text, Known { identity: identity.clone(), expires, key });
        Ok(identity)
    }

    /// Whom claims speak of that nobody has to doubt, and until when they are good.
    pub(super) fn believe(&self, claims: Map<String, Value>, now: f64) -> Result<(Arc<Identity>, f64), Refusal> {
        let expires = self.check_claims(&claims, now)?;
        let name = claims.get("sub").and_then(Value::as_str).unwrap_or_default().into();
        Ok((Arc::new(Identity { name, method: self.name.clone(), claims }), expires))
    }

    /// An issuer and an audience that are right, where it matters.
    pub(super) fn wants(&self) -> (Option<&str>, Option<&str>) {
        (self.issuers.first().map(String::as_str), self.audience.first().map(String::as_str))
    }

    /// Answers until when it is good.
    fn check_claims(&self, claims: &Map<String, Value>, now: f64) -> Result<f64, Refusal> {
        let date = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or(Refusal::TokenMalformed),
        };
        let (expires, not_before, _) = (date("exp")?, date("nbf")?, date("iat")?);
        for name in ["iss", "sub", "jti"] {
            if claims.get(name).is_some_and(|value| !value.is_string()) {
                return Err(Refusal::TokenMalformed);
            }
        }
        let issuer = claims.get("iss").and_then(Value::as_str);
        if self.is_for(issuer).is_none() {
            return Err(Refusal::TokenIssuer);
        }
        self.check_audience(claims.get("aud"))?;
        let until = expires.map_or(f64::INFINITY, |expires| expires + self.leeway);
        if now >= until {
            return Err(Refusal::TokenExpired);
        }
        if not_before.is_some_and(|from| now + self.leeway < from) {
            return Err(Refusal::TokenNotYetValid);
        }
        match self.require.iter().all(|name| claims.get(name).is_some_and(|value| !value.is_null())) {
            true => Ok(until),
            false => Err(Refusal::TokenClaimMissing),
        }
    }

    /// RFC 7519, 4.1.3: a text or a list of texts.
    fn check_audience(&self, claim: Option<&Value>) -> Result<(), Refusal> {
        let values = match claim {
            None => &[][..],
            Some(Value::Array(list)) => list,
            Some(one) => std::slice::from_ref(one),
        };
        if !values.iter().all(Value::is_string) {
            return Err(Refusal::TokenMalformed);
        }
        let is_ours = |value: &Value| self.audience.iter().any(|own| value.as_str() == Some(own));
        match self.audience.is_empty() || values.iter().any(is_ours) {
            true => Ok(()),
            false => Err(Refusal::TokenAudience),
        }
    }
}

/// Which claims go on in which fields. `None` means that a problem was reported.
pub fn to_headers(raw: &Named<String>, at: &At<'_>, problems: &Problems) -> Option<ToHeaders> {
    let field = |(claim, name): &(String, String)| Some((claim.clone(), header(name, &at.key(claim), problems)?));
    let all: Vec<_> = raw.0.iter().map(field).collect();
    all.into_iter().collect()
}

/// The issuers that are believed: those that are named, or the one whose configuration is read, with and without a slash at its end.
fn expected(raw: &raw::Jwt) -> Vec<String> {
    match (&raw.issuer, &raw.oidc) {
        (Some(named), _) => named.0.clone(),
        (None, Some(url)) => vec![url.trim_end_matches('/').to_string(), format!("{}/", url.trim_end_matches('/'))],
        (None, None) => Vec::new(),
    }
}

fn keys(raw: &raw::Jwt, issuers: &Arc<Issuers>, at: &At<'_>, problems: &Problems) -> Option<Origin> {
    let remote = match (&raw.jwks, &raw.oidc) {
        (Some(Document::Url(url)), None) => Some((Source::Jwks(url.clone()), at.key("jwks"))),
        (None, Some(url)) => {
            let names = raw.issuer.iter().flat_map(|named| named.0.clone()).collect();
            Some((Source::Oidc(url.clone(), names), at.key("oidc")))
        }
        _ => None,
    };
    // Keys from two places have a problem below.
    let Some((source, at)) = remote.filter(|_| raw.secret.is_none() && raw.secret_base64url.is_none() && raw.public_key.is_none()) else {
        return own_keys(raw, at, problems);
    };
    let url = source.url();
    match is_url(url) {
        true => Some(Origin::Issuer(issuers.get(source), issuers.clone())),
        false => {
            let what = format!("`{}` is not a URL", shown_url(url));
            problems.at(&at, what, "there would be no keys", "write an http or https URL, such as `https://issuer.example`")
        }
    }
}

fn own_keys(raw: &raw::Jwt, at: &At<'_>, problems: &Problems) -> Option<Origin> {
    const WHY: &str = "no token could be checked";
    let given = [raw.secret.is_some(), raw.secret_base64url.is_some(), raw.public_key.is_some(), raw.jwks.is_some(), raw.oidc.is_some()];
    let names = ["secret", "secret_base64url", "public_key", "jwks", "oidc"];
    match given.iter().filter(|given| **given).count() {
        1 => {}
        0 if !names.iter().all(|name| problems.is_sound(&at.key(name))) => return None,
        count => {
            let what = if count == 0 { "a token without keys" } else { "keys from more than one place" };
            let fix = "keep one of `secret`, `secret_base64url`, `public_key`, `jwks` and `oidc`";
            return problems.at(at, what, WHY, fix);
        }
    }
    let secret = |bytes: &[u8], at: &At<'_>| {
        const LONGER: &str = "use a random one of at least 32 bytes, such as `openssl rand -base64 48` makes";
        let keys = problems.ok(Keys::secret(bytes), at, "it could be guessed (RFC 7518, 3.2)", LONGER);
        keys.map(|keys| Origin::Fixed(Arc::new(keys)))
    };
    if let Some(text) = &raw.secret {
        return secret(text.0.as_bytes(), &at.key("secret"));
    }
    if let Some(text) = &raw.secret_base64url {
        let at = at.key("secret_base64url");
        let text = text.0.trim_end_matches('=');
        let bytes = URL_SAFE_NO_PAD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text));
        let bytes = bytes.map_err(|_| "the secret is not base64".to_string());
        let bytes = problems.ok(bytes, &at, WHY, "write base64url, or use `secret:` for a plain text")?;
        return secret(&bytes, &at);
    }
    if let Some(path) = &raw.public_key {
        let fix = "name a PEM file with a public key, as `openssl pkey -pubout` writes it";
        return Listed::read(&path.0, Box::new(|text| Keys::pem(text.as_bytes())), &at.key("public_key"), fix, problems).map(Origin::File);
    }
    let fix = "name a file with a JWK set (RFC 7517, 5)";
    let Some(Document::File(path)) = &raw.jwks else { return None };
    Listed::read(&path.0, Box::new(|text| Keys::jwks(text.as_bytes(), true)), &at.key("jwks"), fix, problems).map(Origin::File)
}

fn named(algorithm: raw::Algorithm) -> Algorithm {
    match algorithm {
        raw::Algorithm::Hs256 => Algorithm::HS256,
        raw::Algorithm::Hs384 => Algorithm::HS384,
        raw::Algorithm::Hs512 => Algorithm::HS512,
        raw::Algorithm::Rs256 => Algorithm::RS256,
        raw::Algorithm::Rs384 => Algorithm::RS384,
        raw::Algorithm::Rs512 => Algorithm::RS512,
        raw::Algorithm::Ps256 => Algorithm::PS256,
        raw::Algorithm::Ps384 => Algorithm::PS384,
        raw::Algorithm::Ps512 => Algorithm::PS512,
        raw::Algorithm::Es256 => Algorithm::ES256,
        raw::Algorithm::Es384 => Algorithm::ES384,
        raw::Algorithm::EdDsa => Algorithm::EdDSA,
    }
}
