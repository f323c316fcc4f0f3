//! One order, from the account to the certificate (RFC 8555, 7.4).

use super::{Acme, is_token};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Collected};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, Error, HttpClient, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// For one question.
const PATIENCE: Duration = Duration::from_secs(30);
/// For an authority to look at all domains, and to sign.
const POLICY: RetryPolicy = RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(120));
/// More than any answer has.
const BYTES_MAX: usize = 1 << 20;
/// The account is not known there any more (RFC 8555, 6.7).
const STRANGER: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Orders the certificate, and files it in the store.
///
/// # Errors
/// Why there is none, ready to be logged.
pub async fn order(acme: &Acme) -> Result<(), String> {
    let outcome = try_order(acme).await;
    if let Err(Failure::Acme(Error::Api(problem))) = &outcome
        && problem.r#type.as_deref() == Some(STRANGER)
    {
        // The next try introduces itself anew.
        let _ = acme.store.set_account(None);
    }
    outcome.map_err(|failure| match failure {
        Failure::Acme(e) => e.to_string(),
        Failure::Other(why) => why,
    })
}

enum Failure {
    Acme(Error),
    Other(String),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Acme(e)
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Failure {
        Failure::Other(format!("the store can't be written: {e}"))
    }
}

async fn try_order(acme: &Acme) -> Result<(), Failure> {
    let account = account(acme).await?;
    let identifiers: Vec<Identifier> = acme.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    // Taken away again when this is over, whatever comes of it.
    let mut answers = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let challenge = authorization.challenge(ChallengeType::Http01);
        let mut challenge = challenge.ok_or_else(|| Failure::Other("the authority offers no HTTP-01".into()))?;
        if !is_token(&challenge.token) {
            return Err(Failure::Other("the authority's token is none".into()));
        }
        answers.push(acme.store.set_answer(&challenge.token, challenge.key_authorization().as_str())?);
        challenge.set_ready().await?;
    }
    match order.poll_ready(&POLICY).await {
        Ok(OrderStatus::Ready) => {}
        Ok(_) => return Err(Failure::Other(refused(&account, &order).await)),
        Err(e) => return Err(e.into()),
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLICY).await?;
    Ok(acme.store.set_certificate(&key, &chain)?)
}

/// Why domains could not be proved, as the authority says by now.
async fn refused(account: &Account, order: &Order) -> String {
    let mut reasons = Vec::new();
    if let Ok(mut order) = account.order(order.url().to_string()).await {
        let mut authorizations = order.authorizations();
        while let Some(Ok(authorization)) = authorizations.next().await {
            let errors = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
            let said = |error: &Problem| error.detail.clone().unwrap_or_else(|| error.to_string());
            reasons.extend(errors.map(|error| format!("{}: {}", authorization.identifier(), said(error))));
        }
    }
    format!("the domains could not be proved: {}", if reasons.is_empty() { "no reason is given".into() } else { reasons.join("; ") })
}

async fn account(acme: &Acme) -> Result<Account, Failure> {
    let client = || Client::new(acme).map(|client| Account::builder_with_http(Box::new(client)));
    let known = acme.store.account().and_then(|bytes| serde_json::from_slice::<AccountCredentials>(&bytes).ok());
    if let Some(credentials) = known {
        return Ok(client()?.from_credentials(credentials).await?);
    }
    let contact = acme.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = client()?.create(&new, acme.directory.clone(), None).await?;
    acme.store.set_account(Some(&serde_json::to_vec(&credentials).map_err(Error::Json)?))?;
    Ok(account)
}

/// What is wrong lies at the bottom of such an error.
fn told(e: reqwest::Error) -> Error {
    let mut deepest: &dyn std::error::Error = &e;
    while let Some(below) = deepest.source() {
        deepest = below;
    }
    Error::Other(format!("the authority can't be asked: {deepest}").into())
}

/// Asks the authority.
struct Client(reqwest::Client);

impl Client {
    fn new(acme: &Acme) -> Result<Client, Failure> {
        let mut builder = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
        if let Some(path) = &acme.ca {
            let pem = std::fs::read(path).map_err(|e| Failure::Other(format!("{}: {e}", path.display())))?;
            let own = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| Failure::Other(format!("{}: {e}", path.display())))?;
            builder = builder.tls_certs_merge(own);
        }
        builder.build().map(Client).map_err(|e| Failure::Other(format!("there is no client: {e}")))
    }
}

impl HttpClient for Client {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
            let asked = client.request(head.method, head.uri.to_string()).headers(head.headers).body(body);
            let mut response = asked.send().await.map_err(told)?;
            let mut answered = http::Response::new(());
            *answered.status_mut() = response.status();
            *answered.headers_mut() = std::mem::take(response.headers_mut());
            let mut bytes = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(told)? {
                if bytes.len() + piece.len() > BYTES_MAX {
                    return Err(Error::Str("an answer that is too large"));
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(BytesResponse { parts: answered.into_parts().0, body: Box::new(Bytes::from(bytes)) })
        })
    }
}
