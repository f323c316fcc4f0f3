//! A route's criteria from their raw part.

use super::criteria::{Header, Parameter, Test};
use super::expression::Expression;
use super::host::HostPattern;
use super::pattern::Pattern;
use super::rule::{PathRule, Rule};
use crate::config::place::At;
use crate::config::problem::Problems;
use crate::config::raw::{self, Match};
use crate::types::{ListenerId, RouteId};
use http::header::HOST;
use http::{HeaderName, HeaderValue, Method};

const NEVER: &str = "no request could match it";

impl Rule {
    /// Reads what a route asks for; its listeners have been looked up. `None` means that a problem was reported.
    pub fn build(raw: &raw::Route, id: RouteId, listeners: Vec<ListenerId>, at: &At<'_>, problems: &Problems) -> Option<Rule> {
        let path = path(raw, at, problems);
        let methods = methods(raw, &at.key("methods"), problems);
        let host_at = at.key("host");
        let host = |(index, text): (usize, &String)| {
            let fix = "write a host such as `api.example.com` or `*.example.com`";
            problems.ok(HostPattern::parse(text), &host_at.index(index), NEVER, fix)
        };
        let hosts = raw.host.as_ref().map_or_else(|| vec![Some(HostPattern::Any)], |hosts| hosts.0.iter().enumerate().map(host).collect());
        let headers = headers(&raw.headers.0, &at.key("headers"), problems);
        let query_at = at.key("query");
        let parameter = |(name, wanted): &(String, Match)| {
            let test = test(wanted, &query_at.key(name), problems)?;
            Some(Parameter { name: name.as_str().into(), test })
        };
        let query: Vec<_> = raw.query.0.iter().map(parameter).collect();
        Some(Rule {
            id,
            hosts: hosts.into_iter().collect::<Option<_>>()?,
            path: path?,
            methods: methods?,
            headers: headers?,
            query: query.into_iter().collect::<Option<_>>()?,
            listeners,
            has_cors: raw.cors.is_some(),
        })
    }
}

fn methods(raw: &raw::Route, at: &At<'_>, problems: &Problems) -> Option<Vec<Method>> {
    let methods: Vec<Method> = raw.methods.iter().flat_map(|methods| methods.0.iter().map(|method| method.0.clone())).collect();
    if !methods.is_empty() && methods.iter().all(|method| *method == Method::CONNECT) {
        let why = "the gateway is no forward proxy: it refuses CONNECT before it looks for a route";
        return problems.at(at, "a route for CONNECT alone", why, "name another method, or remove the route");
    }
    Some(methods)
}

fn path(raw: &raw::Route, at: &At<'_>, problems: &Problems) -> Option<PathRule> {
    match (&raw.path, &raw.path_regex) {
        (Some(text), None) => {
            let fix = "write a path such as `/orders/{id}/*`";
            problems.ok(Pattern::parse(text), &at.key("path"), NEVER, fix).map(PathRule::Pattern)
        }
        (None, Some(text)) => {
            let at = at.key("path_regex");
            let expression = expression(text, r"/orders/(?<id>\d+)", &at, problems)?;
            if !expression.may_be_a_path() {
                let what = format!("`{text}` matches no path: each begins with a slash");
                return problems.at(&at, what, NEVER, format!("begin it with one: `/{text}`"));
            }
            Some(PathRule::Expression(expression))
        }
        // It is there, but could not be read.
        (None, None) if !["path", "path_regex"].iter().all(|key| problems.is_sound(&at.key(key))) => None,
        (None, None) => {
            let fix = "add `path:`, such as `/orders/*` (`/*` takes all), or `path_regex:`";
            problems.at(at, "a route without a path", "it would not be clear which requests are meant", fix)
        }
        (Some(_), Some(_)) => {
            let why = "only one of the two can decide";
            problems.at(&at.key("path_regex"), "a route with both `path` and `path_regex`", why, "remove one of the two")
        }
    }
}

fn expression(text: &str, example: &str, at: &At<'_>, problems: &Problems) -> Option<Expression> {
    let fix = format!("correct it; it has to match the whole value, such as `{example}`");
    problems.ok(Expression::parse(text), at, NEVER, &fix)
}

fn test(wanted: &Match, at: &At<'_>, problems: &Problems) -> Option<Test> {
    match wanted {
        Match::Is(text) => Some(Test::Is(text.as_str().into())),
        Match::Regex(text) => expression(text, "v[0-9]+", &at.key("regex"), problems).map(Test::Matches),
        Match::Present => Some(Test::Present),
    }
}

fn headers(raw: &[(String, Match)], at: &At<'_>, problems: &Problems) -> Option<Vec<Header>> {
    let mut read: Vec<Option<Header>> = Vec::with_capacity(raw.len());
    for (text, wanted) in raw {
        let at = at.key(text);
        let name = name(text, &at, problems);
        let test = test(wanted, &at, problems).filter(|test| may_be_sent(test, &at, problems));
        let header = name.zip(test).map(|(name, test)| Header { name, test });
        let is_twice = header.as_ref().is_some_and(|header| read.iter().flatten().any(|other| other.name == header.name));
        read.push(match is_twice {
            false => header,
            true => {
                let what = format!("`{text}` is asked for twice: names of header fields have no case");
                problems.at(&at, what, "one value can't be both", "keep one of the two")
            }
        });
    }
    read.into_iter().collect()
}

fn name(text: &str, at: &At<'_>, problems: &Problems) -> Option<HeaderName> {
    match text.parse() {
        Ok(HOST) => problems.at(at, format!("`{text}` can't be asked for here"), "HTTP/2 has no such field", "use the route's `host:`"),
        Ok(name) => Some(name),
        Err(_) => {
            let fix = "use letters, digits and `-`";
            problems.at(at, format!("`{text}` is not a header's name"), NEVER, fix)
        }
    }
}

/// Fields come without spaces around them and without control characters.
fn may_be_sent(test: &Test, at: &At<'_>, problems: &Problems) -> bool {
    let Test::Is(text) = test else { return true };
    let is_legal = HeaderValue::from_bytes(text.as_bytes()).is_ok() && text.trim_matches([' ', '\t']) == &**text;
    if !is_legal {
        let what = "a value with spaces around it or control characters";
        let _: Option<()> = problems.at(at, what, "no header field ever has one", "remove them");
    }
    is_legal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use crate::config::source::Sources;

    /// Builds the one route of a configuration, and answers what is wrong with it.
    fn problems(route: &str) -> Vec<String> {
        let text = format!("listeners: []\nroutes: [{{ to: a, {route} }}]\n");
        let problems = Problems::default();
        let built = load::read(&mut Sources::new("f", text), &problems)
            .and_then(|raw| Rule::build(raw.routes[0].as_ref()?, RouteId(0), vec![], &At::root(), &problems));
        assert_eq!(built.is_none(), !problems.is_empty(), "{route}");
        problems.into_parts().0.into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn criteria_are_read() {
        for route in [
            "path: /x, headers: { X-A: 1, X-B: { regex: 'v\\d' }, X-C: { present: true } }, query: { v: \"2\", w: { present: true } }",
            "path_regex: '/v(?<version>[0-9]+)/.*', host: [a.example, '*.b.example'], methods: GET",
        ] {
            assert_eq!(problems(route), [""; 0], "{route}");
        }
    }

    #[test]
    fn what_can_not_match_is_a_problem() {
        for (route, expected) in [
            ("host: a", &["a route without a path"][..]),
            ("path: /x, path_regex: /x", &["a route with both `path` and `path_regex`"]),
            ("path_regex: '/(a'", &["`/(a` is not a regular expression that can be used: unclosed group"]),
            ("path_regex: 'orders/.*'", &["`orders/.*` matches no path: each begins with a slash"]),
            ("path: /x, methods: [CONNECT]", &["a route for CONNECT alone"]),
            ("path: /x, headers: { X-A: 1, x-a: 2 }", &["`x-a` is asked for twice: names of header fields have no case"]),
            ("path: /x, headers: { Host: a, a b: c }", &["`Host` can't be asked for here", "`a b` is not a header's name"]),
            ("path: /x, headers: { X-A: ' a' }", &["a value with spaces around it or control characters"]),
            ("path: /x, query: { q: { regex: '[' } }", &["`[` is not a regular expression that can be used: unclosed character class"]),
        ] {
            assert_eq!(problems(route), expected, "{route}");
        }
    }
}
