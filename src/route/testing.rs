//! Routes and requests in a line, for the tests of this room.

use super::criteria::{Header, Parameter, Test};
use super::expression::Expression;
use super::host::HostPattern;
use super::pattern::Pattern;
use super::{Captures, Outcome, PathRule, Query, Rule, Table};
use crate::types::{ListenerId, RouteId};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// `HOST,HOST [METHOD,METHOD] /path|~regex [header[=value|=~regex]]… [?name[=value|=~regex]]… [@listener,listener]`, where `*` is
/// any host.
pub fn rule(id: usize, line: &str) -> Rule {
    let mut words = line.split(' ').peekable();
    let host = |text: &str| if text == "*" { HostPattern::Any } else { HostPattern::parse(text).expect("a host") };
    let hosts = words.next().expect("hosts").split(',').map(host).collect();
    let methods = words.next_if(|word| !word.starts_with(['/', '~'])).map_or(vec![], |word| word.split(',').collect());
    let path = words.next().expect("a path");
    let mut rule = Rule {
        id: RouteId(u32::try_from(id).expect("a number")),
        hosts,
        path: match path.strip_prefix('~') {
            Some(text) => PathRule::Expression(Expression::parse(text).expect("an expression")),
            None => PathRule::Pattern(Pattern::parse(path).expect("a pattern")),
        },
        methods: methods.into_iter().map(|method| method.parse().expect("a method")).collect(),
        headers: vec![],
        query: vec![],
        listeners: vec![],
        has_cors: false,
    };
    for word in words {
        if let Some(listeners) = word.strip_prefix('@') {
            rule.listeners = listeners.split(',').map(|number| ListenerId(number.parse().expect("a number"))).collect();
            continue;
        }
        let (name, test) = match word.split_once('=') {
            None => (word, Test::Present),
            Some((name, value)) => match value.strip_prefix('~') {
                Some(text) => (name, Test::Matches(Expression::parse(text).expect("an expression"))),
                None => (name, Test::Is(value.into())),
            },
        };
        match name.strip_prefix('?') {
            Some(name) => rule.query.push(Parameter { name: name.into(), test }),
            None => rule.headers.push(Header { name: name.parse().expect("a name"), test }),
        }
    }
    rule
}

pub fn rules(lines: &[&str]) -> Vec<Rule> {
    lines.iter().enumerate().map(|(id, line)| rule(id, line)).collect()
}

pub fn table(lines: &[&str]) -> Table {
    Table::new(rules(lines))
}

/// A request that is owned.
#[derive(Clone, Debug)]
pub struct Request {
    pub listener: ListenerId,
    pub host: String,
    pub path: String,
    pub parameters: String,
    pub method: Method,
    pub headers: HeaderMap,
}

impl Request {
    /// `METHOD HOST /path[?query] [header=value]… [@listener]`
    pub fn parse(line: &str) -> Request {
        let mut words = line.split(' ');
        let method = words.next().expect("a method").parse().expect("a method");
        let host = words.next().expect("a host").to_string();
        let target = words.next().expect("a target");
        let (path, parameters) = target.split_once('?').unwrap_or((target, ""));
        let (mut headers, mut listener) = (HeaderMap::new(), ListenerId(0));
        for word in words {
            match word.strip_prefix('@') {
                Some(number) => listener = ListenerId(number.parse().expect("a number")),
                None => {
                    let (name, value) = word.split_once('=').expect("a field");
                    headers.append(name.parse::<HeaderName>().expect("a name"), value.parse::<HeaderValue>().expect("a value"));
                }
            }
        }
        Request { listener, host, path: path.to_string(), parameters: parameters.to_string(), method, headers }
    }

    pub fn query(&self) -> Query<'_> {
        let Request { listener, host, path, parameters, method, headers } = self;
        Query { listener: *listener, host, path, parameters, method, headers }
    }
}

/// The route's number and what was captured, or why there is none.
pub fn shown(path: &str, outcome: &Outcome) -> String {
    let text = |captures: &Captures| captures.iter().map(|(from, to)| &path[*from..*to]).collect::<Vec<_>>().join("|");
    match outcome {
        Outcome::Nothing => "404".to_string(),
        Outcome::MethodNotAllowed(allow) => format!("405 {allow}"),
        Outcome::Found(found) => format!("{} {}", found.id.0, text(&found.captures)).trim_end().to_string(),
    }
}

/// Asks a table of these routes, and compares with what [`shown`] makes of the outcome.
#[track_caller]
pub fn check(lines: &[&str], cases: &[(&str, &str)]) {
    let table = table(lines);
    for (line, expected) in cases {
        let request = Request::parse(line);
        assert_eq!(shown(&request.path, &table.find(&request.query())), *expected, "{line}");
    }
}
