//! The configuration as it is typed. Each part is the shape of one map of the file; what it means, the rooms decide.

use super::scalar::{Bind, HostPort, Url};
use super::shape::{Named, Node, Number, OneOrMany, Shape, Share, Size, choice, record};
use serde_yaml::Value;
use std::time::Duration;

record! {
    /// The whole file.
    pub struct Config {
        /// Where requests come in.
        listeners: Vec<Listener>,
        /// Where the operator asks: health, status, metrics. Off when absent.
        admin: Option<Admin> = None,
        /// What concerns the process as a whole.
        server: Server = Server::default(),
        /// The error log.
        log: Log = Log::default(),
        /// One line for each request. Off when absent.
        access_log: Option<AccessLog> = None,
        /// What routes point at, by name.
        services: Named<Service> = Named::default(),
        /// Which request goes where.
        routes: Vec<Route>,
    }
    later ["redis", "defaults", "auth", "rate_limits", "caches", "cache_store", "include", "tests"];
}

record! {
    /// A socket that accepts requests.
    pub struct Listener {
        /// What routes call it.
        name: Option<Name> = None,
        /// Its address.
        bind: Bind,
        /// TLS with ALPN; plaintext when absent.
        tls: Option<ListenerTls> = None,
    }
    later ["proxy_protocol"];
}

record! {
    pub struct ListenerTls {
        /// Chosen by SNI; the first is the default.
        certificates: Vec<CertificatePair>,
        /// The lowest version that is spoken.
        min_version: TlsVersion = TlsVersion::V12,
    }
    later ["client_auth"];
}

record! {
    pub struct CertificatePair {
        /// A PEM file with the chain, the leaf first.
        cert: FilePath,
        /// A PEM file with the private key.
        key: FilePath,
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
        /// Peers whose X-Forwarded-*, Forwarded and X-Request-Id are believed.
        trusted_proxies: Vec<Network> = Vec::new(),
        /// Readiness fails this long before accepting stops.
        drain_delay: Duration = Duration::ZERO,
        /// How long requests in flight may take once accepting has stopped.
        drain_timeout: Duration = Duration::from_secs(30),
        max_connections: Number<1, 10_000_000> = Number(20_000),
        timeouts: ServerTimeouts = ServerTimeouts::default(),
        limits: ServerLimits = ServerLimits::default(),
        http2: Http2 = Http2::default(),
    }
    later ["secret", "upgrade_socket", "buffers", "flood", "overload", "limit_keys_max"];
}

impl Default for Server {
    fn default() -> Self {
        Server {
            threads: None,
            trusted_proxies: Vec::new(),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            max_connections: Number(20_000),
            timeouts: ServerTimeouts::default(),
            limits: ServerLimits::default(),
            http2: Http2::default(),
        }
    }
}

record! {
    /// How long a client may take.
    pub struct ServerTimeouts {
        /// For a whole request head, from its first byte.
        request_header: Duration = ServerTimeouts::default().request_header,
        /// Silence within a request body.
        request_body: Duration = ServerTimeouts::default().request_body,
        /// Rest between requests.
        keepalive: Duration = ServerTimeouts::default().keepalive,
        /// Without taking what we send.
        client_write: Duration = ServerTimeouts::default().client_write,
        tls_handshake: Duration = ServerTimeouts::default().tls_handshake,
    }
}

impl Default for ServerTimeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        ServerTimeouts {
            request_header: seconds(10),
            request_body: seconds(30),
            keepalive: seconds(60),
            client_write: seconds(30),
            tls_handshake: seconds(10),
        }
    }
}

record! {
    /// How large a request may be.
    pub struct ServerLimits {
        header_bytes: Size = ServerLimits::default().header_bytes,
        header_count: Number<1, 256> = ServerLimits::default().header_count,
        uri_bytes: Size = ServerLimits::default().uri_bytes,
        /// 0 is no limit.
        body_bytes: Size = ServerLimits::default().body_bytes,
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        ServerLimits { header_bytes: Size(32 << 10), header_count: Number(100), uri_bytes: Size(8 << 10), body_bytes: Size(16 << 20) }
    }
}

record! {
    pub struct Http2 {
        max_concurrent_streams: Number<1, 1_000_000> = Http2::default().max_concurrent_streams,
        idle_timeout: Duration = Http2::default().idle_timeout,
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Http2 { max_concurrent_streams: Number(100), idle_timeout: Duration::from_secs(60) }
    }
}

record! {
    /// The error log. `RUST_LOG` wins over `level`.
    pub struct Log {
        level: LogLevel = LogLevel::Info,
        /// `stderr`, or a file.
        path: FilePath = FilePath("stderr".into()),
        format: LogFormat = LogFormat::Text,
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: LogLevel::Info, path: FilePath("stderr".into()), format: LogFormat::Text }
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
        /// `stdout`, or a file.
        path: FilePath,
        format: AccessFormat = AccessFormat::Json,
        /// The share of requests that is written down.
        sample: Share = Share(1.0),
        /// Query parameters whose values are masked.
        redact: Vec<String> = Vec::new(),
    }
}

choice! {
    pub enum AccessFormat { "json" => Json, }
    later ["combined", "common"];
}

record! {
    pub struct Service {
        endpoints: Vec<Endpoint>,
        protocol: Protocol = Protocol::Http1,
        /// What Host becomes; the client's Host is kept when absent.
        host: Option<String> = None,
        /// TLS towards the service; plaintext when absent.
        tls: Option<ServiceTls> = None,
        balance: Balance = Balance::LeastRequest,
        timeouts: Timeouts = Timeouts::default(),
        keepalive: Keepalive = Keepalive::default(),
    }
    later ["dns", "srv", "sticky", "health_check", "ejection", "breaker", "slow_start", "max_in_flight", "queue", "retries", "fallback",
        "endpoints_file", "zone"];
}

choice! {
    pub enum Protocol { "http1" => Http1, "h2" => H2, "h2c" => H2c, }
}

/// `host:port`, or a map with more.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: HostPort,
    pub weight: u32,
}

impl Shape for Endpoint {
    fn read(node: &Node<'_>) -> Option<Self> {
        if !matches!(node.value, Value::Mapping(_)) {
            return HostPort::read(node).map(|address| Endpoint { address, weight: 1 });
        }
        let map = node.map()?;
        let address = map.required("address");
        let weight = map.read::<Number<1, 1_000>>("weight").unwrap_or(Some(Number(1)));
        map.finish(&["zone"])?;
        Some(Endpoint { address: address?, weight: u32::try_from(weight?.0).ok()? })
    }
}

record! {
    pub struct ServiceTls {
        /// A PEM file with the authorities that are trusted; the system's when absent.
        ca: Option<FilePath> = None,
        /// The name that is asked for and verified; the endpoint's host when absent.
        sni: Option<String> = None,
        /// A client certificate, a PEM file.
        cert: Option<FilePath> = None,
        /// Its key, a PEM file.
        key: Option<FilePath> = None,
        verify: bool = true,
    }
}

choice! {
    pub enum Balance {
        "round_robin" => RoundRobin,
        "least_request" => LeastRequest,
    }
    later ["random"];
}

record! {
    /// How long a service, or a route's part of it, may take.
    pub struct Timeouts {
        connect: Option<Duration> = None,
        /// Silence of the service while we wait for it.
        read: Option<Duration> = None,
        /// Without taking what we send.
        write: Option<Duration> = None,
        /// From the request's head to the answer's, attempts and backoff included.
        total: Option<Duration> = None,
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { connect: None, read: None, write: None, total: None }
    }
}

record! {
    /// Connections to the service that are kept for the next request.
    pub struct Keepalive {
        idle: Duration = Keepalive::default().idle,
        connections: Number<0, 1_000_000> = Keepalive::default().connections,
    }
}

impl Default for Keepalive {
    fn default() -> Self {
        Keepalive { idle: Duration::from_secs(60), connections: Number(128) }
    }
}

record! {
    pub struct Route {
        name: Option<Name> = None,
        /// The listeners it takes requests from; any when absent.
        listener: Option<OneOrMany<Name>> = None,
        /// Exact names, or `*.` and the rest; any when absent.
        host: Option<OneOrMany<String>> = None,
        path: String,
        methods: Option<OneOrMany<Method>> = None,
        /// Replaces the server's limit; 0 is none.
        body_bytes: Option<Size> = None,
        /// Replaces the service's, field by field.
        timeouts: Timeouts = Timeouts::default(),
        request: RequestChanges = RequestChanges::default(),
        response: ResponseChanges = ResponseChanges::default(),
        to: Option<To> = None,
        redirect: Option<Redirect> = None,
        respond: Option<Respond> = None,
    }
    later ["path_regex", "headers", "query", "auth", "require", "ip", "cors", "rate_limits", "priority", "max_in_flight", "cache",
        "compress", "mirror", "compose"];
}

record! {
    pub struct RequestChanges {
        headers: HeaderChanges = HeaderChanges::default(),
    }
    later ["path", "query", "body"];
}
impl Default for RequestChanges {
    fn default() -> Self {
        RequestChanges { headers: HeaderChanges::default() }
    }
}

record! {
    pub struct ResponseChanges {
        headers: HeaderChanges = HeaderChanges::default(),
    }
    later ["body"];
}
impl Default for ResponseChanges {
    fn default() -> Self {
        ResponseChanges { headers: HeaderChanges::default() }
    }
}

record! {
    /// Applied in this order: remove, set, add.
    pub struct HeaderChanges {
        set: Named<String> = Named::default(),
        add: Named<String> = Named::default(),
        remove: Vec<String> = Vec::new(),
    }
}
impl Default for HeaderChanges {
    fn default() -> Self {
        HeaderChanges { set: Named::default(), add: Named::default(), remove: Vec::new() }
    }
}

/// What a route points at.
#[derive(Clone, Debug)]
pub enum To {
    Service(String),
    Url(Url),
}

impl Shape for To {
    fn read(node: &Node<'_>) -> Option<Self> {
        if matches!(node.value, Value::Sequence(_)) {
            return node.problem("a weighted `to` is not supported by this version yet", "it would have no effect", "name one service");
        }
        let text = node.text("a service or a URL", "orders")?;
        if text.contains("://") {
            return node.parsed("an upstream's URL", "http://127.0.0.1:3000", str::parse).map(To::Url);
        }
        name(&text).map_or_else(
            |what| node.problem(what, "`to` needs a service's name or a URL", "write a service such as `orders`, or `http://127.0.0.1:3000`"),
            |name| Some(To::Service(name)),
        )
    }
}

record! {
    pub struct Redirect {
        status: RedirectStatus = RedirectStatus::Found,
        /// A path or a URL, with `${…}`. The query is kept unless this has one.
        to: String,
    }
}

choice! {
    pub enum RedirectStatus {
        "301" => MovedPermanently,
        "302" => Found,
        "303" => SeeOther,
        "307" => TemporaryRedirect,
        "308" => PermanentRedirect,
    }
}

record! {
    pub struct Respond {
        status: Number<200, 599> = Number(200),
        headers: Named<String> = Named::default(),
        body: String = String::new(),
    }
}

/// A name that others refer to: small letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(pub String);

fn name(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    match text.len() {
        1..=64 if text.bytes().all(legal) => Ok(text.to_string()),
        _ => Err(format!("`{text}` is not a name")),
    }
}

impl Shape for Name {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("a name of small letters, digits, `-` and `_`", "orders", name).map(Name)
    }
}

/// A path of the file system, as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilePath(pub String);
impl Shape for FilePath {
    fn read(node: &Node<'_>) -> Option<Self> {
        let path = node.text("a file's path", "tls/api.pem")?;
        match path.is_empty() {
            true => node.problem("an empty path", "it names no file", "write the file's path"),
            false => Some(FilePath(path)),
        }
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}
impl Shape for Secret {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text("a text", "${TOKEN}")?;
        match text.is_empty() {
            true => node.problem("an empty secret", "everybody would know it", "write a long random text"),
            false => Some(Secret(text)),
        }
    }
}

/// A network in CIDR form, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub ipnet::IpNet);
impl Shape for Network {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("a network in CIDR form", "10.0.0.0/8", |text| {
            let one = text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from);
            text.parse().or(one).map(Network).map_err(|_| format!("`{text}` is not a network"))
        })
    }
}

/// A method, in capitals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Method(pub http::Method);
impl Shape for Method {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("a method in capitals", "GET", |text| {
            let capitals = !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            let method = http::Method::from_bytes(text.as_bytes()).ok().filter(|_| capitals);
            method.map(Method).ok_or_else(|| format!("`{text}` is not a method"))
        })
    }
}

impl Shape for Bind {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("an address with a port", "0.0.0.0:8080", str::parse)
    }
}
impl Shape for HostPort {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("an endpoint's host and port", "10.0.0.11:8000", str::parse)
    }
}

/// Top-level keys that begin with `x-` hold anchors and are nobody's.
pub fn is_free(key: &str) -> bool {
    key.starts_with("x-")
}
