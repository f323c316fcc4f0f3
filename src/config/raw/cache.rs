//! `caches` and `cache_store`.

use crate::config::schema::{self, Parts};
use crate::config::shape::{Named, Node, Shape, Share, Size, choice, record};
use serde_json::Value as Json;
use std::time::Duration;

record! {
    /// What may be answered from memory, and for how long.
    pub struct Cache {
        /// How long an answer is fresh that says nothing of it itself. When absent, a tenth of the time
        /// since its Last-Modified, at most a day.
        ttl: Option<Duration> = None,
        /// Once stale, an answer is still given for so long while a new one is fetched behind it.
        stale_while_revalidate: Option<Duration> = None,
        /// Once stale, an answer is still given for so long when the service fails.
        stale_if_error: Option<Duration> = None,
        /// Larger answers are not kept.
        body_bytes_max: Size = Size(1 << 20),
        /// What tells answers apart.
        key: Vec<CacheKey> = vec![CacheKey::Scheme, CacheKey::Host, CacheKey::Path, CacheKey::Query],
        /// Request fields that tell answers apart in addition, whether or not Vary names them.
        vary: Vec<HeaderField> = Vec::new(),
        /// The field in which the service names an answer's tags, which `purge --tag` goes by.
        tags: Option<HeaderField> = None,
        /// As `ttl`, for answers with these statuses.
        status_ttl: Named<Duration> = Named::default(),
        /// Keeps answers with Set-Cookie too, and gives their cookies to everybody.
        set_cookie: bool = false,
        /// Shortens each `ttl` by a random share of up to this, so that what came together does not go together.
        jitter: Share = Share(0.0),
        /// How long a request waits for another one that fetches the same; then it asks the service itself.
        collapse_timeout: Duration = Duration::from_secs(10),
    }
}

choice! {
    pub enum CacheKey { "scheme" => Scheme, "host" => Host, "path" => Path, "query" => Query, "identity" => Identity, }
}

record! {
    /// Where answers are kept.
    pub struct CacheStore {
        /// The most that they take, with their heads and all that is needed to find them.
        memory: Size = CacheStore::default().memory,
    }
}

impl Default for CacheStore {
    fn default() -> Self {
        CacheStore { memory: Size(256 << 20) }
    }
}

/// The name of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderField(pub http::HeaderName);

impl Shape for HeaderField {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("a header field's name", "Accept-Encoding", |text| {
            text.parse().map(HeaderField).map_err(|_| format!("`{text}` is not a header field's name"))
        })
    }
    fn schema(_: &mut Parts) -> Json {
        schema::text("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", "Accept-Encoding")
    }
}
