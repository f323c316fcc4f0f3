//! `routes`.

use super::auth::{Addresses, Cors, Require};
use super::words::name;
use super::{Compose, Method, Name, RequestBody, ResponseBody, Text, Timeouts};
use crate::config::scalar::Url;
use crate::config::schema::{self, Parts};
use crate::config::shape::{Named, Node, Number, OneOrMany, Shape, Size, choice, record};
use serde_json::{Value as Json, json};
use serde_yaml::Value;

record! {
    pub struct Route {
        name: Option<Name> = None,
        /// The listeners it takes requests from; any when absent.
        listener: Option<OneOrMany<Name>> = None,
        /// Exact names, or `*.` and the rest; any when absent.
        host: Option<OneOrMany<String>> = None,
        /// Segments: texts, `{name}` for one, `*` at the end for the rest. Either this or `path_regex`.
        path: Option<String> = None,
        /// A regular expression for the whole path; its named groups are captures.
        path_regex: Option<String> = None,
        /// Any when absent. GET implies HEAD.
        methods: Option<OneOrMany<Method>> = None,
        /// What header fields have to be.
        headers: Named<Match> = Named::default(),
        /// What query parameters have to be.
        query: Named<Match> = Named::default(),
        /// Names of `rate_limits`; each has to let the request pass.
        rate_limits: Option<Vec<Name>> = None,
        /// Under overload the lowest is shed first.
        priority: Number<0, 100> = Number(5),
        /// Requests at once; above it 503.
        max_in_flight: Option<Number<1, 10_000_000>> = None,
        /// Who may come: any of these methods of `auth`, or `anonymous`. Open when absent.
        auth: Option<OneOrMany<Name>> = None,
        /// What who comes has to have.
        require: Require = Require::default(),
        /// Which addresses may come.
        ip: Addresses = Addresses::default(),
        /// Codings of answers, the most wanted first; the client's wishes go before. None when absent.
        compress: Option<OneOrMany<Coding>> = None,
        /// Which pages of other origins may ask.
        cors: Option<Cors> = None,
        /// The name of one of `caches`: answers may come from memory.
        cache: Option<Name> = None,
        /// Replaces the server's limit; 0 is none.
        body_bytes: Option<Size> = None,
        /// Replaces the server's; 0 is none.
        body_rate: Option<Size> = None,
        /// Replaces the service's, field by field.
        timeouts: Timeouts = Timeouts::default(),
        request: RequestChanges = RequestChanges::default(),
        response: ResponseChanges = ResponseChanges::default(),
        to: Option<To> = None,
        /// A service that gets copies of requests, whose answers nobody reads.
        mirror: Option<Mirror> = None,
        redirect: Option<Redirect> = None,
        respond: Option<Respond> = None,
        compose: Option<Box<Compose>> = None,
    }
}

choice! {
    pub enum Coding {
        "zstd" => Zstd,
        "br" => Brotli,
        "gzip" => Gzip,
    }
}

record! {
    #[derive(Default)]
    pub struct RequestChanges {
        /// What the path becomes, with `${…}`; `{id}` means `${id}`.
        path: Option<Text> = None,
        query: QueryChanges = QueryChanges::default(),
        headers: HeaderChanges = HeaderChanges::default(),
        body: RequestBody = RequestBody::default(),
    }
}

record! {
    /// Applied in this order: keep, remove, rename, set.
    #[derive(Default)]
    pub struct QueryChanges {
        /// Only these parameters go on; all when absent.
        keep: Option<Vec<String>> = None,
        remove: Vec<String> = Vec::new(),
        /// New names by old ones.
        rename: Named<String> = Named::default(),
        /// Values, with `${…}`, which take the place of those that are there.
        set: Named<Text> = Named::default(),
    }
}

record! {
    #[derive(Default)]
    pub struct ResponseChanges {
        headers: HeaderChanges = HeaderChanges::default(),
        body: ResponseBody = ResponseBody::default(),
    }
}

record! {
    /// Applied in this order: remove, rename, set, add.
    #[derive(Default)]
    pub struct HeaderChanges {
        /// New names by old ones.
        rename: Named<String> = Named::default(),
        set: Named<Text> = Named::default(),
        add: Named<Text> = Named::default(),
        remove: Vec<String> = Vec::new(),
    }
}

/// What a value has to be: a text, `{ regex: … }` or `{ present: true }`.
#[derive(Clone, Debug)]
pub enum Match {
    Is(String),
    Regex(String),
    Present,
}

impl Shape for Match {
    fn read(node: &Node<'_>) -> Option<Self> {
        if !matches!(node.value, Value::Mapping(_)) {
            return node.text("a value, or `{ regex: … }`, or `{ present: true }`", "\"1\"").map(Match::Is);
        }
        let map = node.map()?;
        let (regex, present) = (map.read::<String>("regex"), map.read::<bool>("present"));
        map.finish();
        match (regex, present) {
            (Some(regex), None) => regex.map(Match::Regex),
            (None, Some(Some(true))) => Some(Match::Present),
            (None, Some(None)) => None,
            (None, Some(Some(false))) => {
                let fix = "write `present: true`, and let a route without this criterion take the other requests";
                node.problem("`present` is false", "a route can't ask for what is absent", fix)
            }
            (Some(_), Some(_)) => node.problem("both `regex` and `present`", "what matches is present too", "remove `present`"),
            (None, None) => node.expected("a value, or `{ regex: … }`, or `{ present: true }`", "\"1\""),
        }
    }

    fn schema(parts: &mut Parts) -> Json {
        let regex = String::schema(parts);
        let one = |key: &str, kind: Json| json!({ "type": "object", "properties": { key: kind }, "required": [key], "additionalProperties": false });
        json!({ "anyOf": [String::schema(parts), one("regex", regex), one("present", json!({ "const": true }))] })
    }
}

/// What a route points at: one service, or several by weight. There is at least one, and one that weighs something.
#[derive(Clone, Debug)]
pub struct To(pub Vec<Portion>);

/// A service's share of a route's requests.
#[derive(Clone, Debug)]
pub struct Portion {
    pub service: Target,
    pub weight: u32,
}

/// A service by its name, or by its URL.
#[derive(Clone, Debug)]
pub enum Target {
    Name(String),
    Url(Url),
}

impl Shape for To {
    fn read(node: &Node<'_>) -> Option<Self> {
        if !matches!(node.value, Value::Sequence(_)) {
            return Target::read(node).map(|service| To(vec![Portion { service, weight: 1 }]));
        }
        let shares: Vec<Portion> = node.list()?;
        match shares.iter().any(|share| share.weight > 0) {
            true => Some(To(shares)),
            false => {
                let fix = "name at least one service with a weight, such as `{ service: orders, weight: 1 }`";
                node.problem("no service has a weight above 0", "requests would have nowhere to go", fix)
            }
        }
    }

    fn schema(parts: &mut Parts) -> Json {
        json!({ "anyOf": [Target::schema(parts), { "type": "array", "items": Portion::schema(parts), "minItems": 1 }] })
    }
}

impl Shape for Portion {
    fn read(node: &Node<'_>) -> Option<Self> {
        if !matches!(node.value, Value::Mapping(_)) {
            return Target::read(node).map(|service| Portion { service, weight: 1 });
        }
        let map = node.map()?;
        let service = map.required("service");
        let weight = map.read::<Number<0, 1_000_000>>("weight").unwrap_or(Some(Number(1)));
        map.finish();
        Some(Portion { service: service?, weight: u32::try_from(weight?.0).ok()? })
    }

    fn schema(parts: &mut Parts) -> Json {
        let target = Target::schema(parts);
        let map = schema::record(parts, "Portion", &["A service's share of a route's clients."], |parts, fields| {
            fields.add::<Target>(parts, "service", &["Its name, or its URL."], None);
            fields.add(parts, "weight", &["Relative to the others'."], Some(Number::<0, 1_000_000>(1)));
        });
        json!({ "anyOf": [target, map] })
    }
}

impl Shape for Target {
    fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text("a service or a URL", "orders")?;
        if text.contains("://") {
            return node.parsed("an upstream's URL", "http://127.0.0.1:3000", str::parse).map(Target::Url);
        }
        name(&text).map_or_else(
            |what| {
                node.problem(what, "`to` needs a service's name or a URL", "write a service such as `orders`, or `http://127.0.0.1:3000`")
            },
            |name| Some(Target::Name(name)),
        )
    }

    fn schema(_: &mut Parts) -> Json {
        schema::text("^([a-z0-9_-]{1,64}|https?://[^/?#@ ]+/?)$", "orders")
    }
}

record! {
    pub struct Mirror {
        to: Target,
        /// Of the requests.
        percent: Number<0, 100> = Number(100),
    }
}

record! {
    pub struct Redirect {
        status: RedirectStatus = RedirectStatus::Found,
        /// A path or a URL, with `${…}`. The query is kept unless this has one.
        to: Text,
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
        headers: Named<Text> = Named::default(),
        body: Text = Text::default(),
    }
}
