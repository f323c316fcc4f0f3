//! The one client by which this room asks others: bounded in time and size, and following nobody elsewhere.

use http::{HeaderMap, StatusCode};
use reqwest::RequestBuilder;
use reqwest::redirect::Policy;
use std::sync::OnceLock;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(2);
/// More than any answer has.
const BYTES_MAX: usize = 1 << 20;

/// Made when it is first used: most gateways ask nobody.
#[derive(Debug, Default)]
pub struct Client(OnceLock<Result<reqwest::Client, String>>);

/// A whole answer.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

fn make() -> Result<reqwest::Client, String> {
    // Where there is no process around it, such as in tests.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().connect_timeout(CONNECT).redirect(Policy::none()).build();
    client.map_err(|e| format!("there is no client: {e}"))
}

impl Client {
    /// Asks, and reads the whole answer within `timeout`.
    ///
    /// # Errors
    /// Why there is none; no URL and no credential is named.
    pub async fn ask(&self, timeout: Duration, build: impl FnOnce(&reqwest::Client) -> RequestBuilder) -> Result<Answered, String> {
        let client = self.0.get_or_init(make).as_ref().map_err(Clone::clone)?;
        let why = |e: reqwest::Error| match (e.is_timeout(), e.is_connect()) {
            (true, _) => "no answer in time".to_string(),
            (_, true) => "it can't be reached".to_string(),
            _ => e.without_url().to_string(),
        };
        let mut response = build(client).timeout(timeout).send().await.map_err(why)?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(why)? {
            if body.len() + piece.len() > BYTES_MAX {
                return Err(format!("its answer is larger than {} KiB", BYTES_MAX >> 10));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answered { status: response.status(), headers: std::mem::take(response.headers_mut()), body })
    }

    /// A document.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn document(&self, url: &str, timeout: Duration) -> Result<Vec<u8>, String> {
        let answered = self.ask(timeout, |client| client.get(url)).await?;
        match answered.status {
            StatusCode::OK => Ok(answered.body),
            status => Err(format!("it answers {}", status.as_u16())),
        }
    }
}
