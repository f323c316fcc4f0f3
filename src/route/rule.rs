//! What one route asks of a request, and whether it gets it.

use super::criteria::{Header, Parameter};
use super::expression::Expression;
use super::host::HostPattern;
use super::pattern::Pattern;
use crate::types::{ListenerId, RouteId};
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderMap, HeaderName, Method};

/// What one route asks of a request: all of it.
#[derive(Clone, Debug)]
pub struct Rule {
    pub id: RouteId,
    pub hosts: Vec<HostPattern>,
    pub path: PathRule,
    /// Empty for any.
    pub methods: Vec<Method>,
    pub headers: Vec<Header>,
    pub query: Vec<Parameter>,
    /// Empty for any.
    pub listeners: Vec<ListenerId>,
    /// The preflights of its methods are answered by the gateway.
    pub has_cors: bool,
}

/// What a route asks of the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathRule {
    Pattern(Pattern),
    Expression(Expression),
}

impl PathRule {
    /// The names of what is captured, in their order.
    pub fn names(&self) -> Vec<&str> {
        match self {
            PathRule::Pattern(pattern) => pattern.names(),
            PathRule::Expression(expression) => expression.names(),
        }
    }

    /// Whether the last capture is what a `*` took.
    pub fn has_rest(&self) -> bool {
        matches!(self, PathRule::Pattern(pattern) if pattern.has_rest())
    }
}

/// What of a request decides.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub listener: ListenerId,
    /// Without port.
    pub host: &'a str,
    /// Normalised.
    pub path: &'a str,
    /// The part behind the `?`, as it was sent; empty when there is none.
    pub parameters: &'a str,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

/// Which routes' methods take a request.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// Those that allow this one.
    For(Method),
    /// Those that answer the preflight of this one, or name OPTIONS themselves.
    Preflight(Method),
}

impl Query<'_> {
    /// A CORS preflight belongs to a route that answers it or names OPTIONS; where there is none, to the route that the request
    /// behind it would take. So it asks twice.
    pub(super) fn asks(&self) -> impl Iterator<Item = Asked> + use<> {
        match self.preflight() {
            Some(method) => [Some(Asked::Preflight(method.clone())), Some(Asked::For(method))],
            None => [Some(Asked::For(self.method.clone())), None],
        }
        .into_iter()
        .flatten()
    }

    /// The method that a CORS preflight asks about (Fetch, 4.8).
    fn preflight(&self) -> Option<Method> {
        if *self.method != Method::OPTIONS || !self.headers.contains_key(ORIGIN) {
            return None;
        }
        Method::from_bytes(self.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
    }
}

/// What of a request a route does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion<'t> {
    Host,
    Listener,
    Header(&'t HeaderName),
    Query(&'t str),
    /// And nothing else.
    Method,
}

impl Rule {
    /// The first thing that is in the way of a request whose host and path fit. The method comes last, so that it is named only
    /// where nothing else is wrong, which is what 405 means.
    pub(super) fn miss(&self, query: &Query<'_>, asked: &Asked) -> Option<Criterion<'_>> {
        if !self.listeners.is_empty() && !self.listeners.contains(&query.listener) {
            return Some(Criterion::Listener);
        }
        if let Some(header) = self.headers.iter().find(|header| !header.fits(query.headers)) {
            return Some(Criterion::Header(&header.name));
        }
        if let Some(parameter) = self.query.iter().find(|parameter| !parameter.fits(query.parameters)) {
            return Some(Criterion::Query(&parameter.name));
        }
        (!self.allows(asked)).then_some(Criterion::Method)
    }

    fn allows(&self, asked: &Asked) -> bool {
        match asked {
            Asked::Preflight(method) => self.methods.contains(&Method::OPTIONS) || (self.has_cors && self.names(method)),
            Asked::For(method) => self.names(method),
        }
    }

    /// GET implies HEAD.
    fn names(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method) || (*method == Method::HEAD && self.methods.contains(&Method::GET))
    }
}
