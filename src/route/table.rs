//! The match table: a tree of path segments for each host.
//!
//! The tree is walked in the order in which routes win, so the first route that fits is the answer: exact host, longest
//! wildcard, any; then, segment by segment, literal, `{name}`, end, `*`; then a route with methods before one without,
//! one with listeners before one without, and the order of the file.

use super::host::HostPattern;
use super::pattern::{Pattern, Segment};
use crate::types::{ListenerId, RouteId};
use http::Method;
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What one route asks of a request.
#[derive(Clone, Debug)]
pub struct Rule {
    pub id: RouteId,
    pub hosts: Vec<HostPattern>,
    pub path: Pattern,
    /// Empty for any.
    pub methods: Vec<Method>,
    /// Empty for any.
    pub listeners: Vec<ListenerId>,
}

/// What of a request decides.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub listener: ListenerId,
    /// Without port.
    pub host: &'a str,
    /// Normalised.
    pub path: &'a str,
    pub method: &'a Method,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Found(Found),
    /// Some route fits but for the method; these do, as the Allow field wants them.
    MethodNotAllowed(Arc<str>),
    Nothing,
}

/// Byte ranges of a path.
pub type Captures = SmallVec<[(usize, usize); 3]>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: RouteId,
    /// Byte ranges of the path: the captures in their order, then what `*` took, without a leading slash.
    pub captures: Captures,
}

#[derive(Debug, Default)]
pub struct Table {
    exact: HashMap<Box<str>, Tree>,
    /// The longest suffix first.
    wildcards: Vec<(Box<str>, Tree)>,
    any: Tree,
}

#[derive(Debug, Default)]
struct Tree {
    literals: HashMap<Box<str>, Tree>,
    capture: Option<Box<Tree>>,
    /// Routes whose pattern ends here, in the order in which they win.
    ends: Vec<Arc<Rule>>,
    /// Likewise, with `*` for what follows.
    rests: Vec<Arc<Rule>>,
}

impl Table {
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Table {
        let mut table = Table::default();
        for rule in rules {
            let rule = Arc::new(rule);
            for host in &rule.hosts {
                table.tree(host).insert(&rule.path.segments, &rule);
            }
        }
        table.wildcards.sort_by_key(|(suffix, _)| Reverse(suffix.len()));
        table
    }

    fn tree(&mut self, host: &HostPattern) -> &mut Tree {
        match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostPattern::Wildcard(suffix) => {
                let at = self.wildcards.iter().position(|(known, _)| known == suffix).unwrap_or_else(|| {
                    self.wildcards.push((suffix.clone(), Tree::default()));
                    self.wildcards.len() - 1
                });
                &mut self.wildcards[at].1
            }
        }
    }

    /// The route that wins.
    pub fn find(&self, query: &Query<'_>) -> Outcome {
        let mut walk = Walk { query, captures: Captures::new(), allowed: BTreeSet::new() };
        match self.trees(query.host).find_map(|tree| walk.descend(tree, Some(1))) {
            Some(id) => Outcome::Found(Found { id, captures: walk.captures }),
            None if walk.allowed.is_empty() => Outcome::Nothing,
            None => Outcome::MethodNotAllowed(walk.allowed.into_iter().collect::<Vec<_>>().join(", ").into()),
        }
    }

    fn trees<'t>(&'t self, host: &str) -> impl Iterator<Item = &'t Tree> {
        let lower;
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            &lower
        } else {
            host
        };
        let exact = if self.exact.is_empty() { None } else { self.exact.get(host) };
        // `*.example.com` needs a label before its dot.
        let covers = |suffix: &str| host.len() > suffix.len() && host.ends_with(suffix);
        let wildcards: Vec<&Tree> = self.wildcards.iter().filter(|(suffix, _)| covers(suffix)).map(|(_, tree)| tree).collect();
        exact.into_iter().chain(wildcards).chain(std::iter::once(&self.any))
    }
}

/// The order among routes of one host and one path.
fn rank(rule: &Rule) -> (bool, bool, RouteId) {
    (rule.methods.is_empty(), rule.listeners.is_empty(), rule.id)
}

impl Tree {
    fn insert(&mut self, segments: &[Segment], rule: &Arc<Rule>) {
        let here = match segments {
            [] => &mut self.ends,
            [Segment::Rest, ..] => &mut self.rests,
            [Segment::Literal(text), rest @ ..] => return self.literals.entry(text.clone()).or_default().insert(rest, rule),
            [Segment::Capture(_), rest @ ..] => return self.capture.get_or_insert_default().insert(rest, rule),
        };
        here.push(rule.clone());
        here.sort_by_key(|rule| rank(rule));
    }
}

struct Walk<'q> {
    query: &'q Query<'q>,
    captures: Captures,
    allowed: BTreeSet<String>,
}

impl Walk<'_> {
    /// `at` is where the next segment begins; `None` behind the last one. Each node is visited once at most.
    fn descend(&mut self, tree: &Tree, at: Option<usize>) -> Option<RouteId> {
        let path = self.query.path;
        let Some(begin) = at else {
            return self.pick(&tree.ends).or_else(|| self.pick_rest(tree, path.len()));
        };
        let end = path[begin..].find('/').map_or(path.len(), |slash| begin + slash);
        let next = (end < path.len()).then_some(end + 1);
        if let Some(child) = tree.literals.get(&path[begin..end])
            && let Some(id) = self.descend(child, next)
        {
            return Some(id);
        }
        if let Some(child) = tree.capture.as_ref().filter(|_| begin < end) {
            self.captures.push((begin, end));
            if let Some(id) = self.descend(child, next) {
                return Some(id);
            }
            self.captures.pop();
        }
        self.pick_rest(tree, begin)
    }

    fn pick_rest(&mut self, tree: &Tree, begin: usize) -> Option<RouteId> {
        let id = self.pick(&tree.rests)?;
        self.captures.push((begin, self.query.path.len()));
        Some(id)
    }

    fn pick(&mut self, rules: &[Arc<Rule>]) -> Option<RouteId> {
        for rule in rules {
            if !rule.listeners.is_empty() && !rule.listeners.contains(&self.query.listener) {
                continue;
            }
            if allows(&rule.methods, self.query.method) {
                return Some(rule.id);
            }
            self.allowed.extend(rule.methods.iter().map(ToString::to_string));
            if rule.methods.contains(&Method::GET) {
                self.allowed.insert("HEAD".to_string());
            }
        }
        None
    }
}

/// GET implies HEAD.
fn allows(methods: &[Method], method: &Method) -> bool {
    methods.is_empty() || methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[GET ]host/path` lines become routes 0, 1, …; `host` may be empty for any.
    fn table(lines: &[&str]) -> Table {
        let rule = |(id, line): (usize, &&str)| {
            let (methods, place) = line.split_once(' ').map_or((vec![], *line), |(m, place)| (m.split(',').collect(), place));
            let (host, path) = place.split_at(place.find('/').expect("a path"));
            Rule {
                id: RouteId(id as u32),
                hosts: vec![if host.is_empty() { HostPattern::Any } else { HostPattern::parse(host).expect("a host") }],
                path: Pattern::parse(path).expect("a pattern"),
                methods: methods.into_iter().map(|m| m.parse().expect("a method")).collect(),
                listeners: vec![],
            }
        };
        Table::new(lines.iter().enumerate().map(rule))
    }

    /// The route's number, what was captured, or why there is none.
    fn check(lines: &[&str], cases: &[(&str, &str)]) {
        let table = table(lines);
        for (request, expected) in cases {
            let (method, place) = request.split_once(' ').expect("method and place");
            let (host, path) = place.split_at(place.find('/').expect("a path"));
            let method = method.parse().expect("a method");
            let got = match table.find(&Query { listener: ListenerId(0), host, path, method: &method }) {
                Outcome::Nothing => "404".to_string(),
                Outcome::MethodNotAllowed(allow) => format!("405 {allow}"),
                Outcome::Found(found) => {
                    let captured: Vec<&str> = found.captures.iter().map(|(from, to)| &path[*from..*to]).collect();
                    format!("{} {}", found.id.0, captured.join("|")).trim_end().to_string()
                }
            };
            assert_eq!(got, *expected, "{request}");
        }
    }

    #[test]
    fn whole_segments() {
        check(
            &["/x", "/y/*", "/z/", "/"],
            &[
                ("GET a/x", "0"),
                ("GET a/x/", "404"),
                ("GET a/xy", "404"),
                ("GET a/y", "1"),
                ("GET a/y/", "1"),
                ("GET a/y/b/c", "1 b/c"),
                ("GET a/yy", "404"),
                ("GET a/z", "404"),
                ("GET a/z/", "2"),
                ("GET a/", "3"),
            ],
        );
    }

    #[test]
    fn literal_then_capture_then_end_then_rest_with_a_way_back() {
        check(
            &["/*", "/a/{id}", "/a/b", "/a/*", "/a/{id}/c", "/a/b/d"],
            &[
                ("GET h/a/b", "2"),
                ("GET h/a/x", "1 x"),
                ("GET h/a", "3"),
                ("GET h/a/", "3"),
                ("GET h/a/b/c", "4 b"),
                ("GET h/a/b/d", "5"),
                ("GET h/a/b/e", "3 b/e"),
                ("GET h/", "0"),
                ("GET h/q/r", "0 q/r"),
            ],
        );
    }

    #[test]
    fn hosts_fall_back_to_wildcards_and_then_to_any() {
        check(
            &["a.example.com/x", "*.example.com/*", "*.a.example.com/y", "/z"],
            &[
                ("GET a.example.com/x", "0"),
                ("GET A.Example.COM/x", "0"),
                ("GET a.example.com/q", "1 q"),
                ("GET b.a.example.com/y", "2"),
                ("GET b.a.example.com/q", "1 q"),
                ("GET example.com/x", "404"),
                ("GET other/z", "3"),
                ("GET /z", "3"),
            ],
        );
    }

    #[test]
    fn methods_and_allow() {
        check(
            &["GET /x", "/x/*", "POST,PUT /x", "GET /only", "DELETE a/only"],
            &[
                ("GET h/x", "0"),
                ("HEAD h/x", "0"),
                ("PUT h/x", "2"),
                ("PATCH h/x", "1"),
                ("POST a/only", "405 DELETE, GET, HEAD"),
                ("GET a/only", "3"),
                ("DELETE b/only", "405 GET, HEAD"),
            ],
        );
    }

    #[test]
    fn a_route_with_methods_wins_over_one_without_and_then_the_first() {
        check(&["/x", "GET /x", "GET /x"], &[("GET h/x", "1"), ("POST h/x", "0")]);
    }
}
