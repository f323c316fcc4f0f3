//! Routes that can never match, because others that win over them take every request they could.
//!
//! Only what is certain is found: routes of the same host and path that ask for the same header fields and parameters, or for a value
//! where others take any, whose methods and listeners others have all taken, and expressions behind a `/*` that asks for nothing more.
//! Takes time in proportion to the number of routes.

use super::criteria::Test;
use super::host::HostPattern;
use super::pattern::Segment;
use super::rank::Asks;
use super::rule::{PathRule, Rule};
use crate::types::{ListenerId, RouteId};
use http::Method;
use std::collections::{BTreeSet, HashMap};

/// A route that can never match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadowed {
    pub id: RouteId,
    /// One that takes its requests.
    pub by: RouteId,
    /// The two ask for the very same.
    pub is_same: bool,
}

/// All routes that can never match, in the order of the file.
pub fn find(rules: &[Rule]) -> Vec<Shadowed> {
    let mut order: Vec<&Rule> = rules.iter().collect();
    // Each rule behind those that win over it, as far as they have a host in common.
    order.sort_by_cached_key(|rule| (matches!(rule.path, PathRule::Expression(_)), Asks::of(rule)));
    let mut taken = Taken::default();
    let mut shadowed = Vec::new();
    for rule in order {
        if let Some(by) = taken.all_of(rule) {
            shadowed.push(Shadowed { id: rule.id, by: by.id, is_same: is_same(rule, by) });
        }
        taken.add(rule);
    }
    shadowed.sort_by_key(|shadowed| shadowed.id);
    shadowed
}

/// Where a rule matches, but for methods and listeners. The names of captures decide nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place<'r> {
    host: &'r HostPattern,
    path: Path<'r>,
    /// By name, in order.
    headers: Vec<(&'r str, &'r Test)>,
    query: Vec<(&'r str, &'r Test)>,
}

/// What takes any value.
const PRESENT: &Test = &Test::Present;
/// So many places are looked at of those that take what one does: nobody asks for so much that there are more.
const WIDER_MAX: usize = 64;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Path<'r> {
    Pattern(Vec<Step<'r>>),
    Expression(&'r str),
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Step<'r> {
    Literal(&'r str),
    Capture,
    Rest,
}

/// One method on one listener; `None` is any.
type Cell<'r> = (Option<&'r Method>, Option<ListenerId>);

/// Which rule was first to take each cell of each place.
#[derive(Default)]
struct Taken<'r>(HashMap<Place<'r>, HashMap<Cell<'r>, &'r Rule>>);

impl<'r> Place<'r> {
    fn new(host: &'r HostPattern, rule: &'r Rule) -> Place<'r> {
        let path = match &rule.path {
            PathRule::Expression(expression) => Path::Expression(expression.text()),
            PathRule::Pattern(pattern) => Path::Pattern(
                pattern
                    .segments
                    .iter()
                    .map(|segment| match segment {
                        Segment::Literal(text) => Step::Literal(text),
                        Segment::Capture(_) => Step::Capture,
                        Segment::Rest => Step::Rest,
                    })
                    .collect(),
            ),
        };
        let mut headers: Vec<_> = rule.headers.iter().map(|header| (header.name.as_str(), &header.test)).collect();
        let mut query: Vec<_> = rule.query.iter().map(|parameter| (&*parameter.name, &parameter.test)).collect();
        headers.sort_by_key(|(name, _)| *name);
        query.sort_by_key(|(name, _)| *name);
        Place { host, path, headers, query }
    }

    /// Itself, and all that ask for the same names but take any value of some.
    fn and_wider(self) -> Vec<Place<'r>> {
        let mut places = vec![self];
        for at in 0..places[0].headers.len() + places[0].query.len() {
            if places.len() <= WIDER_MAX / 2 {
                let wider: Vec<_> = places.iter().filter_map(|place| place.wider(at)).collect();
                places.extend(wider);
            }
        }
        places
    }

    /// Takes any value where it asks for one; nothing where it does already.
    fn wider(&self, at: usize) -> Option<Place<'r>> {
        let mut wider = self.clone();
        let (_, test) = wider.headers.iter_mut().chain(&mut wider.query).nth(at)?;
        if *test == PRESENT {
            return None;
        }
        *test = PRESENT;
        Some(wider)
    }

    /// `/*` of a host, with nothing more asked.
    fn everything(host: &'r HostPattern) -> Place<'r> {
        Place { host, path: Path::Pattern(vec![Step::Rest]), headers: vec![], query: vec![] }
    }
}

impl<'r> Taken<'r> {
    /// One of the rules that take all that this one could; `None` when something is left to it.
    fn all_of(&self, rule: &'r Rule) -> Option<&'r Rule> {
        let mut first = None;
        for host in &rule.hosts {
            let everything = matches!(rule.path, PathRule::Expression(_)).then(|| Place::everything(host));
            let places = Place::new(host, rule).and_wider().into_iter().chain(everything);
            let cells: Vec<_> = places.filter_map(|place| self.0.get(&place)).collect();
            for wanted in cells_of(rule) {
                let by = cells.iter().find_map(|cells| taker(cells, wanted))?;
                first.get_or_insert(by);
            }
        }
        first
    }

    fn add(&mut self, rule: &'r Rule) {
        for host in &rule.hosts {
            let cells = self.0.entry(Place::new(host, rule)).or_default();
            for cell in cells_of(rule) {
                cells.entry(cell).or_insert(rule);
            }
        }
    }
}

fn cells_of(rule: &Rule) -> impl Iterator<Item = Cell<'_>> {
    let methods = or_any(&rule.methods);
    or_any(&rule.listeners).flat_map(move |listener| methods.clone().map(move |method| (method, listener.copied())))
}

/// Each of a list; one `None` for an empty one.
fn or_any<T>(list: &[T]) -> impl Iterator<Item = Option<&T>> + Clone {
    list.iter().map(Some).chain(list.is_empty().then_some(None))
}

/// Who takes a cell, or more than it. GET implies HEAD. A route of any method doesn't take OPTIONS: a preflight passes it over for one
/// that names OPTIONS.
fn taker<'r>(cells: &HashMap<Cell<'_>, &'r Rule>, (method, listener): Cell<'_>) -> Option<&'r Rule> {
    let get = (method == Some(&Method::HEAD)).then_some(Some(&Method::GET));
    let any = (method != Some(&Method::OPTIONS)).then_some(None);
    let methods = [Some(method), get, any].into_iter().flatten();
    methods.flat_map(|method| [(method, listener), (method, None)]).find_map(|cell| cells.get(&cell)).copied()
}

fn is_same(one: &Rule, other: &Rule) -> bool {
    let hosts = |rule: &Rule| rule.hosts.iter().cloned().collect::<BTreeSet<_>>();
    let methods = |rule: &Rule| rule.methods.iter().map(Method::to_string).collect::<BTreeSet<_>>();
    let listeners = |rule: &Rule| rule.listeners.iter().copied().collect::<BTreeSet<_>>();
    let place = |rule| Place::new(&HostPattern::Any, rule);
    place(one) == place(other) && (hosts(one), methods(one), listeners(one)) == (hosts(other), methods(other), listeners(other))
}

#[cfg(test)]
mod tests {
    use super::super::testing::rules;
    use super::*;

    #[track_caller]
    fn check(lines: &[&str], expected: &[(u32, u32, bool)]) {
        let found: Vec<_> = find(&rules(lines)).iter().map(|s| (s.id.0, s.by.0, s.is_same)).collect();
        assert_eq!(found, expected, "{lines:?}");
    }

    #[test]
    fn the_same_in_another_order_or_with_other_names() {
        check(&["* /a/{x}", "* /a/{y}"], &[(1, 0, true)]);
        check(&["a,b GET,PUT /a x-a=1 x-b ?q=1 @0,1", "b,a PUT,GET /a x-b x-a=1 ?q=1 @1,0"], &[(1, 0, true)]);
        check(&["* ~/a+", "* ~/a+"], &[(1, 0, true)]);
        check(&["* /a x-a=~1", "* /a x-a=~1"], &[(1, 0, true)]);
    }

    #[test]
    fn methods_listeners_and_hosts_that_others_have_taken() {
        check(&["* GET,POST /a", "* GET /a"], &[(1, 0, false)]);
        check(&["* GET /a", "* POST /a", "* POST,GET /a"], &[(2, 1, false)]);
        check(&["* GET /a", "* HEAD /a"], &[(1, 0, false)]);
        check(&["* /a @0", "* /a @1", "* /a @0,1"], &[(2, 0, false)]);
        check(&["* GET /a @0", "* PUT /a @0", "* GET,PUT /a @0"], &[(2, 0, false)]);
        check(&["a /a", "b /a", "a,b /a"], &[(2, 0, false)]);
        check(&["* GET,PUT /a ?q", "* GET /a ?q"], &[(1, 0, false)]);
    }

    #[test]
    fn values_where_others_take_any() {
        check(&["* /a x-a", "* /a x-a=1"], &[(1, 0, false)]);
        check(&["* /a ?q", "* /a ?q=~1"], &[(1, 0, false)]);
        check(&["* GET /a x-a x-b=1 ?q", "* POST /a x-a=1 x-b ?q=1", "* GET,POST /a x-a=1 x-b=1 ?q=1"], &[(2, 0, false)]);
        check(&["* ~/a x-a", "* ~/a x-a=1"], &[(1, 0, false)]);
    }

    #[test]
    fn expressions_behind_everything() {
        check(&["* ~/a", "* /*"], &[(0, 1, false)]);
        check(&["* GET ~/a x-a=1 ?q @0", "* GET /*"], &[(0, 1, false)]);
        check(&["* PUT ~/a", "* GET /*", "* GET,PUT ~/a"], &[(2, 1, false)]);
        check(&["* OPTIONS /*", "* OPTIONS ~/a"], &[(1, 0, false)]);
    }

    #[test]
    fn what_has_something_left_is_no_concern() {
        for lines in [
            &["* /a", "* GET /a"][..],
            &["* GET /a", "* /a"],
            &["* GET /a", "* GET,PUT /a"],
            &["* /a x-a=1", "* /a x-a=2", "* /a"],
            &["* /a ?q=1", "* /a ?q"],
            &["* /a x-a", "* /a x-a=1 x-b=1"],
            &["* /a x-a", "* /a x-b=1"],
            &["* /a x-a", "* GET /a x-a=1"],
            &["* GET /a x-a", "* POST /a x-a=1"],
            &["* HEAD /a", "* GET /a"],
            &["* /a @0", "* /a"],
            &["a /a", "a,b /a", "* /a"],
            &["*.a.com /a", "b.a.com /a"],
            &["* /a/{x}", "* /a/*", "* /a/b"],
            &["* ~/a", "* PUT /*"],
            &["* ~/a", "* /* x-a=1"],
            &["* ~/a", "a /*"],
            &["* ~/a", "* /* @0"],
            &["* /a @0", "* GET /a"],
            &["* /*", "* OPTIONS ~/a"],
        ] {
            check(lines, &[]);
        }
    }
}
