//! `tests`: requests, and what is expected to become of them.

use super::Name;
use crate::config::schema::{self, Parts};
use crate::config::shape::{Named, Node, Number, Shape, record};
use http::{Method, Uri};
use serde_json::{Map, Value as Json, json};
use std::net::IpAddr;

record! {
    /// A request that nobody sends, and what is expected of it.
    pub struct Test {
        /// What it is called; its request when absent.
        name: Option<String> = None,
        /// A method and a URL or a path: `GET https://api.example.com/orders/7`.
        request: RequestLine,
        headers: Named<String> = Named::default(),
        /// It comes with a token of these claims, whose signature is right. `iss`, `aud` and `exp` are as they should be when absent.
        jwt: Option<Claims> = None,
        /// Who asks; this machine when absent.
        client_ip: Option<ClientIp> = None,
        /// The listener it comes in by; the first when absent.
        listener: Option<Name> = None,
        expect: Expect,
    }
}

record! {
    /// What is not named may be anything.
    pub struct Expect {
        /// The route that takes it; empty for none.
        route: Option<String> = None,
        /// That of the gateway's own answer. A request that goes on to a service has 200.
        status: Option<Number<100, 599>> = None,
        /// The refusal's code; empty for none.
        code: Option<String> = None,
        /// The service that gets it; empty for none.
        service: Option<String> = None,
        /// Path and query as the service gets them; the path alone where no query is written.
        upstream_path: Option<String> = None,
        /// Host as the service gets it.
        upstream_host: Option<String> = None,
        /// Where a redirect leads.
        location: Option<String> = None,
        /// Who is recognised; empty for nobody.
        identity: Option<String> = None,
    }
}

/// `GET https://api.example.com/orders/7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLine {
    pub method: Method,
    pub url: Uri,
}

impl std::str::FromStr for RequestLine {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (method, url) = text.trim().split_once(' ').ok_or_else(|| format!("`{text}` is not a method and a URL"))?;
        let is_legal = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        let method = method.parse().ok().filter(|_| is_legal).ok_or_else(|| format!("`{method}` is not a method in capitals"))?;
        let url: Uri = url.trim().parse().map_err(|_| format!("`{url}` is not a URL"))?;
        match url.path_and_query() {
            Some(_) => Ok(RequestLine { method, url }),
            None => Err(format!("`{url}` is neither a URL nor a path")),
        }
    }
}

impl std::fmt::Display for RequestLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

impl Shape for RequestLine {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.parsed("a method and a URL or a path", "GET https://api.example.com/orders/7", str::parse)
    }
    fn schema(_: &mut Parts) -> Json {
        schema::text("^[A-Z-]+ +[^ ]+$", "GET https://api.example.com/orders/7")
    }
}

/// The claims of a token.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(pub Map<String, Json>);
impl Shape for Claims {
    fn read(node: &Node<'_>) -> Option<Self> {
        match serde_json::to_value(node.value) {
            Ok(Json::Object(claims)) => Some(Claims(claims)),
            _ => node.expected("a map of claims", "{ sub: alice }"),
        }
    }
    fn schema(_: &mut Parts) -> Json {
        json!({ "type": "object" })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIp(pub IpAddr);
impl Shape for ClientIp {
    fn read(node: &Node<'_>) -> Option<Self> {
        let parse = |text: &str| text.parse().map_err(|_| format!("`{text}` is not an address"));
        node.parsed("an address", "10.0.0.1", parse).map(ClientIp)
    }
    fn schema(_: &mut Parts) -> Json {
        schema::text("^[0-9a-fA-F.:]+$", "10.0.0.1")
    }
}
