//! Single values with a meaning of their own.

use crate::config::scalar::{Bind, HostPort};
use crate::config::schema::{self, Parts};
use crate::config::shape::{Node, Shape};
use serde_json::{Value as Json, json};
use std::net::{IpAddr, SocketAddr};

/// A name that others refer to: small letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(pub String);

pub(super) fn name(text: &str) -> Result<String, String> {
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
    fn schema(_: &mut Parts) -> Json {
        schema::or_text(json!({ "examples": ["orders"] }), "number", "^[a-z0-9_-]{1,64}$")
    }
}

/// A text with `${…}` of a request in it, as it was written: `$${` is the template's to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub String);
impl std::ops::Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}
impl Shape for Text {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.written("a text", "\"…\"").map(Text)
    }
    fn schema(parts: &mut Parts) -> Json {
        String::schema(parts)
    }
    fn written(&self) -> Option<Json> {
        self.0.written()
    }
}

/// The path of a file that is read. A relative one is written relative to the file in which it stands, as those of `${file:}` are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilePath(pub String);
impl FilePath {
    fn beside(node: &Node<'_>, path: String) -> FilePath {
        FilePath(node.at.folder().map_or(path.clone(), |folder| folder.join(path).display().to_string()))
    }
}
impl Shape for FilePath {
    fn read(node: &Node<'_>) -> Option<Self> {
        path(node).map(|path| FilePath::beside(node, path))
    }
    fn schema(parts: &mut Parts) -> Json {
        OwnPath::schema(parts)
    }
}

/// The path of what the gateway makes itself, such as a log; of a relative one, in its working directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnPath(pub String);
impl Shape for OwnPath {
    fn read(node: &Node<'_>) -> Option<Self> {
        path(node).map(OwnPath)
    }
    fn schema(_: &mut Parts) -> Json {
        json!({ "type": ["string", "number"], "minLength": 1 })
    }
    fn written(&self) -> Option<Json> {
        Some(json!(self.0))
    }
}

fn path(node: &Node<'_>) -> Option<String> {
    let path = node.text("a file's path", "tls/api.pem")?;
    match path.is_empty() {
        true => node.problem("an empty path", "it names no file", "write the file's path"),
        false => Some(path),
    }
}

/// A document's URL, or the path of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    Url(String),
    File(FilePath),
}
impl Shape for Document {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = path(node)?;
        Some(if text.contains("://") { Document::Url(text) } else { Document::File(FilePath::beside(node, text)) })
    }
    fn schema(parts: &mut Parts) -> Json {
        OwnPath::schema(parts)
    }
}

/// A name with SRV records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvName(pub String);

fn srv_name(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    match text.len() {
        _ if text.contains(':') => Err(format!("`{text}` has a port, which SRV records tell")),
        1..=253 if text.bytes().all(legal) => Ok(text.to_ascii_lowercase()),
        _ => Err(format!("`{text}` is not a DNS name")),
    }
}

impl Shape for SrvName {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("a name with SRV records", "_http._tcp.orders.internal", srv_name).map(SrvName)
    }
    fn schema(_: &mut Parts) -> Json {
        schema::text("^[A-Za-z0-9._-]{1,253}$", "_http._tcp.orders.internal")
    }
}

/// A server's address; DNS's own port when none is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

fn name_server(text: &str) -> Result<SocketAddr, String> {
    const PORT: u16 = 53;
    let bare = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    text.parse().or_else(|_| bare()).map_err(|_| format!("`{text}` is not the address of a name server"))
}

impl Shape for NameServer {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("an IP address, with a port or without", "10.0.0.2", name_server).map(NameServer)
    }
    fn schema(_: &mut Parts) -> Json {
        schema::text("^[0-9A-Fa-f.:\\[\\]]+$", "10.0.0.2")
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
    fn schema(_: &mut Parts) -> Json {
        json!({ "type": ["string", "number"], "minLength": 1 })
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
    fn schema(_: &mut Parts) -> Json {
        schema::text(r"^[0-9a-fA-F.:]+(/[0-9]{1,3})?$", "10.0.0.0/8")
    }
}

/// A method, in capitals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Method(pub http::Method);
impl Method {
    pub(super) fn parse(text: &str) -> Result<Method, String> {
        let capitals = !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        let method = http::Method::from_bytes(text.as_bytes()).ok().filter(|_| capitals);
        method.map(Method).ok_or_else(|| format!("`{text}` is not a method"))
    }
}
impl Shape for Method {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("a method in capitals", "GET", Method::parse)
    }
    fn schema(_: &mut Parts) -> Json {
        schema::text(r"^[A-Z-]+$", "GET")
    }
}

impl Shape for Bind {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("an address with a port", "0.0.0.0:8080", str::parse)
    }
    fn schema(_: &mut Parts) -> Json {
        schema::text(r"^(unix:.+|systemd:.+|([0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5})$", "0.0.0.0:8080")
    }
}
impl Shape for HostPort {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("an endpoint's host and port", "10.0.0.11:8000", str::parse)
    }
    fn schema(_: &mut Parts) -> Json {
        schema::text(r"^([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}$", "10.0.0.11:8000")
    }
}

/// Top-level keys that begin with `x-` hold anchors and are nobody's.
pub fn is_free(key: &str) -> bool {
    key.starts_with("x-")
}
