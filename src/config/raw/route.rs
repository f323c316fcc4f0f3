//! `routes`.

use super::words::name;
use super::{Method, Name, Timeouts};
use crate::config::scalar::Url;
use crate::config::schema::{self, Parts};
use crate::config::shape::{Named, Node, Number, OneOrMany, Shape, Size, choice, record};
use serde_yaml::Value;

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
    #[derive(Default)]
    pub struct RequestChanges {
        headers: HeaderChanges = HeaderChanges::default(),
    }
    later ["path", "query", "body"];
}

record! {
    #[derive(Default)]
    pub struct ResponseChanges {
        headers: HeaderChanges = HeaderChanges::default(),
    }
    later ["body"];
}

record! {
    /// Applied in this order: remove, set, add.
    #[derive(Default)]
    pub struct HeaderChanges {
        set: Named<String> = Named::default(),
        add: Named<String> = Named::default(),
        remove: Vec<String> = Vec::new(),
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
            |what| {
                node.problem(what, "`to` needs a service's name or a URL", "write a service such as `orders`, or `http://127.0.0.1:3000`")
            },
            |name| Some(To::Service(name)),
        )
    }

    fn schema(_: &mut Parts) -> serde_json::Value {
        schema::text("^([a-z0-9_-]{1,64}|https?://[^/?#@ ]+/?)$", "orders")
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
