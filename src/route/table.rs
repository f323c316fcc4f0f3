//! The match table: for each host a tree of path segments, and the expressions behind it.
//!
//! It is walked in the order in which routes win (see `rank`), so the first one that takes the request is the answer. A lookup
//! takes as long as the host has labels and the path has segments, however many routes there are; only routes of one host and one
//! path, and the expressions of one host, are looked at one after the other. It allocates nothing.

use super::host::HostPattern;
use super::pattern::Segment;
use super::rank::Asks;
use super::rule::{Asked, Criterion, PathRule, Query, Rule};
use crate::types::RouteId;
use http::Method;
use smallvec::SmallVec;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Found(Found),
    /// Some route fits but for the method; these do, as the Allow field wants them.
    MethodNotAllowed(Arc<str>),
    Nothing,
}

/// Byte ranges of a path.
pub type Captures = SmallVec<[(usize, usize); 4]>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: RouteId,
    /// Byte ranges of the path: the captures in their order, then what `*` took, without a leading slash.
    pub captures: Captures,
}

/// All routes, by what they ask for.
#[derive(Debug, Default)]
pub struct Table {
    /// In the order in which they win where host and path are the same; the trees name them by their place here.
    pub(super) rules: Vec<Rule>,
    exact: HashMap<Box<str>, Paths>,
    /// By what is behind the star, with the dot.
    wildcards: HashMap<Box<str>, Paths>,
    /// The length of the longest of them: a longer end of a host need not be looked up.
    suffix_bytes_max: usize,
    any: Paths,
}

/// The routes of one host.
#[derive(Debug, Default)]
pub(super) struct Paths {
    tree: Tree,
    expressions: Vec<usize>,
}

#[derive(Debug, Default)]
struct Tree {
    literals: HashMap<Box<str>, Tree>,
    capture: Option<Box<Tree>>,
    /// Routes whose pattern ends here.
    ends: Vec<usize>,
    /// Routes with `*` for what follows.
    rests: Vec<usize>,
}

impl Table {
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Table {
        let mut rules: Vec<Rule> = rules.into_iter().collect();
        // So each list of the trees is in order when it is filled in this one.
        rules.sort_by_cached_key(Asks::of);
        let mut table = Table::default();
        for (index, rule) in rules.iter().enumerate() {
            for host in &rule.hosts {
                let paths = table.paths_mut(host);
                match &rule.path {
                    PathRule::Pattern(pattern) => paths.tree.insert(&pattern.segments, index),
                    PathRule::Expression(_) => paths.expressions.push(index),
                }
            }
        }
        table.rules = rules;
        table
    }

    fn paths_mut(&mut self, host: &HostPattern) -> &mut Paths {
        match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostPattern::Wildcard(suffix) => {
                self.suffix_bytes_max = self.suffix_bytes_max.max(suffix.len());
                self.wildcards.entry(suffix.clone()).or_default()
            }
        }
    }

    /// The route that wins.
    pub fn find(&self, query: &Query<'_>) -> Outcome {
        let mut last = None;
        for asked in query.asks() {
            let mut walk = Walk::new(self, query.path, |rule: &Rule| rule.miss(query, &asked).is_none());
            if let Some(id) = walk.hosts(query.host) {
                return Outcome::Found(Found { id, captures: walk.captures });
            }
            last = Some(asked);
        }
        last.map_or(Outcome::Nothing, |asked| self.nothing(query, &asked))
    }

    /// Why no route takes a request.
    fn nothing(&self, query: &Query<'_>, asked: &Asked) -> Outcome {
        let mut allowed = BTreeSet::new();
        let collect = |rule: &Rule| {
            if rule.miss(query, asked) == Some(Criterion::Method) {
                allowed.extend(rule.methods.iter().map(Method::to_string));
            }
            false
        };
        Walk::new(self, query.path, collect).hosts(query.host);
        if allowed.contains("GET") {
            allowed.insert("HEAD".to_string());
        }
        match allowed.is_empty() {
            true => Outcome::Nothing,
            false => Outcome::MethodNotAllowed(allowed.into_iter().collect::<Vec<_>>().join(", ").into()),
        }
    }

    /// The paths of all hosts that cover this one, in small letters: exact, the longest wildcard first, any.
    fn covering<'t>(&'t self, host: &'t str) -> impl Iterator<Item = &'t Paths> {
        let exact = self.exact.get(host);
        // `*.example.com` needs a label before its dot.
        let first = host.len().saturating_sub(self.suffix_bytes_max).max(1);
        let dots = host.bytes().enumerate().skip(first).filter(|(_, byte)| *byte == b'.');
        let wildcards = dots.filter_map(|(dot, _)| self.wildcards.get(&host[dot..]));
        exact.into_iter().chain(wildcards).chain(std::iter::once(&self.any))
    }

    /// The paths of all hosts there are.
    pub(super) fn all(&self) -> impl Iterator<Item = &Paths> {
        self.exact.values().chain(self.wildcards.values()).chain(std::iter::once(&self.any))
    }
}

impl Tree {
    fn insert(&mut self, segments: &[Segment], index: usize) {
        match segments {
            [] => self.ends.push(index),
            [Segment::Rest, ..] => self.rests.push(index),
            [Segment::Literal(text), rest @ ..] => self.literals.entry(text.clone()).or_default().insert(rest, index),
            [Segment::Capture(_), rest @ ..] => self.capture.get_or_insert_default().insert(rest, index),
        }
    }
}

/// Meets the routes whose host and path fit, in the order in which they win, until one is taken.
pub(super) struct Walk<'t, 'p, F> {
    table: &'t Table,
    path: &'p str,
    pub captures: Captures,
    takes: F,
}

impl<'t, 'p, F: FnMut(&'t Rule) -> bool> Walk<'t, 'p, F> {
    pub fn new(table: &'t Table, path: &'p str, takes: F) -> Self {
        Walk { table, path, captures: Captures::new(), takes }
    }

    /// All hosts that cover this one.
    pub fn hosts(&mut self, host: &str) -> Option<RouteId> {
        let mut small: SmallVec<[u8; 128]>;
        let mut host = host;
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            small = SmallVec::from_slice(host.as_bytes());
            small.make_ascii_lowercase();
            // Text stays text when its capitals become small.
            host = std::str::from_utf8(&small).unwrap_or_default();
        }
        self.table.covering(host).find_map(|paths| self.paths(paths))
    }

    /// One host: its patterns, then its expressions.
    pub fn paths(&mut self, paths: &Paths) -> Option<RouteId> {
        self.descend(&paths.tree, Some(1)).or_else(|| {
            paths.expressions.iter().find_map(|index| {
                let rule = &self.table.rules[*index];
                let PathRule::Expression(expression) = &rule.path else { return None };
                if expression.capture(self.path, &mut self.captures) && (self.takes)(rule) {
                    return Some(rule.id);
                }
                self.captures.clear();
                None
            })
        })
    }

    /// `at` is where the next segment begins; `None` behind the last one. Each node is visited once at most.
    fn descend(&mut self, tree: &Tree, at: Option<usize>) -> Option<RouteId> {
        let path = self.path;
        let Some(begin) = at else {
            return self.pick(&tree.ends).or_else(|| self.pick_rest(tree, path.len()));
        };
        // A target without a path, as CONNECT has one, fits no pattern.
        let end = path.get(begin..)?.find('/').map_or(path.len(), |slash| begin + slash);
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
        self.captures.push((begin, self.path.len()));
        Some(id)
    }

    fn pick(&mut self, indices: &[usize]) -> Option<RouteId> {
        let rules = &self.table.rules;
        indices.iter().map(|index| &rules[*index]).find(|rule| (self.takes)(rule)).map(|rule| rule.id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check;

    #[test]
    fn whole_segments() {
        check(
            &["* /x", "* /y/*", "* /z/", "* /"],
            &[
                ("GET a /x", "0"),
                ("GET a /x/", "404"),
                ("GET a /xy", "404"),
                ("GET a /y", "1"),
                ("GET a /y/", "1"),
                ("GET a /y/b/c", "1 b/c"),
                ("GET a /yy", "404"),
                ("GET a /z", "404"),
                ("GET a /z/", "2"),
                ("GET a /", "3"),
                // The server as a whole is what `/` is.
                ("OPTIONS a *", "3"),
                ("CONNECT a ", "404"),
            ],
        );
    }

    #[test]
    fn literal_then_capture_then_end_then_rest_with_a_way_back() {
        check(
            &["* /*", "* /a/{id}", "* /a/b", "* /a/*", "* /a/{id}/c", "* /a/b/d"],
            &[
                ("GET h /a/b", "2"),
                ("GET h /a/x", "1 x"),
                ("GET h /a", "3"),
                ("GET h /a/", "3"),
                ("GET h /a/b/c", "4 b"),
                ("GET h /a/b/d", "5"),
                ("GET h /a/b/e", "3 b/e"),
                ("GET h /", "0"),
                ("GET h /q/r", "0 q/r"),
            ],
        );
    }

    #[test]
    fn expressions_behind_patterns_with_what_they_capture() {
        check(
            &[r"* ~/(?<kind>[a-z]+)/(?<id>\d+)", "* /a/{id}", "* /b/1/*", r"* POST ~/.*/\d+"],
            &[
                ("GET h /a/1", "1 1"),
                ("GET h /b/1", "2"),
                ("GET h /b/2", "0 b|2"),
                ("POST h /b/2", "3"),
                ("GET h /b/2/", "404"),
                ("POST h /c/d/2", "3"),
                ("GET h /c/d/2", "405 POST"),
            ],
        );
    }

    #[test]
    fn what_a_route_captured_that_did_not_win_is_forgotten() {
        let lines = ["a.com ~/(?<k>[ab])/(?<r>.*) ?q=1", "a.com GET /{x}/{y}", "* ~/(?<k>b)/(?<r>.*) ?r", "* /b/{c}/{d}", "* ~/b/(?<e>.*)"];
        check(&lines, &[("POST a.com /b/c/d", "3 c|d"), ("POST a.com /b/c", "4 c"), ("GET a.com /b/c", "1 b|c")]);
    }

    #[test]
    fn hosts_fall_back_to_wildcards_and_then_to_any() {
        check(
            &["a.example.com /x", "*.example.com /*", "*.a.example.com /y", "* /z"],
            &[
                ("GET a.example.com /x", "0"),
                ("GET A.Example.COM /x", "0"),
                ("GET a.example.com /q", "1 q"),
                ("GET b.a.example.com /y", "2"),
                ("GET B.A.example.com /y", "2"),
                ("GET b.a.example.com /q", "1 q"),
                ("GET example.com /x", "404"),
                ("GET .example.com /x", "404"),
                ("GET other /z", "3"),
                ("GET  /z", "3"),
                ("GET ..... /z", "3"),
            ],
        );
    }

    #[test]
    fn methods_and_allow() {
        check(
            &["* GET /x", "* /x/*", "* POST,PUT /x", "* GET /only", "a DELETE /only"],
            &[
                ("GET h /x", "0"),
                ("HEAD h /x", "0"),
                ("PUT h /x", "2"),
                ("PATCH h /x", "1"),
                ("POST a /only", "405 DELETE, GET, HEAD"),
                ("GET a /only", "3"),
                ("DELETE b /only", "405 GET, HEAD"),
            ],
        );
    }

    #[test]
    fn a_route_takes_a_request_only_if_all_fits() {
        check(
            &["* GET /x x-a=1 ?q=1", "* GET /x x-a=1", "* GET /x ?q=~[0-9]+ @1", "* POST /x x-a=2"],
            &[
                ("GET h /x?q=1 x-a=1", "0"),
                ("GET h /x?q=2 x-a=1", "1"),
                ("GET h /x?q=2 @1", "2"),
                ("GET h /x?q=2", "404"),
                ("GET h /x", "404"),
                ("POST h /x x-a=2", "3"),
                // Only the method is wrong on the second; on the last, the header is too.
                ("PUT h /x x-a=1", "405 GET, HEAD"),
                ("PUT h /x x-a=3", "404"),
                ("PUT h /x?q=7", "404"),
                ("PUT h /x?q=7 @1", "405 GET, HEAD"),
            ],
        );
    }

    #[test]
    fn a_preflight_goes_to_who_names_options_else_to_who_takes_the_request_behind_it() {
        let preflight = |path: &str, method: &str| format!("OPTIONS h {path} origin=http://a access-control-request-method={method}");
        let lines = ["* PUT /x", "* /x", "* GET /y", "* OPTIONS,GET /z", "* PUT /z", "h /any"];
        for (line, expected) in [
            (preflight("/x", "PUT"), "0"),
            (preflight("/x", "GET"), "1"),
            (preflight("/y", "GET"), "2"),
            (preflight("/y", "HEAD"), "2"),
            (preflight("/y", "POST"), "405 GET, HEAD"),
            (preflight("/z", "PUT"), "3"),
            (preflight("/any", "PUT"), "5"),
            (preflight("/none", "PUT"), "404"),
            // Without both fields it is a plain OPTIONS.
            ("OPTIONS h /y origin=http://a".to_string(), "405 GET, HEAD"),
            ("OPTIONS h /y access-control-request-method=GET".to_string(), "405 GET, HEAD"),
            (preflight("/y", "G@T"), "405 GET, HEAD"),
            ("OPTIONS h /z".to_string(), "3"),
        ] {
            check(&lines, &[(&line, expected)]);
        }
    }
}
