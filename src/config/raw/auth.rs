//! `auth`, and what a route asks of who comes.

use super::{Document, FilePath, Network, Secret};
use crate::config::shape::{Named, Node, OneOrMany, Patience, Shape, choice, record};
use serde_yaml::Value;
use std::time::Duration;

record! {
    /// A way to recognise somebody: exactly one of these.
    pub struct Method {
        /// A signed token (RFC 7519).
        jwt: Option<Jwt> = None,
        /// A long random text of which only the hash is kept.
        api_key: Option<ApiKey> = None,
        /// A name and a password (RFC 7617).
        basic: Option<Basic> = None,
        /// A token that its issuer is asked about (RFC 7662).
        introspection: Option<Introspection> = None,
        /// Another service says who it is.
        forward: Option<ForwardAuth> = None,
        /// A certificate that the client shows in the handshake.
        mtls: Option<Mtls> = None,
    }
}

record! {
    pub struct Jwt {
        /// What `iss` has to be; anything when absent.
        issuer: Option<OneOrMany<String>> = None,
        /// One of these has to be in `aud`; it is not checked when absent.
        audience: Option<OneOrMany<String>> = None,
        /// The algorithms that are taken; those that fit the keys when absent.
        algorithms: Option<OneOrMany<Algorithm>> = None,
        /// The keys: a JWKS document, a URL or a file.
        jwks: Option<Document> = None,
        /// The issuer's URL, whose OpenID configuration names the JWKS document.
        oidc: Option<String> = None,
        /// A shared secret, for HS256, HS384 and HS512.
        secret: Option<Secret> = None,
        /// The same, base64 with either alphabet.
        secret_base64url: Option<Secret> = None,
        /// A PEM file with a public key or a certificate.
        public_key: Option<FilePath> = None,
        /// Where the token is; `Authorization: Bearer` when absent.
        from: From = From::default(),
        /// How far the clocks may differ.
        leeway: Duration = Duration::from_secs(30),
        /// Claims that have to be there.
        require_claims: Vec<String> = vec!["exp".to_string()],
        /// Header fields that services get, by claim.
        claims_to_headers: Named<String> = Named::default(),
        /// Whether services get the token too.
        forward_token: bool = false,
    }
}

choice! {
    pub enum Algorithm {
        "HS256" => Hs256, "HS384" => Hs384, "HS512" => Hs512,
        "RS256" => Rs256, "RS384" => Rs384, "RS512" => Rs512,
        "PS256" => Ps256, "PS384" => Ps384, "PS512" => Ps512,
        "ES256" => Es256, "ES384" => Es384, "EdDSA" => EdDsa,
    }
}

record! {
    /// Where a credential is: one of a header field, a cookie and a query parameter.
    #[derive(Default)]
    pub struct From {
        header: Option<String> = None,
        /// The word in front of it; `Bearer` for Authorization, else none.
        scheme: Option<String> = None,
        cookie: Option<String> = None,
        query: Option<String> = None,
    }
}

record! {
    pub struct ApiKey {
        /// The field that holds the key. One of `header`, `query` and `cookie`.
        header: Option<String> = None,
        query: Option<String> = None,
        cookie: Option<String> = None,
        /// A YAML file with a list of keys, as `frontdesk hash-key` prints them.
        keys: FilePath,
    }
}

record! {
    /// One key of such a file.
    pub struct ApiKeyEntry {
        /// Who has it. Several keys may have the same.
        id: String,
        /// `PREFIX:SHA-256`, as `frontdesk hash-key` prints it.
        hash: String,
        /// The moment after which it is good no more (RFC 3339).
        expires: Option<String> = None,
        scopes: Vec<String> = Vec::new(),
        /// More to be known of its holder, as claims.
        metadata: Named<String> = Named::default(),
    }
}

record! {
    pub struct Basic {
        /// A YAML file with names and hashes, as `frontdesk hash-password` prints them.
        users: FilePath,
        /// What the browser shows; the method's name when absent.
        realm: Option<String> = None,
    }
}

record! {
    /// One user of such a file.
    pub struct User {
        name: String,
        /// Argon2, as `frontdesk hash-password` prints it.
        hash: String,
        scopes: Vec<String> = Vec::new(),
        /// More to be known of them, as claims.
        metadata: Named<String> = Named::default(),
    }
}

record! {
    /// Certificates and who shows them. The listener's `client_auth` says who may sign them.
    pub struct Mtls {
        /// By parts of the subject: `CN=billing`, or several with commas between them, all of which have to be there.
        subjects: Named<String> = Named::default(),
        /// By a subject alternative name: a host, an e-mail address, a URI.
        sans: Named<String> = Named::default(),
        /// By the SHA-256 of the certificate, in hexadecimal digits.
        fingerprints: Named<String> = Named::default(),
    }
}

record! {
    pub struct Introspection {
        /// The issuer's introspection endpoint.
        url: String,
        /// Who we are there.
        client_id: Option<String> = None,
        client_secret: Option<Secret> = None,
        /// How long an answer is remembered, though never beyond the token's `exp`.
        cache_ttl: Duration = Duration::from_secs(30),
        timeout: Patience = Patience(Duration::from_secs(2)),
        /// Where the token is; `Authorization: Bearer` when absent.
        from: From = From::default(),
        /// Header fields that services get, by claim.
        claims_to_headers: Named<String> = Named::default(),
        /// Whether services get the token too.
        forward_token: bool = false,
    }
}

record! {
    pub struct ForwardAuth {
        /// What is asked, with GET.
        url: String,
        /// The client's fields that it gets.
        send: Vec<String> = vec!["Authorization".to_string(), "Cookie".to_string()],
        /// Fields of its answer that go on to services.
        copy: Vec<String> = Vec::new(),
        /// The field of its answer that names who it is.
        identity: Option<String> = None,
        timeout: Patience = Patience(Duration::from_secs(1)),
    }
}

record! {
    /// What who comes has to have.
    #[derive(Default)]
    pub struct Require {
        /// All of these scopes.
        scopes_all: Option<OneOrMany<String>> = None,
        /// At least one of these.
        scopes_any: Option<OneOrMany<String>> = None,
        /// What claims have to be, by their path (`realm_access.roles`).
        claims: Named<Claim> = Named::default(),
    }
}

record! {
    /// By the client's address. What is denied is denied even if it is allowed.
    #[derive(Default)]
    pub struct Addresses {
        /// Everybody when absent.
        allow: Option<OneOrMany<Network>> = None,
        deny: Vec<Network> = Vec::new(),
    }
}

record! {
    /// Which pages of other origins may ask (Fetch, 3.2).
    pub struct Cors {
        /// `https://app.example.com`, `https://*.example.com`, or `*`.
        origins: OneOrMany<String>,
        /// What pages may send; the route's own methods when absent.
        methods: Option<OneOrMany<super::Method>> = None,
        /// Fields that pages may send.
        headers: Vec<String> = Vec::new(),
        /// Fields that pages may read.
        expose: Vec<String> = Vec::new(),
        /// Whether cookies and Authorization come along.
        credentials: bool = false,
        /// How long a browser remembers the answer.
        max_age: Option<Duration> = None,
    }
}

/// What a claim has to be: a value, a list of those it may be, or `{ contains: … }`.
#[derive(Clone, Debug)]
pub enum Claim {
    /// The claim, or an item of it, is one of these.
    OneOf(Vec<String>),
    /// The claim is a list with all of these.
    Contains(Vec<String>),
}

/// A text, a number, or a bare true or false, since claims may be those.
struct Scalar(String);
impl Shape for Scalar {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.value {
            Value::Bool(yes) => Some(Scalar(yes.to_string())),
            _ => node.text("a value, a list of values, or `{ contains: … }`", "gold").map(Scalar),
        }
    }
}

impl Shape for Claim {
    fn read(node: &Node<'_>) -> Option<Self> {
        let texts = |values: OneOrMany<Scalar>| values.0.into_iter().map(|value| value.0).collect();
        if !matches!(node.value, Value::Mapping(_)) {
            return OneOrMany::read(node).map(texts).map(Claim::OneOf);
        }
        let map = node.map()?;
        let contains = map.required("contains").map(texts).map(Claim::Contains);
        map.finish();
        contains
    }
}
