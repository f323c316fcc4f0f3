//! The configuration as it is typed. Each part is the shape of one map of the file; what it means, the rooms decide.

pub mod auth;
mod body;
mod cache;
mod compose;
mod expect;
mod faults;
mod limit;
mod route;
mod service;
mod words;

pub use body::{JsonChanges, OtherTypes, RequestBody, ResponseBody};
pub use cache::{Cache, CacheKey, CacheStore, HeaderField};
pub use compose::{AnswerStatus, Call, CallHeaders, Compose, Json, OnConflict, OnError};
pub use expect::{Claims, ClientIp, Expect, RequestLine, Test};
pub use faults::{Breaker, Ejection, Fallback, HealthCheck, Retries, RetryMethods, RetryOn};
pub use limit::{By, Flood, LimitMode, Overload, Plans, RateLimit, Rates, Redis, WhenDown};
pub use route::{
    Coding, HeaderChanges, Match, Mirror, Portion, QueryChanges, Redirect, RedirectStatus, RequestChanges, Respond, ResponseChanges, Route,
    Target, To,
};
pub use service::{Balance, Endpoint, HashBy, Keepalive, Protocol, Queue, Service, ServiceTls, Sticky, Timeouts};
pub use words::{Document, FilePath, Method, Name, NameServer, Network, OwnPath, Secret, SrvName, Text, is_free};

/// A key of the whole file.
pub fn is_section(key: &str) -> bool {
    Config::KEYS.contains(&key)
}

use super::scalar::Bind;
use super::shape::{Named, Number, OneOrMany, Patience, Share, Size, choice, record};
use std::time::Duration;

record! {
    /// The whole file.
    pub struct Config {
        /// Where requests come in.
        listeners: Vec<Option<Listener>> = Vec::new(),
        /// Where the operator asks: health, status, metrics. Off when absent.
        admin: Option<Admin> = None,
        /// What concerns the process as a whole.
        server: Server = Server::default(),
        /// The error log.
        log: Log = Log::default(),
        /// One line for each request. Off when absent.
        access_log: Option<AccessLog> = None,
        /// What routes point at, by name.
        services: Named<Option<Service>> = Named::default(),
        /// How often somebody may ask, by name.
        rate_limits: Named<Option<RateLimit>> = Named::default(),
        /// What may be answered from memory, by name.
        caches: Named<Option<Cache>> = Named::default(),
        /// Where answers are kept.
        cache_store: CacheStore = CacheStore::default(),
        /// What several gateways share: limits that are `shared`, and purges.
        redis: Option<Redis> = None,
        /// Ways to recognise who comes, by name.
        auth: Named<Option<auth::Method>> = Named::default(),
        /// Which request goes where.
        routes: Vec<Option<Route>> = Vec::new(),
        /// Requests that nobody sends, and what is expected to become of them: `frontdesk test`, and `check`.
        tests: Vec<Option<Test>> = Vec::new(),
        /// What holds for every route that does not say otherwise.
        defaults: Defaults = Defaults::default(),
        /// More files with services and routes: a path or a pattern, or a list of them, relative to this file.
        include: Option<OneOrMany<FilePath>> = None,
    }
}

record! {
    #[derive(Default)]
    pub struct Defaults {
        /// Replaces the services', field by field.
        timeouts: Timeouts = Timeouts::default(),
        /// Who may come. A route opens itself with `anonymous`.
        auth: Option<OneOrMany<Name>> = None,
        /// Names of `rate_limits`.
        rate_limits: Vec<Name> = Vec::new(),
    }
}

record! {
    /// A socket that accepts requests.
    pub struct Listener {
        /// What routes call it.
        name: Option<Name> = None,
        /// Its address, `unix:PATH`, or `systemd:NAME` for a socket that systemd opens.
        bind: Bind,
        /// TLS with ALPN; plaintext when absent.
        tls: Option<ListenerTls> = None,
        /// Trusted proxies say for whom they speak (PROXY protocol, v1 and v2), with and without TLS.
        proxy_protocol: bool = false,
    }
}

record! {
    pub struct ListenerTls {
        /// Chosen by SNI; the first is the default. Needed unless `acme` has one.
        certificates: Vec<CertificatePair> = Vec::new(),
        /// A certificate that is ordered from an authority and renewed by itself.
        acme: Option<Acme> = None,
        /// The lowest version that is spoken.
        min_version: TlsVersion = TlsVersion::V12,
        /// Asks clients for certificates.
        client_auth: Option<ClientAuth> = None,
    }
}

record! {
    /// The authority asks for a file by plain HTTP on port 80 of each domain, which has to lead here.
    pub struct Acme {
        /// The names that it is for.
        domains: OneOrMany<String>,
        /// Where the authority writes to when something is wrong.
        email: Option<String> = None,
        /// The authority's directory.
        directory: String = "https://acme-v02.api.letsencrypt.org/directory".into(),
        /// A folder for keys, certificates and the account, which gateways may share. In STATE_DIRECTORY or /var/lib/frontdesk when absent.
        store: Option<FilePath> = None,
        /// A PEM file with authorities that are believed when the directory is asked, beside the system's.
        ca: Option<FilePath> = None,
    }
}

record! {
    pub struct ClientAuth {
        /// A PEM file with the authorities that sign clients' certificates.
        ca: FilePath,
        /// Whether a client may come without one.
        mode: ClientAuthMode = ClientAuthMode::Optional,
        /// A PEM file with the authorities' lists of certificates that hold no more.
        crl: Option<FilePath> = None,
    }
}

choice! {
    pub enum ClientAuthMode { "optional" => Optional, "required" => Required, }
}

record! {
    pub struct CertificatePair {
        /// A PEM file with the chain, the leaf first.
        cert: FilePath,
        /// A PEM file with the private key.
        key: FilePath,
        /// An OCSP response in DER, which is stapled to it.
        ocsp: Option<FilePath> = None,
    }
}

choice! {
    pub enum TlsVersion { "1.2" => V12, "1.3" => V13, }
}

record! {
    pub struct Admin {
        bind: Bind,
        /// Asked for as `Authorization: Bearer`; needed on any address but loopback.
        token: Option<Secret> = None,
    }
}

record! {
    pub struct Server {
        /// Worker threads; one a core when absent.
        threads: Option<Number<1, 1024>> = None,
        /// Where this gateway stands: endpoints of the same zone go first, while at least half of them are well.
        zone: Option<String> = None,
        /// Name servers for services' names; the system's when absent.
        dns: Option<OneOrMany<NameServer>> = None,
        /// Peers whose X-Forwarded-*, Forwarded and X-Request-Id are believed.
        trusted_proxies: Vec<Network> = Vec::new(),
        /// Readiness fails this long before accepting stops.
        drain_delay: Duration = Duration::ZERO,
        /// How long requests in flight may take once accepting has stopped.
        drain_timeout: Duration = Duration::from_secs(30),
        /// Where a new process meets the one whose place it takes. In RUNTIME_DIRECTORY, or a folder of its own, when absent.
        upgrade_socket: Option<OwnPath> = None,
        /// How long a new process may take until it serves.
        upgrade_timeout: Patience = Patience(Duration::from_secs(30)),
        max_connections: Number<1, 10_000_000> = Number(20_000),
        timeouts: ServerTimeouts = ServerTimeouts::default(),
        limits: ServerLimits = ServerLimits::default(),
        http2: Http2 = Http2::default(),
        /// The most of one client address, before everything else. Off when absent.
        flood: Option<Flood> = None,
        /// Sheds what services can't answer in time. Off when absent.
        overload: Option<Overload> = None,
        /// What is signed with; of a list, the first signs and all verify. The same on every gateway.
        secret: Option<OneOrMany<Secret>> = None,
        /// Keys of all limits together; above it the longest idle are forgotten.
        limit_keys_max: Number<1, 100_000_000> = Number(1_000_000),
        /// All bodies that are held in memory together; above it 503.
        buffers: Size = Size(256 << 20),
    }
}

impl Default for Server {
    fn default() -> Self {
        Server {
            zone: None,
            dns: None,
            threads: None,
            trusted_proxies: Vec::new(),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            upgrade_socket: None,
            upgrade_timeout: Patience(Duration::from_secs(30)),
            max_connections: Number(20_000),
            timeouts: ServerTimeouts::default(),
            limits: ServerLimits::default(),
            http2: Http2::default(),
            flood: None,
            overload: None,
            secret: None,
            limit_keys_max: Number(1_000_000),
            buffers: Size(256 << 20),
        }
    }
}

record! {
    /// How long a client may take.
    pub struct ServerTimeouts {
        /// For a whole request head, from its first byte.
        request_header: Patience = ServerTimeouts::default().request_header,
        /// Silence within a request body.
        request_body: Patience = ServerTimeouts::default().request_body,
        /// Rest between requests; 0 closes the connection behind each answer.
        keepalive: Duration = ServerTimeouts::default().keepalive,
        /// Without taking what we send.
        client_write: Patience = ServerTimeouts::default().client_write,
        tls_handshake: Patience = ServerTimeouts::default().tls_handshake,
    }
}

impl Default for ServerTimeouts {
    fn default() -> Self {
        let seconds = |count| Patience(Duration::from_secs(count));
        ServerTimeouts {
            request_header: seconds(10),
            request_body: seconds(30),
            keepalive: Duration::from_secs(60),
            client_write: seconds(30),
            tls_handshake: seconds(10),
        }
    }
}

record! {
    /// How large a request may be.
    pub struct ServerLimits {
        header_bytes: Size<1> = ServerLimits::default().header_bytes,
        header_count: Number<1, 256> = ServerLimits::default().header_count,
        uri_bytes: Size<1> = ServerLimits::default().uri_bytes,
        /// 0 is no limit.
        body_bytes: Size = ServerLimits::default().body_bytes,
        /// Bytes a second that a body has to come with once it has been waited for 5 s; 0 is none. gRPC over HTTP/2 and WebSockets are exempt.
        body_rate: Size = ServerLimits::default().body_rate,
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits {
            header_bytes: Size(32 << 10),
            header_count: Number(100),
            uri_bytes: Size(8 << 10),
            body_bytes: Size(16 << 20),
            body_rate: Size(240),
        }
    }
}

record! {
    pub struct Http2 {
        max_concurrent_streams: Number<1, 1_000_000> = Http2::default().max_concurrent_streams,
        idle_timeout: Patience = Http2::default().idle_timeout,
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Http2 { max_concurrent_streams: Number(100), idle_timeout: Patience(Duration::from_secs(60)) }
    }
}

record! {
    /// The error log. `RUST_LOG` wins over `level`.
    pub struct Log {
        level: LogLevel = LogLevel::Info,
        /// `stderr`, `stdout`, or a file.
        path: OwnPath = OwnPath("stderr".into()),
        format: LogFormat = LogFormat::Text,
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: LogLevel::Info, path: OwnPath("stderr".into()), format: LogFormat::Text }
    }
}

choice! {
    pub enum LogLevel { "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace, }
}
choice! {
    pub enum LogFormat { "text" => Text, "json" => Json, }
}

record! {
    pub struct AccessLog {
        /// `stdout`, `stderr`, or a file.
        path: OwnPath,
        format: AccessFormat = AccessFormat::Json,
        /// The share of requests that is written down.
        sample: Share = Share(1.0),
        /// Query parameters whose values are masked.
        redact: Vec<String> = Vec::new(),
    }
}

choice! {
    pub enum AccessFormat {
        "json" => Json,
        /// Apache's, with referer and user agent.
        "combined" => Combined,
        /// The Common Log Format.
        "common" => Common,
    }
}
